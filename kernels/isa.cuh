// The few operations that CUDA C++ has no portable name for. `host/simt.h` defines the same names for
// the CPU; everything else in this folder is one text for both.
#pragma once

#ifdef LOGITD_SIMT
#include "host/simt.h"
#define KERNEL [[maybe_unused]] static void
#else

#define KERNEL extern "C" __global__ void
#define DEVICE static __device__ __forceinline__
#define MEMBER __device__ __forceinline__

namespace logitd {
namespace {

// The start of the block's shared memory. All of it is dynamic, so that one launch can size it.
DEVICE unsigned char* dynamic_shared() {
    extern __shared__ __align__(16) unsigned char bytes[];
    return bytes;
}

// Widens the low 16 bits, exactly.
DEVICE float f16_to_f32(unsigned int bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(static_cast<unsigned short>(bits)));
    return x;
}

// The greater of two, or NaN if either is.
DEVICE float max_nan(float a, float b) {
#if __CUDA_ARCH__ >= 800
    float x;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(x) : "f"(a), "f"(b));
    return x;
#else
    return a != a || b != b ? __uint_as_float(0x7fffffffu) : fmaxf(a, b);
#endif
}

// The greatest value, or the sum, of a full warp, in every lane.
DEVICE unsigned int warp_max(unsigned int value) {
#if __CUDA_ARCH__ >= 800
    return __reduce_max_sync(0xffffffffu, value);
#else
    for (int step = 16; step > 0; step /= 2) value = max(value, __shfl_xor_sync(0xffffffffu, value, step));
    return value;
#endif
}

DEVICE unsigned int warp_sum(unsigned int value) {
#if __CUDA_ARCH__ >= 800
    return __reduce_add_sync(0xffffffffu, value);
#else
    for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
    return value;
#endif
}

// A barrier of all threads of the cluster; what was written before it, in any memory, is seen after it.
DEVICE void cluster_sync() {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#else
    __trap();
#endif
}

// Lets others run while this thread waits for one of them.
DEVICE void spin_pause() { __nanosleep(32); }

}  // namespace
}  // namespace logitd

#endif
