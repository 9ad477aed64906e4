//! Calls of `Verify`, `VerifyStream` and `BeamStep` in a trace: what was asked and answered, checked without the server,
//! sent again, and found where it was tampered with.

use crate::harness::{OnThisHost, TestServer, logits};
use logitd::record::{Call, Entry, Exchange, Reader, Recorder, RecorderOptions};
use logitd_client::Region;
use logitd_proto::draft_distribution::Kind;
use logitd_proto::{
    Adjustments, BeamGroup, BeamStepRequest, DenseDraft, DraftDistribution, DraftedSequence, Dtype,
    History, LogitsDraft, SamplingParams, VerifyMode, VerifyRequest,
};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Instant;

const VOCAB_SIZE: usize = 97;
const ROW_BYTES: usize = VOCAB_SIZE * 2;

/// A sequence of every mode, and two of all, each with a seed of its own or with none.
fn verify_request(salt: u64) -> VerifyRequest {
    let params = |seed| Some(SamplingParams { seed, top_k: 9, ..Default::default() });
    let drafts = vec![salt as u32 % 97, 3, 50];
    let dense = DenseDraft { probabilities: vec![0.01; VOCAB_SIZE] };
    let row = LogitsDraft { row: 12, ..Default::default() };
    let kinds = [None, Some(Kind::Dense(dense)), Some(Kind::Logits(Box::new(row)))];
    let sequence = |mode: VerifyMode, seed| DraftedSequence {
        mode: mode.into(),
        drafts: drafts.clone(),
        params: params(seed),
        ..Default::default()
    };
    let distributions = kinds.into_iter().map(|kind| DraftDistribution { kind }).collect();
    let sequences = vec![
        sequence(VerifyMode::Match, None),
        DraftedSequence { distributions, ..sequence(VerifyMode::Rejection, Some(salt)) },
        sequence(VerifyMode::Typical, None),
    ];
    VerifyRequest {
        dtype: Dtype::F16.into(),
        vocab_size: VOCAB_SIZE as u32,
        logits: logits(13, VOCAB_SIZE, salt),
        sequences,
        ..Default::default()
    }
}

fn beam_request(salt: u64) -> BeamStepRequest {
    let group = |scores: &[i64]| BeamGroup {
        scores: scores.to_vec(),
        beams: 3,
        eos_ids: vec![salt as u32 % 97],
        ..Default::default()
    };
    BeamStepRequest {
        dtype: Dtype::F16.into(),
        vocab_size: VOCAB_SIZE as u32,
        logits: logits(4, VOCAB_SIZE, salt),
        groups: vec![group(&[0]), group(&[-5, -9, -1 << 33])],
        ..Default::default()
    }
}

/// What a server with this trace is asked, on every way; so many requests.
async fn traffic(trace: &Path) -> usize {
    let host = OnThisHost::start(&[&format!("--record={}", trace.display())]).await;
    let client = &host.client;
    let mut region = Region::register(&host.control, 1 << 14, 1).unwrap();
    let mut calls = client.direct().await.unwrap();
    let mut stream = client.verify_stream().await.unwrap();
    for salt in 0..10 {
        client.verify(verify_request(salt)).await.unwrap();
        client.beam_step(beam_request(salt)).await.unwrap();
        stream.send(verify_request(100 + salt)).await.unwrap();
        stream.receive().await.unwrap().unwrap().1.unwrap();
        // A row of logits, and behind it a history of two tokens.
        let mut lent = verify_request(200 + salt);
        let logits = std::mem::take(&mut lent.logits);
        region.slot_mut(0)[..logits.len()].copy_from_slice(&logits);
        lent.slot = Some(region.commit(0, logits.len()));
        calls.verify(&lent).await.unwrap();
        lent.slot = Some(region.commit(0, logits.len()));
        client.verify(lent).await.unwrap();
        let mut step = beam_request(300 + salt);
        let logits = std::mem::take(&mut step.logits);
        region.slot_mut(0)[..logits.len()].copy_from_slice(&logits);
        step.slot = Some(region.commit(0, logits.len()));
        client.beam_step(step).await.unwrap();
        let mut told = verify_request(400 + salt);
        region.slot_mut(0)[..8].copy_from_slice(&[7, 0, 0, 0, 50, 0, 0, 0]);
        let history = History { slot: Some(region.commit(0, 8)), prompt_tokens: 1 };
        told.sequences[0].adjustments =
            Some(Adjustments { history: Some(history), ..Default::default() });
        told.sequences[0].params.as_mut().unwrap().repetition_penalty = Some(1.5);
        client.verify(told).await.unwrap();
    }
    client.verify(VerifyRequest::default()).await.unwrap_err();
    client.beam_step(BeamStepRequest::default()).await.unwrap_err();
    drop((stream, calls, region));
    let OnThisHost { server, .. } = host;
    server.stop().await.unwrap().unwrap();
    72
}

async fn logitd(args: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_logitd"));
    command.args(args);
    let run = move || command.output().unwrap();
    let output: Output = tokio::task::spawn_blocking(run).await.unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(said).unwrap())
}

async fn verify(trace: &Path) -> (i32, String) {
    let dump = trace.parent().unwrap().to_str().unwrap();
    logitd(&["verify", "--recorded", trace.to_str().unwrap(), "--dump", dump]).await
}

fn entries(trace: &Path) -> Vec<Entry> {
    Reader::open(trace).unwrap().collect::<Result<_, _>>().unwrap()
}

