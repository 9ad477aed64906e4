//! Rows with cuts that kernels could have wrong: logits on a border, beyond what counts, banned, equal, few and many.

use super::Case;
use logitd_core::adjustments::AdjustmentsSpec;
use logitd_core::arithmetic::fraction::{q64, share};
use logitd_core::arithmetic::mass::{Scale, mass};
use logitd_core::batch::Dtype;
use logitd_core::inspection::Inspect;
use logitd_core::params::{DrawRule, ParamsSpec, Profile};

/// All of them.
pub fn all() -> Vec<Case> {
    let sizes = [1, 7, 33, 300, 1025, 3001];
    let of_sizes = sizes.into_iter().enumerate().flat_map(|(i, n)| of_size(n, i));
    let first = deviations().into_iter().chain(intervals()).chain(rises()).chain(guesses());
    first.chain(without_a_token()).chain(of_sizes).collect()
}

/// Rows whose second token has less mass than the third, which has the lower logit; each with a share that is between them.
pub fn rising() -> Vec<(Vec<f32>, f32)> {
    let [second, third] = [0xbb80_2cd7, 0xbb80_2cd8].map(f32::from_bits);
    let of = |fourth: f32, more: usize| {
        // So many that a bisection looks at the third before the second in some.
        let lower = (0..more).map(|i| -9.0 - i as f32);
        let x: Vec<f32> = [fourth, third, 0.0, second].into_iter().chain(lower).collect();
        let mass = |x: f32| mass(x, 0.0, Scale::new(1.0));
        let all: u64 = x.iter().map(|&x| mass(x)).sum();
        let about = (mass(second) as f64 / all as f64) as f32;
        let near = [about.next_down(), about, about.next_up()].into_iter();
        let is_between = |p: &f32| (mass(second) + 1..=mass(third)).contains(&share(q64(*p), all));
        near.filter(is_between).map(|p| (x.clone(), p)).collect::<Vec<_>>()
    };
    let rows: Vec<_> = (0..40).flat_map(|i| of(-0.5 - i as f32 / 64.0, i % 6)).collect();
    assert!(rows.len() > 10);
    rows
}

/// The same, of which XTC takes the tokens before one that is less likely.
fn rises() -> Vec<Case> {
    let xtc = ParamsSpec { xtc_probability: 1.0, draws: 6, seed: Some(3), ..Default::default() };
    let case = |(x, xtc_threshold): (Vec<f32>, f32)| {
        let of_llamacpp = ParamsSpec { xtc_threshold, profile: Profile::Llamacpp, ..xtc };
        [ParamsSpec { xtc_threshold, ..xtc }, of_llamacpp]
            .map(|spec| Case::values("a mass above one before it", Dtype::F32, &x, spec))
    };
    rising().into_iter().take(8).flat_map(case).collect()
}

/// Rows of which XTC takes the first tokens, at shares that their second and third have, or nearly: what follows has more or less mass than the first
/// tokens of blocks let guess.
fn guesses() -> Vec<Case> {
    let first = [0.0, -0.25, -0.5, -1.5];
    let tails: [fn(usize) -> f32; 3] =
        [|_| -7.0, |i| if i % 512 == 99 { -5.0 } else { -90.0 }, |i| -9.0 - (i % 97) as f32];
    let case = |(i, tail): (usize, fn(usize) -> f32)| {
        let mut x: Vec<f32> = (0..3001).map(tail).collect();
        first.iter().enumerate().for_each(|(j, &first)| x[j * 631 + i] = first);
        let mass = |x: f32| mass(x, 0.0, Scale::new(1.0)) as f64;
        let all: f64 = x.iter().map(|&x| mass(x)).sum();
        let spec =
            ParamsSpec { xtc_probability: 1.0, draws: 6, seed: Some(3), ..Default::default() };
        let shares = first[1..].iter().map(move |&x| (mass(x) / all) as f32);
        let shares: Vec<f32> =
            shares.flat_map(|p| [p * 0.97, p.next_up(), p.next_down()]).collect();
        shares.into_iter().enumerate().map(move |(j, xtc_threshold)| {
            let draw_rule = [DrawRule::Cumulative, DrawRule::Race][j % 4 / 3];
            let spec = ParamsSpec { xtc_threshold, draw_rule, ..spec };
            Case::values("a guess of the mass", Dtype::ALL[(i + j) % 3], &x, spec)
        })
    };
    tails.into_iter().enumerate().flat_map(case).collect()
}

