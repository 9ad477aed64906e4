//! `logitd tune --recorded`: how many tokens of a trace other parameters would have changed.

use super::TuneArgs;
use crate::cli::Outcome;
use crate::cli::positions::threads;
use crate::cli::progress::Progress;
use crate::cli::text::{grouped, table};
use crate::record::{Changes, Setting, changes};
use logitd_core::backend::cpu::{Cpu, CpuOptions};
use serde_json::json;
use std::io::{Write, stdout};
use std::path::Path;
use std::process::ExitCode;

/// Every row with its own parameters: nothing changes.
const AS_RECORDED: &str = "as recorded";

/// Runs the command.
pub fn run(args: &TuneArgs, path: &Path) -> Outcome {
    if args.compare.is_empty() {
        return Err("--recorded needs a setting to compare with: --compare temperature=0.7".into());
    }
    let error = |error: &dyn std::fmt::Display| format!("--recorded {}: {error}", path.display());
    let names = [AS_RECORDED].into_iter().chain(args.compare.iter().map(|of| of.name.as_str()));
    let names: Vec<&str> = names.collect();
    let settings = [Setting::default()].into_iter();
    let settings: Vec<Setting> =
        settings.chain(args.compare.iter().map(|of| of.setting.clone())).collect();
    let mut backend =
        Cpu::new(CpuOptions { threads: threads(args.threads), ..CpuOptions::default() })?;
    let bytes = std::fs::metadata(path).map_err(|e| error(&e))?.len();
    let (mut progress, mut done) = (Progress::new(bytes, "bytes"), 0);
    let advance = |at: u64| {
        progress.advance(at - done);
        done = at;
    };
    let found = changes(path, &mut backend, &settings, advance).map_err(|e| error(&e))?;
    drop(progress);
    if found.draws == 0 {
        let reason = found.reason.map(|reason| format!(": {reason}")).unwrap_or_default();
        return Err(error(&format!("no draw in it could be made again{reason}")).into());
    }
    let share = |changed: u64| changed as f64 / found.draws as f64;
    for (name, changed) in names.iter().zip(&found.changed).filter(|_| args.json) {
        let (draws, change) = (found.draws, share(*changed));
        let line = json!({"name": name, "draws": draws, "changed": changed, "change": change});
        writeln!(stdout(), "{line}")?;
    }
    if !args.json {
        say(path, &names, &found, share)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn say(
    path: &Path,
    names: &[&str],
    found: &Changes,
    share: impl Fn(u64) -> f64,
) -> std::io::Result<()> {
    let mut out = anstream::stdout();
    let reason = found.reason.as_ref().map(|reason| format!(", first: {reason}"));
    let left_out = match (found.left_out, reason.unwrap_or_default()) {
        (0, _) => String::new(),
        (n, reason) => format!(
            "; {} left out: of drafts or beams, damaged, without an answer, or not possible with one of the settings{reason}",
            grouped(n)
        ),
    };
    writeln!(
        out,
        "{}: {} draws of {} requests, with their seeds{left_out}\n",
        path.display(),
        grouped(found.draws),
        grouped(found.requests),
    )?;
    let head = ["", "other tokens", ""].map(str::to_owned).to_vec();
    let line = |(name, changed): (&&str, &u64)| {
        vec![
            (*name).to_owned(),
            format!("{:.2}%", 100.0 * share(*changed)),
            format!("{} of {}", grouped(*changed), grouped(found.draws)),
        ]
    };
    let cells: Vec<_> =
        std::iter::once(head).chain(names.iter().zip(&found.changed).map(line)).collect();
    for line in table(&cells) {
        writeln!(out, "{line}")?;
    }
    Ok(())
}
