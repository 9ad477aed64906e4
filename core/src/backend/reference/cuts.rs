//! The cuts of a row as they are defined, one after another over its tokens in their order.

use crate::arithmetic::interval::Interval;
use crate::arithmetic::log2::{log2, log2_mass};
use crate::arithmetic::mass::{Scale, mass};
use crate::arithmetic::philox::philox4x32_10;
use crate::arithmetic::power::pow2;
use crate::arithmetic::surprisal::{Surprisal, surprisal};
use crate::batch::State;
use crate::params::{Adaptive, Cuts, Dynatemp, Mirostat, Profile, SamplingParams};
use std::ops::Range;

/// What the cuts leave of a row.
pub struct Left {
    /// The places of the kept tokens in the row's order.
    pub range: Range<usize>,
    /// The temperature that is drawn at.
    pub temperature: f32,
}

/// Cuts a row, whose logits come in the total order.
pub fn cut(x: &[f32], params: &SamplingParams) -> Left {
    let cuts = *params.all_cuts();
    let has_mirostat = cuts.mirostat.tau > 0.0;
    let mut temperature = params.temperature();
    if cuts.profile == Profile::Logitd && cuts.dynatemp.range > 0.0 {
        temperature = dynamic(x, x[0], temperature, cuts.dynatemp);
    }
    let of_chain = match cuts.profile {
        Profile::Llamacpp if temperature == 0.0 || !has_mirostat => 1.0,
        _ => temperature,
    };
    let order: &[Cut] = match cuts.profile {
        Profile::Logitd => &LOGITD,
        Profile::Hf => &HF,
        Profile::Vllm => &VLLM,
        Profile::Sglang => &SGLANG,
        Profile::Llamacpp if has_mirostat && temperature == 0.0 => &[],
        Profile::Llamacpp if has_mirostat => &[Cut::Mirostat],
        Profile::Llamacpp => &LLAMACPP,
    };
    let scale = Scale::new(of_chain);
    let tokens = x.iter().map(|&x_i| surprisal(x_i, x[0], scale)).collect();
    let mut chain =
        Chain { x, tokens, temperature: of_chain, range: 0..x.len(), params, cuts: &cuts };
    for cut in order {
        chain.apply(*cut);
    }
    let range = chain.range;
    let is_dynamic = cuts.dynatemp.range > 0.0 && temperature > 0.0 && !has_mirostat;
    if cuts.profile == Profile::Llamacpp && is_dynamic {
        temperature = dynamic(&x[range.clone()], x[0], temperature, cuts.dynatemp);
    }
    Left { range, temperature }
}

#[derive(Clone, Copy)]
enum Cut {
    TopNSigma,
    TopK,
    TopP,
    MinP,
    TopH,
    TopA,
    Epsilon,
    Eta,
    Typical,
    Mirostat,
    Xtc,
}

const LOGITD: [Cut; 11] = [
    Cut::TopNSigma,
    Cut::TopK,
    Cut::TopP,
    Cut::MinP,
    Cut::TopH,
    Cut::TopA,
    Cut::Epsilon,
    Cut::Eta,
    Cut::Typical,
    Cut::Mirostat,
    Cut::Xtc,
];
const HF: [Cut; 7] =
    [Cut::TopH, Cut::TopK, Cut::TopP, Cut::MinP, Cut::Typical, Cut::Epsilon, Cut::Eta];
const VLLM: [Cut; 3] = [Cut::MinP, Cut::TopK, Cut::TopP];
const SGLANG: [Cut; 3] = [Cut::TopK, Cut::TopP, Cut::MinP];
const LLAMACPP: [Cut; 6] =
    [Cut::TopNSigma, Cut::TopK, Cut::Typical, Cut::TopP, Cut::MinP, Cut::Xtc];

