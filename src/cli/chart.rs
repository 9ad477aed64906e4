//! A bar chart of drawn tokens, in a terminal's characters.

use super::text::{fit, grouped};
use anstyle::{AnsiColor, Style};
use std::collections::BTreeMap;

const TITLE: Style = Style::new().bold();
const QUIET: Style = Style::new().dimmed();
const BAR: Style = AnsiColor::Cyan.on_default();
/// Bars of a chart; what else was drawn shares one line.
const BARS: usize = 5;

/// How often each token was drawn under one setting.
pub struct Chart {
    title: String,
    kept: u32,
    /// Text and count, most frequent first.
    tokens: Vec<(String, usize)>,
}

impl Chart {
    /// Counts tokens; `text` gives what to show of one.
    pub fn new(
        title: String,
        kept: u32,
        tokens: impl Iterator<Item = u32>,
        text: impl Fn(u32) -> String,
    ) -> Self {
        let mut counts = BTreeMap::new();
        tokens.for_each(|token| *counts.entry(token).or_insert(0) += 1);
        let mut counts: Vec<(u32, usize)> = counts.into_iter().collect();
        counts.sort_by_key(|&(token, count)| (std::cmp::Reverse(count), token));
        let tokens = counts.into_iter().map(|(token, count)| (text(token), count)).collect();
        Self { title, kept, tokens }
    }

    /// How many different tokens were drawn.
    pub fn distinct(&self) -> usize {
        self.tokens.len()
    }

    /// How many tokens the cuts left.
    pub fn kept(&self) -> u32 {
        self.kept
    }

    /// The most frequent tokens and how often each was drawn.
    pub fn most_frequent(&self) -> impl Iterator<Item = (&str, usize)> {
        self.tokens.iter().map(|(text, count)| (text.as_str(), *count))
    }

    /// The chart in lines of exactly `width` columns (30 or more), always the same number of them. A
    /// bar's full length is all draws, so that charts can be compared.
    pub fn lines(&self, width: usize) -> Vec<String> {
        let draws: usize = self.tokens.iter().map(|(_, count)| count).sum();
        let (label, number) = (width * 3 / 10, 4);
        let room = width - label - number - 2;
        let facts = format!(
            "{} kept, {} distinct",
            grouped(u64::from(self.kept)),
            grouped(self.tokens.len() as u64)
        );
        let mut lines = vec![
            format!("{TITLE}{}{TITLE:#}", fit(&self.title, width)),
            format!("{QUIET}{}{QUIET:#}", fit(&facts, width)),
        ];
        let line = |text: &str, style: Style, count: usize| {
            let bar = fit(&bar(count, draws, room), room);
            format!("{style}{}{style:#} {BAR}{bar}{BAR:#} {count:>number$}", fit(text, label))
        };
        let (shown, rest) = self.tokens.split_at(self.tokens.len().min(BARS));
        lines.extend(shown.iter().map(|(text, count)| line(text, Style::new(), *count)));
        if !rest.is_empty() {
            let count = rest.iter().map(|(_, count)| count).sum();
            lines.push(line(&format!("{} others", rest.len()), QUIET, count));
        }
        lines.resize(2 + BARS + 1, " ".repeat(width));
        lines
    }
}

/// A bar for `part` of `whole` in at most `room` columns, to an eighth of a column; never nothing.
fn bar(part: usize, whole: usize, room: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (part * room * 8).div_ceil(whole.max(1));
    "█".repeat(eighths / 8) + EIGHTHS[eighths % 8]
}

/// Charts in a grid of as many columns as fit, with an empty line below each row of it.
pub fn grid(charts: &[Chart], width: usize) -> Vec<String> {
    const GAP: usize = 4;
    let across = if width >= 72 { 2 } else { 1 };
    let each = (width - GAP * (across - 1)) / across;
    let mut lines = Vec::new();
    for charts in charts.chunks(across) {
        let columns: Vec<Vec<String>> = charts.iter().map(|chart| chart.lines(each)).collect();
        for i in 0..columns[0].len() {
            let parts: Vec<&str> = columns.iter().map(|column| column[i].as_str()).collect();
            lines.push(parts.join(&" ".repeat(GAP)).trim_end().into());
        }
        // One empty line, however many bars the charts have.
        while lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        lines.push(String::new());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use unicode_width::UnicodeWidthStr;

    fn chart() -> Chart {
        let tokens = [(7, 100), (3, 50), (9, 25), (1, 10), (2, 8), (4, 4), (5, 3)];
        let drawn = tokens.into_iter().flat_map(|(token, count)| vec![token; count]);
        Chart::new("top_k 50".into(), 50, drawn, |token| format!("机器{token}"))
    }

    #[test]
    fn bars_are_as_long_as_their_share_and_lines_as_wide_as_asked() {
        for width in [30, 45, 100] {
            let lines = chart().lines(width);
            assert_eq!(lines.len(), 8);
            for line in &lines {
                let plain = anstream::adapter::strip_str(line).to_string();
                assert_eq!(plain.width(), width, "{plain}");
            }
            let blocks = |i: usize| lines[i].matches('█').count();
            assert!(blocks(2).abs_diff(2 * blocks(3)) <= 2, "half as many draws, half the bar");
            assert!(lines[7].contains("2 others") && lines[7].contains("7"), "{}", lines[7]);
        }
    }

    #[test]
    fn the_least_share_still_shows() {
        assert_eq!(bar(1, 1_000_000, 10), "▏");
        assert_eq!(bar(200, 200, 10), "██████████");
        assert_eq!(bar(0, 200, 10), "");
    }

    #[test]
    fn charts_stand_side_by_side_where_there_is_room() {
        let charts = [chart(), chart(), chart()];
        assert_eq!(grid(&charts, 80).len(), 18);
        assert_eq!(grid(&charts, 60).len(), 27);
    }
}
