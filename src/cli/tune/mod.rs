//! `logitd tune`: which sampling parameters are best over positions whose next token is known.

mod change;
mod flags;
mod html;
mod report;
mod show;
mod table;

pub use flags::Args as TuneArgs;

use super::positions::threads;
use super::progress::Progress;
use super::text::grouped;
use super::{Outcome, output};
use crate::files::assets;
use crate::files::digests::Digests;
use crate::study::metrics::{Measure, Metric};
use crate::study::results::Results;
use crate::study::search::{Axes, Point};
use crate::study::session::{Session, Setup, Told};
use crate::tools::fleet::Fleet;
use logitd_core::evaluate::Summing;
use logitd_core::evaluate::sums::SetSums;
use report::{PLAIN, Report};
use std::error::Error;
use std::fs::File;
use std::io::{BufReader, stdout};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

/// Beyond this share of what a uniform guess costs, the model has no idea of the text.
const CLUELESS: f64 = 0.9;
/// How often a server that has no room is asked again, each time after as long as it says.
const RETRIES_MAX: u32 = 100;

/// Runs the command.
pub fn run_command(args: TuneArgs) -> Outcome {
    if !args.show.is_empty() {
        return show::run(&args);
    }
    if let Some(path) = &args.recorded {
        return change::run(&args, path);
    }
    // What can be refused at once is, before anything is read or computed.
    let (search, axes) = (args.search()?, args.axes()?);
    let sets_min = search.sets_min(&axes)?;
    let page = args.report()?;
    output::check("--study", &args.study)?;
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
        lists: axes.clone(),
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
    let report = report(&args, &session, axes, &mut see)?;
    drop(progress);
    if let Some(plain) = report.plain() {
        warn(session.results(), &plain.sums);
    }
    match args.json {
        true => table::json(&mut stdout(), &report, &Default::default())?,
        false => {
            let out = &mut anstream::stdout();
            table::print(out, &report)?;
            let new = session.results().trials().len() - session.recorded();
            table::ending(out, &report, &args.study, &page, new, took)?;
        }
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
    see: &mut impl FnMut(crate::study::session::Progress),
) -> Result<Report<'a>, Box<dyn Error>> {
    let results = session.results();
    let mut named = vec![(PLAIN.to_owned(), Point::PLAIN)];
    named.extend(args.compare.iter().map(|compared| (compared.name.clone(), compared.point)));
    let clusters = |points: &[Point]| Ok(Some(session.clusters(points)?));
    let mut report = Report::new(results, axes, named, args.pareto, clusters)?;
    if let Some(folds) = args.folds {
        let points: Vec<Point> = results.trials().iter().map(|trial| trial.point).collect();
        let parts = session.folds(&points, folds, see)?;
        report.folds = report::folds(results, report.best().point, &parts);
    }
    Ok(report)
}

/// Says what is suspicious of the positions.
fn warn(results: &Results, plain: &SetSums) {
    let (rows, rows_failed) = (results.rows(), results.subject().rows_failed);
    if rows_failed > 0 {
        anstream::eprintln!(
            "{WARNING}warning:{WARNING:#} {} of {} rows have no token (NaN, +inf or no candidate) and are left out",
            grouped(rows_failed),
            grouped(rows + rows_failed)
        );
    }
    let uniform = f64::from(results.subject().vocab_size).ln();
    let nll = Measure { miss_nats: uniform }.mean(Metric::Nll, rows, plain);
    if nll > CLUELESS * uniform {
        anstream::eprintln!(
            "{WARNING}warning:{WARNING:#} the model gives the text {nll:.2} nats a token, and a uniform guess {uniform:.2}: \
             tokens of another tokenizer, or shifted by one? The target of a row is the token that came after it"
        );
    }
}

const WARNING: anstyle::Style = anstyle::AnsiColor::Yellow.on_default();
