//! The report as a page: one file, no scripts, nothing loaded from anywhere.

use super::plot::{Axis, Scale, Series, escape, plot};
use super::text::{rate, us};
use super::{CheckReport, Report};
use crate::cli::text::grouped;
use crate::tools::load::{Latency, PaceSummary, Summary};
use std::fmt::Write as _;

/// The page.
pub fn page(report: &Report) -> String {
    let targets: Vec<_> = report.targets.iter().map(|target| target.target.as_str()).collect();
    let title = format!("logitd load: {}", targets.join(", "));
    let mut body = format!("<h1>{}</h1>", escape(&title));
    for target in &report.targets {
        let devices = target.devices.join(", ");
        let text = format!("{}: logitd {}, {devices}", target.target, target.version);
        let _ = write!(body, "<p class=\"about\">{}</p>", escape(&text));
    }
    let _ = write!(body, "<p class=\"about\">{}</p>", escape(&report.requests.describe()));
    let _ = write!(body, "<p class=\"about\"><code>{}</code></p>", escape(&report.command));

    match report.runs.as_slice() {
        [] => {}
        [run] => body += &single(run),
        runs => body += &sweep(runs),
    }
    body += &tables(&report.runs);
    body += &notes(&report.runs);
    body += &report.check.as_ref().map(check).unwrap_or_default();
    body += DEFINITIONS;
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>{}</title><style>{STYLE}</style></head><body><main>{body}\
         </main></body></html>\n",
        escape(&title)
    )
}

fn single(run: &Summary) -> String {
    let mut html = format!(
        "<p class=\"about\">{}; {:.1} s after {:.1} s of warm-up</p><div class=\"tiles\">",
        escape(&run.pace.describe()),
        run.elapsed_s,
        run.warmup_s
    );
    let bad = run.refused + run.errors + run.overflow;
    for (value, unit, class) in [
        (rate(run.requests_per_s), "requests/s", ""),
        (rate(run.rows_per_s), "rows/s", ""),
        (format!("{:.3}", run.gb_per_s), "GB/s of logits", ""),
        (time(run.response.p50_us), "response p50", ""),
        (time(run.response.p99_us), "response p99", ""),
        (grouped(bad), "refused, failed or not sent", if bad > 0 { " bad" } else { "" }),
    ] {
        let _ = write!(html, "<div class=\"tile{class}\"><b>{value}</b><span>{unit}</span></div>");
    }
    html += "</div>";
    html += &section(
        "Latency by percentile",
        &plot(
            "latency by percentile",
            &TAIL,
            &TIME,
            &[
                line("response", run.response_quantiles.clone()),
                line("service", run.service_quantiles.clone()),
            ],
        ),
    );
    let over = |value: fn(&crate::tools::load::Window) -> f64| {
        run.windows.iter().filter(|w| w.answered > 0).map(|w| (w.end_s, value(w))).collect()
    };
    html += &section(
        "Response time over time",
        &plot(
            "response time over time",
            &SECONDS,
            &TIME,
            &[
                line("p50", over(|w| w.response_p50_us)),
                line("p99", over(|w| w.response_p99_us)),
                line("max", over(|w| w.response_max_us)),
            ],
        ),
    );
    let rows = run.windows.iter().map(|w| (w.end_s, w.rows as f64 / w.seconds)).collect();
    let rates = [line("rows/s", rows)];
    html +=
        &section("Throughput over time", &plot("rows a second over time", &SECONDS, &ROWS, &rates));
    if bad > 0 {
        let per_s = |value: fn(&crate::tools::load::Window) -> u64| {
            run.windows.iter().map(|w| (w.end_s, value(w) as f64 / w.seconds)).collect()
        };
        html += &section(
            "Without an answer, over time",
            &plot(
                "failures over time",
                &SECONDS,
                &REQUESTS,
                &[
                    line("refused", per_s(|w| w.refused)),
                    line("failed", per_s(|w| w.errors)),
                    line("not sent", per_s(|w| w.overflow)),
                ],
            ),
        );
    }
    html
}

