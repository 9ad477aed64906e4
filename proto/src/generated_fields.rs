// From logitd/v1/sampler.proto. Not to be edited: cargo run --manifest-path proto/generate/Cargo.toml
use super::Fields;
pub static SAMPLE_STREAM_REQUEST: Fields = Fields(&[(1, "id", None), (2, "request", Some(&SAMPLE_REQUEST)), (3, "first_row", None)]);
pub static EVALUATE_STREAM_REQUEST: Fields = Fields(&[(1, "id", None), (2, "request", Some(&EVALUATE_REQUEST)), (3, "first_row", None)]);
pub static SAMPLE_REQUEST: Fields = Fields(&[(1, "dtype", None), (2, "vocab_size", None), (3, "logits", None), (4, "params", Some(&SAMPLING_PARAMS)), (5, "priority", None), (6, "slot", Some(&SLOT_REF)), (7, "candidates", Some(&CANDIDATES)), (8, "rows", None), (9, "adjustments", Some(&ADJUSTMENTS)), (10, "row_stride", None), (11, "on_invalid_row", None), (12, "columns", Some(&PARAM_COLUMNS)), (13, "return_columns", None)]);
pub static EVALUATE_REQUEST: Fields = Fields(&[(1, "dtype", None), (2, "vocab_size", None), (3, "logits", None), (4, "slot", Some(&SLOT_REF)), (5, "references", None), (6, "groups", None), (7, "sets", Some(&SAMPLING_PARAMS)), (8, "grid", Some(&SET_GRID)), (9, "tail_share", None), (10, "rows", None), (11, "priority", None)]);
pub static SAMPLING_PARAMS: Fields = Fields(&[(1, "temperature", None), (2, "top_k", None), (3, "top_p", None), (4, "min_p", None), (5, "seed", None), (6, "position", None), (7, "draws", None), (8, "draw_rule", None), (10, "repetition_penalty", None), (11, "frequency_penalty", None), (12, "presence_penalty", None), (13, "no_repeat_ngram", None), (14, "min_tokens", None), (15, "dry", Some(&DRY)), (17, "logprobs", Some(&LOGPROBS)), (18, "return_kept", None)]);
pub static SLOT_REF: Fields = Fields(&[(1, "region", None), (2, "slot", None), (3, "generation", None), (4, "length_bytes", None)]);
pub static CANDIDATES: Fields = Fields(&[(1, "counts", None), (2, "tokens", None)]);
pub static ADJUSTMENTS: Fields = Fields(&[(1, "allowed_bitmask", None), (2, "allowed_ids", None), (3, "banned_ids", None), (4, "bad_words", Some(&TOKEN_SEQUENCE)), (5, "stop_ids", None), (6, "logit_bias", Some(&TOKEN_BIAS)), (7, "prompt", None), (8, "output", None), (9, "output_length", None), (10, "counts", None), (11, "history", Some(&HISTORY))]);
pub static PARAM_COLUMNS: Fields = Fields(&[(1, "temperature", None), (2, "top_k", None), (3, "top_p", None), (4, "min_p", None), (5, "seed", None), (6, "position", None), (7, "draws", None), (8, "draw_rule", None), (10, "repetition_penalty", None), (11, "frequency_penalty", None), (12, "presence_penalty", None), (13, "no_repeat_ngram", None), (14, "min_tokens", None), (15, "dry", Some(&DRY_COLUMNS)), (17, "logprobs", Some(&LOGPROBS)), (18, "return_kept", None)]);
pub static SET_GRID: Fields = Fields(&[(1, "temperature", None), (2, "top_k", None), (3, "top_p", None), (4, "min_p", None)]);
pub static DRY: Fields = Fields(&[(1, "multiplier", None), (2, "base", None), (3, "allowed_length", None), (4, "last_n", None), (5, "breakers", Some(&TOKEN_SEQUENCE))]);
pub static LOGPROBS: Fields = Fields(&[(1, "of", None), (2, "top", None), (3, "ids", None)]);
pub static TOKEN_SEQUENCE: Fields = Fields(&[(1, "tokens", None)]);
pub static TOKEN_BIAS: Fields = Fields(&[(1, "token", None), (2, "bias", None)]);
pub static HISTORY: Fields = Fields(&[(1, "slot", Some(&SLOT_REF)), (2, "prompt_tokens", None)]);
pub static DRY_COLUMNS: Fields = Fields(&[(1, "multiplier", None), (2, "base", None), (3, "allowed_length", None), (4, "last_n", None), (5, "breakers", Some(&TOKEN_SEQUENCE))]);
