//! Looks for cliffs: every kind of row with every kind of cut, against a real row with the same cut.
//!
//! ```text
//! cargo bench --bench grid -- [--isa avx2] [--dtype f16] [--vocab-size 128256] [--all] [--unchecked]
//! ```
//!
//! Rows are in cache, so that what is timed is work, and the least of some repetitions is taken, so
//! that a busy machine shows little. Every answer is first compared with the reference. The slowest
//! combinations are printed, or all of them.

use half::{bf16, f16};
use logitd::files::assets;
use logitd::tools::generate::Random;
use logitd_core::backend::Backend;
use logitd_core::backend::cpu::{Cpu, CpuOptions, Isa};
use logitd_core::backend::reference::Reference;
use logitd_core::batch::{Dtype, Results, Row};
use logitd_core::params::ParamsSpec;
use std::time::{Duration, Instant};

/// The temperature of the real rows that others are compared with.
const PEAKED: f32 = 0.8;
/// Of every row and cut.
const REPETITIONS: usize = 15;
/// Combinations that are printed.
const SLOWEST: usize = 40;

fn main() {
    let args = Args::parse();
    let mut cpu =
        Cpu::new(CpuOptions { isa: Some(args.isa), threads: 1 }).expect("a machine with it");
    let kinds = kinds(args.vocab_size);
    let mut found = Vec::new();
    for (cut, spec) in cuts() {
        let real = ParamsSpec { temperature: PEAKED, ..spec };
        let peaked: Vec<f64> =
            (0..3).map(|row| args.us(&mut cpu, &real_row(row, args.vocab_size), real)).collect();
        let peaked = peaked.iter().sum::<f64>() / 3.0;
        for (kind, row) in &kinds {
            for temperature in [0.3, 0.8, 1.0, 1.5, 3.0, 10.0] {
                let us = args.us(&mut cpu, row, ParamsSpec { temperature, ..spec });
                found.push(Found { ratio: us / peaked, us, peaked, cut, kind, temperature });
            }
        }
    }
    if !args.all {
        found.sort_by(|a, b| b.ratio.total_cmp(&a.ratio));
        found.truncate(SLOWEST);
    }
    println!("{:>6} {:>8} {:>8}  {:24} {:12} T", "ratio", "us", "peaked", "cut", "row");
    for Found { ratio, us, peaked, cut, kind, temperature } in found {
        println!("{ratio:6.2} {us:8.1} {peaked:8.1}  {cut:24} {kind:12} {temperature}");
    }
}

struct Found<'a> {
    ratio: f64,
    us: f64,
    peaked: f64,
    cut: &'static str,
    kind: &'a str,
    temperature: f32,
}

struct Args {
    isa: Isa,
    dtype: Dtype,
    vocab_size: usize,
    all: bool,
    checked: bool,
}

impl Args {
    fn parse() -> Self {
        let args: Vec<String> = std::env::args().collect();
        let value =
            |flag: &str| args.iter().position(|arg| arg == flag).map(|i| args[i + 1].as_str());
        Self {
            isa: value("--isa").map_or_else(Isa::detect, |isa| isa.parse().expect("an isa")),
            dtype: value("--dtype").map_or(Dtype::F16, |name| {
                Dtype::ALL.into_iter().find(|dtype| dtype.name() == name).expect("a dtype")
            }),
            vocab_size: value("--vocab-size").map_or(128_256, |n| n.parse().expect("a number")),
            all: args.iter().any(|arg| arg == "--all"),
            checked: !args.iter().any(|arg| arg == "--unchecked"),
        }
    }

    /// Microseconds of a row.
    fn us(&self, cpu: &mut Cpu, row: &[f32], spec: ParamsSpec) -> f64 {
        let logits = encode(row, self.dtype);
        let params = spec.parse(|| 1).expect("valid parameters");
        let row = [Row::new(self.dtype, &logits, params).expect("a whole row")];
        let (mut results, mut expected) = (Results::default(), Results::default());
        if self.checked {
            cpu.sample(&row, &mut results).expect("the processor does not fail");
            Reference::default().sample(&row, &mut expected).expect("nor does the reference");
            assert_eq!(results.row(0), expected.row(0), "{spec:?}");
        }
        let mut least = Duration::MAX;
        for _ in 0..REPETITIONS {
            let start = Instant::now();
            cpu.sample(&row, &mut results).expect("the processor does not fail");
            least = least.min(start.elapsed());
        }
        least.as_secs_f64() * 1e6
    }
}

