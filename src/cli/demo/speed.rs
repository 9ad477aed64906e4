//! How long a row takes, in this process and over gRPC.

use super::ask_bytes;
use crate::cli::sampler::Sampler;
use crate::files::assets;
use crate::files::params::Set;
use bytes::Bytes;
use logitd_core::params::ParamsSpec;
use std::error::Error;
use std::time::{Duration, Instant};

/// How long one case is measured.
const TIME: Duration = Duration::from_millis(400);
/// Calls of one case, unless the time is over before.
const CALLS_MAX: usize = 400;
/// Calls before the clock counts.
const WARM_UP: usize = 3;

/// What people sample with, more than with anything else.
pub const PARAMS: ParamsSpec =
    ParamsSpec { temperature: 0.8, top_k: 50, top_p: 0.95, seed: Some(1), ..ParamsSpec::DEFAULT };

/// The median time of a call with so many rows.
pub fn median(sampler: &mut dyn Sampler, rows: usize) -> Result<Duration, Box<dyn Error>> {
    let logits: Vec<u8> =
        assets::rows().iter().cycle().take(rows).flat_map(|row| &row.logits).copied().collect();
    let logits = Bytes::from(logits);
    let params = vec![Set::from(PARAMS); rows];
    let mut times = Vec::new();
    let start = Instant::now();
    for call in 0..WARM_UP + CALLS_MAX {
        let before = Instant::now();
        ask_bytes(sampler, logits.clone(), &params)?;
        if call >= WARM_UP {
            times.push(before.elapsed());
        }
        if times.len() > 2 && start.elapsed() > TIME {
            break;
        }
    }
    times.sort();
    Ok(times[times.len() / 2])
}
