//! Philox4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw,
//! "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
//!
//! There is no state: the bits of a draw are a pure function of `(seed, position, draw, purpose)`,
//! and of nothing else. Never of the row's place in a batch.

/// What randomness is used for. Each use has its own stream.
pub const PURPOSE_TOKEN: u32 = 0;
/// The coin of [XTC](super::xtc).
pub const PURPOSE_XTC: u32 = 1;
/// A token that is drawn as a draft.
pub const PURPOSE_DRAFT: u32 = 2;
/// Whether a draft is [taken](super::accept).
pub const PURPOSE_ACCEPTANCE: u32 = 3;
/// The token in place of a draft that is not taken.
pub const PURPOSE_RESIDUAL: u32 = 4;
/// The noise of a token in a [race](super::race). It shares its word of the counter with the token's id.
pub const PURPOSE_RACE: u32 = 6;
/// The same where a draft is drawn.
pub const PURPOSE_RACE_DRAFT: u32 = 7;

/// Ten rounds of Philox4x32.
#[inline]
pub fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            key[0] = key[0].wrapping_add(0x9e37_79b9);
            key[1] = key[1].wrapping_add(0xbb67_ae85);
        }
        let a = u64::from(counter[0]) * 0xd251_1f53;
        let b = u64::from(counter[2]) * 0xcd9e_8d57;
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ key[1],
            a as u32,
        ];
    }
    counter
}

/// The 64 random bits of one draw of the token at `position` of the sequence with `seed`.
#[inline]
pub fn token_bits(seed: u64, position: u64, draw: u32) -> u64 {
    bits(seed, position, draw, PURPOSE_TOKEN)
}

/// The 64 random bits of one draw for some purpose.
#[inline]
pub fn bits(seed: u64, position: u64, draw: u32, purpose: u32) -> u64 {
    let out = philox4x32_10(
        [position as u32, (position >> 32) as u32, draw, purpose],
        [seed as u32, (seed >> 32) as u32],
    );
    u64::from(out[0]) | u64::from(out[1]) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors published with the generator.
    #[test]
    fn known_answers() {
        let cases = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(philox4x32_10(counter, key), expected);
        }
    }
}
