//! Registers share places: a kernel names tens of thousands, of which a few hundred live at once.
//!
//! Liveness by the textbook: backwards over basic blocks until nothing changes. A register's interval
//! is from the first to the last place in the text where it lives; registers whose intervals do not
//! meet may have the same place.

use super::op::Op;
use super::program::{Slot, Step};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

/// Registers are numbered from here until they have their place.
pub const FIRST: usize = 1 << 24;

/// Gives every register its place in the frame, after `first` others. Returns the frame's size.
pub fn allocate(steps: &mut [Step], first: usize) -> usize {
    let mut order: Vec<(Range<usize>, usize)> = intervals(steps)
        .into_iter()
        .enumerate()
        .filter_map(|(reg, interval)| Some((interval?, reg)))
        .collect();
    order.sort_by_key(|(interval, reg)| (interval.start, *reg));
    let mut places = vec![usize::MAX; order.iter().map(|(_, reg)| reg + 1).max().unwrap_or(0)];
    let mut frame_size = first;
    let mut taken: BinaryHeap<Reverse<(usize, usize)>> = BinaryHeap::new();
    for (interval, reg) in order {
        let free = taken.peek().filter(|Reverse((end, _))| *end <= interval.start);
        let place = match free {
            Some(&Reverse((_, place))) => {
                taken.pop();
                place
            }
            None => {
                frame_size += 1;
                frame_size - 1
            }
        };
        taken.push(Reverse((interval.end, place)));
        places[reg] = place;
    }
    for slot in steps.iter_mut().flat_map(slots_mut) {
        if let Some(reg) = register(*slot) {
            *slot = Slot::in_frame(places[reg]);
        }
    }
    frame_size
}

/// From the first to one past the last step at which each register lives.
fn intervals(steps: &[Step]) -> Vec<Option<Range<usize>>> {
    let count = steps.iter().flat_map(|s| reads(s).chain(writes(s))).max().map_or(0, |r| r + 1);
    let blocks = basic_blocks(steps);
    let live_in = live_in(steps, &blocks, count);
    let mut intervals: Vec<Option<Range<usize>>> = vec![None; count];
    let mut extend = |reg: usize, at: Range<usize>| {
        let old = intervals[reg].get_or_insert(at.clone());
        *old = old.start.min(at.start)..old.end.max(at.end);
    };
    for (block, live) in blocks.iter().zip(&live_in) {
        live.iter().for_each(|reg| extend(reg, block.steps.start..block.steps.start + 1));
        for &next in &block.next {
            live_in[next].iter().for_each(|reg| extend(reg, block.steps.end - 1..block.steps.end));
        }
        for at in block.steps.clone() {
            reads(&steps[at]).chain(writes(&steps[at])).for_each(|reg| extend(reg, at..at + 1));
        }
    }
    intervals
}

struct BasicBlock {
    steps: Range<usize>,
    /// The blocks that may come after it.
    next: Vec<usize>,
}

fn basic_blocks(steps: &[Step]) -> Vec<BasicBlock> {
    let mut starts = vec![false; steps.len() + 1];
    starts[0] = true;
    for (at, step) in steps.iter().enumerate() {
        if matches!(step.op, Op::Branch | Op::Return) {
            starts[at + 1] = true;
        }
        if matches!(step.op, Op::Branch) {
            starts[step.target as usize] = true;
        }
    }
    let starts: Vec<usize> = (0..steps.len()).filter(|&at| starts[at]).collect();
    let ends = starts[1.min(starts.len())..].iter().copied().chain([steps.len()]);
    let block_at = |at: usize| starts.binary_search(&at).ok();
    let successors = |last: &Step, end: usize| {
        let jump = matches!(last.op, Op::Branch).then_some(last.target as usize);
        let leaves = matches!(last.op, Op::Branch | Op::Return) && last.guard.is_none();
        let fall = (!leaves).then_some(end);
        // Falling off the end is an error when it happens.
        jump.into_iter().chain(fall).filter_map(block_at).collect()
    };
    let block = |(&start, end): (&usize, usize)| BasicBlock {
        steps: start..end,
        next: successors(&steps[end - 1], end),
    };
    starts.iter().zip(ends).map(block).collect()
}

/// The registers whose values each block finds and somebody reads.
fn live_in(steps: &[Step], blocks: &[BasicBlock], count: usize) -> Vec<Set> {
    let mut live = vec![Set::new(count); blocks.len()];
    let mut changed = true;
    while changed {
        changed = false;
        for (b, block) in blocks.iter().enumerate().rev() {
            let mut now = Set::new(count);
            block.next.iter().for_each(|&next| now.add_all(&live[next]));
            for step in steps[block.steps.clone()].iter().rev() {
                // What runs under a guard may leave the old value.
                if step.guard.is_none() {
                    writes(step).for_each(|reg| now.remove(reg));
                }
                reads(step).for_each(|reg| now.add(reg));
            }
            if now != live[b] {
                live[b] = now;
                changed = true;
            }
        }
    }
    live
}

fn register(slot: Slot) -> Option<usize> {
    slot.place()?.checked_sub(FIRST)
}

fn reads(step: &Step) -> impl Iterator<Item = usize> {
    let guard = step.guard.map(|(slot, _)| slot);
    step.from.into_iter().chain([step.base]).chain(guard).filter_map(register)
}

fn writes(step: &Step) -> impl Iterator<Item = usize> {
    step.to.into_iter().filter_map(register)
}

fn slots_mut(step: &mut Step) -> impl Iterator<Item = &mut Slot> {
    let guard = step.guard.as_mut().map(|(slot, _)| slot);
    step.to.iter_mut().chain(&mut step.from).chain([&mut step.base]).chain(guard)
}

/// A set of registers.
#[derive(Clone, PartialEq)]
struct Set(Vec<u64>);

impl Set {
    fn new(count: usize) -> Self {
        Self(vec![0; count.div_ceil(64)])
    }

    fn add(&mut self, reg: usize) {
        self.0[reg / 64] |= 1 << (reg % 64);
    }

    fn remove(&mut self, reg: usize) {
        self.0[reg / 64] &= !(1 << (reg % 64));
    }

    fn add_all(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(mine, theirs)| *mine |= theirs);
    }

    fn iter(&self) -> impl Iterator<Item = usize> {
        let words = self.0.iter().enumerate().filter(|(_, bits)| **bits != 0);
        words.flat_map(|(word, &bits)| {
            (0..64).filter(move |bit| bits >> bit & 1 == 1).map(move |bit| word * 64 + bit)
        })
    }
}
