//! `logitd play`: a server with the page, on free ports, for whoever wants to see what the controls do.

use super::Outcome;
use super::serve::serve_on;
use crate::config::values::socket;
use crate::config::{AdminConfig, Config};
use crate::server::Server;
use std::error::Error;
use std::io::{IsTerminal, Write, stdout};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

/// See in a browser what temperature, top_k, top_p and every other control do to real rows
///
/// Starts a server with a page on a free port of this host, over the rows that the program carries, and opens the page.
/// Nothing that is set for another server counts here: no file, no variable. `logitd serve --admin-listen 127.0.0.1:9091`
/// has the same page beside real traffic.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the page is, on this host; port 0 takes a free one
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:0", value_parser = socket)]
    admin_listen: SocketAddr,

    /// A folder whose reports (logitd tune, logitd load) the page lists and opens
    #[arg(long, value_name = "DIR")]
    studies_dir: Option<PathBuf>,

    /// Print the address, and open no browser
    #[arg(long)]
    no_open: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Outcome {
    let Args { admin_listen, studies_dir, no_open } = args;
    if !admin_listen.ip().is_loopback() {
        return Err(format!(
            "--admin-listen {admin_listen} can be reached from other hosts; allowed: addresses of this host, such as \
             127.0.0.1:9091. For others start logitd serve, with what it asks for"
        )
        .into());
    }
    let plain = Config::default();
    let admin =
        AdminConfig { admin_listen: Some(admin_listen), studies_dir, ..plain.admin.clone() };
    let config = Config { listen: vec!["127.0.0.1:0".parse()?], admin, ..plain };
    let say = |server: &Server| {
        // Whoever closes stdout has read enough; the page is there all the same.
        let _ = tell(server, !no_open);
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve_on(config, say))?;
    Ok(ExitCode::SUCCESS)
}

fn tell(server: &Server, open: bool) -> Result<(), Box<dyn Error>> {
    let address = server.admin_address().ok_or("the page has no address")?;
    let page = format!("http://{address}/");
    let mut out = stdout().lock();
    writeln!(out, "The playground is at {page}")?;
    for target in server.targets() {
        writeln!(out, "Its server takes calls at {target}")?;
    }
    writeln!(out, "Ctrl-C stops both")?;
    out.flush()?;
    if open && stdout().is_terminal() {
        let mut browser = Command::new("xdg-open");
        browser.arg(page).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // Where there is no desktop the address is enough.
        let _ = browser.spawn();
    }
    Ok(())
}
