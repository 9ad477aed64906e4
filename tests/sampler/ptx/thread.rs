//! One thread, until it must wait.

use super::machine::{Cluster, Thread};
use super::memory::{Memory, RANK_SHIFT, SHARED_WINDOW, checked, read, write};
use super::op::{Access, Op, Space, Update};
use super::program::{Program, Slot, Step};
use super::races::{self, Visitor};

/// Instructions a thread runs before another has its turn: enough to be fast, few enough that a
/// thread that spins on memory lets the one it waits for go on.
const QUANTUM: usize = 4096;

/// Why a thread stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// It has had its turn.
    Quantum,
    /// It asked for a pause.
    Pause,
    /// It waits for its block, its warp, its cluster.
    Barrier,
    Warp,
    Cluster,
    Return,
}

/// A thread that runs, and all it can reach.
pub struct Core<'a> {
    pub program: &'a Program,
    pub slots: &'a mut [u64],
    /// Where its frame starts.
    pub frame: usize,
    pub params: &'a [u8],
    pub memory: &'a mut Memory,
    pub cluster: &'a mut Cluster,
    /// The block's rank in the cluster.
    pub rank: usize,
    pub visitor: Visitor,
    pub thread: Thread,
    pub executed: &'a mut [u64],
    /// Whether it changed memory.
    pub wrote: bool,
}

