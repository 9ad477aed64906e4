//! What parameters come to on one row: its first tokens before and after the cuts, where each cut falls, and draws.

use super::chi::{self, Chi};
use super::worker::Bench;
use crate::files::assets;
use crate::files::params::Set;
use crate::wire::whole::{Whole, fresh_seeds};
use logitd_core::adjustments::{self, Adjustments, AdjustmentsSpec};
use logitd_core::arithmetic::stages::Stage;
use logitd_core::backend::Backend;
use logitd_core::batch::{Results, Row, RowStatus};
use logitd_core::inspection::{Distribution, Inspect, Logprobs, TokenLogprob};
use logitd_core::params::{Field, ParamsSpec, Profile, SamplingParams};
use serde::Serialize;
use std::collections::HashMap;

/// First tokens that counts are compared with one by one.
const BINS_MAX: u32 = 200;
/// The most first tokens that are shown.
pub const TOP_MAX: u32 = 500;
/// Different drawn tokens that are listed.
const DRAWN_MAX: usize = 60;
/// Draws whose order is told.
const IN_ORDER_MAX: usize = 40;
/// What of a row's cuts is no stage of every profile that has it.
const BESIDE_STAGES: [&str; 1] = ["mirostat_tau"];
/// Parameters of one control, each of which names another's state or measure.
const GROUPS: [&str; 3] = ["mirostat", "xtc", "adaptive"];

/// How much may be asked.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of a row's lists.
    pub adjustments: adjustments::Limits,
    /// Kept tokens times draws of a row that draws by race.
    pub race_tokens_max: usize,
}

/// What is seen of a row.
#[derive(Debug, Serialize)]
pub struct Seen {
    status: &'static str,
    seed: Whole,
    vocab_size: u32,
    /// Tokens that the cuts left.
    kept: u32,
    /// Their share of the probability before the cuts.
    share: f64,
    entropy: Entropies,
    tokens: Vec<Token>,
    cuts: Vec<Cut>,
    draws: Drawn,
}

/// In nats: of the model, of what the cuts are given, of what is drawn from.
#[derive(Debug, Default, Serialize)]
struct Entropies {
    raw: f32,
    before: f32,
    after: f32,
}

/// One of the first tokens.
#[derive(Debug, Serialize)]
struct Token {
    token: u32,
    text: Option<&'static str>,
    /// The model's own probability.
    raw: f64,
    /// Before the cuts, at the row's temperature.
    before: f64,
    /// After them; 0 where they drop the token.
    after: f64,
    /// The logarithm of that, as an answer has it; nothing where the token is dropped.
    logprob: Option<f32>,
}

/// A cut, in the order of the profile.
#[derive(Debug, Serialize)]
struct Cut {
    name: &'static str,
    value: String,
    /// What it would keep by itself.
    alone: Part,
    /// What it leaves in its turn, after the cuts before it.
    left: Part,
    /// Whether what it leaves are the first tokens, so that there is a line between these and the others.
    first_tokens: bool,
}

/// Some of the tokens.
#[derive(Clone, Copy, Debug, Serialize)]
struct Part {
    kept: u32,
    share: f64,
}

#[derive(Debug, Default, Serialize)]
struct Drawn {
    count: u32,
    /// Different ones.
    distinct: usize,
    /// Those that came most often, first.
    tokens: Vec<DrawnToken>,
    /// The first draws, as they came.
    in_order: Vec<u32>,
    chi: Option<Chi>,
}

#[derive(Debug, Serialize)]
struct DrawnToken {
    token: u32,
    text: Option<&'static str>,
    count: u32,
    probability: f64,
}

/// A row that is wanted: how, and what is asked of it.
struct Wanted {
    params: SamplingParams,
    inspect: Inspect,
}

