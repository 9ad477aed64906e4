//! A request as bytes and back, as a server without tonic would read it.

use logitd_proto::{Dtype, SampleRequest, SamplingParams, decode};
use prost::Message;

fn main() -> Result<(), tonic::Status> {
    let logits: Vec<u8> = [0.5f32, 2.0, 1.0, 1.75].iter().flat_map(|x| x.to_le_bytes()).collect();
    let request = SampleRequest {
        dtype: Dtype::F32.into(),
        vocab_size: 4,
        rows: Some(1),
        logits: logits.into(),
        params: vec![SamplingParams { temperature: Some(0.7), top_k: 3, ..Default::default() }],
        ..Default::default()
    };
    let bytes = request.encode_to_vec();
    println!("{} bytes: {bytes:02x?}", bytes.len());
    // Within bounds: a message with more parameter sets than a server can have is refused before it is decoded.
    let again: SampleRequest = decode(&bytes)?;
    assert_eq!(again, request);
    Ok(())
}
