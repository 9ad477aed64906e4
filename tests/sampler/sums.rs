//! Rows that are cut by sums over all of them, and what is left of rows with drafts, against the reference.

use crate::common::cuts;
use half::{bf16, f16};
use logitd_core::backend::cpu::{Cpu, CpuOptions, Isa};
use logitd_core::backend::{Backend, reference::Reference};
use logitd_core::batch::{Dtype, Results, Row};
use logitd_core::inspection::Inspect;
use logitd_core::params::{DrawRule, ParamsSpec, Profile, SamplingParams};
use logitd_core::row::{Draft, Proposal, Rule, Source};
use std::sync::Arc;

/// Logits as they are stored.
#[derive(Clone, Debug)]
struct Stored {
    dtype: Dtype,
    bytes: Vec<u8>,
}

impl Stored {
    fn new(dtype: Dtype, x: impl Iterator<Item = f32>) -> Self {
        let bytes = match dtype {
            Dtype::F16 => x.flat_map(|x| f16::from_f32(x).to_le_bytes()).collect(),
            Dtype::Bf16 => x.flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect(),
            Dtype::F32 => x.flat_map(f32::to_le_bytes).collect(),
        };
        Self { dtype, bytes }
    }

    fn row(&self, params: SamplingParams) -> Row<'_> {
        Row::new(self.dtype, &self.bytes, params).unwrap()
    }

    fn tokens(&self) -> u32 {
        (self.bytes.len() / self.dtype.size_bytes()) as u32
    }
}

/// The row that drafts were drawn from.
#[derive(Debug)]
struct Drafter(Stored, SamplingParams);

impl Source for Drafter {
    fn row(&self) -> Row<'_> {
        self.0.row(self.1)
    }
}

fn hashed(i: u32) -> u32 {
    let i = (i ^ i >> 16).wrapping_mul(0x7feb_352d);
    let i = (i ^ i >> 15).wrapping_mul(0x846c_a68b);
    i ^ i >> 16
}

/// About N(0, 1).
fn bell(i: u32) -> f32 {
    (0..4).map(|j| hashed(4 * i + j) as f32 / 4_294_967_296.0 - 0.5).sum::<f32>() * 1.732
}

/// Rows like those of a model, of few values, of one, with what is not there, and with zeros of both signs.
fn rows(tokens: u32, seed: u32) -> Vec<Stored> {
    let kinds: [&dyn Fn(u32) -> f32; 6] = [
        &|i| 3.5 * bell(i),
        &|i| (2.0 * bell(i)).round(),
        &|_| 0.5,
        &|i| if i % 3 == 0 { 4.0 * bell(i) } else { f32::NEG_INFINITY },
        &|i| [0.0, -0.0, 8.0, -8.0, -30.0][hashed(i) as usize % 5],
        &|i| bell(i) / 50.0 + if i % 1000 == 7 { 12.0 } else { 0.0 },
    ];
    let seeded = |i: u32| i + seed * 0x0100_0000;
    let stored = |(k, kind): (usize, &&dyn Fn(u32) -> f32)| {
        Stored::new(Dtype::ALL[k % 3], (0..tokens).map(|i| kind(seeded(i))))
    };
    kinds.iter().enumerate().map(stored).collect()
}

const TOKENS: [u32; 6] = [1, 2, 513, 3000, 20_000, 50_001];