/// Looks at a row; `top` of its first tokens are told. The error names what is wrong and what is allowed.
pub fn look(
    bench: &mut Bench,
    name: &super::rows::RowName,
    set: &Set,
    top: u32,
    limits: Limits,
) -> Result<Seen, String> {
    let Bench { cpu, results, uploads } = bench;
    let view = uploads.view(name)?;
    let seed = fresh_seed(&set.params)?;
    let spec = ParamsSpec { seed: Some(seed), ..set.params };
    let params = parse(spec)?;
    let adjustments = adjust(set, &params, view.vocab_size, limits)?;
    let race_tokens = params.race_tokens_max(view.vocab_size);
    if race_tokens > limits.race_tokens_max as u64 {
        return Err(format!(
            "draws is {}, by race of up to {} tokens each; allowed: {} in all (--request-race-tokens-max): draw fewer, or \
             keep fewer with top_k",
            params.draws(),
            race_tokens / u64::from(params.draws()),
            limits.race_tokens_max,
        ));
    }
    let mut sample = |wanted: &[Wanted]| -> Result<Vec<Found>, String> {
        let row = |wanted: &'_ Wanted| {
            let row = Row::new(view.dtype, view.logits, wanted.params);
            let row = row.map_err(|error| error.to_string())?;
            Ok(row.with_adjustments(adjustments.as_ref()))
        };
        let rows = wanted.iter().map(row).collect::<Result<Vec<_>, String>>()?;
        let rows: Vec<_> = rows
            .into_iter()
            .zip(wanted)
            .map(|(row, wanted)| row.with_inspect(Some(&wanted.inspect)))
            .collect();
        cpu.sample(&rows, results).map_err(|error| error.to_string())?;
        Ok(found(results))
    };

    // Before the cuts; all together; each cut by itself, and in its turn.
    let plain = without_cuts(spec);
    let cuts = each_cut(&spec, &plain);
    let mut wanted = vec![
        Wanted { params: parse(plain)?, inspect: sampled(top, &[]) },
        Wanted { params, inspect: sampled(BINS_MAX, &[]) },
    ];
    for spec in cuts.iter().flat_map(|cut| [cut.alone, cut.turn]) {
        wanted.push(Wanted { params: parse(spec)?, inspect: sampled(1, &[]) });
    }
    let mut first = sample(&wanted)?;
    let each = first.split_off(2);
    let (whole, before) = (first.remove(1), first.remove(0));
    let mut seen = Seen {
        status: whole.status.name(),
        seed: Whole(seed),
        vocab_size: view.vocab_size,
        kept: whole.kept,
        share: 0.0,
        entropy: Entropies::default(),
        tokens: vec![],
        cuts: vec![],
        draws: Drawn::default(),
    };
    if whole.status != RowStatus::Ok || before.status != RowStatus::Ok {
        return Ok(seen);
    }

    // The same tokens in the other distributions.
    let tokens = &before.sampled.top;
    let of_tokens: Vec<u32> = tokens.iter().map(|one| one.token).collect();
    let firsts = |found: &Found| found.sampled.top.first().map_or(0, |one| one.token);
    let of_firsts: Vec<u32> = [&whole].into_iter().chain(&each).map(firsts).collect();
    let ids = [&of_tokens[..], &of_firsts].concat();
    let raw = Inspect { of: [true, false, true], ..sampled(0, &ids) };
    let once = parse(ParamsSpec { draws: 1, ..spec })?;
    let mut second = sample(&[
        Wanted { params: parse(plain)?, inspect: raw },
        Wanted { params: once, inspect: sampled(0, &of_tokens) },
    ])?;
    let (after, before_again) = (second.remove(1), second.remove(0));
    let share = |found: &Found, i: usize| {
        let kept = found.sampled.top.first().map_or(0.0, |one| one.logprob);
        let all = before_again.sampled.ids[of_tokens.len() + i].logprob;
        // What was kept is what the first token's probability has grown by.
        (f64::from(all) - f64::from(kept)).exp().min(1.0)
    };
    let raw = before_again.raw.as_ref();
    seen.share = share(&whole, 0);
    seen.entropy = Entropies {
        raw: raw.map_or(0.0, |raw| raw.entropy.0),
        before: before.sampled.entropy.0,
        after: whole.sampled.entropy.0,
    };
    let text = |token: u32| assets::tokens().get(token).filter(|_| view.carried);
    let told = |i: usize| {
        let TokenLogprob { token, logprob, .. } = tokens[i];
        let raw = raw.and_then(|raw| raw.ids.get(i)).map_or(0.0, |one| probability(one.logprob));
        let after = after.sampled.ids[i];
        Token {
            token,
            text: text(token),
            raw,
            before: probability(logprob),
            after: probability(after.logprob),
            logprob: (after.rank > 0).then_some(after.logprob),
        }
    };
    seen.tokens = (0..tokens.len()).map(told).collect();
    let part = |i: usize| Part { kept: each[i].kept, share: share(&each[i], i + 1) };
    let told = |(i, cut): (usize, &OneCut)| Cut {
        name: cut.field.name,
        value: cut.field.get(spec).to_string(),
        alone: part(2 * i),
        left: part(2 * i + 1),
        first_tokens: cut.first_tokens,
    };
    seen.cuts = cuts.iter().enumerate().map(told).collect();
    seen.draws = drawn(&whole, text);
    Ok(seen)
}

