//! Every 16-bit pattern as a token, at temperatures from one end of the range to the other.

use crate::common::case::{pack, value};
use crate::common::{Case, Panel};
use logitd::tools::generate::Random;
use logitd_core::batch::Dtype;
use logitd_core::params::ParamsSpec;

const SIXTEEN_BITS: [Dtype; 2] = [Dtype::F16, Dtype::Bf16];
const TEMPERATURES: [f32; 9] = [1e-30, 1e-4, 0.02, 0.7, 1.0, 1.7, 40.0, 900.0, 1e4];

/// Every pattern that a row with a token can have: all but NaN and +inf.
fn patterns(dtype: Dtype) -> Vec<u32> {
    let all = (0..=0xffff).filter(|&p| value(dtype, p) < f32::INFINITY);
    all.collect()
}

/// One row of all of them. Its mass is that of the few that are close to the maximum, so rows of
/// all below each of some maxima follow.
#[test]
fn all_patterns_in_one_row_in_several_orders() {
    let mut panel = Panel::default();
    for dtype in SIXTEEN_BITS {
        let ascending = patterns(dtype);
        let descending: Vec<u32> = ascending.iter().rev().copied().collect();
        let shuffled = shuffle(&ascending);
        for temperature in TEMPERATURES {
            let spec = ParamsSpec { temperature, draws: 64, seed: Some(1), ..Default::default() };
            let mut cases = Vec::new();
            for (name, order) in
                [("ascending", &ascending), ("descending", &descending), ("shuffled", &shuffled)]
            {
                for max in [f32::MAX, 30.0, 0.0, -1.0] {
                    let below: Vec<u32> =
                        order.iter().copied().filter(|&p| value(dtype, p) <= max).collect();
                    let name = format!("all patterns up to {max:e}, {name}");
                    cases.push(Case::bits(&name, dtype, &below, spec));
                }
            }
            panel.check(&cases);
            let row = panel.expected().row(0);
            // -inf is no candidate, every other one is kept.
            assert_eq!(row.outcome.kept as usize, ascending.len() - 1);
            assert_eq!(row.draws.len(), 64);
        }
    }
}

/// Each pattern in a row with zero: as the tail where it is below, as the maximum where it is above.
/// The kept mass is then the mass of that pattern's distance, seen alone.
#[test]
fn every_pattern_as_a_rows_second_token() {
    every_pattern(1);
}

/// The same with the pattern in every lane of a vector, wherever the vectors begin.
#[test]
fn every_pattern_in_every_lane() {
    every_pattern(34);
}

fn every_pattern(copies: usize) {
    let mut panel = Panel::of_one_thread();
    for dtype in SIXTEEN_BITS {
        for temperature in TEMPERATURES {
            let spec = ParamsSpec { temperature, seed: Some(3), ..Default::default() };
            for chunk in patterns(dtype).chunks(4096) {
                let case = |&pattern: &u32| {
                    let mut row = vec![0];
                    row.extend(std::iter::repeat_n(pattern, copies));
                    let name = format!("0 and {copies} of {:e}", value(dtype, pattern));
                    Case::new(name, dtype, pack(dtype, &row), spec)
                };
                panel.check(&chunk.iter().map(case).collect::<Vec<_>>());
            }
        }
    }
}

fn shuffle(patterns: &[u32]) -> Vec<u32> {
    let mut shuffled = patterns.to_vec();
    let mut random = Random::new(4, 0);
    for i in (1..shuffled.len()).rev() {
        shuffled.swap(i, random.below(i as u64 + 1) as usize);
    }
    shuffled
}
