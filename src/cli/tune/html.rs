//! The report as a page: one file, no scripts, nothing loaded from anywhere. Its markup is `templates/tune.html`.

use super::report::{Report, Shown};
use super::table::{about, by_group, folds, front, settings, simplest};
use crate::cli::output;
use crate::cli::text::grouped;
use crate::study::choose::{self, Scored};
use crate::study::goal::Direction;
use crate::study::metrics::Metric;
use crate::study::surface::{Parameter, Surface};
use askama::Template;
use logitd_core::params::shortest;
use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// The drawing, which scales with the page.
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 340.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 600.0;
const TOP: f64 = 16.0;
const BOTTOM: f64 = 298.0;
/// What is drawn of settings that give the text more than the best does, in nats; below this share, a tail is drawn at it.
const NATS_SHOWN: f64 = 3.0;
const TAIL_LEAST: f64 = 1e-6;
/// Two dots within so many pixels are one.
const DOT: f64 = 2.5;

/// A name stands so far above its dot, and is so high.
const NAME_ABOVE: f64 = 6.0;
const NAME_HIGH: f64 = 14.0;

/// What every page of ours has near its beginning.
const MARK: &str = "<meta name=\"generator\" content=\"logitd tune\">";
/// Near its beginning.
const MARK_WITHIN: u64 = 1024;

/// Refuses to write over what is no page of ours, and where nothing can be written.
pub fn check(path: &Path) -> Result<(), String> {
    output::check("--report", path)?;
    if !path.is_file() {
        return Ok(());
    }
    let named = |error: io::Error| format!("--report {}: {error}", path.display());
    let mut head = Vec::new();
    let file = File::open(path).map_err(named)?;
    file.take(MARK_WITHIN).read_to_end(&mut head).map_err(named)?;
    match head.is_empty() || String::from_utf8_lossy(&head).contains(MARK) {
        true => Ok(()),
        false => Err(format!(
            "--report {}: the file is no page of logitd tune, and would be overwritten; name another",
            path.display()
        )),
    }
}

/// The page.
pub fn page(report: &Report<'_>, command: &str) -> askama::Result<String> {
    let subject = report.results.subject();
    let sets = report.results.scored();
    let surface = Surface::of(&sets, &report.axes);
    let mut heats = Vec::new();
    let mut tables = Vec::new();
    if subject.grouped {
        tables.push(groups(report));
    }
    if let Some((about, cells)) = folds(report) {
        tables.push(table("Chosen without a part of the rows", about, cells));
    }
    if let Some((about, cells)) = front(report) {
        tables.push(table("The front", about, cells));
    }
    if let Some(surface) = &surface {
        heats = self::heats(report, surface);
        tables.extend(surface.parameters().iter().map(|of| along(report, surface, *of)));
        tables.push(importances(report, surface));
    }
    let best = report.best();
    let mean = |metric| report.mean(metric, best);
    let plain = report.plain().map(|plain| {
        format!(", where the plain model draws {:.2}%", 100.0 * report.mean(Metric::Tail, plain))
    });
    Page {
        title: format!("logitd tune: {}", subject.goal),
        about: format!(
            "{}, {} tokens a row; logits {}, logitd {}",
            about(report.results),
            grouped(subject.vocab_size.into()),
            &subject.logits_sha256.get(..12).unwrap_or_default(),
            env!("CARGO_PKG_VERSION"),
        ),
        command: command.into(),
        take: format!(
            "Take {}. It keeps {:.1}% of the text's tokens and gives the text {:.3} nats a token; {:.2}% of what it draws \
             are tokens that the model holds for very unlikely{}.",
            best.point,
            100.0 * mean(Metric::Coverage),
            mean(Metric::Nll),
            100.0 * mean(Metric::Tail),
            plain.unwrap_or_default(),
        ),
        settings: table("", String::new(), settings(report)),
        simplest: simplest(report),
        dots_of: grouped(sets.len() as u64),
        scatter: scatter(report, &sets),
        whole_grid: surface.is_some(),
        heats,
        tables,
        miss: format!("{:.2}", subject.measure.miss_nats),
        tail: shortest(subject.tail.get()),
        clusters: if subject.grouped { "group" } else { "runs of 32 or more positions" },
    }
    .render()
}

#[derive(Template)]
#[template(path = "tune.html")]
struct Page {
    title: String,
    about: String,
    command: String,
    take: String,
    settings: Table,
    simplest: String,
    dots_of: String,
    scatter: Scatter,
    whole_grid: bool,
    heats: Vec<Heat>,
    tables: Vec<Table>,
    miss: String,
    tail: String,
    clusters: &'static str,
}

