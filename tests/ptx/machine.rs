//! Runs a kernel: every thread by itself, one instruction after another, until it must wait.
//!
//! Threads meet only where PTX says so: at block, warp and cluster barriers, shuffles, votes,
//! matches and reductions. Whoever else they share memory with, they see in the order of a schedule
//! permuted by a seed. Waiting that can never end is an error with the line of each waiting thread.

use super::memory::{Memory, RANK_SHIFT, SHARED_WINDOW, checked};
use super::op::{Access, Op, Shuffle, Space, Update, Vote};
use super::parse::{Entry, Instruction, Operand, Special};

const WARP: usize = 32;
/// Instructions a thread runs before another has its turn: enough to be fast, few enough that a
/// thread that spins on memory lets the one it waits for go on.
const QUANTUM: usize = 4096;

/// How many threads run.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Blocks a cluster; `[1, 1, 1]` without clusters.
    pub cluster: [u32; 3],
    pub dynamic_shared_bytes: usize,
}

/// Runs `entry` to its end.
pub fn launch(
    entry: &Entry,
    geometry: Geometry,
    params: &[u8],
    memory: &mut Memory,
    seed: u64,
) -> Result<(), String> {
    if params.len() != entry.param_bytes {
        let wanted = entry.param_bytes;
        return Err(format!("{} takes {wanted} parameter bytes, not {}", entry.name, params.len()));
    }
    memory.constants.clone_from(&entry.constants);
    let mut machine = Machine { entry, geometry, params, memory, clusters: Vec::new(), seed };
    machine.populate()?;
    machine.run()
}

struct Machine<'a> {
    entry: &'a Entry,
    geometry: Geometry,
    params: &'a [u8],
    memory: &'a mut Memory,
    clusters: Vec<Cluster>,
    seed: u64,
}

struct Cluster {
    id: [u32; 3],
    blocks: Vec<Block>,
    /// Threads that arrived in the current phase, and the number of phases completed.
    arrived: usize,
    phase: u64,
}

struct Block {
    id: [u32; 3],
    id_in_cluster: [u32; 3],
    shared: Vec<u8>,
    threads: Vec<Thread>,
}

struct Thread {
    registers: Vec<u64>,
    next: usize,
    state: State,
    /// The phase of the cluster barrier that this thread arrived for, until it has waited.
    arrived_for: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum State {
    Ready,
    /// At a block barrier, a warp operation, a cluster wait: the instruction is `next`.
    Waiting,
    Done,
}

impl Machine<'_> {
    fn populate(&mut self) -> Result<(), String> {
        let Geometry { grid, block, cluster, dynamic_shared_bytes } = self.geometry;
        if (0..3).any(|a| grid[a] == 0 || block[a] == 0 || !grid[a].is_multiple_of(cluster[a])) {
            return Err(format!("geometry {:?}", self.geometry));
        }
        let shared_bytes = self.entry.static_shared_bytes + dynamic_shared_bytes;
        let thread = || Thread {
            registers: vec![0xdead_beef_dead_beef; self.entry.register_count],
            next: 0,
            state: State::Ready,
            arrived_for: None,
        };
        let clusters = [0, 1, 2].map(|a| grid[a] / cluster[a]);
        for id in positions(clusters) {
            let blocks = positions(cluster)
                .map(|inner| Block {
                    id: [0, 1, 2].map(|a| id[a] * cluster[a] + inner[a]),
                    id_in_cluster: inner,
                    shared: vec![0xa5; shared_bytes],
                    threads: (0..count(block)).map(|_| thread()).collect(),
                })
                .collect();
            self.clusters.push(Cluster { id, blocks, arrived: 0, phase: 0 });
        }
        Ok(())
    }

