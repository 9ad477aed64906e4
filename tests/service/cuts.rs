//! Cuts, profiles and the state of sequences: over every way to the server, as the reference has them.

use crate::harness::{OnThisHost, TestServer, cpu, expected, request};
use bytes::Bytes;
use logitd_client::{Client, Region};
use logitd_proto::{
    Adjustments, Candidates, DrawRule, Logprobs, LogprobsOf, OnInvalidRow, ParamColumns, Plane,
    Profile, ResultColumns, RowResult, SampleRequest, SampleResponse, SamplingParams,
};
use std::collections::BTreeSet;
use tonic::Code;

/// Sets that each have a cut, or a profile that has another order of them.
fn sets() -> Vec<SamplingParams> {
    let off = SamplingParams::default;
    let of = |profile: Profile| SamplingParams { profile: profile.into(), top_k: 20, ..off() };
    let mut sets = vec![
        SamplingParams { top_n_sigma: 1.0, ..off() },
        SamplingParams { top_h: 0.4, ..off() },
        SamplingParams { top_a: 0.3, ..off() },
        SamplingParams { epsilon_cutoff: 0.002, ..off() },
        SamplingParams { eta_cutoff: 0.004, ..off() },
        SamplingParams { typical_p: Some(0.5), draws: Some(3), ..off() },
        SamplingParams { mirostat_tau: 3.0, ..off() },
        SamplingParams { mirostat_tau: 3.0, mirostat_mu: Some(2.5), ..off() },
        SamplingParams { xtc_probability: 1.0, xtc_threshold: Some(0.001), ..off() },
        SamplingParams { adaptive_target: Some(0.01), top_k: 30, ..off() },
        SamplingParams {
            adaptive_target: Some(0.0),
            adaptive_decay: Some(0.5),
            adaptive_sum: Some(0.25),
            adaptive_weight: Some(1.5),
            ..off()
        },
        SamplingParams { dynatemp_range: 0.7, dynatemp_exponent: Some(2.0), ..off() },
        SamplingParams { min_p: 0.01, ..of(Profile::Hf) },
        SamplingParams { min_p: 0.01, ..of(Profile::Vllm) },
        SamplingParams { top_p: Some(0.5), ..of(Profile::Sglang) },
        SamplingParams { typical_p: Some(0.9), ..of(Profile::Llamacpp) },
    ];
    for (i, set) in sets.iter_mut().enumerate() {
        set.temperature = Some(1.5);
        (set.seed, set.position) = (Some(i as u64 * 7), 5);
        if i % 3 == 1 {
            set.draw_rule = DrawRule::Race.into();
        }
    }
    sets
}

/// A row for each of these sets.
fn cut(vocab_size: usize, salt: u64) -> SampleRequest {
    let params = sets();
    SampleRequest { params: params.clone(), ..request(params.len(), vocab_size, salt) }
}

/// The same request, with its parameters as columns.
fn in_columns(request: &SampleRequest) -> SampleRequest {
    let params = &request.params;
    fn each<T>(params: &[SamplingParams], value: impl Fn(&SamplingParams) -> T) -> Vec<T> {
        params.iter().map(value).collect()
    }
    let nan = f32::NAN;
    let columns = ParamColumns {
        temperature: each(params, |p| p.temperature.unwrap_or(1.0)),
        top_k: each(params, |p| p.top_k),
        top_p: each(params, |p| p.top_p.unwrap_or(1.0)),
        min_p: each(params, |p| p.min_p),
        seed: each(params, |p| p.seed.unwrap()),
        position: each(params, |p| p.position),
        draws: each(params, |p| p.draws.unwrap_or(1)),
        draw_rule: each(params, |p| p.draw_rule),
        profile: each(params, |p| p.profile),
        top_n_sigma: each(params, |p| p.top_n_sigma),
        top_h: each(params, |p| p.top_h),
        top_a: each(params, |p| p.top_a),
        epsilon_cutoff: each(params, |p| p.epsilon_cutoff),
        eta_cutoff: each(params, |p| p.eta_cutoff),
        typical_p: each(params, |p| p.typical_p.unwrap_or(1.0)),
        mirostat_tau: each(params, |p| p.mirostat_tau),
        mirostat_eta: vec![],
        mirostat_mu: each(params, |p| p.mirostat_mu.unwrap_or(nan)),
        xtc_probability: each(params, |p| p.xtc_probability),
        xtc_threshold: each(params, |p| p.xtc_threshold.unwrap_or(0.1)),
        adaptive_target: each(params, |p| p.adaptive_target.unwrap_or(nan)),
        adaptive_decay: each(params, |p| p.adaptive_decay.unwrap_or(0.9)),
        adaptive_sum: each(params, |p| p.adaptive_sum.unwrap_or(nan)),
        adaptive_weight: each(params, |p| p.adaptive_weight.unwrap_or(nan)),
        dynatemp_range: each(params, |p| p.dynatemp_range),
        dynatemp_exponent: each(params, |p| p.dynatemp_exponent.unwrap_or(1.0)),
        ..Default::default()
    };
    SampleRequest {
        params: vec![],
        columns: Some(columns),
        return_columns: true,
        ..request.clone()
    }
}

