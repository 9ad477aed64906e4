//! Times every shape that a launch can have on a GPU: kernel, blocks a row, staging; also those that the planner
//! does not choose.
//!
//! ```text
//! cargo bench --bench gpu_sweep               # times, and prints one JSON object a line
//! gpu_sweep once CASE ROWS                    # launches a few times and ends, for a profiler
//! ```
//!
//! Each answer is compared with the processor's before it is timed. `SWEEP_VOCAB`, `SWEEP_ROWS_MAX`, `SWEEP_PASSES` and
//! `SWEEP_SECONDS` are what they say. Without a GPU it says that it is skipped, or fails if `LOGITD_REQUIRE_GPU=1`.

use logitd::files::assets;
use logitd_core::backend::Backend;
use logitd_core::backend::cpu::{Cpu, CpuOptions};
use logitd_core::backend::cuda::device::launch_bytes_min;
use logitd_core::backend::cuda::device::stopwatch::{Pass, Stopwatch};
use logitd_core::backend::cuda::plan::{Kernel, TEAMS};
use logitd_core::backend::cuda::{self, Cuda, CudaOptions};
use logitd_core::batch::{Dtype, Results, Row};
use logitd_core::params::ParamsSpec;
use std::error::Error;
use std::time::{Duration, Instant};

/// What is asked of every row, by a name.
type Case = (&'static str, ParamsSpec);

const PLAIN: ParamsSpec = ParamsSpec { temperature: 0.8, ..ParamsSpec::DEFAULT };
const CASES: [Case; 9] = [
    ("k50_p95", ParamsSpec { top_k: 50, top_p: 0.95, ..PLAIN }),
    ("p95", ParamsSpec { top_p: 0.95, ..PLAIN }),
    ("t08", PLAIN),
    ("greedy", ParamsSpec { temperature: 0.0, ..PLAIN }),
    ("k1000", ParamsSpec { top_k: 1000, ..PLAIN }),
    ("p95_flat", ParamsSpec { temperature: 10.0, top_p: 0.95, ..PLAIN }),
    ("sigma1", ParamsSpec { top_n_sigma: 1.0, ..PLAIN }),
    ("typical95", ParamsSpec { typical_p: 0.95, ..PLAIN }),
    ("xtc", ParamsSpec { min_p: 0.02, xtc_probability: 1.0, ..PLAIN }),
];
/// Of these the shapes are timed that the planner does not choose.
const CASES_OF_EVERY_SHAPE: usize = 3;
const ROWS: [usize; 16] = [1, 2, 4, 8, 16, 24, 28, 32, 48, 60, 64, 66, 96, 128, 192, 256];
const ROWS_OF_EVERY_SHAPE: [usize; 11] = [1, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256];
/// Rows that are compared with the processor's.
const CHECKED: usize = 16;

fn main() -> Result<(), Box<dyn Error>> {
    if let Err(reason) = cuda::count() {
        if std::env::var("LOGITD_REQUIRE_GPU").is_ok_and(|required| required == "1") {
            return Err(reason.into());
        }
        eprintln!("gpu_sweep is skipped: {reason}");
        return Ok(());
    }
    let sweep = Sweep::from_environment();
    // cargo adds `--bench`.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => sweep.run(),
        ["once", case, rows] => sweep.once(case, rows.parse()?),
        _ => Err("arguments: none, or `once CASE ROWS`".into()),
    }
}

struct Sweep {
    rows_max: usize,
    passes: usize,
    end: Instant,
    logits: Vec<Vec<u8>>,
}

impl Sweep {
    fn from_environment() -> Self {
        let number = |name: &str, otherwise: u64| {
            std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
        };
        let vocab_size = number("SWEEP_VOCAB", 128_256) as usize;
        let rows_max = number("SWEEP_ROWS_MAX", 256) as usize;
        Self {
            rows_max,
            passes: number("SWEEP_PASSES", 15) as usize,
            end: Instant::now() + Duration::from_secs(number("SWEEP_SECONDS", 60)),
            logits: (0..rows_max.min(64)).map(|row| real(row, vocab_size)).collect(),
        }
    }

    fn run(&self) -> Result<(), Box<dyn Error>> {
        let mut cpu = Cpu::new(CpuOptions::default())?;
        let mut failed = 0;
        for options in shapes() {
            if self.is_over() {
                eprintln!("out of time before {options:?}");
                break;
            }
            let Ok(cuda) = self.open(&options).inspect_err(|why| eprintln!("{options:?}: {why}"))
            else {
                continue; // The chip has no clusters.
            };
            if let Err(reason) = self.time_shape(&options, cuda, &mut cpu) {
                eprintln!("{options:?}: {reason}");
                failed += 1;
            }
        }
        if failed > 0 { Err(format!("{failed} shapes failed").into()) } else { Ok(()) }
    }

