//! `Verify` over the API: the tokens of decoding without drafts, what the reference says in the other modes, every plane,
//! bounds, and refusals by name.

use crate::harness::backends::Gated;
use crate::harness::{OnThisHost, TestServer, cpu, logits, until};
use bytes::Bytes;
use half::f16;
use logitd::wire;
use logitd_client::{Client, Error, Region};
use logitd_core::backend::{Backend, reference::Reference};
use logitd_core::batch::{Dtype as RowDtype, Results, Row};
use logitd_core::params::{ParamsSpec, SamplingParams as Params};
use logitd_core::row::{Draft, Proposal, Rule, Source, Typical};
use logitd_core::verify;
use logitd_proto::draft_distribution::Kind;
use logitd_proto::{
    Adjustments, DenseDraft, DraftDistribution, DraftedSequence, Dtype, History, LogitsDraft,
    Logprobs, Plane, RowStatus, SampleRequest, SamplingParams, SparseDraft, VerifiedSequence,
    VerifyMode, VerifyRequest,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use tonic::Code;

const VOCAB_SIZE: usize = 97;
const ROW_BYTES: usize = VOCAB_SIZE * 2;

/// Parameters whose draws depend on position and history.
fn params(seed: u64) -> SamplingParams {
    SamplingParams {
        temperature: Some(0.9),
        top_k: 20,
        seed: Some(seed),
        position: 5,
        repetition_penalty: Some(1.3),
        no_repeat_ngram: 2,
        min_tokens: 4,
        ..Default::default()
    }
}

fn of_sequence() -> Adjustments {
    Adjustments {
        stop_ids: vec![3, 50],
        prompt: vec![1, 2, 9],
        output: vec![8, 7],
        ..Default::default()
    }
}

fn row(all: &Bytes, place: usize) -> Bytes {
    all.slice(place * ROW_BYTES..(place + 1) * ROW_BYTES)
}

/// What `Sample` says of a row of a sequence behind these tokens.
async fn sampled(
    client: &Client,
    logits: Bytes,
    sequence: &DraftedSequence,
    behind: &[u32],
) -> (u32, f32) {
    let mut params = sequence.params.clone().unwrap();
    params.position += behind.len() as u64;
    let mut adjustments = sequence.adjustments.clone().unwrap_or_default();
    adjustments.output.extend(behind);
    let request = SampleRequest {
        dtype: Dtype::F16.into(),
        vocab_size: VOCAB_SIZE as u32,
        logits,
        params: vec![params],
        adjustments: vec![adjustments],
        ..Default::default()
    };
    let row = client.sample(request).await.unwrap().rows.remove(0);
    (row.token.unwrap(), row.logprob.unwrap())
}

/// Sequences of so many drafts, of which the first are what is sampled anyway; and what is wanted of them, which is what
/// `Sample` says step by step.
async fn matching(client: &Client) -> (VerifyRequest, Vec<(usize, Vec<(u32, f32)>)>) {
    let lengths = [(0, 0), (1, 0), (3, 3), (5, 2), (1, 1), (64, 64), (7, 0)];
    let rows = lengths.iter().map(|(drafts, _)| drafts + 1).sum();
    let all = logits(rows, VOCAB_SIZE, 11);
    let (mut sequences, mut wanted, mut first) = (vec![], vec![], 0);
    for (i, &(drafts, right)) in lengths.iter().enumerate() {
        let mut sequence = DraftedSequence {
            params: Some(params(i as u64)),
            adjustments: (i % 2 == 0).then(of_sequence),
            rows: Some(drafts as u32 + 1),
            ..Default::default()
        };
        let mut said: Vec<(u32, f32)> = vec![];
        for place in 0..=right {
            let behind: Vec<u32> = said.iter().map(|(token, _)| *token).collect();
            said.push(sampled(client, row(&all, first + place), &sequence, &behind).await);
        }
        let taken = said[..right].iter().map(|(token, _)| *token);
        let others = (0..VOCAB_SIZE as u32).filter(|token| *token != said[right].0);
        sequence.drafts = taken.chain(others).take(drafts).collect();
        sequences.push(sequence);
        wanted.push((right, said));
        first += drafts + 1;
    }
    let request = VerifyRequest {
        dtype: Dtype::F16.into(),
        vocab_size: VOCAB_SIZE as u32,
        logits: all,
        rows: Some(rows as u32),
        sequences,
        ..Default::default()
    };
    (request, wanted)
}

fn is(sequences: &[VerifiedSequence], wanted: &[(usize, Vec<(u32, f32)>)]) {
    assert_eq!(sequences.len(), wanted.len());
    for (sequence, (accepted, said)) in sequences.iter().zip(wanted) {
        assert_eq!((sequence.status(), sequence.accepted), (RowStatus::Ok, *accepted as u32));
        let bits = |logprobs: &[f32]| logprobs.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        let (tokens, logprobs): (Vec<u32>, Vec<f32>) = said.iter().copied().unzip();
        assert_eq!((&sequence.tokens, bits(&sequence.logprobs)), (&tokens, bits(&logprobs)));
        assert!(sequence.path.is_empty() && sequence.rows.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn matching_drafts_give_the_tokens_of_decoding_without_them() {
    let server = TestServer::start(&[]).await;
    let client = server.client().await;
    let (request, wanted) = matching(&client).await;
    let response = client.verify(request.clone()).await.unwrap();
    is(&response.sequences, &wanted);
    assert_eq!((response.device.as_str(), response.plane()), ("reference", Plane::Inline));
    let seeds: Vec<u64> = response.sequences.iter().map(|sequence| sequence.seed).collect();
    assert_eq!(seeds, (0..7).collect::<Vec<_>>());
    // Many on a stream.
    let mut stream = client.verify_stream().await.unwrap();
    for _ in 0..3 {
        stream.send(request.clone()).await.unwrap();
    }
    stream.send(VerifyRequest { sequences: vec![], ..request }).await.unwrap();
    for _ in 0..4 {
        match stream.receive().await.unwrap().unwrap() {
            (3, refused) => {
                assert!(refused.unwrap_err().to_string().contains("sequences is empty"));
            }
            (_, response) => is(&response.unwrap().sequences, &wanted),
        }
    }
    server.idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_named_in_any_order_and_may_lie_apart() {
    let server = TestServer::start(&[]).await;
    let client = server.client().await;
    let (mut request, mut wanted) = matching(&client).await;
    // Backwards, with padding that is never looked at.
    let mut first = 0;
    for sequence in &mut request.sequences {
        sequence.first_row = Some(first);
        first += sequence.drafts.len() as u32 + 1;
    }
    request.sequences.reverse();
    wanted.reverse();
    let padded = request.logits.chunks(ROW_BYTES).flat_map(|row| [row, &[0xff; 6]].concat());
    (request.logits, request.row_stride) = (padded.collect(), VOCAB_SIZE as u32 + 3);
    is(&client.verify(request.clone()).await.unwrap().sequences, &wanted);
    // The same rows for two sequences.
    let twice = request.sequences[0].clone();
    request.sequences.push(twice);
    wanted.push(wanted[0].clone());
    is(&client.verify(request).await.unwrap().sequences, &wanted);
    server.idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_walk_ends_at_a_row_without_a_token() {
    let server = TestServer::start(&[]).await;
    let client = server.client().await;
    let (mut request, mut wanted) = matching(&client).await;
    // The third of the third sequence's four rows.
    let place = 1 + 2 + 2;
    let mut bytes = request.logits.to_vec();
    bytes[place * ROW_BYTES..][..2].copy_from_slice(&half::f16::NAN.to_le_bytes());
    request.logits = bytes.into();
    let mut response = client.verify(request).await.unwrap();
    let ended = response.sequences.remove(2);
    let (_, said) = wanted.remove(2);
    assert_eq!((ended.status(), ended.accepted), (RowStatus::Nan, 2));
    assert_eq!(ended.tokens, [said[0].0, said[1].0]);
    is(&response.sequences, &wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn results_of_rows_come_where_they_are_asked_for() {
    let server = TestServer::start(&[]).await;
    let client = server.client().await;
    let (mut request, wanted) = matching(&client).await;
    let params = request.sequences[2].params.as_mut().unwrap();
    params.logprobs = Some(Logprobs { of: vec![1, 3], top: 2, ids: vec![4] });
    params.return_kept = true;
    let response = client.verify(request).await.unwrap();
    let (sequence, said) = (&response.sequences[2], &wanted[2].1);
    assert_eq!(sequence.rows.len(), said.len());
    for (row, (token, logprob)) in sequence.rows.iter().zip(said) {
        assert_eq!((row.token, row.logprob), (Some(*token), Some(*logprob)));
        assert_eq!(row.logprobs[1].drawn.as_ref().unwrap().tokens, [*token]);
        assert_eq!(row.logprobs[0].top.as_ref().unwrap().tokens.len(), 2);
        assert!(row.kept_ids.contains(token));
    }
    assert!(response.sequences[3].rows.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_allowed_may_differ_from_row_to_row() {
    let server = TestServer::start(&[]).await;
    let client = server.client().await;
    let only = |token: u32| Adjustments { allowed_ids: vec![token], ..Default::default() };
    let sequence = DraftedSequence {
        drafts: vec![30, 31],
        row_adjustments: vec![only(30), only(31), only(32)],
        ..Default::default()
    };
    let request = VerifyRequest {
        dtype: Dtype::F16.into(),
        vocab_size: VOCAB_SIZE as u32,
        logits: logits(3, VOCAB_SIZE, 2),
        sequences: vec![sequence],
        ..Default::default()
    };
    let response = client.verify(request.clone()).await.unwrap();
    assert_eq!(response.sequences[0].tokens, [30, 31, 32]);
    // A token has to be allowed by the sequence too.
    let mut request = request;
    let banned = Adjustments { banned_ids: vec![31], ..Default::default() };
    request.sequences[0].adjustments = Some(banned);
    let response = client.verify(request).await.unwrap();
    let sequence = &response.sequences[0];
    assert_eq!((sequence.status(), &sequence.tokens[..]), (RowStatus::NoCandidate, &[30][..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn trees_are_walked_from_their_roots() {
    let server = TestServer::start(&[]).await;
    let client = server.client().await;
    let all = logits(6, VOCAB_SIZE, 21);
    let mut sequence = DraftedSequence {
        params: Some(params(3)),
        adjustments: Some(of_sequence()),
        ..Default::default()
    };
    let root = sampled(&client, row(&all, 0), &sequence, &[]).await;
    let second = sampled(&client, row(&all, 3), &sequence, &[root.0]).await;
    let third = sampled(&client, row(&all, 4), &sequence, &[root.0, second.0]).await;
    let other = (root.0 + 1) % VOCAB_SIZE as u32;
    // Node 1 is wrong and node 2 hangs under it; node 3 is right, 4 and 5 below it are right: the first counts.
    sequence.drafts = vec![other, second.0, root.0, second.0, second.0];
    sequence.parents = vec![0, 1, 0, 3, 3];
    let request = VerifyRequest {
        dtype: Dtype::F16.into(),
        vocab_size: VOCAB_SIZE as u32,
        logits: all,
        sequences: vec![sequence],
        ..Default::default()
    };
    let response = client.verify(request).await.unwrap();
    let verified = &response.sequences[0];
    assert_eq!((verified.accepted, &verified.path[..]), (2, &[3, 4][..]));
    assert_eq!(verified.tokens, [root.0, second.0, third.0]);
    assert_eq!(verified.logprobs, [root.1, second.1, third.1]);
}

/// A row that stands for a draft's.
#[derive(Debug)]
struct DraftRow(Bytes, Params);

impl Source for DraftRow {
    fn row(&self) -> Row<'_> {
        Row::new(RowDtype::F16, &self.0, self.1).unwrap()
    }
}

/// What the reference says of a chain whose drafts these rules decide about, without a history.
fn decided(all: &Bytes, spec: ParamsSpec, drafts: &[u32], rules: &[Rule]) -> VerifiedSequence {
    let params = spec.parse(|| unreachable!("tests give seeds")).unwrap();
    let drafted: Vec<Draft> = drafts
        .iter()
        .zip(rules)
        .map(|(&token, rule)| Draft { token, rule: rule.clone() })
        .collect();
    let rows: Vec<Row<'_>> = (0..=drafts.len())
        .map(|place| {
            let params = params.with_position(params.position() + place as u64);
            let logits = &all[place * ROW_BYTES..][..ROW_BYTES];
            Row::new(RowDtype::F16, logits, params).unwrap().with_draft(drafted.get(place))
        })
        .collect();
    let mut results = Results::default();
    Reference::default().sample(&rows, &mut results).unwrap();
    let verified = verify::chain(drafts, |place| results.row(place));
    let result = |place| results.row(place);
    wire::verify::message(&verified, params.seed(), None, result, None)
}

/// The tokens of a row, the likeliest first.
fn ranked(row: &Bytes) -> Vec<u32> {
    let logit = |token: &u32| {
        let at = *token as usize * 2;
        f16::from_le_bytes([row[at], row[at + 1]])
    };
    let mut tokens: Vec<u32> = (0..VOCAB_SIZE as u32).collect();
    tokens.sort_by(|a, b| logit(b).total_cmp(&logit(a)));
    tokens
}

/// Requests in the other modes, with distributions of every kind, and what the reference says of each.
fn decided_requests() -> Vec<(VerifyRequest, VerifiedSequence)> {
    let mut all_requests = vec![];
    let mut decided_by = BTreeMap::<&str, [usize; 2]>::new();
    for salt in 0..60 {
        // Three rows of the target, and one of the draft behind them.
        let all = logits(4, VOCAB_SIZE, 100 + salt);
        let spec = ParamsSpec { top_k: 9, seed: Some(salt), position: salt, ..Default::default() };
        let drafted = ParamsSpec { temperature: 1.5, ..ParamsSpec::default() };
        // Likely tokens, and now and then one that is not.
        let likely = |place: usize, rank: u64| match rank {
            0..3 => ranked(&row(&all, place))[rank as usize],
            _ => (salt as u32 * 31) % VOCAB_SIZE as u32,
        };
        let drafts = [likely(0, salt / 3 % 4), likely(1, salt % 4)];
        let weights = SparseDraft { tokens: vec![drafts[1], 96, 0], weights: vec![5, 2, 1] };
        let weights = match drafts[1] {
            0 | 96 => SparseDraft { tokens: vec![drafts[1]], weights: vec![7] },
            _ => weights,
        };
        let dense: Vec<f32> = (0..VOCAB_SIZE).map(|token| token as f32 / 4656.0).collect();
        let logits_draft = LogitsDraft {
            row: 3,
            params: Some(wire::params::message(&drafted)),
            ..Default::default()
        };
        let first = [
            None,
            Some(Kind::Logits(Box::new(logits_draft))),
            Some(Kind::Dense(DenseDraft { probabilities: dense.clone() })),
        ];
        let first = first[salt as usize % 3].clone();
        let second = Kind::Sparse(weights.clone());
        let parsed = drafted.parse(|| 0).unwrap().with_seed(salt).with_position(salt);
        let proposals = [
            match salt % 3 {
                0 => Proposal::Point,
                1 => Proposal::Row(Arc::new(DraftRow(row(&all, 3), parsed))),
                _ => Proposal::Dense(dense),
            },
            verify::drafts::sparse(weights.tokens, weights.weights, VOCAB_SIZE as u32).unwrap(),
        ];
        let typical = Typical { epsilon: 0.03, delta: 0.5 };
        for mode in [VerifyMode::Rejection, VerifyMode::Typical] {
            let is_typical = mode == VerifyMode::Typical;
            let rows = if salt % 3 == 1 && !is_typical { 4 } else { 3 };
            let distributions = [first.clone(), Some(second.clone())];
            let distributions = distributions.map(|kind| DraftDistribution { kind }).to_vec();
            let sequence = DraftedSequence {
                mode: mode.into(),
                drafts: drafts.to_vec(),
                params: Some(wire::params::message(&spec)),
                distributions: if is_typical { vec![] } else { distributions },
                typical_epsilon: is_typical.then_some(typical.epsilon),
                typical_delta: is_typical.then_some(typical.delta),
                ..Default::default()
            };
            let request = VerifyRequest {
                dtype: Dtype::F16.into(),
                vocab_size: VOCAB_SIZE as u32,
                logits: all.slice(..rows * ROW_BYTES),
                sequences: vec![sequence],
                ..Default::default()
            };
            let rules = match is_typical {
                true => vec![Rule::Typical(typical); 2],
                false => proposals.clone().map(Rule::Rejection).to_vec(),
            };
            let wanted = decided(&all, spec, &drafts, &rules);
            let kinds = match is_typical {
                true => ["typical"; 2],
                false => [["point", "logits", "dense"][salt as usize % 3], "sparse"],
            };
            // The second is decided about only behind the first.
            for (place, kind) in kinds.into_iter().enumerate().take(wanted.accepted as usize + 1) {
                let taken = usize::from(wanted.accepted as usize > place);
                decided_by.entry(kind).or_default()[taken] += 1;
            }
            all_requests.push((request, wanted));
        }
    }
    // One that took every draft, or none, would say nothing.
    let both = |counts: &[usize; 2]| counts.iter().all(|&count| count >= 2);
    assert!(decided_by.len() == 5 && decided_by.values().all(both), "{decided_by:?}");
    all_requests
}

#[tokio::test(flavor = "multi_thread")]
async fn drafts_are_taken_as_the_reference_takes_them() {
    for server in [TestServer::start(&[]).await, TestServer::with(&[], vec![cpu()]).await] {
        let client = server.client().await;
        let mut stream = client.verify_stream().await.unwrap();
        for (request, wanted) in decided_requests() {
            let response = client.verify(request.clone()).await.unwrap();
            assert_eq!(
                response.sequences,
                std::slice::from_ref(&wanted),
                "{:?}",
                request.sequences
            );
            stream.send(request).await.unwrap();
            let (_, response) = stream.receive().await.unwrap().unwrap();
            assert_eq!(response.unwrap().sequences, [wanted]);
        }
        drop(stream);
        server.idle().await;
    }
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn drafts_are_taken_so_from_shared_memory_and_by_direct_calls() {
    let host = OnThisHost::start(&[]).await;
    let mut region = Region::register(&host.control, 1 << 12, 1).unwrap();
    let mut calls = host.client.direct().await.unwrap();
    for (mut request, wanted) in decided_requests() {
        let logits = std::mem::take(&mut request.logits);
        region.slot_mut(0)[..logits.len()].copy_from_slice(&logits);
        request.slot = Some(region.commit(0, logits.len()));
        let response = host.client.verify(request.clone()).await.unwrap();
        assert_eq!(response.plane(), Plane::SharedMemory);
        assert_eq!(response.sequences, std::slice::from_ref(&wanted), "{:?}", request.sequences);
        assert_eq!(calls.verify(&request).await.unwrap().sequences, [wanted]);
    }
    host.server.idle().await;
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn rows_and_histories_may_lie_in_shared_memory_and_calls_may_be_direct() {
    let host = OnThisHost::start(&[]).await;
    let (inline, wanted) = matching(&host.client).await;
    let mut region = Region::register(&host.control, 1 << 16, 2).unwrap();
    let mut by_slot = VerifyRequest { logits: Bytes::new(), ..inline.clone() };
    region.slot_mut(0)[..inline.logits.len()].copy_from_slice(&inline.logits);
    by_slot.slot = Some(region.commit(0, inline.logits.len()));
    let response = host.client.verify(by_slot.clone()).await.unwrap();
    is(&response.sequences, &wanted);
    assert_eq!(response.plane(), Plane::SharedMemory);
    // A history of the first sequence too.
    let history = region.slot_mut(1);
    for (word, token) in history.chunks_mut(4).zip([1u32, 2, 9, 8, 7]) {
        word.copy_from_slice(&token.to_le_bytes());
    }
    let slot = Some(region.commit(1, 20));
    by_slot.sequences[0].adjustments = Some(Adjustments {
        stop_ids: vec![3, 50],
        history: Some(History { slot, prompt_tokens: 3 }),
        ..Default::default()
    });
    let mut calls = host.client.direct().await.unwrap();
    is(&calls.verify(&by_slot).await.unwrap().sequences, &wanted);
    let error =
        calls.verify(&VerifyRequest { vocab_size: 0, ..by_slot.clone() }).await.unwrap_err();
    assert!(error.to_string().contains("vocab_size is 0"), "{error}");
    is(&calls.verify(&by_slot).await.unwrap().sequences, &wanted);
    by_slot.sequences[0].adjustments.as_mut().unwrap().prompt = vec![1];
    let error = host.client.verify(by_slot).await.unwrap_err().to_string();
    assert!(error.contains("sequences[0].adjustments.history: history stands beside"), "{error}");
    host.server.idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_padded_batch_says_where_its_sequences_begin() {
    let server = TestServer::start(&[]).await;
    let client = server.client().await;
    // Two rows of padding behind the first sequence, one behind the second.
    let all = logits(8, VOCAB_SIZE, 1);
    let sequence = |first_row, drafts: &[u32]| DraftedSequence {
        first_row,
        drafts: drafts.to_vec(),
        params: Some(SamplingParams { seed: Some(7), ..Default::default() }),
        ..Default::default()
    };
    let request = |logits, sequences| VerifyRequest { logits, sequences, ..plain() };
    let padded = [sequence(Some(0), &[4]), sequence(Some(4), &[5, 6])];
    let padded = client.verify(request(all.clone(), padded.to_vec())).await.unwrap();
    let row = VOCAB_SIZE * 2;
    for (i, (rows, drafts)) in [(0..2, &[4][..]), (4..7, &[5, 6])].into_iter().enumerate() {
        let alone = all[rows.start * row..rows.end * row].to_vec().into();
        let alone = client.verify(request(alone, vec![sequence(None, drafts)])).await.unwrap();
        assert_eq!(alone.sequences, std::slice::from_ref(&padded.sequences[i]));
    }
}

async fn refused(client: &Client, request: VerifyRequest) -> (Code, String) {
    match client.verify(request).await.unwrap_err() {
        Error::Status(status) => (status.code(), status.message().to_owned()),
        other => panic!("{other}"),
    }
}

/// A request with one sequence of two drafts, rejected by what a row, weights or nothing says.
fn plain() -> VerifyRequest {
    let logits_draft =
        LogitsDraft { row: 3, params: Some(SamplingParams::default()), ..Default::default() };
    let kinds = [
        Some(Kind::Logits(Box::new(logits_draft))),
        Some(Kind::Sparse(SparseDraft { tokens: vec![4], weights: vec![1] })),
    ];
    let sequence = DraftedSequence {
        mode: VerifyMode::Rejection.into(),
        drafts: vec![4, 5],
        params: Some(SamplingParams::default()),
        distributions: kinds.map(|kind| DraftDistribution { kind }).to_vec(),
        ..Default::default()
    };
    VerifyRequest {
        dtype: Dtype::F16.into(),
        vocab_size: VOCAB_SIZE as u32,
        logits: logits(4, VOCAB_SIZE, 1),
        sequences: vec![sequence],
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_named() {
    let server = TestServer::start(&[]).await;
    let client = server.client().await;
    let with = |change: &dyn Fn(&mut DraftedSequence)| {
        let mut request = plain();
        change(&mut request.sequences[0]);
        request
    };
    fn params(sequence: &mut DraftedSequence) -> &mut SamplingParams {
        sequence.params.as_mut().unwrap()
    }
    fn draft(sequence: &mut DraftedSequence) -> &mut LogitsDraft {
        match sequence.distributions[0].kind.as_mut() {
            Some(Kind::Logits(draft)) => draft,
            _ => unreachable!("it is a row"),
        }
    }
    let lists = || Adjustments { bad_words: vec![], prompt: vec![1], ..Default::default() };
    for (request, text) in [
        (VerifyRequest { dtype: 0, ..plain() }, "dtype: dtype is 0; allowed"),
        (VerifyRequest { rows: Some(5), ..plain() }, "rows: rows is 5, and logits has 4"),
        (VerifyRequest { row_stride: 3, ..plain() }, "row_stride: row_stride is 3; allowed"),
        (
            VerifyRequest { logits: logits(6, VOCAB_SIZE, 1), ..plain() },
            "logits: row 4 of 6 is in no sequence or distribution; allowed",
        ),
        (
            with(&|s| draft(s).row = 0),
            "logits: row 3 of 4 is in no sequence or distribution; allowed",
        ),
        (with(&|s| s.mode = 7), "sequences[0].mode: mode is 7; allowed: 0 (match)"),
        (
            with(&|s| s.mode = VerifyMode::Match.into()),
            "sequences[0].distributions: distributions stands in a sequence of VERIFY_MODE_MATCH; allowed: with VERIFY_MODE_REJECTION only",
        ),
        (
            with(&|s| s.parents = vec![0, 0]),
            "sequences[0].parents: parents stands in a sequence of VERIFY_MODE_REJECTION",
        ),
        (
            with(&|s| s.typical_delta = Some(0.5)),
            "sequences[0].typical_delta: typical_delta stands",
        ),
        (
            with(&|s| s.drafts[1] = VOCAB_SIZE as u32),
            "sequences[0].drafts[1]: drafts is 97; allowed: below 97",
        ),
        (with(&|s| s.rows = Some(2)), "sequences[0].rows: rows is 2, and it has 3 rows"),
        (
            with(&|s| s.first_row = Some(2)),
            "sequences[0].first_row: first_row is 2, and its rows go up to 4; allowed: the request's 4 rows, 0 to 3",
        ),
        (
            with(&|s| params(s).mirostat_tau = 5.0),
            "sequences[0].params.mirostat_tau: mirostat_tau is 5, in a sequence to be verified",
        ),
        (with(&|s| params(s).draft = true), "sequences[0].params.draft: draft is true"),
        (with(&|s| params(s).draws = Some(2)), "sequences[0].params.draws: draws is 2"),
        (
            with(&|s| params(s).adaptive_target = Some(0.5)),
            "sequences[0].params.adaptive_target: adaptive_target is 0.5",
        ),
        (with(&|s| params(s).top_p = Some(2.0)), "sequences[0].params.top_p: top_p is 2"),
        (
            with(&|s| params(s).position = u64::MAX - 1),
            "sequences[0].params.position: position is 18446744073709551614, and 2 tokens follow",
        ),
        (
            with(&|s| {
                params(s).logprobs = Some(Logprobs::default()).map(|l| Logprobs { top: 3, ..l })
            }),
            "sequences[0].params.logprobs.of: of is empty",
        ),
        (
            with(&|s| {
                s.adjustments = Some(Adjustments { banned_ids: vec![99], ..Default::default() })
            }),
            "sequences[0].adjustments.banned_ids[0]: banned_ids[0] is token 99",
        ),
        (
            with(&|s| s.row_adjustments = vec![Adjustments::default(); 2]),
            "sequences[0].row_adjustments: row_adjustments has 2 sets for 3 rows",
        ),
        (
            with(&|s| s.row_adjustments = vec![Adjustments::default(), lists(), lists()]),
            "sequences[0].row_adjustments[1].prompt: prompt stands with a single row",
        ),
        (
            with(&|s| s.distributions.truncate(1)),
            "sequences[0].distributions: distributions has 1 for 2 drafts",
        ),
        (
            with(&|s| draft(s).row = 4),
            "sequences[0].distributions[0].logits.row: row is 4; allowed: the request's 4 rows, 0 to 3",
        ),
        (
            with(&|s| draft(s).params.as_mut().unwrap().return_kept = true),
            "sequences[0].distributions[0].logits.params.return_kept: return_kept stands with a draft's row",
        ),
        (
            with(&|s| draft(s).params.as_mut().unwrap().mirostat_tau = 1.0),
            "sequences[0].distributions[0].logits.params.mirostat_tau: mirostat_tau is 1",
        ),
        (
            with(&|s| {
                let weights = SparseDraft { tokens: vec![4, 4], weights: vec![1, 1] };
                s.distributions[1].kind = Some(Kind::Sparse(weights));
            }),
            "sequences[0].distributions[1].sparse.tokens[1]: tokens is 4 again",
        ),
        (
            with(&|s| {
                s.distributions[1].kind =
                    Some(Kind::Dense(DenseDraft { probabilities: vec![1.0] }));
            }),
            "sequences[0].distributions[1].dense.probabilities: probabilities has 1; allowed: 97",
        ),
    ] {
        let (code, message) = refused(&client, request).await;
        assert_eq!(code, Code::InvalidArgument, "{message}");
        assert!(message.contains(text), "{message:?} has no {text:?}");
    }
    assert!(client.verify(plain()).await.is_ok(), "as it is, it is right");
    server.idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_those_of_the_flags() {
    let flags = ["--drafts-max=3", "--tree-nodes-max=5", "--request-rows-max=12"];
    let server = TestServer::start(&flags).await;
    let client = server.client().await;
    let limits = client.info().await.unwrap().limits.unwrap();
    assert_eq!((limits.drafts_max, limits.tree_nodes_max, limits.beams_max), (3, 5, 64));
    let of = |drafts: usize, parents: Vec<u32>| {
        let drafts = vec![1; drafts];
        let sequence = DraftedSequence { drafts, parents, ..Default::default() };
        let logits = logits(sequence.drafts.len() + 1, VOCAB_SIZE, 1);
        VerifyRequest { logits, sequences: vec![sequence], ..plain() }
    };
    assert!(client.verify(of(3, vec![])).await.is_ok());
    assert!(client.verify(of(4, vec![0, 1, 2, 3])).await.is_ok());
    let (code, message) = refused(&client, of(4, vec![])).await;
    assert_eq!(code, Code::OutOfRange);
    assert!(
        message.contains("drafts of a sequence is 4; this server allows 3 (--drafts-max)"),
        "{message}"
    );
    let (code, message) = refused(&client, of(5, vec![0; 5])).await;
    assert_eq!(code, Code::OutOfRange);
    assert!(message.contains("this server allows 5 (--tree-nodes-max)"), "{message}");
    // Rows that are used again count again, and those of drafts too.
    let many = VerifyRequest { sequences: vec![of(3, vec![]).sequences.remove(0); 4], ..plain() };
    let many = VerifyRequest {
        sequences: many
            .sequences
            .into_iter()
            .map(|s| DraftedSequence { first_row: Some(0), ..s })
            .collect(),
        ..many
    };
    let (code, message) = refused(&client, many).await;
    assert_eq!(code, Code::OutOfRange);
    assert!(message.contains("rows in the request is 16; this server allows 12"), "{message}");
    let sequences = vec![DraftedSequence::default(); 13];
    let (code, message) = refused(&client, VerifyRequest { sequences, ..plain() }).await;
    assert_eq!(code, Code::OutOfRange);
    assert!(message.contains("the number of sequences in the request is 13"), "{message}");
    server.idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_takes_room_each_time_it_is_used() {
    let server =
        TestServer::start(&["--queue-bytes-max=256KiB", "--message-bytes-max=256KiB"]).await;
    let client = server.client().await;
    let vocab_size = 20_000;
    let sequences = |count: usize| VerifyRequest {
        dtype: Dtype::F16.into(),
        vocab_size: vocab_size as u32,
        logits: logits(1, vocab_size, 1),
        sequences: vec![DraftedSequence { first_row: Some(0), ..Default::default() }; count],
        ..Default::default()
    };
    let response = client.verify(sequences(6)).await.unwrap();
    assert_eq!(response.sequences.len(), 6);
    let (code, message) = refused(&client, sequences(7)).await;
    assert_eq!(code, Code::OutOfRange, "{message}");
    assert!(
        message.contains("280000 bytes of logits") && message.contains("queue_bytes_max"),
        "{message}"
    );
    // What a draft was drawn from takes room as well: here a row of its own.
    let mut request = sequences(3);
    for sequence in &mut request.sequences {
        let draft = Kind::Logits(Box::default());
        sequence.mode = VerifyMode::Rejection.into();
        sequence.drafts = vec![1];
        sequence.distributions = vec![DraftDistribution { kind: Some(draft) }];
    }
    request.logits = logits(2, vocab_size, 1);
    let (code, message) = refused(&client, request.clone()).await;
    assert_eq!(code, Code::OutOfRange, "{message}");
    request.sequences.truncate(1);
    assert!(client.verify(request).await.is_ok());
    server.idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_given_up_gives_back_what_it_held() {
    let (backend, gate) = Gated::boxed();
    let server = TestServer::with(&[], vec![backend]).await;
    let client = server.client().await;
    let first = tokio::spawn({
        let client = client.clone();
        async move { client.verify(plain()).await }
    });
    gate.reached().await;
    let second = tokio::spawn(async move { client.verify(plain()).await });
    let rows = server.limits.queue_rows_max as usize;
    let two = || server.engine.reserve(rows - 5, 0).is_err();
    until("both hold their rows", two).await;
    second.abort();
    until("the second holds none", || server.engine.reserve(rows - 5, 0).is_ok()).await;
    gate.open();
    assert!(first.await.unwrap().is_ok());
    server.idle().await;
}
