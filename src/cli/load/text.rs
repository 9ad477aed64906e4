//! The report as text.

use super::{CheckReport, Report};
use crate::cli::text::{grouped, table};
use crate::tools::load::{Choices, Latency, Shape, Summary};
use anstyle::{AnsiColor, Style};
use logitd_core::params::ParamsSpec;
use std::io::{self, Write};

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const WARNING: Style = AnsiColor::Yellow.on_default();
const WRONG: Style = AnsiColor::Red.on_default().bold();

/// Prints everything.
pub fn print(out: &mut impl Write, report: &Report) -> io::Result<()> {
    for target in &report.targets {
        let devices = target.devices.join(", ");
        writeln!(out, "{BOLD}{}{BOLD:#}  logitd {}, {devices}", target.target, target.version)?;
    }
    writeln!(out, "{}", report.requests.describe())?;
    if report.runs.len() > 1 {
        sweep(out, &report.runs)?;
    } else {
        report.runs.iter().try_for_each(|run| single(out, run))?;
    }
    report.check.iter().try_for_each(|check| checked(out, check))
}

/// Parameters in a line.
pub fn params(shape: &Shape) -> String {
    let said = |Choices { field, values }: &Choices| {
        let usual = field.get(ParamsSpec::default());
        let said = ALWAYS_SAID.contains(&field.name) || values.iter().any(|value| *value != usual);
        let values: Vec<_> = values.iter().map(ToString::to_string).collect();
        said.then(|| format!("{} {}", field.name, values.join("|")))
    };
    shape.params.iter().filter_map(said).collect::<Vec<_>>().join(", ")
}

/// Parameters that are named whatever they are; others where they are not off.
const ALWAYS_SAID: [&str; 3] = ["temperature", "top_k", "top_p"];

fn single(out: &mut impl Write, run: &Summary) -> io::Result<()> {
    writeln!(
        out,
        "{}; {:.1} s after {:.1} s of warm-up\n",
        run.pace.describe(),
        run.elapsed_s,
        run.warmup_s
    )?;
    writeln!(
        out,
        "{BOLD}{}{BOLD:#} requests/s   {BOLD}{}{BOLD:#} rows/s   {BOLD}{:.3}{BOLD:#} GB/s",
        rate(run.requests_per_s),
        rate(run.rows_per_s),
        run.gb_per_s
    )?;
    writeln!(
        out,
        "{} answered, {} refused, {} failed, {} not sent; {} rows\n",
        grouped(run.answered),
        grouped(run.refused),
        grouped(run.errors),
        grouped(run.overflow),
        grouped(run.rows)
    )?;

    let names = run.response.figures().map(|(name, _)| name.to_owned());
    let mut rows = vec![["microseconds".to_owned()].into_iter().chain(names).collect()];
    for (name, latency) in [
        ("service", &run.service),
        ("response", &run.response),
        ("lag", &run.lag),
        ("refusal", &run.refusal),
        ("server: queue", &run.server.queue),
        ("server: copy", &run.server.copy),
        ("server: compute", &run.server.compute),
    ] {
        if latency.count > 0 && latency.max_us > 0.0 {
            rows.push(times(name, latency));
        }
    }
    print_table(out, &rows)?;
    writeln!(out)?;
    let devices: Vec<_> =
        run.devices.iter().map(|(device, n)| format!("{device}: {}", grouped(*n))).collect();
    if !devices.is_empty() {
        writeln!(out, "answered by {}", devices.join(", "))?;
    }
    if run.rows_without_token > 0 {
        let rows = counted(run.rows_without_token, "row");
        writeln!(out, "{rows} without a token, because of their logits")?;
    }
    notes(out, run)
}

fn notes(out: &mut impl Write, run: &Summary) -> io::Result<()> {
    for (code, failure) in &run.failures {
        writeln!(out, "{} x {code}: {}", grouped(failure.count), failure.message)?;
    }
    for warning in &run.warnings {
        writeln!(out, "{WARNING}note:{WARNING:#} {warning}")?;
    }
    Ok(())
}

fn sweep(out: &mut impl Write, runs: &[Summary]) -> io::Result<()> {
    let head = [
        "asked",
        "requests/s",
        "rows/s",
        "GB/s",
        "p50 us",
        "p99 us",
        "max us",
        "refused",
        "failed",
        "not sent",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(runs.iter().map(|run| {
        vec![
            run.pace.short(),
            rate(run.requests_per_s),
            rate(run.rows_per_s),
            format!("{:.3}", run.gb_per_s),
            us(run.response.p50_us),
            us(run.response.p99_us),
            us(run.response.max_us),
            grouped(run.refused),
            grouped(run.errors),
            grouped(run.overflow),
        ]
    }));
    writeln!(out)?;
    print_table(out, &rows)?;
    writeln!(out, "\n{DIM}Times are response times.{DIM:#}")?;
    for run in runs.iter().filter(|run| !run.warnings.is_empty() || !run.failures.is_empty()) {
        writeln!(out, "{BOLD}at {}{BOLD:#}", run.pace.short())?;
        notes(out, run)?;
    }
    Ok(())
}

fn checked(out: &mut impl Write, check: &CheckReport) -> io::Result<()> {
    let (answers, rows) = (counted(check.answers, "answer"), counted(check.rows, "row"));
    if check.rows == 0 {
        let why = match check.skipped + check.uncheckable {
            0 => ": there was no answer, or none was chosen",
            _ => "",
        };
        writeln!(out, "{WRONG}NOTHING was checked{WRONG:#} (--check {}){why}", check.fraction)?;
        return uncheckable(out, check);
    }
    write!(out, "checked {answers} ({rows}) against {}: ", check.against)?;
    match check.rows_wrong {
        0 => writeln!(out, "all equal in every bit")?,
        n => writeln!(out, "{WRONG}{} WRONG{WRONG:#}", counted(n, "row"))?,
    }
    uncheckable(out, check)?;
    check.first.iter().try_for_each(|first| writeln!(out, "first: {first}"))
}

/// What was to be checked and was not.
fn uncheckable(out: &mut impl Write, check: &CheckReport) -> io::Result<()> {
    if check.skipped > 0 {
        let n = grouped(check.skipped);
        writeln!(out, "{n} more were chosen but not kept; raise --check-rows-max")?;
    }
    if let Some(reason) = &check.uncheckable_reason {
        writeln!(out, "{} could not be checked: {reason}", counted(check.uncheckable, "answer"))?;
    }
    Ok(())
}

/// A line of times.
fn times(name: &str, latency: &Latency) -> Vec<String> {
    let figure = |(_, value): (_, Option<f64>)| value.map_or_else(|| "-".into(), us);
    [name.to_owned()].into_iter().chain(latency.figures().map(figure)).collect()
}

/// A table whose first row is its head.
fn print_table(out: &mut impl Write, rows: &[Vec<String>]) -> io::Result<()> {
    let lines = table(rows);
    let (head, rest) = lines.split_first().expect("there is a head");
    writeln!(out, "{DIM}{head}{DIM:#}")?;
    rest.iter().try_for_each(|line| writeln!(out, "{line}"))
}

/// Microseconds in few characters.
pub fn us(value: f64) -> String {
    if value < 10.0 { format!("{value:.1}") } else { grouped(value.round() as u64) }
}

/// A rate in few characters.
pub fn rate(value: f64) -> String {
    if value < 100.0 { format!("{value:.1}") } else { grouped(value.round() as u64) }
}

fn counted(n: u64, what: &str) -> String {
    format!("{} {what}{}", grouped(n), if n == 1 { "" } else { "s" })
}
