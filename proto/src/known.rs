//! Fields of requests that this version of the API does not have.
//!
//! Decoders of Protocol Buffers drop such fields in silence. A control of a later version would be dropped so, and an
//! answer that looks right would come back: a token that was to be banned, say. They are refused instead.

#[rustfmt::skip]
#[path = "generated_fields.rs"]
mod generated;

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use std::fmt;

pub use generated::{
    BEAM_STEP_REQUEST, EVALUATE_REQUEST, EVALUATE_STREAM_REQUEST, SAMPLE_REQUEST,
    SAMPLE_STREAM_REQUEST, VERIFY_REQUEST, VERIFY_STREAM_REQUEST,
};

/// The fields of a message: the number and the name of each, and the fields that it has itself.
#[derive(Debug)]
pub struct Fields(&'static [(u32, &'static str, Option<&'static Fields>)]);

/// A field that is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownField {
    /// The names of the fields that lead to the message that has it; none for the request itself.
    path: Vec<&'static str>,
    number: u32,
}

impl fmt::Display for UnknownField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = match &self.path[..] {
            [] => "the request".into(),
            path => path.join("."),
        };
        let Self { number, .. } = self;
        write!(
            f,
            "{path} has a field {number}, which this server does not know and would not do; leave it out, or use a \
             server whose GetInfo names the control"
        )
    }
}

/// Looks for a field that is not known, up to where the bytes stop being a message.
pub fn check(mut bytes: &[u8], fields: &Fields) -> Result<(), UnknownField> {
    while let Ok((number, wire_type)) = decode_key(&mut bytes) {
        let Some((_, name, inner)) = fields.0.iter().find(|field| field.0 == number) else {
            return Err(UnknownField { path: vec![], number });
        };
        match inner {
            Some(inner) if wire_type == WireType::LengthDelimited => {
                let Ok(length) = decode_varint(&mut bytes) else { break };
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                let Some((value, rest)) = bytes.split_at_checked(length) else { break };
                check(value, inner).map_err(|mut unknown| {
                    unknown.path.insert(0, name);
                    unknown
                })?;
                bytes = rest;
            }
            _ => {
                let skipped = skip_field(wire_type, number, &mut bytes, DecodeContext::default());
                if skipped.is_err() {
                    break;
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Adjustments, Dry, SampleRequest, SampleStreamRequest, SamplingParams, TokenBias};
    use prost::Message;

    /// A field of this number, empty bytes.
    fn field(number: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        prost::encoding::encode_key(number, WireType::LengthDelimited, &mut bytes);
        bytes.push(0);
        bytes
    }

    /// A message in a field of this number.
    fn wrapped(number: u32, message: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        prost::encoding::encode_key(number, WireType::LengthDelimited, &mut bytes);
        prost::encoding::encode_varint(message.len() as u64, &mut bytes);
        bytes.extend(message);
        bytes
    }

    #[test]
    fn what_the_api_has_is_known() {
        let params = SamplingParams {
            temperature: Some(0.5),
            dry: Some(Dry { multiplier: 1.0, ..Default::default() }),
            ..Default::default()
        };
        let adjustments = Adjustments {
            logit_bias: vec![TokenBias { token: 1, bias: 0.5 }],
            prompt: vec![1, 2],
            ..Default::default()
        };
        let request = SampleRequest {
            params: vec![params],
            adjustments: vec![adjustments],
            rows: Some(1),
            ..Default::default()
        };
        assert_eq!(check(&request.encode_to_vec(), &SAMPLE_REQUEST), Ok(()));
        let message = SampleStreamRequest { request: Some(request), id: 7, first_row: Some(0) };
        assert_eq!(check(&message.encode_to_vec(), &SAMPLE_STREAM_REQUEST), Ok(()));
    }

    #[test]
    fn a_field_that_it_has_not_is_named_by_its_path() {
        let told = |bytes: &[u8]| check(bytes, &SAMPLE_STREAM_REQUEST).unwrap_err().to_string();
        assert!(told(&field(999)).starts_with("the request has a field 999,"));
        let request = wrapped(2, &wrapped(4, &wrapped(15, &field(77))));
        assert!(told(&request).starts_with("request.params.dry has a field 77,"));
        let request = wrapped(2, &wrapped(9, &wrapped(6, &field(3))));
        assert!(told(&request).starts_with("request.adjustments.logit_bias has a field 3,"));
    }

    #[test]
    fn bytes_that_are_no_message_are_left_to_the_decoder() {
        assert_eq!(check(&[0xff; 64], &SAMPLE_REQUEST), Ok(()));
        let request = wrapped(4, &field(999));
        assert_eq!(check(&request[..request.len() - 1], &SAMPLE_REQUEST), Ok(()));
    }
}