    fn run(&mut self) -> Result<(), String> {
        loop {
            let mut order: Vec<usize> = (0..self.clusters.len()).collect();
            self.shuffle(&mut order);
            let (mut moved, mut alive) = (false, false);
            for c in order {
                let mut blocks: Vec<usize> = (0..self.clusters[c].blocks.len()).collect();
                self.shuffle(&mut blocks);
                for b in blocks {
                    moved |= self.run_block(c, b)?;
                    alive |=
                        self.clusters[c].blocks[b].threads.iter().any(|t| t.state != State::Done);
                }
            }
            if !alive {
                return Ok(());
            }
            if !moved {
                return Err(self.deadlock());
            }
        }
    }

    /// Runs every thread that can, then lets those go that have all met.
    fn run_block(&mut self, c: usize, b: usize) -> Result<bool, String> {
        let mut order: Vec<usize> = (0..self.clusters[c].blocks[b].threads.len()).collect();
        self.shuffle(&mut order);
        let mut moved = false;
        for t in order {
            if self.clusters[c].blocks[b].threads[t].state == State::Ready {
                moved = true;
                self.run_thread(c, b, t)?;
            }
        }
        moved |= self.meet_block(c, b)?;
        let warps = self.clusters[c].blocks[b].threads.len().div_ceil(WARP);
        for warp in 0..warps {
            moved |= self.meet_warp(c, b, warp)?;
        }
        Ok(moved)
    }

    fn run_thread(&mut self, c: usize, b: usize, t: usize) -> Result<(), String> {
        for _ in 0..QUANTUM {
            if self.clusters[c].blocks[b].threads[t].state != State::Ready {
                break;
            }
            self.step(c, b, t).map_err(|e| self.fault(c, b, t, &e))?;
        }
        Ok(())
    }

