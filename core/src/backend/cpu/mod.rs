//! The CPU as a device: one algorithm over vector instructions, chosen once at start.

mod around;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod block_masses;
mod blocks;
mod bracket;
mod chain;
mod collect;
mod cut;
mod draft;
mod draw;
mod element;
mod estimate;
mod first;
mod groups;
mod inspect;
mod intervals;
mod isa;
mod list;
mod masked;
mod mass;
mod noise;
mod nucleus;
mod passes;
mod portable;
mod prepare;
mod proposal;
mod propose;
mod race;
mod race_pairs;
mod ranks;
mod residual;
mod row;
mod scan;
mod search;
mod shaped;
mod simd;
#[cfg(all(test, target_arch = "x86_64"))]
mod simd_tests;
mod spread;
mod surprisals;
mod tokens;
mod touched;
mod whole;
mod without;

use super::adjusted::Adjuster;
use super::{Backend, DeviceError, DeviceInfo, team};
use crate::adjustments::changes::Changes;
use crate::arithmetic::mass::Scale;
use crate::batch::{Dtype, Results, Row, Slot};
use crate::row::{Proposal, Rule};
pub use isa::{Isa, UnknownIsa};
use propose::propose;
use row::With;
use simd::Simd;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
pub use surprisals::SurprisalSlices;
use team::Team;
use touched::Scratch;

/// The most threads that a [`Cpu`] can be asked for: more than any machine has cores.
pub const THREADS_MAX: usize = 1024;
/// The most that are started for each core: idle threads look for work at each other, and hundreds of them on a
/// core keep it from doing any.
const THREADS_PER_CORE_MAX: usize = 32;

/// How a [`Cpu`] computes. The default is the best this machine offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuOptions {
    /// The instructions to use; `None` detects them.
    pub isa: Option<Isa>,
    /// Threads to compute with, the caller's among them: up to [`THREADS_MAX`], of which up to 32 a processor are
    /// started. 0 is one for each processor.
    pub threads: usize,
}

/// Why there is no [`Cpu`].
#[derive(Debug, thiserror::Error)]
pub enum CpuError {
    /// The instructions asked for are not here.
    #[error(
        "this machine cannot run isa {isa}; it supports: {supported} (leave isa out to detect)"
    )]
    UnsupportedIsa {
        /// What was asked for.
        isa: Isa,
        /// What there is, separated by commas.
        supported: String,
    },
    /// More threads than any machine has use for.
    #[error("threads is {0}; allowed: 0 (one for each core) to {THREADS_MAX}")]
    TooManyThreads(usize),
    /// The operating system gives no threads.
    #[error("cannot start {threads} threads: {reason}; ask for fewer")]
    Threads {
        /// How many were asked for.
        threads: usize,
        /// What was said.
        reason: String,
    },
}

/// The CPU backend. Owned by one worker thread; it computes on that thread and on its own.
pub struct Cpu {
    device: DeviceInfo,
    isa: Isa,
    team: Team,
    /// One for each thread.
    scratch: Vec<Mutex<Bench>>,
}

/// What a thread works with, kept from row to row.
#[derive(Default)]
struct Bench {
    adjuster: Adjuster,
    scratch: Scratch,
    proposal: propose::Buffers,
}

