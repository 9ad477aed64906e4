//! Rows with adjustments, and rows of which more than tokens is asked, that kernels could have wrong: stop tokens that
//! come back when nothing else is left, touched tokens at the borders of blocks, ties at the border of what is listed.

use super::Case;
use logitd_core::adjustments::AdjustmentsSpec;
use logitd_core::batch::Dtype;
use logitd_core::inspection::Inspect;
use logitd_core::params::ParamsSpec;

/// Everything, with tokens that are there, twice, and not there.
fn everything(top: u32, n: u32) -> Option<Inspect> {
    let ids = [0, n - 1, n / 2, n, u32::MAX, n / 3, 0, n / 7].into();
    Some(Inspect { of: [true; 3], top, ids, kept_ids_max: Some(n / 2), continuations: None })
}

/// All of them, in every dtype, at sizes of one block and of several.
pub fn all() -> Vec<Case> {
    let sizes = [1, 7, 33, 300, 1024, 1025, 3001];
    let each = sizes.into_iter().enumerate().flat_map(|(i, n)| {
        Dtype::ALL.into_iter().enumerate().flat_map(move |(j, dtype)| of_size(n, dtype, 3 * i + j))
    });
    each.collect()
}

/// Those of a size; `salt` chooses values and parameters.
pub fn of_size(n: u32, dtype: Dtype, salt: usize) -> Vec<Case> {
    let values = [
        spread as fn(u32) -> f32,
        |_| 1.25,
        |i| if i % 3 == 0 { 0.0 } else { -0.0 },
        |i| if i % 5 == 0 { (i % 4) as f32 } else { f32::NEG_INFINITY },
    ];
    let value = values[salt % values.len()];
    let x: Vec<f32> = (0..n).map(value).collect();
    let spec = ParamsSpec { draws: 3, seed: Some(salt as u64), ..Default::default() };
    let specs = [
        spec,
        ParamsSpec { temperature: 0.0, ..spec },
        ParamsSpec { temperature: 0.7, top_k: n.div_ceil(2), ..spec },
        ParamsSpec { temperature: 1.5, top_p: 0.8, ..spec },
    ];
    let case = |name: &str, k: usize, spec: ParamsSpec, lists: AdjustmentsSpec| {
        let top = [20, 0, 1024, 5][k % 4];
        let case = Case::values(&format!("{name}, {n} tokens"), dtype, &x, spec);
        case.adjusted(lists).inspected(everything(top, n))
    };
    let stops: Vec<u32> = [0, n / 2, n - 1].into();
    let none = AdjustmentsSpec::default;
    let penalties = ParamsSpec {
        repetition_penalty: 1.3,
        presence_penalty: 0.5,
        // Of 24 bits, so that its multiples have to be rounded.
        frequency_penalty: 0.1,
        ..specs[0]
    };
    let short = ParamsSpec { min_tokens: 5, ..penalties };
    let often = |i: u32| std::iter::repeat_n(i * 7919 % n, i as usize % 6 + 1);
    let history: Vec<u32> = (0..40).flat_map(often).chain([0, n - 1, n / 2, 0]).collect();
    let biases = || [0, n / 2, n - 1].into_iter().map(|id| (id, 0.75 + id as f32 / 64.0));
    let mut once: Vec<(u32, f32)> = biases().collect();
    once.dedup_by_key(|(id, _)| *id);
    let mask = |word: u32| vec![word; n.div_ceil(32) as usize];
    let asked = |k: usize| {
        let case = Case::values(&format!("asked alone, {n} tokens"), dtype, &x, specs[k]);
        case.inspected(everything([3, 40, 1000, 0][k], n))
    };
    let mut cases: Vec<Case> = (0..4).map(asked).collect();
    // More than are ranked at once.
    let ids = (0..700).map(|i| i * 31 % (n + 1)).collect();
    let much = Inspect { of: [true, false, true], top: 9, ids, ..Inspect::default() };
    let case_of_many = Case::values(&format!("much asked, {n} tokens"), dtype, &x, specs[3]);
    cases.push(case_of_many.inspected(Some(much)));
    cases.extend([
        case(
            "a mask",
            0,
            specs[salt % 4],
            AdjustmentsSpec { allowed_bitmask: mask(0x9249_2493), ..none() },
        ),
        case(
            "nothing is left",
            1,
            specs[2],
            AdjustmentsSpec { allowed_bitmask: mask(0), ..none() },
        ),
        case("biases", 2, specs[3], AdjustmentsSpec { logit_bias: once.clone(), ..none() }),
        penalized(dtype, n, penalties, &history),
        // The stop tokens come back with their biases and penalties.
        case(
            "stop tokens alone",
            0,
            short,
            AdjustmentsSpec {
                allowed_ids: stops.clone(),
                stop_ids: stops.clone(),
                logit_bias: once,
                output: history[..4].to_vec(),
                ..none()
            },
        ),
        case(
            "stop tokens among others",
            1,
            short,
            AdjustmentsSpec { stop_ids: stops.clone(), output: history[..4].to_vec(), ..none() },
        ),
        // A touched token is left, and only that.
        case(
            "stop tokens and a touched one",
            2,
            short,
            AdjustmentsSpec {
                allowed_ids: stops.iter().copied().chain([n / 3]).collect(),
                stop_ids: stops,
                logit_bias: vec![(n / 3, -2.0)],
                ..none()
            },
        ),
    ]);
    // What is banned is gone, a NaN too; the stored row has it all the same.
    if n > 2 {
        let mut x = x.clone();
        x[n as usize / 2] = f32::NAN;
        let lists = AdjustmentsSpec { banned_ids: vec![n / 2], ..none() };
        let case = Case::values(&format!("a banned NaN, {n} tokens"), dtype, &x, specs[1]);
        cases.push(case.adjusted(lists).inspected(everything(4, n)));
    }
    cases
}

/// Logits that are near each other, so that the last bit of each counts.
fn penalized(dtype: Dtype, n: u32, spec: ParamsSpec, history: &[u32]) -> Case {
    let x: Vec<f32> = (0..n).map(|i| spread(i) / -16.0).collect();
    let lists = AdjustmentsSpec { output: history.to_vec(), ..Default::default() };
    let case = Case::values(&format!("penalties, {n} tokens"), dtype, &x, spec);
    case.adjusted(lists).inspected(everything(5, n))
}

fn spread(i: u32) -> f32 {
    (i * 7919 % 1009) as f32 * -0.03125
}
