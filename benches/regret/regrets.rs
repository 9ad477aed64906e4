//! What it costs on some rows that a setting was chosen on others of the same kind: its regret there. The bench prints it, and a test holds it to a bound.

use logitd::study::metrics::{Measure, Metric};
use logitd::study::search::{Axes, Point};
use logitd::tools::generate::Random;
use logitd_core::evaluate::cpu::{Cpu, Digested};
use logitd_core::evaluate::sets::Sets;
use logitd_core::evaluate::sums::GroupSums;
use logitd_core::evaluate::{Question, TailShare};

/// Neighbours, which are of one text and stay together.
pub const BLOCK: usize = 16;
/// How often rows are parted at random.
pub const SPLITS: usize = 60;
/// Names of goals, and the tail that each allows.
const GOALS: [(&str, f64); 2] = [("nll", f64::INFINITY), ("safe", 0.001)];
/// Rows are chosen on by so many parts of one half of all: an eighth of it, and so on.
const PARTS: [usize; 4] = [8, 4, 2, 1];

/// Mean regrets of a goal, in nats.
pub struct Regrets {
    /// The goal's name.
    pub goal: &'static str,
    /// What was chosen on so many rows, and its regret on the other half.
    pub chosen: Vec<(usize, f64)>,
    /// What is best on all rows.
    pub best: Point,
    /// Its regret on halves.
    pub of_best: f64,
    /// Settings that were tried.
    pub settings: usize,
}

/// Regrets of what is chosen of the default grid, for each goal. The rows that are over after whole pairs of blocks are left out.
///
/// # Panics
/// If there are less than two blocks.
pub fn regrets(rows: &[Digested], vocab_size: u32, threads: usize) -> Vec<Regrets> {
    let half = rows.len() / BLOCK / 2;
    assert!(half > 0, "{} rows are less than two blocks of {BLOCK}", rows.len());
    let points = Axes::default().grid().expect("the default grid");
    let sets = points.iter().map(|point| point.params().expect("valid")).collect();
    let sets = Sets::new(sets).expect("not too many");
    let question = Question { sets: &sets, tail: TailShare::default(), rows: false };
    let rows = &rows[..2 * half * BLOCK];
    let block = |row| (row / BLOCK) as u32;
    let sums = Cpu::new(threads).sums_by(rows, block, &question, |_| {});
    let blocks: Vec<&GroupSums> = sums.groups().map(|(_, sums)| sums).collect();
    let measure = Measure { miss_nats: f64::from(vocab_size).ln() };
    let mean = |of: &GroupSums, metric, i: usize| measure.mean(metric, of.rows, &of.sets[i]);
    let best = |of: &GroupSums, tail_max: f64| {
        let within = (0..points.len()).filter(|i| mean(of, Metric::Tail, *i) <= tail_max);
        within.min_by(|a, b| mean(of, Metric::Nll, *a).total_cmp(&mean(of, Metric::Nll, *b)))
    };
    let total = |of: &[usize]| {
        let mut total = GroupSums::new(points.len());
        of.iter().for_each(|block| total += blocks[*block]);
        total
    };
    let all: Vec<usize> = (0..2 * half).collect();
    let counts = PARTS.map(|part| half / part);
    let counts = counts.into_iter().filter(|count| *count > 0);
    let of_goal = |(goal, tail_max)| {
        // Of few rows, nothing may be within the limit: then what is best of all is taken, or what is first.
        let of_all = best(&total(&all), tail_max).unwrap_or_default();
        let mut chosen: Vec<_> = counts.clone().map(|count| (count * BLOCK, 0.0)).collect();
        let mut of_best = 0.0;
        let mut random = Random::new(3, 0);
        for _ in 0..SPLITS {
            let mut order = all.clone();
            (1..order.len()).rev().for_each(|i| order.swap(i, random.below(i as u64 + 1) as usize));
            let other = total(&order[half..]);
            let nll = |i| mean(&other, Metric::Nll, i);
            let own = nll(best(&other, tail_max).unwrap_or(of_all));
            of_best += (nll(of_all) - own) / SPLITS as f64;
            for (rows, regret) in &mut chosen {
                let taken = best(&total(&order[..*rows / BLOCK]), tail_max).unwrap_or(of_all);
                *regret += (nll(taken) - own) / SPLITS as f64;
            }
        }
        Regrets { goal, chosen, best: points[of_all], of_best, settings: points.len() }
    };
    GOALS.into_iter().map(of_goal).collect()
}
