//! What other parameters would have drawn: recorded requests, sampled again with the same seeds and positions.

use super::recheck::{RecheckError, answer};
use super::{Call, Exchange, ReadError, Reader};
use crate::wire;
use logitd_core::backend::Backend;
use logitd_core::batch::Results;
use logitd_core::params::{Field, Value};
use logitd_proto::{RowResult, RowStatus, SampleRequest, SamplingParams};
use std::path::Path;

/// Parameters that take the place of those of every row; what is not among them stays as it was.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Setting {
    values: Vec<(&'static str, Value)>,
}

impl Setting {
    /// These parameters, by their names in the API, each with a value of its kind.
    pub fn new(values: impl IntoIterator<Item = (&'static str, Value)>) -> Self {
        Self { values: values.into_iter().collect() }
    }

    fn apply(&self, params: &mut SamplingParams) {
        // One with a number that names nothing is refused when it is sampled.
        if let Ok(mut spec) = wire::params::spec(params) {
            for (name, value) in &self.values {
                Field::named(name).expect("a parameter").set(&mut spec, *value);
            }
            let dry = params.dry.take();
            *params = SamplingParams { dry, ..wire::params::message(&spec) };
        }
        // Of the answer, only tokens are looked at.
        (params.logprobs, params.return_kept) = (None, false);
    }
}

/// What a trace says of some settings.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Requests that were sampled again.
    pub requests: u64,
    /// Draws of them.
    pub draws: u64,
    /// Of each setting, how many of these are another token, or none.
    pub changed: Vec<u64>,
    /// Requests without an answer, those of `Verify` and `BeamStep`, frames that are lost, and requests that cannot be
    /// sampled with each setting.
    pub left_out: u64,
    /// Why the first of the last could not.
    pub reason: Option<RecheckError>,
}

/// Samples every recorded request again, with each setting. `progress` is told how many bytes of the file are done.
pub fn changes(
    path: &Path,
    backend: &mut dyn Backend,
    settings: &[Setting],
    mut progress: impl FnMut(u64),
) -> Result<Changes, ReadError> {
    let mut reader = Reader::open(path)?;
    let mut found = Changes { changed: vec![0; settings.len()], ..Changes::default() };
    let mut results = Results::default();
    while let Some(item) = reader.next() {
        let entry = match item {
            Ok(entry) => entry,
            Err(ReadError::Damage(_)) => {
                found.left_out += 1;
                continue;
            }
            Err(error) => return Err(error),
        };
        // Drafts and beams would be others too.
        let Call::Sample(exchange @ Exchange { result: Ok(recorded), .. }) = &entry.call else {
            found.left_out += 1;
            continue;
        };
        let request = exchange.seeded_request();
        let again = |setting: &Setting| {
            let request = with(request.clone(), setting);
            Ok(answer(backend, &request, &mut results)?.rows)
        };
        match settings.iter().map(again).collect::<Result<Vec<_>, RecheckError>>() {
            Ok(all) => {
                found.requests += 1;
                found.draws +=
                    recorded.rows.iter().map(|row| tokens(row).len() as u64).sum::<u64>();
                for (changed, rows) in found.changed.iter_mut().zip(&all) {
                    *changed += different(&recorded.rows, rows);
                }
            }
            Err(error) => {
                found.left_out += 1;
                found.reason.get_or_insert(error);
            }
        }
        progress(reader.progress().1);
    }
    Ok(found)
}

fn with(mut request: SampleRequest, setting: &Setting) -> SampleRequest {
    request.params.iter_mut().for_each(|params| setting.apply(params));
    request
}

/// Draws that are not the same in both.
fn different(recorded: &[RowResult], again: &[RowResult]) -> u64 {
    let of_row = |(recorded, again): (&RowResult, &RowResult)| {
        let (recorded, again) = (tokens(recorded), tokens(again));
        let same = |(i, token): &(usize, &u32)| again.get(*i) == Some(token);
        (recorded.len() - recorded.iter().enumerate().filter(same).count()) as u64
    };
    recorded.iter().zip(again).map(of_row).sum()
}

/// The tokens that were drawn of a row: none where it has none.
fn tokens(row: &RowResult) -> Vec<u32> {
    match row.status() {
        RowStatus::Ok if row.draws.is_empty() => row.token.into_iter().collect(),
        RowStatus::Ok => row.draws.iter().map(|draw| draw.token).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Recorder, RecorderOptions};
    use logitd_core::backend::reference::Reference;
    use logitd_proto::StreamError;
    use std::time::Instant;

    fn request(n: u32, params: SamplingParams) -> SampleRequest {
        let logits = (0..96u32).flat_map(|i| (((i * 7 + n) % 64) as f32 * 0.1).to_le_bytes());
        SampleRequest {
            dtype: logitd_proto::Dtype::F32.into(),
            vocab_size: 32,
            logits: logits.collect::<Vec<u8>>().into(),
            params: vec![params],
            ..Default::default()
        }
    }

    fn sampled(request: &SampleRequest) -> logitd_proto::SampleResponse {
        answer(&mut Reference::default(), request, &mut Results::default()).unwrap()
    }

    #[test]
    fn draws_that_another_setting_would_change_are_counted() {
        let params = |n: u32| SamplingParams {
            seed: Some(u64::from(n)),
            draws: Some(if n.is_multiple_of(2) { 4 } else { 1 }),
            top_k: 20,
            ..Default::default()
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.trace");
        let recorder = Recorder::start(RecorderOptions::new(&path)).unwrap();
        let settings = [
            Setting::default(),
            Setting::new([("top_k", Value::Whole(1))]),
            Setting::new([("temperature", Value::Real(0.5))]),
            Setting::new([("top_p", Value::Real(0.5)), ("min_p", Value::Real(0.1))]),
        ];
        let (mut draws, mut expected) = (0, [0; 4]);
        for n in 0..10 {
            let recorded = sampled(&request(n, params(n)));
            recorder.record(Instant::now(), &request(n, params(n)), Ok(&recorded));
            let all = |answer: &logitd_proto::SampleResponse| {
                answer.rows.iter().flat_map(tokens).collect::<Vec<_>>()
            };
            draws += all(&recorded).len() as u64;
            for (expected, setting) in expected.iter_mut().zip(&settings) {
                let mut other = params(n);
                setting.apply(&mut other);
                let other = all(&sampled(&request(n, other)));
                *expected +=
                    all(&recorded).iter().zip(&other).filter(|(a, b)| a != b).count() as u64;
            }
        }
        recorder.record(Instant::now(), &request(9, params(9)), Err(&StreamError::default()));
        recorder.finish();
        let found = changes(&path, &mut Reference::default(), &settings, |_| ()).unwrap();
        println!("{draws} draws, changed: {expected:?}");
        assert_eq!((found.requests, found.left_out, found.draws), (10, 1, draws));
        assert_eq!(found.changed, expected);
        assert!(expected[0] == 0 && expected[1..].iter().all(|n| (1..draws).contains(n)));
        // What cannot be sampled is left out, with the reason.
        let wrong = [Setting::new([("top_p", Value::Real(2.0))])];
        let found = changes(&path, &mut Reference::default(), &wrong, |_| ()).unwrap();
        assert_eq!((found.requests, found.left_out), (0, 11));
        assert!(found.reason.unwrap().to_string().contains("top_p"));
    }
}
