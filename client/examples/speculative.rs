//! Speculative decoding: of a few drafted tokens a step, the server says how many stand and how the text goes on. The text
//! is that of decoding without drafts, whatever these are.
//!
//! ```sh
//! cargo run --release -- serve &
//! cargo run --release -p logitd-client --example speculative [TARGET]
//! ```

use logitd_client::api::{DraftedSequence, Dtype, SamplingParams, VerifyRequest};
use logitd_client::{Client, Error};

const VOCAB_SIZE: u32 = 32_000;
const TOKENS: usize = 64;
const DRAFTS: usize = 4;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let target = std::env::args().nth(1).unwrap_or("http://127.0.0.1:50051".into());
    let client = Client::connect(target).await?;
    let (mut text, mut steps) = (vec![1], 0);
    while text.len() < TOKENS {
        let drafts = drafts(&text);
        // The model is run once: a row behind the text, and one behind each draft.
        let behind = |count: usize| [&text[..], &drafts[..count]].concat();
        let logits = (0..=drafts.len()).flat_map(|count| logits(&behind(count))).collect();
        let position = text.len() as u64;
        let params = SamplingParams { seed: Some(1), position, top_k: 5, ..Default::default() };
        let sequence = DraftedSequence { drafts, params: Some(params), ..Default::default() };
        let request = VerifyRequest {
            dtype: Dtype::F32.into(),
            vocab_size: VOCAB_SIZE,
            logits,
            sequences: vec![sequence],
            ..Default::default()
        };
        let verified = client.verify(request).await?.sequences.remove(0);
        println!("{} drafts taken: {:?}", verified.accepted, verified.tokens);
        text.extend(verified.tokens);
        steps += 1;
    }
    println!("{} tokens in {steps} steps", text.len() - 1);
    Ok(())
}

/// What came behind the last token when it was there before.
fn drafts(text: &[u32]) -> Vec<u32> {
    let (last, before) = text.split_last().expect("a text has a token");
    let place = before.iter().rposition(|token| token == last);
    place.map_or(vec![], |place| text[place + 1..].iter().copied().take(DRAFTS).collect())
}

/// Made-up logits, under which few tokens are likely; a real caller has a model.
fn logits(text: &[u32]) -> Vec<u8> {
    let likely = text.last().map_or(0, |last| (last + 1) % 7);
    let logit = |token: u32| -2.0 * token.abs_diff(likely) as f32;
    (0..VOCAB_SIZE).flat_map(|token| logit(token).to_le_bytes()).collect()
}
