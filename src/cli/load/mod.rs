//! `logitd load`: sends requests to running servers, measures, and checks.

mod flags;
mod html;
mod live;
mod plot;
mod text;

use super::{Outcome, output};
use crate::files::difference;
use crate::server::pool;
use crate::tools::load::{
    CheckOptions, Checked, Checker, Clock, Drafting, Generator, Method, Pace, Plan, Route, Servers,
    Source, Summary, run,
};
use crate::wire::whole::Whole;
use flags::{Args, MethodArg, Plane, Rpc};
use live::Live;
use logitd_core::arithmetic;
use logitd_proto::GetInfoResponse;
use serde::Serialize;
use std::error::Error;
use std::io::{Write as _, stdout};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

pub use flags::Args as LoadArgs;

/// Everything that was measured: what `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    /// Of this program.
    version: &'static str,
    /// The command that was given.
    command: String,
    targets: Vec<TargetReport>,
    requests: RequestsReport,
    runs: Vec<Summary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    check: Option<CheckReport>,
}

#[derive(Debug, Serialize)]
struct TargetReport {
    target: String,
    version: String,
    devices: Vec<String>,
}

#[derive(Debug, Serialize)]
struct RequestsReport {
    /// Of a trace, each request has its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<MethodArg>,
    rpc: Rpc,
    plane: Plane,
    connections: usize,
    seed: Whole,
    /// What they were made of, for people.
    what: String,
}

impl RequestsReport {
    /// For people.
    fn describe(&self) -> String {
        let rpc = match self.rpc {
            Rpc::Unary => "a call each",
            Rpc::Stream => "on one stream a connection",
            Rpc::Direct => "a direct call each",
        };
        let plane = match self.plane {
            Plane::Inline => "in the message",
            Plane::Chunked => "in chunks",
            Plane::Candidates => "of the first tokens only",
            Plane::Shm => "in shared memory",
            Plane::Device => "in memory of a device",
        };
        let connections = match self.connections {
            1 => "1 connection".into(),
            n => format!("{n} connections"),
        };
        format!("{}; {rpc}, logits {plane}, {connections}; seed {}", self.what, self.seed.0)
    }
}

#[derive(Debug, Serialize)]
struct CheckReport {
    fraction: f64,
    against: String,
    answers: u64,
    rows: u64,
    rows_wrong: u64,
    skipped: u64,
    uncheckable: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    uncheckable_reason: Option<String>,
    /// The first wrong row and how to see it again.
    #[serde(skip_serializing_if = "Option::is_none")]
    first: Option<String>,
}

/// Runs the command.
pub fn run_command(args: Args) -> Outcome {
    args.validate()?;
    if let Some(path) = &args.report {
        output::check("--report", path)?;
    }
    // A worker encodes each message anew; fresh memory for it would cost more than the encoding.
    pool::keep_freed_memory();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(measure(&args))?;
    // What never answered may still be waited for by tasks that nobody needs.
    runtime.shutdown_timeout(Duration::from_millis(100));
    if args.json {
        writeln!(stdout(), "{}", serde_json::to_string(&report)?)?;
    } else {
        text::print(&mut anstream::stdout(), &report)?;
    }
    if let Some(path) = &args.report {
        std::fs::write(path, html::page(&report)?)
            .map_err(|error| format!("--report {}: {error}", path.display()))?;
        if !args.quiet {
            eprintln!("report: {}", path.display());
        }
    }
    Ok(verdict(&args, &report))
}