/// Rows of which the deviation is a whole number, or is not what the logits say at first sight.
fn deviations() -> Vec<Case> {
    // Mean 5, deviation 2.
    let textbook = [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0];
    let half_banned: Vec<f32> =
        (0..300).map(|i| if i % 5 == 0 { (i % 4) as f32 } else { f32::NEG_INFINITY }).collect();
    // Beyond 2048 in either direction, where a distance is more than the sums say.
    let far: Vec<f32> = (0..3001).map(|i| [-60_000.0, 2500.0, 2049.0, -3.0][i % 4]).collect();
    // Its sums need more than 64 bits, and the first is below 0.
    let low: Vec<f32> = (0..3001).map(|i| -2000.0 + (i * 7919 % 1009) as f32 / 16.0).collect();
    // Squares of 2^64 and more, of which one is a little less.
    let mut round: Vec<f32> = (0..4096).map(|i| [1032.0, 1016.0][i % 2]).collect();
    round[1] = 1015.0;
    // Kept tokens at the end of eight, of which the others may be in the tile before.
    let ends: Vec<f32> =
        (0..1000).map(|i| if i % 256 == 255 { 9.0 } else { -((i % 3) as f32) }).collect();
    // Between units, where they are rounded to even.
    let fine: Vec<f32> = (0..300).map(|i| (i % 9) as f32 / 2048.0).collect();
    let rows: [(&str, &[f32], &[f32]); 7] = [
        ("the textbook", &textbook, &[1.0, 1f32.next_down(), 0.5, 2.5, 3.5, 100.0, 1e-30]),
        ("half banned", &half_banned, &[0.5, 1.0, 2.0]),
        ("far", &far, &[0.2, 1.0]),
        ("round", &round, &[1.0]),
        ("ends", &ends, &[1.0]),
        ("low", &low, &[0.5, 1.0, 2.0]),
        ("fine", &fine, &[0.6, 1.5, 2.2]),
    ];
    let case = |(name, x, s): (&'static str, Vec<f32>, f32)| {
        let spec = ParamsSpec { top_n_sigma: s, temperature: 2.0, draws: 3, ..Default::default() };
        Dtype::ALL.map(|dtype| Case::values(&format!("{name}, {s} sigma"), dtype, &x, spec))
    };
    let each =
        rows.into_iter().flat_map(|(name, x, all)| all.iter().map(move |&s| (name, x.to_vec(), s)));
    each.flat_map(case).collect()
}

/// Rows of which typical-p keeps equal tokens together, on either side of the mean, or XTC one of many equal ones.
fn intervals() -> Vec<Case> {
    let crowd = |i: usize| if i % 7 == 3 { 1.0 } else { 0.5 };
    let steps: Vec<f32> = (0..900).map(|i| -((i % 30) as f32) / 4.0).collect();
    let near: Vec<f32> = (0..900).map(|i| -((i * 7919 % 97) as f32) / 512.0).collect();
    let crowds: Vec<f32> = (0..900).map(crowd).collect();
    let two: Vec<f32> = (0..9).map(|i| if i % 4 == 1 { 5.0 } else { -20.0 }).collect();
    let lone: Vec<f32> = (0..300).map(|i| if i == 77 { 30.0 } else { (i % 3) as f32 }).collect();
    // Of the likely ones none, or those before a border that lies among equal ones.
    let flat = vec![2.5; 700];
    let base = ParamsSpec { draws: 6, seed: Some(3), ..Default::default() };
    let typical = [1e-9, 0.05, 0.2, 0.5, 0.9, 1f32.next_down()];
    let typical = typical.map(|typical_p| ParamsSpec { typical_p, ..base });
    let thresholds = [1e-9, 0.001, 0.003, 0.02, 0.2, 0.5];
    let xtc = ParamsSpec { xtc_probability: 1.0, ..base };
    let xtc = thresholds.map(|xtc_threshold| ParamsSpec { xtc_threshold, ..xtc });
    let both = ParamsSpec { typical_p: 0.6, xtc_threshold: 0.004, ..xtc[0] };
    let of_llamacpp = ParamsSpec { profile: Profile::Llamacpp, ..both };
    let more = [
        both,
        ParamsSpec { top_k: 70, ..both },
        ParamsSpec { top_p: 0.3, ..xtc[1] },
        ParamsSpec { top_k: 200, top_p: 0.7, min_p: 0.05, ..xtc[2] },
        ParamsSpec { temperature: 0.3, ..of_llamacpp },
        ParamsSpec { temperature: 2.5, top_p: 0.8, min_p: 0.1, ..of_llamacpp },
        ParamsSpec { temperature: 0.0, top_p: 0.8, ..of_llamacpp },
        ParamsSpec { typical_p: 0.35, min_p: 1.0, ..of_llamacpp },
        ParamsSpec { typical_p: 0.7, min_p: 0.97, ..of_llamacpp },
        ParamsSpec { top_k: 100, top_p: 0.5, xtc_probability: 0.0, ..of_llamacpp },
    ];
    let rows = [
        ("steps", steps),
        ("near", near),
        ("crowds", crowds),
        ("two", two),
        ("lone", lone),
        ("flat", flat),
    ];
    let specs = typical.into_iter().chain(xtc).chain(more).enumerate();
    let all = specs.flat_map(|(i, spec)| {
        rows.clone().into_iter().enumerate().map(move |(j, (name, x))| {
            let dtype = Dtype::ALL[(i + j) % 3];
            Case::values(&format!("{name}, interval {i}"), dtype, &x, spec)
        })
    });
    all.collect()
}

