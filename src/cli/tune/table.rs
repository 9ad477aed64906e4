//! What was found, as tables for people and lines of JSON for programs.

use super::report::{Report, Shown};
use crate::cli::text::{grouped, table};
use crate::study::choose::Difference;
use crate::study::metrics::{Measure, Metric};
use crate::study::results::Results;
use crate::study::search::{Further, Point, double};
use anstyle::Style;
use logitd_core::evaluate::sums::SetSums;
use logitd_core::params::{Profile, shortest};
use serde::Serialize;
use serde_json::{Map, Value};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();

/// A setting as JSON: what is off is 0 or 1.
#[derive(Serialize)]
pub struct Line<'a> {
    name: &'a str,
    temperature: f64,
    top_k: u32,
    top_p: f64,
    min_p: f64,
    rows: u64,
    hits: u64,
    nll: f64,
    brier: f64,
    coverage: f64,
    tail: f64,
    entropy: f64,
    choices: f64,
    surprise: f64,
    mean_kept: f64,
    /// Of its nll to that of the best, and the standard error of that.
    nll_difference: f64,
    nll_difference_error: Option<f64>,
    #[serde(flatten)]
    more: Map<String, Value>,
}

impl<'a> Line<'a> {
    pub fn new(
        measure: Measure,
        name: &'a str,
        point: Point,
        rows: u64,
        sums: &SetSums,
        difference: Difference,
    ) -> Self {
        let Point { temperature, top_k, top_p, min_p, further } = point;
        let mut more = Map::new();
        more.extend(further.given().map(|(name, value)| (name.to_owned(), double(value).into())));
        if further.profile != Profile::default() {
            more.insert("profile".into(), further.profile.name().into());
        }
        let mean = |metric| measure.mean(metric, rows, sums);
        Self {
            name,
            temperature: double(temperature),
            top_k,
            top_p: double(top_p),
            min_p: double(min_p),
            rows,
            hits: sums.hits,
            nll: mean(Metric::Nll),
            brier: mean(Metric::Brier),
            coverage: mean(Metric::Coverage),
            tail: mean(Metric::Tail),
            entropy: mean(Metric::Entropy),
            choices: mean(Metric::Choices),
            surprise: mean(Metric::Surprise),
            mean_kept: mean(Metric::Kept),
            nll_difference: difference.mean,
            nll_difference_error: difference.error,
            more,
        }
    }

    /// With what else there is to say.
    pub fn with(mut self, more: &Map<String, Value>) -> Self {
        self.more.extend(more.clone());
        self
    }
}

/// Prints a line a setting, then those of the front, then one a fold: what was chosen without it, measured on it. Where
/// nothing is within the limits without it, the best of all rows stands in. Each line has `of` as well.
pub fn json(
    out: &mut impl Write,
    report: &Report<'_>,
    of: &Map<String, Value>,
) -> serde_json::Result<()> {
    let (measure, rows) = (report.results.subject().measure, report.results.rows());
    let more = |key: &str, value: Value| Map::from_iter([(key.to_owned(), value)]);
    let failed = more("rows_failed", report.results.subject().rows_failed.into());
    let whole = |name, point, sums, difference| {
        Line::new(measure, name, point, rows, sums, difference).with(&failed)
    };
    let mut lines = Vec::new();
    for shown in report.shown.iter().chain(&report.simplest) {
        lines.push(whole(&shown.name, shown.point, &shown.sums, shown.difference));
    }
    let best = report.best();
    for (point, sums) in report.front.iter().flat_map(|front| &front.sets) {
        let mean = report.results.mean(Metric::Nll, sums) - report.mean(Metric::Nll, best);
        lines.push(whole("front", *point, sums, Difference { mean, error: None }));
    }
    for (fold, i) in report.folds.iter().zip(1..) {
        let nll = |sums| measure.mean(Metric::Nll, fold.rows, sums);
        let difference = Difference { mean: nll(&fold.sums) - nll(&fold.best), error: None };
        let line = Line::new(measure, "fold", fold.point, fold.rows, &fold.sums, difference);
        let line = line.with(&more("fold", i.into()));
        lines.push(line.with(&more("within_limits", fold.within_limits.into())));
    }
    for line in lines {
        let text = serde_json::to_string(&line.with(of))?;
        writeln!(out, "{text}").map_err(serde_json::Error::io)?;
    }
    Ok(())
}

