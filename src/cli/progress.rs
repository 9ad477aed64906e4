//! A progress bar for work that takes more than a second, on a terminal only.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::time::{Duration, Instant};

/// How long work has to last to be worth a bar.
const PATIENCE: Duration = Duration::from_secs(1);

/// Work of a known length. Draws on stderr, and on a terminal only; the bar goes when it is dropped.
pub struct Progress {
    bar: ProgressBar,
    start: Instant,
    total: u64,
}

impl Progress {
    /// Work of `total` units, named in the plural.
    pub fn new(total: u64, unit: &'static str) -> Self {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
        let template = format!("{{wide_bar}} {{human_pos}} of {{human_len}} {unit}, {{eta}} left ");
        bar.set_style(ProgressStyle::with_template(&template).expect("a valid template"));
        Self { bar, start: Instant::now(), total }
    }

    /// So many units more are to be done.
    pub fn extend(&mut self, units: u64) {
        self.total += units;
        self.bar.inc_length(units);
    }

    /// So many units more are done.
    pub fn advance(&mut self, units: u64) {
        self.bar.inc(units);
        let worth_it = self.start.elapsed() > PATIENCE && self.bar.position() < self.total;
        if self.bar.is_hidden() && worth_it {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
