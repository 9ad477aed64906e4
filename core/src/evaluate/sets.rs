//! Sets of sampling parameters to be evaluated over the same rows, arranged so that what sets share is found once.
//!
//! Sets of one temperature share the masses of a row. Among these, sets share cuts: top-k's depends on `top_k` alone,
//! top-p's on `top_k` and `top_p`, min-p's on `min_p`. A grid of 9 x 14 x 10 has 1,260 sets and 145 cuts. Sets with further
//! cuts are [`chains`](super::chains).

use super::chains::Chains;
use super::places::Places;
use crate::arithmetic::cut::{min_p_distance, top_p_fraction};
use crate::arithmetic::mass::Scale;
use crate::params::{FIELDS, Field, ParamsSpec, SamplingParams, Value};
use std::fmt;

/// Sets that a server evaluates in one call, at most.
pub const SETS_MAX: u32 = 1 << 16;
/// The parameters that make a set: those of every search first, then the profile, then those of further cuts. The others
/// belong to a draw, or to a history that rows here do not have.
pub const FIELDS_OF_SETS: [&str; 15] = [
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "profile",
    "top_n_sigma",
    "top_h",
    "top_a",
    "epsilon_cutoff",
    "eta_cutoff",
    "typical_p",
    "xtc_probability",
    "xtc_threshold",
    "dynatemp_range",
    "dynatemp_exponent",
];
/// Between two looks at whether somebody else waits for the processor: about 100 us.
const YIELD_SETS: usize = 512;
/// Parameters that a draw has, and that are ignored.
const OF_DRAWS: [&str; 5] = ["seed", "position", "draws", "draw_rule", "draft"];

/// Every combination of some values of [`FIELDS_OF_SETS`], the last axis changing fastest and the first slowest.
#[derive(Clone, Debug, Default)]
pub struct Grid {
    axes: Vec<(&'static Field, Vec<Value>)>,
}

impl Grid {
    /// With one more axis: a parameter by its name in the API, and its values.
    ///
    /// # Panics
    /// If there is no such parameter, or a value is of another kind than its.
    pub fn with(mut self, name: &str, values: impl IntoIterator<Item = Value>) -> Self {
        let field = Field::named(name).expect("a parameter");
        self.axes.push((field, values.into_iter().collect()));
        self
    }

    /// Its axes: the parameters' names, and their values.
    pub fn axes(&self) -> impl Iterator<Item = (&'static str, &[Value])> {
        self.axes.iter().map(|(field, values)| (field.name, values.as_slice()))
    }

    /// How many sets it has; `None` where no number says it. To be compared with a limit before they are made.
    pub fn sets(&self) -> Option<usize> {
        self.axes.iter().try_fold(1, |sets: usize, (_, values)| sets.checked_mul(values.len()))
    }

