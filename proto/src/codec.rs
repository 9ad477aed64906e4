//! Messages from bytes, with two differences from tonic's own codec.
//!
//! A parameter set takes two bytes on the wire and dozens in memory, so the sets of a message are
//! counted before any is decoded: no message can grow by more than [`PARAMS_MAX`] of them. And a
//! request that is not a message is its sender's error (INVALID_ARGUMENT), not the server's (INTERNAL).

use super::{
    GetInfoRequest, GetInfoResponse, SampleRequest, SampleResponse, SampleStreamRequest,
    SampleStreamResponse,
};
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use std::marker::PhantomData;
use tonic::codec::{BufferSettings, DecodeBuf, EncodeBuf};
use tonic::{Code, Status};

/// The most parameter sets that one message is decoded with, whatever the server's limits.
pub const PARAMS_MAX: usize = 1 << 16;

/// Encodes `E`, decodes `D`.
#[derive(Clone, Copy, Debug)]
pub struct Codec<E, D>(PhantomData<(E, D)>);

impl<E, D> Default for Codec<E, D> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<E, D> tonic::codec::Codec for Codec<E, D>
where
    E: Message + 'static,
    D: Received + 'static,
{
    type Encode = E;
    type Decode = D;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self::default()
    }

    fn decoder(&mut self) -> Self {
        Self::default()
    }
}

impl<E: Message, D> tonic::codec::Encoder for Codec<E, D> {
    type Item = E;
    type Error = Status;

    fn encode(&mut self, item: E, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(buffer).map_err(|error| Status::internal(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}

impl<E, D: Received> tonic::codec::Decoder for Codec<E, D> {
    type Item = D;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<D>, Status> {
        use bytes::Buf;
        // The decoder hands over one message in one piece.
        check_params::<D>(buffer.chunk())?;
        D::decode(buffer).map(Some).map_err(malformed::<D>)
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}

/// A message from its bytes, within the same bounds.
pub fn decode<D: Received>(bytes: &[u8]) -> Result<D, Status> {
    check_params::<D>(bytes)?;
    D::decode(bytes).map_err(malformed::<D>)
}

fn check_params<D: Received>(bytes: &[u8]) -> Result<(), Status> {
    match count(bytes, D::PARAMS_PATH) {
        ..=PARAMS_MAX => Ok(()),
        sets => Err(Status::invalid_argument(format!(
            "params: {sets} sets; allowed: none, 1 for all rows, or one a row, and at most {PARAMS_MAX}"
        ))),
    }
}

fn malformed<D: Received>(error: prost::DecodeError) -> Status {
    Status::new(D::MALFORMED, format!("malformed message: {error}"))
}

/// A call's buffers begin with room for a few rows' parameters or results, and grow. The default of 8 KiB
/// is beyond what allocators keep at hand, and small calls would feel it.
fn buffers() -> BufferSettings {
    const BEGIN_BYTES: usize = 1000;
    const YIELD_BYTES: usize = 32 << 10;
    BufferSettings::new(BEGIN_BYTES, YIELD_BYTES)
}

/// A message that can be received.
pub trait Received: Message + Default {
    /// Whose error it is when the bytes are not such a message.
    const MALFORMED: Code;
    /// Field numbers that lead to the parameter sets; empty where there are none.
    const PARAMS_PATH: &[u32] = &[];
}

macro_rules! received {
    ($($message:ty: $malformed:ident $(, $path:expr)?;)*) => {$(
        impl Received for $message {
            const MALFORMED: Code = Code::$malformed;
            $(const PARAMS_PATH: &[u32] = $path;)?
        }
    )*};
}

received! {
    SampleRequest: InvalidArgument, &[4];
    SampleStreamRequest: InvalidArgument, &[2, 4];
    GetInfoRequest: InvalidArgument;
    SampleResponse: Internal;
    SampleStreamResponse: Internal;
    GetInfoResponse: Internal;
}

/// How many fields the path leads to, up to where the bytes stop being a message.
fn count(mut bytes: &[u8], path: &[u32]) -> usize {
    let Some((&wanted, inner)) = path.split_first() else { return 0 };
    let mut found = 0;
    while let Ok((field, wire_type)) = decode_key(&mut bytes) {
        if field == wanted && wire_type == WireType::LengthDelimited {
            let Ok(length) = decode_varint(&mut bytes) else { break };
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let Some((value, rest)) = bytes.split_at_checked(length) else { break };
            found += if inner.is_empty() { 1 } else { count(value, inner) };
            bytes = rest;
        } else if skip_field(wire_type, field, &mut bytes, DecodeContext::default()).is_err() {
            break;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SamplingParams;

    #[test]
    fn parameter_sets_are_counted_without_decoding() {
        let params = vec![SamplingParams { seed: Some(1), ..Default::default() }; 3];
        let request = SampleRequest { params, logits: vec![7; 99].into(), ..Default::default() };
        assert_eq!(count(&request.encode_to_vec(), SampleRequest::PARAMS_PATH), 3);
        // Repeated, a message field is merged, so the sets add up.
        let message =
            SampleStreamRequest { id: 9, request: Some(request), first_row: None }.encode_to_vec();
        let twice = [message.clone(), message].concat();
        assert_eq!(count(&twice, SampleStreamRequest::PARAMS_PATH), 6);
        assert_eq!(SampleStreamRequest::decode(&*twice).unwrap().request.unwrap().params.len(), 6);
        assert_eq!(count(&twice[..twice.len() - 1], SampleStreamRequest::PARAMS_PATH), 3);
        assert_eq!(count(&[0xff; 64], SampleRequest::PARAMS_PATH), 0);
    }
}
