//! Runs a kernel: every thread by itself, one instruction after another, until it must wait.
//!
//! Threads meet only where PTX says so: at block, warp and cluster barriers, shuffles, votes,
//! matches and reductions. Whoever else they share memory with, they see in the order of a schedule
//! permuted by a seed. Waiting that can never end is an error with the line of each waiting thread.

use super::meet::{meet_block, meet_warp};
use super::memory::{Memory, RANK_SHIFT};
use super::parse::Special;
use super::program::{Program, Provided};
use super::races::{Races, Visitor};
use super::thread::{Core, Stop};

pub const WARP: usize = 32;
/// Rounds in which threads do nothing but wait for memory to change, and nobody changes any.
const IDLE_ROUNDS_MAX: usize = 16;
/// Times in a row that a warp may have its turn.
const TURNS_MAX: u64 = 8;

/// How many threads run.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    pub blocks: u32,
    pub threads: u32,
    /// Blocks a cluster; 1 without clusters.
    pub cluster: u32,
    pub dynamic_shared_bytes: usize,
    /// Blocks that run at once; at least a cluster does.
    pub resident_blocks: u32,
}

/// Runs a kernel to its end. In order with seed 0, else in an order of the seed's. Returns how often
/// each step ran.
pub fn launch(
    program: &Program,
    geometry: Geometry,
    params: &[u8],
    memory: &mut Memory,
    seed: u64,
) -> Result<Vec<u64>, String> {
    if params.len() != program.param_bytes {
        let (name, wanted) = (&program.name, program.param_bytes);
        return Err(format!("{name} takes {wanted} parameter bytes, not {}", params.len()));
    }
    let Geometry { blocks, threads, cluster, .. } = geometry;
    if blocks == 0 || threads == 0 || cluster == 0 || !blocks.is_multiple_of(cluster) {
        return Err(format!("{geometry:?}"));
    }
    memory.constants.clone_from(&program.constants);
    let mut machine = Machine::new(program, geometry, params, memory, seed);
    machine.run()?;
    Ok(machine.executed)
}

struct Machine<'a> {
    program: &'a Program,
    geometry: Geometry,
    params: &'a [u8],
    memory: &'a mut Memory,
    /// All slots: immediates, then a frame for each resident thread.
    slots: Vec<u64>,
    executed: Vec<u64>,
    /// Clusters that have not started, the next one last.
    coming: Vec<u32>,
    resident: Vec<Cluster>,
    random: Random,
}

/// Blocks that run together.
pub struct Cluster {
    /// The first block's place in the grid.
    first_block: u32,
    pub blocks: Vec<Block>,
    /// Threads that have not ended.
    pub living: usize,
    /// Threads that arrived in the current phase of the barrier, and the number of phases completed.
    pub arrived: usize,
    pub phase: u64,
}

pub struct Block {
    pub shared: Vec<u8>,
    pub races: Races,
    pub threads: Vec<Thread>,
    /// Where the first thread's frame is.
    pub frames: usize,
    pub living: usize,
    pub at_barrier: usize,
    /// Barriers that it, and each of its warps, has passed.
    pub phase: u64,
    pub warp_phases: Vec<u64>,
}

#[derive(Clone, Copy)]
pub struct Thread {
    pub next: usize,
    pub state: State,
    /// The phase of the cluster barrier that this thread arrived for, until it has waited.
    pub arrived_for: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    Ready,
    /// The instruction it waits at is `next`.
    AtBarrier,
    AtWarp,
    AtCluster,
    Done,
}

/// What became of a turn.
#[derive(Clone, Copy, Default)]
struct Turn {
    /// Somebody ran or met.
    ran: bool,
    /// Not only to see that nothing has changed.
    moved: bool,
}

impl<'a> Machine<'a> {
    fn new(
        program: &'a Program,
        geometry: Geometry,
        params: &'a [u8],
        memory: &'a mut Memory,
        seed: u64,
    ) -> Self {
        let mut random = Random(seed);
        let mut coming: Vec<u32> = (0..geometry.blocks / geometry.cluster).rev().collect();
        random.shuffle(&mut coming);
        let executed = vec![0; program.steps.len()];
        let slots = program.immediates.clone();
        let resident = Vec::new();
        Self { program, geometry, params, memory, slots, executed, coming, resident, random }
    }

