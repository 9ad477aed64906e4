//! What moving logits costs: the same bytes over every route from a caller's memory to a server, in one run.
//!
//! ```sh
//! cargo bench --bench transport                  # a table
//! cargo bench --bench transport -- --json        # a line for each figure
//! ```
//!
//! The yardsticks come first: a raw socket, the h2 crate alone, and a bare tonic service that throws
//! away what it decodes. Then logitd, with a device that does nothing, so that what is left is the way
//! there, and with its CPU device. Servers are processes of their own. Routes take turns, round by
//! round, and a figure is the median of its rounds. Before anything is timed, every route shows that
//! each byte arrives: it answers with a checksum, or with the tokens that the rows must give.

mod answer;
mod case;
mod client;
mod grpc;
mod nothing;
mod report;
mod server;

use case::{Case, Load, Route, Socket};
use clap::Parser;
use client::Connection;
use std::error::Error;
use std::time::{Duration, Instant};

#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// JSON, a line a figure
    #[arg(long)]
    json: bool,
    /// Rounds; a figure is the median
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long a route is timed in a round
    #[arg(long, default_value_t = 100)]
    round_ms: u64,
    /// Only these routes
    #[arg(long, value_delimiter = ',')]
    routes: Vec<Route>,
    /// Only these sockets
    #[arg(long, value_delimiter = ',', default_values_t = [Socket::Tcp, Socket::Unix])]
    sockets: Vec<Socket>,
    /// Only these rows a call: 1, 4, 16 and 64, unless a stream is named
    #[arg(long, value_delimiter = ',', default_values_t = [1, 4, 16, 64])]
    rows: Vec<usize>,
    /// Leave the streams out
    #[arg(long)]
    no_streams: bool,
    /// Flags for logitd's servers
    #[arg(long, allow_hyphen_values = true)]
    serve_flags: Option<String>,
    /// What cargo says to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// A server, until its input ends
    #[command(hide = true)]
    Serve(server::Args),
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    match args.command {
        Some(Command::Serve(serve)) => server::run(serve),
        None => measure(&args),
    }
}

fn measure(args: &Args) -> Result<(), Box<dyn Error>> {
    let streams = (!args.no_streams).then_some(Load::STREAM);
    let loads: Vec<Load> = args.rows.iter().map(|&rows| Load::unary(rows)).chain(streams).collect();
    let all = |route: &Route| args.routes.is_empty() || args.routes.contains(route);
    let routes: Vec<Route> = Route::ALL.into_iter().filter(all).collect();
    let flags = args.serve_flags.as_deref().unwrap_or_default();

    let mut report = report::Report::new(args.json);
    for &socket in &args.sockets {
        let mut connections = Vec::new();
        for &route in routes.iter().filter(|route| route.goes_over(socket)) {
            connections.push((route, Connection::open(route, socket, flags)?));
        }
        for &load in &loads {
            for (route, connection) in &mut connections {
                connection.check(load).map_err(|e| format!("{route}, {socket}, {load}: {e}"))?;
            }
            let mut rounds = vec![Vec::new(); connections.len()];
            for _ in 0..args.rounds {
                for ((_, connection), figures) in connections.iter_mut().zip(&mut rounds) {
                    let time = Duration::from_millis(args.round_ms);
                    figures.push(calls_per_second(connection, load, time)?);
                }
            }
            for ((route, _), figures) in connections.iter().zip(rounds) {
                let case = Case { route: *route, socket, load };
                report.add(case, figures);
            }
        }
    }
    report.print();
    Ok(())
}

/// The first call of a round warms up: the route before it has had the caches.
fn calls_per_second(
    connection: &mut Connection,
    load: Load,
    time: Duration,
) -> Result<f64, Box<dyn Error>> {
    connection.call(load)?;
    let start = Instant::now();
    let mut calls = 0;
    loop {
        connection.call(load)?;
        calls += 1;
        let elapsed = start.elapsed();
        if elapsed >= time {
            return Ok(f64::from(calls) / elapsed.as_secs_f64());
        }
    }
}
