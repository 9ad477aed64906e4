//! What a whole grid says: the best that is possible with some values, and how much each parameter matters.

use super::choose::{Chooser, Scored};
use super::further;
use super::metrics::Metric;
use super::search::{Axes, FURTHER, Further, Key, Point, can_be_off};
use logitd_core::params::Profile;
use std::collections::{BTreeMap, HashMap};

/// A parameter that is searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Parameter {
    /// `temperature`.
    Temperature,
    /// `top_k`.
    TopK,
    /// `top_p`.
    TopP,
    /// `min_p`.
    MinP,
    /// The profile.
    Profile,
    /// A further cut, by its place in [`FURTHER`].
    Further(usize),
}

impl Parameter {
    /// Those that every search has.
    pub const COMMON: [Self; 4] = [Self::Temperature, Self::TopK, Self::TopP, Self::MinP];

    /// Those of some axes.
    pub fn of(axes: &Axes) -> Vec<Self> {
        let profile = (axes.profile.len() > 1).then_some(Self::Profile);
        let further = axes.further.iter().map(|(axis, _)| Self::Further(*axis));
        Self::COMMON.into_iter().chain(profile).chain(further).collect()
    }

    /// Its name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Temperature => "temperature",
            Self::TopK => "top_k",
            Self::TopP => "top_p",
            Self::MinP => "min_p",
            Self::Profile => "profile",
            Self::Further(axis) => FURTHER[axis],
        }
    }

    /// A number that orders its values, from little effect of none to off where that is its end.
    pub fn value(self, point: Point) -> f64 {
        match self {
            Self::Temperature => point.temperature.into(),
            Self::TopK if point.top_k == 0 => f64::INFINITY,
            Self::TopK => point.top_k.into(),
            Self::TopP => point.top_p.into(),
            Self::MinP => point.min_p.into(),
            Self::Profile => f64::from(point.further.profile as u32),
            Self::Further(axis) => further::order(axis, point.further.values[axis]).into(),
        }
    }

    /// How a value is written.
    pub fn shown(self, value: f64) -> String {
        match self {
            Self::TopK if value.is_infinite() => "off".into(),
            Self::TopP if value >= 1.0 => "off".into(),
            Self::MinP if value == 0.0 => "off".into(),
            Self::TopK => value.to_string(),
            Self::Profile => Profile::ALL[value as usize].name().into(),
            Self::Further(axis) => {
                let none = further::order(axis, Further::NONE.values[axis]);
                let is_off = can_be_off(FURTHER[axis]) && value == f64::from(none);
                if is_off { "off".into() } else { (value as f32).to_string() }
            }
            _ => (value as f32).to_string(),
        }
    }
}

/// How much of what a metric varies over a grid is a parameter's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Importance {
    /// Which parameter.
    pub parameter: Parameter,
    /// By itself: the Sobol index of the first order.
    pub first: f64,
    /// With all it does together with others: the total index.
    pub total: f64,
}

/// Sets that make a whole grid.
#[derive(Clone, Debug)]
pub struct Surface<'a> {
    sets: Vec<Scored<'a>>,
    parameters: Vec<Parameter>,
    /// The values of each parameter, rising.
    axes: Vec<Vec<f64>>,
    /// The place of each set in the grid: as many numbers a set as there are parameters.
    places: Vec<usize>,
}

impl<'a> Surface<'a> {
    /// The grid of some axes, out of some sets: others of them are left out. `None` where a set of the grid is missing.
    pub fn of(sets: &[Scored<'a>], axes: &Axes) -> Option<Self> {
        let points = axes.grid().ok()?;
        let tried: HashMap<Key, Scored<'a>> =
            sets.iter().map(|set| (set.point.key(), *set)).collect();
        let sets: Vec<Scored<'a>> =
            points.iter().map(|point| tried.get(&point.key()).copied()).collect::<Option<_>>()?;
        let parameters = Parameter::of(axes);
        let values = |parameter: &Parameter| {
            let mut values: Vec<f64> = points.iter().map(|p| parameter.value(*p)).collect();
            values.sort_by(f64::total_cmp);
            values.dedup();
            values
        };
        let values: Vec<Vec<f64>> = parameters.iter().map(values).collect();
        let place = |point: &Point| {
            let point = *point;
            parameters.iter().zip(&values).map(move |(parameter, values)| {
                let value = parameter.value(point);
                values.partition_point(|of| *of < value)
            })
        };
        let places = points.iter().flat_map(place).collect();
        Some(Self { sets, parameters, axes: values, places })
    }

    /// Its parameters.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The place of a parameter among these.
    fn place(&self, of: Parameter) -> usize {
        self.parameters.iter().position(|other| *other == of).expect("one of them")
    }

    /// The places of the sets, one after another.
    fn places(&self) -> impl Iterator<Item = &[usize]> {
        self.places.chunks_exact(self.parameters.len())
    }

    /// Its sets.
    pub fn sets(&self) -> &[Scored<'a>] {
        &self.sets
    }

    /// The values of a parameter, rising.
    pub fn axis(&self, parameter: Parameter) -> &[f64] {
        &self.axes[self.place(parameter)]
    }

    /// With each pair of values of two parameters, the best set within the goal's limits, whatever the others are: rows
    /// are those of the first.
    pub fn best_with(
        &self,
        chooser: &Chooser<'_>,
        of: [Parameter; 2],
    ) -> Vec<Vec<Option<Scored<'a>>>> {
        let [rows, columns] = of.map(|of| self.place(of));
        let places: Vec<&[usize]> = self.places().collect();
        let mut best = vec![vec![None; self.axes[columns].len()]; self.axes[rows].len()];
        for i in chooser.ranked(&self.sets) {
            let cell: &mut Option<Scored<'a>> = &mut best[places[i][rows]][places[i][columns]];
            cell.get_or_insert(self.sets[i]);
        }
        best
    }

