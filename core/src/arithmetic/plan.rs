//! What is done with a row: the constants and steps that its parameters come to, worked out once, on the host.
//!
//! A backend interprets a [`Plan`] and derives nothing from parameters by itself, so that one place says which cuts
//! there are, what each is given, and in which order they apply.

use super::cut::{min_p_distance, top_p_fraction};
use super::draw::DrawRule;
use super::mass::Scale;

/// What is done with a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Plan {
    /// The answer is the first token of the order. No mass is computed, so there is no scale.
    Greedy,
    /// The answer is drawn from the tokens that the steps leave.
    Draw(Chain),
}

/// The temperature of a row, its cuts, and how it draws.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chain {
    /// What masses are computed with.
    pub scale: Scale,
    /// How a token is drawn of what the steps leave.
    pub rule: DrawRule,
    /// The first `len` count.
    steps: [Step; STEPS_MAX],
    len: usize,
}

/// The most steps of a chain: each kind of cut once.
const STEPS_MAX: usize = 3;

/// A cut. It keeps a prefix of what the steps before it left.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// Keeps so many first tokens, 1 or more.
    TopK(u32),
    /// Keeps the shortest prefix with this share of the mass, in units of 2^-64: see [`top_p_fraction`].
    TopP(u64),
    /// Keeps the tokens with `x - M` of at least this: see [`min_p_distance`].
    MinP(f32),
}

impl Plan {
    /// The plan for a temperature (0 is greedy), the cuts that are on, each within its range, and a rule.
    #[inline]
    pub fn new(
        temperature: f32,
        top_k: Option<u32>,
        top_p: Option<f32>,
        min_p: Option<f32>,
        rule: DrawRule,
    ) -> Self {
        if temperature == 0.0 {
            return Self::Greedy;
        }
        let mut chain = Chain {
            scale: Scale::new(temperature),
            rule,
            steps: [Step::TopK(u32::MAX); STEPS_MAX],
            len: 0,
        };
        if let Some(k) = top_k {
            chain.push(Step::TopK(k));
        }
        if let Some(p) = top_p {
            chain.push(Step::TopP(top_p_fraction(p)));
        }
        if let Some(p) = min_p {
            chain.push(Step::MinP(min_p_distance(p, temperature)));
        }
        Self::Draw(chain)
    }
}

impl Chain {
    #[inline]
    fn push(&mut self, step: Step) {
        self.steps[self.len] = step;
        self.len += 1;
    }

    /// The cuts, in the order in which they apply.
    #[inline]
    pub fn steps(&self) -> &[Step] {
        &self.steps[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::DrawRule::{Cumulative, Race};
    use super::*;

    #[test]
    fn temperature_0_is_greedy_whatever_the_cuts_are() {
        assert_eq!(Plan::new(0.0, Some(3), Some(0.5), Some(0.1), Race), Plan::Greedy);
        assert_eq!(Plan::new(-0.0, None, None, None, Cumulative), Plan::Greedy);
    }

    #[test]
    fn cuts_that_are_on_become_steps_in_the_order_of_the_definition() {
        let steps = |plan| match plan {
            Plan::Greedy => panic!("not at this temperature"),
            Plan::Draw(chain) => {
                assert_eq!((chain.scale, chain.rule), (Scale::new(0.5), Race));
                chain.steps().to_vec()
            }
        };
        let all = steps(Plan::new(0.5, Some(3), Some(0.5), Some(1.0), Race));
        assert_eq!(all, [Step::TopK(3), Step::TopP(1 << 63), Step::MinP(0.0)]);
        assert_eq!(steps(Plan::new(0.5, None, None, Some(1.0), Race)), [Step::MinP(0.0)]);
        assert_eq!(steps(Plan::new(0.5, None, None, None, Race)), []);
    }
}
