//! The methods whose calls are recorded, by their requests: what the file and the recorder have to know of each.

use super::recheck::Recheck;
use super::{Call, Exchange};
use bytes::Bytes;
use logitd_proto::trace::{
    BeamStepRecord, BytePlane, Record, VerifyRecord, beam_step_record, frame, record, verify_record,
};
use logitd_proto::{
    BeamGroup, BeamStepRequest, DraftDistribution, DraftedSequence, Dtype, SampleRequest,
    SamplingParams, StreamError, VerifyRequest,
};
use prost::Message;
use std::fmt;

/// A request of a method whose calls are recorded.
pub trait Method:
    Recheck<Answer: Clone + fmt::Debug + PartialEq> + Clone + fmt::Debug + PartialEq
{
    /// A call of the method.
    fn call(exchange: Exchange<Self>) -> Call;

    /// What a request takes while it waits for the disk.
    fn bytes(&self) -> u64;

    /// How its logits are stored, and where they are.
    fn logits(&mut self) -> (Dtype, &mut Bytes);

    /// A frame of these parts.
    fn frame(parts: Parts<Self>) -> frame::Content;
}

/// What a frame has of a call.
pub struct Parts<M: Method> {
    /// From the start of the session to the arrival of the request.
    pub(super) arrival_us: u64,
    /// From there to its answer.
    pub(super) took_us: u64,
    /// Without its logits where these are in the planes.
    pub(super) request: M,
    pub(super) result: Result<M::Answer, StreamError>,
    pub(super) planes: Vec<BytePlane>,
    /// Bytes of the logits in the planes.
    pub(super) unpacked_bytes: u64,
}

/// The same parts of a frame that was read, where there may be less.
pub(super) struct ReadParts<M: Method> {
    pub(super) arrival_us: u64,
    pub(super) took_us: u64,
    pub(super) request: Option<M>,
    pub(super) result: Option<Result<M::Answer, StreamError>>,
    pub(super) planes: Vec<BytePlane>,
    pub(super) unpacked_bytes: u64,
}

macro_rules! frames {
    ($request:ident, $record:ident, $answer:ident, $content:ident) => {
        impl From<Parts<$request>> for frame::Content {
            fn from(parts: Parts<$request>) -> Self {
                let Parts { arrival_us, took_us, request, result, planes, unpacked_bytes } = parts;
                let answer = Some(match result {
                    Ok(response) => $answer::Answer::Response(response),
                    Err(error) => $answer::Answer::Error(error),
                });
                let request = Some(request);
                let record =
                    $record { arrival_us, took_us, request, answer, planes, unpacked_bytes };
                Self::$content(record)
            }
        }

        impl From<$record> for ReadParts<$request> {
            fn from(record: $record) -> Self {
                let $record { arrival_us, took_us, request, answer, planes, unpacked_bytes } =
                    record;
                let result = answer.map(|answer| match answer {
                    $answer::Answer::Response(response) => Ok(response),
                    $answer::Answer::Error(error) => Err(error),
                });
                Self { arrival_us, took_us, request, result, planes, unpacked_bytes }
            }
        }
    };
}

frames!(SampleRequest, Record, record, Record);
frames!(VerifyRequest, VerifyRecord, verify_record, Verify);
frames!(BeamStepRequest, BeamStepRecord, beam_step_record, BeamStep);

impl Method for SampleRequest {
    fn call(exchange: Exchange<Self>) -> Call {
        Call::Sample(exchange)
    }

    fn bytes(&self) -> u64 {
        let candidates = self.candidates.as_ref();
        let tokens = candidates.map_or(0, |given| given.tokens.len() + given.counts.len());
        let columns = self.columns.as_ref().map_or(0, Message::encoded_len);
        let (adjustments, params) = (encoded(&self.adjustments), encoded(&self.params));
        let sets = params + self.params.len() * size_of::<SamplingParams>();
        (self.logits.len() + tokens + adjustments + sets + columns) as u64
    }

    fn logits(&mut self) -> (Dtype, &mut Bytes) {
        (self.dtype(), &mut self.logits)
    }

    fn frame(parts: Parts<Self>) -> frame::Content {
        parts.into()
    }
}

impl Method for VerifyRequest {
    fn call(exchange: Exchange<Self>) -> Call {
        Call::Verify(exchange)
    }

    fn bytes(&self) -> u64 {
        let of_rows = |one: &DraftedSequence| {
            one.distributions.len() * size_of::<DraftDistribution>()
                + one.row_adjustments.len() * size_of::<logitd_proto::Adjustments>()
        };
        let of_rows: usize = self.sequences.iter().map(of_rows).sum();
        let sequences = self.sequences.len() * size_of::<DraftedSequence>();
        (self.logits.len() + encoded(&self.sequences) + sequences + of_rows) as u64
    }

    fn logits(&mut self) -> (Dtype, &mut Bytes) {
        (self.dtype(), &mut self.logits)
    }

    fn frame(parts: Parts<Self>) -> frame::Content {
        parts.into()
    }
}

impl Method for BeamStepRequest {
    fn call(exchange: Exchange<Self>) -> Call {
        Call::BeamStep(exchange)
    }

    fn bytes(&self) -> u64 {
        let of_rows = |one: &BeamGroup| {
            one.params.len() * size_of::<SamplingParams>()
                + one.adjustments.len() * size_of::<logitd_proto::Adjustments>()
        };
        let of_rows: usize = self.groups.iter().map(of_rows).sum();
        let groups = self.groups.len() * size_of::<BeamGroup>();
        (self.logits.len() + encoded(&self.groups) + groups + of_rows) as u64
    }

    fn logits(&mut self) -> (Dtype, &mut Bytes) {
        (self.dtype(), &mut self.logits)
    }

    fn frame(parts: Parts<Self>) -> frame::Content {
        parts.into()
    }
}

fn encoded(messages: &[impl Message]) -> usize {
    messages.iter().map(Message::encoded_len).sum()
}
