//! A kernel made ready to run: every operand a slot in one flat array, every name resolved.
//!
//! The array holds the kernel's immediates and then a frame for each thread: values that the machine
//! provides (`%tid.x`), then registers, of which those that never live at once share a slot.

use super::op::{Op, Space, Update};
use super::parse::{Entry, Instruction, Operand, Reg, Special};
use super::registers;
use std::collections::HashMap;

/// A kernel.
#[derive(Debug, Default)]
pub struct Program {
    pub name: String,
    pub param_bytes: usize,
    pub static_shared_bytes: usize,
    pub constants: Vec<u8>,
    /// The first slots, the same for all threads.
    pub immediates: Vec<u64>,
    /// Slots a thread.
    pub frame_size: usize,
    /// The first slots of a frame, one each.
    pub provided: Vec<Provided>,
    pub steps: Vec<Step>,
    /// What each step was in the text.
    pub opcodes: Vec<String>,
}

/// What a thread finds in its frame when it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provided {
    /// Nothing: what nobody wants to know is written here.
    Sink,
    Special(Special),
    /// The address of this offset in the block's own shared memory.
    Shared(u64),
}

/// Where a value is: an immediate, or the place in the frame if the highest bit is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot(u32);

impl Slot {
    /// The zero among the immediates.
    const ZERO: Self = Self(0);
    const IN_FRAME: u32 = 1 << 31;
    const SINK: Self = Self::in_frame(0);

    /// A place in the frame.
    pub const fn in_frame(place: usize) -> Self {
        Self(place as u32 | Self::IN_FRAME)
    }

    /// Its place in the frame, if it is there.
    pub fn place(self) -> Option<usize> {
        (self.0 & Self::IN_FRAME != 0).then_some((self.0 & !Self::IN_FRAME) as usize)
    }

    /// Its place in the array, for the thread whose frame starts at `frame`.
    #[inline]
    pub fn at(self, frame: usize) -> usize {
        // All ones if it is in the frame.
        let mask = (self.0 as i32 >> 31) as usize;
        (self.0 & !Self::IN_FRAME) as usize + (frame & mask)
    }
}

/// An instruction. What it has no use for is a zero, or the sink.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub op: Op,
    /// Runs only where this predicate equals the flag.
    pub guard: Option<(Slot, bool)>,
    pub to: [Slot; 4],
    pub from: [Slot; 4],
    pub to_count: u8,
    pub from_count: u8,
    /// An address is the value at `base` and `offset`.
    pub base: Slot,
    pub offset: i64,
    /// Where a branch goes.
    pub target: u32,
    /// 1-based, in the text.
    pub line: u32,
}

/// Prepares a parsed kernel.
pub fn prepare(entry: &Entry) -> Result<Program, String> {
    let mut builder = Builder::default();
    builder.immediate(0);
    builder.provided(Provided::Sink);
    let mut steps = Vec::with_capacity(entry.body.len());
    for i in &entry.body {
        steps.push(builder.step(i).map_err(|e| format!("{} line {}: {e}", entry.name, i.line))?);
    }
    let frame_size = registers::allocate(&mut steps, builder.provided.len());
    Ok(Program {
        name: entry.name.clone(),
        param_bytes: entry.param_bytes,
        static_shared_bytes: entry.static_shared_bytes,
        constants: entry.constants.clone(),
        immediates: builder.immediates,
        frame_size,
        provided: builder.provided,
        steps,
        opcodes: entry.body.iter().map(|i| i.opcode.clone()).collect(),
    })
}

#[derive(Default)]
struct Builder {
    immediates: Vec<u64>,
    slots_of_immediates: HashMap<u64, Slot>,
    provided: Vec<Provided>,
}

impl Builder {
    fn step(&mut self, i: &Instruction) -> Result<Step, String> {
        let mut step = Step {
            op: i.op,
            guard: i.guard.map(|(reg, wanted)| (register(reg), wanted)),
            to: [Slot::SINK; 4],
            from: [Slot::ZERO; 4],
            to_count: 0,
            from_count: 0,
            base: Slot::ZERO,
            offset: 0,
            target: 0,
            line: i.line as u32,
        };
        let operands = &i.operands[..];
        match (i.op, operands) {
            (Op::Branch, [Operand::Target(target)]) => step.target = *target as u32,
            (Op::Return | Op::Trap | Op::Nothing | Op::ClusterArrive | Op::ClusterWait, []) => {}
            (Op::Pause, [_]) => {}
            (Op::Barrier, [Operand::Immediate(0)]) => {}
            (Op::BarrierReduce(_), [to, Operand::Immediate(0), from]) => {
                self.write(&mut step, to)?;
                self.read(&mut step, from)?;
            }
            (Op::WarpBarrier, [mask]) => self.read(&mut step, mask)?,
            (
                Op::Store { space, .. } | Op::Atomic { space, returns: false, .. },
                [at, from @ ..],
            ) => {
                self.address(&mut step, space, at)?;
                self.read_all(&mut step, from)?;
            }
            (
                Op::Load { space, .. } | Op::Atomic { space, returns: true, .. },
                [to, at, from @ ..],
            ) => {
                self.write(&mut step, to)?;
                self.address(&mut step, space, at)?;
                self.read_all(&mut step, from)?;
            }
            (op, [to, from @ ..]) if computes(op) => {
                self.write(&mut step, to)?;
                self.read_all(&mut step, from)?;
            }
            (op, operands) => return Err(format!("{op:?} of {operands:?}")),
        }
        let (inputs, outputs) = (inputs(i.op), outputs(i.op));
        if inputs.is_some_and(|wanted| wanted != step.from_count)
            || outputs.is_some_and(|wanted| wanted != step.to_count)
        {
            let (from, to) = (step.from_count, step.to_count);
            return Err(format!("{} with {from} inputs and {to} outputs", i.opcode));
        }
        Ok(step)
    }

