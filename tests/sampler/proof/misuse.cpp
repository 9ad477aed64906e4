// Small kernels that do what CUDA leaves undefined, and a few that do not. Usage: misuse NAME ORDER SEED;
// prints what the engine says of the launch, or "fine". A line that a report must name says so.

#include "engine.h"
#include "simt.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

constexpr unsigned FULL = 0xffffffffu;
unsigned out[256];
unsigned flag;

unsigned thread() { return threadIdx.x; }

void barrier_of_some() {
    if (thread() < 40) __syncthreads();  // here: barrier_of_some
}

void two_barriers() {
    if (thread() < 40) {
        __syncthreads();  // here: two_barriers
    } else {
        __syncthreads();  // or here: two_barriers
    }
}

void cluster_barrier_of_some() {
    if (blockIdx.x % 2 == 0) cluster_sync();  // here: cluster_barrier_of_some
}

void barriers_of_two_kinds() {
    if (blockIdx.x % 2 == 0) {
        cluster_sync();  // here: barriers_of_two_kinds
    } else {
        cluster_sync();  // or here: barriers_of_two_kinds
    }
}

void shuffle_beyond_the_warp() {
    out[thread()] = __shfl_sync(FULL, thread(), thread() + 1);  // here: shuffle_beyond_the_warp
}

void shuffle_from_an_absent_lane() {
    if (thread() % 32 < 16) {
        out[thread()] = __shfl_sync(0xffffu, thread(), 16);  // here: shuffle_from_an_absent_lane
    }
}

void shuffle_that_some_miss() {
    if (thread() % 32 < 31) out[thread()] = __shfl_xor_sync(FULL, thread(), 1);  // here: shuffle_that_some_miss
}

void masks_disagree() {
    const unsigned mask = thread() % 32 == 0 ? FULL : 0xfffffffeu;
    out[thread()] = __ballot_sync(mask, true);  // here: masks_disagree
}

void not_in_its_mask() {
    out[thread()] = __ballot_sync(0xffffu, true);  // here: not_in_its_mask
}

void two_collectives() {
    if (thread() % 2 == 0) {
        out[thread()] = __shfl_sync(FULL, thread(), 0);  // here: two_collectives
    } else {
        out[thread()] = __shfl_sync(FULL, thread(), 0);  // or here: two_collectives
    }
}

void wait_for_nothing() {
    while (*static_cast<volatile unsigned*>(&flag) == 0) spin_pause();  // here: wait_for_nothing
}

// What is allowed: barriers in a loop of the same length for all, collectives of halves of a warp, a thread
// that waits for another, a vote.
void fine() {
    for (unsigned i = 0; i < 3; i++) __syncthreads();
    const unsigned mask = thread() % 32 < 16 ? 0xffffu : 0xffff0000u;
    if (thread() % 32 < 16) {
        out[thread()] = __shfl_xor_sync(mask, thread(), 15);
    } else {
        out[thread()] = __shfl_up_sync(mask, thread(), 0u);
    }
    if (__syncthreads_count(thread() % 2 == 0) != 32) out[0] = *static_cast<volatile unsigned*>(nullptr);
    if (thread() == 63) {
        flag = 1;
    } else {
        while (*static_cast<volatile unsigned*>(&flag) == 0) spin_pause();
    }
    cluster_sync();
}

struct Kernel {
    const char* name;
    void (*run)();
};

#define KERNEL_OF(name) {#name, &name}
constexpr Kernel KERNELS[] = {
    KERNEL_OF(barrier_of_some),        KERNEL_OF(two_barriers),
    KERNEL_OF(cluster_barrier_of_some), KERNEL_OF(barriers_of_two_kinds),
    KERNEL_OF(shuffle_beyond_the_warp), KERNEL_OF(shuffle_from_an_absent_lane),
    KERNEL_OF(shuffle_that_some_miss), KERNEL_OF(masks_disagree),
    KERNEL_OF(not_in_its_mask),        KERNEL_OF(two_collectives),
    KERNEL_OF(wait_for_nothing),       KERNEL_OF(fine),
};

}  // namespace

int main(int argc, char** argv) {
    if (argc != 4) return 2;
    const auto order = static_cast<simt::Order>(std::strtoul(argv[2], nullptr, 10));
    const simt::Launch launch = {4, 64, 2, 16, 4, std::strtoull(argv[3], nullptr, 10), order};
    for (const Kernel& kernel : KERNELS) {
        if (std::strcmp(kernel.name, argv[1]) != 0) continue;
        const std::string error = simt::run(launch, kernel.run);
        std::puts(error.empty() ? "fine" : error.c_str());
        return 0;
    }
    return 2;
}
