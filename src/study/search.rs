//! Which sets are tried: a grid, points of its space, or what lies around the best.

use logitd_core::arithmetic::philox::philox4x32_10;
use logitd_core::evaluate::sets::Grid;
use logitd_core::params::{
    Field, ParamsError, ParamsSpec, Profile, SamplingParams, Value, shortest,
};
use serde_json::{Value as Json, json};
use std::collections::HashSet;
use std::fmt;

pub use super::further::{FURTHER, Further};

use super::further::{self, tidy};

/// The most sets of a search.
pub const SETS_MAX: usize = 1 << 20;
/// The most points of a Sobol sequence: beyond, they are no longer even.
pub const SOBOL_MAX: usize = 1 << 16;
/// Temperatures between those of the grid are multiples of this: sets of one temperature share most of their work.
const TEMPERATURE_STEP: f64 = 0.01;
/// Steps of refinement end here: values that are nearer to each other have no middle tried between them.
const STEPS_LEAST: StepsLeast =
    StepsLeast { temperature: 0.01, top_k: 1.05, top_p: 0.002, min_p: 0.0005 };
/// So many rounds in a row that gain nothing end a refinement: the first may have been too coarse.
const IDLE_ROUNDS: usize = 2;
/// What the generator is used for.
const PURPOSE: u32 = u32::from_be_bytes(*b"tune");

/// A set, by the parameters that are searched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// 0 is greedy.
    pub temperature: f32,
    /// 0 is off.
    pub top_k: u32,
    /// 1 is off.
    pub top_p: f32,
    /// 0 is off.
    pub min_p: f32,
    /// Its further cuts.
    pub further: Further,
}

/// What tells a set from others.
pub type Key = [u32; 5 + FURTHER.len()];

impl Point {
    /// The model as it is: temperature 1, no cut.
    pub const PLAIN: Self =
        Self { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, further: Further::NONE };

    /// What tells it from others.
    pub fn key(self) -> Key {
        let mut key = [0; 5 + FURTHER.len()];
        // Adding +0.0 makes one of the two zeros.
        key[..5].copy_from_slice(&[
            (self.temperature + 0.0).to_bits(),
            self.top_k,
            self.top_p.to_bits(),
            (self.min_p + 0.0).to_bits(),
            self.further.profile as u32,
        ]);
        let further = self.further.values.map(|x| (x + 0.0).to_bits());
        key[5..].copy_from_slice(&further);
        key
    }

    /// How many cuts are on.
    pub fn cuts(self) -> usize {
        let own = [self.top_k > 0, self.top_p < 1.0, self.min_p > 0.0];
        own.into_iter().filter(|on| *on).count() + self.further.cuts()
    }

    /// The same as parameters.
    pub fn params(self) -> Result<SamplingParams, ParamsError> {
        ParamsSpec::from(self).parse(|| 0)
    }
}

impl From<Point> for ParamsSpec {
    fn from(point: Point) -> Self {
        let Point { temperature, top_k, top_p, min_p, further } = point;
        Self { temperature, top_k, top_p, min_p, ..further.into() }
    }
}

impl From<ParamsSpec> for Point {
    fn from(spec: ParamsSpec) -> Self {
        let ParamsSpec { temperature, top_k, top_p, min_p, .. } = spec;
        Self { temperature, top_k, top_p, min_p, further: spec.into() }
    }
}

/// The double that is written as the single is.
pub fn double(x: f32) -> f64 {
    shortest(x).parse().expect("a number")
}

/// `temperature 1.1, top_k 1000, top_p 0.95`: what is on.
impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "temperature {}", shortest(self.temperature))?;
        if self.top_k > 0 {
            write!(f, ", top_k {}", self.top_k)?;
        }
        if self.top_p < 1.0 {
            write!(f, ", top_p {}", shortest(self.top_p))?;
        }
        if self.min_p > 0.0 {
            write!(f, ", min_p {}", shortest(self.min_p))?;
        }
        match self.further == Further::NONE {
            true => Ok(()),
            false => write!(f, ", {}", self.further),
        }
    }
}

