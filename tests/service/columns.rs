//! Parameters and results as columns: the answers are those of messages, over every way to the server.

use crate::harness::{OnThisHost, TestServer, cpu, expected, request};
use bytes::Bytes;
use logitd::config::Config;
use logitd::server::{by_row, convert};
use logitd_client::{Client, Error, Region};
use logitd_proto::{
    Adjustments, DrawRule, Dry, DryColumns, Logprobs, LogprobsOf, OnInvalidRow, ParamColumns,
    Plane, ResultColumns, RowResult, RowStatus, SampleRequest, SampleResponse, SamplingParams,
    TokenSequence,
};
use tonic::Code;

/// A request whose rows differ in every parameter, as messages and as columns.
fn both(rows: usize, vocab_size: usize) -> (SampleRequest, SampleRequest) {
    let base = request(rows, vocab_size, 8);
    let each = 0..rows as u32;
    let breakers = vec![TokenSequence { tokens: vec![3] }];
    let columns = ParamColumns {
        temperature: each.clone().map(|i| 0.5 + i as f32 / 64.0).collect(),
        top_k: each.clone().map(|i| (i * 7) % 50).collect(),
        top_p: vec![0.9],
        min_p: each.clone().map(|i| i as f32 / 1e5).collect(),
        seed: each.clone().map(|i| u64::MAX - u64::from(i)).collect(),
        position: each.clone().map(|i| u64::from(i) << 40).collect(),
        draws: each.clone().map(|i| 1 + i % 3).collect(),
        draw_rule: each.clone().map(|i| (i % 3) as i32).collect(),
        draft: each.clone().map(|i| i % 5 == 0).collect(),
        repetition_penalty: vec![1.5],
        frequency_penalty: each.clone().map(|i| i as f32 / 64.0).collect(),
        presence_penalty: vec![0.25],
        no_repeat_ngram: each.clone().map(|i| i % 4).collect(),
        min_tokens: vec![2],
        dry: Some(DryColumns {
            multiplier: each.clone().map(|i| (i % 2) as f32).collect(),
            base: vec![1.5],
            allowed_length: each.clone().map(|i| i % 3).collect(),
            last_n: vec![7],
            breakers: breakers.clone(),
        }),
        ..Default::default()
    };
    let set = |i: u32| SamplingParams {
        temperature: Some(0.5 + i as f32 / 64.0),
        top_k: (i * 7) % 50,
        top_p: Some(0.9),
        min_p: i as f32 / 1e5,
        seed: Some(u64::MAX - u64::from(i)),
        position: u64::from(i) << 40,
        draws: Some(1 + i % 3),
        draw_rule: (i % 3) as i32,
        draft: i.is_multiple_of(5),
        repetition_penalty: Some(1.5),
        frequency_penalty: i as f32 / 64.0,
        presence_penalty: 0.25,
        no_repeat_ngram: i % 4,
        min_tokens: 2,
        dry: Some(Dry {
            multiplier: (i % 2) as f32,
            base: Some(1.5),
            allowed_length: Some(i % 3),
            last_n: 7,
            breakers: breakers.clone(),
        }),
        ..Default::default()
    };
    let adjustments = vec![Adjustments {
        prompt: vec![1, 2, 3, 1, 2, 5, 1, 2],
        stop_ids: vec![4],
        ..Default::default()
    }];
    let messages = SampleRequest { params: each.map(set).collect(), adjustments, ..base };
    let in_columns = SampleRequest {
        params: vec![],
        columns: Some(columns),
        return_columns: true,
        ..messages.clone()
    };
    (messages, in_columns)
}

