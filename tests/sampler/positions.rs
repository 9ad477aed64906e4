//! Real positions, evaluated, against means that were found with other arithmetic: the 64 that the program carries, and
//! the 1,024 of their recording where it lies beside the repository.

use crate::common::skipped;
use crate::regret::{Regrets, regrets};
use logitd::files::assets;
use logitd::study::metrics::{Measure, Metric};
use logitd::study::search::{Axes, Point};
use logitd_core::arithmetic::key::bits16;
use logitd_core::batch::VOCAB_SIZE_MAX;
use logitd_core::evaluate::cpu::{Cpu, Digested};
use logitd_core::evaluate::digest::Digest;
use logitd_core::evaluate::sets::Sets;
use logitd_core::evaluate::sums::GroupSums;
use logitd_core::evaluate::{Question, TailShare};
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Instant;

const FOLDER: &str = "../shared/tuning";

/// The recorded positions, or why they are not there.
fn positions(test: &str) -> Option<Vec<Digested>> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(FOLDER);
    match std::fs::read(path.join("gemma3_270m_1024.digest.npz")) {
        Ok(bytes) => Some(digests(&unzip(&bytes))),
        Err(error) => {
            skipped(test, format!("{}: {error}", path.display()));
            None
        }
    }
}

/// The members of a zip archive, by name.
fn unzip(archive: &[u8]) -> HashMap<String, Vec<u8>> {
    let u16_at = |at: usize| usize::from(u16::from_le_bytes([archive[at], archive[at + 1]]));
    let u32_at = |at: usize| u16_at(at) | u16_at(at + 2) << 16;
    let end = archive.windows(4).rposition(|at| at == b"PK\x05\x06").expect("a zip archive");
    let (count, mut at) = (u16_at(end + 10), u32_at(end + 16));
    let mut members = HashMap::new();
    for _ in 0..count {
        assert_eq!(&archive[at..at + 4], b"PK\x01\x02");
        let (method, packed_bytes, bytes) = (u16_at(at + 10), u32_at(at + 20), u32_at(at + 24));
        let (name_bytes, local) = (u16_at(at + 28), u32_at(at + 42));
        let name = String::from_utf8(archive[at + 46..at + 46 + name_bytes].to_vec()).unwrap();
        let start = local + 30 + u16_at(local + 26) + u16_at(local + 28);
        let packed = &archive[start..start + packed_bytes];
        let mut member = vec![0; bytes];
        match method {
            0 => member.copy_from_slice(packed),
            _ => {
                let raw = zlib_rs::InflateConfig { window_bits: -15 };
                let (whole, code) = zlib_rs::decompress_slice(&mut member, packed, raw);
                assert_eq!((whole.len(), code), (bytes, zlib_rs::ReturnCode::Ok), "{name}");
            }
        }
        members.insert(name, member);
        at += 46 + name_bytes + u16_at(at + 30) + u16_at(at + 32);
    }
    members
}

/// The rows of the archive, as its README says.
fn digests(members: &HashMap<String, Vec<u8>>) -> Vec<Digested> {
    let array = |name: &str, size: usize| -> Vec<u32> {
        let file = &members[&format!("{name}.npy")];
        let data = 10 + usize::from(u16::from_le_bytes([file[8], file[9]]));
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |n, byte| n << 8 | u32::from(*byte));
        file[data..].chunks_exact(size).map(number).collect()
    };
    let with_large = |name: &str, size: usize| {
        let mut large = array(&format!("{name}_large"), size).into_iter();
        let mut value = |n: u32| if n == 255 { large.next().expect("one for each") } else { n };
        array(name, 1).into_iter().map(&mut value).collect::<Vec<u32>>()
    };
    let (gaps, counts) = (with_large("gaps", 2), with_large("counts", 4));
    let (starts, ranks, kinds) = (array("starts", 4), array("ranks", 4), array("kinds", 1));
    let vocab_size = array("vocab_size", 4)[0];
    assert!(vocab_size <= VOCAB_SIZE_MAX);
    let row = |(i, bounds): (usize, &[u32])| {
        let range = bounds[0] as usize..bounds[1] as usize;
        let mut key = 0;
        let value = |(i, gap): (usize, &u32)| {
            key = if i == 0 { *gap } else { key - gap };
            half::f16::from_bits(bits16(key as u16)).to_f32()
        };
        let values: Box<[f32]> = gaps[range.clone()].iter().enumerate().map(value).collect();
        let digest = Digest::new(vocab_size, ranks[i], values, counts[range].into());
        Digested { digest: Ok(digest.expect("a digest")), group: kinds[i] }
    };
    starts.windows(2).enumerate().map(row).collect()
}

fn total(rows: &[Digested], points: &[Point], threads: usize) -> GroupSums {
    let sets = points.iter().map(|point| point.params().unwrap()).collect();
    let sets = Sets::new(sets).unwrap();
    let question = Question { sets: &sets, tail: TailShare::default(), rows: false };
    Cpu::new(threads).sums(rows, &question).total(sets.len())
}

