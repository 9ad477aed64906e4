//! Flags, environment and an optional file, as one validated [`Config`].
//!
//! Every setting is a flag of `logitd serve` (`--queue-rows-max`), a variable
//! (`LOGITD_QUEUE_ROWS_MAX`) and a key of the TOML file that `--config` names (`queue_rows_max`); the
//! first of these that is given counts, then the default. The flags are the only list: the file's
//! values take the place of their defaults, and pass through the same parsers.

mod admin;
mod devices;
mod file;
mod machine;
mod origin;
pub(crate) mod values;

use crate::devices::DeviceChoice;
pub use admin::AdminConfig;
pub use machine::{Grant, Machine, Note};
pub use origin::{blame, check_variables};
pub use values::Address;

use crate::engine::EngineConfig;
use crate::plane::DeviceLimits;
use crate::plane::ShmLimits;
use crate::record::RecorderOptions;
use clap::parser::ValueSource;
use clap::{Args, Command, FromArgMatches, ValueEnum};
use logitd_core::backend::cpu::Isa;
use logitd_core::backend::cuda::CudaOptions;
use logitd_core::backend::cuda::device::launch_bytes_min;
use logitd_core::beams::BEAMS_MAX;
use logitd_core::evaluate::sets::SETS_MAX;
use logitd_core::inspection::TOP_LOGPROBS_MAX;
use logitd_core::params::DRAWS_MAX;
use logitd_core::row::DRAFTS_MAX;
use logitd_core::verify::TREE_NODES_MAX;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use values::{
    bytes, bytes_or_none, count, count32, duration, fraction, mode, number, socket, threads,
    timeout,
};

/// What --cuda-launch-rows-max may be: beyond it the chip is full many times over.
const CUDA_LAUNCH_ROWS_LIMIT: usize = 1 << 14;
/// What --cuda-launch-bytes-max may be: positions in a launch are kept within 32 bits.
const CUDA_LAUNCH_BYTES_LIMIT: usize = 2 << 30;

/// Everything about a server that can be set. Valid once made by [`Config::from_args`].
#[derive(Clone, Debug, Args)]
pub struct Config {
    /// TOML file with settings: keys are the flags' names with underscores (listen, queue_rows_max).
    /// Flags and variables go before the file
    #[arg(long = "config", id = "config", value_name = "FILE", env = "LOGITD_CONFIG")]
    pub file: Option<PathBuf>,

    /// Where to listen: IP:PORT (port 0 takes a free one) or unix:PATH. Repeatable
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "LOGITD_LISTEN",
        default_value = "127.0.0.1:50051",
        value_delimiter = ','
    )]
    pub listen: Vec<Address>,

    /// Who may connect to the Unix sockets, --shm's too: permissions in octal. 0660 lets the server's group
    /// in, 0666 everybody on this host
    #[arg(long, value_name = "MODE", env = "LOGITD_UNIX_MODE", default_value = "0600", value_parser = mode)]
    pub unix_mode: u32,

    /// What computes, and how
    #[command(flatten, next_help_heading = "Device")]
    pub device: DeviceConfig,

    /// How CUDA devices are used
    #[command(flatten, next_help_heading = "CUDA devices")]
    pub cuda: CudaConfig,

    /// How much work is taken on
    #[command(flatten, next_help_heading = "Work")]
    pub work: WorkConfig,

    /// What clients may hold open
    #[command(flatten, next_help_heading = "Connections")]
    pub connections: ConnectionConfig,

    /// Who may come in
    #[command(flatten, next_help_heading = "Security")]
    pub security: SecurityConfig,

    /// Memory instead of bytes, for callers on this host
    #[command(flatten, next_help_heading = "Shared memory")]
    pub shm: ShmConfig,

    /// What to keep of the traffic
    #[command(flatten, next_help_heading = "Recording")]
    pub recording: RecordingConfig,

    /// How to leave
    #[command(flatten, next_help_heading = "Drain (on SIGTERM or SIGINT)")]
    pub drain: DrainConfig,

    /// How to be seen
    #[command(flatten, next_help_heading = "Telemetry")]
    pub telemetry: TelemetryConfig,

    /// A page for people
    #[command(flatten, next_help_heading = "Page")]
    pub admin: AdminConfig,

    /// The settings that somebody chose, by a flag, a variable or the file.
    #[arg(skip)]
    pub chosen: BTreeSet<String>,
}

/// What computes, and how.
#[derive(Clone, Debug, Args)]
pub struct DeviceConfig {
    /// What computes: auto (the CUDA devices if there are any that work, else the processor), cpu, cuda
    /// (all CUDA devices), cuda:0,1 (these) or reference (the slow oracle that everything is checked
    /// against)
    #[arg(long, value_name = "DEVICE", env = "LOGITD_DEVICE", default_value = "auto")]
    pub device: DeviceChoice,

    /// Instructions the processor computes with; the best there are unless given
    #[arg(long, value_name = "ISA", env = "LOGITD_ISA", value_parser = values::isa())]
    pub isa: Option<Isa>,

    /// Threads the processor computes with, up to 1024 and 32 a core; 0 is one for each core
    #[arg(long, value_name = "N", env = "LOGITD_THREADS", default_value = "0", value_parser = threads)]
    pub threads: usize,
}

/// How CUDA devices are used.
#[derive(Clone, Debug, Args)]
pub struct CudaConfig {
    /// Rows in one launch; larger batches take several. Each row takes scratch memory of the device
    #[arg(long, value_name = "N", env = "LOGITD_CUDA_LAUNCH_ROWS_MAX", default_value = "256", value_parser = count)]
    pub cuda_launch_rows_max: usize,

