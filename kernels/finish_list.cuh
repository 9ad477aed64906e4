// Few candidates: one block sorts them by the total order, cuts, sorts what is left by id, and draws.
#pragma once
#include "cut.cuh"
#include "draw.cuh"
#include "philox.cuh"
#include "race.cuh"
#include "tile_masses.cuh"
#include "work.cuh"

namespace logitd {
namespace {

// Tiles of which a warp has the shares at once while it lists tokens: as many registers for either size of logit.
template <class D> constexpr u32 LISTED_TOGETHER = 4 / Share<D>::VECTORS;

// Which tokens of a share are listed, a bit for each: what the cut keeps, from `least` on.
template <class D, bool CLUSTER>
DEVICE u32 listed_of(const Work<D, CLUSTER>& work, Cut cut, u32 tile, const Share<D>& share, float least) {
    float x[SHARE];
    widen_share<D>(share, x);
    if (!(cut.key <= Keys<D>::CANDIDATE_MIN && cut.id == EVERY_ID)) apply_cut<D>(work, cut, tile, x);
    u32 bits = 0;
#pragma unroll
    for (u32 i = 0; i < SHARE; i++) bits |= static_cast<u32>(x[i] >= least) << i;
    return bits;
}

// Makes room in the list for `count` tokens of each lane: the first place of this lane's. In all lanes, whether there
// may be room.
DEVICE bool make_room(u32* listed, u32 count, u32& place) {
    u32 inclusive = count;
#pragma unroll
    for (u32 step = 1; step < LANES; step *= 2) {
        const u32 other = __shfl_up_sync(FULL_WARP, inclusive, step);
        if (lane_index() >= step) inclusive += other;
    }
    u32 base = 0;
    if (lane_index() == LANES - 1) base = atomicAdd(listed, inclusive);
    base = __shfl_sync(FULL_WARP, base, LANES - 1);
    place = base + inclusive - count;
    return base <= LIST;
}

// Lists the tokens of some of this warp's tiles: of the first ones in `wanted`, which has a bit for the tile of each lane
// from the `base`-th on, and loses those. Whether there may be room for more. All tiles are asked for before the first
// is looked at, and make room together.
template <class D, bool CLUSTER>
DEVICE bool list_tiles(const Work<D, CLUSTER>& work, Cut cut, float least, u32* listed, u32 base, u32& wanted) {
    constexpr u32 TOGETHER = LISTED_TOGETHER<D>;
    Share<D> shares[TOGETHER];
    u32 own[TOGETHER], bits[TOGETHER];
#pragma unroll
    for (u32 i = 0; i < TOGETHER; i++) {
        own[i] = wanted == 0 ? EVERY_ID : (base + __ffs(static_cast<int>(wanted)) - 1) * WARPS + warp_index();
        wanted &= wanted - 1;
        if (own[i] != EVERY_ID) shares[i] = read_again<D>(work, own[i]);
    }
    u32 count = 0;
#pragma unroll
    for (u32 i = 0; i < TOGETHER; i++) {
        bits[i] = own[i] == EVERY_ID ? 0 : listed_of<D>(work, cut, work.tile_at(own[i]), shares[i], least);
        count += static_cast<u32>(__popc(bits[i]));
    }
    u32 place;
    if (!make_room(listed, count, place)) return false;
    u64* list = work.scratch->list;
#pragma unroll
    for (u32 i = 0; i < TOGETHER; i++) {
        if (bits[i] == 0) continue;
        const u32 id = first_id<D>(work, work.tile_at(own[i]));
#pragma unroll
        for (u32 token = 0; token < SHARE; token++) {
            if (!(bits[i] >> token & 1)) continue;
            // Ascending, these are in the total order.
            const u32 key = key_of<D>(D::widen(shares[i].words, token));
            if (place < LIST) list[place] = static_cast<u64>(~key) << 32 | (id + token);
            place++;
        }
    }
    return true;
}

// Lists the tokens with keys from `key` on that the cut keeps, in no order. Returns how many there are; if
// that is more than LIST, the list is not complete, and the number is only known to be above LIST.
// Ends with a barrier of the team. `attempt` is 0 for a row's first list, 1 for its second.
template <class D, bool CLUSTER>
DEVICE u32 list_candidates(Work<D, CLUSTER>& work, Cut cut, u32 key, u32 attempt) {
    const float least = value_of<D>(key);
    u32* listed = &work.team.control->listed[attempt];
    bool room = true;
    for (u32 base = 0; room && base * WARPS < work.own_tiles; base += LANES) {
        const u32 own = (base + lane_index()) * WARPS + warp_index();
        const bool reaches = own < work.own_tiles && work.tile_keys[work.tile_at(own)] >= key;
        u32 wanted = __ballot_sync(FULL_WARP, reaches);
        while (room && wanted != 0) room = list_tiles(work, cut, least, listed, base, wanted);
    }
    work.team.sync();
    return __ldcg(listed);
}

// The part of a list of `count` that is this thread's: neighbours.
DEVICE Run share_of(u32 count) {
    const u32 length = (count + THREADS - 1) / THREADS;
    const u32 begin = min(thread_index() * length, count);
    return {begin, min(begin + length, count)};
}

DEVICE u32 power_of_two_from(u32 count) { return count < 2 ? 2 : 1u << (32 - __clz(static_cast<int>(count - 1))); }

// The most that are sorted by rank. It grows with the square, the network with little more than the count.
constexpr u32 RANKED = THREADS < LIST / 4 ? THREADS : LIST / 4;

// Sorts a list that the threads of the block have just written; its values differ.
DEVICE void sort_list(u64* list, u32 count) {
    if (count <= RANKED) {
        __syncthreads();
        block_rank(list, count);
        return;
    }
    const u32 size = power_of_two_from(count);
    for (u32 i = count + thread_index(); i < size; i += THREADS) list[i] = ~0ull;
    __syncthreads();
    block_sort(list, size);
}

// Finishes a row whose first `count` tokens of the total order, at least as many as are kept, are listed.
// `mass_k` is the mass that top-k left, or 0 where the listed ones make it up. One block does this.
template <class D, bool CLUSTER>
DEVICE Total finish_list(const Batch& batch, const Work<D, CLUSTER>& work, u32 count, u64 mass_k) {
    const RowDescriptor* row = work.row;
    u64* list = work.shared->listed.list;
    u64* prefix = work.shared->listed.prefix;
    u64* partial = work.shared->partial;
    for (u32 i = thread_index(); i < count; i += THREADS) list[i] = __ldcg(work.scratch->list + i);
    sort_list(list, count);

    // How many are kept. Each cut keeps a prefix, so a token that passes all of them is in every prefix.
    if (row->top_k > 0) count = min(count, row->top_k);
    const Run run = share_of(count);
    u64 sum = 0;
    for (u32 i = run.begin; i < run.end; i++) {
        sum += mass(value_of<D>(~static_cast<u32>(list[i] >> 32)), work.max, work.scale);
    }
    u64 total;
    u64 before = block_scan(sum, partial, total);
    const bool nucleus = row->flags & TOP_P;
    const u64 target = nucleus ? top_p_target(row->top_p_fraction, mass_k > 0 ? mass_k : total) : ~0ull;
    u64 kept = 0, kept_mass = 0;
    for (u32 i = run.begin; i < run.end; i++) {
        const float x = value_of<D>(~static_cast<u32>(list[i] >> 32));
        const bool passes = before < target &&
                            !(row->flags & MIN_P && !min_p_keeps(x, work.max, row->min_p_distance));
        const u64 m = mass(x, work.max, work.scale);
        before += m;
        if (passes) {
            kept++;
            kept_mass += m;
        }
    }
    // Both in one sum.
    static_assert(LIST < 1u << 12, "the mass of a list has 52 bits");
    kept_mass = block_sum(kept << 52 | kept_mass, partial);
    kept = kept_mass >> 52;
    kept_mass &= (1ull << 52) - 1;

    // The kept ones by id, and the mass up to each.
    count = static_cast<u32>(kept);
    for (u32 i = thread_index(); i < count; i += THREADS) list[i] = list[i] << 32 | ~static_cast<u32>(list[i] >> 32);
    sort_list(list, count);
    if (row->flags & RACE) {
        race_in_list(batch, work, list, prefix, count);
        return {kept_mass, count};
    }
    const Run part = share_of(count);
    sum = 0;
    for (u32 i = part.begin; i < part.end; i++) sum += mass(value_of<D>(static_cast<u32>(list[i])), work.max, work.scale);
    u64 running = block_scan(sum, partial, total);
    for (u32 i = part.begin; i < part.end; i++) {
        running += mass(value_of<D>(static_cast<u32>(list[i])), work.max, work.scale);
        prefix[i] = running;
    }
    __syncthreads();

    for (u32 draw = thread_index(); draw < row->draws; draw += THREADS) {
        const u64 drawn = draw_target(token_bits(row->seed, row->position, draw), kept_mass);
        u32 low = 0, high = count - 1;  // the first whose prefix exceeds it is among these
        while (low < high) {
            const u32 middle = (low + high) / 2;
            if (prefix[middle] > drawn) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        const u64 token = list[low];
        write_draw(batch, row, draw, static_cast<u32>(token >> 32), value_of<D>(static_cast<u32>(token)));
    }
    return {kept_mass, count};
}

}  // namespace
}  // namespace logitd