impl Cpu {
    /// Checks the instructions and starts the threads.
    pub fn new(options: CpuOptions) -> Result<Self, CpuError> {
        let isa = options.isa.unwrap_or_else(Isa::detect);
        if !isa.is_supported() {
            let supported: Vec<_> = Isa::supported().map(Isa::name).collect();
            return Err(CpuError::UnsupportedIsa { isa, supported: supported.join(", ") });
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = match options.threads {
            0 => cores.min(THREADS_MAX),
            n @ ..=THREADS_MAX => n.min(cores * THREADS_PER_CORE_MAX),
            n => return Err(CpuError::TooManyThreads(n)),
        };
        let device =
            DeviceInfo { id: "cpu".into(), name: chip_name(), isa: isa.name().into(), threads };
        let scratch = (0..threads).map(|_| Mutex::default()).collect();
        let team = Team::new(threads, "cpu")
            .map_err(|error| CpuError::Threads { threads, reason: error.to_string() })?;
        Ok(Self { device, isa, team, scratch })
    }

    /// Reads the logits of every row once, with the same instructions and threads as
    /// [`sample`](Backend::sample): the floor that a benchmark compares with. The result depends on
    /// nearly every byte and means nothing.
    pub fn read(&mut self, rows: &[Row<'_>]) -> u32 {
        let sum = AtomicU32::new(0);
        let next = AtomicUsize::new(0);
        self.team.each(0..self.team.threads(), |_| {
            while let Some(row) = rows.get(next.fetch_add(1, Relaxed)) {
                sum.fetch_xor(dispatch(self.isa, scan::Read(row.logits())), Relaxed);
            }
        });
        sum.into_inner()
    }

    /// Each thread takes one row after another.
    fn spread<'a>(
        &self,
        rows: &[Row<'_>],
        slots: impl Iterator<Item = Slot<'a>> + Send,
        threads: usize,
    ) {
        let queue = Mutex::new(rows.iter().enumerate().zip(slots));
        self.team.each(&self.scratch[..threads], |bench| {
            let mut bench = bench.lock().expect("no other thread panicked");
            loop {
                let row = queue.lock().expect("no other thread panicked").next();
                let Some(((i, row), slot)) = row else { return };
                // Most likely; a wrong guess costs little.
                let next = rows.get(i + threads);
                self.sample_row(&Team::ALONE, row, next, &mut bench, slot);
            }
        });
    }

    /// All threads share each row.
    fn share<'a>(&self, rows: &[Row<'_>], slots: impl Iterator<Item = Slot<'a>>) {
        let mut bench = self.scratch[0].lock().expect("no other thread panicked");
        for ((i, row), slot) in rows.iter().enumerate().zip(slots) {
            self.sample_row(&self.team, row, rows.get(i + 1), &mut bench, slot);
        }
    }

    /// Samples a row with the threads of a team.
    fn sample_row(
        &self,
        team: &Team,
        row: &Row<'_>,
        next: Option<&Row<'_>>,
        bench: &mut Bench,
        slot: Slot<'_>,
    ) {
        let Bench { adjuster, scratch, proposal } = bench;
        let next = next.map_or(&[][..], read_first);
        let (row, changes) = match adjuster.changes(row) {
            None => (*row, None),
            Some((row, changes)) => (row, Some(changes)),
        };
        let (row, changes) = (&row, changes.as_ref());
        dispatch(self.isa, SampleRow { team, row, changes, next, scratch, proposal, slot });
    }
}

/// The logits that sampling a row begins with: those that its draft was drawn from, where it has such a draft. None where they
/// are on loan.
fn read_first<'a>(row: &Row<'a>) -> &'a [u8] {
    match row.draft().map(|draft| &draft.rule) {
        Some(Rule::Rejection(Proposal::Row(source))) => here(&source.row()),
        _ => here(row),
    }
}

/// The logits of a row that is not on loan.
fn here<'a>(row: &Row<'a>) -> &'a [u8] {
    if row.is_lent() { &[] } else { row.logits() }
}

impl fmt::Debug for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cpu").field("device", &self.device).finish_non_exhaustive()
    }
}

impl Backend for Cpu {
    fn device(&self) -> &DeviceInfo {
        &self.device
    }

    fn sample(&mut self, rows: &[Row<'_>], results: &mut Results) -> Result<(), DeviceError> {
        results.reset(rows);
        let threads = self.team.threads();
        let tokens = |row: &Row<'_>| row.vocab_size() as usize;
        let shareable = rows.iter().any(|row| tokens(row) >= SHARED_TOKENS_MIN);
        if threads > 1 && rows.len() < threads && shareable {
            self.share(rows, results.slots());
        } else {
            // A thread that is woken for less is awake too late.
            let worth = rows.iter().map(tokens).sum::<usize>() / TOKENS_MIN;
            self.spread(rows, results.slots(), threads.min(rows.len()).min(worth).max(1));
        }
        Ok(())
    }
}

/// Rows of fewer tokens are not shared between threads.
const SHARED_TOKENS_MIN: usize = 1 << 17;
/// The tokens that a thread is woken for.
const TOKENS_MIN: usize = 1 << 16;

/// Something to be done with the instructions of some set.
trait Task {
    type Output;
    fn run<S: Simd>(self, s: S) -> Self::Output;
}

/// Chooses the code: the one place where instruction sets are told apart.
fn dispatch<T: Task>(isa: Isa, task: T) -> T::Output {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => task.run(avx512::Avx512::new().expect("the backend has checked for it")),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => task.run(avx2::Avx2::new().expect("the backend has checked for it")),
        _ => task.run(portable::Portable),
    }
}

