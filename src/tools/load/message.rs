//! What is sent and what is answered, whichever method is called.

use crate::record::recheck::Recheck;
use bytes::Bytes;
use logitd_proto::{
    BeamStepRequest, BeamStepResponse, Plane, RowStatus, SampleRequest, SampleResponse, Timings,
    VerifyRequest, VerifyResponse,
};

/// What is sent, by the method that is called.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "the largest is the one that there are most of")]
pub enum Request {
    /// `Sample`, or a request of a stream of them.
    Sample(SampleRequest),
    /// `Verify`, or a request of a stream of them.
    Verify(VerifyRequest),
    /// `BeamStep`.
    BeamStep(BeamStepRequest),
}

impl Request {
    /// Bytes of its logits, and of the tokens that these are of where there are candidates only.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Sample(request) => {
                let tokens = request.candidates.as_ref().map_or(0, |given| given.tokens.len());
                request.logits.len() + tokens
            }
            Self::Verify(request) => request.logits.len(),
            Self::BeamStep(request) => request.logits.len(),
        }
    }

    /// Drops its logits, where they are not needed any more.
    pub(super) fn forget_logits(&mut self) {
        match self {
            Self::Sample(request) => {
                request.logits = Bytes::new();
                request.candidates = None;
            }
            Self::Verify(request) => request.logits = Bytes::new(),
            Self::BeamStep(request) => request.logits = Bytes::new(),
        }
    }

    /// Rows that are sampled for it, if `answer` is its answer.
    pub fn rows(&self, answer: &Response) -> usize {
        match (self, answer) {
            (Self::Sample(request), Response::Sample(answer)) => request.row_count(answer),
            (Self::Verify(request), Response::Verify(answer)) => request.row_count(answer),
            (Self::BeamStep(request), Response::BeamStep(answer)) => request.row_count(answer),
            _ => 0,
        }
    }
}

/// What is answered.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "the largest is the one that there are most of")]
pub enum Response {
    /// By `Sample`.
    Sample(SampleResponse),
    /// By `Verify`.
    Verify(VerifyResponse),
    /// By `BeamStep`.
    BeamStep(BeamStepResponse),
}

impl Response {
    /// Where the time went.
    pub fn timings(&self) -> Option<Timings> {
        match self {
            Self::Sample(answer) => answer.timings,
            Self::Verify(answer) => answer.timings,
            Self::BeamStep(answer) => answer.timings,
        }
    }

    /// The device that computed it.
    pub fn device(&self) -> &str {
        match self {
            Self::Sample(answer) => &answer.device,
            Self::Verify(answer) => &answer.device,
            Self::BeamStep(answer) => &answer.device,
        }
    }

    /// Rows without a token; of sequences and groups, those with a row that has none.
    pub fn failed(&self) -> usize {
        let ok = |status: RowStatus| status == RowStatus::Ok;
        match self {
            Self::Sample(answer) => answer.rows.iter().filter(|row| !ok(row.status())).count(),
            Self::Verify(answer) => answer.sequences.iter().filter(|one| !ok(one.status())).count(),
            Self::BeamStep(answer) => {
                answer.groups.iter().filter(|group| !group.statuses().all(ok)).count()
            }
        }
    }

    /// How the logits came in.
    pub fn plane(&self) -> Plane {
        match self {
            Self::Sample(answer) => answer.plane(),
            Self::Verify(answer) => answer.plane(),
            Self::BeamStep(answer) => answer.plane(),
        }
    }
}

impl From<SampleRequest> for Request {
    fn from(request: SampleRequest) -> Self {
        Self::Sample(request)
    }
}

impl From<VerifyRequest> for Request {
    fn from(request: VerifyRequest) -> Self {
        Self::Verify(request)
    }
}

impl From<BeamStepRequest> for Request {
    fn from(request: BeamStepRequest) -> Self {
        Self::BeamStep(request)
    }
}

impl From<SampleResponse> for Response {
    fn from(answer: SampleResponse) -> Self {
        Self::Sample(answer)
    }
}

impl From<VerifyResponse> for Response {
    fn from(answer: VerifyResponse) -> Self {
        Self::Verify(answer)
    }
}

impl From<BeamStepResponse> for Response {
    fn from(answer: BeamStepResponse) -> Self {
        Self::BeamStep(answer)
    }
}
