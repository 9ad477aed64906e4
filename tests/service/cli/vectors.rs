//! `verify --vectors`: known answers, held to backends and servers.

use super::{Folder, Serve, rows};
use logitd_core::backend::cpu::Isa;
use logitd_core::batch::Dtype;
use serde_json::{Value, json};
use std::path::PathBuf;

/// A file of known answers.
pub fn path(name: &str) -> String {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/independent");
    folder.join(name).display().to_string()
}

/// Those of an independent implementation that need nothing beyond version 1, and the integer tools.
fn controls() -> Value {
    serde_json::from_slice(&std::fs::read(path("controls.json")).unwrap()).unwrap()
}

impl Folder {
    /// What `verify --vectors` prints, with the exit code that is expected.
    pub fn verify(&self, code: i32, args: &[&str]) -> String {
        let output = self.logitd(&[&["verify", "--vectors"], args].concat());
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {error}");
        String::from_utf8(output.stdout).unwrap() + &error
    }

    pub fn vectors(&self, name: &str, vectors: &Value) -> String {
        self.text(name, &vectors.to_string())
    }
}

#[test]
fn every_backend_returns_the_known_answers() {
    let folder = Folder::new();
    let cpu = Isa::ALL.iter().filter(|isa| isa.is_supported()).map(|isa| format!("cpu:{isa}"));
    for backend in cpu.chain(["reference".into()]) {
        let json = folder.verify(0, &[&path("controls.json"), "--a", &backend, "--json"]);
        let cuts = folder.verify(0, &[&path("cuts.json"), "--a", &backend]);
        assert!(cuts.contains("168 cases compared"), "{cuts}");
        let beams = folder.verify(0, &[&path("beams.json"), "--a", &backend]);
        assert!(beams.contains("13 cases compared"), "{beams}");
        let drafts = folder.verify(0, &[&path("drafts.json"), "--a", &backend, "--json"]);
        let drafts: Value = serde_json::from_str(&drafts).unwrap();
        assert_eq!(drafts["compared"], json!({"verify": 39, "tree": 4}), "{backend}");
        let counts: Value = serde_json::from_str(&json).unwrap();
        let expected = json!({"interval": 20, "log2": 10, "pow2": 8, "sample": 10, "surprisal": 9});
        assert_eq!(counts["compared"], expected, "{backend}");
        assert_eq!((&counts["left_out"], &counts["first_difference"]), (&json!(0), &Value::Null));
    }
    for (file, said) in [
        ("mass.json", "52 cases compared"),
        ("cuts.json", "168 cases compared"),
        ("edge_rows.json", "75 cases compared"),
        ("tiny_rows.json", "60 cases compared"),
    ] {
        let text = folder.verify(0, &[&path(file)]);
        assert!(text.contains(said) && text.contains(": 0 differences"), "{file}: {text}");
    }
}

/// The blocks of JSON on the page that defines the arithmetic: its rows, and a case a line.
fn of_the_page() -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/arithmetic.md");
    let page = std::fs::read_to_string(path).unwrap();
    let blocks = page.split("\n```json\n").skip(1).map(|rest| rest.split("\n```").next().unwrap());
    let (rows, cases): (Vec<&str>, Vec<&str>) =
        blocks.partition(|text| text.starts_with("{\"rows\""));
    let rows: Value = serde_json::from_str(rows[0]).unwrap();
    let lines = cases.into_iter().flat_map(str::lines);
    let cases: Vec<Value> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
    json!({"rows": rows["rows"], "cases": cases})
}

#[test]
fn every_backend_returns_the_known_answers_of_the_page() {
    let folder = Folder::new();
    let page = of_the_page();
    assert!(page["cases"].as_array().unwrap().len() > 80, "{page}");
    let file = folder.vectors("page.json", &page);
    let cpu = Isa::ALL.iter().filter(|isa| isa.is_supported()).map(|isa| format!("cpu:{isa}"));
    for backend in cpu.chain(["reference".into()]) {
        let text = folder.verify(0, &[&file, "--a", &backend]);
        assert!(text.contains(": 0 differences") && !text.contains("skipped"), "{backend}: {text}");
    }
}

