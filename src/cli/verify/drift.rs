//! `verify --drift A.npy B.npy`: how much of what is drawn changes between two files of the same positions.

use super::Args;
use crate::cli::Outcome;
use crate::cli::progress::Progress;
use crate::cli::text::grouped;
use crate::files::npy::{Declared, LogitsFile};
use crate::tools::drift::{Drift, DriftError, Side};
use logitd_core::backend::Backend;
use logitd_core::batch::{Results, Row};
use logitd_core::params::{DrawRule, ParamsSpec};
use serde_json::json;
use std::error::Error;
use std::io::{self, Write, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Runs the command.
pub fn run(args: &Args, [a, b]: [&PathBuf; 2], backend: &mut dyn Backend) -> Outcome {
    let spec = args.sampling.spec()?;
    let mut files = [open(args, a)?, open(args, b)?];
    alike([a, b], &files)?;
    let drift = measure(args, [a, b], &mut files, spec, backend)?;
    let mut out = stdout();
    if args.json {
        let object = json!({
            "rows": drift.rows,
            "draws": drift.draws,
            "least": drift.least(),
            "cumulative": drift.cumulative(),
            "race": drift.race(),
            "taken": {
                "match": drift.matched(DrawRule::Cumulative),
                "match_race": drift.matched(DrawRule::Race),
                "rejection": drift.by_rejection(),
            },
        });
        writeln!(out, "{object}")?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(
        out,
        "{} rows, {} draws by each rule, the same seeds and positions\n",
        grouped(drift.rows),
        grouped(drift.draws)
    )?;
    table(
        &mut out,
        [
            ("least", drift.least(), "total variation of what is kept: no rule can differ less"),
            ("cumulative", drift.cumulative(), "draws that differ, draw_rule cumulative"),
            ("race", drift.race(), "draws that differ, draw_rule race"),
        ],
    )?;
    writeln!(out, "\nDrafts of the second file that the first takes\n")?;
    table(
        &mut out,
        [
            (
                "match",
                drift.matched(DrawRule::Cumulative),
                "drawn with the target's seed, cumulative",
            ),
            ("match, race", drift.matched(DrawRule::Race), "drawn with the target's seed, by race"),
            ("rejection", drift.by_rejection(), "told with the row that they were drawn from"),
        ],
    )?;
    Ok(ExitCode::SUCCESS)
}

/// Shares, and what they are of.
fn table(out: &mut impl Write, lines: [(&str, f64, &str); 3]) -> io::Result<()> {
    lines.iter().try_for_each(|(name, share, what)| {
        let percent = format!("{:.2}%", share * 100.0);
        writeln!(out, "  {name:<12}{percent:>8}  {what}")
    })
}

fn open(args: &Args, path: &Path) -> Result<LogitsFile, Box<dyn Error>> {
    let declared = Declared { dtype: args.dtype.map(Into::into), vocab_size: args.vocab_size };
    LogitsFile::open(path, declared).map_err(|error| format!("{}: {error}", path.display()).into())
}

/// Whether the files can be of the same positions.
fn alike([a, b]: [&PathBuf; 2], [of_a, of_b]: &[LogitsFile; 2]) -> Result<(), String> {
    let shapes = [of_a, of_b].map(|file| (file.rows(), file.vocab_size()));
    if shapes[0] == shapes[1] {
        return Ok(());
    }
    let [(rows_a, vocab_a), (rows_b, vocab_b)] = shapes;
    Err(format!(
        "{} has {rows_a} rows of {vocab_a} tokens, and {} has {rows_b} of {vocab_b}; --drift compares files of the \
         same positions, which have as many rows and tokens",
        a.display(),
        b.display()
    ))
}

fn measure(
    args: &Args,
    paths: [&PathBuf; 2],
    files: &mut [LogitsFile; 2],
    spec: ParamsSpec,
    backend: &mut dyn Backend,
) -> Result<Drift, Box<dyn Error>> {
    let rows = files[0].rows();
    let mut progress = Progress::new(rows as u64, "rows");
    let mut drift = Drift::default();
    let mut results = Results::default();
    let [mut a, mut b] = [Vec::new(), Vec::new()];
    for row in 0..rows {
        // Each row has a position of its own, so that they do not share their random bits.
        let position = spec.position.wrapping_add(row as u64);
        let params = ParamsSpec { seed: Some(args.seed), position, ..spec }.parse(|| args.seed)?;
        a.clear();
        b.clear();
        files[0].read(row..row + 1, &mut a)?;
        files[1].read(row..row + 1, &mut b)?;
        let pair =
            [Row::new(files[0].dtype(), &a, params)?, Row::new(files[1].dtype(), &b, params)?];
        drift.add(backend, [&pair[0], &pair[1]], &mut results).map_err(|error| {
            let path = match error {
                DriftError::Row(Side::B, _) => paths[1],
                _ => paths[0],
            };
            format!("{}, row {row}: {error}", path.display())
        })?;
        progress.advance(1);
    }
    Ok(drift)
}
