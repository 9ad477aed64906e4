//! The controls of the page: every parameter that there is, with where a slider stops.

use crate::wire::adjustments;
use logitd_core::params::{FIELDS, Field, ParamsSpec, Value};
use serde::Serialize;

/// A control.
#[derive(Debug, Serialize)]
pub struct Control {
    name: &'static str,
    about: &'static str,
    allowed: &'static str,
    group: Group,
    /// As text, which says all digits of it; nothing where it is off, or chosen by the server.
    default: Option<String>,
    /// What it can be set to, where that is one of some names.
    names: &'static [&'static str],
    /// Where its slider stops; nothing where it has none.
    stops: Vec<String>,
}

/// Where the page has it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Group {
    First,
    Cuts,
    History,
    Draws,
}

/// Every control.
pub fn controls() -> Vec<Control> {
    FIELDS.iter().map(control).collect()
}

fn control(field: &'static Field) -> Control {
    let default = match field.get(ParamsSpec::default()) {
        Value::Unset => None,
        value => Some(value.to_string()),
    };
    let (about, group) = (field.about, group(field.name));
    let stops = stops(field.name).unwrap_or_default();
    let (name, allowed) = (field.name, field.allowed);
    let names = if field.is_flag() { &["false", "true"] } else { field.names() };
    Control { name, about, allowed, group, default, names, stops }
}

fn group(name: &str) -> Group {
    match name {
        "temperature" | "top_k" | "top_p" | "min_p" => Group::First,
        "seed" | "position" | "draws" | "draw_rule" | "draft" => Group::Draws,
        _ if name.starts_with("dry_") => Group::History,
        _ if adjustments::controls().any(|control| control == name) => Group::History,
        _ => Group::Cuts,
    }
}

/// Where the slider of a parameter stops: a choice of what people try. A parameter that is not here has a box for its
/// number alone.
fn stops(name: &str) -> Option<Vec<String>> {
    let share = || even(0, 100, 100);
    Some(match name {
        "temperature" => even(0, 40, 20),
        "top_k" => text(&[
            0., 1., 2., 3., 4., 5., 6., 8., 10., 12., 15., 20., 25., 30., 40., 50., 60., 80., 100.,
            150., 200., 300., 500., 1000., 2000., 5000., 10_000., 50_000., 100_000.,
        ]),
        "top_p" | "typical_p" => [even(1, 99, 100), text(&[0.995, 0.999, 1.0])].concat(),
        "min_p" => [text(&[0.0, 0.001, 0.002, 0.005]), even(1, 100, 100)].concat(),
        "top_h" | "top_a" | "xtc_probability" | "adaptive_target" => share(),
        "xtc_threshold" => even(1, 50, 100),
        "adaptive_decay" => even(0, 99, 100),
        "top_n_sigma" => even(0, 100, 10),
        "epsilon_cutoff" | "eta_cutoff" => {
            text(&[0., 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1])
        }
        "mirostat_tau" => even(0, 100, 10),
        "mirostat_eta" => share(),
        "dynatemp_range" => even(0, 40, 20),
        "dynatemp_exponent" => even(1, 50, 10),
        "repetition_penalty" => even(50, 200, 100),
        "frequency_penalty" | "presence_penalty" => even(-40, 40, 20),
        "dry_multiplier" => even(0, 50, 10),
        "dry_base" => even(20, 80, 20),
        _ => return None,
    })
}

/// From `low / of` to `high / of`, by `1 / of`.
fn even(low: i32, high: i32, of: i32) -> Vec<String> {
    let stops: Vec<f64> = (low..=high).map(|n| f64::from(n) / f64::from(of)).collect();
    text(&stops)
}

fn text(stops: &[f64]) -> Vec<String> {
    stops.iter().map(f64::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stop_is_a_value_of_its_parameter_and_the_default_is_one_of_them() {
        for (field, control) in FIELDS.iter().zip(controls()) {
            for stop in &control.stops {
                field.read(stop).unwrap_or_else(|error| panic!("{error}"));
            }
            let known = control
                .default
                .is_none_or(|default| control.stops.is_empty() || control.stops.contains(&default));
            assert!(known, "{}: {:?}", field.name, control.stops);
        }
        let sliders = controls().iter().filter(|control| !control.stops.is_empty()).count();
        assert!(sliders >= 20, "{sliders}");
    }
}
