//! Steps of beams: what messages ask for, and what came of it.

use logitd_core::beams::{self, Candidate, StepSpec, Stepped};
use logitd_core::inspection::Normaliser;
use logitd_core::params::ParamsSpec;
use logitd_proto as api;

/// What a message asks for.
pub fn spec(group: &api::BeamGroup) -> Result<StepSpec, String> {
    Ok(StepSpec {
        scores: group.scores.clone(),
        beams: group.beams,
        eos_ids: group.eos_ids.clone(),
        temperature: group.temperature.unwrap_or(1.0),
        normaliser: normaliser(group.normaliser).ok_or_else(|| {
            let number = group.normaliser;
            format!("normaliser is {number}; allowed: 0 (adjusted), 1 (adjusted), 2 (raw)")
        })?,
    })
}

fn normaliser(number: i32) -> Option<Normaliser> {
    match api::BeamNormaliser::try_from(number) {
        Ok(api::BeamNormaliser::Unspecified | api::BeamNormaliser::Adjusted) => {
            Some(Normaliser::Adjusted)
        }
        Ok(api::BeamNormaliser::Raw) => Some(Normaliser::Raw),
        Err(_) => None,
    }
}

/// The API's name of a normaliser.
pub fn normaliser_message(normaliser: Normaliser) -> api::BeamNormaliser {
    match normaliser {
        Normaliser::Adjusted => api::BeamNormaliser::Adjusted,
        Normaliser::Raw => api::BeamNormaliser::Raw,
    }
}

/// The first parameter of a message that does not adjust logits, by its name, with its value.
pub fn beyond_coefficients(
    params: &api::SamplingParams,
    spec: &ParamsSpec,
) -> Option<(&'static str, String)> {
    beams::beyond_coefficients(spec)
        .or_else(|| params.logprobs.as_ref().map(|_| ("logprobs", "given".into())))
        .or_else(|| params.return_kept.then(|| ("return_kept", "true".into())))
}

/// What came of a step.
pub fn message(stepped: &Stepped) -> api::BeamGroupResult {
    api::BeamGroupResult {
        statuses: stepped.statuses.iter().map(|&s| super::row::status_message(s).into()).collect(),
        running: Some(columns(&stepped.running)),
        finished: Some(columns(&stepped.finished)),
        candidates: Some(columns(&stepped.candidates)),
    }
}

fn columns(candidates: &[Candidate]) -> api::BeamContinuations {
    api::BeamContinuations {
        beams: candidates.iter().map(|one| one.beam).collect(),
        tokens: candidates.iter().map(|one| one.token).collect(),
        scores: candidates.iter().map(|one| one.score).collect(),
    }
}

/// What a message says of a step.
pub fn stepped(message: &api::BeamGroupResult) -> Result<Stepped, String> {
    let status = |&number: &i32| {
        super::row::status(number)
            .ok_or_else(|| format!("the answer has the row status {number}; is the server newer?"))
    };
    let read = |given: &Option<_>| given.as_ref().map_or(Ok(vec![]), candidates);
    Ok(Stepped {
        statuses: message.statuses.iter().map(status).collect::<Result<_, _>>()?,
        running: read(&message.running)?,
        finished: read(&message.finished)?,
        candidates: read(&message.candidates)?,
    })
}

/// What a message says of continuations; an error where its columns differ in length.
pub fn candidates(columns: &api::BeamContinuations) -> Result<Vec<Candidate>, String> {
    let api::BeamContinuations { beams, tokens, scores } = columns;
    if beams.len() != tokens.len() || beams.len() != scores.len() {
        let (beams, tokens, scores) = (beams.len(), tokens.len(), scores.len());
        return Err(format!("the answer has {beams} beams, {tokens} tokens and {scores} scores"));
    }
    let all = beams.iter().zip(tokens).zip(scores);
    Ok(all.map(|((&beam, &token), &score)| Candidate { beam, token, score }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use logitd_core::status::RowStatus;

    #[test]
    fn normalisers_there_and_back() {
        for each in [Normaliser::Adjusted, Normaliser::Raw] {
            assert_eq!(normaliser(normaliser_message(each).into()), Some(each));
        }
        assert_eq!((normaliser(0), normaliser(3)), (Some(Normaliser::Adjusted), None));
    }

    #[test]
    fn continuations_go_and_come_back() {
        let own = [(0, 7, -5), (1, 9, i64::MIN)];
        let own = own.map(|(beam, token, score)| Candidate { beam, token, score });
        let sent = columns(&own);
        assert_eq!(candidates(&sent).unwrap(), own);
        let statuses = vec![RowStatus::Ok, RowStatus::Nan];
        let (all, none) = (own.to_vec(), vec![]);
        let step = Stepped { statuses, candidates: all.clone(), running: all, finished: none };
        assert_eq!(stepped(&message(&step)), Ok(step));
        let said = candidates(&api::BeamContinuations { scores: vec![1], ..sent }).unwrap_err();
        assert_eq!(said, "the answer has 2 beams, 2 tokens and 1 scores");
    }

    #[test]
    fn what_cuts_or_draws_is_named() {
        let told = |params: api::SamplingParams| {
            let spec = crate::wire::params::spec(&params).unwrap();
            beyond_coefficients(&params, &spec)
        };
        let coefficients = api::SamplingParams {
            repetition_penalty: Some(1.5),
            min_tokens: 3,
            dry: Some(api::Dry { multiplier: 1.0, ..Default::default() }),
            profile: api::Profile::Sglang.into(),
            ..Default::default()
        };
        assert_eq!(told(coefficients), None);
        let of = |name, value: &str| Some((name, value.to_owned()));
        assert_eq!(told(api::SamplingParams { top_k: 3, ..Default::default() }), of("top_k", "3"));
        let temperature = Some(0.5);
        let params = api::SamplingParams { temperature, ..Default::default() };
        assert_eq!(told(params), of("temperature", "0.5"));
        let params = api::SamplingParams { return_kept: true, ..Default::default() };
        assert_eq!(told(params), of("return_kept", "true"));
    }
}
