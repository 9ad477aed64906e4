//! The oracle: sorts each row and does what the definition says, set by set and token by token.
//!
//! It takes the order, the masses and the logarithms from [`crate::arithmetic`], the nucleus and what further cuts leave from
//! the oracle of sampling ([`crate::backend::reference`]), and works out other cuts, divisions and sums by itself, so that it
//! stays an independent opinion. It is never optimised.

use super::sums::{GroupSums, LOGPROB_Q32_MIN, SetSums};
use super::{Evaluation, EvaluationResult, Evaluator, Position, Question, Reference as Said};
use crate::arithmetic::interval::{Interval, nats};
use crate::arithmetic::key::key32;
use crate::arithmetic::log2::log2_mass;
use crate::arithmetic::logprob::logprob;
use crate::arithmetic::mass::{Scale, UNIT, mass};
use crate::arithmetic::score::score;
use crate::arithmetic::surprisal::surprisal;
use crate::backend::reference::{Left, cut, nucleus};
use crate::params::{Profile, SamplingParams};
use crate::status::RowStatus;
use std::ops::Range;

/// The oracle, one row after another on the calling thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reference;

impl Evaluator for Reference {
    fn evaluate(&self, positions: &[Position<'_>], question: &Question<'_>) -> EvaluationResult {
        let mut answer = EvaluationResult::default();
        let sets = question.sets.params();
        for position in positions {
            let mut sums = GroupSums::new(sets.len());
            match Sorted::of(position) {
                Ok(row) => {
                    answer.references.push(row.said());
                    sums.rows = 1;
                    for (params, sums) in sets.iter().zip(&mut sums.sets) {
                        let (found, evaluation) = row.evaluate(params, question.tail.get());
                        *sums = found;
                        answer.rows.extend(question.rows.then_some(evaluation));
                    }
                }
                Err(status) => {
                    answer.references.push(Said { status, ..Default::default() });
                    sums.rows_failed = 1;
                    let nothing = sets.iter().map(|_| Evaluation::default());
                    answer.rows.extend(nothing.filter(|_| question.rows));
                }
            }
            answer.sums.add(position.group(), sums);
        }
        answer
    }
}

/// The candidates of a row in the total order.
struct Sorted {
    x: Vec<f32>,
    /// The reference's logit, and how many tokens come before it.
    reference: f32,
    rank: usize,
}

impl Sorted {
    fn of(position: &Position<'_>) -> Result<Self, RowStatus> {
        let row = position.row();
        let x: Vec<f32> = (0..row.vocab_size()).map(|token| row.logit(token)).collect();
        if x.iter().any(|x| x.is_nan()) {
            return Err(RowStatus::Nan);
        }
        if x.contains(&f32::INFINITY) {
            return Err(RowStatus::PositiveInfinity);
        }
        let mut order: Vec<usize> = (0..x.len()).collect();
        order.sort_by_key(|&i| (std::cmp::Reverse(key32(x[i])), i));
        let reference = position.reference() as usize;
        let rank = order.iter().position(|&i| i == reference).expect("a token of the row");
        let sorted: Vec<f32> =
            order.iter().map(|&i| x[i]).take_while(|&x| x > f32::NEG_INFINITY).collect();
        if sorted.is_empty() {
            return Err(RowStatus::NoCandidate);
        }
        Ok(Self { x: sorted, reference: x[reference], rank })
    }

    fn first(&self) -> f32 {
        self.x[0]
    }

    /// Mass, surprisal and term of some tokens at a temperature, relative to the first of them.
    fn interval(&self, kept: Range<usize>, temperature: f32) -> Interval {
        let scale = Scale::new(temperature);
        let max = self.x[kept.start];
        let tokens = self.x[kept].iter().map(|&x| surprisal(x, max, scale));
        tokens.fold(Interval::default(), Interval::with)
    }

    fn said(&self) -> Said {
        let raw = self.interval(0..self.x.len(), 1.0);
        Said {
            status: RowStatus::Ok,
            rank: self.rank as u32,
            logprob: logprob(self.reference, self.first(), Scale::new(1.0), raw.mass),
            entropy: nats(raw.entropy()),
        }
    }