/// The values that are tried of each parameter, from weak to strong or the other way; those that are off stand where
/// the strongest effect of none would.
#[derive(Clone, Debug, PartialEq)]
pub struct Axes {
    /// Rising.
    pub temperature: Vec<f32>,
    /// Rising, and 0, which is off, behind all others.
    pub top_k: Vec<u32>,
    /// Rising; 1 is off.
    pub top_p: Vec<f32>,
    /// Rising; 0 is off.
    pub min_p: Vec<f32>,
    /// Whose order of cuts.
    pub profile: Vec<Profile>,
    /// The values of further cuts that are searched, by their places in [`FURTHER`], ascending.
    pub further: Vec<(usize, Vec<f32>)>,
}

impl Default for Axes {
    fn default() -> Self {
        let temperature = (6..26).map(|i| i as f32 / 20.0).chain((13..21).map(|i| i as f32 / 10.0));
        Self {
            temperature: temperature.collect(),
            top_k: vec![5, 10, 20, 40, 80, 160, 320, 1000, 0],
            top_p: vec![
                0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.92, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999, 1.0,
            ],
            min_p: vec![0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3],
            profile: vec![Profile::Logitd],
            further: Vec::new(),
        }
    }
}

impl Axes {
    /// Replaces an axis by what is written: `0.3:2.0:0.05`, `off,5,10`, or both.
    pub fn set(&mut self, name: &'static str, text: &str) -> Result<(), AxisError> {
        let field = Field::named(name).expect("a parameter");
        let mut values = Vec::new();
        for part in text.split(',') {
            match part.split(':').collect::<Vec<_>>()[..] {
                [one] => values.push(read(field, one)?),
                [start, end, step] => {
                    for text in range(name, start, end, step)? {
                        values.push(read(field, &text)?);
                    }
                }
                _ => return Err(AxisError::Range { name, text: part.into() }),
            }
        }
        let real = |value: &Value| match value {
            Value::Real(x) => *x,
            other => unreachable!("{name} is {other:?}"),
        };
        let reals = || {
            let mut reals: Vec<f32> = values.iter().map(real).collect();
            reals.sort_by(f32::total_cmp);
            reals.dedup();
            reals
        };
        match name {
            "temperature" => self.temperature = reals(),
            "top_p" => self.top_p = reals(),
            "min_p" => self.min_p = reals(),
            "top_k" => {
                let whole = |value: &Value| match value {
                    Value::Whole(n) => *n as u32,
                    other => unreachable!("{name} is {other:?}"),
                };
                self.top_k = values.iter().map(whole).collect();
                self.top_k.sort_by_key(|k| k.wrapping_sub(1));
                self.top_k.dedup();
            }
            "profile" => {
                let profile = |value: &Value| match value {
                    Value::Name(name) => Profile::named(name).expect("a profile's name"),
                    other => unreachable!("{name} is {other:?}"),
                };
                self.profile = values.iter().map(profile).collect();
                self.profile.sort_by_key(|profile| *profile as u32);
                self.profile.dedup();
            }
            other => {
                let axis = further::place(other).expect("an axis");
                let mut values: Vec<f32> = values.iter().map(real).collect();
                further::arrange(axis, &mut values);
                match self.further.binary_search_by_key(&axis, |(axis, _)| *axis) {
                    Ok(place) => self.further[place].1 = values,
                    Err(place) => self.further.insert(place, (axis, values)),
                }
            }
        }
        Ok(())
    }

    /// The lists as JSON, by parameter: of those of further cuts, what is searched.
    pub fn to_json(&self) -> Json {
        let real = |axis: &[f32]| axis.iter().map(|x| double(*x)).collect::<Vec<_>>();
        let mut lists = json!({
            "temperature": real(&self.temperature),
            "top_k": self.top_k,
            "top_p": real(&self.top_p),
            "min_p": real(&self.min_p),
        });
        if self.profile != [Profile::Logitd] {
            let names: Vec<&str> = self.profile.iter().map(|profile| profile.name()).collect();
            lists["profile"] = json!(names);
        }
        for (axis, values) in &self.further {
            lists[FURTHER[*axis]] = json!(real(values));
        }
        lists
    }

