//! What sets come to over rows, as integers: a row adds one to each field, whatever the order. However rows were
//! batched or spread, partial sums add up to the same.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::AddAssign;

/// The share of a row's mass below which a token is of its tail, unless somebody says otherwise.
pub const TAIL_SHARE: f32 = 1e-4;
/// What a reference that is kept counts at least, in units of 2^-32 nat.
pub const LOGPROB_Q32_MIN: i64 = -(4096 << 32);

/// What a row says of a set, and the sum of that over rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetSums {
    /// References that are kept.
    pub hits: u64,
    /// Kept tokens.
    pub kept: u64,
    /// The log-probability among the kept of references that are kept: units of 2^-32 nat, each at least -4,096 nat.
    pub logprob_q32: i64,
    /// The probability of references, 0 where they are cut: units of 2^-32, each truncated.
    pub probability_q32: u64,
    /// The entropy of the kept tokens: units of 2^-32 bit, each truncated.
    pub entropy_q32: u64,
    /// The mean surprise of the kept tokens, each at the model's own probability: units of 2^-32 bit, each truncated.
    pub surprise_q32: u64,
    /// The probability that two draws are the same token: units of 2^-32, each truncated.
    pub collision_q32: u64,
    /// The share of what is drawn that is of the row's tail: units of 2^-32, each truncated.
    pub tail_q32: u64,
}

impl AddAssign for SetSums {
    #[inline]
    fn add_assign(&mut self, other: Self) {
        self.hits += other.hits;
        self.kept += other.kept;
        self.logprob_q32 += other.logprob_q32;
        self.probability_q32 += other.probability_q32;
        self.entropy_q32 += other.entropy_q32;
        self.surprise_q32 += other.surprise_q32;
        self.collision_q32 += other.collision_q32;
        self.tail_q32 += other.tail_q32;
    }
}

/// The sums over the rows of one label.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupSums {
    /// Rows that have a token: these are what was summed.
    pub rows: u64,
    /// Rows that have none.
    pub rows_failed: u64,
    /// One a set.
    pub sets: Vec<SetSums>,
}

impl GroupSums {
    /// Of no rows yet.
    pub fn new(sets: usize) -> Self {
        Self { rows: 0, rows_failed: 0, sets: vec![SetSums::default(); sets] }
    }
}

impl AddAssign<&GroupSums> for GroupSums {
    fn add_assign(&mut self, other: &Self) {
        assert_eq!(self.sets.len(), other.sets.len(), "sums of the same sets");
        self.rows += other.rows;
        self.rows_failed += other.rows_failed;
        self.sets.iter_mut().zip(&other.sets).for_each(|(sums, more)| *sums += *more);
    }
}

/// The sums of every label, by label.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sums(BTreeMap<u32, GroupSums>);

impl Sums {
    /// Adds the sums of some rows of a label.
    pub fn add(&mut self, label: u32, sums: GroupSums) {
        match self.0.entry(label) {
            Entry::Vacant(place) => drop(place.insert(sums)),
            Entry::Occupied(mut place) => *place.get_mut() += &sums,
        }
    }

    /// Adds other rows of the same sets.
    pub fn merge(&mut self, other: Self) {
        other.0.into_iter().for_each(|(label, sums)| self.add(label, sums));
    }

    /// Each label that occurs with its sums, ascending.
    pub fn groups(&self) -> impl ExactSizeIterator<Item = (u32, &GroupSums)> {
        self.0.iter().map(|(label, sums)| (*label, sums))
    }

    /// The sums of a label.
    pub fn group(&self, label: u32) -> Option<&GroupSums> {
        self.0.get(&label)
    }

    /// The sums over all labels.
    pub fn total(&self, sets: usize) -> GroupSums {
        let mut total = GroupSums::new(sets);
        self.0.values().for_each(|sums| total += sums);
        total
    }
}

/// `floor(squares * 2^32 / mass^2)`, for `squares` of at most `mass^2`, and that of at most 2^120.
pub(super) fn collision(squares: u128, mass: u64) -> u64 {
    /// Bits that a remainder can be shifted by and still fit 128.
    const STEP: u32 = 8;
    let divisor = u128::from(mass) * u128::from(mass);
    if squares >> 96 == 0 {
        return ((squares << 32) / divisor) as u64;
    }
    // Of 192 bits: a few at a time, as on paper.
    let (mut quotient, mut rest) = (squares / divisor, squares % divisor);
    for _ in 0..32 / STEP {
        rest <<= STEP;
        quotient = (quotient << STEP) | (rest / divisor);
        rest %= divisor;
    }
    quotient as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collisions_are_divided_exactly() {
        for shift in [0, 1, 20] {
            let mass = 1u64 << (40 + shift);
            // A lone token, and equal ones.
            assert_eq!(collision(u128::from(mass).pow(2), mass), 1 << 32);
            assert_eq!(collision(u128::from(mass / 4).pow(2) * 4, mass), 1 << 30);
        }
        // By the definition: q is the greatest with q * divisor <= squares * 2^32.
        let mut state = 1u64;
        for i in 0..3000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
            let mass = (state >> 4).max(1) >> (i % 20);
            let mass = mass.max(1);
            let squares = u128::from(mass).pow(2) / u128::from(1 + (state >> 50)) + 1;
            let squares = squares.min(u128::from(mass).pow(2));
            let divisor = u128::from(mass).pow(2);
            let q = collision(squares, mass);
            // Both sides in 256 bits: (high, low) with low of 64.
            let wide = |a: u128, b: u64| {
                let low = (a & u128::from(u64::MAX)) * u128::from(b);
                let high = (a >> 64) * u128::from(b) + (low >> 64);
                (high, low as u64)
            };
            let dividend = wide(squares, 1 << 32);
            assert!(wide(divisor, q) <= dividend, "{squares} {mass}");
            assert!(wide(divisor, q + 1) > dividend, "{squares} {mass}");
        }
    }

    #[test]
    fn partial_sums_add_up() {
        let one = |hits| GroupSums {
            rows: 1,
            rows_failed: hits,
            sets: vec![SetSums { hits, logprob_q32: -7, ..Default::default() }; 2],
        };
        let mut a = Sums::default();
        a.add(3, one(1));
        a.add(1, one(0));
        let mut b = Sums::default();
        b.add(3, one(5));
        a.merge(b);
        assert_eq!(
            a.groups().map(|(label, sums)| (label, sums.rows)).collect::<Vec<_>>(),
            [(1, 1), (3, 2)]
        );
        let total = a.total(2);
        assert_eq!((total.rows, total.rows_failed), (3, 6));
        assert_eq!((total.sets[1].hits, total.sets[1].logprob_q32), (6, -21));
        assert_eq!(Sums::default().total(2).sets, [SetSums::default(); 2]);
    }
}
