//! What is set on the page, as somebody would ask for it elsewhere.

use super::rows::RowName;
use crate::files::params::Set;
use crate::wire::adjustments;
use crate::wire::whole::Whole;
use logitd_core::adjustments::{AdjustmentsSpec, Limits};
use logitd_core::params::{FIELDS, Field, ParamsSpec, Value};
use logitd_proto::sampler_service_server::SERVICE_NAME;
use serde::Serialize;
use serde_json::{Map, Value as Json, json};

/// The same call, in several ways.
#[derive(Debug, Serialize)]
pub struct Copies {
    grpc: String,
    python: String,
    command: String,
    jsonl: String,
}

/// What calls are told of the place that they go to.
#[derive(Clone, Debug)]
pub struct Place<'a> {
    /// A target of the server.
    pub target: &'a str,
    /// Where the page is: `http://127.0.0.1:9091`.
    pub page: &'a str,
    /// Whether a token has to be sent.
    pub token: bool,
}

/// The row of the page.
#[derive(Clone, Copy, Debug)]
pub struct Logits<'a> {
    /// Which one.
    pub name: &'a RowName,
    /// As messages name it.
    pub dtype: &'static str,
    /// Tokens.
    pub vocab_size: u32,
    /// Bytes.
    pub bytes: usize,
}

/// Says a set of parameters in each way.
pub fn copies(set: &Set, logits: Logits<'_>, place: &Place<'_>) -> Copies {
    let adjusted = adjusted(&set.adjustments, logits.vocab_size);
    let line = Json::Object(line(&set.params, &adjusted)).to_string();
    Copies {
        grpc: grpc(&set.params, &adjusted, logits, place),
        python: python(&set.params, &adjusted, logits, place),
        command: command(&set.params, &adjusted, &line, logits, place),
        jsonl: line,
    }
}

/// What is set, and not as it would be without a word.
fn chosen(spec: &ParamsSpec) -> impl Iterator<Item = (&'static Field, Value)> {
    let spec = *spec;
    FIELDS.iter().filter_map(move |field| {
        let value = field.get(spec);
        (value != field.get(ParamsSpec::default())).then_some((field, value))
    })
}

fn value(value: Value) -> Json {
    match value {
        // With the digits that say it, and no more.
        real @ Value::Real(_) => real.to_string().parse().unwrap_or(Json::Null),
        Value::Whole(n) => serde_json::to_value(Whole(n)).expect("a number or a string"),
        Value::Name(name) => Json::from(name),
        Value::Flag(is_set) => Json::from(is_set),
        Value::Unset => Json::Null,
    }
}

/// The lists of a set, by their keys.
fn adjusted(spec: &AdjustmentsSpec, vocab_size: u32) -> Vec<(&'static str, Json)> {
    let limits = Limits { history_tokens_max: usize::MAX, adjusted_tokens_max: usize::MAX };
    let parsed = spec.clone().parse(vocab_size, limits);
    parsed.map(|parsed| adjustments::to_json(&parsed)).unwrap_or_default()
}

