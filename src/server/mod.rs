//! The gRPC server: connections in, work to the engine, answers out.
//!
//! A call comes through [`connection`] (sockets, TLS, HTTP/2), then [`admission`] (who calls, until
//! when), and its body through [`frames`], where each message gets its permit before it is read. The
//! handlers in [`service`] and [`stream`] convert ([`convert`]), submit and await.

mod account;
mod admin;
mod admission;
mod auth;
#[doc(hidden)] // As `frames`.
pub mod authority;
#[doc(hidden)] // As `frames`.
pub mod beam;
mod borrow;
mod budget;
#[doc(hidden)] // As `frames`.
pub mod by_row;
mod call;
mod columns;
mod connection;
mod control;
pub mod convert;
mod credentials;
mod device_memory;
mod direct;
#[doc(hidden)] // As `frames`.
pub mod envelope;
mod error;
#[doc(hidden)] // As `frames`.
pub mod evaluate;
#[doc(hidden)] // Open for the fuzz target of the decoder, not for users.
pub mod frames;
mod front;
mod history;
#[doc(hidden)] // As `frames`.
pub mod intake;
#[doc(hidden)] // As `frames`.
pub mod line;
mod listen;
mod log;
pub mod metrics;
mod places;
pub mod pool;
mod recording;
#[doc(hidden)] // As `frames`.
pub mod room;
mod run;
mod sample;
mod schedule;
mod scrape;
mod service;
mod state;
mod stream;
pub mod telemetry;
mod tls;
#[doc(hidden)] // As `frames`.
pub mod unread;
#[doc(hidden)] // As `frames`.
pub mod verify;
mod waiting;
mod web;
mod whole_rows;

pub use auth::TOKEN_BYTES_MAX;
pub use error::{Error, Violation};
pub use listen::{ListenError, Listeners};

use crate::config::{Address, Config};
use crate::engine::{Engine, Evaluations};
use crate::plane::Regions;
use crate::record::Recorder;
use admission::Admission;
use budget::{ANSWERS, Budget};
use connection::Connections;
use credentials::Credentials;
use device_memory::CudaMemory;
use frames::Bounds;
use line::Line;
use listen::Listener;
use logitd_core::backend::cuda::region;
use logitd_proto::{self as api, sampler_service_server::SERVICE_NAME};
use pool::Pool;
use state::{Shared, SharedMemory};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};
use unread::Patience;

/// How long connections may linger once every call is answered, so that the last bytes get out.
const LINGER: Duration = Duration::from_secs(1);
/// How long clients of streams have to notice that the server leaves.
const GOODBYE: Duration = Duration::from_secs(1);
/// Health checks and reflection ask for one name at a time.
const NAME_MESSAGE_BYTES_MAX: usize = 4 << 10;

/// The socket where memory is handed over, bound; its file goes with it.
struct ControlSocket {
    listener: tokio::net::UnixListener,
    _file: listen::SocketFile,
}

/// A server that is ready to run: files are read, sockets are bound.
pub struct Server {
    config: Config,
    listeners: Listeners,
    metrics: Option<tokio::net::TcpListener>,
    admin: Option<tokio::net::TcpListener>,
    credentials: Arc<Credentials>,
    control: Option<ControlSocket>,
    recorder: Option<Arc<Recorder>>,
    device_memory: Vec<region::RegionExporter>,
}

/// Reads the certificates and tokens of a server again.
#[derive(Clone)]
pub struct Reloader(Arc<Credentials>);

impl Reloader {
    /// Reads all of them, and says in the log how it went. Blocks. Where a file is wrong everything stays as it was.
    pub fn reload(&self) -> Result<(), String> {
        let reloaded = self.0.reload();
        match &reloaded {
            Ok(()) => {
                metrics::reloaded("ok");
                // Metrics first: whoever reads of it in the log finds them as they are now.
                self.0.report_expiry(true);
                let tokens = self.0.tokens().map(|tokens| tokens.len());
                tracing::info!(
                    tokens,
                    tls = self.0.tls().is_some(),
                    "read certificates and tokens again"
                );
            }
            Err(error) => {
                metrics::reloaded("failed");
                tracing::error!(error, "certificates and tokens stay as they were");
            }
        }
        reloaded
    }
}