    /// The same with each value of one.
    pub fn best_with_one(&self, chooser: &Chooser<'_>, of: Parameter) -> Vec<Option<Scored<'a>>> {
        let own = self.place(of);
        let places: Vec<usize> = self.places().map(|place| place[own]).collect();
        let mut best = vec![None; self.axes[own].len()];
        for i in chooser.ranked(&self.sets) {
            best[places[i]].get_or_insert(self.sets[i]);
        }
        best
    }

    /// How much each parameter matters to a metric: exactly, since the grid is whole. Nothing where all sets have the same.
    pub fn importances(&self, chooser: &Chooser<'_>, metric: Metric) -> Option<Vec<Importance>> {
        let values: Vec<f64> =
            self.sets.iter().map(|set| chooser.measure.mean(metric, set.rows, set.sums)).collect();
        let all = variance(&values);
        if all <= 1e-18 {
            return None;
        }
        let importance = |(own, parameter): (usize, &Parameter)| {
            let first = variance(&self.means(&values, |place| vec![place[own]])) / all;
            let rest = |place: &[usize]| [&place[..own], &place[own + 1..]].concat();
            let total = 1.0 - variance(&self.means(&values, rest)) / all;
            Importance { parameter: *parameter, first, total }
        };
        Some(self.parameters.iter().enumerate().map(importance).collect())
    }

    /// The means over what has the same key.
    fn means(&self, values: &[f64], key: impl Fn(&[usize]) -> Vec<usize>) -> Vec<f64> {
        let mut sums: BTreeMap<Vec<usize>, (f64, f64)> = BTreeMap::new();
        for (place, value) in self.places().zip(values) {
            let (sum, count) = sums.entry(key(place)).or_default();
            *sum += value;
            *count += 1.0;
        }
        sums.into_values().map(|(sum, count)| sum / count).collect()
    }
}

fn variance(values: &[f64]) -> f64 {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count
}

#[cfg(test)]
mod tests {
    use super::super::goal::Goal;
    use super::super::metrics::Measure;
    use super::*;
    use logitd_core::evaluate::sums::SetSums;

    fn axes() -> Axes {
        let mut axes = Axes::default();
        axes.set("temperature", "1,2,3").unwrap();
        axes.set("top_k", "5,off").unwrap();
        axes.set("top_p", "0.5,off").unwrap();
        axes.set("min_p", "off,0.1").unwrap();
        axes
    }

    /// A grid whose nll is a function of the values, and what was tried around its best.
    fn sums(nll: impl Fn(Point) -> f64) -> Vec<(Point, SetSums)> {
        let own = |point: Point| {
            let logprob_q32 = -((nll(point) * 4_294_967_296.0) as i64);
            (point, SetSums { hits: 1, logprob_q32, ..Default::default() })
        };
        let mut around = axes();
        around.set("temperature", "1.5,1.75,2,2.25,2.5").unwrap();
        around.set("top_p", "0.5,0.6,0.7,0.8,0.9,off").unwrap();
        around.set("min_p", "off,0.05,0.1,0.15").unwrap();
        let all = [axes(), around].map(|axes| axes.grid().unwrap()).concat();
        all.into_iter().map(own).collect()
    }

    fn scored(sums: &[(Point, SetSums)]) -> Vec<Scored<'_>> {
        sums.iter().map(|(point, sums)| Scored { point: *point, rows: 1, sums }).collect()
    }

    #[test]
    fn importances_are_those_of_the_function() {
        let goal = Goal::named("nll").unwrap();
        let chooser = Chooser { goal: &goal, measure: Measure { miss_nats: 9.0 } };
        // Temperature alone, and top_p with min_p only together.
        let both =
            |point: Point| f64::from(u8::from(point.top_p < 1.0) ^ u8::from(point.min_p > 0.0));
        let own = sums(|point| 5.0 + f64::from(point.temperature) + both(point));
        let sets = scored(&own);
        let surface = Surface::of(&sets, &axes()).unwrap();
        assert_eq!(surface.sets().len(), 24);
        assert_eq!(surface.axis(Parameter::TopK), [5.0, f64::INFINITY]);
        let found = surface.importances(&chooser, Metric::Nll).unwrap();
        // Variances: 2/3 of the temperature, 1/4 of the pair.
        let (alone, pair) = (8.0 / 11.0, 3.0 / 11.0);
        for (found, (first, total)) in
            found.iter().zip([(alone, alone), (0.0, 0.0), (0.0, pair), (0.0, pair)])
        {
            assert!(
                (found.first - first).abs() < 1e-6 && (found.total - total).abs() < 1e-6,
                "{found:?}"
            );
        }
        assert!(surface.importances(&chooser, Metric::Tail).is_none());
        let best = surface.best_with_one(&chooser, Parameter::Temperature);
        assert_eq!(best[1].unwrap().point.temperature, 2.0);
        let pairs = surface.best_with(&chooser, [Parameter::TopP, Parameter::MinP]);
        // Of the four pairs, the one that costs nothing is as good with all on as with all off: fewer cuts.
        assert_eq!(pairs[1][0].unwrap().point, Point::PLAIN);
    }

    #[test]
    fn points_that_make_no_grid_have_none() {
        let own = sums(|point| point.temperature.into());
        let sets = scored(&own);
        assert!(Surface::of(&sets[1..], &axes()).is_none());
        assert!(Surface::of(&[], &axes()).is_none());
    }
}
