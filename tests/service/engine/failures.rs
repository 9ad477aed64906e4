//! Devices that fail, and what takes over.

use super::*;

/// Runs three requests on devices that fail in some way; every one must come back right.
async fn survives(devices: Devices) -> Engine {
    let config = EngineConfig { batch_rows_max: 4, ..Default::default() };
    let engine = Engine::start(config, devices);
    let mut open = Vec::new();
    for n in 0..20 {
        let request = request(n..n + 3);
        let expected = expected(&request);
        open.push((submit(&engine, request).unwrap(), expected));
    }
    for (ticket, expected) in open {
        let completed = answer(ticket).await.unwrap();
        assert!(completed.results.iter().eq(expected.iter()));
    }
    assert!(engine.reserve(EngineConfig::default().queue_rows_max, 0).is_ok());
    engine
}

const FAULTS: [Step; 3] = [Step::Fail, Step::Panic, Step::Short];

#[tokio::test]
async fn another_device_runs_the_batch_of_one_that_fails() {
    for fault in FAULTS {
        let good = Scripted::new("good", []).boxed();
        let bad = Scripted::new("bad", [Step::Sample, fault]).boxed();
        let (second, gate) = Scripted::new("bad", [fault]).gated();
        let engine = survives(vec![bad, good].into()).await;
        // Whether the bad one has had its second batch is a matter of luck, so once more, certainly.
        drop(engine);
        let engine = start([second]);
        let ticket = submit(&engine, request([5])).unwrap();
        gate.pass();
        assert!(matches!(answer(ticket).await, Err(Failure::Device(_))), "{fault:?}");
    }
}

#[tokio::test]
async fn a_waiting_device_gets_the_batch_of_one_that_fails() {
    let config = EngineConfig { batch_rows_max: 2, ..Default::default() };
    for fault in FAULTS {
        let (bad, bad_gate) = Scripted::new("bad", [fault]).gated();
        let (good, good_gate) = Scripted::new("good", []).gated();
        let engine = start_with(config, [bad, good]);
        let mut news = engine.watch_devices();
        let requests = [request([1, 2]), request([3, 4])];
        let tickets = requests.clone().map(|request| submit(&engine, request).unwrap());
        // Each device has one of them; either way round.
        let (lost, kept) = (bad_gate.arrived(), good_gate.arrived());
        let third = submit(&engine, request([5])).unwrap();
        bad_gate.open();
        news.wait_for(|states| states.iter().any(|state| !state.up)).await.unwrap();
        good_gate.open();
        // What was given back goes before what came later.
        let next = good_gate.pass();
        assert_eq!(next, lost, "{fault:?}");
        assert_ne!(next, kept);
        assert_eq!(good_gate.pass(), [5]);
        for (ticket, request) in tickets.into_iter().zip(&requests) {
            let completed = answer(ticket).await.unwrap();
            assert_eq!(completed.device.id, "good");
            assert!(completed.results.iter().eq(expected(request).iter()));
        }
        answer(third).await.unwrap();
        assert_eq!(ups(&engine), [("bad".into(), false), ("good".into(), true)]);
    }
}

#[tokio::test]
async fn a_fallback_takes_over_when_every_device_has_failed() {
    for fault in FAULTS {
        let backends = ["a", "b", "c"].map(|id| Scripted::new(id, [fault]).boxed());
        let devices = Devices {
            backends: backends.into(),
            fallback: Some(make(Scripted::new("fallback", []))),
            verify: None,
        };
        let engine = survives(devices).await;
        // Devices without a batch have not failed yet: give each of them one.
        while ups(&engine).len() < 4 {
            answer(submit(&engine, request([1])).unwrap()).await.unwrap();
        }
        // A device is said to be down a moment after its batch has gone to the next.
        let mut news = engine.watch_devices();
        let down = news.wait_for(|states| states.iter().filter(|state| !state.up).count() == 3);
        tokio::time::timeout(LONG, down).await.expect("all three are out").unwrap();
        let expected = [("a", false), ("b", false), ("c", false), ("fallback", true)];
        assert_eq!(ups(&engine), expected.map(|(id, up)| (id.to_owned(), up)));
    }
}