    /// Its sets, unparsed. None where an axis has no value.
    pub fn specs(&self) -> Vec<ParamsSpec> {
        let mut specs = vec![ParamsSpec::DEFAULT];
        for (field, values) in &self.axes {
            let with = |spec: &ParamsSpec| {
                let spec = *spec;
                values.iter().map(move |value| {
                    let mut spec = spec;
                    field.set(&mut spec, *value);
                    spec
                })
            };
            specs = specs.iter().flat_map(with).collect();
        }
        specs
    }
}

/// Gives way to who waits for the processor, at one in some hundreds of sets: whoever unfolds thousands may do so beside work
/// that others wait for (see [`row`](super::row)).
pub fn give_way(set: usize) {
    if set.is_multiple_of(YIELD_SETS) {
        std::thread::yield_now();
    }
}

/// A list of sets, each valid, in the order of the list.
#[derive(Clone, Debug)]
pub struct Sets {
    params: Vec<SamplingParams>,
    temperatures: Vec<Temperature>,
    chains: Chains,
}

impl Sets {
    /// The sets of a list. One with a cut or an adjustment that is not among [`FIELDS_OF_SETS`] is refused.
    pub fn new(params: Vec<SamplingParams>) -> Result<Self, SetError> {
        let others = others();
        for (set, params) in params.iter().enumerate() {
            give_way(set);
            let spec = ParamsSpec::from(*params);
            let other = others.iter().find(|(field, default)| field.get(spec) != *default);
            if let Some((field, _)) = other {
                let why = Why::Unknown;
                return Err(SetError { set, field: field.name, value: field.get(spec), why });
            }
            let (field, xtc) = ("xtc_probability", params.all_cuts().xtc);
            if xtc.probability > 0.0 && xtc.probability < 1.0 {
                let (value, why) = (Value::Real(xtc.probability), Why::Coin);
                return Err(SetError { set, field, value, why });
            }
        }
        let mut places = Places::default();
        let (mut temperatures, mut chains) = (Vec::<Temperature>::new(), Chains::default());
        for (set, params) in params.iter().enumerate() {
            give_way(set);
            if Chains::need(params) {
                chains.push(set, params);
                continue;
            }
            let place = places.of(params.temperature().to_bits());
            if place == temperatures.len() {
                temperatures.push(Temperature::new(params.temperature()));
            }
            temperatures[place].push(set, params);
        }
        Ok(Self { params, temperatures, chains: chains.arranged() })
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

    /// How often a row is weighed for them at most: once a temperature, and for further cuts as often as what these cut or leave has masses of
    /// its own.
    pub fn temperature_count(&self) -> usize {
        self.temperatures.len() + self.chains.weighings()
    }

    /// How many stages of further cuts are cut in a row, and what is left drawn, each once for all sets that share it.
    pub fn step_count(&self) -> usize {
        self.chains.steps()
    }

    /// Those without further cuts, by temperature.
    pub(super) fn temperatures(&self) -> &[Temperature] {
        &self.temperatures
    }

    /// The others.
    pub(super) fn chains(&self) -> &Chains {
        &self.chains
    }
}

/// The parameters that no set has, each with its default.
fn others() -> Vec<(&'static Field, Value)> {
    let has = |field: &Field| [&FIELDS_OF_SETS[..], &OF_DRAWS].concat().contains(&field.name);
    let default = |field: &'static Field| (field, field.get(ParamsSpec::DEFAULT));
    FIELDS.iter().filter(|field| !has(field)).map(default).collect()
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

/// A set with a parameter that is not evaluated, or a value of one.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("set {set} has {field} {value}; {why}")]
pub struct SetError {
    /// Its place in the list.
    pub set: usize,
    /// The parameter.
    pub field: &'static str,
    /// What it is.
    pub value: Value,
    /// What is wrong with it, and what to do.
    pub why: Why,
}

/// Why a parameter is not evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// No set has it: it belongs to a history, or to a state that draws change.
    Unknown,
    /// It is tossed for with a draw's own random bits.
    Coin,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => write!(
                f,
                "it belongs to a history or to draws; allowed in sets: {}",
                FIELDS_OF_SETS.join(", ")
            ),
            Self::Coin => f.write_str("allowed in sets: 0 or 1, since its coin belongs to a draw"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(specs: impl IntoIterator<Item = ParamsSpec>) -> Vec<SamplingParams> {
        specs.into_iter().map(|spec| spec.parse(|| 0).unwrap()).collect()
    }

    #[test]
    fn a_grid_goes_through_its_last_axis_first_and_shares_its_cuts() {
        let real = |values: &[f32]| values.iter().copied().map(Value::Real).collect::<Vec<_>>();
        let grid = Grid::default()
            .with("temperature", real(&[0.5, 0.0]))
            .with("top_k", [0, 7, 9].map(Value::Whole))
            .with("top_p", real(&[1.0, 0.5]))
            .with("min_p", real(&[0.0, 0.1]));
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
        let empty = grid.with("top_h", []);
        assert!(empty.specs().is_empty() && empty.sets() == Some(0));
        assert_eq!((Grid::default().specs().len(), Grid::default().sets()), (1, Some(1)));
    }

    #[test]
    fn what_needs_a_history_or_a_draw_is_refused_by_name() {
        let plain = ParamsSpec { seed: Some(5), draws: 3, ..Default::default() };
        assert!(Sets::new(parsed([plain])).is_ok());
        for (field, spec) in [
            ("repetition_penalty", ParamsSpec { repetition_penalty: 1.1, ..plain }),
            ("min_tokens", ParamsSpec { min_tokens: 4, ..plain }),
            ("dry_multiplier", ParamsSpec { dry_multiplier: 0.5, ..plain }),
            ("mirostat_tau", ParamsSpec { mirostat_tau: 5.0, draws: 1, ..plain }),
            ("adaptive_target", ParamsSpec { adaptive_target: Some(0.5), draws: 1, ..plain }),
            ("xtc_probability", ParamsSpec { xtc_probability: 0.5, ..plain }),
        ] {
            let error = Sets::new(parsed([plain, spec])).unwrap_err();
            assert_eq!((error.set, error.field), (1, field));
            let said = error.to_string();
            assert!(said.contains(field) && said.contains("allowed in sets: "), "{said}");
        }
    }
}
