//! `Evaluate` over the API: what the reference says on every plane, sums that add up, bounds, and samples meanwhile.

use crate::harness::backends::Gated;
use crate::harness::daemon::Daemon;
use crate::harness::{OnThisHost, TestServer, cpu, expected, logits, request};
use bytes::Bytes;
use logitd::engine::{
    Engine, EngineConfig, EvaluationRequest, EvaluationRow, Evaluations, Failure, Refused,
    RequestRow,
};
use logitd::wire;
use logitd_client::{Client, Error, Region};
use logitd_core::batch::{self, Row};
use logitd_core::evaluate::reference::Reference;
use logitd_core::evaluate::sets::Sets;
use logitd_core::evaluate::{EvaluationResult, Evaluator, Position, Question, TailShare};
use logitd_core::params::ParamsSpec;
use logitd_proto::evaluate_stream_response::Result as Outcome;
use logitd_proto::sampler_service_client::SamplerServiceClient;
use logitd_proto::{
    Dtype, EvaluateRequest, EvaluateResponse, EvaluateStreamRequest, GroupSums, Logprobs, Plane,
    Priority, Profile, SamplingParams, SetGrid,
};
use std::time::{Duration, Instant};
use tonic::Code;

const VOCAB_SIZE: u32 = 777;

/// Rows with sets in a list and in a grid, and labels.
fn evaluation(rows: usize) -> EvaluateRequest {
    let set = |temperature, top_k, top_p, min_p| SamplingParams {
        temperature: Some(temperature),
        top_k,
        top_p: Some(top_p),
        min_p,
        ..Default::default()
    };
    EvaluateRequest {
        dtype: Dtype::F16.into(),
        vocab_size: VOCAB_SIZE,
        logits: logits(rows, VOCAB_SIZE as usize, 5),
        references: (0..rows as u32).map(|row| row * 31 % VOCAB_SIZE).collect(),
        groups: (0..rows as u32).map(|row| [7, 4095, 0][row as usize % 3]).collect(),
        sets: vec![
            SamplingParams::default(),
            set(0.0, 3, 0.5, 0.1),
            set(0.7, 40, 0.95, 0.05),
            SamplingParams { typical_p: Some(0.6), top_n_sigma: 1.5, ..set(0.8, 0, 0.9, 0.0) },
            SamplingParams {
                xtc_probability: 1.0,
                xtc_threshold: Some(0.02),
                profile: Profile::Llamacpp.into(),
                ..set(0.9, 100, 0.99, 0.0)
            },
        ],
        grid: Some(SetGrid {
            temperature: vec![0.5, 1.3],
            top_k: vec![0, 1, 50],
            top_p: vec![],
            min_p: vec![0.0, 0.02],
        }),
        ..Default::default()
    }
}

/// The sets of a request, in their order.
fn sets(request: &EvaluateRequest) -> Sets {
    let list = request.sets.iter().map(|set| wire::params::spec(set).unwrap());
    let grid = request.grid.iter().flat_map(|grid| {
        let mut specs = vec![];
        for &temperature in &grid.temperature {
            for &top_k in &grid.top_k {
                for &min_p in &grid.min_p {
                    specs.push(ParamsSpec { temperature, top_k, min_p, ..Default::default() });
                }
            }
        }
        specs
    });
    Sets::new(list.chain(grid).map(|spec| spec.parse(|| 0).unwrap()).collect()).unwrap()
}

/// What the reference implementation says.
fn wanted(request: &EvaluateRequest) -> EvaluationResult {
    let dtype = wire::row::dtype(request.dtype).unwrap();
    let params = ParamsSpec::default().parse(|| 0).unwrap();
    let rows = request.logits.chunks(request.vocab_size as usize * dtype.size_bytes());
    let positions: Vec<Position<'_>> = rows
        .enumerate()
        .map(|(i, logits)| {
            let row = Row::new(dtype, logits, params).unwrap();
            let label = request.groups.get(i).copied().unwrap_or(0);
            Position::new(row, request.references[i], label).unwrap()
        })
        .collect();
    let tail = request.tail_share.map_or(TailShare::default(), |t| TailShare::new(t).unwrap());
    let question = Question { sets: &sets(request), tail, rows: request.rows };
    Reference.evaluate(&positions, &question)
}

