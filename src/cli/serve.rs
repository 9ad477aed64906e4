//! `logitd serve`: the daemon.

use super::Outcome;
use super::service::Service;
use crate::config::{Config, Machine, Note};
use crate::devices::KernelTier;
use crate::engine::Engine;
use crate::server::{Reloader, Server, metrics, telemetry};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::error::Error;
use std::process::ExitCode;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Serve sampling over gRPC.
///
/// Every flag is also a variable (LOGITD_QUEUE_ROWS_MAX; a misspelt one is refused) and a key of the file that
/// --config names (queue_rows_max). On SIGTERM or SIGINT the server drains: what it has accepted is answered. A
/// second signal stops it at once. On SIGHUP it reads certificates and tokens again.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: Box<Config>,
}

/// Runs the command.
pub fn run(args: Args) -> Outcome {
    // Read again: the file sets defaults, and the settings are checked as a whole.
    drop(args);
    let config = match Config::from_args(std::env::args_os().skip(1)) {
        Ok(config) => config,
        Err(crate::config::ConfigError::Args(error)) => error.exit(),
        Err(error) => return Err(error.into()),
    };
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(serve(config))?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(config: Config) -> Result<(), Box<dyn Error>> {
    let _telemetry = telemetry::install(&config.telemetry)?;
    serve_on(config, |_| ()).await
}

/// Serves until it is asked to stop. `ready` sees the server when it is bound.
pub(super) async fn serve_on(
    mut config: Config,
    ready: impl FnOnce(&Server),
) -> Result<(), Box<dyn Error>> {
    raise_open_files();
    for note in config.fit(&Machine::look()) {
        match note {
            Note::Lowered(note) => tracing::info!("{note}"),
            Note::TooMuch(note) => tracing::warn!("{note}"),
        }
    }
    let signals = Signals::new()?;
    metrics::install();
    let mut server = Server::bind(config.clone()).await?;
    let mut opened = config.open()?;
    server.offer_memory(std::mem::take(&mut opened.regions));
    for note in &opened.notes {
        tracing::info!("{note}");
    }
    for KernelTier { device, tier } in &opened.tiers {
        metrics::kernel_tier(device, tier);
        tracing::info!(device, tier, "kernels");
    }
    let engine = Engine::start(config.engine(), config.devices(opened));
    for state in engine.devices() {
        let device = state.info;
        tracing::info!(
            id = device.id,
            name = device.name,
            isa = device.isa,
            threads = device.threads,
            "device"
        );
    }
    if let Some(address) = server.metrics_address() {
        tracing::info!(address = %format!("http://{address}/metrics"), "metrics");
    }
    if let Some(address) = server.admin_address() {
        tracing::info!(address = %format!("http://{address}/"), "page");
    }
    for address in server.targets() {
        tracing::info!(address, "listening");
    }
    ready(&server);
    let service = Service::new(engine.clone());
    let signals = signals.follow(server.reloader(), service.clone());
    service.ready();
    let result = server.run(engine.clone(), signals).await;
    if result.is_err() {
        // Its threads may hang in a device, and would be waited for.
        std::mem::forget(engine);
    }
    Ok(result?)
}

/// As many connections as are allowed need more descriptors than a shell usually gives.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// The signals that are answered. Whatever else would end the process by default and is sent by mistake, by tools or
/// by limits (SIGUSR1, SIGUSR2, SIGALRM, SIGXFSZ) is ignored; a file that may not grow then fails to be written.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    ignored: Vec<(SignalKind, Signal)>,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        let file_size = SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw());
        let ignored = [
            SignalKind::user_defined1(),
            SignalKind::user_defined2(),
            SignalKind::alarm(),
            file_size,
        ];
        let ignored = ignored.map(|kind| Ok((kind, signal(kind)?)));
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            ignored: ignored.into_iter().collect::<std::io::Result<_>>()?,
        })
    }

    /// Resolves at the first signal that asks to stop; from then on the next one ends the process. SIGHUP has
    /// certificates and tokens read again.
    async fn follow(self, reloader: Reloader, service: Service) {
        let Self { mut terminate, mut interrupt, hangup, ignored } = self;
        tokio::spawn(reload(hangup, reloader, service.clone()));
        for (kind, signal) in ignored {
            tokio::spawn(ignore(kind, signal));
        }
        let code = next(&mut terminate, &mut interrupt).await;
        tracing::info!(signal = code, "asked to stop");
        service.stopping();
        tokio::spawn(async move {
            let code = next(&mut terminate, &mut interrupt).await;
            tracing::warn!(signal = code, "asked to stop again: leaving at once");
            telemetry::flush();
            // As a shell reports a process that the signal has ended.
            std::process::exit(128 + code);
        });
    }
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) -> i32 {
    tokio::select! {
        _ = terminate.recv() => SignalKind::terminate().as_raw_value(),
        _ = interrupt.recv() => SignalKind::interrupt().as_raw_value(),
    }
}

async fn reload(mut hangup: Signal, reloader: Reloader, service: Service) {
    while hangup.recv().await.is_some() {
        service.reloading();
        let reloader = reloader.clone();
        // What came of it is in the log and in the metrics; the server goes on either way.
        let _ = tokio::task::spawn_blocking(move || reloader.reload()).await;
        service.ready();
    }
}

async fn ignore(kind: SignalKind, mut signal: Signal) {
    while signal.recv().await.is_some() {
        tracing::debug!(signal = kind.as_raw_value(), "ignored");
    }
}
