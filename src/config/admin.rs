//! The settings of the port that has a page for people.

use super::values::{bytes, count, socket};
use clap::Args;
use std::net::SocketAddr;
use std::path::PathBuf;

/// A page for people, beside the calls of programs.
#[derive(Clone, Debug, Args)]
pub struct AdminConfig {
    /// Serve a page at http://ADDRESS: what the controls do to real rows, how the server fares, metrics and
    /// /healthz. Off unless given. It speaks no TLS: an address that other hosts can reach needs --insecure. With
    /// --tokens-file it asks for a token
    #[arg(long, value_name = "IP:PORT", env = "LOGITD_ADMIN_LISTEN", value_parser = socket)]
    pub admin_listen: Option<SocketAddr>,

    /// Connections to that port at once; one more takes the place of one that asks for nothing
    #[arg(long, value_name = "N", env = "LOGITD_ADMIN_CONNECTIONS_MAX", default_value = "256", value_parser = count)]
    pub admin_connections_max: usize,

    /// Questions of pages that wait for their one thread, which computes while the processor has nothing else to do;
    /// one more is refused
    #[arg(long, value_name = "N", env = "LOGITD_ADMIN_WAITING_MAX", default_value = "64", value_parser = count)]
    pub admin_waiting_max: usize,

    /// Bytes of one uploaded file, and of all that are kept: the oldest go first
    #[arg(long, value_name = "BYTES", env = "LOGITD_ADMIN_UPLOAD_BYTES_MAX", default_value = "64MiB", value_parser = bytes)]
    pub admin_upload_bytes_max: usize,

    /// A folder whose reports and studies (logitd tune, logitd load) the page lists and opens; needs --admin-listen
    #[arg(long, value_name = "DIR", env = "LOGITD_STUDIES_DIR")]
    pub studies_dir: Option<PathBuf>,
}
