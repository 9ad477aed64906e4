//! What is refused, cancelled or too late.

use super::*;

#[tokio::test]
async fn overload_is_refused_at_once_and_says_when_to_come_again() {
    let config = EngineConfig {
        queue_rows_max: 4,
        queue_bytes_max: 100 * ROW_BYTES,
        retry_after_max: Duration::from_millis(20),
        ..Default::default()
    };
    let (engine, gate, busy) = start_busy(config);
    let waiting = submit(&engine, request(0..3)).unwrap();
    let refused = |rows, bytes| engine.reserve(rows, bytes).err().unwrap();

    let Refused::Overloaded { what, limit, asked, retry_after } = refused(1, 0) else {
        panic!("four rows are in")
    };
    assert_eq!((what, limit, asked), (Resource::QueueRows, 4, 1));
    assert!(!retry_after.is_zero() && retry_after <= config.retry_after_max);
    let never = Refused::TooLarge { what: Resource::QueueRows, limit: 4, asked: 5 };
    assert_eq!(refused(5, 0), never);
    let (limit, asked) = (100 * ROW_BYTES, 101 * ROW_BYTES);
    let never = Refused::TooLarge { what: Resource::QueueBytes, limit, asked };
    assert_eq!(refused(0, asked), never);

    gate.open();
    gate.pass();
    answer(busy).await.unwrap();
    answer(waiting).await.unwrap();
    assert!(engine.reserve(4, limit).is_ok());
}

#[tokio::test]
async fn dropping_a_ticket_takes_a_waiting_request_out_and_frees_its_permits() {
    let config = EngineConfig { queue_rows_max: 3, ..Default::default() };
    let (engine, gate, busy) = start_busy(config);
    let kept = submit(&engine, request([1])).unwrap();
    let dropped = submit(&engine, request([2])).unwrap();
    assert!(engine.reserve(1, 0).is_err());
    drop(dropped);
    let permit = engine.reserve(1, 0).expect("the device is still busy, but the place is free");
    gate.open();
    assert_eq!(gate.pass(), [1]);
    answer(busy).await.unwrap();
    answer(kept).await.unwrap();
    drop(permit);
    engine.drain().await;
}

#[tokio::test]
async fn dropping_the_ticket_of_a_running_request_frees_its_permits_when_it_is_done() {
    let config = EngineConfig { queue_rows_max: 2, ..Default::default() };
    let (engine, gate, busy) = start_busy(config);
    drop(busy);
    let waiting = submit(&engine, request([1])).unwrap();
    assert!(engine.reserve(1, 0).is_err(), "its logits are still being read");
    gate.open();
    gate.pass();
    answer(waiting).await.unwrap();
    assert!(engine.reserve(2, 0).is_ok());
}

#[tokio::test]
async fn a_deadline_expires_while_the_device_is_busy() {
    let config = EngineConfig { queue_rows_max: 3, ..Default::default() };
    let (engine, gate, busy) = start_busy(config);
    let deadline = Instant::now() + Duration::from_millis(100);
    let patient = submit(&engine, request([1])).unwrap();
    let hasty = submit(&engine, Request { deadline: Some(deadline), ..request([2]) });
    let hasty = hasty.unwrap();
    assert!(engine.reserve(1, 0).is_err());

    // The gate is closed all the while.
    assert_eq!(answer(hasty).await.unwrap_err(), Failure::DeadlineExceeded);
    assert!(Instant::now() >= deadline);
    assert!(engine.reserve(1, 0).is_ok());
    gate.open();
    assert_eq!(gate.pass(), [1]);
    answer(busy).await.unwrap();
    answer(patient).await.unwrap();
}

#[tokio::test]
async fn deadlines_expire_in_their_own_order() {
    let (engine, _gate, _busy) = start_busy(EngineConfig::default());
    let now = Instant::now();
    let late = submit(&engine, Request { deadline: Some(now + LONG * 10), ..request([1]) });
    let mut late = late.unwrap();
    let soon = Some(now + Duration::from_millis(50));
    let soon = submit(&engine, Request { deadline: soon, ..request([2]) }).unwrap();
    assert_eq!(answer(soon).await.unwrap_err(), Failure::DeadlineExceeded);
    assert!(poll(pin!(&mut late)).is_pending());
}

#[tokio::test]
async fn a_request_whose_rest_expires_is_answered_before_its_first_part_is_done() {
    let config = EngineConfig { batch_rows_max: 2, queue_rows_max: 5, ..Default::default() };
    let (backend, gate) = Scripted::new("gated", []).gated();
    let engine = start_with(config, [backend]);
    let deadline = Some(Instant::now() + Duration::from_millis(300));
    let split = submit(&engine, Request { deadline, ..request(0..5) }).unwrap();
    assert_eq!(gate.arrived(), [0, 1]);
    assert_eq!(answer(split).await.unwrap_err(), Failure::DeadlineExceeded);
    assert!(engine.reserve(1, 0).is_err(), "its first rows are still being read");
    let mut drain = pin!(engine.drain());
    assert!(poll(drain.as_mut()).is_pending());
    gate.open();
    drain.await;
    assert!(gate.batches.try_recv().is_err(), "nothing else ran");
}

#[tokio::test]
async fn what_cannot_be_queued_is_refused() {
    let engine = start([Scripted::new("a", [])]);
    let late = Request { deadline: Some(Instant::now()), ..request([0]) };
    assert_eq!(submit(&engine, late).err(), Some(Refused::DeadlineExceeded));
    assert_eq!(submit(&engine, request([])).err(), Some(Refused::Empty));
    // A permit that is too small grows with its request.
    let permit = engine.reserve(0, 0).unwrap();
    answer(engine.submit(permit, request(0..3)).unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_permit_is_resized_whole_or_not_at_all() {
    let config = EngineConfig { queue_rows_max: 4, queue_bytes_max: 100, ..Default::default() };
    let engine = start_with(config, [Scripted::new("a", [])]);
    let mut permit = engine.reserve(1, 60).unwrap();
    let other = engine.reserve(3, 40).unwrap();
    assert!(permit.resize(2, 10).is_err());
    assert_eq!((permit.rows(), permit.bytes()), (1, 60));
    permit.resize(1, 10).unwrap();
    assert!(engine.reserve(0, 51).is_err());
    drop(other);
    permit.resize(4, 100).unwrap();
    assert!(engine.reserve(1, 0).is_err());
    drop(permit);
    assert!(engine.reserve(4, 100).is_ok());
}
