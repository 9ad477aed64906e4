//! What instructions compute: text -> functions of registers, which hold raw bits.

use super::op::{Op, bytes};
use half::{bf16, f16};

/// A typed integer operation on raw registers.
macro_rules! int {
    ($ty:ty, |$a:ident, $b:ident| $body:expr) => {
        |$a: u64, $b: u64| {
            let ($a, $b) = ($a as $ty, $b as $ty);
            ($body) as u64
        }
    };
}

/// The same operation for the unsigned and signed types of three widths, zero-extended.
macro_rules! by_type {
    ($ty:expr, |$a:ident, $b:ident| $body:expr) => {
        match $ty {
            "u16" | "b16" => int!(u16, |$a, $b| $body),
            "s16" => |a: u64, b: u64| {
                let ($a, $b) = (a as i16, b as i16);
                ($body) as u16 as u64
            },
            "u32" | "b32" => int!(u32, |$a, $b| $body),
            "s32" => |a: u64, b: u64| {
                let ($a, $b) = (a as i32, b as i32);
                ($body) as u32 as u64
            },
            "u64" | "b64" => int!(u64, |$a, $b| $body),
            "s64" => int!(i64, |$a, $b| $body),
            _ => return None,
        }
    };
}

pub fn binary(op: &str, ty: &str) -> Option<fn(u64, u64) -> u64> {
    Some(match op {
        "add" => by_type!(ty, |a, b| a.wrapping_add(b)),
        "sub" => by_type!(ty, |a, b| a.wrapping_sub(b)),
        "min" => by_type!(ty, |a, b| a.min(b)),
        "max" => by_type!(ty, |a, b| a.max(b)),
        "and" => by_type!(ty, |a, b| a & b),
        "or" => by_type!(ty, |a, b| a | b),
        "xor" => by_type!(ty, |a, b| a ^ b),
        "inc" => |a, b| if a as u32 >= b as u32 { 0 } else { a + 1 },
        "dec" => |a, b| if a == 0 || a as u32 > b as u32 { b } else { a - 1 },
        _ => return None,
    })
}

pub fn comparison(test: &str, ty: &str) -> Option<fn(u64, u64) -> bool> {
    macro_rules! compare {
        ($ty:ty) => {
            match test {
                "eq" => |a, b| a as $ty == b as $ty,
                "ne" => |a, b| a as $ty != b as $ty,
                "lt" | "lo" => |a, b| (a as $ty) < (b as $ty),
                "le" | "ls" => |a, b| (a as $ty) <= (b as $ty),
                "gt" | "hi" => |a, b| (a as $ty) > (b as $ty),
                "ge" | "hs" => |a, b| (a as $ty) >= (b as $ty),
                _ => return None,
            }
        };
    }
    Some(match ty {
        "u16" | "b16" => compare!(u16),
        "s16" => compare!(i16),
        "u32" | "b32" => compare!(u32),
        "s32" => compare!(i32),
        "u64" | "b64" => compare!(u64),
        "s64" => compare!(i64),
        "f32" => match test {
            "eq" => |a, b| f32_of(a) == f32_of(b),
            "lt" => |a, b| f32_of(a) < f32_of(b),
            "le" => |a, b| f32_of(a) <= f32_of(b),
            "gt" => |a, b| f32_of(a) > f32_of(b),
            "ge" => |a, b| f32_of(a) >= f32_of(b),
            // Without `u`, false where either is NaN: unlike Rust's `!=`.
            "ne" => |a, b| f32_of(a) < f32_of(b) || f32_of(a) > f32_of(b),
            "neu" => |a, b| f32_of(a) != f32_of(b),
            // With it, true where either is NaN.
            "equ" => |a, b| f32_of(a) == f32_of(b) || unordered(a, b),
            "ltu" => |a, b| f32_of(a) < f32_of(b) || unordered(a, b),
            "leu" => |a, b| f32_of(a) <= f32_of(b) || unordered(a, b),
            "gtu" => |a, b| f32_of(a) > f32_of(b) || unordered(a, b),
            "geu" => |a, b| f32_of(a) >= f32_of(b) || unordered(a, b),
            "num" => |a, b| !unordered(a, b),
            "nan" => unordered,
            _ => return None,
        },
        _ => return None,
    })
}

