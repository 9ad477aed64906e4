// Finding the key at which top-k or top-p cuts, among any number of tokens: histograms over a range of
// keys that each is a bin of the one before.
#pragma once
#include "cut.cuh"
#include "tile_masses.cuh"
#include "work.cuh"

namespace logitd {
namespace {

// The keys among which the cut lies, and what is known of the tokens above and within.
struct Range {
    u32 low, high;
    u64 above;        // tokens with keys above `high`
    u64 above_mass;   // their mass, where the cut is by mass
    u64 within;       // tokens with keys from `low` to `high`, once counted
};

// How one histogram divides a range.
struct Bins {
    u32 count;
    u32 shift;
    bool weighed;  // has masses; otherwise the counts say all, because each bin is one key
};

DEVICE Bins divide(const Range& range, bool by_mass) {
    const u32 width = range.high - range.low;
    const bool weighed = by_mass && width >= COUNT_BINS;
    const u32 count = weighed ? MASS_BINS : COUNT_BINS;
    const u32 steps = width / count;
    return {count, steps == 0 ? 0 : 32 - static_cast<u32>(__clz(static_cast<int>(steps))), weighed};
}

// Adds a mass to a sum of two words. The carry is known from what the low word was: no 64-bit atomic,
// which shared memory has only as a loop.
DEVICE void add_mass(u32* low, u32* high, u64 mass) {
    const u32 part = static_cast<u32>(mass);
    const u32 old = atomicAdd(low, part);
    const u32 carried = static_cast<u32>(mass >> 32) + (old + part < old);
    if (carried > 0) atomicAdd(high, carried);
}

// This block's histogram of the tokens in the range that the cut keeps. What its memory held before was last
// read before a barrier.
template <class D, bool CLUSTER>
DEVICE void fill_bins(const Work<D, CLUSTER>& work, Cut cut, const Range& range, Bins bins) {
    auto& shared = *work.shared;
    const bool everything = cut.key <= Keys<D>::CANDIDATE_MIN && cut.id == EVERY_ID;
    for (u32 i = thread_index(); i < bins.count; i += THREADS) {
        if (bins.weighed) {
            shared.weighed.count[i] = shared.weighed.low[i] = shared.weighed.high[i] = 0;
        } else {
            shared.counts[i] = 0;
        }
    }
    __syncthreads();
    for_tiles_from<D>(work, range.low, [&](u32 tile, float (&x)[SHARE]) {
        if (!everything) apply_cut<D>(work, cut, tile, x);
#pragma unroll
        for (u32 i = 0; i < SHARE; i++) {
            const u32 key = key_of<D>(x[i]);
            if (key < range.low || key > range.high) continue;
            const u32 bin = (range.high - key) >> bins.shift;
            if (bins.weighed) {
                atomicAdd(&shared.weighed.count[bin], 1u);
                add_mass(&shared.weighed.low[bin], &shared.weighed.high[bin], mass(x[i], work.max, work.scale));
            } else {
                atomicAdd(&shared.counts[bin], 1u);
            }
        }
    });
    __syncthreads();
}

// Adds this block's histogram to the row's.
template <class D, bool CLUSTER>
DEVICE void merge_bins(const Work<D, CLUSTER>& work, Histogram* row, Bins bins) {
    auto& shared = *work.shared;
    for (u32 i = thread_index(); i < bins.count; i += THREADS) {
        const u32 count = bins.weighed ? shared.weighed.count[i] : shared.counts[i];
        if (count == 0) continue;
        if (bins.weighed) {
            atomicAdd(&row->weighed.count[i], count);
            const u64 mass = static_cast<u64>(shared.weighed.high[i]) << 32 | shared.weighed.low[i];
            atomicAdd(&row->weighed.mass[i], mass);
        } else {
            atomicAdd(&row->counts[i], count);
        }
    }
}

struct Bin {
    u64 count, mass;
};

template <class D, bool CLUSTER>
DEVICE Bin read_bin(const Work<D, CLUSTER>& work, const Histogram* row, const Range& range, Bins bins, bool by_mass,
                    u32 i) {
    Bin bin = {0, 0};
    if (bins.weighed) {
        bin = {__ldcg(&row->weighed.count[i]), __ldcg(&row->weighed.mass[i])};
    } else {
        bin.count = __ldcg(&row->counts[i]);
        // One key to a bin, so one mass to all its tokens.
        if (by_mass && bin.count > 0) {
            bin.mass = bin.count * mass(value_of<D>(range.high - i), work.max, work.scale);
        }
    }
    return bin;
}

// Every block clears its part of a histogram.
template <class D, bool CLUSTER> DEVICE void clear_part(const Work<D, CLUSTER>& work, Histogram* histogram) {
    uint4* words = reinterpret_cast<uint4*>(histogram);
    const u32 first = work.team.rank * THREADS + thread_index();
    for (u32 i = first; i < sizeof(Histogram) / 16; i += THREADS * work.team.size) words[i] = make_uint4(0, 0, 0, 0);
}

// Replaces the range by the bin in which the running count (or mass) from the top first reaches `goal`.
template <class D, bool CLUSTER>
DEVICE void narrow(Work<D, CLUSTER>& work, Cut cut, Range& range, u64 goal, bool by_mass) {
    const Bins bins = divide(range, by_mass);
    Histogram* histogram = &work.scratch->histograms[work.histogram % HISTOGRAMS];
    // Filled two steps from now, and last read before the barrier that lies between.
    Histogram* stale = &work.scratch->histograms[(work.histogram + 2) % HISTOGRAMS];
    fill_bins<D>(work, cut, range, bins);
    merge_bins<D>(work, histogram, bins);
    work.team.sync();
    if (work.histogram > 0) clear_part(work, stale);
    work.histogram++;

    const u32 length = bins.count / THREADS;
    const u32 begin = thread_index() * length;
    Bin sum = {0, 0};
    for (u32 i = begin; i < begin + length; i++) {
        const Bin bin = read_bin<D>(work, histogram, range, bins, by_mass, i);
        sum.count += bin.count;
        sum.mass += bin.mass;
    }
    u64* partial = work.shared->partial;
    u64 all;
    Bin before;
    before.count = range.above + block_scan(sum.count, partial, all);
    before.mass = range.above_mass + (by_mass ? block_scan(sum.mass, partial, all) : 0);

    u64* answer = work.shared->answer;
    const u64 from = by_mass ? before.mass : before.count;
    if (from < goal && goal <= from + (by_mass ? sum.mass : sum.count)) {
        u32 i = begin;
        Bin bin = read_bin<D>(work, histogram, range, bins, by_mass, i);
        while ((by_mass ? before.mass + bin.mass : before.count + bin.count) < goal) {
            before.count += bin.count;
            before.mass += bin.mass;
            bin = read_bin<D>(work, histogram, range, bins, by_mass, ++i);
        }
        answer[0] = i;
        answer[1] = before.count;
        answer[2] = before.mass;
        answer[3] = bin.count;
    }
    __syncthreads();
    range.high -= static_cast<u32>(answer[0]) << bins.shift;
    range.low = range.high - min(range.high - range.low, (1u << bins.shift) - 1);
    range.above = answer[1];
    range.above_mass = answer[2];
    range.within = answer[3];  // written again after the barriers of the next step only
}

// The cut within a range of one key: after as many of its tokens, by id, as the goal asks for.
template <class D, bool CLUSTER>
DEVICE Cut cut_ties(Work<D, CLUSTER>& work, Cut cut, const Range& range, u64 goal, bool by_mass) {
    u64 wanted = goal - range.above;
    if (by_mass) {
        const u64 each = mass(value_of<D>(range.low), work.max, work.scale);
        wanted = (goal - range.above_mass + each - 1) / each;
    }
    if (wanted == range.within) return {range.low, range.low == cut.key ? cut.id : EVERY_ID};
    return {range.low, nth_tie(work, range.low, static_cast<u32>(wanted) - 1)};
}

// A key from which on there are at least k tokens, and not many more: at least k tiles have a maximum as
// high. Needs k candidates' worth of tiles; otherwise every candidate's key is above it.
//
// Each warp counts the tiles from one key on: of as many keys at equal distances, the greatest with enough is the next
// lower end. Two sets of counts take turns, so that one barrier a step is enough.
template <class D, bool CLUSTER> DEVICE u32 top_k_floor(const Work<D, CLUSTER>& work, u32 k) {
    u32 low = Keys<D>::CANDIDATE_MIN;
    u32 high = work.max_key + 1;
    if (k > work.view.tiles) return low;
    u32* counts = reinterpret_cast<u32*>(work.shared->partial);
    u32 found = EVERY_ID;
    for (u32 turn = 0; high - low > 1 && found > k + k / 4; turn ^= 1) {
        const u32 step = (high - low + WARPS) / (WARPS + 1);
        const u32 from = low + (warp_index() + 1) * step;
        u32 count = 0;
#pragma unroll 4
        for (u32 tile = lane_index(); tile < work.view.tiles; tile += LANES) count += work.tile_keys[tile] >= from;
        count = warp_sum(count);
        if (lane_index() == 0) counts[turn * WARPS + warp_index()] = count;
        __syncthreads();
        const u32 begin = low;
        for (u32 warp = 0; warp < WARPS; warp++) {
            const u32 key = begin + (warp + 1) * step;
            if (key >= high) break;
            const u32 there = counts[turn * WARPS + warp];
            if (there < k) {
                high = key;
            } else {
                low = key;
                found = there;
            }
        }
    }
    return low;
}

// A key from which on the tokens have at least the mass `target`. What lies below it, even if every token
// of the row did, is no more than the mass that may be missing.
template <class D, bool CLUSTER> DEVICE u32 top_p_floor(const Work<D, CLUSTER>& work, u64 target, u64 mass_all) {
    const u32 lowest = Keys<D>::CANDIDATE_MIN;
    const u64 each = (mass_all - target) / work.row->vocab_size;
    if (each < 8) return lowest;
    // A quarter of that leaves room for every rounding here and in the masses; checked below.
    const i32 exponent = 63 - __clzll(static_cast<long long>(each)) - 2 - 40;
    const float x = __fadd_rn(work.max, __fdiv_rn(static_cast<float>(exponent), work.scale.c));
    if (!(mass(x, work.max, work.scale) <= each / 2)) return lowest;
    return max(lowest, min(key_of<D>(x), work.max_key));
}

// The least key at this distance from `first`, or nearer: `top` is the key of that.
template <class D> DEVICE u32 least_key(u32 top, float first, float distance) {
    u32 low = Keys<D>::CANDIDATE_MIN - 1;  // not kept: -inf
    u32 high = top;                        // kept
    while (high - low > 1) {
        const u32 middle = low + (high - low) / 2;
        if (min_p_keeps(value_of<D>(middle), first, distance)) {
            high = middle;
        } else {
            low = middle;
        }
    }
    return high;
}

// Where everything is kept.
template <class D> DEVICE Cut no_cut() { return {Keys<D>::CANDIDATE_MIN, EVERY_ID}; }

}  // namespace
}  // namespace logitd
