//! A row's result is its own: whatever batch it is in, wherever in it, with whatever batchmates, on
//! however many threads and with whatever instructions.

use crate::common::compare::{first_difference, sample};
use crate::common::real::carried;
use crate::common::{Case, Panel, candidates};
use logitd::tools::generate::Random;
use logitd_core::backend::{Backend, reference::Reference};
use logitd_core::batch::{Draw, Dtype, Outcome, Results, RowResult, RowStatus};
use logitd_core::inspection::Inspection;
use logitd_core::params::ParamsSpec;

const SEED: u64 = 11;

/// A result that outlives its table.
#[derive(Clone, Debug, PartialEq)]
struct Own(Outcome, Vec<Draw>, Option<Inspection>, Option<bool>);

impl From<RowResult<'_>> for Own {
    fn from(result: RowResult<'_>) -> Self {
        let RowResult { outcome, draws, inspection, accepted, .. } = result;
        Self(outcome, draws.to_vec(), inspection.cloned(), accepted)
    }
}

/// Rows of every dtype, size, status and setting, real ones among them.
fn mixed_rows() -> Vec<Case> {
    let spec = ParamsSpec { top_k: 50, top_p: 0.95, draws: 4, ..Default::default() };
    let real = [0, 3].map(|row| carried(row, spec));
    let flat = carried(5, ParamsSpec { temperature: 10.0, top_p: 0.9, ..Default::default() });
    let mut rows: Vec<Case> = (0..120).map(|i| Case::generated(SEED, i, 20_000)).collect();
    rows.extend(real);
    rows.push(flat);
    rows
}

/// What the oracle makes of each row alone.
fn alone(rows: &[Case]) -> Vec<Own> {
    let mut results = Results::default();
    let one = |case: &Case| {
        sample(&mut Reference::default(), &[case.place().row()], &mut results);
        results.row(0).into()
    };
    rows.iter().map(one).collect()
}

fn expect(backend: &mut dyn Backend, rows: &[Case], expected: &[Own], what: &str) {
    let placed: Vec<_> = rows.iter().map(Case::place).collect();
    let batch: Vec<_> = placed.iter().map(|p| p.row()).collect();
    let mut results = Results::default();
    sample(backend, &batch, &mut results);
    for ((case, expected), result) in rows.iter().zip(expected).zip(results.iter()) {
        let name = crate::common::candidates::name(backend);
        assert_eq!(Own::from(result), *expected, "{what}, {name}: {case}");
    }
}

fn pick<T: Clone>(of: &[T], places: &[usize]) -> Vec<T> {
    places.iter().map(|&place| of[place].clone()).collect()
}

#[test]
fn the_rows_are_of_every_kind() {
    let rows = mixed_rows();
    let results = alone(&rows);
    for status in
        [RowStatus::Ok, RowStatus::Nan, RowStatus::PositiveInfinity, RowStatus::NoCandidate]
    {
        assert!(results.iter().any(|r| r.0.status == status), "{status}");
    }
    for dtype in Dtype::ALL {
        assert!(rows.iter().any(|r| r.dtype == dtype), "{dtype}");
    }
}

#[test]
fn batch_size_does_not_matter() {
    let rows = mixed_rows();
    let expected = alone(&rows);
    for mut backend in candidates() {
        for size in [1, 2, 3, 7, 8, 16, 64, rows.len()] {
            for (rows, expected) in rows.chunks(size).zip(expected.chunks(size)) {
                expect(backend.as_mut(), rows, expected, &format!("batches of {size}"));
            }
        }
    }
}

#[test]
fn place_in_the_batch_does_not_matter() {
    let rows = mixed_rows();
    let expected = alone(&rows);
    let mut places: Vec<usize> = (0..rows.len()).collect();
    let mut random = Random::new(SEED, 1 << 40);
    for mut backend in candidates() {
        for round in 0..3 {
            for i in (1..places.len()).rev() {
                places.swap(i, random.below(i as u64 + 1) as usize);
            }
            let (rows, expected) = (pick(&rows, &places), pick(&expected, &places));
            expect(backend.as_mut(), &rows, &expected, &format!("shuffle {round}"));
        }
    }
}

#[test]
fn batchmates_do_not_matter() {
    let spec = ParamsSpec { top_p: 0.9, draws: 3, ..Default::default() };
    let row = |x: &[f32]| Case::values("batchmate", Dtype::F16, x, spec);
    let mates = [
        row(&[f32::NAN; 300]),
        row(&[f32::INFINITY, 0.0]),
        row(&[f32::NEG_INFINITY; 64]),
        row(&[1.0]),
        Case::values("batchmate", Dtype::F32, &[-f32::NAN, 1.0], spec),
        Case::values("greedy", Dtype::Bf16, &[2.0; 100], ParamsSpec { temperature: 0.0, ..spec }),
        carried(1, spec),
    ];
    let rows = mixed_rows();
    let expected = alone(&rows);
    let mate_results = alone(&mates);
    for mut backend in candidates() {
        for (mate, mate_result) in mates.iter().zip(&mate_results) {
            for at in (0..rows.len()).step_by(9) {
                let batch = [mate.clone(), rows[at].clone(), mate.clone()];
                let results = [mate_result.clone(), expected[at].clone(), mate_result.clone()];
                expect(backend.as_mut(), &batch, &results, "with a batchmate");
            }
        }
    }
}

#[test]
fn a_row_beside_itself_with_other_parameters_keeps_its_own() {
    let specs = [0.0, 0.5, 1.0, 2.0].map(|temperature| ParamsSpec {
        temperature,
        top_k: (temperature * 20.0) as u32,
        draws: 1 + temperature as u32,
        seed: Some(temperature.to_bits().into()),
        ..Default::default()
    });
    let rows: Vec<Case> = (0..16).map(|i| carried(2, specs[i % 4])).collect();
    let expected = alone(&rows);
    for mut backend in candidates() {
        expect(backend.as_mut(), &rows, &expected, "one row, four settings");
    }
}

/// A single large row is split over threads; so is a batch of fewer rows than there are threads.
#[test]
fn threads_and_instructions_do_not_matter() {
    let rows = mixed_rows();
    let large = &rows[rows.len() - 3..];
    let mut panel = Panel::default();
    panel.check(&rows);
    for few in [&large[..1], &large[1..2], &large[..2], large] {
        panel.check(few);
    }
}

#[test]
fn a_backend_answers_the_same_twice_and_after_other_work() {
    let rows = mixed_rows();
    let placed: Vec<_> = rows.iter().map(Case::place).collect();
    let batch: Vec<_> = placed.iter().map(|p| p.row()).collect();
    for mut backend in candidates() {
        let (mut first, mut again) = (Results::default(), Results::default());
        sample(backend.as_mut(), &batch, &mut first);
        sample(backend.as_mut(), &batch[..5], &mut again);
        sample(backend.as_mut(), &[], &mut again);
        assert!(again.is_empty());
        sample(backend.as_mut(), &batch, &mut again);
        assert_eq!(first_difference(&first, &again), None);
    }
}