#[test]
fn a_server_returns_the_known_answers_that_the_api_has() {
    let folder = Folder::new();
    let serve = Serve::start(&folder, &[]);
    let controls = path("controls.json");
    for target in &serve.targets {
        let text = folder.verify(0, &[&controls, "--target", target]);
        assert!(text.contains("10 cases compared"), "{text}");
        let skipped = "these kinds: interval (20), log2 (10), pow2 (8), surprisal (9)";
        assert!(text.contains(skipped), "{text}");
        assert!(!text.contains("these fields"), "{text}");
    }
    let target = &serve.targets[0];
    let text = folder.verify(0, &[&path("beams.json"), "--target", target]);
    assert!(text.contains("13 cases compared") && !text.contains("skipped"), "{text}");
    let text = folder.verify(0, &[&path("cuts.json"), "--target", target]);
    assert!(text.contains("168 cases compared") && !text.contains("these fields"), "{text}");
    let text = folder.verify(2, &[&controls, "--target", target, "--kinds", "log2,pow2"]);
    assert!(
        text.contains("log2 (10), pow2 (8)") && text.contains("nothing was compared"),
        "{text}"
    );
    let text = folder.verify(0, &[&path("edge_rows.json"), "--target", target]);
    assert!(text.contains("75 cases compared"), "{text}");
    let text = folder.verify(0, &[&path("drafts.json"), "--target", target]);
    assert!(text.contains("43 cases compared") && !text.contains("skipped"), "{text}");
    let text = folder.verify(2, &[&controls, "--target", target, "--a", "reference"]);
    assert!(text.contains("--a and --threads are for this process"), "{text}");
}

#[test]
fn a_wrong_answer_is_found_and_its_replay_shows_it_again() {
    let folder = Folder::new();
    let of_kind = |vectors: &Value, kind: &str| {
        let cases = vectors["cases"].as_array().unwrap();
        cases.iter().position(|case| case["kind"] == kind).unwrap()
    };
    for (kind, field, wrong) in [
        ("sample", "status", json!("NAN")),
        ("sample", "token", json!(4_000_000)),
        ("sample", "kept", json!(0)),
        ("sample", "kept_mass", json!(1)),
        ("sample", "bounds", json!([0, 0, 0])),
        ("sample", "kept_ids", json!([])),
        ("sample", "logprob_bits", json!("bf800000")),
        ("log2", "", json!(7)),
        ("pow2", "", json!(7)),
        ("surprisal", "mass", json!(7)),
        ("surprisal", "g", json!(7)),
        ("surprisal", "term", json!(7)),
        ("interval", "W", json!(7)),
        ("interval", "E", json!(7)),
        ("interval", "A", json!(7)),
        ("interval", "H32", json!(7)),
    ] {
        let mut vectors = controls();
        let index = of_kind(&vectors, kind);
        let expect = &mut vectors["cases"][index]["expect"];
        let place = if field.is_empty() { expect } else { &mut expect[field] };
        assert_ne!(*place, wrong);
        *place = wrong.clone();
        let file = folder.vectors("wrong.json", &vectors);
        let text = folder.verify(1, &[&file]);
        assert!(text.contains("57 cases compared") && text.contains("1 DIFFER"), "{field}: {text}");
        let name = if field.is_empty() { kind } else { field };
        assert!(text.contains(&format!("{name}: expected {wrong}, got ")), "{field}: {text}");
        let replay = text.split("replay: logitd verify --vectors ").nth(1).unwrap();
        let replay: Vec<&str> = replay.split_whitespace().collect();
        assert!(folder.verify(1, &replay).contains("1 cases compared"), "{field}: {replay:?}");
        let json = folder.verify(1, &[&file, "--json"]);
        let found: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(found["different"][kind], 1, "{field}");
        assert_eq!(found["first_difference"]["index"], index, "{field}");
        assert_eq!(found["first_difference"]["differences"][0]["field"], field);
    }
}

