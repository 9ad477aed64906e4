//! What was compared, left out and found over all cases, for people and for programs.

use super::check::{Check, Wrong};
use crate::cli::text::{grouped, table};
use crate::files::vectors::Case;
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Characters of a value that a report repeats.
const VALUE_CHARS_MAX: usize = 400;

/// The counts.
#[derive(Debug, Default)]
pub struct Tally {
    /// By kind: the cases that were compared, and those of them that differ.
    kinds: BTreeMap<String, (u64, u64)>,
    /// Cases of kinds that the subject cannot be asked for, by kind.
    skipped_kinds: BTreeMap<String, u64>,
    /// Fields that the subject cannot tell: the cases that have each.
    skipped_fields: BTreeMap<String, u64>,
    /// Cases that need what is not known here.
    left_out: u64,
    /// What that is: the cases that need each.
    unknown: BTreeMap<String, u64>,
    /// The first case that differs.
    first: Option<Found>,
}

/// A case that differs.
#[derive(Debug)]
struct Found {
    case: Case,
    wrong: Vec<Wrong>,
}

impl Tally {
    /// Counts a case of a kind that the subject cannot be asked for.
    pub fn skip(&mut self, case: &Case) {
        *self.skipped_kinds.entry(case.kind.clone()).or_default() += 1;
    }

    /// Counts a case that needs what is not known here.
    pub fn leave_out(&mut self, unknown: Vec<String>) {
        self.left_out += 1;
        for name in unknown {
            *self.unknown.entry(name).or_default() += 1;
        }
    }

    /// Counts a case that was compared.
    pub fn add(&mut self, case: &Case, check: Check) {
        for field in check.skipped {
            *self.skipped_fields.entry(field).or_default() += 1;
        }
        if check.compared == 0 {
            return;
        }
        let (compared, different) = self.kinds.entry(case.kind.clone()).or_default();
        *compared += 1;
        if !check.wrong.is_empty() {
            *different += 1;
            self.first.get_or_insert_with(|| Found { case: case.clone(), wrong: check.wrong });
        }
    }

    /// How many cases were compared.
    pub fn compared(&self) -> u64 {
        self.kinds.values().map(|(compared, _)| compared).sum()
    }

    /// How many of them differ.
    pub fn different(&self) -> u64 {
        self.kinds.values().map(|(_, different)| different).sum()
    }

    /// How many cases need what is not known here.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// What is not known here, most needed first, each with the cases that need it.
    pub fn unknown(&self) -> String {
        let mut unknown: Vec<_> = self.unknown.iter().collect();
        unknown.sort_by_key(|(_, cases)| std::cmp::Reverse(**cases));
        list(unknown.into_iter())
    }

    /// The counts as a table, and what was left out.
    pub fn text(&self) -> String {
        let row = |cells: [String; 3]| cells.to_vec();
        let mut rows = vec![row(["kind", "cases", "different"].map(Into::into))];
        rows.extend(self.kinds.iter().map(|(kind, (compared, different))| {
            row([kind.clone(), grouped(*compared), grouped(*different)])
        }));
        let mut text = match self.kinds.is_empty() {
            true => String::new(),
            false => table(&rows).join("\n") + "\n",
        };
        for (what, of) in [("kinds", &self.skipped_kinds), ("fields", &self.skipped_fields)] {
            if !of.is_empty() {
                let list = list(of.iter());
                text += &format!("skipped, because the API does not have these {what}: {list}\n");
            }
        }
        if self.left_out > 0 {
            let (cases, unknown) = (grouped(self.left_out), self.unknown());
            text +=
                &format!("left out: {cases} cases, which need what is not known here: {unknown}\n");
        }
        text
    }

    /// The first difference, with the command that shows it again.
    pub fn difference(&self, replay: impl Fn(usize) -> String) -> Option<String> {
        let Found { case, wrong } = self.first.as_ref()?;
        let mut text = format!("the first: case {}", case.index);
        if !case.name.is_empty() {
            write!(text, ", \"{}\"", case.name).expect("a string takes everything");
        }
        for (key, value) in case.fields.iter().filter(|(key, _)| !OF_THE_TITLE.contains(&&***key)) {
            write!(text, "\n  {key}: {}", cut(value)).expect("a string takes everything");
        }
        for Wrong { field, expected, got } in wrong {
            let field = if field.is_empty() { &case.kind } else { field };
            write!(text, "\n  {field}: expected {}, got {}", cut(expected), cut(got))
                .expect("a string takes everything");
        }
        Some(text + "\nreplay: " + &replay(case.index))
    }

    /// The counts as one object.
    pub fn json(&self, file: &str, subject: &str) -> Json {
        let by_kind = |which: fn(&(u64, u64)) -> u64| -> BTreeMap<&str, u64> {
            self.kinds.iter().map(|(kind, counts)| (kind.as_str(), which(counts))).collect()
        };
        let wrong = |wrong: &Wrong| {
            let Wrong { field, expected, got } = wrong;
            json!({"field": field, "expected": expected, "got": got})
        };
        let first = self.first.as_ref().map(|Found { case, wrong: all }| {
            let all: Vec<Json> = all.iter().map(wrong).collect();
            json!({"index": case.index, "name": case.name, "kind": case.kind, "differences": all})
        });
        json!({
            "vectors": file,
            "subject": subject,
            "compared": by_kind(|counts| counts.0),
            "different": by_kind(|counts| counts.1),
            "skipped_kinds": self.skipped_kinds,
            "skipped_fields": self.skipped_fields,
            "left_out": self.left_out,
            "unknown": self.unknown,
            "first_difference": first,
        })
    }
}

/// What is said of a case before its fields, or after them.
const OF_THE_TITLE: [&str; 2] = ["name", "expect"];

/// `kind verify (42), parameter typical_p (30)`.
fn list<'a>(counts: impl Iterator<Item = (&'a String, &'a u64)>) -> String {
    counts.map(|(name, cases)| format!("{name} ({cases})")).collect::<Vec<_>>().join(", ")
}

/// A value, no longer than anybody reads.
fn cut(value: &Json) -> String {
    let text = value.to_string();
    match text.char_indices().nth(VALUE_CHARS_MAX) {
        Some((end, _)) => format!("{}..", &text[..end]),
        None => text,
    }
}
