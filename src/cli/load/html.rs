//! The report as a page: one file, no scripts, nothing loaded from anywhere. Its markup is `templates/load.html`.

use super::Report;
use super::plot::{Axis, COLOURS, Plot, Scale, Series};
use super::text::{rate, us};
use crate::cli::text::grouped;
use crate::tools::load::{Latency, PaceSummary, Summary, Window};
use askama::Template;

/// The page.
pub fn page(report: &Report) -> askama::Result<String> {
    let targets: Vec<_> = report.targets.iter().map(|target| target.target.as_str()).collect();
    let figures = match report.runs.as_slice() {
        [] => Vec::new(),
        [run] => single(run),
        runs => sweep(runs),
    };
    let title = format!("logitd load: {}", targets.join(", "));
    Page { title, report, figures, notes: notes(&report.runs) }.render()
}

#[derive(Template)]
#[template(path = "load.html")]
struct Page<'a> {
    title: String,
    report: &'a Report,
    figures: Vec<Figure>,
    notes: Vec<Note>,
}

struct Figure {
    title: &'static str,
    plot: Plot,
}

struct Note {
    text: String,
    bad: bool,
}

/// Values as the template writes them.
mod filters {
    use askama::{Result, Values, filter_fn};

    #[filter_fn]
    pub fn rate(value: &f64, _: &dyn Values) -> Result<String> {
        Ok(super::rate(*value))
    }

    #[filter_fn]
    pub fn time(value: &f64, _: &dyn Values) -> Result<String> {
        Ok(super::time(*value))
    }

    #[filter_fn]
    pub fn grouped(value: &u64, _: &dyn Values) -> Result<String> {
        Ok(super::grouped(*value))
    }
}

fn single(run: &Summary) -> Vec<Figure> {
    let mut figures = vec![
        Figure {
            title: "Latency by percentile",
            plot: Plot::new(
                "latency by percentile",
                &TAIL,
                &TIME,
                &[
                    line("response", run.response_quantiles.clone()),
                    line("service", run.service_quantiles.clone()),
                ],
            ),
        },
        Figure {
            title: "Response time over time",
            plot: Plot::new(
                "response time over time",
                &SECONDS,
                &TIME,
                &[
                    line("p50", answered(run, |w| w.response_p50_us)),
                    line("p99", answered(run, |w| w.response_p99_us)),
                    line("max", answered(run, |w| w.response_max_us)),
                ],
            ),
        },
        Figure {
            title: "Throughput over time",
            plot: Plot::new(
                "rows a second over time",
                &SECONDS,
                &ROWS,
                &[line("rows/s", a_second(run, |w| w.rows))],
            ),
        },
    ];
    if run.unanswered() > 0 {
        figures.push(Figure {
            title: "Without an answer, over time",
            plot: Plot::new(
                "failures over time",
                &SECONDS,
                &REQUESTS,
                &[
                    line("refused", a_second(run, |w| w.refused)),
                    line("failed", a_second(run, |w| w.errors)),
                    line("not sent", a_second(run, |w| w.overflow)),
                ],
            ),
        });
    }
    figures
}

/// Of every window in which something was answered.
fn answered(run: &Summary, value: fn(&Window) -> f64) -> Vec<(f64, f64)> {
    run.windows.iter().filter(|w| w.answered > 0).map(|w| (w.end_s, value(w))).collect()
}

/// Of every window, as a rate.
fn a_second(run: &Summary, value: fn(&Window) -> u64) -> Vec<(f64, f64)> {
    run.windows.iter().map(|w| (w.end_s, value(w) as f64 / w.seconds)).collect()
}

