//! What a server must know for a request: a field that it does not know it would leave out without a word.

use super::{Error, Service};
use logitd_proto::{
    DrawRule, GetInfoRequest, GetInfoResponse, OnInvalidRow, ParamColumns, Profile, SampleRequest,
    SamplingParams,
};
use std::sync::{Arc, OnceLock};

/// The version of the arithmetic that came with the first of the fields of [`new_fields`].
const NEEDED: u32 = 2;

/// What a server knows: asked for once, when a request first needs to know.
#[derive(Clone, Debug)]
pub(super) struct Version {
    service: Service,
    known: Arc<OnceLock<Known>>,
}

impl Version {
    pub fn new(service: Service) -> Self {
        Self { service, known: Arc::default() }
    }

    /// Refuses a request that this server would answer without one of its fields.
    pub async fn check(&self, request: &SampleRequest) -> Result<(), Error> {
        if new_fields(request).next().is_none() {
            return Ok(());
        }
        self.known().await?.check(request)
    }

    /// Refuses a method, or a field, that this server does not name among its controls.
    pub async fn knows(&self, control: &str) -> Result<(), Error> {
        match self.known().await?.controls.iter().any(|known| known == control) {
            true => Ok(()),
            false => Err(Error::Control { field: control.into() }),
        }
    }

    async fn known(&self) -> Result<&Known, Error> {
        if let Some(known) = self.known.get() {
            return Ok(known);
        }
        let info = self.service.clone().get_info(GetInfoRequest {}).await?.into_inner();
        Ok(self.known.get_or_init(|| Known::of(&info)))
    }
}

/// The part of `GetInfo` that tells what a server would leave out.
#[derive(Clone, Debug)]
pub(super) struct Known {
    version: u32,
    controls: Vec<String>,
}

impl Known {
    /// By what a server of version 1 knows, and every other too.
    pub const OF_ALL: Self = Self { version: 1, controls: Vec::new() };

    /// By what a server says of itself.
    pub fn of(info: &GetInfoResponse) -> Self {
        Self { version: info.arithmetic_version, controls: info.controls.clone() }
    }

    /// Refuses a request with a field that such a server would leave out.
    pub fn check(&self, request: &SampleRequest) -> Result<(), Error> {
        new_fields(request).try_for_each(|New { field, control }| {
            if self.version < NEEDED {
                return Err(Error::Version { field, needed: NEEDED, version: self.version });
            }
            match control {
                Some(name) if !self.controls.iter().any(|known| known == name) => {
                    Err(Error::Control { field })
                }
                _ => Ok(()),
            }
        })
    }
}

/// A field that asks for something new.
struct New {
    /// Its path.
    field: String,
    /// What a server that knows it has among its controls, if it came later than arithmetic version 2.
    control: Option<&'static str>,
}

/// The fields of a request that ask for what servers of version 1 do not know.
fn new_fields(request: &SampleRequest) -> impl Iterator<Item = New> {
    let of_request = [
        ("adjustments", !request.adjustments.is_empty(), false),
        ("history", request.adjustments.iter().any(|given| given.history.is_some()), true),
        ("row_stride", request.row_stride != 0, true),
        ("on_invalid_row", request.on_invalid_row == i32::from(OnInvalidRow::Status), true),
        ("columns", request.columns.is_some(), true),
        ("return_columns", request.return_columns, true),
    ];
    let of_request =
        of_request.into_iter().filter(|(_, is_new, _)| *is_new).map(|(name, _, is_control)| New {
            field: name.into(),
            control: is_control.then_some(name),
        });
    let of_set = |(set, params)| {
        new_parameters(params).map(move |(name, is_control)| New {
            field: format!("params[{set}].{name}"),
            control: is_control.then_some(name),
        })
    };
    let of_columns = |name| New { field: format!("columns.{name}"), control: Some(name) };
    let columns = request.columns.iter().flat_map(new_columns).map(of_columns);
    of_request.chain(columns).chain(request.params.iter().enumerate().flat_map(of_set))
}

