//! What an opcode means: text -> [`Op`]. The subset that nvcc makes of our kernels, and no more: an
//! opcode, a type or a modifier that is not listed is an error that names it.
//!
//! Floating point is held to the contract: only `.rn` (never contracted, never flushed) is known.

use half::{bf16, f16};

/// A decoded instruction.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    /// `d = a`, packing and unpacking vectors of halves; the bytes of the whole.
    Move(usize),
    Unary(fn(u64) -> u64),
    Binary(fn(u64, u64) -> u64),
    Ternary(fn(u64, u64, u64) -> u64),
    /// Four inputs: `bfi`.
    Quaternary(fn(u64, u64, u64, u64) -> u64),
    /// `lop3.b32`: the table is the fourth input.
    Lop3,
    Compare {
        test: fn(u64, u64) -> bool,
        combine: Option<fn(bool, bool) -> bool>,
    },
    Select,
    Load {
        space: Space,
        access: Access,
    },
    Store {
        space: Space,
        access: Access,
    },
    /// Read, modify, write. `returns` is false for `red`.
    Atomic {
        space: Space,
        bytes: usize,
        update: Update,
        returns: bool,
    },
    /// `cvta` between a space's own addresses and generic ones.
    ToGeneric(Space),
    FromGeneric(Space),
    /// `mapa`: another block's view of a shared address.
    MapShared {
        generic: bool,
    },
    Branch,
    Return,
    Trap,
    /// Memory order: the machine is sequentially consistent.
    Nothing,
    Barrier,
    BarrierReduce(Vote),
    ClusterArrive,
    ClusterWait,
    WarpBarrier,
    Shuffle(Shuffle),
    VoteSync(Vote),
    MatchAny {
        bytes: usize,
    },
    Reduce(fn(u64, u64) -> u64),
    ActiveMask,
}

/// Where an address points.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Space {
    Generic,
    Global,
    Shared,
    Const,
    Param,
}

/// What is read or written at an address.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    pub bytes: usize,
    pub count: usize,
    /// Sign-extends into the register.
    pub signed: bool,
}

/// What an atomic does with the old value and its operands.
#[derive(Clone, Copy, Debug)]
pub enum Update {
    With(fn(u64, u64) -> u64),
    CompareAndSwap,
}

#[derive(Clone, Copy, Debug)]
pub enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

#[derive(Clone, Copy, Debug)]
pub enum Vote {
    All,
    Any,
    Uniform,
    Ballot,
    Popc,
}

/// Decodes an opcode with all its modifiers.
pub fn decode(word: &str) -> Result<Op, String> {
    let parts: Vec<&str> = word.split('.').collect();
    decode_parts(&parts).ok_or_else(|| format!("unknown instruction {word:?}"))
}

