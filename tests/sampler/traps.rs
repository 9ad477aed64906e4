//! What has bitten samplers before, each as a test with its name, for every backend.

use crate::common::case::{greatest, pattern};
use crate::common::{Case, Panel};
use logitd_core::arithmetic::mass::{C, ROUND, ROUND_BITS, Scale, UNIT, mass};
use logitd_core::arithmetic::{cut, philox::token_bits};
use logitd_core::batch::{Dtype, Outcome, RowResult, RowStatus, VOCAB_SIZE_MAX};
use logitd_core::params::{ParamsSpec, Profile};

const INF: f32 = f32::INFINITY;

fn greedy() -> ParamsSpec {
    ParamsSpec { temperature: 0.0, ..Default::default() }
}

/// Samples one case with every backend; all agree, or the panel panics.
fn sample_all<T>(case: Case, look: impl FnOnce(RowResult<'_>) -> T) -> T {
    let mut panel = Panel::default();
    panel.check(&[case]);
    look(panel.expected().row(0))
}

/// The drawn tokens of values in each dtype, which must not matter.
fn tokens(x: &[f32], spec: ParamsSpec) -> Vec<u32> {
    let draw = |dtype| {
        sample_all(Case::values("a trap", dtype, x, spec), |result| {
            assert_eq!(result.outcome.status, RowStatus::Ok);
            result.draws.iter().map(|d| d.token).collect::<Vec<_>>()
        })
    };
    let [a, b, c] = Dtype::ALL.map(draw);
    assert!(a == b && b == c, "{a:?} {b:?} {c:?}");
    a
}

fn outcome(dtype: Dtype, x: &[f32], spec: ParamsSpec) -> Outcome {
    sample_all(Case::values("a trap", dtype, x, spec), |result| result.outcome)
}

#[test]
fn greedy_tie_picks_lowest_id() {
    for vocab_size in [2, 3, 8, 17, 64, 65, 300, 5000] {
        for first in [0, 1, vocab_size / 2, vocab_size - 2] {
            let mut x = vec![-1.0; vocab_size];
            x[first] = 4.0;
            x[vocab_size - 1] = 4.0;
            assert_eq!(tokens(&x, greedy()), [first as u32]);
            assert_eq!(tokens(&x, ParamsSpec { top_k: 1, ..Default::default() }), [first as u32]);
        }
    }
}

#[test]
fn minus_zero_ties_with_plus_zero() {
    for x in [[-0.0, 0.0], [0.0, -0.0]] {
        assert_eq!(tokens(&x, greedy()), [0]);
        assert_eq!(tokens(&x, ParamsSpec { top_k: 1, ..Default::default() }), [0]);
        for min_p in [1.0, 0.5] {
            let spec = ParamsSpec { min_p, temperature: 1e-4, ..Default::default() };
            let expected = Outcome { status: RowStatus::Ok, kept: 2, kept_mass: 2 * UNIT };
            assert_eq!(outcome(Dtype::F16, &x, spec), expected);
        }
    }
    // Among many, where both signs meet in one vector; the cut is after the first forty ids.
    let x: Vec<f32> = (0..100).map(|i| if i % 3 == 0 { 0.0 } else { -0.0 }).collect();
    let spec = ParamsSpec { top_k: 40, draws: 1024, ..Default::default() };
    let drawn = tokens(&x, spec);
    assert!(drawn.iter().all(|&t| t < 40), "{drawn:?}");
    assert!((0..40).all(|t| drawn.contains(&t)), "{drawn:?}");
}

#[test]
fn a_minus_zero_maximum_has_the_unit() {
    let x = [-0.0, -INF, -5.0];
    let alone = Outcome { status: RowStatus::Ok, kept: 1, kept_mass: UNIT };
    for dtype in Dtype::ALL {
        let spec = ParamsSpec { temperature: 1e-4, top_p: 0.5, ..Default::default() };
        assert_eq!(outcome(dtype, &x, spec), alone);
    }
}

#[test]
fn a_nan_fails_the_row_whatever_its_sign_and_payload() {
    for dtype in Dtype::ALL {
        let infinity = greatest(dtype) + 1;
        let sign = pattern(dtype, -0.0);
        for nan in [infinity + 1, sign - 1, sign | (infinity + 1), sign | (sign - 1)] {
            for spec in [greedy(), ParamsSpec { top_k: 1, ..Default::default() }] {
                for place in [0, 5, 31, 32, 69] {
                    let mut x = vec![pattern(dtype, 1.0); 70];
                    (x[place], x[(place + 1) % 70]) = (nan, infinity);
                    let status = sample_all(Case::bits("NaN", dtype, &x, spec), |r| r.outcome);
                    assert_eq!(status, Outcome::failed(RowStatus::Nan), "{nan:#x} at {place}");
                }
            }
        }
    }
}

#[test]
fn plus_infinity_fails_the_row_even_alone() {
    for dtype in Dtype::ALL {
        for x in [vec![INF], vec![1.0, INF], vec![INF, -INF], vec![INF; 40]] {
            let failed = Outcome::failed(RowStatus::PositiveInfinity);
            assert_eq!(outcome(dtype, &x, greedy()), failed);
            assert_eq!(outcome(dtype, &x, ParamsSpec::default()), failed);
        }
    }
}

#[test]
fn a_row_of_only_minus_infinity_has_no_candidate() {
    for dtype in Dtype::ALL {
        for vocab_size in [1, 7, 32, 33, 1000] {
            let x = vec![-INF; vocab_size];
            let failed = Outcome::failed(RowStatus::NoCandidate);
            assert_eq!(outcome(dtype, &x, greedy()), failed);
            assert_eq!(outcome(dtype, &x, ParamsSpec { top_p: 0.5, ..Default::default() }), failed);
        }
    }
}

#[test]
fn mirostat_in_llama_cpp_is_alone() {
    let alone = ParamsSpec { mirostat_tau: 6.0, temperature: 0.8, ..Default::default() };
    let dynamic = ParamsSpec { dynatemp_range: 0.5, ..alone };
    for x in [vec![1.0, 5.0, 2.0, 5.0, 4.5, 3.0, -INF, 0.5, 5.0, -2.0], ramp(300), ramp(5000)] {
        let [kept, of_dynamic] = [alone, dynamic].map(|spec| {
            let spec = ParamsSpec { profile: Profile::Llamacpp, ..spec };
            outcome(Dtype::F32, &x, spec)
        });
        assert_eq!(kept, of_dynamic, "{} tokens", x.len());
        let logitd = [alone, dynamic].map(|spec| outcome(Dtype::F32, &x, spec));
        assert_ne!(logitd[0], logitd[1], "{} tokens", x.len());
    }
}

/// Logits that fall evenly from 5 to 0.
fn ramp(tokens: u16) -> Vec<f32> {
    (0..tokens).map(|i| 5.0 - 5.0 * f32::from(i) / f32::from(tokens)).collect()
}

#[test]
fn minus_infinity_is_never_kept() {
    let x = [-INF, 2.0, -INF, 1.0, -INF];
    for dtype in Dtype::ALL {
        for spec in [
            ParamsSpec { temperature: 1e4, ..Default::default() },
            ParamsSpec { top_k: 5, ..Default::default() },
            ParamsSpec { min_p: f32::from_bits(1), ..Default::default() },
            ParamsSpec { top_p: 1f32.next_down(), ..Default::default() },
        ] {
            assert_eq!(outcome(dtype, &x, spec).kept, 2);
        }
    }
}

#[test]
fn top_k_splits_a_tie_by_id() {
    let x = [1.0, 3.0, 1.0, 2.0, 1.0, 1.0];
    let spec = ParamsSpec { temperature: 1e4, top_k: 4, draws: 1024, ..Default::default() };
    let mut drawn = tokens(&x, spec);
    drawn.sort_unstable();
    drawn.dedup();
    assert_eq!(drawn, [0, 1, 2, 3]);
    assert_eq!(outcome(Dtype::F16, &x, spec).kept, 4);
}

#[test]
fn top_k_above_the_vocabulary_is_the_vocabulary() {
    for top_k in [6, 7, 1000, VOCAB_SIZE_MAX, u32::MAX] {
        let spec = ParamsSpec { top_k, ..Default::default() };
        assert_eq!(outcome(Dtype::Bf16, &[1.0; 6], spec).kept, 6);
    }
}

#[test]
fn min_p_of_one_keeps_the_ties_of_the_maximum() {
    for dtype in Dtype::ALL {
        let two = pattern(dtype, 2.0);
        let row = [two - 1, two, two - 1, two, two];
        let spec = ParamsSpec { min_p: 1.0, temperature: 1e4, ..Default::default() };
        let kept = sample_all(Case::bits("ties", dtype, &row, spec), |r| r.outcome.kept);
        assert_eq!(kept, 3);
    }
}

/// Tokens without mass can be kept (by top_k, min_p, or no cut), and are counted; none is ever drawn,
/// also at the ends of the row, where a target of 0 or a full one would find them.
#[test]
fn a_token_without_mass_is_kept_but_never_drawn() {
    let mut x = vec![-1000.0; 50];
    x[25] = 1.0;
    for spec in [
        ParamsSpec { draws: 1024, ..Default::default() },
        ParamsSpec { draws: 1024, top_k: 50, ..Default::default() },
    ] {
        assert!(tokens(&x, spec).iter().all(|&token| token == 25));
        let expected = Outcome { status: RowStatus::Ok, kept: 50, kept_mass: UNIT };
        assert_eq!(outcome(Dtype::F16, &x, spec), expected);
    }
    // ln(2^-149) = -103: the least min_p reaches below the last mass.
    let spec = ParamsSpec { min_p: f32::from_bits(1), ..Default::default() };
    assert_eq!(outcome(Dtype::F32, &[0.0, -50.0, -103.0, -104.0], spec).kept, 3);
}

/// The target is reached by whole tokens, and the last mass units count.
#[test]
fn top_p_just_below_one_of_the_largest_mass() {
    let top_p = 1f32.next_down();
    let x = vec![0.25; VOCAB_SIZE_MAX as usize];
    let spec = ParamsSpec { top_p, ..Default::default() };
    // 2^60 of mass, of which 2^36 may be missing: less than one token's 2^40.
    let target = cut::top_p_target(cut::top_p_fraction(top_p), 1 << 60);
    assert_eq!(target, (1 << 60) - (1 << 36));
    for dtype in [Dtype::F16, Dtype::F32] {
        let all = Outcome { status: RowStatus::Ok, kept: 1 << 20, kept_mass: 1 << 60 };
        assert_eq!(outcome(dtype, &x, spec), all);
    }
    let half = ParamsSpec { top_p: 0.5, ..Default::default() };
    let expected = Outcome { status: RowStatus::Ok, kept: 1 << 19, kept_mass: 1 << 59 };
    assert_eq!(outcome(Dtype::Bf16, &x, half), expected);
}

/// A 16-bit counter overflows at 65,536 equal tokens; 2^20 also overflow a sum of 32-bit masses.
#[test]
fn constant_rows_do_not_overflow_a_counter() {
    for vocab_size in [65_535, 65_536, 65_537, 131_072, 1 << 20] {
        let x = vec![-3.5; vocab_size];
        for (top_k, kept) in [(0, vocab_size), (65_536, vocab_size.min(65_536)), (7, 7)] {
            let spec = ParamsSpec { top_k, draws: 8, ..Default::default() };
            let expected =
                Outcome { status: RowStatus::Ok, kept: kept as u32, kept_mass: kept as u64 * UNIT };
            sample_all(Case::values("constant", Dtype::F16, &x, spec), |result| {
                assert_eq!(result.outcome, expected);
                for (draw, drawn) in result.draws.iter().enumerate() {
                    let bits = token_bits(0, 0, draw as u32);
                    let token = (u128::from(bits) * kept as u128) >> 64;
                    assert_eq!(u128::from(drawn.token), token);
                }
            });
        }
    }
}

#[test]
fn subnormals_are_not_flushed() {
    for dtype in Dtype::ALL {
        let sign = pattern(dtype, -0.0);
        for (row, first) in [
            ([0, 1, 0], 1),
            ([sign | 1, 0, sign | 2], 1),
            ([3, 2, 4], 2),
            ([sign | 3, sign | 2, sign | 1], 2),
        ] {
            let case = |spec| Case::bits("subnormals", dtype, &row, spec);
            let only = ParamsSpec { min_p: 1.0, ..Default::default() };
            sample_all(case(only), |r| assert_eq!((r.outcome.kept, r.draws[0].token), (1, first)));
            sample_all(case(greedy()), |r| assert_eq!(r.draws[0].token, first));
        }
    }
}

/// `f32::MAX - -f32::MAX` is an infinity, and its product with a small scale must not come back.
#[test]
fn distances_that_overflow_have_no_mass() {
    let x = [-f32::MAX, f32::MAX, -f32::MAX, 0.0, -INF];
    for temperature in [1e-30, 1e-7, 1e-4, 1.0, 1e4] {
        let spec = ParamsSpec { temperature, draws: 20, ..Default::default() };
        sample_all(Case::values("overflow", Dtype::F32, &x, spec), |result| {
            let expected = Outcome { status: RowStatus::Ok, kept: 4, kept_mass: UNIT };
            assert_eq!(result.outcome, expected);
            assert!(result.draws.iter().all(|d| d.token == 1 && d.logprob.to_bits() == 0));
        });
    }
}

/// A temperature that is nearly greedy draws among the ties of the maximum, and of no others.
#[test]
fn tiny_temperatures_draw_among_the_ties_of_the_maximum() {
    for dtype in Dtype::ALL {
        let x = [1.0, 3.0, 2.96875, 3.0, -INF, -7.0, 3.0];
        for temperature in [1e-30, 1e-20, 1e-7, 1e-6, 1e-5] {
            let spec = ParamsSpec { temperature, draws: 300, ..Default::default() };
            sample_all(Case::values("ties", dtype, &x, spec), |result| {
                let expected = Outcome { status: RowStatus::Ok, kept: 6, kept_mass: 3 * UNIT };
                assert_eq!(result.outcome, expected);
                let third = (-(3f64.ln())) as f32;
                for token in [1, 3, 6] {
                    assert!(
                        result.draws.iter().any(|d| d.token == token),
                        "{token} is never drawn"
                    );
                }
                assert!(
                    result.draws.iter().all(|d| matches!(d.token, 1 | 3 | 6) && d.logprob == third)
                );
            });
            let spec = ParamsSpec { top_p: 0.5, draws: 300, ..spec };
            sample_all(Case::values("two of three", dtype, &x, spec), |result| {
                assert_eq!((result.outcome.kept, result.outcome.kept_mass), (2, 2 * UNIT));
            });
        }
    }
}

/// The same polynomial without fused operations gives other masses; no backend may.
#[test]
fn multiply_and_add_are_fused() {
    let temperature = 0.9;
    let scale = Scale::new(temperature);
    let distances: Vec<f32> = (1..4000).map(|i| -(i as f32) * 0.00613).collect();
    let telling: Vec<f32> =
        distances.into_iter().filter(|&d| unfused(d, scale) != mass(d, 0.0, scale)).collect();
    assert!(telling.len() > 1000, "only {} distances tell", telling.len());
    let spec = ParamsSpec { temperature, ..Default::default() };
    let cases: Vec<Case> =
        telling.iter().map(|&d| Case::values("fused", Dtype::F32, &[0.0, d], spec)).collect();
    let mut panel = Panel::default();
    panel.check(&cases);
    for (result, &d) in panel.expected().iter().zip(&telling) {
        assert_eq!(result.outcome.kept_mass - UNIT, mass(d, 0.0, scale));
    }
}

fn unfused(d: f32, scale: Scale) -> u64 {
    let d = d.max(scale.dmin);
    let t = d * scale.c + ROUND;
    let f = d * scale.c - (t - ROUND);
    let p = C.iter().rev().fold(0.0, |p, c| p * f + c) * f + 1.0;
    let exponent = (p.to_bits() >> 23) as i32 - 127 + (t.to_bits() - ROUND_BITS) as i32;
    (u64::from(p.to_bits() & 0x7f_ffff | 0x80_0000) << 17) >> -exponent
}

#[test]
fn the_draw_is_keyed_by_seed_position_and_draw_alone() {
    let x = vec![0.0; 4096];
    let base = ParamsSpec { seed: Some(5), position: 9, draws: 16, ..Default::default() };
    let case = |spec| Case::values("constant", Dtype::F16, &x, spec);
    let neighbour = Case::values("neighbour", Dtype::F32, &[1.0, f32::NAN], base);
    let mut panel = Panel::default();
    panel.check(&[case(base), neighbour, case(base), case(ParamsSpec { draws: 3, ..base })]);
    let results = panel.expected();
    assert_eq!(results.row(0), results.row(2));
    assert_eq!(results.row(0).draws[..3], *results.row(3).draws);
    // The upper halves of both numbers count.
    for other in [
        ParamsSpec { seed: Some(5 | 1 << 32), ..base },
        ParamsSpec { seed: Some(5 | 1 << 63), ..base },
        ParamsSpec { position: 9 | 1 << 32, ..base },
        ParamsSpec { position: 9 | 1 << 63, ..base },
        ParamsSpec { seed: Some(9), position: 5, ..base },
    ] {
        assert_ne!(tokens(&x, other), tokens(&x, base), "{other:?}");
    }
}

#[test]
fn a_rows_filter_leaves_its_neighbour_alone() {
    let x: Vec<f32> = (0..500).map(|i| ((i * 37) % 500) as f32 / 100.0).collect();
    let plain =
        Case::values("plain", Dtype::F16, &x, ParamsSpec { draws: 64, ..Default::default() });
    let filters = [
        ParamsSpec { top_k: 2, ..Default::default() },
        ParamsSpec { top_p: 0.1, ..Default::default() },
        ParamsSpec { min_p: 0.9, ..Default::default() },
        greedy(),
    ];
    let mut panel = Panel::default();
    for spec in filters {
        let filtered = Case::values("filtered", Dtype::F16, &x, spec);
        panel.check(&[filtered.clone(), plain.clone(), filtered, plain.clone()]);
        let results = panel.expected().clone();
        panel.check(std::slice::from_ref(&plain));
        assert_eq!(results.row(1), panel.expected().row(0));
        assert_eq!(results.row(3), panel.expected().row(0));
    }
}

/// The maximum as the last token of every size: a vector loop that stops early misses it.
#[test]
fn the_last_token_counts_at_every_size() {
    let mut panel = Panel::default();
    for dtype in Dtype::ALL {
        let case = |n: usize| {
            let mut x = vec![0.0; n];
            x[n - 1] = 9.0;
            Case::values("last", dtype, &x, greedy())
        };
        panel.check(&(1..700).map(case).collect::<Vec<_>>());
        for (last, result) in panel.expected().iter().enumerate() {
            assert_eq!(result.draws[0].token as usize, last);
        }
    }
}

/// Rows that end where a page ends, and begin where one begins, with no memory beyond.
#[cfg(unix)]
#[test]
fn nothing_is_read_past_the_ends_of_a_row() {
    use crate::common::guarded::Guarded;
    use logitd_core::batch::{Results, Row};

    let mut backends = crate::common::candidates();
    let mut results = Results::default();
    let mut guarded = Guarded::new(1 << 18);
    let sizes = (1..=140).chain([255, 256, 257, 1000, 1023, 1025, 4095, 4097, 20_000, 65_535]);
    for vocab_size in sizes {
        for dtype in Dtype::ALL {
            let bytes = vocab_size * dtype.size_bytes();
            let x: Vec<f32> = (0..vocab_size).map(|i| ((i * 29) % 61) as f32 / 4.0).collect();
            let logits = Case::values("", dtype, &x, greedy()).logits;
            for spec in [
                greedy(),
                ParamsSpec::default(),
                ParamsSpec { top_k: 20, top_p: 0.9, draws: 2, ..Default::default() },
                ParamsSpec { top_p: 0.99, ..Default::default() },
            ] {
                let params = spec.parse(|| 0).unwrap();
                for end in [true, false] {
                    let memory = if end { guarded.at_end(bytes) } else { guarded.at_start(bytes) };
                    memory.copy_from_slice(&logits);
                    let row = Row::new(dtype, memory, params).unwrap();
                    for backend in &mut backends {
                        crate::common::compare::sample(backend.as_mut(), &[row], &mut results);
                        assert_eq!(results.row(0).outcome.status, RowStatus::Ok);
                    }
                }
            }
        }
    }
}