/// What an answer in columns says of each row, as a message would.
fn rows(answer: &SampleResponse, draws: impl Fn(usize) -> usize) -> Vec<RowResult> {
    let columns = answer.columns.as_ref().expect("columns");
    let ResultColumns {
        statuses,
        tokens,
        logprobs,
        kept,
        kept_mass,
        seeds,
        draw_tokens,
        draw_logprobs,
        mirostat_mu,
        adaptive_sum,
        adaptive_weight,
    } = columns;
    let state = |states: &[f32], row: usize| states.get(row).copied().filter(|x| !x.is_nan());
    let several = !draw_tokens.is_empty();
    let mut at = 0;
    let rows = (0..statuses.len()).map(|i| {
        let mut row = answer.rows.get(i).cloned().unwrap_or_default();
        assert_eq!((row.status, row.token, row.kept, row.seed), (0, None, 0, 0));
        row.status = statuses[i];
        (row.kept, row.kept_mass, row.seed) = (kept[i], kept_mass[i], seeds[i]);
        row.mirostat_mu = state(mirostat_mu, i);
        row.adaptive_sum = state(adaptive_sum, i);
        row.adaptive_weight = state(adaptive_weight, i);
        row.token = u32::try_from(tokens[i]).ok();
        assert_eq!(row.token.is_none(), logprobs[i].is_nan());
        row.logprob = Some(logprobs[i]).filter(|logprob| !logprob.is_nan());
        if several && row.status() != RowStatus::InvalidParameters {
            let range = at..at + draws(i);
            at = range.end;
            assert_eq!(draw_tokens[range.start], tokens[i]);
            let drawn = draw_tokens[range.clone()].iter().zip(&draw_logprobs[range]);
            let drawn = drawn.filter(|(token, _)| **token >= 0);
            let drawn =
                drawn.map(|(&token, &logprob)| logitd_proto::Draw { token: token as u32, logprob });
            row.draws = drawn.collect();
            if draws(i) == 1 {
                row.draws.clear();
            }
        }
        row
    });
    let rows = rows.collect();
    assert_eq!((draw_tokens.len(), draw_logprobs.len()), (at, at));
    rows
}

