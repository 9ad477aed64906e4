//! mistral.rs's sampler as a library.

pub use candle_core;
use rand::SeedableRng;
use rand_isaac::Isaac64Rng;
use std::sync::{Arc, Mutex};

// The published source, as it is: `pub mod sampler`.
include!(concat!(env!("OUT_DIR"), "/sampler.rs"));

/// The version of the package that the sampler is of.
pub const VERSION: &str = env!("MISTRALRS_CORE_VERSION");

/// What the sampler takes its random numbers from.
pub type Random = Arc<Mutex<Isaac64Rng>>;

/// As the engine makes it.
pub fn random(seed: u64) -> Random {
    Arc::new(Mutex::new(Isaac64Rng::seed_from_u64(seed)))
}
