//! Draws follow the distribution that the parameters ask for, and are independent of each other.
//!
//! The judge is an f64 softmax with the cuts applied by its own sort: nothing of the arithmetic but
//! its definition. Seeds are fixed, so a run gives the same verdict as the last. They were not chosen:
//! for draws that follow the distribution, a p-value below [`P_LEAST`] comes up once in 10,000 seeds.

use crate::common::Case;
use crate::common::compare::sample;
use crate::common::real::carried;
use logitd::tools::generate::Random;
use logitd_core::backend::cpu::{Cpu, CpuOptions};
use logitd_core::batch::{Draw, Results};
use logitd_core::params::{DRAWS_MAX, DrawRule, ParamsSpec};

/// Draws a verdict is based on: 98 positions of 1,024.
const DRAWS: usize = 98 * DRAWS_MAX as usize;
/// p-values outside `P_LEAST ..= 1 - P_LEAST` fail: too far from the distribution, or too close.
const P_LEAST: f64 = 1e-4;
/// Planted faults must be beyond doubt.
const P_CAUGHT: f64 = 1e-9;

/// Real rows, and parameters of every kind of cut.
fn settings() -> Vec<(usize, ParamsSpec)> {
    let spec = |temperature, top_k, top_p, min_p| ParamsSpec {
        temperature,
        top_k,
        top_p,
        min_p,
        draws: DRAWS_MAX,
        ..Default::default()
    };
    let race = |spec| ParamsSpec { draw_rule: DrawRule::Race, ..spec };
    vec![
        (0, race(spec(1.0, 50, 1.0, 0.0))),
        (3, race(spec(0.8, 0, 0.95, 0.0))),
        (6, race(spec(2.0, 1000, 0.999, 0.0))),
        (0, spec(1.0, 0, 1.0, 0.0)),
        (1, spec(0.7, 0, 1.0, 0.0)),
        (2, spec(1.0, 50, 1.0, 0.0)),
        (3, spec(0.8, 50, 0.95, 0.0)),
        (4, spec(1.0, 0, 0.9, 0.0)),
        (5, spec(1.5, 0, 1.0, 0.05)),
        (6, spec(2.0, 1000, 0.999, 0.0)),
        (7, spec(1.2, 200, 0.98, 0.01)),
        (0, spec(10.0, 0, 1.0, 0.0)),
        (1, spec(1e4, 0, 0.5, 0.0)),
    ]
}

/// [`DRAWS`] draws of a row, 1,024 at each position from 0 on. Also checks each logprob.
fn draws(row: usize, spec: ParamsSpec, truth: &Truth) -> Vec<u32> {
    let mut cpu = Cpu::new(CpuOptions::default()).expect("a machine has a CPU");
    let case = carried(row, spec);
    let placed = case.place();
    let mut results = Results::default();
    let mut tokens = Vec::with_capacity(DRAWS);
    for position in 0..(DRAWS / DRAWS_MAX as usize) as u64 {
        let params = ParamsSpec { position, ..spec }.parse(|| 0).unwrap();
        let row = placed.row();
        let row = logitd_core::batch::Row::new(row.dtype(), row.logits(), params).unwrap();
        sample(&mut cpu, &[row], &mut results);
        let result = results.row(0);
        assert_eq!(result.outcome.kept as usize, truth.kept, "{case}");
        tokens.extend(result.draws.iter().map(|draw| truth.checked(draw)));
    }
    assert_eq!(tokens.len(), DRAWS);
    tokens
}

/// The distribution in f64: the probability of every token, 0 where it is cut.
struct Truth {
    probability: Vec<f64>,
    kept: usize,
}

impl Truth {
    fn of(case: &Case) -> Self {
        let spec = crate::common::case::spec(&case.params);
        let x: Vec<f64> = case
            .patterns()
            .iter()
            .map(|&p| crate::common::case::value(case.dtype, p).into())
            .collect();
        let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let temperature = f64::from(spec.temperature);
        let weight: Vec<f64> = x.iter().map(|x| ((x - max) / temperature).exp()).collect();
        let mut order: Vec<usize> = (0..x.len()).collect();
        order.sort_by(|&a, &b| x[b].total_cmp(&x[a]).then(a.cmp(&b)));

        if spec.top_k > 0 {
            order.truncate(spec.top_k as usize);
        }
        let total: f64 = order.iter().map(|&i| weight[i]).sum();
        let mut before = 0.0;
        let in_nucleus = |&&i: &&usize| {
            let inside = spec.top_p >= 1.0 || before < f64::from(spec.top_p) * total;
            before += weight[i];
            inside
        };
        let nucleus = order.iter().take_while(in_nucleus).count();
        let likely = order.iter().take_while(|&&i| weight[i] >= f64::from(spec.min_p)).count();
        order.truncate(nucleus.min(likely));

        let kept: f64 = order.iter().map(|&i| weight[i]).sum();
        let mut probability = vec![0.0; x.len()];
        order.iter().for_each(|&i| probability[i] = weight[i] / kept);
        Self { probability, kept: order.len() }
    }

