//! The flags of `logitd load`.

use crate::cli::DtypeArg;
use crate::cli::params::flagged;
use crate::cli::target::ServerArgs;
use crate::config::values::{duration, fraction, number, timeout};
use crate::files::npy::Declared;
use crate::tools::load::{
    Arrivals, Choices, Drafting, DraftsFrom, Method, Pace, Pool, ROWS_MAX, RowsDistribution, Shape,
};
use crate::wire::params::looks_beyond;
use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches, ValueEnum};
use logitd_core::backend::Backend;
use logitd_core::backend::cpu::{Cpu, CpuOptions};
use logitd_core::backend::reference::Reference;
use logitd_core::batch::VOCAB_SIZE_MAX;
use logitd_core::beams::BEAMS_MAX;
use logitd_core::candidates;
use logitd_core::params::{FIELDS, Field, ParamsSpec, Value};
use logitd_core::verify::Mode;
use logitd_core::verify::drafts::refused;
use logitd_proto::Priority;
use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

/// Send requests to running servers, measure, and check the answers
///
/// CLOSED LOOP (--concurrency, the default): each worker sends its next request when the last is
/// answered. It finds out how much a server can do. A server that stalls stops the workers too, so
/// stalls hardly show in its times.
///
/// OPEN LOOP (--rate): requests are sent when a schedule says, whatever the server does, as many
/// independent callers would. It finds out how long callers wait at that rate. What is due while too
/// many requests are unanswered is not sent, but counted as overflow.
///
/// Two times are shown. SERVICE is from sending a request to its answer. RESPONSE is from when it was
/// due, so that waiting behind a stall, or for the generator itself, is in it. LAG is how late requests
/// were sent.
///
/// Every request is a function of --seed and its number: the same command sends the same requests.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// A running server: http://HOST:PORT, https://HOST:PORT or unix:PATH. Repeatable: requests go to
    /// all of them in turn
    #[arg(
        long = "target",
        id = "target",
        value_name = "ADDR",
        default_value = "http://127.0.0.1:50051"
    )]
    targets: Vec<String>,

    /// How to reach servers that ask who calls.
    #[command(flatten)]
    pub servers: ServerArgs,

    /// Connections to each target
    #[arg(long, value_name = "N", default_value = "1", value_parser = number::<usize>(1..=4096))]
    pub connections: usize,

    /// What is called: rows to sample, sequences with drafts to verify, or groups of beams to step
    #[arg(long, value_enum, default_value_t = MethodArg::Sample)]
    pub method: MethodArg,

    /// A call a request, or one stream a connection for all requests
    #[arg(long, value_enum, default_value_t = Rpc::Unary)]
    pub rpc: Rpc,

    /// How logits travel: in the message, cut into chunks on a stream, as candidates only, or in memory
    /// shared with a server on this machine (target unix:PATH, server with --shm; writing them there
    /// counts as service time), or in memory of its CUDA devices (server with --cuda-region-bytes-max too)
    #[arg(long, value_enum, default_value_t = Plane::Inline)]
    pub plane: Plane,

    /// Candidates a row, with --plane candidates: the first N tokens of each
    #[arg(long, value_name = "N", default_value = "64", value_parser = number(1..=VOCAB_SIZE_MAX as usize))]
    pub candidates: usize,

    /// Requests whose logits lie in shared memory at once, for each connection of an open loop
    #[arg(long, value_name = "N", default_value = "16", value_parser = number::<usize>(1..=4096))]
    pub shm_slots: usize,

    /// Closed loop with N workers [default: 8, unless --rate or --replay is given]
    #[arg(long, value_name = "N", value_parser = number::<usize>(1..=65_536), conflicts_with = "rate",
        help_heading = "Pace")]
    concurrency: Option<usize>,

    /// Open loop: requests a second
    #[arg(long, value_name = "R", value_parser = positive, help_heading = "Pace")]
    rate: Option<f64>,

    /// How an open loop spreads its requests
    #[arg(long, value_enum, default_value_t = ArrivalsArg::Poisson, help_heading = "Pace")]
    arrivals: ArrivalsArg,

    /// Several runs, one after another, each with its own warm-up: rate:100,200,400 or
    /// concurrency:1,2,4, or FROM..TO/N for N points from one to the other, as in rate:100..6400/7
    #[arg(long, value_name = "POINTS", conflicts_with_all = ["rate", "concurrency", "replay"],
        help_heading = "Pace")]
    sweep: Option<Sweep>,

    /// How long to measure [default: 10s; with --requests or --replay, until they are sent]
    #[arg(long, value_name = "TIME", value_parser = timeout, help_heading = "Pace")]
    duration: Option<Duration>,

    /// How long to send before measuring [default: a tenth of the duration, 2s at most; with
    /// --requests or --replay, 0]
    #[arg(long, value_name = "TIME", value_parser = duration, help_heading = "Pace")]
    warmup: Option<Duration>,

    /// Send N requests at most, 1 or more
    #[arg(long = "requests", value_name = "N", value_parser = number(1..=u64::MAX),
        help_heading = "Pace")]
    pub requests_max: Option<u64>,

    /// Begin with request number N
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        conflicts_with = "replay",
        help_heading = "Pace", value_parser = number(0..=u64::MAX))]
    pub skip: u64,

    /// How long a request waits for its answer. It then counts as NO_ANSWER
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = timeout, help_heading = "Pace")]
    pub timeout: Duration,

    /// Unanswered requests of an open loop; what is due beyond it is not sent, and counts as overflow
    #[arg(long, value_name = "N", default_value = "1024", value_parser = number::<usize>(1..=1_000_000),
        help_heading = "Pace")]
    pub outstanding_max: usize,

    /// How long a worker of a closed loop rests after a failure; at least as long as a refusal says
    #[arg(long, value_name = "TIME", default_value = "10ms", value_parser = duration, help_heading = "Pace")]
    pub failure_pause: Duration,

    /// Rows a request: 8, or 1..64 (uniform), or 1:70,8:20,16..64:10 (with weights), or
    /// geometric:4..64 (mean 4, at most 64)
    #[arg(long, value_name = "ROWS", default_value = "1", help_heading = "Requests")]
    rows: RowsDistribution,

    /// Sequences a request, with --method verify: as --rows. Each has a row for each of its drafts, and one more
    /// [default: 8]
    #[arg(long, value_name = "SEQUENCES", conflicts_with = "rows", help_heading = "Requests")]
    sequences: Option<RowsDistribution>,

    /// Drafts a sequence, with --method verify: as --rows. Each is one of the 8 likeliest tokens of its row
    /// [default: 4]
    #[arg(long, value_name = "DRAFTS", help_heading = "Requests")]
    drafts: Option<RowsDistribution>,

    /// How drafts are compared with their rows, with --method verify [default: match]
    #[arg(long, value_enum, help_heading = "Requests")]
    mode: Option<ModeArg>,

    /// What is told of what drafts were drawn from, with --mode rejection [default: none]
    #[arg(long, value_enum, help_heading = "Requests")]
    distributions: Option<DistributionsArg>,

    /// Groups a request, with --method beam-step: as --rows [default: 4]
    #[arg(long, value_name = "GROUPS", conflicts_with = "rows", help_heading = "Requests")]
    groups: Option<RowsDistribution>,

    /// Beams a group, and so its rows, with --method beam-step: 1 to 64. Parameters are not sent, since
    /// nothing is drawn [default: 4]
    #[arg(long, value_name = "N", value_parser = number(1..=BEAMS_MAX), help_heading = "Requests")]
    beams: Option<usize>,

    /// Tokens a row: 1 to 1048576 [default: 128256, or that of the files]
    #[arg(long, value_name = "N", value_parser = number(1..=VOCAB_SIZE_MAX),
        help_heading = "Requests")]
    vocab_size: Option<u32>,

    /// How logits are stored [default: f16, or that of the files]
    #[arg(long, value_enum, help_heading = "Requests")]
    dtype: Option<DtypeArg>,

    /// Take the rows from this file, as `sample` reads it. Repeatable
    #[arg(long, value_name = "FILE", help_heading = "Requests")]
    pub logits: Vec<PathBuf>,

    /// Different rows to prepare; requests are slices of them. Of files, the first N
    #[arg(long, value_name = "N", default_value = "64", value_parser = number::<usize>(1..=1_048_576),
        help_heading = "Requests")]
    pool_rows: usize,

    #[command(flatten)]
    params: ParamsLists,

    /// Who goes first under load
    #[arg(long, value_enum, default_value_t = PriorityArg::Normal, help_heading = "Requests")]
    priority: PriorityArg,

    /// Everything that is random comes from this: 0 to 2^64 - 1
    #[arg(long, value_name = "S", default_value_t = 0, help_heading = "Requests", value_parser = number(0..=u64::MAX))]
    pub seed: u64,

    /// Send the requests of this trace (logitd serve --record FILE), at the pace they came, with the
    /// seeds that were used; with --concurrency, as fast as they are answered
    #[arg(long, value_name = "FILE",
        conflicts_with_all = ["rate", "logits", "rows", "vocab_size", "dtype", "requests_max", "method", "sequences",
            "drafts", "mode", "distributions", "groups", "beams"],
        help_heading = "Replay")]
    pub replay: Option<PathBuf>,

    /// Replay so many times as fast
    #[arg(long, value_name = "X", default_value = "1", value_parser = positive, requires = "replay",
        help_heading = "Replay")]
    speed: f64,

    /// Check this share of the answers, to the bit: sampled again here, or, of a replay, against the
    /// recorded answer. Above 0, up to 1; leave it out for none
    #[arg(long, value_name = "SHARE", value_parser = share, help_heading = "Check")]
    check: Option<f64>,

    /// What to sample again with: the slow oracle, or this machine's processor path
    #[arg(long, value_enum, default_value_t = CheckWith::Reference, help_heading = "Check")]
    pub check_with: CheckWith,

    /// Check while the run goes on, on one thread, and not after it: for long runs
    #[arg(long, requires = "check", help_heading = "Check")]
    pub check_live: bool,

    /// Rows that may wait for their check; answers beyond it are skipped, and counted
    #[arg(long, value_name = "N", default_value = "4096", value_parser = number::<usize>(1..=16_777_216),
        help_heading = "Check")]
    pub check_rows_max: usize,

    /// Where the first wrong row is written, as logitd-difference.npy, .params.jsonl and .txt
    #[arg(long, value_name = "DIR", requires = "check", help_heading = "Check")]
    pub dump: Option<PathBuf>,

    /// Print one JSON object and no table
    #[arg(long, help_heading = "Output")]
    pub json: bool,

    /// Write a page with plots, which needs no network to be looked at
    #[arg(long, value_name = "FILE.html", help_heading = "Output")]
    pub report: Option<PathBuf>,

    /// No progress
    #[arg(long, help_heading = "Output")]
    pub quiet: bool,

    /// Exit with 1 if a request failed (refusals are not failures)
    #[arg(long, help_heading = "Output")]
    pub fail_on_errors: bool,

    /// Exit with 1 if a request was refused or could not be sent
    #[arg(long, help_heading = "Output")]
    pub fail_on_refusals: bool,
}

