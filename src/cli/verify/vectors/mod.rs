//! `logitd verify --vectors`: holds a backend or a server to a file of known answers.
//!
//! Each case is put to the subject and compared by what its kind says (`kinds.rs`). A case that needs what is not
//! known here is never passed over in silence: without `--known` nothing is compared then, and all that is missing
//! is named.

mod beam;
mod check;
mod drafts;
mod integers;
mod kinds;
mod logprobs;
mod sample;
mod subject;
mod tally;
mod unknown;

use super::Args;
use crate::cli::Outcome;
use crate::cli::progress::Progress;
use crate::cli::sampler::{Local, Sampler};
use crate::cli::target::{Remote, TargetArgs};
use crate::devices::BackendName;
use crate::files::npy::{Declared, LogitsFile};
use crate::files::vectors::{Case, Vectors};
use kinds::{KINDS, Kind, NOT_OF_SERVERS};
use std::error::Error;
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;
use subject::Subject;
use tally::Tally;

/// Which known answers are compared, and who is held to them.
#[derive(Debug, clap::Args)]
pub struct VectorsArgs {
    /// Compare with the known answers of this file instead: --a, or the server at --target, has to return them.
    /// Its rows with a number are those of --logits, or else of the file that it names itself
    #[arg(long, value_name = "FILE.json",
        conflicts_with_all = ["b", "rows", "seed", "first_row", "vocab_size_max", "params", "recorded"])]
    pub vectors: Option<PathBuf>,

    /// Only cases of these kinds: sample, verify, tree, beam, mass, exponential, log2, pow2, surprisal, interval
    #[arg(long, value_name = "KIND,..", value_delimiter = ',', requires = "vectors")]
    kinds: Vec<String>,

    /// Only the case of this number, counted from 0
    #[arg(long, value_name = "I", requires = "vectors")]
    case: Option<usize>,

    /// Compare the cases that need nothing unknown, and say how many others there are; without it nothing is
    /// compared where a kind or a parameter is unknown
    #[arg(long, requires = "vectors")]
    known: bool,

    #[command(flatten)]
    target: TargetArgs,
}

impl VectorsArgs {
    /// A server can be asked for known answers only.
    pub fn check(&self) -> Result<(), &'static str> {
        match (&self.target.target, &self.vectors) {
            (Some(_), None) => Err("--target is for --vectors: a server is held to known answers"),
            _ => Ok(()),
        }
    }

    /// Whether a case is one of those that the flags name.
    fn selects(&self, case: &Case) -> bool {
        (self.kinds.is_empty() || self.kinds.contains(&case.kind))
            && self.case.is_none_or(|index| index == case.index)
    }
}

/// Runs every case that the flags name.
pub fn run(args: &Args, path: &Path) -> Outcome {
    let start = Instant::now();
    let flags = &args.known_answers;
    let vectors = Vectors::read(path)?;
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let cases = selected(flags, &vectors).map_err(|e| named(&e))?;
    let is_server = flags.target.target.is_some();
    let (known, mut tally) = sort(&cases, is_server);
    if tally.left_out() > 0 && !flags.known {
        return Err(named(&refusal(&cases, is_server, &tally)).into());
    }
    let mut subject = subject(args, path, &vectors)?;
    let mut progress = Progress::new(known.len() as u64, "cases");
    for (case, kind) in known {
        let check = (kind.check)(case, &vectors, &mut subject);
        tally.add(case, check.map_err(|error| named(&format_args!("{}: {error}", title(case))))?);
        progress.advance(1);
    }
    drop(progress);
    report(args, path, &subject, &tally, start)?;
    match (tally.compared(), tally.different()) {
        (0, _) => Err(named(&"nothing was compared").into()),
        (_, 0) => Ok(ExitCode::SUCCESS),
        _ => Ok(ExitCode::FAILURE),
    }
}

/// The cases that the flags name.
fn selected<'a>(flags: &VectorsArgs, vectors: &'a Vectors) -> Result<Vec<&'a Case>, String> {
    if let Some(kind) = flags.kinds.iter().find(|kind| Kind::named(kind).is_none()) {
        let known: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
        return Err(format!("--kinds names {kind}; known: {}", known.join(", ")));
    }
    let count = vectors.cases.len();
    match flags.case {
        Some(index) if index >= count => Err(format!("--case is {index}; it holds {count} cases")),
        _ => Ok(vectors.cases.iter().filter(|case| flags.selects(case)).collect()),
    }
}