    fn step(&mut self, c: usize, b: usize, t: usize) -> Result<(), String> {
        let entry = self.entry;
        let at = self.clusters[c].blocks[b].threads[t].next;
        let i = entry.body.get(at).ok_or("runs past the end of the kernel")?;
        if let Some((reg, wanted)) = i.guard
            && (self.thread(c, b, t).registers[reg] != 0) != wanted
        {
            self.thread(c, b, t).next += 1;
            return Ok(());
        }
        let value = |m: &mut Self, n: usize| m.value(c, b, t, &i.operands[n]);
        let result = match i.op {
            Op::Nothing => None,
            Op::Move(bytes) => {
                self.transfer(c, b, t, i, bytes)?;
                None
            }
            Op::Unary(f) => Some(f(value(self, 1)?)),
            Op::Binary(f) => Some(f(value(self, 1)?, value(self, 2)?)),
            Op::Ternary(f) => Some(f(value(self, 1)?, value(self, 2)?, value(self, 3)?)),
            Op::Quaternary(f) => {
                Some(f(value(self, 1)?, value(self, 2)?, value(self, 3)?, value(self, 4)?))
            }
            Op::Lop3 => {
                let inputs = [value(self, 1)?, value(self, 2)?, value(self, 3)?];
                Some(lop3(inputs, value(self, 4)?))
            }
            Op::Select => {
                let pick = if value(self, 3)? != 0 { 1 } else { 2 };
                Some(value(self, pick)?)
            }
            Op::Compare { test, combine } => {
                let raw = test(value(self, 1)?, value(self, 2)?);
                let (mut yes, mut no) = (raw, !raw);
                if let Some(combine) = combine {
                    let third = value(self, 3)? != 0;
                    (yes, no) = (combine(raw, third), combine(!raw, third));
                }
                self.write_pair(c, b, t, &i.operands[0], u64::from(yes), u64::from(no))?;
                None
            }
            Op::Load { space, access } => {
                self.load(c, b, t, i, space, access)?;
                None
            }
            Op::Store { space, access } => {
                self.store(c, b, t, i, space, access)?;
                None
            }
            Op::Atomic { space, bytes, update, returns } => {
                let first = usize::from(returns);
                let address = self.address(c, b, t, space, &i.operands[first])?;
                let operand = value(self, first + 1)?;
                let swap = match update {
                    Update::CompareAndSwap => Some(value(self, first + 2)?),
                    Update::With(_) => None,
                };
                let place = self.memory_at(c, space, address, bytes, true)?;
                let old = read(place);
                let new = match (update, swap) {
                    (Update::With(f), _) => f(old, operand),
                    (Update::CompareAndSwap, Some(swap)) if old == truncate(operand, bytes) => swap,
                    (Update::CompareAndSwap, _) => old,
                };
                write(place, new);
                returns.then_some(old)
            }
            Op::ToGeneric(Space::Shared) => Some(value(self, 1)? + SHARED_WINDOW),
            Op::FromGeneric(Space::Shared) => Some(value(self, 1)?.wrapping_sub(SHARED_WINDOW)),
            Op::ToGeneric(_) | Op::FromGeneric(_) => Some(value(self, 1)?),
            Op::MapShared { generic } => {
                let address = value(self, 1)?;
                let window = if generic { SHARED_WINDOW } else { 0 };
                let offset = address.wrapping_sub(window) & ((1 << RANK_SHIFT) - 1);
                let rank = value(self, 2)? & 0xffff_ffff;
                if rank as usize >= self.clusters[c].blocks.len() {
                    return Err(format!("maps block rank {rank} of a smaller cluster"));
                }
                Some(window + (rank << RANK_SHIFT) + offset)
            }
            Op::Branch => {
                let Operand::Target(target) = i.operands[0] else {
                    return Err("branches to no label".into());
                };
                self.thread(c, b, t).next = target;
                return Ok(());
            }
            Op::Return => {
                self.thread(c, b, t).state = State::Done;
                // Whoever left counts as arrived at whatever the others wait for.
                self.advance_cluster(c);
                return Ok(());
            }
            Op::Trap => return Err("trap".into()),
            Op::ActiveMask => return Err("activemask depends on the schedule".into()),
            Op::ClusterArrive => {
                let phase = self.clusters[c].phase;
                if self.thread(c, b, t).arrived_for.replace(phase + 1).is_some() {
                    return Err("arrives twice without a wait".into());
                }
                self.clusters[c].arrived += 1;
                self.advance_cluster(c);
                None
            }
            Op::ClusterWait => {
                let phase = self.clusters[c].phase;
                let wanted = self.thread(c, b, t).arrived_for;
                if wanted.ok_or("waits for the cluster without having arrived")? > phase {
                    self.thread(c, b, t).state = State::Waiting;
                    return Ok(());
                }
                self.thread(c, b, t).arrived_for = None;
                None
            }
            Op::Barrier
            | Op::BarrierReduce(_)
            | Op::WarpBarrier
            | Op::Shuffle(_)
            | Op::VoteSync(_)
            | Op::MatchAny { .. }
            | Op::Reduce(_) => {
                self.thread(c, b, t).state = State::Waiting;
                return Ok(());
            }
        };
        if let Some(result) = result {
            self.write(c, b, t, &i.operands[0], result)?;
        }
        self.thread(c, b, t).next += 1;
        Ok(())
    }

    /// Completes the cluster barrier's phase if every living thread has arrived.
    fn advance_cluster(&mut self, c: usize) {
        let cluster = &mut self.clusters[c];
        let living = cluster.blocks.iter().flat_map(|b| &b.threads);
        let living = living.filter(|t| t.state != State::Done).count();
        if cluster.arrived == 0 || cluster.arrived < living {
            return;
        }
        cluster.arrived = 0;
        cluster.phase += 1;
        for thread in cluster.blocks.iter_mut().flat_map(|b| &mut b.threads) {
            let waits = thread.state == State::Waiting
                && matches!(self.entry.body[thread.next].op, Op::ClusterWait);
            if waits {
                thread.state = State::Ready;
            }
        }
    }

