//! What was found, as tables for people and lines of JSON for programs.

use super::{Report, Shown};
use crate::cli::text::{grouped, table};
use crate::study::choose::Difference;
use crate::study::metrics::Metric;
use crate::study::search::{Point, double};
use anstyle::Style;
use logitd_core::params::shortest;
use serde::Serialize;
use std::io::{self, Write};
use std::path::Path;

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();

/// A setting as JSON: what is off is 0 or 1.
#[derive(Serialize)]
struct Line<'a> {
    name: &'a str,
    temperature: f64,
    top_k: u32,
    top_p: f64,
    min_p: f64,
    rows: u64,
    rows_failed: u64,
    hits: u64,
    nll: f64,
    brier: f64,
    coverage: f64,
    tail: f64,
    entropy: f64,
    surprise: f64,
    mean_kept: f64,
    /// Of its nll to that of the best, and the standard error of that.
    nll_difference: f64,
    nll_difference_error: Option<f64>,
}

/// Prints a line a setting.
pub fn json(out: &mut impl Write, report: &Report<'_>) -> io::Result<()> {
    for shown in report.shown.iter().chain([&report.simplest]) {
        let Point { temperature, top_k, top_p, min_p } = shown.trial.point;
        let mean = |metric| report.mean_of(&shown.trial, metric);
        let line = Line {
            name: &shown.name,
            temperature: double(temperature),
            top_k,
            top_p: double(top_p),
            min_p: double(min_p),
            rows: report.session.rows(),
            rows_failed: report.session.rows_failed(),
            hits: shown.trial.total.hits,
            nll: mean(Metric::Nll),
            brier: mean(Metric::Brier),
            coverage: mean(Metric::Coverage),
            tail: mean(Metric::Tail),
            entropy: mean(Metric::Entropy),
            surprise: mean(Metric::Surprise),
            mean_kept: mean(Metric::Kept),
            nll_difference: shown.difference.mean,
            nll_difference_error: shown.difference.error,
        };
        writeln!(out, "{}", serde_json::to_string(&line)?)?;
    }
    Ok(())
}

/// Prints everything.
pub fn print(
    out: &mut impl Write,
    report: &Report<'_>,
    study: &Path,
    page: &Path,
) -> io::Result<()> {
    let session = report.session;
    let (rows, groups) = (session.rows(), session.group_rows().len());
    let groups =
        if session.setup().grouped { format!(" in {groups} groups") } else { String::new() };
    writeln!(
        out,
        "{BOLD}goal: {}{BOLD:#}; {} positions{groups}; {} settings\n",
        session.setup().goal,
        grouped(rows),
        grouped(session.trials().len() as u64)
    )?;
    lines(out, &settings(report))?;

    writeln!(out, "\n{}", simplest(report))?;
    if session.setup().grouped {
        writeln!(out)?;
        lines(out, &by_group(report))?;
    }
    if !report.folds.is_empty() {
        folds(out, report)?;
    }
    if !report.front.is_empty() {
        writeln!(out, "\nNo setting is better in both metrics than one of these:")?;
        for (point, [(a, of_a), (b, of_b)]) in &report.front {
            writeln!(out, "  {} {of_a:.4}, {} {of_b:.4}: {point}", a.name(), b.name())?;
        }
    }
    let new = session.trials().len() - session.recorded();
    writeln!(
        out,
        "\n{DIM}{}: {} settings, {} of them new, in {:.1} s; Optuna opens it: optuna-dashboard {0}\n\
         {}: the same with pictures{DIM:#}",
        study.display(),
        grouped(session.trials().len() as u64),
        grouped(new as u64),
        report.took.as_secs_f64(),
        page.display()
    )
}

/// The settings that are shown, under their head.
pub fn settings(report: &Report<'_>) -> Vec<Vec<String>> {
    let head =
        ["", "temperature", "top_k", "top_p", "min_p", "nll", "", "coverage", "tail", "entropy"];
    let mut cells = vec![head.map(str::to_owned).to_vec()];
    cells.extend(report.shown.iter().map(|shown| setting(report, shown)));
    cells
}

/// Cells in columns, the first line in bold.
fn lines(out: &mut impl Write, cells: &[Vec<String>]) -> io::Result<()> {
    for (i, line) in table(cells).iter().enumerate() {
        match i {
            0 => writeln!(out, "{BOLD}{line}{BOLD:#}")?,
            _ => writeln!(out, "{line}")?,
        }
    }
    Ok(())
}

