//! What is asked of a generated row beside its tokens: of few rows, but much of those.

use super::random::Random;
use logitd_core::inspection::{Inspect, LOGPROB_IDS_MAX, TOP_LOGPROBS_MAX};

/// One row in so many is asked for more.
const ROWS: u64 = 8;

/// What is asked of a row; of most, nothing.
pub fn inspected(random: &mut Random, vocab_size: u32) -> Option<Inspect> {
    if random.below(ROWS) > 0 {
        return None;
    }
    let of = [(); 3].map(|()| random.below(3) > 0);
    let top = random.pick(&[0, 1, 5, 20, vocab_size, TOP_LOGPROBS_MAX]).min(TOP_LOGPROBS_MAX);
    let ids = random.pick(&[0, 0, 1, 4, 70, LOGPROB_IDS_MAX]);
    // Some more than once, and now and then one that there is not.
    let id = |_| random.below(u64::from(vocab_size) + 1) as u32;
    let ids = (0..ids).map(id).collect();
    let kept_ids_max = random.pick(&[None, Some(0), Some(50), Some(u32::MAX)]);
    Some(Inspect { of, top, ids, kept_ids_max, ..Inspect::default() })
}
