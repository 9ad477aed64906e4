//! What a row costs: how long a processor takes to sample it, known before it is sampled, in bytes of the logits of plain rows.
//!
//! A plain row is one of 16-bit logits without cuts; of it a byte takes 0.09 ns on one core of an EPYC with AVX-512. Work is shared
//! out by these costs ([`turns`](super::turns)), and a batch is bounded by them, so whatever takes longer than its
//! bytes say is listed here, at about the most that it takes: logits are not looked at. `cargo bench --bench cost` times every kind of row next
//! to a plain one, and prints what it is taken to cost beside what it does. The figures below are that bench's, over 4,096, 131,072 and 2^20 flat logits:
//!
//! ```text
//! plain                            ROW + a byte a byte        2 us of 4,096, 23 of 131,072
//! a draw                           DRAW                       0.16 us
//! a token that runs in a race      RACE_TOKEN                 0.3 to 0.6 ns
//! top_p, a top_k of thousands      SEARCH                     10 us, and 0.2 ns a token
//! further cuts, 16 bits            ORDER_16                   0.1 ms, and 3 to 4 ns a token
//! further cuts, 32 bits            ORDER_32                   14 to 17 ns a token
//! a list of adjustments            LIST_BYTE a byte           0.3 to 1 ns
//! a first token for further cuts   ORDERED                    20 ns, less what is not weighed
//! tokens that tie with top_k's     SEARCH                     as above, where the profile keeps them
//! logprobs of a distribution       PASS                       0.4 ns a token
//! a sum that further cuts need     PASS                       0.1 to 0.4 ns a token
//! XTC, and no other further cut    PASS                       0.05 ns a token, or as above where a guess is wrong
//! kept ids, continuations          PASS                       0.2 ns a token
//! the same of a listed row         LISTED                     20 ns a token
//! a token by its place             FIRST                      30 ns
//! a token by its id                NAMED, COUNT               60 ns, and up to 0.8 ns or (32 bits) 11 ns a token of the row
//! a draft by probability           PASS                       0.3 ns a token
//! a weight of a proposal           WEIGHT                     20 ns
//! probabilities of a proposal      DENSE                      3.5 ns a token, and 7 of peaked rows
//! the row of a proposal            itself, and PROPOSAL       0.5 ns a token
//! the same, where it is listed     itself, and LISTED         20 ns a token
//! ```

use logitd_core::adjustments::AdjustmentsSpec;
use logitd_core::batch::{Dtype, Row};
use logitd_core::inspection::{Distribution, Inspect};
use logitd_core::row::{Draft, Proposal, Rule};

/// What a thread does in a millisecond.
pub(super) const MILLISECOND: u64 = 11 << 20;

/// Of a row whatever its size.
const ROW: u64 = 8 << 10;
const DRAW: u64 = 2 << 10;
const RACE_TOKEN: u64 = 6;
const LIST_BYTE: u64 = 8;
const FIRST: u64 = 340;
const ORDERED: u64 = 200;
const NAMED: u64 = 700;
const WEIGHT: u64 = 230;

/// What grows with the tokens of a row.
#[derive(Clone, Copy)]
struct PerToken {
    row: u64,
    token: u64,
}

impl PerToken {
    const fn new(row: u64, token: u64) -> Self {
        Self { row, token }
    }

    fn of(self, row: &Row<'_>) -> u64 {
        self.row + self.token * u64::from(row.vocab_size())
    }
}

const SEARCH: PerToken = PerToken::new(80 << 10, 3);
const ORDER_16: PerToken = PerToken::new(1 << 20, 38);
const ORDER_32: PerToken = PerToken::new(256 << 10, 170);
const PASS: PerToken = PerToken::new(8 << 10, 4);
const LISTED: PerToken = PerToken::new(0, 240);
const DENSE: PerToken = PerToken::new(16 << 10, 80);
const PROPOSAL: PerToken = PerToken::new(0, 8);

/// What counting the ranks of named tokens takes at most, by the size of a logit.
const fn count_max(dtype: Dtype) -> PerToken {
    match dtype {
        Dtype::F16 | Dtype::Bf16 => PerToken::new(0, 9),
        Dtype::F32 => PerToken::new(0, 125),
    }
}