    /// A block barrier opens when every living thread of the block waits at the same one.
    fn meet_block(&mut self, c: usize, b: usize) -> Result<bool, String> {
        let entry = self.entry;
        let block = &self.clusters[c].blocks[b];
        let living: Vec<usize> =
            (0..block.threads.len()).filter(|&t| block.threads[t].state != State::Done).collect();
        let is_barrier = |t: &usize| {
            let thread = &block.threads[*t];
            thread.state == State::Waiting
                && matches!(entry.body[thread.next].op, Op::Barrier | Op::BarrierReduce(_))
        };
        if living.is_empty() || !living.iter().all(is_barrier) {
            return Ok(false);
        }
        let at = block.threads[living[0]].next;
        if let Some(other) = living.iter().find(|&&t| block.threads[t].next != at) {
            let lines = (entry.body[at].line, entry.body[block.threads[*other].next].line);
            return Err(format!("divergent barriers in {}: lines {lines:?}", entry.name));
        }
        if living.len() != block.threads.len() {
            let (left, all) = (living.len(), block.threads.len());
            return Err(format!(
                "line {}: a barrier that {left} of {all} threads reach",
                entry.body[at].line
            ));
        }
        let i = &entry.body[at];
        let mut result = None;
        if let Op::BarrierReduce(reduce) = i.op {
            let source = &i.operands[i.operands.len() - 1];
            let mut votes = Vec::new();
            for &t in &living {
                votes.push(self.value(c, b, t, source)? != 0);
            }
            result = Some(tally(reduce, &votes));
        }
        for t in living {
            if let Some(result) = result {
                self.write(c, b, t, &i.operands[0], result)?;
            }
            self.release(c, b, t);
        }
        Ok(true)
    }

    fn release(&mut self, c: usize, b: usize, t: usize) {
        let thread = self.thread(c, b, t);
        thread.state = State::Ready;
        thread.next += 1;
    }

    /// A warp operation runs when every lane its mask names waits at it with the same mask.
    fn meet_warp(&mut self, c: usize, b: usize, warp: usize) -> Result<bool, String> {
        let entry = self.entry;
        let first = warp * WARP;
        let lanes = WARP.min(self.clusters[c].blocks[b].threads.len() - first);
        let mut moved = false;
        for lane in 0..lanes {
            let thread = &self.clusters[c].blocks[b].threads[first + lane];
            let (at, state) = (thread.next, thread.state);
            if state != State::Waiting {
                continue;
            }
            let i = &entry.body[at];
            let Some(mask) = self.warp_mask(c, b, first + lane, i)? else { continue };
            let fault = |what: String| Err(format!("line {}: {what}", i.line));
            if mask & (1 << lane) == 0 {
                return fault(format!("lane {lane} is not in its own mask {mask:#x}"));
            }
            let members: Vec<usize> = (0..WARP).filter(|l| mask >> l & 1 == 1).collect();
            if let Some(gone) = members.iter().find(|&&l| {
                l >= lanes || self.clusters[c].blocks[b].threads[first + l].state == State::Done
            }) {
                return fault(format!("mask {mask:#x} names lane {gone}, which is not there"));
            }
            let here = members.iter().all(|&l| {
                let thread = &self.clusters[c].blocks[b].threads[first + l];
                thread.state == State::Waiting && thread.next == at
            });
            if !here {
                continue;
            }
            for &l in &members {
                let theirs = self.warp_mask(c, b, first + l, i)?;
                if theirs != Some(mask) {
                    return fault(format!(
                        "lanes {lane} and {l} name masks {mask:#x}, {theirs:x?}"
                    ));
                }
            }
            self.warp_operation(c, b, first, &members, i)
                .map_err(|e| format!("line {}: {e}", i.line))?;
            for &l in &members {
                self.release(c, b, first + l);
            }
            moved = true;
        }
        Ok(moved)
    }

    fn warp_mask(
        &mut self,
        c: usize,
        b: usize,
        t: usize,
        i: &Instruction,
    ) -> Result<Option<u32>, String> {
        let place = match i.op {
            Op::WarpBarrier => 0,
            Op::Shuffle(_) => 4,
            Op::VoteSync(_) | Op::MatchAny { .. } | Op::Reduce(_) => 2,
            _ => return Ok(None),
        };
        Ok(Some(self.value(c, b, t, &i.operands[place])? as u32))
    }

