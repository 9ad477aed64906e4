//! What a server must know for a request: a field that it does not know it would leave out without a word.

use super::{Error, Service};
use logitd_proto::{DrawRule, GetInfoRequest, OnInvalidRow, SampleRequest, SamplingParams};
use std::sync::{Arc, OnceLock};

/// The version of the arithmetic that came with the fields of [`new_field`].
const NEEDED: u32 = 2;

/// The version of a server's arithmetic: asked for once, when a request first needs to know.
#[derive(Clone, Debug)]
pub(super) struct Version {
    service: Service,
    known: Arc<OnceLock<u32>>,
}

impl Version {
    pub fn new(service: Service) -> Self {
        Self { service, known: Arc::default() }
    }

    /// Refuses a request that this server would answer without one of its fields.
    pub async fn check(&self, request: &SampleRequest) -> Result<(), Error> {
        let Some(field) = new_field(request) else { return Ok(()) };
        let version = match self.known.get() {
            Some(&version) => version,
            None => {
                let info = self.service.clone().get_info(GetInfoRequest {}).await?.into_inner();
                *self.known.get_or_init(|| info.arithmetic_version)
            }
        };
        knows(version, field)
    }
}

/// The same for a server of a version that the caller knows.
pub(super) fn check(request: &SampleRequest, version: u32) -> Result<(), Error> {
    new_field(request).map_or(Ok(()), |field| knows(version, field))
}

fn knows(version: u32, field: String) -> Result<(), Error> {
    if version >= NEEDED {
        return Ok(());
    }
    Err(Error::Version { field, needed: NEEDED, version })
}

/// The path of a field that servers of version 1 do not know, if the request has one that asks for anything.
fn new_field(request: &SampleRequest) -> Option<String> {
    let of_request = [
        ("adjustments", !request.adjustments.is_empty()),
        ("row_stride", request.row_stride != 0),
        ("on_invalid_row", request.on_invalid_row == i32::from(OnInvalidRow::Status)),
    ];
    if let Some((name, _)) = of_request.into_iter().find(|(_, is_new)| *is_new) {
        return Some(name.into());
    }
    let sets = request.params.iter().enumerate();
    sets.into_iter()
        .find_map(|(set, params)| Some(format!("params[{set}].{}", new_parameter(params)?)))
}

fn new_parameter(params: &SamplingParams) -> Option<&'static str> {
    let is_race =
        ![DrawRule::Unspecified, DrawRule::Cumulative].map(i32::from).contains(&params.draw_rule);
    let dry = params.dry.as_ref().is_some_and(|dry| dry.multiplier != 0.0);
    [
        ("draw_rule", is_race),
        ("repetition_penalty", params.repetition_penalty.is_some_and(|penalty| penalty != 1.0)),
        ("frequency_penalty", params.frequency_penalty != 0.0),
        ("presence_penalty", params.presence_penalty != 0.0),
        ("no_repeat_ngram", params.no_repeat_ngram != 0),
        ("min_tokens", params.min_tokens != 0),
        ("dry", dry),
    ]
    .into_iter()
    .find_map(|(name, is_new)| is_new.then_some(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use logitd_proto::{Adjustments, Dry};

    #[test]
    fn what_an_old_server_would_leave_out_is_refused_by_name() {
        let with = |rule: DrawRule| SampleRequest {
            params: vec![
                SamplingParams::default(),
                SamplingParams { draw_rule: rule.into(), ..Default::default() },
            ],
            ..Default::default()
        };
        for rule in [DrawRule::Unspecified, DrawRule::Cumulative] {
            assert!(check(&with(rule), 1).is_ok(), "what version 1 does");
        }
        assert!(check(&with(DrawRule::Race), 2).is_ok());
        let error = check(&with(DrawRule::Race), 1).unwrap_err().to_string();
        assert!(error.contains("params[1].draw_rule"), "{error}");
        assert!(error.contains("version 2") && error.contains("has 1"), "{error}");
    }

    #[test]
    fn whatever_adjusts_logits_is_new_and_what_is_off_is_not() {
        let of = |params| new_field(&SampleRequest { params: vec![params], ..Default::default() });
        let dry = |multiplier| Some(Dry { multiplier, base: Some(1.75), ..Default::default() });
        let off = SamplingParams {
            repetition_penalty: Some(1.0),
            dry: dry(0.0),
            draw_rule: DrawRule::Cumulative.into(),
            ..Default::default()
        };
        assert_eq!(of(off), None);
        for (params, name) in [
            (
                SamplingParams { repetition_penalty: Some(1.1), ..Default::default() },
                "repetition_penalty",
            ),
            (SamplingParams { frequency_penalty: -1.0, ..Default::default() }, "frequency_penalty"),
            (SamplingParams { presence_penalty: 1.0, ..Default::default() }, "presence_penalty"),
            (SamplingParams { no_repeat_ngram: 3, ..Default::default() }, "no_repeat_ngram"),
            (SamplingParams { min_tokens: 3, ..Default::default() }, "min_tokens"),
            (SamplingParams { dry: dry(0.8), ..Default::default() }, "dry"),
        ] {
            assert_eq!(of(params), Some(format!("params[0].{name}")));
        }
        let adjustments = vec![Adjustments::default()];
        let request = SampleRequest { adjustments, ..Default::default() };
        assert_eq!(new_field(&request).as_deref(), Some("adjustments"));
        let request = SampleRequest { row_stride: 12, ..Default::default() };
        assert_eq!(new_field(&request).as_deref(), Some("row_stride"));
        let of = |of: OnInvalidRow| {
            new_field(&SampleRequest { on_invalid_row: of.into(), ..Default::default() })
        };
        assert_eq!(of(OnInvalidRow::Status).as_deref(), Some("on_invalid_row"));
        assert_eq!(of(OnInvalidRow::Refuse), None);
    }
}