/// Named tokens that are counted one by one at the cost of a token of the row.
const COUNTS: u64 = 2;

/// Up to so many first tokens are a list, whatever the size of the row.
const SHORT: u32 = 2048;

/// What so many plain rows cost, with one draw each.
pub(super) fn of_plain(rows: usize, bytes: usize) -> u64 {
    ((ROW + DRAW) * rows as u64).saturating_add(bytes as u64)
}

/// What it costs to sample a row, to decide about its draft and to say what is asked of it.
pub(super) fn cost(row: &Row<'_>) -> u64 {
    let drafted = row.draft().map_or(0, |draft| of_draft(row, draft));
    let inspected = row.inspect().map_or(0, |inspect| of_inspection(row, inspect));
    of_tokens(row) + drafted + inspected
}

fn of_tokens(row: &Row<'_>) -> u64 {
    let params = row.params();
    let draws = DRAW * u64::from(params.draws());
    let race = RACE_TOKEN * params.race_tokens_max(row.vocab_size());
    let lists: u64 =
        row.adjustments().map_or(0, |lists| lists.allowing().map(of_adjustments).sum());
    ROW + row.bytes() as u64 + draws + race + lists + of_cuts(row)
}

fn of_cuts(row: &Row<'_>) -> u64 {
    let params = row.params();
    let is_short = |k: Option<u32>| k.is_some_and(|k| k <= SHORT);
    if is_listed(row) {
        return match row.dtype() {
            Dtype::F16 | Dtype::Bf16 => ORDER_16.of(row),
            Dtype::F32 => ORDER_32.of(row),
        };
    }
    if params.keeps_all_but_few() {
        return PASS.of(row) * (1 + u64::from(params.sums_of_cuts()));
    }
    if params.orders_tokens() {
        let sums = PASS.of(row) * u64::from(params.sums_of_cuts());
        let first = ORDERED * u64::from(params.ordered_first().unwrap_or(0));
        let ties = if params.keeps_ties_of_first() { SEARCH.of(row) } else { 0 };
        return sums + first.saturating_sub(row.vocab_size().into()) + ties;
    }
    let is_cut = params.top_p().is_some() || params.top_k().is_some();
    if is_cut && !params.is_greedy() && !is_short(params.top_k()) { SEARCH.of(row) } else { 0 }
}

/// Whether all tokens of a row are put in order for its cuts, and those that are kept are a list.
fn is_listed(row: &Row<'_>) -> bool {
    let params = row.params();
    // As many as the row has are all.
    let are_few = |k: u32| k <= SHORT && k < row.vocab_size();
    let are_cut = !params.keeps_all() && !params.keeps_all_but_few();
    params.orders_tokens() && are_cut && !params.ordered_first().is_some_and(are_few)
}

fn of_adjustments(lists: &AdjustmentsSpec) -> u64 {
    let mask = size_of_val(&lists.allowed_bitmask[..]) as u64;
    mask + LIST_BYTE * (lists.bytes() as u64 - mask)
}

fn of_inspection(row: &Row<'_>, asked: &Inspect) -> u64 {
    let count = |asked: bool| u64::from(asked);
    let of_sampled = count(asked.of[Distribution::Sampled as usize]);
    let distributions = asked.distributions().count() as u64;
    let (kept, continues) =
        (count(asked.kept_ids_max.is_some()), count(asked.continuations.is_some()));
    let passes = PASS.of(row) * (distributions + kept + continues);
    let listed = if is_listed(row) { LISTED.of(row) * of_sampled } else { 0 };
    let continued = asked.continuations.map_or(0, |asked| asked.count);
    let first = FIRST * (distributions * u64::from(asked.top) + u64::from(continued));
    passes + listed + first + of_names(row, asked)
}

/// Tokens that are drawn or asked for are looked for in the row, once more where it is adjusted.
fn of_names(row: &Row<'_>, asked: &Inspect) -> u64 {
    if asked.distributions().next().is_none() {
        return 0;
    }
    let orders = if row.adjustments().is_some() { 2 } else { 1 };
    let names = u64::from(row.params().draws()) + asked.ids.len() as u64;
    let one_by_one = names * u64::from(row.vocab_size()) / COUNTS;
    orders * (NAMED * names + one_by_one.min(count_max(row.dtype()).of(row)))
}