const EXAMPLES: &str = "\
Examples:
  logitd load --duration 10s                      how much, with 8 at once
  logitd load --rate 500 --rows 1:70,8:20,64:10   how long callers wait at 500 requests a second
  logitd load --sweep rate:100..6400/7 --report load.html
  logitd load --target unix:/run/logitd.sock --plane shm --rows 64 --concurrency 2
  logitd load --plane chunked --rows 1000 --concurrency 1
  logitd load --method verify --sequences 64 --drafts 4 --mode rejection --distributions sparse
  logitd load --method beam-step --groups 8 --beams 4 --check 0.01
  logitd load --check 0.01 --temperature 0,0.8,1.2 --top-k 0,50
  logitd load --replay today.trace --speed 2 --check 1

Answers are checked when the run is over, so that checking takes nothing from what is measured.

Exit code: 0 fine; 1 a wrong answer, a --check that checked none, or what --fail-on-errors and
--fail-on-refusals name; 2 it could not run.";

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MethodArg {
    /// Sample: rows
    Sample,
    /// Verify: sequences with drafts, each of a row for each draft and one more
    Verify,
    /// BeamStep: groups of beams, each a row
    BeamStep,
}

/// How drafts are compared with their rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ModeArg {
    /// With the token that is sampled anyway
    Match,
    /// By rejection sampling
    Rejection,
    /// By typical acceptance
    Typical,
}