/// What a study is about, in a line.
pub fn about(results: &Results) -> String {
    let subject = results.subject();
    let groups = match subject.grouped {
        true => format!(" in {} groups", subject.group_rows.len()),
        false => String::new(),
    };
    format!(
        "{} positions{groups}; {} settings",
        grouped(results.rows()),
        grouped(results.trials().len() as u64)
    )
}

/// Prints everything that was found.
pub fn print(out: &mut impl Write, report: &Report<'_>) -> io::Result<()> {
    let subject = report.results.subject();
    writeln!(out, "{BOLD}goal: {}{BOLD:#}; {}\n", subject.goal, about(report.results))?;
    lines(out, &settings(report))?;

    writeln!(out, "\n{}", simplest(report))?;
    if subject.grouped {
        writeln!(out)?;
        lines(out, &by_group(report))?;
    }
    for (said, cells) in [folds(report), front(report)].into_iter().flatten() {
        writeln!(out, "\n{said}")?;
        lines(out, &cells)?;
    }
    Ok(())
}

/// Where it all is.
pub fn ending(
    out: &mut impl Write,
    report: &Report<'_>,
    study: &Path,
    page: &Path,
    new: usize,
    took: Duration,
) -> io::Result<()> {
    writeln!(
        out,
        "\n{DIM}{}: {} settings, {} of them new, in {:.1} s; Optuna opens it: optuna-dashboard {0}\n\
         {}: the same with pictures{DIM:#}",
        study.display(),
        grouped(report.results.trials().len() as u64),
        grouped(new as u64),
        took.as_secs_f64(),
        page.display()
    )
}

/// The settings that are shown, under their head.
pub fn settings(report: &Report<'_>) -> Vec<Vec<String>> {
    let mut head = vec![String::new()];
    head.extend(names(report.results));
    head.extend(["nll", "", "coverage", "tail", "entropy"].map(str::to_owned));
    let mut cells = vec![head];
    cells.extend(report.shown.iter().map(|shown| setting(report, shown)));
    cells
}

/// Cells in columns, the first line in bold.
pub fn lines(out: &mut impl Write, cells: &[Vec<String>]) -> io::Result<()> {
    for (i, line) in table(cells).iter().enumerate() {
        match i {
            0 => writeln!(out, "{BOLD}{line}{BOLD:#}")?,
            _ => writeln!(out, "{line}")?,
        }
    }
    Ok(())
}

fn setting(report: &Report<'_>, shown: &Shown) -> Vec<String> {
    let mean = |metric| report.mean(metric, shown);
    let difference = match shown.name.as_str() {
        "best" => String::new(),
        _ => difference(&shown.difference),
    };
    let mut cells = vec![shown.name.clone()];
    cells.extend(values(report.results, shown.point));
    cells.extend([
        format!("{:.3}", mean(Metric::Nll)),
        difference,
        format!("{:.1}%", 100.0 * mean(Metric::Coverage)),
        format!("{:.2}%", 100.0 * mean(Metric::Tail)),
        format!("{:.2}", mean(Metric::Entropy)),
    ]);
    cells
}

/// What stands above the parameters of a setting: those that all have, and where the study has further cuts, one for them.
pub fn names(results: &Results) -> Vec<String> {
    let further = results.have_further().then_some("further cuts");
    let names = ["temperature", "top_k", "top_p", "min_p"].into_iter().chain(further);
    names.map(str::to_owned).collect()
}

/// What a setting has of each of these.
pub fn values(results: &Results, point: Point) -> Vec<String> {
    let off = |on: bool, text: String| if on { text } else { "off".into() };
    let mut values = vec![
        shortest(point.temperature),
        off(point.top_k > 0, point.top_k.to_string()),
        off(point.top_p < 1.0, shortest(point.top_p)),
        off(point.min_p > 0.0, shortest(point.min_p)),
    ];
    if results.have_further() {
        values.push(off(point.further != Further::NONE, point.further.to_string()));
    }
    values
}

fn difference(difference: &Difference) -> String {
    match difference.error {
        Some(error) => format!("{:+.3} ± {error:.3}", difference.mean),
        None => format!("{:+.3}", difference.mean),
    }
}

