//! The draws of a row: each finds the token at which the kept mass, by ascending id, exceeds its target.
//!
//! ```text
//! from a list:   sums = the mass up to each token
//!                for each draw: the first token whose sum exceeds its target
//! from blocks:   sums = the kept mass up to each block
//!                for each draw: the first block whose sum exceeds its target; what is left of the target there
//!                for each block that was found: list its kept tokens; its draws as from a list
//! ```
//!
//! Draws are sorted by block, so that a block is weighed once however many draws end in it.

use super::blocks::BLOCK;
use super::collect::Collect;
use super::cut::Cut;
use super::element::Element;
use super::list::List;
use super::mass::Weights;
use super::passes::ScannedRow;
use super::prepare::Prepared;
use super::search::Kept;
use super::simd::Simd;
use crate::arithmetic::draw::target;
use crate::arithmetic::logprob::logprob;
use crate::arithmetic::philox::{PURPOSE_DRAFT, PURPOSE_TOKEN, bits};
use crate::arithmetic::race::{draft_bits, token_bits};
use crate::batch::Draw;
use crate::params::SamplingParams;

/// Memory for draws.
#[derive(Default)]
pub struct Buffers {
    /// The kept tokens of one block.
    block: List,
    /// The mass up to each block.
    block_sums: Vec<u64>,
    /// The mass up to each token of a list.
    token_sums: Vec<u64>,
    in_blocks: Vec<InBlock>,
}

/// A draw that has found its block.
#[derive(Clone, Copy)]
struct InBlock {
    block: u32,
    draw: u32,
    /// What is left of its target there.
    target: u64,
}

/// What a row's random bits are keyed by, but for the index of the draw.
#[derive(Clone, Copy)]
pub struct Stream {
    pub seed: u64,
    pub position: u64,
    /// Whether a draft is drawn.
    pub is_draft: bool,
}

impl Stream {
    /// Of a row with these parameters.
    pub fn of(params: &SamplingParams) -> Self {
        let (seed, position) = (params.seed(), params.position());
        Self { seed, position, is_draft: params.is_draft() }
    }

    /// The random bits of a token in one draw by race.
    pub fn race_bits(self, draw: u32, token: u32) -> u64 {
        match self.is_draft {
            true => draft_bits(self.seed, self.position, draw, token),
            false => token_bits(self.seed, self.position, draw, token),
        }
    }

    /// The mass that one draw looks for.
    fn target(self, draw: usize, kept_mass: u64) -> u64 {
        let purpose = if self.is_draft { PURPOSE_DRAFT } else { PURPOSE_TOKEN };
        target(bits(self.seed, self.position, draw as u32, purpose), kept_mass)
    }
}

/// Takes every draw from the kept tokens, and returns their mass.
pub fn draw<S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    kept: Kept<'_>,
    stream: Stream,
    buffers: &mut Buffers,
    draws: &mut [Draw],
) -> u64 {
    match kept {
        Kept::List(list) => draw_from_list(row.weights, list, stream, buffers, draws),
        Kept::Blocks { cut, masses, .. } => {
            let kept_mass = sum_up(&mut buffers.block_sums, masses.iter().copied());
            find_blocks(stream, kept_mass, draws.len(), buffers);
            draw_in_blocks(row, cut, kept_mass, buffers, draws);
            kept_mass
        }
    }
}

/// The first token of the total order.
pub fn first_token<S: Simd, E: Element>(
    s: S,
    prepared: &Prepared<'_, E>,
    buffers: &mut Buffers,
) -> u32 {
    let (blocks, maxima, max) = (prepared.blocks, prepared.maxima.x(), prepared.max);
    let block = maxima.iter().position(|&x| x == max).expect("the maximum is some block's");
    let (range, list) = (block..block + 1, &mut buffers.block);
    list.reset(BLOCK);
    s.run(Collect { blocks, range, maxima, cut: Cut::ties(max), limit: 0, list });
    list.ids()[0]
}

fn draw_from_list(
    weights: Weights,
    list: &List,
    stream: Stream,
    buffers: &mut Buffers,
    draws: &mut [Draw],
) -> u64 {
    let sums = &mut buffers.token_sums;
    let kept_mass = sum_up(sums, (0..list.len()).map(|i| list.mass(i)));
    for (draw, place) in draws.iter_mut().enumerate() {
        let i = first_above(sums, stream.target(draw, kept_mass));
        *place = drawn(list, i, weights, kept_mass);
    }
    kept_mass
}

/// Finds the block of every draw, and sorts the draws by block.
fn find_blocks(stream: Stream, kept_mass: u64, draws: usize, buffers: &mut Buffers) {
    let Buffers { block_sums, in_blocks, .. } = buffers;
    in_blocks.clear();
    in_blocks.extend((0..draws).map(|draw| {
        let target = stream.target(draw, kept_mass);
        let block = first_above(block_sums, target);
        let before = if block == 0 { 0 } else { block_sums[block - 1] };
        InBlock { block: block as u32, draw: draw as u32, target: target - before }
    }));
    in_blocks.sort_unstable_by_key(|draw| draw.block);
}

/// Finds the tokens of draws that have found their blocks.
fn draw_in_blocks<S: Simd, E: Element>(
    row: &ScannedRow<'_, S, E>,
    cut: Cut,
    kept_mass: u64,
    buffers: &mut Buffers,
    draws: &mut [Draw],
) {
    let Buffers { block: list, token_sums, in_blocks, .. } = buffers;
    for of_block in in_blocks.chunk_by(|a, b| a.block == b.block) {
        let block = of_block[0].block as usize;
        row.collect_block(block, cut, list);
        row.weigh(list);
        sum_up(token_sums, (0..list.len()).map(|i| list.mass(i)));
        for &InBlock { draw, target, .. } in of_block {
            let i = first_above(token_sums, target);
            draws[draw as usize] = drawn(list, i, row.weights, kept_mass);
        }
    }
}

/// Writes the sums of ever more masses, and returns the sum of all.
fn sum_up(sums: &mut Vec<u64>, masses: impl Iterator<Item = u64>) -> u64 {
    sums.clear();
    let mut sum = 0;
    sums.extend(masses.map(|mass| {
        sum += mass;
        sum
    }));
    sum
}

/// The place of the first sum above a target.
fn first_above(sums: &[u64], target: u64) -> usize {
    sums.partition_point(|&sum| sum <= target)
}

fn drawn(list: &List, i: usize, weights: Weights, kept_mass: u64) -> Draw {
    // `weights.max` is not -0.0; with x = -0.0, the logprob of the only token would be.
    let x = list.x()[i] + 0.0;
    Draw { token: list.ids()[i], logprob: logprob(x, weights.max, weights.scale, kept_mass) }
}
