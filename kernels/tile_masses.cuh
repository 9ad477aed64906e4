// Any number of kept tokens: the mass of every tile, a prefix sum over the tiles, and a walk through the
// one tile in which a draw ends. The same steps with a weight of one find the n-th of equal tokens.
#pragma once
#include "draw.cuh"
#include "philox.cuh"
#include "work.cuh"

namespace logitd {
namespace {

enum Weight { BY_MASS, BY_TIE };

// The weight of a token that the cut kept (the others are -inf).
template <class D, bool CLUSTER, Weight WEIGHT>
DEVICE u64 weight_of(const Work<D, CLUSTER>& work, float x, float tie) {
    return WEIGHT == BY_MASS ? mass(x, work.max, work.scale) : x == tie;
}

// Writes the mass, or the number of ties with the cut's key, of this block's tiles. Tokens are counted
// where the cut takes some away. Known to the team after its next barrier.
template <class D, bool CLUSTER, Weight WEIGHT> DEVICE void sum_tiles(const Work<D, CLUSTER>& work, Cut cut) {
    const bool everything = cut.key <= Keys<D>::CANDIDATE_MIN && cut.id == EVERY_ID;
    const float tie = value_of<D>(cut.key);
    for (u32 own = warp_index(); own < work.own_tiles; own += WARPS) {
        const u32 tile = work.tile_at(own);
        u64 weight = 0;
        if (work.tile_keys[tile] >= cut.key) {
            float x[SHARE];
            widen_share<D>(read_again<D>(work, own), x);
            u32 kept = 0;
            if (!everything) {
                apply_cut<D>(work, cut, tile, x);
#pragma unroll
                for (u32 i = 0; i < SHARE; i++) kept += x[i] > NEGATIVE_INFINITY;
                kept = warp_sum(kept);
            }
            u64 sum = 0;
#pragma unroll
            for (u32 i = 0; i < SHARE; i++) sum += weight_of<D, CLUSTER, WEIGHT>(work, x[i], tie);
            // At most 2^43: two sums of 32 halves stay within 32 bits.
            const u64 low = warp_sum(static_cast<u32>(sum) & 0xffffffu);
            const u64 high = warp_sum(static_cast<u32>(sum >> 24));
            weight = low + (high << 24) + (static_cast<u64>(kept) << TILE_MASS_BITS);
        }
        if (lane_index() == 0) work.tile_masses[tile] = weight;
    }
}

struct Total {
    u64 mass;
    u32 kept;
};

// The tiles of one thread in the prefix sum: neighbours.
struct Run {
    u32 begin, end;
};

template <class D, bool CLUSTER> DEVICE Run run_of(const Work<D, CLUSTER>& work, u32 thread) {
    const u32 length = (work.view.tiles + THREADS - 1) / THREADS;
    const u32 begin = min(thread * length, work.view.tiles);
    return {begin, min(begin + length, work.view.tiles)};
}

// Sums the tiles of the whole row, and notes the mass before each thread's run.
template <class D, bool CLUSTER> DEVICE Total prefix_tiles(const Work<D, CLUSTER>& work) {
    const Run run = run_of(work, thread_index());
    u64 mass = 0, kept = 0;
    for (u32 tile = run.begin; tile < run.end; tile++) {
        const u64 weight = __ldcg(work.tile_masses + tile);
        mass += weight & ((1ull << TILE_MASS_BITS) - 1);
        kept += weight >> TILE_MASS_BITS;
    }
    Total total;
    const u64 before = block_scan(mass, work.shared->partial, total.mass);
    total.kept = static_cast<u32>(block_sum(kept, work.shared->partial));
    work.shared->tiles.before[thread_index()] = before;
    __syncthreads();
    return total;
}

struct Spot {
    u32 tile;
    u64 rest;  // the target, less the mass of the tiles before this one
};

// The tile in which the running mass first exceeds `target`, which is below the total.
template <class D, bool CLUSTER> DEVICE Spot find_tile(const Work<D, CLUSTER>& work, u64 target) {
    const u64* before = work.shared->tiles.before;
    u32 thread = 0;  // the last run that begins at or below the target
    for (u32 step = THREADS / 2; step > 0; step /= 2) {
        if (before[thread + step] <= target) thread += step;
    }
    const Run run = run_of(work, thread);
    Spot spot = {run.begin, target - before[thread]};
    while (spot.tile + 1 < run.end) {
        const u64 mass = __ldcg(work.tile_masses + spot.tile) & ((1ull << TILE_MASS_BITS) - 1);
        if (spot.rest < mass) break;
        spot.rest -= mass;
        spot.tile++;
    }
    return spot;
}

// The token of a tile at which the running weight first exceeds `rest`, found by one whole warp: the lane
// that has it calls `found(id, x)`.
template <class D, bool CLUSTER, Weight WEIGHT, class Found>
DEVICE void walk_tile(const Work<D, CLUSTER>& work, Cut cut, Spot spot, Found found) {
    float x[SHARE];
    widen_share<D>(read_share<D>(work.view, spot.tile, lane_index()), x);
    apply_cut<D>(work, cut, spot.tile, x);
    const float tie = value_of<D>(cut.key);
    u64 inclusive[SHARE];
    u64 sum = 0;
#pragma unroll
    for (u32 i = 0; i < SHARE; i++) inclusive[i] = sum += weight_of<D, CLUSTER, WEIGHT>(work, x[i], tie);
    u64 before = sum;
#pragma unroll
    for (u32 step = 1; step < LANES; step *= 2) {
        const u64 other = __shfl_up_sync(FULL_WARP, before, step);
        if (lane_index() >= step) before += other;
    }
    before -= sum;
    if (spot.rest < before || spot.rest - before >= sum) return;
    u32 at = 0;
    float logit = x[0];
#pragma unroll
    for (u32 i = 1; i < SHARE; i++) {
        if (spot.rest - before >= inclusive[i - 1]) {
            at = i;
            logit = x[i];
        }
    }
    found(first_id<D>(work, spot.tile) + at, logit);
}

// The id of the n-th token, counted from 0, of those with the cut's key. Ends with a barrier of the team,
// because the next masses are written where the ties were counted.
template <class D, bool CLUSTER> DEVICE u32 nth_tie(Work<D, CLUSTER>& work, u32 key, u32 n) {
    const Cut cut = {key, EVERY_ID};
    sum_tiles<D, CLUSTER, BY_TIE>(work, cut);
    work.team.sync();
    prefix_tiles(work);
    if (warp_index() == 0) {
        u32* answer = &work.shared->word;
        walk_tile<D, CLUSTER, BY_TIE>(work, cut, find_tile(work, n), [&](u32 id, float) { *answer = id; });
    }
    work.team.sync();
    return work.shared->word;
}

DEVICE void write_draw(const Batch& batch, const RowDescriptor* row, u32 draw, u32 id, float logit) {
    // Adding +0.0 makes either zero +0.0.
    const float plain = __fadd_rn(logit, 0.0f);
    reinterpret_cast<RowDraw*>(batch.draws)[row->first_draw + draw] = {id, __float_as_uint(plain)};
}

// Takes this block's share of the row's draws, from the masses that `sum_tiles` left for `cut`.
template <class D, bool CLUSTER>
DEVICE void draw_from_tiles(const Batch& batch, const Work<D, CLUSTER>& work, Cut cut, u64 kept_mass) {
    const RowDescriptor* row = work.row;
    const u32 draws = row->draws;
    auto& tiles = work.shared->tiles;
    for (u32 base = work.team.rank; base < draws; base += THREADS * work.team.size) {
        const u32 count = min((draws - base + work.team.size - 1) / work.team.size, THREADS);
        if (thread_index() < count) {
            const u32 draw = base + thread_index() * work.team.size;
            const Spot spot = find_tile(work, draw_target(token_bits(row->seed, row->position, draw), kept_mass));
            tiles.tile[thread_index()] = spot.tile;
            tiles.rest[thread_index()] = spot.rest;
        }
        __syncthreads();
        for (u32 i = warp_index(); i < count; i += WARPS) {
            const Spot spot = {tiles.tile[i], tiles.rest[i]};
            walk_tile<D, CLUSTER, BY_MASS>(work, cut, spot, [&](u32 id, float logit) {
                write_draw(batch, row, base + i * work.team.size, id, logit);
            });
        }
        __syncthreads();
    }
}

}  // namespace
}  // namespace logitd
