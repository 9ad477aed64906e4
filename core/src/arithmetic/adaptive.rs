//! Adaptive-p: tokens near to a probability become likelier, and that probability follows what was drawn.

/// How steep the logits fall: `10 / 3`.
const STEEP: f32 = 3.333_333_3;

/// What a sequence carries from row to row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drawn {
    /// The probabilities of drawn tokens, each less by `decay` than the one after it.
    pub sum: f32,
    /// How many these come to.
    pub weight: f32,
}

impl Drawn {
    /// That of a sequence that has none yet: as if tokens of the target had been drawn for ever.
    pub fn beginning(target: f32, decay: f32) -> Self {
        Self { sum: target / (1.0 - decay), weight: 1.0 / (1.0 - decay) }
    }

    /// The probability to aim at.
    pub fn aim(self, target: f32) -> f32 {
        if self.weight == 0.0 {
            return target;
        }
        let mean = f64::from(self.sum) / f64::from(self.weight);
        (2.0 * f64::from(target) - mean).clamp(0.0, 1.0) as f32
    }

    /// After a token of that probability.
    pub fn next(self, p: f32, decay: f32) -> Self {
        Self { sum: p + decay * self.sum, weight: 1.0 + decay * self.weight }
    }
}

/// The probability of a token.
#[inline]
pub fn probability(mass: u64, all: u64) -> f32 {
    mass as f32 / all as f32
}

/// The logit, at temperature 1, of a token of probability `p`: 0 or below.
#[inline]
pub fn logit(p: f32, aim: f32) -> f32 {
    let u = (p - aim).abs() * STEEP;
    -((u * u * 10.0) / (u + 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aims_at_the_target_and_makes_up_for_what_was_drawn() {
        assert_eq!(STEEP, (10.0f64 / 3.0) as f32);
        let new = Drawn::beginning(0.25, 0.5);
        assert_eq!((new, new.aim(0.25)), (Drawn { sum: 0.5, weight: 2.0 }, 0.25));
        let after = new.next(0.75, 0.5);
        assert_eq!(after, Drawn { sum: 1.0, weight: 2.0 });
        assert_eq!((after.aim(0.25), after.aim(0.375)), (0.0, 0.25));
        assert_eq!(Drawn { sum: 9.0, weight: 0.0 }.aim(0.5), 0.5);
    }

    #[test]
    fn the_nearest_is_the_largest() {
        assert_eq!(logit(0.25, 0.25), 0.0);
        assert!(logit(0.2, 0.25) > logit(0.1, 0.25) && logit(0.1, 0.25) > logit(1.0, 0.25));
    }
}
