//! `logitd tune` and `logitd digest`.

use super::Folder;
use crate::harness::daemon::Daemon;
use logitd::files::npy::integers;
use logitd_core::batch::Dtype;
use serde_json::Value;

const VOCAB_SIZE: u32 = 50;
/// A search of a few dozen sets.
const FEW: [&str; 8] = [
    "--temperature",
    "0.5:1.5:0.25",
    "--top-k",
    "5,off",
    "--top-p",
    "0.9,off",
    "--min-p",
    "off,0.05",
];

/// Forty rows of fifty logits whose next token is mostly a likely one, in `rows.npy`, `next.npy` and `kinds.npy`.
fn folder() -> Folder {
    let folder = Folder::new();
    let x = |row: u32, token: u32| (token * 7 + row * 13) % VOCAB_SIZE;
    let row = |row| (0..VOCAB_SIZE).map(|token| 6.0 - x(row, token) as f32 / 5.0).collect();
    let rows: Vec<Vec<f32>> = (0..40).map(row).collect();
    folder.npy("rows.npy", Dtype::F16, &rows);
    let next = |row| (0..VOCAB_SIZE).find(|&token| x(row, token) == row * row % 11).unwrap();
    integers::write(&folder.path("next.npy"), &(0..40).map(next).collect::<Vec<_>>()).unwrap();
    integers::write(&folder.path("kinds.npy"), &(0..40).map(|i| i % 4).collect::<Vec<_>>())
        .unwrap();
    folder
}

fn with<'a>(first: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [first, more].concat()
}

const FILES: [&str; 5] = ["tune", "--logits", "rows.npy", "--targets", "next.npy"];

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_fresh_clone_finds_settings_without_a_file_and_the_second_time_computes_none() {
    let folder = Folder::new();
    let first = folder.ok(&["tune"]);
    assert!(
        first.contains("goal: least nll with tail <= 0.001; 64 positions in 6 groups"),
        "{first}"
    );
    for part in ["best", "plain", "Python", "verse", "study.journal"] {
        assert!(first.contains(part), "{part}: {first}");
    }
    let page = std::fs::read_to_string(folder.path("study.html")).unwrap();
    for part in
        ["Take temperature", "nll against tail", "nll over temperature and top_p", "Along min_p"]
    {
        assert!(page.contains(part), "{part}");
    }
    // Nothing is loaded, and nothing runs.
    for part in ["<script", "http", "src=", "url(", "@import"] {
        assert!(!page.contains(part), "{part}");
    }
    let length = || std::fs::metadata(folder.path("study.journal")).unwrap().len();
    let before = length();
    let second = folder.ok(&["tune"]);
    assert!(second.contains(", 0 of them new"), "{second}");
    assert_eq!((table(&first), before), (table(&second), length()));
}

/// The block in README.md is what the command beside it prints, but for times.
#[test]
fn the_readme_shows_what_the_command_prints() {
    let readme = include_str!("../../../README.md");
    let section = readme.split("\n## Tuning\n").nth(1).unwrap();
    let block = |language: &str| {
        let rest = section.split(&format!("```{language}\n")).nth(1).unwrap();
        rest.split("```").next().unwrap()
    };
    let command = block("sh").lines().next().unwrap().split('#').next().unwrap().trim();
    let args: Vec<&str> = command.split(' ').skip(1).collect();
    let printed = Folder::new().ok(&args);
    let table = printed.split("\nstudy.journal").next().unwrap();
    assert_eq!(block("text").trim_end(), table.trim_end(), "{command} prints:\n{table}");
}

#[test]
fn a_search_that_tried_no_whole_grid_draws_none() {
    let folder = folder();
    let flags = ["--search", "sobol", "--sets", "50", "--report", "page.html"];
    folder.ok(&with(&with(&FILES, &FEW), &flags));
    let page = std::fs::read_to_string(folder.path("page.html")).unwrap();
    assert!(page.contains("No whole grid was tried, so no heat maps"));
    assert!(!page.contains("Along min_p") && !page.contains("class=\"heat\""));
    // A page of ours is written again.
    folder.ok(&with(&with(&FILES, &FEW), &["--report", "page.html"]));
    let page = std::fs::read_to_string(folder.path("page.html")).unwrap();
    assert!(page.contains("Along min_p") && !page.contains("No whole grid"));
}

