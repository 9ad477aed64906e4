// core/src/backend/cpu/chain.rs: cuts in the order of a row's profile, each of what the ones before it left. What they leave
// is a row of its own.
//
// What is left is always an interval of the total order. Where a token is cut, the row that is sampled has -inf, which is no
// candidate: the sampling kernel needs not know that there was a cut. Tiles without a token that is left are written, and not
// read again.
#pragma once
#include "adjust.cuh"
#include "cut.cuh"
#include "deviation.cuh"
#include "histogram.cuh"
#include "interval.cuh"
#include "scan.cuh"
#include "surprisal.cuh"
#include "work.cuh"

namespace logitd {
namespace {

// What is left of a row. Tokens before the first one are cut from the beginning of the order: those with greater keys, and
// those with its key and lower ids.
template <class D> struct Chain {
    Work<D, false>& work;
    const CutDescriptor* asked;
    Cut first;
    Cut cut;
    u32 turn;  // how many exchanges there were
};

// A token in the order, by 52 bits: the lower, the earlier. Never 0.
DEVICE u64 place_in_order(u32 key, u32 id) { return static_cast<u64>(~key) << 20 | id; }

struct Pair {
    u64 a, b;
};

// What the blocks of a team say, two numbers each, put together by all. A barrier of the team. Two sets of places take
// turns, so that one is enough. All places are asked for before the first one is looked at.
template <class D, class Together> DEVICE Pair exchange(Chain<D>& chain, Pair own, Together together) {
    Work<D, false>& work = chain.work;
    u64* said = work.scratch->said[chain.turn++ % 2];
    if (thread_index() == 0) {
        said[work.team.rank] = own.a;
        said[TEAM_BLOCKS_MAX + work.team.rank] = own.b;
    }
    work.team.sync();
    Pair each[TEAM_BLOCKS_MAX];
#pragma unroll
    for (u32 block = 0; block < TEAM_BLOCKS_MAX; block++) {
        each[block] = {0, 0};
        if (block < work.team.size) each[block] = {__ldcg(said + block), __ldcg(said + TEAM_BLOCKS_MAX + block)};
    }
    Pair all = {0, 0};
#pragma unroll
    for (u32 block = 0; block < TEAM_BLOCKS_MAX; block++) {
        all = {together(all.a, each[block].a), together(all.b, each[block].b)};
    }
    return all;
}

template <class D> DEVICE Pair sums_of_team(Chain<D>& chain, Pair of_thread) {
    u64* partial = chain.work.shared->partial;
    const Pair own = {block_sum(of_thread.a, partial), block_sum(of_thread.b, partial)};
    return exchange(chain, own, [](u64 a, u64 b) { return a + b; });
}

template <class D> DEVICE Pair most_of_team(Chain<D>& chain, Pair of_thread) {
    u64* partial = chain.work.shared->partial;
    const Pair own = {block_max(of_thread.a, partial), block_max(of_thread.b, partial)};
    return exchange(chain, own, [](u64 a, u64 b) { return a > b ? a : b; });
}

// Cuts behind a token, unless it is cut already.
template <class D> DEVICE void end_at(Chain<D>& chain, Cut last) {
    const bool less = last.key > chain.cut.key || (last.key == chain.cut.key && last.id < chain.cut.id);
    if (less) chain.cut = last;
}

// The next tile of this block, from its i-th on, that may have a token that is left.
template <class D> DEVICE u32 next_left(const Chain<D>& chain, u32 i) {
    const Work<D, false>& work = chain.work;
    while (i < work.own_tiles && work.tile_keys[work.tile_at(i)] < chain.cut.key) i += WARPS;
    return i;
}

// What is left of this block's tiles: `each(x, id)` has the logits of a lane's share, -inf in place of tokens that are not left, and the id of
// the first of them. A tile is on its way while the one before is looked at.
template <class D, class Each> DEVICE void for_tokens_left(const Chain<D>& chain, Each each) {
    const Work<D, false>& work = chain.work;
    const float highest = value_of<D>(chain.first.key);
    u32 i = next_left(chain, warp_index());
    Share<D> share;
    if (i < work.own_tiles) share = read_share<D>(work.view, work.tile_at(i), lane_index());
    while (i < work.own_tiles) {
        const u32 tile = work.tile_at(i);
        float x[SHARE];
        widen_share<D>(share, x);
        i = next_left(chain, i + WARPS);
        if (i < work.own_tiles) share = read_share<D>(work.view, work.tile_at(i), lane_index());
        apply_cut<D>(work, chain.cut, tile, x);
        const u32 id = first_id<D>(work, tile);
#pragma unroll
        for (u32 token = 0; token < SHARE; token++) {
            if (x[token] > highest) x[token] = NEGATIVE_INFINITY;
        }
        each(x, id);
    }
}

// Every token that is left, one by one: `each(x, id)`.
template <class D, class Each> DEVICE void for_each_left(const Chain<D>& chain, Each each) {
    for_tokens_left(chain, [&](const float (&x)[SHARE], u32 id) {
#pragma unroll
        for (u32 i = 0; i < SHARE; i++) {
            if (x[i] > NEGATIVE_INFINITY) each(x[i], id + i);
        }
    });
}

// The masses of what is left, and these times surprisals.
template <class D> DEVICE Interval sums_of(Chain<D>& chain) {
    Pair all = {0, 0};
    for_tokens_left(chain, [&](const float (&x)[SHARE], u32) {
#pragma unroll
        for (u32 i = 0; i < SHARE; i++) {
            const Surprisal token = surprisal(x[i], chain.work.max, chain.work.scale);
            all.a += token.mass;
            all.b += token.term;
        }
    });
    all = sums_of_team(chain, all);
    return {all.a, all.b};
}

// The greatest key from `low` to `high` that is so, of keys that are so up to one; `low`, if none is.
template <class Is> DEVICE u32 last_key(u32 low, u32 high, Is is) {
    while (low < high) {
        const u32 middle = high - (high - low) / 2;
        if (is(middle)) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    return low;
}

// Scans this block's tiles as `scan_tiles` does, and sums up their logits. Known to the team after its next barrier.
template <class D> DEVICE Deviation scan_deviations(const Work<D, false>& work) {
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
    return sums;
}

// Top-k, which no cut before the first token comes before; or top-p of what is left, which has the mass `all`.
template <class D> DEVICE void cut_prefix(Chain<D>& chain, bool by_mass, u64 all) {
    Work<D, false>& work = chain.work;
    const RowDescriptor* row = work.row;
    if (!by_mass && row->top_k >= work.candidates) return;
    const u64 goal = by_mass ? top_p_target(row->top_p_fraction, all) : row->top_k;
    const u32 floor = by_mass ? max(chain.cut.key, top_p_floor(work, goal, all)) : top_k_floor(work, row->top_k);
    const Cut given = by_mass ? chain.cut : no_cut<D>();
    Range range = {min(floor, chain.first.key), chain.first.key, 0, 0, 0};
    do {
        narrow(work, given, range, goal, by_mass);
    } while (range.low < range.high);
    end_at(chain, cut_ties(work, given, range, goal, by_mass));
}

// Relative to the first token that is left, which has the first key only where nothing was cut before it.
template <class D> DEVICE void cut_min_p(Chain<D>& chain) {
    Work<D, false>& work = chain.work;
    u32 top = chain.first.key;
    if (top < work.max_key) {
        u32 highest = 0;
        for_each_left(chain, [&](float x, u32) { highest = max(highest, key_of<D>(x)); });
        top = static_cast<u32>(most_of_team(chain, {highest, 0}).a);
    }
    end_at(chain, {least_key<D>(top, value_of<D>(top), work.row->min_p_distance), EVERY_ID});
}

// How far the surprisals are from their mean that typical-p keeps.
struct Near {
    u32 low, high;  // the least distance with enough mass within it is one of these
    u64 within;     // the mass of lesser distances
};

// Replaces the distances by a bin of them: as `narrow` does for keys.
template <class D> DEVICE void narrow_distance(Chain<D>& chain, Near& near, u32 mean, u64 goal) {
    Work<D, false>& work = chain.work;
    auto& bins = work.shared->weighed;
    Histogram* histogram = &work.scratch->histograms[work.histogram % HISTOGRAMS];
    Histogram* stale = &work.scratch->histograms[(work.histogram + 2) % HISTOGRAMS];
    const u32 steps = (near.high - near.low) / MASS_BINS;
    const u32 shift = steps == 0 ? 0 : 32 - static_cast<u32>(__clz(static_cast<int>(steps)));
    for (u32 i = thread_index(); i < MASS_BINS; i += THREADS) bins.low[i] = bins.high[i] = 0;
    __syncthreads();
    for_tokens_left(chain, [&](const float (&x)[SHARE], u32) {
        u64 masses[SHARE];
        u32 fars[SHARE];
#pragma unroll
        for (u32 i = 0; i < SHARE; i++) {
            const Surprisal token = surprisal(x[i], work.max, work.scale);
            masses[i] = token.mass;
            fars[i] = token.g > mean ? token.g - mean : mean - token.g;
        }
#pragma unroll
        for (u32 i = 0; i < SHARE; i++) {
            const u32 far = fars[i];
            if (masses[i] == 0 || far < near.low || far > near.high) continue;
            const u32 bin = (far - near.low) >> shift;
            add_mass(&bins.low[bin], &bins.high[bin], masses[i]);
        }
    });
    __syncthreads();
    for (u32 i = thread_index(); i < MASS_BINS; i += THREADS) {
        const u64 mass = static_cast<u64>(bins.high[i]) << 32 | bins.low[i];
        if (mass > 0) atomicAdd(&histogram->weighed.mass[i], mass);
    }
    work.team.sync();
    if (work.histogram > 0) clear_part(work, stale);
    work.histogram++;

    constexpr u32 LENGTH = MASS_BINS / THREADS;
    const u64* masses = histogram->weighed.mass + thread_index() * LENGTH;
    u64 sum = 0;
    for (u32 i = 0; i < LENGTH; i++) sum += __ldcg(masses + i);
    u64* answer = work.shared->answer;
    u64 all;
    u64 within = near.within + block_scan(sum, work.shared->partial, all);
    if (within < goal && goal <= within + sum) {
        u32 i = 0;
        for (u64 mass = __ldcg(masses); within + mass < goal; mass = __ldcg(masses + ++i)) within += mass;
        answer[0] = thread_index() * LENGTH + i;
        answer[1] = within;
    }
    __syncthreads();
    near.low += static_cast<u32>(answer[0]) << shift;
    near.high = near.low + min(near.high - near.low, (1u << shift) - 1);
    near.within = answer[1];  // written again after the barriers of the next step only
}

template <class D> DEVICE void cut_typical(Chain<D>& chain, Interval all) {
    const Work<D, false>& work = chain.work;
    const auto g = [&](u32 key) { return surprisal(value_of<D>(key), work.max, work.scale).g; };
    const u32 center = mean(all);
    const u64 goal = top_p_target(chain.asked->typical_fraction, all.mass);
    const u32 last = g(chain.cut.key);
    Near near = {0, max(center, last > center ? last - center : 0), 0};
    do {
        narrow_distance(chain, near, center, goal);
    } while (near.low < near.high);
    // No surprisal is less than that of a greater key.
    const u32 least = center > near.low ? center - near.low : 0, most = center + near.low;
    const u32 end = chain.first.key;
    const u32 beyond = last_key(chain.cut.key - 1, end, [&](u32 key) { return key < chain.cut.key || g(key) > most; });
    chain.first = {last_key(chain.cut.key, end, [&](u32 key) { return g(key) >= least; }), 0};
    end_at(chain, {beyond + 1, EVERY_ID});
}

// Of the first tokens that are likely enough, up to one that is not, the last one stays, and those before it go.
template <class D> DEVICE void cut_xtc(Chain<D>& chain, u64 all) {
    const Work<D, false>& work = chain.work;
    const u64 least = top_p_target(chain.asked->xtc_fraction, all);
    u64 last = 0, unlikely = 0;  // the first unlikely one is the greatest, as it is written here
    for_tokens_left(chain, [&](const float (&x)[SHARE], u32 id) {
#pragma unroll
        for (u32 i = 0; i < SHARE; i++) {
            const u64 place = place_in_order(key_of<D>(x[i]), id + i);
            const bool is_likely = mass(x[i], work.max, work.scale) >= least, is_left = x[i] > NEGATIVE_INFINITY;
            if (is_likely && is_left && place > last) last = place;
            if (!is_likely && is_left && ~place > unlikely) unlikely = ~place;
        }
    });
    const Pair of_team = most_of_team(chain, {last, unlikely});
    last = of_team.a;
    const u64 end = ~of_team.b;
    // By its last bit the mass of a token can be above that of one before it.
    if (last > end) {
        u64 before = 0;
        for_each_left(chain, [&](float x, u32 id) {
            const u64 place = place_in_order(key_of<D>(x), id);
            if (place < end && place > before) before = place;
        });
        last = most_of_team(chain, {before, 0}).a;
    }
    if (last > 0) chain.first = {~static_cast<u32>(last >> 20), static_cast<u32>(last) & 0xfffffu};
}

// Writes the row at `to`, with -inf in place of what is cut: each block its part of it. A NaN stays.
template <class D> DEVICE void write_left(const Chain<D>& chain) {
    const Work<D, false>& work = chain.work;
    const RowDescriptor* row = work.row;
    const u64 to = chain.asked->to;
    const float highest = value_of<D>(chain.first.key), lowest = value_of<D>(chain.cut.key);
    Share<D> nothing;
#pragma unroll
    for (u32 i = 0; i < Share<D>::VECTORS * 4; i++) nothing.words[i] = D::FILL;
    const u32 step = work.team.size * THREADS * SHARE;
    for (u32 begin = (work.team.rank * THREADS + thread_index()) * SHARE; begin < row->vocab_size; begin += step) {
        const u32 count = min(row->vocab_size - begin, SHARE);
        const u32 slot = work.view.lead + begin;
        if (max(work.tile_keys[slot / TILE], work.tile_keys[(slot + count - 1) / TILE]) < chain.cut.key) {
            write_eight(to, begin, count, nothing);
            continue;
        }
        Share<D> share = read_eight<D>(row->logits, begin, count);
        float x[SHARE];
        widen_share<D>(share, x);
        u32 left = 0;
#pragma unroll
        for (u32 i = 0; i < SHARE; i++) {
            const bool behind = x[i] < lowest || (x[i] == lowest && begin + i > chain.cut.id);
            const bool before = x[i] > highest || (x[i] == highest && begin + i < chain.first.id);
            left |= static_cast<u32>(!(behind || before)) << i;
        }
        if (to == row->logits && left == 0xffu) continue;
        ban(share, left);
        write_eight(to, begin, count, share);
    }
}

// Makes the row that is sampled of one that has cuts. A row without a token keeps its reason.
template <class D> DEVICE void apply_cuts(Work<D, false>& work, const CutDescriptor* asked) {
    Chain<D> chain = {work, asked, {0, 0}, no_cut<D>(), 0};
    u32 stages = asked->stages;
    // Always the first, where it is one.
    const bool deviates = (stages & CUT_STAGE) == CUT_DEVIATION;
    Pair sums = {0, 0};
    if (deviates) {
        const Deviation own = scan_deviations(work);
        sums = sums_of_team(chain, {static_cast<u64>(own.sum), own.squares});
    } else {
        scan_tiles(work);
        work.team.sync();
    }
    gather_tiles(work);
    chain.first.key = work.max_key;
    if (status_of<D>(work.max_key) != OK) stages = 0;
    if (deviates && stages != 0) {
        const float least = distance({static_cast<i64>(sums.a), sums.b}, work.candidates, asked->top_n_sigma);
        end_at(chain, {least_key<D>(work.max_key, work.max, least), EVERY_ID});
        stages >>= CUT_STAGE_BITS;
    }
#pragma unroll 1
    for (; stages != 0; stages >>= CUT_STAGE_BITS) {
        const u32 stage = stages & CUT_STAGE;
        const bool weighs = stage != CUT_TOP_K && stage != CUT_MIN_P;
        const Interval all = weighs ? sums_of(chain) : Interval{0, 0};
        if (stage == CUT_TOP_K || stage == CUT_TOP_P) {
            cut_prefix(chain, stage == CUT_TOP_P, all.mass);
        } else if (stage == CUT_MIN_P) {
            cut_min_p(chain);
        } else if (stage == CUT_TYPICAL) {
            cut_typical(chain, all);
        } else {
            cut_xtc(chain, all.mass);
        }
    }
    write_left(chain);
}

}  // namespace
}  // namespace logitd