struct Chain<'a> {
    /// In the total order.
    x: &'a [f32],
    /// The same tokens' masses and surprisals.
    tokens: Vec<Surprisal>,
    temperature: f32,
    range: Range<usize>,
    params: &'a SamplingParams,
    cuts: &'a Cuts,
}

impl Chain<'_> {
    fn apply(&mut self, cut: Cut) {
        let (params, cuts) = (self.params, self.cuts);
        let left = self.left();
        let all = left.iter().copied().fold(Interval::default(), Interval::with);
        let x = &self.x[self.range.clone()];
        let profile = cuts.profile;
        // How many of the first tokens are kept; typical and XTC drop some of these.
        let kept = match cut {
            Cut::TopNSigma if cuts.top_n_sigma > 0.0 => {
                let least = deviation(self.x, cuts.top_n_sigma);
                x.iter().take_while(|&&x_i| x_i - self.x[0] >= least).count()
            }
            Cut::TopK => {
                let k = params.top_k().map_or(usize::MAX, |k| k as usize);
                let ties = matches!(profile, Profile::Hf | Profile::Vllm | Profile::Sglang);
                self.with_ties(k, ties)
            }
            Cut::TopP if let Some(p) = params.top_p() => {
                let of_row = profile == Profile::Sglang && params.min_p().is_none();
                let base = if of_row { &self.tokens[..] } else { left };
                let target = share(p, base.iter().map(|token| u128::from(token.mass)).sum());
                let n = 1 + running(left).take_while(|&sum| sum < target).count();
                self.with_ties(n, profile == Profile::Sglang)
            }
            Cut::MinP if let Some(p) = params.min_p() => {
                let least = (libm::log(f64::from(p)) * f64::from(self.temperature)) as f32;
                x.iter().take_while(|&&x_i| x_i - x[0] >= least).count()
            }
            Cut::TopH if cuts.top_h > 0.0 => top_h(left, cuts.top_h),
            Cut::TopA if cuts.top_a > 0.0 => {
                let squared = (q64(cuts.top_a) << 40) / u128::from(all.mass);
                heavier(left, squared.div_ceil(1 << 24))
            }
            Cut::Epsilon if cuts.epsilon_cutoff > 0.0 => {
                let least = share(cuts.epsilon_cutoff, all.mass.into());
                self.with_first_ties(heavier(left, least))
            }
            Cut::Eta if cuts.eta_cutoff > 0.0 => {
                let root = (f64::from(cuts.eta_cutoff).sqrt() * 2f64.powi(64)) as u128;
                let of_entropy = (root * u128::from(pow2(all.mean()))).div_ceil(1 << 64);
                let least = share(cuts.eta_cutoff, all.mass.into()).min(of_entropy);
                self.with_first_ties(heavier(left, least))
            }
            Cut::Typical if cuts.typical_p < 1.0 => {
                let typical = typical(left, all, cuts.typical_p);
                let from = self.range.start;
                self.range = from + typical.start..from + typical.end;
                return;
            }
            Cut::Mirostat if cuts.mirostat.tau > 0.0 => {
                let most = (f64::from(mu(cuts.mirostat)) * 2f64.powi(32)).floor() as i64;
                let most = i128::from(most) - i128::from(log2_mass(all.mass));
                left.iter().take_while(|token| i128::from(token.g) << 10 <= most).count()
            }
            Cut::Xtc if cuts.xtc.probability > 0.0 && coin(params) < q64(cuts.xtc.probability) => {
                let likely = heavier(left, share(cuts.xtc.threshold, all.mass.into()));
                self.range.start += likely.saturating_sub(1);
                return;
            }
            _ => return,
        };
        let end = self.range.start + kept.max(1);
        self.range.end = self.range.end.min(end);
    }

    fn left(&self) -> &[Surprisal] {
        &self.tokens[self.range.clone()]
    }

    /// So many first tokens, and where ties are kept, also those equal to the last of them.
    fn with_ties(&self, n: usize, ties: bool) -> usize {
        let x = &self.x[self.range.clone()];
        let n = n.min(x.len());
        if !ties {
            return n;
        }
        n + x[n..].iter().take_while(|&&x_i| x_i == x[n - 1]).count()
    }

    /// So many first tokens, and under hf all that are equal to the first at least.
    fn with_first_ties(&self, n: usize) -> usize {
        n.max(self.with_ties(1, self.cuts.profile == Profile::Hf))
    }
}

