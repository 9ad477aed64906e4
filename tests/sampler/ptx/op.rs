//! What an opcode means: text -> [`Op`]. The subset that nvcc makes of our kernels, and no more: an
//! opcode, a type or a modifier that is not listed is an error that names it.
//!
//! Floating point is held to the contract: only `.rn` (never contracted, never flushed) is known.

use super::alu::{self, arithmetic, binary, comparison, conversion};

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
    /// The thread waits for another: it is others' turn.
    Pause,
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
        ["st", rest @ ..] => {
            let (space, access) = memory(rest)?;
            Op::Store { space, access }
        }
        ["atom", rest @ ..] => atomic(rest, true)?,
        ["red", rest @ ..] => atomic(rest, false)?,
        ["cvta", "to", space, "u64"] => Op::FromGeneric(space_of(space)?),
        ["cvta", space, "u64"] => Op::ToGeneric(space_of(space)?),
        ["mapa", "u64"] => Op::MapShared { generic: true },
        ["mapa", "shared::cluster", "u32" | "u64"] => Op::MapShared { generic: false },
        ["bra"] | ["bra", "uni"] => Op::Branch,
        ["ret"] | ["exit"] | ["ret", "uni"] => Op::Return,
        ["trap"] => Op::Trap,
        ["membar", _] | ["fence", ..] => Op::Nothing,
        ["nanosleep", "u32"] => Op::Pause,
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
        ["bfi", "b32"] => Op::Quaternary(alu::insert_bits::<32>),
        ["bfi", "b64"] => Op::Quaternary(alu::insert_bits::<64>),
        ["cvt", rest @ ..] => Op::Unary(conversion(rest)?),
        [name, rest @ ..] => arithmetic(name, rest)?,
        [] => return None,
    })
}

/// The width of a type.
pub fn bytes(ty: &str) -> Option<usize> {
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
            "activemask.b32",
            "ex2.approx.ftz.f32",
            "add.f64",
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
        assert_eq!(binary_op("min.f32", 0x8000_0000, 0), 0x8000_0000);
        assert_eq!(binary_op("max.f32", 0x8000_0000, 0), 0);
        assert_eq!(binary_op("max.f32", 0xffc0_0001, 0xff80_0000), 0xff80_0000);
        assert_eq!(binary_op("max.NaN.f32", 0xffc0_0001, 0xff80_0000), 0x7fff_ffff);
        assert_eq!(binary_op("sub.rn.f32", 0x7f80_0000, 0x7f80_0000), 0x7fff_ffff);
    }
}
