//! Two backends as one: every batch runs on both, and the first differing row is reported with all
//! that is needed to replay it.
//!
//! Equal means equal in every bit: status, kept, kept_mass, token and logprob of every draw, the state of the
//! sequence, whether a draft was taken, and whatever else is asked for.

use super::{Backend, DeviceError, DeviceInfo};
use crate::adjustments::Adjustments;
use crate::batch::{Draw, Dtype, Outcome, Results, Row, RowResult, State};
use crate::inspection::{Inspect, Inspection, KeptIds, TokenLogprob};
use crate::params::SamplingParams;
use crate::row::Draft;
use std::fmt;

/// Runs two backends and answers for the first. A difference is a [`DeviceError`].
pub struct Dual {
    a: Box<dyn Backend>,
    b: Box<dyn Backend>,
    device: DeviceInfo,
    results_b: Results,
    difference: Option<Difference>,
}

impl Dual {
    /// A backend that answers as `a` does where `b` agrees.
    pub fn new(a: Box<dyn Backend>, b: Box<dyn Backend>) -> Self {
        let id = format!("{}={}", a.device().id, b.device().id);
        let device = DeviceInfo { id, ..a.device().clone() };
        Self { a, b, device, results_b: Results::default(), difference: None }
    }

    /// The first difference of the last batch, if there was one.
    pub fn difference(&self) -> Option<&Difference> {
        self.difference.as_ref()
    }
}

impl Backend for Dual {
    fn device(&self) -> &DeviceInfo {
        &self.device
    }

    fn sample(&mut self, rows: &[Row<'_>], results: &mut Results) -> Result<(), DeviceError> {
        self.difference = None;
        self.a.sample(rows, results)?;
        self.b.sample(rows, &mut self.results_b)?;
        self.difference = first_difference(rows, results, &self.results_b);
        match &self.difference {
            None => Ok(()),
            // Such reasons are logged, so logits and seeds stay out of it.
            Some(difference) => Err(DeviceError {
                device: self.device.id.clone(),
                reason: format!("they differ in row {}", difference.row_index),
            }),
        }
    }
}

/// The first row in which two tables of results differ, a row that only one of them has included.
pub fn first_difference(rows: &[Row<'_>], a: &Results, b: &Results) -> Option<Difference> {
    let get = |results: &Results, i| (i < results.len()).then(|| OwnedResult::new(results.row(i)));
    let differs = |i| match (i < a.len(), i < b.len()) {
        (true, true) => a.row(i) != b.row(i),
        _ => true,
    };
    let row_index = (0..rows.len()).find(|&i| differs(i))?;
    let row = &rows[row_index];
    Some(Difference {
        row_index,
        dtype: row.dtype(),
        vocab_size: row.vocab_size(),
        params: *row.params(),
        adjustments: row.adjustments().cloned(),
        inspect: row.inspect().cloned(),
        draft: row.draft().cloned(),
        logits: row.here(&mut Vec::new()).logits().to_vec(),
        a: get(a, row_index),
        b: get(b, row_index),
    })
}

/// A row on which two backends disagree: what went in, and what came out of each.
#[derive(Clone, Debug)]
pub struct Difference {
    /// Its place in the batch.
    pub row_index: usize,
    /// How its logits are stored.
    pub dtype: Dtype,
    /// Tokens.
    pub vocab_size: u32,
    /// Its parameters, the seed included.
    pub params: SamplingParams,
    /// What is done to single logits before that.
    pub adjustments: Option<Adjustments>,
    /// What is asked beside its tokens.
    pub inspect: Option<Inspect>,
    /// What it decides about.
    pub draft: Option<Draft>,
    /// `vocab_size` little-endian values.
    pub logits: Vec<u8>,
    /// What the first said; `None` where it has no such row.
    pub a: Option<OwnedResult>,
    /// What the second said.
    pub b: Option<OwnedResult>,
}

/// Says everything but the logits.
impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { row_index, dtype, vocab_size, params, draft, a, b, .. } = self;
        write!(f, "row {row_index} ({dtype}, vocab_size {vocab_size}): {params}")?;
        if let Some(Draft { token, rule }) = draft {
            write!(f, ", the draft {token} by {rule}")?;
        }
        f.write_str("\n")?;
        write_answer(f, "a", a.as_ref(), b.as_ref())?;
        f.write_str("\n")?;
        write_answer(f, "b", b.as_ref(), a.as_ref())
    }
}

