//! XTC's coin: whether it acts on a row.

use super::fraction::q64;
use super::philox::{PURPOSE_XTC, bits};

/// Whether it acts: one coin for all draws of a row.
pub fn acts(probability: f32, seed: u64, position: u64) -> bool {
    u128::from(bits(seed, position, 0, PURPOSE_XTC)) < q64(probability)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acts_as_often_as_it_is_told() {
        assert!((0..1000).all(|position| acts(1.0, 7, position) && !acts(0.0, 7, position)));
        let times = (0..10_000).filter(|&position| acts(0.25, 7, position)).count();
        assert!((2400..2600).contains(&times), "{times}");
    }
}