fn f32_of(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

fn f64_of(bits: u64) -> f64 {
    f64::from_bits(bits)
}

/// Whether either is NaN.
fn unordered(a: u64, b: u64) -> bool {
    f32_of(a).is_nan() || f32_of(b).is_nan()
}

/// Every NaN that an operation returns is this one.
const NAN_BITS: u64 = 0x7fff_ffff;

fn of_f32(x: f32) -> u64 {
    if x.is_nan() { NAN_BITS } else { u64::from(x.to_bits()) }
}

/// The greater one; a number beside a NaN; +0.0 of two zeros.
fn maximum(a: f32, b: f32) -> f32 {
    if a == b {
        f32::from_bits(a.to_bits() & b.to_bits())
    } else if a > b || b.is_nan() {
        a
    } else {
        b
    }
}

/// The lesser one; a number beside a NaN; -0.0 of two zeros.
fn minimum(a: f32, b: f32) -> f32 {
    if a == b {
        f32::from_bits(a.to_bits() | b.to_bits())
    } else if a < b || b.is_nan() {
        a
    } else {
        b
    }
}

pub fn arithmetic(name: &str, rest: &[&str]) -> Option<Op> {
    Some(match (name, rest) {
        ("add" | "sub" | "min" | "max" | "and" | "or" | "xor", [ty]) if *ty != "f32" => {
            match (name, *ty) {
                ("and", "pred") => Op::Binary(|a, b| a & b),
                ("or", "pred") => Op::Binary(|a, b| a | b),
                ("xor", "pred") => Op::Binary(|a, b| u64::from((a != 0) != (b != 0))),
                _ => Op::Binary(binary(name, ty)?),
            }
        }
        ("min", ["f32"]) => Op::Binary(|a, b| of_f32(minimum(f32_of(a), f32_of(b)))),
        ("max", ["f32"]) => Op::Binary(|a, b| of_f32(maximum(f32_of(a), f32_of(b)))),
        ("max", ["NaN", "f32"]) => Op::Binary(|a, b| {
            let (a, b) = (f32_of(a), f32_of(b));
            of_f32(if a.is_nan() || b.is_nan() { f32::NAN } else { maximum(a, b) })
        }),
        ("add", ["rn", "f32"]) => Op::Binary(|a, b| of_f32(f32_of(a) + f32_of(b))),
        ("sub", ["rn", "f32"]) => Op::Binary(|a, b| of_f32(f32_of(a) - f32_of(b))),
        ("mul", ["rn", "f32"]) => Op::Binary(|a, b| of_f32(f32_of(a) * f32_of(b))),
        ("div", ["rn", "f32"]) => Op::Binary(|a, b| of_f32(f32_of(a) / f32_of(b))),
        ("fma", ["rn", "f32"]) => {
            Op::Ternary(|a, b, c| of_f32(f32_of(a).mul_add(f32_of(b), f32_of(c))))
        }
        ("neg", ["f32"]) => Op::Unary(|a| a ^ 0x8000_0000),
        ("abs", ["f32"]) => Op::Unary(|a| a & 0x7fff_ffff),
        ("mul", ["rn", "f64"]) => Op::Binary(|a, b| (f64_of(a) * f64_of(b)).to_bits()),
        ("div", ["rn", "f64"]) => Op::Binary(|a, b| (f64_of(a) / f64_of(b)).to_bits()),
        ("sqrt", ["rn", "f64"]) => Op::Unary(|a| f64_of(a).sqrt().to_bits()),
        ("neg", ["f64"]) => Op::Unary(|a| a ^ 1 << 63),
        ("neg", ["s32"]) => Op::Unary(|a| u64::from((a as u32).wrapping_neg())),
        ("neg", ["s64"]) => Op::Unary(|a| a.wrapping_neg()),
        ("neg", ["s16"]) => Op::Unary(|a| u64::from((a as u16).wrapping_neg())),
        ("abs", ["s64"]) => Op::Unary(|a| (a as i64).unsigned_abs()),
        ("abs", ["s32"]) => Op::Unary(|a| u64::from((a as i32).unsigned_abs())),
        // A predicate that is set to -1 is true.
        ("not", ["pred"]) => Op::Unary(|a| u64::from(a == 0)),
        ("not", ["b16"]) => Op::Unary(|a| u64::from(!(a as u16))),
        ("not", ["b32"]) => Op::Unary(|a| u64::from(!(a as u32))),
        ("not", ["b64"]) => Op::Unary(|a| !a),
        ("popc", ["b32"]) => Op::Unary(|a| u64::from((a as u32).count_ones())),
        ("popc", ["b64"]) => Op::Unary(|a| u64::from(a.count_ones())),
        ("clz", ["b32"]) => Op::Unary(|a| u64::from((a as u32).leading_zeros())),
        ("clz", ["b64"]) => Op::Unary(|a| u64::from(a.leading_zeros())),
        ("brev", ["b32"]) => Op::Unary(|a| u64::from((a as u32).reverse_bits())),
        ("brev", ["b64"]) => Op::Unary(u64::reverse_bits),
        ("bfind", ["u32"]) => {
            Op::Unary(|a| u64::from(31u32.wrapping_sub((a as u32).leading_zeros())))
        }
        ("bfind", ["shiftamt", "u32"]) => Op::Unary(|a| match a as u32 {
            0 => u64::from(u32::MAX),
            a => u64::from(a.leading_zeros()),
        }),
        ("mul", ["lo", "s16" | "u16"]) => {
            int_op(|a, b| u64::from((a as u16).wrapping_mul(b as u16)))
        }
        ("mul", ["lo", "s32" | "u32"]) => {
            int_op(|a, b| u64::from((a as u32).wrapping_mul(b as u32)))
        }
        ("mul", ["lo", "s64" | "u64"]) => int_op(u64::wrapping_mul),
        ("mul", ["hi", "u32"]) => int_op(|a, b| (u64::from(a as u32) * u64::from(b as u32)) >> 32),
        ("mul", ["hi", "s32"]) => {
            int_op(|a, b| ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32 as u64)
        }
        ("mul", ["hi", "u64"]) => int_op(|a, b| ((u128::from(a) * u128::from(b)) >> 64) as u64),
        ("mul", ["wide", "u16"]) => int_op(|a, b| u64::from(a as u16) * u64::from(b as u16)),
        ("mul", ["wide", "u32"]) => int_op(|a, b| u64::from(a as u32) * u64::from(b as u32)),
        ("mul", ["wide", "s32"]) => {
            int_op(|a, b| (i64::from(a as i32) * i64::from(b as i32)) as u64)
        }
        ("mad", ["lo", "s32" | "u32"]) => Op::Ternary(|a, b, c| {
            u64::from((a as u32).wrapping_mul(b as u32).wrapping_add(c as u32))
        }),
        ("mad", ["lo", "s64" | "u64"]) => Op::Ternary(|a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        ("mad", ["wide", "u32"]) => {
            Op::Ternary(|a, b, c| (u64::from(a as u32) * u64::from(b as u32)).wrapping_add(c))
        }
        ("mad", ["wide", "s32"]) => Op::Ternary(|a, b, c| {
            ((i64::from(a as i32) * i64::from(b as i32)) as u64).wrapping_add(c)
        }),
        // Division by zero has no defined result: a panic is the loudest failure.
        ("div", ["u32"]) => int_op(|a, b| u64::from(a as u32 / b as u32)),
        ("div", ["u64"]) => int_op(|a, b| a / b),
        ("div", ["s32"]) => int_op(|a, b| (a as i32 / b as i32) as u32 as u64),
        ("rem", ["u32"]) => int_op(|a, b| u64::from(a as u32 % b as u32)),
        ("rem", ["u64"]) => int_op(|a, b| a % b),
        // Shift amounts beyond the width are clamped to it.
        ("shl", ["b16"]) => int_op(|a, n| shift(n, 16, |n| (a << n) & 0xffff)),
        ("shl", ["b32"]) => int_op(|a, n| shift(n, 32, |n| u64::from((a as u32) << n))),
        ("shl", ["b64"]) => int_op(|a, n| shift(n, 64, |n| a << n)),
        ("shr", ["u16" | "b16"]) => int_op(|a, n| shift(n, 16, |n| (a & 0xffff) >> n)),
        ("shr", ["u32" | "b32"]) => int_op(|a, n| shift(n, 32, |n| u64::from((a as u32) >> n))),
        ("shr", ["u64" | "b64"]) => int_op(|a, n| shift(n, 64, |n| a >> n)),
        ("shr", ["s16"]) => int_op(|a, n| (a as i16 >> (n as u32).min(15)) as u16 as u64),
        ("shr", ["s32"]) => int_op(|a, n| (a as i32 >> (n as u32).min(31)) as u32 as u64),
        ("shr", ["s64"]) => int_op(|a, n| (a as i64 >> (n as u32).min(63)) as u64),
        ("shf", ["l", "wrap", "b32"]) => Op::Ternary(|a, b, n| {
            let both = u64::from(b as u32) << 32 | u64::from(a as u32);
            (both << (n & 31)) >> 32
        }),
        ("shf", ["r", "wrap", "b32"]) => Op::Ternary(|a, b, n| {
            let both = u64::from(b as u32) << 32 | u64::from(a as u32);
            u64::from((both >> (n & 31)) as u32)
        }),
        ("shf", ["l", "clamp", "b32"]) => Op::Ternary(|a, b, n| {
            let both = u64::from(b as u32) << 32 | u64::from(a as u32);
            u64::from(((both << (n as u32).min(32)) >> 32) as u32)
        }),
        ("shf", ["r", "clamp", "b32"]) => Op::Ternary(|a, b, n| {
            let both = u64::from(b as u32) << 32 | u64::from(a as u32);
            u64::from((both >> (n as u32).min(32)) as u32)
        }),
        ("bfe", ["u32"]) => Op::Ternary(|a, position, length| {
            let (position, length) = (position as u32 & 0xff, length as u32 & 0xff);
            let shifted = (a as u32).checked_shr(position).unwrap_or(0);
            u64::from(if length >= 32 { shifted } else { shifted & ((1 << length) - 1) })
        }),
        ("prmt", ["b32"]) => Op::Ternary(permute),
        _ => return None,
    })
}

fn int_op(f: fn(u64, u64) -> u64) -> Op {
    Op::Binary(f)
}

fn shift(amount: u64, width: u32, f: impl Fn(u32) -> u64) -> u64 {
    let amount = amount as u32;
    if amount >= width { 0 } else { f(amount) }
}

fn permute(a: u64, b: u64, selector: u64) -> u64 {
    let bytes = (u64::from(b as u32) << 32 | u64::from(a as u32)).to_le_bytes();
    let mut out = [0; 8];
    for (i, byte) in out.iter_mut().take(4).enumerate() {
        let pick = selector >> (4 * i) & 0xf;
        let source = bytes[(pick & 7) as usize];
        *byte = if pick & 8 == 0 { source } else { (source as i8 >> 7) as u8 };
    }
    u64::from_le_bytes(out)
}

pub fn conversion(parts: &[&str]) -> Option<fn(u64) -> u64> {
    Some(match parts {
        ["f32", "f16"] => |a| of_f32(f16::from_bits(a as u16).to_f32()),
        ["f32", "bf16"] => |a| of_f32(bf16::from_bits(a as u16).to_f32()),
        ["rn", "f32", "u32"] => |a| of_f32(a as u32 as f32),
        ["rn", "f32", "u64"] => |a| of_f32(a as f32),
        ["rn", "f32", "f64"] => |a| of_f32(f64_of(a) as f32),
        ["rn", "f64", "u32"] => |a| f64::from(a as u32).to_bits(),
        ["rn", "f64", "u64"] => |a| (a as f64).to_bits(),
        ["f64", "f32"] => |a| f64::from(f32_of(a)).to_bits(),
        ["rn", "f32", "s32"] => |a| of_f32(a as i32 as f32),
        [to @ ("u16" | "u32" | "u64" | "s16" | "s32" | "s64" | "u8" | "s8"), from] => {
            let narrow = |width: usize| -> fn(u64) -> u64 {
                match width {
                    1 => |a| a & 0xff,
                    2 => |a| a & 0xffff,
                    4 => |a| a & 0xffff_ffff,
                    _ => |a| a,
                }
            };
            let (to_bytes, from_bytes) = (bytes(to)?, bytes(from)?);
            match (from.starts_with('s'), from_bytes < to_bytes) {
                (true, true) => match (*from, to_bytes) {
                    ("s8", 2) => |a| a as i8 as u16 as u64,
                    ("s8", 4) => |a| a as i8 as u32 as u64,
                    ("s8", 8) => |a| a as i8 as u64,
                    ("s16", 4) => |a| a as i16 as u32 as u64,
                    ("s16", 8) => |a| a as i16 as u64,
                    ("s32", 8) => |a| a as i32 as u64,
                    _ => return None,
                },
                _ => narrow(to_bytes.min(from_bytes)),
            }
        }
        _ => return None,
    })
}

/// The low `length` bits of `a` put into `b` at `position`, in registers of `WIDTH` bits.
pub fn insert_bits<const WIDTH: u32>(a: u64, b: u64, position: u64, length: u64) -> u64 {
    let ones = |count: u32| if count >= 64 { u64::MAX } else { (1 << count) - 1 };
    let (position, length) = (position as u32 & 0xff, length as u32 & 0xff);
    let shift = |bits: u64| bits.checked_shl(position).unwrap_or(0) & ones(WIDTH);
    let mask = shift(ones(length.min(WIDTH)));
    b & ones(WIDTH) & !mask | shift(a) & mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_picked_and_put() {
        assert_eq!(permute(0x4433_2211, 0x8877_6655, 0xf741), 0xff88_5522);
        assert_eq!(insert_bits::<64>(0x1234, 0xffff_ffff_0000_0000, 32, 32), 0x1234_0000_0000);
        assert_eq!(insert_bits::<32>(0xabc, 0xffff_ffff, 4, 8), 0xffff_fbcf);
        assert_eq!(insert_bits::<32>(5, 7, 40, 8), 7);
    }
}
