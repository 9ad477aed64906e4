//! Parameters of a row: messages of the API, and JSON with the same keys.

use super::whole::Whole;
use logitd_core::params::{
    DrawRule, FIELDS, Field, ParamsError, ParamsSpec, Profile, SamplingParams, Value,
};
use logitd_proto as api;
use serde_json::{Map, Value as Json};

/// What stands for parameters that are wrong, while the rest is looked at.
pub fn defaults() -> SamplingParams {
    ParamsSpec::default().parse(|| 0).expect("the defaults are valid")
}

/// What a message asks for. Wrong is an enum's number without a name here: numbers are checked when they are parsed.
pub fn spec(params: &api::SamplingParams) -> Result<ParamsSpec, ParamsError> {
    let default = ParamsSpec::default();
    Ok(ParamsSpec {
        temperature: params.temperature.unwrap_or(default.temperature),
        top_k: params.top_k,
        top_p: params.top_p.unwrap_or(default.top_p),
        min_p: params.min_p,
        seed: params.seed,
        position: params.position,
        draws: params.draws.unwrap_or(default.draws),
        draw_rule: draw_rule(params.draw_rule)?,
        draft: params.draft,
        repetition_penalty: params.repetition_penalty.unwrap_or(default.repetition_penalty),
        frequency_penalty: params.frequency_penalty,
        presence_penalty: params.presence_penalty,
        no_repeat_ngram: params.no_repeat_ngram,
        min_tokens: params.min_tokens,
        profile: profile(params.profile)?,
        top_n_sigma: params.top_n_sigma,
        top_h: params.top_h,
        top_a: params.top_a,
        epsilon_cutoff: params.epsilon_cutoff,
        eta_cutoff: params.eta_cutoff,
        typical_p: params.typical_p.unwrap_or(default.typical_p),
        mirostat_tau: params.mirostat_tau,
        mirostat_eta: params.mirostat_eta.unwrap_or(default.mirostat_eta),
        mirostat_mu: params.mirostat_mu,
        xtc_probability: params.xtc_probability,
        xtc_threshold: params.xtc_threshold.unwrap_or(default.xtc_threshold),
        adaptive_target: params.adaptive_target,
        adaptive_decay: params.adaptive_decay.unwrap_or(default.adaptive_decay),
        adaptive_sum: params.adaptive_sum,
        adaptive_weight: params.adaptive_weight,
        dynatemp_range: params.dynatemp_range,
        dynatemp_exponent: params.dynatemp_exponent.unwrap_or(default.dynatemp_exponent),
        ..params.dry.as_ref().map_or(default, |dry| ParamsSpec {
            dry_multiplier: dry.multiplier,
            dry_base: dry.base.unwrap_or(default.dry_base),
            dry_allowed_length: dry.allowed_length.unwrap_or(default.dry_allowed_length),
            dry_last_n: dry.last_n,
            ..default
        })
    })
}

fn draw_rule(number: i32) -> Result<DrawRule, ParamsError> {
    match api::DrawRule::try_from(number) {
        Ok(api::DrawRule::Unspecified) => Ok(DrawRule::default()),
        Ok(api::DrawRule::Cumulative) => Ok(DrawRule::Cumulative),
        Ok(api::DrawRule::Race) => Ok(DrawRule::Race),
        Err(_) => {
            let field = Field::named("draw_rule").expect("a parameter");
            Err(field.refuse(number.to_string()))
        }
    }
}

/// Every rule, as `GetInfo` lists them.
pub fn draw_rules() -> Vec<i32> {
    [api::DrawRule::Cumulative, api::DrawRule::Race].map(i32::from).to_vec()
}

/// The rule as messages name it. The default is left out, so that a request that asks for nothing new has the bytes
/// that it always had.
fn draw_rule_message(rule: DrawRule) -> api::DrawRule {
    match rule {
        DrawRule::Cumulative => api::DrawRule::Unspecified,
        DrawRule::Race => api::DrawRule::Race,
    }
}

fn profile(number: i32) -> Result<Profile, ParamsError> {
    match api::Profile::try_from(number) {
        Ok(api::Profile::Unspecified) => Ok(Profile::default()),
        Ok(api::Profile::Logitd) => Ok(Profile::Logitd),
        Ok(api::Profile::Hf) => Ok(Profile::Hf),
        Ok(api::Profile::Vllm) => Ok(Profile::Vllm),
        Ok(api::Profile::Sglang) => Ok(Profile::Sglang),
        Ok(api::Profile::Llamacpp) => Ok(Profile::Llamacpp),
        Err(_) => {
            let field = Field::named("profile").expect("a parameter");
            Err(field.refuse(number.to_string()))
        }
    }
}

/// Every profile, as `GetInfo` lists them.
pub fn profiles() -> Vec<i32> {
    let number = |profile| match profile {
        Profile::Logitd => api::Profile::Logitd.into(),
        other => profile_message(other).into(),
    };
    Profile::ALL.map(number).to_vec()
}

