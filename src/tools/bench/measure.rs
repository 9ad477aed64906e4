//! Checks a case against the reference, then times it.

use super::cases::Case;
use super::median;
use logitd_core::backend::cpu::Cpu;
use logitd_core::backend::reference::Reference;
use logitd_core::backend::{Backend, DeviceError, DeviceInfo};
use logitd_core::batch::{Results, Row};
use std::error::Error;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Rows of a batch that are compared with the reference.
const CHECKED_ROWS: usize = 4;
/// Batches that are timed in cache, one after another.
const CACHED_BATCHES: usize = 16;
/// How often each of them is timed.
const CACHED_REPEATS: usize = 20;

/// A backend to be timed, and its floor.
pub struct Subject {
    backend: Box<dyn Timed>,
    results: Results,
}

/// A backend that can also just read its rows, for the floor.
trait Timed: Backend {
    fn read(&mut self, rows: &[Row<'_>]);
}

impl Timed for Cpu {
    fn read(&mut self, rows: &[Row<'_>]) {
        black_box(Self::read(self, rows));
    }
}

impl Subject {
    /// The processor.
    pub fn new(cpu: Cpu) -> Self {
        Self { backend: Box::new(cpu), results: Results::default() }
    }

    /// What it runs on.
    pub fn device(&self) -> &DeviceInfo {
        self.backend.device()
    }

    fn time_sample(&mut self, rows: &[Row<'_>]) -> Result<Duration, DeviceError> {
        let start = Instant::now();
        self.backend.sample(black_box(rows), &mut self.results)?;
        Ok(start.elapsed())
    }

    fn time_read(&mut self, rows: &[Row<'_>]) -> Duration {
        let start = Instant::now();
        self.backend.read(black_box(rows));
        start.elapsed()
    }
}

/// One line of the report.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Measurement {
    /// The name of the case.
    pub case: &'static str,
    /// What computed.
    pub device: String,
    /// Its instructions.
    pub isa: String,
    /// Its threads.
    pub threads: usize,
    /// How the logits are stored.
    pub dtype: &'static str,
    /// Rows of a batch.
    pub rows: usize,
    /// Tokens a row.
    pub vocab_size: u32,
    /// Whether the rows were in the caches of the cores.
    pub cached: bool,
    /// Time of a batch over its rows.
    pub us_per_row: f64,
    /// The same for one read.
    pub floor_us_per_row: f64,
    /// How many reads sampling takes: the median over pairs of passes.
    pub ratio: f64,
    /// Bytes of logits over the time.
    pub gb_per_s: f64,
}

/// Compares the first and the last rows of a batch with the reference, sampled with the others.
pub fn check(case: &Case, rows: &[Row<'_>], subject: &mut Subject) -> Result<(), Box<dyn Error>> {
    let Subject { backend, results } = subject;
    check_backend(case.name, rows, backend.as_mut(), results)
}

/// The same of any backend.
pub fn check_backend<B: Backend + ?Sized>(
    case: &str,
    rows: &[Row<'_>],
    backend: &mut B,
    results: &mut Results,
) -> Result<(), Box<dyn Error>> {
    backend.sample(rows, results)?;
    let first = CHECKED_ROWS.min(rows.len());
    let checked: Vec<usize> = (0..first).chain([rows.len() - 1]).collect();
    let batch: Vec<Row<'_>> = checked.iter().map(|&i| rows[i]).collect();
    let mut expected = Results::default();
    Reference::default().sample(&batch, &mut expected)?;
    for (&i, expected) in checked.iter().zip(expected.iter()) {
        if results.row(i) != expected {
            let device = backend.device();
            return Err(format!(
                "{} ({}) is wrong in row {i} of case {case}: {:?} where the reference has {expected:?}; \
                 nothing was timed. Please report this",
                device.id,
                device.isa,
                results.row(i),
            )
            .into());
        }
    }
    Ok(())
}

/// Times a case out of cache and in cache.
pub fn measure(
    case: &Case,
    rows: &[Row<'_>],
    subject: &mut Subject,
    passes: usize,
) -> Result<[Measurement; 2], DeviceError> {
    let mut cold = Pairs::default();
    for _ in 0..passes {
        cold.add(subject.time_read(rows), subject.time_sample(rows)?);
    }
    let mut hot = Pairs::default();
    let batch = subject.device().threads.clamp(1, rows.len());
    for rows in rows.chunks_exact(batch).take(CACHED_BATCHES) {
        subject.time_sample(rows)?;
        for _ in 0..CACHED_REPEATS {
            hot.add(subject.time_read(rows), subject.time_sample(rows)?);
        }
    }
    Ok([
        cold.measurement(case, &rows[..1], rows.len(), false, subject),
        hot.measurement(case, &rows[..1], batch, true, subject),
    ])
}

/// Seconds of reads, and of samplings beside them.
#[derive(Default)]
struct Pairs {
    reads: Vec<f64>,
    samplings: Vec<f64>,
    ratios: Vec<f64>,
}

impl Pairs {
    fn add(&mut self, read: Duration, sampling: Duration) {
        let (read, sampling) = (read.as_secs_f64(), sampling.as_secs_f64());
        self.reads.push(read);
        self.samplings.push(sampling);
        self.ratios.push(sampling / read);
    }

    fn measurement(
        &mut self,
        case: &Case,
        like: &[Row<'_>],
        rows: usize,
        cached: bool,
        subject: &Subject,
    ) -> Measurement {
        let us_per_row = median(&mut self.samplings) * 1e6 / rows as f64;
        let DeviceInfo { id, isa, threads, .. } = subject.device();
        Measurement {
            case: case.name,
            device: id.clone(),
            isa: isa.clone(),
            threads: *threads,
            dtype: like[0].dtype().name(),
            rows,
            vocab_size: like[0].vocab_size(),
            cached,
            us_per_row,
            floor_us_per_row: median(&mut self.reads) * 1e6 / rows as f64,
            ratio: median(&mut self.ratios),
            gb_per_s: like[0].bytes() as f64 / us_per_row / 1e3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{CASES, Rows};
    use super::*;
    use logitd_core::backend::cpu::{CpuOptions, Isa};
    use logitd_core::batch::{Dtype, Slot};

    fn subject() -> Subject {
        Subject::new(Cpu::new(CpuOptions { isa: Some(Isa::detect()), threads: 1 }).unwrap())
    }

    fn named(name: &str) -> &'static Case {
        CASES.iter().find(|case| case.name == name).unwrap()
    }

    #[test]
    fn every_case_passes_its_check_on_small_rows() {
        let mut subject = subject();
        for case in CASES {
            let rows = Rows::normal(Dtype::F16, 2000, 6);
            let adjustments = case.adjustments(rows.vocab_size());
            let inspect = case.inspect();
            let rows = rows.batch(case.params()).into_iter().map(|row| {
                row.with_adjustments(adjustments.as_ref()).with_inspect(inspect.as_ref())
            });
            let rows: Vec<_> = rows.collect();
            check(case, &rows, &mut subject).unwrap();
        }
    }

    /// Swaps the tokens of all rows.
    struct Wrong(Cpu);

    impl Backend for Wrong {
        fn device(&self) -> &DeviceInfo {
            self.0.device()
        }

        fn sample(&mut self, rows: &[Row<'_>], results: &mut Results) -> Result<(), DeviceError> {
            self.0.sample(rows, results)?;
            let tokens: Vec<u32> = results.iter().map(|row| row.draws[0].token).collect();
            for (Slot { draws, .. }, token) in results.slots().zip(tokens.into_iter().rev()) {
                draws[0].token = token;
            }
            Ok(())
        }
    }

    impl Timed for Wrong {
        fn read(&mut self, _: &[Row<'_>]) {}
    }

    #[test]
    fn a_wrong_answer_is_not_timed() {
        let cpu = Cpu::new(CpuOptions::default()).unwrap();
        let mut subject = Subject { backend: Box::new(Wrong(cpu)), results: Results::default() };
        let rows = Rows::normal(Dtype::F16, 2000, 5);
        let case = named("temperature");
        let error = check(case, &rows.batch(case.params()), &mut subject).unwrap_err();
        assert!(error.to_string().contains("case temperature"), "{error}");
    }

    #[test]
    fn a_measurement_is_about_its_rows() {
        let rows = Rows::constant(Dtype::F16, 1000, 3);
        let case = named("greedy");
        let [cold, hot] = measure(case, &rows.batch(case.params()), &mut subject(), 3).unwrap();
        assert_eq!((cold.rows, cold.cached, hot.rows, hot.cached), (3, false, 1, true));
        assert!(cold.us_per_row > 0.0 && cold.floor_us_per_row > 0.0 && cold.ratio > 0.0);
    }
}
