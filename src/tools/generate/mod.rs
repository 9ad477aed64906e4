//! Seeded rows that are hard on a sampler: what `logitd verify` and the tests compare backends over.
//!
//! Row `index` of `seed` is a pure function of the two, whatever rows came before it, so a difference
//! is replayed by naming both. Rows vary in dtype, vocabulary (1 to 2^20, mostly at the edges of
//! vectors, warps and blocks), values ([`Values`]) and parameters. First the shape and the temperature
//! are chosen, then the logits, and last the cuts, which are aimed at the borders of that very row: a
//! `top_k` that splits a tie, a `min_p` one unit in the last place away from a token. One row in four has adjustments,
//! of one in eight more is asked than tokens (of some of these, how they go on), one in four has further cuts, or the
//! profile of another sampler, and one in five decides about a draft.

mod adjusted;
mod cuts;
mod drafted;
mod inspected;
mod random;
mod shaped;
mod values;

pub use cuts::{params, temperature};
pub use random::Random;
pub use shaped::shaped;
pub use values::Values;

use logitd_core::adjustments::Adjustments;
use logitd_core::batch::{Dtype, Row, VOCAB_SIZE_MAX};
use logitd_core::inspection::Inspect;
use logitd_core::params::SamplingParams;
use logitd_core::row::Draft;

/// A generated row.
#[derive(Clone, Debug)]
pub struct Case {
    /// How its logits are stored.
    pub dtype: Dtype,
    /// Its logits, little-endian.
    pub logits: Vec<u8>,
    /// What to do with it.
    pub params: SamplingParams,
    /// What is done to single logits before that: of most rows, nothing.
    pub adjustments: Option<Adjustments>,
    /// What is asked beside its tokens: of most rows, nothing.
    pub inspect: Option<Inspect>,
    /// What it decides about: most rows draw.
    pub draft: Option<Draft>,
    /// What its values are made of, for people.
    pub values: Values,
}

impl Case {
    /// A row of those values, with parameters at that temperature whose cuts are aimed at it.
    /// `vocab_size` is 1 to [`VOCAB_SIZE_MAX`].
    pub fn new(
        random: &mut Random,
        dtype: Dtype,
        vocab_size: u32,
        values: Values,
        temperature: f32,
    ) -> Self {
        let logits = values.logits(random, dtype, vocab_size, temperature);
        let params = params(random, dtype, &logits, temperature);
        let (params, adjustments) = adjusted::adjusted(random, vocab_size, params);
        let inspect = inspected::inspected(random, vocab_size);
        let params = shaped(random, dtype, &logits, params);
        let inspect = inspect.map(|asked| inspected::going_on(random, asked));
        let (params, adjustments, draft) =
            drafted::drafted(random, dtype, &logits, params, adjustments);
        Self { dtype, logits, params, adjustments, inspect, draft, values }
    }

    /// The row, as a backend takes it.
    pub fn row(&self) -> Row<'_> {
        let row = Row::new(self.dtype, &self.logits, self.params).expect("1 to 2^20 whole logits");
        row.with_adjustments(self.adjustments.as_ref())
            .with_inspect(self.inspect.as_ref())
            .with_draft(self.draft.as_ref())
    }
}

/// Row `index` of `seed`. `vocab_size_max` (1 or more) caps the vocabulary; [`VOCAB_SIZE_MAX`] is no cap.
pub fn case(seed: u64, index: u64, vocab_size_max: u32) -> Case {
    let mut random = Random::new(seed, index);
    let dtype = random.pick(&Dtype::ALL);
    let values = random.pick(&Values::ALL);
    let vocab_size = vocab_size(&mut random).min(vocab_size_max);
    let temperature = temperature(&mut random);
    Case::new(&mut random, dtype, vocab_size, values, temperature)
}

