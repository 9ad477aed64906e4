// The memory of a row's work: what the blocks of its team share (in global memory), what the threads of a
// block share, and what every thread knows.
#pragma once
#include "abi.cuh"
#include "block.cuh"
#include "logits.cuh"
#include "mass.cuh"
#include "team.cuh"

// The most candidates that one block sorts; and the bins of a histogram of counts, or of counts and masses.
#ifndef LOGITD_LIST
#define LOGITD_LIST 1024
#endif
#ifndef LOGITD_COUNT_BINS
#define LOGITD_COUNT_BINS 4096
#endif
#ifndef LOGITD_MASS_BINS
#define LOGITD_MASS_BINS 1024
#endif

namespace logitd {
namespace {

constexpr u32 LIST = LOGITD_LIST;
constexpr u32 COUNT_BINS = LOGITD_COUNT_BINS;
constexpr u32 MASS_BINS = LOGITD_MASS_BINS;
constexpr u32 HISTOGRAMS = 3;  // one is filled, one is read, one is being cleared
static_assert((LIST & (LIST - 1)) == 0 && LIST >= 2, "block_sort wants a power of two");
static_assert((COUNT_BINS & (COUNT_BINS - 1)) == 0 && COUNT_BINS >= THREADS, "bins are shared out evenly");
static_assert((MASS_BINS & (MASS_BINS - 1)) == 0 && MASS_BINS >= THREADS, "bins are shared out evenly");

// A histogram of the whole row: counts, or counts and masses. Zero between launches.
union Histogram {
    u32 counts[COUNT_BINS];
    struct {
        u64 mass[MASS_BINS];
        u32 count[MASS_BINS];
    } weighed;
};

// The most blocks of a team: TEAM_BLOCKS_MAX in plan.rs.
constexpr u32 TEAM_BLOCKS_MAX = 8;

// A row's scratch memory, but for what there is of each tile.
struct Scratch {
    TeamControl control;
    u32 reserved[12];
    Histogram histograms[HISTOGRAMS];
    u64 said[2][2 * TEAM_BLOCKS_MAX];  // in one exchange and in the next: what each block says, up to two numbers
    u64 list[LIST];
};

// A block's shared memory. After it come the keys of all tiles of the row, then the staged slice.
struct Shared {
    u64 partial[WARPS];
    u64 answer[4];
    u32 word;
    u32 reserved[3];
    union {
        u32 counts[COUNT_BINS];
        struct {
            u32 count[MASS_BINS];
            u32 low[MASS_BINS];
            u32 high[MASS_BINS];
        } weighed;
        struct {
            u64 list[LIST];
            u64 prefix[LIST];
        } listed;
        struct {
            u64 before[THREADS];  // mass of all tiles before this thread's
            u64 rest[THREADS];
            u32 tile[THREADS];
        } tiles;
    };
};
static_assert(sizeof(Shared) % 16 == 0, "the stage is read 16 bytes at a time");

// Keeps the tokens with a key above `key`, and those with this key up to `id`.
struct Cut {
    u32 key;
    u32 id;
};

constexpr u32 EVERY_ID = 0xffffffffu;

// What all threads of a row's team know alike.
template <class D, bool CLUSTER> struct Work {
    using Format = D;
    const RowDescriptor* row;
    View view;
    Team<CLUSTER> team;
    u32 own_tiles;     // how many tiles are this block's
    Scratch* scratch;
    u64* tile_maxima;  // key << 32 | candidates, in global memory
    u64* tile_masses;  // kept tokens << 49 | mass, likewise
    Shared* shared;
    u32* tile_keys;    // of all tiles, in shared memory, once they are gathered
    uint4* stage;      // this block's tiles, or null
    u32 max_key;
    u32 max_tile;      // the first tile with the maximum
    u32 candidates;    // tokens above -inf
    float max;
    Scale scale;
    u32 histogram;     // how many histograms this row has filled

    // The place in the row of this block's i-th tile. A team deals the tiles out one by one: what one part of the
    // vocabulary has most of, such as the likely tokens among the low ids, is work for every block.
    MEMBER u32 tile_at(u32 i) const { return team.rank + i * team.size; }
};

constexpr u32 TILE_MASS_BITS = 49;  // 256 tokens of 2^40

DEVICE u32 round_up(u32 value, u32 unit) { return (value + unit - 1) / unit * unit; }

DEVICE u32 tile_keys_bytes(const Batch& batch) { return round_up(batch.tile_capacity * 4, 16); }

// The work of the team at `place` on a row, which may be none of the batch's.
template <class D, bool CLUSTER>
DEVICE Work<D, CLUSTER> begin_row(const Batch& batch, const RowDescriptor* row, u32 place, unsigned char* shared) {
    Work<D, CLUSTER> work;
    const u32 row_index = place / batch.team_blocks;
    work.row = row;
    work.view = view_of<D>(work.row);
    work.scratch = reinterpret_cast<Scratch*>(batch.scratch) + row_index;
    work.tile_maxima = reinterpret_cast<u64*>(batch.tiles) + row_index * 2ull * batch.tile_capacity;
    work.tile_masses = work.tile_maxima + batch.tile_capacity;
    work.team = {place % batch.team_blocks, batch.team_blocks, &work.scratch->control, 0};
    work.own_tiles = (work.view.tiles + work.team.size - 1 - work.team.rank) / work.team.size;
    work.shared = reinterpret_cast<Shared*>(shared);
    work.tile_keys = reinterpret_cast<u32*>(shared + sizeof(Shared));
    const u32 slice = work.own_tiles * TILE * D::SIZE;
    const bool staged = batch.stage_bytes > 0 && slice <= batch.stage_bytes;
    work.stage = staged ? reinterpret_cast<uint4*>(shared + sizeof(Shared) + tile_keys_bytes(batch)) : nullptr;
    work.scale = {work.row->c, work.row->dmin};
    work.histogram = 0;
    return work;
}

template <class D, bool CLUSTER>
DEVICE Work<D, CLUSTER> begin_work(const Batch& batch, u32 place, unsigned char* shared) {
    const RowDescriptor* rows = reinterpret_cast<const RowDescriptor*>(batch.rows);
    return begin_row<D, CLUSTER>(batch, rows + place / batch.team_blocks, place, shared);
}

// A lane's share of this block's i-th tile, after the first reading.
template <class D, bool CLUSTER>
DEVICE Share<D> read_again(const Work<D, CLUSTER>& work, u32 i) {
    if (work.stage) return read_vectors<D>(work.stage + (i * LANES + lane_index()) * Share<D>::VECTORS);
    return read_share<D>(work.view, work.tile_at(i), lane_index());
}

// The id of the first token of this lane's share. Below 0, as a large number, before the row's start.
template <class D, bool CLUSTER>
DEVICE u32 first_id(const Work<D, CLUSTER>& work, u32 tile) {
    return tile * TILE + lane_index() * SHARE - work.view.lead;
}

// Makes -inf of every token that the cut does not keep.
template <class D, bool CLUSTER>
DEVICE void apply_cut(const Work<D, CLUSTER>& work, Cut cut, u32 tile, float (&x)[SHARE]) {
    const float at = value_of<D>(cut.key);
    // Compared in slots: ids before the row's start would be huge.
    const u32 first = tile * TILE + lane_index() * SHARE;
    const u32 last_kept = cut.id == EVERY_ID ? EVERY_ID : cut.id + work.view.lead;
#pragma unroll
    for (u32 i = 0; i < SHARE; i++) {
        const bool kept = x[i] > at || (x[i] == at && first + i <= last_kept);
        if (!kept) x[i] = NEGATIVE_INFINITY;
    }
}

// Every tile of this block whose maximum is at least `key`, a warp to each: `each(tile, x)`.
template <class D, bool CLUSTER, class Each>
DEVICE void for_tiles_from(const Work<D, CLUSTER>& work, u32 key, Each each) {
    for (u32 i = warp_index(); i < work.own_tiles; i += WARPS) {
        const u32 tile = work.tile_at(i);
        if (work.tile_keys[tile] < key) continue;
        float x[SHARE];
        widen_share<D>(read_again<D>(work, i), x);
        each(tile, x);
    }
}

}  // namespace
}  // namespace logitd
