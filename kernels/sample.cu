// The kernels. One launch samples a batch: a team of blocks to each row, whatever its vocabulary, dtype
// and parameters. README.md beside this file has the design.
#include "abi.cuh"
#include "adjust.cuh"
#include "chain.cuh"
#include "finish_list.cuh"
#include "histogram.cuh"
#include "inspect.cuh"
#include "race.cuh"
#include "scan.cuh"
#include "team.cuh"
#include "tile_masses.cuh"
#include "work.cuh"

namespace logitd {

// As they are shipped, devices are planned with these sizes: Geometry::SHIPPED in core/src/backend/cuda/plan.rs.
static_assert(THREADS != 256 || LIST != 1024 || COUNT_BINS != 4096 || MASS_BINS != 1024
                  || (sizeof(Shared) == 16496 && sizeof(Scratch) == 57664),
              "see plan.rs");

namespace {

template <class D, bool CLUSTER>
DEVICE void write_outcome(const Batch& batch, const Work<D, CLUSTER>& work, RowStatus status, Total total) {
    if (work.team.rank != 0 || thread_index() != 0) return;
    const u64 row_index = work.row - reinterpret_cast<const RowDescriptor*>(batch.rows);
    const u32 max = status == OK ? __float_as_uint(work.max) : 0;
    reinterpret_cast<RowOutcome*>(batch.outcomes)[row_index] = {total.mass, status, total.kept, max, 0};
}

// The first token of the order, for every draw.
template <class D, bool CLUSTER> DEVICE void finish_greedy(const Batch& batch, const Work<D, CLUSTER>& work) {
    write_outcome(batch, work, OK, {UNIT, 1});
    if (work.team.rank != 0) return;
    if (warp_index() == 0) {
        u32* answer = &work.shared->word;
        walk_tile<D, CLUSTER, BY_TIE>(work, {work.max_key, EVERY_ID}, {work.max_tile, 0},
                                      [&](u32 id, float) { *answer = id; });
    }
    __syncthreads();
    for (u32 draw = thread_index(); draw < work.row->draws; draw += THREADS) {
        write_draw(batch, work.row, draw, work.shared->word, work.max);
    }
}

// Where the cuts fall: either every kept token is in the list, with its first `listed` tokens of the
// order, or `cut` says which ones are kept.
struct Decision {
    u32 listed;    // 0: the list is not used
    u64 mass_k;    // the mass that top-k left, where it was needed
    Cut cut;
};

// Applies top-k, then top-p to what it left. Each starts from a key that bounds its cut from below, and
// narrows until the tokens from there on fit the list or the cut is known.
template <class D, bool CLUSTER> DEVICE Decision decide(Work<D, CLUSTER>& work) {
    const RowDescriptor* row = work.row;
    Decision decision = {0, 0, {Keys<D>::CANDIDATE_MIN, EVERY_ID}};
    const bool has_k = row->top_k > 0 && row->top_k < work.candidates;
    const bool has_p = row->flags & TOP_P;
    u32 attempt = 0;
#pragma unroll 1
    for (u32 stage = has_k ? 0 : 1; stage < (has_p ? 2 : 1); stage++) {
        const bool by_mass = stage == 1;
        u64 goal = row->top_k;
        u32 floor;
        if (by_mass) {
            sum_tiles<D, CLUSTER, BY_MASS>(work, decision.cut);
            work.team.sync();
            decision.mass_k = prefix_tiles(work).mass;
            goal = top_p_target(row->top_p_fraction, decision.mass_k);
            floor = max(decision.cut.key, top_p_floor(work, goal, decision.mass_k));
        } else {
            floor = top_k_floor(work, row->top_k);
        }
        Range range = {floor, work.max_key, 0, 0, 0};
        bool counted = false;
        for (;;) {
            // The floor of top-k is tight, so its list is tried at once; otherwise the count is awaited.
            if (counted ? range.above + range.within <= LIST : !by_mass) {
                const u32 listed = list_candidates(work, decision.cut, range.low, attempt++);
                if (listed <= LIST) {
                    decision.listed = listed;
                    return decision;
                }
            }
            if (counted && range.low == range.high) break;
            narrow(work, decision.cut, range, goal, by_mass);
            counted = true;
        }
        decision.cut = cut_ties(work, decision.cut, range, goal, by_mass);
    }
    if (row->flags & MIN_P) {
        const u32 key = least_key<D>(work.max_key, work.max, row->min_p_distance);
        if (key > decision.cut.key) decision.cut = {key, EVERY_ID};
        if (!has_k && !has_p) {
            const u32 listed = list_candidates(work, decision.cut, key, attempt);
            if (listed <= LIST) decision.listed = listed;
        }
    }
    return decision;
}

template <class D, bool CLUSTER> DEVICE void finish_sampled(const Batch& batch, Work<D, CLUSTER>& work) {
    const Decision decision = decide(work);
    if (decision.listed > 0) {
        if (work.team.rank != 0) return;
        write_outcome(batch, work, OK, finish_list(batch, work, decision.listed, decision.mass_k));
        return;
    }
    sum_tiles<D, CLUSTER, BY_MASS>(work, decision.cut);
    work.team.sync();
    Total total = prefix_tiles(work);
    const bool everything = decision.cut.key <= Keys<D>::CANDIDATE_MIN && decision.cut.id == EVERY_ID;
    if (everything) total.kept = work.candidates;
    write_outcome(batch, work, OK, total);
    if (work.row->flags & RACE) {
        race_in_tiles(batch, work, decision.cut);
    } else {
        draw_from_tiles(batch, work, decision.cut, total.mass);
    }
}

// The barriers of a team begin anew.
DEVICE void clear_counters(Scratch* scratch) { scratch->control = {0, 0, {0, 0}}; }

// Nobody has said anything.
DEVICE void clear_said(Scratch* scratch) {
    u64* places = &scratch->said[0][0];
    if (thread_index() < sizeof(scratch->said) / sizeof(u64)) places[thread_index()] = 0;
}

// All histograms are zero.
DEVICE void clear_histograms(Scratch* scratch) {
    uint4* words = reinterpret_cast<uint4*>(scratch->histograms);
    for (u32 i = thread_index(); i < sizeof(scratch->histograms) / 16; i += THREADS) words[i] = make_uint4(0, 0, 0, 0);
}

// The last block of a team to finish leaves the scratch memory as it found it.
template <class D, bool CLUSTER> DEVICE void end_work(Work<D, CLUSTER>& work) {
    if (!work.team.leave(&work.shared->word)) return;
    if (thread_index() == 0) clear_counters(work.scratch);
    if (work.row->flags & RACE) clear_said(work.scratch);
    if (work.histogram > 0) clear_histograms(work.scratch);
}

template <class D, bool CLUSTER> DEVICE void sample_row(const Batch& batch, u32 place, unsigned char* shared) {
    Work<D, CLUSTER> work = begin_work<D, CLUSTER>(batch, place, shared);
    scan_tiles(work);
    work.team.sync();
    gather_tiles(work);
    const RowStatus status = status_of<D>(work.max_key);
    if (status != OK) {
        write_outcome(batch, work, status, {0, 0});
    } else if (work.row->flags & GREEDY) {
        finish_greedy(batch, work);
    } else {
        finish_sampled(batch, work);
    }
    end_work(work);
}

template <class D>
DEVICE void cut_row(const Batch& batch, const CutDescriptor* asked, u32 place, unsigned char* shared) {
    Work<D, false> work = begin_row<D, false>(batch, &asked->row, place, shared);
    apply_cuts(work, asked);
    if (!work.team.leave(&work.shared->word)) return;
    if (thread_index() == 0) clear_counters(work.scratch);
    clear_said(work.scratch);
    if (work.histogram > 0) clear_histograms(work.scratch);
}

template <bool CLUSTER> DEVICE void sample_batch(const Batch& batch) {
    unsigned char* shared = dynamic_shared();
    const u32 place = take_place<CLUSTER>(batch, &reinterpret_cast<Shared*>(shared)->word);
    const u32 dtype = reinterpret_cast<const RowDescriptor*>(batch.rows)[place / batch.team_blocks].dtype;
    if (dtype == F16) {
        sample_row<Format<F16>, CLUSTER>(batch, place, shared);
    } else if (dtype == BF16) {
        sample_row<Format<BF16>, CLUSTER>(batch, place, shared);
    } else {
        sample_row<Format<F32>, CLUSTER>(batch, place, shared);
    }
    give_place_back<CLUSTER>(batch);
}

template <class D>
DEVICE void inspect_row(const Batch& batch, const InspectDescriptor* asked, u32 place, unsigned char* shared) {
    Work<D, false> work = begin_row<D, false>(batch, &asked->row, place, shared);
    const Inspected of = inspected(batch, asked);
    clear_answer(work, of);
    scan_tiles(work);
    work.team.sync();
    gather_tiles(work);
    const RowStatus status = status_of<D>(work.max_key);
    if (work.team.rank == 0 && thread_index() == 0) {
        of.outcome->status = status;
        of.outcome->max = __float_as_uint(work.max);
        of.outcome->candidates = work.candidates;
    }
    if (status == OK) inspect_scanned(work, of);
    end_work(work);
}

}  // namespace

// Blocks that a multiprocessor must be able to hold: without it the compiler of some chips spends registers on
// more of them and spills.
constexpr u32 RESIDENT_BLOCKS_MIN = 2;

// Samples a batch. Teams are thread-block clusters of batch.team_blocks blocks: sm_90 and later.
KERNEL __launch_bounds__(THREADS, RESIDENT_BLOCKS_MIN) logitd_sample_cluster(Batch batch) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
    sample_batch<true>(batch);
#endif
}

