//! Plots: where lines over two axes lie. Their markup is `templates/plot.html`, their colours are classes of its style.

use askama::Template;
use std::fmt;

/// The drawing, which scales with the page.
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 300.0;
/// The edges of the plot in it; what is around them is for the axes.
const LEFT: f64 = 62.0;
const RIGHT: f64 = 704.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 258.0;
/// Series that have a colour of their own; more begin again.
pub const COLOURS: usize = 6;

/// How values lie along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// From zero.
    Linear,
    /// By powers of ten; values at or below zero are left out.
    Log,
    /// Quantiles, so that each nine is as wide as the one before.
    Tail,
}

/// An axis: its name with the unit, and how values lie along it.
#[derive(Clone, Debug)]
pub struct Axis {
    /// For people.
    pub name: &'static str,
    /// Of its values.
    pub scale: Scale,
    /// A value, written at a tick.
    pub format: fn(f64) -> String,
}

/// A line.
#[derive(Clone, Debug)]
pub struct Series {
    /// For the legend.
    pub name: String,
    /// In the order of x.
    pub points: Vec<(f64, f64)>,
    /// Whether points are marked and say their values when pointed at.
    pub marked: bool,
}

/// Lines, laid out; displayed, it is HTML.
#[derive(Debug, Template)]
#[template(path = "plot.html")]
pub struct Plot {
    /// For those who do not see it.
    label: &'static str,
    x: Ticks,
    y: Ticks,
    /// None where no series has a point.
    lines: Vec<Line>,
}

#[derive(Debug)]
struct Ticks {
    name: &'static str,
    ticks: Vec<Tick>,
}

#[derive(Debug)]
struct Tick {
    at: Pixel,
    text: String,
}

#[derive(Debug)]
struct Line {
    name: String,
    colour: usize,
    points: Vec<Point>,
    dots: Vec<Dot>,
}

#[derive(Debug)]
struct Dot {
    at: Point,
    says: String,
}

#[derive(Clone, Copy, Debug)]
struct Point {
    x: Pixel,
    y: Pixel,
}

/// Written to a tenth: nobody sees more, and it would make the page longer.
#[derive(Clone, Copy, Debug)]
struct Pixel(f64);

impl fmt::Display for Pixel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1}", self.0)
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.x, self.y)
    }
}

impl Plot {
    /// These lines, over axes that hold all their points.
    pub fn new(label: &'static str, x: &Axis, y: &Axis, series: &[Series]) -> Self {
        let placed: Vec<Vec<Placed>> = series
            .iter()
            .map(|series| {
                let place = |&value: &(f64, f64)| {
                    Some(Placed {
                        value,
                        place: (x.scale.place(value.0)?, y.scale.place(value.1)?),
                    })
                };
                series.points.iter().filter_map(place).collect()
            })
            .collect();
        let all = || placed.iter().flatten().map(|point| point.place);
        if all().next().is_none() {
            let bare = |axis: &Axis| Ticks { name: axis.name, ticks: Vec::new() };
            return Self { label, x: bare(x), y: bare(y), lines: Vec::new() };
        }
        let across = Fitted::new(x, all().map(|p| p.0), (LEFT, RIGHT));
        let down = Fitted::new(y, all().map(|p| p.1), (BOTTOM, TOP));
        let lines = series.iter().zip(&placed).enumerate();
        let lines = lines.map(|(i, (series, points))| Line::new(i, series, points, &across, &down));
        Self { label, x: across.ticks(), y: down.ticks(), lines: lines.collect() }
    }
}

/// A point that lies on both axes.
struct Placed {
    value: (f64, f64),
    place: (f64, f64),
}

impl Line {
    fn new(
        index: usize,
        series: &Series,
        points: &[Placed],
        across: &Fitted<'_>,
        down: &Fitted<'_>,
    ) -> Self {
        let at = |p: &Placed| Point { x: across.pixel(p.place.0), y: down.pixel(p.place.1) };
        let dot = |p: &Placed| {
            let (x, y) = ((across.axis.format)(p.value.0), (down.axis.format)(p.value.1));
            Dot { at: at(p), says: format!("{}: {y} at {x}", series.name) }
        };
        // A single point is no line, so it is marked.
        let marked = series.marked || points.len() == 1;
        Self {
            name: series.name.clone(),
            colour: index % COLOURS,
            points: points.iter().map(at).collect(),
            dots: if marked { points.iter().map(dot).collect() } else { Vec::new() },
        }
    }
}

/// An axis and the part of the drawing that it spans.
struct Fitted<'a> {
    axis: &'a Axis,
    range: (f64, f64),
    span: (f64, f64),
}

impl<'a> Fitted<'a> {
    fn new(axis: &'a Axis, places: impl Iterator<Item = f64>, span: (f64, f64)) -> Self {
        Self { axis, range: axis.scale.range(places), span }
    }

    fn pixel(&self, place: f64) -> Pixel {
        let share = (place - self.range.0) / (self.range.1 - self.range.0);
        Pixel(self.span.0 + share * (self.span.1 - self.span.0))
    }

    fn ticks(&self) -> Ticks {
        let ticks = self.axis.scale.ticks(self.range).into_iter();
        let tick = |(place, value)| Tick { at: self.pixel(place), text: (self.axis.format)(value) };
        Ticks { name: self.axis.name, ticks: ticks.map(tick).collect() }
    }
}

