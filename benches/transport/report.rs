//! A table for people, a line a figure for programs.

use super::case::{Case, Load, Route, Socket};
use serde_json::json;

/// Figures as they come.
pub struct Report {
    json: bool,
    figures: Vec<(Case, f64)>,
}

impl Report {
    pub fn new(json: bool) -> Self {
        Self { json, figures: Vec::new() }
    }

    /// Adds the calls a second of every round.
    pub fn add(&mut self, case: Case, mut rounds: Vec<f64>) {
        rounds.sort_by(f64::total_cmp);
        let median = rounds[rounds.len() / 2];
        let gb = case.load.bytes() as f64 / 1e9;
        if self.json {
            let figure = json!({
                "route": case.route.to_string(),
                "socket": case.socket.to_string(),
                "rows": case.load.rows,
                "messages": case.load.messages,
                "bytes": case.load.bytes(),
                "gb_per_second": median * gb,
                "gb_per_second_min": rounds[0] * gb,
                "gb_per_second_max": rounds[rounds.len() - 1] * gb,
                "call_us": 1e6 / median,
            });
            println!("{figure}");
        }
        self.figures.push((case, median * gb));
    }

    pub fn print(&self) {
        if self.json {
            return;
        }
        for socket in Socket::ALL {
            let here = |figure: &&(Case, f64)| figure.0.socket == socket;
            let mut loads: Vec<Load> = Vec::new();
            for (case, _) in self.figures.iter().filter(here) {
                if !loads.contains(&case.load) {
                    loads.push(case.load);
                }
            }
            if loads.is_empty() {
                continue;
            }
            print!("\n{:<36}", format!("{}, GB/s", socket.text()));
            loads.iter().for_each(|load| print!("{load:>15}"));
            println!();
            for route in Route::ALL {
                let figure = |load: &Load| {
                    let found = self.figures.iter().filter(here);
                    found.clone().find(|(case, _)| case.route == route && case.load == *load)
                };
                let figures: Vec<_> = loads.iter().filter_map(figure).collect();
                if !figures.is_empty() {
                    print!("{:<36}", route.text());
                    figures.iter().for_each(|(_, gb)| print!("{gb:>15.2}"));
                    println!();
                }
            }
        }
    }
}
