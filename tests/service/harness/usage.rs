//! What a process holds, and whether that grows.
#![cfg(target_os = "linux")]

use std::fmt;
use std::path::Path;
use std::time::Duration;

/// Rounds before memory has to stay where it is: buffers and allocator have found their size.
const WARMUP_SHARE: f64 = 0.25;
/// What memory may grow by after that: noise of the allocator, a fraction of one batch.
const GROWTH_KIB_MAX: u64 = 24 << 10;

/// What the kernel says of a process.
#[derive(Clone, Copy)]
pub struct Usage {
    pub resident_kib: u64,
    pub descriptors: usize,
    pub threads: usize,
}

impl Usage {
    pub fn of(id: u32) -> Self {
        let folder = Path::new("/proc").join(id.to_string());
        let status = std::fs::read_to_string(folder.join("status")).expect("it runs");
        let field = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect(name);
            line.trim().trim_end_matches(" kB").parse().expect(name)
        };
        let descriptors = std::fs::read_dir(folder.join("fd")).expect("its descriptors").count();
        let threads = field("Threads:") as usize;
        Self { resident_kib: field("VmRSS:"), descriptors, threads }
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { resident_kib, descriptors, threads } = self;
        write!(f, "{resident_kib} KiB resident, {descriptors} descriptors, {threads} threads")
    }
}

/// Memory, descriptors and threads are in the end what they were at first: `idle` is what a process held whenever
/// nobody was connected.
pub fn assert_flat(idle: &[Usage]) {
    let rest = &idle[(idle.len() as f64 * WARMUP_SHARE).ceil() as usize..];
    let half = rest.len() / 2;
    let memory = |part: &[Usage]| median(part.iter().map(|usage| usage.resident_kib));
    let (before, after) = (memory(&rest[..half]), memory(&rest[half..]));
    let (first, last) = (rest[0], rest[rest.len() - 1]);
    println!("memory between rounds: {before} KiB in the first half, {after} KiB in the second");
    assert!(after <= before + GROWTH_KIB_MAX, "memory grows: {before} KiB, then {after} KiB");
    assert_eq!(last.descriptors, first.descriptors, "descriptors: {first}; then {last}");
    assert!(last.threads <= first.threads + 2, "threads: {first}; then {last}");
}

/// What a process holds once it lets go of nothing more.
pub async fn settled(id: u32) -> Usage {
    let mut usage = Usage::of(id);
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = Usage::of(id);
        let still = now.descriptors == usage.descriptors && now.threads == usage.threads;
        usage = now;
        if still {
            break;
        }
    }
    usage
}

fn median(values: impl Iterator<Item = u64>) -> u64 {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    values[values.len() / 2]
}
