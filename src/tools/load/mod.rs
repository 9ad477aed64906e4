//! The load generator: what `logitd load` runs.
//!
//! A [`Source`] makes requests (from a seed, from files of logits, or from a recorded trace), [`run`](fn@run)
//! sends them to a [`Target`] at their [`Pace`] and accounts for every one of them, a [`Checker`]
//! samples a share of them again afterwards, and a [`Summary`] says what was measured.
//!
//! Two times are taken of each answer. The **service time** runs from when the request was sent. The
//! **response time** runs from when it was due, so that it has in it what a caller would have waited
//! while the generator, or the server, was behind. Their difference is reported as the generator's lag.

mod check;
mod drafts;
mod generator;
mod message;
mod meter;
mod random;
mod run;
mod schedule;
mod servers;
mod shape;
mod source;
mod summary;
mod target;

pub use check::{CheckOptions, Checked, Checker, Wrong};
pub use generator::{Generator, Pool, Shape};
pub use message::{Request, Response};
pub use meter::{Counts, Moments, NO_ANSWER, Recent, Tally, Times};
pub use run::{Clock, Measured, Pace, Plan, Tick, Window, run};
pub use schedule::{Arrivals, Schedule};
pub use servers::{Route, Servers};
pub use shape::{Choices, Drafting, DraftsFrom, Method, ROWS_MAX, RowsDistribution};
pub use source::{Lost, Source};
pub use summary::{FailureSummary, Latency, PaceSummary, ServerTimes, Summary};
pub use target::{Code, Failure, Target};