fn sweep(runs: &[Summary]) -> Vec<Figure> {
    let asked = match runs[0].pace {
        PaceSummary::Closed { .. } => &WORKERS,
        PaceSummary::Open { .. } | PaceSummary::Recorded { .. } => &ASKED,
    };
    let curves: Vec<Series> =
        shown(runs).map(|run| line(&run.pace.short(), run.response_quantiles.clone())).collect();
    vec![
        Figure {
            title: "Throughput against load",
            plot: Plot::new("throughput", asked, &REQUESTS_LOG, &throughput(runs)),
        },
        Figure {
            title: "Response time against load",
            plot: Plot::new(
                "response time",
                asked,
                &TIME,
                &[
                    against(runs, "p50", |run| run.response.p50_us),
                    against(runs, "p99", |run| run.response.p99_us),
                    against(runs, "p99.9", |run| run.response.p99_9_us),
                    against(runs, "max", |run| run.response.max_us),
                ],
            ),
        },
        Figure {
            title: "Response time by percentile",
            plot: Plot::new("by percentile", &TAIL, &TIME, &curves),
        },
    ]
}

fn throughput(runs: &[Summary]) -> Vec<Series> {
    let mut series = vec![against(runs, "answered", |run| run.requests_per_s)];
    if matches!(runs[0].pace, PaceSummary::Open { .. }) {
        let asked_for = against(runs, "asked for", |run| run.pace.value());
        series.push(Series { marked: false, ..asked_for });
    }
    if runs.iter().any(|run| run.unanswered() > 0) {
        series.push(against(runs, "refused, failed or not sent", |run| {
            run.unanswered() as f64 / run.elapsed_s.max(1e-9)
        }));
    }
    series
}

/// A value of each run over the load of that run.
fn against(runs: &[Summary], name: &str, value: fn(&Summary) -> f64) -> Series {
    let points = runs.iter().map(|run| (run.pace.value(), value(run))).collect();
    Series { name: name.into(), points, marked: true }
}

fn line(name: &str, points: Vec<(f64, f64)>) -> Series {
    Series { name: name.into(), points, marked: false }
}

/// As many of the runs as have a colour, the first and the last among them.
fn shown(runs: &[Summary]) -> impl Iterator<Item = &Summary> {
    let most = COLOURS.min(runs.len());
    (0..most).map(move |i| &runs[i * (runs.len() - 1) / (most - 1).max(1)])
}

/// The times of a run that were measured: no line for a copy that never took time.
fn times(run: &Summary) -> Vec<(&'static str, &Latency)> {
    let kinds = [
        ("response", &run.response),
        ("service", &run.service),
        ("lag", &run.lag),
        ("refusal", &run.refusal),
        ("server: queue", &run.server.queue),
        ("server: copy", &run.server.copy),
        ("server: compute", &run.server.compute),
    ];
    kinds.into_iter().filter(|(_, latency)| latency.max_us > 0.0).collect()
}

fn notes(runs: &[Summary]) -> Vec<Note> {
    let mut notes = Vec::new();
    for run in runs {
        let at = if runs.len() > 1 { format!("{}: ", run.pace.short()) } else { String::new() };
        for (code, failure) in &run.failures {
            let text = format!("{at}{} x {code}: {}", grouped(failure.count), failure.message);
            notes.push(Note { text, bad: true });
        }
        for warning in &run.warnings {
            notes.push(Note { text: format!("{at}{warning}"), bad: false });
        }
        let devices = run.devices.iter().map(|(name, n)| format!("{name}: {}", grouped(*n)));
        let devices: Vec<_> = devices.collect();
        if !devices.is_empty() {
            let text = format!("{at}answered by {}", devices.join(", "));
            notes.push(Note { text, bad: false });
        }
    }
    notes
}

/// A time in the unit that fits it.
fn time(value_us: f64) -> String {
    match value_us {
        us_ if us_ < 1000.0 => format!("{} us", us(us_)),
        us_ if us_ < 1e6 => format!("{} ms", digits(us_ / 1e3)),
        us_ => format!("{} s", digits(us_ / 1e6)),
    }
}

/// Three digits.
fn digits(value: f64) -> String {
    let text = match value {
        v if v < 10.0 => format!("{v:.2}"),
        v if v < 100.0 => format!("{v:.1}"),
        v => return format!("{v:.0}"),
    };
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A count in few characters.
fn short(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{}M", digits(v / 1e6)),
        v if v >= 1e4 => format!("{}k", digits(v / 1e3)),
        v => digits(v),
    }
}