/// Why a server cannot run, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// An address.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The metrics address.
    #[error("cannot listen on --metrics-listen {address}: {reason}")]
    Metrics {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        reason: String,
    },
    /// The address of the page.
    #[error("cannot listen on --admin-listen {address}: {reason}")]
    Admin {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        reason: String,
    },
    /// A file of certificates, keys or tokens, the one to record in, or the folder of studies.
    #[error("{0}")]
    File(String),
    /// Calls were cut off.
    #[error("{calls} requests were still unanswered after --drain-timeout ({} ms)", timeout.as_millis())]
    DrainTimeout {
        /// How many.
        calls: usize,
        /// How long they had.
        timeout: Duration,
    },
}

/// Serves on `listeners` until `shutdown` resolves, then drains. See [`Server`] to bind and run in two
/// steps.
pub async fn run(
    config: Config,
    engine: Engine,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServerError> {
    Server::bind(config).await?.run(engine, shutdown).await
}

impl Server {
    /// Binds every address and reads every file that the settings name. Call it within a Tokio runtime.
    pub async fn bind(config: Config) -> Result<Self, ServerError> {
        let credentials = Credentials::read(&config.security).map_err(ServerError::File)?;
        let credentials = Arc::new(credentials);
        let metrics = match config.telemetry.metrics_listen {
            None => None,
            Some(address) => Some(
                scrape::bind(address)
                    .await
                    .map_err(|e| ServerError::Metrics { address, reason: e.to_string() })?,
            ),
        };
        if let Some(folder) = &config.admin.studies_dir {
            std::fs::read_dir(folder).map_err(|error| {
                ServerError::File(format!("--studies-dir {}: {error}", folder.display()))
            })?;
        }
        let admin = match config.admin.admin_listen {
            None => None,
            Some(address) => Some(
                admin::bind(address)
                    .await
                    .map_err(|e| ServerError::Admin { address, reason: e.to_string() })?,
            ),
        };
        let listeners = Listeners::bind(&config.listen, config.unix_mode)?;
        let control = match &config.shm.shm {
            Some(Address::Unix(path)) => {
                let (listener, file) = Listener::bind_control(path, config.unix_mode)?;
                Some(ControlSocket { listener, _file: file })
            }
            _ => None,
        };
        let recorder = recording::open(&config.recording).map_err(ServerError::File)?;
        let device_memory = Vec::new();
        Ok(Self {
            config,
            listeners,
            metrics,
            admin,
            credentials,
            control,
            recorder,
            device_memory,
        })
    }

    /// Offers memory of these devices to whoever may share memory with the server (`--shm`).
    pub fn offer_memory(&mut self, devices: Vec<region::RegionExporter>) {
        self.device_memory = devices;
    }

    /// The addresses, with the ports that were taken where 0 was asked for.
    pub fn addresses(&self) -> Vec<crate::config::Address> {
        self.listeners.addresses()
    }

    /// The same as a client takes them: `http://127.0.0.1:50051`, `unix:/run/logitd.sock`.
    pub fn targets(&self) -> Vec<String> {
        self.addresses().iter().map(|address| address.target(self.config.tls())).collect()
    }

    /// Has the server read its certificates and tokens again, whenever asked, from now until it ends.
    pub fn reloader(&self) -> Reloader {
        Reloader(Arc::clone(&self.credentials))
    }

    /// Where metrics are served.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Where the page is.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Serves until `shutdown` resolves, then drains: health says no, `--drain-delay` passes, sockets
    /// close, every request that was taken is answered (within `--drain-timeout`), connections close. Calls whose
    /// clients neither end their messages nor read their answers are cut off after `--drain-grace`.
    pub async fn run(
        self,
        engine: Engine,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServerError> {
        let targets = self.targets();
        let Self {
            config,
            listeners,
            metrics,
            admin,
            credentials,
            control,
            recorder,
            device_memory,
        } = self;
        let uuids = device_memory.iter().map(|on| (on.device().to_owned(), on.uuid())).collect();
        pool::keep_freed_memory();
        // Whoever is on this host may look.
        let asked = config.telemetry.metrics_listen.is_some_and(|open| !open.ip().is_loopback());
        let asked = (asked && credentials.tokens().is_some()).then(|| Arc::clone(&credentials));
        let scraped = metrics.map(|listener| tokio::spawn(scrape::serve(listener, asked)));
        let patience =
            Patience::new(config.connections.stream_stall_timeout, config.drain.drain_grace);
        let shared = Arc::new(Shared {
            engine: engine.clone(),
            limits: convert::limits(&config),
            bounds: Bounds {
                message_bytes_max: config.work.message_bytes_max,
                request_rows_max: config.work.request_rows_max as usize,
                receive_timeout: config.work.receive_timeout,
            },
            answers: Budget::gauged(
                "the server",
                ANSWERS,
                "answer_bytes_max",
                config.work.answer_bytes_max,
                metrics::answer_bytes(),
            ),
            evaluations: Evaluations::new(config.evaluate_threads(), config.work.passed_over_max),
            evaluating: Budget::new(
                "the server",
                "bytes of evaluations",
                "queue_bytes_max",
                config.work.queue_bytes_max / 2,
            ),
            line: Line::new(config.work.queue_bytes_max, config.work.room_wait),
            patience: Arc::clone(&patience),
            stream_goodbye: GOODBYE.min(config.drain.drain_timeout / 4),
            credentials: Arc::clone(&credentials),
            handshake_timeout: config.connections.handshake_timeout,
            idle_timeout: config.connections.connection_idle_timeout,
            pool: Pool::new(config.work.queue_bytes_max),
            shm: config.shm.shm.as_ref().map(|control| SharedMemory {
                regions: Regions::new(
                    config.shm.limits(),
                    CudaMemory::on(device_memory, &engine)
                        .map(|memory| (memory, config.device_limits())),
                ),
                uuids,
                control: control.to_string(),
                copy: recorder.is_some() || config.work.verify_fraction > 0.0,
            }),
            recorder: recorder.clone(),
            draining: patience.draining.clone(),
            active: TaskTracker::new(),
            working: AtomicUsize::new(0),
            large_answers: Semaphore::new(
                (tokio::runtime::Handle::current().metrics().num_workers() / 2).max(1),
            ),
        });
        let leaving = CancellationToken::new();
        let seen = admin.map(|listener| {
            let (config, engine) = (config.clone(), engine.clone());
            let (credentials, leaving) = (Arc::clone(&credentials), leaving.clone());
            let served = async move {
                admin::serve(listener, &config, targets, engine, credentials, leaving).await;
            };
            tokio::spawn(served)
        });
        let health = HealthReporter::new();
        set_health(&health, ServingStatus::Serving).await;
        let connections = Arc::new(Connections::new(
            &config,
            routes(&shared, &health),
            Arc::clone(&credentials),
            Arc::clone(&shared.answers),
            patience,
        ));
        for listener in listeners.0 {
            connections.tasks.spawn(Arc::clone(&connections).accept(listener));
        }

        // Regions stay until the last call that may name one has been answered.
        let handed_over = CancellationToken::new();
        if let (Some(control), Some(shm)) = (control, &shared.shm) {
            let regions = shm.regions.clone();
            let limits = config.control_limits();
            let stop = handed_over.clone();
            let host = direct::Host(Arc::clone(&shared));
            tokio::spawn(async move {
                let ControlSocket { listener, _file } = control;
                control::serve(listener, regions, limits, host, stop).await;
            });
        }

        let mut recording =
            recorder.map(|recorder| recording::Watch::new(recorder, &config.recording));
        let recorded = async {
            match &mut recording {
                Some(recording) => recording.go_on().await,
                None => std::future::pending().await,
            }
        };
        let served = async {
            tokio::select! {
                () = shutdown => {}
                () = follow_devices(&engine, &health) => {}
                () = credentials.watch_expiry() => {}
            }
            leaving.cancel();
            drain(&config, &shared, &health, &connections).await
        };
        let result = tokio::select! {
            result = served => result,
            () = recorded => unreachable!("it goes on until dropped"),
        };
        handed_over.cancel();
        if let Some(recording) = recording {
            recording.finish().await;
        }
        for task in [scraped, seen].into_iter().flatten() {
            task.abort();
        }
        result
    }
}

fn routes(shared: &Arc<Shared>, health: &HealthReporter) -> Routes {
    let health = HealthServer::new(HealthService::from_health_reporter(health.clone()))
        .max_decoding_message_size(NAME_MESSAGE_BYTES_MAX);
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(api::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    Routes::new(Admission::new(Arc::clone(shared)))
        .add_service(health)
        .add_service(
            reflection()
                .build_v1()
                .expect("compiled descriptors")
                .max_decoding_message_size(NAME_MESSAGE_BYTES_MAX),
        )
        // What grpcurl and many other tools still ask for.
        .add_service(
            reflection()
                .build_v1alpha()
                .expect("compiled descriptors")
                .max_decoding_message_size(NAME_MESSAGE_BYTES_MAX),
        )
        .prepare()
}

/// The sampler's health is that of its devices: it serves as long as one is up. Each device has a health of
/// its own too, by its id, since a server that has lost its GPU still serves.
async fn follow_devices(engine: &Engine, health: &HealthReporter) {
    let status = |up| if up { ServingStatus::Serving } else { ServingStatus::NotServing };
    let mut devices = engine.watch_devices();
    loop {
        let states = devices.borrow_and_update().clone();
        set_health(health, status(states.iter().any(|device| device.up))).await;
        for device in &states {
            health.set_service_status(&device.info.id, status(device.up)).await;
        }
        if devices.changed().await.is_err() {
            // No more news; the engine lives as long as we hold it.
            return std::future::pending().await;
        }
    }
}

/// For the server as a whole (the empty name) and for its service.
async fn set_health(health: &HealthReporter, status: ServingStatus) {
    for service in ["", SERVICE_NAME] {
        health.set_service_status(service, status).await;
    }
}

async fn drain(
    config: &Config,
    shared: &Shared,
    health: &HealthReporter,
    connections: &Connections,
) -> Result<(), ServerError> {
    tracing::info!("draining");
    set_health(health, ServingStatus::NotServing).await;
    tokio::time::sleep(config.drain.drain_delay).await;

    // Sockets close; connections are told to go away, and streams to end.
    shared.draining.cancel();
    connections.tasks.close();
    let deadline = Instant::now() + config.drain.drain_timeout;
    shared.active.close();
    let patience = &shared.patience;
    let over = async {
        tokio::time::sleep(patience.grace).await;
        patience.over.cancel();
        std::future::pending().await
    };
    let closed = async {
        loop {
            shared.active.wait().await;
            // Everything is answered. Connections that only watch health, or never said a word,
            // would stay for ever; a call that was under way to us keeps the others open.
            let linger = Instant::now() + LINGER;
            if timeout_at(linger, connections.tasks.wait()).await.is_ok()
                || shared.active.is_empty()
            {
                return;
            }
        }
    };
    let drained = async {
        tokio::select! {
            () = closed => {}
            () = over => {}
        }
    };
    let _ = timeout_at(deadline, drained).await;
    // What has an answer is lost by nobody's fault but its client's, who had all this time to read it.
    let calls = shared.working.load(Ordering::Relaxed);
    let left = shared.active.len().saturating_sub(calls);
    connections.killed.cancel();
    connections.tasks.wait().await;
    // A device may hang; then there is nothing to wait for.
    let _ = timeout(LINGER, shared.engine.drain()).await;
    if calls > 0 {
        return Err(ServerError::DrainTimeout { calls, timeout: config.drain.drain_timeout });
    }
    let unended = patience.unended.load(Ordering::Relaxed);
    let unread = patience.unread.load(Ordering::Relaxed) + left;
    if unended + unread > 0 {
        tracing::warn!(
            unended,
            unread,
            "cut off calls whose clients did not end their messages or read their answers"
        );
    }
    tracing::info!("drained");
    Ok(())
}