/// What is told of what drafts were drawn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DistributionsArg {
    /// Nothing: they were drafted without chance
    None,
    /// Weights of 8 tokens
    Sparse,
    /// A probability a token
    Dense,
    /// A row of logits: the target's own
    Logits,
}

/// How requests are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rpc {
    /// Sample, Verify or BeamStep: a call a request
    Unary,
    /// SampleStream or VerifyStream: one stream a connection, pipelined
    Stream,
    /// Over the server's --shm socket, without HTTP/2; with --plane shm or device
    Direct,
}

/// How logits travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Plane {
    /// As bytes in the message
    Inline,
    /// As bytes in several messages, sampled while the rest is still on its way
    Chunked,
    /// As bytes in the message, of each row's first tokens only
    Candidates,
    /// In shared memory
    Shm,
    /// In memory of the server's CUDA devices, written by this program's CUDA
    Device,
}

/// How an open loop spreads its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ArrivalsArg {
    /// Independent of each other, as many callers are
    Poisson,
    /// One every 1/rate seconds
    Constant,
}

/// Who goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PriorityArg {
    /// After all others
    Low,
    /// The default
    Normal,
    /// Before all others
    High,
}

/// What answers are checked against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CheckWith {
    /// The slow, sort-based oracle
    Reference,
    /// This machine's processor path, some hundred times as fast
    Cpu,
}

