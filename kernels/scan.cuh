// The one reading of device memory: the maximum and the candidates of every tile, and from them the
// row's maximum and status.
#pragma once
#include "work.cuh"

namespace logitd {
namespace {

// Tiles that a warp has in flight: with 128 bytes a lane, two blocks of a multiprocessor have 64 KB on their way, which
// covers the memory's latency.
template <class D> constexpr u32 TILES_AHEAD = 8 / Share<D>::VECTORS;

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

// Notes what this block's i-th tile has.
template <class D, bool CLUSTER> DEVICE void scan_tile(const Work<D, CLUSTER>& work, u32 i, const Share<D>& share) {
    if (work.stage) keep<D>(work, i, share);
    const u64 summary = summarize<D>(share);
    if (lane_index() == 0) work.tile_maxima[work.tile_at(i)] = summary;
}

// The first and the last tile of the row, if they are this warp's and reach over its ends.
template <class D, bool CLUSTER> DEVICE void scan_edges(const Work<D, CLUSTER>& work) {
    const View& view = work.view;
    const u32 last = view.tiles - 1;
#pragma unroll 1
    for (u32 tile = 0; tile <= last; tile += max(last, 1u)) {
        const u32 i = tile / work.team.size;
        if (is_whole(view, tile) || tile % work.team.size != work.team.rank || i % WARPS != warp_index()) continue;
        scan_tile(work, i, read_share<D>(view, tile, lane_index()));
    }
}

// Reads this block's tiles once. Their summaries are known to the team after its next barrier.
template <class D, bool CLUSTER> DEVICE void scan_tiles(const Work<D, CLUSTER>& work) {
    constexpr u32 AHEAD = TILES_AHEAD<D>;
    for (u32 first = warp_index(); first < work.own_tiles; first += WARPS * AHEAD) {
        Share<D> shares[AHEAD];
        const auto is_read = [&](u32 i) { return i < work.own_tiles && is_whole(work.view, work.tile_at(i)); };
#pragma unroll
        for (u32 ahead = 0; ahead < AHEAD; ahead++) {
            const u32 i = first + ahead * WARPS;
            if (is_read(i)) shares[ahead] = read_whole<D>(work.view, work.tile_at(i), lane_index());
        }
#pragma unroll
        for (u32 ahead = 0; ahead < AHEAD; ahead++) {
            const u32 i = first + ahead * WARPS;
            if (is_read(i)) scan_tile(work, i, shares[ahead]);
        }
    }
    scan_edges(work);
}

// Gathers what all blocks of the team found.
template <class D, bool CLUSTER> DEVICE void gather_tiles(Work<D, CLUSTER>& work) {
    u64 best = 0;
    u32 candidates = 0;
    for (u32 tile = thread_index(); tile < work.view.tiles; tile += THREADS) {
        const u64 summary = __ldcg(work.tile_maxima + tile);
        const u32 key = static_cast<u32>(summary >> 32);
        work.tile_keys[tile] = key;
        candidates += static_cast<u32>(summary);
        // Of equal maxima the first tile's is the greatest here.
        const u64 ranked = static_cast<u64>(key) << 32 | ~tile;
        if (ranked > best) best = ranked;
    }
    best = block_max_and_sum(best, candidates, work.shared->partial);
    work.max_key = static_cast<u32>(best >> 32);
    work.max_tile = ~static_cast<u32>(best);
    work.max = value_of<D>(work.max_key);
    work.candidates = candidates;
}

template <class D> DEVICE RowStatus status_of(u32 max_key) {
    if (max_key == Keys<D>::NAN_KEY) return NOT_A_NUMBER;
    if (max_key >= Keys<D>::INFINITE) return POSITIVE_INFINITY;
    if (max_key < Keys<D>::CANDIDATE_MIN) return NO_CANDIDATE;
    return OK;
}

}  // namespace
}  // namespace logitd