/// Compares a table of sets and their means: hits are exact, means are good to `near`.
fn compare(rows: &[Digested], text: &str, near: impl Fn(Metric, f64) -> f64) {
    let mut lines = text.lines().map(|line| line.split('\t').collect::<Vec<_>>());
    let names = lines.next().unwrap();
    let expected: Vec<HashMap<&str, f64>> = lines
        .map(|line| names.iter().copied().zip(line.iter().map(|x| x.parse().unwrap())).collect())
        .collect();
    assert_eq!(expected.len(), 12);
    let points: Vec<Point> = expected
        .iter()
        .map(|line| Point {
            temperature: line["temperature"] as f32,
            top_k: line["top_k"] as u32,
            top_p: line["top_p"] as f32,
            min_p: line["min_p"] as f32,
            ..Point::PLAIN
        })
        .collect();
    let total = total(rows, &points, 2);
    let measure = Measure { miss_nats: 262_144f64.ln() };
    let mut worst = HashMap::new();
    for ((line, sums), point) in expected.iter().zip(&total.sets).zip(&points) {
        assert_eq!((total.rows as f64, sums.hits as f64), (line["rows"], line["hits"]), "{point}");
        // The tables have no choices, which are of the sum that brier has.
        for metric in Metric::ALL.into_iter().filter(|metric| *metric != Metric::Choices) {
            let (found, expected) = (measure.mean(metric, total.rows, sums), line[metric.name()]);
            let difference = (found - expected).abs();
            let allowed = near(metric, expected);
            let worst: &mut f64 = worst.entry(metric.name()).or_default();
            *worst = worst.max(difference);
            assert!(difference <= allowed, "{point}: {} is {found}, not {expected}", metric.name());
        }
    }
    println!("12 sets x 7 means over {} rows, the worst off by {worst:?}", total.rows);
}

#[test]
fn carried_positions_come_to_what_plain_doubles_say() {
    let text = include_str!("positions.tsv");
    println!("made by: python3 tests/sampler/positions.py > tests/sampler/positions.tsv");
    // Doubles are rounded otherwise than masses are truncated: a cut may fall a token beside.
    let near = |metric, expected: f64| match metric {
        Metric::Kept => 1e-4 * expected,
        _ => 1e-6,
    };
    compare(&assets::digests().rows, text, near);
}

#[test]
fn recorded_positions_come_to_what_a_prototype_found() {
    let Some(rows) = positions("recorded_positions_come_to_what_a_prototype_found") else { return };
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(FOLDER).join("expected_named.tsv");
    // Expected means have six places, and are good to 1e-6.
    compare(&rows, &std::fs::read_to_string(path).unwrap(), |_, _| 1.5e-6);
}

/// What the default grid takes, and what it finds.
#[test]
#[ignore = "takes seconds of every core: a measurement"]
fn the_default_grid_over_the_positions() {
    let Some(rows) = positions("the_default_grid_over_the_positions") else { return };
    let points = Axes::default().grid().unwrap();
    for threads in [1, 2] {
        let start = Instant::now();
        let total = total(&rows, &points, threads);
        let took = start.elapsed().as_secs_f64();
        let measure = Measure { miss_nats: 262_144f64.ln() };
        let mean = |metric, i: usize| measure.mean(metric, total.rows, &total.sets[i]);
        let least = |within: &dyn Fn(usize) -> bool| {
            let places = (0..points.len()).filter(|i| within(*i));
            places.min_by(|a, b| mean(Metric::Nll, *a).total_cmp(&mean(Metric::Nll, *b))).unwrap()
        };
        let (any, safe) = (least(&|_| true), least(&|i| mean(Metric::Tail, i) <= 0.001));
        println!("{} sets, {} rows, {threads} threads: {took:.2} s", points.len(), total.rows);
        assert_eq!(points[any].to_string(), "temperature 1.05, top_p 0.98");
        assert_eq!(points[safe].to_string(), "temperature 1.1, top_k 1000, top_p 0.95");
        assert_eq!(total.sets[safe].hits, 951);
        assert!((mean(Metric::Nll, any) - 3.495_819).abs() < 1.5e-6);
        assert!((mean(Metric::Nll, safe) - 3.594_704).abs() < 1.5e-6);
    }
}

/// What is chosen on some of the positions costs the less on others the more there are, and little from 512 on: README.md has
/// these figures.
#[test]
#[ignore = "takes seconds of every core: a measurement"]
fn what_is_chosen_on_some_positions_is_good_on_others() {
    let Some(rows) = positions("what_is_chosen_on_some_positions_is_good_on_others") else {
        return;
    };
    for found in regrets(&rows, 262_144, 2) {
        let Regrets { goal, chosen, best, of_best, settings } = found;
        println!(
            "{goal}: regret of what so many rows choose of {settings} settings: {chosen:.4?}; of {best}, the best of all: \
             {of_best:.4}"
        );
        let regrets: Vec<f64> = chosen.iter().map(|(_, nats)| *nats).collect();
        assert!(regrets.is_sorted_by(|more, less| more > less), "{goal}: {regrets:?}");
        assert_eq!(chosen.last().map(|(rows, _)| *rows), Some(512));
        assert!(regrets[3] < 0.01, "{goal}: {regrets:?}");
    }
}
