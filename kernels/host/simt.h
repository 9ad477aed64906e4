// CUDA on a CPU, as far as the kernels of the folder above use it: they are compiled as they stand
// against this header, by any C++17 compiler.
//
// Every CUDA thread is a fiber. A fiber runs until it must wait for others (a barrier, a warp's
// collective, a spin), and which one runs next is drawn from a seed: an order that real hardware could
// take. Code that forgets to wait then reads what has not been written, and its result changes.
//
// What CUDA leaves undefined is reported, with the place, instead of being computed somehow: a barrier
// that not all threads of a block reach, a collective whose lanes disagree about the mask or are not in
// it, a shuffle from a lane that takes no part, a wait that can never end.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define DEVICE static inline __attribute__((unused))
#define MEMBER inline

struct uint3 {
    unsigned x, y, z;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

namespace simt {

struct Fiber;

// Where a thread waits, for reports.
struct Place {
    const char* what;
    const char* file;
    int line;
};

// What a thread can ask about itself. The engine sets it before it resumes the thread's fiber.
struct Self {
    uint3 thread_idx, block_idx, block_dim, grid_dim;
    unsigned lane;
    unsigned char* shared;
};
extern __thread Self* self;

enum class Reduction { Count, Or, And };
enum class Collective { Sync, Shuffle, Ballot, Any, All, Add, Max, Min };

int block_barrier(Place place, Reduction reduction, int predicate);
void cluster_barrier(Place place);
void pause(Place place);

// A collective of the lanes in `mask`. For a shuffle, `source` is the lane whose value is wanted.
uint64_t collective(Place place, Collective kind, unsigned mask, uint64_t value, unsigned source);

[[noreturn]] void fail(Place place, const char* reason);

template <class T> uint64_t to_word(T value) {
    static_assert(sizeof(T) <= 8, "a register or two");
    uint64_t word = 0;
    std::memcpy(&word, &value, sizeof value);
    return word;
}

template <class T> T from_word(uint64_t word) {
    T value;
    std::memcpy(&value, &word, sizeof value);
    return value;
}

template <class T> T shuffle(Place place, unsigned mask, T value, unsigned source) {
    return from_word<T>(collective(place, Collective::Shuffle, mask, to_word(value), source));
}

template <class T> T shuffle_up(Place place, unsigned mask, T value, unsigned delta) {
    const unsigned lane = self->lane;
    return shuffle(place, mask, value, delta > lane ? lane : lane - delta);
}

template <class T> T shuffle_xor(Place place, unsigned mask, T value, unsigned bits) {
    return shuffle(place, mask, value, self->lane ^ bits);
}

}  // namespace simt

#define SIMT_PLACE(what) (simt::Place{what, __FILE__, __LINE__})

#define threadIdx (simt::self->thread_idx)
#define blockIdx (simt::self->block_idx)
#define blockDim (simt::self->block_dim)
#define gridDim (simt::self->grid_dim)

#define __syncthreads() ((void)simt::block_barrier(SIMT_PLACE("__syncthreads"), simt::Reduction::Count, 0))
#define __syncthreads_count(predicate) \
    simt::block_barrier(SIMT_PLACE("__syncthreads_count"), simt::Reduction::Count, (predicate) ? 1 : 0)
#define __syncwarp() \
    ((void)simt::collective(SIMT_PLACE("__syncwarp"), simt::Collective::Sync, 0xffffffffu, 0, 0))
#define __shfl_sync(mask, value, source) simt::shuffle(SIMT_PLACE("__shfl_sync"), mask, value, source)
#define __shfl_up_sync(mask, value, delta) simt::shuffle_up(SIMT_PLACE("__shfl_up_sync"), mask, value, delta)
#define __shfl_xor_sync(mask, value, bits) simt::shuffle_xor(SIMT_PLACE("__shfl_xor_sync"), mask, value, bits)
#define __ballot_sync(mask, predicate)                                                                      \
    static_cast<unsigned>(simt::collective(SIMT_PLACE("__ballot_sync"), simt::Collective::Ballot, mask, \
                                           (predicate) ? 1 : 0, 0))
#define __any_sync(mask, predicate) \
    static_cast<int>(simt::collective(SIMT_PLACE("__any_sync"), simt::Collective::Any, mask, (predicate) ? 1 : 0, 0))
#define __threadfence() ((void)0)  // one fiber runs at a time: memory is sequentially consistent

// All fibers of a launch run on one CPU thread, so a plain read and write is atomic among them.
template <class T> T atomicAdd(T* address, T value) {
    const T old = *address;
    *address = static_cast<T>(old + value);
    return old;
}

template <class T> T __ldcg(const T* address) { return *address; }

inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }

inline unsigned __float_as_uint(float x) { return simt::from_word<unsigned>(simt::to_word(x)); }
inline float __uint_as_float(unsigned bits) { return simt::from_word<float>(bits); }
inline float __fmaf_rn(float a, float b, float c) { return std::fmaf(a, b, c); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }

inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __dsqrt_rn(double a) { return std::sqrt(a); }
inline double __uint2double_rn(unsigned value) { return static_cast<double>(value); }
inline double __ull2double_rn(unsigned long long value) { return static_cast<double>(value); }
inline double __longlong_as_double(long long bits) { return simt::from_word<double>(static_cast<uint64_t>(bits)); }
inline float __double2float_rn(double value) { return static_cast<float>(value); }

inline float __uint2float_rn(unsigned value) { return static_cast<float>(value); }
inline float __ull2float_rn(unsigned long long value) { return static_cast<float>(value); }

inline int __popc(unsigned value) { return __builtin_popcount(value); }
inline int __ffs(int value) { return __builtin_ffs(value); }
inline int __clz(int value) { return value == 0 ? 32 : __builtin_clz(static_cast<unsigned>(value)); }
inline int __clzll(long long value) {
    return value == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(value));
}
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}

// The names of isa.cuh.
namespace logitd {
namespace {

DEVICE unsigned char* dynamic_shared() { return simt::self->shared; }

DEVICE float f16_to_f32(unsigned bits) {
    const unsigned sign = (bits & 0x8000u) << 16, magnitude = bits & 0x7fffu;
    if (magnitude >= 0x7c00u) return __uint_as_float(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
    if (magnitude >= 0x400u) return __uint_as_float(sign | ((magnitude << 13) + 0x38000000u));
    const float value = static_cast<float>(magnitude) * 0x1p-24f;  // exact
    return sign ? -value : value;
}

DEVICE float max_nan(float a, float b) {
    return a != a || b != b ? __uint_as_float(0x7fffffffu) : std::fmax(a, b);
}

#define warp_max(value)                                                                                       \
    static_cast<unsigned>(simt::collective(SIMT_PLACE("warp_max"), simt::Collective::Max, 0xffffffffu, \
                                           static_cast<unsigned>(value), 0))
#define warp_sum(value)                                                                                       \
    static_cast<unsigned>(simt::collective(SIMT_PLACE("warp_sum"), simt::Collective::Add, 0xffffffffu, \
                                           static_cast<unsigned>(value), 0))
#define cluster_sync() simt::cluster_barrier(SIMT_PLACE("cluster_sync"))
#define spin_pause() simt::pause(SIMT_PLACE("spin_pause"))

}  // namespace
}  // namespace logitd
