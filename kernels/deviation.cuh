// core/src/arithmetic/deviation.rs: top-n-sigma: how far the logits of a row lie apart, from two integer sums.
#pragma once
#include "abi.cuh"
#include "isa.cuh"
#include "mass.cuh"

namespace logitd {
namespace {

// Logits count in units of 2^-10, within 2^11 of 0.
constexpr float UNITS = 1024.0f;
constexpr float FAR = 2048.0f;

// The sums over some tokens.
struct Deviation {
    i64 sum;
    u64 squares;
};

// A logit above -inf, in units of 2^-10, to the nearest even. The product is exact, so it may be fused.
DEVICE i32 z(float x) {
    const float rounded = __fmaf_rn(fminf(fmaxf(x, -FAR), FAR), UNITS, ROUND);
    return static_cast<i32>(__float_as_uint(rounded) - ROUND_BITS);
}

// With one more token.
DEVICE Deviation with(Deviation sums, float x) {
    const i32 of_token = z(x);
    return {sums.sum + of_token, sums.squares + static_cast<u64>(static_cast<i64>(of_token) * of_token)};
}

// An integer of up to 127 bits, rounded once.
DEVICE double wide_to_double(u64 high, u64 low) {
    if (high == 0) return __ull2double_rn(low);
    const u32 shift = 64 - static_cast<u32>(__clzll(static_cast<i64>(high)));
    // The first 64 bits. Whatever is behind them counts as the last of these, which is far below what is kept.
    const u64 first = high << (64 - shift) | low >> shift | (low << (64 - shift) != 0);
    return __dmul_rn(__ull2double_rn(first), __longlong_as_double(static_cast<i64>(1023 + shift) << 52));
}

// The least `x - M` within so many standard deviations of `count` tokens: 0 or below.
DEVICE float distance(Deviation sums, u32 count, float s) {
    const u64 sum = static_cast<u64>(sums.sum < 0 ? -sums.sum : sums.sum);
    const u64 squared = sum * sum, scaled = sums.squares * count;
    const u64 high = __umul64hi(sums.squares, count) - __umul64hi(sum, sum) - (scaled < squared);
    const double spread = wide_to_double(high, scaled - squared);
    const double deviation = __ddiv_rn(__dsqrt_rn(spread), __uint2double_rn(count));
    const double sigma = __dmul_rn(deviation, 1.0 / 1024.0);
    return __double2float_rn(-__dmul_rn(static_cast<double>(s), sigma));
}

}  // namespace
}  // namespace logitd