/// Samples one row.
struct SampleRow<'a, 'b> {
    team: &'a Team,
    row: &'a Row<'a>,
    /// What is done to single logits before that.
    changes: Option<&'a Changes<'a>>,
    /// The logits that this thread reads next.
    next: &'a [u8],
    scratch: &'a mut Scratch,
    /// For what its draft was drawn from.
    proposal: &'a mut propose::Buffers,
    slot: Slot<'b>,
}

impl Task for SampleRow<'_, '_> {
    type Output = ();

    fn run<S: Simd>(self, s: S) {
        let dtype = self.row.dtype();
        match dtype {
            Dtype::F16 => self.sample::<S, element::F16>(s),
            Dtype::Bf16 => self.sample::<S, element::Bf16>(s),
            Dtype::F32 => self.sample::<S, element::F32>(s),
        }
    }
}

impl SampleRow<'_, '_> {
    fn sample<S: Simd, E: element::Element>(self, s: S) {
        let Self { team, row, changes, next, scratch, proposal, slot } = self;
        let proposed = match row.draft() {
            Some(draft) => propose(s, team, draft, here(row), proposal),
            None => Ok(None),
        };
        let proposed = proposed.as_ref().map(Option::as_ref).map_err(|status| *status);
        let with = With { mask: None, proposed, next };
        match changes {
            Some(changes) => touched::sample::<S, E>(s, team, row, changes, with, scratch, slot),
            None => row::sample::<S, E>(s, team, row, with, &mut scratch.row, slot),
        }
    }
}

impl Task for scan::Read<'_> {
    type Output = u32;

    fn run<S: Simd>(self, s: S) -> u32 {
        s.run(self)
    }
}

/// The mass, the surprisal and the term of each of some logits of a row whose greatest is `max`, as
/// [`surprisal`](crate::arithmetic::surprisal::surprisal) has them, into slices of as many.
///
/// # Panics
/// If this machine does not have the instructions, or the slices are not as long.
pub fn surprisals(isa: Isa, x: &[f32], max: f32, scale: Scale, to: SurprisalSlices<'_>) {
    dispatch(isa, surprisals::Surprisals { x, max, scale, to });
}

impl Task for surprisals::Surprisals<'_> {
    type Output = ();

    fn run<S: Simd>(self, s: S) {
        s.run(self);
    }
}