impl Core<'_> {
    /// Runs until it stops. After an error `thread.next` is where it happened.
    pub fn run(&mut self) -> Result<Stop, String> {
        let program = self.program;
        for _ in 0..QUANTUM {
            let at = self.thread.next;
            let step = program.steps.get(at).ok_or("runs past the end of the kernel")?;
            self.executed[at] += 1;
            if let Some((predicate, wanted)) = step.guard
                && (self.value(predicate) != 0) != wanted
            {
                self.thread.next += 1;
                continue;
            }
            if let Some(stop) = self.step(step)? {
                return Ok(stop);
            }
        }
        Ok(Stop::Quantum)
    }

    fn step(&mut self, step: &Step) -> Result<Option<Stop>, String> {
        let [a, b, c, d] = step.from;
        match step.op {
            Op::Unary(f) => self.write(step.to[0], f(self.value(a))),
            Op::Binary(f) => self.write(step.to[0], f(self.value(a), self.value(b))),
            Op::Ternary(f) => {
                self.write(step.to[0], f(self.value(a), self.value(b), self.value(c)));
            }
            Op::Quaternary(f) => {
                let result = f(self.value(a), self.value(b), self.value(c), self.value(d));
                self.write(step.to[0], result);
            }
            Op::Lop3 => {
                let inputs = [self.value(a), self.value(b), self.value(c)];
                self.write(step.to[0], lop3(inputs, self.value(d)));
            }
            Op::Select => {
                let pick = if self.value(c) != 0 { a } else { b };
                self.write(step.to[0], self.value(pick));
            }
            Op::Compare { test, combine } => {
                let raw = test(self.value(a), self.value(b));
                let (mut yes, mut no) = (raw, !raw);
                if let Some(combine) = combine {
                    let third = self.value(c) != 0;
                    (yes, no) = (combine(raw, third), combine(!raw, third));
                }
                self.write(step.to[0], yes.into());
                self.write(step.to[1], no.into());
            }
            Op::Move(bytes) => self.transfer(step, bytes),
            Op::Load { space, access } => self.load(step, space, access)?,
            Op::Store { space, access } => self.store(step, space, access)?,
            Op::Atomic { space, bytes, update, .. } => self.atomic(step, space, bytes, update)?,
            Op::ToGeneric(Space::Shared) => self.write(step.to[0], self.value(a) + SHARED_WINDOW),
            Op::FromGeneric(Space::Shared) => {
                self.write(step.to[0], self.value(a).wrapping_sub(SHARED_WINDOW));
            }
            Op::ToGeneric(_) | Op::FromGeneric(_) => self.write(step.to[0], self.value(a)),
            Op::MapShared { generic } => self.map_shared(step, generic)?,
            Op::Branch => {
                self.thread.next = step.target as usize;
                return Ok(None);
            }
            Op::ClusterArrive => self.arrive()?,
            Op::ClusterWait => {
                let wanted = self.thread.arrived_for;
                if wanted.ok_or("waits for the cluster without having arrived")?
                    > self.cluster.phase
                {
                    return Ok(Some(Stop::Cluster));
                }
                self.thread.arrived_for = None;
                let block_phase = self.cluster.blocks[self.rank].phase;
                self.visitor.block_phase = block_phase + self.cluster.phase;
            }
            Op::Nothing => {}
            Op::Pause => {
                self.thread.next += 1;
                return Ok(Some(Stop::Pause));
            }
            Op::Return => return Ok(Some(Stop::Return)),
            Op::Trap => return Err("trap".into()),
            Op::Barrier | Op::BarrierReduce(_) => return Ok(Some(Stop::Barrier)),
            Op::WarpBarrier
            | Op::Shuffle(_)
            | Op::VoteSync(_)
            | Op::MatchAny { .. }
            | Op::Reduce(_) => return Ok(Some(Stop::Warp)),
        }
        self.thread.next += 1;
        Ok(None)
    }

    #[inline]
    fn value(&self, slot: Slot) -> u64 {
        self.slots[slot.at(self.frame)]
    }

    #[inline]
    fn write(&mut self, slot: Slot, value: u64) {
        self.slots[slot.at(self.frame)] = value;
    }

    /// Packs, unpacks, or copies.
    fn transfer(&mut self, step: &Step, bytes: usize) {
        let (to, from) = (usize::from(step.to_count), usize::from(step.from_count));
        let part = bytes / from;
        let mut whole = 0;
        for n in 0..from {
            whole |= truncate(self.value(step.from[n]), part) << (8 * part * n);
        }
        let part = bytes / to;
        for n in 0..to {
            self.write(step.to[n], truncate(whole >> (8 * part * n), part));
        }
    }

    fn address(&self, step: &Step) -> u64 {
        self.value(step.base).wrapping_add_signed(step.offset)
    }

    fn load(&mut self, step: &Step, space: Space, access: Access) -> Result<(), String> {
        let address = self.address(step);
        let whole = access.bytes * access.count;
        let bytes = if space == Space::Param {
            let at = address as usize;
            self.params.get(at..at + whole).ok_or("reads past the parameters")?
        } else {
            self.memory_at(space, address, whole, races::Access::Read)?
        };
        let mut values = [0; 4];
        for (value, piece) in values.iter_mut().zip(bytes.chunks_exact(access.bytes)) {
            *value = read(piece);
            if access.signed {
                let unused = 64 - 8 * access.bytes as u32;
                *value = ((*value << unused) as i64 >> unused) as u64;
            }
        }
        for (slot, value) in step.to.into_iter().zip(values).take(access.count) {
            self.write(slot, value);
        }
        Ok(())
    }

    fn store(&mut self, step: &Step, space: Space, access: Access) -> Result<(), String> {
        let values = step.from.map(|slot| self.value(slot));
        let address = self.address(step);
        let whole = access.bytes * access.count;
        let memory = self.memory_at(space, address, whole, races::Access::Write)?;
        for (piece, value) in memory.chunks_exact_mut(access.bytes).zip(values) {
            write(piece, value);
        }
        self.wrote = true;
        Ok(())
    }

    fn atomic(
        &mut self,
        step: &Step,
        space: Space,
        bytes: usize,
        update: Update,
    ) -> Result<(), String> {
        let (operand, swap) = (self.value(step.from[0]), self.value(step.from[1]));
        let address = self.address(step);
        let place = self.memory_at(space, address, bytes, races::Access::Atomic)?;
        let old = read(place);
        let new = match update {
            Update::With(f) => f(old, operand),
            Update::CompareAndSwap if old == truncate(operand, bytes) => swap,
            Update::CompareAndSwap => old,
        };
        write(place, new);
        self.write(step.to[0], old);
        self.wrote = true;
        Ok(())
    }

    /// The bytes at an address of any space but the parameters'.
    fn memory_at(
        &mut self,
        space: Space,
        address: u64,
        bytes: usize,
        access: races::Access,
    ) -> Result<&mut [u8], String> {
        let shared = match space {
            Space::Shared => address & 0xffff_ffff,
            Space::Generic if (SHARED_WINDOW..SHARED_WINDOW * 2).contains(&address) => {
                address - SHARED_WINDOW
            }
            _ => return self.memory.slice(address, bytes, access != races::Access::Read),
        };
        let (rank, count) = ((shared >> RANK_SHIFT) as usize, self.cluster.blocks.len());
        let block = self
            .cluster
            .blocks
            .get_mut(rank)
            .ok_or_else(|| format!("shared memory of block {rank} in a cluster of {count}"))?;
        if block.living == 0 {
            return Err(format!("shared memory of block {rank}, which has ended"));
        }
        let offset = shared & ((1 << RANK_SHIFT) - 1);
        let name = || format!("shared memory of block {rank}");
        let memory = checked(name, &mut block.shared, offset, bytes)?;
        if rank == self.rank {
            block.races.visit(offset as usize, bytes, access, self.visitor)?;
        }
        Ok(memory)
    }

    fn map_shared(&mut self, step: &Step, generic: bool) -> Result<(), String> {
        let window = if generic { SHARED_WINDOW } else { 0 };
        let offset = self.value(step.from[0]).wrapping_sub(window) & ((1 << RANK_SHIFT) - 1);
        let rank = self.value(step.from[1]) & 0xffff_ffff;
        if rank as usize >= self.cluster.blocks.len() {
            return Err(format!("maps block rank {rank} of a smaller cluster"));
        }
        self.write(step.to[0], window + (rank << RANK_SHIFT) + offset);
        Ok(())
    }

    fn arrive(&mut self) -> Result<(), String> {
        if self.thread.arrived_for.replace(self.cluster.phase + 1).is_some() {
            return Err("arrives twice without a wait".into());
        }
        self.cluster.arrived += 1;
        self.cluster.advance();
        Ok(())
    }
}

/// The low bytes of a value.
pub fn truncate(value: u64, bytes: usize) -> u64 {
    if bytes >= 8 { value } else { value & ((1 << (8 * bytes)) - 1) }
}

fn lop3(inputs: [u64; 3], table: u64) -> u64 {
    (0..32).fold(0, |out, bit| {
        let row = inputs.iter().fold(0, |row, input| row << 1 | (input >> bit & 1));
        out | (table >> row & 1) << bit
    })
}
