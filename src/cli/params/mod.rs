//! Sampling parameters as flags, and as a file with one set a row.

use crate::params::{ParamsSpec, SamplingParams};
use serde::Deserialize;
use std::error::Error;
use std::path::{Path, PathBuf};

/// What to do with each row.
#[derive(Clone, Debug, clap::Args)]
pub struct ParamsArgs {
    /// 0 is greedy: the most likely token. Otherwise 0.0001 to 10000
    #[arg(long, value_name = "T", default_value_t = 1.0, allow_negative_numbers = true)]
    pub temperature: f32,

    /// Keep the first K tokens, exactly K. 0 is off
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub top_k: u32,

    /// Keep the shortest prefix with this share of what top-k left: above 0, up to 1. 1 is off
    #[arg(long, value_name = "P", default_value_t = 1.0, allow_negative_numbers = true)]
    pub top_p: f32,

    /// Keep tokens at least this likely relative to the first: 0 to 1. 0 is off
    #[arg(long, value_name = "P", default_value_t = 0.0, allow_negative_numbers = true)]
    pub min_p: f32,

    /// Key of the random stream, for every row the same: 0 to 2^64 - 1 [default: one a row, taken from
    /// the system and shown]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,

    /// The token's index in its sequence: 0 to 2^64 - 1
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub position: u64,

    /// Independent draws from each row: 1 to 1024
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub draws: u32,

    /// One parameter set a row (or one for all rows): a JSON object a line, with the keys
    /// temperature, top_k, top_p, min_p, seed, position, draws. A key left out has its flag's value
    #[arg(long, value_name = "FILE.jsonl")]
    pub params: Option<PathBuf>,
}

impl ParamsArgs {
    /// The parameters of `rows` rows, each checked.
    pub fn specs(&self, rows: usize) -> Result<Vec<ParamsSpec>, Box<dyn Error>> {
        let flags = ParamsSpec {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            seed: self.seed,
            position: self.position,
            draws: self.draws,
        };
        let Some(path) = &self.params else {
            flags.parse(|| 0).map_err(|error| format!("--{}", flagged(&error.to_string())))?;
            return Ok(vec![flags; rows]);
        };
        read(path, flags, rows)
    }
}

/// The parameters of `rows` rows, from a file with one set a line, or a single one for all rows.
pub fn read(
    path: &Path,
    flags: ParamsSpec,
    rows: usize,
) -> Result<Vec<ParamsSpec>, Box<dyn Error>> {
    let lines = lines(path, flags)?;
    match lines[..] {
        [one] => Ok(vec![one; rows]),
        _ if lines.len() == rows => Ok(lines),
        _ => Err(format!(
            "{}: holds {} parameter sets, and there are {rows} rows; give one a row, or one for all",
            path.display(),
            lines.len()
        )
        .into()),
    }
}

/// Checked parameters, with a seed from the operating system where none was given.
pub fn parse(spec: ParamsSpec) -> Result<SamplingParams, Box<dyn Error>> {
    let fresh = match spec.seed {
        Some(seed) => seed,
        None => getrandom::u64().map_err(|e| format!("the system gives no random seed: {e}"))?,
    };
    Ok(spec.parse(|| fresh)?)
}

/// `top_k is ..` to `top-k is ..`, as the flag is written.
fn flagged(message: &str) -> String {
    let (field, rest) = message.split_once(' ').unwrap_or((message, ""));
    format!("{} {rest}", field.replace('_', "-"))
}

/// One line of the file. The keys are those of the API's `SamplingParams`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    temperature: Option<f32>,
    top_k: Option<u32>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    seed: Option<u64>,
    position: Option<u64>,
    draws: Option<u32>,
}

fn lines(path: &Path, flags: ParamsSpec) -> Result<Vec<ParamsSpec>, Box<dyn Error>> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(i, line)| {
            line_spec(line, flags)
                .map_err(|error| format!("{}, line {}: {error}", path.display(), i + 1).into())
        })
        .collect()
}

fn line_spec(line: &str, flags: ParamsSpec) -> Result<ParamsSpec, Box<dyn Error>> {
    let line: Line = serde_json::from_str(line)?;
    let spec = ParamsSpec {
        temperature: line.temperature.unwrap_or(flags.temperature),
        top_k: line.top_k.unwrap_or(flags.top_k),
        top_p: line.top_p.unwrap_or(flags.top_p),
        min_p: line.min_p.unwrap_or(flags.min_p),
        seed: line.seed.or(flags.seed),
        position: line.position.unwrap_or(flags.position),
        draws: line.draws.unwrap_or(flags.draws),
    };
    spec.parse(|| 0)?;
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: ParamsSpec = ParamsSpec {
        temperature: 0.7,
        top_k: 40,
        top_p: 0.9,
        min_p: 0.1,
        seed: Some(1),
        position: 2,
        draws: 3,
    };

    #[test]
    fn a_line_changes_what_it_names() {
        assert_eq!(line_spec("{}", FLAGS).unwrap(), FLAGS);
        let spec = line_spec(
            r#"{"temperature": 0.1, "top_k": 4294967295, "seed": 18446744073709551615}"#,
            FLAGS,
        )
        .unwrap();
        let expected =
            ParamsSpec { temperature: 0.1, top_k: u32::MAX, seed: Some(u64::MAX), ..FLAGS };
        assert_eq!(spec, expected);
    }

    #[test]
    fn what_is_wrong_with_a_line_is_named() {
        for (line, part) in [
            (r#"{"tempreature": 1}"#, "unknown field `tempreature`"),
            (r#"{"seed": 18446744073709551616}"#, "u64"),
            (r#"{"seed": -1}"#, "-1"),
            (r#"{"top_p": 0}"#, "top_p is 0; allowed: above 0"),
            (r#"{"top_k": 1.5}"#, "1.5"),
            (r#"{"draws": 1, "draws": 2}"#, "duplicate field `draws`"),
            ("[1]", "expected"),
            ("{", "EOF"),
        ] {
            let message = line_spec(line, FLAGS).unwrap_err().to_string();
            assert!(message.contains(part), "{line}: {message}");
        }
    }
}
