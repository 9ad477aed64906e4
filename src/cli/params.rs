//! Sampling parameters as flags, and as a file with one set a row.

use crate::config::values::number;
use crate::files::params::{self, Set, Sets};
use crate::wire::inspection::{InspectError, InspectSpec, Limits};
use crate::wire::whole;
use clap::{Arg, ArgMatches, Command, FromArgMatches};
use logitd_core::adjustments::{self, Adjustments, AdjustmentsSpec};
use logitd_core::inspection::{Distribution, Inspect, TOP_LOGPROBS_MAX};
use logitd_core::params::{FIELDS, Field, ParamsError, ParamsSpec, SamplingParams, Value};
use std::error::Error;
use std::path::{Path, PathBuf};

/// A flag for each parameter, as it is written. Flags are read when all of them are known to be wanted.
#[derive(Clone, Debug)]
struct Flags(Vec<Option<String>>);

impl clap::Args for Flags {
    fn augment_args(command: Command) -> Command {
        command.args(FIELDS.iter().map(flag))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self(
            FIELDS.iter().map(|field| matches.get_one::<String>(field.name).cloned()).collect(),
        ))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn flag(field: &Field) -> Arg {
    let flag = Arg::new(field.name)
        .long(field.name.replace('_', "-"))
        .value_name(field.symbol)
        .help(field.about)
        .allow_hyphen_values(true);
    match field.get(ParamsSpec::default()) {
        Value::Unset => flag,
        value => flag.default_value(value.to_string()),
    }
}

impl Flags {
    fn spec(&self) -> Result<ParamsSpec, Box<dyn Error>> {
        read_flags(FIELDS.iter().zip(&self.0))
    }
}

fn read_flags<'a>(
    flags: impl Iterator<Item = (&'static Field, &'a Option<String>)>,
) -> Result<ParamsSpec, Box<dyn Error>> {
    let mut spec = ParamsSpec::default();
    for (field, text) in flags {
        if let Some(text) = text {
            field.set(&mut spec, field.read(text).map_err(|error| flagged(&error))?);
        }
    }
    Ok(spec)
}

/// A flag for each parameter that `verify --drift` leaves open: the seed is the command's own, both rules are
/// compared, and so are drafts.
#[derive(Clone, Debug)]
pub struct DriftFlags(Vec<Option<String>>);

/// Those parameters.
fn drift_fields() -> impl Iterator<Item = &'static Field> {
    FIELDS.iter().filter(|field| !["seed", "draw_rule", "draft"].contains(&field.name))
}

