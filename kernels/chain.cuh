// Cuts of a row that go before top-k, top-p and min-p: what they leave is a row of its own.
//
// Where a token is cut, the row that is sampled has -inf, which is no candidate: the sampling kernel needs not know that there
// was a cut. Tiles without a token that is left are written, and not read again.
#pragma once
#include "adjust.cuh"
#include "cut.cuh"
#include "deviation.cuh"
#include "histogram.cuh"
#include "scan.cuh"
#include "work.cuh"

namespace logitd {
namespace {

// Scans this block's tiles as `scan_tiles` does, and adds their logits to the row's sums. Known to the team after its next
// barrier.
template <class D> DEVICE void scan_deviations(const Work<D, false>& work) {
    Deviation sums = {0, 0};
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
            float x[SHARE];
            widen_share<D>(shares[ahead], x);
#pragma unroll
            for (u32 token = 0; token < SHARE; token++) {
                if (x[token] > NEGATIVE_INFINITY) sums = with(sums, x[token]);
            }
            const u64 summary = summarize<D>(shares[ahead]);
            if (lane_index() == 0) work.tile_maxima[work.tile_at(i)] = summary;
        }
    }
    const u64 sum = block_sum(static_cast<u64>(sums.sum), work.shared->partial);
    const u64 squares = block_sum(sums.squares, work.shared->partial);
    if (thread_index() != 0) return;
    atomicAdd(&work.scratch->sums[0], sum);
    atomicAdd(&work.scratch->sums[1], squares);
}

// Writes the row at `to`, with -inf in place of what is below `key`: each block its part of it. A NaN stays.
template <class D> DEVICE void write_cut(const Work<D, false>& work, u64 to, u32 key) {
    const RowDescriptor* row = work.row;
    const float least = value_of<D>(key);
    Share<D> nothing;
#pragma unroll
    for (u32 i = 0; i < Share<D>::VECTORS * 4; i++) nothing.words[i] = D::FILL;
    const u32 step = work.team.size * THREADS * SHARE;
    for (u32 first = (work.team.rank * THREADS + thread_index()) * SHARE; first < row->vocab_size; first += step) {
        const u32 count = min(row->vocab_size - first, SHARE);
        const u32 slot = work.view.lead + first;
        if (max(work.tile_keys[slot / TILE], work.tile_keys[(slot + count - 1) / TILE]) < key) {
            write_eight(to, first, count, nothing);
            continue;
        }
        Share<D> share = read_eight<D>(row->logits, first, count);
        float x[SHARE];
        widen_share<D>(share, x);
        u32 kept = 0;
#pragma unroll
        for (u32 i = 0; i < SHARE; i++) kept |= static_cast<u32>(!(x[i] < least)) << i;
        if (to == row->logits && kept == 0xffu) continue;
        ban(share, kept);
        write_eight(to, first, count, share);
    }
}

// Makes the row that is sampled of one that has a cut. A row without a token keeps its reason.
template <class D> DEVICE void apply_cuts(Work<D, false>& work, const CutDescriptor* asked) {
    scan_deviations(work);
    work.team.sync();
    gather_tiles(work);
    u32 key = Keys<D>::CANDIDATE_MIN;
    if (status_of<D>(work.max_key) == OK) {
        const u64* sums = work.scratch->sums;
        const Deviation deviation = {static_cast<i64>(__ldcg(sums)), __ldcg(sums + 1)};
        key = least_key(work, distance(deviation, work.candidates, asked->top_n_sigma));
    }
    write_cut(work, asked->to, key);
}

}  // namespace
}  // namespace logitd