    /// The token of a draw, once its logprob is found right.
    fn checked(&self, draw: &Draw) -> u32 {
        let exact = self.probability[draw.token as usize].ln();
        let error = (f64::from(draw.logprob) - exact).abs();
        assert!(error <= 1e-5, "token {}: logprob {}, not {exact}", draw.token, draw.logprob);
        draw.token
    }

    /// Bins of neighbouring ids with at least 5 expected draws each: for each token its bin, and for
    /// each bin what is expected.
    fn bins(&self, draws: usize) -> (Vec<usize>, Vec<f64>) {
        let mut expected = vec![0.0];
        let mut bin_of = Vec::with_capacity(self.probability.len());
        for &p in &self.probability {
            if expected.last().is_some_and(|&e| e >= 5.0) {
                expected.push(0.0);
            }
            let last = expected.len() - 1;
            expected[last] += p * draws as f64;
            bin_of.push(last);
        }
        // The last bin may have come out small: it goes to the one before.
        if expected.len() > 1 && expected[expected.len() - 1] < 5.0 {
            let small = expected.pop().expect("there are two");
            let last = expected.len() - 1;
            expected[last] += small;
            bin_of.iter_mut().for_each(|bin| *bin = (*bin).min(last));
        }
        (bin_of, expected)
    }

    /// The chance of draws at least this far from the distribution, if they follow it.
    fn p_value(&self, tokens: &[u32]) -> f64 {
        let (bin_of, expected) = self.bins(tokens.len());
        let mut seen = vec![0.0; expected.len()];
        for &token in tokens {
            assert!(self.probability[token as usize] > 0.0, "token {token} was cut");
            seen[bin_of[token as usize]] += 1.0;
        }
        assert!(expected.len() >= 3, "{} bins say nothing", expected.len());
        let terms = seen.iter().zip(&expected).map(|(seen, e)| (seen - e) * (seen - e) / e);
        p_of_chi_square(terms.sum(), (expected.len() - 1) as f64)
    }
}

fn in_bounds(p: f64) -> bool {
    (P_LEAST..=1.0 - P_LEAST).contains(&p)
}

#[test]
fn draws_follow_the_softmax_under_every_setting() {
    for (row, spec) in settings() {
        let truth = Truth::of(&carried(row, spec));
        let p = truth.p_value(&draws(row, spec, &truth));
        println!("carried row {row}, {} kept: p = {p:.4}", truth.kept);
        assert!(in_bounds(p), "carried row {row}, {spec:?}: p = {p:e}");
    }
}

/// Draw and draw + 1, and position and position + 1, fall into like bins no more often than chance
/// has it: a table of 10 x 10 bins of about equal probability, against what independence expects.
#[test]
fn neighbouring_draws_and_positions_are_independent() {
    for (row, spec) in [settings().swap_remove(0), settings().swap_remove(8)] {
        let truth = Truth::of(&carried(row, spec));
        let bins = bins_of(&draws(row, spec, &truth), &truth);
        let positions = DRAWS_MAX as usize;
        for (what, distance) in [("draws", 1), ("draws two apart", 2), ("positions", positions)] {
            let pairs = bins.iter().zip(&bins[distance..]).map(|(&a, &b)| (a, b));
            let p = p_of_pairs(pairs);
            assert!(in_bounds(p), "carried row {row}, {spec:?}, {what}: p = {p:e}");
        }
    }
}

#[test]
fn neighbouring_seeds_are_independent() {
    let (row, spec) = settings().swap_remove(0);
    let truth = Truth::of(&carried(row, spec));
    let seeds = [1, 2]
        .map(|seed| bins_of(&draws(row, ParamsSpec { seed: Some(seed), ..spec }, &truth), &truth));
    let p = p_of_pairs(seeds[0].iter().copied().zip(seeds[1].iter().copied()));
    assert!(in_bounds(p), "p = {p:e}");
}

/// Each token's tenth of the distribution, in the order of ids.
fn bins_of(tokens: &[u32], truth: &Truth) -> Vec<usize> {
    let mut before = 0.0;
    let tenth = |p: &f64| {
        let bin = ((before + p / 2.0) * 10.0) as usize;
        before += p;
        bin.min(9)
    };
    let tenths: Vec<usize> = truth.probability.iter().map(tenth).collect();
    tokens.iter().map(|&token| tenths[token as usize]).collect()
}