impl Scale {
    /// Where a value lies, before the axis is fitted to the drawing.
    fn place(self, value: f64) -> Option<f64> {
        let at = match self {
            Self::Linear => value,
            Self::Log => value.log10(),
            Self::Tail => -(1.0 - value).log10(),
        };
        at.is_finite().then_some(at)
    }

    /// The ends of the axis.
    fn range(self, places: impl Iterator<Item = f64>) -> (f64, f64) {
        let (low, high) =
            places.fold((f64::MAX, f64::MIN), |(low, high), p| (low.min(p), high.max(p)));
        match self {
            Self::Linear => {
                let high = if high > 0.0 { high } else { 1.0 };
                let step = nice(high / 5.0);
                (low.min(0.0), (high / step).ceil() * step)
            }
            // At least from one 1, 2 or 5 to another.
            Self::Log if high - low < 0.4 => (low - 0.2, high + 0.2),
            Self::Log => (low - 0.05, high + 0.05),
            Self::Tail => (0.0, high.max(1.0)),
        }
    }

    /// Places on the axis and the values there.
    fn ticks(self, (low, high): (f64, f64)) -> Vec<(f64, f64)> {
        match self {
            Self::Linear => {
                let step = nice((high - low) / 5.0);
                let count = ((high - low) / step).round() as i32;
                (0..=count).map(|i| low + f64::from(i) * step).map(|v| (v, v)).collect()
            }
            Self::Log => {
                let digits: &[f64] = match high - low {
                    span if span < 2.5 => &[1.0, 2.0, 5.0],
                    _ => &[1.0],
                };
                let decades = low.floor() as i32..=high.ceil() as i32;
                decades
                    .flat_map(|decade| digits.iter().map(move |digit| digit * 10f64.powi(decade)))
                    .map(|value| (value.log10(), value))
                    .filter(|(place, _)| (low..=high).contains(place))
                    .collect()
            }
            Self::Tail => {
                let nines = (0..=high.floor() as i32).map(|n| (f64::from(n), 1.0 - 10f64.powi(-n)));
                let half = 0.5f64;
                let mut ticks: Vec<_> = nines.collect();
                ticks.insert(1, (-(1.0 - half).log10(), half));
                ticks
            }
        }
    }
}

/// The next of 1, 2, 5, 10, 20, ... at or above.
fn nice(step: f64) -> f64 {
    let unit = 10f64.powf(step.log10().floor());
    let digit = [1.0, 2.0, 5.0, 10.0].into_iter().find(|digit| digit * unit >= step * 0.999_999);
    digit.unwrap_or(10.0) * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(scale: Scale, range: (f64, f64)) -> Vec<f64> {
        let round = |v: f64| (v * 1e6).round() / 1e6;
        scale.ticks(range).into_iter().map(|(_, value)| round(value)).collect()
    }

    #[test]
    fn ticks_are_round_numbers_within_the_axis() {
        assert_eq!(values(Scale::Linear, (0.0, 1000.0)), [0.0, 200.0, 400.0, 600.0, 800.0, 1000.0]);
        assert_eq!(values(Scale::Log, (0.9, 2.1)), [10.0, 20.0, 50.0, 100.0]);
        assert_eq!(values(Scale::Log, (0.0, 3.0)), [1.0, 10.0, 100.0, 1000.0]);
        assert_eq!(values(Scale::Tail, (0.0, 3.4)), [0.0, 0.5, 0.9, 0.99, 0.999]);
    }

    #[test]
    fn every_point_is_inside_the_drawing() {
        let axis = |scale| Axis { name: "n", scale, format: |v| v.to_string() };
        for (x, y, points) in [
            (Scale::Linear, Scale::Log, vec![(0.0, 3.0), (7.3, 1e6), (9.0, 0.0)]),
            (Scale::Tail, Scale::Log, vec![(0.0, 3.0), (0.9999, 4.0), (1.0, 5.0)]),
            (Scale::Log, Scale::Linear, vec![(5.0, 0.0)]),
            (Scale::Linear, Scale::Linear, vec![(0.0, 0.0), (1.0, 0.0)]),
        ] {
            let series = Series { name: "a<b".into(), points, marked: true };
            let svg = Plot::new("l", &axis(x), &axis(y), &[series]).to_string();
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            assert!(svg.contains("a&#60;b") && !svg.contains("a<b"));
            let numbers = |name: &str| -> Vec<f64> {
                let start = format!("{name}=\"");
                let parts = svg.split(start.as_str()).skip(1);
                parts.map(|part| part.split('"').next().unwrap().parse().unwrap()).collect()
            };
            let (cx, cy) = (numbers("cx"), numbers("cy"));
            assert!(!cx.is_empty());
            assert!(cx.iter().all(|x| (LEFT..=RIGHT).contains(x)), "{cx:?}");
            assert!(cy.iter().all(|y| (TOP..=BOTTOM).contains(y)), "{cy:?}");
        }
    }

    #[test]
    fn without_a_point_there_is_no_plot() {
        let axis = Axis { name: "n", scale: Scale::Log, format: |v| v.to_string() };
        let empty = Series { name: "a".into(), points: vec![(1.0, 0.0)], marked: true };
        for series in [&[][..], &[empty]] {
            let html = Plot::new("l", &axis, &axis, series).to_string();
            assert!(html.contains("nothing was answered") && !html.contains("<svg"), "{html}");
        }
    }
}
