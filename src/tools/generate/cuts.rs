//! Parameters of a generated row: the ends of every range, what people use, and cuts that fall on
//! the borders of that very row, or one unit in the last place beside them.

use super::random::Random;
use logitd_core::arithmetic::mass::{Scale, mass};
use logitd_core::batch::{Dtype, Row};
use logitd_core::params::{DRAWS_MAX, DrawRule, ParamsSpec, SamplingParams, TEMPERATURE_RANGE};

/// The largest f32 below 1.
const BELOW_ONE: f32 = 1.0 - f32::EPSILON / 2.0;
/// Tokens looked at for all draws of a row: a sort-based reference takes a pass a draw.
const DRAWS_TIMES_VOCAB_SIZE_MAX: u32 = 1 << 22;

/// A temperature: greedy, an end of the range, common, tiny, or anything.
pub fn temperature(random: &mut Random) -> f32 {
    let (low, high) = TEMPERATURE_RANGE;
    match random.below(8) {
        0 | 1 => libm::powf(10.0, random.unit() * 8.0 - 4.0).min(high),
        2 | 3 => 0.05 + 2.0 * random.unit(),
        4 => libm::powf(10.0, random.unit() * 26.0 - 30.0).max(low),
        _ => random.pick(&[
            0.0,
            low,
            low.next_up(),
            1e-7,
            1e-4,
            0.01,
            0.5,
            0.7,
            0.8,
            1.0,
            1.3,
            10.0,
            high,
        ]),
    }
}

/// Parameters at that temperature, with cuts aimed at these logits.
pub fn params(
    random: &mut Random,
    dtype: Dtype,
    logits: &[u8],
    temperature: f32,
) -> SamplingParams {
    let spec = ParamsSpec { temperature, seed: Some(random.edge_u64()), ..Default::default() };
    let parse = |spec: ParamsSpec| spec.parse(|| 0).expect("every range is kept");
    let row = Row::new(dtype, logits, parse(spec)).expect("1 to 2^20 whole logits");
    let x: Vec<f32> = (0..row.vocab_size()).map(|token| row.logit(token)).collect();
    let draws_max = (DRAWS_TIMES_VOCAB_SIZE_MAX / row.vocab_size()).clamp(1, DRAWS_MAX);
    parse(ParamsSpec {
        top_k: top_k(&x, random),
        top_p: top_p(&x, temperature, random),
        min_p: min_p(&x, temperature, random),
        position: random.edge_u64(),
        draws: random.pick(&[1, 1, 1, 2, 3, 16, 100, DRAWS_MAX]).min(draws_max),
        draw_rule: random.pick(&DrawRule::ALL),
        draft: random.below(6) == 0,
        ..spec
    })
}

/// Off, common, about as many as there are, or such that a tie is split (or just not).
fn top_k(x: &[f32], random: &mut Random) -> u32 {
    let n = x.len() as u32;
    match random.below(8) {
        0..=2 => 0,
        3 => random.pick(&[1, 2, 5, 50, u32::MAX]),
        4 => random.pick(&[n - 1, n, n + 1]),
        5 => 1 + random.below(u64::from(n)) as u32,
        _ => {
            let border = random.pick(x);
            let above = x.iter().filter(|&&x| x > border).count() as u32;
            (above + random.below(4) as u32).saturating_sub(1)
        }
    }
}

/// Off, common, an end of the range, or the share of a prefix of the order.
fn top_p(x: &[f32], temperature: f32, random: &mut Random) -> f32 {
    let p = match random.below(8) {
        0..=2 => 1.0,
        3 => random.pick(&[BELOW_ONE, 1e-6, f32::MIN_POSITIVE, f32::from_bits(1)]),
        4 => random.pick(&[0.5, 0.9, 0.95, 0.99]),
        5 => random.unit(),
        _ => {
            let border = random.pick(x);
            nudge(share_above(x, border, temperature), random)
        }
    };
    if p > 0.0 && p <= 1.0 { p } else { 0.9 }
}

/// Off, common, an end of the range, or the relative probability of one token.
fn min_p(x: &[f32], temperature: f32, random: &mut Random) -> f32 {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let p = match random.below(8) {
        0..=3 => 0.0,
        4 => random.pick(&[f32::from_bits(1), 1e-6, 0.05, BELOW_ONE, 1.0]),
        5 => random.unit(),
        _ => {
            let distance = f64::from(random.pick(x) - max);
            nudge(libm::exp(distance / f64::from(temperature)) as f32, random)
        }
    };
    if (0.0..=1.0).contains(&p) { p } else { 0.05 }
}

/// The value, or a neighbour of it.
pub(super) fn nudge(value: f32, random: &mut Random) -> f32 {
    random.pick(&[value.next_down(), value, value.next_up()])
}

/// The share of the row's mass that is strictly above `border`.
fn share_above(x: &[f32], border: f32, temperature: f32) -> f32 {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if temperature == 0.0 || !max.is_finite() || x.iter().any(|x| x.is_nan()) {
        return 0.5;
    }
    let scale = Scale::new(temperature);
    let above = |least: f32| -> u64 {
        x.iter().filter(|&&x| x > least).map(|&x| mass(x, max, scale)).sum()
    };
    (above(border) as f64 / above(f32::NEG_INFINITY) as f64) as f32
}