/// A parameter of [0, 1] in units of 2^-64.
fn q64(p: f32) -> u128 {
    (f64::from(p) * 2f64.powi(64)) as u128
}

/// The least mass that is this share of `mass`.
fn share(p: f32, mass: u128) -> u128 {
    (q64(p) * mass).div_ceil(1 << 64).max(1)
}

/// The masses up to each token and with it.
fn running(tokens: &[Surprisal]) -> impl Iterator<Item = u128> {
    tokens.iter().scan(0, |sum, token| {
        *sum += u128::from(token.mass);
        Some(*sum)
    })
}

/// How many of the first tokens have at least that mass.
fn heavier(tokens: &[Surprisal], least: u128) -> usize {
    tokens.iter().take_while(|token| u128::from(token.mass) >= least).count()
}

/// The least distance from the first logit within so many standard deviations.
fn deviation(x: &[f32], s: f32) -> f32 {
    let z = |x: &f32| i128::from((x.clamp(-2048.0, 2048.0) * 1024.0).round_ties_even() as i32);
    let n = x.len() as i128;
    let sum: i128 = x.iter().map(z).sum();
    let squares: i128 = x.iter().map(|x| z(x) * z(x)).sum();
    let sigma = ((n * squares - sum * sum) as f64).sqrt() / n as f64 * 2f64.powi(-10);
    -(f64::from(s) * sigma) as f32
}

/// How many of the first 100 tokens have this share of their entropy.
fn top_h(tokens: &[Surprisal], h: f32) -> usize {
    let first = &tokens[..tokens.len().min(100)];
    let u = log2_mass(first.iter().map(|token| token.mass).sum()) >> 10;
    let parts: Vec<u128> = first
        .iter()
        .map(|token| u128::from(token.mass) * (u + i64::from(token.g)) as u128)
        .collect();
    let all: u128 = parts.iter().sum();
    // The greatest R with R * 2^64 <= q * S, whose product would not fit 128 bits.
    let (high, low) = (all >> 64, all & u128::from(u64::MAX));
    let most = q64(h) * high + ((q64(h) * low) >> 64);
    let sums = parts.iter().scan(0, |sum, part| {
        *sum += part;
        Some(*sum)
    });
    sums.take_while(|sum| *sum <= most).count()
}

/// The tokens that are at most as far from the mean surprisal as it takes to have this share of the mass.
fn typical(tokens: &[Surprisal], all: Interval, p: f32) -> Range<usize> {
    let far = |token: &Surprisal| u64::from(token.g).abs_diff(all.mean());
    let mut nearest: Vec<&Surprisal> = tokens.iter().collect();
    nearest.sort_by_key(|token| far(token));
    let target = share(p, all.mass.into());
    let mut sum = 0;
    let last = nearest.iter().find(|token| {
        sum += u128::from(token.mass);
        sum >= target
    });
    let delta = far(last.expect("a share of the mass"));
    let start = tokens.iter().position(|token| far(token) <= delta).expect("the last one");
    let end = tokens.iter().rposition(|token| far(token) <= delta).expect("the last one") + 1;
    start..end
}

/// Mirostat's state before the draw.
fn mu(mirostat: Mirostat) -> f32 {
    mirostat.mu.unwrap_or(2.0 * mirostat.tau)
}