fn percent(quantile: f64) -> String {
    // As many nines as there are: rounding to a fixed number would make 100% of the last.
    let text = format!("{:.7}", quantile * 100.0);
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

const TAIL: Axis = Axis { name: "percentile", scale: Scale::Tail, format: percent };
const TIME: Axis = Axis { name: "time", scale: Scale::Log, format: time };
const SECONDS: Axis = Axis { name: "seconds", scale: Scale::Linear, format: digits };
const ROWS: Axis = Axis { name: "rows/s", scale: Scale::Linear, format: short };
const REQUESTS: Axis = Axis { name: "requests/s", scale: Scale::Linear, format: short };
const REQUESTS_LOG: Axis = Axis { name: "requests/s", scale: Scale::Log, format: short };
const ASKED: Axis = Axis { name: "requests/s asked for", scale: Scale::Log, format: short };
const WORKERS: Axis = Axis { name: "requests at once", scale: Scale::Log, format: short };

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::load::flags::{MethodArg, Plane, Rpc};
    use crate::cli::load::{CheckReport, RequestsReport, TargetReport};
    use crate::tools::load::{FailureSummary, ServerTimes};
    use crate::wire::whole::Whole;

    /// What a server says of itself, and what goes wrong, is text that somebody else chose.
    #[test]
    fn texts_of_others_are_shown_and_not_run() {
        const TEXT: &str = "<script>\"&'";
        let run = Summary {
            pace: PaceSummary::Closed { concurrency: 1 },
            warmup_s: 0.0,
            elapsed_s: 1.0,
            requests: 3,
            answered: 1,
            refused: 0,
            errors: 2,
            overflow: 0,
            rows: 1,
            rows_without_token: 0,
            logits_bytes: 2,
            requests_per_s: 1.0,
            rows_per_s: 1.0,
            gb_per_s: 0.0,
            service: Latency::default(),
            response: Latency { count: 1, max_us: 5.0, ..Latency::default() },
            lag: Latency::default(),
            refusal: Latency::default(),
            server: ServerTimes::default(),
            failures: [(TEXT.into(), FailureSummary { count: 2, message: TEXT.into() })].into(),
            devices: [(TEXT.into(), 1)].into(),
            windows: Vec::new(),
            response_quantiles: vec![(0.5, 5.0)],
            service_quantiles: Vec::new(),
            warnings: vec![TEXT.into()],
        };
        let report = Report {
            version: "1",
            command: TEXT.into(),
            targets: vec![TargetReport {
                target: TEXT.into(),
                version: TEXT.into(),
                devices: vec![TEXT.into()],
            }],
            requests: RequestsReport {
                method: Some(MethodArg::Sample),
                rpc: Rpc::Unary,
                plane: Plane::Inline,
                connections: 1,
                seed: Whole(1),
                what: TEXT.into(),
            },
            runs: vec![run],
            check: Some(CheckReport {
                fraction: 1.0,
                against: TEXT.into(),
                answers: 1,
                rows: 1,
                rows_wrong: 1,
                skipped: 0,
                uncheckable: 1,
                uncheckable_reason: Some(TEXT.into()),
                first: Some(TEXT.into()),
            }),
        };
        let page = page(&report).unwrap();
        assert!(!page.contains("<script"), "{page}");
        // The title twice, the target and its version and device, the requests, the command, a failure and its code, a
        // warning, a device, and what was checked, why not, and the first difference.
        assert_eq!(page.matches("&#60;script&#62;&#34;&#38;&#39;").count(), 14, "{page}");
    }

    #[test]
    fn values_are_written_in_few_characters() {
        assert_eq!(
            [0.4, 999.0, 1000.0, 12_345.0, 2.5e6].map(time),
            ["0.4 us", "999 us", "1 ms", "12.3 ms", "2.5 s"]
        );
        assert_eq!([0.5, 0.99, 0.9999].map(percent), ["50%", "99%", "99.99%"]);
        assert_eq!([7.0, 9999.0, 12_345.0, 2e6].map(short), ["7", "9999", "12.3k", "2M"]);
    }
}
