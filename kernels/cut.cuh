// core/src/arithmetic/cut.rs: where top-k, top-p and min-p cut. The fraction of top-p and the distance of
// min-p are computed on the host, once a row.
#pragma once
#include "abi.cuh"
#include "isa.cuh"

namespace logitd {
namespace {

// The mass that a nucleus must reach: max(1, ceil(fraction / 2^64 * mass)), exactly.
DEVICE u64 top_p_target(u64 fraction, u64 mass) {
    const u64 whole = __umul64hi(fraction, mass);
    const u64 target = whole + (fraction * mass != 0);
    return target > 1 ? target : 1;
}

// Whether min-p keeps a logit.
DEVICE bool min_p_keeps(float x, float max, float distance) {
    return __fsub_rn(x, max) >= distance;
}

}  // namespace
}  // namespace logitd