impl CheckWith {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reference => "reference",
            Self::Cpu => "cpu",
        }
    }

    /// What makes one.
    pub fn factory(self) -> fn() -> Box<dyn Backend> {
        match self {
            Self::Reference => || Box::<Reference>::default(),
            Self::Cpu => || {
                let options = CpuOptions { threads: 1, ..Default::default() };
                Box::new(Cpu::new(options).expect("every machine has the portable path"))
            },
        }
    }
}

/// The points of several runs.
#[derive(Clone, Debug, PartialEq)]
enum Sweep {
    Rates(Vec<f64>),
    Concurrencies(Vec<usize>),
}

impl std::str::FromStr for Sweep {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("rate", rest)) => Ok(Self::Rates(points(rest, positive)?)),
            Some(("concurrency", rest)) => {
                let points = points(rest, |n| number::<u32>(1..=65_536)(n).map(f64::from))?;
                let mut counts: Vec<usize> = points.iter().map(|n| n.round() as usize).collect();
                counts.dedup();
                Ok(Self::Concurrencies(counts))
            }
            _ => {
                Err("write rate:100,200,400 or concurrency:1,2,4, or FROM..TO/N for the list"
                    .into())
            }
        }
    }
}

/// `A,B,C`, or `FROM..TO/N`: N points, each as many times the one before.
fn points(text: &str, one: impl Fn(&str) -> Result<f64, String>) -> Result<Vec<f64>, String> {
    let Some((from, rest)) = text.split_once("..") else {
        return text.split(',').map(&one).collect();
    };
    let (to, n) = rest.split_once('/').ok_or("a range lacks its number of points: FROM..TO/N")?;
    let (from, to, n) = (one(from)?, one(to)?, number::<usize>(2..=100)(n)?);
    let step = (to / from).powf(1.0 / (n - 1) as f64);
    let point = |i: usize| if i == n - 1 { to } else { from * step.powi(i as i32) };
    // Three digits say enough: 316 and not 316.22776601683796.
    let rounded = |x: f64| {
        let unit = 10f64.powf(x.log10().floor() - 2.0);
        ((x / unit).round() * unit * 1e9).round() / 1e9
    };
    Ok((0..n).map(|i| rounded(point(i))).collect())
}

/// How long a run without another end lasts.
const DURATION: Duration = Duration::from_secs(10);
/// The longest warm-up that nobody asked for.
const WARMUP_MAX: Duration = Duration::from_secs(2);
/// Longer than any run, and within what a clock can add.
const NO_END: Duration = Duration::from_secs(365 * 24 * 3600);
/// Bytes of prepared logits.
const POOL_BYTES_MAX: u64 = 8 << 30;

/// A flag with a list of values for each parameter that rows choose.
#[derive(Clone, Debug)]
struct ParamsLists(Vec<Choices>);

/// Parameters that are not chosen: seeds are drawn for each row, and no row has a sequence to be in, with a state.
const NOT_LISTED: [&str; 5] =
    ["seed", "position", "mirostat_mu", "adaptive_sum", "adaptive_weight"];

/// What the flags begin with where it is not the API's default: what many a server runs with.
const USUAL: [(&str, &str); 3] = [("temperature", "0.8"), ("top_k", "50"), ("top_p", "0.95")];

fn listed() -> impl Iterator<Item = &'static Field> {
    FIELDS.iter().filter(|field| !NOT_LISTED.contains(&field.name))
}

