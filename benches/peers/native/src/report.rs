//! A measurement, as a line of JSON.

use crate::peer::Peer;
use crate::rows::VOCAB_SIZE;
use serde::Serialize;

/// A sampler on the rows of a case.
#[derive(Serialize)]
pub struct Measurement<'a> {
    /// The name of the case.
    pub case: &'a str,
    /// Who samples.
    pub peer: &'a str,
    /// Its version.
    pub version: String,
    /// How its logits are stored.
    pub dtype: &'a str,
    /// What the compiler could use in libraries of Rust; logitd and llama.cpp look for it at run time.
    pub compiled_for: &'static str,
    /// Threads it samples with.
    pub threads: usize,
    /// Rows of a round.
    pub rows: usize,
    /// Tokens a row.
    pub vocab_size: usize,
    /// How often each was timed, in turns with the others.
    pub rounds: usize,
    /// The median over rounds of the time over the rows.
    pub us_per_row: f64,
    /// The median over rounds of that time over logitd's in the same round, with the logits as they are stored.
    pub ratio: f64,
    /// The mean number of tokens that draws of the first eight rows were among, where that can be seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<f64>,
}

impl<'a> Measurement<'a> {
    /// Of some rounds, in seconds, beside those of logitd.
    pub fn new(
        case: &'a str,
        peer: &'a dyn Peer,
        rows: usize,
        seconds: &[f64],
        beside: &[f64],
        kept: Option<f64>,
    ) -> Self {
        let ratios = seconds.iter().zip(beside).map(|(own, other)| own / other);
        Self {
            case,
            peer: peer.name(),
            version: peer.version(),
            dtype: peer.dtype(),
            compiled_for: compiled_for(),
            threads: 1,
            rows,
            vocab_size: VOCAB_SIZE,
            rounds: seconds.len(),
            us_per_row: rounded(median(seconds.iter().copied()) * 1e6 / rows as f64),
            ratio: rounded(median(ratios)),
            kept: kept.map(rounded),
        }
    }

    /// Prints it.
    pub fn print(&self) {
        println!("{}", serde_json::to_string(self).expect("names and finite numbers"));
    }
}

/// The version of a package that this program was built with.
pub fn locked_version(package: &str) -> &'static str {
    let name = format!("name = \"{package}\"\nversion = \"");
    let after = include_str!("../Cargo.lock").split_once(&name).map(|(_, after)| after);
    after.and_then(|after| after.split('"').next()).expect("every package is in Cargo.lock")
}

/// The middle one of some numbers.
pub fn median(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.collect();
    numbers.sort_by(f64::total_cmp);
    let (low, high) = (numbers[(numbers.len() - 1) / 2], numbers[numbers.len() / 2]);
    (low + high) / 2.0
}

fn rounded(x: f64) -> f64 {
    (x * 100.0).round() / 100.0
}

fn compiled_for() -> &'static str {
    match () {
        () if cfg!(target_feature = "avx512f") => "avx512",
        () if cfg!(target_feature = "avx2") => "avx2",
        () => "baseline",
    }
}