fn decode_parts(parts: &[&str]) -> Option<Op> {
    Some(match parts {
        ["mov", ty] => Op::Move(bytes(ty)?),
        ["ld", rest @ ..] => {
            let (space, access) = memory(rest)?;
            Op::Load { space, access }
        }
        ["ldu", rest @ ..] => {
            let (space, access) = memory(rest)?;
            Op::Load { space, access }
        }
        ["st", rest @ ..] => {
            let (space, access) = memory(rest)?;
            Op::Store { space, access }
        }
        ["atom", rest @ ..] => atomic(rest, true)?,
        ["red", "async", ..] => return None,
        ["red", rest @ ..] => atomic(rest, false)?,
        ["cvta", "to", space, "u64"] => Op::FromGeneric(space_of(space)?),
        ["cvta", space, "u64"] => Op::ToGeneric(space_of(space)?),
        ["mapa", "u64"] => Op::MapShared { generic: true },
        ["mapa", "shared::cluster", "u32" | "u64"] => Op::MapShared { generic: false },
        ["bra"] | ["bra", "uni"] => Op::Branch,
        ["ret"] | ["exit"] | ["ret", "uni"] => Op::Return,
        ["trap"] => Op::Trap,
        ["membar", _] | ["fence", ..] | ["nanosleep", "u32"] | ["griddepcontrol", _] => Op::Nothing,
        ["prefetch", ..] => Op::Nothing,
        ["bar" | "barrier", "sync"] | ["barrier", "cta", "sync"] => Op::Barrier,
        ["barrier", "sync", "aligned"] | ["barrier", "cta", "sync", "aligned"] => Op::Barrier,
        ["bar" | "barrier", "red", rest @ ..] | ["barrier", "cta", "red", rest @ ..] => {
            match rest.iter().filter(|&&p| p != "aligned").collect::<Vec<_>>()[..] {
                [&"popc", &"u32"] => Op::BarrierReduce(Vote::Popc),
                [&"and", &"pred"] => Op::BarrierReduce(Vote::All),
                [&"or", &"pred"] => Op::BarrierReduce(Vote::Any),
                _ => return None,
            }
        }
        ["barrier", "cluster", "arrive", ..] => Op::ClusterArrive,
        ["barrier", "cluster", "wait", ..] => Op::ClusterWait,
        ["bar", "warp", "sync"] => Op::WarpBarrier,
        ["shfl", "sync", mode, "b32"] => Op::Shuffle(match *mode {
            "up" => Shuffle::Up,
            "down" => Shuffle::Down,
            "bfly" => Shuffle::Butterfly,
            "idx" => Shuffle::Index,
            _ => return None,
        }),
        ["vote", "sync", mode, "pred" | "b32"] => Op::VoteSync(match *mode {
            "all" => Vote::All,
            "any" => Vote::Any,
            "uni" => Vote::Uniform,
            "ballot" => Vote::Ballot,
            _ => return None,
        }),
        ["match", "any", "sync", ty] => Op::MatchAny { bytes: bytes(ty)? },
        ["redux", "sync", op, ty @ ("u32" | "s32" | "b32")] => Op::Reduce(binary(op, ty)?),
        ["activemask", "b32"] => Op::ActiveMask,
        ["selp", _] => Op::Select,
        ["setp", test, ty] => Op::Compare { test: comparison(test, ty)?, combine: None },
        ["setp", test, combine, ty] => {
            let combine: fn(bool, bool) -> bool = match *combine {
                "and" => |a, b| a & b,
                "or" => |a, b| a | b,
                "xor" => |a, b| a ^ b,
                _ => return None,
            };
            Op::Compare { test: comparison(test, ty)?, combine: Some(combine) }
        }
        ["lop3", "b32"] => Op::Lop3,
        ["bfi", "b32"] => Op::Quaternary(|a, b, position, length| {
            let (position, length) = (position as u32 & 0xff, length as u32 & 0xff);
            let ones = if length >= 32 { u32::MAX } else { (1 << length) - 1 };
            let mask = ones.checked_shl(position).unwrap_or(0);
            let shifted = (a as u32).checked_shl(position).unwrap_or(0);
            u64::from(b as u32 & !mask | shifted & mask)
        }),
        ["cvt", rest @ ..] => Op::Unary(conversion(rest)?),
        [name, rest @ ..] => arithmetic(name, rest)?,
        [] => return None,
    })
}

fn bytes(ty: &str) -> Option<usize> {
    Some(match ty {
        "pred" | "b8" | "u8" | "s8" => 1,
        "b16" | "u16" | "s16" | "f16" | "bf16" => 2,
        "b32" | "u32" | "s32" | "f32" | "f16x2" => 4,
        "b64" | "u64" | "s64" | "f64" => 8,
        _ => return None,
    })
}

fn space_of(word: &str) -> Option<Space> {
    Some(match word {
        "global" => Space::Global,
        "shared" | "shared::cta" | "shared::cluster" => Space::Shared,
        "const" => Space::Const,
        "param" => Space::Param,
        _ => return None,
    })
}

/// Modifiers that say who sees an access when: the machine has one order for all.
fn is_ordering(word: &str) -> bool {
    matches!(
        word,
        "volatile"
            | "relaxed"
            | "acquire"
            | "release"
            | "acq_rel"
            | "weak"
            | "cta"
            | "cluster"
            | "gpu"
            | "sys"
            | "nc"
            | "ca"
            | "cg"
            | "cs"
            | "lu"
            | "cv"
            | "wb"
            | "wt"
    ) || word.starts_with("L1::")
        || word.starts_with("L2::")
}

fn memory(parts: &[&str]) -> Option<(Space, Access)> {
    let (mut space, mut count) = (Space::Generic, 1);
    let (ty, modifiers) = parts.split_last()?;
    for word in modifiers {
        match *word {
            "v2" => count = 2,
            "v4" => count = 4,
            word if is_ordering(word) => {}
            word => space = space_of(word)?,
        }
    }
    let bytes = bytes(ty)?;
    let access = Access { bytes, count, signed: ty.starts_with('s') };
    (bytes * count <= 16).then_some((space, access))
}

fn atomic(parts: &[&str], returns: bool) -> Option<Op> {
    let mut space = Space::Generic;
    let mut name = None;
    let (ty, modifiers) = parts.split_last()?;
    for word in modifiers {
        match *word {
            word if is_ordering(word) => {}
            word => match space_of(word) {
                Some(found) => space = found,
                None if name.is_none() => name = Some(word),
                None => return None,
            },
        }
    }
    if ty.starts_with('f') {
        return None; // Floating-point atomics depend on order: none may exist.
    }
    let update = match name? {
        "cas" => Update::CompareAndSwap,
        "exch" => Update::With(|_, b| b),
        op => Update::With(binary(op, ty)?),
    };
    Some(Op::Atomic { space, bytes: bytes(ty)?, update, returns })
}

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

