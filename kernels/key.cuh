// core/src/arithmetic/key.rs: the total order, as unsigned integers.
#pragma once
#include "abi.cuh"
#include "isa.cuh"

namespace logitd {
namespace {

// Orders f32 values as unsigned integers, with -0.0 and +0.0 as one.
DEVICE u32 key32(float x) {
    const u32 bits = __float_as_uint(x);
    if (bits == 0x80000000u) return 0x80000000u;
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

// The value whose key this is. A zero comes back as +0.0.
DEVICE float value32(u32 key) {
    return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key);
}

}  // namespace
}  // namespace logitd
