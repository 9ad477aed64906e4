//! The kernels on a GPU. Where there is none the tests are ignored, and say why; `LOGITD_REQUIRE_GPU=1` makes that a
//! failure.

#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
#[path = "../sampler/common/mod.rs"]
mod common;
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
#[path = "../fake_cuda/mod.rs"]
mod fake_cuda;
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod variants;

#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
fn main() {
    use libtest_mimic::{Arguments, Trial, run};

    if variants::is_fake() {
        fake_cuda::load();
    }
    let missing = logitd_core::backend::cuda::count().err();
    let mut arguments = Arguments::from_args();
    if let Some(reason) = &missing {
        let required = std::env::var("LOGITD_REQUIRE_GPU").is_ok_and(|value| value == "1");
        assert!(!required, "LOGITD_REQUIRE_GPU=1, but there is no device: {reason}");
        eprintln!("ignored for want of a device: {reason}");
        (arguments.ignored, arguments.include_ignored) = (false, false);
    }
    let trial = |(name, test): &(&'static str, fn())| {
        let test = *test;
        let run = move || {
            test();
            Ok(())
        };
        Trial::test(*name, run).with_ignored_flag(missing.is_some())
    };
    run(&arguments, variants::TESTS.iter().map(trial).collect()).exit()
}

/// The driver is loaded on 64-bit Linux only.
#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
fn main() {}
