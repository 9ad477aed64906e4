//! The oracle: sorts the row and does what the definition says, one sentence at a time.
//!
//! It takes the order, the masses, the random bits and the noise from [`crate::arithmetic`], and works out cuts
//! and draws by itself, so that it stays an independent opinion. It is never optimised.

mod adjust;
mod cuts;
mod draft;
mod inspect;

pub(crate) use self::cuts::{Left, cut};
use self::draft::Decision;
use super::{Backend, DeviceError, DeviceInfo};
use crate::arithmetic::logprob::logprob;
use crate::arithmetic::mass::{Scale, UNIT, mass};
use crate::arithmetic::philox::{PURPOSE_DRAFT, PURPOSE_TOKEN, bits};
use crate::arithmetic::{key::key32, race};
use crate::batch::{Draw, Outcome, Results, Row, RowStatus, Slot, State};
use crate::params::{DrawRule, Profile, SamplingParams};
use crate::row::Draft;

/// The oracle as a backend, one row after another on the calling thread.
#[derive(Debug)]
pub struct Reference {
    device: DeviceInfo,
}

impl Default for Reference {
    fn default() -> Self {
        let device = DeviceInfo {
            id: "reference".into(),
            name: "sort-based oracle".into(),
            isa: "none".into(),
            threads: 1,
        };
        Self { device }
    }
}

impl Backend for Reference {
    fn device(&self) -> &DeviceInfo {
        &self.device
    }

    fn sample(&mut self, rows: &[Row<'_>], results: &mut Results) -> Result<(), DeviceError> {
        results.reset(rows);
        let mut copy = Vec::new();
        for (row, slot) in rows.iter().zip(results.slots()) {
            sample_row(&row.here(&mut copy), slot);
        }
        Ok(())
    }
}

fn sample_row(row: &Row<'_>, slot: Slot<'_>) {
    let kept = Kept::of(row).and_then(|kept| {
        let decision = row.draft().map(|draft| draft::decide(row, &kept, draft)).transpose()?;
        Ok((kept, decision))
    });
    match &kept {
        Ok((kept, decision)) => {
            draw(row, kept, slot.outcome, slot.draws);
            if let (Some(draft), Some(decision), Some(accepted)) =
                (row.draft(), decision, slot.accepted)
            {
                *accepted = Some(take(kept, draft, decision, slot.draws));
            }
            if let Some(state) = slot.state {
                *state = kept.next(row.params(), &slot.draws[0]);
            }
        }
        Err(status) => *slot.outcome = Outcome::failed(*status),
    }
    if let (Some(asked), Some(inspection)) = (row.inspect(), slot.inspection) {
        let kept = kept.as_ref().map(|(kept, _)| kept).map_err(|status| *status);
        *inspection = inspect::inspect(row, asked, kept, slot.draws);
    }
}

/// Puts the token that was decided on in place of the one that was drawn. Whether it is the draft.
fn take(kept: &Kept, draft: &Draft, decision: &Decision, draws: &mut [Draw]) -> bool {
    let (is_taken, token) = match *decision {
        Decision::Taken => (true, draft.token as usize),
        Decision::Instead(token) => (false, token),
        Decision::Draw => return false,
    };
    draws[0] = kept.drawn(token, kept.mass());
    is_taken
}

fn draw(row: &Row<'_>, kept: &Kept, outcome: &mut Outcome, draws: &mut [Draw]) {
    let params = row.params();
    let Kept { by_id, .. } = kept;
    let kept_mass = kept.mass();
    for (draw, place) in draws.iter_mut().enumerate() {
        if params.is_greedy() {
            *place = Draw { token: by_id[0].0 as u32, logprob: 0.0 };
            continue;
        }
        let token = match params.draw_rule() {
            DrawRule::Cumulative => cumulative(by_id, kept_mass, params, draw as u32),
            DrawRule::Race => fastest(by_id, row, draw as u32),
        };
        *place = kept.drawn(token, kept_mass);
    }
    *outcome = Outcome { status: RowStatus::Ok, kept: by_id.len() as u32, kept_mass };
}

/// The tokens that a row's cuts keep, by ascending id, each with its mass: a greedy row keeps its first. A row without a
/// token says why.
///
/// # Panics
/// If the logits are lent.
pub fn kept_masses(row: &Row<'_>) -> Result<Vec<(u32, u64)>, RowStatus> {
    let kept = Kept::of(row)?;
    Ok(kept.by_id.into_iter().map(|(token, mass)| (token as u32, mass)).collect())
}

/// What is drawn from.
struct Kept {
    /// The row's logits, adjusted.
    x: Vec<f32>,
    /// The temperature before cuts, 1 where the row is greedy.
    before: f32,
    /// The logits that are drawn from, where a token is kept.
    y: Vec<f32>,
    /// The largest of these.
    max: f32,
    /// The temperature that is drawn at; 1 where the row is greedy.
    temperature: f32,
    /// The kept tokens by ascending id, each with its mass.
    by_id: Vec<(usize, u64)>,
    /// What a state of the sequence follows from: logits and mass before adaptive-p changed them.
    unchanged: Unchanged,
}

/// The kept tokens as they are given to adaptive-p, the last of the controls.
#[derive(Clone, Copy)]
struct Unchanged {
    max: f32,
    temperature: f32,
    mass: u64,
}

impl Kept {
    fn of(row: &Row<'_>) -> Result<Self, RowStatus> {
        let mut x: Vec<f32> = (0..row.vocab_size()).map(|token| row.logit(token)).collect();
        if let Some(adjustments) = row.adjustments() {
            adjust::adjust(&mut x, adjustments, row.params());
        }
        let status = status(&x);
        if status != RowStatus::Ok {
            return Err(status);
        }

        // Every candidate, in the total order.
        let mut order: Vec<usize> = (0..x.len()).filter(|&i| x[i] > f32::NEG_INFINITY).collect();
        order.sort_by_key(|&i| (std::cmp::Reverse(key32(x[i])), i));

        let params = row.params();
        let is_greedy = params.is_greedy();
        let ordered: Vec<f32> = order.iter().map(|&i| x[i]).collect();
        let left = match (is_greedy, params.all_cuts().profile) {
            (true, profile) if profile != Profile::Llamacpp => {
                cuts::Left { range: 0..1, temperature: 0.0 }
            }
            _ => cuts::cut(&ordered, params),
        };
        let order = &order[left.range];
        if is_greedy {
            let max = x[order[0]];
            let unchanged = Unchanged { max, temperature: 1.0, mass: UNIT };
            let (y, by_id) = (x.clone(), vec![(order[0], UNIT)]);
            return Ok(Self { x, before: 1.0, y, max, temperature: 1.0, by_id, unchanged });
        }

        let (mut temperature, mut max) = (left.temperature, x[order[0]]);
        let of = |max: f32, temperature: f32, y: &[f32]| -> Vec<u64> {
            let scale = Scale::new(temperature);
            order.iter().map(|&i| mass(y[i], max, scale)).collect()
        };
        let mut y = x.clone();
        let mut masses = of(max, temperature, &y);
        let unchanged = Unchanged { max, temperature, mass: masses.iter().sum() };
        let adaptive = params.all_cuts().adaptive;
        if adaptive.target.is_some() {
            let logits = cuts::adaptive(&masses, adaptive);
            order.iter().zip(&logits).for_each(|(&i, &logit)| y[i] = logit);
            max = logits.into_iter().fold(f32::NEG_INFINITY, f32::max);
            temperature = 1.0;
            masses = of(max, temperature, &y);
        }
        let mut by_id: Vec<(usize, u64)> = order.iter().copied().zip(masses).collect();
        by_id.sort_unstable();
        Ok(Self { x, before: left.temperature, y, max, temperature, by_id, unchanged })
    }