/// Their names, and whether they have to be among a server's controls.
fn new_parameters(params: &SamplingParams) -> impl Iterator<Item = (&'static str, bool)> + use<> {
    let is_race =
        ![DrawRule::Unspecified, DrawRule::Cumulative].map(i32::from).contains(&params.draw_rule);
    let dry = params.dry.as_ref().is_some_and(|dry| dry.multiplier != 0.0);
    let repetition = params.repetition_penalty.is_some_and(|penalty| penalty != 1.0);
    [
        ("draw_rule", is_race, false),
        ("draft", params.draft, true),
        ("repetition_penalty", repetition, false),
        ("frequency_penalty", params.frequency_penalty != 0.0, false),
        ("presence_penalty", params.presence_penalty != 0.0, false),
        ("no_repeat_ngram", params.no_repeat_ngram != 0, false),
        ("min_tokens", params.min_tokens != 0, false),
        ("dry", dry, false),
        ("logprobs", params.logprobs.is_some(), true),
        ("return_kept", params.return_kept, true),
        ("profile", !is_own(params.profile), true),
        ("top_n_sigma", params.top_n_sigma != 0.0, true),
        ("top_h", params.top_h != 0.0, true),
        ("top_a", params.top_a != 0.0, true),
        ("epsilon_cutoff", params.epsilon_cutoff != 0.0, true),
        ("eta_cutoff", params.eta_cutoff != 0.0, true),
        ("typical_p", params.typical_p.is_some_and(|share| share != 1.0), true),
        ("mirostat_tau", params.mirostat_tau != 0.0, true),
        ("xtc_probability", params.xtc_probability != 0.0, true),
        ("adaptive_target", params.adaptive_target.is_some(), true),
        ("dynatemp_range", params.dynatemp_range != 0.0, true),
    ]
    .into_iter()
    .filter_map(|(name, is_new, is_control)| is_new.then_some((name, is_control)))
}

/// Columns that came after columns did.
fn new_columns(columns: &ParamColumns) -> impl Iterator<Item = &'static str> + use<> {
    let is_on = |values: &[f32], off: f32| values.iter().any(|value| *value != off);
    let profile = columns.profile.iter().any(|profile| !is_own(*profile));
    [
        ("draft", columns.draft.contains(&true)),
        ("profile", profile),
        ("top_n_sigma", is_on(&columns.top_n_sigma, 0.0)),
        ("top_h", is_on(&columns.top_h, 0.0)),
        ("top_a", is_on(&columns.top_a, 0.0)),
        ("epsilon_cutoff", is_on(&columns.epsilon_cutoff, 0.0)),
        ("eta_cutoff", is_on(&columns.eta_cutoff, 0.0)),
        ("typical_p", is_on(&columns.typical_p, 1.0)),
        ("mirostat_tau", is_on(&columns.mirostat_tau, 0.0)),
        ("xtc_probability", is_on(&columns.xtc_probability, 0.0)),
        ("adaptive_target", columns.adaptive_target.iter().any(|target| !target.is_nan())),
        ("dynatemp_range", is_on(&columns.dynatemp_range, 0.0)),
    ]
    .into_iter()
    .filter_map(|(name, is_new)| is_new.then_some(name))
}

/// Whether a profile is logitd's own, which every server has.
fn is_own(profile: i32) -> bool {
    [Profile::Unspecified, Profile::Logitd].map(i32::from).contains(&profile)
}

#[cfg(test)]
mod tests {
    use super::*;
    use logitd_proto::{Adjustments, Dry, Logprobs};

    fn check(request: &SampleRequest, version: u32) -> Result<(), Error> {
        Known { version, controls: vec!["dry".into()] }.check(request)
    }

    fn new_field(request: &SampleRequest) -> Option<String> {
        new_fields(request).next().map(|new| new.field)
    }

    #[test]
    fn what_came_later_has_to_be_named_by_the_server() {
        let logprobs = Some(Logprobs { of: vec![1], ..Default::default() });
        let set = SamplingParams { logprobs, return_kept: true, ..Default::default() };
        let race = SamplingParams { draw_rule: DrawRule::Race.into(), ..Default::default() };
        let request = SampleRequest { params: vec![race, set], ..Default::default() };
        let error = |controls: &[&str]| {
            let controls = controls.iter().map(|&name| name.into()).collect();
            Known { version: 2, controls }.check(&request).err().map(|error| error.to_string())
        };
        let said = error(&["dry"]).unwrap();
        assert!(said.starts_with("params[1].logprobs is not among the controls"), "{said}");
        let said = error(&["dry", "logprobs"]).unwrap();
        assert!(said.starts_with("params[1].return_kept"), "{said}");
        assert_eq!(error(&["return_kept", "dry", "logprobs"]), None);
        assert!(matches!(Known::OF_ALL.check(&request), Err(Error::Version { .. })));
    }

