// The blocks that share one row. They exchange everything through the row's scratch memory, which stays
// in the L2 cache; only their barrier differs from chip to chip.
//
// On sm_90 and later a team is a thread-block cluster and its barrier is the hardware's. Elsewhere it is
// a counter in global memory. Blocks that wait for each other there take their places by a ticket, in
// the order in which they start: all tickets below a running block's are taken, so the blocks of the
// first unfinished row are the oldest ones, and any device that can hold one whole team makes progress.
#pragma once
#include "abi.cuh"
#include "block.cuh"
#include "isa.cuh"

namespace logitd {
namespace {

// Counters of a row's team, and the lengths of its lists. Zero between launches.
struct TeamControl {
    u32 arrived;
    u32 left;
    u32 listed[2];
};

template <bool CLUSTER> struct Team {
    u32 rank;
    u32 size;
    TeamControl* control;
    u32 expected;  // arrivals that end the barrier before the next one

    // A barrier of all threads of the team. What was written before it is seen after it.
    MEMBER void sync() {
        if (size == 1) {
            __syncthreads();
        } else if (CLUSTER) {
            cluster_sync();
        } else {
            counter_sync();
        }
    }

    // Whether this block is the last of its team to be done with the row. `flag` is shared memory.
    MEMBER bool leave(u32* flag) {
        __syncthreads();
        if (size == 1) return true;
        if (thread_index() == 0) {
            __threadfence();
            *flag = atomicAdd(&control->left, 1u) == size - 1;
            __threadfence();
        }
        __syncthreads();
        return *flag;
    }

    MEMBER void counter_sync() {
        __syncthreads();
        expected += size;
        if (thread_index() == 0) {
            __threadfence();
            atomicAdd(&control->arrived, 1u);
            while (*static_cast<volatile u32*>(&control->arrived) < expected) spin_pause();
            __threadfence();
        }
        __syncthreads();
    }
};

// Where this block stands in the grid: blockIdx.x in effect, but in the order of starting where blocks
// wait for each other without being a cluster. `place` is shared memory.
template <bool CLUSTER> DEVICE u32 take_place(const Batch& batch, u32* place) {
    if (CLUSTER || batch.team_blocks == 1) return blockIdx.x;
    Control* control = reinterpret_cast<Control*>(batch.control);
    if (thread_index() == 0) *place = atomicAdd(&control->ticket, 1u);
    __syncthreads();
    return *place;  // written again after the barriers of the first pass only
}

// The last block of the grid to come here leaves the tickets as it found them.
template <bool CLUSTER> DEVICE void give_place_back(const Batch& batch) {
    if (CLUSTER || batch.team_blocks == 1 || thread_index() != 0) return;
    Control* control = reinterpret_cast<Control*>(batch.control);
    if (atomicAdd(&control->finished, 1u) == gridDim.x - 1) {
        control->ticket = 0;
        control->finished = 0;
    }
}

}  // namespace
}  // namespace logitd