#[test]
fn a_wrong_step_of_beams_is_found() {
    let folder = Folder::new();
    let beams: Value = serde_json::from_slice(&std::fs::read(path("beams.json")).unwrap()).unwrap();
    let has = |field: &str| {
        let cases = beams["cases"].as_array().unwrap();
        let filled = |case: &Value| !case["expect"][field].as_array().unwrap().is_empty();
        cases.iter().position(filled).unwrap()
    };
    for (field, place, wrong) in [
        ("statuses", "/0", json!("NAN")),
        ("candidates", "/0/0", json!(9)),
        ("candidates", "/1/1", json!(9)),
        ("candidates", "/1/2", json!(-8_599_040_862i64)),
        ("running", "/0/2", json!(-6_141_178_718i64)),
        ("running", "/3", json!(null)),
        ("finished", "/0/1", json!(7)),
    ] {
        let mut vectors = beams.clone();
        let index = has(field);
        let place = vectors["cases"][index]["expect"][field].pointer_mut(place).unwrap();
        assert_ne!(*place, wrong);
        *place = wrong;
        let file = folder.vectors("wrong.json", &vectors);
        let found: Value = serde_json::from_str(&folder.verify(1, &[&file, "--json"])).unwrap();
        assert_eq!(found["different"], json!({"beam": 1}), "{field}");
        assert_eq!(found["first_difference"]["index"], index, "{field}");
        assert_eq!(found["first_difference"]["differences"][0]["field"], field);
    }
    for (key, value, part) in [
        ("beams", json!(65), "beams is 65; allowed: 1 to 64"),
        ("beams", json!(-1), "beams is -1: invalid value"),
        ("scores", json!([0, 0]), "has 1 rows, and scores for 2"),
        ("eos", json!([1, 1]), "eos_ids[1] is 1, which is there before"),
        ("temperature", json!(0), "temperature is 0; allowed: 0.0001 to 10000"),
        ("normaliser", json!("raw"), "normaliser is \"raw\"; allowed: ADJUSTED, RAW"),
        ("row_params", json!([{}, {}]), "has 1 rows, and row_params of 2"),
        ("row_params", json!([{"a_new_control": 1}]), "unknown parameter a_new_control"),
    ] {
        let mut vectors = beams.clone();
        vectors["cases"][0][key] = value;
        let text = folder.verify(2, &[&folder.vectors("case.json", &vectors)]);
        assert!(text.contains("case 0") && text.contains(part), "{key}: {text}");
    }
}

#[test]
fn a_wrong_answer_about_drafts_is_found() {
    let folder = Folder::new();
    let serve = Serve::start(&folder, &[]);
    let subjects = [&[][..], &["--target", &*serve.targets[0]]];
    let read = || -> Value {
        serde_json::from_slice(&std::fs::read(path("drafts.json")).unwrap()).unwrap()
    };
    for (kind, field, wrong) in [
        ("verify", "status", json!("NAN")),
        ("verify", "accepted", json!(9)),
        ("verify", "tokens", json!([23, 23])),
        ("verify", "logprob_bits", json!(["bf800000"])),
        ("tree", "status", json!("NAN")),
        ("tree", "path", json!([3])),
        ("tree", "tokens", json!([])),
        ("tree", "logprob_bits", json!([])),
    ] {
        let mut vectors = read();
        let cases = vectors["cases"].as_array_mut().unwrap();
        let case = cases.iter_mut().find(|case| case["kind"] == kind).unwrap();
        assert_ne!(case["expect"][field], wrong);
        case["expect"][field] = wrong.clone();
        let file = folder.vectors("wrong.json", &vectors);
        for subject in subjects {
            let text = folder.verify(1, &[&[&*file], subject].concat());
            let counts = text.contains("43 cases compared") && text.contains("1 DIFFER");
            assert!(counts, "{field}: {text}");
            assert!(text.contains(&format!("{field}: expected {wrong}, got ")), "{field}: {text}");
        }
    }
    // What decides is what a case says: other modes, rows and proposals have other answers.
    let compared = |name: &str, change: fn(&mut Value)| {
        let mut vectors = read();
        let cases = vectors["cases"].as_array_mut().unwrap();
        cases.iter_mut().filter(|case| case["name"] == name).for_each(change);
        let file = folder.vectors("changed.json", &vectors);
        let [here, there] =
            subjects.map(|subject| folder.verify(1, &[&[&*file], subject].concat()));
        let wrong = |text: &str| -> Vec<String> {
            text.lines().filter(|line| line.contains(": expected ")).map(String::from).collect()
        };
        assert_eq!(wrong(&here), wrong(&there), "{name}");
        here
    };
    let no_proposals = |case: &mut Value| case["draft_distributions"] = Value::Null;
    assert!(compared("rejection", no_proposals).contains("DIFFER"));
    assert!(compared("match", |case| case["mode"] = json!("REJECTION")).contains("DIFFER"));
    assert!(compared("typical", |case| case["mode"] = json!("MATCH")).contains("DIFFER"));
    let no_history = |case: &mut Value| case["params"]["output"] = json!([]);
    assert!(compared("penalties grow with the drafts", no_history).contains("DIFFER"));
}