fn binary(op: &str, ty: &str) -> Option<fn(u64, u64) -> u64> {
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

fn comparison(test: &str, ty: &str) -> Option<fn(u64, u64) -> bool> {
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
            "num" => |a, b| !f32_of(a).is_nan() && !f32_of(b).is_nan(),
            "nan" => |a, b| f32_of(a).is_nan() || f32_of(b).is_nan(),
            _ => return None,
        },
        _ => return None,
    })
}

fn f32_of(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

fn of_f32(x: f32) -> u64 {
    u64::from(x.to_bits())
}

fn arithmetic(name: &str, rest: &[&str]) -> Option<Op> {
    Some(match (name, rest) {
        ("add" | "sub" | "min" | "max" | "and" | "or" | "xor", [ty]) if *ty != "f32" => {
            match (name, *ty) {
                ("and", "pred") => Op::Binary(|a, b| a & b),
                ("or", "pred") => Op::Binary(|a, b| a | b),
                ("xor", "pred") => Op::Binary(|a, b| a ^ b),
                _ => Op::Binary(binary(name, ty)?),
            }
        }
        ("min", ["f32"]) => Op::Binary(|a, b| of_f32(f32_of(a).min(f32_of(b)))),
        ("max", ["f32"]) => Op::Binary(|a, b| of_f32(f32_of(a).max(f32_of(b)))),
        ("add", ["rn", "f32"]) => Op::Binary(|a, b| of_f32(f32_of(a) + f32_of(b))),
        ("sub", ["rn", "f32"]) => Op::Binary(|a, b| of_f32(f32_of(a) - f32_of(b))),
        ("mul", ["rn", "f32"]) => Op::Binary(|a, b| of_f32(f32_of(a) * f32_of(b))),
        ("div", ["rn", "f32"]) => Op::Binary(|a, b| of_f32(f32_of(a) / f32_of(b))),
        ("fma", ["rn", "f32"]) => {
            Op::Ternary(|a, b, c| of_f32(f32_of(a).mul_add(f32_of(b), f32_of(c))))
        }
        ("neg", ["f32"]) => Op::Unary(|a| a ^ 0x8000_0000),
        ("abs", ["f32"]) => Op::Unary(|a| a & 0x7fff_ffff),
        ("neg", ["s32"]) => Op::Unary(|a| u64::from((a as u32).wrapping_neg())),
        ("neg", ["s64"]) => Op::Unary(|a| a.wrapping_neg()),
        ("neg", ["s16"]) => Op::Unary(|a| u64::from((a as u16).wrapping_neg())),
        ("abs", ["s32"]) => Op::Unary(|a| u64::from((a as i32).unsigned_abs())),
        ("not", ["pred"]) => Op::Unary(|a| a ^ 1),
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

fn conversion(parts: &[&str]) -> Option<fn(u64) -> u64> {
    Some(match parts {
        ["f32", "f16"] => |a| of_f32(f16::from_bits(a as u16).to_f32()),
        ["f32", "bf16"] => |a| of_f32(bf16::from_bits(a as u16).to_f32()),
        ["rn", "f32", "u32"] => |a| of_f32(a as u32 as f32),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn binary_op(word: &str, a: u64, b: u64) -> u64 {
        match decode(word).unwrap() {
            Op::Binary(f) => f(a, b),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_could_break_the_contract_is_unknown() {
        for word in [
            "add.f32",
            "mul.f32",
            "fma.rn.ftz.f32",
            "mad.rn.f32",
            "ex2.approx.f32",
            "div.full.f32",
            "atom.global.add.f32",
            "add.rz.f32",
            "tanh.approx.f32",
            "call.uni",
        ] {
            assert!(decode(word).unwrap_err().contains(word), "{word}");
        }
    }

    #[test]
    fn types_decide_signs_and_widths() {
        assert_eq!(binary_op("max.s32", 0xffff_ffff, 1), 1);
        assert_eq!(binary_op("max.u32", 0xffff_ffff, 1), 0xffff_ffff);
        assert_eq!(binary_op("shr.s32", 0x8000_0000, 40), 0xffff_ffff);
        assert_eq!(binary_op("shr.u32", 0x8000_0000, 32), 0);
        assert_eq!(binary_op("mul.hi.u64", 1 << 63, 6), 3);
        assert_eq!(binary_op("add.s16", 0x7fff, 1), 0x8000);
        assert_eq!(permute(0x4433_2211, 0x8877_6655, 0xf741), 0xff88_5522);
    }
}