/// What the operating system calls the chip, or else its architecture.
fn chip_name() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    info.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(field, _)| field.trim() == "model name")
        .map_or_else(|| std::env::consts::ARCH.into(), |(_, name)| name.trim().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adjustments::{AdjustmentsSpec, Limits};
    use crate::backend::reference::Reference;
    use crate::inspection::{Continue, Inspect, Normaliser};
    use crate::params::ParamsSpec;

    #[test]
    fn small_rows_equal_the_reference_on_every_isa() {
        let bits: Vec<u16> =
            (0..3000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 17) as u16 & 0xbfff).collect();
        let bytes: Vec<u8> = bits.iter().flat_map(|b| b.to_le_bytes()).collect();
        let mut rows = Vec::new();
        for (i, len) in [1, 2, 31, 32, 33, 600, 3000].into_iter().enumerate() {
            for (top_k, top_p, min_p) in
                [(0, 1.0, 0.0), (7, 1.0, 0.0), (0, 0.9, 0.0), (50, 0.7, 0.1)]
            {
                let spec = ParamsSpec {
                    temperature: 0.3,
                    top_k,
                    top_p,
                    min_p,
                    draws: 3,
                    position: i as u64,
                    ..Default::default()
                };
                let params = spec.parse(|| 7).unwrap();
                rows.push(Row::new(Dtype::F16, &bytes[..len * 2], params).unwrap());
            }
        }
        let (mut expected, mut got) = (Results::default(), Results::default());
        Reference::default().sample(&rows, &mut expected).unwrap();
        for isa in Isa::supported() {
            let options = CpuOptions { isa: Some(isa), threads: 1 };
            Cpu::new(options).unwrap().sample(&rows, &mut got).unwrap();
            assert!(expected.iter().eq(got.iter()), "{isa}");
        }
    }

    #[test]
    fn inspections_equal_the_reference_on_every_isa() {
        // Few different values, zeros of both signs and -inf among them; then many.
        let coarse = |i: u32| [0.0, -0.0, 1.5, -2.0, f32::NEG_INFINITY, 3.0][i as usize % 6];
        let fine = |i: u32| (i >> 7) as f32 / 2e6 - 9.0;
        let hashed = |i: u32| i.wrapping_mul(2_654_435_761) ^ i.rotate_left(20);
        let mut rows_made = 0;
        let mut row = |value: &dyn Fn(u32) -> f32, n| -> (Dtype, Vec<u8>) {
            rows_made += 1;
            let x = (0..n).map(|i| value(hashed(i)));
            match Dtype::ALL[rows_made % 3] {
                Dtype::F16 => {
                    (Dtype::F16, x.flat_map(|x| half::f16::from_f32(x).to_le_bytes()).collect())
                }
                Dtype::Bf16 => {
                    (Dtype::Bf16, x.flat_map(|x| half::bf16::from_f32(x).to_le_bytes()).collect())
                }
                Dtype::F32 => (Dtype::F32, x.flat_map(f32::to_le_bytes).collect()),
            }
        };
        let mut stored = Vec::new();
        for n in [1, 2, 33, 513, 3000, 3001, 40_000, 70_000] {
            stored.push(row(&|i| coarse(i >> 9), n));
            stored.push(row(&fine, n));
            stored.push(row(&|_| 0.5, n));
            stored.push(row(&|i| (i >> 20) as f32 / -64.0, n));
        }
        let ids = |n: u32, count: u32| (0..count).map(|i| hashed(i) % (n + 2)).collect();
        let mut cases = Vec::new();
        for (i, (dtype, logits)) in stored.iter().enumerate() {
            let n = (logits.len() / dtype.size_bytes()) as u32;
            for (j, (temperature, top_k, top_p)) in
                [(0.0, 0, 1.0), (1.0, 0, 1.0), (0.3, 7, 1.0), (2.0, 0, 0.9), (1.0, 2500, 0.99)]
                    .into_iter()
                    .enumerate()
            {
                let k = i + j;
                let draws = [1, 1, 40][k % 3];
                let spec = ParamsSpec { temperature, top_k, top_p, draws, ..Default::default() };
                let asked = Inspect {
                    of: [k % 2 == 0, k % 3 == 0, k % 5 < 3],
                    top: [0, 3, 20, 1024][k % 4],
                    ids: ids(n, [0, 5, 200][k % 3]),
                    kept_ids_max: [None, Some(0), Some(5), Some(u32::MAX)][k / 2 % 4],
                    continuations: (k % 4 > 0).then_some(Continue {
                        count: [1, 8, 128, 2112, 9000][k % 5],
                        temperature: [1.0, 0.3, 50.0, 1e-4][k % 4],
                        normaliser: [Normaliser::Adjusted, Normaliser::Raw][k / 2 % 2],
                    }),
                };
                let biases = (0..n.min(9)).map(|i| (n / n.min(9) * i, i as f32 - 4.0));
                let lists = AdjustmentsSpec {
                    allowed_bitmask: (0..n.div_ceil(32)).map(|i| hashed(i) | 1).collect(),
                    logit_bias: if k % 2 == 0 { biases.collect() } else { vec![] },
                    ..Default::default()
                };
                let adjustments = lists.parse(n, Limits::default()).unwrap();
                cases.push((*dtype, logits, spec.parse(|| 7).unwrap(), asked, adjustments));
            }
        }
        let rows = cases.iter().flat_map(|(dtype, logits, params, asked, adjustments)| {
            let row = Row::new(*dtype, logits, *params).unwrap().with_inspect(Some(asked));
            [row, row.with_adjustments(Some(adjustments))]
        });
        let rows: Vec<_> = rows.collect();
        let (mut expected, mut got) = (Results::default(), Results::default());
        Reference::default().sample(&rows, &mut expected).unwrap();
        assert!(expected.iter().any(|row| row.inspection.is_some_and(|it| it.kept.is_some())));
        for isa in Isa::supported() {
            for threads in [1, 3] {
                let options = CpuOptions { isa: Some(isa), threads };
                Cpu::new(options).unwrap().sample(&rows, &mut got).unwrap();
                for (i, (a, b)) in expected.iter().zip(got.iter()).enumerate() {
                    assert_eq!(a.outcome, b.outcome, "{isa}, row {i}");
                    let same = a == b;
                    assert!(
                        same,
                        "{isa}, row {i}: {:?}\n{:.1200?}\n{:.1200?}",
                        rows[i].params(),
                        format!("{:?}", a.inspection),
                        format!("{:?}", b.inspection)
                    );
                }
            }
        }
    }
}
