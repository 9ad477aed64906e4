//! The planes that come as bytes: rows by their candidates, and batches in chunks. Each gives the bits
//! that the same rows give in one whole message, or says why not.

mod candidates;
mod chunks;

use crate::harness::backends::{Gated, Paced};
use crate::harness::raw::{self, Raw, announced, framed};
use crate::harness::{TestServer, cpu, expected, request};
use http_body_util::BodyExt;
use logitd::tools::generate::{self, Random};
use logitd_client::{Client, Error};
use logitd_core::batch;
use logitd_proto::sample_stream_response::Result as Outcome;
use logitd_proto::{
    Candidates, DrawRule, Dtype, Plane, RowResult, RowStatus, SampleRequest, SampleStreamRequest,
    SampleStreamResponse, SamplingParams,
};
use prost::Message;
use std::time::{Duration, Instant};
use tonic::Code;

fn le(words: &[u32]) -> bytes::Bytes {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// One row of candidates: these tokens, in this order.
#[derive(Clone)]
struct Sparse {
    tokens: Vec<u32>,
    logits: Vec<u8>,
}

impl Sparse {
    fn of(row: &batch::Row<'_>, tokens: Vec<u32>) -> Self {
        let size = row.dtype().size_bytes();
        let logit = |&token: &u32| &row.logits()[token as usize * size..][..size];
        let logits = tokens.iter().flat_map(logit).copied().collect();
        Self { tokens, logits }
    }
}

/// A request of whole rows with these rows' candidates in their place.
fn sparse(mut whole: SampleRequest, rows: &[Sparse]) -> SampleRequest {
    let counts: Vec<u32> = rows.iter().map(|row| row.tokens.len() as u32).collect();
    let tokens: Vec<u32> = rows.iter().flat_map(|row| row.tokens.clone()).collect();
    whole.logits = rows.iter().flat_map(|row| row.logits.clone()).collect();
    whole.candidates = Some(Candidates { counts: le(&counts), tokens: le(&tokens) });
    whole
}

#[tokio::test(flavor = "multi_thread")]
async fn every_plane_is_offered_answered_and_counted_by_its_name() {
    let server = TestServer::start(&["--metrics-listen=127.0.0.1:0"]).await;
    let client = server.client().await;
    let info = client.info().await.unwrap();
    let offered = [Plane::Inline, Plane::Chunked, Plane::Candidates].map(i32::from);
    assert_eq!(info.planes, offered);
    assert_eq!(info.chunk_bytes, 1 << 20);

    let mut stream = client.stream().await.unwrap();
    stream.send(request(1, 50, 1)).await.unwrap();
    let (_, response) = stream.receive().await.unwrap().unwrap();
    assert_eq!(
        response.unwrap().plane(),
        Plane::Inline,
        "a stream of batches is no batch in chunks"
    );

    let params = SamplingParams { top_k: 1, ..Default::default() };
    let whole = SampleRequest { params: vec![params], ..request(1, 50, 1) };
    let rows = [Sparse { tokens: vec![4], logits: vec![0, 0] }];
    stream.send_chunk(3, sparse(whole.clone(), &rows)).await.unwrap();
    let (_, response) = stream.receive().await.unwrap().unwrap();
    assert_eq!(response.unwrap().plane(), Plane::Candidates, "how its logits came");
    client.sample_chunked(whole, &info).await.unwrap();

    let url = format!("{}", server.metrics.unwrap());
    let text = crate::harness::daemon::scrape(&url).await;
    for (plane, least) in [("inline", 100.0), ("candidates", 6.0), ("chunked", 100.0)] {
        let name = format!("logitd_bytes_total{{plane=\"{plane}\"}}");
        // Servers of one process share the numbers.
        assert!(crate::harness::daemon::value(&text, &name) >= least, "{plane}:\n{text}");
    }
}
