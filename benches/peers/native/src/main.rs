//! Times samplers of others, in their own language, beside logitd's: over the same rows and parameters, one thread, in turns.
//!
//! Prints a line of JSON for each sampler and case. Rows are out of cache, f16 for logitd and f32 for the others, who take nothing
//! else; what it takes to make f32 of f16 is timed by itself. Each sampler is first compared with logitd's.

mod candle;
mod cases;
mod check;
mod llama_cpp;
mod logitd;
#[cfg(feature = "mistralrs")]
mod mistral_rs;
mod peer;
mod report;
mod rows;

use cases::Case;
use clap::Parser;
use logitd::{Logitd, Own};
use logitd_core::batch::Dtype;
use peer::{Peer, Sampler};
use report::{Measurement, median};
use rows::Rows;
use std::error::Error;
use std::hint::black_box;
use std::path::PathBuf;
use std::time::Instant;

/// Times samplers of others beside logitd's, and prints a line of JSON for each.
#[derive(Parser)]
struct Options {
    /// Rows of f16 in a .npy file, of 128,256 tokens or more [default: those that logitd carries]
    #[arg(long, value_name = "NPY")]
    logits: Option<PathBuf>,
    /// llama.cpp's library, libllama.so; left out, llama.cpp is
    #[arg(long, value_name = "SO")]
    llama: Option<PathBuf>,
    /// Rows of a round
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = at_least_one)]
    rows: usize,
    /// How often each sampler is timed, in turns with the others
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = at_least_one)]
    rounds: usize,
    /// Only these cases
    #[arg(long, value_name = "NAME")]
    case: Vec<String>,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n @ 1..=65_536) => Ok(n),
        _ => Err("allowed: 1 to 65536".into()),
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    // One thread, for those who have several.
    rayon::ThreadPoolBuilder::new().num_threads(1).build_global()?;
    let rows = match &options.logits {
        Some(path) => Rows::from_file(path, options.rows)?,
        None => Rows::carried(options.rows),
    };
    let peers = peers(&options)?;
    let cases = Case::all(&likeliest(&rows)?);
    if let Some(unknown) =
        options.case.iter().find(|name| cases.iter().all(|case| case.name != **name))
    {
        let names: Vec<_> = cases.iter().map(|case| case.name).collect();
        return Err(format!("there is no case {unknown}; there are {}", names.join(", ")).into());
    }
    print_widening(&rows, options.rounds);
    for case in &cases {
        if options.case.is_empty() || options.case.iter().any(|name| name == case.name) {
            time(case, &rows, &peers, options.rounds)?;
        }
    }
    Ok(())
}

/// logitd on f16, which the others are compared with, logitd on what they have, and the others.
fn peers(options: &Options) -> Result<Vec<Box<dyn Peer>>, Box<dyn Error>> {
    let mut peers: Vec<Box<dyn Peer>> =
        vec![Box::new(Logitd(Dtype::F16)), Box::new(Logitd(Dtype::F32))];
    match &options.llama {
        Some(path) => peers.push(Box::new(llama_cpp::LlamaCpp::open(path)?)),
        None => eprintln!("left out: llama.cpp: --llama names its library"),
    }
    peers.push(Box::new(candle::Candle));
    #[cfg(feature = "mistralrs")]
    peers.push(Box::new(mistral_rs::MistralRs));
    #[cfg(not(feature = "mistralrs"))]
    eprintln!("left out: mistral.rs: --features mistralrs compiles it");
    Ok(peers)
}

/// The greedy token of each row.
fn likeliest(rows: &Rows) -> Result<Vec<u32>, Box<dyn Error>> {
    let greedy = Case::greedy();
    let mut own = Own::new(Dtype::F16, &greedy, rows)?;
    (0..rows.len()).map(|row| own.sample(row)).collect()
}

/// What others' rows take to be made, which is in none of their times.
fn print_widening(rows: &Rows, rounds: usize) {
    let times = (0..rounds).map(|_| rows.time_widening().as_secs_f64());
    let us_per_row = median(times) * 1e6 / rows.len() as f64;
    println!(
        "{}",
        serde_json::json!({ "f16_to_f32_us_per_row": (us_per_row * 100.0).round() / 100.0 })
    );
}

/// Checks every sampler of a case, then times them in turns. Each round begins with another one.
fn time(
    case: &Case,
    rows: &Rows,
    peers: &[Box<dyn Peer>],
    rounds: usize,
) -> Result<(), Box<dyn Error>> {
    let mut timed = vec![];
    for peer in peers {
        if let Some(why) = peer.no_way(case) {
            eprintln!("left out: {}, {}: {why}", peer.name(), case.name);
            continue;
        }
        let mut sampler = peer.sampler(case, rows)?;
        let kept = check::check(case, rows, &mut *sampler)
            .map_err(|what| format!("{}, {}: {what}; nothing was timed", peer.name(), case.name))?;
        timed.push((peer, sampler, kept, Vec::with_capacity(rounds)));
    }
    let count = timed.len();
    for round in 0..rounds {
        for turn in 0..count {
            let (_, sampler, _, seconds) = &mut timed[(round + turn) % count];
            let start = Instant::now();
            for row in 0..rows.len() {
                black_box(sampler.sample(black_box(row))?);
            }
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    let beside = timed[0].3.clone();
    for (peer, _, kept, seconds) in &timed {
        Measurement::new(case.name, &***peer, rows.len(), seconds, &beside, *kept).print();
    }
    Ok(())
}
