//! What is asked of a generated row beside its tokens: of few rows, but much of those.

use super::random::Random;
use logitd_core::beams::CONTINUATIONS_MAX;
use logitd_core::inspection::{Continue, Inspect, LOGPROB_IDS_MAX, Normaliser, TOP_LOGPROBS_MAX};

/// One row in so many is asked for more.
const ROWS: u64 = 8;
/// And one of so many of these for continuations, with which no kernel samples it.
const GOING_ON: u64 = 3;

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
    Some(Inspect { of, top, ids, kept_ids_max, continuations: None })
}

/// Some of them are asked how they go on, too.
pub fn going_on(random: &mut Random, asked: Inspect) -> Inspect {
    let continuations = (random.below(GOING_ON) == 0).then(|| continuations(random));
    Inspect { continuations, ..asked }
}

fn continuations(random: &mut Random) -> Continue {
    Continue {
        count: random.pick(&[1, 2, 8, 128, CONTINUATIONS_MAX]),
        temperature: random.pick(&[1.0, 1.0, 1e-4, 0.7, 1.7, 1e4]),
        normaliser: random.pick(&[Normaliser::Adjusted, Normaliser::Raw]),
    }
}