#[tokio::test]
async fn with_nothing_left_requests_fail_and_nothing_hangs() {
    let (bad, gate) = Scripted::new("bad", [Step::Panic]).gated();
    let engine = start([bad]);
    let running = submit(&engine, request([1])).unwrap();
    gate.arrived();
    let waiting = submit(&engine, request([2])).unwrap();
    let permit = engine.reserve(1, ROW_BYTES).unwrap();
    gate.open();
    for ticket in [running, waiting] {
        let Failure::Device(error) = answer(ticket).await.unwrap_err() else { panic!("no device") };
        assert_eq!(error.to_string(), "device bad failed: it panicked: told to");
    }
    assert_eq!(engine.submit(permit, request([3])).err(), Some(Refused::NoDevice));
    assert_eq!(engine.reserve(1, 1).err(), Some(Refused::NoDevice));
    assert_eq!(ups(&engine), [("bad".into(), false)]);
    engine.drain().await;
}

#[tokio::test]
async fn a_fallback_that_cannot_be_made_is_a_failure_too() {
    let devices = Devices {
        backends: vec![Scripted::new("bad", [Step::Fail]).boxed()],
        fallback: Some(Box::new(|| panic!("no memory"))),
        verify: None,
    };
    let engine = Engine::start(EngineConfig::default(), devices);
    let ticket = submit(&engine, request([1])).unwrap();
    let error = answer(ticket).await.unwrap_err();
    assert_eq!(error.to_string(), "device bad failed: told to, and no other device is left");
}

#[tokio::test]
async fn a_fallback_that_fails_is_the_end() {
    let devices = Devices {
        backends: vec![Scripted::new("bad", [Step::Fail]).boxed()],
        fallback: Some(make(Scripted::new("fallback", [Step::Panic]))),
        verify: None,
    };
    let engine = Engine::start(EngineConfig::default(), devices);
    let error = answer(submit(&engine, request([1])).unwrap()).await.unwrap_err();
    let Failure::Device(error) = error else { panic!("{error}") };
    assert_eq!(error.device, "fallback");
    assert_eq!(ups(&engine), [("bad".into(), false), ("fallback".into(), false)]);
}

#[tokio::test]
async fn without_a_backend_the_fallback_is_all_there_is() {
    let engine = Engine::start(EngineConfig::default(), Devices::default());
    assert_eq!(engine.reserve(1, 1).err(), Some(Refused::NoDevice));
    engine.drain().await;
    let fallback = Some(make(Scripted::new("fallback", [])));
    let engine = Engine::start(EngineConfig::default(), Devices { fallback, ..Default::default() });
    answer(submit(&engine, request([1])).unwrap()).await.unwrap();
}

/// Two devices with a request each, of which one has failed while the other is still busy: the
/// tickets of the request that was given back and of the one that runs.
async fn start_half_lost(deadline: Option<Instant>) -> (Engine, Gate, Ticket, Ticket) {
    let config = EngineConfig { batch_rows_max: 1, queue_rows_max: 2, ..Default::default() };
    let (bad, bad_gate) = Scripted::new("bad", [Step::Fail]).gated();
    let (good, good_gate) = Scripted::new("good", []).gated();
    let engine = start_with(config, [bad, good]);
    let mut news = engine.watch_devices();
    let submit = |n| submit(&engine, Request { deadline, ..request([n]) }).unwrap();
    let (first, second) = (submit(1), submit(2));
    let (lost, _) = (bad_gate.arrived(), good_gate.arrived());
    bad_gate.open();
    news.wait_for(|states| states.iter().any(|state| !state.up)).await.unwrap();
    assert!(engine.reserve(1, 0).is_err());
    let (lost, kept) = if lost == [1] { (first, second) } else { (second, first) };
    (engine, good_gate, lost, kept)
}

#[tokio::test]
async fn a_cancelled_request_that_was_given_back_frees_its_permits() {
    let (engine, gate, lost, kept) = start_half_lost(None).await;
    drop(lost);
    assert!(engine.reserve(1, 0).is_ok(), "while the other still runs");
    gate.open();
    answer(kept).await.unwrap();
}

#[tokio::test]
async fn a_request_that_was_given_back_still_expires() {
    let deadline = Some(Instant::now() + Duration::from_millis(500));
    let (engine, gate, lost, kept) = start_half_lost(deadline).await;
    assert_eq!(answer(lost).await.unwrap_err(), Failure::DeadlineExceeded);
    assert!(engine.reserve(1, 0).is_ok(), "while the other still runs");
    gate.open();
    answer(kept).await.unwrap();
}