    /// Bytes of logits and adjustments in one launch: three times as much, and 12 MiB for log-probabilities
    /// and kept ids, is taken of each device's memory, and of the host's as pinned memory
    #[arg(long, value_name = "BYTES", env = "LOGITD_CUDA_LAUNCH_BYTES_MAX", default_value = "32MiB", value_parser = bytes)]
    pub cuda_launch_bytes_max: usize,

    /// Threads that copy the logits of one batch together into pinned memory, up to 64; 0 is one for each two cores, up
    /// to 8
    #[arg(long, value_name = "N", env = "LOGITD_CUDA_COPY_THREADS", default_value = "0", value_parser = values::copy_threads)]
    pub cuda_copy_threads: usize,

    /// How long a launch may take before its device is taken out as hung
    #[arg(long, value_name = "TIME", env = "LOGITD_CUDA_HANG_TIMEOUT", default_value = "10s", value_parser = timeout)]
    pub cuda_hang_timeout: Duration,

    /// Bytes of the devices' memory that are made for callers on this host, who then write their logits there;
    /// of all devices and callers together, beside what launches take. Each region also takes 1 MiB of pinned
    /// memory of the host. Off unless given; needs --shm
    #[arg(long, value_name = "BYTES", env = "LOGITD_CUDA_REGION_BYTES_MAX", default_value = "0", value_parser = bytes_or_none)]
    pub cuda_region_bytes_max: usize,
}

impl CudaConfig {
    /// The backend's share of the settings.
    pub fn options(&self) -> CudaOptions {
        CudaOptions {
            launch_rows_max: self.cuda_launch_rows_max,
            launch_bytes_max: self.cuda_launch_bytes_max,
            copy_threads: self.cuda_copy_threads,
            hang_timeout: self.cuda_hang_timeout,
            regions: self.cuda_region_bytes_max > 0,
            ..CudaOptions::default()
        }
    }
}

/// How much work is taken on.
#[derive(Clone, Debug, Args)]
pub struct WorkConfig {
    /// Rows in one batch of the device
    #[arg(long, value_name = "N", env = "LOGITD_BATCH_ROWS_MAX", default_value = "1024", value_parser = count32)]
    pub batch_rows_max: u32,

    /// Bytes of logits in one batch of the device. A batch of rows that are slow for their size (further cuts, logprobs, many
    /// draws) ends earlier: with the row that makes it take as long as this many bytes of plain rows on every core
    #[arg(long, value_name = "BYTES", env = "LOGITD_BATCH_BYTES_MAX", default_value = "256MiB", value_parser = bytes)]
    pub batch_bytes_max: usize,

    /// Draws in one batch of the device, of all its rows: at least the 1024 that one row may have
    #[arg(long, value_name = "N", env = "LOGITD_BATCH_DRAWS_MAX", default_value = "16384", value_parser = count32)]
    pub batch_draws_max: u32,

    /// How long a batch waits for company while the device is free, in microseconds
    #[arg(long, value_name = "US", env = "LOGITD_BATCH_DELAY_US", default_value = "0", value_parser = number(0..=u32::MAX))]
    pub batch_delay_us: u32,

    /// Batches in a row that may take nothing of the first request of a priority; it then opens the
    /// next, so that low priorities get their share under load
    #[arg(long, value_name = "N", env = "LOGITD_PASSED_OVER_MAX", default_value = "8", value_parser = count32)]
    pub passed_over_max: u32,

    /// Rows waiting or being sampled, of all clients together
    #[arg(long, value_name = "N", env = "LOGITD_QUEUE_ROWS_MAX", default_value = "16384", value_parser = count)]
    pub queue_rows_max: usize,

    /// Bytes of requests waiting or being sampled, of all clients together
    #[arg(long, value_name = "BYTES", env = "LOGITD_QUEUE_BYTES_MAX", default_value = "1GiB", value_parser = bytes)]
    pub queue_bytes_max: usize,

    /// Bytes of answers that are awaited or have not been read, of all clients together; one connection may
    /// have half of them. A request is refused where its answer would not fit
    #[arg(long, value_name = "BYTES", env = "LOGITD_ANSWER_BYTES_MAX", default_value = "512MiB", value_parser = bytes)]
    pub answer_bytes_max: usize,

