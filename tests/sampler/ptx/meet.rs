//! Where threads meet: block barriers and what warps do together.

use super::machine::{Block, State, WARP};
use super::op::{Op, Shuffle, Vote};
use super::program::{Program, Slot, Step};
use super::thread::truncate;

/// A block barrier opens when every thread of the block waits at the same one. Whether it did.
pub fn meet_block(program: &Program, slots: &mut [u64], block: &mut Block) -> Result<bool, String> {
    if block.at_barrier == 0 || block.at_barrier < block.living {
        return Ok(false);
    }
    let waiting = || block.threads.iter().filter(|t| t.state != State::Done).map(|t| t.next);
    let at = waiting().next().expect("somebody is there");
    let step = &program.steps[at];
    let (name, line) = (&program.name, step.line);
    if let Some(other) = waiting().find(|&next| next != at) {
        let other = program.steps[other].line;
        return Err(format!("{name}: divergent barriers, lines {line} and {other}"));
    }
    let (left, all) = (block.living, block.threads.len());
    if left != all {
        return Err(format!("{name} line {line}: a barrier that {left} of {all} threads reach"));
    }
    let frames = (0..all).map(|t| block.frames + t * program.frame_size);
    if let Op::BarrierReduce(vote) = step.op {
        let votes: Vec<bool> = frames.clone().map(|f| slots[step.from[0].at(f)] != 0).collect();
        frames.for_each(|frame| slots[step.to[0].at(frame)] = tally(vote, &votes));
    }
    for thread in &mut block.threads {
        thread.state = State::Ready;
        thread.next += 1;
    }
    block.at_barrier = 0;
    block.phase += 1;
    Ok(true)
}

/// A warp operation runs when every lane its mask names waits at it with the same mask. Whether one did.
pub fn meet_warp(
    program: &Program,
    slots: &mut [u64],
    block: &mut Block,
    warp: usize,
) -> Result<bool, String> {
    let first = warp * WARP;
    let end = block.threads.len().min(first + WARP);
    let threads = &mut block.threads[first..end];
    let frames = block.frames + first * program.frame_size;
    let mut lanes = Lanes { slots, frames, frame_size: program.frame_size };
    let mut waiting = lanes_that(threads.iter().map(|t| t.state == State::AtWarp));
    let mut met = false;
    while waiting != 0 {
        let lane = waiting.trailing_zeros() as usize;
        let at = threads[lane].next;
        let step = &program.steps[at];
        let fault = |what: String| format!("{} line {}: {what}", program.name, step.line);
        let same = lanes_that(threads.iter().map(|t| t.state == State::AtWarp && t.next == at));
        let mask = lanes.value(mask_of(step), lane) as u32;
        if mask >> lane & 1 == 0 {
            return Err(fault(format!("lane {lane} is not in its own mask {mask:#x}")));
        }
        let living = lanes_that(threads.iter().map(|t| t.state != State::Done));
        if mask & !living != 0 {
            let gone = (mask & !living).trailing_zeros();
            return Err(fault(format!("mask {mask:#x} names lane {gone}, which is not there")));
        }
        if mask & !same != 0 {
            waiting &= !(1 << lane);
            continue;
        }
        let theirs = |lane: &usize| lanes.value(mask_of(step), *lane) as u32;
        if let Some(other) = members(mask).find(|lane| theirs(lane) != mask) {
            let theirs = theirs(&other);
            let masks = format!("lanes {lane} and {other} name masks {mask:#x} and {theirs:#x}");
            return Err(fault(masks));
        }
        let results = together(step, mask, &lanes).map_err(fault)?;
        for lane in members(mask) {
            lanes.write(step.to[0], lane, results[lane].0);
            lanes.write(step.to[1], lane, results[lane].1);
            threads[lane].state = State::Ready;
            threads[lane].next += 1;
        }
        if matches!(step.op, Op::WarpBarrier) && mask == living {
            block.warp_phases[warp] += 1;
        }
        waiting &= !mask;
        met = true;
    }
    Ok(met)
}

/// The slots of a warp.
struct Lanes<'a> {
    slots: &'a mut [u64],
    /// Where lane 0's frame starts.
    frames: usize,
    frame_size: usize,
}