/// What an answer in columns says of tokens, of kept tokens and of states, by rows.
fn told(answer: &SampleResponse) -> Vec<(i32, u32, u64, [Option<u32>; 3])> {
    let columns = answer.columns.as_ref().expect("columns");
    let ResultColumns { tokens, kept, kept_mass, .. } = columns;
    let state = |states: &[f32], row: usize| {
        states.get(row).filter(|state| !state.is_nan()).map(|state| state.to_bits())
    };
    let of_row = |row: usize| {
        let states = [&columns.mirostat_mu, &columns.adaptive_sum, &columns.adaptive_weight];
        (tokens[row], kept[row], kept_mass[row], states.map(|states| state(states, row)))
    };
    (0..tokens.len()).map(of_row).collect()
}

/// The same of rows.
fn of_rows(rows: &[RowResult]) -> Vec<(i32, u32, u64, [Option<u32>; 3])> {
    let of_row = |row: &RowResult| {
        let states = [row.mirostat_mu, row.adaptive_sum, row.adaptive_weight];
        let token = row.token.map_or(-1, |token| token as i32);
        (token, row.kept, row.kept_mass, states.map(|state| state.map(f32::to_bits)))
    };
    rows.iter().map(of_row).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_with_cuts_are_answered_as_the_reference_answers_them() {
    for server in [TestServer::start(&[]).await, TestServer::with(&[], vec![cpu()]).await] {
        let client = server.client().await;
        // Mirostat, adaptive-p and the profiles can keep as much; these cut something in one of the sizes.
        const CUT: [usize; 8] = [0, 1, 2, 3, 4, 5, 8, 11];
        let mut seen = BTreeSet::new();
        for (vocab_size, salt) in [(50, 1), (1000, 2), (70_001, 3)] {
            let request = cut(vocab_size, salt);
            let wanted = expected(&request);
            assert_eq!(client.sample(request.clone()).await.unwrap().rows, wanted);
            assert_eq!(client.sample_all(request.clone()).await.unwrap(), wanted);
            let answer = client.sample(in_columns(&request)).await.unwrap();
            assert_eq!(told(&answer), of_rows(&wanted));
            for (i, row) in wanted.iter().enumerate() {
                let states = [row.mirostat_mu, row.adaptive_sum, row.adaptive_weight];
                let has = states.map(|state| state.is_some());
                assert_eq!(
                    has,
                    [i == 6 || i == 7, i == 9 || i == 10, i == 9 || i == 10],
                    "row {i}"
                );
            }
            let off = SampleRequest {
                params: request.params.iter().map(without_cuts).collect(),
                ..request.clone()
            };
            let plain = expected(&off);
            let other = |i: &usize| wanted[*i].kept_mass != plain[*i].kept_mass;
            seen.extend(CUT.into_iter().filter(other));
        }
        assert!(CUT.iter().all(|i| seen.contains(i)), "not every cut has an effect: {seen:?}");
        server.idle().await;
    }
}

/// The same set with only what version 1 has.
fn without_cuts(set: &SamplingParams) -> SamplingParams {
    let SamplingParams { temperature, top_k, top_p, min_p, seed, position, draws, .. } = *set;
    SamplingParams {
        temperature,
        top_k,
        top_p,
        min_p,
        seed,
        position,
        draws,
        draw_rule: set.draw_rule,
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_and_chunks_take_cuts_with_masks_and_logprobs() {
    let server = TestServer::with(&["--message-bytes-max=64KiB"], vec![cpu()]).await;
    let client = server.client().await;
    let mut request = cut(3001, 4);
    for set in &mut request.params {
        let of = vec![LogprobsOf::Raw.into(), LogprobsOf::Sampled.into()];
        set.logprobs = Some(Logprobs { of, top: 3, ids: vec![7] });
        set.return_kept = true;
    }
    let mask = vec![0x77; 3001usize.div_ceil(32) * 4];
    request.adjustments = vec![Adjustments { allowed_bitmask: mask.into(), ..Default::default() }];
    let wanted = expected(&request);
    let mut info = client.info().await.unwrap();
    info.chunk_bytes = 20_000;
    let chunked = client.sample_chunked(request.clone(), &info).await.unwrap();
    assert_eq!(chunked.rows, wanted);
    let mut stream = client.stream().await.unwrap();
    request.params.truncate(8);
    request.logits.truncate(8 * 3001 * 2);
    stream.send(request).await.unwrap();
    let (_, answer) = stream.receive().await.unwrap().unwrap();
    assert_eq!(answer.unwrap().rows, wanted[..8]);
    // States of some chunks only are told of all rows.
    let plain = in_columns(&cut(3001, 4));
    let answer = client.sample_chunked(plain, &info).await.unwrap();
    assert_eq!(told(&answer), of_rows(&expected(&cut(3001, 4))));
    drop(stream);
    server.idle().await;
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn slots_and_direct_calls_take_cuts() {
    let host = OnThisHost::start(&[]).await;
    let mut region = Region::register(&host.control, 2 << 20, 1).unwrap();
    let inline = cut(9001, 5);
    let wanted = expected(&inline);
    region.slot_mut(0)[..inline.logits.len()].copy_from_slice(&inline.logits);
    let mut by_slot = SampleRequest { logits: Bytes::new(), ..inline.clone() };
    by_slot.slot = Some(region.commit(0, inline.logits.len()));
    let answer = host.client.sample(by_slot.clone()).await.unwrap();
    assert_eq!((&answer.rows, answer.plane()), (&wanted, Plane::SharedMemory));
    let mut calls = host.client.direct().await.unwrap();
    by_slot.slot = Some(region.commit(0, inline.logits.len()));
    assert_eq!(calls.sample(&by_slot).await.unwrap().rows, wanted);
    let mut by_columns = in_columns(&by_slot);
    by_columns.slot = Some(region.commit(0, inline.logits.len()));
    assert_eq!(told(&calls.sample(&by_columns).await.unwrap()), of_rows(&wanted));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sequence_goes_on_with_the_state_that_its_answers_carry() {
    let server = TestServer::with(&[], vec![cpu()]).await;
    let client = server.client().await;
    let params = |mirostat_tau, adaptive_target| SamplingParams {
        mirostat_tau,
        adaptive_target,
        seed: Some(3),
        ..Default::default()
    };
    let mut request = request(3, 2000, 9);
    request.params = vec![params(4.0, None), params(0.0, None), params(0.0, Some(0.02))];
    let mut columns = in_columns(&request);
    let mut seen = Vec::new();
    for position in 0..6 {
        request.params.iter_mut().for_each(|set| set.position = position);
        let rows = client.sample(request.clone()).await.unwrap().rows;
        assert_eq!(rows, expected(&request), "position {position}");
        for (row, set) in rows.iter().zip(&mut request.params) {
            set.mirostat_mu = row.mirostat_mu;
            (set.adaptive_sum, set.adaptive_weight) = (row.adaptive_sum, row.adaptive_weight);
        }
        // The columns of an answer go back as they are.
        let given = columns.columns.as_mut().unwrap();
        given.position = vec![position];
        let answer = client.sample(columns.clone()).await.unwrap();
        assert_eq!(told(&answer), of_rows(&rows));
        let told = answer.columns.unwrap();
        let given = columns.columns.as_mut().unwrap();
        given.mirostat_mu = told.mirostat_mu;
        (given.adaptive_sum, given.adaptive_weight) = (told.adaptive_sum, told.adaptive_weight);
        seen.push((rows[0].mirostat_mu.unwrap(), rows[2].adaptive_sum.unwrap()));
    }
    seen.dedup();
    assert_eq!(seen.len(), 6, "{seen:?}");
    server.idle().await;
}

/// What is refused, by its field and what is said of it.
async fn refused(client: &Client, request: SampleRequest) -> (String, String) {
    let error = client.sample(request).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::InvalidArgument), "{error}");
    let mut found = error.violations();
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn cuts_that_cannot_be_are_refused_by_name() {
    let server = TestServer::start(&[]).await;
    let client = server.client().await;
    let off = SamplingParams::default;
    let hf = Profile::Hf.into();
    for (set, field, words) in [
        (
            SamplingParams { top_n_sigma: 101.0, ..off() },
            "top_n_sigma",
            "is 101; allowed: 0 to 100",
        ),
        (SamplingParams { top_h: 1.5, ..off() }, "top_h", "is 1.5; allowed"),
        (SamplingParams { top_a: f32::NAN, ..off() }, "top_a", "is NaN; allowed"),
        (SamplingParams { epsilon_cutoff: 1.0, ..off() }, "epsilon_cutoff", "is 1; allowed"),
        (SamplingParams { eta_cutoff: -0.1, ..off() }, "eta_cutoff", "is -0.1; allowed"),
        (SamplingParams { typical_p: Some(0.0), ..off() }, "typical_p", "is 0; allowed: above 0"),
        (SamplingParams { mirostat_tau: 101.0, ..off() }, "mirostat_tau", "is 101; allowed"),
        (SamplingParams { mirostat_eta: Some(11.0), ..off() }, "mirostat_eta", "is 11; allowed"),
        (
            SamplingParams { mirostat_mu: Some(f32::INFINITY), ..off() },
            "mirostat_mu",
            "is inf; allowed: finite",
        ),
        (SamplingParams { xtc_probability: 1.5, ..off() }, "xtc_probability", "is 1.5; allowed"),
        (SamplingParams { xtc_threshold: Some(0.0), ..off() }, "xtc_threshold", "is 0; allowed"),
        (
            SamplingParams { adaptive_target: Some(2.0), ..off() },
            "adaptive_target",
            "is 2; allowed",
        ),
        (SamplingParams { adaptive_decay: Some(1.0), ..off() }, "adaptive_decay", "is 1; allowed"),
        (
            SamplingParams { adaptive_weight: Some(-1.0), ..off() },
            "adaptive_weight",
            "is -1; allowed",
        ),
        (SamplingParams { dynatemp_range: -1.0, ..off() }, "dynatemp_range", "is -1; allowed"),
        (
            SamplingParams { dynatemp_exponent: Some(0.0), ..off() },
            "dynatemp_exponent",
            "is 0; allowed: 0.01 to 100",
        ),
        (SamplingParams { profile: 9, ..off() }, "profile", "is 9; allowed: logitd, hf"),
        (SamplingParams { profile: hf, top_n_sigma: 1.0, ..off() }, "top_n_sigma", "under"),
        (
            SamplingParams { mirostat_tau: 5.0, draws: Some(2), ..off() },
            "draws",
            "is 2; allowed: 1",
        ),
        (
            SamplingParams { mirostat_tau: 5.0, adaptive_target: Some(0.5), ..off() },
            "adaptive_target",
            "beside mirostat_tau",
        ),
    ] {
        let whole = SampleRequest { params: vec![set.clone()], ..request(2, 100, 1) };
        let (path, said) = refused(&client, whole.clone()).await;
        assert_eq!(path, format!("params[0].{field}"), "{said}");
        assert!(said.contains(words), "{said}");
        // By rows.
        let mut by_row = SampleRequest { params: vec![set.clone(), off()], ..whole };
        by_row.on_invalid_row = OnInvalidRow::Status.into();
        let rows = client.sample(by_row).await.unwrap().rows;
        assert_eq!(rows[0].violation.as_ref().unwrap().field, format!("params.{field}"));
        assert!(rows[1].token.is_some());
    }
    server.idle().await;
}

/// The first `count` tokens of each row, as candidates.
fn sparse(whole: &SampleRequest, count: usize) -> SampleRequest {
    let row_bytes = whole.vocab_size as usize * 2;
    let (mut counts, mut tokens, mut logits) = (vec![], vec![], vec![]);
    for row in whole.logits.chunks_exact(row_bytes) {
        let dtype = logitd_core::batch::Dtype::F16;
        let first = logitd_core::candidates::top(dtype, row, count);
        counts.extend((count as u32).to_le_bytes());
        tokens.extend(first.0);
        logits.extend(first.1);
    }
    let candidates = Some(Candidates { counts: counts.into(), tokens: tokens.into() });
    SampleRequest { logits: logits.into(), candidates, ..whole.clone() }
}

#[tokio::test(flavor = "multi_thread")]
async fn candidates_have_the_cuts_that_look_at_nothing_else() {
    let server = TestServer::with(&[], vec![cpu()]).await;
    let client = server.client().await;
    let mut whole = cut(900, 6);
    for set in &mut whole.params {
        set.top_k = 40;
        (set.top_n_sigma, set.dynatemp_range) = (0.0, 0.0);
        if set.profile != i32::from(Profile::Llamacpp) {
            set.profile = Profile::Logitd.into();
        }
    }
    let answer = client.sample(sparse(&whole, 64)).await.unwrap();
    assert_eq!((answer.plane(), answer.rows), (Plane::Candidates, expected(&whole)));
    let base = SamplingParams { top_k: 5, seed: Some(1), ..Default::default() };
    for (set, field) in [
        (SamplingParams { top_n_sigma: 1.0, ..base.clone() }, "top_n_sigma"),
        (SamplingParams { dynatemp_range: 0.5, ..base.clone() }, "dynatemp_range"),
        (SamplingParams { profile: Profile::Hf.into(), ..base.clone() }, "profile"),
        (SamplingParams { profile: Profile::Vllm.into(), ..base.clone() }, "profile"),
        (SamplingParams { profile: Profile::Sglang.into(), ..base.clone() }, "profile"),
        (SamplingParams { typical_p: Some(0.5), top_k: 0, ..base.clone() }, "top_k"),
        // Greedy, but not the first token: these cuts would look at ten where the row has twenty for them.
        (
            SamplingParams {
                profile: Profile::Llamacpp.into(),
                temperature: Some(0.0),
                typical_p: Some(0.5),
                top_k: 20,
                ..base.clone()
            },
            "typical_p",
        ),
    ] {
        let whole = SampleRequest { params: vec![set], ..request(2, 100, 1) };
        let (path, said) = refused(&client, sparse(&whole, 10)).await;
        assert_eq!(path, format!("params[0].{field}"), "{said}");
        assert!(said.contains("10 candidates of 100 tokens"), "{said}");
        let all = client.sample(sparse(&whole, 100)).await.unwrap();
        assert_eq!(all.rows, expected(&whole));
    }
    server.idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_names_what_it_knows() {
    let server = TestServer::start(&[]).await;
    let info = server.client().await.info().await.unwrap();
    for control in ["profile", "top_n_sigma", "typical_p", "xtc_probability", "mirostat_tau"] {
        assert!(info.controls.iter().any(|name| name == control), "{control}");
    }
    assert_eq!(info.profiles, [1, 2, 3, 4, 5]);
}
