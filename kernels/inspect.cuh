// core/src/inspection.rs: what is said of a row beside its tokens, as far as it is integers: sums of masses and of masses
// times surprisals, ranks, the first tokens of the order, and which ones were kept. The host makes logarithms of them.
//
// The row was sampled in the launch before, so how many tokens are kept is known, and these are the first ones of
// the order. Where logits were changed, the stored row is looked at likewise, for `raw`, in a launch of its own.
#pragma once
#include "finish_list.cuh"
#include "histogram.cuh"
#include "race.cuh"
#include "scan.cuh"
#include "surprisal.cuh"
#include "work.cuh"

namespace logitd {
namespace {

// Which sums these are in InspectOutcome.
enum Distribution : u32 { RAW = 0, ADJUSTED = 1, SAMPLED = 2 };

// Bits below a token's id in a list of named tokens: which of the list it is.
constexpr u32 NAME_BITS = 12;
static_assert(LIST <= 1u << NAME_BITS, "a place in the list has so many bits");

// What one block is told and where it writes.
struct Inspected {
    const InspectDescriptor* asked;
    const RowOutcome* sampled;
    const RowDraw* draws;
    u32 draw_count;
    InspectOutcome* outcome;
    InspectToken* named;
    InspectToken* first;
};

DEVICE Inspected inspected(const Batch& batch, const InspectDescriptor* asked) {
    Inspected of;
    of.asked = asked;
    of.sampled = reinterpret_cast<const RowOutcome*>(batch.outcomes) + asked->sampled;
    of.draws = reinterpret_cast<const RowDraw*>(batch.draws) + asked->row.first_draw;
    of.draw_count = asked->row.draws;
    of.outcome = reinterpret_cast<InspectOutcome*>(asked->answer);
    of.named = reinterpret_cast<InspectToken*>(of.outcome + 1);
    of.first = of.named + of.draw_count + asked->id_count;
    return of;
}

// What all blocks add to begins at 0. Known to the team after its next barrier.
template <class D> DEVICE void clear_answer(const Work<D, false>& work, const Inspected& of) {
    if (work.team.rank != 0) return;
    if (thread_index() == 0) *of.outcome = {{0, 0, 0}, {0, 0, 0}, 0, 0, 0, 0};
    for (u32 i = thread_index(); i < of.draw_count + of.asked->id_count; i += THREADS) of.named[i] = {0, 0};
}

// The cut after the first `n` tokens of the order, or after the last candidate.
template <class D> DEVICE Cut cut_after(Work<D, false>& work, u32 n) {
    const Cut all = no_cut<D>();
    if (n >= work.candidates) return all;
    Range range = {top_k_floor(work, n), work.max_key, 0, 0, 0};
    do {
        narrow(work, all, range, n, false);
    } while (range.low < range.high && range.above + range.within != n);
    if (range.above + range.within == n) return {range.low, EVERY_ID};
    return cut_ties(work, all, range, n, false);
}

// Adds the masses, and the masses times surprisals, of the tokens that the cut keeps of this block's tiles.
template <class D>
DEVICE void sum_terms(const Work<D, false>& work, const Inspected& of, Distribution which, Cut cut, Scale scale) {
    const bool everything = cut.key <= Keys<D>::CANDIDATE_MIN && cut.id == EVERY_ID;
    u64 mass = 0, term = 0;
    for_tiles_from<D>(work, cut.key, [&](u32 tile, float (&x)[SHARE]) {
        if (!everything) apply_cut<D>(work, cut, tile, x);
#pragma unroll
        for (u32 i = 0; i < SHARE; i++) {
            const Surprisal token = surprisal(x[i], work.max, scale);
            mass += token.mass;
            term += token.term;
        }
    });
    mass = block_sum(mass, work.shared->partial);
    term = block_sum(term, work.shared->partial);
    if (thread_index() != 0) return;
    atomicAdd(&of.outcome->mass[which], mass);
    atomicAdd(&of.outcome->term[which], term);
}

// A token in the order, by 52 bits: the lower, the earlier.
DEVICE u64 order_of(u32 key, u32 id) { return static_cast<u64>(~key) << 20 | id; }

// Lists up to LIST named tokens, from the `base`-th on, in the order, each with its place. One that the row does not
// have, or that is -inf, comes before all others.
template <class D>
DEVICE void list_named(const Work<D, false>& work, const Inspected& of, u32 base, u32 count) {
    u64* list = work.shared->listed.list;
    u32* counts = reinterpret_cast<u32*>(work.shared->listed.prefix);
    const u32* ids = reinterpret_cast<const u32*>(of.asked->ids);
    for (u32 i = thread_index(); i < count; i += THREADS) {
        const u32 index = base + i;
        const bool drawn = index < of.draw_count;
        u32 token = EVERY_ID;
        if (!drawn) {
            token = ids[index - of.draw_count];
        } else if (of.sampled->status == OK) {
            token = __ldcg(&of.draws[index].token);
        }
        float x = NEGATIVE_INFINITY;
        if (token < work.row->vocab_size) x = __fadd_rn(logit_of<D>(work.view, token), 0.0f);
        if (work.team.rank == 0) of.named[index].logit = __float_as_uint(x);
        const bool ranked = x > NEGATIVE_INFINITY;
        // Keys narrower than 32 bits end in ones here: all the same.
        list[i] = (ranked ? order_of(key_of<D>(x), token) << NAME_BITS : 0) | i;
        counts[i] = 0;
    }
    sort_list(list, count);
}

// Counts the tokens of this block's tiles by the first named token that they come before.
template <class D> DEVICE void count_before(const Work<D, false>& work, u32 count) {
    const u64* list = work.shared->listed.list;
    u32* counts = reinterpret_cast<u32*>(work.shared->listed.prefix);
    const u64 last = list[count - 1] >> NAME_BITS;
    if (last == 0) return;
    // Many neighbours come before the same one.
    u32 same = 0, place = 0;
    for_tiles_from<D>(work, ~static_cast<u32>(last >> 20), [&](u32 tile, float (&x)[SHARE]) {
        const u32 id = first_id<D>(work, tile);
#pragma unroll
        for (u32 i = 0; i < SHARE; i++) {
            if (!(x[i] > NEGATIVE_INFINITY)) continue;
            const u64 order = order_of(key_of<D>(x[i]), id + i);
            if (order >= last) continue;
            u32 low = 0, high = count - 1;
            while (low < high) {
                const u32 middle = (low + high) / 2;
                if (list[middle] >> NAME_BITS > order) {
                    high = middle;
                } else {
                    low = middle + 1;
                }
            }
            if (low != place && same > 0) {
                atomicAdd(&counts[place], same);
                same = 0;
            }
            place = low;
            same++;
        }
    });
    if (same > 0) atomicAdd(&counts[place], same);
}

// Says of each named token its logit, and adds how many tokens of this block's tiles come before it.
template <class D> DEVICE void rank_named(const Work<D, false>& work, const Inspected& of) {
    const u64* list = work.shared->listed.list;
    const u32* counts = reinterpret_cast<const u32*>(work.shared->listed.prefix);
    const u32 all = of.draw_count + of.asked->id_count;
    for (u32 base = 0; base < all; base += LIST) {
        const u32 count = min(all - base, LIST);
        list_named(work, of, base, count);
        count_before(work, count);
        __syncthreads();
        const Run run = share_of(count);
        u64 sum = 0, total;
        for (u32 i = run.begin; i < run.end; i++) sum += counts[i];
        u64 before = block_scan(sum, work.shared->partial, total);
        for (u32 i = run.begin; i < run.end; i++) {
            before += counts[i];
            const u32 index = base + (static_cast<u32>(list[i]) & ((1u << NAME_BITS) - 1));
            atomicAdd(&of.named[index].word, static_cast<u32>(before));
        }
        __syncthreads();
    }
}

// Lists the tokens that the cut keeps of this block's tiles, in no order.
template <class D> DEVICE void list_first(const Work<D, false>& work, const Inspected& of, Cut cut) {
    for_tiles_from<D>(work, cut.key, [&](u32 tile, float (&x)[SHARE]) {
        apply_cut<D>(work, cut, tile, x);
        const u32 id = first_id<D>(work, tile);
#pragma unroll
        for (u32 i = 0; i < SHARE; i++) {
            if (!(x[i] > NEGATIVE_INFINITY)) continue;
            const u32 place = atomicAdd(&of.outcome->listed, 1u);
            if (place < of.asked->top) of.first[place] = {id + i, __float_as_uint(__fadd_rn(x[i], 0.0f))};
        }
    });
}

// Writes this block's share of the bitmask of the tokens that the cut keeps: a warp takes a word.
template <class D> DEVICE void write_kept(const Work<D, false>& work, const Inspected& of, Cut cut) {
    const u32 vocab_size = work.row->vocab_size;
    const float at = value_of<D>(cut.key);
    u32* words = reinterpret_cast<u32*>(of.asked->kept);
    for (u32 word = work.team.rank * WARPS + warp_index(); word * LANES < vocab_size; word += work.team.size * WARPS) {
        const u32 first = work.view.lead + word * LANES;
        const u32 last = min(first + LANES, work.view.end) - 1;
        u32 bits = 0;
        if (max(work.tile_keys[first / TILE], work.tile_keys[last / TILE]) >= cut.key) {
            const u32 id = word * LANES + lane_index();
            const float x = id < vocab_size ? logit_of<D>(work.view, id) : NEGATIVE_INFINITY;
            bits = __ballot_sync(FULL_WARP, x > at || (x == at && id <= cut.id));
        }
        if (lane_index() == 0) words[word] = bits;
    }
}

// Answers what is asked of a row that has a token.
template <class D> DEVICE void inspect_scanned(Work<D, false>& work, const Inspected& of) {
    const InspectDescriptor* asked = of.asked;
    const u32 flags = asked->flags;
    if (flags & SAY_TOKENS) {
        rank_named(work, of);
        if (asked->top > 0) list_first(work, of, cut_after(work, asked->top));
    }
    if (flags & SUM_RAW) sum_terms(work, of, RAW, no_cut<D>(), {asked->raw_c, asked->raw_dmin});
    if (flags & SUM_ADJUSTED) sum_terms(work, of, ADJUSTED, no_cut<D>(), work.scale);
    if (!(flags & (SUM_SAMPLED | SAY_KEPT))) return;
    const Cut cut = cut_after(work, of.sampled->kept);
    // Where all tokens are kept, the sums are those of the adjusted distribution: the host looks there.
    const bool summed = flags & SUM_ADJUSTED && of.sampled->kept == work.candidates;
    if (flags & SUM_SAMPLED && !summed) sum_terms(work, of, SAMPLED, cut, work.scale);
    if (flags & SAY_KEPT) write_kept(work, of, cut);
}

}  // namespace
}  // namespace logitd
