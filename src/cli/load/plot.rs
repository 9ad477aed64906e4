//! Plots as inline SVG: lines over two axes, with a legend. Colours are classes of the page's style.

use std::fmt::Write as _;

/// Width and height of the drawing, which scales with the page.
const SIZE: (f64, f64) = (720.0, 300.0);
/// Room left, right, above and below the plot.
const LEFT: f64 = 62.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 42.0;
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

/// The drawing of these lines.
pub fn plot(label: &str, x: &Axis, y: &Axis, series: &[Series]) -> String {
    // Where each point lies, and what it says.
    let placed: Vec<Vec<_>> = series
        .iter()
        .map(|series| {
            let place = |p: &(f64, f64)| Some(((x.scale.place(p.0)?, y.scale.place(p.1)?), *p));
            series.points.iter().filter_map(place).collect()
        })
        .collect();
    let all = || placed.iter().flatten().map(|(place, _)| *place);
    if all().next().is_none() {
        return "<p class=\"none\">nothing was answered</p>".into();
    }
    let x_range = x.scale.range(all().map(|p| p.0));
    let y_range = y.scale.range(all().map(|p| p.1));
    let across =
        |at: f64| LEFT + (at - x_range.0) / (x_range.1 - x_range.0) * (SIZE.0 - LEFT - RIGHT);
    let down = |at: f64| {
        SIZE.1 - BOTTOM - (at - y_range.0) / (y_range.1 - y_range.0) * (SIZE.1 - TOP - BOTTOM)
    };

    let mut svg = format!(
        "<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">",
        SIZE.0,
        SIZE.1,
        escape(label)
    );
    for (place, value) in y.scale.ticks(y_range) {
        let (at, text) = (down(place), escape(&(y.format)(value)));
        let end = SIZE.0 - RIGHT;
        let _ = write!(svg, "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{end}\"/>");
        let _ = write!(
            svg,
            "<text class=\"tick y\" x=\"{}\" y=\"{:.1}\">{text}</text>",
            LEFT - 8.0,
            at + 4.0
        );
    }
    let floor = SIZE.1 - BOTTOM;
    for (place, value) in x.scale.ticks(x_range) {
        let (at, text) = (across(place), escape(&(x.format)(value)));
        let _ = write!(svg, "<path class=\"grid\" d=\"M{at:.1} {TOP}V{floor}\"/>");
        let _ = write!(
            svg,
            "<text class=\"tick x\" x=\"{at:.1}\" y=\"{}\">{text}</text>",
            floor + 16.0
        );
    }
    let middle = (TOP + floor) / 2.0;
    let _ = write!(svg, "<path class=\"axis\" d=\"M{LEFT} {TOP}V{floor}H{}\"/>", SIZE.0 - RIGHT);
    let _ = write!(
        svg,
        "<text class=\"name\" x=\"{}\" y=\"{}\">{}</text>",
        (LEFT + SIZE.0 - RIGHT) / 2.0,
        SIZE.1 - 6.0,
        escape(x.name)
    );
    let _ = write!(
        svg,
        "<text class=\"name\" transform=\"translate(13 {middle}) rotate(-90)\">{}</text>",
        escape(y.name)
    );
    for (i, (series, points)) in series.iter().zip(&placed).enumerate() {
        let class = i % COLOURS;
        let line: Vec<String> =
            points.iter().map(|(p, _)| format!("{:.1} {:.1}", across(p.0), down(p.1))).collect();
        if line.len() > 1 {
            let _ = write!(svg, "<path class=\"line c{class}\" d=\"M{}\"/>", line.join("L"));
        }
        if series.marked || points.len() == 1 {
            for (p, value) in points {
                let (px, py) = (across(p.0), down(p.1));
                let says =
                    format!("{}: {} at {}", series.name, (y.format)(value.1), (x.format)(value.0));
                let _ = write!(
                    svg,
                    "<circle class=\"dot c{class}\" cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"4\"><title>{}</title></circle>",
                    escape(&says)
                );
            }
        }
    }
    svg += "</svg>";
    legend(series) + &svg
}

fn legend(series: &[Series]) -> String {
    if series.len() < 2 {
        return String::new();
    }
    let mut html = String::from("<p class=\"legend\">");
    for (i, series) in series.iter().enumerate() {
        let class = i % COLOURS;
        let _ = write!(html, "<span><i class=\"c{class}\"></i>{}</span>", escape(&series.name));
    }
    html + "</p>"
}

/// Text as HTML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
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
            let svg = plot("l", &axis(x), &axis(y), std::slice::from_ref(&series));
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            assert!(svg.contains("a&lt;b") && !svg.contains("a<b"));
            let numbers = |name: &str| -> Vec<f64> {
                let start = format!("{name}=\"");
                let parts = svg.split(start.as_str()).skip(1);
                parts.map(|part| part.split('"').next().unwrap().parse().unwrap()).collect()
            };
            let (cx, cy) = (numbers("cx"), numbers("cy"));
            assert!(!cx.is_empty());
            assert!(cx.iter().all(|x| (LEFT..=SIZE.0 - RIGHT).contains(x)), "{cx:?}");
            assert!(cy.iter().all(|y| (TOP..=SIZE.1 - BOTTOM).contains(y)), "{cy:?}");
        }
    }

    #[test]
    fn without_a_point_there_is_no_plot() {
        let axis = Axis { name: "n", scale: Scale::Log, format: |v| v.to_string() };
        assert!(plot("l", &axis, &axis, &[]).contains("nothing was answered"));
    }
}