/// The random bits of XTC, one a row.
fn coin(params: &SamplingParams) -> u128 {
    let (seed, position) = (params.seed(), params.position());
    let out = philox4x32_10(
        [position as u32, (position >> 32) as u32, 0, 1],
        [seed as u32, (seed >> 32) as u32],
    );
    u128::from(out[0]) | u128::from(out[1]) << 32
}

/// The temperature that the entropy of some first tokens comes to.
fn dynamic(x: &[f32], max: f32, temperature: f32, dynatemp: Dynatemp) -> f32 {
    let n = x.len() as u64;
    if n < 2 {
        return temperature;
    }
    let scale = Scale::new(1.0);
    let tokens = x.iter().map(|&x| surprisal(x, max, scale));
    let entropy = tokens.fold(Interval::default(), Interval::with).entropy();
    let r = ((u128::from(entropy) << 32) / u128::from(log2(n))).min(1 << 32) as u64;
    let ratio = match r {
        0 => 0.0,
        _ => {
            let bits = ((1u64 << 37) - log2(r)) as f64 * f64::from(dynatemp.exponent);
            let power = (bits.min(2f64.powi(40)) * 2f64.powi(-10)) as u64;
            pow2(power) as f64 * 2f64.powi(-40)
        }
    };
    let low = f64::from((temperature - dynatemp.range).max(0.0));
    let high = f64::from(temperature + dynatemp.range);
    ((low + (high - low) * ratio) as f32).clamp(temperature.min(1e-4), 1e4)
}

/// The logits that adaptive-p draws from at temperature 1, for tokens with these masses.
pub fn adaptive(masses: &[u64], adaptive: Adaptive) -> Vec<f32> {
    let aim = aim(adaptive);
    let all = masses.iter().sum::<u64>() as f32;
    let logit = |&mass: &u64| {
        let u = (mass as f32 / all - aim).abs() * (10.0f64 / 3.0) as f32;
        -((u * u * 10.0) / (u + 1.0))
    };
    masses.iter().map(logit).collect()
}

fn state(adaptive: Adaptive) -> (f32, f32) {
    let target = adaptive.target.expect("adaptive-p is on");
    let sum = adaptive.sum.unwrap_or(target / (1.0 - adaptive.decay));
    (sum, adaptive.weight.unwrap_or(1.0 / (1.0 - adaptive.decay)))
}

fn aim(adaptive: Adaptive) -> f32 {
    let target = adaptive.target.expect("adaptive-p is on");
    match state(adaptive) {
        (_, 0.0) => target,
        (sum, weight) => {
            let mean = f64::from(sum) / f64::from(weight);
            (2.0 * f64::from(target) - mean).clamp(0.0, 1.0) as f32
        }
    }
}

/// What the sequence is given back: as it was, of a greedy row. The masses are those that adaptive-p is given, and
/// otherwise those that were drawn from.
pub fn next(
    params: &SamplingParams,
    x: f32,
    max: f32,
    temperature: f32,
    all: u64,
) -> Option<State> {
    let cuts = *params.all_cuts();
    let (Mirostat { tau, eta, .. }, decay) = (cuts.mirostat, cuts.adaptive.decay);
    let is_greedy = params.is_greedy();
    if tau > 0.0 {
        let mu = mu(cuts.mirostat);
        if is_greedy {
            return Some(State::Mirostat { mu });
        }
        let g = surprisal(x, max, Scale::new(temperature)).g;
        let s = (log2_mass(all) + (i64::from(g) << 10)) as f64 * 2f64.powi(-32);
        let mu = f64::from(mu) - f64::from(eta) * (s - f64::from(tau));
        return Some(State::Mirostat { mu: mu as f32 });
    }
    cuts.adaptive.target?;
    let (sum, weight) = state(cuts.adaptive);
    if is_greedy {
        return Some(State::Adaptive { sum, weight });
    }
    let p = mass(x, max, Scale::new(temperature)) as f32 / all as f32;
    Some(State::Adaptive { sum: p + decay * sum, weight: 1.0 + decay * weight })
}
