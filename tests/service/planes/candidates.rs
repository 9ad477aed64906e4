//! Rows by their candidates.

use super::*;

/// A row's tokens in the total order, by its definition; NaN first.
fn in_order(row: &batch::Row<'_>) -> Vec<u32> {
    let mut order: Vec<u32> = (0..row.vocab_size()).collect();
    let descending = |a: &u32, b: &u32| {
        let (x, y) = (row.logit(*a), row.logit(*b));
        match (x.is_nan(), y.is_nan()) {
            (true, true) => a.cmp(b),
            (nan, other) if nan != other => other.cmp(&nan),
            _ => y.partial_cmp(&x).expect("no NaN").then(a.cmp(b)),
        }
    };
    order.sort_by(descending);
    order
}

fn proto_dtype(dtype: batch::Dtype) -> Dtype {
    match dtype {
        batch::Dtype::F16 => Dtype::F16,
        batch::Dtype::Bf16 => Dtype::Bf16,
        batch::Dtype::F32 => Dtype::F32,
    }
}

fn shuffle(random: &mut Random, tokens: &mut [u32]) {
    for i in (1..tokens.len()).rev() {
        tokens.swap(i, random.below(i as u64 + 1) as usize);
    }
}

/// A generated row three times, whole and by its candidates, with parameters that make them enough:
/// the first N, the first top_k and others, and a greedy one.
fn case(index: u64) -> (SampleRequest, SampleRequest) {
    let case = generate::case(61, index, 5000);
    let row = case.row();
    let vocab_size = u64::from(row.vocab_size());
    let mut random = Random::new(62, index);
    let order = in_order(&row);
    let mut params = SamplingParams {
        temperature: Some(row.params().temperature()),
        top_k: row.params().top_k().unwrap_or(0),
        top_p: Some(row.params().top_p().unwrap_or(1.0)),
        min_p: row.params().min_p().unwrap_or(0.0),
        seed: Some(row.params().seed()),
        position: row.params().position(),
        draws: Some(row.params().draws().max(50)),
        draw_rule: DrawRule::Cumulative.into(),
        ..Default::default()
    };
    let mut sets = Vec::new();
    let mut rows = Vec::new();

    // The row's own cut where it has one, or another; exactly the first N, a tie at the border or not.
    if params.top_k == 0 || u64::from(params.top_k) > vocab_size {
        params.top_k = 1 + random.below(vocab_size) as u32;
    }
    let more = random.below(vocab_size - u64::from(params.top_k) + 1) as usize;
    let n = params.top_k as usize + if random.below(2) == 0 { 0 } else { more };
    sets.push(params.clone());
    rows.push(order[..n].to_vec());
    // The first top_k, and others from anywhere behind them.
    let (first, behind) = order.split_at(params.top_k as usize);
    let others = behind.iter().copied().filter(|_| random.below(3) == 0).collect();
    sets.push(SamplingParams { seed: Some(random.bits()), position: 9, ..params.clone() });
    rows.push([first.to_vec(), others].concat());
    sets.push(SamplingParams {
        temperature: Some(0.0),
        top_k: random.below(9) as u32,
        ..params.clone()
    });
    rows.push(order[..1 + random.below(vocab_size.min(9)) as usize].to_vec());
    // All of them: no cut needs to be there.
    sets.push(SamplingParams { top_k: 0, ..params });
    rows.push(order);
    // By race: the noise belongs to the tokens, wherever they stand among the candidates.
    for i in 0..sets.len() {
        sets.push(SamplingParams { draw_rule: DrawRule::Race.into(), ..sets[i].clone() });
        rows.push(rows[i].clone());
    }

    let whole = SampleRequest {
        dtype: proto_dtype(case.dtype).into(),
        vocab_size: row.vocab_size(),
        logits: case.logits.repeat(rows.len()).into(),
        params: sets,
        ..Default::default()
    };
    let rows: Vec<Sparse> = rows
        .into_iter()
        .map(|mut tokens| {
            shuffle(&mut random, &mut tokens);
            Sparse::of(&row, tokens)
        })
        .collect();
    (whole.clone(), sparse(whole, &rows))
}

