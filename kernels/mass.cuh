// core/src/arithmetic/mass.rs: temperature, and the mass of a token.
#pragma once
#include "abi.cuh"
#include "isa.cuh"

namespace logitd {
namespace {

constexpr u64 UNIT = 1ull << 40;

constexpr float ROUND = 12582912.0f;  // 0x1.8p23
constexpr u32 ROUND_BITS = 0x4b400000u;

constexpr u32 C1 = 0x3f317218u;
constexpr u32 C2 = 0x3e75fdeeu;
constexpr u32 C3 = 0x3d635774u;
constexpr u32 C4 = 0x3c1d96a6u;
constexpr u32 C5 = 0x3aaf9f2au;
constexpr u32 C6 = 0x3920fddeu;

struct Scale {
    float c;
    float dmin;
};

// (x - M) / (T ln 2), not below about -62: a whole number and a fraction.
struct Split {
    i32 n;
    float f;
};

// A power of two, before it is cut off to units of a mass: mantissa * 2^(exponent - 23).
struct Power {
    u64 mantissa;  // 24 bits, the first of them 1
    i32 exponent;  // at most 0
};

DEVICE Split split(float x, float max, Scale scale) {
    const float d = fmaxf(__fsub_rn(x, max), scale.dmin);
    const float t = __fmaf_rn(d, scale.c, ROUND);
    const float n = __fsub_rn(t, ROUND);
    const float f = __fmaf_rn(d, scale.c, -n);
    return {static_cast<i32>(__float_as_uint(t) - ROUND_BITS), f};
}

DEVICE Power power(Split of) {
    const float f = of.f;
    float p = __uint_as_float(C6);
    p = __fmaf_rn(p, f, __uint_as_float(C5));
    p = __fmaf_rn(p, f, __uint_as_float(C4));
    p = __fmaf_rn(p, f, __uint_as_float(C3));
    p = __fmaf_rn(p, f, __uint_as_float(C2));
    p = __fmaf_rn(p, f, __uint_as_float(C1));
    p = __fmaf_rn(p, f, 1.0f);
    const u32 bits = __float_as_uint(p);
    return {(bits & 0x7fffffu) | 0x800000u, static_cast<i32>(bits >> 23) - 127 + of.n};
}

// The mass of a token with logit x in a row whose maximum is max. Neither may be NaN; max is finite.
DEVICE u64 mass(float x, float max, Scale scale) {
    const Power whole = power(split(x, max, scale));
    return (whole.mantissa << 17) >> -whole.exponent;
}

}  // namespace
}  // namespace logitd
