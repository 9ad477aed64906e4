//! The cuts of a set beyond top_k, top_p and min_p, its profile, and their axes.

use logitd_core::evaluate::sets::FIELDS_OF_SETS;
use logitd_core::params::{ParamsSpec, Profile, shortest};
use std::fmt;

/// The parameters of further cuts, by their names in the API: the last of a set's.
pub const FURTHER: [&str; 10] = *FIELDS_OF_SETS.last_chunk().expect("it has more");
/// Middles are tried between values that are further from each other than this share of their axis.
const STEP_LEAST: f32 = 1.0 / 64.0;

/// The profile of a set, and its further cuts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Further {
    /// Whose order of cuts it has.
    pub profile: Profile,
    /// By their places in [`FURTHER`].
    pub values: [f32; FURTHER.len()],
}

impl Further {
    /// This sampler's own order, and no further cut.
    pub const NONE: Self = Self { profile: Profile::Logitd, values: values(&ParamsSpec::DEFAULT) };

    /// How many of them are on.
    pub fn cuts(self) -> usize {
        let on = |name: &str| match name {
            // Those belong to others.
            "xtc_threshold" | "dynatemp_exponent" => false,
            _ => self.has(name),
        };
        FURTHER.into_iter().filter(|name| on(name)).count()
    }

    /// Whether one has another value than its default.
    fn has(self, name: &str) -> bool {
        let place = place(name).expect("one of them");
        self.values[place] != Self::NONE.values[place]
    }

    /// Those that have another value than their defaults, but for the profile.
    pub fn given(self) -> impl Iterator<Item = (&'static str, f32)> {
        let all = FURTHER.into_iter().zip(self.values);
        all.filter(move |(name, _)| self.has(name))
    }
}

const fn values(spec: &ParamsSpec) -> [f32; FURTHER.len()] {
    [
        spec.top_n_sigma,
        spec.top_h,
        spec.top_a,
        spec.epsilon_cutoff,
        spec.eta_cutoff,
        spec.typical_p,
        spec.xtc_probability,
        spec.xtc_threshold,
        spec.dynatemp_range,
        spec.dynatemp_exponent,
    ]
}

impl From<ParamsSpec> for Further {
    fn from(spec: ParamsSpec) -> Self {
        Self { profile: spec.profile, values: values(&spec) }
    }
}

impl From<Further> for ParamsSpec {
    fn from(further: Further) -> Self {
        let [
            top_n_sigma,
            top_h,
            top_a,
            epsilon_cutoff,
            eta_cutoff,
            typical_p,
            xtc_probability,
            xtc_threshold,
            dynatemp_range,
            dynatemp_exponent,
        ] = further.values;
        Self {
            profile: further.profile,
            top_n_sigma,
            top_h,
            top_a,
            epsilon_cutoff,
            eta_cutoff,
            typical_p,
            xtc_probability,
            xtc_threshold,
            dynatemp_range,
            dynatemp_exponent,
            ..Self::DEFAULT
        }
    }
}

/// `typical_p 0.9, profile hf`: what is on.
impl fmt::Display for Further {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = self.given().map(|(name, value)| format!("{name} {}", shortest(value)));
        let profile = Some(self.profile).filter(|profile| *profile != Profile::Logitd);
        let profile = profile.map(|profile| format!("profile {}", profile.name()));
        f.write_str(&values.chain(profile).collect::<Vec<_>>().join(", "))
    }
}

/// The place of a parameter.
pub(super) fn place(name: &str) -> Option<usize> {
    FURTHER.iter().position(|of| *of == name)
}

/// Whether the weakest effect of a cut is that of its greatest value, so that 0, which is off, lies behind all others.
fn is_off_behind(axis: usize) -> bool {
    matches!(FURTHER[axis], "top_n_sigma" | "top_h")
}

/// Whether values between two of an axis are values too: XTC acts on every row here, or on none.
fn has_middles(axis: usize) -> bool {
    FURTHER[axis] != "xtc_probability"
}

