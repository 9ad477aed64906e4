//! Keeps many batches in flight on one call, and shows that answers come in the order of completion.
//!
//! ```sh
//! cargo run --release -- serve &
//! cargo run --release -p logitd-client --example stream [TARGET]
//! ```

use logitd_client::api::{Dtype, SampleRequest, SamplingParams};
use logitd_client::{Client, Error};

const VOCAB_SIZE: u32 = 32_000;
const REQUESTS: u64 = 64;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let target = std::env::args().nth(1).unwrap_or("http://127.0.0.1:50051".into());
    let (mut sender, mut receiver) = Client::connect(target).await?.stream().await?.split();

    // Sending and receiving go on at once: the server reads no further while too many of its answers
    // are unread. Dropping the sender at the end says that no more requests come.
    let sending = tokio::spawn(async move {
        for position in 0..REQUESTS {
            sender.send(request(position)).await?;
        }
        Ok::<_, Error>(())
    });
    while let Some(answer) = receiver.receive().await {
        // A request can fail without ending the stream.
        match answer? {
            (id, Ok(response)) => println!("{id}: token {:?}", response.rows[0].token),
            (id, Err(error)) => println!("{id}: {error}"),
        }
    }
    sending.await.expect("no panic")
}

/// One row of made-up logits; a real caller has a model.
fn request(position: u64) -> SampleRequest {
    let logit = |token: u32| (f64::from(token) * (position + 1) as f64).sin() as f32 * 10.0;
    SampleRequest {
        dtype: Dtype::F32.into(),
        vocab_size: VOCAB_SIZE,
        logits: (0..VOCAB_SIZE).flat_map(|token| logit(token).to_le_bytes()).collect(),
        params: vec![SamplingParams { seed: Some(1), position, top_k: 50, ..Default::default() }],
        ..Default::default()
    }
}