struct Table {
    title: String,
    about: String,
    head: Vec<String>,
    lines: Vec<(String, Vec<String>)>,
}

struct Heat {
    title: String,
    about: String,
    corner: String,
    columns: Vec<String>,
    lines: Vec<HeatLine>,
}

struct HeatLine {
    name: String,
    cells: Vec<Option<Cell>>,
}

struct Cell {
    text: String,
    /// 0 is the best there is.
    shade: f64,
    best: bool,
}

struct Scatter {
    x: Vec<Tick>,
    y: Vec<Tick>,
    dots: Vec<Dot>,
    picks: Vec<Pick>,
    /// Settings that none is better than in both.
    front: Vec<Dot>,
}

struct Tick {
    at: Pixel,
    text: String,
}

struct Dot {
    x: Pixel,
    y: Pixel,
}

/// A dot with a name.
struct Pick {
    dot: Dot,
    /// Where the name stands.
    y: Pixel,
    says: String,
}

/// Written to a tenth: nobody sees more, and it would make the page longer.
#[derive(Clone, Copy)]
struct Pixel(f64);

impl fmt::Display for Pixel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1}", self.0)
    }
}

/// All settings by nll and tail, those that are shown by name.
fn scatter(report: &Report<'_>, sets: &[Scored<'_>]) -> Scatter {
    let measure = report.results.subject().measure;
    let both = |set: &Scored<'_>| {
        let mean = |metric| measure.mean(metric, set.rows, set.sums);
        (mean(Metric::Nll), mean(Metric::Tail))
    };
    let least = sets.iter().map(|set| both(set).0).fold(f64::INFINITY, f64::min);
    let (low, high) = (least, least + NATS_SHOWN);
    let x = |nll: f64| Pixel(LEFT + (nll - low) / (high - low) * (RIGHT - LEFT));
    let decades = -TAIL_LEAST.log10();
    let y =
        |tail: f64| Pixel(TOP + -tail.clamp(TAIL_LEAST, 1.0).log10() / decades * (BOTTOM - TOP));
    let mut taken = HashSet::new();
    let mut dots = Vec::new();
    for set in sets {
        let (nll, tail) = both(set);
        let (x, y) = (x(nll), y(tail));
        if nll <= high && taken.insert(((x.0 / DOT) as i64, (y.0 / DOT) as i64)) {
            dots.push(Dot { x, y });
        }
    }
    let pick = |shown: &Shown| {
        let [nll, tail] = [Metric::Nll, Metric::Tail].map(|metric| report.mean(metric, shown));
        let dot = Dot { x: Pixel(x(nll).0.min(RIGHT)), y: y(tail) };
        Pick { y: Pixel(dot.y.0 - NAME_ABOVE), dot, says: shown.name.clone() }
    };
    let mut picks: Vec<Pick> = report.shown.iter().map(pick).collect();
    part_names(&mut picks);
    let least = [Metric::Nll, Metric::Tail].map(|metric| (metric, Direction::Least));
    let front = choose::front(sets, measure, least).into_iter().map(|i| both(&sets[i]));
    let front = front.filter(|(nll, _)| *nll <= high);
    let nats = (0..=6).map(|i| low + f64::from(i) * NATS_SHOWN / 6.0);
    Scatter {
        x: nats.map(|nll| Tick { at: x(nll), text: format!("{nll:.2}") }).collect(),
        y: (0..=decades as i32)
            .map(|i| 10f64.powi(-i))
            .map(|tail| Tick { at: y(tail), text: format!("{}%", (100.0 * tail) as f32) })
            .collect(),
        dots,
        picks,
        front: front.map(|(nll, tail)| Dot { x: x(nll), y: y(tail) }).collect(),
    }
}

/// Moves names up, from the lowest on, until no two are within a line of each other; one that was moved beyond the top
/// stands there.
fn part_names(picks: &mut [Pick]) {
    picks.sort_by(|a, b| b.y.0.total_cmp(&a.y.0));
    let mut free = f64::INFINITY;
    for pick in picks {
        pick.y = Pixel(pick.y.0.min(free).max(TOP));
        free = pick.y.0 - NAME_HIGH;
    }
}