    /// The longest wait that a refused client is asked for
    #[arg(
        long,
        value_name = "TIME",
        env = "LOGITD_RETRY_AFTER_MAX",
        default_value = "1s",
        value_parser = timeout
    )]
    pub retry_after_max: Duration,

    /// Rows in one request
    #[arg(long, value_name = "N", env = "LOGITD_REQUEST_ROWS_MAX", default_value = "1024", value_parser = count32)]
    pub request_rows_max: u32,

    /// Draws in one request, of all its rows together
    #[arg(long, value_name = "N", env = "LOGITD_REQUEST_DRAWS_MAX", default_value = "65536", value_parser = count32)]
    pub request_draws_max: u32,

    /// Kept tokens times draws in one request, of all its rows that draw by race; a row counts as many kept tokens as
    /// its top-k, or all of the vocabulary without one
    #[arg(long, value_name = "N", env = "LOGITD_REQUEST_RACE_TOKENS_MAX", default_value = "16777216", value_parser = count)]
    pub request_race_tokens_max: usize,

    /// Different tokens that the counts or the history of a row, or its allowed_ids, can have
    #[arg(long, value_name = "N", env = "LOGITD_ADJUSTED_TOKENS_MAX", default_value = "65536", value_parser = count32)]
    pub adjusted_tokens_max: u32,

    /// Tokens of a row's history, prompt and output together
    #[arg(long, value_name = "N", env = "LOGITD_HISTORY_TOKENS_MAX", default_value = "1048576", value_parser = count32)]
    pub history_tokens_max: u32,

    /// First tokens of a distribution whose logprobs a row can ask for, up to 1024
    #[arg(long, value_name = "N", env = "LOGITD_TOP_LOGPROBS_MAX", default_value = "1024", value_parser = number(0..=TOP_LOGPROBS_MAX))]
    pub top_logprobs_max: u32,

    /// Kept tokens that are returned as a list of ids; where a row kept more, it is a bitmask of its vocabulary. A list
    /// of 4096 has the 16 KiB that a bitmask of 131072 tokens has
    #[arg(long, value_name = "N", env = "LOGITD_KEPT_IDS_MAX", default_value = "4096", value_parser = count32)]
    pub kept_ids_max: u32,

    /// Tokens drafted for a sequence (Verify), up to 64
    #[arg(long, value_name = "N", env = "LOGITD_DRAFTS_MAX", default_value = "64", value_parser = number(1..=DRAFTS_MAX as u32))]
    pub drafts_max: u32,

    /// Nodes of a tree of drafts (Verify), its root included, up to 1024
    #[arg(long, value_name = "N", env = "LOGITD_TREE_NODES_MAX", default_value = "1024", value_parser = number(1..=TREE_NODES_MAX as u32))]
    pub tree_nodes_max: u32,

    /// Beams of a group (BeamStep), up to 64
    #[arg(long, value_name = "N", env = "LOGITD_BEAMS_MAX", default_value = "64", value_parser = number(1..=BEAMS_MAX as u32))]
    pub beams_max: u32,

    /// Sets of parameters in one evaluation (Evaluate), up to 65536
    #[arg(long, value_name = "N", env = "LOGITD_EVALUATE_SETS_MAX", default_value = "65536", value_parser = number(1..=SETS_MAX))]
    pub evaluate_sets_max: u32,

    /// Sets times labels in one evaluation, and sets times rows where an answer for each is asked for. The answer has
    /// some 40 to 80 bytes for each
    #[arg(long, value_name = "N", env = "LOGITD_EVALUATE_SUMS_MAX", default_value = "131072", value_parser = count)]
    pub evaluate_sums_max: usize,

    /// Threads that evaluate, while the processor has nothing else to do; 0 is one for each core
    #[arg(long, value_name = "N", env = "LOGITD_EVALUATE_THREADS", default_value = "0", value_parser = threads)]
    pub evaluate_threads: usize,

    /// Encoded bytes of one message, logits included
    #[arg(long, value_name = "BYTES", env = "LOGITD_MESSAGE_BYTES_MAX", default_value = "16MiB", value_parser = bytes)]
    pub message_bytes_max: usize,

    /// How long a message may take to arrive once it has begun, and a unary call to end with it
    #[arg(long, value_name = "TIME", env = "LOGITD_RECEIVE_TIMEOUT", default_value = "30s", value_parser = timeout)]
    pub receive_timeout: Duration,

    /// How long a message of 2MiB or more is left unread while there is no room for all of it; 0 refuses it at once
    #[arg(long, value_name = "TIME", env = "LOGITD_ROOM_WAIT", default_value = "5s", value_parser = duration)]
    pub room_wait: Duration,

    /// Share of device batches that is computed again on the processor in idle time, and compared.
    /// Up to two batches are held for it beyond what the queue may hold
    #[arg(long, value_name = "SHARE", env = "LOGITD_VERIFY_FRACTION", default_value = "0", value_parser = fraction)]
    pub verify_fraction: f64,

    /// Take a device out when such a comparison finds a difference
    #[arg(long, env = "LOGITD_VERIFY_STRICT", num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub verify_strict: bool,

    /// Write the differing row, with its logits and seed, into this directory, to be replayed with
    /// logitd sample. Nothing is written unless given: the files hold what clients sampled
    #[arg(long, value_name = "DIR", env = "LOGITD_VERIFY_DUMP_DIR")]
    pub verify_dump_dir: Option<PathBuf>,

    /// Differing rows written at most
    #[arg(long, value_name = "N", env = "LOGITD_VERIFY_DUMPS_MAX", default_value = "16", value_parser = count32)]
    pub verify_dumps_max: u32,
}

/// What clients may hold open.
#[derive(Clone, Debug, Args)]
pub struct ConnectionConfig {
    /// Connections at once; one more is closed as it comes
    #[arg(long, value_name = "N", env = "LOGITD_CONNECTIONS_MAX", default_value = "4096", value_parser = count)]
    pub connections_max: usize,

    /// Connections of one address at once (of one /64 network, for IPv6), so that it cannot take all. Half of
    /// --connections-max unless given: a single proxy has room, and leaves some. Where the server listens on Unix
    /// sockets too, an eighth of --connections-max is kept for them
    #[arg(long, value_name = "N", env = "LOGITD_CONNECTIONS_PER_ADDRESS_MAX", value_parser = count)]
    pub connections_per_address_max: Option<usize>,

    /// How long a connection may be open without a call before it is asked to go (GOAWAY), and then closed. A
    /// call that watches health counts. 0 is for ever
    #[arg(long, value_name = "TIME", env = "LOGITD_CONNECTION_IDLE_TIMEOUT", default_value = "15m", value_parser = duration)]
    pub connection_idle_timeout: Duration,

