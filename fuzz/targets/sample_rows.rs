//! Any bytes as parameters and a row: refused by name, or sampled alike by the oracle and the CPU
//! backend on every instruction set of this machine.

#![no_main]

mod common;

use libfuzzer_sys::fuzz_target;
use logitd_core::backend::cpu::{Cpu, CpuOptions, Isa};
use logitd_core::backend::{Backend, reference::Reference};
use logitd_core::batch::{Dtype, Results, Row};
use logitd_core::row::{Draft, Proposal, Rule, Source, Typical, WEIGHTS_END};
use logitd_core::inspection::{Continue, Inspect, Normaliser};
use logitd::tools::generate;
use logitd_core::params::{DrawRule, ParamsSpec, SamplingParams};
use std::sync::{Arc, LazyLock, Mutex};

/// Bytes before what a draft is made of.
const ROW: usize = 36;
/// Bytes before the logits.
const HEADER: usize = ROW + 21;

/// The row of a draft model.
#[derive(Debug)]
struct Drafter(Dtype, Vec<u8>, SamplingParams);

impl Source for Drafter {
    fn row(&self) -> Row<'_> {
        Row::new(self.0, &self.1, self.2).expect("as many logits as the row has")
    }
}

static BACKENDS: LazyLock<Mutex<Vec<Box<dyn Backend>>>> = LazyLock::new(|| {
    let cpu = |isa| Cpu::new(CpuOptions { isa: Some(isa), threads: 1 }).expect("it is supported");
    let cpus = Isa::supported().map(|isa| Box::new(cpu(isa)) as Box<dyn Backend>);
    Mutex::new(cpus.collect())
});

fuzz_target!(
    init: common::plant("sample_rows", (0..200).map(|i| generated(i))),
    |data: &[u8]| {
        let Some((dtype, spec, inspect, logits)) = read(data) else { return };
        let params = match spec.parse(|| 0) {
            Ok(params) => params,
            Err(error) => {
                assert!(error.to_string().starts_with(error.field), "{error}");
                return;
            }
        };
        match Row::new(dtype, logits, params) {
            Ok(row) => {
                let draft = draft(&row, &data[ROW..HEADER]);
                sample(&row.with_inspect(Some(&inspect)).with_draft(draft.as_ref()));
            }
            Err(_) => assert!(logits.is_empty() || !logits.len().is_multiple_of(dtype.size_bytes())),
        }
    }
);

fn sample(row: &Row<'_>) {
    let (mut expected, mut got) = (Results::default(), Results::default());
    Reference::default().sample(&[*row], &mut expected).expect("the oracle does not fail");
    for backend in BACKENDS.lock().expect("a panic ends the process").iter_mut() {
        backend.sample(&[*row], &mut got).expect("a CPU does not fail");
        assert_eq!(expected.row(0), got.row(0), "{:?} {row:?}", backend.device());
    }
}

/// Dtype (1 byte), temperature, top_k, top_p, min_p (4 each), seed, position (8 each), draws (2, of which the
/// highest bit is the rule), what is asked beside tokens (1), what `draft` reads (21), and the rest is logits; all little-endian.
/// The highest bytes of the position say, too, whether and how many continuations are asked for.
fn read(data: &[u8]) -> Option<(Dtype, ParamsSpec, Inspect, &[u8])> {
    let (header, logits) = data.split_at_checked(HEADER)?;
    let dtype = Dtype::ALL[usize::from(header[0]) % 3];
    let u32_at = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four"));
    let u64_at = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight"));
    let spec = ParamsSpec {
        temperature: f32::from_bits(u32_at(1)),
        top_k: u32_at(5),
        top_p: f32::from_bits(u32_at(9)),
        min_p: f32::from_bits(u32_at(13)),
        seed: Some(u64_at(17)),
        position: u64_at(25),
        draws: match has_draft(&header[ROW..]) {
            true => 1,
            false => u16::from_le_bytes([header[33], header[34] & 0x7f]).into(),
        },
        draw_rule: DrawRule::ALL[usize::from(header[34] >> 7)],
        ..ParamsSpec::DEFAULT
    };
    let bit = |n: u8| header[35] >> n & 1 == 1;
    let inspect = Inspect {
        of: [bit(0), bit(1), bit(2)],
        top: if bit(3) { 5 } else { 0 },
        ids: if bit(4) { (0..100).rev().step_by(1 + usize::from(bit(5))).collect() } else { [].into() },
        kept_ids_max: bit(6).then_some(if bit(7) { 40 } else { 0 }),
        continuations: (header[32] & 1 == 1).then_some(Continue {
            count: 1 + u32::from(header[31]),
            temperature: if header[32] & 2 == 2 { 1.0 } else { 0.3 },
            normaliser: if header[32] & 4 == 4 { Normaliser::Raw } else { Normaliser::Adjusted },
        }),
    };
    Some((dtype, spec, inspect, logits))
}