    /// The inverse; `None` where it is something else.
    pub fn from_json(lists: &Json) -> Option<Self> {
        let list = |name: &str| lists.get(name)?.as_array();
        let real = |name: &str| {
            list(name)?.iter().map(|x| Some(x.as_f64()? as f32)).collect::<Option<Vec<_>>>()
        };
        let whole = |k: &Json| u32::try_from(k.as_u64()?).ok();
        let profile = |name: &Json| Profile::named(name.as_str()?);
        let profiles = match list("profile") {
            Some(names) => names.iter().map(profile).collect::<Option<_>>()?,
            None => vec![Profile::Logitd],
        };
        let further = (0..FURTHER.len()).filter(|axis| lists.get(FURTHER[*axis]).is_some());
        Some(Self {
            temperature: real("temperature")?,
            top_k: list("top_k")?.iter().map(whole).collect::<Option<_>>()?,
            top_p: real("top_p")?,
            min_p: real("min_p")?,
            profile: profiles,
            further: further
                .map(|axis| Some((axis, real(FURTHER[axis])?)))
                .collect::<Option<_>>()?,
        })
    }

    /// Every combination.
    pub fn grid(&self) -> Result<Vec<Point>, AxisError> {
        let real = |values: &[f32]| values.iter().copied().map(Value::Real).collect::<Vec<_>>();
        let top_k = self.top_k.iter().map(|k| Value::Whole((*k).into()));
        let mut grid = Grid::default()
            .with("temperature", real(&self.temperature))
            .with("top_k", top_k)
            .with("top_p", real(&self.top_p))
            .with("min_p", real(&self.min_p))
            .with("profile", self.profile.iter().map(|profile| Value::Name(profile.name())));
        for (axis, values) in &self.further {
            grid = grid.with(FURTHER[*axis], real(values));
        }
        if grid.sets().is_none_or(|sets| sets > SETS_MAX) {
            return Err(AxisError::Large(self.lengths()));
        }
        Ok(grid.specs().into_iter().map(Point::from).collect())
    }

    /// How many values each axis has: of those of further cuts, what is searched.
    fn lengths(&self) -> Vec<usize> {
        let Self { temperature, top_k, top_p, min_p, profile, further } = self;
        let own = [temperature.len(), top_k.len(), top_p.len(), min_p.len()];
        let profile = Some(profile.len()).filter(|length| *length > 1);
        own.into_iter().chain(profile).chain(further.iter().map(|(_, axis)| axis.len())).collect()
    }

    /// So many points of the space that the grid spans, drawn by a seed.
    pub fn random(&self, sets: usize, seed: u64) -> Vec<Point> {
        let key = [seed as u32, (seed >> 32) as u32];
        let unit = |i: usize, dimension: u32| {
            let counter = [i as u32, dimension / 4, 0, PURPOSE];
            let bits = philox4x32_10(counter, key)[dimension as usize % 4];
            f64::from(bits) / 4_294_967_296.0
        };
        (0..sets).map(|i| self.at(|dimension| unit(i, dimension))).collect()
    }

    /// So many points that fill that space evenly.
    pub fn sobol(&self, sets: usize, seed: u64) -> Vec<Point> {
        let seed = (seed ^ seed >> 32) as u32;
        let unit = |i, dimension| f64::from(sobol_burley::sample(i as u32, dimension, seed));
        (0..sets).map(|i| self.at(|dimension| unit(i, dimension))).collect()
    }