impl clap::Args for DriftFlags {
    fn augment_args(command: Command) -> Command {
        // Without default values: one that is given asks for --drift.
        command.args(drift_fields().map(|field| {
            let value = field.get(ParamsSpec::default());
            let about = format!("{} [default: {value}]", field.about);
            flag(field).default_value(None::<&str>).help(about).requires("drift")
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for DriftFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self(drift_fields().map(|f| matches.get_one::<String>(f.name).cloned()).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl DriftFlags {
    /// What they ask for, whatever the seed.
    pub fn spec(&self) -> Result<ParamsSpec, Box<dyn Error>> {
        read_flags(drift_fields().zip(&self.0))
    }
}

/// What is wanted of each row beside its tokens.
#[derive(Clone, Debug, clap::Args)]
struct InspectArgs {
    /// Tell the logprob and the rank of each drawn token, and the entropy, in these distributions: raw (the model's
    /// own), adjusted (before cuts), sampled (what is drawn from)
    #[arg(long, value_name = "raw,adjusted,sampled", value_delimiter = ',', value_parser = distribution)]
    logprobs: Vec<Distribution>,

    /// And the first N tokens of each, up to 1024
    #[arg(long, value_name = "N", default_value = "0", requires = "logprobs", value_parser = number(0..=TOP_LOGPROBS_MAX))]
    top_logprobs: u32,

    /// And these tokens, by their ids, up to 1024
    #[arg(long, value_name = "ID,..", value_delimiter = ',', requires = "logprobs", value_parser = number(0..=u32::MAX))]
    logprob_ids: Vec<u32>,

    /// Tell which tokens the cuts kept
    #[arg(long)]
    return_kept: bool,
}

impl InspectArgs {
    fn spec(&self) -> InspectSpec {
        InspectSpec {
            of: self.logprobs.clone(),
            top: self.top_logprobs,
            ids: self.logprob_ids.clone(),
            return_kept: self.return_kept,
        }
    }
}

fn distribution(name: &str) -> Result<Distribution, String> {
    Distribution::named(name).ok_or_else(|| "allowed: raw, adjusted, sampled".into())
}

/// What to do with each row.
#[derive(Clone, Debug, clap::Args)]
pub struct ParamsArgs {
    #[command(flatten)]
    flags: Flags,

    #[command(flatten)]
    inspect: InspectArgs,

    /// One parameter set a row of the file (the first line is row 0's, whatever --rows names), or one for all
    /// rows: a JSON object a line, whose keys are the names of parameters (temperature, top_k and so on) and of
    /// adjustments (allowed_bitmask, allowed_ids, banned_ids, bad_words, stop_ids, logit_bias, prompt, output,
    /// output_length, counts; breakers within dry), logprobs ({"of", "top", "ids"}) and return_kept. A key left out has its flag's value. An answer of --json is read
    /// for its seeds
    #[arg(long, value_name = "FILE.jsonl")]
    params: Option<PathBuf>,
}

impl ParamsArgs {
    /// The parameters of these rows of a file of `rows_all`, each checked.
    pub fn specs(
        &self,
        rows: impl ExactSizeIterator<Item = usize>,
        rows_all: usize,
    ) -> Result<Vec<Set>, Box<dyn Error>> {
        let flags = Set { inspect: self.inspect.spec(), ..self.flags.spec()?.into() };
        match &self.params {
            None => Ok(vec![flags; rows.len()]),
            Some(path) => read(path, &flags, rows, rows_all),
        }
    }

    /// Refuses the set of a row of so many tokens if it cannot be. Where flags alone say it, what is wrong is said of them.
    pub fn check(&self, row: usize, set: &Set, vocab_size: u32) -> Result<(), Box<dyn Error>> {
        let Some(path) = &self.params else {
            set.params.parse(|| 0).map_err(|error| flagged(&error))?;
            let asked = set.inspect.parse(vocab_size, Limits::NONE);
            return Ok(asked.map(drop).map_err(|errors| {
                let InspectError { field, description } = &errors[0];
                match field.starts_with("logprobs.ids") {
                    true => format!("--logprob-ids: {description}"),
                    false => format!("--logprobs: {description}"),
                }
            })?);
        };
        let checked = || {
            let params = set.params.parse(|| 0)?;
            adjustments(set, &params, vocab_size)?;
            inspect(set, vocab_size)
        };
        let named = |error: Box<dyn Error>| format!("{}, for row {row}: {error}", path.display());
        Ok(checked().map(drop).map_err(named)?)
    }
}

/// The parameters of some rows of a file of `rows_all`, from a file with one set a line: for each row of the
/// file, for each of these rows, or a single one for all.
pub fn read(
    path: &Path,
    flags: &Set,
    rows: impl ExactSizeIterator<Item = usize>,
    rows_all: usize,
) -> Result<Vec<Set>, Box<dyn Error>> {
    let count = rows.len();
    match params::read(path, flags)? {
        Sets::Each(sets) => match &sets[..] {
            [one] => Ok(vec![one.clone(); count]),
            _ if sets.len() == rows_all => Ok(rows.map(|row| sets[row].clone()).collect()),
            _ if sets.len() == count => Ok(sets),
            _ => Err(mismatch(path, sets.len(), count, rows_all).into()),
        },
        Sets::OfRows(sets) => rows
            .map(|row| match sets.get(&row) {
                Some(set) => Ok(set.clone()),
                None => Err(format!("{}: holds no answer of row {row}", path.display()).into()),
            })
            .collect(),
    }
}

fn mismatch(path: &Path, sets: usize, rows: usize, rows_all: usize) -> String {
    let path = path.display();
    let selected = match rows == rows_all {
        true => String::new(),
        false => format!(", of which --rows names {rows}"),
    };
    format!(
        "{path}: holds {sets} parameter sets, and there are {rows_all} rows{selected}; give one a row, or one \
         for all"
    )
}

/// Checked parameters, with a seed from the operating system where none was given.
pub fn parse(spec: ParamsSpec) -> Result<SamplingParams, Box<dyn Error>> {
    let fresh = match spec.seed {
        Some(seed) => seed,
        None => whole::fresh_seeds(1)
            .map_err(|e| format!("the system gives no random seed: {e}"))?
            .remove(0),
    };
    Ok(spec.parse(|| fresh)?)
}

/// The adjustments of a set, checked against a row of so many tokens and its parameters; `None` where there are none.
pub fn adjustments(
    set: &Set,
    params: &SamplingParams,
    vocab_size: u32,
) -> Result<Option<Adjustments>, Box<dyn Error>> {
    if set.adjustments == AdjustmentsSpec::default() {
        return Ok(None);
    }
    // This process has the memory that it has; the limits are for servers.
    let limits =
        adjustments::Limits { history_tokens_max: usize::MAX, adjusted_tokens_max: usize::MAX };
    let parsed = set.adjustments.clone().parse(vocab_size, limits);
    // Of several errors the first is as good as any.
    let parsed = parsed.map_err(|mut errors| errors.swap_remove(0))?;
    parsed.check_with(params)?;
    Ok(Some(parsed))
}

/// What a set asks of a row of so many tokens beside its own, checked; `None` where it is nothing.
pub fn inspect(set: &Set, vocab_size: u32) -> Result<Option<Inspect>, Box<dyn Error>> {
    // Of several errors the first is as good as any.
    let parsed = set.inspect.parse(vocab_size, Limits::NONE);
    Ok(parsed.map_err(|mut errors| errors.swap_remove(0))?)
}

/// `top_k is ..` as `--top-k is ..`.
pub fn flagged(error: &ParamsError) -> String {
    let rest = error.to_string()[error.field.len()..].to_owned();
    format!("--{}{rest}", error.field.replace('_', "-"))
}
