//! Logprobs and kept ids on the command line: flags, files of parameters, output, known answers.

use super::vectors::path;
use super::{Folder, Serve, rows};
use logitd_core::backend::cpu::Isa;
use logitd_core::batch::Dtype;
use serde_json::{Value, json};

const ASKED: [&str; 9] = [
    "--logprobs",
    "sampled,raw",
    "--top-logprobs",
    "2",
    "--logprob-ids",
    "499,0",
    "--return-kept",
    "--seed",
    "7",
];

#[test]
fn flags_a_file_of_parameters_and_a_server_say_the_same() {
    let folder = Folder::new();
    let file = folder.npy("a.npy", Dtype::F16, &rows(3, 500));
    let plain = ["--logits", &file, "--top-k", "9", "--draws", "2"];
    let here = folder.sample(&[&plain[..], &ASKED].concat());
    let params = folder.text(
        "params.jsonl",
        r#"{"seed": 7, "logprobs": {"of": ["LOGPROBS_OF_RAW", "sampled"], "top": 2, "ids": [499, 0]}, "returnKept": true}"#,
    );
    assert_eq!(folder.sample(&[&plain[..], &["--params", &params]].concat()), here);
    // Where the server answers with a bitmask, the output has a list all the same.
    let serve = Serve::start(&folder, &["--kept-ids-max=3"]);
    for target in &serve.targets {
        let there = folder.sample(&[&plain[..], &ASKED, &["--target", target]].concat());
        assert_eq!(there, here, "{target}");
    }

    let (first, second) = (&here[0], &here[1]);
    let kept = first["kept_ids"].as_array().unwrap();
    assert_eq!((kept.len(), &second["kept_ids"]), (9, &Value::Null), "once a row");
    let of = |line: &Value| {
        let each = line["logprobs"].as_array().unwrap().iter();
        each.map(|one| one["of"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!((of(first), of(second)), (of(first), vec!["raw".into(), "sampled".into()]));
    let sampled = &first["logprobs"][1];
    assert_eq!((&sampled["drawn"]["token"], &sampled["status"]), (&first["token"], &json!("OK")));
    assert_eq!(sampled["drawn"]["logprob"], first["logprob"]);
    let ranks = sampled["top"].as_array().unwrap().iter().map(|one| &one["rank"]);
    assert!(ranks.eq([1, 2]), "{sampled}");
    let absent = sampled["ids"].as_array().unwrap().iter().filter(|one| one["rank"] == 0);
    assert!(absent.into_iter().all(|one| one["logprob"] == "-inf"), "{sampled}");
    assert_eq!(second["logprobs"][1].get("top"), None, "once a row");
    // Asking changes no token, and an answer replays its seeds.
    let bare = folder.sample(&[&plain[..], &["--seed", "7"]].concat());
    for (line, bare) in here.iter().zip(&bare) {
        assert_eq!((&line["token"], &line["logprob"]), (&bare["token"], &bare["logprob"]));
    }
    let lines: Vec<String> = here.iter().map(Value::to_string).collect();
    let answers = folder.text("answers.jsonl", &lines.join("\n"));
    assert_eq!(folder.sample(&[&plain[..], &["--params", &answers]].concat()), bare);
}

#[test]
fn a_wrong_wish_is_named_with_its_flag() {
    let folder = Folder::new();
    let file = folder.npy("a.npy", Dtype::F32, &rows(1, 50));
    for (flags, said) in [
        (&["--top-logprobs", "3"][..], "--logprobs"),
        (&["--logprobs", "raws"], "allowed: raw, adjusted, sampled"),
        (&["--logprobs", "raw,raw"], "--logprobs: of names raw twice"),
        (
            &["--logprobs", "raw", "--top-logprobs", "1025"],
            "'1025' for '--top-logprobs <N>': allowed: 0 to 1024",
        ),
        (
            &["--logprobs", "raw", "--logprob-ids", "50"],
            "--logprob-ids: ids[0] is token 50; allowed: below 50",
        ),
    ] {
        let error = folder.error(&[&["sample", "--logits", &file], flags].concat());
        assert!(error.contains(said), "{flags:?}: {error}");
    }
}

/// The cases of the independent implementation whose rows are in the file.
fn inspections(folder: &Folder) -> (String, usize, usize) {
    let bytes = std::fs::read(path("inspections.json")).unwrap();
    let mut vectors: Value = serde_json::from_slice(&bytes).unwrap();
    let cases = vectors["cases"].as_array_mut().unwrap();
    cases.retain(|case| case["row"].is_string());
    for case in &mut *cases {
        case["kind"] = json!("sample");
    }
    let logprobs = cases.iter().filter(|case| case["params"]["logprobs"].is_object()).count();
    let count = cases.len();
    (folder.vectors("inspections.json", &vectors), count, logprobs)
}

#[test]
fn backends_and_servers_return_the_known_answers() {
    let folder = Folder::new();
    let (file, count, logprobs) = inspections(&folder);
    println!("{count} cases, {logprobs} of them with logprobs");
    assert!(count > 90 && logprobs > 20);
    let said = format!("{count} cases compared");
    let cpu = Isa::ALL.iter().filter(|isa| isa.is_supported()).map(|isa| format!("cpu:{isa}"));
    for backend in cpu.chain(["reference".into()]) {
        let text = folder.verify(0, &[&file, "--a", &backend]);
        assert!(text.contains(&said) && text.contains(": 0 differences"), "{backend}: {text}");
    }
    let serve = Serve::start(&folder, &["--kept-ids-max=4"]);
    let text = folder.verify(0, &[&file, "--target", &serve.targets[0]]);
    assert!(text.contains(&said) && !text.contains("skipped"), "{text}");
}

#[test]
fn a_wrong_rank_or_entropy_is_found() {
    let folder = Folder::new();
    let (file, ..) = inspections(&folder);
    let vectors: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let is_full = |case: &Value| case["expect"]["logprobs"]["ids"].get(0).is_some();
    let index = vectors["cases"].as_array().unwrap().iter().position(is_full).unwrap();
    for (pointer, wrong, field) in [
        ("/status", json!("NAN"), "logprobs.status"),
        ("/entropy_bits", json!("3f800001"), "logprobs.entropy_bits"),
        ("/token/rank", json!(77), "logprobs.token.rank"),
        ("/top/0/token", json!(77), "logprobs.top[0].token"),
        ("/ids/0/logprob_bits", json!("c0000000"), "logprobs.ids[0].logprob_bits"),
    ] {
        let mut vectors = vectors.clone();
        let place = format!("/cases/{index}/expect/logprobs{pointer}");
        *vectors.pointer_mut(&place).unwrap_or_else(|| panic!("{place}")) = wrong.clone();
        let file = folder.vectors("wrong.json", &vectors);
        let text = folder.verify(1, &[&file]);
        assert!(text.contains("1 DIFFER"), "{text}");
        assert!(text.contains(&format!("{field}: expected {wrong}, got ")), "{field}: {text}");
    }
}
