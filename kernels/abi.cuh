// What crosses between the host and the kernels. `core/src/backend/cuda/abi.rs` holds the other copy; both
// assert sizes and offsets, so that neither can change alone.
#pragma once

// NVRTC has no offsetof. What it compiles, nvcc and the host's compiler have compiled from the same text.
#ifdef __CUDACC_RTC__
#define LOGITD_AT(type, field, at) static_assert(sizeof(type) > at, "see abi.rs")
#else
#define LOGITD_AT(type, field, at) static_assert(__builtin_offsetof(type, field) == at, "see abi.rs")
#endif

namespace logitd {

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using i32 = int;
using u64 = unsigned long long;

// How logits are stored: `Dtype` in core/src/batch.rs.
enum Dtype : u32 { F16 = 0, BF16 = 1, F32 = 2 };

// What became of a row: `RowStatus` in core/src/batch.rs.
enum RowStatus : u32 { OK = 0, NOT_A_NUMBER = 1, POSITIVE_INFINITY = 2, NO_CANDIDATE = 3 };

// Bits of RowDescriptor::flags.
enum RowFlags : u32 { GREEDY = 1, TOP_P = 2, MIN_P = 4, RACE = 8 };

// One row of a batch: where its logits lie and what to do with it. Rows of one launch share nothing.
struct RowDescriptor {
    u64 logits;            // address of token 0, aligned to its dtype; nothing outside the row is read
    u64 seed;
    u64 position;
    u64 top_p_fraction;    // cut::top_p_fraction; meaningless without TOP_P
    u64 ids;               // address of a u32 a logit that a race's noise belongs to, or 0: 0, 1, 2, ..
    u32 vocab_size;        // 1 to 2^20
    u32 dtype;             // Dtype
    u32 top_k;             // 0 disables
    u32 flags;             // RowFlags
    float c;               // mass::Scale
    float dmin;
    float min_p_distance;  // cut::min_p_distance; meaningless without MIN_P
    u32 draws;             // 1 to 1024
    u32 first_draw;        // where this row's draws stand among those of the batch
    u32 reserved;
};
static_assert(sizeof(RowDescriptor) == 80, "see abi.rs");
LOGITD_AT(RowDescriptor, top_p_fraction, 24);
LOGITD_AT(RowDescriptor, ids, 32);
LOGITD_AT(RowDescriptor, vocab_size, 40);
LOGITD_AT(RowDescriptor, flags, 52);
LOGITD_AT(RowDescriptor, min_p_distance, 64);
LOGITD_AT(RowDescriptor, first_draw, 72);

// What the kernels say once about a row. All but `status` are 0 unless it is OK.
struct RowOutcome {
    u64 kept_mass;
    u32 status;  // RowStatus
    u32 kept;
    u32 max;     // bits of the row's maximum; either zero is +0.0
    u32 reserved;
};
static_assert(sizeof(RowOutcome) == 24, "see abi.rs");
LOGITD_AT(RowOutcome, status, 8);
LOGITD_AT(RowOutcome, max, 16);

// One draw. The host turns the logit into a logprob.
struct RowDraw {
    u32 token;
    u32 logit;  // bits of its logit; either zero is +0.0
};
static_assert(sizeof(RowDraw) == 8, "see abi.rs");

// The one argument of a launch. `team_blocks` blocks share each row; the grid has rows * team_blocks.
struct Batch {
    u64 rows;             // RowDescriptor[row_count]
    u64 outcomes;         // RowOutcome[row_count]
    u64 draws;            // RowDraw[all draws of the batch]
    u64 control;          // Control, zero before the launch and after it
    u64 scratch;          // Scratch[row_count] of work.cuh, zero likewise but for its lists
    u64 tiles;            // u64[row_count][2][tile_capacity]: maxima and masses
    u32 row_count;
    u32 team_blocks;
    u32 tile_capacity;    // the most tiles of any row of the batch: see view_of
    u32 stage_bytes;      // shared memory for a block's slice of its row; 0: read it again instead
};
static_assert(sizeof(Batch) == 64, "see abi.rs");
LOGITD_AT(Batch, row_count, 48);
LOGITD_AT(Batch, stage_bytes, 60);

// Counters of a launch whose blocks take their places in the order in which they start.
struct Control {
    u32 ticket;
    u32 finished;
};

// What `logitd_probe` is given and what it answers: whether the compiler kept to the arithmetic.
struct Probe {
    float a, b, c;      // in: a * b + c
    float tiny;         // in: a subnormal
    float sum;          // out: a * b + c in plain operators, which must be rounded twice
    float fused;        // out: the same, fused
    float half_tiny;    // out: tiny * 0.5, which must not be flushed to zero
    float quotient;     // out: a / b, correctly rounded
};
static_assert(sizeof(Probe) == 32, "see abi.rs");

}  // namespace logitd
