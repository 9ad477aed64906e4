//! `logitd verify --recorded`: checks the answers in a trace.

use super::Args;
use crate::cli::Outcome;
use crate::cli::progress::Progress;
use crate::cli::text::grouped;
use crate::devices::describe;
use crate::files::difference;
use crate::record::{Mismatch, Verdict, verify};
use logitd_core::backend::Backend;
use std::error::Error;
use std::io::{Write, stdout};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

/// Samples every recorded request again on `backend`.
pub fn run(args: &Args, path: &Path, backend: &mut dyn Backend) -> Outcome {
    let error = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let start = Instant::now();
    let mut out = stdout();
    writeln!(out, "{} against {}", path.display(), describe(backend))?;
    let bytes = std::fs::metadata(path).map_err(|e| error(&e))?.len();
    let (mut progress, mut done) = (Progress::new(bytes, "bytes"), 0);
    let advance = |_: u64, at: u64| {
        progress.advance(at - done);
        done = at;
    };
    let verdict = verify(path, backend, advance).map_err(|e| error(&e))?;
    drop(progress);
    report(&mut out, &verdict, start)?;
    match &verdict.first {
        Some(first) => {
            writeln!(out, "{}", explain(args, first))?;
            Ok(ExitCode::FAILURE)
        }
        None if verdict.rows_different > 0 => Ok(ExitCode::FAILURE),
        None => match &verdict.uncheckable_reason {
            // No difference was found, but neither was everything compared.
            Some(reason) => {
                let n = grouped(verdict.uncheckable);
                Err(error(&format!("{n} answers could not be checked: {reason}")).into())
            }
            None if verdict.rows_compared == 0 => {
                Err(error(&"nothing was compared: it holds no answer that can be checked").into())
            }
            None => Ok(ExitCode::SUCCESS),
        },
    }
}

fn report(out: &mut impl Write, verdict: &Verdict, start: Instant) -> Result<(), Box<dyn Error>> {
    for lost in &verdict.damage {
        let (at, bytes) = (grouped(lost.at), grouped(lost.bytes));
        writeln!(out, "lost: the frame at byte {at} ({bytes} bytes): {}", lost.reason)?;
    }
    let differences = match verdict.rows_different {
        0 => "0 differences".into(),
        n => format!("{} rows DIFFER", grouped(n)),
    };
    writeln!(
        out,
        "{} requests, {} without an answer; {} rows compared in {:.1?}: {differences}",
        grouped(verdict.requests),
        grouped(verdict.unanswered),
        grouped(verdict.rows_compared),
        start.elapsed()
    )?;
    Ok(())
}

fn explain(args: &Args, first: &Mismatch) -> String {
    let Mismatch { request, device, difference, replayable } = first;
    let mut text = format!("request {request}, answered by {device}: {difference}");
    let Some(row) = replayable else { return text };
    if row.b.is_some() {
        text += &format!("\n{row}\n  a: sampled now, b: the recorded answer");
    }
    text += &match difference::write(row, &args.dump, "logitd-difference") {
        Ok(path) => format!("\nwritten:  {}", path.display()),
        Err(error) => format!("\nnot written to {}: {error}", args.dump.display()),
    };
    text
}
