//! Experiments: which sampling parameters are best over positions whose next token is known.
//!
//! ```text
//! search: which sets --evaluate--> integer sums --metrics--> means --choose--> the best, and how sure that is
//!                                       |
//!                                    journal: every set with its sums, in the file format of Optuna
//! ```
//!
//! A [`session`] does all of it; the commands print.

pub mod choose;
pub mod compare;
mod further;
pub mod goal;
pub mod journal;
pub mod metrics;
pub mod results;
pub mod search;
pub mod session;
pub mod surface;