    fn run(&mut self) -> Result<(), String> {
        let mut idle_rounds = 0;
        loop {
            self.start_clusters();
            if self.resident.is_empty() {
                return Ok(());
            }
            let turn = self.round()?;
            self.resident.retain(|cluster| cluster.living > 0);
            idle_rounds = if turn.moved { 0 } else { idle_rounds + 1 };
            if !turn.ran || idle_rounds > IDLE_ROUNDS_MAX {
                return Err(self.hang());
            }
        }
    }

    fn start_clusters(&mut self) {
        let Geometry { cluster, threads, resident_blocks, .. } = self.geometry;
        let places = (resident_blocks / cluster).max(1) as usize;
        let block_slots = threads as usize * self.program.frame_size;
        while self.resident.len() < places
            && let Some(next) = self.coming.pop()
        {
            let taken = |frames: usize| {
                self.resident.iter().any(|cluster| cluster.blocks[0].frames == frames)
            };
            let mut frames = self.program.immediates.len();
            while taken(frames) {
                frames += block_slots * cluster as usize;
            }
            let first_block = next * cluster;
            let blocks = (0..cluster as usize)
                .map(|rank| self.start_block(first_block, rank, frames + rank * block_slots))
                .collect();
            let living = (cluster * threads) as usize;
            self.resident.push(Cluster { first_block, blocks, living, arrived: 0, phase: 0 });
        }
    }

    fn start_block(&mut self, first_block: u32, rank: usize, frames: usize) -> Block {
        let Geometry { blocks, threads, cluster, dynamic_shared_bytes, .. } = self.geometry;
        let frame_size = self.program.frame_size;
        let threads = threads as usize;
        let end = frames + threads * frame_size;
        self.slots.resize(self.slots.len().max(end), 0);
        self.slots[frames..end].fill(0xdead_beef_dead_beef);
        for thread in 0..threads {
            let frame = &mut self.slots[frames + thread * frame_size..];
            for (slot, provided) in frame.iter_mut().zip(&self.program.provided) {
                *slot = match *provided {
                    Provided::Sink => 0,
                    Provided::Shared(offset) => ((rank as u64) << RANK_SHIFT) + offset,
                    Provided::Special(special) => match special {
                        Special::Thread => thread as u64,
                        Special::Threads => threads as u64,
                        Special::Block => u64::from(first_block) + rank as u64,
                        Special::Blocks => blocks.into(),
                        Special::RankInCluster => rank as u64,
                        Special::BlocksOfCluster => cluster.into(),
                        Special::Lane => (thread % WARP) as u64,
                    },
                };
            }
        }
        let thread = Thread { next: 0, state: State::Ready, arrived_for: None };
        let shared_bytes = self.program.static_shared_bytes + dynamic_shared_bytes;
        Block {
            shared: vec![0xa5; shared_bytes],
            races: Races::new(shared_bytes),
            threads: vec![thread; threads],
            frames,
            living: threads,
            at_barrier: 0,
            phase: 0,
            warp_phases: vec![0; threads.div_ceil(WARP)],
        }
    }

    /// Every resident block has a turn.
    fn round(&mut self) -> Result<Turn, String> {
        let blocks =
            |(c, cluster): (usize, &Cluster)| (0..cluster.blocks.len()).map(move |b| (c, b));
        let mut order: Vec<_> = self.resident.iter().enumerate().flat_map(blocks).collect();
        self.random.shuffle(&mut order);
        let mut turn = Turn::default();
        for (c, b) in order {
            self.run_block(c, b, &mut turn)?;
        }
        Ok(turn)
    }

    /// Every warp has a turn, then those go on that have all met.
    fn run_block(&mut self, c: usize, b: usize, turn: &mut Turn) -> Result<(), String> {
        let threads = self.resident[c].blocks[b].threads.len();
        let mut warps: Vec<usize> = (0..threads.div_ceil(WARP)).collect();
        self.random.shuffle(&mut warps);
        for warp in warps {
            let turns = 1 + self.random.next() % TURNS_MAX;
            for _ in 0..turns {
                if !self.run_warp(c, b, warp, turn)? {
                    break;
                }
            }
        }
        if meet_block(self.program, &mut self.slots, &mut self.resident[c].blocks[b])? {
            *turn = Turn { ran: true, moved: true };
        }
        Ok(())
    }