/// The same calls in another file, of which one was tampered with.
fn tampered(trace: &Path, into: &Path, tamper: impl FnOnce(&mut [Call])) {
    let mut calls: Vec<Call> = entries(trace).into_iter().map(|entry| entry.call).collect();
    tamper(&mut calls);
    let recorder = Recorder::start(RecorderOptions::new(into)).unwrap();
    for call in &calls {
        match call {
            Call::Sample(Exchange { request, result }) => {
                recorder.record(Instant::now(), request, result.as_ref())
            }
            Call::Verify(Exchange { request, result }) => {
                recorder.record(Instant::now(), request, result.as_ref())
            }
            Call::BeamStep(Exchange { request, result }) => {
                recorder.record(Instant::now(), request, result.as_ref())
            }
        };
    }
    recorder.finish();
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn drafts_and_beams_are_recorded_on_every_way_and_checked_without_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("a.trace");
    let requests = traffic(&trace).await;
    let (mut verified, mut stepped) = (0, 0);
    for Entry { call, .. } in entries(&trace) {
        match call {
            Call::Verify(Exchange { request, .. }) => {
                assert!(request.slot.is_none(), "its logits are here");
                verified += 1;
            }
            Call::BeamStep(Exchange { request, .. }) => {
                assert!(request.slot.is_none(), "its logits are here");
                stepped += 1;
            }
            Call::Sample(_) => panic!("nothing was sampled"),
        }
    }
    assert_eq!((verified, stepped, verified + stepped), (51, 21, requests));
    let (code, said) = verify(&trace).await;
    assert!(code == 0, "{said}");
    assert!(said.contains("72 requests, 2 without an answer; 680 rows compared"), "{said}");
    assert!(said.contains("0 differences"), "{said}");

    // Sent again, the same is answered, with the seeds that the server took.
    let server = TestServer::start(&[]).await;
    for rpc in ["unary", "stream"] {
        let flags = format!("--rpc {rpc} --check 1 --concurrency 3 --quiet --json");
        let (code, said) = replay(server.target(), &trace, &flags).await;
        let json: Value = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}"));
        assert_eq!(code, 0, "{json}");
        // Each request has its own.
        assert_eq!(json["requests"].get("method"), None, "{json}");
        assert_eq!((&json["check"]["answers"], &json["check"]["rows"]), (&70.into(), &680.into()));
    }
}

async fn replay(target: &str, trace: &Path, flags: &str) -> (i32, String) {
    let trace = trace.to_str().unwrap();
    let args = ["load", "--target", target, "--replay", trace];
    logitd(&args.into_iter().chain(flags.split_whitespace()).collect::<Vec<_>>()).await
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_were_tampered_with_are_found_by_their_rows() {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("a.trace");
    traffic(&trace).await;
    let find = |calls: &[Call], wanted: fn(&Call) -> bool| calls.iter().position(wanted).unwrap();
    let wrong = folder.path().join("b.trace");
    let mut at = 0;
    tampered(&trace, &wrong, |calls| {
        at = find(calls, |call| matches!(call, Call::Verify(_)));
        let Call::Verify(Exchange { result: Ok(answer), .. }) = &mut calls[at] else {
            panic!("the first is answered")
        };
        answer.sequences[1].tokens[0] ^= 1;
    });
    let (code, said) = verify(&wrong).await;
    assert_eq!(code, 1, "{said}");
    let expected = format!("request {at}, answered by cpu: sequence 1, row 0: tokens is ");
    assert!(said.contains(&expected) && said.contains("1 rows DIFFER"), "{said}");
    let text = std::fs::read_to_string(folder.path().join("logitd-difference.txt")).unwrap();
    assert!(text.contains("the draft 0 by rejection"), "{text}");

    let wrong = folder.path().join("c.trace");
    tampered(&trace, &wrong, |calls| {
        at = find(calls, |call| matches!(call, Call::BeamStep(_)));
        let Call::BeamStep(Exchange { result: Ok(answer), .. }) = &mut calls[at] else {
            panic!("the first is answered")
        };
        answer.groups[1].candidates.as_mut().unwrap().scores[2] -= 1;
    });
    let (code, said) = verify(&wrong).await;
    assert_eq!(code, 1, "{said}");
    let expected = format!("request {at}, answered by cpu: group 1, row ");
    assert!(said.contains(&expected) && said.contains("candidates is number 2: beam "), "{said}");
}

/// The same share, and the same bound, as of `Sample`.
#[tokio::test(flavor = "multi_thread")]
async fn a_share_is_recorded_and_what_has_no_room_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    for (flag, wanted) in [("--record-fraction=0.25", 5), ("--record-buffer-bytes-max=16KiB", 10)] {
        let trace = folder.path().join(flag);
        let record = format!("--record={}", trace.display());
        let server = TestServer::start(&[&record, flag]).await;
        let client = server.client().await;
        for salt in 0..10 {
            // Of a batch that is padded.
            let mut padded = verify_request(salt);
            padded.logits = logits(100, VOCAB_SIZE, salt);
            padded.sequences[0].first_row = Some(0);
            client.verify(padded).await.unwrap();
            client.beam_step(beam_request(salt)).await.unwrap();
        }
        drop(client);
        server.stop().await.unwrap().unwrap();
        let entries = entries(&trace);
        assert_eq!(entries.len(), wanted, "{flag}");
        if wanted == 10 {
            // Ten steps of four rows have room, a hundred rows have none.
            const { assert!(40 * ROW_BYTES < 8 << 10 && 100 * ROW_BYTES > 16 << 10) };
            assert!(entries.iter().all(|entry| matches!(entry.call, Call::BeamStep(_))));
        }
    }
}
