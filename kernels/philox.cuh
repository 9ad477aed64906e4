// core/src/arithmetic/philox.rs: Philox4x32-10, the counter-based generator.
#pragma once
#include "abi.cuh"
#include "isa.cuh"

namespace logitd {
namespace {

constexpr u32 PURPOSE_TOKEN = 0;
constexpr u32 PURPOSE_RACE = 6;

// What comes out.
struct Words {
    u32 w0, w1, w2, w3;
};

// Ten rounds.
DEVICE Words philox4x32_10_words(u32 c0, u32 c1, u32 c2, u32 c3, u32 k0, u32 k1) {
    for (int round = 0; round < 10; round++) {
        if (round > 0) {
            k0 += 0x9e3779b9u;
            k1 += 0xbb67ae85u;
        }
        const u64 a = static_cast<u64>(c0) * 0xd2511f53u;
        const u64 b = static_cast<u64>(c2) * 0xcd9e8d57u;
        c0 = static_cast<u32>(b >> 32) ^ c1 ^ k0;
        c1 = static_cast<u32>(b);
        c2 = static_cast<u32>(a >> 32) ^ c3 ^ k1;
        c3 = static_cast<u32>(a);
    }
    return {c0, c1, c2, c3};
}

// Ten rounds. The 64 bits returned are the first two words of the output, the first one lowest.
DEVICE u64 philox4x32_10(u32 c0, u32 c1, u32 c2, u32 c3, u32 k0, u32 k1) {
    const Words out = philox4x32_10_words(c0, c1, c2, c3, k0, k1);
    return out.w0 | static_cast<u64>(out.w1) << 32;
}

// The 64 random bits of one draw of the token at `position` of the sequence with `seed`.
DEVICE u64 token_bits(u64 seed, u64 position, u32 draw) {
    return philox4x32_10(static_cast<u32>(position), static_cast<u32>(position >> 32), draw, PURPOSE_TOKEN,
                         static_cast<u32>(seed), static_cast<u32>(seed >> 32));
}

}  // namespace
}  // namespace logitd
