//! Text in columns: tokens made visible, and strings cut and padded to what a terminal shows of them.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// The width that output is laid out for: the terminal's, within 60 to 100; 80 where there is none.
pub fn columns() -> usize {
    match terminal_size::terminal_size_of(std::io::stdout()) {
        Some((width, _)) => usize::from(width.0).clamp(60, 100),
        None => 80,
    }
}

/// A token's text as a reader can tell it from others: spaces, line breaks and control characters
/// are shown.
pub fn visible(token: &str) -> String {
    let mut text = String::new();
    for c in token.chars() {
        match c {
            ' ' => text.push('␣'),
            '\n' => text.push('↵'),
            '\t' => text.push('⇥'),
            c if c.is_control() || is_formatting(c) => text.extend(c.escape_unicode()),
            c => {
                if text.is_empty() && c.width() == Some(0) {
                    text.push('◌'); // for the mark to sit on
                }
                text.push(c);
            }
        }
    }
    text
}

/// Invisible characters, some of which would turn the direction of a line, and private use.
fn is_formatting(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e000}'..='\u{f8ff}' | '\u{e0000}'..)
}

/// The text in exactly `width` columns: cut with an ellipsis, or padded with spaces.
pub fn fit(text: &str, width: usize) -> String {
    let fitted = cut(text.chars(), width).into_iter().collect::<String>();
    let pad = width.saturating_sub(fitted.width());
    isolate(&fitted) + &" ".repeat(pad)
}

/// The end of a text in at most `width` columns, on one line: cut with an ellipsis at its start.
pub fn tail(text: &str, width: usize) -> String {
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut kept = cut(line.chars().rev(), width);
    kept.reverse();
    isolate(&kept.into_iter().collect::<String>())
}

/// A text in lines of at most `width` columns, broken at its spaces where it has any.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for piece in text.split_inclusive([' ', '\n']) {
        let mut room = width - lines[lines.len() - 1].width().min(width);
        if piece.trim_end().width() > room && piece.width() <= width {
            lines.push(String::new());
            room = width;
        }
        for c in piece.chars().map(|c| if c == '\n' { ' ' } else { c }) {
            let columns = c.width().unwrap_or(0);
            if columns > room && c != ' ' {
                lines.push(String::new());
                room = width;
            }
            room = room.saturating_sub(columns);
            lines.last_mut().expect("there is a first").push(c);
        }
    }
    lines.iter().map(|line| isolate(line.trim_end())).collect()
}

/// Rows of as many cells, in columns as wide as their widest cell: the first to the left, the others to the
/// right, with two spaces between.
pub fn table(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |i: usize| rows.iter().map(|row| row[i].width()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let cell = |(i, cell): (usize, &String)| {
        let pad = " ".repeat(widths[i] - cell.width());
        if i == 0 { format!("{cell}{pad}") } else { format!("  {pad}{cell}") }
    };
    rows.iter().map(|row| row.iter().enumerate().map(cell).collect()).collect()
}

/// `1234567` as `1,234,567`.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// As many characters as fit, the last an ellipsis if some did not.
fn cut(chars: impl Iterator<Item = char> + Clone, width: usize) -> Vec<char> {
    let total: usize = chars.clone().filter_map(|c| c.width()).sum();
    if total <= width {
        return chars.collect();
    }
    let mut used = 1;
    let mut kept: Vec<char> = chars
        .take_while(|c| {
            used += c.width().unwrap_or(0);
            used <= width
        })
        .collect();
    kept.push('…');
    kept
}

/// A text that runs from right to left, between the characters that keep it from turning its
/// surroundings around (they have no width); any other as it is.
pub fn isolate(text: &str) -> String {
    let right_to_left = text.chars().any(
        |c| matches!(c, '\u{590}'..='\u{8ff}' | '\u{fb1d}'..='\u{fdff}' | '\u{fe70}'..='\u{fefe}'),
    );
    if right_to_left { format!("\u{2068}{text}\u{2069}") } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whitespace_and_controls_are_shown() {
        assert_eq!(visible(" a\n\tb"), "␣a↵⇥b");
        assert_eq!(visible("\u{0}\u{200b}\u{e331}"), "\\u{0}\\u{200b}\\u{e331}");
        assert_eq!(visible("机器人"), "机器人");
        assert_eq!(visible("\u{301}e\u{301}"), "◌\u{301}e\u{301}");
    }

    #[test]
    fn every_script_fits_its_columns() {
        for text in ["", "fisherman", "机器人和手机", " والتي تقع على", "🤽🆗", "e\u{301}te\u{301}"]
        {
            for width in [1, 2, 5, 8, 40] {
                assert_eq!(fit(text, width).width(), width, "{text:?} in {width}");
                assert!(tail(text, width).width() <= width, "{text:?} in {width}");
                if width > 1 {
                    assert!(wrap(text, width).iter().all(|line| line.width() <= width));
                }
            }
        }
        assert_eq!(fit("fisherman", 5), "fish…");
        assert_eq!(fit("机器人", 4), "机… ");
        assert_eq!(tail("an old\n fisherman", 10), "…fisherman");
        assert_eq!(tail("an old\n fisherman", 16), "an old fisherman");
    }

    #[test]
    fn lines_break_at_spaces_if_they_can() {
        assert_eq!(wrap("an old fisherman\nwho", 10), ["an old", "fisherman", "who"]);
        assert_eq!(wrap("人工智能正在", 5), ["人工", "智能", "正在"]);
        assert_eq!(wrap("fisherman", 5), ["fishe", "rman"]);
        assert_eq!(wrap("", 5), [""]);
    }

    #[test]
    fn columns_never_run_together() {
        let row = |cells: &[&str]| cells.iter().map(|cell| cell.to_string()).collect::<Vec<_>>();
        let rows = [row(&["", "p50", "max"]), row(&["service", "1,234,567", "12,345,678"])];
        let expected = ["               p50         max", "service  1,234,567  12,345,678"];
        assert_eq!(table(&rows), expected);
        assert!(table(&[]).is_empty());
    }

    #[test]
    fn digits_are_grouped() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
