//! Where the kept tokens of a row end.

use super::blocks::BLOCK;
use super::element::Element;

/// Where the kept tokens end: those with logits above `least`, and of its ties those with ids up to
/// `last_id`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cut {
    /// The last kept token's logit. Not -0.0.
    pub least: f32,
    /// The greatest id kept among the tokens with exactly this logit.
    pub last_id: u32,
}

impl Cut {
    /// Keeps `least` and everything above.
    pub fn ties(least: f32) -> Self {
        Self { least, last_id: u32::MAX }
    }

    /// How many tokens of a block equal `least` but are beyond the last one kept, in the one block
    /// where some are kept and others not.
    #[inline(always)]
    pub fn dropped_ties<E: Element>(self, block: usize, logits: &[u8]) -> u64 {
        if block as u32 != self.last_id / BLOCK as u32 {
            return 0;
        }
        let later = self.last_id as usize % BLOCK + 1;
        let logits = logits.chunks_exact(E::SIZE).skip(later);
        logits.filter(|logit| E::read(logit) == self.least).count() as u64
    }

    /// The same tokens, by their places in the block.
    pub fn dropped_tokens<E: Element>(
        self,
        block: usize,
        logits: &[u8],
    ) -> impl Iterator<Item = usize> {
        let is_last = block as u32 == self.last_id / BLOCK as u32;
        let later = if is_last { self.last_id as usize % BLOCK + 1 } else { BLOCK };
        let logits = logits.chunks_exact(E::SIZE).enumerate().skip(later);
        logits.filter(move |(_, logit)| E::read(logit) == self.least).map(|(place, _)| place)
    }

    /// The one that keeps less.
    pub fn tighter(self, other: Self) -> Self {
        match self.least.partial_cmp(&other.least) {
            Some(std::cmp::Ordering::Less) => other,
            Some(std::cmp::Ordering::Equal) if other.last_id < self.last_id => other,
            _ => self,
        }
    }
}

/// The least logit that a cut keeps, by block: ties are kept only up to the block of the last one.
#[derive(Clone, Copy)]
pub struct LeastByBlock {
    ties: f32,
    ties_end: usize,
    /// +inf where nothing finite is above the ties.
    above: f32,
}

impl LeastByBlock {
    /// Of a cut.
    pub fn new<E: Element>(cut: Cut) -> Self {
        let above = above::<E>(cut.least).unwrap_or(f32::INFINITY);
        Self { ties: cut.least, ties_end: cut.last_id as usize / BLOCK + 1, above }
    }

    /// In one block.
    #[inline(always)]
    pub fn of(self, block: usize) -> f32 {
        if block < self.ties_end { self.ties } else { self.above }
    }
}

/// The least logit above this one, if one is finite.
#[inline(always)]
pub fn above<E: Element>(x: f32) -> Option<f32> {
    let key = E::key(x + 0.0) + 1;
    (key < E::INFINITY).then(|| E::value(key))
}

#[cfg(test)]
mod tests {
    use super::super::element::F16;
    use super::*;

    #[test]
    fn the_tighter_of_two_cuts_keeps_less() {
        let cuts = [(1.0, 3), (1.0, 7), (0.5, 2)].map(|(least, last_id)| Cut { least, last_id });
        for (i, &tight) in cuts.iter().enumerate() {
            for &loose in &cuts[i..] {
                assert_eq!(tight.tighter(loose), tight);
                assert_eq!(loose.tighter(tight), tight);
            }
        }
    }

    #[test]
    fn nothing_lies_between_a_logit_and_the_one_above() {
        assert_eq!(above::<F16>(-0.0), Some(f32::powi(2.0, -24)));
        assert_eq!(above::<F16>(f32::NEG_INFINITY), Some(-65504.0));
        assert_eq!(above::<F16>(65504.0), None);
    }
}
