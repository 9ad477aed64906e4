//! The kinds of cases that are known here. A further kind is an entry of [`KINDS`], and a function that checks it.

use super::check::Check;
use super::subject::Subject;
use super::unknown::keys;
use super::{beam, drafts, integers, sample};
use crate::files::vectors::{Case, Vectors};
use std::error::Error;

/// A kind of case.
pub struct Kind {
    /// Its name in files.
    pub name: &'static str,
    /// What of a case is not known here, by names that people can look up.
    pub unknown: fn(&Case) -> Vec<String>,
    /// Computes and compares. An error is a case that cannot be read, or a subject that fails.
    pub check: fn(&Case, &Vectors, &mut Subject) -> Checked,
}

/// A case that was compared.
type Checked = Result<Check, Box<dyn Error>>;

/// Every kind.
pub static KINDS: [Kind; 10] = [
    Kind { name: "sample", unknown: sample::unknown, check: sample::check },
    Kind { name: "verify", unknown: drafts::unknown, check: drafts::check },
    Kind { name: "tree", unknown: drafts::unknown_of_tree, check: drafts::check_tree },
    Kind { name: "beam", unknown: beam::unknown, check: beam::check },
    Kind {
        name: "mass",
        unknown: |case| keys(case, &["temperature", "x_minus_max"], &[]),
        check: integers::mass,
    },
    Kind {
        name: "exponential",
        unknown: |case| keys(case, &["R"], &[]),
        check: integers::exponential,
    },
    Kind { name: "log2", unknown: |case| keys(case, &["w"], &[]), check: integers::log2 },
    Kind { name: "pow2", unknown: |case| keys(case, &["a"], &[]), check: integers::pow2 },
    Kind {
        name: "surprisal",
        unknown: |case| keys(case, &["temperature", "x_minus_max_bits"], &["mass", "g", "term"]),
        check: integers::surprisal,
    },
    Kind {
        name: "interval",
        unknown: |case| keys(case, &["temperature", "row"], &["W", "E", "A", "H32"]),
        check: integers::interval,
    },
];

/// Kinds of which the API has nothing: a server is not asked for them.
pub const NOT_OF_SERVERS: [&str; 5] = ["exponential", "log2", "pow2", "surprisal", "interval"];

impl Kind {
    /// The kind of that name.
    pub fn named(name: &str) -> Option<&'static Self> {
        KINDS.iter().find(|kind| kind.name == name)
    }
}