    fn evaluate(&self, params: &SamplingParams, tail_share: f32) -> (SetSums, Evaluation) {
        let Left { range, temperature } = self.kept(params);
        let max = self.x[range.start];
        let greedy = params.is_greedy();
        let masses: Vec<u64> = match greedy {
            true => vec![UNIT],
            false => {
                let scale = Scale::new(temperature);
                self.x[range.clone()].iter().map(|&x| mass(x, max, scale)).collect()
            }
        };
        let whole: u128 = masses.iter().map(|&m| u128::from(m)).sum();
        let hit = range.contains(&self.rank);

        let one = Scale::new(1.0);
        let raw_whole = self.interval(0..self.x.len(), 1.0).mass;
        let tail_mass = ((f64::from(tail_share) * 2f64.powi(64)) as u128 * u128::from(raw_whole))
            .div_ceil(1 << 64)
            .max(1);
        let (mut surprise, mut tail) = (0u128, 0u128);
        let mut squares = Wide::default();
        for (&x, &m) in self.x[range.clone()].iter().zip(&masses) {
            let raw = surprisal(x, self.first(), one);
            surprise += u128::from(m) * u128::from(raw.g);
            squares.add(u128::from(m) * u128::from(m));
            if u128::from(raw.mass) < tail_mass {
                tail += u128::from(m);
            }
        }
        let entropy = match greedy {
            true => 0,
            false => self.interval(range.clone(), temperature).entropy(),
        };
        let logprob_q32 = match hit && !greedy {
            true => score(self.reference - max, temperature, whole as u64),
            false => 0,
        };
        let reference_mass = if hit { masses[self.rank - range.start] } else { 0 };
        let surprise = (surprise << 10) / whole + log2_mass(raw_whole) as u128;
        let sums = SetSums {
            hits: hit.into(),
            kept: range.len() as u64,
            logprob_q32: logprob_q32.max(LOGPROB_Q32_MIN),
            probability_q32: ((u128::from(reference_mass) << 32) / whole) as u64,
            entropy_q32: entropy,
            surprise_q32: surprise as u64,
            collision_q32: squares.times_2_to_32_over(whole * whole),
            tail_q32: ((tail << 32) / whole) as u64,
        };
        let logprob = hit.then(|| match greedy {
            true => 0.0,
            false => logprob(self.reference, max, Scale::new(temperature), whole as u64),
        });
        (sums, Evaluation { kept: range.len() as u32, kept_mass: whole as u64, logprob })
    }

    /// Which tokens are kept, by their places in the order, and the temperature that is drawn at.
    fn kept(&self, params: &SamplingParams) -> Left {
        let temperature = params.temperature();
        let profile = params.all_cuts().profile;
        if params.is_greedy() && profile != Profile::Llamacpp {
            return Left { range: 0..1, temperature };
        }
        if params.cuts().is_some() {
            let Left { range: Range { start, end }, temperature } = cut(&self.x, params);
            let end = if params.is_greedy() { start + 1 } else { end };
            return Left { range: start..end, temperature };
        }
        let scale = Scale::new(temperature);
        let masses: Vec<u64> = self.x.iter().map(|&x| mass(x, self.first(), scale)).collect();
        let n_k = params.top_k().map_or(self.x.len(), |k| self.x.len().min(k as usize));
        let n_p = params.top_p().map_or(self.x.len(), |p| nucleus(&masses[..n_k], p));
        let n_m = params.min_p().map_or(self.x.len(), |p| {
            let least = (libm::log(f64::from(p)) * f64::from(temperature)) as f32;
            self.x.iter().take_while(|&&x| x - self.first() >= least).count()
        });
        Left { range: 0..n_k.min(n_p).min(n_m), temperature }
    }
}

/// A sum of squares, of more bits than there are integers for: 64 in each word, the lowest first.
#[derive(Default)]
struct Wide([u64; 3]);

impl Wide {
    fn add(&mut self, square: u128) {
        let mut carry = square;
        for word in &mut self.0 {
            let sum = u128::from(*word) + (carry & u128::from(u64::MAX));
            *word = sum as u64;
            carry = (carry >> 64) + (sum >> 64);
        }
    }

    /// `floor(self * 2^32 / divisor)`, bit by bit. The divisor is at most 2^120.
    fn times_2_to_32_over(&self, divisor: u128) -> u64 {
        let (mut quotient, mut rest) = (0u64, 0u128);
        let bits = (0..192).rev().map(|bit| self.0[bit / 64] >> (bit % 64) & 1);
        for bit in bits.chain([0; 32]) {
            rest = rest << 1 | u128::from(bit);
            quotient <<= 1;
            if rest >= divisor {
                rest -= divisor;
                quotient |= 1;
            }
        }
        quotient
    }
}
