//! The further cuts of a generated row, some of them aimed at its own borders, and profiles.

use super::cuts::nudge;
use super::random::Random;
use logitd_core::arithmetic::mass::{Scale, mass};
use logitd_core::batch::{Dtype, Row};
use logitd_core::params::{ParamsSpec, Profile, SamplingParams};

/// One row in so many has such cuts.
const ROWS: u64 = 4;

/// The parameters of a row, with further cuts; most rows keep theirs.
pub fn shaped(
    random: &mut Random,
    dtype: Dtype,
    logits: &[u8],
    params: SamplingParams,
) -> SamplingParams {
    if random.below(ROWS) > 0 {
        return params;
    }
    let row = Row::new(dtype, logits, params).expect("1 to 2^20 whole logits");
    let x: Vec<f32> = (0..row.vocab_size()).map(|token| row.logit(token)).collect();
    let p = Probabilities::of(&x, params.temperature());
    let profile = random.pick(&Profile::ALL);
    let mut spec = ParamsSpec { profile, ..params.into() };
    // One to three of them: more would leave a token each time. Two profiles have none.
    let cuts = match profile {
        Profile::Vllm | Profile::Sglang => 0,
        _ => 1 + random.below(3),
    };
    for _ in 0..cuts {
        add(&mut spec, random, &p);
    }
    if spec.mirostat_tau > 0.0 || spec.adaptive_target.is_some() {
        spec.draws = 1;
    }
    // What a profile does not have is left to this sampler's own.
    let own = ParamsSpec { profile: Profile::Logitd, ..spec };
    spec.parse(|| 0).or_else(|_| own.parse(|| 0)).expect("every range is kept")
}

fn add(spec: &mut ParamsSpec, random: &mut Random, p: &Probabilities) {
    let (unit, one) = (random.unit(), p.one(random));
    let below_one = |x: f32| if (0.0..1.0).contains(&x) { x } else { 0.001 };
    match random.below(11) {
        0 => spec.top_n_sigma = random.pick(&[1.0, 3.0 * unit, 0.01, 100.0, f32::from_bits(1)]),
        1 => spec.top_h = random.pick(&[0.4, unit, 1.0, 1e-6]),
        2 => spec.top_a = random.pick(&[0.2, unit * unit, 1.0, 1e-10]),
        3 => spec.epsilon_cutoff = below_one(random.pick(&[one, 3e-4, unit, 1e-30])),
        4 => spec.eta_cutoff = below_one(random.pick(&[one, 2e-3, unit, 1e-30])),
        5 | 6 => {
            spec.typical_p = random.pick(&[0.9, 0.2, unit, 1e-6, 1.0f32.next_down()]).max(1e-9)
        }
        7 if spec.adaptive_target.is_none() => {
            spec.mirostat_tau = random.pick(&[5.0, 1.0, 8.0 * unit, 100.0, 1e-6]);
            spec.mirostat_eta = random.pick(&[0.1, 0.0, 10.0, unit]);
            let mu = 20.0 * unit - 2.0;
            spec.mirostat_mu =
                random.pick(&[None, Some(mu), Some(mu), Some(f32::MAX), Some(-1e30)]);
        }
        8 => {
            spec.xtc_probability = random.pick(&[1.0, 1.0, 0.5, unit]);
            let threshold = random.pick(&[one, 0.1, 0.05, 0.001, unit, 1.0]);
            spec.xtc_threshold = if threshold > 0.0 && threshold <= 1.0 { threshold } else { 0.1 };
        }
        9 if spec.mirostat_tau == 0.0 => {
            spec.adaptive_target = Some(random.pick(&[0.5, unit, 0.0, 1.0]));
            spec.adaptive_decay = random.pick(&[0.9, 0.0, 0.99, 0.9 * unit]);
            spec.adaptive_sum = random.pick(&[None, Some(3.0 * unit), Some(-1.0)]);
            spec.adaptive_weight = random.pick(&[None, Some(4.0 * unit), Some(0.0)]);
        }
        _ => {
            spec.dynatemp_range = random.pick(&[0.5, unit, 100.0, 1e-6]);
            spec.dynatemp_exponent = random.pick(&[1.0, 0.01, 100.0, 0.1 + 2.0 * unit]);
        }
    }
}

/// What tokens of a row have.
struct Probabilities {
    masses: Vec<u64>,
    all: u64,
}

impl Probabilities {
    fn of(x: &[f32], temperature: f32) -> Self {
        let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if temperature == 0.0 || !max.is_finite() || x.iter().any(|x| x.is_nan()) {
            return Self { masses: vec![1], all: 3 };
        }
        let scale = Scale::new(temperature);
        let masses: Vec<u64> = x.iter().map(|&x| mass(x, max, scale)).collect();
        let all = masses.iter().sum();
        Self { masses, all }
    }

    /// That of some token, or a neighbour of it.
    fn one(&self, random: &mut Random) -> f32 {
        nudge((random.pick(&self.masses) as f64 / self.all as f64) as f32, random)
    }
}