/// Compares an answer with the reference's, bit by bit.
fn is(response: &EvaluateResponse, wanted: &EvaluationResult) {
    let references = response.references.iter();
    let references: Vec<_> = references
        .map(|r| (r.status(), r.rank, r.logprob.to_bits(), r.entropy.to_bits()))
        .collect();
    let of_reference = wanted.references.iter().map(|r| {
        let status = wire::row::status_message(r.status);
        (status, r.rank, r.logprob.to_bits(), r.entropy.to_bits())
    });
    assert_eq!(references, of_reference.collect::<Vec<_>>());
    assert_eq!(response.groups, groups(wanted));
    let rows = response.rows.iter();
    let rows: Vec<_> = rows.map(|e| (e.kept, e.kept_mass, e.logprob.map(f32::to_bits))).collect();
    let of_reference = wanted.rows.iter();
    let of_reference: Vec<_> =
        of_reference.map(|e| (e.kept, e.kept_mass, e.logprob.map(f32::to_bits))).collect();
    assert_eq!(rows, of_reference);
}

fn groups(answer: &EvaluationResult) -> Vec<GroupSums> {
    let message = |(group, sums): (u32, &logitd_core::evaluate::sums::GroupSums)| GroupSums {
        group,
        rows: sums.rows,
        rows_failed: sums.rows_failed,
        hits: sums.sets.iter().map(|set| set.hits).collect(),
        kept: sums.sets.iter().map(|set| set.kept).collect(),
        logprob_q32: sums.sets.iter().map(|set| set.logprob_q32).collect(),
        probability_q32: sums.sets.iter().map(|set| set.probability_q32).collect(),
        entropy_q32: sums.sets.iter().map(|set| set.entropy_q32).collect(),
        surprise_q32: sums.sets.iter().map(|set| set.surprise_q32).collect(),
        collision_q32: sums.sets.iter().map(|set| set.collision_q32).collect(),
        tail_q32: sums.sets.iter().map(|set| set.tail_q32).collect(),
    };
    answer.sums.groups().map(message).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_is_the_references() {
    let server = TestServer::with(&[], vec![cpu()]).await;
    let client = server.client().await;
    let mut request = evaluation(20);
    is(&client.evaluate(request.clone()).await.unwrap(), &wanted(&request));
    request.rows = true;
    request.tail_share = Some(0.01);
    request.priority = Priority::High.into();
    // A row without a distribution is counted and left out.
    let mut bytes = request.logits.to_vec();
    bytes[4 * VOCAB_SIZE as usize * 2..][..2].copy_from_slice(&half::f16::NAN.to_le_bytes());
    request.logits = bytes.into();
    let response = client.evaluate(request.clone()).await.unwrap();
    is(&response, &wanted(&request));
    assert_eq!(response.groups.iter().map(|group| group.rows_failed).sum::<u64>(), 1);
    assert_eq!((response.device.as_str(), response.plane()), ("cpu", Plane::Inline));
    // f32, without labels, a list alone.
    let f16 = request.logits.chunks(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32());
    request.logits = f16.flat_map(f32::to_le_bytes).collect();
    (request.dtype, request.groups, request.grid) = (Dtype::F32.into(), vec![], None);
    is(&client.evaluate(request.clone()).await.unwrap(), &wanted(&request));
    server.idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_of_evaluations_is_told_apart() {
    let daemon = Daemon::start(&["--metrics-listen=127.0.0.1:0", "--device=reference"]).await;
    let client = Client::connect(daemon.target()).await.unwrap();
    let asked = evaluation(2);
    let sets = sets(&asked).len();
    for _ in 0..3 {
        client.evaluate(asked.clone()).await.unwrap();
    }
    client.sample(request(1, 100, 1)).await.unwrap();
    let text = daemon.scrape().await;
    let has = |line: &str| text.lines().any(|other| other == line);
    assert!(has("logitd_evaluate_seconds_count 3"), "{text}");
    assert!(has("logitd_request_seconds_count 1"), "{text}");
    assert!(has("logitd_requests_total{code=\"OK\"} 4"), "{text}");
    assert!(has("logitd_evaluated_rows_total 6"), "{text}");
    assert!(has(&format!("logitd_evaluations_total {}", 6 * sets)), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sums_of_chunks_over_a_stream_add_up() {
    let server = TestServer::with(&[], vec![cpu()]).await;
    let mut client = SamplerServiceClient::connect(server.target().to_owned()).await.unwrap();
    let whole = evaluation(24);
    let row_bytes = VOCAB_SIZE as usize * 2;
    let chunks = (0..24).step_by(5).map(|first: usize| {
        let rows = first..(first + 5).min(24);
        let request = EvaluateRequest {
            logits: whole.logits.slice(rows.start * row_bytes..rows.end * row_bytes),
            references: whole.references[rows.clone()].to_vec(),
            groups: whole.groups[rows].to_vec(),
            ..whole.clone()
        };
        EvaluateStreamRequest { id: 9, request: Some(request), first_row: Some(first as u64) }
    });
    let nothing = EvaluateStreamRequest { id: 3, request: None, first_row: None };
    let requests: Vec<_> = chunks.chain([nothing]).collect();
    let answers = client.evaluate_stream(tokio_stream::iter(requests)).await.unwrap();
    let mut answers = answers.into_inner();
    let (mut total, mut firsts): (Vec<GroupSums>, _) = (vec![], vec![]);
    while let Some(answer) = answers.message().await.unwrap() {
        match answer.result.unwrap() {
            Outcome::Response(response) => {
                assert_eq!((answer.id, response.plane()), (9, Plane::Chunked));
                firsts.extend(answer.first_row);
                response.groups.into_iter().for_each(|group| add(&mut total, group));
            }
            Outcome::Error(error) => {
                assert_eq!((answer.id, error.code), (3, Code::InvalidArgument as i32));
            }
        }
    }
    firsts.sort_unstable();
    assert_eq!(firsts, [0, 5, 10, 15, 20]);
    assert_eq!(total, groups(&wanted(&whole)));
    server.idle().await;
}

fn add(total: &mut Vec<GroupSums>, more: GroupSums) {
    match total.binary_search_by_key(&more.group, |group| group.group) {
        Err(place) => total.insert(place, more),
        Ok(place) => {
            let into = &mut total[place];
            into.rows += more.rows;
            into.rows_failed += more.rows_failed;
            let lists = [
                (&mut into.hits, more.hits),
                (&mut into.kept, more.kept),
                (&mut into.probability_q32, more.probability_q32),
                (&mut into.entropy_q32, more.entropy_q32),
                (&mut into.surprise_q32, more.surprise_q32),
                (&mut into.collision_q32, more.collision_q32),
                (&mut into.tail_q32, more.tail_q32),
            ];
            for (sums, more) in lists {
                sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
            }
            into.logprob_q32.iter_mut().zip(more.logprob_q32).for_each(|(sum, more)| *sum += more);
        }
    }
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn rows_may_lie_in_shared_memory() {
    let host = OnThisHost::start(&[]).await;
    let mut region = Region::register(&host.control, 2 << 20, 1).unwrap();
    let inline = evaluation(9);
    let mut by_slot = EvaluateRequest { logits: Bytes::new(), ..inline.clone() };
    region.slot_mut(0)[..inline.logits.len()].copy_from_slice(&inline.logits);
    by_slot.slot = Some(region.commit(0, inline.logits.len()));
    let response = host.client.evaluate(by_slot.clone()).await.unwrap();
    is(&response, &wanted(&inline));
    assert_eq!(response.plane(), Plane::SharedMemory);
    // The next generation is not there yet.
    by_slot.slot.as_mut().unwrap().generation += 1;
    let error = host.client.evaluate(by_slot.clone()).await.unwrap_err();
    assert_eq!(code(&error), Code::FailedPrecondition, "{error}");
    by_slot.logits = inline.logits;
    let error = host.client.evaluate(by_slot).await.unwrap_err();
    assert!(error.to_string().contains("one or the other"), "{error}");
    host.server.idle().await;
}

fn code(error: &Error) -> Code {
    match error {
        Error::Status(status) => status.code(),
        other => panic!("{other}"),
    }
}

async fn refused(client: &Client, request: EvaluateRequest) -> (Code, String) {
    let error = client.evaluate(request).await.unwrap_err();
    (code(&error), error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_named() {
    let server = TestServer::with(&[], vec![cpu()]).await;
    let client = server.client().await;
    let good = evaluation(3);
    let with = |change: &dyn Fn(&mut EvaluateRequest)| {
        let mut request = good.clone();
        change(&mut request);
        request
    };
    for (request, text) in [
        (with(&|r| r.dtype = 0), "dtype is 0; allowed"),
        (
            with(&|r| r.references[1] = VOCAB_SIZE),
            "references[1]: references is 777; allowed: below 777",
        ),
        (with(&|r| r.references.truncate(2)), "references has 2 values for 3 rows"),
        (with(&|r| r.groups.truncate(2)), "groups has 2 values for 3 rows"),
        (with(&|r| r.groups[2] = 4096), "groups[2]: groups is 4096; allowed: below 4096"),
        (with(&|r| r.tail_share = Some(1.0)), "tail_share is 1; allowed: above 0, below 1"),
        (with(&|r| r.sets[2].top_p = Some(1.5)), "sets[2].top_p: top_p is 1.5"),
        (
            with(&|r| r.sets[1].repetition_penalty = Some(2.0)),
            "sets[1].repetition_penalty: repetition_penalty is 2; it belongs to a history or to draws; allowed in sets: temperature",
        ),
        (
            with(&|r| r.sets[1].mirostat_tau = 5.0),
            "sets[1].mirostat_tau: mirostat_tau is 5; it belongs to a history or to draws; allowed in sets: temperature",
        ),
        (
            with(&|r| r.sets[1].xtc_probability = 0.5),
            "sets[1].xtc_probability: xtc_probability is 0.5; allowed in sets: 0 or 1",
        ),
        (
            with(&|r| r.sets[1].logprobs = Some(Logprobs::default())),
            "sets[1].logprobs: logprobs stands in a set",
        ),
        (
            with(&|r| r.grid.as_mut().unwrap().temperature[1] = -1.0),
            "grid.temperature[1]: temperature is -1",
        ),
        (with(&|r| (r.sets, r.grid) = (vec![], None)), "sets: sets is empty, and so is grid"),
        (
            with(&|r| r.logits.truncate(r.logits.len() - 1)),
            "logits has 4661 bytes; allowed: one or more rows of 1554 bytes",
        ),
    ] {
        let (code, message) = refused(&client, request).await;
        assert_eq!(code, Code::InvalidArgument, "{message}");
        assert!(message.contains(text), "{message:?} has no {text:?}");
    }
    server.idle().await;
}

/// More sets than are checked where the call is handled: the threads that evaluate unfold them.
#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_sets_are_unfolded_and_refused_as_few_are() {
    let server = TestServer::with(&["--evaluate-threads=1"], vec![cpu()]).await;
    let client = server.client().await;
    let mut asked = EvaluateRequest { rows: true, ..evaluation(5) };
    let grid = asked.grid.as_mut().unwrap();
    grid.temperature = (1..=10).map(|i| i as f32 / 5.0).collect();
    grid.top_k = (0..40).collect();
    is(&client.evaluate(asked.clone()).await.unwrap(), &wanted(&asked));
    asked.sets[4].xtc_probability = 0.25;
    let (code, message) = refused(&client, asked.clone()).await;
    assert_eq!(code, Code::InvalidArgument, "{message}");
    assert!(message.contains("sets[4].xtc_probability: xtc_probability is 0.25"), "{message}");
    asked.grid.as_mut().unwrap().temperature[9] = f32::NAN;
    let (_, message) = refused(&client, asked).await;
    assert!(message.contains("grid.temperature[9]: temperature is NaN"), "{message}");
    server.idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grids_are_counted_before_they_are_unfolded() {
    let flags = [
        "--evaluate-sets-max=1000",
        "--evaluate-sums-max=1500",
        "--queue-bytes-max=32MiB",
        "--message-bytes-max=1MiB",
        "--connection-bytes-max=1MiB",
    ];
    let server = TestServer::with(&flags, vec![cpu()]).await;
    let client = server.client().await;
    let grid = |values: usize| EvaluateRequest {
        sets: vec![],
        grid: Some(SetGrid { top_k: (0..values as u32).collect(), ..Default::default() }),
        ..evaluation(1)
    };
    let (code, message) = refused(&client, grid(1001)).await;
    assert_eq!(code, Code::OutOfRange, "{message}");
    assert!(
        message.contains("sets is 1001") && message.contains("--evaluate-sets-max"),
        "{message}"
    );
    let huge = SetGrid {
        temperature: vec![1.0; 60_000],
        top_k: vec![1; 60_000],
        top_p: vec![1.0; 60_000],
        min_p: vec![0.0; 60_000],
    };
    let (code, message) =
        refused(&client, EvaluateRequest { grid: Some(huge), ..evaluation(1) }).await;
    assert_eq!(code, Code::OutOfRange, "{message}");
    let two_labels = EvaluateRequest {
        groups: vec![1, 2],
        ..EvaluateRequest { sets: vec![], grid: grid(800).grid, ..evaluation(2) }
    };
    let (code, message) = refused(&client, two_labels.clone()).await;
    assert_eq!(code, Code::OutOfRange, "{message}");
    assert!(message.contains("sets times labels is 1600"), "{message}");
    let each = EvaluateRequest { groups: vec![], rows: true, ..two_labels };
    let (_, message) = refused(&client, each).await;
    assert!(message.contains("sets times rows is 1600"), "{message}");
    assert_eq!(client.evaluate(grid(1000)).await.unwrap().groups[0].hits.len(), 1000);
    server.idle().await;
}

/// What a grid unfolds to is its connection's, too.
#[tokio::test(flavor = "multi_thread")]
async fn sets_take_the_room_of_their_connection() {
    let flags = ["--message-bytes-max=64KiB", "--connection-bytes-max=256KiB"];
    let server = TestServer::with(&flags, vec![cpu()]).await;
    let client = server.client().await;
    let grid = SetGrid { top_k: (0..2000).collect(), ..Default::default() };
    let (code, message) =
        refused(&client, EvaluateRequest { grid: Some(grid), ..evaluation(1) }).await;
    assert_eq!(code, Code::OutOfRange, "{message}");
    assert!(message.contains("--connection-bytes-max"), "{message}");
    server.idle().await;
}

/// A device that does nothing does not hold evaluations up, and evaluations do not hold up a device.
#[tokio::test(flavor = "multi_thread")]
async fn evaluations_and_samples_do_not_wait_for_each_other() {
    let (gated, gate) = Gated::boxed();
    let server = TestServer::with(&["--evaluate-threads=1"], vec![gated]).await;
    let client = server.client().await;
    let sample = tokio::spawn({
        let client = client.clone();
        async move { client.sample(request(1, 100, 1)).await }
    });
    let small = evaluation(3);
    is(&client.evaluate(small.clone()).await.unwrap(), &wanted(&small));
    gate.open();
    assert_eq!(sample.await.unwrap().unwrap().rows, expected(&request(1, 100, 1)));
    // A sweep that takes a minute of processor; samples and small evaluations of others are answered, and dropping it ends it.
    let sweep = EvaluateRequest {
        logits: logits(64, 16_000, 3),
        vocab_size: 16_000,
        references: vec![1; 64],
        groups: vec![],
        grid: Some(SetGrid {
            temperature: (1..=80).map(|t| t as f32 / 40.0).collect(),
            top_k: (0..800).collect(),
            ..Default::default()
        }),
        ..evaluation(1)
    };
    let running = tokio::spawn({
        let client = server.client().await;
        async move { client.evaluate(sweep).await }
    });
    for salt in 0..20 {
        let asked = request(2, 1000, salt);
        assert_eq!(client.sample(asked.clone()).await.unwrap().rows, expected(&asked));
    }
    is(&client.evaluate(small.clone()).await.unwrap(), &wanted(&small));
    assert!(!running.is_finished(), "all that was while it ran");
    running.abort();
    server.idle().await;
}

/// At the engine: over the network a client's own clock would end the call as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_an_evaluation_of_which_rows_wait() {
    let engine = Engine::start(EngineConfig::default(), vec![cpu()]);
    let evaluations = Evaluations::new(1, 8);
    let params = ParamsSpec::default().parse(|| 0).unwrap();
    let bytes = logits(2000, 4000, 3);
    let row = |logits: &[u8]| EvaluationRow {
        row: RequestRow::new(batch::Dtype::F16, Bytes::copy_from_slice(logits), params).unwrap(),
        reference: 1,
        group: 0,
    };
    let asked = |deadline| EvaluationRequest {
        rows: bytes.chunks(8000).map(row).collect(),
        groups: 1,
        sets: sets(&EvaluateRequest {
            grid: Some(SetGrid {
                temperature: (1..=40).map(|t| t as f32 / 40.0).collect(),
                top_k: (0..500).collect(),
                min_p: vec![0.0],
                ..Default::default()
            }),
            ..evaluation(1)
        }),
        tail: TailShare::default(),
        evaluations: false,
        deadline: Some(deadline),
        priority: Default::default(),
        source: Default::default(),
    };
    let submit =
        |deadline| evaluations.submit(engine.reserve(0, bytes.len()).unwrap(), asked(deadline));
    let late = submit(Instant::now()).err();
    assert_eq!(late, Some(Refused::DeadlineExceeded));
    // Some ten seconds of work.
    let ended = submit(Instant::now() + Duration::from_millis(300)).unwrap().await;
    assert_eq!(ended.unwrap_err(), Failure::DeadlineExceeded);
}

/// At the engine: no request is known to make it panic.
#[tokio::test(flavor = "multi_thread")]
async fn work_that_panics_is_a_failure_of_its_own_and_ends_no_thread() {
    let evaluations = Evaluations::new(1, 8);
    for _ in 0..3 {
        let panicked = evaluations.work(|| -> u32 { panic!("a test") }).await;
        assert_eq!(panicked, Err(Failure::Panicked));
        assert_eq!(evaluations.work(|| 7).await, Ok(7));
    }
}
