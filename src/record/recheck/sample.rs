//! Answers of `Sample`, checked row by row.

use super::asked::{Asked, sample};
use super::{Difference, Recheck, RecheckError, check_version, inspected, shown, shown_bits};
use crate::wire::inspection::{self, Names};
use crate::wire::{self, stand_in::with_stand_ins};
use bytes::Bytes;
use logitd_core::adjustments::Limits;
use logitd_core::arithmetic;
use logitd_core::backend::{Backend, dual};
use logitd_core::batch::{Dtype, Results, RowResult};
use logitd_core::candidates::{self, CandidateRow, TokenList};
use logitd_proto::{self as api, RowLayout, SampleRequest, SampleResponse};
use std::slice;

/// Samples the rows of `request` with the seeds that `answer` names and compares every bit.
/// Returns each row that differs. `results` is working memory.
pub fn recheck(
    backend: &mut dyn Backend,
    request: &SampleRequest,
    answer: &SampleResponse,
    results: &mut Results,
) -> Result<Vec<Difference>, RecheckError> {
    check_version(answer.arithmetic_version)?;
    let mut expected = sampled(backend, &rows(request, answer)?, results)?;
    // What a server's limits refuse cannot be known here.
    for (expected, got) in expected.iter_mut().zip(&answer.rows).filter(|(_, got)| is_invalid(got))
    {
        expected.clone_from(got);
    }
    Ok(compare(&expected, &answer.rows))
}

impl Recheck for SampleRequest {
    type Answer = SampleResponse;

    fn recheck(
        &self,
        backend: &mut dyn Backend,
        answer: &SampleResponse,
        results: &mut Results,
    ) -> Result<Vec<Difference>, RecheckError> {
        recheck(backend, self, answer, results)
    }

    fn replayable(
        &self,
        backend: &mut dyn Backend,
        answer: &SampleResponse,
        difference: &Difference,
    ) -> Result<dual::Difference, RecheckError> {
        let mut rows = rows(self, answer)?;
        let row_index = difference.row;
        if difference.field == "rows" || row_index >= rows.len() {
            return Err(RecheckError::NoRow);
        }
        let asked = whole(self, rows.swap_remove(row_index), row_index)?;
        let theirs = answer.rows.get(row_index).map(wire::row::result).transpose()?;
        asked.replayable(backend, row_index, theirs)
    }

    fn differences(recorded: &SampleResponse, got: &SampleResponse) -> Vec<Difference> {
        compare(&recorded.rows, &got.rows)
    }

    fn row_count(&self, answer: &SampleResponse) -> usize {
        answer.rows.len()
    }

    fn seeded(&self, answer: &SampleResponse) -> Self {
        let mut request = self.clone();
        if !request.params.is_empty() && request.params.iter().all(|params| params.seed.is_some()) {
            return request;
        }
        let params = |i: usize| match self.params.as_slice() {
            [] => Default::default(),
            [same] => same.clone(),
            each => each.get(i).cloned().unwrap_or_default(),
        };
        request.params = (answer.rows.iter().enumerate())
            .map(|(i, row)| {
                let mut params = params(i);
                params.seed.get_or_insert(row.seed);
                params
            })
            .collect();
        request
    }

    fn arithmetic_version(answer: &SampleResponse) -> u32 {
        answer.arithmetic_version
    }

    fn device(answer: &SampleResponse) -> &str {
        &answer.device
    }
}

/// Compares every bit of two lists of results. Returns each row that differs.
fn compare(expected: &[api::RowResult], got: &[api::RowResult]) -> Vec<Difference> {
    if expected.len() != got.len() {
        let (expected, got) = (expected.len().to_string(), got.len().to_string());
        return vec![Difference { within: None, row: 0, field: "rows", expected, got }];
    }
    let pairs = expected.iter().zip(got).enumerate();
    pairs.filter_map(|(row, (expected, got))| difference(row, expected, got)).collect()
}

/// Whether a row was not sampled because something was wrong with it.
fn is_invalid(row: &api::RowResult) -> bool {
    row.status() == api::RowStatus::InvalidParameters
}

/// The rows of a request. Where it leaves the seed to the server, it is taken from the answer.
fn rows(request: &SampleRequest, answer: &SampleResponse) -> Result<Vec<Asked>, RecheckError> {
    if answer.rows.iter().any(is_invalid) {
        let is_wrong = |row| answer.rows.get(row).is_some_and(is_invalid);
        let right = with_stand_ins(request.clone(), answer.rows.len(), is_wrong);
        return rows_of(&right, answer);
    }
    rows_of(request, answer)
}

