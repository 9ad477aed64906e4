//! Sets of sampling parameters to be evaluated over the same rows, arranged so that what sets share is found once.
//!
//! Sets of one temperature share the masses of a row. Among these, sets share cuts: top-k's depends on `top_k` alone,
//! top-p's on `top_k` and `top_p`, min-p's on `min_p`. A grid of 9 x 14 x 10 has 1,260 sets and 145 cuts.

use crate::arithmetic::cut::{min_p_distance, top_p_fraction};
use crate::arithmetic::mass::Scale;
use crate::params::{FIELDS, ParamsSpec, SamplingParams, Value};
use std::collections::HashMap;
use std::hash::Hash;

/// Sets that a server evaluates in one call, at most.
pub const SETS_MAX: u32 = 1 << 16;
/// The parameters that make a set. The others belong to a draw or to a history that rows here do not have, or are cuts
/// that are not evaluated.
pub const FIELDS_OF_SETS: [&str; 4] = ["temperature", "top_k", "top_p", "min_p"];
/// Parameters that a draw has, and that are ignored.
const OF_DRAWS: [&str; 5] = ["seed", "position", "draws", "draw_rule", "draft"];

/// Every combination of some values, `min_p` changing fastest and `temperature` slowest.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Grid {
    /// 0, or 1e-30 to 1e4.
    pub temperature: Vec<f32>,
    /// 0 is off.
    pub top_k: Vec<u32>,
    /// 1 is off.
    pub top_p: Vec<f32>,
    /// 0 is off.
    pub min_p: Vec<f32>,
}

impl Grid {
    /// How many sets it has; `None` where no number says it. To be compared with a limit before they are made.
    pub fn sets(&self) -> Option<usize> {
        let Self { temperature, top_k, top_p, min_p } = self;
        let others = [top_k.len(), top_p.len(), min_p.len()];
        others.into_iter().try_fold(temperature.len(), usize::checked_mul)
    }

    /// Its sets, unparsed. None where an axis has no value.
    pub fn specs(&self) -> Vec<ParamsSpec> {
        let mut specs = Vec::new();
        for &temperature in &self.temperature {
            for &top_k in &self.top_k {
                for &top_p in &self.top_p {
                    for &min_p in &self.min_p {
                        let own =
                            ParamsSpec { temperature, top_k, top_p, min_p, ..Default::default() };
                        specs.push(own);
                    }
                }
            }
        }
        specs
    }
}

/// A list of sets, each valid, in the order of the list.
#[derive(Clone, Debug)]
pub struct Sets {
    params: Vec<SamplingParams>,
    temperatures: Vec<Temperature>,
}

impl Sets {
    /// The sets of a list. One with a cut or an adjustment that is not among [`FIELDS_OF_SETS`] is refused.
    pub fn new(params: Vec<SamplingParams>) -> Result<Self, SetError> {
        for (set, params) in params.iter().enumerate() {
            let spec = ParamsSpec::from(*params);
            let other = FIELDS.iter().find(|field| {
                let known = FIELDS_OF_SETS.contains(&field.name) || OF_DRAWS.contains(&field.name);
                !known && field.get(spec) != field.get(ParamsSpec::DEFAULT)
            });
            if let Some(field) = other {
                return Err(SetError { set, field: field.name, value: field.get(spec) });
            }
        }
        let mut places = Places::default();
        let mut temperatures: Vec<Temperature> = Vec::new();
        for (set, params) in params.iter().enumerate() {
            let place = places.of(params.temperature().to_bits());
            if place == temperatures.len() {
                temperatures.push(Temperature::new(params.temperature()));
            }
            temperatures[place].push(set, params);
        }
        Ok(Self { params, temperatures })
    }

    /// Their parameters.
    pub fn params(&self) -> &[SamplingParams] {
        &self.params
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.params.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.params.is_empty()
    }

    /// How many temperatures they have.
    pub fn temperature_count(&self) -> usize {
        self.temperatures.len()
    }

    /// The same sets, by temperature.
    pub(super) fn temperatures(&self) -> &[Temperature] {
        &self.temperatures
    }
}

/// The sets of one temperature, and their cuts.
#[derive(Clone, Debug)]
pub(super) struct Temperature {
    pub temperature: f32,
    /// `None` where it is 0.
    pub scale: Option<Scale>,
    /// Each `top_k` that occurs; the greatest number is off.
    pub top_k: Vec<u32>,
    /// Each nucleus that occurs: its place in `top_k`, and its fraction.
    pub nuclei: Vec<(usize, u64)>,
    /// The least distance of each `min_p` that occurs.
    pub floors: Vec<f32>,
    pub members: Vec<Member>,
    top_k_places: Places<u32>,
    nuclei_places: Places<(usize, u64)>,
    floors_places: Places<u32>,
}

