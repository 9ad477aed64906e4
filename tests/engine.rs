//! The engine's promises, on backends that do what a test tells them.

use bytes::Bytes;
use logitd::backend::Backend;
use logitd::backend::reference::Reference;
use logitd::batch::{Dtype, Results, Row};
use logitd::engine::{Engine, EngineConfig, Priority, Request, RequestRow};
use logitd::params::ParamsSpec;

/// A row whose logits and seed follow from `n`.
fn row(n: u64) -> RequestRow {
    let params = ParamsSpec { seed: Some(n), ..Default::default() }.parse(|| 0).unwrap();
    let logits: Vec<u8> = (0..64).map(|i| (n.wrapping_mul(2 * i + 1) >> 3) as u8 & 0x3f).collect();
    RequestRow::new(Dtype::F16, Bytes::from(logits), params).unwrap()
}

fn request(rows: impl IntoIterator<Item = u64>) -> Request {
    let rows = rows.into_iter().map(row).collect();
    Request { rows, deadline: None, priority: Priority::Normal }
}

fn expected(request: &Request) -> Results {
    let rows: Vec<Row<'_>> = request.rows.iter().map(|row| row.as_row()).collect();
    let mut results = Results::default();
    Reference::default().sample(&rows, &mut results).unwrap();
    results
}

#[tokio::test]
async fn each_request_gets_its_own_rows_in_order() {
    let engine = Engine::start(EngineConfig::default(), vec![Box::<Reference>::default() as _]);
    let mut open = Vec::new();
    for n in 0..50 {
        let request = request(n * 10..n * 10 + 1 + n % 4);
        let permit = engine.reserve(request.rows.len(), request.bytes()).unwrap();
        let expected = expected(&request);
        open.push((engine.submit(permit, request).unwrap(), expected));
    }
    for (ticket, expected) in open {
        let completed = ticket.await.unwrap();
        assert!(completed.results.iter().eq(expected.iter()));
    }
    engine.drain().await;
}
