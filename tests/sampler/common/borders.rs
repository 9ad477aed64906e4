//! Rows on which one unit in the last place of 2^40 decides: made for that, because no random row is.

use super::Case;
use logitd::tools::generate::{Random, Values};
use logitd_core::arithmetic::mass::{Scale, mass};
use logitd_core::batch::Dtype;
use logitd_core::params::ParamsSpec;

/// All of them.
pub fn all() -> Vec<Case> {
    let mut all = halves();
    all.extend(ties());
    all.extend(crowded_ties());
    all.extend(long_lists());
    all.extend(nuclei_just_missed());
    all
}

/// Tokens whose distance from the maximum, in units of the exponent, is all but half a whole number: there
/// an exponent that is rounded twice is another one.
fn halves() -> Vec<Case> {
    let case = |temperature: f32| {
        let c = f64::from(Scale::new(temperature).c);
        let near = |half: i32| {
            let d = (-(f64::from(half) + 0.5) / c) as f32;
            (-8..=8).map(move |ulps: i32| f32::from_bits(d.to_bits().wrapping_add_signed(ulps)))
        };
        let x: Vec<f32> = [0.0].into_iter().chain((0..38).flat_map(near)).collect();
        let spec = ParamsSpec { temperature, draws: 2, ..Default::default() };
        Case::values(&format!("halves at {temperature}"), Dtype::F32, &x, spec)
    };
    [0.7, 1.0, 1.3, 2.0].map(case).into()
}

/// Equal tokens of which a nucleus of a half holds exactly half.
fn ties() -> Vec<Case> {
    let case = |n: usize| {
        let spec = ParamsSpec { top_p: 0.5, draws: 9, ..Default::default() };
        Case::values(&format!("{n} ties"), Dtype::F16, &vec![1.5; n], spec)
    };
    [2, 4, 30, 64, 1000].map(case).into()
}

/// Cuts within a crowd of equal tokens, with greater ones among them.
fn crowded_ties() -> Vec<Case> {
    let case = |(i, spec): (usize, ParamsSpec)| {
        let vocab_size = 900 + 1100 * (i % 3);
        let x: Vec<f32> =
            (0..vocab_size).map(|token| if token % 7 == i % 7 { 1.0 } else { 0.5 }).collect();
        Case::values(&format!("crowded ties {i}"), Dtype::ALL[i % 3], &x, spec)
    };
    let spec = ParamsSpec { draws: 20, ..Default::default() };
    let top_k = [500, 777, 899].map(|top_k| ParamsSpec { top_k, ..spec });
    let top_p = [0.4, 0.7, 0.95].map(|top_p| ParamsSpec { top_p, ..spec });
    top_k.into_iter().chain(top_p).enumerate().map(case).collect()
}

/// As many tokens kept as fill a sorted list of some length, all different.
fn long_lists() -> Vec<Case> {
    let case = |top_k: u32| {
        let mut random = Random::new(u64::from(top_k), 0);
        let logits = Values::Model.logits(&mut random, Dtype::F32, 4 * top_k, 1.0);
        let spec = ParamsSpec { top_k, draws: 40, ..Default::default() };
        Case::new(format!("a list of {top_k}"), Dtype::F32, logits, spec)
    };
    [63, 64, 65, 130, 140, 150, 170, 190, 192, 250, 256, 300, 600, 900, 1024].map(case).into()
}

/// Two tokens, and a nucleus that asks for a fraction of a unit more than the first one has: the second is
/// kept, but not if the target is rounded down.
fn nuclei_just_missed() -> Vec<Case> {
    let scale = Scale::new(1.0);
    let top_p = |k: u64| k as f32 / (1 << 24) as f32; // exact
    let second = |k: u64| {
        // k * (2^40 + m) / 2^24 is to lie between 2^40 and 2^40 + 1.
        let missing = ((1 << 24) - k) << 16;
        let m = (missing << 24) / k + 1;
        if m * k >= (missing + 1) << 24 {
            return None;
        }
        // The greatest logit below 0 with a mass of m or less.
        let (mut low, mut high) = (1_u32, 40_f32.to_bits());
        while low < high {
            let middle = low.midpoint(high);
            let mass = mass(-f32::from_bits(middle), 0.0, scale);
            if mass <= m { high = middle } else { low = middle + 1 }
        }
        let x = -f32::from_bits(low);
        (mass(x, 0.0, scale) == m).then_some(x)
    };
    let cases: Vec<Case> = (1 << 23..1 << 24)
        .rev()
        .step_by(7)
        .filter_map(|k| second(k).map(|x| (k, x)))
        .take(5)
        .map(|(k, x)| {
            let spec = ParamsSpec { top_p: top_p(k), draws: 3, ..Default::default() };
            Case::values(&format!("a nucleus of {k} / 2^24"), Dtype::F32, &[0.0, x], spec)
        })
        .collect();
    assert_eq!(cases.len(), 5, "the masses have changed: look elsewhere");
    cases
}
