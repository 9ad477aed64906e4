//! `bench --device cuda`: launches on the device's own clock, against the bandwidth of its memory.
//!
//! Each row has its own top_k, top_p and seed. A launch is timed with its logits in the device's memory but
//! not in its caches, at once again, and with upload and download; the copy that its bandwidth is
//! compared with runs between. Medians of all passes are printed.

use super::cases::Values;
use super::measure::check_backend;
use super::{Args, VOCAB_SIZE, make_rows};
use crate::cli::Outcome;
use crate::devices::{BackendName, describe};
use logitd_core::backend::Backend;
use logitd_core::backend::cuda::device::launch_bytes_min;
use logitd_core::backend::cuda::device::stopwatch::{Pass, Stopwatch};
use logitd_core::backend::cuda::driver::Launch;
use logitd_core::backend::cuda::{Cuda, CudaOptions};
use logitd_core::batch::{Dtype, Results, Row};
use logitd_core::params::ParamsSpec;
use std::error::Error;
use std::io::{Write, stdout};
use std::process::ExitCode;
use std::time::Duration;

/// Rows of a launch, unless said otherwise.
const BATCHES: [u32; 6] = [1, 8, 32, 64, 256, 512];
/// A second size of vocabulary, unless one is given.
const LARGE_VOCAB_SIZE: u32 = 262_144;

/// A case by name.
type Case = (&'static str, fn(u32) -> ParamsSpec);

/// What is asked of each row, `row` making it another than its neighbours'.
const CASES: [Case; 3] = [
    ("top_k_top_p", |row| ParamsSpec {
        temperature: 0.8,
        top_k: 20 + row % 64,
        top_p: 0.8 + 0.01 * (row % 19) as f32,
        ..Default::default()
    }),
    ("top_p", |row| ParamsSpec {
        temperature: 0.8,
        top_p: 0.8 + 0.01 * (row % 19) as f32,
        ..Default::default()
    }),
    ("greedy", |_| ParamsSpec { temperature: 0.0, ..Default::default() }),
];

/// One line of the report.
#[derive(serde::Serialize)]
struct Measurement<'a> {
    case: &'a str,
    device: &'a str,
    name: &'a str,
    isa: &'a str,
    dtype: &'a str,
    rows: usize,
    vocab_size: u32,
    /// Blocks that shared a row.
    team_blocks: u32,
    /// Shared memory of a block for its slice of the row; 0: it was read again.
    stage_bytes: u32,
    passes: usize,
    kernel_us: f64,
    kernel_cached_us: f64,
    uploaded_us: f64,
    /// Bytes of logits over the kernel's time.
    read_gb_per_s: f64,
    /// Bytes read and written by a copy in the device's memory, over its time.
    copy_gb_per_s: f64,
    /// The kernel's time over that of reading the logits once at the copy's bandwidth.
    ratio: f64,
}

