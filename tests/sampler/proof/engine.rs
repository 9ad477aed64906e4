//! What CUDA leaves undefined is an error of the engine that names the place: small kernels of
//! `misuse.cpp`, each in ten orders of threads.

use super::compile::{Source, program, sources};
use std::process::Command;

const TEXT: &str = include_str!("misuse.cpp");

/// What a kernel is called, and words of which the report must have some.
const MISUSES: [(&str, &[&str]); 11] = [
    ("barrier_of_some", &["40 threads wait for __syncthreads"]),
    ("two_barriers", &["other threads of the block wait at another barrier: __syncthreads"]),
    ("cluster_barrier_of_some", &["64 threads wait for cluster_sync"]),
    (
        "barriers_of_two_kinds",
        &["other threads of the cluster wait at another barrier: cluster_sync"],
    ),
    ("shuffle_beyond_the_warp", &["a shuffle from lane"]),
    ("shuffle_from_an_absent_lane", &["a shuffle from lane 16, which takes no part"]),
    ("shuffle_that_some_miss", &["62 threads wait for __shfl_xor_sync"]),
    ("masks_disagree", &["with a mask that names this lane too", "threads wait for __ballot_sync"]),
    ("not_in_its_mask", &["is not in its own mask"]),
    ("two_collectives", &["with a mask that names this lane too"]),
    ("wait_for_nothing", &["a wait without end"]),
];

#[test]
fn what_cuda_leaves_undefined_is_reported_with_the_place() {
    let misuse = Source { path: "host/misuse.cpp".into(), text: TEXT.into() };
    let all: Vec<Source> = sources().into_iter().chain([misuse]).collect();
    let program = program("misuse", &all, "host/misuse.cpp", &[]).unwrap();
    let say = |kernel: &str, order: u64, seed: u64| {
        let arguments = [order, seed].map(|n| n.to_string());
        let output = Command::new(&program).arg(kernel).args(arguments).output().unwrap();
        assert!(output.status.success(), "{kernel}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let orders = (1..=8).map(|seed| (0, seed)).chain([(1, 0), (2, 0)]);
    for (order, seed) in orders {
        assert_eq!(say("fine", order, seed), "fine", "order {order}, seed {seed}");
        for (kernel, words) in MISUSES {
            let said = say(kernel, order, seed);
            let places = places(kernel);
            assert!(!places.is_empty(), "misuse.cpp does not say where {kernel} goes wrong");
            assert!(words.iter().any(|words| said.contains(words)), "{kernel}: {said}");
            assert!(
                places.iter().any(|place| said.contains(place)),
                "{kernel}, {places:?}: {said}"
            );
        }
    }
}

/// The lines that a report may name.
fn places(kernel: &str) -> Vec<String> {
    let mark = format!("here: {kernel}");
    let lines = TEXT.lines().enumerate().filter(|(_, line)| line.ends_with(&mark));
    lines.map(|(line, _)| format!("misuse.cpp:{}", line + 1)).collect()
}