/// Whether less would do.
pub fn simplest(report: &Report<'_>) -> String {
    match &report.simplest {
        None => {
            "How sure the differences are takes rows to work out, or groups that the study has."
                .into()
        }
        Some(simplest) if simplest.point.key() == report.best().point.key() => {
            "No simpler setting is as good, within one standard error.".into()
        }
        Some(simplest) => format!(
            "The simplest setting that is as good, within one standard error: {} (nll {})",
            simplest.point,
            difference(&simplest.difference)
        ),
    }
}

/// The best of each group, and what the best of all costs there.
pub fn by_group(report: &Report<'_>) -> Vec<Vec<String>> {
    let results = report.results;
    let goal = &results.subject().goal;
    let (measure, metrics) = (results.subject().measure, goal.metrics());
    let mut head = ["best by group", "rows"].map(str::to_owned).to_vec();
    head.extend(names(results));
    let parameters = head.len() - 2;
    head.extend(metrics.iter().map(|metric| metric.name().to_owned()));
    head.push(format!("{} of the best of all", goal.metric.name()));
    let mut cells = vec![head];
    for (label, name, rows) in report.groups() {
        let sets = results.scored_in(label);
        let mut line = vec![name, grouped(rows)];
        let mean =
            |i: usize, metric| format!("{:.3}", measure.mean(metric, sets[i].rows, sets[i].sums));
        match results.chooser().ranked(&sets).first() {
            Some(&own) => {
                line.extend(values(results, sets[own].point));
                line.extend(metrics.iter().map(|metric| mean(own, *metric)));
            }
            None => line.extend(std::iter::repeat_n("none".to_owned(), parameters + metrics.len())),
        }
        let of_all = sets.iter().position(|set| set.point.key() == report.best().point.key());
        line.push(of_all.map_or(String::new(), |i| mean(i, goal.metric)));
        cells.push(line);
    }
    cells
}

/// The settings that none is better than in both metrics: what they are, and a line each.
pub fn front(report: &Report<'_>) -> Option<(String, Vec<Vec<String>>)> {
    let front = report.front.as_ref()?;
    let mut cells = vec![front.of.map(|metric| metric.name().to_owned()).to_vec()];
    cells[0].extend(names(report.results));
    for (point, sums) in &front.sets {
        let mean = |metric| format!("{:.4}", report.results.mean(metric, sums));
        cells.push(front.of.map(mean).into_iter().chain(values(report.results, *point)).collect());
    }
    Some(("No setting is better in both metrics than one of these:".into(), cells))
}

/// What choosing without a part of the rows is worth on that part: what that is, and a line a part.
pub fn folds(report: &Report<'_>) -> Option<(String, Vec<Vec<String>>)> {
    let subject = report.results.subject();
    let metrics = subject.goal.metrics();
    let parameters = names(report.results);
    let nothing = vec![String::new(); parameters.len()];
    let mut head = ["", "rows"].map(str::to_owned).to_vec();
    head.extend(parameters);
    head.extend(metrics.iter().map(|metric| metric.name().to_owned()));
    let mut cells = vec![head];
    let means = |rows, sums: &SetSums| {
        let mean = |metric: &Metric| format!("{:.4}", subject.measure.mean(*metric, rows, sums));
        metrics.iter().map(mean).collect::<Vec<_>>()
    };
    let mut sum = SetSums::default();
    for (fold, i) in report.folds.iter().zip(1..) {
        let mut line = vec![format!("part {i}"), grouped(fold.rows)];
        match fold.within_limits {
            true => line.extend(values(report.results, fold.point)),
            false => {
                line.push("none is within the limits".into());
                line.extend_from_slice(&nothing[1..]);
            }
        }
        line.extend(means(fold.rows, &fold.sums));
        cells.push(line);
        sum += fold.sums;
    }
    let rows = report.results.rows();
    for (name, sums) in [("over all parts", &sum), ("best of all rows", &report.best().sums)] {
        let line = [name.to_owned(), grouped(rows)].into_iter().chain(nothing.clone());
        cells.push(line.chain(means(rows, sums)).collect());
    }
    let said = format!(
        "Chosen without one of {} parts of the rows, and measured on it:",
        report.folds.len()
    );
    (!report.folds.is_empty()).then_some((said, cells))
}
