// core/src/arithmetic/race.rs: every kept token runs with a noise of its own, and the fastest is drawn.
//
// A draw is a maximum over the kept tokens, in any order: a warp takes it from a list, and all blocks of a team take it
// from the tiles, each from its own ones. A whole row costs a pass a draw, of some 150 instructions a token: the ten
// rounds of Philox are half of them, the mass and the noise a quarter each.
#pragma once
#include "abi.cuh"
#include "isa.cuh"
#include "philox.cuh"
#include "tile_masses.cuh"
#include "work.cuh"

namespace logitd {
namespace {

// The polynomial for -log2(1 - y) / y.
constexpr u32 K0 = 0x3fb8aa3bu;
constexpr u32 K1 = 0x3f38a9e2u;
constexpr u32 K2 = 0x3ef66b68u;
constexpr u32 K3 = 0x3eb4409fu;
constexpr u32 K4 = 0x3ec12234u;
constexpr u32 K5 = 0xbe7f2349u;
constexpr u32 K6 = 0x3fdbf9a6u;
constexpr u32 K7 = 0xc0158fd4u;
constexpr u32 K8 = 0x4001c1e8u;

// The 64 random bits of a token in one draw: half of what its pair has.
DEVICE u64 race_bits(u64 seed, u64 position, u32 draw, u32 token) {
    const Words out = philox4x32_10_words(static_cast<u32>(position), static_cast<u32>(position >> 32), draw,
                                          PURPOSE_RACE | (token >> 1) << 3, static_cast<u32>(seed),
                                          static_cast<u32>(seed >> 32));
    return token & 1 ? out.w2 | static_cast<u64>(out.w3) << 32 : out.w0 | static_cast<u64>(out.w1) << 32;
}

// -log2(1 - bits / 2^64).
DEVICE float exponential(u64 bits) {
    u32 n = 0;
    u64 y64 = bits;
    if (bits >> 63) {
        const u64 w = 0 - bits;
        n = static_cast<u32>(__clzll(static_cast<long long>(w)));
        y64 = 0 - (w << n);
    }
    const float high = __uint2float_rn(static_cast<u32>(y64 >> 32));
    // Times 2^-64 by its exponent, which is exact as the product is: it is at least 1.
    const u32 low = __float_as_uint(__uint2float_rn(static_cast<u32>(y64) | 1u)) - (64u << 23);
    const float y = __fmaf_rn(high, __uint_as_float(0x2f800000u), __uint_as_float(low));
    float p = __uint_as_float(K8);
    p = __fmaf_rn(p, y, __uint_as_float(K7));
    p = __fmaf_rn(p, y, __uint_as_float(K6));
    p = __fmaf_rn(p, y, __uint_as_float(K5));
    p = __fmaf_rn(p, y, __uint_as_float(K4));
    p = __fmaf_rn(p, y, __uint_as_float(K3));
    p = __fmaf_rn(p, y, __uint_as_float(K2));
    p = __fmaf_rn(p, y, __uint_as_float(K1));
    p = __fmaf_rn(p, y, __uint_as_float(K0));
    return __fmaf_rn(y, p, __uint2float_rn(n));
}

// A runner: of two, the greater has the greater ratio, or the same and the lower place. 0 is nobody.
DEVICE u64 runner(u64 mass, u64 bits, u32 place) {
    const float ratio = __fdiv_rn(__ull2float_rn(mass), exponential(bits));
    return static_cast<u64>(__float_as_uint(ratio)) << 32 | ~place;
}

DEVICE u32 place_of(u64 winner) { return ~static_cast<u32>(winner); }

// The id that a token's noise belongs to.
DEVICE u32 race_id(const RowDescriptor* row, u32 index) {
    return row->ids ? __ldcg(reinterpret_cast<const u32*>(row->ids) + index) : index;
}

// The logit of one token.
template <class D> DEVICE float logit_of(const View& view, u32 index) {
    const u32 slot = view.lead + index;
    const u32 word = D::SIZE == 4 ? reinterpret_cast<const u32*>(view.base)[slot]
                                  : reinterpret_cast<const u16*>(view.base)[slot];
    return D::widen(&word, 0);
}

// Takes every draw from the first `count` tokens of a list in shared memory, ids above keys, and writes their masses to
// `masses`. A warp takes a draw.
template <class D, bool CLUSTER>
DEVICE void race_in_list(const Batch& batch, const Work<D, CLUSTER>& work, const u64* list, u64* masses, u32 count) {
    const RowDescriptor* row = work.row;
    for (u32 i = thread_index(); i < count; i += THREADS) {
        masses[i] = mass(value_of<D>(static_cast<u32>(list[i])), work.max, work.scale);
    }
    __syncthreads();
    for (u32 draw = warp_index(); draw < row->draws; draw += WARPS) {
        u64 best = 0;
#pragma unroll 1
        for (u32 i = lane_index(); i < count; i += LANES) {
            const u32 id = race_id(row, static_cast<u32>(list[i] >> 32));
            const u64 other = runner(masses[i], race_bits(row->seed, row->position, draw, id), i);
            if (other > best) best = other;
        }
        best = warp_max_wide(best);
        if (lane_index() != 0) continue;
        const u64 token = list[place_of(best)];
        write_draw(batch, row, draw, static_cast<u32>(token >> 32), value_of<D>(static_cast<u32>(token)));
    }
}

// The fastest of the tokens that the cut keeps of this block's tiles. Token by token: a share of eight would need
// registers that ten rounds of Philox need.
template <class D, bool CLUSTER> DEVICE u64 fastest_of_block(const Work<D, CLUSTER>& work, Cut cut, u32 draw) {
    const RowDescriptor* row = work.row;
    const float at = value_of<D>(cut.key);
    u64 best = 0;
    for (u32 own = warp_index(); own < work.own_tiles; own += WARPS) {
        const u32 tile = work.tile_at(own);
        if (work.tile_keys[tile] < cut.key) continue;
#pragma unroll 1
        for (u32 i = 0; i < SHARE; i++) {
            const u32 slot = tile * TILE + i * LANES + lane_index();
            if (slot < work.view.lead || slot >= work.view.end) continue;
            const u32 index = slot - work.view.lead;
            const float x = logit_of<D>(work.view, index);
            if (!(x > at || (x == at && index <= cut.id))) continue;
            const u64 m = mass(x, work.max, work.scale);
            if (m == 0) continue;
            const u64 other = runner(m, race_bits(row->seed, row->position, draw, race_id(row, index)), index);
            if (other > best) best = other;
        }
    }
    return block_max(best, work.shared->partial);
}

// Takes every draw from all tiles: each block from its own, and the first block compares. Two sets of places take
// turns, so that one barrier a draw is enough.
template <class D, bool CLUSTER> DEVICE void race_in_tiles(const Batch& batch, Work<D, CLUSTER>& work, Cut cut) {
    for (u32 draw = 0; draw < work.row->draws; draw++) {
        u64* fastest = work.scratch->said[draw % 2];
        const u64 best = fastest_of_block(work, cut, draw);
        if (thread_index() == 0) fastest[work.team.rank] = best;
        work.team.sync();
        if (work.team.rank != 0 || thread_index() != 0) continue;
        u64 winner = 0;
        for (u32 block = 0; block < work.team.size; block++) {
            const u64 other = __ldcg(fastest + block);
            if (other > winner) winner = other;
        }
        const u32 index = place_of(winner);
        write_draw(batch, work.row, draw, index, logit_of<D>(work.view, index));
    }
}

}  // namespace
}  // namespace logitd