fn expect_reference(rows: &[Row<'_>]) {
    let (mut expected, mut got) = (Results::default(), Results::default());
    Reference::default().sample(rows, &mut expected).unwrap();
    for (isa, threads) in Isa::supported().flat_map(|isa| [(isa, 1), (isa, 3)]) {
        Cpu::new(CpuOptions { isa: Some(isa), threads }).unwrap().sample(rows, &mut got).unwrap();
        for (row, (got, expected)) in rows.iter().zip(got.iter().zip(expected.iter())) {
            assert_eq!(got, expected, "{isa}: {} of {:?}", row.vocab_size(), row.params());
        }
    }
}

#[test]
fn cuts_by_sums_over_a_row_keep_what_the_reference_keeps() {
    let none = ParamsSpec { seed: Some(3), ..Default::default() };
    let mut specs = Vec::new();
    for share in [0.01, 0.2, 0.5, 0.8, 0.9, 0.95, 0.999, 0.999_999] {
        specs.push(ParamsSpec { typical_p: share, ..none });
        specs.push(ParamsSpec { typical_p: share, temperature: 0.3, ..none });
        specs.push(ParamsSpec { eta_cutoff: 1.0 - share, epsilon_cutoff: 1e-6, ..none });
        specs.push(ParamsSpec { top_p: share, typical_p: 0.9, top_a: 1e-4, ..none });
    }
    for value in [1e-9, 1e-4, 0.01, 0.5] {
        specs.push(ParamsSpec { epsilon_cutoff: value, ..none });
        specs.push(ParamsSpec { top_a: value, xtc_probability: 0.5, xtc_threshold: 0.1, ..none });
        specs.push(ParamsSpec { top_h: value, mirostat_tau: 4.0, ..none });
        specs.push(ParamsSpec { mirostat_tau: value * 20.0, ..none });
        specs.push(ParamsSpec { dynatemp_range: value, top_k: 40, ..none });
        specs.push(ParamsSpec { dynatemp_range: value * 2.0, min_p: value, ..none });
        specs.push(ParamsSpec { dynatemp_range: value, ..none });
        specs.push(ParamsSpec { adaptive_target: Some(value), ..none });
        specs.push(ParamsSpec { top_n_sigma: value * 8.0, ..none });
    }
    for profile in Profile::ALL {
        let own = ParamsSpec { profile, ..none };
        specs.push(ParamsSpec { top_k: 30, top_p: 0.9, ..own });
        specs.push(ParamsSpec { top_p: 0.7, ..own });
        if matches!(profile, Profile::Hf | Profile::Llamacpp) {
            specs.push(ParamsSpec { typical_p: 0.8, top_p: 0.99, ..own });
        }
    }
    for tokens in TOKENS {
        for (k, stored) in rows(tokens, 0).iter().enumerate() {
            // Of long rows some, and others of each.
            let step = if tokens > 3000 { 4 } else { 1 };
            let chosen = specs.iter().skip(k % step).step_by(step);
            let params = chosen.enumerate().filter_map(|(i, spec)| {
                ParamsSpec { position: i as u64, ..*spec }.parse(|| unreachable!()).ok()
            });
            let rows: Vec<_> = params.map(|params| stored.row(params)).collect();
            assert!(rows.len() > 12, "most parameters are valid");
            expect_reference(&rows);
        }
    }
}

#[test]
fn rows_of_which_all_is_kept_but_what_xtc_takes_are_those_of_the_reference() {
    let none = ParamsSpec { seed: Some(9), ..Default::default() };
    let mut specs = vec![ParamsSpec { dynatemp_range: 0.4, draws: 7, ..none }];
    // From 0.5 on nothing goes; from the least on all but one may.
    for threshold in [0.6, 0.3, 0.1, 0.02, 0.001, 1e-6, f32::from_bits(1)] {
        let xtc = ParamsSpec { xtc_probability: 1.0, xtc_threshold: threshold, ..none };
        specs.push(ParamsSpec { temperature: 0.3, ..xtc });
        specs.push(ParamsSpec { temperature: 1e-30, ..xtc });
        specs.push(ParamsSpec { temperature: 4.0, draws: 9, ..xtc });
        specs.push(ParamsSpec { draw_rule: DrawRule::Race, draws: 3, ..xtc });
        specs.push(ParamsSpec { dynatemp_range: 0.7, ..xtc });
        specs.push(ParamsSpec { adaptive_target: Some(0.3), ..xtc });
        let of_llamacpp = ParamsSpec { profile: Profile::Llamacpp, temperature: 0.7, ..xtc };
        specs.push(of_llamacpp);
        specs.push(ParamsSpec { dynatemp_range: 0.6, ..of_llamacpp });
        specs.push(ParamsSpec { temperature: 0.0, ..of_llamacpp });
        specs.push(ParamsSpec { xtc_probability: 0.5, min_p: 0.03, ..of_llamacpp });
    }
    for profile in Profile::ALL {
        let own = ParamsSpec { profile, temperature: 0.8, ..none };
        specs.extend([own, ParamsSpec { draw_rule: DrawRule::Race, ..own }]);
        for min_p in [1e-6, 0.01, 0.3, 1.0] {
            specs.push(ParamsSpec { min_p, ..own });
            specs.push(ParamsSpec { min_p, top_k: 12, ..own });
            specs.push(ParamsSpec { min_p, top_k: 15_000, ..own });
            specs.push(ParamsSpec { min_p, top_p: 0.9, ..own });
        }
    }
    let inspect = Inspect {
        of: [true; 3],
        top: 3,
        ids: (0..40).collect(),
        kept_ids_max: Some(60),
        ..Default::default()
    };
    for tokens in [1, 2, 512, 513, 3000, 20_000] {
        for (k, stored) in rows(tokens, 7).iter().enumerate() {
            let step = if tokens > 3000 { 5 } else { 1 };
            let chosen = specs.iter().skip(k % step).step_by(step);
            let params = chosen.enumerate().filter_map(|(i, spec)| {
                ParamsSpec { position: i as u64, ..*spec }.parse(|| unreachable!()).ok()
            });
            let inspect = Inspect { ids: (0..tokens.min(40)).collect(), ..inspect.clone() };
            let asked = |i: usize| i.is_multiple_of(2).then_some(&inspect);
            let rows: Vec<_> = params
                .enumerate()
                .map(|(i, params)| stored.row(params).with_inspect(asked(i)))
                .collect();
            assert!(rows.len() > 12, "most parameters are valid");
            expect_reference(&rows);
        }
    }
}

#[test]
fn likely_tokens_in_any_block_go_whatever_the_others_weigh() {
    // Two to forty tokens of about the same mass, ties among them, zeros of both signs, and others of much mass, little or none.
    let spec = ParamsSpec { xtc_probability: 1.0, seed: Some(2), draws: 5, ..Default::default() };
    for (tokens, likely, others) in [
        (513, 2, -3.0),
        (2048, 3, -9.0),
        (5000, 9, f32::NEG_INFINITY),
        (5000, 40, -12.0),
        (70_000, 8, -7.5),
        (70_000, 8, -13.8),
        (70_000, 8, -15.0),
    ] {
        for top in [0.0, -0.0, 11.5, -6.25] {
            let place = |i: u32| i % (tokens / likely) == 3;
            let low = |i: u32| top + others + (hashed(i) % 64) as f32 / 64.0;
            let high = |i: u32| match hashed(i) % 4 {
                0 if top == 0.0 && hashed(i) & 4 != 0 => -top,
                0 => top,
                part => top - part as f32 / 8.0,
            };
            let x = (0..tokens).map(|i| if place(i) { high(i) } else { low(i) });
            let x: Vec<f32> = x.collect();
            for dtype in Dtype::ALL {
                let stored = Stored::new(dtype, x.iter().copied());
                let thresholds = [0.3, 0.11, 0.1, 0.05, 0.02, 0.004];
                let specs = thresholds.map(|xtc_threshold| ParamsSpec { xtc_threshold, ..spec });
                let rows = specs.map(|spec| stored.row(spec.parse(|| unreachable!()).unwrap()));
                expect_reference(&rows);
            }
        }
    }
}

#[test]
fn cuts_by_mass_end_at_the_first_token_that_has_less() {
    for (x, p) in cuts::rising() {
        let stored = Stored::new(Dtype::F32, x.into_iter());
        let none = ParamsSpec { draws: 9, seed: Some(3), ..Default::default() };
        let xtc = ParamsSpec { xtc_probability: 1.0, xtc_threshold: p, ..none };
        let specs = [
            xtc,
            ParamsSpec { profile: Profile::Llamacpp, ..xtc },
            // Behind another cut, which takes nothing.
            ParamsSpec { min_p: 1e-20, ..xtc },
            ParamsSpec { typical_p: 1f32.next_down(), ..xtc },
            ParamsSpec { epsilon_cutoff: p, ..none },
            ParamsSpec { epsilon_cutoff: p, profile: Profile::Hf, ..none },
            ParamsSpec { epsilon_cutoff: p, min_p: 1e-20, ..none },
        ];
        expect_reference(&specs.map(|spec| stored.row(spec.parse(|| unreachable!()).unwrap())));
    }
}

/// Rows in which more tokens tie than are listed: all, all that are there, and such that some, many or nearly all come before these.
fn ties(tokens: u32) -> Vec<Vec<f32>> {
    let kinds: [&dyn Fn(u32) -> f32; 8] = [
        &|_| 0.5,
        &|i| [0.0, -0.0][hashed(i) as usize % 2],
        &|i| if i % 3 == 0 { f32::NEG_INFINITY } else { -7.25 },
        &|i| if i % 6007 == 900 { 2.0 + (i % 4) as f32 / 8.0 } else { 1.0 },
        &|i| if i % 6007 == 5999 { 11.0 } else { [-0.0, 0.0][i as usize / 700 % 2] },
        &|i| if i % 500 == 7 { 3.0 + bell(i) / 4.0 } else { -0.0 },
        &|i| if i % 40 == 7 { 9.0 } else { 8.0 },
        &|i| [0.25, 0.5, -1.0][(hashed(i) % 8).min(2) as usize],
    ];
    kinds.iter().map(|kind| (0..tokens).map(kind).collect()).collect()
}

/// Parameters whose chains begin with first tokens, of each profile.
fn first_specs() -> Vec<ParamsSpec> {
    let none = ParamsSpec { seed: Some(12), ..Default::default() };
    let race = ParamsSpec { draw_rule: DrawRule::Race, draws: 2, ..none };
    let mut specs = vec![ParamsSpec { top_h: 0.4, typical_p: 0.9, ..none }];
    for top_k in [1, 12, 50, 300, 2048, 6000] {
        let k = ParamsSpec { top_k, ..none };
        specs.push(ParamsSpec { typical_p: 0.8, draws: 3, ..k });
        specs.push(ParamsSpec { xtc_probability: 1.0, xtc_threshold: 0.01, ..k });
        specs.push(ParamsSpec { top_n_sigma: 1.0, top_p: 0.9, ..k });
        specs.push(ParamsSpec { dynatemp_range: 0.5, mirostat_tau: 5.0, ..k });
        specs.push(ParamsSpec { adaptive_target: Some(0.1), ..k });
        specs.push(ParamsSpec { top_k, typical_p: 0.9, ..race });
        for profile in Profile::ALL {
            let k = ParamsSpec { profile, temperature: 0.7, ..k };
            specs.extend([k, ParamsSpec { min_p: 0.2, ..k }, ParamsSpec { min_p: 0.001, ..k }]);
            for top_p in [1e-6, 0.3, 0.9] {
                specs.push(ParamsSpec { top_p, draws: 5, ..k });
                specs.push(ParamsSpec { top_p, min_p: 0.05, ..k });
            }
            specs.push(ParamsSpec { profile, top_k, top_p: 0.99, ..race });
        }
        let hf = ParamsSpec { profile: Profile::Hf, ..k };
        for share in [0.1, 0.6, 0.98] {
            specs.push(ParamsSpec { typical_p: share, ..hf });
            specs.push(ParamsSpec { typical_p: share, temperature: 3.0, top_p: 0.9, ..hf });
            specs.push(ParamsSpec { typical_p: share, profile: Profile::Llamacpp, ..k });
        }
        specs.push(ParamsSpec { epsilon_cutoff: 1e-4, eta_cutoff: 0.01, ..hf });
        specs.push(ParamsSpec { top_h: 0.3, top_p: 0.9, ..hf });
    }
    specs
}

#[test]
fn first_tokens_that_tie_with_many_are_those_of_the_reference() {
    let specs = first_specs();
    let inspect = |tokens: u32| Inspect {
        of: [true; 3],
        top: 9,
        ids: (0..40).chain([tokens - 1]).collect(),
        kept_ids_max: Some(70),
        ..Default::default()
    };
    for (tokens, step) in [(9000, 3), (20_000, 5), (70_000, 17)] {
        for (k, x) in ties(tokens).iter().enumerate() {
            for (j, dtype) in Dtype::ALL.into_iter().enumerate() {
                let stored = Stored::new(dtype, x.iter().copied());
                let chosen = specs.iter().enumerate().skip((k + j) % step).step_by(step);
                let params = chosen.filter_map(|(i, spec)| {
                    ParamsSpec { position: i as u64, ..*spec }.parse(|| unreachable!()).ok()
                });
                let inspect = inspect(tokens);
                let asked = |i: usize| i.is_multiple_of(2).then_some(&inspect);
                let rows: Vec<_> = params
                    .enumerate()
                    .map(|(i, params)| stored.row(params).with_inspect(asked(i)))
                    .collect();
                assert!(rows.len() > 8, "most parameters are valid");
                expect_reference(&rows);
            }
        }
    }
}

#[test]
fn what_proposals_with_further_cuts_leave_is_what_the_reference_leaves() {
    let none = ParamsSpec { seed: Some(5), ..Default::default() };
    let mut specs = first_specs();
    // Of those all is kept, or all but likely tokens.
    let all = Profile::ALL.map(|profile| ParamsSpec { profile, temperature: 0.6, ..none });
    let dynamic = ParamsSpec { dynatemp_range: 0.3, ..none };
    let xtc = ParamsSpec { xtc_probability: 1.0, xtc_threshold: 0.002, ..none };
    let whole = [dynamic, xtc, ParamsSpec { profile: Profile::Llamacpp, ..xtc }];
    let whole: Vec<_> = all.into_iter().chain(whole).collect();
    specs.extend(&whole);
    for tokens in [700, 20_000] {
        let rows = rows(tokens, 3).into_iter();
        let ties = ties(tokens).into_iter().enumerate();
        let ties = ties.map(|(k, x)| Stored::new(Dtype::ALL[k % 3], x.into_iter()));
        let all: Vec<_> = rows.chain(ties).collect();
        for (k, stored) in all.iter().enumerate() {
            let mut drafts = Vec::new();
            let some = specs.iter().skip(k % 9).step_by(9);
            for (j, spec) in some.chain(&whole).enumerate() {
                let spec = ParamsSpec { draws: 1, draft: true, ..*spec };
                let Ok(of_draft) = spec.parse(|| unreachable!()) else { continue };
                let source = &all[(k + j % 3) % all.len()];
                let own = [none, ParamsSpec { temperature: 0.3, ..none }, whole[j % whole.len()]];
                let own = ParamsSpec { position: j as u64, ..own[j % 3] };
                let proposal = Proposal::Row(Arc::new(Drafter(source.clone(), of_draft)));
                let token = hashed(j as u32 + 78) % stored.tokens();
                let rule = Rule::Rejection(proposal);
                drafts.push((own.parse(|| unreachable!()).unwrap(), Draft { token, rule }));
            }
            let rows: Vec<_> = drafts
                .iter()
                .map(|(params, draft)| stored.row(*params).with_draft(Some(draft)))
                .collect();
            expect_reference(&rows);
        }
    }
}

#[test]
fn what_proposals_leave_is_what_the_reference_leaves() {
    let none = ParamsSpec { seed: Some(5), ..Default::default() };
    let specs = [
        none,
        ParamsSpec { temperature: 0.2, ..none },
        ParamsSpec { temperature: 5.0, top_p: 0.9, ..none },
        ParamsSpec { min_p: 1e-5, ..none },
        ParamsSpec { top_k: 900, ..none },
    ];
    for tokens in TOKENS {
        let all = rows(tokens, 0);
        for (k, stored) in all.iter().enumerate() {
            let others = rows(tokens, 1);
            // Another row, another kind of row, and the row itself.
            let sources = [&others[k], &others[(k + 1) % others.len()], stored];
            let mut drafts = Vec::new();
            for (j, spec) in specs.into_iter().enumerate() {
                let position = j as u64;
                let params = ParamsSpec { position, ..spec }.parse(|| unreachable!()).unwrap();
                let p: Vec<f32> = (0..tokens).map(|i| hashed(i + 9) as f32 / 1e14).collect();
                let few = (0..tokens).filter(|i| i % 7 == 0).map(|i| (i, hashed(i + 9).into()));
                let mut proposals =
                    vec![Proposal::Point, Proposal::Dense(p), Proposal::Sparse(few.collect())];
                for (i, source) in sources.into_iter().enumerate() {
                    let spec = ParamsSpec { draft: true, ..specs[(j + i) % specs.len()] };
                    let drafter = Drafter(source.clone(), spec.parse(|| unreachable!()).unwrap());
                    proposals.push(Proposal::Row(Arc::new(drafter)));
                }
                for (i, proposal) in proposals.into_iter().enumerate() {
                    let token = hashed(i as u32 + 77) % stored.tokens();
                    let rule = Rule::Rejection(proposal);
                    drafts.push((params, Draft { token, rule }));
                }
            }
            let rows: Vec<_> = drafts
                .iter()
                .map(|(params, draft)| stored.row(*params).with_draft(Some(draft)))
                .collect();
            expect_reference(&rows);
        }
    }
}