fn sweep(runs: &[Summary]) -> String {
    let asked = match runs[0].pace {
        PaceSummary::Closed { .. } => &WORKERS,
        PaceSummary::Open { .. } | PaceSummary::Recorded { .. } => &ASKED,
    };
    let against = |name: &str, value: fn(&Summary) -> f64| Series {
        name: name.into(),
        points: runs.iter().map(|run| (run.pace.value(), value(run))).collect(),
        marked: true,
    };
    let mut html = section(
        "Throughput against load",
        &plot("throughput", asked, &REQUESTS_LOG, &{
            let mut series = vec![against("answered", |run| run.requests_per_s)];
            if matches!(runs[0].pace, PaceSummary::Open { .. }) {
                series
                    .push(Series { marked: false, ..against("asked for", |run| run.pace.value()) });
            }
            if runs.iter().any(|run| run.refused + run.errors + run.overflow > 0) {
                series.push(against("refused, failed or not sent", |run| {
                    (run.refused + run.errors + run.overflow) as f64 / run.elapsed_s.max(1e-9)
                }));
            }
            series
        }),
    );
    html += &section(
        "Response time against load",
        &plot(
            "response time",
            asked,
            &TIME,
            &[
                against("p50", |run| run.response.p50_us),
                against("p99", |run| run.response.p99_us),
                against("p99.9", |run| run.response.p99_9_us),
                against("max", |run| run.response.max_us),
            ],
        ),
    );
    let curves: Vec<Series> =
        shown(runs).map(|run| line(&run.pace.short(), run.response_quantiles.clone())).collect();
    html += &section("Response time by percentile", &plot("by percentile", &TAIL, &TIME, &curves));
    html
}

/// As many of the runs as have a colour, the first and the last among them.
fn shown(runs: &[Summary]) -> impl Iterator<Item = &Summary> {
    let most = super::plot::COLOURS.min(runs.len());
    (0..most).map(move |i| &runs[i * (runs.len() - 1) / (most - 1).max(1)])
}

/// How many came to which end, and how long they took.
fn tables(runs: &[Summary]) -> String {
    let head = |names: &[&str]| {
        let cells: String = names.iter().map(|name| format!("<th>{name}</th>")).collect();
        format!("<div class=\"wide\"><table><thead><tr>{cells}</tr></thead>")
    };
    let mut counts = head(&[
        "run",
        "requests/s",
        "rows/s",
        "GB/s",
        "answered",
        "refused",
        "failed",
        "not sent",
        "rows",
    ]);
    let mut times = head(
        &["run", "time"]
            .into_iter()
            .chain(Latency::default().figures().map(|f| f.0))
            .collect::<Vec<_>>(),
    );
    for run in runs {
        let name = escape(&run.pace.short());
        let cells: String = [
            rate(run.requests_per_s),
            rate(run.rows_per_s),
            format!("{:.3}", run.gb_per_s),
            grouped(run.answered),
            grouped(run.refused),
            grouped(run.errors),
            grouped(run.overflow),
            grouped(run.rows),
        ]
        .map(|cell| format!("<td>{cell}</td>"))
        .concat();
        let _ = write!(counts, "<tbody><tr><th>{name}</th>{cells}</tr></tbody>");
        times += &times_of(run, &name);
    }
    let counts = section("Requests", &(counts + "</table></div>"));
    counts + &section("Times", &(times + "</table></div>"))
}

fn times_of(run: &Summary, name: &str) -> String {
    let kinds = [
        ("response", &run.response),
        ("service", &run.service),
        ("lag", &run.lag),
        ("refusal", &run.refusal),
        ("server: queue", &run.server.queue),
        ("server: copy", &run.server.copy),
        ("server: compute", &run.server.compute),
    ];
    // No line for what was not measured, or a copy that never took time.
    let kinds: Vec<_> = kinds.into_iter().filter(|(_, latency)| latency.max_us > 0.0).collect();
    let mut html = String::from("<tbody>");
    for (i, (kind, latency)) in kinds.iter().enumerate() {
        html += "<tr>";
        if i == 0 {
            let _ = write!(html, "<th rowspan=\"{}\">{name}</th>", kinds.len());
        }
        let _ = write!(html, "<td>{kind}</td>");
        for (_, value) in latency.figures() {
            let _ = write!(html, "<td>{}</td>", value.map_or_else(|| "-".into(), time));
        }
        html += "</tr>";
    }
    html + "</tbody>"
}

fn notes(runs: &[Summary]) -> String {
    let mut items = String::new();
    for run in runs {
        let pace = run.pace.short();
        let at = if runs.len() > 1 { format!("{pace}: ") } else { String::new() };
        for (code, failure) in &run.failures {
            let text = format!("{at}{} x {code}: {}", grouped(failure.count), failure.message);
            let _ = write!(items, "<li class=\"bad\">{}</li>", escape(&text));
        }
        for warning in &run.warnings {
            let _ = write!(items, "<li>{}</li>", escape(&format!("{at}{warning}")));
        }
        let devices = run.devices.iter().map(|(name, n)| format!("{name}: {}", grouped(*n)));
        let devices: Vec<_> = devices.collect();
        if !devices.is_empty() {
            let text = format!("{at}answered by {}", devices.join(", "));
            let _ = write!(items, "<li>{}</li>", escape(&text));
        }
    }
    format!("<section><h2>Notes</h2><ul>{items}</ul></section>")
}

