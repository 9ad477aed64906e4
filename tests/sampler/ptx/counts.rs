//! How many PTX instructions a token takes, by class: counted, not timed.
//!
//!     cargo test --release --test sampler -- --ignored --nocapture counts

use super::driver::{Options, PtxDriver, open};
use super::nvcc::{kernels, nvcc_or_skip};
use crate::common::real::carried_prefix;
use logitd_core::backend::Backend;
use logitd_core::backend::cuda::launcher::Launcher;
use logitd_core::backend::cuda::plan::{Kernel, Packing};
use logitd_core::batch::Results;
use logitd_core::params::ParamsSpec;
use logitd_shim::Build;

const VOCAB_SIZE: usize = 128_256;

const CLASSES: [&str; 10] = [
    "fma",
    "other float",
    "integer, 32 bits",
    "integer, 64 bits",
    "compare, select",
    "move, convert",
    "branch",
    "load, store",
    "shared",
    "atomic, warp, barrier",
];

#[test]
#[ignore = "prints a table"]
fn counts() {
    let Some(nvcc) = nvcc_or_skip("counts") else { return };
    let base = ParamsSpec { seed: Some(7), ..Default::default() };
    let settings = [
        ("greedy", ParamsSpec { temperature: 0.0, ..base }),
        ("temperature", ParamsSpec { temperature: 0.8, ..base }),
        ("top_p 0.95", ParamsSpec { temperature: 0.8, top_p: 0.95, ..base }),
        ("top_k 50", ParamsSpec { temperature: 0.8, top_k: 50, ..base }),
        ("top_k 50, top_p 0.95", ParamsSpec { temperature: 0.8, top_k: 50, top_p: 0.95, ..base }),
    ];
    println!("PTX instructions a token: one f16 row of {VOCAB_SIZE}, draws 1\n");
    println!("| kernel | blocks | parameters | all | {} |", CLASSES.join(" | "));
    println!("|---|---|---|---|{}", "---|".repeat(CLASSES.len()));
    for (chip, kernel) in [(75, Kernel::Grid), (90, Kernel::Cluster), (100, Kernel::Cluster)] {
        let kernels = kernels(nvcc, chip, Build::Shipped);
        for team_blocks in [1, 8] {
            let options = Options {
                chip,
                build: Build::Shipped,
                kernel,
                seed: 1,
                resident_blocks: team_blocks,
                team_blocks: Some(team_blocks),
                stage: None,
                packing: Packing::Aligned,
            };
            let mut ptx = open(kernels.clone(), options);
            for (name, spec) in settings {
                let case = carried_prefix(0, VOCAB_SIZE, spec);
                ptx.sample(&[case.place().row()], &mut Results::default()).unwrap();
                let counts = by_class(&ptx);
                let token = |count: u64| format!("{:.2}", count as f64 / VOCAB_SIZE as f64);
                let classes: Vec<String> = counts.iter().map(|&count| token(count)).collect();
                let (all, classes) = (token(counts.iter().sum()), classes.join(" | "));
                println!("| sm_{chip} {kernel:?} | {team_blocks} | {name} | {all} | {classes} |");
            }
        }
    }
}

fn by_class(ptx: &Launcher<PtxDriver>) -> [u64; CLASSES.len()] {
    let mut counts = [0; CLASSES.len()];
    let opcodes = &ptx.driver().program().opcodes;
    for (opcode, &executed) in opcodes.iter().zip(ptx.driver().executed()) {
        let class = class(opcode);
        let index = CLASSES.iter().position(|&c| c == class).expect("a class");
        counts[index] += executed;
    }
    counts
}

fn class(opcode: &str) -> &'static str {
    let parts: Vec<&str> = opcode.split('.').collect();
    let wide = matches!(parts.last(), Some(&("b64" | "u64" | "s64")));
    match parts[..] {
        ["fma", ..] => "fma",
        ["setp" | "selp", ..] | [.., "pred"] => "compare, select",
        ["mov" | "cvt" | "cvta", ..] => "move, convert",
        ["bra" | "ret", ..] => "branch",
        ["ld" | "st", .., "shared", _] | ["ld" | "st", "shared", ..] => "shared",
        ["ld" | "st", ..] => "load, store",
        ["atom" | "red" | "shfl" | "redux" | "vote" | "match" | "bar" | "barrier", ..] => {
            "atomic, warp, barrier"
        }
        ["membar" | "fence" | "nanosleep", ..] => "atomic, warp, barrier",
        [.., "f32"] => "other float",
        ["mul", "wide", ..] => "integer, 64 bits",
        _ if wide => "integer, 64 bits",
        _ => "integer, 32 bits",
    }
}