fn cuts() -> Vec<(&'static str, ParamsSpec)> {
    let none = ParamsSpec::default();
    let k = |top_k| ParamsSpec { top_k, ..none };
    let p = |top_p| ParamsSpec { top_p, ..none };
    let m = |min_p| ParamsSpec { min_p, ..none };
    vec![
        ("none", none),
        ("top_p .1", p(0.1)),
        ("top_p .5", p(0.5)),
        ("top_p .9", p(0.9)),
        ("top_p .95", p(0.95)),
        ("top_p .999", p(0.999)),
        ("top_k 1", k(1)),
        ("top_k 50", k(50)),
        ("top_k 1000", k(1000)),
        ("top_k 3000", k(3000)),
        ("top_k 20000", k(20_000)),
        ("top_k 100000", k(100_000)),
        ("top_k 50, top_p .95", ParamsSpec { top_p: 0.95, ..k(50) }),
        ("top_k 1000, top_p .95", ParamsSpec { top_p: 0.95, ..k(1000) }),
        ("top_k 20000, top_p .95", ParamsSpec { top_p: 0.95, ..k(20_000) }),
        ("top_k 100000, top_p .95", ParamsSpec { top_p: 0.95, ..k(100_000) }),
        ("top_k 100000, top_p .5", ParamsSpec { top_p: 0.5, ..k(100_000) }),
        ("min_p .05", m(0.05)),
        ("min_p .5", m(0.5)),
        ("top_p .95, min_p .05", ParamsSpec { top_p: 0.95, ..m(0.05) }),
        ("top_p .5, min_p .5", ParamsSpec { top_p: 0.5, ..m(0.5) }),
    ]
}

fn kinds(n: usize) -> Vec<(&'static str, Vec<f32>)> {
    let mut random = Random::new(1, 1);
    let mut normal = {
        let mut random = Random::new(1, 2);
        move || {
            let (a, b) = (f64::from(random.unit()) + 1e-9, f64::from(random.unit()));
            ((-2.0 * a.ln()).sqrt() * (b * std::f64::consts::TAU).cos()) as f32
        }
    };
    let bell: Vec<f32> = (0..n).map(|_| normal()).collect();
    let with = |i: usize, x: f32| {
        let mut row = bell.clone();
        row[i] = x;
        row
    };
    let mut ascending = bell.clone();
    ascending.sort_by(f32::total_cmp);
    let descending: Vec<f32> = ascending.iter().rev().copied().collect();
    let clump = |x: f32, y: f32| (0..n).map(move |i| if i / 700 == 50 { y } else { x });
    vec![
        ("real", real_row(0, n)),
        ("real 3", real_row(3, n)),
        ("normal", bell.clone()),
        ("normal * 3", bell.iter().map(|x| x * 3.0).collect()),
        ("normal / 8", bell.iter().map(|x| x / 8.0).collect()),
        ("normal + 30", bell.iter().map(|x| x + 30.0).collect()),
        ("cauchy", bell.iter().map(|x| x / (normal().abs() + 1e-3)).collect()),
        ("uniform", (0..n).map(|_| random.unit()).collect()),
        ("uniform * 20", (0..n).map(|_| random.unit() * 20.0).collect()),
        ("constant", vec![3.0; n]),
        ("two values", (0..n).map(|_| random.below(2) as f32).collect()),
        ("levels", bell.iter().map(|x| x.round()).collect()),
        ("eighths", bell.iter().map(|x| (x * 8.0).round() / 8.0).collect()),
        ("one high", with(n / 3, 12.0)),
        ("one higher", with(n / 3, 30.0)),
        ("ascending", ascending),
        ("descending", descending),
        ("runs", (0..n).map(|i| bell[i / 600]).collect()),
        ("clump high", clump(0.0, 8.0).zip(&bell).map(|(x, y)| x + y).collect()),
        ("clump low", clump(0.0, -8.0).zip(&bell).map(|(x, y)| x + y).collect()),
        (
            "half masked",
            bell.iter().map(|x| if *x > 0.0 { *x } else { f32::NEG_INFINITY }).collect(),
        ),
        (
            "most masked",
            bell.iter().map(|x| if *x > 3.0 { *x } else { f32::NEG_INFINITY }).collect(),
        ),
    ]
}

fn real_row(i: usize, n: usize) -> Vec<f32> {
    let logits = assets::rows()[i].logits.chunks_exact(2);
    logits.map(|x| f16::from_le_bytes([x[0], x[1]]).to_f32()).cycle().take(n).collect()
}

fn encode(row: &[f32], dtype: Dtype) -> Vec<u8> {
    match dtype {
        Dtype::F16 => row.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
        Dtype::Bf16 => row.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
        Dtype::F32 => row.iter().flat_map(|x| x.to_le_bytes()).collect(),
    }
}
