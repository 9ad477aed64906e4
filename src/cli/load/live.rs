//! How a run is going: a line that changes on a terminal, a line a second elsewhere, on stderr.

use crate::tools::load::{Plan, Recent, Tick};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal as _;
use std::time::Duration;

/// Where progress is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Live {
    /// Nowhere.
    Quiet,
    /// On a line that changes.
    Terminal,
    /// A line a second.
    Lines,
}

impl Live {
    /// On stderr, as fits what it is.
    pub fn new(quiet: bool) -> Self {
        match (quiet, std::io::stderr().is_terminal()) {
            (true, _) => Self::Quiet,
            (_, true) => Self::Terminal,
            (_, false) => Self::Lines,
        }
    }

    /// The view of a run, one of several.
    pub fn run(self, plan: &Plan, place: (usize, usize)) -> RunView {
        let bar = match self {
            Self::Terminal => bar(
                plan.duration.as_millis().try_into().unwrap_or(u64::MAX),
                "{prefix}{wide_bar} {msg} ",
            ),
            Self::Quiet | Self::Lines => ProgressBar::hidden(),
        };
        let prefix = if place.1 > 1 { format!("{}/{}  ", place.0, place.1) } else { String::new() };
        bar.set_prefix(prefix.clone());
        RunView {
            live: self,
            bar,
            prefix,
            duration: plan.duration,
            said_s: None,
            since: Recent::default(),
        }
    }

    /// The view of checking.
    pub fn check(self) -> CheckView {
        CheckView { live: self, bar: None }
    }
}

/// The view of one run.
pub struct RunView {
    live: Live,
    bar: ProgressBar,
    prefix: String,
    duration: Duration,
    /// When the last line was said.
    said_s: Option<f64>,
    /// What came since.
    since: Recent,
}

impl RunView {
    /// Takes what came since the last tick.
    pub fn tick(&mut self, tick: &Tick<'_>) {
        if self.live == Live::Quiet {
            return;
        }
        self.since.merge(tick.latest);
        self.bar.set_position((tick.at_s.max(0.0) * 1000.0) as u64);
        let seconds = tick.at_s - *self.said_s.get_or_insert(tick.at_s);
        if seconds < 0.999 {
            return;
        }
        let text = self.text(tick, seconds);
        match self.live {
            Live::Terminal => self.bar.set_message(text),
            Live::Lines => {
                eprintln!(
                    "{}{:>5.1} of {:.0} s  {text}",
                    self.prefix,
                    tick.at_s,
                    self.duration.as_secs_f64()
                );
            }
            Live::Quiet => {}
        }
        self.said_s = Some(tick.at_s);
        self.since.clear();
    }

    fn text(&self, tick: &Tick<'_>, seconds: f64) -> String {
        if tick.at_s < 0.0 {
            return format!("warming up, {} unanswered", tick.outstanding);
        }
        let Recent { counts, response } = &self.since;
        let per_s = |n: u64| n as f64 / seconds;
        let us = |quantile| response.value_at_quantile(quantile) as f64 / 1000.0;
        let mut text = format!(
            "{:.0} requests/s  {:.0} rows/s  p50 {:.0} us  p99 {:.0} us  {} unanswered",
            per_s(counts.answered),
            per_s(counts.rows),
            us(0.5),
            us(0.99),
            tick.outstanding
        );
        for (n, name) in [
            (counts.refused, "refused"),
            (counts.errors_total(), "failed"),
            (counts.overflow, "not sent"),
        ] {
            if n > 0 {
                text += &format!("  {n} {name}");
            }
        }
        text
    }
}

impl Drop for RunView {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// The view of checking.
pub struct CheckView {
    live: Live,
    bar: Option<ProgressBar>,
}

impl CheckView {
    /// So many rows are left.
    pub fn left(&mut self, rows: usize) {
        if self.live != Live::Terminal {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            bar(rows as u64, "{wide_bar} {human_pos} of {human_len} rows checked, {eta} left ")
        });
        bar.set_position(bar.length().unwrap_or(0).saturating_sub(rows as u64));
    }
}

impl Drop for CheckView {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar(length: u64, template: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
    bar.set_style(ProgressStyle::with_template(template).expect("a valid template"));
    bar
}