    fn warp_operation(
        &mut self,
        c: usize,
        b: usize,
        first: usize,
        members: &[usize],
        i: &Instruction,
    ) -> Result<(), String> {
        if let Op::WarpBarrier = i.op {
            return Ok(());
        }
        let mut inputs = [None; WARP];
        for &lane in members {
            inputs[lane] = Some(self.value(c, b, first + lane, &i.operands[1])?);
        }
        for &lane in members {
            let mine = inputs[lane].expect("a member has an input");
            let t = first + lane;
            match i.op {
                Op::Shuffle(mode) => {
                    let operand = self.value(c, b, t, &i.operands[2])? as u32;
                    let control = self.value(c, b, t, &i.operands[3])? as u32;
                    let (source, valid) = shuffle_source(mode, lane as u32, operand, control);
                    let value = inputs[source as usize].ok_or(format!(
                        "lane {lane} shuffles from lane {source}, not in the mask"
                    ))?;
                    self.write_pair(c, b, t, &i.operands[0], value, u64::from(valid))?;
                }
                Op::VoteSync(vote) => {
                    let votes: Vec<bool> = members.iter().map(|&l| inputs[l] != Some(0)).collect();
                    let result = match vote {
                        Vote::Ballot => members
                            .iter()
                            .filter(|&&l| inputs[l] != Some(0))
                            .fold(0, |mask, l| mask | 1 << l),
                        other => tally(other, &votes),
                    };
                    self.write(c, b, t, &i.operands[0], result)?;
                }
                Op::MatchAny { bytes } => {
                    let same = |&l: &&usize| {
                        inputs[*l].map(|v| truncate(v, bytes)) == Some(truncate(mine, bytes))
                    };
                    let mask = members.iter().filter(same).fold(0, |mask, l| mask | 1 << l);
                    self.write(c, b, t, &i.operands[0], mask)?;
                }
                Op::Reduce(f) => {
                    let all = members.iter().filter_map(|&l| inputs[l]).reduce(f);
                    self.write(c, b, t, &i.operands[0], all.expect("one member at least"))?;
                }
                _ => unreachable!("not a warp operation"),
            }
        }
        Ok(())
    }

    fn thread(&mut self, c: usize, b: usize, t: usize) -> &mut Thread {
        &mut self.clusters[c].blocks[b].threads[t]
    }

    fn value(&mut self, c: usize, b: usize, t: usize, operand: &Operand) -> Result<u64, String> {
        Ok(match operand {
            Operand::Reg(reg) => self.thread(c, b, t).registers[*reg],
            Operand::Not(reg) => self.thread(c, b, t).registers[*reg] ^ 1,
            Operand::Immediate(value) => *value,
            Operand::Shared(offset) => ((b as u64) << RANK_SHIFT) + *offset,
            Operand::Special(special) => self.special(c, b, t, *special),
            other => return Err(format!("reads {other:?}")),
        })
    }

    fn special(&self, c: usize, b: usize, t: usize, special: Special) -> u64 {
        let g = &self.geometry;
        let cluster = &self.clusters[c];
        let block = &cluster.blocks[b];
        let x = g.block[0] as usize;
        let xy = x * g.block[1] as usize;
        u64::from(match special {
            Special::Tid(axis) => [t % x, t % xy / x, t / xy][axis] as u32,
            Special::Ntid(axis) => g.block[axis],
            Special::Ctaid(axis) => block.id[axis],
            Special::Nctaid(axis) => g.grid[axis],
            Special::ClusterId(axis) => cluster.id[axis],
            Special::NClusterId(axis) => g.grid[axis] / g.cluster[axis],
            Special::ClusterCtaid(axis) => block.id_in_cluster[axis],
            Special::ClusterNctaid(axis) => g.cluster[axis],
            Special::ClusterCtaRank => b as u32,
            Special::ClusterNctaRank => count(g.cluster) as u32,
            Special::LaneId => (t % WARP) as u32,
            Special::WarpId => (t / WARP) as u32,
            Special::LaneMask(f) => f((t % WARP) as u32),
        })
    }