/// Mostly small, as small rows are what a sort-based reference can afford many of; every power of two
/// up to the largest vocabulary, give or take one, comes up too.
fn vocab_size(random: &mut Random) -> u32 {
    let bits = match random.below(200) {
        0 => 20,
        1..=9 => 17 + random.below(2),
        10..=29 => 12 + random.below(5),
        30..=99 => 8 + random.below(4),
        _ => random.below(8),
    };
    let power = 1u32 << bits;
    let size = match random.below(6) {
        0 => power,
        1 => power - 1,
        2 => power + 1,
        3 if bits >= 17 => 128_256,
        _ => power + random.below(u64::from(power)) as u32,
    };
    size.clamp(1, VOCAB_SIZE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use logitd_core::backend::{Backend, reference::Reference};
    use logitd_core::batch::{Results, RowStatus};
    use logitd_core::params::{FIELDS, ParamsSpec, Profile};
    use logitd_core::row::{Proposal, Rule};
    use std::collections::HashSet;

    #[test]
    fn a_row_is_a_function_of_seed_and_index() {
        let same = |a: &Case, b: &Case| a.logits == b.logits && a.params == b.params;
        assert!(same(&case(7, 11, 4096), &case(7, 11, 4096)));
        assert!(!same(&case(7, 11, 4096), &case(7, 12, 4096)));
        assert!(!same(&case(7, 11, 4096), &case(8, 11, 4096)));
    }

    #[test]
    fn everything_promised_comes_up() {
        let cases: Vec<Case> = (0..3500).map(|i| case(1, i, 4096)).collect();
        let rows: Vec<_> = cases.iter().map(Case::row).collect();
        let mut results = Results::default();
        Reference::default().sample(&rows, &mut results).unwrap();
        let statuses: HashSet<RowStatus> = results.iter().map(|r| r.outcome.status).collect();
        assert_eq!(statuses.len(), 4);
        let values: HashSet<Values> = cases.iter().map(|c| c.values).collect();
        assert_eq!(values.len(), Values::ALL.len());
        let sizes: HashSet<u32> = rows.iter().map(|r| r.vocab_size()).collect();
        for edge in [1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 255, 256, 257] {
            assert!(sizes.contains(&edge), "no row of {edge} tokens");
        }
        // Each cut decides somewhere, and draws of one row differ somewhere.
        assert!(rows.iter().zip(results.iter()).any(|(row, result)| {
            result.outcome.kept == row.params().top_k().unwrap_or(0) && result.outcome.kept > 1
        }));
        assert!(results.iter().any(|r| r.draws.windows(2).any(|d| d[0].token != d[1].token)));
        // Every parameter is set somewhere, and every profile is somewhere more than a name.
        for field in &FIELDS {
            let default = field.get(ParamsSpec::DEFAULT);
            assert!(
                cases.iter().any(|case| field.get(case.params.into()) != default),
                "{}",
                field.name
            );
        }
        for profile in Profile::ALL {
            let is_of = |case: &&Case| case.params.all_cuts().profile == profile;
            let count = cases.iter().filter(is_of).count();
            assert!(count > 30, "{count} rows of {}", profile.name());
        }
    }

    #[test]
    fn drafts_of_every_kind_are_taken_and_not_taken() {
        let cases: Vec<Case> = (0..4000).map(|i| case(1, i, 300)).collect();
        let rows: Vec<_> = cases.iter().map(Case::row).collect();
        let mut results = Results::default();
        Reference::default().sample(&rows, &mut results).unwrap();
        let mut seen: HashSet<(&str, Option<bool>)> = HashSet::new();
        for (row, result) in rows.iter().zip(results.iter()) {
            let Some(draft) = row.draft() else { continue };
            let kind = match &draft.rule {
                Rule::Typical(_) => "typical",
                Rule::Rejection(Proposal::Point) => "point",
                Rule::Rejection(Proposal::Sparse(_)) => "sparse",
                Rule::Rejection(Proposal::Dense(_)) => "dense",
                Rule::Rejection(Proposal::Row(_)) => "row",
            };
            seen.insert((kind, result.accepted));
        }
        // Taken, not taken, and not decided about.
        assert_eq!(seen.len(), 5 * 3, "{seen:?}");
    }

    #[test]
    fn values_are_what_they_say() {
        for (values, dtype) in Values::ALL.iter().flat_map(|&v| Dtype::ALL.map(|d| (v, d))) {
            let case = Case::new(&mut Random::new(1, 2), dtype, 999, values, 0.8);
            let mut results = Results::default();
            let row = case.row().with_adjustments(None).with_draft(None);
            Reference::default().sample(&[row], &mut results).unwrap();
            let expected = match values {
                Values::OneNan | Values::NanAndInfinity | Values::AnyBits => RowStatus::Nan,
                Values::OneInfinity => RowStatus::PositiveInfinity,
                Values::NoCandidate => RowStatus::NoCandidate,
                _ => RowStatus::Ok,
            };
            assert_eq!(results.row(0).outcome.status, expected, "{values:?} {dtype}");
        }
    }

    #[test]
    fn the_largest_vocabularies_come_up() {
        let mut random = Random::new(3, 0);
        let sizes: HashSet<u32> = (0..20_000).map(|_| vocab_size(&mut random)).collect();
        for edge in [65_535, 65_537, 128_256, 262_144, (1 << 20) - 1, 1 << 20] {
            assert!(sizes.contains(&edge), "no row of {edge} tokens");
        }
    }
}
