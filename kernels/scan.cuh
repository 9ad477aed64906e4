// The one reading of device memory: the maximum and the candidates of every tile, and from them the
// row's maximum and status.
#pragma once
#include "work.cuh"

namespace logitd {
namespace {

// Tiles that a warp has in flight: with 16 bytes a lane each, enough to cover the memory's latency.
constexpr u32 TILES_AHEAD = 4;

// Summarizes one tile: the key of its maximum (NAN_KEY if it has a NaN) and how many are above -inf.
template <class D> DEVICE u64 summarize(const Share<D>& share) {
    float x[SHARE];
    widen_share<D>(share, x);
    float highest = x[0], lowest = x[0];
#pragma unroll
    for (u32 i = 1; i < SHARE; i++) {
        highest = max_nan(highest, x[i]);
        lowest = fminf(lowest, x[i]);
    }
    u32 candidates = SHARE;
    if (lowest == NEGATIVE_INFINITY) {
        candidates = 0;
#pragma unroll
        for (u32 i = 0; i < SHARE; i++) candidates += x[i] > NEGATIVE_INFINITY;
    }
    const u32 key = highest != highest ? Keys<D>::NAN_KEY : key_of<D>(highest);
    return static_cast<u64>(warp_max(key)) << 32 | warp_sum(candidates);
}

template <class D, bool CLUSTER>
DEVICE void keep(const Work<D, CLUSTER>& work, u32 i, const Share<D>& share) {
    uint4* to = work.stage + (i * LANES + lane_index()) * Share<D>::VECTORS;
#pragma unroll
    for (u32 vector = 0; vector < Share<D>::VECTORS; vector++) {
        const u32* words = share.words + vector * 4;
        to[vector] = make_uint4(words[0], words[1], words[2], words[3]);
    }
}

// Reads this block's tiles once. Their summaries are known to the team after its next barrier.
template <class D, bool CLUSTER> DEVICE void scan_tiles(const Work<D, CLUSTER>& work) {
    for (u32 first = warp_index(); first < work.own_tiles; first += WARPS * TILES_AHEAD) {
        Share<D> shares[TILES_AHEAD];
#pragma unroll
        for (u32 ahead = 0; ahead < TILES_AHEAD; ahead++) {
            const u32 i = first + ahead * WARPS;
            if (i < work.own_tiles) shares[ahead] = read_share<D>(work.view, work.tile_at(i), lane_index());
        }
#pragma unroll
        for (u32 ahead = 0; ahead < TILES_AHEAD; ahead++) {
            const u32 i = first + ahead * WARPS;
            if (i >= work.own_tiles) break;
            if (work.stage) keep<D>(work, i, shares[ahead]);
            const u64 summary = summarize<D>(shares[ahead]);
            if (lane_index() == 0) work.tile_maxima[work.tile_at(i)] = summary;
        }
    }
}

// Gathers what all blocks of the team found.
template <class D, bool CLUSTER> DEVICE void gather_tiles(Work<D, CLUSTER>& work) {
    u64 best = 0, candidates = 0;
    for (u32 tile = thread_index(); tile < work.view.tiles; tile += THREADS) {
        const u64 summary = __ldcg(work.tile_maxima + tile);
        const u32 key = static_cast<u32>(summary >> 32);
        work.tile_keys[tile] = key;
        candidates += static_cast<u32>(summary);
        // Of equal maxima the first tile's is the greatest here.
        const u64 ranked = static_cast<u64>(key) << 32 | ~tile;
        if (ranked > best) best = ranked;
    }
    best = block_max(best, work.shared->partial);
    work.max_key = static_cast<u32>(best >> 32);
    work.max_tile = ~static_cast<u32>(best);
    work.max = value_of<D>(work.max_key);
    work.candidates = static_cast<u32>(block_sum(candidates, work.shared->partial));
}

template <class D> DEVICE RowStatus status_of(u32 max_key) {
    if (max_key == Keys<D>::NAN_KEY) return NOT_A_NUMBER;
    if (max_key >= Keys<D>::INFINITE) return POSITIVE_INFINITY;
    if (max_key < Keys<D>::CANDIDATE_MIN) return NO_CANDIDATE;
    return OK;
}

}  // namespace
}  // namespace logitd