/// The profile as messages name it; the default is left out.
fn profile_message(profile: Profile) -> api::Profile {
    match profile {
        Profile::Logitd => api::Profile::Unspecified,
        Profile::Hf => api::Profile::Hf,
        Profile::Vllm => api::Profile::Vllm,
        Profile::Sglang => api::Profile::Sglang,
        Profile::Llamacpp => api::Profile::Llamacpp,
    }
}

/// The first parameter by which a row could depend on tokens that are not among its candidates, although these
/// [are enough](logitd_core::candidates::are_enough) for its temperature and its top_k.
pub fn looks_beyond(spec: &ParamsSpec) -> Option<&'static str> {
    let is_greedy = spec.temperature == 0.0;
    match spec.profile {
        Profile::Logitd if is_greedy => None,
        // The standard deviation and the entropy are those of all tokens.
        _ if spec.top_n_sigma > 0.0 => Some("top_n_sigma"),
        _ if spec.dynatemp_range > 0.0 => Some("dynatemp_range"),
        // A token that was left out could equal the last one of top_k.
        Profile::Hf | Profile::Vllm | Profile::Sglang => (!is_greedy).then_some("profile"),
        // Mirostat is without top_k here, and a greedy row has cuts, which may drop its first token.
        Profile::Llamacpp if spec.mirostat_tau > 0.0 && !is_greedy => Some("mirostat_tau"),
        // A greedy row has cuts there, whatever its candidates are enough for.
        Profile::Llamacpp if is_greedy && spec.mirostat_tau == 0.0 && spec.typical_p < 1.0 => {
            Some("typical_p")
        }
        Profile::Llamacpp
            if is_greedy && spec.mirostat_tau == 0.0 && spec.xtc_probability > 0.0 =>
        {
            Some("xtc_probability")
        }
        _ => None,
    }
}

/// The message that asks for it; DRY's breakers, and what is asked for beside tokens, stand beside the parameters.
pub fn message(spec: &ParamsSpec) -> api::SamplingParams {
    let default = ParamsSpec::default();
    // A default is left out, so that a request that asks for nothing new has the bytes that it always had.
    let unless = |value: f32, default: f32| (value != default).then_some(value);
    let dry_is_default = Field::of_group("dry").all(|field| field.get(*spec) == field.get(default));
    api::SamplingParams {
        temperature: Some(spec.temperature),
        top_k: spec.top_k,
        top_p: Some(spec.top_p),
        min_p: spec.min_p,
        seed: spec.seed,
        position: spec.position,
        draws: Some(spec.draws),
        draw_rule: draw_rule_message(spec.draw_rule).into(),
        draft: spec.draft,
        repetition_penalty: Some(spec.repetition_penalty),
        frequency_penalty: spec.frequency_penalty,
        presence_penalty: spec.presence_penalty,
        no_repeat_ngram: spec.no_repeat_ngram,
        min_tokens: spec.min_tokens,
        dry: (!dry_is_default).then(|| api::Dry {
            multiplier: spec.dry_multiplier,
            base: Some(spec.dry_base),
            allowed_length: Some(spec.dry_allowed_length),
            last_n: spec.dry_last_n,
            breakers: vec![],
        }),
        profile: profile_message(spec.profile).into(),
        top_n_sigma: spec.top_n_sigma,
        top_h: spec.top_h,
        top_a: spec.top_a,
        epsilon_cutoff: spec.epsilon_cutoff,
        eta_cutoff: spec.eta_cutoff,
        typical_p: unless(spec.typical_p, default.typical_p),
        mirostat_tau: spec.mirostat_tau,
        mirostat_eta: unless(spec.mirostat_eta, default.mirostat_eta),
        mirostat_mu: spec.mirostat_mu,
        xtc_probability: spec.xtc_probability,
        xtc_threshold: unless(spec.xtc_threshold, default.xtc_threshold),
        adaptive_target: spec.adaptive_target,
        adaptive_decay: unless(spec.adaptive_decay, default.adaptive_decay),
        adaptive_sum: spec.adaptive_sum,
        adaptive_weight: spec.adaptive_weight,
        dynatemp_range: spec.dynatemp_range,
        dynatemp_exponent: unless(spec.dynatemp_exponent, default.dynatemp_exponent),
        ..Default::default()
    }
}

/// The path of a parameter in its message: `dry.base` of `dry_base`.
pub fn path(name: &str) -> String {
    name.replacen("dry_", "dry.", 1)
}

