//! What rows cost, beside what the engine takes them to cost (`src/engine/cost.rs`), which its turns and batches go by.
//!
//! ```text
//! cargo bench --bench cost -- [--dtype f16] [--vocab-size 131072] [--flat | --tied]
//! ```
//!
//! Every kind of row is timed next to a plain one of the same logits, in turns and in cache, on one thread; the least of some
//! repetitions is taken. Both columns of costs are in bytes of logits that a plain row of these takes as long for. Rows are from a normal
//! distribution: at temperature 0.3, at which a language model's are as peaked, or flat; or all are one value.

use bytes::Bytes;
use half::{bf16, f16};
use logitd::engine::RequestRow;
use logitd::tools::generate::Random;
use logitd_core::adjustments::{Adjustments, AdjustmentsSpec, Limits};
use logitd_core::backend::Backend;
use logitd_core::backend::cpu::{Cpu, CpuOptions};
use logitd_core::batch::{Dtype, Results};
use logitd_core::inspection::{Continue, Inspect, Normaliser};
use logitd_core::params::{DrawRule, ParamsSpec, Profile};
use logitd_core::row::{Draft, Proposal, Rule, Source, Typical};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Of every kind of row.
const REPETITIONS: usize = 9;

fn main() {
    let args = Args::parse();
    let mut cpu = Cpu::new(CpuOptions { threads: 1, ..Default::default() }).expect("a processor");
    let plain = args.row(args.plain());
    println!(
        "{} x {}, {}, plain: {:.1} us",
        args.vocab_size,
        args.dtype,
        args.shape(),
        least(&mut cpu, &plain, &plain).0.as_secs_f64() * 1e6
    );
    println!(
        "{:<28} {:>10} {:>9} {:>11} {:>11} {:>6}",
        "row", "us", "times", "cost", "charged", "off"
    );
    for (name, row) in kinds(&args) {
        let (time, of_plain) = least(&mut cpu, &row, &plain);
        let times = time.as_secs_f64() / of_plain.as_secs_f64();
        let cost = times * plain.cost() as f64;
        let charged = row.cost() as f64;
        println!(
            "{name:<28} {:>10.1} {times:>9.2} {cost:>11.0} {charged:>11.0} {:>6.2}",
            time.as_secs_f64() * 1e6,
            charged / cost,
        );
    }
}

/// What the rows are made of.
struct Args {
    dtype: Dtype,
    vocab_size: u32,
    flat: bool,
    /// Whether all logits are equal.
    tied: bool,
}

impl Args {
    fn parse() -> Self {
        let mut args = Self { dtype: Dtype::F16, vocab_size: 1 << 17, flat: false, tied: false };
        let mut given = std::env::args().skip(1);
        while let Some(flag) = given.next() {
            let mut value = || given.next().expect("a value");
            match flag.as_str() {
                "--dtype" => {
                    let name = value();
                    let named = Dtype::ALL.into_iter().find(|dtype| dtype.name() == name);
                    args.dtype = named.expect("a dtype");
                }
                "--vocab-size" => args.vocab_size = value().parse().expect("a number"),
                "--flat" => args.flat = true,
                "--tied" => args.tied = true,
                "--bench" => {}
                other => panic!("unknown: {other}"),
            }
        }
        args
    }

    fn shape(&self) -> &'static str {
        match (self.tied, self.flat) {
            (true, _) => "tied",
            (_, true) => "flat",
            _ => "peaked",
        }
    }

    fn plain(&self) -> ParamsSpec {
        let temperature = if self.flat { 1.0 } else { 0.3 };
        ParamsSpec { temperature, seed: Some(7), ..Default::default() }
    }

    fn logits(&self, salt: u64) -> Bytes {
        let mut random = Random::new(salt, 0);
        let mut logits = Vec::new();
        for _ in 0..self.vocab_size {
            let x = if self.tied { 0.5 } else { random.bell() };
            match self.dtype {
                Dtype::F16 => logits.extend(f16::from_f32(x).to_le_bytes()),
                Dtype::Bf16 => logits.extend(bf16::from_f32(x).to_le_bytes()),
                Dtype::F32 => logits.extend(x.to_le_bytes()),
            }
        }
        logits.into()
    }

    fn row(&self, spec: ParamsSpec) -> RequestRow {
        let params = spec.parse(|| 7).expect("valid");
        RequestRow::new(self.dtype, self.logits(1), params).expect("a row")
    }

    fn adjustments(&self, spec: AdjustmentsSpec) -> Option<Adjustments> {
        Some(spec.parse(self.vocab_size, Limits::default()).expect("valid"))
    }
}

/// A row that a draft was drawn from.
#[derive(Debug)]
struct Drafter(RequestRow);

impl Source for Drafter {
    fn row(&self) -> logitd_core::batch::Row<'_> {
        self.0.as_row()
    }
}

