//! Drains, and handles that are dropped.

use super::*;

#[tokio::test]
async fn a_drain_finishes_what_was_accepted_and_takes_nothing_more() {
    let (engine, gate, busy) = start_busy(EngineConfig::default());
    let waiting = submit(&engine, request([1])).unwrap();
    let permit = engine.reserve(1, ROW_BYTES).unwrap();
    let mut drain = pin!(engine.drain());
    assert!(poll(drain.as_mut()).is_pending());
    assert_eq!(engine.reserve(1, 1).err(), Some(Refused::Draining));
    // A permit is a promise.
    let promised = engine.submit(permit, request([2])).unwrap();
    gate.open();
    assert_eq!(gate.pass(), [1, 2]);
    drain.await;
    for ticket in [busy, waiting, promised] {
        // Answered before the drain resolved: ready without waiting.
        assert!(matches!(poll(pin!(ticket)), Poll::Ready(Ok(_))));
    }
    engine.drain().await;
}

#[tokio::test]
async fn dropping_the_engine_cancels_what_waits_and_joins_the_threads() {
    let (backend, gate) = Scripted::new("gated", []).gated();
    let dropped = Arc::clone(&backend.dropped);
    let engine = start([backend]);
    let busy = submit(&engine, request([0])).unwrap();
    gate.arrived();
    let waiting = submit(&engine, request([1])).unwrap();
    let permit = engine.reserve(1, 1).unwrap();
    let other_handle = engine.clone();
    drop(engine);
    let dropping = std::thread::spawn(|| drop(other_handle));
    assert_eq!(answer(waiting).await.unwrap_err(), Failure::Cancelled);
    gate.open();
    dropping.join().unwrap();
    assert_eq!(dropped.load(Ordering::Relaxed), 1, "the thread that owned it is gone");
    assert!(answer(busy).await.is_ok());
    drop(permit);
}

#[test]
fn the_last_handle_may_go_on_a_worker_thread() {
    struct Last(Mutex<Option<Engine>>, Sender<()>);
    impl Wake for Last {
        fn wake(self: Arc<Self>) {
            self.0.lock().unwrap().take();
            self.1.send(()).unwrap();
        }
    }
    let (engine, gate, mut busy) = start_busy(EngineConfig::default());
    let (done, woken) = channel();
    let last = Arc::new(Last(Mutex::new(Some(engine)), done));
    let waker = Waker::from(Arc::clone(&last));
    assert!(pin!(&mut busy).poll(&mut Context::from_waker(&waker)).is_pending());
    gate.open();
    woken.recv_timeout(LONG).expect("dropping the engine on its own thread does not hang");
    assert!(matches!(poll(pin!(busy)), Poll::Ready(Ok(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_callers_who_cancel_and_expire_leave_nothing_behind() {
    let config = EngineConfig {
        batch_rows_max: 16,
        queue_rows_max: 64,
        batch_delay: Duration::from_micros(50),
        ..Default::default()
    };
    let backends =
        ["a", "b", "c"].map(|id| Scripted::new(id, [Step::Sample, Step::Sample, Step::Fail]));
    let devices = Devices {
        backends: backends.map(Scripted::boxed).into(),
        fallback: Some(make(Scripted::new("fallback", []))),
        verify: None,
    };
    let engine = Engine::start(config, devices);
    let callers = (0..32u64).map(|caller| {
        let engine = engine.clone();
        tokio::spawn(async move {
            for n in 0..100u64 {
                let seed = caller * 1000 + n;
                let mut request = request(seed..seed + 1 + seed % 5);
                request.priority =
                    [Priority::Low, Priority::Normal, Priority::High][n as usize % 3];
                if n % 7 == 0 {
                    request.deadline = Some(Instant::now() + Duration::from_micros(seed % 300));
                }
                let expected = expected(&request);
                let Ok(ticket) = submit(&engine, request) else { continue };
                if n % 5 == 0 {
                    tokio::task::yield_now().await;
                    continue;
                }
                match answer(ticket).await {
                    Ok(done) => assert!(done.results.iter().eq(expected.iter())),
                    Err(failure) => assert_eq!(failure, Failure::DeadlineExceeded),
                }
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
    tokio::time::timeout(LONG, engine.drain()).await.expect("every permit comes back");
}