// Samples a batch. Teams meet at a counter in global memory: any chip.
KERNEL __launch_bounds__(THREADS, RESIDENT_BLOCKS_MIN) logitd_sample_grid(Batch batch) { sample_batch<false>(batch); }

// Makes the rows that are sampled of those that are stored: `row_blocks` blocks to each.
KERNEL __launch_bounds__(THREADS, RESIDENT_BLOCKS_MIN) logitd_adjust(AdjustBatch batch) {
    AdjustDescriptor* row = reinterpret_cast<AdjustDescriptor*>(batch.rows) + blockIdx.x / batch.row_blocks;
    const u32 block = blockIdx.x % batch.row_blocks;
    u32* shared = reinterpret_cast<u32*>(dynamic_shared());
    if (row->from_dtype == F16) {
        adjust_row<Format<F16>>(row, block, batch.row_blocks, shared);
    } else if (row->from_dtype == BF16) {
        adjust_row<Format<BF16>>(row, block, batch.row_blocks, shared);
    } else {
        adjust_row<Format<F32>>(row, block, batch.row_blocks, shared);
    }
}

// Makes the rows that are sampled of those that have cuts before those of the sampling kernel.
KERNEL __launch_bounds__(THREADS, RESIDENT_BLOCKS_MIN) logitd_cut(CutBatch all) {
    const Batch& batch = all.batch;
    unsigned char* shared = dynamic_shared();
    const u32 place = take_place<false>(batch, &reinterpret_cast<Shared*>(shared)->word);
    const CutDescriptor* asked = reinterpret_cast<const CutDescriptor*>(all.cuts) + place / batch.team_blocks;
    if (asked->row.dtype == F16) {
        cut_row<Format<F16>>(batch, asked, place, shared);
    } else if (asked->row.dtype == BF16) {
        cut_row<Format<BF16>>(batch, asked, place, shared);
    } else {
        cut_row<Format<F32>>(batch, asked, place, shared);
    }
    give_place_back<false>(batch);
}