    /// What lies around a point: each parameter's value, the next ones of the axis, and what is in the middle between,
    /// where that is further than the least step.
    pub fn around(&self, point: Point, vocab_size: u32) -> Self {
        let real = |axis: &[f32], at: f32, least: f32| {
            let mut near = neighbours(axis, at, |a, b| a.total_cmp(&b));
            // What is as long as the least step but for rounding has no middle.
            let far = |a: f32, b: f32| b - a > least * 1.001;
            near = with_middles(&near, |a, b| {
                far(a, b).then(|| tidy(f64::midpoint(a.into(), b.into())))
            });
            near.sort_by(f32::total_cmp);
            near.dedup();
            near
        };
        // Off is as many as there are.
        let open = |k: u32| if k == 0 { vocab_size } else { k.min(vocab_size) };
        let ks: Vec<u32> = self.top_k.iter().copied().map(open).collect();
        let near = neighbours(&ks, open(point.top_k), |a, b| a.cmp(&b));
        let middle = |a: u32, b: u32| {
            let (a, b) = (f64::from(a), f64::from(b));
            (b / a > STEPS_LEAST.top_k).then(|| (a * b).sqrt().round() as u32)
        };
        let mut top_k = with_middles(&near, middle);
        top_k.iter_mut().for_each(|k| *k = if *k >= vocab_size { 0 } else { *k });
        top_k.sort_by_key(|k| k.wrapping_sub(1));
        top_k.dedup();
        Self {
            temperature: real(&self.temperature, point.temperature, STEPS_LEAST.temperature),
            top_k,
            top_p: real(&self.top_p, point.top_p, STEPS_LEAST.top_p),
            min_p: real(&self.min_p, point.min_p, STEPS_LEAST.min_p),
            // What lies between two of them is none.
            profile: vec![point.further.profile],
            further: self.further.iter().map(|of| further::around(of, &point.further)).collect(),
        }
    }

    /// The values of both.
    fn union(&self, other: &Self) -> Self {
        let real = |a: &[f32], b: &[f32]| {
            let mut all = [a, b].concat();
            all.sort_by(f32::total_cmp);
            all.dedup();
            all
        };
        let mut top_k = [&self.top_k[..], &other.top_k].concat();
        top_k.sort_by_key(|k| k.wrapping_sub(1));
        top_k.dedup();
        Self {
            temperature: real(&self.temperature, &other.temperature),
            top_k,
            top_p: real(&self.top_p, &other.top_p),
            min_p: real(&self.min_p, &other.min_p),
            profile: self.profile.clone(),
            further: further::union(&self.further, &other.further),
        }
    }

    /// A point between those of the grid, by how far along each axis it lies: temperature, top_k, top_p, min_p, the profile,
    /// and then what else is searched.
    fn at(&self, unit: impl Fn(u32) -> f64) -> Point {
        let units = [0, 1, 2, 3].map(&unit);
        let between = |axis: &[f32], unit: f64| {
            let (below, above, part) = place(axis.len(), unit);
            let (below, above) = (f64::from(axis[below]), f64::from(axis[above]));
            below + (above - below) * part
        };
        let temperature = between(&self.temperature, units[0]);
        let snapped = (temperature / TEMPERATURE_STEP).round() * TEMPERATURE_STEP;
        let (low, high) = (self.temperature[0], self.temperature[self.temperature.len() - 1]);
        let (below, above, part) = place(self.top_k.len(), units[1]);
        let (below, above) = (self.top_k[below], self.top_k[above]);
        let top_k = match above {
            // Nothing is between the last number and off.
            0 if part >= 0.5 || below == 0 => 0,
            0 => below,
            _ => {
                (f64::from(below).ln() * (1.0 - part) + f64::from(above).ln() * part).exp().round()
                    as u32
            }
        };
        Point {
            temperature: tidy(snapped).clamp(low, high),
            top_k,
            top_p: tidy(between(&self.top_p, units[2])),
            min_p: tidy(between(&self.min_p, units[3])),
            further: self.further_at(unit),
        }
    }

    /// The same of the profile and of further cuts.
    fn further_at(&self, unit: impl Fn(u32) -> f64) -> Further {
        // A profile is one of several: none lies between two.
        let profiles = self.profile.len();
        let profile = self.profile[((unit(4) * profiles as f64) as usize).min(profiles - 1)];
        let mut further = Further { profile, ..Further::NONE };
        for ((axis, values), dimension) in self.further.iter().zip(5..) {
            further.values[*axis] = further::between(*axis, values, unit(dimension));
        }
        further
    }
}