/// The parameters as one JSON object, keys as in the API. Values read back to the same bits.
pub fn json(params: SamplingParams) -> Json {
    let value = |value| match value {
        Value::Real(x) => Json::from(x),
        Value::Whole(n) => serde_json::to_value(Whole(n)).expect("a number or a string"),
        Value::Name(name) => Json::from(name),
        Value::Flag(is_set) => Json::from(is_set),
        Value::Unset => Json::Null,
    };
    let pairs = FIELDS.iter().map(|field| (field.name.into(), value(field.get(params.into()))));
    Json::Object(pairs.collect::<Map<String, Json>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_and_back() {
        let spec = ParamsSpec {
            temperature: 0.7,
            top_k: 5,
            top_p: 0.9,
            min_p: 0.1,
            seed: Some(7),
            position: 8,
            draws: 9,
            draw_rule: DrawRule::Race,
            draft: true,
            repetition_penalty: 1.5,
            frequency_penalty: -0.5,
            presence_penalty: 0.25,
            no_repeat_ngram: 3,
            min_tokens: 4,
            dry_multiplier: 0.8,
            dry_base: 2.0,
            dry_allowed_length: 0,
            dry_last_n: 64,
            profile: Profile::Llamacpp,
            top_n_sigma: 1.5,
            top_h: 0.4,
            top_a: 0.2,
            epsilon_cutoff: 0.001,
            eta_cutoff: 0.002,
            typical_p: 0.95,
            mirostat_tau: 5.0,
            mirostat_eta: 0.2,
            mirostat_mu: Some(-3.0),
            xtc_probability: 0.5,
            xtc_threshold: 0.05,
            adaptive_target: Some(0.0),
            adaptive_decay: 0.8,
            adaptive_sum: Some(1.25),
            adaptive_weight: Some(0.0),
            dynatemp_range: 0.7,
            dynatemp_exponent: 2.0,
        };
        assert_eq!(super::spec(&message(&spec)), Ok(spec));
        assert_eq!(super::spec(&api::SamplingParams::default()), Ok(ParamsSpec::default()));
        let unset = ParamsSpec::default();
        assert_eq!(super::spec(&message(&unset)), Ok(unset));
        for profile in Profile::ALL {
            let spec = ParamsSpec { profile, ..Default::default() };
            assert_eq!(super::spec(&message(&spec)), Ok(spec));
        }
        assert_eq!(profiles(), [1, 2, 3, 4, 5]);
        let unknown = api::SamplingParams { profile: 6, ..Default::default() };
        let error = super::spec(&unknown).unwrap_err();
        assert!(error.to_string().starts_with("profile is 6; allowed: logitd, hf, "), "{error}");
        let unknown = api::SamplingParams { draw_rule: 7, ..Default::default() };
        let error = super::spec(&unknown).unwrap_err();
        assert_eq!(error.to_string(), "draw_rule is 7; allowed: cumulative, race");
    }

    #[test]
    fn what_looks_at_all_tokens_is_named() {
        let base = ParamsSpec { top_k: 5, typical_p: 0.9, ..Default::default() };
        let of = |profile, temperature| ParamsSpec { profile, temperature, ..base };
        assert_eq!(looks_beyond(&base), None);
        assert_eq!(looks_beyond(&ParamsSpec { mirostat_tau: 5.0, ..base }), None);
        for profile in [Profile::Hf, Profile::Vllm, Profile::Sglang] {
            assert_eq!(looks_beyond(&of(profile, 1.0)), Some("profile"));
            assert_eq!(looks_beyond(&of(profile, 0.0)), None);
        }
        let llama = of(Profile::Llamacpp, 0.0);
        assert_eq!(looks_beyond(&of(Profile::Llamacpp, 1.0)), None);
        assert_eq!(looks_beyond(&llama), Some("typical_p"));
        let xtc = ParamsSpec { typical_p: 1.0, xtc_probability: 1.0, ..llama };
        assert_eq!(looks_beyond(&xtc), Some("xtc_probability"));
        assert_eq!(looks_beyond(&ParamsSpec { mirostat_tau: 5.0, ..llama }), None);
        let spec = ParamsSpec { temperature: 1.0, mirostat_tau: 5.0, ..llama };
        assert_eq!(looks_beyond(&spec), Some("mirostat_tau"));
        for (temperature, wanted) in
            [(1.0, [Some("top_n_sigma"), Some("dynatemp_range")]), (0.0, [None; 2])]
        {
            let base = ParamsSpec { temperature, ..base };
            let sigma = ParamsSpec { top_n_sigma: 1.0, ..base };
            let dynatemp = ParamsSpec { dynatemp_range: 0.5, ..base };
            assert_eq!([sigma, dynatemp].map(|spec| looks_beyond(&spec)), wanted);
        }
    }

    #[test]
    fn json_has_every_parameter_and_reads_back() {
        let spec = ParamsSpec {
            temperature: 0.7,
            seed: Some(u64::MAX),
            draw_rule: DrawRule::Race,
            ..Default::default()
        };
        let json = json(spec.parse(|| 0).unwrap());
        assert_eq!(json.as_object().unwrap().len(), FIELDS.len());
        assert_eq!(json["seed"], u64::MAX.to_string());
        let text = json.to_string();
        let mut again = ParamsSpec::default();
        for (name, value) in crate::wire::json::object(&text).unwrap() {
            let field = logitd_core::params::Field::named(&name).unwrap();
            let written = match value {
                crate::wire::json::Value::Bare(text) => text.to_owned(),
                crate::wire::json::Value::Text(text) => text,
                crate::wire::json::Value::Other(text) if field.is_flag() => text.to_owned(),
                crate::wire::json::Value::Null => continue,
                other => panic!("{other:?}"),
            };
            field.set(&mut again, field.read(&written).unwrap());
        }
        assert_eq!(again, spec);
    }
}