fn rows_of(request: &SampleRequest, answer: &SampleResponse) -> Result<Vec<Asked>, RecheckError> {
    let dtype = wire::row::dtype(request.dtype).ok_or(RecheckError::Dtype(request.dtype))?;
    let logits = match &request.candidates {
        None => whole_rows(request, dtype)?,
        Some(given) => candidate_rows(request, given, dtype)?,
    };
    let count = logits.len();
    if request.params.len() > 1 && request.params.len() != count {
        return Err(RecheckError::Params { params: request.params.len(), rows: count });
    }
    let defaults = api::SamplingParams::default();
    let one = |(i, (logits, tokens)): (usize, (Bytes, Option<TokenList>))| {
        let params = match request.params.as_slice() {
            [] => &defaults,
            [same] => same,
            each => &each[i],
        };
        let used = answer.rows.get(i).map_or(0, |row| row.seed);
        let params = wire::params::spec(params)?.parse(|| used)?;
        let vocab_size = request.vocab_size;
        Ok(Asked { tokens, ..Asked::plain(dtype, logits, params, vocab_size) })
    };
    let mut rows: Vec<Asked> =
        logits.into_iter().enumerate().map(one).collect::<Result<_, RecheckError>>()?;
    adjust(request, &mut rows)?;
    inspect(request, &mut rows)?;
    Ok(rows)
}

/// Has the rows asked for what a request asks of them.
fn inspect(request: &SampleRequest, rows: &mut [Asked]) -> Result<(), RecheckError> {
    let given = inspection::Rows {
        count: rows.len(),
        vocab_size: request.vocab_size,
        params: &request.params,
        candidates: &rows.iter().filter_map(|row| row.tokens.clone()).collect::<Vec<_>>(),
    };
    // Of several errors the first is as good as any.
    let all = inspection::of_rows(given, inspection::Limits::NONE)
        .map_err(|mut errors| errors.swap_remove(0))?;
    rows.iter_mut().zip(all).for_each(|(row, asked)| row.inspected = asked);
    Ok(())
}

/// Gives the rows the adjustments that a request has of them. Limits are a server's; what it has answered was within.
fn adjust(request: &SampleRequest, rows: &mut [Asked]) -> Result<(), RecheckError> {
    let given = wire::adjustments::Rows {
        count: rows.len(),
        vocab_size: request.vocab_size,
        params: &request.params,
        parsed: &rows.iter().map(|row| row.params).collect::<Vec<_>>(),
        candidates: &rows.iter().filter_map(|row| row.tokens.clone()).collect::<Vec<_>>(),
    };
    let limits = Limits { history_tokens_max: usize::MAX, adjusted_tokens_max: usize::MAX };
    let all = wire::adjustments::of_rows(request.adjustments.clone(), given, limits);
    // Of several errors the first is as good as any.
    let all = all.map_err(|mut errors| errors.swap_remove(0))?;
    rows.iter_mut().zip(all).for_each(|(row, one)| row.adjustments = Some(one));
    Ok(())
}

type Logits = Vec<(Bytes, Option<TokenList>)>;

fn whole_rows(request: &SampleRequest, dtype: Dtype) -> Result<Logits, RecheckError> {
    let (bytes, size) = (request.logits.len(), dtype.size_bytes());
    let layout = RowLayout::of(bytes, request.vocab_size, request.row_stride, size);
    let row_bytes = request.vocab_size as usize * size;
    let layout = layout.ok_or(RecheckError::Length { bytes, row_bytes })?;
    let row = |row| (request.logits.slice(layout.row(row)), None);
    Ok((0..layout.rows).map(row).collect())
}

fn candidate_rows(
    request: &SampleRequest,
    given: &api::Candidates,
    dtype: Dtype,
) -> Result<Logits, RecheckError> {
    let (counts, tokens, logits) = (&given.counts, &given.tokens, &request.logits);
    let rows = candidates::rows(dtype, request.vocab_size, counts, tokens, logits);
    // Of several errors the first is as good as any.
    let rows = rows.map_err(|mut errors| errors.swap_remove(0))?;
    Ok(rows.into_iter().map(|row| (row.logits, Some(row.tokens))).collect())
}

/// The answer that a server with this backend would give, timings and device apart.
pub fn answer(
    backend: &mut dyn Backend,
    request: &SampleRequest,
    results: &mut Results,
) -> Result<SampleResponse, RecheckError> {
    let rows = rows(request, &SampleResponse::default())?;
    Ok(SampleResponse {
        rows: sampled(backend, &rows, results)?,
        arithmetic_version: arithmetic::VERSION,
        plane: match &request.candidates {
            None => api::Plane::Inline.into(),
            Some(_) => api::Plane::Candidates.into(),
        },
        ..Default::default()
    })
}