/// Pearson's test of independence. Bins that nothing fell into are left out.
fn p_of_pairs(pairs: impl Iterator<Item = (usize, usize)>) -> f64 {
    let (mut table, mut rows, mut columns, mut n) = ([[0.0; 10]; 10], [0.0; 10], [0.0; 10], 0.0);
    for (a, b) in pairs {
        table[a][b] += 1.0;
        rows[a] += 1.0;
        columns[b] += 1.0;
        n += 1.0;
    }
    let mut chi_square = 0.0;
    for (a, b) in (0..10).flat_map(|a| (0..10).map(move |b| (a, b))) {
        let expected: f64 = rows[a] * columns[b] / n;
        if expected > 0.0 {
            chi_square += (table[a][b] - expected) * (table[a][b] - expected) / expected;
        }
    }
    let used = |sums: [f64; 10]| sums.iter().filter(|&&sum| sum > 0.0).count() as f64 - 1.0;
    p_of_chi_square(chi_square, used(rows) * used(columns))
}

/// A judge that accepts everything would pass all of the above.
mod the_judge_itself {
    use super::*;

    fn setting() -> (ParamsSpec, Truth, Vec<u32>) {
        let (row, spec) = settings().swap_remove(0);
        let truth = Truth::of(&carried(row, spec));
        let tokens = draws(row, spec, &truth);
        (spec, truth, tokens)
    }

    #[test]
    fn catches_three_percent_of_draws_moved_to_the_likeliest_token() {
        let (_, truth, mut tokens) = setting();
        let likeliest = (0..truth.probability.len())
            .max_by(|&a, &b| truth.probability[a].total_cmp(&truth.probability[b]))
            .expect("a row has tokens") as u32;
        let mut random = Random::new(1, 1);
        tokens.iter_mut().for_each(|token| {
            if random.below(100) < 3 {
                *token = likeliest;
            }
        });
        let p = truth.p_value(&tokens);
        assert!(p < P_CAUGHT, "p = {p:e}");
    }

    #[test]
    fn catches_a_temperature_off_by_three_percent() {
        let (spec, _, tokens) = setting();
        let off = ParamsSpec { temperature: spec.temperature * 1.03, ..spec };
        let p = Truth::of(&carried(0, off)).p_value(&tokens);
        assert!(p < P_CAUGHT, "p = {p:e}");
    }

    #[test]
    fn catches_draws_that_are_too_even() {
        let (_, truth, tokens) = setting();
        let mut even: Vec<u32> = Vec::new();
        for (token, &p) in truth.probability.iter().enumerate() {
            let times = (p * tokens.len() as f64).round() as usize;
            even.extend(std::iter::repeat_n(token as u32, times));
        }
        assert!(truth.p_value(&even) > 1.0 - P_CAUGHT);
    }

    #[test]
    fn catches_one_draw_in_thirty_repeating_the_one_before() {
        let (_, truth, mut tokens) = setting();
        let mut random = Random::new(1, 2);
        for i in 1..tokens.len() {
            if random.below(30) == 0 {
                tokens[i] = tokens[i - 1];
            }
        }
        let bins = bins_of(&tokens, &truth);
        let p = p_of_pairs(bins.iter().zip(&bins[1..]).map(|(&a, &b)| (a, b)));
        assert!(p < P_CAUGHT, "p = {p:e}");
        assert!(in_bounds(truth.p_value(&tokens)), "each draw alone is as it should be");
    }

    /// Quantiles from printed tables.
    #[test]
    fn knows_the_chi_square_distribution() {
        for (chi_square, freedom, p) in [
            (3.841_459, 1.0, 0.05),
            (10.827_566, 1.0, 0.001),
            (18.307_038, 10.0, 0.05),
            (2.155_856, 10.0, 0.995),
            (124.342_113, 100.0, 0.05),
            (149.449_253, 100.0, 0.001),
            (1_074.679_449, 1000.0, 0.05),
        ] {
            let got = p_of_chi_square(chi_square, freedom);
            assert!((got - p).abs() < 1e-6, "{chi_square}, {freedom}: {got}");
        }
    }
}

/// The chance that chi-square with so many degrees of freedom is at least this: the regularised upper
/// incomplete gamma function, by its series below the mean and its continued fraction above.
pub fn p_of_chi_square(chi_square: f64, freedom: f64) -> f64 {
    let (a, x) = (freedom / 2.0, chi_square / 2.0);
    if x <= 0.0 {
        return 1.0;
    }
    let front = (a * x.ln() - x - libm::lgamma(a)).exp();
    if x < a + 1.0 {
        let (mut term, mut sum, mut n) = (1.0 / a, 1.0 / a, a);
        while term > sum * 1e-16 {
            n += 1.0;
            term *= x / n;
            sum += term;
        }
        1.0 - front * sum
    } else {
        // Lentz's method.
        let mut b = x + 1.0 - a;
        let (mut c, mut d) = (1e300, 1.0 / b);
        let mut h = d;
        for i in 1..100_000 {
            let i = f64::from(i);
            let an = i * (a - i);
            b += 2.0;
            d = 1.0 / (an * d + b);
            c = b + an / c;
            h *= d * c;
            if (d * c - 1.0).abs() < 1e-15 {
                break;
            }
        }
        front * h
    }
}
