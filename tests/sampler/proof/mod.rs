//! The proof of the proof: what `tests/sampler/kernels.rs` holds the kernels to is only worth something if a wrong
//! kernel fails it.
//!
//! [`faults`] plants mistakes in copies of the kernels' sources, every barrier left out among them, and
//! requires of each that the small suite of [`suite`] notices. A build with sanitizers runs the same suite
//! over memory in which everything but the rows is out of bounds. And the engine beneath the kernels
//! must report what CUDA leaves undefined, with the place.
//!
//! `cargo test` does a part of that; `cargo test --release --test sampler proof -- --ignored` does the rest.
//!
//! [`compile`] makes these builds with the C++ compiler, [`runner`] runs them as processes of their own.

mod compile;
mod engine;
mod faults;
mod runner;
mod suite;

use self::compile::{Source, program, sources};
use self::faults::{Fault, Notice};
use self::suite::{Failure, first_failure, first_failure_of_part};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const MAIN: &str = "host/runner.cpp";

/// A fault that takes longer wants an earlier case of its own in the suite.
const SLOW: Duration = Duration::from_secs(5);

/// The same program and the same suite, without a fault: what is noticed below is the faults.
#[test]
fn kernels_without_a_fault_pass() {
    let program = program("plain", &sources(), MAIN, &[]).unwrap();
    assert_eq!(first_failure(&program, 0), None);
}

/// One fault in eight, of every file.
#[test]
fn some_faults_are_noticed() {
    let sources = sources();
    let some: Vec<Fault> = faults::all(&sources).into_iter().step_by(8).collect();
    assert!(some.len() >= 8);
    are_noticed("some-faults", &sources, &some);
}

#[test]
#[ignore = "takes a minute or more; .ci/run has it run"]
fn every_fault_is_noticed() {
    let sources = sources();
    are_noticed("faults", &sources, &faults::all(&sources));
}

fn are_noticed(name: &str, sources: &[Source], faults: &[Fault]) {
    let program = program(name, &faults::plant(sources, faults), MAIN, &[]).unwrap();
    assert_eq!(first_failure_of_part(&program, 0), None, "with no fault at work");
    let numbered: Vec<_> = (1..).zip(faults).collect();
    check(&program, &numbered, first_failure, |fault, failure| match (fault.notice, failure) {
        (Notice::Bits, Some(Failure::Bits(_))) => true,
        (Notice::Report(words), Some(Failure::Report(text))) => text.contains(words),
        (Notice::Any | Notice::Stray(_), Some(_)) => true,
        _ => false,
    });
}

/// Every fused operation of the kernels is written as one; a compiler that makes more of them is none for this.
#[test]
fn a_compiler_that_contracts_is_noticed() {
    let flags = match std::env::consts::ARCH {
        "x86_64" => ["-O2", "-ffp-contract=fast", "-mfma"].as_slice(),
        _ => &["-O2", "-ffp-contract=fast"],
    };
    #[cfg(target_arch = "x86_64")]
    if !std::arch::is_x86_feature_detected!("fma") {
        return crate::common::skipped(
            "a_compiler_that_contracts_is_noticed",
            "this processor has no fma",
        );
    }
    let program = program("contracted", &sources(), MAIN, flags).unwrap();
    let failure = first_failure(&program, 0);
    let Some(Failure::Report(text)) = &failure else { panic!("{failure:?}") };
    assert!(text.contains("contracts a * b + c"), "{text}");
}

/// Whole kernels, every access and every operation watched: all memory but the rows, and what launches
/// may write, is out of bounds to the byte.
#[test]
#[ignore = "sanitized programs are slow; .ci/run has it run"]
fn sanitizers_find_nothing_in_the_kernels() {
    let Some(flags) = sanitizers("sanitizers_find_nothing_in_the_kernels") else { return };
    let program = program("sanitized", &sources(), MAIN, flags).unwrap();
    assert_eq!(first_failure_of_part(&program, 0), None);
}

/// And would find something if there were something.
#[test]
#[ignore = "sanitized programs are slow; .ci/run has it run"]
fn sanitizers_report_a_stray_access() {
    let Some(flags) = sanitizers("sanitizers_report_a_stray_access") else { return };
    let sources = sources();
    let mut faults = faults::all(&sources);
    faults.retain(|fault| matches!(fault.notice, Notice::Stray(_)));
    assert!(faults.len() >= 3);
    let program =
        program("sanitized-faults", &faults::plant(&sources, &faults), MAIN, flags).unwrap();
    let numbered: Vec<_> = (1..).zip(&faults).collect();
    check(&program, &numbered, first_failure_of_part, |fault, failure| {
        match (fault.notice, failure) {
            (Notice::Stray(words), Some(Failure::Report(text))) => text.contains(words),
            _ => false,
        }
    });
}

/// Runs a suite for each of these faults, on all processors; `expects` says whether it failed as it must.
fn check(
    program: &Path,
    faults: &[(u32, &Fault)],
    run: fn(&Path, u32) -> Option<Failure>,
    expects: impl Fn(&Fault, Option<&Failure>) -> bool + Sync,
) {
    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(Vec::new());
    let work = || {
        while let Some((number, fault)) = faults.get(next.fetch_add(1, Ordering::Relaxed)) {
            let started = Instant::now();
            let failure = run(program, *number);
            let name = &fault.name;
            if started.elapsed() > SLOW {
                eprintln!("{name}: noticed only after {:.1?}", started.elapsed());
            }
            if !expects(fault, failure.as_ref()) {
                let notice = fault.notice;
                wrong
                    .lock()
                    .unwrap()
                    .push(format!("{name}: {notice:?} expected, {failure:?} seen"));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} of {} faults:\n{}", wrong.len(), faults.len(), wrong.join("\n"));
}

/// The flags of the sanitizers, where the compiler has them. `LOGITD_REQUIRE_SANITIZERS=1` makes their absence
/// a failure.
fn sanitizers(test: &str) -> Option<&'static [&'static str]> {
    const FLAGS: &[&str] =
        &["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-static-libasan"];
    let empty = Source { path: "host/empty.cpp".into(), text: "int main() { return 0; }\n".into() };
    let all: Vec<Source> = sources().into_iter().chain([empty]).collect();
    match program("sanitizers", &all, "host/empty.cpp", FLAGS) {
        Ok(_) => Some(FLAGS),
        Err(why) if std::env::var_os("LOGITD_REQUIRE_SANITIZERS").is_some_and(|v| v == "1") => {
            panic!("the compiler has no sanitizers: {why}")
        }
        Err(why) => {
            crate::common::skipped(test, format!("the compiler has no sanitizers: {why}"));
            None
        }
    }
}