#[test]
fn a_line_of_json_is_printed_for_each_setting_as_often_as_it_is_named() {
    let folder = folder();
    let named = "temperature=0.8,top_k=40,top_p=0.95,min_p=0.05";
    let compare = ["--json", "--compare", named, "--compare", "hf", "--compare", named];
    let lines = lines(&folder.ok(&with(&with(&FILES, &FEW), &compare)));
    let names: Vec<_> = lines.iter().map(|line| line["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["best", "plain", named, "hf", named, "simplest"]);
    assert_eq!(lines[2], lines[4]);
    let four = |line: &Value| {
        ["temperature", "top_k", "top_p", "min_p"].map(|name| line[name].as_f64().unwrap())
    };
    assert_eq!(four(&lines[1]), [1.0, 0.0, 1.0, 0.0]);
    assert_eq!(four(&lines[2]), [0.8, 40.0, 0.95, 0.05]);
    assert_eq!(
        (&lines[1]["rows"], &lines[1]["hits"], &lines[1]["coverage"]),
        (&40.into(), &40.into(), &1.0.into())
    );
    for name in ["nll", "brier", "coverage", "tail", "entropy", "choices", "surprise", "mean_kept"]
    {
        assert!(lines.iter().all(|line| line[name].is_f64()), "{name}");
    }
    assert!(lines[0]["nll"].as_f64() <= lines[1]["nll"].as_f64());
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_evaluate_to_the_same_study() {
    let one = Daemon::start(&["--request-rows-max=7"]).await;
    let other = Daemon::start(&["--evaluate-sets-max=9", "--evaluate-sums-max=30"]).await;
    let small = Daemon::start(&["--message-bytes-max=1KiB"]).await;
    let (here, there) = (folder(), folder());
    let command = with(&with(&FILES, &FEW), &["--groups", "kinds.npy"]);
    let targets = ["--target", one.target(), "--target", other.target()];
    let wanted = here.ok(&command);
    assert_eq!(table(&there.ok(&with(&command, &targets))), table(&wanted));
    // In other batches, so in another order.
    let trials = |folder: &Folder| {
        let text = std::fs::read_to_string(folder.path("study.journal")).unwrap();
        let trials = lines(&text).into_iter().filter(|line| line["op_code"] == 4);
        let mut trials: Vec<String> = trials
            .map(|line| format!("{} {} {}", line["params"], line["values"], line["user_attrs"]))
            .collect();
        trials.sort_unstable();
        trials
    };
    assert!(trials(&here).len() > 40);
    assert_eq!(trials(&there), trials(&here));
    for (target, parts) in [
        (small.target(), ["--target", "--message-bytes-max"]),
        ("http://127.0.0.1:1", ["--target http://127.0.0.1:1", "cannot connect"]),
    ] {
        let output = there.logitd(&with(&command, &["--study", "new.journal", "--target", target]));
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success());
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
}

fn table(text: &str) -> String {
    text.split("\nstudy.journal").next().unwrap().to_owned()
}

#[test]
fn digests_and_logits_are_the_same_study() {
    let folder = folder();
    let files = ["--logits", "rows.npy", "--targets", "next.npy", "--groups", "kinds.npy"];
    let said = folder.ok(&with(&with(&["digest"], &files), &["--out", "rows.digests"]));
    assert!(said.contains("40 rows"), "{said}");
    let logits = folder.ok(&with(&with(&["tune", "--json"], &files), &FEW));
    let digests = ["tune", "--json", "--digests", "rows.digests"];
    assert_eq!(folder.ok(&with(&digests, &FEW)), logits);
    let text = std::fs::read_to_string(folder.path("study.journal")).unwrap();
    let created = text.lines().filter(|line| line.contains("\"op_code\":0,")).count();
    assert_eq!(created, 1);
    // Other data adds a study to the same file.
    folder.ok(&with(&FILES, &FEW));
    let text = std::fs::read_to_string(folder.path("study.journal")).unwrap();
    assert_eq!(text.lines().filter(|line| line.contains("\"op_code\":0,")).count(), 2);
}

#[test]
fn a_study_that_was_cut_off_is_continued() {
    let folder = folder();
    let command = with(&FILES, &FEW);
    let whole = folder.ok(&command);
    let journal = folder.path("study.journal");
    let text = std::fs::read(&journal).unwrap();
    std::fs::write(&journal, &text[..text.len() / 2]).unwrap();
    let again = folder.ok(&command);
    assert_eq!(table(&again), table(&whole));
    assert!(!again.contains(", 0 of them new"), "{again}");
    let last: Value =
        serde_json::from_str(std::fs::read_to_string(&journal).unwrap().lines().last().unwrap())
            .unwrap();
    assert_eq!(last["op_code"], 4);
}

#[test]
fn folds_fronts_and_goals_are_said() {
    let folder = folder();
    let files = with(&with(&FILES, &FEW), &["--groups", "kinds.npy"]);
    let said =
        folder.ok(&with(&files, &["--folds", "4", "--pareto", "nll,coverage", "--goal", "nll"]));
    for part in [
        "goal: least nll; 40 positions in 4 groups",
        "one of 4 parts",
        "over all parts",
        "No setting is better in both",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let page = std::fs::read_to_string(folder.path("study.html")).unwrap();
    for part in ["Chosen without a part of the rows", "over all parts", "The front"] {
        assert!(page.contains(part), "{part}");
    }
    let flags = ["--json", "--folds", "4", "--pareto", "nll,coverage", "--goal", "nll"];
    let lines = lines(&folder.ok(&with(&files, &flags)));
    let named = |name: &str| lines.iter().filter(|line| line["name"] == name).collect::<Vec<_>>();
    let [best] = named("best")[..] else { panic!("{lines:?}") };
    assert_eq!(lines[2]["name"], "simplest");
    let parts = named("fold");
    let numbers: Vec<u64> = parts.iter().map(|line| line["fold"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
    // The parts are all rows, and what is chosen without one is no better over all of them than the best is.
    let over = |name: &str| {
        let of = |line: &&Value| line["rows"].as_f64().unwrap() * line[name].as_f64().unwrap();
        parts.iter().map(of).sum::<f64>() / 40.0
    };
    assert!(over("nll") >= best["nll"].as_f64().unwrap() - 1e-12, "{parts:?}");
    let difference = over("nll") - best["nll"].as_f64().unwrap();
    assert!((over("nll_difference") - difference).abs() < 1e-9, "{parts:?}");
    assert!(parts.iter().all(|line| line["within_limits"] == true), "{parts:?}");
    // Along a front one metric gets better as the other gets worse.
    let front = named("front");
    assert!(front.len() > 1, "{lines:?}");
    for pair in front.windows(2) {
        let [a, b] = [pair[0], pair[1]];
        assert!(a["nll"].as_f64() < b["nll"].as_f64(), "{a} {b}");
        assert!(a["coverage"].as_f64() < b["coverage"].as_f64(), "{a} {b}");
    }
    let said =
        folder.ok(&with(&files, &["--maximize", "entropy", "--subject-to", "coverage>=0.5"]));
    assert!(said.contains("goal: greatest entropy with coverage >= 0.5"), "{said}");
}

#[test]
fn a_study_is_shown_again_without_its_rows() {
    let folder = folder();
    let files = with(&with(&FILES, &FEW), &["--groups", "kinds.npy"]);
    let found = table(&folder.ok(&files));
    let page = || std::fs::read_to_string(folder.path("study.html")).unwrap();
    let (journal, drawn) = (std::fs::read(folder.path("study.journal")).unwrap(), page());
    std::fs::remove_file(folder.path("rows.npy")).unwrap();
    let show = ["tune", "--show", "study.journal"];
    // Groups are clusters, so even errors are known.
    assert_eq!(folder.ok(&with(&show, &["--report", "study.html"])).trim_end(), found.trim_end());
    assert_eq!(page(), drawn);
    let tried = ["--json", "--compare", "temperature=0.75,top_k=5", "--pareto", "nll,tail"];
    let lines = lines(&folder.ok(&with(&show, &tried)));
    assert_eq!(lines[2]["name"], "temperature=0.75,top_k=5");
    assert!(lines.iter().all(|line| line["study"].as_str().unwrap().starts_with("least nll")));
    assert_eq!(std::fs::read(folder.path("study.journal")).unwrap(), journal);
    for (args, parts) in [
        (with(&show, &["--compare", "top_k=7"]), ["has not tried it", "logitd tune --logits"]),
        (with(&show, &["--folds", "2"]), ["--show", "cannot be used with"]),
        (vec!["tune", "--show", "none.journal"], ["--show none.journal", "No such file"]),
        (vec!["tune", "--show", "study.journal#brier"], ["has \"brier\" in its name", "least nll"]),
        (vec!["tune", "--show", "kinds.npy"], ["--show kinds.npy", "none of an Optuna journal"]),
    ] {
        let said = folder.error(&args);
        assert!(parts.iter().all(|part| said.contains(part)), "{args:?}: {said}");
    }
}

#[test]
fn further_cuts_are_searched_compared_recorded_and_shown() {
    let folder = folder();
    let axes = ["--axis", "typical_p=off,0.6,0.9", "--axis", "profile=logitd,llamacpp"];
    let own = "temperature=0.7,xtc_probability=1,xtc_threshold=0.2";
    let command = with(&with(&with(&FILES, &FEW), &axes), &["--compare", own]);
    let found = folder.ok(&command);
    for part in ["further cuts", "xtc_probability 1, xtc_threshold 0.2"] {
        assert!(found.contains(part), "{part}: {found}");
    }
    let page = std::fs::read_to_string(folder.path("study.html")).unwrap();
    for part in ["nll over temperature and typical_p", "Along profile", "<th>llamacpp"] {
        assert!(page.contains(part), "{part}");
    }
    let journal = std::fs::read_to_string(folder.path("study.journal")).unwrap();
    let trials: Vec<Value> =
        lines(&journal).into_iter().filter(|line| line["op_code"] == 4).collect();
    let with_cut = |value: f64| {
        let has = |line: &&Value| line["params"]["typical_p"] == value;
        trials.iter().filter(has).count()
    };
    assert!(with_cut(0.6) >= 2 * 40 && with_cut(1.0) >= 2 * 40, "{}", trials.len());
    let keys = |of: &Value| {
        let keys: Vec<String> = of.as_object().unwrap().keys().cloned().collect();
        keys
    };
    let mut of_params: Vec<_> = trials.iter().map(|line| keys(&line["params"])).collect();
    let of_ranges = trials.iter().map(|line| keys(&line["distributions"]));
    assert!(of_params.iter().cloned().eq(of_ranges), "each parameter has its range");
    of_params.dedup();
    assert_eq!(of_params.len(), 1, "{of_params:?}");
    assert!(folder.ok(&command).contains(", 0 of them new"));
    let tried = ["--compare", "temperature=0.75,typical_p=0.6,profile=llamacpp"];
    let shown = folder.ok(&with(&["tune", "--show", "study.journal"], &tried));
    assert!(shown.contains("typical_p 0.6, profile llamacpp"), "{shown}");
    let lines = lines(&folder.ok(&with(&command, &["--json"])));
    let named = lines.iter().find(|line| line["name"] == own).unwrap();
    assert_eq!((&named["xtc_threshold"], &named["profile"]), (&0.2.into(), &Value::Null));
    for (axis, part) in [
        ("xtc_probability=0.5", "has xtc_probability 0.5; allowed in sets: 0 or 1"),
        ("top_a=2", "--axis top_a: top_a is 2; allowed"),
        ("typical=0.5", "did you mean typical_p?"),
    ] {
        let said = folder.error(&with(&FILES, &["--axis", axis]));
        assert!(said.contains(part), "{axis}: {said}");
    }
}

#[test]
fn two_studies_are_shown_side_by_side_and_what_one_takes_is_measured_in_the_other() {
    let folder = folder();
    let part = |rows, study| ["--rows", rows, "--study", study];
    folder.ok(&with(&with(&FILES, &FEW), &part("0-19", "a.journal")));
    folder.ok(&with(&with(&FILES, &FEW), &part("20-39", "b.journal")));
    let said = folder.ok(&["tune", "--show", "a.journal", "b.journal"]);
    for part in
        ["A: a.journal: least nll", "best of B", "nll in B", "Of these, A would take", "Spearman"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    let lines = lines(&folder.ok(&["tune", "--json", "--show", "a.journal", "b.journal"]));
    let named = |name: &str| lines.iter().filter(|line| line["name"] == name).collect::<Vec<_>>();
    assert_eq!(named("plain").len(), 2);
    for from in ["taken from A", "taken from B"] {
        let [line] = named(from)[..] else { panic!("{from}: {lines:?}") };
        let (regret, both) = (line["regret"].as_f64(), line["settings_in_both"].as_u64());
        assert!(regret.unwrap() >= 0.0 || line["within_limits"] == false, "{line}");
        // The grid is in both; what was tried around the best may differ.
        assert!(both.unwrap() >= 40, "{line}");
    }
    // Another goal is another study of the same file: the name tells them apart.
    folder.ok(&with(&with(&with(&FILES, &FEW), &part("0-19", "a.journal")), &["--goal", "brier"]));
    let said = folder.error(&["tune", "--show", "a.journal", "b.journal"]);
    assert!(said.contains("2 studies are in it") && said.contains("a.journal#"), "{said}");
    folder.ok(&["tune", "--show", "a.journal#least nll", "a.journal#brier"]);
    // A part that both have, and a file that is not there, in a folder whose name has the sign.
    let said = folder.error(&["tune", "--show", "a.journal#least", "b.journal"]);
    assert!(said.contains("such as 'a.journal#least nll"), "{said}");
    let said = folder.error(&["tune", "--show", "no#1/a.journal"]);
    assert!(said.contains("--show no#1/a.journal: "), "{said}");
    let both = folder.ok(&["tune", "--show", "a.journal"]);
    assert_eq!(both.matches("goal: least").count(), 2, "{both}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_other_parameters_would_have_drawn_is_counted_over_a_trace() {
    let folder = folder();
    let trace = folder.path("today.trace");
    let mut daemon = Daemon::start(&[&format!("--record={}", trace.display())]).await;
    let target = ["--target", daemon.target(), "--logits", "rows.npy", "--temperature", "0.8"];
    folder.ok(&with(&with(&["sample"], &target), &["--top-k", "20", "--seed", "7"]));
    daemon.signal("TERM");
    assert_eq!(daemon.exit_code().await, Some(0));
    let compare = ["--compare", "temperature=0.8", "--compare", "top_k=1", "--compare", "hf"];
    let command = with(&["tune", "--recorded", "today.trace"], &compare);
    let lines = lines(&folder.ok(&with(&command, &["--json"])));
    let changed: Vec<u64> = lines.iter().map(|line| line["changed"].as_u64().unwrap()).collect();
    assert!(lines.iter().all(|line| line["draws"] == 40), "{lines:?}");
    // What a setting does not name stays: the temperature of 0.8 is that of the trace.
    assert!(changed[..2] == [0, 0] && changed[2] > 0 && changed[3] > 0, "{lines:?}");
    let said = folder.ok(&command);
    assert!(said.contains("40 draws of 1 requests") && said.contains("as recorded"), "{said}");
    let said = folder.error(&["tune", "--recorded", "today.trace"]);
    assert!(said.contains("--compare temperature=0.7"), "{said}");
    let said = folder.error(&with(&command[..1], &["--recorded", "rows.npy", "--compare", "hf"]));
    assert!(said.contains("--recorded rows.npy"), "{said}");
}

#[test]
fn rows_without_a_token_are_counted_and_left_out_and_clueless_models_are_noticed() {
    let folder = folder();
    let mut rows: Vec<Vec<f32>> = (0..6)
        .map(|row| (0..50).map(|i| ((i * 7 + row * 13) % 50) as f32 / 9.0).collect())
        .collect();
    rows[2][4] = f32::NAN;
    folder.npy("six.npy", Dtype::F32, &rows);
    integers::write(&folder.path("six_next.npy"), &[0; 6]).unwrap();
    let output = folder.logitd(&with(
        &["tune", "--json", "--logits", "six.npy", "--targets", "six_next.npy", "--goal", "nll"],
        &FEW,
    ));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("1 of 6 rows have no token (NaN, +inf or no candidate) and are left out"),
        "{error}"
    );
    let line = &lines(&String::from_utf8(output.stdout).unwrap())[1];
    assert_eq!((&line["rows"], &line["rows_failed"]), (&5.into(), &1.into()));
    // Every target is a token that the rows hold for unlikely.
    let worst: Vec<u32> =
        (0..6).map(|row| (0..50).find(|i| (i * 7 + row * 13) % 50 == 0).unwrap()).collect();
    integers::write(&folder.path("wrong.npy"), &worst).unwrap();
    let output = folder.logitd(&with(
        &["tune", "--logits", "six.npy", "--targets", "wrong.npy", "--goal", "nll"],
        &FEW,
    ));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("tokens of another tokenizer, or shifted by one?"), "{error}");
}

#[test]
fn what_is_wrong_is_named_with_its_limit_and_a_way_out() {
    let folder = folder();
    integers::write(&folder.path("short.npy"), &[0; 39]).unwrap();
    integers::write(&folder.path("beyond.npy"), &[50; 40]).unwrap();
    integers::write(&folder.path("labels.npy"), &[4096; 40]).unwrap();
    folder.npy("floats.npy", Dtype::F32, &[vec![0.0; 40]]);
    folder.npy("nans.npy", Dtype::F32, &vec![vec![f32::NAN; 50]; 40]);
    folder.text("notes.txt", "milk\n");
    folder.text("params.json", "{\"temperature\": 0.8}");
    let of = |targets: &'static str| ["tune", "--logits", "rows.npy", "--targets", targets];
    for (args, parts) in [
        (of("short.npy").to_vec(), ["short.npy holds 39 numbers", "one token a row"]),
        (of("beyond.npy").to_vec(), ["token of row 0 is 50", "allowed: 0 to 49"]),
        (of("floats.npy").to_vec(), ["shape (1, 40)", "reshape"]),
        (of("notes.txt").to_vec(), ["not a .npy file", "numpy.save"]),
        (of("missing.npy").to_vec(), ["missing.npy", "No such file"]),
        (with(&FILES, &["--groups", "labels.npy"]), ["label of row 0 is 4096", "0 to 4095"]),
        (
            with(&FILES, &["--temperature", "0.5,-1"]),
            ["--temperature: temperature is -1", "1e-30 to 10000"],
        ),
        (with(&FILES, &["--top-p", "1.5"]), ["--top-p: top_p is 1.5", "above 0, up to 1"]),
        (
            with(&FILES, &["--study", "my.html"]),
            ["--study my.html and --report my.html", "name another"],
        ),
        (with(&FILES, &["--min-p", "0:1"]), ["\"0:1\"", "start, end, step"]),
        (
            with(&FILES, &["--compare", "top_kk=4"]),
            ["\"top_kk\" is unknown", "did you mean top_k?"],
        ),
        (
            with(&FILES, &["--goal", "nll", "--subject-to", "tail<=-1"]),
            ["keeps to tail <= -1: the least tail of all is", "loosen a limit"],
        ),
        (
            with(&FILES, &["--study", "params.json"]),
            ["--study params.json: line 1 is none of an Optuna journal", "another file"],
        ),
        (
            with(&FILES, &["--report", "notes.txt"]),
            ["--report notes.txt: the file is no page of logitd tune", "name another"],
        ),
        (with(&FILES, &["--report", "no/page.html"]), ["--report no/page.html", "No such file"]),
        (with(&FILES, &["--threads", "1025"]), ["--threads", "0 (one for each core) to 1024"]),
        (
            with(&FILES, &["--study", "notes.txt"]),
            ["line 1 is none of an Optuna journal", "--study"],
        ),
        (with(&FILES, &["--folds", "30"]), ["--folds is 30", "allowed: 2 to"]),
        (with(&FILES, &["--search", "sobol", "--sets", "0"]), ["--sets is 0", "1 to 65536"]),
        (with(&FILES, &["--sets", "9"]), ["--sets", "--search"]),
        (with(&FILES, &["--digests", "x"]), ["--digests", "cannot be used with"]),
        (vec!["tune", "--logits", "rows.npy"], ["--targets", "required"]),
        (vec!["tune", "--digests", "notes.txt"], ["notes.txt: is no file of digests", "--logits"]),
        (
            vec!["tune", "--logits", "nans.npy", "--targets", "next.npy"],
            ["none of the 40 rows has a token", "finite logits"],
        ),
        (vec!["digest", "--out", "no/x"], ["--out no/x", "No such file"]),
        (vec!["digest", "--out", "rows.npy/x"], ["--out rows.npy/x", "Not a directory"]),
        (vec!["digest", "--out", "x"], ["--logits and --targets", "needed"]),
    ] {
        // A flag of the axes is given once, and `digest` has none.
        let own = args[0] != "tune" || FEW.iter().step_by(2).any(|flag| args.contains(flag));
        let said = folder.error(&with(&args, if own { &[] } else { &FEW }));
        assert!(parts.iter().all(|part| said.contains(part)), "{args:?}: {said}");
    }
    assert_eq!(std::fs::read_to_string(folder.path("notes.txt")).unwrap(), "milk\n");
    // Folds are refused before the search: nothing is in the study.
    let folds = ["--folds", "30", "--study", "folds.journal"];
    folder.error(&with(&with(&FILES, &FEW), &folds));
    let study = std::fs::read_to_string(folder.path("folds.journal")).unwrap();
    assert_eq!(study.matches("\"op_code\":4").count(), 0);
    let params = std::fs::read_to_string(folder.path("params.json")).unwrap();
    assert_eq!(params, "{\"temperature\": 0.8}");
}
