//! `BeamStep` over the API: what the reference says of the rows, merged group by group, on every plane; limits and refusals.

use crate::harness::{OnThisHost, TestServer, cpu, logits};
use bytes::Bytes;
use logitd::wire;
use logitd_client::beam::{Group, Options, RunError, Search, Step};
use logitd_client::{Client, Error, Region};
use logitd_core::adjustments::{Adjustments as Parsed, Limits as AdjustmentLimits};
use logitd_core::backend::{Backend, reference::Reference};
use logitd_core::batch::{Dtype as RowDtype, Results, Row};
use logitd_core::beams::{StepSpec, Stepped};
use logitd_core::inspection::Normaliser;
use logitd_core::params::ParamsSpec;
use logitd_proto::{
    Adjustments, BeamGroup, BeamGroupResult, BeamNormaliser, BeamStepRequest, Dtype, Plane,
    RowStatus, SamplingParams,
};
use tonic::Code;

const VOCAB_SIZE: usize = 97;
const ROW_BYTES: usize = VOCAB_SIZE * 2;

fn penalised() -> ParamsSpec {
    ParamsSpec { repetition_penalty: 1.4, min_tokens: 3, ..ParamsSpec::default() }
}

/// A group's rows, as the API has them, and as the core does.
struct Asked {
    group: BeamGroup,
    spec: StepSpec,
    params: ParamsSpec,
    /// One a row, or none. Of `eos_ids` these have nothing.
    adjustments: Vec<Adjustments>,
}

fn asked(scores: &[i64], beams: u32, eos_ids: &[u32], raw: bool, params: ParamsSpec) -> Asked {
    let temperature = 0.7;
    let normaliser = if raw { Normaliser::Raw } else { Normaliser::Adjusted };
    let (scores, eos_ids) = (scores.to_vec(), eos_ids.to_vec());
    let spec = StepSpec {
        scores: scores.clone(),
        beams,
        eos_ids: eos_ids.clone(),
        temperature,
        normaliser,
    };
    let of_row = |row: usize| Adjustments {
        banned_ids: vec![row as u32 + 1],
        output: vec![row as u32 + 40, 50],
        ..Default::default()
    };
    let adjustments = match params == ParamsSpec::default() {
        true => vec![],
        false => (0..scores.len()).map(of_row).collect(),
    };
    let coefficients = SamplingParams {
        repetition_penalty: Some(params.repetition_penalty),
        min_tokens: params.min_tokens,
        ..Default::default()
    };
    let group = BeamGroup {
        rows: Some(scores.len() as u32),
        scores,
        beams,
        eos_ids,
        temperature: Some(temperature),
        normaliser: if raw { BeamNormaliser::Raw.into() } else { 0 },
        params: vec![coefficients],
        adjustments: adjustments.clone(),
        ..Default::default()
    };
    Asked { group, spec, params, adjustments }
}

/// What the reference says of a group whose rows these are.
fn stepped(asked: &Asked, all: &[u8]) -> Stepped {
    let step = asked.spec.clone().parse(VOCAB_SIZE as u32).unwrap();
    let inspect = step.inspect();
    let params = ParamsSpec { temperature: 0.0, seed: Some(1), ..asked.params };
    let params = params.parse(|| unreachable!("it has a seed")).unwrap();
    let adjusted: Vec<Parsed> = asked
        .adjustments
        .iter()
        .map(|set| {
            let mut spec = wire::adjustments::spec(set.clone()).unwrap();
            spec.stop_ids = asked.spec.eos_ids.clone();
            spec.parse(VOCAB_SIZE as u32, AdjustmentLimits::default()).unwrap()
        })
        .collect();
    let rows: Vec<Row<'_>> = all
        .chunks(ROW_BYTES)
        .enumerate()
        .map(|(i, logits)| {
            let row = Row::new(RowDtype::F16, logits, params).unwrap();
            row.with_adjustments(adjusted.get(i)).with_inspect(Some(&inspect))
        })
        .collect();
    let mut results = Results::default();
    Reference::default().sample(&rows, &mut results).unwrap();
    let found = results.iter().map(|row| row.inspection.unwrap().continuations.as_ref().unwrap());
    step.merge(found)
}

fn is(result: &BeamGroupResult, wanted: &Stepped) {
    assert_eq!(wire::beam::stepped(result).as_ref(), Ok(wanted));
}

