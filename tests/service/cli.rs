//! The command line, run as people and programs run it: exit codes, output and what is said about
//! mistakes.

mod cases;
mod logprobs;
mod manual;
mod tune;
mod vectors;

use half::{bf16, f16};
use logitd::files::npy;
use logitd_core::batch::Dtype;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use tempfile::TempDir;

/// A folder of small files to run commands on.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str, text: &str) -> String {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name).display().to_string()
    }

    /// A .npy file of these rows.
    fn npy(&self, name: &str, dtype: Dtype, rows: &[Vec<f32>]) -> String {
        let bytes: Vec<u8> = rows.iter().flatten().flat_map(|&x| store(dtype, x)).collect();
        npy::write(&self.path(name), dtype, rows[0].len() as u32, &bytes).unwrap();
        self.path(name).display().to_string()
    }

    fn logitd(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_logitd"))
            .args(args)
            .current_dir(self.0.path())
            .output()
            .unwrap()
    }

    /// The standard output of a command that succeeds.
    fn ok(&self, args: &[&str]) -> String {
        let output = self.logitd(args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a command that fails says.
    fn error(&self, args: &[&str]) -> String {
        let output = self.logitd(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(output.stdout.is_empty(), "{args:?}: an answer beside an error");
        String::from_utf8(output.stderr).unwrap()
    }

    fn sample(&self, args: &[&str]) -> Vec<Value> {
        let text = self.ok(&[&["sample", "--json"], args].concat());
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// A running `logitd serve`; ends with the test.
struct Serve {
    child: Child,
    targets: Vec<String>,
}

impl Serve {
    /// Serves on a Unix socket and on a free port, and waits until both are open.
    fn start(folder: &Folder, flags: &[&str]) -> Self {
        let socket = format!("unix:{}", folder.path("sock").display());
        let mut child = Command::new(env!("CARGO_BIN_EXE_logitd"))
            .args(["serve", "--log-format", "json", "--listen", &socket])
            .args(["--listen", "127.0.0.1:0"])
            .args(flags)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut targets = Vec::new();
        while targets.len() < 2 {
            let line = log.next().expect("the server listens before it ends").unwrap();
            let line: Value = serde_json::from_str(&line).unwrap();
            if line["message"] == "listening" {
                targets.push(line["address"].as_str().unwrap().to_string());
            }
        }
        // Read on, so that the server is never blocked by its log.
        std::thread::spawn(move || log.for_each(drop));
        Self { child, targets }
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        self.child.kill().expect("it was running");
        self.child.wait().expect("it has ended");
    }
}

fn store(dtype: Dtype, x: f32) -> Vec<u8> {
    match dtype {
        Dtype::F16 => f16::from_f32(x).to_le_bytes().to_vec(),
        Dtype::Bf16 => bf16::from_f32(x).to_le_bytes().to_vec(),
        Dtype::F32 => x.to_le_bytes().to_vec(),
    }
}

/// Rows of values that every dtype holds exactly, with many ties.
fn rows(count: usize, vocab_size: usize) -> Vec<Vec<f32>> {
    let value = |row: usize, token: usize| ((token * 37 + row * 11) % 64) as f32 / 8.0;
    (0..count).map(|row| (0..vocab_size).map(|token| value(row, token)).collect()).collect()
}

#[test]
fn every_status_has_its_line() {
    let folder = Folder::new();
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    let rows = [vec![1.0, 3.0, 2.0], vec![nan, inf, 0.0], vec![0.0, inf, -inf], vec![-inf; 3]];
    let file = folder.npy("a.npy", Dtype::F16, &rows);
    let got = folder.sample(&["--logits", &file, "--temperature", "0", "--seed", "7"]);
    let failed = |row: i32, status: &str| json!({"row": row, "status": status, "token": null, "logprob": null, "kept": 0, "seed": 7});
    let expected = [
        json!({"row": 0, "status": "OK", "token": 1, "logprob": 0.0, "kept": 1, "seed": 7}),
        failed(1, "NAN"),
        failed(2, "POSITIVE_INFINITY"),
        failed(3, "NO_CANDIDATE"),
    ];
    assert_eq!(got, expected);

    let table = folder.ok(&["sample", "--logits", &file, "--temperature", "0", "--seed", "7"]);
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 5);
    assert!(lines[0].contains("logprob") && lines[3].contains("POSITIVE_INFINITY"), "{table}");
}

#[test]
fn every_dtype_isa_and_device_gives_the_same_answer() {
    let folder = Folder::new();
    let rows = rows(9, 1000);
    let params = ["--temperature", "0.7", "--top-p", "0.9", "--seed", "5", "--draws", "3"];
    let f32 = folder.npy("f32.npy", Dtype::F32, &rows);
    let expected =
        folder.sample(&[&["--logits", &f32, "--device", "reference"], &params[..]].concat());
    assert_eq!(expected.len(), 27);
    assert_eq!((&expected[4]["row"], &expected[4]["draw"]), (&json!(1), &json!(1)));

    let f16 = folder.npy("f16.npy", Dtype::F16, &rows);
    let bf16 = folder.npy("bf16.npy", Dtype::Bf16, &rows);
    let raw: Vec<u8> = rows.iter().flatten().flat_map(|&x| store(Dtype::Bf16, x)).collect();
    std::fs::write(folder.path("raw"), raw).unwrap();
    for flags in [
        &["--logits", &f32, "--isa", "portable"][..],
        &["--logits", &f16],
        &["--logits", &f16, "--threads", "3"],
        &["--logits", &bf16, "--dtype", "bf16"],
        &["--logits", "raw", "--dtype", "bf16", "--vocab-size", "1000"],
    ] {
        assert_eq!(folder.sample(&[flags, &params[..]].concat()), expected, "{flags:?}");
    }
}

#[test]
fn a_server_gives_the_same_answers_in_as_many_requests_as_it_takes() {
    let folder = Folder::new();
    // 3 rows of 1,000 f16 tokens fit into a message, 25 rows do not.
    let serve =
        Serve::start(&folder, &["--message-bytes-max", "7000", "--batch-bytes-max", "7000"]);
    let file = folder.npy("a.npy", Dtype::F16, &rows(25, 1000));
    let f32 = folder.npy("b.npy", Dtype::F32, &[vec![1.0, f32::NAN], vec![-f32::INFINITY; 2]]);
    let lines: Vec<String> = (0..25)
        .map(|i| json!({"temperature": 0.1 * i as f64, "top_k": i, "draws": 1 + i % 3, "seed": i}))
        .map(|line| line.to_string())
        .collect();
    let params = folder.text("params.jsonl", &lines.join("\n"));
    for args in [
        &["--logits", &file, "--seed", "3", "--top-p", "0.9"][..],
        &["--logits", &file, "--seed", "3", "--min-p", "0.2", "--draws", "5", "--position", "8"],
        &["--logits", &file, "--params", &params],
        &["--logits", &file, "--rows", "20,1-5", "--seed", "18446744073709551615"],
        &["--logits", &f32, "--seed", "1"],
    ] {
        let expected = folder.sample(args);
        for target in &serve.targets {
            let got = folder.sample(&[args, &["--target", target]].concat());
            assert_eq!(got, expected, "{args:?} on {target}");
        }
    }
    // The first tokens of each row are enough for what keeps no more of them.
    let cut = ["--logits", &file, "--top-k", "20", "--draws", "5", "--seed", "3"];
    let few = [&cut[..], &["--target", &serve.targets[0], "--candidates", "20"]].concat();
    assert_eq!(folder.sample(&few), folder.sample(&cut));
    let few = [&few[..few.len() - 1], &["19"]].concat();
    let message = folder.error(&[&["sample"], &few[..]].concat());
    assert!(message.contains("--candidates 19 is not enough for a top_k of 20"), "{message}");

    // Without a seed, the server takes one, and says which.
    let unix = &serve.targets[0];
    let free = folder.sample(&["--logits", &file, "--rows", "2", "--target", unix]);
    let seed = free[0]["seed"].to_string();
    assert_eq!(folder.sample(&["--logits", &file, "--rows", "2", "--seed", &seed]), free);

    // What the server has no room for is its own to name.
    let large = folder.npy("large.npy", Dtype::F16, &rows(1, 4000));
    let message = folder.error(&["sample", "--logits", &large, "--target", unix]);
    assert!(message.contains("--message-bytes-max"), "{message}");
    let message = folder.error(&["sample", "--logits", &file, "--target", unix, "--threads", "2"]);
    assert!(message.contains("--threads") && message.contains("leave them out"), "{message}");

    let info: Value =
        serde_json::from_str(&folder.ok(&["info", "--json", "--target", unix])).unwrap();
    assert_eq!(info["limits"]["message_bytes_max"], 7000);
    assert_eq!(info["planes"], serde_json::json!(["inline", "chunked", "candidates"]));
    assert_eq!(info["chunk_bytes"], 7000);
    assert_eq!(info["devices"][0]["up"], true);
    let here: Value = serde_json::from_str(&folder.ok(&["info", "--json"])).unwrap();
    assert_eq!(info["controls"], here["controls"]);
    assert_eq!(info["draw_rules"], here["draw_rules"]);
    assert_eq!(info["profiles"], here["profiles"]);
    assert_eq!(info["profiles"][4], "PROFILE_LLAMACPP");
    assert!(info.get("isa").is_none(), "only a machine itself knows what it could run");
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let folder = Folder::new();
    let file = folder.npy("a.npy", Dtype::F32, &rows(1, 10));
    for target in ["unix:none.sock", "http://127.0.0.1:1", "ftp://127.0.0.1", "https://127.0.0.1:1"]
    {
        let message = folder.error(&["sample", "--logits", &file, "--target", target]);
        assert!(message.contains(target), "{message}");
    }
}

#[test]
fn info_says_what_this_machine_offers() {
    let folder = Folder::new();
    let info: Value = serde_json::from_str(&folder.ok(&["info", "--json"])).unwrap();
    assert_eq!(info["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(info["arithmetic_version"], logitd_core::arithmetic::VERSION);
    assert_eq!(info["devices"][0]["id"], "cpu");
    assert_eq!(info["devices"][0]["isa"], info["isa"]["detected"]);
    assert!(info["devices"][0]["threads"].as_u64().unwrap() >= 1);
    assert!(info["isa"]["supported"].as_array().unwrap().contains(&info["isa"]["detected"]));
    match logitd_core::backend::cuda::count() {
        Ok(_) => assert!(info["kernel_tier"].is_string()),
        Err(reason) => {
            assert_eq!(info["kernel_tier"], "cpu");
            assert_eq!(info["kernel_tier_reason"], reason);
        }
    }
    assert_eq!(info["limits"]["vocab_size_max"], logitd_core::batch::VOCAB_SIZE_MAX);
    assert_eq!(info["limits"].as_object().unwrap().len(), 24);
    let text = folder.ok(&["info"]);
    let controls = info["controls"].as_array().unwrap();
    let rules = info["draw_rules"].as_array().unwrap();
    assert!(controls.contains(&"logit_bias".into()) && controls.contains(&"row_stride".into()));
    for name in controls.iter().chain(rules) {
        assert!(text.contains(name.as_str().unwrap()), "{name} is not in {text}");
    }
    assert!(text.contains("1,048,576") && text.contains("--queue-rows-max"), "{text}");
    assert!(!text.contains('\u{1b}'), "colour without a terminal");
}

#[test]
fn the_demonstration_ends_well_and_reads_without_a_terminal() {
    let folder = Folder::new();
    let said = folder.ok(&["demo", "--draws", "20", "--text", "4"]);
    for part in [
        "智能",
        "temperature 2",
        "top_n_sigma 1",
        "top_k 5",
        "XTC",
        "four letters",
        "identical",
        "over gRPC",
        "0 differences",
        "--example sentences",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("DIFFER") && !said.contains('\u{1b}'), "{said}");
}

#[test]
fn a_seed_that_was_not_given_is_shown_and_replays() {
    let folder = Folder::new();
    let file = folder.npy("a.npy", Dtype::F32, &rows(3, 500));
    let first = folder.sample(&["--logits", &file]);
    assert_ne!(first[0]["seed"], first[1]["seed"]);
    let lines: Vec<String> = first.iter().map(|l| json!({"seed": l["seed"]}).to_string()).collect();
    let params = folder.text("seeds.jsonl", &lines.join("\n"));
    assert_eq!(folder.sample(&["--logits", &file, "--params", &params]), first);
}

#[test]
fn a_parameter_set_a_row_is_the_same_as_flags() {
    let folder = Folder::new();
    let file = folder.npy("a.npy", Dtype::F16, &rows(3, 500));
    let params = folder.text(
        "params.jsonl",
        r#"{"temperature": 0.5, "top_k": 20, "seed": 18446744073709551615}
           {"min_p": 0.1, "position": 9, "seed": 1}
           {"temperature": 0}
        "#,
    );
    let got = folder.sample(&["--logits", &file, "--params", &params, "--seed", "4"]);
    assert_eq!(got[0]["seed"], json!(u64::MAX.to_string()));
    for (row, flags) in [
        "--temperature 0.5 --top-k 20 --seed 18446744073709551615",
        "--min-p 0.1 --position 9 --seed 1",
        "--temperature 0 --seed 4",
    ]
    .into_iter()
    .enumerate()
    {
        let flags: Vec<&str> = flags.split(' ').collect();
        let row_text = row.to_string();
        let one = folder.sample(&[&["--logits", &file, "--rows", &row_text], &flags[..]].concat());
        assert_eq!(one, [got[row].clone()]);
    }
}

#[test]
fn rows_are_selected_in_the_order_they_are_named() {
    let folder = Folder::new();
    let file = folder.npy("a.npy", Dtype::F32, &rows(8, 100));
    let all = folder.sample(&["--logits", &file, "--seed", "1"]);
    let some = folder.sample(&["--logits", &file, "--seed", "1", "--rows", "6,2-4"]);
    let expected: Vec<Value> = [6, 2, 3, 4].map(|row: usize| all[row].clone()).into();
    assert_eq!(some, expected);
}

#[test]
fn logprobs_keep_their_bits() {
    let folder = Folder::new();
    let file = folder.npy("a.npy", Dtype::F32, &rows(1, 999));
    let got = folder.ok(&["sample", "--json", "--logits", &file, "--seed", "3", "--draws", "50"]);
    for line in got.lines() {
        let text = line.split("\"logprob\":").nth(1).unwrap().split(',').next().unwrap();
        let logprob: f32 = text.parse().unwrap();
        assert_eq!(logprob.to_string(), text, "the shortest text that reads back to the same bits");
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let folder = Folder::new();
    let file = folder.npy("a.npy", Dtype::F32, &rows(50, 10));
    let mut child = Command::new(env!("CARGO_BIN_EXE_logitd"))
        .args(["sample", "--json", "--logits", &file, "--draws", "1024"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("{\"row\":0"), "{line}");
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), vec![]));
}

#[test]
fn texts_of_tokens_are_shown() {
    let folder = Folder::new();
    let file = folder.npy("a.npy", Dtype::F32, &[vec![0.0, 5.0]]);
    let tokens = folder.text("tokens.json", r#"["no", " yes\n"]"#);
    let args = ["--logits", &file, "--temperature", "0", "--tokens", &tokens];
    assert_eq!(folder.sample(&args)[0]["text"], " yes\n");
    assert!(folder.ok(&[&["sample"], &args[..]].concat()).contains(r#"" yes\n""#));
}

#[test]
fn mistakes_are_named_with_their_limit_and_the_way_out() {
    let folder = Folder::new();
    let file = folder.npy("a.npy", Dtype::F16, &rows(3, 10));
    let bf16 = folder.npy("bf16.npy", Dtype::Bf16, &rows(3, 10));
    let typo = folder.text("typo.jsonl", "{}\n{\"tempreature\": 1}\n{}\n");
    let range = folder.text("range.jsonl", "{}\n{}\n{\"draws\": 1025}\n");
    let two = folder.text("two.jsonl", "{}\n{}\n");
    let raw = folder.text("raw", "1234567");
    for (args, parts) in [
        (&["--logits", "none.npy"][..], &["none.npy", "No such file"][..]),
        (&["--logits", &file, "--temperature", "-1"], &["--temperature is -1", "1e-30 to 10000"]),
        (&["--logits", &file, "--temperature", "nan"], &["--temperature is nan", "1e-30 to 10000"]),
        (&["--logits", &file, "--top-p", "0"], &["--top-p is 0", "above 0, up to 1"]),
        (&["--logits", &file, "--min-p", "1.5"], &["--min-p is 1.5", "0 to 1"]),
        (&["--logits", &file, "--draws", "1025"], &["--draws is 1025", "1 to 1024"]),
        (&["--logits", &file, "--rows", "1-3"], &["row 3", "0 to 2"]),
        (&["--logits", &file, "--rows", "x"], &["\"x\"", "3,5-9"]),
        (&["--logits", &file, "--params", &typo], &["typo.jsonl, line 2", "tempreature", "top_k"]),
        (
            &["--logits", &file, "--params", &range],
            &["range.jsonl, line 3", "draws is 1025", "1 to 1024"],
        ),
        (&["--logits", &file, "--params", &two], &["2 parameter sets", "3 rows", "one for all"]),
        (&["--logits", &file, "--dtype", "bf16"], &["a.npy", "<f2", "leave --dtype out"]),
        (&["--logits", &file, "--vocab-size", "11"], &["10 logits", "--vocab-size is 11"]),
        (&["--logits", &bf16], &["<u2", "--dtype bf16"]),
        (&["--logits", &raw], &["not a .npy", "--vocab-size"]),
        (&["--logits", &raw, "--dtype", "f16", "--vocab-size", "2"], &["7 bytes", "cut off"]),
        (
            &["--logits", &file, "--device", "reference", "--isa", "portable"],
            &["portable", "leave one out"],
        ),
        (&["--logits", &file, "--tokens", &two], &["two.jsonl", "array of strings"]),
        (&["--logits", &file, "--top-k", "-1"], &["--top-k is -1", "0 (off)"]),
        (&[], &["--logits"]),
    ] {
        let message = folder.error(&[&["sample"], args].concat());
        assert!(parts.iter().all(|part| message.contains(part)), "{args:?}: {message}");
    }
}

#[test]
fn verify_says_what_it_compared() {
    let folder = Folder::new();
    let flags = ["verify", "--rows", "200", "--seed", "3", "--vocab-size-max", "500"];
    let said = folder.ok(&[&flags[..], &["--a", "cpu:portable"]].concat());
    assert!(said.contains("cpu (portable"), "{said}");
    assert!(said.contains("200 rows generated from seed 3"), "{said}");
    assert!(said.ends_with("0 differences\n"), "{said}");

    let file = folder.npy("a.npy", Dtype::F32, &rows(4, 300));
    let said = folder.ok(&["verify", "--logits", &file]);
    assert!(said.contains("32 rows from 1 file (4 of them"), "{said}");
    let params = folder.text("params.jsonl", "{\"top_k\": 5}");
    let said = folder.ok(&["verify", "--logits", &file, "--params", &params]);
    assert!(said.contains("4 rows from 1 file: 4 draws and 1,200 logits"), "{said}");
    assert!(folder.error(&["verify", "--a", "gpu"]).contains("cpu:avx512"));
}

#[test]
fn verify_measures_what_drifts() {
    let folder = Folder::new();
    let a = folder.npy("a.npy", Dtype::F32, &rows(4, 300));
    let b = folder.npy("b.npy", Dtype::F32, &rows(4, 300));
    let other = folder.npy("other.npy", Dtype::F32, &rows(3, 300));
    let flags = ["--temperature", "0.8", "--top-k", "50", "--draws", "100", "--json"];
    let said = folder.ok(&[&["verify", "--drift", &a, &b], &flags[..]].concat());
    let drift: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&drift["rows"], &drift["draws"]), (&4.into(), &400.into()), "{said}");
    for share in ["least", "cumulative", "race"] {
        assert_eq!(drift[share], 0.0, "equal files: {said}");
    }
    for taken in ["match", "match_race", "rejection"] {
        assert_eq!(drift["taken"][taken], 1.0, "equal files: {said}");
    }
    // Each row is compared by itself: the first has the same certain token on both sides, the others have not.
    let certain =
        |token: usize, x: f32| (0..300).map(|i| if i == token { x } else { 0.0 }).collect();
    let of = |token| vec![certain(1, 900.0), certain(token, 100.0), certain(token, 100.0)];
    let [c, d] =
        [("c.npy", 2), ("d.npy", 3)].map(|(name, token)| folder.npy(name, Dtype::F32, &of(token)));
    let said = folder.ok(&[&["verify", "--drift", &c, &d], &flags[..]].concat());
    let drift: serde_json::Value = serde_json::from_str(&said).unwrap();
    for share in ["least", "cumulative", "race"] {
        let share = drift[share].as_f64().unwrap();
        assert!((share - 2.0 / 3.0).abs() < 1e-6, "{said}");
    }
    for taken in ["match", "match_race", "rejection"] {
        let share = drift["taken"][taken].as_f64().unwrap();
        assert!((share - 1.0 / 3.0).abs() < 1e-6, "{said}");
    }
    let said = folder.ok(&["verify", "--drift", &a, &b]);
    assert!(said.contains("4 rows, 4 draws") && said.contains("match, race  100.00%"), "{said}");
    let error = folder.error(&["verify", "--drift", &a, &other]);
    assert!(error.contains("4 rows of 300 tokens") && error.contains("3 of 300"), "{error}");
    assert!(folder.error(&["verify", "--drift", &a]).contains("--drift"));
    assert!(folder.error(&["verify", "--top-k", "5"]).contains("--drift"));
    let error = folder.error(&["verify", "--drift", &a, &b, "--top-p", "2"]);
    assert!(error.contains("--top-p is 2"), "{error}");
}

#[test]
fn help_is_documentation() {
    let folder = Folder::new();
    for command in ["serve", "demo", "sample", "verify", "bench", "info"] {
        let help = folder.ok(&[command, "--help"]);
        assert!(help.contains("Usage: logitd"), "{help}");
    }
    let help = folder.ok(&["--help"]);
    assert!(help.contains("Exit code") && help.contains("logitd demo"), "{help}");
    assert!(folder.error(&["smaple"]).contains("'sample'"));
}
