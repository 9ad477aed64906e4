//! Compiles the CUDA kernels for the processor, once for each build that `shim.rs` names.

use std::path::PathBuf;

/// The builds, and what each defines.
const BUILDS: &[(&str, &[(&str, &str)])] = &[
    ("shipped", &[]),
    (
        "small",
        &[
            ("LOGITD_THREADS", "64"),
            ("LOGITD_LIST", "32"),
            ("LOGITD_COUNT_BINS", "64"),
            ("LOGITD_MASS_BINS", "64"),
        ],
    ),
];

fn main() {
    println!("cargo::rerun-if-changed=..");
    let compiler = || {
        let mut build = cc::Build::new();
        build.cpp(true).std("c++17").define("LOGITD_SIMT", None);
        // What is optimised is what runs: without it the proof would take minutes. And a contracted
        // multiply-add would be another arithmetic.
        build.opt_level(2).flag("-ffp-contract=off").flag("-Wno-unknown-pragmas");
        build
    };
    let mut objects = Vec::new();
    for (name, defines) in BUILDS {
        let mut build = compiler();
        build.file("shim.cpp").define("LOGITD_SHIM_NAME", *name);
        for (key, value) in *defines {
            build.define(key, *value);
        }
        // Objects are named after their source, so each build has a folder.
        let out = PathBuf::from(std::env::var("OUT_DIR").expect("cargo sets it")).join(name);
        objects.extend(build.out_dir(out).compile_intermediates());
    }
    compiler().file("engine.cpp").objects(objects).compile("logitd_shim");
}
