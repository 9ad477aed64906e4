//! 64-bit integers where a reader's numbers may be doubles: JSON, as most programs read it.
//!
//! A double has 53 bits. So seeds that are chosen here have no more, and an integer that has is written
//! as a string, as JSON of Protocol Buffers has all of them. Both are read.

use serde::{Serialize, Serializer};

/// Below it every integer is a double, and no two are the same.
pub const DOUBLE_END: u64 = 1 << 53;

/// A seed that is chosen by the program, from 64 random bits: below [`DOUBLE_END`].
pub fn chosen_seed(bits: u64) -> u64 {
    bits >> 11
}

/// So many seeds from the operating system, which is asked once; or why it gives none.
pub fn fresh_seeds(count: usize) -> Result<Vec<u64>, String> {
    let mut bytes = vec![0; count * 8];
    getrandom::fill(&mut bytes).map_err(|error| error.to_string())?;
    let words = bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word));
    Ok(words.map(chosen_seed).collect())
}

/// An integer of JSON: a number where every reader has it whole, else a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whole(pub u64);

impl Serialize for Whole {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            n @ ..DOUBLE_END => serializer.serialize_u64(n),
            n => serializer.collect_str(&n),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_beyond_a_double_are_strings() {
        let json = |n| serde_json::to_string(&Whole(n)).unwrap();
        assert_eq!(json(0), "0");
        assert_eq!(json(DOUBLE_END - 1), "9007199254740991");
        assert_eq!(json(DOUBLE_END), "\"9007199254740992\"");
        assert_eq!(json(u64::MAX), "\"18446744073709551615\"");
    }

    #[test]
    fn chosen_seeds_come_through_a_double_whole() {
        assert_eq!(chosen_seed(u64::MAX), DOUBLE_END - 1);
        let seeds = fresh_seeds(1000).unwrap();
        assert!(seeds.iter().all(|&seed| seed as f64 as u64 == seed && seed < DOUBLE_END));
        // All 53 bits are used.
        assert_eq!(seeds.iter().fold(0, |all, seed| all | seed), DOUBLE_END - 1);
    }
}