    fn read_all(&mut self, step: &mut Step, operands: &[Operand]) -> Result<(), String> {
        operands.iter().try_for_each(|operand| self.read(step, operand))
    }

    fn read(&mut self, step: &mut Step, operand: &Operand) -> Result<(), String> {
        if let Operand::Vector(items) = operand {
            return self.read_all(step, items);
        }
        let slot = match *operand {
            Operand::Reg(reg) => register(reg),
            Operand::Immediate(value) => self.immediate(value),
            Operand::Shared(offset) => self.provided(Provided::Shared(offset)),
            Operand::Special(special) => self.provided(Provided::Special(special)),
            ref other => return Err(format!("reads {other:?}")),
        };
        let place = step.from.get_mut(usize::from(step.from_count)).ok_or("too many inputs")?;
        *place = slot;
        step.from_count += 1;
        Ok(())
    }

    fn write(&mut self, step: &mut Step, operand: &Operand) -> Result<(), String> {
        let slots = match operand {
            Operand::Vector(items) => {
                return items.iter().try_for_each(|item| self.write(step, item));
            }
            Operand::Reg(reg) => &[Some(*reg)][..],
            Operand::Pair(None, None) => &[None],
            Operand::Pair(first, second) => &[*first, *second],
            other => return Err(format!("writes {other:?}")),
        };
        for reg in slots {
            let place = step.to.get_mut(usize::from(step.to_count)).ok_or("too many outputs")?;
            *place = reg.map_or(Slot::SINK, register);
            step.to_count += 1;
        }
        Ok(())
    }

    fn address(&mut self, step: &mut Step, space: Space, operand: &Operand) -> Result<(), String> {
        let Operand::Address(base, offset) = *operand else {
            return Err(format!("{operand:?} is not an address"));
        };
        step.offset = offset;
        step.base = match base {
            Some(reg) => register(reg),
            // A shared variable by its name: in this block.
            None if space == Space::Shared => self.provided(Provided::Shared(0)),
            None => Slot::ZERO,
        };
        Ok(())
    }

    fn immediate(&mut self, value: u64) -> Slot {
        *self.slots_of_immediates.entry(value).or_insert_with(|| {
            self.immediates.push(value);
            Slot(self.immediates.len() as u32 - 1)
        })
    }

    fn provided(&mut self, wanted: Provided) -> Slot {
        let place = self.provided.iter().position(|&p| p == wanted).unwrap_or_else(|| {
            self.provided.push(wanted);
            self.provided.len() - 1
        });
        Slot::in_frame(place)
    }
}

fn register(reg: Reg) -> Slot {
    Slot::in_frame(registers::FIRST + reg)
}

/// Whether it turns inputs into outputs, and no more.
fn computes(op: Op) -> bool {
    matches!(op, Op::Move(_)) || inputs(op).is_some()
}

/// How many inputs it must have, where it has no choice.
fn inputs(op: Op) -> Option<u8> {
    Some(match op {
        Op::Unary(_) | Op::ToGeneric(_) | Op::FromGeneric(_) => 1,
        Op::Binary(_) | Op::MapShared { .. } => 2,
        Op::Ternary(_) | Op::Select => 3,
        Op::Quaternary(_) | Op::Lop3 | Op::Shuffle(_) => 4,
        Op::Compare { combine, .. } => 2 + u8::from(combine.is_some()),
        Op::VoteSync(_) | Op::MatchAny { .. } | Op::Reduce(_) => 2,
        Op::Store { access, .. } => access.count as u8,
        Op::Atomic { update: Update::With(_), .. } | Op::BarrierReduce(_) => 1,
        Op::Atomic { update: Update::CompareAndSwap, .. } => 2,
        _ => return None,
    })
}

/// How many outputs it must have, likewise.
fn outputs(op: Op) -> Option<u8> {
    Some(match op {
        Op::Load { access, .. } => access.count as u8,
        Op::Move(_) | Op::Compare { .. } | Op::Shuffle(_) => return None,
        op => u8::from(inputs(op).is_some() && !writes_nothing(op)),
    })
}

fn writes_nothing(op: Op) -> bool {
    matches!(op, Op::Store { .. } | Op::Atomic { returns: false, .. })
}