    fn once(&self, case: &str, rows: usize) -> Result<(), Box<dyn Error>> {
        let known = CASES.iter().find(|known| known.0 == case);
        let rows = self.batch(rows, known.ok_or_else(|| format!("no case is named {case}"))?);
        let mut cuda = self.open(&CudaOptions::default())?;
        let mut results = Results::default();
        for _ in 0..5 {
            cuda.sample(&rows, &mut results)?;
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        Instant::now() > self.end
    }

    fn open(&self, options: &CudaOptions) -> Result<Cuda, Box<dyn Error>> {
        let bytes = self.rows_max * (self.logits[0].len() + 256);
        let options = CudaOptions {
            launch_rows_max: self.rows_max,
            launch_bytes_max: launch_bytes_min(self.rows_max).max(bytes),
            ..*options
        };
        Ok(Cuda::open(0, &options)?)
    }

    /// Every case and number of rows. A device that fails, or has wrong bits, has no more work.
    fn time_shape(
        &self,
        options: &CudaOptions,
        mut cuda: Cuda,
        cpu: &mut Cpu,
    ) -> Result<(), Box<dyn Error>> {
        let stopwatch = cuda.driver_mut().stopwatch()?;
        eprintln!("{options:?}: {:?}", cuda.driver());
        let planned = options.team_blocks.is_none();
        let (cases, counts) = match planned {
            true => (&CASES[..], &ROWS[..]),
            false => (&CASES[..CASES_OF_EVERY_SHAPE], &ROWS_OF_EVERY_SHAPE[..]),
        };
        for case in cases {
            for &rows in counts.iter().filter(|&&rows| rows <= self.rows_max) {
                if self.is_over() {
                    return Ok(());
                }
                let rows = self.batch(rows, case);
                check(case, &rows, &mut cuda, cpu)?;
                self.time(case, planned, &rows, &mut cuda, &stopwatch)?;
            }
        }
        Ok(())
    }

    fn batch(&self, rows: usize, &(_, asked): &Case) -> Vec<Row<'_>> {
        let row = |row: usize| {
            let seed = Some(row as u64);
            let spec = ParamsSpec { seed, ..asked };
            let params = spec.parse(|| 0).expect("valid parameters");
            Row::new(Dtype::F16, &self.logits[row % self.logits.len()], params).expect("a row")
        };
        (0..rows).map(row).collect()
    }

    fn time(
        &self,
        case: &Case,
        planned: bool,
        rows: &[Row<'_>],
        cuda: &mut Cuda,
        stopwatch: &Stopwatch,
    ) -> Result<(), Box<dyn Error>> {
        // From the call to the results, host and transfers included.
        let mut calls = Vec::new();
        let mut results = Results::default();
        for _ in 0..self.passes.min(7) {
            let begun = Instant::now();
            cuda.sample(rows, &mut results)?;
            calls.push(begun.elapsed());
        }
        let launch = cuda.prepare(0, rows);
        let mut passes = Vec::new();
        for _ in 0..=self.passes {
            passes.push(cuda.driver_mut().time(stopwatch, &launch)?);
        }
        // The first one warms up.
        let us = |part: fn(&Pass) -> Duration| median(passes[1..].iter().map(part).collect());
        let least = passes[1..].iter().map(|pass| pass.cold.sample).min().unwrap_or_default();
        let object = serde_json::json!({
            "case": case.0,
            "rows": rows.len(),
            "vocab_size": rows[0].vocab_size(),
            "planned": planned,
            "kernel": launch.kernel.name(),
            "team_blocks": launch.batch.team_blocks,
            "stage_bytes": launch.batch.stage_bytes,
            "shared_bytes": launch.shared_bytes,
            "kernel_us": us(|pass| pass.cold.sample),
            "kernel_min_us": least.as_secs_f64() * 1e6,
            "cut_us": us(|pass| pass.cold.cut),
            "kernel_cached_us": us(|pass| pass.cached.sample),
            "uploaded_us": us(|pass| pass.uploaded),
            "call_us": median(calls),
        });
        println!("{object}");
        Ok(())
    }
}

/// The planner's choice first, then every other one.
fn shapes() -> Vec<CudaOptions> {
    let mut all = vec![CudaOptions::default()];
    for kernel in [Kernel::Cluster, Kernel::Grid] {
        for stage in [false, true] {
            all.extend(TEAMS.map(|team_blocks| CudaOptions {
                kernel: Some(kernel),
                team_blocks: Some(team_blocks),
                stage: Some(stage),
                ..CudaOptions::default()
            }));
        }
    }
    all
}

/// A real row, cut or repeated; beyond the carried ones, turned by some tokens, so that no two are alike.
fn real(row: usize, vocab_size: usize) -> Vec<u8> {
    let carried = assets::rows();
    let from = &carried[row % carried.len()].logits;
    let turn = row / carried.len() * 7919;
    let tokens = from.len() / 2;
    (0..vocab_size)
        .flat_map(|token| {
            let at = (token + turn) % tokens * 2;
            [from[at], from[at + 1]]
        })
        .collect()
}

/// What is wrong is not timed.
fn check(
    case: &Case,
    rows: &[Row<'_>],
    cuda: &mut Cuda,
    cpu: &mut Cpu,
) -> Result<(), Box<dyn Error>> {
    let (mut expected, mut got) = (Results::default(), Results::default());
    let checked = &rows[..rows.len().min(CHECKED)];
    cpu.sample(checked, &mut expected)?;
    cuda.sample(rows, &mut got)?;
    match (0..checked.len()).find(|&row| expected.row(row) != got.row(row)) {
        None => Ok(()),
        Some(row) => {
            println!(
                "{}",
                serde_json::json!({"case": case.0, "rows": rows.len(), "wrong_row": row})
            );
            Err(format!("WRONG BITS: {} of {} rows, in row {row}", case.0, rows.len()).into())
        }
    }
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times.get(times.len() / 2).map_or(0.0, Duration::as_secs_f64) * 1e6
}