/// What a set does to single logits, checked; `None` where it is nothing.
fn adjust(
    set: &Set,
    params: &SamplingParams,
    vocab_size: u32,
    limits: Limits,
) -> Result<Option<Adjustments>, String> {
    if set.adjustments == AdjustmentsSpec::default() {
        return Ok(None);
    }
    let parsed = set.adjustments.clone().parse(vocab_size, limits.adjustments);
    // Of several errors the first is as good as any.
    let parsed = parsed.map_err(|mut errors| errors.swap_remove(0).to_string())?;
    parsed.check_with(params).map_err(|error| error.to_string())?;
    Ok(Some(parsed))
}

fn parse(spec: ParamsSpec) -> Result<SamplingParams, String> {
    spec.parse(|| 0).map_err(|error| error.to_string())
}

fn fresh_seed(spec: &ParamsSpec) -> Result<u64, String> {
    match spec.seed {
        Some(seed) => Ok(seed),
        None => fresh_seeds(1)
            .map(|mut seeds| seeds.remove(0))
            .map_err(|error| format!("the system gives no random seed: {error}")),
    }
}

/// The parameter that has a stage cut.
fn name(stage: Stage) -> &'static str {
    match stage {
        Stage::TopNSigma => "top_n_sigma",
        Stage::TopK => "top_k",
        Stage::TopP => "top_p",
        Stage::MinP => "min_p",
        Stage::TopH => "top_h",
        Stage::TopA => "top_a",
        Stage::Epsilon => "epsilon_cutoff",
        Stage::Eta => "eta_cutoff",
        Stage::Typical => "typical_p",
        Stage::Mirostat => "mirostat_tau",
        Stage::Xtc => "xtc_probability",
    }
}

/// The cuts of a profile, in order.
fn cuts(profile: Profile) -> impl Iterator<Item = &'static Field> {
    let stages = profile.stages().iter().map(|stage| name(*stage));
    let beside = BESIDE_STAGES
        .into_iter()
        .filter(move |beside| !profile.stages().iter().any(|stage| name(*stage) == *beside));
    stages.chain(beside).filter_map(Field::named)
}

/// Sets a cut, and what belongs to it, as they are in other parameters.
fn take(cut: &'static Field, from: &ParamsSpec, to: &mut ParamsSpec) {
    cut.set(to, cut.get(*from));
    let group = GROUPS.into_iter().find(|group| cut.name.starts_with(group));
    for field in group.into_iter().flat_map(Field::of_group) {
        field.set(to, field.get(*from));
    }
}

/// The same distribution before anything is cut: of a greedy row, that at temperature 1.
fn without_cuts(spec: ParamsSpec) -> ParamsSpec {
    let mut plain = ParamsSpec { draws: 1, ..spec };
    let reset = |name: &str, spec: &mut ParamsSpec| {
        Field::named(name).expect("a parameter").reset(spec);
    };
    cuts(Profile::Logitd).for_each(|cut| cut.reset(&mut plain));
    GROUPS.into_iter().flat_map(Field::of_group).for_each(|field| field.reset(&mut plain));
    reset("profile", &mut plain);
    if spec.temperature == 0.0 {
        reset("temperature", &mut plain);
        reset("dynatemp_range", &mut plain);
    }
    plain
}

/// A cut that is on.
struct OneCut {
    field: &'static Field,
    /// Under these parameters it alone cuts.
    alone: ParamsSpec,
    /// Under these it does, after those before it.
    turn: ParamsSpec,
    first_tokens: bool,
}

/// Each cut that is on, in order. Nothing, where the row is greedy.
fn each_cut(spec: &ParamsSpec, plain: &ParamsSpec) -> Vec<OneCut> {
    let is_on =
        |cut: &&Field| spec.temperature != 0.0 && cut.get(*spec) != cut.get(ParamsSpec::default());
    let plain = ParamsSpec { profile: spec.profile, ..*plain };
    let (mut turn, mut first_tokens) = (plain, true);
    let one = |field: &'static Field| {
        let mut alone = plain;
        take(field, spec, &mut alone);
        take(field, spec, &mut turn);
        // These keep tokens from the middle of the order.
        first_tokens &= !["typical_p", "xtc_probability"].contains(&field.name);
        OneCut { field, alone, turn, first_tokens }
    };
    cuts(spec.profile).filter(is_on).map(one).collect()
}

fn sampled(top: u32, ids: &[u32]) -> Inspect {
    Inspect { of: [false, false, true], top, ids: ids.into(), ..Inspect::default() }
}

