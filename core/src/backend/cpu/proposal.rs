//! What drafts were drawn from: the masses of tokens, each known when somebody looks at it, and their sum.
//!
//! ```text
//! a certain draft, or a list:  as it is given
//! probabilities:               2^40 of each, rounded down
//! a row:                       prepared and cut as if it was sampled, with memory of its own; few kept tokens are listed,
//!                              of many the sum is known, and a block is weighed where somebody looks at it
//! ```

use super::blocks::BLOCK;
use super::cut::Cut;
use super::element::Element;
use super::list::List;
use super::passes::ScannedRow;
use super::residual::{
    FindHits, Hits, SumProbabilities, TokenMasses, WeighBlock, WeighProbabilities, mass_of,
};
use super::simd::Simd;
use crate::arithmetic::accept::Share;

/// What a draft was drawn from.
pub struct Proposed<'a> {
    total: u64,
    masses: Masses<'a>,
}

enum Masses<'a> {
    /// Of tokens, ids ascending; others have none.
    Few(&'a [(u32, u64)]),
    /// A probability a token.
    Dense(&'a [f32]),
    /// Of tokens of a row.
    Row(Box<dyn OfRow + 'a>),
}

/// The kept tokens of a row, whatever its dtype.
trait OfRow: Sync {
    /// The mass of a token.
    fn mass(&self, token: u32) -> u64;
    /// Weighs the tokens of a block that are looked at.
    fn weigh_block(&self, block: usize, hits: &Hits, masses: &mut TokenMasses);
}

/// The tokens of a row up to a cut.
#[derive(Clone, Copy)]
pub struct UpTo<'a, S, E> {
    /// The row.
    pub row: ScannedRow<'a, S, E>,
    /// Where the kept tokens end.
    pub cut: Cut,
}

impl<S: Simd, E: Element> UpTo<'_, S, E> {
    /// The logit of a token, if it is kept.
    pub fn logit(&self, token: u32) -> Option<f32> {
        let block = self.row.blocks.get(token as usize / BLOCK);
        let x = E::read(&block[token as usize % BLOCK * E::SIZE..]);
        let Cut { least, last_id } = self.cut;
        (x > least || x == least && token <= last_id).then_some(x)
    }

    /// The kept tokens of a block that may have a mass; all, where they are many.
    pub fn hits(&self, block: usize) -> Hits {
        let Self { row: ScannedRow { s, blocks, weights, .. }, cut } = *self;
        s.run(FindHits { blocks, block, weights, cut })
    }

    /// Weighs the kept tokens of a block that are looked at.
    pub fn weigh_block(&self, block: usize, hits: &Hits, masses: &mut TokenMasses) {
        let Self { row: ScannedRow { s, blocks, weights, .. }, cut } = *self;
        s.run(WeighBlock { blocks, block, weights, cut, hits, masses });
    }
}

impl<S: Simd, E: Element> OfRow for UpTo<'_, S, E> {
    fn mass(&self, token: u32) -> u64 {
        self.logit(token).map_or(0, |x| self.row.weights.mass(x))
    }

    fn weigh_block(&self, block: usize, hits: &Hits, masses: &mut TokenMasses) {
        self.weigh_block(block, hits, masses);
    }
}

impl<'a> Proposed<'a> {
    /// No token has anything. The sum is 1, so that all that a row has is left of it.
    pub const NOTHING: Self = Self { total: 1, masses: Masses::Few(&[]) };

    /// A list of masses, ids ascending.
    pub fn few(few: &'a [(u32, u64)]) -> Self {
        Self { total: few.iter().map(|(_, mass)| mass).sum(), masses: Masses::Few(few) }
    }

    /// A list that was weighed; `few` is empty.
    pub fn list(list: &List, few: &'a mut Vec<(u32, u64)>) -> Self {
        few.extend(list.ids().iter().enumerate().map(|(i, &id)| (id, list.mass(i))));
        Self::few(few)
    }

    /// A probability a token.
    pub fn dense<S: Simd>(s: S, p: &'a [f32]) -> Self {
        Self { total: s.run(SumProbabilities(p)), masses: Masses::Dense(p) }
    }

    /// The tokens of a row, whose masses have this sum.
    pub fn row<S: Simd, E: Element>(total: u64, row: UpTo<'a, S, E>) -> Self {
        Self { total, masses: Masses::Row(Box::new(row)) }
    }

    /// What a token has of it.
    pub fn share(&self, token: u32) -> Share {
        let mass = match &self.masses {
            Masses::Few(few) => {
                few.binary_search_by_key(&token, |(id, _)| *id).map_or(0, |i| few[i].1)
            }
            Masses::Dense(p) => mass_of(p[token as usize]),
            Masses::Row(row) => row.mass(token),
        };
        Share { mass, total: self.total }
    }

    /// The sum of all masses.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The tokens that have a mass, ids ascending, where they are listed.
    pub fn listed(&self) -> Option<&[(u32, u64)]> {
        match &self.masses {
            Masses::Few(few) => Some(few),
            _ => None,
        }
    }

    /// Weighs the tokens of a block that are looked at, where they are not listed.
    pub fn weigh_block<S: Simd>(&self, s: S, block: usize, hits: &Hits, masses: &mut TokenMasses) {
        match &self.masses {
            Masses::Few(_) => unreachable!("tokens that are listed are looked at one by one"),
            Masses::Dense(p) => s.run(WeighProbabilities { p: &p[block * BLOCK..], hits, masses }),
            Masses::Row(row) => row.weigh_block(block, hits, masses),
        }
    }
}