// Says more than tokens of rows that were sampled in the launch before.
KERNEL __launch_bounds__(THREADS, RESIDENT_BLOCKS_MIN) logitd_inspect(InspectBatch all) {
    const Batch& batch = all.batch;
    unsigned char* shared = dynamic_shared();
    const u32 place = take_place<false>(batch, &reinterpret_cast<Shared*>(shared)->word);
    const InspectDescriptor* asked =
        reinterpret_cast<const InspectDescriptor*>(all.asked) + place / batch.team_blocks;
    if (asked->row.dtype == F16) {
        inspect_row<Format<F16>>(batch, asked, place, shared);
    } else if (asked->row.dtype == BF16) {
        inspect_row<Format<BF16>>(batch, asked, place, shared);
    } else {
        inspect_row<Format<F32>>(batch, asked, place, shared);
    }
    give_place_back<false>(batch);
}

// Reads `count` pieces of 16 bytes, for a benchmark that wants the caches full of other memory. Read, not written: what
// is written would be written back while the kernel after it is timed. `sink` is for a word that memory of zeros has
// not, so that the compiler cannot leave the reading out.
KERNEL logitd_read(const uint4* from, u64 count, u32* sink) {
    const u64 step = static_cast<u64>(gridDim.x) * blockDim.x;
    u32 seen = 0;
#pragma unroll 1
    for (u64 i = static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {
        const uint4 piece = __ldcg(from + i);
        seen ^= piece.x ^ piece.y ^ piece.z ^ piece.w;
    }
    if (seen != 0) *sink = seen;
}

// Says whether the compiler kept to the arithmetic: see Probe.
KERNEL logitd_probe(Probe* probe) {
    probe->sum = probe->a * probe->b + probe->c;
    probe->fused = __fmaf_rn(probe->a, probe->b, probe->c);
    probe->half_tiny = probe->tiny * 0.5f;
    probe->quotient = probe->a / probe->b;
}

}  // namespace logitd