    /// Every lane that can runs until it must wait. Whether the warp has met.
    fn run_warp(
        &mut self,
        c: usize,
        b: usize,
        warp: usize,
        turn: &mut Turn,
    ) -> Result<bool, String> {
        let threads = self.resident[c].blocks[b].threads.len();
        let first = warp * WARP;
        let mut lanes = [0; WARP];
        let lanes = &mut lanes[..WARP.min(threads - first)];
        lanes.iter_mut().enumerate().for_each(|(lane, t)| *t = first + lane);
        self.random.shuffle(lanes);
        for &mut t in lanes {
            if self.can_run(c, b, t) {
                self.run_thread(c, b, t, turn)?;
            }
        }
        let met = meet_warp(self.program, &mut self.slots, &mut self.resident[c].blocks[b], warp)?;
        turn.moved |= met;
        Ok(met)
    }

    fn can_run(&self, c: usize, b: usize, t: usize) -> bool {
        let cluster = &self.resident[c];
        let thread = &cluster.blocks[b].threads[t];
        match thread.state {
            State::Ready => true,
            State::AtCluster => thread.arrived_for.is_none_or(|phase| phase <= cluster.phase),
            _ => false,
        }
    }

    fn run_thread(&mut self, c: usize, b: usize, t: usize, turn: &mut Turn) -> Result<(), String> {
        let cluster = &mut self.resident[c];
        let frame = cluster.blocks[b].frames + t * self.program.frame_size;
        let visitor = Visitor {
            thread: t as u32,
            block_phase: cluster.blocks[b].phase + cluster.phase,
            warp_phase: cluster.blocks[b].warp_phases[t / WARP],
        };
        let mut core = Core {
            rank: b,
            visitor,
            program: self.program,
            slots: &mut self.slots,
            frame,
            params: self.params,
            memory: self.memory,
            thread: cluster.blocks[b].threads[t],
            cluster,
            executed: &mut self.executed,
            wrote: false,
        };
        let stop = core.run();
        let (thread, wrote) = (core.thread, core.wrote);
        let stop = stop.map_err(|what| self.fault(c, b, t, &thread, &what))?;
        turn.ran = true;
        turn.moved |= wrote || stop != Stop::Pause;
        let cluster = &mut self.resident[c];
        let block = &mut cluster.blocks[b];
        block.threads[t] = thread;
        block.threads[t].state = match stop {
            Stop::Pause | Stop::Quantum => State::Ready,
            Stop::Warp => State::AtWarp,
            Stop::Cluster => State::AtCluster,
            Stop::Barrier => {
                block.at_barrier += 1;
                State::AtBarrier
            }
            Stop::Return => {
                block.living -= 1;
                State::Done
            }
        };
        if stop == Stop::Return {
            cluster.leave(&thread);
        }
        Ok(())
    }

    fn fault(&self, c: usize, b: usize, t: usize, thread: &Thread, what: &str) -> String {
        let block = self.resident[c].first_block as usize + b;
        let line = line(self.program, thread);
        format!("{} line {line}, block {block}, thread {t}: {what}", self.program.name)
    }

    fn hang(&self) -> String {
        let mut places = Vec::new();
        for cluster in &self.resident {
            for (b, block) in cluster.blocks.iter().enumerate() {
                for (t, thread) in block.threads.iter().enumerate() {
                    if thread.state != State::Done {
                        let (b, line) =
                            (cluster.first_block as usize + b, line(self.program, thread));
                        places.push(format!("block {b} thread {t} line {line}"));
                    }
                }
            }
        }
        let all = places.len();
        places.truncate(8);
        format!("{} hangs: {all} threads wait, {}", self.program.name, places.join("; "))
    }
}

impl Cluster {
    /// Completes the barrier's phase if every living thread has arrived.
    pub fn advance(&mut self) {
        if self.arrived > 0 && self.arrived == self.living {
            self.arrived = 0;
            self.phase += 1;
        }
    }

    /// A thread ends: it counts as arrived at whatever the others wait for.
    fn leave(&mut self, thread: &Thread) {
        self.living -= 1;
        self.arrived -= usize::from(thread.arrived_for.is_some_and(|phase| phase > self.phase));
        self.advance();
    }
}

fn line(program: &Program, thread: &Thread) -> u32 {
    program.steps.get(thread.next).map_or(0, |step| step.line)
}

/// The schedule of a launch. Seed 0 changes no order.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        if self.0 != 0 {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        }
        self.0 >> 33
    }

    /// A Fisher-Yates shuffle.
    fn shuffle<T>(&mut self, items: &mut [T]) {
        if self.0 == 0 {
            return;
        }
        for i in (1..items.len()).rev() {
            items.swap(i, self.next() as usize % (i + 1));
        }
    }
}