/// The best that is possible with each pair of values.
fn heats(report: &Report<'_>, surface: &Surface<'_>) -> Vec<Heat> {
    use Parameter::{MinP, Temperature, TopK, TopP};
    let mut pairs =
        vec![[Temperature, TopP], [Temperature, TopK], [Temperature, MinP], [TopK, TopP]];
    let others = surface.parameters().iter().filter(|of| !Parameter::COMMON.contains(of));
    pairs.extend(others.map(|of| [Temperature, *of]));
    let chooser = report.results.chooser();
    let metric = report.results.subject().goal.metric;
    let heat = |of: [Parameter; 2]| {
        let best = surface.best_with(&chooser, of);
        let mean = |set: &Scored<'_>| chooser.measure.mean(metric, set.rows, set.sums);
        let cost = |set: &Scored<'_>| chooser.goal.direction.cost(mean(set));
        let all: Vec<f64> = best.iter().flatten().flatten().map(cost).collect();
        let least = all.iter().copied().fold(f64::INFINITY, f64::min);
        let most = all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let cell = |set: &Option<Scored<'_>>| {
            let set = set.as_ref()?;
            // By the root, so that what is near the best can be told apart.
            let shade = ((cost(set) - least) / (most - least).max(1e-12)).sqrt();
            Some(Cell { text: format!("{:.3}", mean(set)), shade, best: cost(set) <= least })
        };
        let [rows, columns] = of;
        Heat {
            title: format!("{} over {} and {}", metric.name(), rows.name(), columns.name()),
            about: format!(
                "The {} that is possible with these two, whatever the others are, within the limits; darker is worse, - is nothing \
                 within them.",
                chooser.goal
            ),
            corner: format!("{} \\ {}", rows.name(), columns.name()),
            columns: surface.axis(columns).iter().map(|value| columns.shown(*value)).collect(),
            lines: surface
                .axis(rows)
                .iter()
                .zip(&best)
                .map(|(value, line)| HeatLine {
                    name: rows.shown(*value),
                    cells: line.iter().map(cell).collect(),
                })
                .collect(),
        }
    };
    pairs.into_iter().map(heat).collect()
}

/// What is possible along one parameter.
fn along(report: &Report<'_>, surface: &Surface<'_>, of: Parameter) -> Table {
    const SHOWN: [Metric; 5] =
        [Metric::Nll, Metric::Brier, Metric::Coverage, Metric::Tail, Metric::Entropy];
    let chooser = report.results.chooser();
    let line = |(value, set): (&f64, Option<Scored<'_>>)| {
        let cells = match set {
            Some(set) => {
                let mean =
                    |metric| format!("{:.4}", chooser.measure.mean(metric, set.rows, set.sums));
                SHOWN.iter().map(|metric| mean(*metric)).chain([set.point.to_string()]).collect()
            }
            None => vec!["-".into(); SHOWN.len() + 1],
        };
        (of.shown(*value), cells)
    };
    let mut head = vec![of.name().to_owned()];
    head.extend(SHOWN.map(|metric| metric.name().to_owned()));
    head.push("with".into());
    Table {
        title: format!("Along {}", of.name()),
        about: format!("With each value, the {}, whatever the others are.", chooser.goal),
        head,
        lines: surface.axis(of).iter().zip(surface.best_with_one(&chooser, of)).map(line).collect(),
    }
}

/// How much each parameter matters.
fn importances(report: &Report<'_>, surface: &Surface<'_>) -> Table {
    let chooser = report.results.chooser();
    let metrics = [Metric::Nll, Metric::Tail, Metric::Coverage, Metric::Entropy];
    let found = metrics.map(|metric| surface.importances(&chooser, metric));
    let line = |(i, of): (usize, Parameter)| {
        let cell = |found: &Option<Vec<crate::study::surface::Importance>>| match found {
            Some(found) => format!("{:.2} / {:.2}", found[i].first, found[i].total),
            None => "-".into(),
        };
        (of.name().to_owned(), found.iter().map(cell).collect())
    };
    let mut head = vec![String::new()];
    head.extend(metrics.map(|metric| metric.name().to_owned()));
    Table {
        title: "How much each parameter matters".into(),
        about: "Of what varies over the grid, the share that is a parameter's by itself / with all it does together with others \
                (Sobol indices, exact)."
            .into(),
        head,
        lines: surface.parameters().iter().copied().enumerate().map(line).collect(),
    }
}

/// The best of each group.
fn groups(report: &Report<'_>) -> Table {
    let about = "Chosen on the group's own rows: the fewer there are, the more it is luck.";
    table("The best of each group", about.into(), by_group(report))
}

/// A table of cells, the first line of which is its head.
fn table(title: &str, about: String, cells: Vec<Vec<String>>) -> Table {
    let mut cells = cells.into_iter();
    let head = cells.next().expect("a head");
    let lines = cells.map(|line| (line[0].clone(), line[1..].to_vec()));
    Table { title: title.into(), about, head, lines: lines.collect() }
}
