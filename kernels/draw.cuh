// core/src/arithmetic/draw.rs: which of the kept tokens is drawn.
#pragma once
#include "abi.cuh"
#include "isa.cuh"

namespace logitd {
namespace {

// Maps 64 random bits to a mass below kept_mass.
DEVICE u64 draw_target(u64 bits, u64 kept_mass) { return __umul64hi(bits, kept_mass); }

}  // namespace
}  // namespace logitd
