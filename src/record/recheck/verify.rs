//! Answers of `Verify`, checked sequence by sequence.

use super::asked::{Asked, sample};
use super::sample::difference as row_difference;
use super::{Difference, Recheck, RecheckError, Within, check_version, shown, shown_bits};
use crate::wire::sequences::{self, DraftRow, Sequence, SequenceRow, Told};
use crate::wire::violations::Violations;
use crate::wire::whole_rows::{Given, Limits, WholeRows};
use bytes::Bytes;
use logitd_core::backend::{Backend, dual};
use logitd_core::batch::Results;
use logitd_core::params::SamplingParams;
use logitd_core::row::{Draft, Source};
use logitd_core::verify::TREE_NODES_MAX;
use logitd_proto::{VerifiedSequence, VerifyRequest, VerifyResponse};
use std::sync::Arc;

impl Recheck for VerifyRequest {
    type Answer = VerifyResponse;

    fn recheck(
        &self,
        backend: &mut dyn Backend,
        answer: &VerifyResponse,
        results: &mut Results,
    ) -> Result<Vec<Difference>, RecheckError> {
        check_version(answer.arithmetic_version)?;
        let sequences = rows(self, answer)?;
        let counts: Vec<usize> = sequences.iter().map(|one| one.rows.len()).collect();
        let (all, told): (Vec<Vec<Asked>>, Vec<Told>) =
            sequences.into_iter().map(|one| (one.rows, one.told)).unzip();
        sample(backend, &all.into_iter().flatten().collect::<Vec<_>>(), results)?;
        let mut first = 0;
        let expected = told.iter().zip(counts).map(|(told, count)| {
            let at = first;
            first += count;
            told.message(|place| results.row(at + place))
        });
        Ok(compare(&expected.collect::<Vec<_>>(), &answer.sequences))
    }

    fn replayable(
        &self,
        backend: &mut dyn Backend,
        answer: &VerifyResponse,
        difference: &Difference,
    ) -> Result<dual::Difference, RecheckError> {
        let Some(Within::Sequence(place)) = difference.within else {
            return Err(RecheckError::NoRow);
        };
        let sequences = rows(self, answer)?;
        let rows = sequences.get(place).map_or(&[][..], |one| &one.rows);
        let row = rows.get(difference.row).ok_or(RecheckError::NoRow)?;
        // Of a row that is not told with all that it was asked, the answer says no more than what differs.
        row.replayable(backend, difference.row, None)
    }

    fn differences(recorded: &VerifyResponse, got: &VerifyResponse) -> Vec<Difference> {
        compare(&recorded.sequences, &got.sequences)
    }

    fn row_count(&self, _: &VerifyResponse) -> usize {
        self.sequences.iter().map(|sequence| sequence.drafts.len() + 1).sum()
    }

    fn seeded(&self, answer: &VerifyResponse) -> Self {
        let mut request = self.clone();
        for (sequence, answered) in request.sequences.iter_mut().zip(&answer.sequences) {
            let params = sequence.params.get_or_insert_default();
            params.seed.get_or_insert(answered.seed);
        }
        request
    }

    fn arithmetic_version(answer: &VerifyResponse) -> u32 {
        answer.arithmetic_version
    }

    fn device(answer: &VerifyResponse) -> &str {
        &answer.device
    }
}

/// A sequence whose rows can be sampled.
struct Drafted {
    rows: Vec<Asked>,
    told: Told,
}

/// The sequences of a request. Where it leaves a seed to the server, it is taken from the answer.
fn rows(request: &VerifyRequest, answer: &VerifyResponse) -> Result<Vec<Drafted>, RecheckError> {
    let &VerifyRequest { dtype, vocab_size, row_stride, rows, .. } = request;
    let mut wrong = Violations::new(None);
    let given = Given { dtype, vocab_size, row_stride, rows };
    let Some(rows) = WholeRows::of(given, request.logits.len(), &mut wrong) else {
        return Err(wrong.into());
    };
    // A file may say anything; the paths to a tree's nodes are longer than what it takes to say it.
    let drafts_max = request.sequences.iter().filter(|one| !one.parents.is_empty());
    if drafts_max.map(|one| one.drafts.len()).max() >= Some(TREE_NODES_MAX) {
        wrong.add(
            || "sequences".into(),
            || format!("has a tree of {TREE_NODES_MAX} drafts or more, and no server takes one"),
        );
        return Err(wrong.into());
    }
    let checked = sequences::check(request.sequences.clone(), &rows, Limits::NONE, &mut wrong);
    if !wrong.none() {
        return Err(wrong.into());
    }
    let seeds = answer.sequences.iter().map(|one| one.seed).chain(std::iter::repeat(0));
    let one = |(sequence, seed): (Sequence, u64)| {
        let sequence = if sequence.has_seed() { sequence } else { sequence.with_seed(seed) };
        let (asked, told) = sequence.rows();
        let rows = asked.into_iter().map(|asked| row(asked, &rows, &request.logits));
        Ok(Drafted { rows: rows.collect::<Result<_, _>>()?, told })
    };
    checked.into_iter().zip(seeds).map(one).collect()
}

