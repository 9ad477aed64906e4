//! What of a case is not known here.

use crate::files::vectors::Case;
use serde_json::{Map, Value as Json};

/// The keys that every case may have.
const OF_EVERY_CASE: [&str; 3] = ["kind", "name", "expect"];

/// The keys of a case that are none of these, and those of its expectation, where that is an object.
pub fn keys(case: &Case, known: &[&str], expected: &[&str]) -> Vec<String> {
    let mut unknown =
        strangers("key", &case.fields, |key| OF_EVERY_CASE.contains(&key) || known.contains(&key));
    if let Some(Json::Object(expect)) = case.fields.get("expect") {
        unknown.extend(strangers("expectation", expect, |key| expected.contains(&key)));
    }
    unknown
}

/// The keys of an object that are not known, each after what it would be.
pub fn strangers(
    what: &str,
    object: &Map<String, Json>,
    known: impl Fn(&str) -> bool,
) -> Vec<String> {
    object.keys().filter(|key| !known(key)).map(|key| format!("{what} {key}")).collect()
}
