//! What users of other samplers have stumbled over: the files beside this one, and what has no file.

use super::{Folder, Serve};
use logitd_core::batch::Dtype;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

const DOUBLE_END: u64 = 1 << 53;

fn case(name: &str) -> String {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    folder.join(name).display().to_string()
}

fn json_of(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(case(name)).unwrap()).unwrap()
}

/// The row of `seeds.json`, `rows` times.
fn flat(folder: &Folder, rows: usize) -> String {
    folder.npy("flat.npy", Dtype::F32, &vec![vec![0.0; 16]; rows])
}

fn tokens(answers: &[Value]) -> Vec<u64> {
    answers.iter().map(|answer| answer["token"].as_u64().unwrap()).collect()
}

#[test]
fn seeds_come_back_whole_whoever_reads_them() {
    let folder = Folder::new();
    let file = flat(&folder, 6);
    let seeds = json_of("seeds.json")["seeds"].as_array().unwrap().clone();
    let text = |seed: &Value| seed["seed"].as_str().unwrap().to_owned();
    let expected: Vec<u64> = seeds.iter().map(|seed| seed["token"].as_u64().unwrap()).collect();
    for line in
        [(|seed: &str| format!("{{\"seed\": \"{seed}\"}}\n")) as fn(&str) -> String, |seed| {
            format!("{{\"seed\": {seed}}}\n")
        }]
    {
        let lines: String = seeds.iter().map(|seed| line(&text(seed))).collect();
        let params = folder.text("params.jsonl", &lines);
        let answers = folder.sample(&["--logits", &file, "--params", &params]);
        assert_eq!(tokens(&answers), expected);
        for (answer, seed) in answers.iter().zip(&seeds) {
            assert_eq!(answer["seed"], json!(text(seed)), "beyond 2^53 it is a string");
            assert_eq!(answer["kept"], seed["kept"]);
        }
    }
    for seed in &seeds {
        let answer = folder.sample(&["--logits", &file, "--rows", "0", "--seed", &text(seed)]);
        assert_eq!(answer[0]["token"], seed["token"]);
    }
    // Answers are read for their seeds, those that were written before seeds became strings too.
    let answers = folder.sample(&["--logits", &file, "--params", &case("answers.jsonl")]);
    assert_eq!(tokens(&answers), expected);
}

#[test]
fn seeds_that_are_chosen_come_through_doubles() {
    let folder = Folder::new();
    let serve = Serve::start(&folder, &[]);
    let file = flat(&folder, 50);
    for target in [&[][..], &["--target", &serve.targets[0]]] {
        let args = [&["--logits", &file, "--temperature", "0.7"][..], target].concat();
        let answers = folder.sample(&args);
        // What a program makes of them whose numbers are doubles.
        let doubles: String = (answers.iter())
            .map(|answer| answer["seed"].as_f64().expect("a number"))
            .map(|seed| format!("{{\"seed\": {seed:?}}}\n"))
            .collect();
        assert!(answers.iter().all(|answer| answer["seed"].as_u64().unwrap() < DOUBLE_END));
        let params = folder.text("doubles.jsonl", &doubles);
        assert_eq!(folder.sample(&[&args, &["--params", &params][..]].concat()), answers);
        // The answers themselves replay, in any order of their lines, and for some of the rows.
        let lines: Vec<String> = answers.iter().rev().map(Value::to_string).collect();
        let params = folder.text("answers.jsonl", &lines.join("\n"));
        let replay = [&args, &["--params", &params, "--rows", "3,40-49"][..]].concat();
        let some: Vec<Value> = [&answers[3..4], &answers[40..]].concat();
        assert_eq!(folder.sample(&replay), some);
        let message = folder.error(&[&["sample"], &replay[..], &["--rows", "1"]].concat()[..]);
        assert!(message.contains("--rows"), "{message}");
    }
}