/// Half of the rows have none.
fn has_draft(data: &[u8]) -> bool {
    data[0] & 1 == 1
}

/// A rule (1 byte), a token (4), and numbers of the rule (two of 8 bytes): two probabilities, or what weights and
/// probabilities are mixed from. The row of a draft model has the logits of the row, or their bytes the other way round.
fn draft(row: &Row<'_>, data: &[u8]) -> Option<Draft> {
    if !has_draft(data) {
        return None;
    }
    let n = row.vocab_size();
    let token = u32::from_le_bytes(data[1..5].try_into().expect("four")) % n;
    let numbers = [5, 13].map(|at| u64::from_le_bytes(data[at..at + 8].try_into().expect("eight")));
    let mixed = |i: u32| numbers[0].rotate_left(i).wrapping_mul(numbers[1] | 1);
    let rule = match data[0] >> 1 & 7 {
        0 | 1 => {
            let probability = |bits: u64| match f32::from_bits(bits as u32) {
                p if p > 0.0 && p <= 1.0 => p,
                _ => 0.5,
            };
            let [epsilon, delta] = numbers.map(probability);
            Rule::Typical(Typical { epsilon, delta })
        }
        2 => Rule::Rejection(Proposal::Point),
        3 => {
            let step = (numbers[1] % 7) as usize + 1;
            let ids = (numbers[0] as u32 % n..n).step_by(step).take(64);
            let weight = |id| 1 + mixed(id) % (WEIGHTS_END / 64 - 1);
            Rule::Rejection(Proposal::Sparse(ids.map(|id| (id, weight(id))).collect()))
        }
        4 | 5 => {
            let mut p: Vec<f32> = (0..n).map(|id| (mixed(id) >> 40) as f32 / (1 << 24) as f32).collect();
            p[token as usize] = 1.0;
            Rule::Rejection(Proposal::Dense(p))
        }
        same => {
            let mut logits = row.logits().to_vec();
            if same == 7 {
                logits.reverse();
            }
            let spec = ParamsSpec { temperature: 1.5, draft: true, ..(*row.params()).into() };
            let params = spec.parse(|| 0).expect("a temperature within its range");
            Rule::Rejection(Proposal::Row(Arc::new(Drafter(row.dtype(), logits, params))))
        }
    };
    Some(Draft { token, rule })
}

/// A generated row as `read` takes it.
fn generated(index: u64) -> Vec<u8> {
    let case = generate::case(1, index, 200);
    let params: &SamplingParams = &case.params;
    let mut data = vec![case.dtype as u8];
    data.extend(params.temperature().to_le_bytes());
    data.extend(params.top_k().unwrap_or(0).to_le_bytes());
    data.extend(params.top_p().unwrap_or(1.0).to_le_bytes());
    data.extend(params.min_p().unwrap_or(0.0).to_le_bytes());
    data.extend(params.seed().to_le_bytes());
    data.extend(params.position().to_le_bytes());
    let rule = u16::from(params.draw_rule() == DrawRule::Race) << 15;
    data.extend((params.draws().min(16) as u16 | rule).to_le_bytes());
    data.push(index as u8);
    data.push(index as u8 / 2);
    data.extend((index as u32).to_le_bytes());
    data.extend([0.3f32.to_bits().into(), index.wrapping_mul(0x9e37_79b9_7f4a_7c15)].map(u64::to_le_bytes).concat());
    data.extend(case.logits);
    data
}
