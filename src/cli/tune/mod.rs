//! `logitd tune`: which sampling parameters are best over positions whose next token is known.

mod flags;
mod html;
mod table;

pub use flags::Args as TuneArgs;

use super::Outcome;
use super::positions::threads;
use super::progress::Progress;
use super::text::grouped;
use crate::files::assets;
use crate::files::digests::Digests;
use crate::study::choose::{self, Difference, Scored};
use crate::study::journal::Trial;
use crate::study::metrics::{Measure, Metric};
use crate::study::search::{Axes, Point};
use crate::study::session::{Session, Setup, Told};
use crate::tools::fleet::Fleet;
use logitd_core::evaluate::Summing;
use std::error::Error;
use std::fs::File;
use std::io::{BufReader, stdout};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Beyond this share of what a uniform guess costs, the model has no idea of the text.
const CLUELESS: f64 = 0.9;
/// How often a server that has no room is asked again, each time after as long as it says.
const RETRIES_MAX: u32 = 100;
/// Sets that are as good as the best and simpler are looked for among so many.
const SHORTLIST: usize = 4096;

/// A setting that is shown.
#[derive(Clone, Debug)]
struct Shown {
    name: String,
    trial: Trial,
    /// How much worse its nll is than that of the best.
    difference: Difference,
}

/// Everything that is said.
#[derive(Debug)]
struct Report<'a> {
    session: &'a Session,
    /// The values whose grid is drawn where it was tried.
    axes: Axes,
    /// The best, the plain model, and what was asked for.
    shown: Vec<Shown>,
    /// The simplest setting that is as good as the best.
    simplest: Shown,
    /// The settings that none is better than in both of two metrics, with these.
    front: Vec<(Point, [(Metric, f64); 2])>,
    folds: Vec<Fold>,
    took: Duration,
}

impl Report<'_> {
    /// A mean of one of those that are shown.
    fn mean(&self, shown: usize, metric: Metric) -> f64 {
        self.mean_of(&self.shown[shown].trial, metric)
    }

    fn mean_of(&self, trial: &Trial, metric: Metric) -> f64 {
        self.session.setup().measure.mean(metric, self.session.rows(), &trial.total)
    }
}

/// What was chosen without a part of the rows, and what it is worth there.
#[derive(Debug)]
struct Fold {
    point: Option<Point>,
    rows: u64,
    /// The goal's metrics over that part: of what was chosen, and of the best over all rows.
    means: Vec<(f64, f64)>,
}