/// A set by its cuts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    /// Its place in the list.
    pub set: usize,
    /// Its place in `top_k`.
    pub top_k: usize,
    /// Its place in `nuclei`.
    pub nucleus: Option<usize>,
    /// Its place in `floors`.
    pub floor: Option<usize>,
}

impl Temperature {
    fn new(temperature: f32) -> Self {
        Self {
            temperature,
            scale: (temperature > 0.0).then(|| Scale::new(temperature)),
            top_k: Vec::new(),
            nuclei: Vec::new(),
            floors: Vec::new(),
            members: Vec::new(),
            top_k_places: Places::default(),
            nuclei_places: Places::default(),
            floors_places: Places::default(),
        }
    }

    fn push(&mut self, set: usize, params: &SamplingParams) {
        let k = params.top_k().unwrap_or(u32::MAX);
        let top_k = self.top_k_places.of(k);
        if top_k == self.top_k.len() {
            self.top_k.push(k);
        }
        let nucleus = params.top_p().map(|p| {
            let own = (top_k, top_p_fraction(p));
            let place = self.nuclei_places.of(own);
            if place == self.nuclei.len() {
                self.nuclei.push(own);
            }
            place
        });
        let floor = params.min_p().map(|p| {
            let place = self.floors_places.of(p.to_bits());
            if place == self.floors.len() {
                self.floors.push(min_p_distance(p, self.temperature));
            }
            place
        });
        self.members.push(Member { set, top_k, nucleus, floor });
    }
}

/// A number for each of some values, in the order in which they come.
#[derive(Clone, Debug)]
struct Places<K>(HashMap<K, usize>);

impl<K> Default for Places<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash> Places<K> {
    fn of(&mut self, value: K) -> usize {
        let next = self.0.len();
        *self.0.entry(value).or_insert(next)
    }
}

/// A set with a parameter that is not evaluated.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error(
    "set {set} has {field} {value}; sets can have temperature, top_k, top_p and min_p: leave {field} out"
)]
pub struct SetError {
    /// Its place in the list.
    pub set: usize,
    /// The parameter.
    pub field: &'static str,
    /// What it is.
    pub value: Value,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(specs: impl IntoIterator<Item = ParamsSpec>) -> Vec<SamplingParams> {
        specs.into_iter().map(|spec| spec.parse(|| 0).unwrap()).collect()
    }

    #[test]
    fn a_grid_goes_through_min_p_first_and_shares_its_cuts() {
        let grid = Grid {
            temperature: vec![0.5, 0.0],
            top_k: vec![0, 7, 9],
            top_p: vec![1.0, 0.5],
            min_p: vec![0.0, 0.1],
        };
        let specs = grid.specs();
        assert_eq!((specs.len(), grid.sets()), (24, Some(24)));
        let four = |spec: &ParamsSpec| (spec.temperature, spec.top_k, spec.top_p, spec.min_p);
        assert_eq!(
            specs[..3].iter().map(four).collect::<Vec<_>>(),
            [(0.5, 0, 1.0, 0.0), (0.5, 0, 1.0, 0.1), (0.5, 0, 0.5, 0.0)]
        );
        let sets = Sets::new(parsed(specs)).unwrap();
        let [warm, greedy] = sets.temperatures() else { panic!("two temperatures") };
        assert_eq!((warm.top_k.len(), warm.nuclei.len(), warm.floors.len()), (3, 3, 1));
        assert_eq!(warm.members.len() + greedy.members.len(), sets.len());
        assert!(warm.scale.is_some() && greedy.scale.is_none());
        let empty = Grid { top_p: vec![], ..grid };
        assert!(empty.specs().is_empty());
    }

    #[test]
    fn what_needs_a_history_is_refused_by_name() {
        let plain = ParamsSpec { seed: Some(5), draws: 3, ..Default::default() };
        assert!(Sets::new(parsed([plain])).is_ok());
        for (field, spec) in [
            ("repetition_penalty", ParamsSpec { repetition_penalty: 1.1, ..plain }),
            ("min_tokens", ParamsSpec { min_tokens: 4, ..plain }),
            ("dry_multiplier", ParamsSpec { dry_multiplier: 0.5, ..plain }),
        ] {
            let error = Sets::new(parsed([plain, spec])).unwrap_err();
            assert_eq!((error.set, error.field), (1, field));
            assert!(error.to_string().contains(field), "{error}");
        }
    }
}
