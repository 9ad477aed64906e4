//! What the suites share: cases, the backends under test, and the one helper that holds any two
//! backends to the same bits.

// The tests on a GPU are a crate of their own, which uses a part of this.
#![allow(dead_code, unused_imports)]

pub mod adjusted;
pub mod beside;
pub mod borders;
pub mod candidates;
pub mod case;
pub mod compare;
pub mod cuts;
#[cfg(unix)]
pub mod guarded;
pub mod inspected;
pub mod known;
pub mod real;
pub mod shrink;

pub use candidates::candidates;
pub use case::Case;
pub use compare::Panel;

use std::io::Write;

/// Says that a test, or a part of it, did not run. Not by a macro: the harness keeps its output to itself
/// when the test passes, and a skipped test would look like a green one.
pub fn skipped(test: &str, why: impl std::fmt::Display) {
    let line = format!("SKIPPED {test}: {why}\n");
    std::io::stderr().write_all(line.as_bytes()).expect("stderr is open");
}
