//! Sequences and groups whose answers are right, and with every field of them wrong.

pub(crate) use super::beam::answer as stepped;
pub(crate) use super::verify::answer as verified;
use super::{Difference, Recheck, RecheckError, Within, beam, verify};
use logitd_core::backend::reference::Reference;
use logitd_core::batch::Results;
use logitd_proto::{self as api, BeamStepRequest, BeamStepResponse, VerifyRequest, VerifyResponse};

const VOCAB_SIZE: u32 = 16;

fn logits(rows: usize) -> bytes::Bytes {
    let logit = |i: usize| ((i * i) as f32 * 0.3).sin() * 3.0;
    (0..rows * VOCAB_SIZE as usize).flat_map(|i| logit(i).to_le_bytes()).collect()
}

fn distribution(kind: api::draft_distribution::Kind) -> api::DraftDistribution {
    api::DraftDistribution { kind: Some(kind) }
}

/// A chain of each mode, with every kind of distribution, a tree, and a sequence that leaves its seed to the server.
fn verify_request() -> VerifyRequest {
    use api::draft_distribution::Kind;
    let params = |seed| Some(api::SamplingParams { seed, ..Default::default() });
    let logprobs = Some(api::Logprobs { of: vec![1, 3], top: 2, ids: vec![9] });
    let asking = api::SamplingParams { seed: Some(2), logprobs, ..Default::default() };
    let weights = api::SparseDraft { tokens: vec![3, 1], weights: vec![5, 9] };
    let dense = api::DenseDraft { probabilities: vec![0.0625; VOCAB_SIZE as usize] };
    let row = api::LogitsDraft { row: 18, ..Default::default() };
    let kinds = vec![
        distribution(Kind::Sparse(weights)),
        distribution(Kind::Dense(dense)),
        distribution(Kind::Logits(Box::new(row))),
        api::DraftDistribution::default(),
    ];
    let banned = api::Adjustments { banned_ids: vec![4], ..Default::default() };
    let chain = |mode: api::VerifyMode, seed| api::DraftedSequence {
        mode: mode.into(),
        drafts: vec![0; 2],
        params: params(seed),
        ..Default::default()
    };
    VerifyRequest {
        dtype: api::Dtype::F32.into(),
        vocab_size: VOCAB_SIZE,
        logits: logits(19),
        sequences: vec![
            api::DraftedSequence {
                params: Some(asking),
                adjustments: Some(banned),
                ..chain(api::VerifyMode::Match, None)
            },
            api::DraftedSequence {
                drafts: vec![1, 5, 7, 2],
                distributions: kinds,
                ..chain(api::VerifyMode::Rejection, Some(3))
            },
            chain(api::VerifyMode::Typical, None),
            api::DraftedSequence {
                drafts: (0..6).collect(),
                parents: vec![0, 0, 0, 0, 0, 0],
                ..chain(api::VerifyMode::Match, Some(0))
            },
        ],
        ..Default::default()
    }
}

/// Right, with drafts that some rows take.
fn right() -> (VerifyRequest, VerifyResponse) {
    let mut request = verify_request();
    let drawn = verify::answer(&mut Reference::default(), &request, 77);
    for (sequence, drawn) in request.sequences.iter_mut().zip(&drawn.sequences) {
        sequence.drafts[0] = drawn.tokens[0];
    }
    let answer = verify::answer(&mut Reference::default(), &request, 77);
    let accepted: Vec<u32> = answer.sequences.iter().map(|one| one.accepted).collect();
    assert!(accepted[0] > 0 && accepted[3] > 0, "{accepted:?}");
    (request, answer)
}

fn check<M: Recheck>(request: &M, answer: &M::Answer) -> Result<Vec<Difference>, RecheckError> {
    request.recheck(&mut Reference::default(), answer, &mut Results::default())
}

