//! Two backends, the same rows, the same bits.

use super::candidates::name;
use super::{Case, candidates, shrink};
use logitd_core::backend::{Backend, reference::Reference};
use logitd_core::batch::{Results, Row};

/// Samples with a backend that must not fail. Old results are left in place for it to overwrite.
pub fn sample(backend: &mut dyn Backend, rows: &[Row<'_>], results: &mut Results) {
    if let Err(error) = backend.sample(rows, results) {
        panic!("{}: {error}", name(backend));
    }
}

/// Holds two backends to the same bits over a batch. The difference comes back as a report: the
/// first row that differs, both answers, and the smallest case found that still shows it.
pub fn agree(a: &mut dyn Backend, b: &mut dyn Backend, cases: &[Case]) -> Result<(), String> {
    let (mut expected, mut got) = (Results::default(), Results::default());
    let placed: Vec<_> = cases.iter().map(Case::place).collect();
    let rows: Vec<_> = placed.iter().map(|p| p.row()).collect();
    sample(a, &rows, &mut expected);
    sample(b, &rows, &mut got);
    match first_difference(&expected, &got) {
        None => Ok(()),
        Some(at) => Err(report(a, b, cases, at, &expected, &got)),
    }
}

/// The oracle and everything that must agree with it.
pub struct Panel {
    oracle: Reference,
    candidates: Vec<Box<dyn Backend>>,
    expected: Results,
    /// Kept from batch to batch, so that every batch is written over old results.
    got: Results,
}

impl Default for Panel {
    fn default() -> Self {
        Self {
            oracle: Reference::default(),
            candidates: candidates(),
            expected: Results::default(),
            got: Results::default(),
        }
    }
}

impl Panel {
    /// The oracle against these.
    pub fn of(candidates: Vec<Box<dyn Backend>>) -> Self {
        Self { candidates, ..Self::default() }
    }

    /// The oracle against one of each kind, for what no number of threads can change.
    pub fn of_one_thread() -> Self {
        let all = candidates().into_iter();
        Self::of(all.filter(|candidate| candidate.device().threads <= 1).collect())
    }

    /// Compares one batch, which the oracle samples once. The first difference: which candidate,
    /// and which row.
    pub fn differs(&mut self, cases: &[Case]) -> Option<(usize, usize)> {
        let placed: Vec<_> = cases.iter().map(Case::place).collect();
        let rows: Vec<_> = placed.iter().map(|p| p.row()).collect();
        sample(&mut self.oracle, &rows, &mut self.expected);
        self.candidates.iter_mut().enumerate().find_map(|(which, candidate)| {
            sample(candidate.as_mut(), &rows, &mut self.got);
            first_difference(&self.expected, &self.got).map(|at| (which, at))
        })
    }

    /// Compares one batch.
    ///
    /// # Panics
    /// With a report if any backend differs.
    #[track_caller]
    pub fn check(&mut self, cases: &[Case]) {
        if let Some((which, at)) = self.differs(cases) {
            let candidate = self.candidates[which].as_mut();
            panic!("{}", report(&mut self.oracle, candidate, cases, at, &self.expected, &self.got));
        }
    }

    /// What the oracle said of the batch compared last.
    pub fn expected(&self) -> &Results {
        &self.expected
    }
}

/// The first row whose results differ in any bit.
pub fn first_difference(expected: &Results, got: &Results) -> Option<usize> {
    assert_eq!(expected.len(), got.len(), "as many results as rows");
    expected.iter().zip(got.iter()).position(|(a, b)| a != b)
}

fn report(
    a: &mut dyn Backend,
    b: &mut dyn Backend,
    cases: &[Case],
    at: usize,
    expected: &Results,
    got: &Results,
) -> String {
    let mut text = format!(
        "{} and {} differ at row {at} of {}\n{}\n{}\n",
        name(a),
        name(b),
        cases.len(),
        cases[at],
        answers(expected, got, at)
    );
    let mut differ = |case: &Case| {
        let (mut x, mut y) = (Results::default(), Results::default());
        let placed = case.place();
        sample(a, &[placed.row()], &mut x);
        sample(b, &[placed.row()], &mut y);
        first_difference(&x, &y).map(|_| answers(&x, &y, 0))
    };
    if differ(&cases[at]).is_none() {
        text += "alone, the row does not differ: it takes its batch\n";
    } else {
        let small = shrink::smallest(&cases[at], |case| differ(case).is_some());
        let answers = differ(&small).expect("shrinking keeps the difference");
        text += &format!("shrunk from {small}\n{answers}\n");
    }
    text
}

fn answers(expected: &Results, got: &Results, at: usize) -> String {
    let (expected, got) = (expected.row(at), got.row(at));
    let mut text = format!("  {:?}\n  {:?}", expected.outcome, got.outcome);
    let draws = expected.draws.iter().zip(got.draws).enumerate();
    for (draw, (a, b)) in draws.filter(|(_, (a, b))| a != b).take(3) {
        let bits = |x: f32| format!("{x:e} ({:#010x})", x.to_bits());
        text += &format!(
            "\n  draw {draw}: token {} logprob {}\n  draw {draw}: token {} logprob {}",
            a.token,
            bits(a.logprob),
            b.token,
            bits(b.logprob)
        );
    }
    if expected.inspection != got.inspection {
        text += &format!("\n  {:?}\n  {:?}", expected.inspection, got.inspection);
    }
    text
}