#[test]
fn answers_with_several_draws_are_read_once_a_row() {
    let folder = Folder::new();
    let file = flat(&folder, 3);
    let args = ["--logits", &file, "--draws", "4"];
    let answers = folder.sample(&args);
    let lines: Vec<String> = answers.iter().map(Value::to_string).collect();
    let params = folder.text("answers.jsonl", &lines.join("\n"));
    assert_eq!(folder.sample(&[&args, &["--params", &params][..]].concat()), answers);
    let one = folder.text("one.jsonl", &lines[0]);
    let message = folder.error(&["sample", "--logits", &file, "--params", &one]);
    assert!(message.contains("one.jsonl: holds no answer of row 1"), "{message}");
}

#[test]
fn parameters_are_read_however_programs_write_them() {
    let folder = Folder::new();
    let file = flat(&folder, 1);
    let read = |name: &str| folder.sample(&["--logits", &file, "--params", &case(name)])[0].clone();
    assert_eq!(read("params_strings.jsonl")["seed"], json!("18446744073709551615"));
    let floats = read("params_floats.jsonl");
    assert_eq!((&floats["kept"], &floats["seed"]), (&json!(5), &json!(42)));
    assert_eq!(read("params_bom.jsonl")["kept"], 5);
}

#[test]
fn parameters_that_are_wrong_are_named_with_file_line_value_and_range() {
    let folder = Folder::new();
    let file = flat(&folder, 3);
    let half = folder.text("half.jsonl", "{\"top_k\": 5.5}\n");
    let temperature = "allowed: 0 (greedy), or 1e-30 to 10000";
    let whole = "allowed: whole numbers, 0 (off) to 4294967295";
    for (params, parts) in [
        (
            case("params_nan.jsonl"),
            &["params_nan.jsonl, line 1: temperature is NaN", temperature][..],
        ),
        (case("params_tiny.jsonl"), &["line 1: temperature is 1e-46", temperature]),
        (case("params_third_line.jsonl"), &["third_line.jsonl, line 3: top_k is five", whole]),
        (case("params_positional.jsonl"), &["line 1: is an array; a line is an object"]),
        (half, &["half.jsonl, line 1: top_k is 5.5", whole]),
    ] {
        let message = folder.error(&["sample", "--logits", &file, "--params", &params]);
        assert!(parts.iter().all(|part| message.contains(part)), "{params}: {message}");
    }
    for (flag, value, part) in [
        ("--temperature", "1e-46", "--temperature is 1e-46; allowed: 0 (greedy)"),
        ("--temperature", "1e-45", "--temperature is 1e-45; allowed: 0 (greedy)"),
        ("--temperature", "-1", "--temperature is -1"),
        ("--top-k", "-1", "--top-k is -1; allowed: whole numbers, 0 (off) to 4294967295"),
        ("--top-k", "5.5", "--top-k is 5.5"),
        ("--top-p", "1.00000001", "--top-p is 1.00000001; allowed: above 0, up to 1"),
        ("--seed", "18446744073709551616", "allowed: whole numbers, 0 to 18446744073709551615"),
        ("--draws", "0", "--draws is 0; allowed: whole numbers, 1 to 1024"),
    ] {
        let message = folder.error(&["sample", "--logits", &file, flag, value]);
        assert!(message.contains(part), "{flag} {value}: {message}");
    }
    // As near to 0 as 1e-45, and treated as that is.
    for value in ["1e-45", "1e-46", "1e-400"] {
        let answer = folder.sample(&["--logits", &file, "--rows", "0", "--top-p", value]);
        assert_eq!(answer[0]["kept"], 1, "{value}");
    }
}

#[test]
fn a_temperature_that_is_nearly_greedy_is_sampled() {
    let folder = Folder::new();
    let serve = Serve::start(&folder, &[]);
    let file = folder.npy("a.npy", Dtype::F16, &[vec![1.0, 3.0, 2.5, 3.0]]);
    let args = ["--logits", &file, "--seed", "1", "--draws", "100"];
    for temperature in
        [&["--params", &case("params_near_greedy.jsonl")][..], &["--temperature", "1e-30"]]
    {
        let args = [&args, temperature].concat();
        let here = folder.sample(&args);
        assert!(tokens(&here).iter().all(|token| matches!(token, 1 | 3)));
        assert!(tokens(&here).contains(&1) && tokens(&here).contains(&3));
        for target in &serve.targets {
            assert_eq!(folder.sample(&[&args[..], &["--target", target]].concat()), here);
        }
    }
}

