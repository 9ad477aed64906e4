//! The total order: token `i` comes before `j` if `x_i > x_j`, or `x_i == x_j` and `i < j`.
//!
//! A key is an unsigned integer that orders as its logit does, with -0.0 and +0.0 as one value.
//! Widening f16 or bf16 to f32 keeps the order, so 16-bit rows can be ordered by 16-bit keys.
//! Keys of NaN mean nothing: a row with a NaN has no token, and is never ordered.

/// Orders f32 values as unsigned integers: `key32(a) > key32(b)` exactly if `a > b`.
#[inline]
pub const fn key32(x: f32) -> u32 {
    let bits = x.to_bits();
    // Negative values order backwards: flip them all. -0.0 must become +0.0 first.
    if bits == 0x8000_0000 {
        0x8000_0000
    } else if bits >> 31 == 1 {
        !bits
    } else {
        bits | 0x8000_0000
    }
}

/// The same for the bits of an f16 or a bf16: both order like sign and magnitude.
#[inline]
pub const fn key16(bits: u16) -> u16 {
    if bits == 0x8000 {
        0x8000
    } else if bits >> 15 == 1 {
        !bits
    } else {
        bits | 0x8000
    }
}

/// The 16-bit pattern whose key this is. A zero comes back as +0.0.
#[inline]
pub const fn bits16(key: u16) -> u16 {
    if key >> 15 == 1 { key & 0x7fff } else { !key }
}

/// The f32 whose key this is. A zero comes back as +0.0.
#[inline]
pub const fn value32(key: u32) -> f32 {
    f32::from_bits(if key >> 31 == 1 { key & 0x7fff_ffff } else { !key })
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    #[test]
    fn zeros_tie() {
        assert_eq!(key32(-0.0), key32(0.0));
        assert_eq!(key16(0x8000), key16(0x0000));
    }

    #[test]
    fn every_16_bit_pattern_orders_as_its_value() {
        for widen in
            [(|b| f16::from_bits(b).to_f32()) as fn(u16) -> f32, |b| bf16::from_bits(b).to_f32()]
        {
            let mut patterns: Vec<u16> = (0..=u16::MAX).filter(|&b| !widen(b).is_nan()).collect();
            patterns.sort_by_key(|&b| key16(b));
            for pair in patterns.windows(2) {
                let (a, b) = (widen(pair[0]), widen(pair[1]));
                assert_eq!(a == b, key16(pair[0]) == key16(pair[1]), "{a} {b}");
                assert_eq!(a < b, key16(pair[0]) < key16(pair[1]), "{a} {b}");
                assert_eq!(a < b, key32(a) < key32(b), "{a} {b}");
                assert_eq!(widen(bits16(key16(pair[0]))), a);
                assert_eq!(value32(key32(a)), a);
            }
        }
    }
}