/// 1 where an answer was wrong, where none of those to be checked was, or where there were errors that must not be.
fn verdict(args: &Args, report: &Report) -> ExitCode {
    let wrong = report.check.as_ref().is_some_and(|check| check.rows_wrong > 0);
    let errors = report.runs.iter().any(|run| run.errors > 0);
    let refusals = report.runs.iter().any(|run| run.refused + run.overflow > 0);
    let unchecked = report.check.as_ref().is_some_and(|check| check.rows == 0);
    let failed = wrong
        || unchecked
        || (args.fail_on_errors && errors)
        || (args.fail_on_refusals && refusals);
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

async fn measure(args: &Args) -> Result<Report, Box<dyn Error>> {
    let stop = stopper();
    let live = Live::new(args.quiet);
    let mut inputs = Inputs::prepare(args)?;
    let paces = args.paces();
    let servers = Arc::new(connect(args, &inputs, &paces).await?);
    for (target, info) in args.targets().iter().zip(servers.infos()) {
        fits(args, target, info, &inputs)?;
        comparable(args, target, info)?;
    }

    let checker = args.check().map(|fraction| {
        Arc::new(Checker::new(CheckOptions {
            fraction,
            rows_max: args.check_rows_max,
            live: args.check_live,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            backend: args.check_with.factory(),
            seed: args.seed,
        }))
    });

    let mut runs = Vec::new();
    for (i, pace) in paces.iter().enumerate() {
        if stop.is_cancelled() && i > 0 {
            break;
        }
        let plan = plan(args, *pace);
        let source = Arc::new(inputs.source(args)?);
        let mut view = live.run(&plan, (i + 1, paces.len()));
        let measured =
            run(servers.clone(), source.clone(), &plan, checker.clone(), stop.clone(), |tick| {
                view.tick(tick)
            })
            .await;
        drop(view);
        let mut summary = Summary::new(&plan, measured);
        summary.warnings.extend(lost(&source));
        runs.push(summary);
    }

    let check = match checker {
        Some(checker) => Some(finish(args, checker, &live).await?),
        None => None,
    };
    Ok(Report {
        version: env!("CARGO_PKG_VERSION"),
        command: command(),
        targets: targets(args, servers.infos()),
        requests: RequestsReport {
            method: args.replay.is_none().then_some(args.method),
            rpc: args.rpc,
            plane: args.plane,
            connections: args.connections,
            seed: Whole(args.seed),
            what: inputs.what(args),
        },
        runs,
        check,
    })
}

/// What requests are made of.
enum Inputs {
    Generated(Box<crate::tools::load::Shape>, crate::tools::load::Pool),
    Trace,
}

impl Inputs {
    fn prepare(args: &Args) -> Result<Self, Box<dyn Error>> {
        if args.replay.is_some() {
            return Ok(Self::Trace);
        }
        let (shape, pool) = args.requests()?;
        Ok(Self::Generated(Box::new(shape), pool))
    }

    /// A fresh supply, from the first request on.
    fn source(&mut self, args: &Args) -> Result<Source, Box<dyn Error>> {
        Ok(match self {
            Self::Generated(shape, pool) => {
                let generator = Generator::new((**shape).clone(), pool.clone());
                Source::generated(generator, args.skip, args.requests_max)
            }
            Self::Trace => {
                let path = args.replay.as_deref().expect("it is a trace");
                Source::trace(path).map_err(|error| format!("{}: {error}", path.display()))?
            }
        })
    }

    /// Bytes of the logits of the largest request; not known of a trace.
    fn request_bytes_max(&self) -> Option<u64> {
        match self {
            Self::Generated(shape, pool) => {
                Some(u64::from(shape.rows_max()) * pool.row_bytes() as u64)
            }
            Self::Trace => None,
        }
    }

    fn what(&self, args: &Args) -> String {
        match self {
            Self::Generated(shape, pool) => {
                let from = match args.logits.as_slice() {
                    [] => String::new(),
                    [file] => format!(", from {}", file.display()),
                    [file, rest @ ..] => {
                        format!(", from {} and {} more", file.display(), rest.len())
                    }
                };
                let params = text::params(shape);
                let (units, vocab_size, dtype) = (&shape.rows, pool.vocab_size(), pool.dtype());
                let rows = format!("vocab_size {vocab_size}, {dtype}{from}");
                match &shape.method {
                    Method::Sample => format!("rows {units}, {rows}; {params}"),
                    Method::Verify(Drafting { drafts, mode, from }) => format!(
                        "sequences {units}, drafts {drafts}, mode {}, distributions {}, {rows}; {params}",
                        mode.name(),
                        from.name()
                    ),
                    Method::BeamStep(beams) => format!("groups {units}, beams {beams}, {rows}"),
                }
            }
            Self::Trace => {
                format!("recorded in {}", args.replay.as_deref().unwrap_or("".as_ref()).display())
            }
        }
    }
}

async fn connect(args: &Args, inputs: &Inputs, paces: &[Pace]) -> Result<Servers, Box<dyn Error>> {
    let builders: Result<Vec<logitd_client::Builder>, _> =
        args.targets().iter().map(|target| args.servers.builder(target)).collect();
    let route = match (args.plane, args.rpc) {
        (Plane::Inline | Plane::Candidates, Rpc::Unary | Rpc::Direct) => Route::Unary,
        (Plane::Inline | Plane::Candidates, Rpc::Stream) => Route::Stream,
        (Plane::Chunked, _) => Route::Chunked,
        (Plane::Shm | Plane::Device, rpc) => {
            let bytes = inputs.request_bytes_max();
            let bytes = bytes.ok_or("--plane shm and --plane device do not go with --replay")?;
            let (slot_bytes, slots) = (bytes as usize, slots(args, paces));
            let direct = rpc == Rpc::Direct;
            match args.plane {
                Plane::Device => Route::DeviceMemory { slot_bytes, slots, direct },
                _ => Route::SharedMemory { slot_bytes, slots, direct },
            }
        }
    };
    Ok(Servers::connect(builders?, args.connections, route).await?)
}

/// Requests in flight on one connection: all workers' share of a closed loop; a number of an open one.
fn slots(args: &Args, paces: &[Pace]) -> u32 {
    let most = paces.iter().map(|pace| match pace {
        Pace::Closed { concurrency } => *concurrency,
        Pace::Open { .. } | Pace::Recorded { .. } => args.shm_slots * args.lanes(),
    });
    most.max().unwrap_or(1).div_ceil(args.lanes()).try_into().unwrap_or(u32::MAX)
}

/// Whether the server takes the largest request.
fn fits(
    args: &Args,
    target: &str,
    info: &GetInfoResponse,
    inputs: &Inputs,
) -> Result<(), Box<dyn Error>> {
    let (Inputs::Generated(shape, pool), Some(bytes), Some(limits)) =
        (inputs, inputs.request_bytes_max(), &info.limits)
    else {
        return Ok(());
    };
    // What is cut into chunks has to fit row by row, and what lies in shared memory is in no message.
    let (rows, bytes) = match args.plane {
        Plane::Chunked => (1, pool.row_bytes() as u64),
        Plane::Inline | Plane::Candidates => (shape.counted_rows_max(), bytes),
        Plane::Shm | Plane::Device => (shape.counted_rows_max(), 0),
    };
    let bytes = bytes + shape.distribution_bytes_max(pool.vocab_size());
    let flags = args.size_flags();
    if rows > limits.request_rows_max {
        return Err(format!(
            "requests have up to {rows} rows, and {target} takes {} rows a request; lower {flags}, or raise the \
             server's --request-rows-max",
            limits.request_rows_max
        )
        .into());
    }
    let each = match &shape.method {
        Method::Sample => None,
        Method::Verify(drafting) => {
            Some(("sequences", drafting.drafts.rows_max(), limits.drafts_max, "drafts"))
        }
        Method::BeamStep(beams) => Some(("groups", *beams, limits.beams_max, "beams")),
    };
    if let Some((of, most, limit, what)) = each.filter(|(_, most, limit, _)| most > limit) {
        return Err(format!(
            "{of} have up to {most} {what}, and {target} takes {limit}; lower --{what}, or raise the server's \
             --{what}-max"
        )
        .into());
    }
    if bytes > limits.message_bytes_max {
        return Err(format!(
            "requests have up to {bytes} bytes, and {target} takes messages of {} bytes; lower {flags} or \
             --vocab-size, or raise the server's --message-bytes-max",
            limits.message_bytes_max
        )
        .into());
    }
    Ok(())
}

/// Whether its answers can be checked here.
fn comparable(args: &Args, target: &str, info: &GetInfoResponse) -> Result<(), Box<dyn Error>> {
    let (ours, theirs) = (arithmetic::VERSION, info.arithmetic_version);
    if args.check().is_some() && args.replay.is_none() && !arithmetic::replays(theirs) {
        return Err(format!(
            "{target} samples with arithmetic version {theirs}, and --check knows {ours}; use the same \
             release on both sides, or leave --check out"
        )
        .into());
    }
    Ok(())
}

fn plan(args: &Args, pace: Pace) -> Plan {
    Plan {
        pace,
        warmup: args.warmup(),
        duration: args.duration(),
        timeout: args.timeout,
        outstanding_max: args.outstanding_max,
        failure_pause: args.failure_pause,
        clock: Clock::Thread,
    }
}

fn targets(args: &Args, infos: &[GetInfoResponse]) -> Vec<TargetReport> {
    let device = |device: &logitd_proto::Device| match device.threads {
        0 => format!("{} ({})", device.id, device.isa),
        n => format!("{} ({}, {n} threads)", device.id, device.isa),
    };
    let report = |(target, info): (String, &GetInfoResponse)| TargetReport {
        target,
        version: info.version.clone(),
        devices: info.devices.iter().map(device).collect(),
    };
    args.targets().into_iter().zip(infos).map(report).collect()
}

/// What of a trace could not be read.
fn lost(source: &Source) -> Vec<String> {
    let lost = source.lost();
    let damage = lost.damage.iter().map(|d| {
        format!("the frame at byte {} of the trace ({} bytes) is lost: {}", d.at, d.bytes, d.reason)
    });
    damage.chain(lost.failure).collect()
}

/// Checks what was kept for it, away from the threads that serve tasks.
async fn finish(
    args: &Args,
    checker: Arc<Checker>,
    live: &Live,
) -> Result<CheckReport, Box<dyn Error>> {
    let checker = Arc::try_unwrap(checker).map_err(|_| "a request outlived its run")?;
    let mut view = live.check();
    let checked =
        tokio::task::spawn_blocking(move || checker.finish(|left| view.left(left))).await?;
    let first = checked.first.as_ref().map(|_| explain(args, &checked)).transpose()?;
    Ok(CheckReport {
        fraction: args.check().unwrap_or(0.0),
        against: match args.replay {
            Some(_) => "the recorded answers".into(),
            None => args.check_with.name().into(),
        },
        answers: checked.answers,
        rows: checked.rows,
        rows_wrong: checked.rows_wrong,
        skipped: checked.skipped,
        uncheckable: checked.uncheckable,
        uncheckable_reason: checked.uncheckable_reason.map(|reason| reason.to_string()),
        first,
    })
}

/// The first wrong row, and how to see it again.
fn explain(args: &Args, checked: &Checked) -> Result<String, Box<dyn Error>> {
    let wrong = checked.first.as_ref().ok_or("there is none")?;
    let mut text = format!("request {}, {}", wrong.request, wrong.difference);
    if !wrong.device.is_empty() {
        text += &format!(" (answered by {})", wrong.device);
    }
    if let Some(row) = &wrong.replayable {
        text += &format!("\n{row}\n  a: {}, b: the answer", args.check_with.name());
        if let Some(folder) = &args.dump {
            let written = difference::write(row, folder, "logitd-difference")?;
            text += &format!("\nwritten:  {}", written.display());
        }
    }
    if args.replay.is_none() {
        text += &format!(
            "\nsend it again: the same command with --skip {} --requests 1 --warmup 0 --check 1",
            wrong.request
        );
    }
    Ok(text)
}

/// The first signal ends the run early and the report is made; the second ends the program.
fn stopper() -> CancellationToken {
    let stop = CancellationToken::new();
    let cancel = stop.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            cancel.cancel();
        }
        if tokio::signal::ctrl_c().await.is_ok() {
            std::process::exit(130);
        }
    });
    stop
}

fn command() -> String {
    let args: Vec<String> = std::env::args_os().map(|arg| arg.to_string_lossy().into()).collect();
    args.join(" ")
}
