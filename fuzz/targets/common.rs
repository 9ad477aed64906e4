//! Where a target's inputs lie.

use std::path::Path;

/// Puts the seeds where `fuzz/run` lets the fuzzer look for its inputs. Runs before it does.
pub fn plant(target: &str, seeds: impl IntoIterator<Item = Vec<u8>>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    std::fs::create_dir_all(&folder).expect("fuzz/corpus can be written");
    for (i, seed) in seeds.into_iter().enumerate() {
        std::fs::write(folder.join(format!("seed-{i:03}")), seed).expect("so can a file in it");
    }
}