    /// Streams and unary calls at once on one connection
    #[arg(long, value_name = "N", env = "LOGITD_CONNECTION_STREAMS_MAX", default_value = "128", value_parser = count32)]
    pub connection_streams_max: u32,

    /// Unanswered requests on one stream; no more is read until one is answered
    #[arg(long, value_name = "N", env = "LOGITD_STREAM_REQUESTS_MAX", default_value = "64", value_parser = count32)]
    pub stream_requests_max: u32,

    /// Bytes of one connection's requests, arriving, waiting or being sampled
    #[arg(long, value_name = "BYTES", env = "LOGITD_CONNECTION_BYTES_MAX", default_value = "512MiB", value_parser = bytes)]
    pub connection_bytes_max: usize,

    /// How long an answer, of a stream or a unary call, may wait for a client that reads nothing of it before
    /// the call is cut off
    #[arg(long, value_name = "TIME", env = "LOGITD_STREAM_STALL_TIMEOUT", default_value = "30s", value_parser = timeout)]
    pub stream_stall_timeout: Duration,

    /// How long a new connection may take to begin to talk: TLS, then HTTP/2; on the --shm socket its first
    /// frame, and every further one while it holds no memory
    #[arg(long, value_name = "TIME", env = "LOGITD_HANDSHAKE_TIMEOUT", default_value = "10s", value_parser = timeout)]
    pub handshake_timeout: Duration,

    /// How often a silent connection is asked whether it lives
    #[arg(long, value_name = "TIME", env = "LOGITD_KEEPALIVE_INTERVAL", default_value = "60s", value_parser = timeout)]
    pub keepalive_interval: Duration,

    /// How long it may take to answer
    #[arg(long, value_name = "TIME", env = "LOGITD_KEEPALIVE_TIMEOUT", default_value = "20s", value_parser = timeout)]
    pub keepalive_timeout: Duration,

    /// Bytes of a request's headers, as HTTP/2 counts them: names, values, and 32 for each
    #[arg(long, value_name = "BYTES", env = "LOGITD_HEADER_BYTES_MAX", default_value = "16KiB", value_parser = bytes)]
    pub header_bytes_max: usize,

    /// Bytes of one HTTP/2 frame: 16KiB to 16MiB - 1
    #[arg(long, value_name = "BYTES", env = "LOGITD_FRAME_BYTES_MAX", default_value = "1MiB", value_parser = bytes)]
    pub frame_bytes_max: usize,

    /// HTTP/2 flow-control window of a stream, up to 2GiB - 1
    #[arg(long, value_name = "BYTES", env = "LOGITD_STREAM_WINDOW_BYTES", default_value = "1MiB", value_parser = bytes)]
    pub stream_window_bytes: usize,

    /// HTTP/2 flow-control window of a connection, up to 2GiB - 1
    #[arg(long, value_name = "BYTES", env = "LOGITD_CONNECTION_WINDOW_BYTES", default_value = "32MiB", value_parser = bytes)]
    pub connection_window_bytes: usize,

    /// The windows of all connections together, which bound what may have come and has found no room yet. Each
    /// connection gets up to a sixteenth of what is left of them, and at least 64KiB
    #[arg(long, value_name = "BYTES", env = "LOGITD_WINDOW_BYTES_MAX", default_value = "512MiB", value_parser = bytes)]
    pub window_bytes_max: usize,
}

/// Who may come in.
#[derive(Clone, Debug, Args)]
pub struct SecurityConfig {
    /// Server certificate chain, PEM. With --tls-key it turns TLS on for every TCP address
    #[arg(long, value_name = "FILE", env = "LOGITD_TLS_CERT")]
    pub tls_cert: Option<PathBuf>,

    /// The certificate's private key, PEM
    #[arg(long, value_name = "FILE", env = "LOGITD_TLS_KEY")]
    pub tls_key: Option<PathBuf>,

    /// Certificate authorities for clients, PEM. Clients must then show a certificate (mutual TLS)
    #[arg(long, value_name = "FILE", env = "LOGITD_TLS_CLIENT_CA")]
    pub tls_client_ca: Option<PathBuf>,

    /// Bearer tokens, one a line, each with an optional name after a space, and priority=high behind it for
    /// those that may ask for PRIORITY_HIGH. Everything but health then needs one: sampling, GetInfo, reflection,
    /// handing over memory, and metrics that other hosts can reach
    #[arg(long, value_name = "FILE", env = "LOGITD_TOKENS_FILE")]
    pub tokens_file: Option<PathBuf>,

    /// Rows of one token's requests, waiting or being sampled
    #[arg(long, value_name = "N", env = "LOGITD_TOKEN_ROWS_MAX", default_value = "4096", value_parser = count)]
    pub token_rows_max: usize,

    /// Bytes of one token's requests, arriving, waiting or being sampled
    #[arg(long, value_name = "BYTES", env = "LOGITD_TOKEN_BYTES_MAX", default_value = "512MiB", value_parser = bytes)]
    pub token_bytes_max: usize,

    /// Listen beyond this host without TLS, and for metrics and the page without tokens
    #[arg(long, env = "LOGITD_INSECURE", num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub insecure: bool,
}

/// Memory instead of bytes, for callers on this host.
#[derive(Clone, Debug, Args)]
pub struct ShmConfig {
    /// Unix socket where callers hand over shared memory: unix:PATH. Off unless given; needs a unix:
    /// address to listen on, which the requests come over
    #[arg(long, value_name = "ADDRESS", env = "LOGITD_SHM")]
    pub shm: Option<Address>,

    /// Connections to that socket; one more is refused
    #[arg(long, value_name = "N", env = "LOGITD_SHM_CONNECTIONS_MAX", default_value = "256", value_parser = count)]
    pub shm_connections_max: usize,