fn draws(row: usize) -> usize {
    1 + row % 3
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_say_what_messages_say() {
    let server = TestServer::with(&[], vec![cpu()]).await;
    let client = server.client().await;
    let (messages, columns) = both(40, 1001);
    let wanted = expected(&messages);
    assert_eq!(client.sample(messages.clone()).await.unwrap().rows, wanted);
    let answer = client.sample(columns.clone()).await.unwrap();
    assert!(answer.rows.is_empty() && answer.plane() == Plane::Inline && answer.device == "cpu");
    assert_eq!(rows(&answer, draws), wanted);
    // Either by itself.
    let asked = SampleRequest { return_columns: false, ..columns.clone() };
    assert_eq!(client.sample(asked).await.unwrap().rows, wanted);
    let asked = SampleRequest { return_columns: true, ..messages.clone() };
    assert_eq!(rows(&client.sample(asked).await.unwrap(), draws), wanted);
    assert_eq!(client.sample_all(columns).await.unwrap(), wanted);
    // One set for all rows, and none at all.
    let one = SampleRequest { params: vec![messages.params[1].clone()], ..messages.clone() };
    let columns = ParamColumns {
        temperature: one.params[0].temperature.into_iter().collect(),
        seed: vec![3],
        ..Default::default()
    };
    let params = vec![SamplingParams {
        temperature: one.params[0].temperature,
        seed: Some(3),
        ..Default::default()
    }];
    let wanted = client.sample(SampleRequest { params, ..one.clone() }).await.unwrap().rows;
    let asked = SampleRequest { params: vec![], columns: Some(columns), ..one.clone() };
    assert_eq!(client.sample(asked).await.unwrap().rows, wanted);
    let none = SampleRequest { params: vec![], return_columns: true, ..one };
    let answer = client.sample(none).await.unwrap().columns.unwrap();
    assert!(answer.draw_tokens.is_empty() && answer.seeds.iter().all(|&seed| seed > 0));
    server.idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_and_streams_have_their_part_of_columns() {
    let flags = ["--message-bytes-max=64KiB", "--request-rows-max=13"];
    let server = TestServer::with(&flags, vec![cpu()]).await;
    let client = server.client().await;
    let (messages, columns) = both(40, 3001);
    let wanted = expected(&messages);
    let info = client.info().await.unwrap();
    assert_eq!(rows(&client.sample_chunked(columns.clone(), &info).await.unwrap(), draws), wanted);
    // Chunks with one draw a row beside one with several, and one with a wrong row beside others without.
    let mut mixed = columns.clone();
    let given = mixed.columns.as_mut().unwrap();
    given.draws = (0..40).map(|i| if i == 33 { 3 } else { 1 }).collect();
    given.temperature[20] = -1.0;
    mixed.on_invalid_row = OnInvalidRow::Status.into();
    let answer = client.sample_chunked(mixed, &info).await.unwrap();
    let got = rows(&answer, |row| if row == 33 { 3 } else { 1 });
    assert_eq!((got.len(), answer.rows.len(), got[33].draws.len()), (40, 40, 3));
    for (i, (got, wanted)) in got.iter().zip(&wanted).enumerate() {
        assert_eq!(got.token, if i == 20 { None } else { wanted.token }, "row {i}");
        assert_eq!(got.violation.is_some(), i == 20);
    }
    let (messages, columns) = both(5, 300);
    let mut stream = client.stream().await.unwrap();
    stream.send(columns).await.unwrap();
    let (_, answer) = stream.receive().await.unwrap().unwrap();
    assert_eq!(rows(&answer.unwrap(), draws), expected(&messages));
    drop(stream);
    server.idle().await;
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn slots_and_direct_calls_take_columns() {
    let host = OnThisHost::start(&[]).await;
    let mut region = Region::register(&host.control, 2 << 20, 1).unwrap();
    let (messages, inline) = both(30, 9001);
    let wanted = expected(&messages);
    region.slot_mut(0)[..inline.logits.len()].copy_from_slice(&inline.logits);
    let mut by_slot = SampleRequest { logits: Bytes::new(), ..inline.clone() };
    by_slot.slot = Some(region.commit(0, inline.logits.len()));
    let answer = host.client.sample(by_slot.clone()).await.unwrap();
    assert_eq!((rows(&answer, draws), answer.plane()), (wanted.clone(), Plane::SharedMemory));
    let mut calls = host.client.direct().await.unwrap();
    by_slot.slot = Some(region.commit(0, inline.logits.len()));
    assert_eq!(rows(&calls.sample(&by_slot).await.unwrap(), draws), wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_columns_do_not_tell_stays_with_the_rows() {
    let server = TestServer::with(&[], vec![cpu()]).await;
    let client = server.client().await;
    let (mut messages, mut columns) = both(6, 300);
    let logprobs = Some(Logprobs { of: vec![LogprobsOf::Raw.into()], top: 3, ids: vec![5] });
    for params in &mut messages.params {
        (params.logprobs, params.return_kept) = (logprobs.clone(), true);
    }
    let given = columns.columns.as_mut().unwrap();
    (given.logprobs, given.return_kept) = (logprobs, vec![true]);
    let answer = client.sample(columns).await.unwrap();
    assert_eq!(answer.rows.len(), 6);
    assert_eq!(rows(&answer, draws), expected(&messages));
    server.idle().await;
}

/// The field that is named as wrong, and what is said of it.
async fn refused(client: &Client, request: SampleRequest) -> Vec<(String, String)> {
    let error = client.sample(request).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::InvalidArgument), "{error}");
    error.violations()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_named_by_its_column_and_its_row() {
    let server = TestServer::with(&[], vec![cpu()]).await;
    let client = server.client().await;
    let (messages, columns) = both(40, 300);
    let with = |change: fn(&mut ParamColumns)| {
        let mut request = columns.clone();
        change(request.columns.as_mut().unwrap());
        request
    };
    for (request, field, words) in [
        (with(|c| c.top_k.truncate(3)), "columns.top_k", "top_k has 3 values for 40 rows"),
        (
            with(|c| c.dry.as_mut().unwrap().base = vec![1.0; 2]),
            "columns.dry.base",
            "base has 2 values",
        ),
        (with(|c| c.temperature[7] = -1.0), "columns.temperature[7]", "temperature is -1; allowed"),
        (with(|c| c.top_p = vec![2.0]), "columns.top_p[0]", "top_p is 2; allowed"),
        (with(|c| c.draw_rule[3] = 77), "columns.draw_rule[3]", "draw_rule is 77"),
        (
            with(|c| c.dry.as_mut().unwrap().multiplier[5] = 1000.0),
            "columns.dry.multiplier[5]",
            "is 1000; allowed",
        ),
        (
            with(|c| {
                c.logprobs = Some(Logprobs { of: vec![1], ids: vec![300], ..Default::default() })
            }),
            "columns.logprobs.ids[0]",
            "is token 300",
        ),
        (
            with(|c| c.logprobs = Some(Logprobs { ids: vec![1; 1025], ..Default::default() })),
            "columns.logprobs.ids",
            "ids has 1025 tokens; allowed: up to 1024",
        ),
        (
            SampleRequest { params: messages.params.clone(), ..columns.clone() },
            "columns",
            "beside params; allowed: one or the other",
        ),
        (SampleRequest { rows: Some(39), ..columns.clone() }, "rows", "is 39, and logits has 40"),
    ] {
        let found = refused(&client, request).await;
        assert_eq!(found[0].0, field, "{found:?}");
        assert!(found[0].1.contains(words), "{found:?}");
        assert_eq!(found.len(), 1, "{found:?}");
    }
    let other_rows = SampleRequest {
        logits: columns.logits.slice(..columns.logits.len() / 2),
        ..columns.clone()
    };
    assert_eq!(refused(&client, other_rows).await[0].0, "columns");
    let seeds = Some(ParamColumns { seed: vec![1; 3], ..Default::default() });
    let found = refused(&client, SampleRequest { columns: seeds, ..columns.clone() }).await;
    assert_eq!(found[0].0, "columns.seed", "{found:?}");
    // By rows.
    let mut wrong = with(|c| c.temperature[7] = -1.0);
    wrong.on_invalid_row = OnInvalidRow::Status.into();
    let answer = client.sample(wrong).await.unwrap();
    let got = rows(&answer, draws);
    assert_eq!(got[7].violation.as_ref().unwrap().field, "params.temperature");
    assert_eq!(got[8], expected(&messages)[8]);
    server.idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_for_all_rows_is_told_once_and_all_else_is_counted() {
    let server = TestServer::with(&[], vec![cpu()]).await;
    let client = server.client().await;
    let (_, columns) = both(100, 300);
    // Of rows with a temperature each, what is wrong with some of them or with a top_p of all.
    let with = |temperatures: &[usize], top_p: f32| {
        let mut request = columns.clone();
        let given = request.columns.as_mut().unwrap();
        temperatures.iter().for_each(|&row| given.temperature[row] = -1.0);
        given.top_p = vec![top_p];
        request
    };
    let mut banned = with(&[], 0.5);
    let wrong = Adjustments { banned_ids: vec![300], ..Default::default() };
    banned.adjustments = vec![wrong; 100];
    let many: Vec<usize> = (0..30).collect();
    for (request, last, listed, more) in [
        (with(&[], 2.0), "columns.top_p[0]", 1, None),
        (with(&[0], 2.0), "columns.top_p[0]", 2, Some("(and 1 more")),
        (with(&[30], 2.0), "columns.temperature[30]", 2, Some("(and 1 more")),
        // One that all rows have beyond those that are listed.
        (with(&many, 2.0), "columns.temperature[22]", 24, Some("(and 30 more")),
        (banned, "adjustments[23].banned_ids[0]", 24, Some("(and 99 more")),
    ] {
        let error = client.sample(request).await.unwrap_err();
        let (found, text) = (error.violations(), error.to_string());
        assert_eq!((found.len(), found[listed - 1].0.as_str()), (listed, last), "{text}");
        assert!(more.map_or(!text.contains("more"), |more| text.contains(more)), "{text}");
    }
    server.idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_of_columns_take_the_room_of_their_connection() {
    let flags = ["--message-bytes-max=128KiB", "--connection-bytes-max=128KiB"];
    let server = TestServer::with(&flags, vec![cpu()]).await;
    let client = server.client().await;
    // 60 KiB of logits; and as many rows with a list each.
    for (ids, code) in [(200, None), (400, Some(Code::ResourceExhausted))] {
        let logprobs = Some(Logprobs { of: vec![1], ids: vec![1; ids], ..Default::default() });
        let columns = ParamColumns { seed: vec![1; 60], logprobs, ..Default::default() };
        let base = request(60, 512, 1);
        let asked = SampleRequest { params: vec![], columns: Some(columns), ..base };
        let answer = client.sample(asked).await;
        assert_eq!(answer.as_ref().err().and_then(Error::code), code, "{ids}: {answer:?}");
        let text = answer.err().map_or(String::new(), |error| error.to_string());
        assert_eq!(text.contains("--connection-bytes-max"), code.is_some(), "{text}");
    }
    server.idle().await;
}

#[test]
fn breakers_of_all_rows_are_counted_once() {
    let limits = convert::limits(&Config::default());
    let (messages, columns) = both(40, 300);
    let bytes = |request: &SampleRequest| {
        by_row::batch(request.clone(), None, &limits).unwrap().side_bytes()
    };
    let longer = |dry: &mut Vec<TokenSequence>| dry.push(TokenSequence { tokens: vec![5; 16] });
    let (mut one, mut all) = (columns.clone(), messages.clone());
    longer(&mut one.columns.as_mut().unwrap().dry.as_mut().unwrap().breakers);
    all.params.iter_mut().for_each(|params| longer(&mut params.dry.as_mut().unwrap().breakers));
    let more = [&one, &all].map(|request| bytes(request) - bytes(&columns));
    assert_eq!(more, [24 + 64; 2]);
    // Each row's own.
    for (row, params) in all.params.iter_mut().enumerate() {
        params.dry.as_mut().unwrap().breakers[1].tokens[0] = row as u32;
    }
    assert_eq!(bytes(&all) - bytes(&columns), 40 * (24 + 64) + 39 * (24 + 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_are_held_to_the_limits() {
    let server =
        TestServer::with(&["--request-rows-max=64", "--message-bytes-max=128KiB"], vec![cpu()])
            .await;
    let client = server.client().await;
    // Of sets that a few bytes stand for, before they are made; and of lists that each set has.
    let of =
        |columns| SampleRequest { params: vec![], columns: Some(columns), ..request(60, 100, 1) };
    let many = of(ParamColumns { min_p: vec![0.0; 65], ..Default::default() });
    let logprobs = Some(Logprobs { of: vec![1], ids: vec![1; 1024], ..Default::default() });
    let long = of(ParamColumns { seed: vec![1; 60], logprobs, ..Default::default() });
    for (request, words) in [
        (many, "rows in the request is 65; this server allows 64"),
        (long, "bytes of logprobs and breakers in columns, times the rows, is 246000"),
    ] {
        let error = client.sample(request).await.unwrap_err();
        assert_eq!(error.code(), Some(Code::OutOfRange), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    let races = vec![DrawRule::Race.into()];
    let races = ParamColumns { draw_rule: races, draws: vec![1024], ..Default::default() };
    let races = SampleRequest { rows: Some(1), columns: Some(races), ..request(1, 20_000, 1) };
    let races = SampleRequest { params: vec![], ..races };
    let error = client.sample(races).await.unwrap_err();
    assert!(error.to_string().contains("--request-race-tokens-max"), "{error}");
    server.idle().await;
}