/// Rows that keep their reason.
fn without_a_token() -> Vec<Case> {
    let rows = [
        vec![f32::NEG_INFINITY; 40],
        (0..700).map(|i| if i == 600 { f32::NAN } else { 1.0 }).collect(),
        (0..700).map(|i| if i == 3 { f32::INFINITY } else { 1.0 }).collect(),
    ];
    let spec = ParamsSpec { top_n_sigma: 1.0, ..Default::default() };
    let case = |x: Vec<f32>| {
        let case = Case::values("without a token", Dtype::F16, &x, spec);
        [case.clone(), case.inspected(asked(x.len() as u32))]
    };
    rows.into_iter().flat_map(case).collect()
}

/// Each cut alone, before others, before a race, behind adjustments, and asked about.
fn of_size(n: u32, salt: usize) -> Vec<Case> {
    let values = [
        spread as fn(u32) -> f32,
        |_| 1.25,
        |i| if i % 3 == 0 { 0.0 } else { -0.0 },
        |i| {
            if i % 5 == 0 { (i % 4) as f32 } else { f32::NEG_INFINITY }
        },
    ];
    let base = ParamsSpec { draws: 4, seed: Some(salt as u64), ..Default::default() };
    let sigma = ParamsSpec { top_n_sigma: 1.0, ..base };
    let specs = [
        sigma,
        ParamsSpec { top_k: 3, ..sigma },
        ParamsSpec { top_k: 40, top_p: 0.7, ..sigma },
        ParamsSpec { top_p: 0.9, temperature: 3.0, ..sigma },
        ParamsSpec { min_p: 0.3, top_n_sigma: 2.0, ..sigma },
        ParamsSpec { draw_rule: DrawRule::Race, temperature: 2.0, ..sigma },
        ParamsSpec { temperature: 0.0, ..sigma },
        ParamsSpec { top_n_sigma: 0.01, ..sigma },
    ];
    let typical = ParamsSpec { typical_p: 0.4, ..base };
    let xtc = ParamsSpec { xtc_probability: 1.0, xtc_threshold: 0.01, ..base };
    let race = ParamsSpec { draw_rule: DrawRule::Race, ..base };
    let intervals = [
        typical,
        ParamsSpec { top_n_sigma: 1.5, top_k: 30, min_p: 0.1, ..typical },
        ParamsSpec { typical_p: 0.9, temperature: 3.0, ..race },
        xtc,
        ParamsSpec { top_p: 0.95, temperature: 2.0, ..xtc },
        ParamsSpec { xtc_probability: 1.0, xtc_threshold: 0.002, temperature: 8.0, ..race },
        ParamsSpec { profile: Profile::Llamacpp, typical_p: 0.8, top_p: 0.9, min_p: 0.01, ..xtc },
    ];
    let case = |(i, spec): (usize, ParamsSpec)| {
        let dtype = Dtype::ALL[(i + salt) % 3];
        let value = values[(i + salt) / 2 % values.len()];
        let x: Vec<f32> = (0..n).map(value).collect();
        let case = Case::values(&format!("cut {i} of {n} tokens"), dtype, &x, spec);
        let case = case.at(2 * dtype.size_bytes() * i);
        match i % 4 {
            0 => case,
            1 => case.inspected(asked(n)),
            2 => case.adjusted(banned(n)),
            _ => case.adjusted(biased(n)).inspected(asked(n)),
        }
    };
    // Of rows that lack the first tokens of the order, kernels say no more than tokens.
    let silent = |case: Case| Case { inspect: None, ..case };
    let intervals = intervals.into_iter().chain(intervals).enumerate();
    let intervals = intervals.map(|(i, spec)| silent(case((i, spec))));
    specs.into_iter().chain(specs).enumerate().map(case).chain(intervals).collect()
}

fn asked(n: u32) -> Option<Inspect> {
    let ids = [0, n - 1, n / 2, n].into();
    Some(Inspect { of: [true; 3], top: 5, ids, kept_ids_max: Some(n / 2), continuations: None })
}

fn banned(n: u32) -> AdjustmentsSpec {
    AdjustmentsSpec { banned_ids: vec![n / 2], ..Default::default() }
}

fn biased(n: u32) -> AdjustmentsSpec {
    AdjustmentsSpec { logit_bias: vec![(n / 3, 1.5)], ..Default::default() }
}

fn spread(i: u32) -> f32 {
    (i * 7919 % 1009) as f32 * -0.03125
}