fn setting(report: &Report<'_>, shown: &Shown) -> Vec<String> {
    let mean = |metric| report.mean_of(&shown.trial, metric);
    let difference = match shown.name.as_str() {
        "best" => String::new(),
        _ => difference(&shown.difference),
    };
    let mut cells = vec![shown.name.clone()];
    cells.extend(values(shown.trial.point));
    cells.extend([
        format!("{:.3}", mean(Metric::Nll)),
        difference,
        format!("{:.1}%", 100.0 * mean(Metric::Coverage)),
        format!("{:.2}%", 100.0 * mean(Metric::Tail)),
        format!("{:.2}", mean(Metric::Entropy)),
    ]);
    cells
}

/// What a setting has of each parameter.
pub fn values(point: Point) -> [String; 4] {
    let off = |on: bool, text: String| if on { text } else { "off".into() };
    [
        shortest(point.temperature),
        off(point.top_k > 0, point.top_k.to_string()),
        off(point.top_p < 1.0, shortest(point.top_p)),
        off(point.min_p > 0.0, shortest(point.min_p)),
    ]
}

fn difference(difference: &Difference) -> String {
    match difference.error {
        Some(error) => format!("{:+.3} ± {error:.3}", difference.mean),
        None => format!("{:+.3}", difference.mean),
    }
}

/// Whether less would do.
pub fn simplest(report: &Report<'_>) -> String {
    let best = report.shown[0].trial.point;
    if report.simplest.trial.point.key() == best.key() {
        return "No simpler setting is as good, within one standard error.".into();
    }
    format!(
        "The simplest setting that is as good, within one standard error: {} (nll {})",
        report.simplest.trial.point,
        difference(&report.simplest.difference)
    )
}

/// The best of each group, and what the best of all costs there.
pub fn by_group(report: &Report<'_>) -> Vec<Vec<String>> {
    let session = report.session;
    let (measure, metrics) = (session.setup().measure, session.setup().goal.metrics());
    let best = report.shown[0].trial.point;
    let metric = session.setup().goal.metric;
    let head =
        ["best by group", "rows", "temperature", "top_k", "top_p", "min_p"].map(str::to_owned);
    let mut head = head.to_vec();
    head.extend(metrics.iter().map(|metric| metric.name().to_owned()));
    head.push(format!("{} of the best of all", metric.name()));
    let mut cells = vec![head];
    for (&label, &rows) in session.group_rows() {
        let sets = session.scored_in(label);
        let name = session.setup().data.about.groups.get(label as usize);
        let mut line = vec![name.cloned().unwrap_or(label.to_string()), grouped(rows)];
        let mean =
            |i: usize, metric| format!("{:.3}", measure.mean(metric, sets[i].rows, sets[i].sums));
        match session.chooser().ranked(&sets).first() {
            Some(&own) => {
                line.extend(values(sets[own].point));
                line.extend(metrics.iter().map(|metric| mean(own, *metric)));
            }
            None => line.extend(std::iter::repeat_n("none".to_owned(), 4 + metrics.len())),
        }
        let of_all = sets.iter().position(|set| set.point.key() == best.key());
        line.push(of_all.map_or(String::new(), |i| mean(i, metric)));
        cells.push(line);
    }
    cells
}

/// What choosing without a part of the rows is worth on that part.
fn folds(out: &mut impl Write, report: &Report<'_>) -> io::Result<()> {
    let metrics = report.session.setup().goal.metrics();
    let rows: u64 = report.folds.iter().map(|fold| fold.rows).sum();
    let over = |place: usize, of: fn((f64, f64)) -> f64| {
        let sum: f64 =
            report.folds.iter().map(|fold| fold.rows as f64 * of(fold.means[place])).sum();
        sum / rows as f64
    };
    writeln!(
        out,
        "\nChosen without one of {} parts of the rows, and measured on it:",
        report.folds.len()
    )?;
    for fold in &report.folds {
        let chosen =
            fold.point.map_or("nothing is within the limits".into(), |point| point.to_string());
        let means = metrics
            .iter()
            .zip(&fold.means)
            .map(|(metric, (own, _))| format!("{} {own:.4}", metric.name()));
        writeln!(out, "  {chosen}: {}", means.collect::<Vec<_>>().join(", "))?;
    }
    for (i, metric) in metrics.iter().enumerate() {
        writeln!(
            out,
            "  {} over all parts: {:.4}; of the best of all rows: {:.4}",
            metric.name(),
            over(i, |(own, _)| own),
            over(i, |(_, best)| best)
        )?;
    }
    Ok(())
}
