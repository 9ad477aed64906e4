//! Adjustments of a generated row: histories that repeat themselves, tokens that there are not, masks that end early.

use super::random::Random;
use logitd_core::adjustments::{Adjustments, AdjustmentsSpec, Limits};
use logitd_core::params::{ParamsSpec, SamplingParams};

/// One row in so many has adjustments.
const ROWS: u64 = 4;
/// The reference compares every place of a history with its end.
const HISTORY_MAX: u64 = 120;

/// The parameters of a row, with coefficients, and what they are of; most rows keep theirs and have no adjustments.
pub fn adjusted(
    random: &mut Random,
    vocab_size: u32,
    params: SamplingParams,
) -> (SamplingParams, Option<Adjustments>) {
    if random.below(ROWS) > 0 {
        return (params, None);
    }
    let params = coefficients(random, params.into());
    let params = params.parse(|| 0).expect("every range is kept");
    let ids = Ids::new(random, vocab_size);
    let mut lists = AdjustmentsSpec::default();
    bans(random, &ids, &mut lists);
    let listed = random.below(8) > 0;
    if listed {
        lists.prompt = ids.some_seen(random, HISTORY_MAX);
        lists.output = ids.some_seen(random, HISTORY_MAX);
        lists.output_length = random.pick(&[None, None, Some(0), Some(3)]);
    }
    let counts_serve = params.dry().is_none() && params.no_repeat_ngram().is_none();
    if random.below(4) == 0 && (listed || counts_serve) {
        let tokens = distinct(ids.some_seen(random, 50));
        lists.counts = tokens.map(|id| (id, random.pick(&[0, 1, 2, 9, 1 << 24]))).collect();
    }
    if random.below(3) == 0 {
        let heads = [&lists.prompt[..], &lists.output].concat();
        let word = |random: &mut Random| {
            let length = random.below(4).min(heads.len() as u64) as usize;
            let head = heads[heads.len() - length..].iter().copied();
            head.chain([ids.one(random)]).map(|id| id % vocab_size).collect()
        };
        lists.bad_words = (0..random.below(5)).map(|_| word(random)).collect();
    }
    let breaker = |random: &mut Random| (0..=random.below(2)).map(|_| ids.seen(random)).collect();
    lists.breakers = (0..random.below(3)).map(|_| breaker(random)).collect();
    let parsed = lists.parse(vocab_size, Limits::default()).expect("every range is kept");
    (params, Some(parsed))
}

fn coefficients(random: &mut Random, spec: ParamsSpec) -> ParamsSpec {
    let signed = |random: &mut Random| {
        let any = random.unit() * 4.0 - 2.0;
        random.pick(&[0.0, 0.0, any, -100.0, 100.0, f32::from_bits(1)])
    };
    let r = 0.1 + 2.0 * random.unit();
    let base = 1.0 + 3.0 * random.unit();
    ParamsSpec {
        repetition_penalty: random.pick(&[1.0, 1.0, r, 0.01, 100.0, 1.0f32.next_up()]),
        frequency_penalty: signed(random),
        presence_penalty: signed(random),
        no_repeat_ngram: random.pick(&[0, 0, 0, 1, 2, 3, 64]),
        min_tokens: random.pick(&[0, 0, 1, 20, u32::MAX]),
        dry_multiplier: random.pick(&[0.0, 0.0, 0.8, 100.0, f32::from_bits(1)]),
        dry_base: random.pick(&[1.75, 1.0, 16.0, base]),
        dry_allowed_length: random.pick(&[2, 0, 1, 5, 1024]),
        dry_last_n: random.pick(&[0, 0, 1, 30, 1 << 20]),
        ..spec
    }
}

fn bans(random: &mut Random, ids: &Ids, lists: &mut AdjustmentsSpec) {
    if random.below(2) == 0 {
        let words = u64::from(ids.vocab_size.div_ceil(32));
        let words = random.pick(&[words, words, words + 1, words.div_ceil(2)]);
        let kind = random.below(4);
        let mut word = || match kind {
            0 => random.bits() as u32,
            1 => random.bits() as u32 & random.bits() as u32 & random.bits() as u32,
            2 => random.pick(&[0, u32::MAX]),
            _ => u32::MAX,
        };
        lists.allowed_bitmask = (0..words).map(|_| word()).collect();
    }
    if random.below(6) == 0 {
        lists.allowed_ids = ids.some(random, 40);
    }
    if random.below(3) == 0 {
        lists.banned_ids = ids.some(random, 20);
    }
    if random.below(3) == 0 {
        lists.stop_ids = ids.some_seen(random, 10);
    }
    if random.below(2) == 0 {
        let any = random.unit() * 20.0 - 10.0;
        let biases = [any, -any, 0.0, 1e4, -1e4, 0.001, f32::NEG_INFINITY];
        let tokens = distinct(ids.some(random, 64));
        lists.logit_bias = tokens.map(|id| (id, random.pick(&biases))).collect();
    }
}

/// Where tokens are taken from.
struct Ids {
    vocab_size: u32,
    /// Histories are of the first tokens, so that they repeat themselves.
    alphabet: u32,
}

impl Ids {
    fn new(random: &mut Random, vocab_size: u32) -> Self {
        Self { vocab_size, alphabet: random.pick(&[1, 2, 4, 30, vocab_size]) }
    }

    fn one(&self, random: &mut Random) -> u32 {
        random.below(u64::from(self.vocab_size)) as u32
    }

    fn some(&self, random: &mut Random, most: u64) -> Vec<u32> {
        (0..random.below(most + 1)).map(|_| self.one(random)).collect()
    }

    /// A token of a history. It may be one that there is not.
    fn seen(&self, random: &mut Random) -> u32 {
        match random.below(30) {
            0 => self.one(random),
            1 => self.vocab_size + random.below(2) as u32,
            _ => random.below(u64::from(self.alphabet)) as u32,
        }
    }

    fn some_seen(&self, random: &mut Random, most: u64) -> Vec<u32> {
        (0..random.below(most + 1)).map(|_| self.seen(random)).collect()
    }
}

fn distinct(mut ids: Vec<u32>) -> impl Iterator<Item = u32> {
    ids.sort_unstable();
    ids.dedup();
    ids.into_iter()
}
