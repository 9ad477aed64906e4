//! What a build of the kernels carries.

use logitd_kernels::{HEADERS, NVCC_RELEASE, SOURCE, fatbin};

fn main() {
    println!("sample.cu: {} lines", SOURCE.lines().count());
    for (name, text) in HEADERS {
        println!("{name}: {} lines", text.lines().count());
    }
    match fatbin() {
        Some(code) => {
            println!("code by nvcc {}: {} bytes", NVCC_RELEASE.unwrap_or("?"), code.len())
        }
        None => println!(
            "no code: the build found no nvcc, so NVRTC compiles the sources where they run"
        ),
    }
}
