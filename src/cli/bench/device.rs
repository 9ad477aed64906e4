//! `bench --device cuda`: launches on the device's own clock.

use super::{Args, VOCAB_SIZE, make_rows};
use crate::cli::Outcome;
use crate::devices::{BackendName, describe};
use crate::tools::bench::Values;
use crate::tools::bench::launches::{Measurement, NAMES, Subject, cases, params_of};
use logitd_core::backend::cuda::Cuda;
use logitd_core::batch::Dtype;
use std::io::{self, Write, stdout};
use std::process::ExitCode;

/// Rows of a launch, unless said otherwise.
const BATCHES: [u32; 6] = [1, 8, 32, 64, 256, 512];
/// A second size of vocabulary, unless one is given.
const LARGE_VOCAB_SIZE: u32 = 262_144;

/// Runs it.
pub(super) fn run(args: &Args, device: BackendName) -> Outcome {
    let BackendName::Cuda(ordinal) = device else {
        return Err(
            format!("--device {device} has no clock of its own; give cuda or cuda:N").into()
        );
    };
    let cases = if args.case.is_empty() { cases() } else { args.case.clone() };
    if let Some(case) = cases.iter().find(|case| !NAMES.contains(&case.name)) {
        let allowed = NAMES.join(", ");
        return Err(format!("--case is {}; with --device allowed: {allowed}", case.name).into());
    }
    let batches = if args.batch.is_empty() { BATCHES.to_vec() } else { args.batch.clone() };
    let vocab_sizes = match args.vocab_size {
        Some(size) => vec![size],
        None => vec![VOCAB_SIZE, LARGE_VOCAB_SIZE],
    };
    let most = batches.iter().copied().max().unwrap_or(1) as usize;
    let largest = vocab_sizes.iter().copied().max().unwrap_or(1) as usize;
    let mut row_bytes = largest * Dtype::from(args.dtype).size_bytes();
    if cases.iter().any(|case| case.adjustments(1).is_some()) {
        // A row of f32 beside the stored one, a bitmask, and some biases.
        row_bytes += largest * size_of::<f32>() + largest / 8 + 4096;
    }
    let mut subject = Subject::open(ordinal, most, row_bytes)?;
    if !args.json {
        head(subject.backend(), args)?;
    }
    for vocab_size in vocab_sizes {
        let rows = make_rows(Values::Real, args, most, vocab_size)?;
        for case in &cases {
            let adjustments = case.adjustments(vocab_size);
            let inspect = case.inspect();
            for &count in &batches {
                let batch = rows.batch_of(count as usize, |row| params_of(case, row));
                let batch = batch.into_iter().map(|row| {
                    row.with_adjustments(adjustments.as_ref()).with_inspect(inspect.as_ref())
                });
                let batch: Vec<_> = batch.collect();
                line(args, &subject.measure(case.name, &batch, args.passes as usize)?)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn head(cuda: &Cuda, args: &Args) -> io::Result<()> {
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
        "{:20} {:>7} {:>5} {:>5} {:>10} {:>10} {:>10} {:>10} {:>10} {:>12} {:>9} {:>9} {:>6}",
        "case",
        "vocab",
        "rows",
        "team",
        "kernel us",
        "in L2 us",
        "adjust us",
        "cut us",
        "inspect us",
        "uploaded us",
        "GB/s",
        "copy GB/s",
        "ratio"
    )
}

fn line(args: &Args, measured: &Measurement) -> io::Result<()> {
    let mut out = stdout().lock();
    if args.json {
        serde_json::to_writer(&mut out, measured)?;
        return writeln!(out);
    }
    writeln!(
        out,
        "{:20} {:>7} {:>5} {:>5} {:>10.1} {:>10.1} {:>10.1} {:>10.1} {:>10.1} {:>12.1} {:>9.1} {:>9.1} {:>6.2}",
        measured.case,
        measured.vocab_size,
        measured.rows,
        measured.team_blocks,
        measured.kernel_us,
        measured.kernel_cached_us,
        measured.adjust_us,
        measured.cut_us,
        measured.inspect_us,
        measured.uploaded_us,
        measured.read_gb_per_s,
        measured.copy_gb_per_s,
        measured.ratio
    )
}
