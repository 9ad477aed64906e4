// core/src/arithmetic/interval.rs: what an interval of the total order says of itself, from two sums.
#pragma once
#include "abi.cuh"
#include "isa.cuh"

namespace logitd {
namespace {

// The sums over an interval: masses, and masses times surprisals.
struct Interval {
    u64 mass;
    u64 term;
};

// The mean surprisal of its tokens, each counted by its mass, in units of 2^-22 bit: floor(term * 2^18 / mass). The mass is
// at least that of the row's first token.
DEVICE u32 mean(Interval of) {
    u64 quotient = of.term / of.mass;
    u64 rest = of.term % of.mass;
#pragma unroll 1
    for (u32 bit = 0; bit < 18; bit++) {
        rest += rest;
        const bool one = rest >= of.mass;
        if (one) rest -= of.mass;
        quotient = quotient << 1 | one;
    }
    return static_cast<u32>(quotient);
}

}  // namespace
}  // namespace logitd