/// One line. Of the draws, the first that the other does not have alike.
fn write_answer(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    own: Option<&OwnedResult>,
    other: Option<&OwnedResult>,
) -> fmt::Result {
    let Some(OwnedResult { outcome, draws, inspection, state, accepted }) = own else {
        return write!(f, "  {name}: no such row");
    };
    let Outcome { status, kept, kept_mass } = outcome;
    write!(f, "  {name}: {status}, kept {kept}, kept_mass {kept_mass}")?;
    let others = other.map_or(&[][..], |answer| &answer.draws);
    let differing = (0..draws.len()).find(|&i| others.get(i) != Some(&draws[i])).unwrap_or(0);
    if let Some(Draw { token, logprob }) = draws.get(differing) {
        let bits = logprob.to_bits();
        write!(f, ", draw {differing}: token {token}, logprob {logprob} ({bits:#010x})")?;
    }
    if let Some(state) = state {
        write!(f, ", {state:?}")?;
    }
    if let Some(accepted) = accepted {
        write!(f, ", draft {}", if *accepted { "taken" } else { "not taken" })?;
    }
    match (inspection, other.and_then(|other| other.inspection.as_ref())) {
        (Some(own), Some(other)) => write_inspection(f, own, other),
        _ => Ok(()),
    }
}

/// The first part that the other does not have alike.
fn write_inspection(
    f: &mut fmt::Formatter<'_>,
    own: &Inspection,
    other: &Inspection,
) -> fmt::Result {
    for (own, other) in own.logprobs.iter().zip(&other.logprobs) {
        let (of, status, entropy) = (own.of, own.status, own.entropy.0);
        if (status, own.entropy) != (other.status, other.entropy) {
            let bits = entropy.to_bits();
            return write!(f, ", {of}: {status}, entropy {entropy} ({bits:#010x})");
        }
        let lists = [
            ("drawn", &own.drawn, &other.drawn),
            ("top", &own.top, &other.top),
            ("ids", &own.ids, &other.ids),
        ];
        for (list, own, other) in lists {
            let differing = (0..own.len()).find(|&i| other.get(i) != Some(&own[i]));
            if let Some(i) = differing {
                let TokenLogprob { token, rank, logprob } = own[i];
                let bits = logprob.to_bits();
                write!(f, ", {of} {list} {i}: token {token}, rank {rank}")?;
                return write!(f, ", logprob {logprob} ({bits:#010x})");
            }
            if own.len() != other.len() {
                return write!(f, ", {of} {list}: {} tokens", own.len());
            }
        }
    }
    match &own.kept {
        kept if *kept == other.kept => Ok(()),
        None => write!(f, ", no kept ids"),
        Some(KeptIds::Ids(ids)) => write!(f, ", kept ids: {} as a list", ids.len()),
        Some(KeptIds::Bitmask(words)) => {
            let ones: u32 = words.iter().map(|word| word.count_ones()).sum();
            write!(f, ", kept ids: {ones} in a bitmask")
        }
    }
}

/// The result of one row, owned. Equal means equal in every bit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedResult {
    /// Said once.
    pub outcome: Outcome,
    /// One a draw asked for; none where the status is not OK.
    pub draws: Vec<Draw>,
    /// What was asked for beside these.
    pub inspection: Option<Inspection>,
    /// What it gives back to its sequence.
    pub state: Option<State>,
    /// Whether it took its draft.
    pub accepted: Option<bool>,
}