/// The least steps of a refinement: differences, and of `top_k` a ratio.
struct StepsLeast {
    temperature: f32,
    top_k: f64,
    top_p: f32,
    min_p: f32,
}

/// A search that begins with a grid and goes on around the best, with half the step, wherever that leads.
///
/// Each round is the grid of the best's values, their neighbours among all values that were tried of each axis, and the
/// middles between. Since neighbours are those of all rounds, the best can move on beyond the box of a round. It ends where
/// no set is new, which is so where all steps are the least, or where two rounds in a row found nothing better.
#[derive(Debug)]
pub struct Refinement {
    vocab_size: u32,
    /// Every value that was tried.
    all: Axes,
    next: Axes,
    tried: HashSet<Key>,
    best: Option<Point>,
    idle: usize,
}

impl Refinement {
    /// Begins with the grid of these axes.
    pub fn new(axes: Axes, vocab_size: u32) -> Self {
        let (all, tried) = (axes.clone(), HashSet::new());
        Self { vocab_size, all, next: axes, tried, best: None, idle: 0 }
    }

    /// The sets of the next round that no round had; none at the end.
    pub fn round(&mut self) -> Result<Vec<Point>, AxisError> {
        if self.idle == IDLE_ROUNDS {
            return Ok(Vec::new());
        }
        let mut points = self.next.grid()?;
        points.retain(|point| self.tried.insert(point.key()));
        Ok(points)
    }

    /// Takes the best of all sets so far.
    pub fn found(&mut self, best: Point) {
        self.idle = if self.best == Some(best) { self.idle + 1 } else { 0 };
        self.best = Some(best);
        self.next = self.all.around(best, self.vocab_size);
        self.all = self.all.union(&self.next);
    }
}

/// Whether a parameter is one of a cut, or what a cut is off by.
pub fn can_be_off(name: &str) -> bool {
    !["temperature", "profile", "xtc_threshold", "dynatemp_exponent"].contains(&name)
}

/// The value of a parameter, or its default for `off`.
fn read(field: &'static Field, text: &str) -> Result<Value, AxisError> {
    match text.trim().eq_ignore_ascii_case("off") && can_be_off(field.name) {
        true => Ok(field.get(ParamsSpec::DEFAULT)),
        false => Ok(field.read(text)?),
    }
}

/// The values of a range, both ends included, as they are written.
fn range(name: &'static str, start: &str, end: &str, step: &str) -> Result<Vec<String>, AxisError> {
    let wrong = || AxisError::Range { name, text: format!("{start}:{end}:{step}") };
    let number = |text: &str| text.trim().parse::<f64>().ok().filter(|x| x.is_finite());
    let (Some(start), Some(end), Some(step)) = (number(start), number(end), number(step)) else {
        return Err(wrong());
    };
    let steps = ((end - start) / step + 1e-6).floor();
    if step <= 0.0 || !(0.0..SETS_MAX as f64).contains(&steps) {
        return Err(wrong());
    }
    // A step of a decimal number is one too: what adding up left behind the ninth place is rounded away.
    let value = |i: usize| ((start + i as f64 * step) * 1e9).round() / 1e9;
    Ok((0..=steps as usize).map(|i| value(i).to_string()).collect())
}

/// Between which two of so many values a unit lies, and where.
fn place(len: usize, unit: f64) -> (usize, usize, f64) {
    let at = unit * (len - 1) as f64;
    let below = (at.floor() as usize).min(len - 1);
    (below, (below + 1).min(len - 1), at - below as f64)
}

/// The value itself, and the next ones of the axis.
fn neighbours<T: Copy>(axis: &[T], at: T, order: impl Fn(T, T) -> std::cmp::Ordering) -> Vec<T> {
    let below = axis.iter().copied().filter(|x| order(*x, at).is_lt()).max_by(|a, b| order(*a, *b));
    let above = axis.iter().copied().filter(|x| order(*x, at).is_gt()).min_by(|a, b| order(*a, *b));
    below.into_iter().chain([at]).chain(above).collect()
}

