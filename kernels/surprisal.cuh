// core/src/arithmetic/surprisal.rs: how surprising a token is, as an integer: a by-product of its mass.
#pragma once
#include "abi.cuh"
#include "isa.cuh"
#include "mass.cuh"

namespace logitd {
namespace {

constexpr float BIT = 4194304.0f;  // 2^22
constexpr i32 SHIFT_MAX = 63;

// A token's mass, its surprisal in units of 2^-22 bit, and the product of both in units of 2^-44.
struct Surprisal {
    u64 mass;
    u32 g;
    u64 term;
};

// Asks of its arguments what mass asks.
DEVICE Surprisal surprisal(float x, float max, Scale scale) {
    const Split parts = split(x, max, scale);
    const Power whole = power(parts);
    const u32 fraction = __float_as_uint(__fmaf_rn(parts.f, BIT, ROUND)) - ROUND_BITS;
    const u32 g = 0u - (static_cast<u32>(parts.n) << 22) - fraction;
    const i32 shift = 1 - whole.exponent;
    return {(whole.mantissa << 17) >> -whole.exponent, g, shift > SHIFT_MAX ? 0 : whole.mantissa * g >> shift};
}

}  // namespace
}  // namespace logitd