/// A row of candidates as a whole row, which has the same answer and says tokens by their ids; others as they are.
fn whole(request: &SampleRequest, asked: Asked, row_index: usize) -> Result<Asked, RecheckError> {
    let Asked { dtype, params, vocab_size, .. } = asked;
    let Some(tokens) = asked.tokens else { return Ok(asked) };
    let logits = CandidateRow { logits: asked.logits, tokens }.to_dense(dtype, vocab_size).into();
    let mut asked = Asked::plain(dtype, logits, params, vocab_size);
    let alone = SampleRequest {
        vocab_size,
        params: of_row(&request.params, row_index),
        adjustments: of_row(&request.adjustments, row_index),
        ..Default::default()
    };
    adjust(&alone, slice::from_mut(&mut asked))?;
    inspect(&alone, slice::from_mut(&mut asked))?;
    Ok(asked)
}

/// What a list, which has one for all rows or one a row, says of one row.
fn of_row<T: Clone>(list: &[T], row_index: usize) -> Vec<T> {
    let index = if list.len() > 1 { row_index } else { 0 };
    list.get(index).cloned().into_iter().collect()
}

/// The results of these rows, as an answer says them.
fn sampled(
    backend: &mut dyn Backend,
    asked: &[Asked],
    results: &mut Results,
) -> Result<Vec<api::RowResult>, RecheckError> {
    sample(backend, asked, results)?;
    Ok(asked.iter().zip(results.iter()).map(row_result).collect())
}

