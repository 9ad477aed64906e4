//! Checks the answers in a trace.

use super::recheck::{Difference, RecheckError};
use super::{Call, Damage, Exchange, Method, ReadError, Reader};
use logitd_core::backend::{Backend, dual};
use logitd_core::batch::Results;
use std::path::Path;

/// What checking a trace has shown.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Requests in the trace.
    pub requests: u64,
    /// Rows of them, that were sampled again, and all that was answered of them compared.
    pub rows_compared: u64,
    /// Rows that differ; of sequences and groups, one of each.
    pub rows_different: u64,
    /// The first of them.
    pub first: Option<Mismatch>,
    /// Requests that had been refused or failed: no answer to check.
    pub unanswered: u64,
    /// Requests that cannot be checked here.
    pub uncheckable: u64,
    /// Why the first of those cannot be.
    pub uncheckable_reason: Option<RecheckError>,
    /// Frames that are lost.
    pub damage: Vec<Damage>,
}

/// A recorded row whose answer differs, with what is needed to sample it again.
#[derive(Clone, Debug)]
pub struct Mismatch {
    /// The request's number in the trace, from 0.
    pub request: u64,
    /// The device that answered.
    pub device: String,
    /// What differs.
    pub difference: Difference,
    /// The row with its parameters and both answers. Absent where the difference is of no row.
    pub replayable: Option<dual::Difference>,
}

/// Samples every recorded request again on `backend` and compares every bit of its answer. `progress` is
/// told the bytes of the file and how many of them are done.
pub fn verify(
    path: &Path,
    backend: &mut dyn Backend,
    mut progress: impl FnMut(u64, u64),
) -> Result<Verdict, ReadError> {
    let mut reader = Reader::open(path)?;
    let mut verdict = Verdict::default();
    let mut results = Results::default();
    while let Some(item) = reader.next() {
        let entry = match item {
            Ok(entry) => entry,
            Err(ReadError::Damage(damage)) => {
                verdict.damage.push(damage);
                continue;
            }
            Err(error) => return Err(error),
        };
        match &entry.call {
            Call::Sample(exchange) => verdict.check(backend, exchange, &mut results),
            Call::Verify(exchange) => verdict.check(backend, exchange, &mut results),
            Call::BeamStep(exchange) => verdict.check(backend, exchange, &mut results),
        }
        let (bytes, done) = reader.progress();
        progress(bytes, done);
    }
    Ok(verdict)
}

impl Verdict {
    /// Samples the next request of the trace again.
    fn check<M: Method>(
        &mut self,
        backend: &mut dyn Backend,
        Exchange { request, result }: &Exchange<M>,
        results: &mut Results,
    ) {
        let number = self.requests;
        self.requests += 1;
        let Ok(answer) = result else {
            self.unanswered += 1;
            return;
        };
        let differences = match request.recheck(backend, answer, results) {
            Ok(differences) => differences,
            Err(reason) => {
                self.uncheckable += 1;
                self.uncheckable_reason.get_or_insert(reason);
                return;
            }
        };
        self.rows_compared += request.row_count(answer) as u64;
        self.rows_different += differences.len() as u64;
        if let (None, Some(difference)) = (&self.first, differences.into_iter().next()) {
            let replayable = request.replayable(backend, answer, &difference).ok();
            let device = M::device(answer).to_owned();
            self.first = Some(Mismatch { request: number, device, difference, replayable });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::recheck;
    use crate::record::{Recorder, RecorderOptions};
    use logitd_core::backend::reference::Reference;
    use logitd_proto::{SampleRequest, SampleResponse, SamplingParams, StreamError};
    use std::time::Instant;

    fn request(n: u32) -> SampleRequest {
        let logits = (0..64u32).flat_map(|i| (((i * 7 + n) % 64) as f32 * 0.1).to_le_bytes());
        SampleRequest {
            dtype: logitd_proto::Dtype::F32.into(),
            vocab_size: 32,
            logits: logits.collect::<Vec<u8>>().into(),
            params: vec![SamplingParams { seed: Some(u64::from(n)), ..Default::default() }],
            ..Default::default()
        }
    }

    fn answer(n: u32) -> SampleResponse {
        recheck::answer(&mut Reference::default(), &request(n), &mut Results::default()).unwrap()
    }

    fn verdict(spoil: impl Fn(u32, &mut SampleResponse)) -> Verdict {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.trace");
        let recorder = Recorder::start(RecorderOptions::new(&path)).unwrap();
        for n in 0..10 {
            let mut answer = answer(n);
            spoil(n, &mut answer);
            recorder.record(Instant::now(), &request(n), Ok(&answer));
        }
        recorder.record(Instant::now(), &request(99), Err(&StreamError::default()));
        recorder.finish();
        verify(&path, &mut Reference::default(), |_, _| ()).unwrap()
    }

    #[test]
    fn right_answers_pass_and_refusals_are_told_apart() {
        let verdict = verdict(|_, _| ());
        assert_eq!((verdict.requests, verdict.rows_compared, verdict.unanswered), (11, 20, 1));
        assert_eq!((verdict.rows_different, verdict.uncheckable), (0, 0));
        assert!(verdict.first.is_none() && verdict.damage.is_empty());
    }

    #[test]
    fn one_wrong_bit_is_found_with_what_replays_it() {
        let verdict = verdict(|n, answer| {
            if n == 6 {
                let bits = answer.rows[1].logprob.unwrap().to_bits();
                answer.rows[1].logprob = Some(f32::from_bits(bits ^ 1));
            }
        });
        assert_eq!((verdict.rows_compared, verdict.rows_different), (20, 1));
        let first = verdict.first.unwrap();
        assert_eq!(
            (first.request, first.difference.row, first.difference.field),
            (6, 1, "logprob")
        );
        let replayable = first.replayable.unwrap();
        assert_eq!(replayable.logits, request(6).logits[128..]);
        assert_eq!(replayable.params.seed(), 6);
        assert_ne!(replayable.a, replayable.b);
    }

    #[test]
    fn another_arithmetic_is_not_called_wrong() {
        let verdict = verdict(|_, answer| answer.arithmetic_version = 9);
        assert_eq!((verdict.rows_compared, verdict.uncheckable), (0, 10));
        assert!(verdict.uncheckable_reason.is_some());
    }
}
