//! How much it costs that settings were chosen on few rows: README.md has this table, under Tuning.
//!
//! ```text
//! cargo bench --bench regret -- [--digests rows.digests] [--json]
//! ```
//!
//! Rows are parted at random, in two halves of blocks of neighbours. What is best on some of one half costs something on the other,
//! against what is best there: the mean over parts is a column. `--digests` names a file of `logitd digest`; without it the rows are
//! the 64 that the program carries, which are few.

mod regrets;

use logitd::files::assets;
use logitd::files::digests::Digests;
use regrets::{BLOCK, Regrets, SPLITS, regrets};
use std::fs::File;
use std::io::BufReader;

fn main() {
    let (mut digests, mut json) = (None, false);
    let mut given = std::env::args().skip(1);
    while let Some(flag) = given.next() {
        match flag.as_str() {
            "--digests" => digests = Some(given.next().expect("a file")),
            "--json" => json = true,
            "--bench" => {}
            other => panic!("unknown: {other}"),
        }
    }
    let digests = match digests {
        Some(path) => {
            let file = File::open(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
            Digests::read(BufReader::new(file)).unwrap_or_else(|error| panic!("{path}: {error}"))
        }
        None => assets::digests(),
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let found = regrets(&digests.rows, digests.about.vocab_size, threads);
    match json {
        true => found.iter().for_each(|of| println!("{}", line(&digests, of))),
        false => print_table(&found),
    }
}

/// Regrets of a goal as JSON.
fn line(digests: &Digests, of: &Regrets) -> serde_json::Value {
    let rounded = |nats: f64| (nats * 1e4).round() / 1e4;
    serde_json::json!({
        "goal": of.goal,
        "positions": digests.rows.len(),
        "origin": digests.about.origin,
        "logits_sha256": digests.about.logits_sha256,
        "settings": of.settings,
        "block": BLOCK,
        "splits": SPLITS,
        "rows": of.chosen.iter().map(|(rows, _)| *rows).collect::<Vec<_>>(),
        "regret": of.chosen.iter().map(|(_, nats)| rounded(*nats)).collect::<Vec<_>>(),
        "best": of.best.to_string(),
        "regret_of_best": rounded(of.of_best),
    })
}

/// The table of README.md.
fn print_table(found: &[Regrets]) {
    let cells = |cells: Vec<String>| format!("| {} |", cells.join(" | "));
    let rows = found[0].chosen.iter().map(|(rows, _)| rows.to_string());
    println!("| rows to choose on | {}", &cells(rows.collect())[2..]);
    println!("|{}", "---|".repeat(found[0].chosen.len() + 1));
    for of in found {
        let regrets = of.chosen.iter().map(|(_, nats)| format!("{nats:.3}"));
        println!("| `--goal {}` | {}", of.goal, &cells(regrets.collect())[2..]);
    }
    for of in found {
        println!("{}: the best of all, {}, has {:.4}", of.goal, of.best, of.of_best);
    }
}