/// A number by which values are ordered.
pub(super) fn order(axis: usize, value: f32) -> f32 {
    if is_off_behind(axis) && value == 0.0 { f32::INFINITY } else { value + 0.0 }
}

/// Puts the values of an axis in order, each once.
pub(super) fn arrange(axis: usize, values: &mut Vec<f32>) {
    values.sort_by(|a, b| order(axis, *a).total_cmp(&order(axis, *b)));
    values.dedup();
}

/// A value between those of an axis, by how far along it lies: next to off, or where there is nothing between, the nearer.
pub(super) fn between(axis: usize, values: &[f32], unit: f64) -> f32 {
    let at = unit * (values.len() - 1) as f64;
    let below = (at.floor() as usize).min(values.len() - 1);
    let above = (below + 1).min(values.len() - 1);
    let part = at - below as f64;
    let ends = [below, above].map(|place| values[place]);
    if !has_middles(axis) || order(axis, ends[1]).is_infinite() {
        return ends[usize::from(part >= 0.5)];
    }
    let [low, high] = ends.map(f64::from);
    tidy(low + (high - low) * part)
}

/// What lies around the value of a point: the next ones of the axis, and the middles between that are not too near.
pub(super) fn around((axis, values): &(usize, Vec<f32>), point: &Further) -> (usize, Vec<f32>) {
    let at = order(*axis, point.values[*axis]);
    let own = |x: &f32| order(*axis, *x);
    let place = values.partition_point(|x| own(x) < at);
    let mut near = vec![point.values[*axis]];
    near.extend(place.checked_sub(1).map(|below| values[below]));
    near.extend(values[place..].iter().find(|x| own(x) > at));
    arrange(*axis, &mut near);
    let numbers = || values.iter().map(own).filter(|x| x.is_finite());
    let span = numbers().fold(0.0, f32::max) - numbers().fold(f32::INFINITY, f32::min);
    let middle = |pair: &[f32]| {
        let far = own(&pair[1]).is_finite() && pair[1] - pair[0] > span * STEP_LEAST;
        (has_middles(*axis) && far).then(|| tidy(f64::midpoint(pair[0].into(), pair[1].into())))
    };
    let middles: Vec<f32> = near.windows(2).filter_map(middle).collect();
    near.extend(middles);
    arrange(*axis, &mut near);
    (*axis, near)
}

/// The values of both: they have the same axes.
pub(super) fn union(a: &[(usize, Vec<f32>)], b: &[(usize, Vec<f32>)]) -> Vec<(usize, Vec<f32>)> {
    let mut both = a.to_vec();
    for ((axis, values), (_, more)) in both.iter_mut().zip(b) {
        values.extend(more);
        arrange(*axis, values);
    }
    both
}

/// To six digits, so that it is written shortly.
pub(super) fn tidy(x: f64) -> f32 {
    format!("{x:.5e}").parse().expect("a number")
}

#[cfg(test)]
mod tests {
    use super::*;
    use logitd_core::params::{Field, Value};

    #[test]
    fn each_name_is_that_of_its_value() {
        for (place, name) in FURTHER.into_iter().enumerate() {
            let mut spec = ParamsSpec::DEFAULT;
            // No default.
            Field::named(name).expect("a parameter").set(&mut spec, Value::Real(0.25));
            let further = Further::from(spec);
            let mut expected = Further::NONE;
            expected.values[place] = 0.25;
            assert_eq!(further, expected, "{name}");
            assert_eq!(ParamsSpec::from(further), spec, "{name}");
            assert_eq!(further.given().collect::<Vec<_>>(), [(name, 0.25)]);
        }
    }

    #[test]
    fn further_cuts_are_all_that_stand_after_the_profile() {
        let profile = FIELDS_OF_SETS.iter().position(|name| *name == "profile");
        assert_eq!(FIELDS_OF_SETS[profile.expect("a parameter of sets") + 1..], FURTHER);
    }
}