impl OwnedResult {
    fn new(result: RowResult<'_>) -> Self {
        let inspection = result.inspection.cloned();
        let draws = result.draws.to_vec();
        let RowResult { outcome, state, accepted, .. } = result;
        Self { outcome, draws, inspection, state, accepted }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::reference::Reference;
    use crate::params::ParamsSpec;
    use crate::row::{Rule, Typical};

    /// The oracle, with one bit of one logprob flipped in the given row.
    struct Wrong(Reference, usize);

    impl Backend for Wrong {
        fn device(&self) -> &DeviceInfo {
            self.0.device()
        }

        fn sample(&mut self, rows: &[Row<'_>], results: &mut Results) -> Result<(), DeviceError> {
            self.0.sample(rows, results)?;
            let draw = results.slots().nth(self.1).unwrap().draws.last_mut().unwrap();
            draw.logprob = f32::from_bits(draw.logprob.to_bits() ^ 1);
            Ok(())
        }
    }

    fn params(draws: u32) -> SamplingParams {
        let spec = ParamsSpec { temperature: 0.7, top_p: 0.9, draws, ..Default::default() };
        spec.parse(|| u64::MAX).unwrap()
    }

    #[test]
    fn agreement_answers_as_the_first_does() {
        let logits: Vec<u8> = (0..60).collect();
        let rows = [Row::new(Dtype::Bf16, &logits, params(3)).unwrap(); 4];
        let mut dual = Dual::new(Box::<Reference>::default(), Box::<Reference>::default());
        let (mut results, mut expected) = (Results::default(), Results::default());
        dual.sample(&rows, &mut results).unwrap();
        Reference::default().sample(&rows, &mut expected).unwrap();
        assert!(results.iter().eq(expected.iter()));
        assert!(dual.difference().is_none());
    }

    #[test]
    fn one_flipped_bit_is_found() {
        let logits: Vec<u8> = (0..60).collect();
        let rows = [Row::new(Dtype::Bf16, &logits, params(3)).unwrap(); 4];
        let mut dual =
            Dual::new(Box::<Reference>::default(), Box::new(Wrong(Reference::default(), 2)));
        let error = dual.sample(&rows, &mut Results::default()).unwrap_err();
        assert_eq!(error.to_string(), "device reference=reference failed: they differ in row 2");

        let difference = dual.difference().unwrap();
        assert_eq!((difference.row_index, difference.vocab_size), (2, 30));
        let text = difference.to_string();
        assert!(
            text.contains("draw 2: token") && text.contains("seed 18446744073709551615"),
            "{text}"
        );
        assert_eq!((difference.params, &difference.logits), (params(3), &logits));
        let [a, b] = [&difference.a, &difference.b].map(|answer| answer.as_ref().unwrap());
        assert_eq!((a.outcome, &a.draws[..2]), (b.outcome, &b.draws[..2]));
        assert_eq!(a.draws[2].logprob.to_bits() ^ 1, b.draws[2].logprob.to_bits());
    }

    /// The oracle, with one bit of one entropy flipped.
    struct WrongEntropy(Reference);

    impl Backend for WrongEntropy {
        fn device(&self) -> &DeviceInfo {
            self.0.device()
        }

        fn sample(&mut self, rows: &[Row<'_>], results: &mut Results) -> Result<(), DeviceError> {
            self.0.sample(rows, results)?;
            let inspection = results.slots().nth(1).unwrap().inspection.unwrap();
            let entropy = &mut inspection.logprobs[0].entropy.0;
            *entropy = f32::from_bits(entropy.to_bits() ^ 1);
            Ok(())
        }
    }

    #[test]
    fn one_flipped_bit_of_an_entropy_is_found() {
        let logits: Vec<u8> = (0..60).collect();
        let asked = Inspect { of: [false, true, false], top: 2, ..Inspect::default() };
        let row = Row::new(Dtype::Bf16, &logits, params(1)).unwrap();
        let rows = [row, row.with_inspect(Some(&asked))];
        let mut dual =
            Dual::new(Box::<Reference>::default(), Box::new(WrongEntropy(Reference::default())));
        dual.sample(&rows, &mut Results::default()).unwrap_err();
        let difference = dual.difference().unwrap();
        assert_eq!((difference.row_index, difference.inspect.as_ref()), (1, Some(&asked)));
        let text = difference.to_string();
        assert!(text.contains("adjusted: OK, entropy"), "{text}");
    }

    /// The oracle, which takes no draft.
    struct NeverTaken(Reference);

    impl Backend for NeverTaken {
        fn device(&self) -> &DeviceInfo {
            self.0.device()
        }

        fn sample(&mut self, rows: &[Row<'_>], results: &mut Results) -> Result<(), DeviceError> {
            self.0.sample(rows, results)?;
            *results.slots().nth(1).unwrap().accepted.unwrap() = Some(false);
            Ok(())
        }
    }

    #[test]
    fn a_draft_that_only_one_takes_is_found() {
        let logits: Vec<u8> = (0..60).collect();
        let row = Row::new(Dtype::Bf16, &logits, params(1)).unwrap();
        let rule = Rule::Typical(Typical { epsilon: 1e-9, delta: 1.0 });
        let draft = Draft { token: 29, rule };
        let rows = [row, row.with_draft(Some(&draft))];
        let mut dual =
            Dual::new(Box::<Reference>::default(), Box::new(NeverTaken(Reference::default())));
        dual.sample(&rows, &mut Results::default()).unwrap_err();
        let text = dual.difference().unwrap().to_string();
        for part in ["the draft 29 by probability", ", draft taken\n", ", draft not taken"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn a_missing_row_is_a_difference() {
        let logits = [0; 4];
        let rows = [Row::new(Dtype::F32, &logits, params(1)).unwrap(); 2];
        let (mut a, mut b) = (Results::default(), Results::default());
        Reference::default().sample(&rows, &mut a).unwrap();
        Reference::default().sample(&rows[..1], &mut b).unwrap();
        let difference = first_difference(&rows, &a, &b).unwrap();
        assert_eq!((difference.row_index, difference.b), (1, None));
        assert!(first_difference(&rows[..1], &a, &b).is_none());
    }
}