fn check(check: &CheckReport) -> String {
    let mut html = format!(
        "<section><h2>Checked answers</h2><p>{} answers ({} rows) were compared with {}, to the bit: \
         <b class=\"{}\">{} wrong</b>.",
        grouped(check.answers),
        grouped(check.rows),
        escape(&check.against),
        if check.rows_wrong > 0 { "bad" } else { "good" },
        grouped(check.rows_wrong)
    );
    if check.skipped > 0 {
        let _ = write!(html, " {} more were chosen but not kept.", grouped(check.skipped));
    }
    html += "</p>";
    if let Some(reason) = &check.uncheckable_reason {
        let n = grouped(check.uncheckable);
        let _ = write!(html, "<p>{n} could not be checked: {}</p>", escape(reason));
    }
    if let Some(first) = &check.first {
        let _ = write!(html, "<pre>{}</pre>", escape(first));
    }
    html + "</section>"
}

fn section(title: &str, content: &str) -> String {
    format!("<section><h2>{title}</h2>{content}</section>")
}

fn line(name: &str, points: Vec<(f64, f64)>) -> Series {
    Series { name: name.into(), points, marked: false }
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

const DEFINITIONS: &str = "<section><h2>What is measured</h2><p><b>Service</b> time is from sending a \
request to its answer. <b>Response</b> time is from when it was due: in an open loop by the schedule, so \
that waiting behind a stall is in it. <b>Lag</b> is how late requests were sent, which is the generator's \
own fault. Percentiles are those of the answered requests. What the server says is measured there.</p>\
</section>";

const STYLE: &str = "\
:root{color-scheme:light dark;--page:#fcfcfb;--ink:#1a1a19;--soft:#5f5e5a;--line:#dddcd7;--tile:#f3f2ee;\
--bad:#b3261e;--good:#1c7c45;--c0:#2a6fdb;--c1:#d9622b;--c2:#2a9d8f;--c3:#9a5fd0;--c4:#b08900;--c5:#c94f7c}\
@media(prefers-color-scheme:dark){:root{--page:#161615;--ink:#f0efea;--soft:#a3a29c;--line:#35342f;\
--tile:#21201e;--bad:#ff8a80;--good:#6fcf97;--c0:#6ea8ff;--c1:#ff9d6b;--c2:#5fd3c4;--c3:#c79bff;--c4:#e3bd4a;\
--c5:#ff8fb3}}\
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);\
font:15px/1.5 system-ui,sans-serif}main{max-width:1040px;margin:0 auto;padding:28px 20px 60px}\
h1{font-size:22px;margin:0 0 6px}h2{font-size:16px;margin:34px 0 8px}.about{color:var(--soft);margin:2px 0}\
code,pre{font:13px/1.5 ui-monospace,monospace;overflow-wrap:anywhere}pre{white-space:pre-wrap;\
background:var(--tile);padding:12px;border-radius:8px}\
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(140px,1fr));gap:10px;margin-top:18px}\
.tile{background:var(--tile);border-radius:8px;padding:12px 14px}.tile b{display:block;font-size:22px;\
font-weight:600;font-variant-numeric:tabular-nums}.tile span{color:var(--soft);font-size:13px}\
.bad,.tile.bad b{color:var(--bad)}.good{color:var(--good)}.none{color:var(--soft)}\
svg{width:100%;height:auto;display:block}.grid{stroke:var(--line);fill:none}.axis{stroke:var(--soft);\
fill:none}.tick,.name{fill:var(--soft);font-size:11.5px}.tick.y{text-anchor:end}.tick.x,.name{\
text-anchor:middle}.line{fill:none;stroke-width:2;stroke-linejoin:round}.dot{stroke:var(--page);\
stroke-width:1.5}.line.c0{stroke:var(--c0)}.line.c1{stroke:var(--c1)}.line.c2{stroke:var(--c2)}\
.line.c3{stroke:var(--c3)}.line.c4{stroke:var(--c4)}.line.c5{stroke:var(--c5)}.dot.c0{fill:var(--c0)}\
.dot.c1{fill:var(--c1)}.dot.c2{fill:var(--c2)}.dot.c3{fill:var(--c3)}.dot.c4{fill:var(--c4)}\
.dot.c5{fill:var(--c5)}.legend{display:flex;flex-wrap:wrap;gap:4px 18px;margin:0 0 4px 62px;\
color:var(--soft);font-size:13px}.legend i{display:inline-block;width:14px;height:3px;border-radius:2px;\
margin-right:6px;vertical-align:middle}i.c0{background:var(--c0)}i.c1{background:var(--c1)}\
i.c2{background:var(--c2)}i.c3{background:var(--c3)}i.c4{background:var(--c4)}i.c5{background:var(--c5)}\
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}\
th,td{padding:4px 10px;text-align:right;white-space:nowrap;vertical-align:top}th{font-weight:600}\
thead th{color:var(--soft);font-weight:500}tbody{border-top:1px solid var(--line)}tbody th,\
thead th:first-child{text-align:left}";

#[cfg(test)]
mod tests {
    use super::*;

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
