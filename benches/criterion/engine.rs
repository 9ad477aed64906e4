//! What the engine costs a request, from submission to completion, on backends that do next to
//! nothing or take a fixed time a row. Printed is the time a row: 256 callers with one row each have
//! to come close to one caller with 256.

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use logitd::engine::{Engine, EngineConfig, Priority, Request, RequestRow, Source};
use logitd_core::backend::{Backend, DeviceError, DeviceInfo};
use logitd_core::batch::{Dtype, Results, Row};
use logitd_core::params::ParamsSpec;
use std::hint::spin_loop;
use std::time::{Duration, Instant};

/// Answers each row with its own seed, after a while.
struct Fixed {
    device: DeviceInfo,
    row_time: Duration,
}

impl Fixed {
    fn new(row_time: Duration) -> Self {
        let text = |text: &str| text.to_owned();
        let device =
            DeviceInfo { id: text("fixed"), name: text("none"), isa: text("none"), threads: 1 };
        Self { device, row_time }
    }
}

impl Backend for Fixed {
    fn device(&self) -> &DeviceInfo {
        &self.device
    }

    fn sample(&mut self, rows: &[Row<'_>], results: &mut Results) -> Result<(), DeviceError> {
        let end = Instant::now() + self.row_time * rows.len() as u32;
        results.reset(rows);
        for (row, slot) in rows.iter().zip(results.slots()) {
            slot.draws[0].token = row.params().seed() as u32;
        }
        while Instant::now() < end {
            spin_loop();
        }
        Ok(())
    }
}

fn request(seeds: std::ops::Range<u64>, logits: &Bytes, deadline: bool) -> Request {
    let row = |seed| {
        let params = ParamsSpec { seed: Some(seed), ..Default::default() }.parse(|| 0).unwrap();
        RequestRow::new(Dtype::F16, logits.clone(), params).unwrap()
    };
    let deadline = deadline.then(|| Instant::now() + Duration::from_secs(10));
    Request {
        rows: seeds.map(row).collect(),
        deadline,
        priority: Priority::Normal,
        source: Source::default(),
    }
}

/// One caller: asks, waits, checks, `times` over.
async fn call(engine: Engine, rows: u64, times: u64, deadline: bool) {
    let logits = Bytes::from_static(&[0; 64]);
    for n in 0..times {
        let request = request(n..n + rows, &logits, deadline);
        let permit = engine.reserve(request.rows.len(), request.bytes()).unwrap();
        let completed = engine.submit(permit, request).unwrap().await.unwrap();
        for (result, seed) in completed.results.iter().zip(n..) {
            assert_eq!(result.draws[0].token, seed as u32);
        }
        assert_eq!(completed.results.len(), rows as usize);
    }
}

fn engine(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut group = c.benchmark_group("engine");
    group.sample_size(20).throughput(Throughput::Elements(1));
    for row_us in [0, 1, 5, 20] {
        for (callers, rows, deadline) in
            [(1, 256, false), (256, 1, false), (256, 1, true), (32, 8, false), (1, 1, false)]
        {
            let name = format!("{callers}x{rows}{}", if deadline { "_deadline" } else { "" });
            group.bench_function(BenchmarkId::new(name, format!("{row_us}us")), |b| {
                b.iter_custom(|total| {
                    let backend = Box::new(Fixed::new(Duration::from_micros(row_us)));
                    let engine = Engine::start(EngineConfig::default(), vec![backend as _]);
                    let times = total.div_ceil(callers * rows);
                    let start = Instant::now();
                    runtime.block_on(async {
                        let calls = (0..callers)
                            .map(|_| runtime.spawn(call(engine.clone(), rows, times, deadline)));
                        for call in calls.collect::<Vec<_>>() {
                            call.await.unwrap();
                        }
                    });
                    // Scaled to what was asked for: whole requests only were made.
                    start.elapsed().mul_f64(total as f64 / (times * callers * rows) as f64)
                });
            });
        }
    }
}

criterion_group!(benches, engine);
criterion_main!(benches);