/// What was found of a row.
struct Found {
    status: RowStatus,
    kept: u32,
    raw: Option<Logprobs>,
    sampled: Logprobs,
}

fn found(results: &Results) -> Vec<Found> {
    let of = |result: logitd_core::batch::RowResult<'_>| {
        let told = result.inspection.map_or(&[][..], |inspection| &inspection.logprobs);
        let find = |of| told.iter().find(|logprobs| logprobs.of == of).cloned();
        let nothing = Logprobs {
            of: Distribution::Sampled,
            status: result.outcome.status,
            entropy: Default::default(),
            drawn: vec![],
            top: vec![],
            ids: vec![],
        };
        Found {
            status: result.outcome.status,
            kept: result.outcome.kept,
            raw: find(Distribution::Raw),
            sampled: find(Distribution::Sampled).unwrap_or(nothing),
        }
    };
    results.iter().map(of).collect()
}

fn probability(logprob: f32) -> f64 {
    f64::from(logprob).exp()
}

fn drawn(found: &Found, text: impl Fn(u32) -> Option<&'static str>) -> Drawn {
    let drawn = &found.sampled.drawn;
    let mut counts: HashMap<u32, (u32, f32)> = HashMap::new();
    for one in drawn {
        counts.entry(one.token).or_insert((0, one.logprob)).0 += 1;
    }
    let first = found.sampled.top.iter().map(|one| {
        let count = counts.get(&one.token).map_or(0, |(count, _)| *count);
        (probability(one.logprob), count)
    });
    let chi = chi::compare(first, drawn.len() as u32);
    let mut tokens: Vec<_> = counts.into_iter().collect();
    tokens.sort_by_key(|&(token, (count, _))| (std::cmp::Reverse(count), token));
    let distinct = tokens.len();
    tokens.truncate(DRAWN_MAX);
    let tokens = tokens.into_iter().map(|(token, (count, logprob))| DrawnToken {
        token,
        text: text(token),
        count,
        probability: probability(logprob),
    });
    Drawn {
        count: drawn.len() as u32,
        distinct,
        tokens: tokens.collect(),
        in_order: drawn.iter().take(IN_ORDER_MAX).map(|one| one.token).collect(),
        chi,
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::Uploads;
    use super::*;
    use logitd_core::backend::cpu::{Cpu, CpuOptions};
    use logitd_core::backend::reference::Reference;

    const LIMITS: Limits = Limits {
        adjustments: adjustments::Limits { history_tokens_max: 100, adjusted_tokens_max: 100 },
        race_tokens_max: 1 << 24,
    };

    fn bench() -> Bench {
        let cpu = Cpu::new(CpuOptions { isa: None, threads: 1 }).unwrap();
        Bench { cpu, results: Results::default(), uploads: Uploads::new(1 << 20) }
    }

    fn see(line: &str) -> Result<Seen, String> {
        let set = crate::files::params::line(line, &Set::default())?;
        look(&mut bench(), &"3".parse().unwrap(), &set, 30, LIMITS)
    }

    #[test]
    fn what_is_seen_is_what_the_reference_samples() {
        let line = r#"{"temperature": 0.8, "top_k": 40, "top_p": 0.9, "min_p": 0.01, "seed": 5, "draws": 200}"#;
        let seen = see(line).unwrap();
        let set = crate::files::params::line(line, &Set::default()).unwrap();
        let row = &assets::rows()[3];
        let params = set.params.parse(|| 0).unwrap();
        let rows = [Row::new(assets::DTYPE, &row.logits, params).unwrap()];
        let mut results = Results::default();
        Reference::default().sample(&rows, &mut results).unwrap();
        let result = results.row(0);
        assert_eq!(seen.kept, result.outcome.kept);
        let order: Vec<u32> = result.draws.iter().take(IN_ORDER_MAX).map(|d| d.token).collect();
        assert_eq!(seen.draws.in_order, order);
        assert_eq!(seen.draws.count, 200);
        for draw in result.draws {
            let shown = seen.tokens.iter().find(|one| one.token == draw.token).unwrap();
            assert_eq!(shown.logprob.unwrap().to_bits(), draw.logprob.to_bits());
        }
        // The mass that is kept, as integers have it.
        let plain = set.params;
        let plain = ParamsSpec { top_k: 0, top_p: 1.0, min_p: 0.0, draws: 1, ..plain };
        let rows = [rows[0].with_params(plain.parse(|| 0).unwrap())];
        Reference::default().sample(&rows, &mut results).unwrap();
        let all = results.row(0).outcome.kept_mass as f64;
        let cut = |name: &str| seen.cuts.iter().find(|cut| cut.name == name).unwrap();
        for (share, name) in [(seen.share, ""), (cut("top_p").alone.share, "top_p")] {
            let spec = match name {
                "" => ParamsSpec { draws: 1, ..set.params },
                _ => ParamsSpec { top_p: 0.9, ..plain },
            };
            let rows = [rows[0].with_params(spec.parse(|| 0).unwrap())];
            Reference::default().sample(&rows, &mut results).unwrap();
            let exact = results.row(0).outcome.kept_mass as f64 / all;
            assert!((share - exact).abs() < 1e-6, "{name}: {share} {exact}");
        }
        assert_eq!(cut("top_k").alone.kept, 40);
        let order: Vec<&str> = seen.cuts.iter().map(|cut| cut.name).collect();
        assert_eq!(order, ["top_k", "top_p", "min_p"]);
        let left: Vec<u32> = seen.cuts.iter().map(|cut| cut.left.kept).collect();
        assert!(left[0] == 40 && left.is_sorted_by(|a, b| a >= b) && left[2] == seen.kept);
        assert_eq!(seen.cuts[2].left.share, seen.share);
        let kept = seen.tokens.iter().filter(|one| one.logprob.is_some()).count();
        assert_eq!(kept, seen.kept.min(30) as usize);
    }

    #[test]
    fn every_control_is_shown_and_greedy_rows_have_one_token() {
        let seen = see(r#"{"temperature": 0, "top_p": 0.5, "seed": 1}"#).unwrap();
        assert_eq!((seen.kept, seen.cuts.len(), seen.draws.count), (1, 0, 1));
        assert_eq!(seen.tokens.iter().filter(|one| one.after > 0.0).count(), 1);
        assert!((seen.tokens[0].before - seen.share).abs() < 1e-9);
        for line in [
            r#"{"mirostat_tau": 3, "mirostat_mu": 4.5}"#,
            r#"{"xtc_probability": 1, "xtc_threshold": 0.02}"#,
            r#"{"typical_p": 0.5}"#,
            r#"{"top_n_sigma": 1, "dynatemp_range": 0.5}"#,
            r#"{"epsilon_cutoff": 0.001, "eta_cutoff": 0.001, "top_h": 0.4, "top_a": 0.2}"#,
        ] {
            let seen = see(line).unwrap();
            assert!(seen.share > 0.0 && seen.share < 1.0, "{line}: {}", seen.share);
            assert!(!seen.cuts.is_empty(), "{line}");
            // As much as the tokens have that are left.
            if seen.kept <= 30 {
                let left = seen.tokens.iter().filter(|one| one.after > 0.0);
                let left: f64 = left.map(|one| one.before).sum();
                assert!((left - seen.share).abs() < 1e-5, "{line}: {left} {}", seen.share);
            }
        }
        let seen = see(r#"{"adaptive_target": 0.3}"#).unwrap();
        assert!(seen.cuts.is_empty());
        // Every cut of every profile is known, and in its order.
        let seen = see(r#"{"profile": "vllm", "top_k": 40, "min_p": 0.02, "top_p": 0.9}"#).unwrap();
        let order: Vec<&str> = seen.cuts.iter().map(|cut| cut.name).collect();
        assert_eq!(order, ["min_p", "top_k", "top_p"]);
        let seen = see(r#"{"profile": "llamacpp", "mirostat_tau": 3}"#).unwrap();
        assert_eq!(seen.cuts[0].name, "mirostat_tau");
    }

    #[test]
    fn adjustments_count_and_what_is_wrong_is_named() {
        let first = see("{}").unwrap().tokens[0].token;
        let seen = see(&format!("{{\"banned_ids\": [{first}]}}")).unwrap();
        assert!(seen.tokens.iter().all(|one| one.token != first));
        for (line, part) in [
            (r#"{"top_p": 0}"#, "top_p is 0; allowed: above 0"),
            (r#"{"banned_ids": [262144]}"#, "262144"),
            (r#"{"mirostat_tau": 3, "draws": 20}"#, "draws is 20; allowed: 1 with mirostat_tau"),
            (r#"{"draw_rule": "race", "draws": 1000}"#, "--request-race-tokens-max"),
            (r#"{"tempreature": 1}"#, "did you mean temperature?"),
        ] {
            let said = see(line).unwrap_err();
            assert!(said.contains(part), "{line}: {said}");
        }
    }
}