fn row_result((asked, result): (&Asked, RowResult<'_>)) -> api::RowResult {
    let ids = asked.inspected.as_ref().map_or(&[][..], |inspected| &inspected.ids);
    let names =
        asked.tokens.as_ref().map(|tokens| Names { tokens, vocab_size: asked.vocab_size, ids });
    wire::row::result_message(result, asked.params.seed(), names.as_ref())
}

pub(super) fn difference(row: usize, a: &api::RowResult, b: &api::RowResult) -> Option<Difference> {
    let logprob = |row: &api::RowResult| row.logprob.map(f32::to_bits);
    let draw = |draw: &api::Draw| (draw.token, draw.logprob.to_bits());
    let draws_differ = !a.draws.iter().map(draw).eq(b.draws.iter().map(draw));
    let (field, expected, got) = if a.status != b.status {
        ("status", a.status().as_str_name().into(), b.status().as_str_name().into())
    } else if a.kept != b.kept {
        ("kept", a.kept.to_string(), b.kept.to_string())
    } else if a.kept_mass != b.kept_mass {
        ("kept_mass", a.kept_mass.to_string(), b.kept_mass.to_string())
    } else if a.token != b.token {
        ("token", shown(a.token), shown(b.token))
    } else if logprob(a) != logprob(b) {
        ("logprob", shown_bits(a.logprob), shown_bits(b.logprob))
    } else if draws_differ {
        ("draws", shown_draws(&a.draws), shown_draws(&b.draws))
    } else if let Some(found) = state_difference(a, b) {
        found
    } else if let Some(found) = inspected::difference(a, b) {
        found
    } else if a.seed != b.seed {
        ("seed", a.seed.to_string(), b.seed.to_string())
    } else {
        return None;
    };
    Some(Difference { within: None, row, field, expected, got })
}

/// What is different in what two answers give back to the row's sequence.
fn state_difference(
    a: &api::RowResult,
    b: &api::RowResult,
) -> Option<(&'static str, String, String)> {
    let parts = [
        ("mirostat_mu", a.mirostat_mu, b.mirostat_mu),
        ("adaptive_sum", a.adaptive_sum, b.adaptive_sum),
        ("adaptive_weight", a.adaptive_weight, b.adaptive_weight),
    ];
    let differ = |a: Option<f32>, b: Option<f32>| a.map(f32::to_bits) != b.map(f32::to_bits);
    let found = parts.into_iter().find(|&(_, a, b)| differ(a, b));
    found.map(|(name, a, b)| (name, shown_bits(a), shown_bits(b)))
}

fn shown_draws(draws: &[api::Draw]) -> String {
    let one = |draw: &api::Draw| format!("{} {}", draw.token, shown_bits(Some(draw.logprob)));
    draws.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use logitd_core::backend::reference::Reference;

    fn request() -> SampleRequest {
        let logits: Vec<u8> =
            (0..3 * 16).flat_map(|i| (i as f32 * 0.3).sin().to_le_bytes()).collect();
        let params =
            |draws, seed| api::SamplingParams { draws: Some(draws), seed, ..Default::default() };
        let logprobs = Some(api::Logprobs { of: vec![1, 2, 3], top: 4, ids: vec![9, 0] });
        SampleRequest {
            dtype: api::Dtype::F32.into(),
            vocab_size: 16,
            logits: logits.into(),
            params: vec![
                params(1, Some(5)),
                api::SamplingParams { logprobs, return_kept: true, ..params(3, Some(6)) },
                params(1, None),
            ],
            ..Default::default()
        }
    }

    fn check(answer: &SampleResponse) -> Result<Vec<Difference>, RecheckError> {
        recheck(&mut Reference::default(), &request(), answer, &mut Results::default())
    }

    fn right() -> SampleResponse {
        let mut answer =
            answer(&mut Reference::default(), &request(), &mut Results::default()).unwrap();
        // As if the server had taken a seed from the operating system.
        answer.rows[2].seed = 77;
        let mut seeded = request();
        seeded.params[2].seed = Some(77);
        let third = self::answer(&mut Reference::default(), &seeded, &mut Results::default());
        answer.rows[2] = third.unwrap().rows[2].clone();
        answer
    }

    #[test]
    fn an_answer_with_fewer_rows_differs_in_none_of_them() {
        let mut wrong = right();
        wrong.rows.pop();
        let found = check(&wrong).unwrap();
        assert_eq!(found[0].field, "rows");
        let replayed = request().replayable(&mut Reference::default(), &wrong, &found[0]);
        assert_eq!(replayed.err(), Some(RecheckError::NoRow));
    }

    #[test]
    fn a_right_answer_has_no_difference() {
        assert_eq!(check(&right()), Ok(vec![]));
    }

    #[test]
    fn kept_tokens_may_be_a_list_or_a_mask() {
        let mut answer = right();
        let mask = answer.rows[1].kept_ids.drain(..).fold(0u32, |mask, id| mask | 1 << id);
        answer.rows[1].kept_bitmask = Bytes::copy_from_slice(&mask.to_le_bytes());
        assert_eq!(check(&answer), Ok(vec![]));
        answer.rows[1].kept_bitmask = Bytes::copy_from_slice(&(mask ^ 4).to_le_bytes());
        assert_eq!(check(&answer).unwrap()[0].field, "kept_ids");
    }

    #[test]
    fn an_answer_of_version_1_is_checked_as_one_of_today() {
        let old = SampleResponse { arithmetic_version: 1, ..right() };
        assert_eq!(check(&old), Ok(vec![]));
        let mut wrong = old;
        wrong.rows[0].kept += 1;
        assert_eq!(check(&wrong).unwrap().len(), 1);
    }

    #[test]
    fn every_wrong_field_is_found_in_its_row() {
        type Fault = (&'static str, usize, fn(&mut SampleResponse));
        let faults: [Fault; 19] = [
            ("token", 0, |a| a.rows[0].token = a.rows[0].token.map(|token| token ^ 1)),
            ("token", 2, |a| a.rows[2].token = None),
            ("logprob", 1, |a| {
                a.rows[1].logprob = a.rows[1].logprob.map(|x| f32::from_bits(x.to_bits() ^ 1));
            }),
            ("kept", 2, |a| a.rows[2].kept += 1),
            ("kept_mass", 0, |a| a.rows[0].kept_mass += 1),
            ("status", 1, |a| a.rows[1].status = api::RowStatus::Nan.into()),
            ("draws", 1, |a| a.rows[1].draws[2].token ^= 1),
            ("draws", 0, |a| a.rows[0].draws.push(api::Draw::default())),
            ("seed", 0, |a| a.rows[0].seed += 1),
            ("mirostat_mu", 0, |a| a.rows[0].mirostat_mu = Some(f32::NAN)),
            ("adaptive_sum", 1, |a| a.rows[1].adaptive_sum = Some(0.0)),
            ("adaptive_weight", 2, |a| a.rows[2].adaptive_weight = Some(-0.0)),
            ("logprobs", 1, |a| a.rows[1].logprobs[2].top.as_mut().unwrap().ranks[1] += 1),
            ("logprobs", 1, |a| {
                let drawn = a.rows[1].logprobs[0].drawn.as_mut().unwrap();
                drawn.logprobs[2] = drawn.logprobs[2].next_down();
            }),
            ("logprobs", 1, |a| a.rows[1].logprobs[1].entropy += 1e-6),
            ("logprobs", 1, |a| drop(a.rows[1].logprobs.pop())),
            ("logprobs", 0, |a| a.rows[0].logprobs.push(Default::default())),
            ("kept_ids", 1, |a| a.rows[1].kept_ids.truncate(3)),
            ("kept_ids", 1, |a| (a.rows[1].kept_ids[0], a.rows[1].kept_ids[1]) = (1, 0)),
        ];
        for (field, row, spoil) in faults {
            let mut answer = right();
            spoil(&mut answer);
            let found = check(&answer).unwrap();
            assert_eq!(found.len(), 1, "{field}: {found:?}");
            assert_eq!((found[0].field, found[0].row), (field, row));
        }
    }

    /// Two rows of candidates, in no order.
    fn sparse() -> SampleRequest {
        let le = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let candidates = api::Candidates { counts: le(&[3, 2]), tokens: le(&[9, 4, 11, 700, 2]) };
        let params = api::SamplingParams { top_k: 2, seed: Some(5), ..Default::default() };
        SampleRequest {
            dtype: api::Dtype::F32.into(),
            vocab_size: 1000,
            logits: [0.5f32, 2.0, 1.5, 1.0, 1.5].iter().flat_map(|x| x.to_le_bytes()).collect(),
            params: vec![params],
            candidates: Some(candidates),
            ..Default::default()
        }
    }

    #[test]
    fn candidates_are_checked_by_their_tokens_and_replayed_as_whole_rows() {
        let (mut backend, mut results) = (Reference::default(), Results::default());
        let mut answer = answer(&mut backend, &sparse(), &mut results).unwrap();
        assert_eq!(answer.plane(), api::Plane::Candidates);
        let token = answer.rows[1].token.unwrap();
        assert!([2, 700].contains(&token), "{token}");
        assert_eq!(recheck(&mut backend, &sparse(), &answer, &mut results), Ok(vec![]));

        answer.rows[1].token = Some(702 - token);
        let found = recheck(&mut backend, &sparse(), &answer, &mut results).unwrap();
        assert_eq!((found.len(), found[0].row, found[0].field), (1, 1, "token"));
        let at = Difference { row: 1, ..found[0].clone() };
        let replay = sparse().replayable(&mut backend, &answer, &at).unwrap();
        assert_eq!(replay.logits.len(), 4 * 1000);
        assert_eq!(replay.logits[4 * 700..][..4], 1.0f32.to_le_bytes());
        let (ours, theirs) = (replay.a.unwrap(), replay.b.unwrap());
        assert_eq!((ours.draws[0].token, theirs.draws[0].token), (token, 702 - token));
        assert_eq!(ours.outcome, theirs.outcome);

        // A bias, and logprobs, are those of the same tokens.
        let logit_bias = vec![api::TokenBias { token: 700, bias: 3.5 }];
        let logprobs = api::Logprobs {
            of: vec![api::LogprobsOf::Sampled.into()],
            ids: vec![700],
            ..Default::default()
        };
        let mut biased = sparse();
        biased.params[0].logprobs = Some(logprobs);
        biased.adjustments = vec![
            api::Adjustments::default(),
            api::Adjustments { logit_bias, ..Default::default() },
        ];
        let mut answer = super::answer(&mut backend, &biased, &mut results).unwrap();
        answer.rows[1].kept_mass = 1;
        let replay = biased.replayable(&mut backend, &answer, &at).unwrap();
        let (ours, theirs) = (replay.a.unwrap(), replay.b.unwrap());
        assert_eq!((&ours.draws, &ours.inspection), (&theirs.draws, &theirs.inspection));
        assert!(ours.inspection.is_some() && replay.adjustments.is_some());

        let mut wrong = sparse();
        wrong.candidates.as_mut().unwrap().tokens = bytes::Bytes::from_static(&[0; 20]);
        let error = recheck(&mut backend, &wrong, &answer, &mut results).unwrap_err();
        assert!(error.to_string().contains("token 0 twice"), "{error}");
    }

    #[test]
    fn a_missing_row_and_another_arithmetic_are_said() {
        let mut answer = right();
        answer.rows.pop();
        assert_eq!(check(&answer).unwrap()[0].field, "rows");
        answer.arithmetic_version = 9;
        let error = check(&answer).unwrap_err();
        assert_eq!(error, RecheckError::ArithmeticVersion { ours: arithmetic::VERSION, theirs: 9 });
    }
}