    #[test]
    fn so_has_a_column_that_came_after_columns() {
        let one = |columns| SampleRequest { columns: Some(columns), ..Default::default() };
        let known = |controls: &[&str]| {
            let controls = controls.iter().map(|&name| name.into()).collect();
            Known { version: 2, controls }
        };
        let off = one(ParamColumns {
            draft: vec![false],
            profile: vec![0, 1],
            top_h: vec![0.0],
            typical_p: vec![1.0],
            mirostat_mu: vec![2.0],
            adaptive_target: vec![f32::NAN],
            ..Default::default()
        });
        assert!(known(&["columns"]).check(&off).is_ok());
        let columns = ParamColumns {
            draft: vec![false, true],
            profile: vec![2],
            top_n_sigma: vec![0.0, 1.0],
            top_h: vec![0.5],
            top_a: vec![0.5],
            epsilon_cutoff: vec![0.5],
            eta_cutoff: vec![0.5],
            typical_p: vec![0.5],
            mirostat_tau: vec![0.5],
            xtc_probability: vec![0.5],
            adaptive_target: vec![f32::NAN, 0.0],
            dynatemp_range: vec![0.5],
            ..Default::default()
        };
        let names: Vec<_> = new_columns(&columns).collect();
        assert_eq!(names.len(), 12);
        let error =
            known(&["columns", "draft", "profile"]).check(&one(columns.clone())).unwrap_err();
        let said = "columns.top_n_sigma is not among the controls";
        assert!(error.to_string().starts_with(said), "{error}");
        let all: Vec<_> = names.into_iter().chain(["columns"]).collect();
        assert!(known(&all).check(&one(columns)).is_ok());
    }

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
            profile: Profile::Logitd.into(),
            typical_p: Some(1.0),
            // Without their cuts these are nothing.
            mirostat_mu: Some(3.0),
            xtc_threshold: Some(0.2),
            dynatemp_exponent: Some(2.0),
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
            (SamplingParams { draft: true, ..Default::default() }, "draft"),
            (SamplingParams { min_tokens: 3, ..Default::default() }, "min_tokens"),
            (SamplingParams { dry: dry(0.8), ..Default::default() }, "dry"),
            (SamplingParams { profile: Profile::Hf.into(), ..Default::default() }, "profile"),
            (SamplingParams { top_n_sigma: 1.0, ..Default::default() }, "top_n_sigma"),
            (SamplingParams { top_h: 0.4, ..Default::default() }, "top_h"),
            (SamplingParams { top_a: 0.2, ..Default::default() }, "top_a"),
            (SamplingParams { epsilon_cutoff: 1e-3, ..Default::default() }, "epsilon_cutoff"),
            (SamplingParams { eta_cutoff: 1e-3, ..Default::default() }, "eta_cutoff"),
            (SamplingParams { typical_p: Some(0.9), ..Default::default() }, "typical_p"),
            (SamplingParams { mirostat_tau: 5.0, ..Default::default() }, "mirostat_tau"),
            (SamplingParams { xtc_probability: 0.5, ..Default::default() }, "xtc_probability"),
            (
                SamplingParams { adaptive_target: Some(0.0), ..Default::default() },
                "adaptive_target",
            ),
            (SamplingParams { dynatemp_range: 0.5, ..Default::default() }, "dynatemp_range"),
        ] {
            assert_eq!(of(params), Some(format!("params[0].{name}")));
        }
        let adjustments = vec![Adjustments::default()];
        let request = SampleRequest { adjustments, ..Default::default() };
        assert_eq!(new_field(&request).as_deref(), Some("adjustments"));
        let request = SampleRequest { row_stride: 12, ..Default::default() };
        assert_eq!(new_field(&request).as_deref(), Some("row_stride"));
        let request = SampleRequest { columns: Some(Default::default()), ..Default::default() };
        assert_eq!(new_field(&request).as_deref(), Some("columns"));
        assert!(matches!(check(&request, 2), Err(Error::Control { .. })));
        let request = SampleRequest { return_columns: true, ..Default::default() };
        assert_eq!(new_field(&request).as_deref(), Some("return_columns"));
        let of = |of: OnInvalidRow| {
            new_field(&SampleRequest { on_invalid_row: of.into(), ..Default::default() })
        };
        assert_eq!(of(OnInvalidRow::Status).as_deref(), Some("on_invalid_row"));
        assert_eq!(of(OnInvalidRow::Refuse), None);
    }
}