fn line(spec: &ParamsSpec, adjusted: &[(&'static str, Json)]) -> Map<String, Json> {
    let parameters = chosen(spec).map(|(field, found)| (field.name.into(), value(found)));
    let lists = adjusted.iter().map(|(name, list)| ((*name).into(), list.clone()));
    parameters.chain(lists).collect()
}

/// How the row comes to whoever runs a command.
fn fetch(logits: Logits<'_>, place: &Place<'_>) -> String {
    let token = if place.token { " -H \"Authorization: Bearer $TOKEN\"" } else { "" };
    format!("curl -sf{token} -o row.npy '{}/api/row.npy?row={}'", place.page, logits.name)
}

fn command(
    spec: &ParamsSpec,
    adjusted: &[(&'static str, Json)],
    line: &str,
    logits: Logits<'_>,
    place: &Place<'_>,
) -> String {
    let mut text = fetch(logits, place) + "\n";
    if !adjusted.is_empty() {
        text += &format!("echo '{line}' > params.jsonl\n");
    }
    text += "logitd sample --logits row.npy";
    if logits.dtype == "DTYPE_BF16" {
        text += " --dtype bf16";
    }
    if adjusted.is_empty() {
        for (field, found) in chosen(spec) {
            text += &format!(" --{} {found}", field.name.replace('_', "-"));
        }
    } else {
        text += " --params params.jsonl";
    }
    text
}

fn python(
    spec: &ParamsSpec,
    adjusted: &[(&'static str, Json)],
    logits: Logits<'_>,
    place: &Place<'_>,
) -> String {
    let parameters = chosen(spec).map(|(field, found)| {
        let text = match found {
            Value::Name(name) => format!("{name:?}"),
            Value::Flag(is_set) => if is_set { "True" } else { "False" }.into(),
            number => number.to_string(),
        };
        format!(", {}={text}", field.name)
    });
    let lists = adjusted.iter().map(|(name, list)| format!(", {name}={list}"));
    let keywords: String = parameters.chain(lists).collect();
    let words = if logits.dtype == "DTYPE_BF16" { ".view(ml_dtypes.bfloat16)" } else { "" };
    let (import, token, tls) = (
        if words.is_empty() { "" } else { "import ml_dtypes\n" },
        if place.token { ", token=token" } else { "" },
        if place.target.starts_with("https:") { ", tls_roots=tls_roots" } else { "" },
    );
    format!(
        "# {}\n{import}import logitd\nimport numpy as np\n\nx = np.load(\"row.npy\"){words}\nresults = \
         logitd.Client({:?}{token}{tls}).sample(x{keywords})\nprint(results.tokens)",
        fetch(logits, place),
        place.target,
    )
}

fn grpc(
    spec: &ParamsSpec,
    adjusted: &[(&'static str, Json)],
    logits: Logits<'_>,
    place: &Place<'_>,
) -> String {
    let mut params = Map::new();
    let mut dry = Map::new();
    for (field, found) in chosen(spec) {
        let said = match found {
            Value::Name(name) => Json::from(field.enum_name(name)),
            other => value(other),
        };
        match field.name.strip_prefix("dry_") {
            Some(name) => dry.insert(name.into(), said),
            None => params.insert(field.name.into(), said),
        };
    }
    let mut lists = Map::new();
    for (name, list) in adjusted {
        match *name {
            "dry_breakers" => drop(dry.insert("breakers".into(), sequences(list))),
            name => drop(lists.insert(name.into(), message(name, list))),
        }
    }
    if !dry.is_empty() {
        params.insert("dry".into(), Json::Object(dry));
    }
    let mut request = json!({
        "dtype": logits.dtype, "vocab_size": logits.vocab_size, "rows": 1, "params": [params],
    });
    if !lists.is_empty() {
        request["adjustments"] = json!([lists]);
    }
    // The logits come last, from the end of the file.
    let head = request.to_string();
    let head = head.strip_suffix('}').unwrap_or(&head);
    let token = if place.token { " -H \"Authorization: Bearer $TOKEN\"" } else { "" };
    let (way, url) = reached(place.target);
    format!(
        "{}\n(printf '%s' '{head},\"logits\":\"'; tail -c {} row.npy | base64 | tr -d '\\n'; printf '\"}}') |\n  \
         buf curl --protocol grpc {way}{token} {url}/{SERVICE_NAME}/Sample -d @-",
        fetch(logits, place),
        logits.bytes,
    )
}

/// The flags and the URL by which buf reaches a target. Who serves TLS under a certificate that the system does not know, or
/// for another name, sets CA to its file and NAME to that name.
fn reached(target: &str) -> (String, &str) {
    if let Some(path) = target.strip_prefix("unix:") {
        return (
            format!("--http2-prior-knowledge --unix-socket '{}'", path.replace('\'', "'\\''")),
            "http://localhost",
        );
    }
    let way = match target.starts_with("https:") {
        true => r#"${CA:+--cacert "$CA"} ${NAME:+--servername "$NAME"}"#,
        false => "--http2-prior-knowledge",
    };
    (way.into(), target)
}

/// A list as its field of the message has it.
fn message(name: &str, list: &Json) -> Json {
    match name {
        "bad_words" => sequences(list),
        "logit_bias" => pairs(list, |pair| json!({"token": pair[0], "bias": infinite(&pair[1])})),
        "counts" => {
            let flat = list.as_array().into_iter().flatten().filter_map(Json::as_array).flatten();
            flat.cloned().collect()
        }
        "allowed_bitmask" => {
            let words = list.as_array().into_iter().flatten().filter_map(Json::as_str);
            let words = words.filter_map(|word| u32::from_str_radix(word, 16).ok());
            let bytes: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
            Json::from(base64(&bytes))
        }
        _ => list.clone(),
    }
}

fn sequences(list: &Json) -> Json {
    pairs(list, |tokens| json!({"tokens": tokens}))
}

fn pairs(list: &Json, each: impl Fn(&Json) -> Json) -> Json {
    list.as_array().into_iter().flatten().map(each).collect()
}

fn infinite(bias: &Json) -> Json {
    if bias.is_string() { Json::from("-Infinity") } else { bias.clone() }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |bytes: &[u8]| {
        let word = bytes.iter().fold(0u32, |word, &byte| word << 8 | u32::from(byte));
        let word = word << (8 * (3 - bytes.len()));
        let digit = |i: usize| match i <= bytes.len() {
            true => char::from(DIGITS[(word >> (18 - 6 * i)) as usize & 63]),
            false => '=',
        };
        [digit(0), digit(1), digit(2), digit(3)]
    };
    bytes.chunks(3).flat_map(group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::params::line;

    fn say(text: &str) -> Copies {
        say_to("http://h:1", text)
    }

    fn say_to(target: &str, text: &str) -> Copies {
        let set = line(text, &Set::default()).unwrap();
        let name = RowName { file: None, row: 3 };
        let logits = Logits { name: &name, dtype: "DTYPE_F32", vocab_size: 64, bytes: 256 };
        let place = Place { target, page: "http://p:2", token: false };
        copies(&set, logits, &place)
    }

    #[test]
    fn a_line_of_parameters_is_said_in_every_way_and_reads_back() {
        let said = say(
            r#"{"temperature": 0.7, "top_k": 5, "seed": "18446744073709551615", "draw_rule": "race"}"#,
        );
        let expected =
            r#"{"draw_rule":"race","seed":"18446744073709551615","temperature":0.7,"top_k":5}"#;
        assert_eq!(said.jsonl, expected);
        assert_eq!(say(&said.jsonl).jsonl, said.jsonl);
        let command = "logitd sample --logits row.npy --temperature 0.7 --top-k 5 --seed 18446744073709551615 --draw-rule race";
        assert!(said.command.ends_with(command), "{}", said.command);
        let python =
            "sample(x, temperature=0.7, top_k=5, seed=18446744073709551615, draw_rule=\"race\")";
        assert!(said.python.contains(python), "{}", said.python);
        assert!(said.grpc.contains(r#""draw_rule":"DRAW_RULE_RACE""#), "{}", said.grpc);
        assert!(said.grpc.contains("tail -c 256 row.npy"), "{}", said.grpc);
    }

    #[test]
    fn lists_go_where_messages_have_them() {
        let said = say(
            r#"{"dry": {"multiplier": 0.8, "breakers": [[1]]}, "output": [1, 2], "logit_bias": [[3, "-inf"]], "allowed_bitmask": [4278190335]}"#,
        );
        for part in [
            r#""dry":{"breakers":[{"tokens":[1]}],"multiplier":0.8}"#,
            r#""output":[1,2]"#,
            r#""logit_bias":[{"bias":"-Infinity","token":3}]"#,
            r#""allowed_bitmask":"/wAA/w==""#,
        ] {
            assert!(said.grpc.contains(part), "{part}: {}", said.grpc);
        }
        assert!(said.command.contains("--params params.jsonl"), "{}", said.command);
        assert!(said.python.contains("output=[1,2]"), "{}", said.python);
    }

    #[test]
    fn calls_go_to_the_target_whatever_its_kind() {
        for (target, call) in [
            ("http://h:1", "--http2-prior-knowledge http://h:1/logitd"),
            ("unix:/run/it's", r"--unix-socket '/run/it'\''s' http://localhost/logitd"),
            (
                "https://h:1",
                r#"${CA:+--cacert "$CA"} ${NAME:+--servername "$NAME"} https://h:1/logitd"#,
            ),
        ] {
            let said = say_to(target, "{}").grpc;
            assert!(said.contains(call), "{call}: {said}");
        }
        let said = say_to("https://h:1", "{}").python;
        assert!(said.contains(r#"Client("https://h:1", tls_roots=tls_roots)"#), "{said}");
    }

    #[test]
    fn base64_is_that_of_everybody() {
        for (bytes, text) in [
            (&b""[..], ""),
            (b"f", "Zg=="),
            (b"fo", "Zm8="),
            (b"foo", "Zm9v"),
            (b"foob", "Zm9vYg=="),
        ] {
            assert_eq!(base64(bytes), text);
        }
    }
}
