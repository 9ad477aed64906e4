//! Any bytes as parameters and a row: refused by name, or sampled alike by the oracle and the CPU
//! backend on every instruction set of this machine.

#![no_main]

mod common;

use libfuzzer_sys::fuzz_target;
use logitd_core::backend::cpu::{Cpu, CpuOptions, Isa};
use logitd_core::backend::{Backend, reference::Reference};
use logitd_core::batch::{Dtype, Results, Row};
use logitd_core::inspection::{Continue, Inspect, Normaliser};
use logitd::tools::generate;
use logitd_core::params::{DrawRule, ParamsSpec, SamplingParams};
use std::sync::{LazyLock, Mutex};

/// Bytes before the logits.
const HEADER: usize = 36;

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
            Ok(row) => sample(&row.with_inspect(Some(&inspect))),
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
/// highest bit is the rule), what is asked beside tokens (1), and the rest is logits; all little-endian. The highest bytes of
/// the position say, too, whether and how many continuations are asked for.
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
        draws: u16::from_le_bytes([header[33], header[34] & 0x7f]).into(),
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
    data.extend(case.logits);
    data
}
