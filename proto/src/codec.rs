//! Messages from bytes, with three differences from tonic's own codec; and to bytes ([`sent`](super::sent)).
//!
//! A parameter set takes two bytes on the wire and dozens in memory, so the sets of a message are
//! counted before any is decoded: no message can grow by more than [`PARAMS_MAX`] of them; nor by more sets of
//! adjustments, or sequences and biases in them ([`Received::COUNTED`]). A field of a request that is not known is refused
//! ([`known`]). And a request that is not a message is its sender's error (INVALID_ARGUMENT), not the server's
//! (INTERNAL).

use super::known::{
    self, BEAM_STEP_REQUEST, EVALUATE_REQUEST, EVALUATE_STREAM_REQUEST, Fields, SAMPLE_REQUEST,
    SAMPLE_STREAM_REQUEST, VERIFY_REQUEST, VERIFY_STREAM_REQUEST,
};
use super::sent::Sent;
use super::{
    BeamStepRequest, BeamStepResponse, EvaluateRequest, EvaluateResponse, EvaluateStreamRequest,
    EvaluateStreamResponse, GetInfoRequest, GetInfoResponse, SampleRequest, SampleResponse,
    SampleStreamRequest, SampleStreamResponse, VerifyRequest, VerifyResponse, VerifyStreamRequest,
    VerifyStreamResponse,
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
    E: Sent + 'static,
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

impl<E: Sent, D> tonic::codec::Encoder for Codec<E, D> {
    type Item = E;
    type Error = Status;

    fn encode(&mut self, item: E, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.append(buffer);
        Ok(())
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
        check::<D>(buffer.chunk())?;
        D::decode(buffer).map(Some).map_err(malformed::<D>)
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}

/// A message from its bytes, within the same bounds.
pub fn decode<D: Received>(bytes: &[u8]) -> Result<D, Status> {
    check::<D>(bytes)?;
    D::decode(bytes).map_err(malformed::<D>)
}

/// What is counted in a request before it is decoded, by the field numbers that lead there, and how many there can
/// be at most. Lists of tokens need no count, as they take as many bytes in memory as on the wire.
type Counted = (&'static str, &'static [u32], usize);

const OF_SAMPLE: &[Counted] = &[
    ("params", &[4], PARAMS_MAX),
    ("params.logprobs.of", OF, PARAMS_MAX),
    ("params.dry.breakers", &[4, 15, 5], PARAMS_MAX),
    ("columns.logprobs.of", OF_COLUMNS, PARAMS_MAX),
    ("columns.dry.breakers", &[12, 15, 5], PARAMS_MAX),
    ("adjustments", &[9], PARAMS_MAX),
    ("adjustments.bad_words", &[9, 4], 1 << 17),
    ("adjustments.logit_bias", &[9, 6], 1 << 20),
];

const OF_EVALUATE: &[Counted] = &[
    ("sets", &[7], PARAMS_MAX),
    ("sets.logprobs.of", OF_SETS, PARAMS_MAX),
    ("sets.dry.breakers", &[7, 15, 5], PARAMS_MAX),
];

const OF_VERIFY: &[Counted] = &[
    ("sequences", &[7], PARAMS_MAX),
    ("sequences.parents", PARENTS, 1 << 20),
    ("sequences.params.logprobs.of", OF_SEQUENCES, PARAMS_MAX),
    ("sequences.params.dry.breakers", &[7, 6, 15, 5], PARAMS_MAX),
    ("sequences.adjustments.bad_words", &[7, 7, 4], 1 << 17),
    ("sequences.adjustments.logit_bias", &[7, 7, 6], 1 << 20),
    ("sequences.row_adjustments", &[7, 8], PARAMS_MAX),
    ("sequences.row_adjustments.bad_words", &[7, 8, 4], 1 << 17),
    ("sequences.row_adjustments.logit_bias", &[7, 8, 6], 1 << 20),
    ("sequences.distributions", &[7, 9], PARAMS_MAX),
    ("sequences.distributions.logits", &[7, 9, 1], 1 << 14),
    ("sequences.distributions.logits.params.logprobs.of", OF_DRAFTS, PARAMS_MAX),
    ("sequences.distributions.logits.params.dry.breakers", &[7, 9, 1, 2, 15, 5], PARAMS_MAX),
    ("sequences.distributions.logits.adjustments.bad_words", &[7, 9, 1, 3, 4], 1 << 17),
    ("sequences.distributions.logits.adjustments.logit_bias", &[7, 9, 1, 3, 6], 1 << 20),
];

const OF_BEAM_STEP: &[Counted] = &[
    ("groups", &[7], PARAMS_MAX),
    ("groups.params", &[7, 8], PARAMS_MAX),
    ("groups.params.logprobs.of", OF_GROUPS, PARAMS_MAX),
    ("groups.params.dry.breakers", &[7, 8, 15, 5], PARAMS_MAX),
    ("groups.adjustments", &[7, 9], PARAMS_MAX),
    ("groups.adjustments.bad_words", &[7, 9, 4], 1 << 17),
    ("groups.adjustments.logit_bias", &[7, 9, 6], 1 << 20),
];

/// Distributions, and parents of drafts, of which many stand in one field: they are counted by its bytes.
const OF: &[u32] = &[4, 17, 1];
const OF_COLUMNS: &[u32] = &[12, 17, 1];
const OF_SETS: &[u32] = &[7, 17, 1];
const OF_SEQUENCES: &[u32] = &[7, 6, 17, 1];
const OF_DRAFTS: &[u32] = &[7, 9, 1, 2, 17, 1];
const OF_GROUPS: &[u32] = &[7, 8, 17, 1];
const PARENTS: &[u32] = &[7, 5];
const LISTS: [&[u32]; 7] = [OF, OF_COLUMNS, OF_SETS, OF_SEQUENCES, OF_DRAFTS, OF_GROUPS, PARENTS];

/// What decoding would not notice.
fn check<D: Received>(bytes: &[u8]) -> Result<(), Status> {
    check_counts::<D>(bytes)?;
    let Some(fields) = D::FIELDS else { return Ok(()) };
    known::check(bytes, fields).map_err(|unknown| Status::invalid_argument(unknown.to_string()))
}

fn check_counts<D: Received>(bytes: &[u8]) -> Result<(), Status> {
    let Some(to_request) = D::REQUEST_PATH else { return Ok(()) };
    for &(name, path, most) in D::COUNTED {
        let is_list = LISTS.contains(&path);
        let each: fn(&[u8]) -> usize = if is_list { <[u8]>::len } else { |_| 1 };
        let found = count(bytes, &[to_request, path].concat(), each);
        if found > most {
            return Err(Status::invalid_argument(format!(
                "{name}: {found} in one message; allowed: {most}, and as many as the rows of the request may have"
            )));
        }
    }
    Ok(())
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
    /// Field numbers that lead to the request; `None` where there is none.
    const REQUEST_PATH: Option<&[u32]> = None;
    /// What is counted in the request.
    const COUNTED: &[Counted] = &[];
    /// The fields that it may have; `None` where others are no matter.
    const FIELDS: Option<&Fields> = None;
}

macro_rules! received {
    ($($message:ty: $malformed:ident $(, $path:expr, $counted:expr, $fields:expr)?;)*) => {$(
        impl Received for $message {
            const MALFORMED: Code = Code::$malformed;
            $(
                const REQUEST_PATH: Option<&[u32]> = Some($path);
                const COUNTED: &[Counted] = $counted;
                const FIELDS: Option<&Fields> = Some($fields);
            )?
        }
    )*};
}

received! {
    SampleRequest: InvalidArgument, &[], OF_SAMPLE, &SAMPLE_REQUEST;
    SampleStreamRequest: InvalidArgument, &[2], OF_SAMPLE, &SAMPLE_STREAM_REQUEST;
    EvaluateRequest: InvalidArgument, &[], OF_EVALUATE, &EVALUATE_REQUEST;
    EvaluateStreamRequest: InvalidArgument, &[2], OF_EVALUATE, &EVALUATE_STREAM_REQUEST;
    VerifyRequest: InvalidArgument, &[], OF_VERIFY, &VERIFY_REQUEST;
    VerifyStreamRequest: InvalidArgument, &[2], OF_VERIFY, &VERIFY_STREAM_REQUEST;
    BeamStepRequest: InvalidArgument, &[], OF_BEAM_STEP, &BEAM_STEP_REQUEST;
    GetInfoRequest: InvalidArgument;
    SampleResponse: Internal;
    SampleStreamResponse: Internal;
    EvaluateResponse: Internal;
    EvaluateStreamResponse: Internal;
    VerifyResponse: Internal;
    VerifyStreamResponse: Internal;
    BeamStepResponse: Internal;
    GetInfoResponse: Internal;
}

/// How many fields the path leads to, up to where the bytes stop being a message; `each` says what one counts.
fn count(mut bytes: &[u8], path: &[u32], each: fn(&[u8]) -> usize) -> usize {
    let Some((&wanted, inner)) = path.split_first() else { return 0 };
    let mut found = 0;
    while let Ok((field, wire_type)) = decode_key(&mut bytes) {
        if field == wanted && wire_type == WireType::LengthDelimited {
            let Ok(length) = decode_varint(&mut bytes) else { break };
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let Some((value, rest)) = bytes.split_at_checked(length) else { break };
            found += if inner.is_empty() { each(value) } else { count(value, inner, each) };
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
    use crate::draft_distribution::Kind;
    use crate::{DraftDistribution, DraftedSequence, Logprobs, ParamColumns, SamplingParams};

    #[test]
    fn distributions_are_counted_where_they_share_a_field() {
        let logprobs = |n| Some(Logprobs { of: vec![1; n], ..Default::default() });
        let params = |n| SamplingParams { logprobs: logprobs(n), ..Default::default() };
        let request =
            |n| SampleRequest { params: vec![params(3), params(n)], ..Default::default() };
        assert!(decode::<SampleRequest>(&request(PARAMS_MAX - 3).encode_to_vec()).is_ok());
        let error = decode::<SampleRequest>(&request(PARAMS_MAX).encode_to_vec()).unwrap_err();
        assert!(error.message().starts_with("params.logprobs.of: 65539 in one message"), "{error}");
        let columns = ParamColumns { logprobs: logprobs(PARAMS_MAX + 1), ..Default::default() };
        let request = SampleRequest { columns: Some(columns), ..Default::default() };
        let error = decode::<SampleRequest>(&request.encode_to_vec()).unwrap_err();
        assert!(error.message().starts_with("columns.logprobs.of: 65537 in one"), "{error}");
    }

    #[test]
    fn what_a_draft_brings_is_counted_before_it_is_decoded() {
        let distribution = |kind| DraftDistribution { kind };
        let of = |distributions| VerifyRequest {
            sequences: vec![DraftedSequence { distributions, ..Default::default() }],
            ..Default::default()
        };
        let told = |request: VerifyRequest| {
            decode::<VerifyRequest>(&request.encode_to_vec()).err().map(|e| e.message().to_owned())
        };
        assert_eq!(told(of(vec![distribution(None); PARAMS_MAX])), None);
        let said = told(of(vec![distribution(None); PARAMS_MAX + 1])).unwrap();
        assert!(said.starts_with("sequences.distributions: 65537 in one message"), "{said}");
        let logits = distribution(Some(Kind::Logits(Box::default())));
        let said = told(of(vec![logits; (1 << 14) + 1])).unwrap();
        assert!(said.starts_with("sequences.distributions.logits: 16385 in one"), "{said}");
        let parents = vec![0; (1 << 20) + 1];
        let sequences = vec![DraftedSequence { parents, ..Default::default() }];
        let said = told(VerifyRequest { sequences, ..Default::default() }).unwrap();
        assert!(said.starts_with("sequences.parents: 1048577 in one message"), "{said}");
    }

    #[test]
    fn parameter_sets_are_counted_without_decoding() {
        let count = |bytes: &[u8], path: &[u32]| count(bytes, path, |_| 1);
        let params = vec![SamplingParams { seed: Some(1), ..Default::default() }; 3];
        let request = SampleRequest { params, logits: vec![7; 99].into(), ..Default::default() };
        assert_eq!(count(&request.encode_to_vec(), &[4]), 3);
        // Repeated, a message field is merged, so the sets add up.
        let message =
            SampleStreamRequest { id: 9, request: Some(request), first_row: None }.encode_to_vec();
        let twice = [message.clone(), message].concat();
        assert_eq!(count(&twice, &[2, 4]), 6);
        assert_eq!(SampleStreamRequest::decode(&*twice).unwrap().request.unwrap().params.len(), 6);
        assert_eq!(count(&twice[..twice.len() - 1], &[2, 4]), 3);
        assert_eq!(count(&[0xff; 64], &[4]), 0);
    }
}
