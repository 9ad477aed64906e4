//! Samples real next-token logits on a running server, at two temperatures, then replays the draws.
//!
//! ```sh
//! cargo run --release -- serve &
//! cargo run --release --example sample [TARGET]
//! ```

use logitd::files::assets;
use logitd_client::{Client, Error};
use logitd_proto::{Dtype, SampleRequest, SamplingParams};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let target = std::env::args().nth(1).unwrap_or("http://127.0.0.1:50051".into());
    // When the server has no room it says when to come back; the client does, up to so often.
    let client = Client::builder(target).retries_max(10).connect().await?;
    let info = client.info().await?;
    println!("logitd {}, arithmetic {}", info.version, info.arithmetic_version);

    for temperature in [0.0, 1.0] {
        for row in assets::rows().iter().take(3) {
            let params = SamplingParams {
                temperature: Some(temperature),
                top_p: Some(0.95),
                draws: Some(8),
                ..Default::default()
            };
            let request = SampleRequest {
                dtype: Dtype::F16.into(),
                vocab_size: assets::VOCAB_SIZE,
                rows: Some(1),
                logits: row.logits.clone().into(),
                params: vec![params],
                ..Default::default()
            };
            let drawn = client.sample(request.clone()).await?.rows;
            let result = &drawn[0];
            let texts: Vec<_> = result
                .draws
                .iter()
                .map(|draw| assets::tokens().get(draw.token).unwrap_or("?"))
                .collect();
            println!("T {temperature}: {:?} -> {texts:?}, of {} kept", row.context, result.kept);

            // The seed that the server took gives the same draws again, on any machine.
            let mut again = request;
            again.params[0].seed = Some(result.seed);
            assert_eq!(client.sample(again).await?.rows, drawn);
        }
    }
    Ok(())
}