/// Groups of several kinds over one batch, and what is wanted of each.
fn groups() -> (BeamStepRequest, Vec<Stepped>) {
    let mut all = logits(9, VOCAB_SIZE, 4).to_vec();
    // A row without a distribution, and one that has none as it is stored: the NaN is banned.
    all[3 * ROW_BYTES..][..2].copy_from_slice(&half::f16::NAN.to_le_bytes());
    all[7 * ROW_BYTES + 4..][..2].copy_from_slice(&half::f16::NAN.to_le_bytes());
    let units = |nats: f64| (nats * (1u64 << 32) as f64) as i64;
    let scores = [0, units(-0.5), units(-0.25)];
    let asked = [
        asked(&[0], 4, &[5, 6, 7], false, ParamsSpec::default()),
        asked(&scores, 3, &[], false, ParamsSpec::default()),
        asked(&scores[1..], 2, &[1, 2, 90], false, penalised()),
        asked(&scores, 64, &[11], true, penalised()),
    ];
    let mut wanted = vec![];
    let mut first = 0;
    for one in &asked {
        let rows = one.spec.scores.len();
        wanted.push(stepped(one, &all[first * ROW_BYTES..][..rows * ROW_BYTES]));
        first += rows;
    }
    let request = BeamStepRequest {
        dtype: Dtype::F16.into(),
        vocab_size: VOCAB_SIZE as u32,
        logits: all.into(),
        rows: Some(9),
        groups: asked.into_iter().map(|one| one.group).collect(),
        ..Default::default()
    };
    (request, wanted)
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_go_on_as_the_reference_says() {
    for server in [TestServer::start(&[]).await, TestServer::with(&[], vec![cpu()]).await] {
        let client = server.client().await;
        let (request, wanted) = groups();
        let response = client.beam_step(request).await.unwrap();
        assert_eq!(response.groups.len(), wanted.len());
        response.groups.iter().zip(&wanted).for_each(|(group, wanted)| is(group, wanted));
        assert_eq!(response.plane(), Plane::Inline);
        let statuses: Vec<RowStatus> = response.groups[1].statuses().collect();
        assert_eq!(statuses, [RowStatus::Ok, RowStatus::Ok, RowStatus::Nan]);
        let statuses: Vec<RowStatus> = response.groups[3].statuses().collect();
        assert_eq!(statuses, [RowStatus::Ok, RowStatus::Nan, RowStatus::Ok]);
        server.idle().await;
    }
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn rows_may_lie_in_shared_memory_in_any_order() {
    let host = OnThisHost::start(&[]).await;
    let (mut request, mut wanted) = groups();
    let mut region = Region::register(&host.control, 1 << 16, 1).unwrap();
    region.slot_mut(0)[..request.logits.len()].copy_from_slice(&request.logits);
    request.slot = Some(region.commit(0, request.logits.len()));
    request.logits = Bytes::new();
    let mut first = 0;
    for group in &mut request.groups {
        group.first_row = Some(first);
        first += group.scores.len() as u32;
    }
    request.groups.reverse();
    wanted.reverse();
    let response = host.client.beam_step(request).await.unwrap();
    response.groups.iter().zip(&wanted).for_each(|(group, wanted)| is(group, wanted));
    assert_eq!(response.plane(), Plane::SharedMemory);
    host.server.idle().await;
}

/// The rows of a model whose logits are made from the text: the group's number, and the tokens.
fn rows_behind(open: &[&Group]) -> Bytes {
    let mix = |salt: u64, token: &u32| salt.wrapping_mul(31).wrapping_add(u64::from(*token) + 1);
    let row = |group: &Group| {
        let texts = group.beams().iter().map(|beam| &beam.tokens);
        let salts = texts.map(|text| text.iter().fold(group.index() as u64 + 7, mix));
        salts.flat_map(|salt| logits(1, VOCAB_SIZE, salt)).collect::<Vec<u8>>()
    };
    open.iter().flat_map(|group| row(group)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_on_a_server_finds_what_it_finds_with_the_reference() {
    let server = TestServer::with(&[], vec![cpu()]).await;
    let client = server.client().await;
    let eos_ids: Vec<u32> = (0..VOCAB_SIZE as u32).step_by(9).collect();
    let options = Options { beams: 4, eos_ids, max_length: 9, ..Options::default() };
    let search = || Search::new(options.clone(), 3).unwrap();
    let request = |open: &[&Group], groups: usize| BeamStepRequest {
        dtype: Dtype::F16.into(),
        vocab_size: VOCAB_SIZE as u32,
        logits: rows_behind(open),
        groups: vec![BeamGroup { temperature: Some(0.7), ..Default::default() }; groups],
        ..Default::default()
    };
    let asks = |open: &[&Group]| {
        let request = request(open, open.len());
        async { Ok::<_, Error>(request) }
    };
    let found = search().run_on(&client, asks).await.unwrap();
    let mut steps = 0;
    let wanted = search().run(|open| {
        steps += 1;
        let step = |group: &&Group| {
            let scores: Vec<i64> = group.beams().iter().map(|beam| beam.score).collect();
            let asked = asked(&scores, 4, &options.eos_ids, false, ParamsSpec::default());
            Step::try_from(wire::beam::message(&stepped(&asked, &rows_behind(&[*group]))))
        };
        open.iter().map(step).collect::<Result<Vec<_>, Error>>()
    });
    assert_eq!(found, wanted.unwrap());
    assert!(steps > 1 && found.len() == 3, "{steps} steps, {found:?}");
    let lengths = found.iter().flat_map(|one| &one.texts).map(|text| text.tokens.len());
    assert!(lengths.clone().any(|length| length != found[0].texts[0].tokens.len()), "{found:?}");

    // What the server refuses, and what the function does, ends a search by name.
    let wrong = |open: &[&Group]| {
        let request = BeamStepRequest { vocab_size: 0, ..request(open, 0) };
        async { Ok::<_, Error>(request) }
    };
    let error = search().run_on(&client, wrong).await.unwrap_err();
    assert!(matches!(&error, RunError::Step(Error::Status(_))), "{error}");
    assert!(error.to_string().contains("vocab_size is 0"), "{error}");
    let wrong = |open: &[&Group]| {
        let request = request(open, 2);
        async { Ok::<_, Error>(request) }
    };
    let error = search().run_on(&client, wrong).await.unwrap_err().to_string();
    assert_eq!(error, "a step that does not fit: a request of 2 groups, and 3 are open");
    server.idle().await;
}

async fn refused(client: &Client, request: BeamStepRequest) -> (Code, String) {
    match client.beam_step(request).await.unwrap_err() {
        Error::Status(status) => (status.code(), status.message().to_owned()),
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_named() {
    let server = TestServer::with(&["--beams-max=8"], vec![cpu()]).await;
    let client = server.client().await;
    let plain = || BeamStepRequest {
        dtype: Dtype::F16.into(),
        vocab_size: VOCAB_SIZE as u32,
        logits: logits(2, VOCAB_SIZE, 1),
        groups: vec![BeamGroup { scores: vec![0, -9], beams: 2, ..Default::default() }],
        ..Default::default()
    };
    let with = |change: &dyn Fn(&mut BeamGroup)| {
        let mut request = plain();
        change(&mut request.groups[0]);
        request
    };
    let set = |params: SamplingParams| vec![params];
    for (request, text) in [
        (BeamStepRequest { groups: vec![], ..plain() }, "groups: groups is empty"),
        (BeamStepRequest { vocab_size: 0, ..plain() }, "vocab_size: vocab_size is 0"),
        (
            BeamStepRequest { logits: logits(4, VOCAB_SIZE, 1), ..plain() },
            "logits: row 2 of 4 is in no group; allowed",
        ),
        (with(&|g| g.beams = 0), "groups[0].beams: beams is 0; allowed: 1 to 8"),
        (with(&|g| g.beams = 1), "groups[0].scores: scores has 2 scores; allowed: up to 1"),
        (with(&|g| g.scores[1] = i64::MIN), "groups[0].scores[1]: scores is -9223372036854775808"),
        (with(&|g| g.scores = vec![]), "groups[0].scores: scores is empty"),
        (with(&|g| g.eos_ids = vec![3, 3]), "groups[0].eos_ids[1]: eos_ids is 3"),
        (with(&|g| g.eos_ids = vec![97]), "groups[0].eos_ids[0]: eos_ids is 97; allowed"),
        (with(&|g| g.temperature = Some(0.0)), "groups[0].temperature: temperature is 0; allowed"),
        (with(&|g| g.normaliser = 9), "groups[0].normaliser: normaliser is 9; allowed"),
        (with(&|g| g.rows = Some(3)), "groups[0].rows: rows is 3, and it has 2 rows"),
        (with(&|g| g.first_row = Some(1)), "groups[0].first_row: first_row is 1"),
        (
            BeamStepRequest { logits: logits(1, VOCAB_SIZE, 1), ..plain() },
            "logits: logits has 1 rows, and groups[0] has 2, from row 0 on",
        ),
        // 8 GB, if every set had them all.
        (
            with(&|g| {
                g.eos_ids = (0..1_000_000).collect();
                g.params = set(SamplingParams { min_tokens: 1, ..Default::default() });
                g.adjustments = vec![Adjustments::default(); 2000];
            }),
            "groups[0].eos_ids: eos_ids has 1000000 tokens; allowed: up to 32",
        ),
        (
            with(&|g| g.params = set(SamplingParams { top_k: 3, ..Default::default() })),
            "groups[0].params[0].top_k: top_k is 3, and a step of beams cuts and draws nothing",
        ),
        (
            with(&|g| {
                g.params =
                    set(SamplingParams { repetition_penalty: Some(0.0), ..Default::default() });
            }),
            "groups[0].params[0].repetition_penalty: repetition_penalty is 0",
        ),
        (
            with(&|g| g.params = vec![SamplingParams::default(); 3]),
            "groups[0].params: params has 3 for 2 rows",
        ),
        (
            with(&|g| {
                g.adjustments = vec![Adjustments { banned_ids: vec![97], ..Default::default() }]
            }),
            "groups[0].adjustments[0].banned_ids[0]: banned_ids[0] is token 97",
        ),
    ] {
        let (code, message) = refused(&client, request).await;
        assert_eq!(code, Code::InvalidArgument, "{message}");
        assert!(message.contains(text), "{message:?} has no {text:?}");
    }
    let (code, message) = refused(&client, with(&|g| g.beams = 9)).await;
    assert_eq!(code, Code::OutOfRange);
    assert!(
        message.contains("beams of a group is 9; this server allows 8 (--beams-max)"),
        "{message}"
    );
    assert!(client.beam_step(plain()).await.is_ok(), "as it is, it is right");
    server.idle().await;
}
