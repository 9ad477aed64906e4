//! Logits in memory that somebody lends.

use super::*;

/// Logits of `row(n)` that can be spoilt, and whether somebody has them.
#[derive(Debug)]
struct Lent {
    logits: Bytes,
    spoilt: Arc<Mutex<Option<LoanError>>>,
}

impl Loan for Lent {
    fn copy(&self, at: usize, into: &mut [u8]) {
        into.copy_from_slice(&self.logits[at..at + into.len()]);
    }

    fn check(&self) -> Result<(), LoanError> {
        self.spoilt.lock().unwrap().clone().map_or(Ok(()), Err)
    }
}

/// `row(n)`s with their logits in one loan; what spoils it; and a witness that goes when the loan does.
fn lent(rows: Vec<u64>) -> (Request, Arc<Mutex<Option<LoanError>>>, std::sync::Weak<dyn Loan>) {
    let bytes = |n: &u64| {
        let mut logits = vec![0; ROW_BYTES];
        row(*n).as_row().copy_to(0, &mut logits);
        logits
    };
    let logits: Bytes = rows.iter().flat_map(bytes).collect();
    let spoilt = Arc::default();
    let loan: Arc<dyn Loan> = Arc::new(Lent { logits, spoilt: Arc::clone(&spoilt) });
    let witness = Arc::downgrade(&loan);
    let row = |(i, n): (usize, u64)| {
        let params = *row(n).params();
        RequestRow::lent(Dtype::F16, Arc::clone(&loan), i * ROW_BYTES, ROW_BYTES, params).unwrap()
    };
    let rows = rows.into_iter().enumerate().map(row).collect();
    (
        Request { rows, deadline: None, priority: Priority::Normal, source: Source::default() },
        spoilt,
        witness,
    )
}

#[tokio::test]
async fn a_loan_is_checked_after_its_rows_and_over_before_their_answer() {
    // Two batches, so that the loan is spoilt between them.
    let config = EngineConfig { batch_rows_max: 2, ..Default::default() };
    let broken =
        [LoanError::Changed("slot 3 was written".into()), LoanError::Lost("the device".into())];
    for error in [None, Some(broken[0].clone()), Some(broken[1].clone())] {
        let (backend, gate) = Scripted::new("cpu", []).gated();
        let engine = start_with(config, [backend]);
        let (request, spoilt, witness) = lent(vec![5, 6, 7]);
        let expected = expected(&request);
        let ticket = submit(&engine, request).unwrap();
        gate.arrived();
        gate.open();
        gate.arrived();
        *spoilt.lock().unwrap() = error.clone();
        assert!(witness.upgrade().is_some());
        gate.open();
        match (error, answer(ticket).await) {
            (None, Ok(completed)) => assert!(completed.results.iter().eq(expected.iter())),
            (Some(error), Err(failure)) => assert_eq!(failure, Failure::Loan(error)),
            (error, answer) => panic!("{error:?}: {answer:?}"),
        }
        assert!(witness.upgrade().is_none(), "the owner can have its memory back");
        let ticket = submit(&engine, self::request([1])).unwrap();
        gate.arrived();
        gate.open();
        assert!(answer(ticket).await.is_ok(), "the device is as good as before");
    }
}

#[tokio::test]
async fn a_loan_that_is_over_is_not_verified() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let page = recorder.handle();
    let verify = Verify::new(1.0, make(Scripted::new("second", [])));
    let backends = vec![Scripted::new("first", []).boxed()];
    let devices = Devices { backends, verify: Some(verify), fallback: None };
    let engine =
        metrics::with_local_recorder(&recorder, || Engine::start(EngineConfig::default(), devices));
    let (request, ..) = lent(vec![1, 2]);
    answer(submit(&engine, request).unwrap()).await.unwrap();
    until(|| page.render().contains("\nlogitd_parity_skips_total 1\n")).await;
    assert!(page.render().contains("\nlogitd_parity_checks_total 0\n"), "{}", page.render());
}