    /// Connections of one process to that socket: each region is one, and each that makes direct calls
    #[arg(long, value_name = "N", env = "LOGITD_SHM_CONNECTIONS_PER_PEER_MAX", default_value = "128", value_parser = count)]
    pub shm_connections_per_peer_max: usize,

    /// Regions of one process; those on devices are counted by themselves
    #[arg(long, value_name = "N", env = "LOGITD_SHM_REGIONS_PER_PEER_MAX", default_value = "16", value_parser = count)]
    pub shm_regions_per_peer_max: usize,

    /// Slots of one region
    #[arg(long, value_name = "N", env = "LOGITD_SHM_SLOTS_MAX", default_value = "1024", value_parser = count32)]
    pub shm_slots_max: u32,

    /// Bytes that one process shares; those on devices are counted by themselves
    #[arg(long, value_name = "BYTES", env = "LOGITD_SHM_BYTES_PER_PEER_MAX", default_value = "1GiB", value_parser = bytes)]
    pub shm_bytes_per_peer_max: usize,

    /// Bytes that all processes share
    #[arg(long, value_name = "BYTES", env = "LOGITD_SHM_BYTES_MAX", default_value = "4GiB", value_parser = bytes)]
    pub shm_bytes_max: usize,
}

impl ShmConfig {
    /// The plane's share of the settings.
    pub fn limits(&self) -> ShmLimits {
        ShmLimits {
            regions_per_peer_max: self.shm_regions_per_peer_max,
            bytes_per_peer_max: self.shm_bytes_per_peer_max as u64,
            bytes_max: self.shm_bytes_max as u64,
            slots_per_region_max: self.shm_slots_max,
        }
    }
}

/// What to keep of the traffic.
#[derive(Clone, Debug, Args)]
pub struct RecordingConfig {
    /// Record requests of Sample, Verify and BeamStep and their answers in this file, for load --replay and
    /// verify --recorded. It holds logits and seeds: whoever reads it can tell what was sampled. Made readable
    /// by its owner only; an existing trace is continued
    #[arg(long, value_name = "FILE", env = "LOGITD_RECORD")]
    pub record: Option<PathBuf>,

    /// Share of the requests that is recorded
    #[arg(long, value_name = "SHARE", env = "LOGITD_RECORD_FRACTION", default_value = "1", value_parser = fraction)]
    pub record_fraction: f64,

    /// Bytes of requests that wait for the disk; what comes when it cannot keep up is not recorded, and
    /// counted
    #[arg(long, value_name = "BYTES", env = "LOGITD_RECORD_BUFFER_BYTES_MAX", default_value = "256MiB", value_parser = bytes)]
    pub record_buffer_bytes_max: usize,

    /// Size of the file beyond which nothing more is recorded
    #[arg(long, value_name = "BYTES", env = "LOGITD_RECORD_FILE_BYTES_MAX", default_value = "64GiB", value_parser = bytes)]
    pub record_file_bytes_max: usize,
}

impl RecordingConfig {
    /// The recorder's share of the settings; `None` where nothing is recorded.
    pub fn options(&self) -> Option<RecorderOptions> {
        Some(RecorderOptions {
            path: self.record.clone()?,
            fraction: self.record_fraction,
            buffer_bytes_max: self.record_buffer_bytes_max as u64,
            file_bytes_max: self.record_file_bytes_max as u64,
        })
    }
}

/// How to leave.
#[derive(Clone, Debug, Args)]
pub struct DrainConfig {
    /// How long work is still taken after health says no, so that balancers can notice
    #[arg(long, value_name = "TIME", env = "LOGITD_DRAIN_DELAY", default_value = "0s", value_parser = duration)]
    pub drain_delay: Duration,

    /// How long accepted work may then take
    #[arg(long, value_name = "TIME", env = "LOGITD_DRAIN_TIMEOUT", default_value = "30s", value_parser = timeout)]
    pub drain_timeout: Duration,

    /// How long clients then have to end a message that has begun, and to read an answer, before they are
    /// cut off
    #[arg(long, value_name = "TIME", env = "LOGITD_DRAIN_GRACE", default_value = "5s", value_parser = timeout)]
    pub drain_grace: Duration,
}

/// How to be seen.
#[derive(Clone, Debug, Args)]
pub struct TelemetryConfig {
    /// Serve Prometheus metrics at http://ADDRESS/metrics. Off unless given. An address that other hosts can reach
    /// needs --insecure, or --tokens-file, and then a token to scrape with
    #[arg(long, value_name = "IP:PORT", env = "LOGITD_METRICS_LISTEN", value_parser = socket)]
    pub metrics_listen: Option<SocketAddr>,

    /// How log lines look. What is logged is set by RUST_LOG (default info), as in
    /// info,logitd::server=debug,h2=warn
    #[arg(long, env = "LOGITD_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,

    /// Send traces to this OpenTelemetry collector (gRPC), as in http://127.0.0.1:4317
    #[arg(long, value_name = "URL", env = "LOGITD_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

impl Default for Config {
    /// The defaults, whatever the environment says.
    fn default() -> Self {
        let command = command().mut_args(|arg| arg.env(None::<&str>));
        Self::from_command(command, &["serve".into()]).expect("the defaults are valid")
    }
}

/// What clients may hold open of the socket where memory is handed over.
#[derive(Clone, Copy, Debug)]
pub struct ControlLimits {
    /// Connections of all.
    pub connections_max: usize,
    /// Connections of one process.
    pub per_peer_max: usize,
    /// How long a connection that holds nothing may be silent.
    pub silence_max: Duration,
}

impl Config {
    /// Reads `args` (the first is the program's name), the environment, and the file they name.
    pub fn from_args(
        args: impl IntoIterator<Item = impl Into<OsString>>,
    ) -> Result<Self, ConfigError> {
        let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
        Self::from_command(command(), &args)
    }