/// Runs it.
pub(super) fn run(args: &Args, device: BackendName) -> Outcome {
    let BackendName::Cuda(ordinal) = device else {
        return Err(
            format!("--device {device} has no clock of its own; give cuda or cuda:N").into()
        );
    };
    let batches = if args.batch.is_empty() { BATCHES.to_vec() } else { args.batch.clone() };
    let vocab_sizes = match args.vocab_size {
        Some(size) => vec![size],
        None => vec![VOCAB_SIZE, LARGE_VOCAB_SIZE],
    };
    let most = batches.iter().copied().max().unwrap_or(1) as usize;
    let largest = vocab_sizes.iter().copied().max().unwrap_or(1) as usize;
    let row_bytes = largest * Dtype::from(args.dtype).size_bytes() + 128;
    let options = CudaOptions {
        launch_rows_max: most,
        launch_bytes_max: launch_bytes_min(most).max(most * (row_bytes + 128)),
        ..CudaOptions::default()
    };
    let mut cuda = Cuda::open(ordinal, &options)
        .map_err(|e| format!("{e}; without --device the processor is timed"))?;
    let stopwatch = cuda.driver_mut().stopwatch()?;
    if !args.json {
        head(&cuda, args)?;
    }
    for vocab_size in vocab_sizes {
        let rows = make_rows(Values::Real, args, most, vocab_size)?;
        for (case, spec) in CASES {
            for &count in &batches {
                let batch = rows.batch_of(count as usize, spec);
                check_backend(case, &batch, &mut cuda, &mut Results::default())?;
                line(args, case, &batch, &mut cuda, &stopwatch)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn head(cuda: &Cuda, args: &Args) -> std::io::Result<()> {
    let mut out = stdout().lock();
    writeln!(
        out,
        "{}: real rows, repeated, {}; medians of {} passes",
        describe(cuda),
        Dtype::from(args.dtype),
        args.passes
    )?;
    writeln!(
        out,
        "Every launch is compared with the reference, bit by bit, before it is timed.\n"
    )?;
    writeln!(
        out,
        "{:12} {:>7} {:>5} {:>5} {:>10} {:>10} {:>12} {:>9} {:>9} {:>6}",
        "case",
        "vocab",
        "rows",
        "team",
        "kernel us",
        "in L2 us",
        "uploaded us",
        "GB/s",
        "copy GB/s",
        "ratio"
    )
}

fn line(
    args: &Args,
    case: &str,
    batch: &[Row<'_>],
    cuda: &mut Cuda,
    stopwatch: &Stopwatch,
) -> Result<(), Box<dyn Error>> {
    let launch = cuda.prepare(0, batch);
    assert_eq!(launch.batch.row_count as usize, batch.len(), "room was made for every row");
    let (passes, bandwidths) = time(args.passes as usize, &launch, cuda, stopwatch)?;
    let us = |part: fn(&Pass) -> Duration| {
        median(passes.iter().map(|pass| part(pass).as_secs_f64() * 1e6).collect())
    };
    let kernel_us = us(|pass| pass.kernel);
    let bytes: usize = batch.iter().map(Row::bytes).sum();
    let copy_gb_per_s = median(bandwidths) / 1e9;
    let read_gb_per_s = bytes as f64 / kernel_us.max(1e-3) / 1e3;
    let device = cuda.device();
    let measured = Measurement {
        case,
        device: &device.id,
        name: &device.name,
        isa: &device.isa,
        dtype: batch[0].dtype().name(),
        rows: batch.len(),
        vocab_size: batch[0].vocab_size(),
        team_blocks: launch.batch.team_blocks,
        stage_bytes: launch.batch.stage_bytes,
        passes: passes.len(),
        kernel_us,
        kernel_cached_us: us(|pass| pass.kernel_cached),
        uploaded_us: us(|pass| pass.uploaded),
        read_gb_per_s,
        copy_gb_per_s,
        ratio: copy_gb_per_s / read_gb_per_s,
    };
    let mut out = stdout().lock();
    if args.json {
        serde_json::to_writer(&mut out, &measured)?;
        writeln!(out)?;
        return Ok(());
    }
    writeln!(
        out,
        "{:12} {:>7} {:>5} {:>5} {:>10.1} {:>10.1} {:>12.1} {:>9.1} {:>9.1} {:>6.2}",
        measured.case,
        measured.vocab_size,
        measured.rows,
        measured.team_blocks,
        measured.kernel_us,
        measured.kernel_cached_us,
        measured.uploaded_us,
        measured.read_gb_per_s,
        measured.copy_gb_per_s,
        measured.ratio
    )?;
    Ok(())
}

/// The passes, and the bandwidth of a copy beside each. The first of either warms up.
fn time(
    passes: usize,
    launch: &Launch,
    cuda: &mut Cuda,
    stopwatch: &Stopwatch,
) -> Result<(Vec<Pass>, Vec<f64>), String> {
    let driver = cuda.driver_mut();
    let (mut times, mut bandwidths) = (Vec::new(), Vec::new());
    for pass in 0..=passes {
        let time = driver.time(stopwatch, launch)?;
        let bandwidth = driver.copy_bandwidth(stopwatch)?;
        if pass > 0 {
            times.push(time);
            bandwidths.push(bandwidth);
        }
    }
    Ok((times, bandwidths))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
