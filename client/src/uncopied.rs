//! Calls whose logits go to the transport as they lie.
//!
//! Encoded with the rest of its message, a batch of logits is written to memory once more; for 16 MB that takes as long as
//! sending them, also where the server then has no room for the message. Fields may come in any order, so a
//! call's logits are taken out of the message, and are sent behind what is encoded of it as its last field:
//!
//! ```text
//! length of the message | other fields, key and length of `logits` | `logits`
//! encoded by tonic, the length made longer; a chunk of its own     | a chunk that is not copied
//! ```

use hyper::body::{Body, Bytes, Frame};
use logitd_proto::{BeamStepRequest, EvaluateRequest, SampleRequest, VerifyRequest};
use prost::encoding::{WireType, encode_key, encode_varint};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tonic::Status;
use tonic::codegen::Service;

/// Fewer bytes are copied sooner than they are sent by themselves.
const LOGITS_BYTES_MIN: usize = 64 << 10;
/// The number of `logits` in every request.
const LOGITS: u32 = 3;
/// Where the length of a message stands, behind the flag that says whether it is compressed.
const LENGTH: std::ops::Range<usize> = 1..5;

/// A request with logits.
pub(super) trait HasLogits {
    fn logits(&mut self) -> &mut Bytes;
}

macro_rules! have_logits {
    ($($request:ident)*) => {$(
        impl HasLogits for $request {
            fn logits(&mut self) -> &mut Bytes {
                &mut self.logits
            }
        }
    )*};
}

have_logits! { SampleRequest EvaluateRequest VerifyRequest BeamStepRequest }

/// Logits of a call, on their way to the [`Transport`] beside its message.
#[derive(Clone, Debug)]
struct Beside(Bytes);

/// Takes the logits out of a call's message, to be sent as they lie.
pub(super) fn beside<M: HasLogits>(call: &mut tonic::Request<M>) {
    if call.get_mut().logits().len() >= LOGITS_BYTES_MIN {
        let logits = std::mem::take(call.get_mut().logits());
        call.extensions_mut().insert(Beside(logits));
    }
}

/// A connection that puts logits back into the messages of calls.
#[derive(Clone, Debug)]
pub(super) struct Transport<S>(pub S);

type Call = http::Request<tonic::body::Body>;

impl<S: Service<Call>> Service<Call> for Transport<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut call: Call) -> Self::Future {
        let call = match call.extensions_mut().remove::<Beside>() {
            Some(Beside(logits)) => call.map(|fields| {
                tonic::body::Body::new(Joined { part: Part::Fields(fields), logits })
            }),
            None => call,
        };
        self.0.call(call)
    }
}

/// A message and its logits.
#[derive(Debug)]
struct Joined<B> {
    part: Part<B>,
    logits: Bytes,
}

/// What of a message is sent next.
#[derive(Debug)]
enum Part<B> {
    /// What tonic encodes, which is one chunk.
    Fields(B),
    Logits,
    Nothing,
}

impl<B> Body for Joined<B>
where
    B: Body<Data = Bytes, Error = Status> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match &mut self.part {
            Part::Fields(fields) => {
                let Some(frame) = ready!(Pin::new(fields).poll_frame(cx)?) else {
                    return Poll::Ready(None);
                };
                let Ok(fields) = frame.into_data() else { return Poll::Ready(None) };
                self.part = Part::Logits;
                Poll::Ready(Some(announced(&fields, self.logits.len()).map(Frame::data)))
            }
            Part::Logits => {
                self.part = Part::Nothing;
                Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.logits)))))
            }
            Part::Nothing => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.part, Part::Nothing)
    }
}

/// A message, with its header, that goes on with so many bytes of logits.
fn announced(fields: &[u8], logits: usize) -> Result<Bytes, Status> {
    let mut begun = fields.to_vec();
    encode_key(LOGITS, WireType::LengthDelimited, &mut begun);
    encode_varint(logits as u64, &mut begun);
    let length = begun.len() - LENGTH.end + logits;
    let length = u32::try_from(length).map_err(|_| {
        Status::out_of_range(format!("the message has {length} bytes; allowed: {}", u32::MAX))
    })?;
    begun[LENGTH].copy_from_slice(&length.to_be_bytes());
    Ok(begun.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use logitd_proto::SamplingParams;
    use prost::Message;

    #[test]
    fn what_is_announced_and_the_logits_are_the_message() {
        for (bytes, rows) in [(0, 0), (127, 1), (128, 3), (LOGITS_BYTES_MIN, 200)] {
            let logits: Bytes = (0..bytes).map(|n| n as u8).collect();
            let params = SamplingParams { seed: Some(7), ..Default::default() };
            let without =
                SampleRequest { vocab_size: 5, params: vec![params; rows], ..Default::default() };
            let encoded = without.encode_to_vec();
            let header = [&[0][..], &(encoded.len() as u32).to_be_bytes()].concat();
            let begun = announced(&[header, encoded].concat(), bytes).unwrap();
            let message = [&begun[LENGTH.end..], &logits].concat();
            assert_eq!(begun[LENGTH], (message.len() as u32).to_be_bytes());
            let decoded = SampleRequest::decode(&*message).unwrap();
            assert_eq!(decoded, SampleRequest { logits, ..without });
        }
    }

    #[test]
    fn a_message_that_grpc_has_no_length_for_is_not_sent() {
        assert!(announced(&[0; 5], u32::MAX as usize).is_err());
    }
}