    fn from_command(command: Command, args: &[OsString]) -> Result<Self, ConfigError> {
        let parse = |command: Command, file: Option<&Path>| {
            let matches = command.try_get_matches_from(args);
            let parsed = matches.and_then(|m| Self::from_arg_matches(&m).map(|config| (config, m)));
            parsed.map_err(|error| blame(error, args, file))
        };
        let (mut config, mut matches) = parse(command.clone(), None)?;
        let mut keys = Vec::new();
        let path = config.file.clone();
        if let Some(path) = &path {
            let (command, set) = file::apply(command, path)?;
            (config, matches) = parse(command, Some(path))?;
            keys = set;
        }
        let file = path.as_deref().map(|path| (path, &keys[..]));
        config.validate().map_err(|error| origin::with_origins(error, &matches, file))?;
        let by_flag = |id: &&str| matches.value_source(id) != Some(ValueSource::DefaultValue);
        let ids = matches.ids().map(clap::Id::as_str).filter(by_flag).map(str::to_owned);
        config.chosen = ids.chain(keys).collect();
        Ok(config)
    }

    /// Whether TCP connections speak TLS.
    pub fn tls(&self) -> bool {
        self.security.tls_cert.is_some()
    }

    /// The engine's share of the settings.
    pub fn engine(&self) -> EngineConfig {
        EngineConfig {
            batch_rows_max: self.work.batch_rows_max as usize,
            batch_bytes_max: self.work.batch_bytes_max,
            batch_draws_max: self.work.batch_draws_max as usize,
            queue_rows_max: self.work.queue_rows_max,
            queue_bytes_max: self.work.queue_bytes_max,
            batch_delay: Duration::from_micros(self.work.batch_delay_us.into()),
            passed_over_max: self.work.passed_over_max,
            retry_after_max: self.work.retry_after_max,
        }
    }

    /// What may be held open on the socket where memory is handed over.
    pub fn control_limits(&self) -> ControlLimits {
        ControlLimits {
            connections_max: self.shm.shm_connections_max,
            per_peer_max: self.shm.shm_connections_per_peer_max,
            silence_max: self.connections.handshake_timeout,
        }
    }

    /// Threads that evaluate.
    pub fn evaluate_threads(&self) -> usize {
        match self.work.evaluate_threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        }
    }

    /// Connections that one address may have.
    pub fn connections_per_address_max(&self) -> usize {
        let ConnectionConfig { connections_max, connections_per_address_max, .. } =
            self.connections;
        connections_per_address_max.unwrap_or(connections_max.div_ceil(2))
    }

    /// The plane's share of the settings, as far as it concerns memory of devices.
    pub fn device_limits(&self) -> DeviceLimits {
        let bytes_max = self.cuda.cuda_region_bytes_max as u64;
        DeviceLimits { shm: self.shm.limits(), bytes_max }
    }

