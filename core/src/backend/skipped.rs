//! What tests say that cannot run on a machine.

use std::fmt::Display;
use std::io::Write;

/// Says that a test did not run. Not by a macro: the harness keeps its output to itself when the test passes, and a
/// skipped test would look like a green one.
pub fn skipped(test: &str, why: impl Display) {
    let line = format!("SKIPPED {test}: {why}\n");
    std::io::stderr().write_all(line.as_bytes()).expect("stderr is open");
}
