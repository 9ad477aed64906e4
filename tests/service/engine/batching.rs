//! What becomes a batch, and when.

use super::*;

#[tokio::test]
async fn each_request_gets_its_own_rows_in_order() {
    let engine = start([Scripted::new("a", []), Scripted::new("b", [])]);
    let mut open = Vec::new();
    for n in 0..200 {
        let request = request(n * 10..n * 10 + 1 + n % 4);
        let expected = expected(&request);
        open.push((submit(&engine, request).unwrap(), expected));
    }
    for (ticket, expected) in open {
        let completed = answer(ticket).await.unwrap();
        assert!(completed.results.iter().eq(expected.iter()));
    }
}

#[tokio::test]
async fn a_request_larger_than_a_batch_comes_back_whole_and_in_order() {
    let config = EngineConfig { batch_rows_max: 7, ..Default::default() };
    let engine = start_with(config, [Scripted::new("a", []), Scripted::new("b", [])]);
    let mut open = Vec::new();
    for n in [100, 1, 50] {
        let request = request(n..2 * n);
        let expected = expected(&request);
        open.push((submit(&engine, request).unwrap(), expected));
    }
    for (ticket, expected) in open {
        let completed = answer(ticket).await.unwrap();
        assert!(completed.results.iter().eq(expected.iter()));
    }
    engine.drain().await;
}

#[tokio::test]
async fn what_waits_when_the_device_falls_free_is_the_next_batch() {
    let (engine, gate, busy) = start_busy(EngineConfig::default());
    let waiting: Vec<_> = (0..5).map(|n| submit(&engine, request([n])).unwrap()).collect();
    gate.open();
    assert_eq!(gate.pass(), [0, 1, 2, 3, 4]);
    let busy = answer(busy).await.unwrap();
    for ticket in waiting {
        let completed = answer(ticket).await.unwrap();
        assert_eq!(completed.device.id, "gated");
        assert!(completed.timings.queue > Duration::ZERO);
        assert_eq!(completed.timings.copy, Duration::ZERO);
    }
    // It waited at the gate inside of the backend.
    assert!(busy.timings.compute > Duration::ZERO);
}

#[tokio::test]
async fn budgets_of_rows_and_bytes_bound_a_batch() {
    let config = EngineConfig {
        batch_rows_max: 4,
        batch_bytes_max: 3 * ROW_BYTES + 1,
        ..Default::default()
    };
    let (engine, gate, _busy) = start_busy(config);
    let _waiting: Vec<_> = (0..5).map(|n| submit(&engine, request([n])).unwrap()).collect();
    gate.open();
    assert_eq!(gate.pass(), [0, 1, 2]);
    assert_eq!(gate.pass(), [3, 4]);

    let large = RequestRow::new(Dtype::F16, vec![0; 4 * ROW_BYTES].into(), *row(0).params());
    let rows = vec![large.unwrap()];
    let refused = submit(
        &engine,
        Request { rows, deadline: None, priority: Priority::High, source: Source::default() },
    );
    let (asked, limit) = (4 * ROW_BYTES, 3 * ROW_BYTES + 1);
    let expected = Refused::TooLarge { what: Resource::BatchBytes, limit, asked };
    assert_eq!(refused.err(), Some(expected));
}

#[tokio::test]
async fn priorities_decide_who_goes_first() {
    let config = EngineConfig { batch_rows_max: 1, ..Default::default() };
    let (engine, gate, _busy) = start_busy(config);
    let mut waiting = Vec::new();
    for (n, priority) in [Priority::Low, Priority::Normal, Priority::High].into_iter().enumerate() {
        waiting.push(submit(&engine, Request { priority, ..request([n as u64]) }).unwrap());
    }
    gate.open();
    assert_eq!([gate.pass(), gate.pass(), gate.pass()], [[2], [1], [0]]);
}

#[tokio::test]
async fn a_delay_lets_a_batch_fill_up() {
    let config =
        EngineConfig { batch_rows_max: 3, batch_delay: LONG * 10, ..EngineConfig::default() };
    let (backend, gate) = Scripted::new("gated", []).gated();
    let engine = start_with(config, [backend]);
    let mut open = Vec::new();
    for n in 0..3 {
        open.push(submit(&engine, request([n])).unwrap());
    }
    assert_eq!(gate.pass(), [0, 1, 2]);
    // A drain does not wait.
    open.push(submit(&engine, request([3])).unwrap());
    let mut drain = pin!(engine.drain());
    assert!(poll(drain.as_mut()).is_pending());
    assert_eq!(gate.pass(), [3]);
    drain.await;
    for ticket in open {
        answer(ticket).await.unwrap();
    }
}