    /// What no single parser can see.
    fn validate(&self) -> Result<(), ConfigError> {
        let wrong = |text: String| Err(ConfigError::Invalid(text));
        let security = &self.security;
        if security.tls_cert.is_some() != security.tls_key.is_some() {
            return wrong("--tls-cert and --tls-key need each other".into());
        }
        if security.tls_client_ca.is_some() && !self.tls() {
            return wrong("--tls-client-ca needs --tls-cert and --tls-key".into());
        }
        if let Some(open) = self.listen.iter().find(|address| !address.is_local())
            && !self.tls()
            && !security.insecure
        {
            return wrong(format!(
                "--listen {open} can be reached from other hosts, without encryption; give --tls-cert and \
                 --tls-key, or --insecure if the network is trusted"
            ));
        }
        if let Some(open) =
            self.telemetry.metrics_listen.filter(|address| !address.ip().is_loopback())
            && security.tokens_file.is_none()
            && !security.insecure
        {
            return wrong(format!(
                "--metrics-listen {open} can be read from other hosts by anybody; give --tokens-file to ask for a \
                 token, or --insecure if the network is trusted"
            ));
        }
        if let Some(open) = self.admin.admin_listen.filter(|address| !address.ip().is_loopback())
            && !security.insecure
        {
            return wrong(format!(
                "--admin-listen {open} can be reached from other hosts, without encryption; listen on 127.0.0.1 behind a \
                 proxy that speaks TLS, or give --insecure if the network is trusted"
            ));
        }
        if let (Some(folder), None) = (&self.admin.studies_dir, self.admin.admin_listen) {
            return wrong(format!(
                "--studies-dir {} is for the page, and there is none; add --admin-listen 127.0.0.1:9091",
                folder.display()
            ));
        }
        if let (DeviceChoice::Reference, Some(isa)) = (&self.device.device, self.device.isa) {
            return wrong(format!(
                "--isa {isa} is for the processor; --device {} has one way to compute; drop one of them",
                self.device.device
            ));
        }
        if self.work.verify_fraction > 0.0 && self.device.device == DeviceChoice::Reference {
            return wrong(
                "--verify-fraction compares with the reference, and --device reference is that: nothing would be \
                 compared; drop one of them"
                    .into(),
            );
        }
        if self.work.verify_strict && self.work.verify_fraction == 0.0 {
            return wrong(
                "--verify-strict takes a device out for what --verify-fraction finds, and that is 0; give it a \
                 share above 0"
                    .into(),
            );
        }
        if let (Some(folder), 0.0) = (&self.work.verify_dump_dir, self.work.verify_fraction) {
            return wrong(format!(
                "--verify-dump-dir {} is for what --verify-fraction finds, and that is 0; give it a share above 0",
                folder.display()
            ));
        }
        let CudaConfig { cuda_launch_rows_max: rows, cuda_launch_bytes_max: bytes, .. } = self.cuda;
        if rows > CUDA_LAUNCH_ROWS_LIMIT {
            return wrong(format!(
                "--cuda-launch-rows-max is {rows}; allowed: 1 to {CUDA_LAUNCH_ROWS_LIMIT}"
            ));
        }
        if !(launch_bytes_min(rows)..=CUDA_LAUNCH_BYTES_LIMIT).contains(&bytes) {
            return wrong(format!(
                "--cuda-launch-bytes-max is {bytes}; allowed: {} (the largest row with ids, and the descriptors of \
                 --cuda-launch-rows-max {rows}) to {CUDA_LAUNCH_BYTES_LIMIT}",
                launch_bytes_min(rows)
            ));
        }
        if self.cuda.cuda_region_bytes_max > 0 {
            if self.shm.shm.is_none() {
                return wrong(
                    "--cuda-region-bytes-max needs a socket where memory is handed over; add --shm unix:PATH"
                        .into(),
                );
            }
            if !matches!(self.device.device, DeviceChoice::Auto | DeviceChoice::Cuda(_)) {
                return wrong(format!(
                    "--cuda-region-bytes-max is for CUDA devices, and --device {} is none; drop one of them",
                    self.device.device
                ));
            }
        }
        match &self.shm.shm {
            Some(Address::Tcp(address)) => {
                return wrong(format!(
                    "--shm {address} is not a Unix socket, and memory goes over nothing else; write unix:PATH"
                ));
            }
            Some(path) if !self.listen.iter().any(|a| matches!(a, Address::Unix(_))) => {
                return wrong(format!(
                    "--shm {path} needs a Unix socket for the requests too; add --listen unix:PATH"
                ));
            }
            _ => {}
        }
        for (flag, value, low, high) in [
            ("--frame-bytes-max", self.connections.frame_bytes_max, 16 << 10, (16 << 20) - 1),
            ("--stream-window-bytes", self.connections.stream_window_bytes, 1, (2 << 30) - 1),
            (
                "--connection-window-bytes",
                self.connections.connection_window_bytes,
                1,
                (2 << 30) - 1,
            ),
            ("--header-bytes-max", self.connections.header_bytes_max, 1 << 10, 1 << 20),
            ("--message-bytes-max", self.work.message_bytes_max, 1, u32::MAX as usize),
            (
                "--batch-draws-max",
                self.work.batch_draws_max as usize,
                DRAWS_MAX as usize,
                u32::MAX as usize,
            ),
        ] {
            if !(low..=high).contains(&value) {
                return wrong(format!("{flag} is {value}; allowed: {low} to {high}"));
            }
        }
        for (flag, value, larger_flag, larger) in [
            (
                "--message-bytes-max",
                self.work.message_bytes_max,
                "--queue-bytes-max",
                self.work.queue_bytes_max,
            ),
            (
                "--message-bytes-max",
                self.work.message_bytes_max,
                "--connection-bytes-max",
                self.connections.connection_bytes_max,
            ),
            (
                "--message-bytes-max",
                self.work.message_bytes_max,
                "--token-bytes-max",
                self.security.token_bytes_max,
            ),
            (
                "--request-rows-max",
                self.work.request_rows_max as usize,
                "--queue-rows-max",
                self.work.queue_rows_max,
            ),
        ] {
            if value > larger {
                return wrong(format!(
                    "{flag} is {value}, but {larger_flag} is {larger}: such a request could never be taken; \
                     lower the first or raise the second"
                ));
            }
        }
        Ok(())
    }
}

/// Why there is no [`Config`].
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A flag, a variable or a value of the file that cannot be read; or help was asked for.
    #[error(transparent)]
    Args(#[from] clap::Error),
    /// The file.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Settings that do not go together.
    #[error("{0}")]
    Invalid(String),
}