#[test]
fn a_line_of_parameters_belongs_to_the_row_of_its_number() {
    let folder = Folder::new();
    let (logits, params) = (case("eight_rows.npy"), case("eight_params.jsonl"));
    let args = ["--logits", &logits, "--params", &params];
    let all = folder.sample(&args);
    assert_eq!(tokens(&all), [2, 7, 6, 4, 0, 3, 5, 3]);
    for (rows, expected) in
        [("3", &[3][..]), ("7,0-1", &[7, 0, 1]), ("7,6,5,4,3,2,1,0", &[7, 6, 5, 4, 3, 2, 1, 0])]
    {
        let some = folder.sample(&[&args, &["--rows", rows][..]].concat());
        let expected: Vec<Value> = expected.iter().map(|&row: &usize| all[row].clone()).collect();
        assert_eq!(some, expected, "--rows {rows}");
    }
    let message = folder.error(&[&["sample"], &args[..], &["--rows", "0-9"]].concat());
    assert!(message.contains("--rows names row 9"), "{message}");
    let two = folder.text("two.jsonl", "{}\n{}\n");
    let message = folder.error(&["sample", "--logits", &logits, "--params", &two, "--rows", "1-3"]);
    assert!(
        message.contains("2 parameter sets, and there are 8 rows, of which --rows names 3"),
        "{message}"
    );
}

#[test]
fn files_that_are_no_plain_array_are_named() {
    let folder = Folder::new();
    let longs = folder.sample(&["--logits", &case("python2_longs.npy"), "--temperature", "0"]);
    assert_eq!(tokens(&longs), [2, 0]);
    for (file, part) in [
        ("fortran_order_is_1.npy", "says fortran_order: 1, which is not True and not False"),
        ("header_cut.npy", "is cut off: it ends within its .npy header"),
        ("archive.npz", "is a zip archive"),
    ] {
        let path = case(file);
        for raw in [&[][..], &["--dtype", "f32", "--vocab-size", "3"]] {
            let message = folder.error(&[&["sample", "--logits", &path], raw].concat());
            assert!(message.contains(file) && message.contains(part), "{message}");
        }
    }
}

/// Runs with a file on its standard input, through a pipe.
fn piped(folder: &Folder, file: &str, args: &[&str]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_logitd"))
        .args(args)
        .current_dir(folder.path("."))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut to = child.stdin.take().unwrap();
    // A command that has refused what it read reads no further.
    let _ = std::io::copy(&mut std::fs::File::open(file).unwrap(), &mut to);
    drop(to);
    child.wait_with_output().unwrap()
}