fn of_draft(row: &Row<'_>, draft: &Draft) -> u64 {
    match &draft.rule {
        Rule::Typical(_) => PASS.of(row),
        Rule::Rejection(Proposal::Point) => 0,
        Rule::Rejection(Proposal::Sparse(weights)) => WEIGHT * weights.len() as u64,
        Rule::Rejection(Proposal::Dense(_)) => DENSE.of(row),
        Rule::Rejection(Proposal::Row(source)) => {
            let proposed = source.row();
            let met = if is_listed(&proposed) { LISTED } else { PROPOSAL };
            of_tokens(&proposed) + met.of(row)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use logitd_core::adjustments::Limits;
    use logitd_core::inspection::{Continue, Normaliser};
    use logitd_core::params::{DrawRule, ParamsSpec, Profile};
    use logitd_core::row::{Source, Typical};
    use std::sync::Arc;

    const TOKENS: usize = 1 << 17;
    static LOGITS: [u8; TOKENS * 4] = [0; TOKENS * 4];

    fn row(dtype: Dtype, spec: ParamsSpec) -> Row<'static> {
        let params = spec.parse(|| 0).expect("valid");
        Row::new(dtype, &LOGITS[..TOKENS * dtype.size_bytes()], params).expect("a row")
    }

    /// How many times as much as a plain row with logits of the same type.
    fn times(row: &Row<'_>) -> f64 {
        let plain = super::cost(&self::row(row.dtype(), ParamsSpec::default()));
        cost(row) as f64 / plain as f64
    }

    fn of(dtype: Dtype, spec: ParamsSpec) -> f64 {
        times(&row(dtype, spec))
    }

    #[test]
    fn cuts_over_whole_rows_cost_what_they_were_measured_to_take() {
        let off = ParamsSpec::default();
        let specs = [
            ParamsSpec { typical_p: 0.95, ..off },
            ParamsSpec { top_n_sigma: 100.0, ..off },
            ParamsSpec { top_h: 0.5, min_p: 0.1, ..off },
            ParamsSpec { top_a: 0.2, ..off },
            ParamsSpec { eta_cutoff: 1e-4, ..off },
            ParamsSpec { mirostat_tau: 5.0, ..off },
            ParamsSpec { xtc_probability: 1.0, xtc_threshold: 0.01, ..off },
            ParamsSpec { xtc_probability: 1.0, min_p: 0.01, ..off },
            ParamsSpec { adaptive_target: Some(0.3), ..off },
            ParamsSpec { profile: Profile::Hf, top_p: 0.95, ..off },
            ParamsSpec { profile: Profile::Llamacpp, mirostat_tau: 5.0, top_k: 50, ..off },
            ParamsSpec { typical_p: 0.95, top_k: 20_000, ..off },
        ];
        for spec in specs {
            // 18 to 27, and 56 to 71: of 32 bits a plain row is charged twice what it takes.
            assert!((15.0..30.0).contains(&of(Dtype::F16, spec)), "{spec:?}");
            assert!((30.0..75.0).contains(&of(Dtype::F32, spec)), "{spec:?}");
        }
    }

    #[test]
    fn cuts_over_a_few_first_tokens_cost_next_to_nothing() {
        let off = ParamsSpec::default();
        let specs = [
            ParamsSpec { top_k: 50, ..off },
            ParamsSpec { top_k: 50, top_p: 0.95, ..off },
            ParamsSpec { top_k: 50, typical_p: 0.95, ..off },
            ParamsSpec { top_k: 50, profile: Profile::Llamacpp, top_p: 0.95, ..off },
            ParamsSpec { temperature: 0.0, typical_p: 0.95, ..off },
            ParamsSpec { min_p: 0.1, ..off },
            ParamsSpec { top_h: 0.5, ..off },
            ParamsSpec { top_h: 0.5, typical_p: 0.95, ..off },
            ParamsSpec { profile: Profile::Hf, top_h: 0.5, top_p: 0.95, top_k: 20_000, ..off },
        ];
        for spec in specs {
            assert_eq!(of(Dtype::F32, spec), 1.0, "{spec:?}");
        }
        // Many of them take longer than a row without cuts, which weighs all.
        let typical = ParamsSpec { typical_p: 0.95, top_k: 2048, ..off };
        for (dtype, measured) in [(Dtype::F16, 1.8), (Dtype::F32, 1.9)] {
            let times = of(dtype, typical);
            assert!((measured / 1.5..measured * 1.5).contains(&times), "{dtype}: {times}");
        }
        // All others may tie with the last of them.
        let ties = |profile| of(Dtype::F16, ParamsSpec { top_k: 50, min_p: 0.1, profile, ..off });
        for profile in [Profile::Hf, Profile::Vllm, Profile::Sglang] {
            assert!((1.3..3.0).contains(&ties(profile)), "{profile:?}");
        }
        assert_eq!(ties(Profile::Llamacpp), 1.0);
        // As few tokens as there are in the row are all of it.
        let few = |tokens: usize| {
            let params = ParamsSpec { top_h: 0.5, ..off }.parse(|| 0).expect("valid");
            cost(&Row::new(Dtype::F16, &LOGITS[..tokens * 2], params).expect("a row"))
        };
        assert!(few(100) > 10 * few(101));
    }

    #[test]
    fn rows_of_which_all_is_kept_are_plain_whosever_profile_they_have() {
        let of_profile = |profile| ParamsSpec { profile, ..Default::default() };
        for profile in Profile::ALL {
            assert_eq!(of(Dtype::F32, of_profile(profile)), 1.0, "{profile:?}");
        }
        for profile in [Profile::Logitd, Profile::Llamacpp] {
            let off = of_profile(profile);
            // What XTC may take is looked for among few.
            let xtc = row(Dtype::F16, ParamsSpec { xtc_probability: 1.0, ..off });
            assert_eq!(cost(&xtc) - cost(&row(Dtype::F16, off)), PASS.of(&xtc), "{profile:?}");
            let specs = [off, ParamsSpec { dynatemp_range: 0.2, ..off }];
            let [plain, dynamic] = specs.map(|spec| row(Dtype::F16, spec));
            assert_eq!(cost(&dynamic) - cost(&plain), PASS.of(&plain), "{profile:?}");
        }
    }

    #[test]
    fn sums_over_the_row_cost_a_pass_each_beside_its_first_tokens() {
        let off = ParamsSpec { top_k: 50, ..Default::default() };
        let sglang = ParamsSpec { profile: Profile::Sglang, top_p: 0.95, ..off };
        let share_of_rest = ParamsSpec { min_p: 0.1, ..sglang };
        for (spec, without, passes) in [
            (ParamsSpec { dynatemp_range: 0.2, ..off }, off, 1),
            (ParamsSpec { dynatemp_range: 0.2, profile: Profile::Llamacpp, ..off }, off, 0),
            (ParamsSpec { top_n_sigma: 1.0, dynatemp_range: 0.2, ..off }, off, 2),
            (sglang, share_of_rest, 1),
        ] {
            let (row, plain) = (row(Dtype::F16, spec), row(Dtype::F16, without));
            assert_eq!(cost(&row) - cost(&plain), passes * PASS.of(&row), "{spec:?}");
        }
    }

    #[test]
    fn draws_races_and_searches_cost_what_they_were_measured_to_take() {
        let off = ParamsSpec::default();
        let race = ParamsSpec { draw_rule: DrawRule::Race, ..off };
        for (spec, measured) in [
            (ParamsSpec { top_p: 0.95, ..off }, 2.0),
            (ParamsSpec { draws: 1024, ..off }, 8.0),
            (race, 4.0),
            (ParamsSpec { draws: 16, ..race }, 47.0),
        ] {
            let times = of(Dtype::F16, spec);
            assert!((measured / 1.5..measured * 1.5).contains(&times), "{spec:?}: {times}");
        }
    }

    fn inspected(dtype: Dtype, spec: ParamsSpec, asked: Inspect) -> f64 {
        times(&row(dtype, spec).with_inspect(Some(&asked)))
    }

    #[test]
    fn what_is_asked_beside_tokens_costs_what_it_was_measured_to_take() {
        let off = ParamsSpec::default();
        let typical = ParamsSpec { typical_p: 0.95, ..off };
        let raw = || Inspect { of: [true, false, false], ..Default::default() };
        let all = || Inspect { of: [true; 3], ..Default::default() };
        let going_on = Continue { count: 1024, temperature: 1.0, normaliser: Normaliser::Adjusted };
        let ids: Arc<[u32]> = (0..1024).collect();
        for (dtype, spec, asked, measured) in [
            (Dtype::F16, off, raw(), 3.0),
            (Dtype::F16, off, Inspect { top: 1024, ..raw() }, 4.4),
            (Dtype::F16, off, Inspect { ids: Arc::clone(&ids), ..raw() }, 7.2),
            (Dtype::F32, off, Inspect { ids, ..raw() }, 40.0),
            (Dtype::F16, off, all(), 6.0),
            (Dtype::F16, off, Inspect { kept_ids_max: Some(9), ..Default::default() }, 2.5),
            (Dtype::F16, off, Inspect { continuations: Some(going_on), ..Default::default() }, 3.3),
            (Dtype::F16, typical, all(), 130.0),
        ] {
            let times = inspected(dtype, spec, asked.clone());
            assert!((measured / 1.6..measured * 1.6).contains(&times), "{asked:?}: {times}");
        }
    }

    #[derive(Debug)]
    struct Proposed(Row<'static>);

    impl Source for Proposed {
        fn row(&self) -> Row<'_> {
            self.0
        }
    }

    #[test]
    fn drafts_cost_what_they_were_drawn_from_and_more() {
        let off = ParamsSpec::default();
        let typical = ParamsSpec { typical_p: 0.95, ..off };
        let from = |spec| {
            let proposed = Proposed(row(Dtype::F16, ParamsSpec { draft: true, ..spec }));
            Rule::Rejection(Proposal::Row(Arc::new(proposed)))
        };
        let by_probability = Rule::Typical(Typical { epsilon: 1.0, delta: 1.0 });
        let dense = Rule::Rejection(Proposal::Dense(vec![0.5; TOKENS]));
        let sparse = Rule::Rejection(Proposal::Sparse((0..4096).map(|id| (id, 1)).collect()));
        for (spec, rule, measured) in [
            (off, Rule::Rejection(Proposal::Point), 1.0),
            (off, sparse, 4.5),
            (off, dense, 33.0),
            (off, from(off), 4.9),
            (off, from(ParamsSpec { profile: Profile::Vllm, ..off }), 4.9),
            (off, from(ParamsSpec { dynatemp_range: 0.2, ..off }), 6.9),
            (off, from(typical), 105.0),
            (typical, from(typical), 127.0),
            (off, by_probability, 3.0),
        ] {
            let told = rule.to_string();
            let draft = Draft { token: 1, rule };
            let times = times(&row(Dtype::F16, spec).with_draft(Some(&draft)));
            assert!((measured / 1.6..measured * 1.6).contains(&times), "{told}: {times}");
        }
    }

    #[test]
    fn a_list_costs_by_its_length_and_a_mask_by_its_bytes() {
        let n = TOKENS as u32;
        let plain = row(Dtype::F16, ParamsSpec::default());
        let with = |spec: AdjustmentsSpec| {
            let adjustments = spec.parse(n, Limits::default()).expect("valid");
            cost(&plain.with_adjustments(Some(&adjustments))) - cost(&plain)
        };
        let logit_bias = (0..100).map(|id| (id, 1.0)).collect();
        assert_eq!(with(AdjustmentsSpec { logit_bias, ..Default::default() }), 100 * 8 * LIST_BYTE);
        let allowed_bitmask = vec![1; TOKENS / 32];
        let mask = with(AdjustmentsSpec { allowed_bitmask, ..Default::default() });
        assert_eq!(mask, n as u64 / 8);
    }
}