/// The cases that can be compared, each with its kind; the others are counted.
fn sort<'a>(cases: &[&'a Case], is_server: bool) -> (Vec<(&'a Case, &'static Kind)>, Tally) {
    let (mut known, mut tally) = (Vec::new(), Tally::default());
    for &case in cases {
        if is_server && NOT_OF_SERVERS.contains(&&*case.kind) {
            tally.skip(case);
            continue;
        }
        let unknown = unknown(case);
        match Kind::named(&case.kind) {
            Some(kind) if unknown.is_empty() => known.push((case, kind)),
            _ => tally.leave_out(unknown),
        }
    }
    (known, tally)
}

/// What of a case is not known here: its kind, or what the kind says.
fn unknown(case: &Case) -> Vec<String> {
    match Kind::named(&case.kind) {
        Some(kind) => (kind.unknown)(case),
        None => vec![format!("kind {}", case.kind)],
    }
}

/// Why nothing is compared: the first thing that is not known, and all of them.
fn refusal(cases: &[&Case], is_server: bool, tally: &Tally) -> String {
    let first = cases
        .iter()
        .filter(|case| !(is_server && NOT_OF_SERVERS.contains(&&*case.kind)))
        .find_map(|case| Some(format!("{}: unknown {}", title(case), unknown(case).first()?)));
    format!(
        "{}. {} of {} cases need what is not known here: {}. --known compares the others, --kinds chooses kinds",
        first.unwrap_or_default(),
        tally.left_out(),
        cases.len(),
        tally.unknown()
    )
}

fn title(case: &Case) -> String {
    match case.name.as_str() {
        "" => format!("case {}", case.index),
        name => format!("case {}, \"{name}\"", case.index),
    }
}

/// Who is held to the answers.
fn subject(args: &Args, path: &Path, vectors: &Vectors) -> Result<Subject, Box<dyn Error>> {
    let remote = args.known_answers.target.connect()?;
    let tells_kept = remote.as_ref().is_none_or(Remote::tells_kept);
    let sampler: Box<dyn Sampler> = match remote {
        Some(_) if args.a != BackendName::Cpu(None) || args.threads != 0 => {
            return Err("--a and --threads are for this process, and --target is a server, which has its own; \
                        leave them out"
                .into());
        }
        Some(remote) => Box::new(remote),
        None => Box::new(Local::new(args.open(args.a)?)),
    };
    Ok(Subject::new(sampler, tells_kept, numbered(args, path, vectors)?))
}

/// The file that rows with a number are of. That a file which nobody named is not there matters only to a case
/// that has such a row.
fn numbered(
    args: &Args,
    path: &Path,
    vectors: &Vectors,
) -> Result<Result<LogitsFile, String>, String> {
    let declared = Declared { dtype: args.dtype.map(Into::into), vocab_size: args.vocab_size };
    let open = |logits: &Path| {
        LogitsFile::open(logits, declared)
            .map_err(|error| format!("{}: {error}; --logits names another", logits.display()))
    };
    match (&args.logits[..], &vectors.logits) {
        ([named], _) => open(named).map(Ok),
        ([], Some(own)) => Ok(open(&path.parent().unwrap_or(Path::new("")).join(own))),
        ([], None) => Ok(Err("the file names no logits; --logits does".into())),
        (many, _) => Err(format!("--logits names {} files, and --vectors takes one", many.len())),
    }
}

fn report(
    args: &Args,
    path: &Path,
    subject: &Subject,
    tally: &Tally,
    start: Instant,
) -> Result<(), Box<dyn Error>> {
    let (file, name, mut out) = (path.display().to_string(), subject.name(), stdout());
    if args.json {
        writeln!(out, "{}", tally.json(&file, &name))?;
        return Ok(());
    }
    writeln!(out, "{name} against {file}\n{}", tally.text())?;
    let (cases, took) = (tally.compared(), start.elapsed());
    let found = match tally.different() {
        0 => "0 differences".into(),
        n => format!("{n} DIFFER"),
    };
    writeln!(out, "{cases} cases compared in {took:.1?}: {found}")?;
    if let Some(difference) = tally.difference(|index| replay(args, path, index)) {
        writeln!(out, "{difference}")?;
    }
    Ok(())
}

/// The command that shows a case again.
fn replay(args: &Args, path: &Path, index: usize) -> String {
    let mut command = format!("logitd verify --vectors {} --case {index}", path.display());
    for logits in &args.logits {
        command += &format!(" --logits {}", logits.display());
    }
    match &args.known_answers.target.target {
        Some(target) => command + " --target " + target,
        None => format!("{command} --a {} --threads {}", args.a, args.threads),
    }
}
