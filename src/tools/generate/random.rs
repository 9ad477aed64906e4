//! A stream of random numbers, the same on every machine: the counter-based generator again.

use logitd_core::arithmetic::philox::philox4x32_10;

/// What generated rows use the generator for: a purpose that no draw has.
const PURPOSE: u32 = u32::from_be_bytes(*b"rows");

/// The stream of one row. It needs no row before it.
#[derive(Clone, Debug)]
pub struct Random {
    key: [u32; 2],
    index: u64,
    block: u32,
    left: Option<u64>,
}

impl Random {
    /// Stream number `index` of those that `seed` names.
    pub fn new(seed: u64, index: u64) -> Self {
        Self { key: [seed as u32, (seed >> 32) as u32], index, block: 0, left: None }
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        if let Some(bits) = self.left.take() {
            return bits;
        }
        let counter = [self.index as u32, (self.index >> 32) as u32, self.block, PURPOSE];
        let [a, b, c, d] = philox4x32_10(counter, self.key).map(u64::from);
        self.block += 1;
        self.left = Some(c | d << 32);
        a | b << 32
    }

    /// 0 to `n - 1`; the bias of a multiplication is of no interest here.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(n)) >> 64) as u64
    }

    /// One of them.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// [0, 1).
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 24) as f32
    }

    /// Close to a normal distribution: no logarithm, so that every machine makes the same rows.
    pub fn bell(&mut self) -> f32 {
        let bits = self.bits();
        let sum: u64 = (0..4).map(|i| (bits >> (16 * i)) & 0xffff).sum();
        (sum as f32 / 65536.0 - 2.0) * 1.732
    }

    /// An end of the 32- or 64-bit range, or anything.
    pub fn edge_u64(&mut self) -> u64 {
        let any = self.bits();
        self.pick(&[0, 1, u64::MAX, u64::from(u32::MAX), 1 << 32, any, any, any])
    }
}
