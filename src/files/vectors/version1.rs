//! Cases as files of arithmetic version 1 wrote them: without a kind, and with short names.

use serde_json::{Map, Value as Json};

/// Parameters, then and now. The seed and the position stood beside them.
const PARAMS: [(&str, &str); 4] =
    [("T", "temperature"), ("k", "top_k"), ("p", "top_p"), ("minp", "min_p")];

/// The same case as it is written today.
pub fn renewed(mut case: Map<String, Json>) -> Result<Map<String, Json>, String> {
    if case.contains_key("x_minus_max") {
        rename(&mut case, "T", "temperature");
        rename(&mut case, "mass", "expect");
        case.insert("kind".into(), "mass".into());
        return Ok(case);
    }
    let Some(Json::Object(mut params)) = case.remove("params") else {
        return Err("has no kind, and is no case of version 1".into());
    };
    for (then, now) in PARAMS {
        rename(&mut params, then, now);
    }
    for beside in ["seed", "position"] {
        params.extend(case.remove_entry(beside));
    }
    case.insert("params".into(), Json::Object(params));
    let row: Map<String, Json> =
        ["dtype", "bits"].iter().filter_map(|key| case.remove_entry(*key)).collect();
    if !row.is_empty() {
        case.insert("row".into(), Json::Object(row));
    }
    // The decimal beside the bits is for people.
    if let Some(Json::Object(expect)) = case.get_mut("expect") {
        expect.remove("logprob");
    }
    case.insert("kind".into(), "sample".into());
    Ok(case)
}

fn rename(object: &mut Map<String, Json>, then: &str, now: &str) {
    if let Some(value) = object.remove(then) {
        object.insert(now.into(), value);
    }
}