impl clap::Args for ParamsLists {
    fn augment_args(command: Command) -> Command {
        command.args(listed().map(|field| {
            let usual = USUAL.iter().find(|(name, _)| *name == field.name);
            let usual = usual.map(|(_, value)| value.to_string());
            let flag = Arg::new(field.name)
                .long(field.name.replace('_', "-"))
                .value_name(format!("{},..", field.symbol))
                .help(format!("{}. Of a list, each row takes one", field.about))
                .help_heading("Requests")
                .allow_hyphen_values(true)
                .action(ArgAction::Append)
                .value_delimiter(',')
                .value_parser(|text: &str| field.read(text).map_err(|error| flagged(&error)));
            match field.get(ParamsSpec::default()) {
                Value::Unset => flag,
                value => flag.default_value(usual.unwrap_or_else(|| value.to_string())),
            }
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ParamsLists {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let values = |field: &Field| matches.get_many::<Value>(field.name).into_iter().flatten();
        let choices = |field| Choices { field, values: values(field).copied().collect() };
        // What nobody names and has no default is not chosen.
        let given = |choices: &Choices| !choices.values.is_empty();
        Ok(Self(listed().map(choices).filter(given).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl ParamsLists {
    /// Each value of each parameter by itself.
    fn each(&self) -> impl Iterator<Item = ParamsSpec> {
        self.0.iter().flat_map(|Choices { field, values }| {
            values.iter().map(|value| {
                let mut spec = ParamsSpec::default();
                field.set(&mut spec, *value);
                spec
            })
        })
    }

    /// Every set of parameters that a row can have, as far as they decide how many tokens are kept for certain.
    fn kept(&self) -> Vec<(f32, u32)> {
        let deciding =
            self.0.iter().filter(|choices| ["temperature", "top_k"].contains(&choices.field.name));
        let mut specs = vec![ParamsSpec::default()];
        for Choices { field, values } in deciding {
            let with = |spec: &ParamsSpec, value: &Value| {
                let mut spec = *spec;
                field.set(&mut spec, *value);
                spec
            };
            specs = specs
                .iter()
                .flat_map(|spec| values.iter().map(move |value| with(spec, value)))
                .collect();
        }
        specs.iter().map(|spec| (spec.temperature, spec.top_k)).collect()
    }
}

impl Args {
    /// What no single parser can see.
    pub fn validate(&self) -> Result<(), Box<dyn Error>> {
        let plane = self.plane.to_possible_value().map(|value| value.get_name().to_owned());
        let plane = plane.unwrap_or_default();
        let is_shared = matches!(self.plane, Plane::Shm | Plane::Device);
        if is_shared
            && let Some(other) = self.targets.iter().find(|target| !target.starts_with("unix:"))
        {
            return Err(
                format!("--plane {plane} needs targets of unix:PATH; {other} is another").into()
            );
        }
        if self.rpc == Rpc::Stream && (is_shared || self.plane == Plane::Chunked) {
            let direct = if is_shared { " or --rpc direct" } else { "" };
            return Err(format!("--plane {plane} goes with --rpc unary{direct}").into());
        }
        if self.rpc == Rpc::Direct && !is_shared {
            return Err("--rpc direct goes with --plane shm or --plane device".into());
        }
        self.validate_method()?;
        if self.replay.is_some() && (is_shared || self.plane == Plane::Candidates) {
            return Err("--replay sends logits as they were recorded; leave --plane out".into());
        }
        Ok(())
    }

    /// Whether the flags that say what requests are made of go with what is called.
    fn validate_method(&self) -> Result<(), Box<dyn Error>> {
        use MethodArg::{BeamStep, Sample, Verify};
        let own = [
            ("sequences", self.sequences.is_some(), Verify, "verify"),
            ("drafts", self.drafts.is_some(), Verify, "verify"),
            ("mode", self.mode.is_some(), Verify, "verify"),
            ("distributions", self.distributions.is_some(), Verify, "verify"),
            ("groups", self.groups.is_some(), BeamStep, "beam-step"),
            ("beams", self.beams.is_some(), BeamStep, "beam-step"),
        ];
        let stray = own.iter().find(|(_, is_given, method, _)| *is_given && *method != self.method);
        if let Some((flag, _, _, method)) = stray {
            return Err(format!("--{flag} goes with --method {method}").into());
        }
        let drawn_from = self.distributions.is_some_and(|from| from != DistributionsArg::None);
        if drawn_from && self.mode != Some(ModeArg::Rejection) {
            return Err("--distributions goes with --mode rejection; the other modes look at no distribution of drafts".into());
        }
        match (self.method, self.plane, self.rpc) {
            (Sample, ..) => Ok(()),
            (_, Plane::Chunked | Plane::Candidates, _) => {
                Err("--plane chunked and --plane candidates go with --method sample; sequences and groups have whole rows".into())
            }
            (BeamStep, _, Rpc::Stream | Rpc::Direct) => {
                Err("--method beam-step goes with --rpc unary; it has no stream and no direct calls".into())
            }
            (BeamStep, ..) => Ok(()),
            (Verify, ..) => match self.params.each().find_map(|spec| refused(&spec)) {
                Some((name, value)) => {
                    let flag = name.replace('_', "-");
                    Err(format!("--{flag} is {value}, and sequences to be verified cannot have it; leave it out").into())
                }
                None => Ok(()),
            },
        }
    }

    /// What is called, and what its requests have beside rows.
    fn method(&self) -> Method {
        let drafts = || RowsDistribution::always(4);
        match self.method {
            MethodArg::Sample => Method::Sample,
            MethodArg::BeamStep => Method::BeamStep(self.beams.unwrap_or(4) as u32),
            MethodArg::Verify => Method::Verify(Drafting {
                drafts: self.drafts.clone().unwrap_or_else(drafts),
                mode: match self.mode {
                    None | Some(ModeArg::Match) => Mode::Match,
                    Some(ModeArg::Rejection) => Mode::Rejection,
                    Some(ModeArg::Typical) => Mode::Typical,
                },
                from: match self.distributions {
                    None | Some(DistributionsArg::None) => DraftsFrom::Point,
                    Some(DistributionsArg::Sparse) => DraftsFrom::Sparse,
                    Some(DistributionsArg::Dense) => DraftsFrom::Dense,
                    Some(DistributionsArg::Logits) => DraftsFrom::Logits,
                },
            }),
        }
    }

    /// Rows, sequences or groups a request.
    fn units(&self) -> RowsDistribution {
        match self.method {
            MethodArg::Sample => self.rows.clone(),
            MethodArg::Verify => {
                self.sequences.clone().unwrap_or_else(|| RowsDistribution::always(8))
            }
            MethodArg::BeamStep => {
                self.groups.clone().unwrap_or_else(|| RowsDistribution::always(4))
            }
        }
    }

    /// The flags that make requests larger, for people.
    pub fn size_flags(&self) -> &'static str {
        match self.method {
            MethodArg::Sample => "--rows",
            MethodArg::Verify => "--sequences or --drafts",
            MethodArg::BeamStep => "--groups or --beams",
        }
    }

    /// Where requests go.
    pub fn targets(&self) -> Vec<String> {
        self.targets.clone()
    }

    /// Connections, of all targets together.
    pub fn lanes(&self) -> usize {
        self.connections * self.targets.len()
    }

    /// One for each run.
    pub fn paces(&self) -> Vec<Pace> {
        let arrivals = match self.arrivals {
            ArrivalsArg::Poisson => Arrivals::Poisson,
            ArrivalsArg::Constant => Arrivals::Constant,
        };
        let open = |&rate: &f64| Pace::Open { rate, arrivals, seed: self.seed };
        let closed = |&concurrency: &usize| Pace::Closed { concurrency };
        match (&self.sweep, self.rate, self.concurrency) {
            (Some(Sweep::Rates(rates)), ..) => rates.iter().map(open).collect(),
            (Some(Sweep::Concurrencies(counts)), ..) => counts.iter().map(closed).collect(),
            (_, Some(rate), _) => vec![open(&rate)],
            (_, _, Some(concurrency)) => vec![closed(&concurrency)],
            _ if self.replay.is_some() => vec![Pace::Recorded { speed: self.speed }],
            _ => vec![closed(&8)],
        }
    }

    fn has_its_own_end(&self) -> bool {
        self.requests_max.is_some() || self.replay.is_some()
    }

    /// How long to measure.
    pub fn duration(&self) -> Duration {
        self.duration.unwrap_or(if self.has_its_own_end() { NO_END } else { DURATION })
    }

    /// How long to send before that.
    pub fn warmup(&self) -> Duration {
        self.warmup.unwrap_or_else(|| match self.has_its_own_end() {
            true => Duration::ZERO,
            false => (self.duration() / 10).min(WARMUP_MAX),
        })
    }

    /// The share of answers to check, if any.
    pub fn check(&self) -> Option<f64> {
        self.check
    }

    /// What requests are made of, and the rows for them.
    pub fn requests(&self) -> Result<(Shape, Pool), Box<dyn Error>> {
        let rows_max = self.units().rows_max().saturating_mul(self.method().rows_each_max());
        if rows_max > ROWS_MAX {
            let flags = self.size_flags();
            return Err(format!(
                "{flags}: requests of up to {rows_max} rows; allowed: {ROWS_MAX}; lower one of them"
            )
            .into());
        }
        let pool = self.pool(rows_max)?;
        let shape = Shape {
            method: self.method(),
            rows: self.units(),
            params: self.params.0.clone(),
            priority: match self.priority {
                PriorityArg::Low => Priority::Low,
                PriorityArg::Normal => Priority::Normal,
                PriorityArg::High => Priority::High,
            },
            seed: self.seed,
        };
        Ok((shape, pool))
    }

    fn pool(&self, rows_max: u32) -> Result<Pool, Box<dyn Error>> {
        let dtype = self.dtype.map(Into::into);
        let rows = self.pool_rows as u32;
        let (row_bytes, pool) = if self.logits.is_empty() {
            let dtype = dtype.unwrap_or(logitd_core::batch::Dtype::F16);
            let vocab_size = self.vocab_size.unwrap_or(VOCAB_SIZE);
            let row_bytes = u64::from(vocab_size) * dtype.size_bytes() as u64;
            self.affordable(row_bytes, rows_max)?;
            (row_bytes, Pool::generate(dtype, vocab_size, rows, self.seed))
        } else {
            let declared = Declared { dtype, vocab_size: self.vocab_size };
            let pool = Pool::read(&self.logits, declared, rows)?;
            (pool.row_bytes() as u64, pool)
        };
        self.affordable(row_bytes, rows_max)?;
        if self.plane != Plane::Candidates {
            return Ok(pool);
        }
        let candidates = self.candidates.min(pool.vocab_size() as usize);
        self.enough(candidates, pool.vocab_size() as usize)?;
        Ok(pool.candidates(candidates as u32))
    }

    /// Whether every row's answer follows from its candidates.
    fn enough(&self, candidates: usize, vocab_size: usize) -> Result<(), Box<dyn Error>> {
        let beyond = self.params.each().find_map(|spec| looks_beyond(&spec));
        if let Some(name) = beyond.filter(|_| candidates < vocab_size) {
            let flag = name.replace('_', "-");
            return Err(format!(
                "--{flag} looks at tokens that rows of {candidates} candidates leave out; leave it out, or raise \
                 --candidates to {vocab_size}"
            )
            .into());
        }
        for (temperature, top_k) in self.params.kept() {
            if !candidates::are_enough(candidates, vocab_size, temperature, top_k) {
                return Err(format!(
                    "--top-k is {top_k} at --temperature {temperature}, and rows have {candidates} \
                     candidates; allowed: 1 to {candidates}; or raise --candidates"
                )
                .into());
            }
        }
        Ok(())
    }

    /// Whether the rows to prepare fit into memory, by a wide margin.
    fn affordable(&self, row_bytes: u64, rows_max: u32) -> Result<(), Box<dyn Error>> {
        let rows = self.pool_rows as u64 + u64::from(rows_max);
        let bytes = rows * row_bytes;
        if bytes > POOL_BYTES_MAX {
            return Err(format!(
                "--pool-rows {} and requests of up to {} rows are {bytes} bytes of logits to prepare; \
                 allowed: {POOL_BYTES_MAX}; lower one of them",
                self.pool_rows, rows_max
            )
            .into());
        }
        Ok(())
    }
}

/// Tokens a row where nothing else is said: that of a widespread vocabulary.
const VOCAB_SIZE: u32 = 128_256;

/// A share of something that is to be done: above 0, up to 1.
fn share(text: &str) -> Result<f64, String> {
    match fraction(text)? {
        0.0 => Err("must be above 0; leave it out to check nothing".into()),
        share => Ok(share),
    }
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text.trim().parse().ok().filter(|x: &f64| *x > 0.0 && *x <= 1e9);
    number.ok_or_else(|| "allowed: above 0, up to 1000000000".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, Parser};

    #[derive(Parser)]
    struct Wrapper {
        #[command(flatten)]
        args: Args,
    }

    fn parse(flags: &str) -> Result<Args, clap::Error> {
        Wrapper::try_parse_from(format!("load {flags}").split_whitespace()).map(|w| w.args)
    }

    fn args(flags: &str) -> Args {
        parse(flags).unwrap()
    }

    #[test]
    fn the_flags_are_sound() {
        Wrapper::command().debug_assert();
    }

    #[test]
    fn the_pace_follows_from_the_flags() {
        assert_eq!(args("").paces(), [Pace::Closed { concurrency: 8 }]);
        let arrivals = Arrivals::Constant;
        let open = |rate| Pace::Open { rate, arrivals, seed: 3 };
        let flags = "--arrivals constant --seed 3 --sweep rate:";
        assert_eq!(args(&format!("{flags}100,250")).paces(), [100.0, 250.0].map(open));
        assert_eq!(args(&format!("{flags}100..1000/3")).paces(), [100.0, 316.0, 1000.0].map(open));
        let closed = |concurrency| Pace::Closed { concurrency };
        let sweep = args("--sweep concurrency:1..64/7").paces();
        assert_eq!(sweep, [1, 2, 4, 8, 16, 32, 64].map(closed));
        assert_eq!(args("--replay a --speed 2").paces(), [Pace::Recorded { speed: 2.0 }]);
        assert_eq!(args("--replay a --concurrency 2").paces(), [closed(2)]);
    }

    #[test]
    fn runs_have_an_end_and_a_fitting_warmup() {
        let times = |flags| (args(flags).warmup().as_millis(), args(flags).duration().as_secs());
        assert_eq!(times(""), (1000, 10));
        assert_eq!(times("--duration 5s"), (500, 5));
        assert_eq!(times("--duration 60m"), (2000, 3600));
        assert_eq!(times("--requests 5"), (0, NO_END.as_secs()));
        assert_eq!(times("--requests 5 --duration 3s --warmup 1s"), (1000, 3));
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for flags in [
            "--rate 5 --concurrency 5",
            "--sweep rate:1,2 --rate 5",
            "--replay a --rows 5",
            "--speed 2",
            "--rate 0",
            "--rate -1",
            "--sweep 5",
            "--sweep rate:1..2",
            "--sweep rate:1..2/1",
            "--sweep concurrency:0,1",
            "--check 1.5",
            "--connections 0",
            "--duration 0",
            "--requests 0",
            "--check 0",
            "--temperature 1,-1",
            "--temperature 1e-46",
            "--top-p 0",
            "--top-k -1",
            "--draws 0",
            "--sequences 4 --rows 4",
            "--beams 65",
            "--replay a --drafts 4",
        ] {
            assert!(parse(flags).is_err(), "{flags}");
        }
        let error = |flags| args(flags).validate().unwrap_err().to_string();
        assert!(error("--plane shm").contains("http://127.0.0.1:50051"));
        assert!(error("--plane device").contains("--plane device needs targets of unix:PATH"));
        assert!(error("--plane shm --target unix:a --rpc stream").contains("--rpc unary"));
        assert!(error("--rpc direct").contains("--plane shm"));
        assert!(error("--plane chunked --rpc stream").contains("--plane chunked goes with"));
        assert!(error("--plane candidates --replay a").contains("as they were recorded"));
        assert!(error("--drafts 4").contains("--drafts goes with --method verify"));
        assert!(
            error("--method verify --beams 4").contains("--beams goes with --method beam-step")
        );
        let sparse = "--method verify --distributions sparse";
        assert!(error(sparse).contains("--distributions goes with --mode rejection"));
        assert_eq!(args(&format!("{sparse} --mode rejection")).validate().err().map(drop), None);
        assert!(error("--method verify --plane chunked").contains("--method sample"));
        assert!(error("--method beam-step --rpc stream").contains("--rpc unary"));
        assert!(error("--method verify --draws 1,2").contains("--draws is 2"));
        let error = |flags| args(flags).requests().unwrap_err().to_string();
        assert!(error("--rows 1000000").contains("--pool-rows 64"));
        let large = "--method verify --sequences 1000000 --drafts 4";
        assert!(error(large).contains("--sequences or --drafts: requests of up to 5000000 rows"));
        let few = |more: &str| {
            let flags = format!("--vocab-size 99 --plane candidates --candidates 9 --top-k {more}");
            args(&flags).requests().map(drop).map_err(|error| error.to_string())
        };
        assert!(few("5,10").unwrap_err().contains("--top-k is 10"));
        assert!(few("0").unwrap_err().contains("allowed: 1 to 9; or raise --candidates"));
        assert_eq!(few("0 --temperature 0"), Ok(()));
        assert!(error("--logits /nowhere/a.npy").contains("/nowhere/a.npy"));
    }
}
