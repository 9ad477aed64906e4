//! Rows that are cut by sums over all of them, and what is left of rows with drafts, against the reference.

use half::{bf16, f16};
use logitd_core::backend::cpu::{Cpu, CpuOptions, Isa};
use logitd_core::backend::{Backend, reference::Reference};
use logitd_core::batch::{Dtype, Results, Row};
use logitd_core::params::{ParamsSpec, Profile, SamplingParams};
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
