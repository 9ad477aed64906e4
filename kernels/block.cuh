// What the threads of one block do together: sums, prefix sums, a maximum, a sort. Every function is
// called by all threads of the block, and ends with a barrier, so that its memory can be used again.
#pragma once
#include "abi.cuh"
#include "isa.cuh"
#include "logits.cuh"

#ifndef LOGITD_THREADS
#define LOGITD_THREADS 256
#endif

namespace logitd {
namespace {

constexpr u32 THREADS = LOGITD_THREADS;
constexpr u32 WARPS = THREADS / LANES;
static_assert(THREADS % LANES == 0 && WARPS <= LANES, "a block is 1 to 32 full warps");

DEVICE u32 thread_index() { return threadIdx.x; }
DEVICE u32 warp_index() { return threadIdx.x / LANES; }
DEVICE u32 lane_index() { return threadIdx.x % LANES; }

// The sum of the values of all threads before this one; `total` is that of all threads.
// `partial` has room for WARPS values.
DEVICE u64 block_scan(u64 value, u64* partial, u64& total) {
    u64 inclusive = value;
#pragma unroll
    for (u32 step = 1; step < LANES; step *= 2) {
        const u64 before = __shfl_up_sync(FULL_WARP, inclusive, step);
        if (lane_index() >= step) inclusive += before;
    }
    if (lane_index() == LANES - 1) partial[warp_index()] = inclusive;
    __syncthreads();
    u64 before_warp = 0;
    total = 0;
    for (u32 warp = 0; warp < WARPS; warp++) {
        if (warp == warp_index()) before_warp = total;
        total += partial[warp];
    }
    __syncthreads();
    return before_warp + inclusive - value;
}

DEVICE u64 block_sum(u64 value, u64* partial) {
    u64 total;
    block_scan(value, partial, total);
    return total;
}

// The greatest value of a warp, in every lane.
DEVICE u64 warp_max_wide(u64 value) {
#pragma unroll
    for (u32 step = LANES / 2; step > 0; step /= 2) {
        const u64 other = __shfl_xor_sync(FULL_WARP, value, step);
        if (other > value) value = other;
    }
    return value;
}

DEVICE u64 block_max(u64 value, u64* partial) {
    value = warp_max_wide(value);
    if (lane_index() == 0) partial[warp_index()] = value;
    __syncthreads();
    for (u32 warp = 0; warp < WARPS; warp++) {
        if (partial[warp] > value) value = partial[warp];
    }
    __syncthreads();
    return value;
}

// Sorts `count` different values in shared memory, ascending: at most one to a thread.
//
// Each thread counts the values below its own. That is more comparisons than a network makes, but none waits
// for another: 64 values take two barriers instead of 21 stages that each wait for the one before.
DEVICE void block_rank(u64* values, u32 count) {
    const bool has_one = thread_index() < count;
    const u64 value = has_one ? values[thread_index()] : 0;
    u32 below = 0;
    if (has_one) {
#pragma unroll 4
        for (u32 i = 0; i < count; i++) below += values[i] < value;
    }
    __syncthreads();
    if (has_one) values[below] = value;
    __syncthreads();
}

// Sorts `size` values (a power of two) in shared memory, ascending.
//
// A bitonic network: thread p compares the p-th pair at each distance. Pairs at distances up to LANES
// lie within the 2 * LANES values that a warp's 32 pairs cover, so between two of those the warp alone
// waits; after the last step, the block.
DEVICE void block_sort(u64* values, u32 size) {
    for (u32 run = 2; run <= size; run *= 2) {
        for (u32 distance = run / 2; distance > 0; distance /= 2) {
            for (u32 pair = thread_index(); pair < size / 2; pair += THREADS) {
                const u32 low = 2 * pair - (pair & (distance - 1));
                const u32 high = low + distance;
                const bool ascending = (low & run) == 0;
                const u64 a = values[low], b = values[high];
                if ((a > b) == ascending) {
                    values[low] = b;
                    values[high] = a;
                }
            }
            const u32 next = distance > 1 ? distance / 2 : run < size ? run : 2 * LANES;
            if (distance <= LANES && next <= LANES) {
                __syncwarp();
            } else {
                __syncthreads();
            }
        }
    }
}

}  // namespace
}  // namespace logitd