fn with_middles<T: Copy>(values: &[T], middle: impl Fn(T, T) -> Option<T>) -> Vec<T> {
    let middles = values.windows(2).filter_map(|pair| middle(pair[0], pair[1]));
    values.iter().copied().chain(middles).collect()
}

/// Why an axis has no values.
#[derive(Debug, thiserror::Error)]
pub enum AxisError {
    /// A value out of range.
    #[error(transparent)]
    Value(#[from] ParamsError),
    /// A range that is none.
    #[error(
        "{name} has {text:?}, which is no value and no range; write 0.3:2.0:0.05 (start, end, step above 0) or 0.5,1.0"
    )]
    Range {
        /// Of this parameter.
        name: &'static str,
        /// As it is written.
        text: String,
    },
    /// More sets than a search has.
    #[error(
        "{} sets are more than {SETS_MAX}; give shorter lists, or --search sobol --sets N",
        .0.iter().map(usize::to_string).collect::<Vec<_>>().join(" x ")
    )]
    Large(Vec<usize>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_come_back_from_json_bit_for_bit() {
        let mut axes = Axes::default();
        axes.set("top_p", "0.1,0.3,1e-7,off").unwrap();
        let text = axes.to_json().to_string();
        assert_eq!(Axes::from_json(&serde_json::from_str(&text).unwrap()), Some(axes));
        assert!(text.contains("\"top_p\":[1e-7,0.1,0.3,1.0]"), "{text}");
        assert_eq!(Axes::from_json(&json!({"top_k": [1]})), None);
    }

    #[test]
    fn the_default_grid_has_35_280_sets_and_all_are_valid() {
        let grid = Axes::default().grid().unwrap();
        assert_eq!(grid.len(), 35_280);
        let different: HashSet<_> = grid.iter().map(|point| point.key()).collect();
        assert_eq!(different.len(), grid.len());
        assert!(grid.iter().all(|point| point.params().is_ok()));
        // The very numbers that a decimal is read as.
        let temperatures = Axes::default().temperature;
        for (i, text) in [(0, "0.3"), (1, "0.35"), (16, "1.1"), (27, "2")] {
            assert_eq!(temperatures[i].to_bits(), text.parse::<f32>().unwrap().to_bits(), "{text}");
        }
    }

    #[test]
    fn axes_are_read_as_lists_and_ranges() {
        let mut axes = Axes::default();
        axes.set("temperature", "0.3:2.0:0.05").unwrap();
        assert_eq!((axes.temperature.len(), axes.temperature[34]), (35, 2.0));
        axes.set("temperature", "1, 0.5:0.7:0.1,0").unwrap();
        assert_eq!(axes.temperature, [0.0, 0.5, 0.6, 0.7, 1.0]);
        axes.set("top_k", "off,10,5,10").unwrap();
        assert_eq!(axes.top_k, [5, 10, 0]);
        axes.set("top_p", "off,0.9").unwrap();
        axes.set("min_p", "OFF").unwrap();
        assert_eq!((&axes.top_p[..], &axes.min_p[..]), (&[0.9, 1.0][..], &[0.0][..]));
        for (name, text, part) in [
            ("temperature", "-1", "temperature is -1; allowed: 0"),
            ("temperature", "off", "temperature is off; allowed"),
            ("top_p", "0", "top_p is 0; allowed"),
            ("min_p", "2", "min_p is 2; allowed"),
            ("top_k", "1.5", "top_k is 1.5; allowed"),
            ("top_k", "", "top_k is empty; allowed"),
            ("temperature", "1:2", "start, end, step"),
            ("temperature", "2:1:0.1", "start, end, step"),
            ("temperature", "1:2:0", "start, end, step"),
            ("temperature", "1:2:x", "start, end, step"),
            ("temperature", "0:1e9:1e-9", "start, end, step"),
        ] {
            let said = axes.set(name, text).unwrap_err().to_string();
            assert!(said.contains(part), "{name} {text}: {said}");
        }
        axes.set("temperature", "0.001:9:0.001").unwrap();
        axes.set("top_k", "1:1000:1").unwrap();
        assert!(axes.grid().unwrap_err().to_string().contains("9000 x 1000 x 2 x 1 sets"));
    }

    #[test]
    fn points_lie_within_the_axes_and_follow_from_the_seed() {
        let axes = Axes::default();
        for points in [axes.random(2000, 7), axes.sobol(2000, 7)] {
            let off = points.iter().filter(|point| point.top_k == 0).count();
            for point in &points {
                assert!((0.3..=2.0).contains(&point.temperature), "{point}");
                assert!(point.top_k == 0 || (5..=1000).contains(&point.top_k), "{point}");
                assert!((0.5..=1.0).contains(&point.top_p), "{point}");
                assert!((0.0..=0.3).contains(&point.min_p), "{point}");
                assert!(point.params().is_ok());
            }
            // Off is the last half of eight steps.
            assert!((80..170).contains(&off), "{off} of 2000 are off");
            let temperatures: HashSet<_> = points.iter().map(|p| p.temperature.to_bits()).collect();
            assert!(temperatures.len() <= 171, "{}", temperatures.len());
        }
        assert_eq!(axes.sobol(50, 7), axes.sobol(50, 7));
        assert_ne!(axes.sobol(50, 7), axes.sobol(50, 8));
        assert_ne!(axes.random(50, 7), axes.random(50, 8));
        let one = Axes {
            temperature: vec![0.7],
            top_k: vec![0],
            top_p: vec![1.0],
            min_p: vec![0.0],
            ..Axes::default()
        };
        assert!(
            one.sobol(9, 1)
                .iter()
                .all(|point| *point == Point { temperature: 0.7, ..Point::PLAIN })
        );
    }

    #[test]
    fn what_is_around_a_point_goes_half_way_to_the_next() {
        let axes = Axes::default();
        let point = Point { temperature: 1.1, top_k: 1000, top_p: 0.95, ..Point::PLAIN };
        let near = axes.around(point, 262_144);
        assert_eq!(near.temperature, [1.05, 1.075, 1.1, 1.125, 1.15]);
        assert_eq!(near.top_k, [320, 566, 1000, 16_191, 0]);
        assert_eq!(near.top_p, [0.92, 0.935, 0.95, 0.96, 0.97]);
        assert_eq!(near.min_p, [0.0, 0.0005, 0.001]);
        let nearer = near.around(Point { top_k: 0, ..point }, 262_144);
        assert_eq!(nearer.top_k, [16_191, 65_149, 0]);
        // Steps have an end.
        let least = Axes {
            temperature: vec![1.09, 1.1, 1.11],
            top_k: vec![980, 1000, 1020],
            top_p: vec![0.948, 0.95, 0.952],
            min_p: vec![0.0, 0.0005],
            ..Axes::default()
        };
        assert_eq!(least.around(point, 262_144), least);
    }

    #[test]
    fn further_cuts_are_axes_by_their_names() {
        let mut axes = Axes::default();
        for (name, text) in [
            ("temperature", "0.5,1"),
            ("top_k", "off"),
            ("top_p", "off"),
            ("min_p", "off"),
            ("typical_p", "off,0.2:0.8:0.3"),
            ("top_n_sigma", "off,1,2"),
            ("profile", "llamacpp,logitd"),
            ("xtc_probability", "1,off"),
        ] {
            axes.set(name, text).unwrap();
        }
        assert_eq!(axes.profile, [Profile::Logitd, Profile::Llamacpp]);
        let place = |name| further::place(name).unwrap();
        let lists = [
            (place("top_n_sigma"), vec![1.0, 2.0, 0.0]),
            (place("typical_p"), vec![0.2, 0.5, 0.8, 1.0]),
            (place("xtc_probability"), vec![0.0, 1.0]),
        ];
        assert_eq!(axes.further, lists);
        assert_eq!(Axes::from_json(&axes.to_json()), Some(axes.clone()));
        let grid = axes.grid().unwrap();
        let keys: HashSet<_> = grid.iter().map(|point| point.key()).collect();
        assert_eq!((grid.len(), keys.len()), (2 * 2 * 3 * 4 * 2, grid.len()));
        let last = grid[grid.len() - 1];
        assert_eq!(last.to_string(), "temperature 1, xtc_probability 1, profile llamacpp");
        assert_eq!(Point::from(ParamsSpec::from(last)), last);
        assert_eq!((last.cuts(), grid[1].cuts()), (1, 3));
        for point in [axes.random(500, 3), axes.sobol(500, 3)].concat() {
            let spec = ParamsSpec::from(point);
            assert!([0.0, 1.0].contains(&spec.xtc_probability), "{point}");
            assert!(spec.top_n_sigma == 0.0 || (1.0..=2.0).contains(&spec.top_n_sigma), "{point}");
            assert!((0.2..=1.0).contains(&spec.typical_p) && point.params().is_ok(), "{point}");
        }
        let near = axes.around(grid[1], 262_144);
        assert_eq!((near.profile.len(), &near.further[2].1[..]), (1, &[0.0, 1.0][..]));
        assert_eq!(near.further[0].1, [1.0, 1.5, 2.0]);
        assert_eq!(near.further[1].1, [0.2, 0.35, 0.5]);
        let off = near.around(Point::PLAIN, 262_144);
        // Nothing is in the middle between a number of standard deviations and off.
        assert_eq!(off.further[0].1, [2.0, 0.0]);
        let said = axes.set("xtc_threshold", "off").unwrap_err().to_string();
        assert!(said.contains("xtc_threshold is off; allowed"), "{said}");
    }

    /// The sets of a refinement by a cost, round by round, and its best. The grid's best is `start`, if it is named.
    fn refined(
        axes: &Axes,
        start: Option<Point>,
        cost: impl Fn(&Point) -> f64,
    ) -> (Vec<Vec<Point>>, Point) {
        let mut refinement = Refinement::new(axes.clone(), 262_144);
        let (mut rounds, mut found) = (Vec::new(), Point::PLAIN);
        loop {
            let points = refinement.round().unwrap();
            if points.is_empty() {
                return (rounds, found);
            }
            let best = points.iter().min_by(|a, b| cost(a).total_cmp(&cost(b))).unwrap();
            found = match rounds.len() {
                0 => start.unwrap_or(*best),
                _ if cost(best) < cost(&found) => *best,
                _ => found,
            };
            refinement.found(found);
            rounds.push(points);
            assert!(rounds.len() < 40, "it does not end");
        }
    }

    #[test]
    fn refinement_leaves_its_first_box_and_goes_on_below_half_a_step() {
        let mut axes = Axes::default();
        axes.set("temperature", "0.4:2:0.4").unwrap();
        axes.set("top_k", "off").unwrap();
        axes.set("top_p", "0.5:1:0.1").unwrap();
        axes.set("min_p", "off").unwrap();
        let (temperature, top_p) = (1.33, 0.871);
        let cost = |point: &Point| {
            let (t, p) = (f64::from(point.temperature), f64::from(point.top_p));
            (t - temperature).abs() + (p - top_p).abs()
        };
        let start = Point { temperature: 0.4, top_p: 0.5, ..Point::PLAIN };
        let (rounds, best) = refined(&axes, Some(start), cost);
        println!("from {start} to {best} in {} rounds", rounds.len());
        // The first box ends at 0.8 and 0.6.
        let (t, p) = (f64::from(best.temperature), f64::from(best.top_p));
        assert!((t - temperature).abs() <= 0.02 && (p - top_p).abs() <= 0.005, "{best}");
    }

    #[test]
    fn refinement_ends_after_two_rounds_that_gain_nothing() {
        // The best is a set of the grid.
        let best = Axes::default().grid().unwrap()[17_000];
        let (rounds, found) =
            refined(&Axes::default(), None, |point| f64::from(u8::from(*point != best)));
        assert_eq!((rounds.len(), found), (3, best));
        let mut all: Vec<_> = rounds.concat().iter().map(|point| point.key()).collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count, "a set was tried twice");
    }
}