    fn write(
        &mut self,
        c: usize,
        b: usize,
        t: usize,
        to: &Operand,
        value: u64,
    ) -> Result<(), String> {
        match to {
            Operand::Reg(reg) => self.thread(c, b, t).registers[*reg] = value,
            Operand::Pair(None, None) => {}
            other => return Err(format!("writes {other:?}")),
        }
        Ok(())
    }

    fn write_pair(
        &mut self,
        c: usize,
        b: usize,
        t: usize,
        to: &Operand,
        first: u64,
        second: u64,
    ) -> Result<(), String> {
        let Operand::Pair(one, two) = to else { return self.write(c, b, t, to, first) };
        for (reg, value) in [(one, first), (two, second)] {
            if let Some(reg) = reg {
                self.thread(c, b, t).registers[*reg] = value;
            }
        }
        Ok(())
    }

    fn transfer(
        &mut self,
        c: usize,
        b: usize,
        t: usize,
        i: &Instruction,
        bytes: usize,
    ) -> Result<(), String> {
        match (&i.operands[0], &i.operands[1]) {
            (Operand::Vector(to), from) => {
                let whole = self.value(c, b, t, from)?;
                let part = bytes / to.len();
                for (n, to) in to.iter().enumerate() {
                    self.write(c, b, t, to, truncate(whole >> (8 * part * n), part))?;
                }
                Ok(())
            }
            (to, Operand::Vector(from)) => {
                let part = bytes / from.len();
                let mut whole = 0;
                for (n, from) in from.iter().enumerate() {
                    whole |= truncate(self.value(c, b, t, from)?, part) << (8 * part * n);
                }
                self.write(c, b, t, to, whole)
            }
            (to, from) => {
                let value = truncate(self.value(c, b, t, from)?, bytes);
                self.write(c, b, t, to, value)
            }
        }
    }

    fn address(
        &mut self,
        c: usize,
        b: usize,
        t: usize,
        space: Space,
        operand: &Operand,
    ) -> Result<u64, String> {
        let Operand::Address(base, offset) = operand else {
            return Err(format!("{operand:?} is not an address"));
        };
        let base = match base {
            Some(reg) => self.thread(c, b, t).registers[*reg],
            // A shared variable by its name: in this block.
            None if space == Space::Shared => (b as u64) << RANK_SHIFT,
            None => 0,
        };
        Ok(base.wrapping_add_signed(*offset))
    }

    fn memory_at(
        &mut self,
        c: usize,
        space: Space,
        address: u64,
        bytes: usize,
        write: bool,
    ) -> Result<&mut [u8], String> {
        let shared = match space {
            Space::Shared => Some(address & 0xffff_ffff),
            Space::Generic if (SHARED_WINDOW..SHARED_WINDOW * 2).contains(&address) => {
                Some(address - SHARED_WINDOW)
            }
            _ => None,
        };
        let Some(shared) = shared else { return self.memory.slice(address, bytes, write) };
        let rank = (shared >> RANK_SHIFT) as usize;
        let cluster = &mut self.clusters[c];
        let count = cluster.blocks.len();
        let block = cluster
            .blocks
            .get_mut(rank)
            .ok_or_else(|| format!("shared memory of block {rank} in a cluster of {count}"))?;
        if block.threads.iter().all(|t| t.state == State::Done) {
            return Err(format!("shared memory of block {rank}, which has ended"));
        }
        let offset = shared & ((1 << RANK_SHIFT) - 1);
        checked(&format!("shared memory of block {rank}"), &mut block.shared, offset, bytes)
    }