#[test]
fn logits_and_parameters_may_come_through_a_pipe() {
    let folder = Folder::new();
    let (logits, params) = (case("eight_rows.npy"), case("eight_params.jsonl"));
    let expected = folder.ok(&["sample", "--json", "--logits", &logits, "--params", &params]);
    for (file, args) in [
        (&logits, ["--logits", "/dev/stdin", "--params", &params]),
        (&params, ["--logits", &logits, "--params", "/dev/stdin"]),
    ] {
        let output = piped(&folder, file, &[&["sample", "--json"], &args[..]].concat());
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{error}");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    }
    let output = piped(&folder, &logits, &["verify", "--logits", "/dev/stdin", "--rows", "1"]);
    assert_eq!(output.status.code(), Some(0));
    let output = piped(&folder, &case("archive.npz"), &["sample", "--logits", "/dev/stdin"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("zip archive"));
}

#[test]
fn top_p_is_the_f32_and_not_the_decimal() {
    let folder = Folder::new();
    for case in json_of("top_p_decimals.json")["cases"].as_array().unwrap() {
        let row: Vec<f32> = match case["logits_are_ln_of"].as_array() {
            Some(p) => p.iter().map(|p| p.as_f64().unwrap().ln() as f32).collect(),
            None => vec![0.0; case["n"].as_u64().unwrap() as usize],
        };
        let file = folder.npy("a.npy", Dtype::F32, &[row]);
        let answer = folder.sample(&["--logits", &file, "--top-p", &case["top_p"].to_string()]);
        assert_eq!(answer[0]["kept"], case["kept_now"], "{case}");
    }
}

#[test]
fn a_check_that_would_check_nothing_is_refused() {
    let folder = Folder::new();
    let logits = case("eight_rows.npy");
    let best = format!("cpu:{}", logitd_core::backend::cpu::Isa::detect());
    for (args, part) in [
        (&["--rows", "0"][..], "'--rows <N>'"),
        (&["--a", "cpu", "--b", "cpu"], "--a cpu and --b cpu are the same backend"),
        (&["--a", "cpu", "--b", &best], "nothing would be compared"),
        (&["--a", "reference"], "--a reference and --b reference are the same"),
        (
            &["--logits", &logits, "--first-row", "8"],
            "--first-row is 8; the files hold 8 rows: 0 to 7",
        ),
        (&["--logits", &logits, "--rows", "9"], "--rows is 9; the files hold 8 from row 0 on"),
        (&["--logits", &logits, "--first-row", "6", "--rows", "3"], "allowed: 1 to 2"),
        (&["--logits", &logits, "--vocab-size-max", "9"], "--vocab-size-max"),
    ] {
        let message = folder.error(&[&["verify"], args].concat());
        assert!(message.contains(part), "{args:?}: {message}");
    }
    let said = folder.ok(&["verify", "--logits", &logits, "--rows", "3"]);
    assert!(said.contains("24 rows from 1 file (3 of them, 8 parameter sets each)"), "{said}");
    let params = case("eight_params.jsonl");
    let files = ["verify", "--logits", &logits, "--logits", &logits, "--params", &params];
    let said = folder.ok(&[&files, &["--first-row", "6", "--rows", "3"][..]].concat());
    assert!(said.contains("3 rows from 2 files: 3 draws and 36 logits"), "{said}");
    let message = folder.error(&["load", "--check", "0"]);
    assert!(message.contains("must be above 0; leave it out"), "{message}");
    let message = folder.error(&["load", "--requests", "0"]);
    assert!(message.contains("--requests"), "{message}");
}

#[test]
fn more_threads_than_machines_have_are_refused() {
    let folder = Folder::new();
    let logits = case("eight_rows.npy");
    for command in [&["sample", "--logits", &logits][..], &["verify"], &["bench"]] {
        let message = folder.error(&[command, &["--threads", "20000"]].concat());
        assert!(message.contains("allowed: 0 (one for each core) to 1024"), "{message}");
    }
}

/// The standard error of a command that ends with an error, with these variables.
fn with_variables(folder: &Folder, variables: &[(&str, &str)], args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_logitd"))
        .args(args)
        .envs(variables.iter().copied())
        .current_dir(folder.path("."))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{variables:?} {args:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn variables_and_keys_are_blamed_by_their_own_names() {
    let folder = Folder::new();
    let file = folder.text("logitd.toml", "batch_rows_max = \"many\"\n");
    let large = folder.text("large.toml", "message_bytes_max = \"2GiB\"\n");
    let serve = ["serve", "--listen", "127.0.0.1:0"];
    for (variables, args, parts) in [
        (
            &[("LOGITD_QEUE_ROWS_MAX", "5")][..],
            &serve[..],
            &["LOGITD_QEUE_ROWS_MAX is no variable", "did you mean LOGITD_QUEUE_ROWS_MAX?"][..],
        ),
        (&[("LOGITD_THREDS", "1")], &["verify", "--rows", "1"], &["did you mean LOGITD_THREADS?"]),
        (
            &[("LOGITD_QUEUE_ROWS_MAX", "x")],
            &serve,
            &["LOGITD_QUEUE_ROWS_MAX is \"x\": must be a whole number"],
        ),
        (&[("LOGITD_THREADS", "9999")], &serve, &["LOGITD_THREADS is \"9999\": allowed: 0"]),
        (&[("LOGITD_INSECURE", "maybe")], &serve, &["LOGITD_INSECURE is \"maybe\"", "true, false"]),
        (
            &[("LOGITD_FRAME_BYTES_MAX", "7")],
            &serve,
            &["--frame-bytes-max is 7", "is set by LOGITD_FRAME_BYTES_MAX"],
        ),
        (
            &[],
            &["serve", "--config", &file],
            &["logitd.toml: batch_rows_max is \"many\": must be a whole number"],
        ),
        (
            &[],
            &["serve", "--config", &large],
            &["--message-bytes-max is set by message_bytes_max in", "large.toml"],
        ),
        (
            &[("LOGITD_BATCH_ROWS_MAX", "5")],
            &["serve", "--batch-rows-max", "x"],
            &["'x' for '--batch-rows-max <N>'"],
        ),
    ] {
        let message = with_variables(&folder, variables, args);
        assert!(parts.iter().all(|part| message.contains(part)), "{args:?}: {message}");
    }
}

#[test]
fn limits_of_0_are_told_what_else_could_be_meant() {
    let folder = Folder::new();
    let file = folder.text("logitd.toml", "record_buffer_bytes_max = \"0MiB\"\n");
    let no_limit = "0 means neither off nor without limit; the default is";
    for (variables, args, part) in [
        (
            &[][..],
            &["serve", "--shm-connections-max", "0"][..],
            &*format!("must be at least 1\n\n  tip: {no_limit} 256; off is --shm left out\n"),
        ),
        (&[], &["serve", "--queue-bytes-max=0"], &format!("  tip: {no_limit} 1GiB\n")),
        (&[], &["serve", "--drain-grace", "0ms"], &format!("above 0\n\n  tip: {no_limit} 5s\n")),
        (
            &[],
            &["serve", "--connections-per-address-max", "0"],
            "  tip: 0 means neither off nor without limit\n",
        ),
        (
            &[("LOGITD_ADMIN_WAITING_MAX", "0")],
            &["serve"],
            &format!("at least 1; {no_limit} 64; off is --admin-listen left out\n"),
        ),
        (
            &[],
            &["serve", "--config", &file],
            &format!("KiB, MiB or GiB); {no_limit} 256MiB; off is --record left out\n"),
        ),
    ] {
        let message = with_variables(&folder, variables, args);
        assert!(message.contains(part), "{args:?}: {message}");
    }
    for args in [["serve", "--beams-max", "x"], ["serve", "--unix-mode", "0"]] {
        assert!(!with_variables(&folder, &[], &args).contains("0 means"), "{args:?}");
    }
    let message = with_variables(&folder, &[], &["serve", "--queue-rows-max", &"9".repeat(20)]);
    assert!(message.contains("must be at most 18446744073709551615"), "{message}");
}

#[test]
fn wrong_values_are_told_their_range_and_what_to_write() {
    let folder = Folder::new();
    let logits = case("eight_rows.npy");
    let no_folder = folder.path("no").display().to_string();
    let banned = folder.text("banned.jsonl", "{\"banned_ids\": [1048576]}\n");
    let (page, journal) = (format!("{no_folder}/x.html"), format!("{no_folder}/x.journal"));
    for (args, part) in [
        (&["demo", "--text", "9"][..], "'9' for '--text <N>': allowed: 1 to 8"),
        (&["demo", "--seed", "-1"], "'-1' for '--seed <N>': allowed: 0 to 18446744073709551615"),
        (&["verify", "--rows", "0"], "'0' for '--rows <N>': allowed: 1 to 18446744073709551615"),
        (&["bench", "--vocab-size", "1048577"], "'--vocab-size <N>': allowed: 1 to 1048576"),
        (&["bench", "--threads", "-1"], "'-1' for '--threads <N>': allowed: 0 (one for each core)"),
        (&["tune", "--folds", "1"], "'1' for '--folds <N>': allowed: 2 to 4294967295"),
        (&["serve", "--queue-rows-max", "-1"], "'-1' for '--queue-rows-max <N>': must be a whole"),
        (&["serve", "--beams-max", "65"], "'65' for '--beams-max <N>': allowed: 1 to 64"),
        (&["play", "--admin-listen", "localhost:80"], "write IP:PORT, as in 127.0.0.1:9091"),
        (&["serve", "--metrics-listen", "9090"], "write IP:PORT, as in 127.0.0.1:9091"),
        (&["serve", "--otlp-endpoint", "host:1"], "--otlp-endpoint host:1: write http://HOST:PORT"),
        (
            &["serve", "--tls-cert", &logits, "--tls-key", &logits],
            &format!("--tls-key {logits}: no private key in it, as PEM has them"),
        ),
        (
            &["serve", "--tls-cert", &no_folder, "--tls-key", &no_folder],
            &format!("--tls-key {no_folder}: No such file"),
        ),
        (&["load", "--rows", "1:x"], "\"x\" is no weight; write a number above 0 behind the colon"),
        (&["load", "--rate", "-1"], "'-1' for '--rate <R>': allowed: above 0"),
        (
            &["sample", "--logits", &logits, "--logprobs", "raw", "--top-logprobs", "1025"],
            "'1025' for '--top-logprobs <N>': allowed: 0 to 1024",
        ),
        (
            &["sample", "--logits", &logits, "--logprobs", "raw", "--logprob-ids", "3,1048576"],
            "--logprob-ids: ids[1] is token 1048576; allowed: below ",
        ),
        (
            &["sample", "--logits", &logits, "--mirostat-tau", "5", "--adaptive-target", "0.5"],
            "--adaptive-target is 0.5; allowed: nothing beside mirostat_tau",
        ),
        (
            &["sample", "--logits", &logits, "--rows", "2", "--params", &banned],
            "banned.jsonl, for row 2: banned_ids[0] is token 1048576; allowed: below ",
        ),
        (&["info", "--target", "127.0.0.1:1"], "refused (os error 111); no server listens there"),
        (&["info", "--target", "unix:no"], "(os error 2); no server listens there"),
        (&["verify", "--vectors", &logits], "wanted: an object with the key cases"),
        // Before anything is computed, or sent.
        (&["load", "--report", &page], &format!("--report {page}: No such file")),
        (&["tune", "--study", &journal], &format!("--study {journal}: No such file")),
        (
            &["play", "--no-open", "--studies-dir", &no_folder],
            &format!("--studies-dir {no_folder}: No such file"),
        ),
    ] {
        let message = folder.error(args);
        assert!(message.contains(part), "{args:?}: {message}");
    }
}

#[test]
fn targets_without_a_port_or_certificates_are_told_what_to_give() {
    let folder = Folder::new();
    let logits = case("eight_rows.npy");
    for (target, part) in [
        (
            "http://localhost",
            "names no port; logitd serve listens on 50051: http://localhost:50051",
        ),
        ("https://localhost:1", "needs --tls-ca FILE"),
        ("localhost:0", "allowed: 1 to 65535"),
        ("unix:", "needs a path"),
    ] {
        for command in [&["sample", "--logits", &logits][..], &["info"], &["load"]] {
            let message = folder.error(&[command, &["--target", target]].concat());
            assert!(message.contains(part), "{command:?} {target}: {message}");
        }
    }
    let message = folder.error(&["info", "--target", "http://localhost:1", "--tls-ca", &logits]);
    assert!(message.contains("are for targets of https://"), "{message}");
}