#[tokio::test(flavor = "multi_thread")]
async fn candidates_give_the_bits_of_the_whole_row() {
    let servers = [TestServer::start(&[]).await, TestServer::with(&[], vec![cpu()]).await];
    let clients = [servers[0].client().await, servers[1].client().await];
    let mut statuses = std::collections::HashSet::new();
    for index in 0..600 {
        let (whole, sparse) = case(index);
        let expected = expected(&whole);
        for client in &clients {
            let response = client.sample(sparse.clone()).await;
            let response = response.unwrap_or_else(|error| panic!("case {index}: {error}"));
            assert_eq!(response.rows, expected, "case {index}, {}", response.device);
            assert_eq!(response.plane(), Plane::Candidates);
        }
        statuses.extend(expected.iter().map(RowResult::status));
    }
    assert_eq!(statuses.len(), 4, "every status came up: {statuses:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn candidates_of_large_rows_are_sampled_in_any_order() {
    let server = TestServer::with(&[], vec![cpu()]).await;
    let client = server.client().await;
    let mut whole = request(3, 100_000, 8);
    for params in &mut whole.params {
        (params.top_k, params.draws) = (1000, Some(100));
    }
    let rows: Vec<Sparse> = (0..3)
        .map(|i| {
            let logits = &whole.logits[i * 200_000..][..200_000];
            let params = logitd_core::params::ParamsSpec::default().parse(|| 0).unwrap();
            let row = batch::Row::new(batch::Dtype::F16, logits, params).unwrap();
            let n = [1000, 20_000, 100_000][i];
            let mut tokens = in_order(&row)[..n].to_vec();
            shuffle(&mut Random::new(3, i as u64), &mut tokens);
            Sparse::of(&row, tokens)
        })
        .collect();
    let response = client.sample(sparse(whole.clone(), &rows)).await.unwrap();
    assert_eq!(response.rows, expected(&whole));
    server.idle().await;
}

/// What the crate's own selection finds is what the server wants.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_tokens_of_a_row_are_enough_for_it() {
    let server = TestServer::start(&[]).await;
    let client = server.client().await;
    for index in 0..200 {
        let case = generate::case(63, index, 3000);
        let row = case.row();
        let n = 1 + Random::new(64, index).below(row.vocab_size().into()) as usize;
        let (tokens, logits) = logitd_core::candidates::top(case.dtype, &case.logits, n);
        let params = SamplingParams {
            top_k: n as u32,
            top_p: Some(row.params().top_p().unwrap_or(1.0)),
            seed: Some(index),
            draws: Some(20),
            ..Default::default()
        };
        let whole = SampleRequest {
            dtype: proto_dtype(case.dtype).into(),
            vocab_size: row.vocab_size(),
            logits: case.logits.clone().into(),
            params: vec![params],
            ..Default::default()
        };
        let mut sparse = SampleRequest { logits: logits.into(), ..whole.clone() };
        let counts = le(&[n as u32]);
        sparse.candidates = Some(Candidates { counts, tokens: tokens.into() });
        assert_eq!(client.sample(sparse).await.unwrap().rows, expected(&whole), "case {index}");
    }
}

/// -0.0 ties with +0.0, the lower id goes first, and the border may stand between the two.
#[tokio::test(flavor = "multi_thread")]
async fn zeros_of_both_signs_tie_at_the_border() {
    let server = TestServer::start(&[]).await;
    let client = server.client().await;
    let values = [-1.0f32, 0.0, -0.0, 0.0, -0.0, -3.0];
    for top_k in 1..=4 {
        let params =
            SamplingParams { top_k, seed: Some(4), draws: Some(1000), ..Default::default() };
        let whole = SampleRequest {
            dtype: Dtype::F32.into(),
            vocab_size: 6,
            logits: values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            params: vec![params],
            ..Default::default()
        };
        let tokens: Vec<u32> = (1..=top_k).rev().collect();
        let logits = tokens.iter().flat_map(|&t| values[t as usize].to_le_bytes()).collect();
        let rows = [Sparse { tokens, logits }];
        let response = client.sample(sparse(whole.clone(), &rows)).await.unwrap();
        assert_eq!(response.rows, expected(&whole));
        assert_eq!(response.rows[0].kept, top_k);
    }
}

