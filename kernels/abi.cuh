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
using i64 = long long;
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

// A token that gets another logit, and what makes it from the stored one.
struct Touch {
    u32 token;
    float bias;   // 0: none
    u32 count;    // how often the output holds it; NOT_SEEN: the history does not
    float dry;    // DRY's penalty; 0: none
};
static_assert(sizeof(Touch) == 16, "see adjust.rs");

constexpr u32 NOT_SEEN = 0xffffffffu;

// What is done to a row before it is sampled. Where `to` is `from`, nothing is touched.
struct AdjustDescriptor {
    u64 from;          // address of the stored row's token 0
    u64 to;            // address of the adjusted row's
    u64 mask;          // u32[]: bit i % 32 of word i / 32 is 1 where token i stays as it is stored
    u64 touches;       // Touch[touch_count + stop_count], the first by ascending token; the last ones count where without them nothing is left
    u32 vocab_size;
    u32 from_dtype;
    u32 to_dtype;      // the same; or F32
    u32 touch_count;
    u32 stop_count;
    float repetition;
    float frequency;
    float presence;
    u32 arrived;       // 0 before the launch: blocks that are done, and, above them, those that found a token
    u32 reserved;
};
static_assert(sizeof(AdjustDescriptor) == 72, "see adjust.rs");
LOGITD_AT(AdjustDescriptor, vocab_size, 32);
LOGITD_AT(AdjustDescriptor, stop_count, 48);
LOGITD_AT(AdjustDescriptor, arrived, 64);

// The argument of `logitd_adjust`: `row_blocks` blocks for each row.
struct AdjustBatch {
    u64 rows;        // AdjustDescriptor[row_count]
    u32 row_count;
    u32 row_blocks;
};
static_assert(sizeof(AdjustBatch) == 16, "see adjust.rs");

// Cuts of CutDescriptor::stages, CUT_STAGE_BITS each, the first one lowest.
enum CutStage : u32 {
    CUT_DEVIATION = 1,
    CUT_TOP_K = 2,
    CUT_TOP_P = 3,
    CUT_MIN_P = 4,
    CUT_TYPICAL = 5,
    CUT_XTC = 6,
};
constexpr u32 CUT_STAGE_BITS = 4;
constexpr u32 CUT_STAGE = (1u << CUT_STAGE_BITS) - 1;

// A row with cuts that go before those of the sampling kernel, and where the row that they leave is written: at the same
// place, if nobody asks about the row as it was.
struct CutDescriptor {
    RowDescriptor row;     // with the temperature that masses have in these cuts
    u64 to;                // address of the row that is left
    u64 typical_fraction;  // cut::top_p_fraction
    u64 xtc_fraction;      // likewise
    float top_n_sigma;
    u32 stages;            // CutStage
};
static_assert(sizeof(CutDescriptor) == 112, "see cuts.rs");
LOGITD_AT(CutDescriptor, to, 80);
LOGITD_AT(CutDescriptor, top_n_sigma, 104);

// The argument of `logitd_cut`.
struct CutBatch {
    Batch batch;  // its `row_count` is how many rows have such cuts
    u64 cuts;     // CutDescriptor[row_count]
};
static_assert(sizeof(CutBatch) == 72, "see cuts.rs");

// Bits of InspectDescriptor::flags.
enum InspectFlags : u32 {
    SUM_RAW = 1,       // the sums over all tokens at the scale of `raw`
    SUM_ADJUSTED = 2,  // the same at the row's scale
    SUM_SAMPLED = 4,   // the same over the kept tokens
    SAY_TOKENS = 8,    // ranks and logits of tokens
    SAY_KEPT = 16,     // the bitmask
};

// What is asked of a row beside its tokens: of its logits as they were sampled, or as they are stored.
struct InspectDescriptor {
    RowDescriptor row;  // the logits that are looked at
    u64 ids;            // u32[id_count]: tokens that are asked for
    u64 answer;         // InspectOutcome, InspectToken[draws + id_count], InspectToken[top]
    u64 kept;           // u32[]: the bitmask of the kept tokens
    u32 sampled;        // the row's place among those of the launch that sampled it
    u32 flags;          // InspectFlags
    u32 id_count;
    u32 top;
    float raw_c;        // mass::Scale of a temperature of 1
    float raw_dmin;
};
static_assert(sizeof(InspectDescriptor) == 128, "see inspect.rs");
LOGITD_AT(InspectDescriptor, ids, 80);
LOGITD_AT(InspectDescriptor, sampled, 104);
LOGITD_AT(InspectDescriptor, raw_c, 120);

// What is said of a row's logits. All but the status are meaningless unless it is OK.
struct InspectOutcome {
    u64 mass[3];      // by distribution: raw, adjusted, sampled
    u64 term[3];
    u32 status;       // RowStatus
    u32 max;          // bits of the maximum; either zero is +0.0
    u32 candidates;   // tokens above -inf
    u32 listed;       // tokens of the list of the first ones
};
static_assert(sizeof(InspectOutcome) == 64, "see inspect.rs");
LOGITD_AT(InspectOutcome, status, 48);

// Of a named token, how many come before it in the total order; of one of the first tokens, which one it is.
struct InspectToken {
    u32 word;
    u32 logit;  // bits; either zero is +0.0
};
static_assert(sizeof(InspectToken) == 8, "see inspect.rs");

// The argument of `logitd_inspect`. Outcomes and draws are those of the launch before.
struct InspectBatch {
    Batch batch;  // its `row_count` is how many rows are asked about
    u64 asked;    // InspectDescriptor[row_count]
};
static_assert(sizeof(InspectBatch) == 72, "see inspect.rs");

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
