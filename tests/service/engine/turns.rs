//! Whose turn it is where some rows take many times as long as others.

use super::*;
use logitd::engine::{ConnectionId, GroupId};

/// Tokens of every row.
const TOKENS: usize = 1 << 13;
/// How many plain rows of so many tokens a row with typical_p takes as long as, at least: 40 to 80 were measured.
const TIMES: u64 = 20;
/// Rows that the other client asks for.
const MODEST_ROWS: u64 = 10;
/// From here on, seeds are those of dear rows.
const DEAR: u64 = 1 << 32;

fn row_of(spec: ParamsSpec) -> RequestRow {
    let logits: Vec<u8> = (0..TOKENS).flat_map(|i| (i as f32 / 1e3).to_le_bytes()).collect();
    RequestRow::new(Dtype::F32, logits.into(), spec.parse(|| 0).unwrap()).unwrap()
}

fn source(name: &str) -> Source {
    Source { group: GroupId::of(name), connection: ConnectionId::next() }
}

fn one_row(source: Source, spec: ParamsSpec) -> Request {
    Request { rows: vec![row_of(spec)], deadline: None, priority: Priority::Normal, source }
}

/// What is sampled before each row of a modest client, in plain rows, where a greedy one has asked for so many rows of these
/// parameters.
fn work_before(greedy_rows: u64, greedy: ParamsSpec) -> Vec<u64> {
    let config = EngineConfig { batch_rows_max: 1, ..Default::default() };
    let (engine, gate, _busy) = start_busy(config);
    let (of_greedy, of_modest) = (source("greedy"), source("modest"));
    let mut waiting = Vec::new();
    let mut ask = |source, spec| waiting.push(submit(&engine, one_row(source, spec)).unwrap());
    let first = greedy.seed.unwrap();
    (first..first + greedy_rows)
        .for_each(|n| ask(of_greedy, ParamsSpec { seed: Some(n), ..greedy }));
    (0..MODEST_ROWS)
        .for_each(|n| ask(of_modest, ParamsSpec { seed: Some(n), ..Default::default() }));
    gate.open();
    let (mut work, mut before) = (0, Vec::new());
    while before.len() < MODEST_ROWS as usize {
        let seed = gate.pass()[0];
        if seed < MODEST_ROWS {
            before.push(work);
        }
        work += if seed >= DEAR { TIMES } else { 1 };
    }
    before
}

#[tokio::test]
async fn dear_rows_hold_up_another_client_no_more_than_as_much_plain_work() {
    let plain = ParamsSpec { seed: Some(1000), ..Default::default() };
    let dear = ParamsSpec { seed: Some(DEAR), typical_p: 0.9, ..Default::default() };
    let beside_plain = work_before(10 * TIMES, plain);
    let beside_dear = work_before(10, dear);
    // Nothing is interrupted, so a dear row more may have begun.
    for (dear, plain) in beside_dear.iter().zip(&beside_plain) {
        assert!(
            *dear <= plain + TIMES,
            "{beside_dear:?} beside dear, {beside_plain:?} beside plain rows"
        );
    }
}

#[tokio::test]
async fn a_batch_of_dear_rows_is_short() {
    // Ten plain rows fill it.
    let (batch_rows_max, batch_bytes_max) = (10, 10 * TOKENS * 4);
    let config = EngineConfig { batch_rows_max, batch_bytes_max, ..Default::default() };
    let (engine, gate, _busy) = start_busy(config);
    let spec = ParamsSpec { typical_p: 0.9, ..Default::default() };
    let rows = (0..3).map(|n| row_of(ParamsSpec { seed: Some(n), ..spec })).collect();
    let source = source("greedy");
    let dear = Request { rows, deadline: None, priority: Priority::Normal, source };
    let expected = expected(&dear);
    let dear = submit(&engine, dear).unwrap();
    gate.open();
    assert_eq!([gate.pass(), gate.pass(), gate.pass()], [[0], [1], [2]]);
    assert!(answer(dear).await.unwrap().results.iter().eq(expected.iter()));

    let rows = (0..3).map(|n| row_of(ParamsSpec { seed: Some(n), ..Default::default() }));
    let plain =
        Request { rows: rows.collect(), deadline: None, priority: Priority::Normal, source };
    let _plain = submit(&engine, plain).unwrap();
    assert_eq!(gate.pass(), [0, 1, 2]);
}