/// Runs the command.
pub fn run_command(args: TuneArgs) -> Outcome {
    // What can be refused at once is, before anything is read or computed.
    let (search, axes) = (args.search()?, args.axes()?);
    let sets_min = search.sets_min(&axes)?;
    let page = args.report()?;
    html::check(&page)?;
    let threads = threads(args.threads);
    let (data, grouped) = data(&args, threads)?;
    let miss_nats = args.miss_nats.unwrap_or_else(|| f64::from(data.about.vocab_size).ln());
    let setup = Setup {
        data,
        grouped,
        goal: args.goal(),
        tail: args.tail_share,
        measure: Measure { miss_nats },
        threads,
    };
    let told = Told {
        search: format!("{search:?}"),
        seed: args.seed,
        command_line: std::env::args().collect::<Vec<_>>().join(" "),
    };
    let fleet = fleet(&args, &setup.data)?;
    let mut session = Session::open(setup, Some(&args.study), &told)?.searched_by(fleet);
    if let Some(folds) = args.folds {
        session.check_folds(folds, sets_min)?;
    }

    let start = Instant::now();
    let mut progress = Progress::new(0, "rows x sets");
    let mut see = |seen: crate::study::session::Progress| {
        progress.extend(seen.more);
        progress.advance(seen.done);
    };
    session.search(&search, &axes, args.seed, &mut see)?;
    let took = start.elapsed();
    let report = report(&args, &session, axes, took, &mut see)?;
    drop(progress);
    warn(&session, &report.shown[1].trial);
    match args.json {
        true => table::json(&mut stdout(), &report)?,
        false => table::print(&mut anstream::stdout(), &report, &args.study, &page)?,
    }
    std::fs::write(&page, html::page(&report, &told.command_line)?)
        .map_err(|error| format!("--report {}: {error}", page.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// The servers that are named, if any is.
fn fleet(args: &TuneArgs, data: &Digests) -> Result<Option<Box<dyn Summing>>, Box<dyn Error>> {
    if args.targets.is_empty() {
        return Ok(None);
    }
    let builder = |target: &String| {
        let builder = args.servers.builder(target)?.retries_max(RETRIES_MAX);
        Ok::<_, Box<dyn Error>>((target.clone(), builder))
    };
    let targets = args.targets.iter().map(builder).collect::<Result<_, _>>()?;
    let dtype = data.about.dtype().expect("a dtype by its name");
    Ok(Some(Box::new(Fleet::connect(targets, dtype, data.about.vocab_size)?)))
}

/// The positions, and whether somebody named groups of them.
fn data(args: &TuneArgs, threads: usize) -> Result<(Digests, bool), Box<dyn Error>> {
    if let Some(digests) = args.positions.read(threads)? {
        return Ok((digests, args.positions.groups.is_some()));
    }
    let digests = match &args.digests {
        Some(path) => read_digests(path)?,
        None => assets::digests(),
    };
    let first = digests.rows.first().map_or(0, |row| row.group);
    let grouped = digests.rows.iter().any(|row| row.group != first);
    Ok((digests, grouped))
}

fn read_digests(path: &Path) -> Result<Digests, String> {
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let file = File::open(path).map_err(|e| named(&e))?;
    Digests::read(BufReader::new(file)).map_err(|e| named(&e))
}

/// Chooses, compares, and works out how sure that is.
fn report<'a>(
    args: &TuneArgs,
    session: &'a Session,
    axes: Axes,
    took: Duration,
    see: &mut impl FnMut(crate::study::session::Progress),
) -> Result<Report<'a>, Box<dyn Error>> {
    let sets = session.scored();
    let ranked = session.chooser().ranked(&sets);
    let Some(&best) = ranked.first() else { return Err(none_within(session, &sets).into()) };
    let best = &session.trials()[best];

    let mut points = vec![best.point, Point::PLAIN];
    points.extend(args.compare.iter().map(|compared| compared.point));
    let others = points.len();
    // The best itself, and what is simpler, the best first.
    let simpler = |&i: &usize| choose::complexity(sets[i].point) < choose::complexity(best.point);
    let shortlist: Vec<usize> = ranked
        .iter()
        .take(1)
        .chain(ranked.iter().filter(|i| simpler(i)).take(SHORTLIST))
        .copied()
        .collect();
    points.extend(shortlist.iter().map(|&i| sets[i].point));
    let clusters = session.clusters(&points)?;
    let differences = |metric| -> Vec<Difference> {
        let paired = |i: usize| {
            let both = clusters.iter().map(|(rows, sets)| (*rows, sets[i], sets[0]));
            choose::paired(session.setup().measure, metric, both)
        };
        (0..points.len()).map(paired).collect()
    };
    let of_nll = differences(Metric::Nll);
    let of_goal = differences(session.setup().goal.metric);

    let mut names = vec!["best".to_owned(), "plain".to_owned()];
    names.extend(args.compare.iter().map(|compared| compared.name.clone()));
    let trials = session.sums(&points[..others], &mut |_| {})?;
    let shown = names.into_iter().zip(trials).zip(&of_nll);
    let shown =
        shown.map(|((name, trial), difference)| Shown { name, trial, difference: *difference });
    let direction = session.setup().goal.direction;
    let simplest = choose::simplest(&points[others..], &of_goal[others..], direction);
    let simplest = simplest.expect("the best is as good as itself");
    let simplest = Shown {
        name: "simplest".into(),
        trial: session.trials()[shortlist[simplest]].clone(),
        difference: of_nll[others + simplest],
    };
    let measure = session.setup().measure;
    let front = args.pareto.map(|of| {
        let both = |i: usize| {
            let mean = |metric| measure.mean(metric, sets[i].rows, sets[i].sums);
            (sets[i].point, of.map(|(metric, _)| (metric, mean(metric))))
        };
        choose::front(&sets, measure, of).into_iter().map(both).collect()
    });
    Ok(Report {
        session,
        axes,
        shown: shown.collect(),
        simplest,
        front: front.unwrap_or_default(),
        folds: args
            .folds
            .map(|folds| fold(session, best.point, folds, see))
            .transpose()?
            .unwrap_or_default(),
        took,
    })
}

/// Chooses without each part of the rows, and measures on that part.
fn fold(
    session: &Session,
    best: Point,
    folds: u32,
    see: &mut impl FnMut(crate::study::session::Progress),
) -> Result<Vec<Fold>, Box<dyn Error>> {
    let points: Vec<Point> = session.trials().iter().map(|trial| trial.point).collect();
    let parts = session.folds(&points, folds, see)?;
    let place = points.iter().position(|point| point.key() == best.key()).expect("one of them");
    let measure = session.setup().measure;
    let one = |left_out: usize| {
        let (rows, held) = (&parts[left_out].0, &parts[left_out].1);
        let rest = session.rows() - rows;
        let sums: Vec<_> = (0..points.len())
            .map(|i| {
                let others = parts.iter().enumerate().filter(|(part, _)| *part != left_out);
                others.fold(
                    Default::default(),
                    |mut sum: logitd_core::evaluate::sums::SetSums, (_, (_, sets))| {
                        sum += sets[i];
                        sum
                    },
                )
            })
            .collect();
        let sets: Vec<Scored<'_>> = points
            .iter()
            .zip(&sums)
            .map(|(point, sums)| Scored { point: *point, rows: rest, sums })
            .collect();
        let chosen = session.chooser().ranked(&sets).first().copied();
        let of = |metric: &Metric| {
            let mean = |i: usize| measure.mean(*metric, *rows, &held[i]);
            (mean(chosen.unwrap_or(place)), mean(place))
        };
        let means = session.setup().goal.metrics().iter().map(of).collect();
        Fold { point: chosen.map(|i| points[i]), rows: *rows, means }
    };
    Ok((0..parts.len()).map(one).collect())
}

/// Why nothing was chosen.
fn none_within(session: &Session, sets: &[Scored<'_>]) -> String {
    let goal = &session.setup().goal;
    let limits: Vec<String> = goal.limits.iter().map(ToString::to_string).collect();
    let bests = goal.limits.iter().zip(session.chooser().bests(sets)).map(|(limit, best)| {
        let word = if limit.at_most { "least" } else { "greatest" };
        format!("the {word} {} of all is {best:.6}", limit.metric.name())
    });
    format!(
        "no setting of {} keeps to {}: {}; loosen a limit (--subject-to), or widen the lists",
        grouped(sets.len() as u64),
        limits.join(" and "),
        bests.collect::<Vec<_>>().join(", ")
    )
}

/// Says what is suspicious of the positions.
fn warn(session: &Session, plain: &Trial) {
    if session.rows_failed() > 0 {
        anstream::eprintln!(
            "{WARNING}warning:{WARNING:#} {} of {} rows have no token (NaN, +inf or no candidate) and are left out",
            grouped(session.rows_failed()),
            grouped(session.rows() + session.rows_failed())
        );
    }
    let uniform = f64::from(session.setup().data.about.vocab_size).ln();
    let nll = Measure { miss_nats: uniform }.mean(Metric::Nll, session.rows(), &plain.total);
    if nll > CLUELESS * uniform {
        anstream::eprintln!(
            "{WARNING}warning:{WARNING:#} the model gives the text {nll:.2} nats a token, and a uniform guess {uniform:.2}: \
             tokens of another tokenizer, or shifted by one? The target of a row is the token that came after it"
        );
    }
}

const WARNING: anstyle::Style = anstyle::AnsiColor::Yellow.on_default();
