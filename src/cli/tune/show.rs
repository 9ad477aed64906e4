//! `logitd tune --show`: a study that was recorded, or two side by side. Nothing is evaluated.

use super::report::{PLAIN, Report};
use super::table::{self, Line};
use super::{TuneArgs, html};
use crate::cli::Outcome;
use crate::cli::text::grouped;
use crate::study::choose::Difference;
use crate::study::compare::{self, Transfer};
use crate::study::journal::{self, Recorded};
use crate::study::metrics::Metric;
use crate::study::results::{Results, Subject};
use crate::study::search::{Axes, Point};
use logitd_core::params::shortest;
use serde_json::{Map, Value, json};
use std::error::Error;
use std::io::{self, Write, stdout};
use std::path::Path;
use std::process::ExitCode;

/// A study of a file.
struct Study {
    /// The file, and what of the study's name was asked for.
    asked: String,
    name: String,
    lists: Axes,
    command_line: String,
    results: Results,
}

/// Runs the command.
pub fn run(args: &TuneArgs) -> Outcome {
    let page = args.page.as_deref();
    page.map(html::check).transpose()?;
    let found = args.show.iter().map(|asked| read(asked)).collect::<Result<Vec<_>, _>>()?;
    let out = &mut anstream::stdout();
    if let [a, b] = &found[..] {
        if page.is_some() {
            return Err("--report draws one study; name one with --show".into());
        }
        let both = Both { studies: [only(a)?, only(b)?], args };
        match args.json {
            true => both.json(&mut stdout())?,
            false => both.print(out)?,
        }
        return Ok(ExitCode::SUCCESS);
    }
    let studies = &found[0];
    if page.is_some() {
        only(studies)?;
    }
    for (i, study) in studies.iter().enumerate() {
        let report = study.report(args)?;
        let of = json!({"study": study.name}).as_object().cloned().unwrap_or_default();
        if args.json {
            table::json(&mut stdout(), &report, &of)?;
        } else {
            if studies.len() > 1 {
                writeln!(out, "{}{}\n", if i > 0 { "\n\n" } else { "" }, study.name)?;
            }
            table::print(out, &report)?;
        }
        if let Some(page) = page {
            std::fs::write(page, html::page(&report, &study.command_line)?)
                .map_err(|error| format!("--report {}: {error}", page.display()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A file and a part of a name; without one, an empty part. A file may have # in its own name, and in those of its folders.
fn parted(asked: &str) -> (&str, &str) {
    match asked.rsplit_once('#') {
        Some((path, part)) if !Path::new(asked).exists() && Path::new(path).is_file() => {
            (path, part)
        }
        _ => (asked, ""),
    }
}

/// The studies of a file, or those that have something in their names: `FILE#PART`.
fn read(asked: &str) -> Result<Vec<Study>, String> {
    let (path, part) = parted(asked);
    let named = |error: &dyn std::fmt::Display| format!("--show {path}: {error}");
    let recorded = journal::studies(Path::new(path)).map_err(|error| named(&error))?;
    let names: Vec<String> = recorded.iter().map(|study| study.name.clone()).collect();
    // Optuna's own studies have no sums.
    let ours = recorded.into_iter().filter(|study| !study.trials.is_empty());
    // The whole name of one may be a part of another's.
    let is_whole = names.iter().any(|name| name == part);
    let wanted = ours.filter(|study| match is_whole {
        true => study.name == part,
        false => study.name.contains(part),
    });
    let studies = wanted.map(|study| Study::new(asked, study)).collect::<Result<Vec<_>, _>>();
    let studies = studies.map_err(|error| named(&error))?;
    match studies.is_empty() {
        false => Ok(studies),
        true if names.is_empty() => Err(named(&"no study is in it; `logitd tune` records one")),
        true => Err(named(&format!(
            "no study that `logitd tune` recorded has {part:?} in its name; there are: {}",
            names.join(", ")
        ))),
    }
}

/// The study, where there is one.
fn only(studies: &[Study]) -> Result<&Study, String> {
    match studies {
        [study] => Ok(study),
        _ => {
            let names: Vec<&str> = studies.iter().map(|study| study.name.as_str()).collect();
            Err(format!(
                "--show {}: {} studies are in it; name one with # and a part of its name, such as '{}#{}': {}",
                studies[0].asked,
                names.len(),
                parted(&studies[0].asked).0,
                names[0],
                names.join(", ")
            ))
        }
    }
}

impl Study {
    fn new(asked: &str, recorded: Recorded) -> Result<Self, String> {
        let Recorded { name, attributes, trials } = recorded;
        let subject = Subject::from_attributes(&attributes)
            .map_err(|lacks| format!("{name} says no {lacks}: another version recorded it"))?;
        let lists = attributes.get("lists").and_then(Axes::from_json);
        let command_line = attributes.get("command_line").and_then(Value::as_str);
        Ok(Self {
            asked: asked.into(),
            name,
            lists: lists.unwrap_or_default(),
            command_line: command_line.unwrap_or_default().into(),
            results: Results::new(subject, trials),
        })
    }

    fn report(&self, args: &TuneArgs) -> Result<Report<'_>, Box<dyn Error>> {
        let mut named = Vec::new();
        if self.results.place(Point::PLAIN).is_some() {
            named.push((PLAIN.to_owned(), Point::PLAIN));
        }
        for compared in &args.compare {
            if self.results.place(compared.point).is_none() {
                return Err(format!(
                    "--compare {}: {} has not tried it; the command that recorded it evaluates it: {}",
                    compared.name, self.name, self.command_line
                )
                .into());
            }
            named.push((compared.name.clone(), compared.point));
        }
        let clusters = |points: &[Point]| Ok(self.results.by_group(points));
        Report::new(&self.results, self.lists.clone(), named, args.pareto, clusters)
    }

    /// The best, if anything is within the limits.
    fn best(&self) -> Option<Point> {
        let sets = self.results.scored();
        Some(sets[*self.results.chooser().ranked(&sets).first()?].point)
    }
}

const LETTERS: [&str; 2] = ["A", "B"];

/// Two studies side by side.
struct Both<'a> {
    studies: [&'a Study; 2],
    args: &'a TuneArgs,
}

impl Both<'_> {
    /// What is shown: the best of each, the plain model, and what was named, where one of them has tried it.
    fn shown(&self) -> Vec<(String, Point)> {
        let best = |i: usize| Some((format!("best of {}", LETTERS[i]), self.studies[i].best()?));
        let mut shown: Vec<_> = [0, 1].into_iter().filter_map(best).collect();
        shown.push((PLAIN.into(), Point::PLAIN));
        shown.extend(self.args.compare.iter().map(|of| (of.name.clone(), of.point)));
        shown.retain(|(_, point)| self.studies.iter().any(|of| of.results.place(*point).is_some()));
        shown
    }

    /// What one chose, in the other: from A to B, and from B to A.
    fn transfers(&self) -> (usize, [Option<Transfer>; 2]) {
        let [a, b] = self.studies.map(|study| &study.results);
        let [in_a, in_b] = compare::common(a, b);
        let there = compare::transfer((a, &in_a), (b, &in_b));
        (in_a.len(), [there, compare::transfer((b, &in_b), (a, &in_a))])
    }

    fn correlation(&self, metric: Metric) -> Option<f64> {
        let [a, b] = self.studies.map(|study| &study.results);
        let [in_a, in_b] = compare::common(a, b);
        compare::rank_correlation((a, &in_a), (b, &in_b), metric)
    }

    fn print(&self, out: &mut impl Write) -> io::Result<()> {
        for (letter, study) in LETTERS.iter().zip(self.studies) {
            let subject = study.results.subject();
            writeln!(
                out,
                "{letter}: {}: {}; {}; tail below {}, a miss costs {:.2} nats; logits {}",
                study.asked,
                subject.goal,
                table::about(&study.results),
                shortest(subject.tail.get()),
                subject.measure.miss_nats,
                subject.logits_sha256.get(..12).unwrap_or_default()
            )?;
        }
        writeln!(out)?;
        table::lines(out, &self.table())?;
        let (common, transfers) = self.transfers();
        writeln!(out, "\n{} settings were tried in both.", grouped(common as u64))?;
        if common > 0 && transfers == [None, None] {
            writeln!(out, "Of these, none is within the limits of both.")?;
        }
        for (to, transfer) in [1, 0].into_iter().zip(&transfers) {
            let (from, subject) = (LETTERS[1 - to], self.studies[to].results.subject());
            let metric = subject.goal.metric;
            if let Some(found) = transfer {
                let beyond = found.beyond.iter().map(|(limit, mean)| {
                    format!("; its {} of {mean:.4} is beyond {limit}", limit.metric.name())
                });
                writeln!(
                    out,
                    "Of these, {from} would take {}: in {}, {} {:.4}, {:+.4} to what {1} would take{}.",
                    found.point,
                    LETTERS[to],
                    metric.name(),
                    found.mean,
                    subject.goal.direction.cost(found.regret),
                    beyond.collect::<String>()
                )?;
            }
        }
        let metric = self.studies[1].results.subject().goal.metric;
        if let Some(correlation) = self.correlation(metric) {
            let name = metric.name();
            writeln!(out, "Their ranks by {name} correlate to {correlation:.4} (Spearman).")?;
        }
        Ok(())
    }

    /// A line a setting: its values, and what it comes to in each study.
    fn table(&self) -> Vec<Vec<String>> {
        const SHOWN: [Metric; 4] = [Metric::Nll, Metric::Coverage, Metric::Tail, Metric::Entropy];
        let all = self.studies.map(|study| &study.results);
        // Whichever has further cuts, both have a column for them.
        let all = if all[1].have_further() { all[1] } else { all[0] };
        let head = std::iter::once(String::new()).chain(table::names(all));
        let columns = SHOWN
            .iter()
            .flat_map(|metric| LETTERS.map(|letter| format!("{} in {letter}", metric.name())));
        let mut cells = vec![head.chain(columns).collect::<Vec<_>>()];
        for (name, point) in self.shown() {
            let mut line = vec![name];
            line.extend(table::values(all, point));
            for metric in SHOWN {
                line.extend(self.studies.map(|study| {
                    let place = study.results.place(point);
                    let sums = place.map(|place| study.results.trials()[place].total);
                    sums.map_or("-".into(), |sums| {
                        format!("{:.4}", study.results.mean(metric, &sums))
                    })
                }));
            }
            cells.push(line);
        }
        cells
    }

    /// A line for each setting and study that tried it, and one for what each chose, in the other.
    fn json(&self, out: &mut impl Write) -> io::Result<()> {
        let (common, transfers) = self.transfers();
        let mut lines = Vec::new();
        let mut push = |name: &str, study: &Study, point: Point, more: Value| {
            let Some(place) = study.results.place(point) else { return };
            let sums = &study.results.trials()[place].total;
            let mean = |sums| study.results.mean(Metric::Nll, sums);
            let best = study.best().and_then(|best| study.results.place(best));
            let best = best.map(|place| mean(&study.results.trials()[place].total));
            let difference =
                Difference { mean: mean(sums) - best.unwrap_or(mean(sums)), error: None };
            let mut of: Map<String, Value> = json!({"file": study.asked, "study": study.name})
                .as_object()
                .cloned()
                .unwrap_or_default();
            of.extend(more.as_object().cloned().unwrap_or_default());
            let subject = study.results.subject();
            let line =
                Line::new(subject.measure, name, point, study.results.rows(), sums, difference);
            lines.push(serde_json::to_string(&line.with(&of)));
        };
        for (name, point) in self.shown() {
            self.studies.iter().for_each(|study| push(&name, study, point, json!({})));
        }
        for (to, transfer) in [1, 0].into_iter().zip(transfers) {
            let Some(found) = transfer else { continue };
            let metric = self.studies[to].results.subject().goal.metric;
            let more = json!({
                "regret": found.regret,
                "within_limits": found.beyond.is_empty(),
                "settings_in_both": common,
                "rank_correlation": self.correlation(metric),
            });
            let name = format!("taken from {}", LETTERS[1 - to]);
            push(&name, self.studies[to], found.point, more);
        }
        for line in lines {
            writeln!(out, "{}", line?)?;
        }
        Ok(())
    }
}
