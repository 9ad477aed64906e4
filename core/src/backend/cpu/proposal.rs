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
use super::simd::Simd;
use crate::arithmetic::accept::Share;
use crate::arithmetic::mass::UNIT;

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
    /// Lists and weighs the tokens of a block.
    fn list_block(&self, block: usize, list: &mut List);
}

/// The tokens of a row up to a cut.
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
}

impl<S: Simd, E: Element> OfRow for UpTo<'_, S, E> {
    fn mass(&self, token: u32) -> u64 {
        self.logit(token).map_or(0, |x| self.row.weights.mass(x))
    }

    fn list_block(&self, block: usize, list: &mut List) {
        self.row.collect_block(block, self.cut, list);
        self.row.weigh(list);
    }
}

impl<'a> Proposed<'a> {
    /// No token has anything. The sum is 1, so that all that a row has is left of it.
    pub const NOTHING: Self = Self { total: 1, masses: Masses::Few(&[]) };

    /// A list of masses, ids ascending.
    pub fn few(few: &'a [(u32, u64)]) -> Self {
        Self { total: few.iter().map(|(_, mass)| mass).sum(), masses: Masses::Few(few) }
    }

    /// A probability a token.
    pub fn dense(p: &'a [f32]) -> Self {
        Self { total: p.iter().copied().map(mass_of).sum(), masses: Masses::Dense(p) }
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

    /// The masses of a block's tokens, those that the row does not have included.
    pub fn of_block<'b>(&self, block: usize, masses: &'b mut BlockMasses) -> &'b [u64; BLOCK] {
        let start = block * BLOCK;
        let BlockMasses { list, masses } = masses;
        masses.fill(0);
        match &self.masses {
            Masses::Few(few) => {
                let of_block = &few[few.partition_point(|(id, _)| (*id as usize) < start)..];
                let of_block = of_block.iter().map(|&(id, mass)| (id as usize - start, mass));
                let within = of_block.take_while(|(place, _)| *place < BLOCK);
                within.for_each(|(place, mass)| masses[place] = mass);
            }
            Masses::Dense(p) => {
                masses.iter_mut().zip(&p[start..]).for_each(|(mass, &p)| *mass = mass_of(p));
            }
            Masses::Row(row) => {
                row.list_block(block, list);
                let ids = list.ids().iter().enumerate();
                ids.for_each(|(i, &id)| masses[id as usize - start] = list.mass(i));
            }
        }
        masses
    }
}

/// Memory for the masses of a block.
pub struct BlockMasses {
    list: List,
    masses: [u64; BLOCK],
}

impl Default for BlockMasses {
    fn default() -> Self {
        Self { list: List::default(), masses: [0; BLOCK] }
    }
}

/// The mass of a token with a probability.
fn mass_of(p: f32) -> u64 {
    (p * UNIT as f32) as u64
}