/// A row of a sequence with its logits.
fn row(asked: SequenceRow, rows: &WholeRows, logits: &Bytes) -> Result<Asked, RecheckError> {
    let SequenceRow { place, params, adjustments, asked, draft } = asked;
    let plain = |place: usize, params: SamplingParams| {
        Asked::plain(rows.dtype(), logits.slice(rows.range(place)), params, rows.vocab_size())
    };
    let drafted = |DraftRow { place, params, adjustments }: DraftRow| {
        let row = Asked { adjustments, ..plain(place, params) };
        row.row()?;
        Ok::<Arc<dyn Source>, RecheckError>(Arc::new(row))
    };
    let draft = match draft {
        Some((token, rule)) => Some(Draft { token, rule: rule.rule(drafted)? }),
        None => None,
    };
    Ok(Asked { adjustments, inspected: asked, draft, ..plain(place, params) })
}

/// Compares every bit of two lists of what came of sequences. Returns the first difference of each.
fn compare(expected: &[VerifiedSequence], got: &[VerifiedSequence]) -> Vec<Difference> {
    if expected.len() != got.len() {
        let (expected, got) = (expected.len().to_string(), got.len().to_string());
        return vec![Difference { within: None, row: 0, field: "sequences", expected, got }];
    }
    let pairs = expected.iter().zip(got).enumerate();
    pairs.filter_map(|(place, (expected, got))| difference(place, expected, got)).collect()
}

fn difference(place: usize, a: &VerifiedSequence, b: &VerifiedSequence) -> Option<Difference> {
    let within = Some(Within::Sequence(place));
    let found = |at: usize, field, expected, got| {
        Some(Difference { within, row: row_of(a, b, at), field, expected, got })
    };
    let shown_float = |floats: &[f32], at: usize| shown_bits(floats.get(at).copied());
    let bits = |floats: &[f32]| floats.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    if let Some(at) = first_differing(&a.tokens, &b.tokens) {
        let token = |one: &VerifiedSequence| shown(one.tokens.get(at).copied());
        return found(at, "tokens", token(a), token(b));
    }
    let last = a.tokens.len();
    if a.status != b.status {
        let status = |one: &VerifiedSequence| one.status().as_str_name().to_owned();
        return found(last, "status", status(a), status(b));
    }
    if a.accepted != b.accepted {
        let at = a.accepted.min(b.accepted) as usize;
        return found(at, "accepted", a.accepted.to_string(), b.accepted.to_string());
    }
    if let Some(at) = first_differing(&bits(&a.logprobs), &bits(&b.logprobs)) {
        let logprob = |one: &VerifiedSequence| shown_float(&one.logprobs, at);
        return found(at, "logprobs", logprob(a), logprob(b));
    }
    if let Some(at) = first_differing(&a.path, &b.path) {
        let node = |one: &VerifiedSequence| shown(one.path.get(at).copied());
        return found(at, "path", node(a), node(b));
    }
    if a.rows.len() != b.rows.len() {
        return found(0, "rows", a.rows.len().to_string(), b.rows.len().to_string());
    }
    let rows = a.rows.iter().zip(&b.rows).enumerate();
    let of_row = |(at, (a, b))| row_difference(at, a, b);
    if let Some(Difference { row, field, expected, got, .. }) = rows.map(of_row).find_map(|it| it) {
        return found(row, field, expected, got);
    }
    (a.seed != b.seed).then(|| found(0, "seed", a.seed.to_string(), b.seed.to_string()))?
}

/// Which row of the sequence the token at a place is of: of a tree, that of the node before it.
fn row_of(a: &VerifiedSequence, b: &VerifiedSequence, at: usize) -> usize {
    let path = if a.path.is_empty() { &b.path } else { &a.path };
    match at.checked_sub(1).and_then(|before| path.get(before)) {
        Some(&node) => node as usize,
        None => at,
    }
}

fn first_differing<T: PartialEq>(a: &[T], b: &[T]) -> Option<usize> {
    (0..a.len().max(b.len())).find(|&at| a.get(at) != b.get(at))
}

/// What a server that says this of sequences has answered, but for timings and device.
#[cfg(test)]
pub(crate) fn answer(
    backend: &mut dyn Backend,
    request: &VerifyRequest,
    seed: u64,
) -> VerifyResponse {
    let seeds = VerifiedSequence { seed, ..Default::default() };
    let seeds = vec![seeds; request.sequences.len()];
    let blank = VerifyResponse { sequences: seeds, ..Default::default() };
    let sequences = rows(request, &blank).unwrap().into_iter().map(|Drafted { rows, told }| {
        let mut results = Results::default();
        sample(backend, &rows, &mut results).unwrap();
        told.message(|place| results.row(place))
    });
    let arithmetic_version = logitd_core::arithmetic::VERSION;
    VerifyResponse { sequences: sequences.collect(), arithmetic_version, ..Default::default() }
}