#[test]
fn what_is_not_known_is_named_and_counted_and_never_compared() {
    let folder = Folder::new();
    let mut vectors = controls();
    let cases = vectors["cases"].as_array_mut().unwrap();
    let mut samples = cases.iter_mut().filter(|case| case["kind"] == "sample");
    let first = samples.next().unwrap();
    first["params"]["a_new_control"] = json!(0.5);
    first["expect"]["a_new_answer"] = json!(1);
    samples.next().unwrap()["params"]["a_new_control"] = json!(0.5);
    samples.next().unwrap()["a_new_key"] = json!(0.5);
    cases.push(json!({"kind": "a_new_kind", "expect": 5}));
    let file = folder.vectors("new.json", &vectors);
    let missing = "parameter a_new_control (2), expectation a_new_answer (1), key a_new_key (1), kind a_new_kind (1)";
    let text = folder.error(&["verify", "--vectors", &file]);
    assert!(text.contains("unknown expectation a_new_answer. 4 of 58 cases need"), "{text}");
    assert!(text.contains(missing), "{text}");
    let text = folder.verify(0, &[&file, "--known"]);
    assert!(text.contains("54 cases compared"), "{text}");
    assert!(text.contains("left out: 4 cases") && text.contains(missing), "{text}");
    let text = folder.verify(0, &[&file, "--kinds", "log2,interval"]);
    assert!(text.contains("30 cases compared"), "{text}");
    let text = folder.verify(2, &[&file, "--case", "57", "--known"]);
    assert!(text.contains("nothing was compared"), "{text}");
    for (args, part) in [
        (&["--kinds", "a_new_kind"][..], "names a_new_kind; known: sample, verify, tree, beam"),
        (&["--case", "58"], "--case is 58; it holds 58 cases"),
        (&["--rows", "5"], "--rows"),
        (&["--params", "a.jsonl"], "--params"),
        (&["--logits", "a.npy", "--known"], "a.npy: No such file"),
    ] {
        let message = folder.error(&[&["verify", "--vectors", &file], args].concat());
        assert!(message.contains(part), "{args:?}: {message}");
    }
    for args in [&["--known"][..], &["--json"], &["--kinds", "log2"], &["--target", "localhost"]] {
        let message = folder.error(&[&["verify"], args].concat());
        assert!(message.contains("--vectors"), "{args:?}: {message}");
    }
}

#[test]
fn rows_with_a_number_are_those_of_a_file_of_logits() {
    let folder = Folder::new();
    let logits = folder.npy("rows.npy", Dtype::F32, &rows(3, 40));
    let tokens = folder.sample(&["--logits", &logits, "--seed", "7"]);
    let case = |row: usize| {
        let expect = json!({"status": "OK", "token": tokens[row]["token"], "kept": 40});
        json!({"kind": "sample", "row": row, "params": {"seed": 7}, "expect": expect})
    };
    let mut vectors = json!({"cases": [case(0), case(2), case(1)]});
    let file = folder.vectors("numbered.json", &vectors);
    let text = folder.verify(0, &[&file, "--logits", &logits]);
    assert!(text.contains("3 cases compared"), "{text}");
    let text = folder.verify(2, &[&file]);
    assert!(text.contains("row is 0: the file names no logits; --logits does"), "{text}");
    vectors["logits"] = json!("rows.npy");
    let file = folder.vectors("numbered.json", &vectors);
    assert!(folder.verify(0, &[&file]).contains("3 cases compared"));
    vectors["cases"][1]["row"] = json!(3);
    let file = folder.vectors("numbered.json", &vectors);
    let text = folder.verify(2, &[&file]);
    assert!(text.contains("case 1: row is 3; the file of logits has 0 to 2"), "{text}");
    vectors["logits"] = json!("none.npy");
    let file = folder.vectors("numbered.json", &vectors);
    let text = folder.verify(2, &[&file]);
    assert!(text.contains("none.npy: No such file"), "{text}");
}