    /// The mass of all kept tokens.
    fn mass(&self) -> u64 {
        self.by_id.iter().map(|(_, mass)| mass).sum()
    }

    /// A kept token as it is told.
    fn drawn(&self, token: usize, mass: u64) -> Draw {
        let scale = Scale::new(self.temperature);
        let logprob = logprob(self.y[token], self.max, scale, mass);
        Draw { token: token as u32, logprob }
    }

    /// What the sequence is given back after a draw.
    fn next(&self, params: &SamplingParams, draw: &Draw) -> Option<State> {
        let Unchanged { max, temperature, mass } = self.unchanged;
        cuts::next(params, self.x[draw.token as usize], max, temperature, mass)
    }
}

/// The token at which the sum of the masses, by ascending id, exceeds the draw's share of all.
fn cumulative(by_id: &[(usize, u64)], kept_mass: u64, params: &SamplingParams, draw: u32) -> usize {
    let purpose = if params.is_draft() { PURPOSE_DRAFT } else { PURPOSE_TOKEN };
    let bits = bits(params.seed(), params.position(), draw, purpose);
    let target = (u128::from(bits) * u128::from(kept_mass)) >> 64;
    let mut sum = 0;
    let (token, _) = by_id
        .iter()
        .find(|(_, mass)| {
            sum += u128::from(*mass);
            sum > target
        })
        .expect("the target is below the kept mass");
    *token
}

/// The token with the greatest ratio of mass and noise, and of equals the first.
fn fastest(by_id: &[(usize, u64)], row: &Row<'_>, draw: u32) -> usize {
    let (seed, position) = (row.params().seed(), row.params().position());
    let mut winner = (f32::NEG_INFINITY, 0);
    for &(token, mass) in by_id {
        let id = row.id(token as u32);
        let bits = match row.params().is_draft() {
            true => race::draft_bits(seed, position, draw, id),
            false => race::token_bits(seed, position, draw, id),
        };
        let ratio = race::ratio(mass, bits);
        if ratio > winner.0 {
            winner = (ratio, token);
        }
    }
    winner.1
}

fn status(x: &[f32]) -> RowStatus {
    if x.iter().any(|x| x.is_nan()) {
        RowStatus::Nan
    } else if x.contains(&f32::INFINITY) {
        RowStatus::PositiveInfinity
    } else if x.iter().all(|&x| x == f32::NEG_INFINITY) {
        RowStatus::NoCandidate
    } else {
        RowStatus::Ok
    }
}

/// The least number of first tokens whose mass is at least `p` of all of `masses`, and at least 1.
pub(crate) fn nucleus(masses: &[u64], p: f32) -> usize {
    let fraction = (f64::from(p) * 2f64.powi(64)) as u128;
    let total: u128 = masses.iter().map(|&m| u128::from(m)).sum();
    let target = (fraction * total).div_ceil(1 << 64).max(1);
    let mut cumulative = 0;
    1 + masses
        .iter()
        .take_while(|&&m| {
            cumulative += u128::from(m);
            cumulative < target
        })
        .count()
}