/// A row with fewer tokens above -inf than were asked for.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_with_few_finite_logits_is_filled_up() {
    let server = TestServer::start(&[]).await;
    let low = f32::NEG_INFINITY;
    let whole = SampleRequest {
        dtype: Dtype::F32.into(),
        vocab_size: 6,
        logits: [low, 2.0, low, low, 1.0, low].iter().flat_map(|x| x.to_le_bytes()).collect(),
        params: vec![SamplingParams { top_k: 4, seed: Some(1), ..Default::default() }],
        ..Default::default()
    };
    let logits = [1.0, low, 2.0, low].iter().flat_map(|x| x.to_le_bytes()).collect();
    let rows = [Sparse { tokens: vec![4, 0, 1, 2], logits }];
    let response = server.client().await.sample(sparse(whole.clone(), &rows)).await.unwrap();
    assert_eq!(response.rows, expected(&whole));
    assert_eq!(response.rows[0].kept, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_row_s_wrong_logits_are_its_own_status() {
    let server = TestServer::start(&[]).await;
    let row = |values: [f32; 2]| Sparse {
        tokens: vec![7, 3],
        logits: values.iter().flat_map(|x| x.to_le_bytes()).collect(),
    };
    let whole = SampleRequest {
        dtype: Dtype::F32.into(),
        vocab_size: 10,
        params: vec![SamplingParams { top_k: 2, ..Default::default() }],
        ..Default::default()
    };
    let rows = [
        row([0.0, 1.0]),
        row([f32::NAN, f32::INFINITY]),
        row([f32::INFINITY, 0.0]),
        row([f32::NEG_INFINITY; 2]),
    ];
    let response = server.client().await.sample(sparse(whole, &rows)).await.unwrap();
    let statuses: Vec<_> = response.rows.iter().map(|row| row.status()).collect();
    let wanted =
        [RowStatus::Ok, RowStatus::Nan, RowStatus::PositiveInfinity, RowStatus::NoCandidate];
    assert_eq!(statuses, wanted);
    assert!(response.rows[0].token.is_some_and(|token| [3, 7].contains(&token)));
}

/// Two rows of three candidates of 100 tokens, spoilt, and what is said of it.
type Wrong = (fn(&mut SampleRequest, &mut Candidates), &'static [(&'static str, &'static str)]);

const WRONG: &[Wrong] = &[
    (|_, c| c.counts = le(&[]), &[("candidates.counts", "at least one row")]),
    (
        |_, c| c.counts = c.counts.slice(1..),
        &[("candidates.counts", "has 7 bytes; allowed: 4 a row")],
    ),
    (
        |_, c| c.counts = le(&[6, 0]),
        &[("candidates.counts", "row 1 has 0 candidates; allowed: 1 to 100")],
    ),
    (
        |r, c| (r.vocab_size, c.counts) = (2, le(&[3, 3])),
        &[
            ("candidates.counts", "row 0 has 3 candidates; allowed: 1 to 2 (vocab_size)"),
            ("candidates.counts", "row 1 has 3 candidates"),
        ],
    ),
    (
        |_, c| c.counts = le(&[3, 4]),
        &[
            ("candidates.tokens", "has 24 bytes; allowed: 28"),
            ("logits", "has 12 bytes; allowed: 14"),
        ],
    ),
    (
        |r, _| r.logits = r.logits.slice(2..),
        &[("logits", "has 10 bytes; allowed: 12, 2 for each of 6")],
    ),
    (|_, c| c.tokens = c.tokens.slice(..20), &[("candidates.tokens", "has 20 bytes; allowed: 24")]),
    (
        |_, c| c.tokens = le(&[1, 2, 3, 5, 100, 6]),
        &[("candidates.tokens", "row 1 has token 100; allowed: 0 to 99 (vocab_size 100)")],
    ),
    (
        |_, c| c.tokens = le(&[1, 2, 1, 9, 8, 9]),
        &[
            ("candidates.tokens", "row 0 has token 1 twice; allowed: each once"),
            ("candidates.tokens", "row 1 has token 9 twice"),
        ],
    ),
    (
        |r, _| r.params[1].top_k = 4,
        &[("params[1].top_k", "top_k is 4, and row 1 has 3 candidates of 100 tokens")],
    ),
    (|r, _| r.params[0].top_k = 0, &[("params[0].top_k", "allowed: 1 to 3, or temperature 0")]),
    (|r, _| r.params.clear(), &[("params[0].top_k", "top_k is 0, and row 0 has 3 candidates")]),
    (
        |r, _| (r.params.truncate(1), r.params[0].top_k = 9).1,
        &[("params[0].top_k", "top_k is 9, and row 0")],
    ),
    (|r, _| r.params.push(r.params[0].clone()), &[("params", "3 for 2 rows")]),
    (|r, _| r.slot = Some(logitd_proto::SlotRef::default()), &[("logits", "beside a slot")]),
    (
        |r, _| (r.slot, r.logits) = (Some(logitd_proto::SlotRef::default()), bytes::Bytes::new()),
        &[("candidates", "beside a slot")],
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_candidates_is_named_with_row_value_and_limit() {
    let server = TestServer::start(&[]).await;
    let client = server.client().await;
    let params = |seed| SamplingParams { top_k: 3, seed: Some(seed), ..Default::default() };
    let good = SampleRequest {
        dtype: Dtype::F16.into(),
        vocab_size: 100,
        logits: crate::harness::logits(1, 6, 1),
        params: vec![params(1), params(2)],
        candidates: Some(Candidates { counts: le(&[3, 3]), tokens: le(&[5, 1, 99, 7, 8, 2]) }),
        ..Default::default()
    };
    assert!(client.sample(good.clone()).await.is_ok());
    for (i, (spoil, expected)) in WRONG.iter().enumerate() {
        let mut request = good.clone();
        let mut given = request.candidates.take().unwrap();
        spoil(&mut request, &mut given);
        request.candidates = Some(given);
        let error = client.sample(request).await.unwrap_err();
        assert_eq!(error.code(), Some(Code::InvalidArgument), "case {i}: {error}");
        let found = error.violations();
        assert_eq!(found.len(), expected.len(), "case {i}: {found:?}");
        for ((field, description), (wanted, words)) in found.iter().zip(*expected) {
            assert_eq!(field, wanted, "case {i}");
            assert!(description.contains(words), "case {i}: {description}");
            assert!(description.contains("allowed: "), "case {i}: {description}");
        }
    }
    server.idle().await;
    assert!(client.sample(good).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_are_no_way_around_the_limits() {
    let server = TestServer::start(&["--request-rows-max=3"]).await;
    let whole = SampleRequest {
        dtype: Dtype::F16.into(),
        vocab_size: 9,
        params: vec![SamplingParams { temperature: Some(0.0), ..Default::default() }],
        ..Default::default()
    };
    let row = Sparse { tokens: vec![1], logits: vec![0, 0] };
    let client = server.client().await;
    let error = client.sample(sparse(whole.clone(), &vec![row.clone(); 4])).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::OutOfRange), "{error}");
    // The client cuts such a batch, candidates and all.
    let rows = client.sample_all(sparse(whole, &vec![row; 10])).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.token).collect::<Vec<_>>(), [Some(1); 10]);
}
