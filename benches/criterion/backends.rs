//! What a row costs on every instruction set, one thread, in cache, with the reference for comparison.
//! Every answer is compared with the reference before it is timed. `logitd bench` measures out of cache
//! and against a floor; `grid` looks for cliffs.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use logitd::files::assets;
use logitd_core::backend::Backend;
use logitd_core::backend::cpu::{Cpu, CpuOptions, Isa};
use logitd_core::backend::reference::Reference;
use logitd_core::batch::{Results, Row};
use logitd_core::params::ParamsSpec;

const VOCAB_SIZE: usize = 128_256;

fn cases() -> [(&'static str, ParamsSpec); 5] {
    let at = |temperature| ParamsSpec { temperature, ..Default::default() };
    [
        ("greedy", at(0.0)),
        ("top_k_top_p", ParamsSpec { top_k: 50, top_p: 0.95, ..at(0.8) }),
        ("top_p", ParamsSpec { top_p: 0.95, ..at(0.8) }),
        ("temperature", at(0.8)),
        ("top_p_t10", ParamsSpec { top_p: 0.95, ..at(10.0) }),
    ]
}

fn backends(c: &mut Criterion) {
    let logits = &assets::rows()[0].logits[..VOCAB_SIZE * assets::DTYPE.size_bytes()];
    let mut group = c.benchmark_group("backends");
    group.sample_size(20).throughput(Throughput::Bytes(logits.len() as u64));
    for (name, spec) in cases() {
        let params = spec.parse(|| 1).expect("valid parameters");
        let row = [Row::new(assets::DTYPE, logits, params).expect("a whole row")];
        let mut expected = Results::default();
        Reference::default().sample(&row, &mut expected).expect("the reference does not fail");
        let cpu = |isa| Cpu::new(CpuOptions { isa: Some(isa), threads: 1 }).expect("supported");
        let cpus = Isa::supported().map(|isa| (isa.name(), Box::new(cpu(isa)) as Box<dyn Backend>));
        let reference = ("reference", Box::new(Reference::default()) as Box<dyn Backend>);
        for (isa, mut backend) in cpus.chain([reference]) {
            let mut results = Results::default();
            backend.sample(&row, &mut results).expect("the processor does not fail");
            assert_eq!(results.row(0), expected.row(0), "{name} {isa}");
            group.bench_function(BenchmarkId::new(name, isa), |b| {
                b.iter(|| backend.sample(&row, &mut results));
            });
        }
    }
}

criterion_group!(benches, backends);
criterion_main!(benches);