impl Lanes<'_> {
    fn value(&self, slot: Slot, lane: usize) -> u64 {
        self.slots[slot.at(self.frames + lane * self.frame_size)]
    }

    fn write(&mut self, slot: Slot, lane: usize, value: u64) {
        self.slots[slot.at(self.frames + lane * self.frame_size)] = value;
    }
}

/// Where an operation's mask is.
fn mask_of(step: &Step) -> Slot {
    match step.op {
        Op::WarpBarrier => step.from[0],
        Op::Shuffle(_) => step.from[3],
        _ => step.from[1],
    }
}

/// What each lane of the mask gets.
fn together(step: &Step, mask: u32, lanes: &Lanes) -> Result<[(u64, u64); WARP], String> {
    let mut results = [(0, 0); WARP];
    let input = |lane: usize| lanes.value(step.from[0], lane);
    let voters = || members(mask).filter(|&lane| input(lane) != 0);
    match step.op {
        Op::WarpBarrier => {}
        Op::Shuffle(mode) => {
            for lane in members(mask) {
                let [operand, control] = [1, 2].map(|n| lanes.value(step.from[n], lane) as u32);
                let (source, valid) = shuffle_source(mode, lane as u32, operand, control);
                if mask >> source & 1 == 0 {
                    return Err(format!(
                        "lane {lane} shuffles from lane {source}, not in the mask"
                    ));
                }
                results[lane] = (truncate(input(source as usize), 4), u64::from(valid));
            }
        }
        Op::VoteSync(Vote::Ballot) => {
            let ballot = voters().fold(0, |ballot, lane| ballot | 1 << lane);
            members(mask).for_each(|lane| results[lane].0 = ballot);
        }
        Op::VoteSync(vote) => {
            let votes: Vec<bool> = members(mask).map(|lane| input(lane) != 0).collect();
            members(mask).for_each(|lane| results[lane].0 = tally(vote, &votes));
        }
        Op::MatchAny { bytes } => {
            for lane in members(mask) {
                let mine = truncate(input(lane), bytes);
                let same = members(mask).filter(|&other| truncate(input(other), bytes) == mine);
                results[lane].0 = same.fold(0, |same, lane| same | 1 << lane);
            }
        }
        Op::Reduce(f) => {
            let all = members(mask).map(input).reduce(f).expect("one member at least");
            members(mask).for_each(|lane| results[lane].0 = all);
        }
        _ => unreachable!("not a warp operation"),
    }
    Ok(results)
}

fn members(mask: u32) -> impl Iterator<Item = usize> {
    (0..WARP).filter(move |lane| mask >> lane & 1 == 1)
}

fn lanes_that(flags: impl Iterator<Item = bool>) -> u32 {
    flags.enumerate().fold(0, |mask, (lane, flag)| mask | u32::from(flag) << lane)
}

fn tally(vote: Vote, votes: &[bool]) -> u64 {
    match vote {
        Vote::All => u64::from(votes.iter().all(|&v| v)),
        Vote::Any => u64::from(votes.iter().any(|&v| v)),
        Vote::Uniform => u64::from(votes.iter().all(|&v| v == votes[0])),
        Vote::Popc => votes.iter().filter(|&&v| v).count() as u64,
        Vote::Ballot => unreachable!("a ballot needs lanes"),
    }
}

/// The lane a shuffle reads, and whether it is in range (the lane itself if not), by the PTX manual:
/// bits 0-4 of `control` clamp, bits 8-12 are the segment mask.
fn shuffle_source(mode: Shuffle, lane: u32, operand: u32, control: u32) -> (u32, bool) {
    let operand = operand & 0x1f;
    let clamp = control & 0x1f;
    let segment = control >> 8 & 0x1f;
    let max = (lane & segment) | (clamp & !segment);
    let min = lane & segment;
    let (source, valid) = match mode {
        Shuffle::Up => {
            let source = lane as i32 - operand as i32;
            (source as u32, source >= max as i32)
        }
        Shuffle::Down => (lane + operand, lane + operand <= max),
        Shuffle::Butterfly => (lane ^ operand, lane ^ operand <= max),
        Shuffle::Index => {
            let source = min | (operand & !segment);
            (source, source <= max)
        }
    };
    if valid { (source, true) } else { (lane, false) }
}