    fn load(
        &mut self,
        c: usize,
        b: usize,
        t: usize,
        i: &Instruction,
        space: Space,
        access: Access,
    ) -> Result<(), String> {
        let address = self.address(c, b, t, space, &i.operands[1])?;
        let whole = access.bytes * access.count;
        let mut bytes = [0; 16];
        if space == Space::Param {
            let at = address as usize;
            let params = self.params.get(at..at + whole).ok_or("reads past the parameters")?;
            bytes[..whole].copy_from_slice(params);
        } else {
            bytes[..whole].copy_from_slice(self.memory_at(c, space, address, whole, false)?);
        }
        let single = std::slice::from_ref(&i.operands[0]);
        let targets = match &i.operands[0] {
            Operand::Vector(targets) => targets.as_slice(),
            _ => single,
        };
        for (target, piece) in targets.iter().zip(bytes.chunks(access.bytes)) {
            let mut value = read(piece);
            if access.signed {
                let unused = 64 - 8 * access.bytes as u32;
                value = ((value << unused) as i64 >> unused) as u64;
            }
            self.write(c, b, t, target, value)?;
        }
        Ok(())
    }

    fn store(
        &mut self,
        c: usize,
        b: usize,
        t: usize,
        i: &Instruction,
        space: Space,
        access: Access,
    ) -> Result<(), String> {
        let address = self.address(c, b, t, space, &i.operands[0])?;
        let single = std::slice::from_ref(&i.operands[1]);
        let sources = match &i.operands[1] {
            Operand::Vector(sources) => sources.as_slice(),
            _ => single,
        };
        let mut bytes = [0; 16];
        for (source, piece) in sources.iter().zip(bytes.chunks_mut(access.bytes)) {
            write(piece, self.value(c, b, t, source)?);
        }
        let whole = access.bytes * access.count;
        self.memory_at(c, space, address, whole, true)?.copy_from_slice(&bytes[..whole]);
        Ok(())
    }

    /// A Fisher-Yates shuffle by a small generator: the schedule of this launch.
    fn shuffle(&mut self, items: &mut [usize]) {
        if self.seed == 0 {
            return;
        }
        for i in (1..items.len()).rev() {
            self.seed =
                self.seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            items.swap(i, ((self.seed >> 33) as usize) % (i + 1));
        }
    }

    fn fault(&self, c: usize, b: usize, t: usize, what: &str) -> String {
        let block = &self.clusters[c].blocks[b];
        let line = self.entry.body.get(block.threads[t].next).map_or(0, |i| i.line);
        format!("{} line {line}, block {:?}, thread {t}: {what}", self.entry.name, block.id)
    }

    fn deadlock(&self) -> String {
        let mut places: Vec<String> = self
            .clusters
            .iter()
            .flat_map(|c| &c.blocks)
            .flat_map(|b| b.threads.iter().enumerate().map(move |(t, thread)| (b.id, t, thread)))
            .filter(|(_, _, thread)| thread.state != State::Done)
            .map(|(block, t, thread)| {
                format!("block {block:?} thread {t} line {}", self.entry.body[thread.next].line)
            })
            .collect();
        let all = places.len();
        places.truncate(8);
        format!("{} hangs: {all} threads wait, {}", self.entry.name, places.join("; "))
    }
}

fn positions(extent: [u32; 3]) -> impl Iterator<Item = [u32; 3]> {
    let [x, y, z] = extent;
    (0..z).flat_map(move |c| (0..y).flat_map(move |b| (0..x).map(move |a| [a, b, c])))
}

fn count(extent: [u32; 3]) -> usize {
    extent.iter().map(|&n| n as usize).product()
}

fn truncate(value: u64, bytes: usize) -> u64 {
    if bytes >= 8 { value } else { value & ((1 << (8 * bytes)) - 1) }
}

fn read(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

fn write(bytes: &mut [u8], value: u64) {
    let count = bytes.len();
    bytes.copy_from_slice(&value.to_le_bytes()[..count]);
}

fn lop3(inputs: [u64; 3], table: u64) -> u64 {
    (0..32).fold(0, |out, bit| {
        let row = inputs.iter().fold(0, |row, input| row << 1 | (input >> bit & 1));
        out | (table >> row & 1) << bit
    })
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
