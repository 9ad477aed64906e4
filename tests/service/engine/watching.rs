//! Metrics, and answers that are compared with another backend.

use super::*;

#[tokio::test]
async fn metrics_say_what_happened() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let page = recorder.handle();
    let (backend, gate) = Scripted::new("cpu", []).gated();
    let engine = metrics::with_local_recorder(&recorder, || start([backend]));
    let nan = RequestRow::new(Dtype::F32, vec![0xff; 4].into(), *row(0).params()).unwrap();
    let mut with_nan = request([1, 2]);
    with_nan.rows.push(nan);
    let ticket = submit(&engine, with_nan).unwrap();
    gate.arrived();
    let waiting = submit(&engine, request([3, 4])).unwrap();
    assert!(page.render().contains("\nlogitd_queue_rows 2\n"), "{}", page.render());
    gate.open();
    gate.pass();
    answer(ticket).await.unwrap();
    answer(waiting).await.unwrap();
    let text = page.render();
    for line in [
        "logitd_batches_total 2",
        "logitd_batch_rows_sum 5",
        "logitd_queue_rows 0",
        "logitd_queue_wait_seconds_count 2",
        "logitd_copy_seconds_sum 0",
        "logitd_compute_seconds_count 2",
        "logitd_rows_total{status=\"OK\",device=\"cpu\"} 4",
        "logitd_rows_total{status=\"NAN\",device=\"cpu\"} 1",
        "logitd_parity_mismatches_total 0",
        "logitd_device_up{device=\"cpu\"} 1",
        "# HELP logitd_queue_wait_seconds From acceptance of a request to the start of its batch.",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn a_mismatch_is_counted_and_written_where_it_can_be_replayed() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let page = recorder.handle();
    let folder = tempfile::tempdir().unwrap();
    let verify = Verify {
        dump: Some(Box::new(writer(folder.path().into()))),
        ..Verify::new(1.0, make(Scripted::new("second", [])))
    };
    let backends = vec![Scripted::new("cuda:0", [Step::Sample, Step::Wrong]).boxed()];
    let devices = Devices { backends, verify: Some(verify), fallback: None };
    let engine =
        metrics::with_local_recorder(&recorder, || Engine::start(EngineConfig::default(), devices));
    for (n, mismatches) in [(0, 0), (20, 1)] {
        answer(submit(&engine, request(n..n + 20)).unwrap()).await.unwrap();
        let checks = format!("\nlogitd_parity_checks_total {}\n", n / 20 + 1);
        until(|| page.render().contains(&checks)).await;
        until(|| std::fs::read_dir(folder.path()).unwrap().count() == 3 * mismatches).await;
        let line = format!("\nlogitd_parity_mismatches_total {mismatches}\n");
        until(|| page.render().contains(&line)).await;
    }
    assert_eq!(ups(&engine), [("cuda:0".into(), true)]);
    let files = std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path());
    let text = files.into_iter().find(|path| path.extension().is_some_and(|e| e == "txt"));
    let text = std::fs::read_to_string(text.unwrap()).unwrap();
    assert!(text.contains("row 0 (f16, vocab_size 32)") && text.contains("seed 20,"), "{text}");
}

#[tokio::test]
async fn a_strict_verification_takes_a_wrong_device_out() {
    let verify = Verify { strict: true, ..Verify::new(1.0, make(Scripted::new("second", []))) };
    let devices = Devices {
        backends: vec![Scripted::new("wrong", [Step::Wrong]).boxed()],
        fallback: Some(make(Scripted::new("fallback", []))),
        verify: Some(verify),
    };
    let engine = Engine::start(EngineConfig::default(), devices);
    let mut news = engine.watch_devices();
    answer(submit(&engine, request([1])).unwrap()).await.unwrap();
    // No further batch is needed for it.
    let out = news.wait_for(|states| states.len() == 2 && !states[0].up && states[1].up);
    tokio::time::timeout(LONG, out).await.expect("it is replaced").unwrap();
    let completed = answer(submit(&engine, request([2])).unwrap()).await.unwrap();
    assert_eq!(completed.device.id, "fallback");
}

#[tokio::test]
async fn the_share_of_batches_that_is_verified_is_spread_evenly() {
    let (second, gate) = Scripted::new("second", []).gated();
    for _ in 0..3 {
        gate.open();
    }
    let verify = Verify::new(0.25, make(second));
    let backends = vec![Scripted::new("first", []).boxed()];
    let devices = Devices { backends, verify: Some(verify), fallback: None };
    let engine = Engine::start(EngineConfig::default(), devices);
    for n in 1..=12 {
        answer(submit(&engine, request([n])).unwrap()).await.unwrap();
        if n % 4 == 0 {
            assert_eq!(gate.arrived(), [n]);
        }
    }
    drop(engine);
    assert!(gate.batches.try_recv().is_err());
}