#[test]
fn right_answers_have_no_difference_and_seeds_come_from_the_answer() {
    let (request, answer) = right();
    assert_eq!(check(&request, &answer), Ok(vec![]));
    let seeded = request.seeded(&answer);
    let seeds: Vec<_> = seeded.sequences.iter().map(|one| one.params.as_ref()?.seed).collect();
    assert_eq!(seeds, [Some(2), Some(3), Some(77), Some(0)]);
    assert_eq!(verify::answer(&mut Reference::default(), &seeded, 5), answer);
    assert_eq!(check(&steps(), &right_steps()), Ok(vec![]));
}

#[test]
fn every_wrong_field_of_a_sequence_is_found_with_its_row() {
    let (request, answer) = right();
    type Fault = (&'static str, usize, usize, fn(&mut VerifyResponse));
    let flip = |x: f32| f32::from_bits(x.to_bits() ^ 1);
    assert_ne!(flip(0.5), 0.5);
    let faults: [Fault; 10] = [
        ("tokens", 0, 0, |a| a.sequences[0].tokens[0] ^= 1),
        ("tokens", 1, 0, |a| a.sequences[1].tokens[0] ^= 1),
        ("tokens", 2, 0, |a| drop(std::mem::take(&mut a.sequences[2].tokens))),
        // The row of the node that the first draft is.
        ("tokens", 3, 1, |a| a.sequences[3].tokens[1] ^= 1),
        ("accepted", 0, 1, |a| a.sequences[0].accepted += 1),
        ("status", 0, 2, |a| a.sequences[0].status = api::RowStatus::Nan.into()),
        ("logprobs", 2, 0, |a| {
            let first = &mut a.sequences[2].logprobs[0];
            *first = f32::from_bits(first.to_bits() ^ 1);
        }),
        ("path", 3, 0, |a| a.sequences[3].path[0] += 1),
        ("logprobs", 0, 1, |a| a.sequences[0].rows[1].logprobs[1].entropy += 1e-6),
        ("seed", 0, 0, |a| a.sequences[0].seed += 1),
    ];
    for (field, sequence, row, spoil) in faults {
        let mut wrong = answer.clone();
        spoil(&mut wrong);
        let found = check(&request, &wrong).unwrap();
        assert_eq!(found.len(), 1, "{field}: {found:?}");
        let expected = (Some(Within::Sequence(sequence)), field);
        assert_eq!((found[0].within, found[0].field), expected, "{found:?}");
        if field != "status" {
            assert_eq!(found[0].row, row, "{found:?}");
        }
        let text = found[0].to_string();
        assert!(text.starts_with(&format!("sequence {sequence}, row ")), "{text}");
        assert_eq!(VerifyRequest::differences(&answer, &wrong), found);
    }
    let mut wrong = answer.clone();
    wrong.sequences.pop();
    let found = check(&request, &wrong).unwrap();
    assert_eq!(found[0].field, "sequences");
    let replayed = request.replayable(&mut Reference::default(), &wrong, &found[0]);
    assert_eq!(replayed.err(), Some(RecheckError::NoRow));
    wrong.arithmetic_version = 9;
    assert!(matches!(check(&request, &wrong), Err(RecheckError::ArithmeticVersion { .. })));
}

#[test]
fn a_row_with_a_draft_is_replayed_with_it() {
    let (request, mut answer) = right();
    answer.sequences[1].tokens[0] ^= 1;
    let found = check(&request, &answer).unwrap().remove(0);
    let replayed = request.replayable(&mut Reference::default(), &answer, &found).unwrap();
    assert_eq!(replayed.draft.unwrap().token, request.sequences[1].drafts[0]);
    assert_eq!(replayed.logits, request.logits[3 * 64..4 * 64]);
    assert_eq!((replayed.params.seed(), replayed.b), (3, None));
    let drawn = replayed.a.unwrap().draws[0].token;
    assert_eq!(drawn, answer.sequences[1].tokens[0] ^ 1);
}

/// Two groups, one of whose rows has none of its tokens.
fn steps() -> BeamStepRequest {
    let mut logits = logits(4).to_vec();
    logits[2 * 64..3 * 64].as_chunks_mut().0.fill(f32::NAN.to_le_bytes());
    let group = |scores: &[i64]| api::BeamGroup {
        scores: scores.to_vec(),
        beams: 2,
        eos_ids: vec![3],
        ..Default::default()
    };
    BeamStepRequest {
        dtype: api::Dtype::F32.into(),
        vocab_size: VOCAB_SIZE,
        logits: logits.into(),
        groups: vec![group(&[0, -1 << 32]), group(&[-7, -9])],
        ..Default::default()
    }
}

fn right_steps() -> BeamStepResponse {
    beam::answer(&mut Reference::default(), &steps())
}

#[test]
fn every_wrong_field_of_a_group_is_found_with_its_row() {
    type Fault = (&'static str, usize, fn(&mut BeamStepResponse));
    let faults: [Fault; 6] = [
        ("statuses", 1, |a| a.groups[1].statuses[0] = api::RowStatus::Ok.into()),
        ("candidates", 0, |a| a.groups[0].candidates.as_mut().unwrap().scores[1] += 1),
        ("candidates", 1, |a| a.groups[1].candidates.as_mut().unwrap().tokens.truncate(1)),
        ("running", 1, |a| a.groups[1].running.as_mut().unwrap().tokens[0] ^= 1),
        ("running", 0, |a| a.groups[0].running = None),
        ("finished", 0, |a| a.groups[0].finished.get_or_insert_default().beams.push(0)),
    ];
    for (field, group, spoil) in faults {
        let mut wrong = right_steps();
        spoil(&mut wrong);
        let found = check(&steps(), &wrong).unwrap();
        assert_eq!(found.len(), 1, "{field}: {found:?}");
        assert_eq!((found[0].within, found[0].field), (Some(Within::Group(group)), field));
        let replayed = steps().replayable(&mut Reference::default(), &wrong, &found[0]).unwrap();
        let at = (group * 2 + found[0].row) * 64;
        assert_eq!(replayed.logits, steps().logits[at..at + 64]);
    }
    let mut wrong = right_steps();
    wrong.groups.pop();
    let found = check(&steps(), &wrong).unwrap();
    assert_eq!(found[0].field, "groups");
    let replayed = steps().replayable(&mut Reference::default(), &wrong, &found[0]);
    assert_eq!(replayed.err(), Some(RecheckError::NoRow));
}

#[test]
fn requests_that_no_server_answers_are_not_checked() {
    let (mut request, answer) = right();
    request.sequences[1].drafts[2] = 99;
    let error = check(&request, &answer).unwrap_err().to_string();
    assert!(
        error.starts_with("sequences[1].drafts[2]: drafts is 99; allowed: below 16"),
        "{error}"
    );
    let mut step = steps();
    step.groups[0].beams = 0;
    let error = check(&step, &right_steps()).unwrap_err().to_string();
    assert!(error.starts_with("groups[0].beams: beams is 0"), "{error}");
}

/// The paths to its nodes would be two thousand million tokens.
#[test]
fn a_tree_that_no_server_takes_is_refused_before_its_paths_are_made() {
    let (_, answer) = right();
    let drafts = 1 << 16;
    let tree = api::DraftedSequence {
        drafts: vec![0; drafts],
        parents: (0..drafts as u32).collect(),
        ..Default::default()
    };
    let request = VerifyRequest {
        dtype: api::Dtype::F32.into(),
        vocab_size: 1,
        logits: vec![0; 4 * (drafts + 1)].into(),
        sequences: vec![tree],
        ..Default::default()
    };
    let backend = &mut Reference::default();
    let refused = request.recheck(backend, &answer, &mut Results::default()).unwrap_err();
    assert!(refused.to_string().contains("a tree of 1024 drafts or more"), "{refused}");
}