#[test]
fn a_case_that_cannot_be_read_is_named() {
    let folder = Folder::new();
    let row = json!({"dtype": "f16", "bits": ["3c00", "4000"]});
    let nan = json!({"dtype": "f16", "bits": ["7e00"]});
    let verify = |fields: Value| {
        let mut case = json!({"kind": "verify", "mode": "REJECTION", "rows": [row], "drafts": [],
            "params": {}, "expect": {}});
        for (key, value) in fields.as_object().unwrap() {
            case[key] = value.clone();
        }
        case
    };
    for (case, part) in [
        (json!({"kind": "log2", "w": 0, "expect": 0}), "w is 0; allowed: 1 or more"),
        (json!({"kind": "log2", "w": -1, "expect": 0}), "w is -1; wanted: a whole number"),
        (json!({"kind": "log2", "expect": 0}), "has no w"),
        (json!({"kind": "pow2", "a": 0}), "has no expect"),
        (
            json!({"kind": "interval", "row": "b", "temperature": 1, "expect": {}}),
            "row is b, which",
        ),
        (json!({"kind": "interval", "row": nan, "temperature": 1, "expect": {}}), "its row is NAN"),
        (json!({"kind": "interval", "row": row, "temperature": 0, "expect": {}}), "no masses"),
        (
            json!({"kind": "mass", "temperature": 1, "x_minus_max": "1", "expect": 1}),
            "x_minus_max is \"1\"; allowed: 0 or below",
        ),
        (json!({"kind": "sample", "row": row, "params": {}, "expect": {}}), "expects no status"),
        (verify(json!({"drafts": [0]})), "has 1 rows and 1 drafts; wanted: a row more"),
        (verify(json!({"rows": [row, row], "drafts": [2]})), "draft 0 is of another vocabulary"),
        (verify(json!({"rows": [row, row], "drafts": [1], "mode": "A"})), "mode is \"A\"; wanted"),
        (
            verify(json!({"rows": [row, row], "drafts": [1],
                "draft_distributions": [{"tokens": [1], "weights": [1u64 << 60]}]})),
            "add up to 1152921504606846976; allowed",
        ),
        (
            verify(json!({"rows": [row, row], "drafts": [1],
                "draft_distributions": [{"probs_bits": ["3f800000", "40000000"]}]})),
            "no probabilities",
        ),
        (
            json!({"kind": "tree", "rows": [row, row], "parents": [-1, 1], "tokens": [-1, 0],
                "params": {}, "expect": {}}),
            "is no tree",
        ),
        (
            json!({"kind": "tree", "rows": [row, row], "parents": [0, 0], "tokens": [-1, 0],
                "params": {}, "expect": {}}),
            "the first with -1 for both",
        ),
        (
            json!({"kind": "tree", "rows": [row, row], "parents": [-1, 0], "tokens": [3, 0],
                "params": {}, "expect": {}}),
            "the first with -1 for both",
        ),
        (
            json!({"kind": "sample", "row": row, "params": {"top_p": 2}, "expect": {"status": "OK"}}),
            "top_p is 2; allowed: above 0, up to 1",
        ),
    ] {
        let cases = json!({"cases": [{"name": "fine", "kind": "log2", "w": 1, "expect": 0}, case]});
        let file = folder.vectors("case.json", &cases);
        let text = folder.verify(2, &[&file]);
        assert!(text.contains("case.json: case 1: ") && text.contains(part), "{case}: {text}");
    }
    let file = folder.text("cut.json", "{\"cases\": [");
    assert!(folder.error(&["verify", "--vectors", &file]).contains("cut.json: is no JSON: EOF"));
}