fn command() -> Command {
    Config::augment_args(Command::new("serve"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Config, ConfigError> {
        Config::from_args(["serve"].iter().chain(args))
    }

    fn parse_file(text: &str, args: &[&str]) -> Result<Config, ConfigError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("logitd.toml");
        std::fs::write(&path, text).unwrap();
        parse(&[&["--config", path.to_str().unwrap()], args].concat())
    }

    #[test]
    fn every_flag_has_its_variable() {
        for arg in command().get_arguments().filter(|arg| arg.get_id() != "help") {
            let flag = arg.get_long().expect("a long flag");
            let variable = format!("LOGITD_{}", flag.to_uppercase().replace('-', "_"));
            assert_eq!(arg.get_env(), Some(variable.as_ref()), "--{flag}");
            assert_eq!(arg.get_id().as_str(), flag.replace('-', "_"), "the file's key");
        }
    }

    #[test]
    fn a_flag_goes_before_the_file_and_the_file_before_the_default() {
        let text = "queue_rows_max = 2000\nqueue_bytes_max = \"64MiB\"\nverify_strict = true\n\
                    listen = [\"127.0.0.1:1\", \"unix:/tmp/a\"]\nverify_fraction = 0.5\n";
        let config = parse_file(text, &["--queue-bytes-max=32MiB"]).unwrap();
        assert_eq!(config.work.queue_rows_max, 2000);
        assert_eq!(config.work.queue_bytes_max, 32 << 20);
        assert_eq!(config.work.request_rows_max, 1024);
        assert!(config.work.verify_strict);
        assert_eq!(config.listen.len(), 2);
        assert_eq!(config.work.verify_fraction, 0.5);
    }

    #[test]
    fn a_wrong_file_is_refused_by_name() {
        for (text, expected) in [
            ("queue_row_max = 1", "queue_row_max"),
            ("config = \"x\"", "config"),
            ("queue_rows_max = 0", "logitd.toml: queue_rows_max is \"0\": must be at least 1"),
            ("isa = \"avx\"", "logitd.toml: isa is \"avx\": "),
            ("frame_bytes_max = 7", "--frame-bytes-max is set by frame_bytes_max in"),
            ("queue_rows_max = [1, 2]", "queue_rows_max"),
            ("queue_rows_max = ", "logitd.toml"),
            ("[work]\nqueue_rows_max = 1", "work"),
        ] {
            let error = parse_file(text, &[]).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let error = parse(&["--config", "/no/such/file"]).unwrap_err().to_string();
        assert!(error.contains("/no/such/file"), "{error}");
    }

    #[test]
    fn a_wrong_flag_is_a_flag_whatever_the_file_says() {
        let error = parse_file("queue_rows_max = 5", &["--queue-rows-max=0"]).unwrap_err();
        let text = error.to_string();
        assert!(
            matches!(error, ConfigError::Args(_)) && text.contains("--queue-rows-max"),
            "{text}"
        );
        for threads in ["1025", "20000", "-1", "x"] {
            let error = parse(&[&format!("--threads={threads}")]).unwrap_err().to_string();
            assert!(error.contains("allowed: 0 (one for each core) to 1024"), "{error}");
        }
        assert_eq!(parse(&["--threads=1024"]).unwrap().device.threads, 1024);
    }

    #[test]
    fn the_open_network_needs_tls_or_consent() {
        let open = "--listen=0.0.0.0:50051";
        let error = parse(&[open]).unwrap_err().to_string();
        assert!(error.contains("0.0.0.0:50051") && error.contains("--insecure"), "{error}");
        assert!(parse(&[open, "--insecure"]).is_ok());
        assert!(parse(&[open, "--insecure=false"]).is_err());
        assert!(parse(&[open, "--tls-cert=a", "--tls-key=b"]).is_ok());
        let metrics = "--metrics-listen=[::]:9090";
        let error = parse(&[metrics]).unwrap_err().to_string();
        assert!(error.contains("[::]:9090") && error.contains("--tokens-file"), "{error}");
        assert!(parse(&[metrics, "--tls-cert=a", "--tls-key=b"]).is_err(), "it speaks no TLS");
        assert!(parse(&[metrics, "--insecure"]).is_ok());
        assert!(parse(&[metrics, "--tokens-file=a"]).is_ok());
        let admin = "--admin-listen=0.0.0.0:9091";
        for more in [&["--tls-cert=a", "--tls-key=b"][..], &["--tokens-file=a"]] {
            let error = parse(&[&[admin][..], more].concat()).unwrap_err().to_string();
            assert!(error.contains("--admin-listen 0.0.0.0:9091"), "it speaks no TLS: {error}");
        }
        assert!(parse(&[admin, "--insecure"]).is_ok());
        assert!(parse(&["--admin-listen=[::1]:9091"]).is_ok());
        let error = parse(&["--studies-dir=/tmp"]).unwrap_err().to_string();
        assert!(error.contains("add --admin-listen"), "{error}");
        assert!(parse(&["--tls-cert=a"]).is_err());
        assert!(parse(&["--tls-client-ca=a"]).is_err());
    }

    #[test]
    fn limits_that_contradict_each_other_are_refused() {
        for args in [
            ["--queue-bytes-max=1MiB", "--message-bytes-max=2MiB"],
            ["--queue-rows-max=10", "--request-rows-max=11"],
            ["--frame-bytes-max=16MiB", "--insecure"],
            ["--stream-window-bytes=2GiB", "--insecure"],
            ["--batch-draws-max=1023", "--insecure"],
            ["--device=reference", "--isa=portable"],
            ["--device=reference", "--verify-fraction=0.5"],
            ["--device=cpu", "--verify-strict"],
            ["--device=cpu", "--verify-dump-dir=/d"],
            ["--cuda-launch-bytes-max=4MiB", "--device=cuda"],
            ["--cuda-launch-bytes-max=3GiB", "--device=cuda"],
            ["--cuda-launch-rows-max=20000", "--device=cuda"],
            ["--shm=unix:/run/shm", "--listen=127.0.0.1:0"],
            ["--shm=127.0.0.1:1", "--listen=unix:/run/logitd"],
            ["--cuda-region-bytes-max=1GiB", "--listen=unix:/run/logitd"],
        ] {
            assert!(matches!(parse(&args), Err(ConfigError::Invalid(_))), "{args:?}");
        }
        let shared = ["--shm=unix:/run/shm", "--listen=unix:/run/logitd"];
        let on_device =
            |device| parse(&[&shared[..], &["--cuda-region-bytes-max=1GiB", device]].concat());
        assert!(matches!(on_device("--device=cpu"), Err(ConfigError::Invalid(_))));
        let config = on_device("--device=cuda:1").unwrap();
        assert_eq!(config.device_limits().bytes_max, 1 << 30);
        assert_eq!(Config::default().cuda.cuda_region_bytes_max, 0);
    }
}