/// The least times of a row and of a plain one, in turns.
fn least(cpu: &mut Cpu, row: &RequestRow, plain: &RequestRow) -> (Duration, Duration) {
    let mut results = Results::default();
    let mut time = |row: &RequestRow| {
        let rows = [row.as_row()];
        let begun = Instant::now();
        cpu.sample(&rows, &mut results).expect("sampled");
        begun.elapsed()
    };
    time(row);
    time(plain);
    let times: Vec<_> = (0..REPETITIONS).map(|_| (time(row), time(plain))).collect();
    let least = |times: &mut dyn Iterator<Item = Duration>| times.min().expect("some");
    (least(&mut times.iter().map(|t| t.0)), least(&mut times.iter().map(|t| t.1)))
}

fn kinds(args: &Args) -> Vec<(&'static str, RequestRow)> {
    [of_cuts(args), of_adjustments(args), of_inspections(args), of_drafts(args)].concat()
}

fn of_cuts(args: &Args) -> Vec<(&'static str, RequestRow)> {
    let plain = args.plain();
    let race = ParamsSpec { draw_rule: DrawRule::Race, ..plain };
    let of = |profile| ParamsSpec { profile, top_p: 0.95, ..plain };
    let specs = [
        ("plain", plain),
        ("greedy", ParamsSpec { temperature: 0.0, ..plain }),
        ("top_k 50", ParamsSpec { top_k: 50, ..plain }),
        ("top_k of a fifth", ParamsSpec { top_k: args.vocab_size / 5, ..plain }),
        ("top_p", ParamsSpec { top_p: 0.95, ..plain }),
        ("min_p", ParamsSpec { min_p: 0.05, ..plain }),
        ("draws 1024", ParamsSpec { draws: 1024, ..plain }),
        ("race", race),
        ("race, 16 draws", ParamsSpec { draws: 16, ..race }),
        ("race, top_k 50", ParamsSpec { top_k: 50, ..race }),
        ("top_n_sigma", ParamsSpec { top_n_sigma: 1.0, ..plain }),
        ("top_n_sigma 100", ParamsSpec { top_n_sigma: 100.0, ..plain }),
        ("top_n_sigma, top_k 50", ParamsSpec { top_n_sigma: 100.0, top_k: 50, ..plain }),
        ("top_h", ParamsSpec { top_h: 0.5, ..plain }),
        ("top_h, typical_p", ParamsSpec { top_h: 0.5, typical_p: 0.95, ..plain }),
        ("top_a", ParamsSpec { top_a: 0.2, ..plain }),
        ("epsilon_cutoff", ParamsSpec { epsilon_cutoff: 1e-4, ..plain }),
        ("eta_cutoff", ParamsSpec { eta_cutoff: 1e-4, ..plain }),
        ("typical_p", ParamsSpec { typical_p: 0.95, ..plain }),
        ("typical_p, top_k 50", ParamsSpec { typical_p: 0.95, top_k: 50, ..plain }),
        ("typical_p, top_k 2048", ParamsSpec { typical_p: 0.95, top_k: 2048, ..plain }),
        ("typical_p, race", ParamsSpec { typical_p: 0.95, ..race }),
        ("mirostat", ParamsSpec { mirostat_tau: 5.0, ..plain }),
        ("xtc", ParamsSpec { xtc_probability: 1.0, ..plain }),
        ("adaptive", ParamsSpec { adaptive_target: Some(0.3), ..plain }),
        ("dynatemp", ParamsSpec { dynatemp_range: 0.2, ..plain }),
        ("dynatemp, top_k 50", ParamsSpec { dynatemp_range: 0.2, top_k: 50, ..plain }),
        ("hf", of(Profile::Hf)),
        ("vllm", of(Profile::Vllm)),
        ("hf, top_k 50", ParamsSpec { top_k: 50, typical_p: 0.95, ..of(Profile::Hf) }),
        ("vllm, top_k 50", ParamsSpec { top_k: 50, ..of(Profile::Vllm) }),
        ("sglang", of(Profile::Sglang)),
        ("sglang, top_k 50", ParamsSpec { top_k: 50, ..of(Profile::Sglang) }),
        ("llamacpp", of(Profile::Llamacpp)),
        ("llamacpp, top_k 50", ParamsSpec { top_k: 50, ..of(Profile::Llamacpp) }),
    ];
    specs.map(|(name, spec)| (name, args.row(spec))).to_vec()
}

fn of_adjustments(args: &Args) -> Vec<(&'static str, RequestRow)> {
    let n = args.vocab_size;
    let plain = args.plain();
    let few: Vec<u32> = (0..n.min(1 << 12)).collect();
    let words = n.div_ceil(32);
    let mask = AdjustmentsSpec {
        allowed_bitmask: vec![0x5555_aaaa; words as usize],
        ..Default::default()
    };
    let biases = few.iter().map(|&id| (id, -0.5)).collect();
    let biases = AdjustmentsSpec { logit_bias: biases, ..Default::default() };
    let output: Vec<u32> =
        (0..32_768u32).map(|i| i.wrapping_mul(2_654_435_761) % 997 % n).collect();
    let history = AdjustmentsSpec { output, ..Default::default() };
    let both = AdjustmentsSpec { logit_bias: biases.logit_bias.clone(), ..mask.clone() };
    let penalties = ParamsSpec { frequency_penalty: 0.5, ..plain };
    let typical = ParamsSpec { typical_p: 0.95, ..plain };
    let kinds = [
        ("bitmask", plain, mask.clone()),
        ("bitmask, top_k 50", ParamsSpec { top_k: 50, ..plain }, mask.clone()),
        ("bitmask, typical_p", typical, mask),
        ("4,096 biases", plain, biases),
        ("bitmask, 4,096 biases", plain, both),
        ("penalties of 32,768", penalties, history.clone()),
        ("n-grams of 32,768", ParamsSpec { no_repeat_ngram: 4, ..plain }, history.clone()),
        ("dry of 32,768", ParamsSpec { dry_multiplier: 0.8, ..plain }, history),
    ];
    let row =
        |(name, spec, lists)| (name, args.row(spec).with_adjustments(args.adjustments(lists)));
    kinds.into_iter().map(row).collect()
}

fn of_inspections(args: &Args) -> Vec<(&'static str, RequestRow)> {
    let plain = args.plain();
    let top_p = ParamsSpec { top_p: 0.95, ..plain };
    let typical = ParamsSpec { typical_p: 0.95, ..plain };
    let inspect = Inspect::default;
    let first = args.vocab_size.min(1024);
    let ids: Arc<[u32]> = (0..first).collect();
    let [raw, adjusted, sampled] = [0, 1, 2].map(|which| {
        let mut of = [false; 3];
        of[which] = true;
        of
    });
    let continued =
        |count| Some(Continue { count, temperature: 1.0, normaliser: Normaliser::Adjusted });
    let kinds = [
        ("logprobs: raw", plain, Inspect { of: raw, ..inspect() }),
        ("logprobs: adjusted", plain, Inspect { of: adjusted, ..inspect() }),
        ("logprobs: sampled", top_p, Inspect { of: sampled, ..inspect() }),
        ("logprobs: all", top_p, Inspect { of: [true; 3], ..inspect() }),
        ("logprobs: raw, top 20", plain, Inspect { of: raw, top: 20, ..inspect() }),
        ("logprobs: raw, top 1024", plain, Inspect { of: raw, top: first, ..inspect() }),
        ("logprobs: raw, 1024 ids", plain, Inspect { of: raw, ids: Arc::clone(&ids), ..inspect() }),
        ("logprobs: all, all", top_p, Inspect { of: [true; 3], top: first, ids, ..inspect() }),
        ("kept_ids", plain, Inspect { kept_ids_max: Some(1 << 20), ..inspect() }),
        ("kept_ids, top_p", top_p, Inspect { kept_ids_max: Some(1 << 20), ..inspect() }),
        (
            "continuations 128",
            plain,
            Inspect { continuations: continued(128.min(first)), ..inspect() },
        ),
        ("continuations 1024", plain, Inspect { continuations: continued(first), ..inspect() }),
        ("typical_p, logprobs: all", typical, Inspect { of: [true; 3], ..inspect() }),
    ];
    let row = |(name, spec, asked)| (name, args.row(spec).with_inspect(Some(Arc::new(asked))));
    kinds.into_iter().map(row).collect()
}

fn of_drafts(args: &Args) -> Vec<(&'static str, RequestRow)> {
    let plain = args.plain();
    let n = args.vocab_size;
    let top_p = ParamsSpec { top_p: 0.95, ..plain };
    let typical = ParamsSpec { typical_p: 0.95, ..plain };
    let drafter = |spec: ParamsSpec| {
        let spec = ParamsSpec { draft: true, ..spec };
        let params = spec.parse(|| 7).expect("valid");
        let row = RequestRow::new(args.dtype, args.logits(2), params).expect("a row");
        Rule::Rejection(Proposal::Row(Arc::new(Drafter(row))))
    };
    let sparse = (0..n.min(1 << 12)).map(|id| (id, 1000)).collect();
    let dense = vec![1.0 / n as f32; n as usize];
    let by_probability = Rule::Typical(Typical { epsilon: 1.0, delta: 1.0 });
    let kinds = [
        ("draft: point", plain, Rule::Rejection(Proposal::Point)),
        ("draft: point, top_p", top_p, Rule::Rejection(Proposal::Point)),
        ("draft: point, typical_p", typical, Rule::Rejection(Proposal::Point)),
        ("draft: 4,096 weights", plain, Rule::Rejection(Proposal::Sparse(sparse))),
        ("draft: dense", plain, Rule::Rejection(Proposal::Dense(dense))),
        ("draft: row", plain, drafter(plain)),
        ("draft: row, top_p", top_p, drafter(top_p)),
        ("draft: row of vllm", plain, drafter(ParamsSpec { profile: Profile::Vllm, ..plain })),
        ("draft: row of typical_p", plain, drafter(typical)),
        ("draft: both typical_p", typical, drafter(typical)),
        ("draft: by probability", plain, by_probability),
    ];
    // A token in the middle of its row's logits, which is seldom taken.
    let row = |(name, spec, rule)| {
        (name, args.row(spec).with_draft(Some(Arc::new(Draft { token: n / 2, rule }))))
    };
    kinds.into_iter().map(row).collect()
}
