//! Text for a terminal: sections, labels and lines that fit.

use clap::builder::styling::Style;

/// The columns of a page.
pub const WIDTH: usize = 80;
/// Those of the labels on its left.
const LABEL: usize = 17;
/// How titles look.
pub const TITLE: Style = Style::new().bold();
/// How remarks look.
pub const QUIET: Style = Style::new().dimmed();

/// A page of text in columns.
pub struct Page {
    text: String,
    has_styles: bool,
}

impl Page {
    /// An empty page, with styles where a terminal shows them.
    pub fn new(has_styles: bool) -> Self {
        Self { text: String::new(), has_styles }
    }

    /// All of its lines.
    pub fn finish(self) -> String {
        self.text
    }

    /// A title in a rule, and what the section is about.
    pub fn section(&mut self, title: &str, about: &str) {
        let line = "─".repeat(WIDTH - title.len() - 4);
        let (before, line) = (self.styled(QUIET, "──"), self.styled(QUIET, &line));
        self.text += &format!("\n{before} {} {line}\n", self.styled(TITLE, title));
        self.paragraph(about);
    }

    /// A remark as wide as the page.
    pub fn paragraph(&mut self, text: &str) {
        for line in wrap(text, WIDTH) {
            self.text += &format!("{}\n", self.styled(QUIET, &line));
        }
    }

    /// A label and, in lines beside it, a text.
    pub fn text(&mut self, label: &str, text: &str) {
        let mut label = label;
        for line in wrap(text, WIDTH - LABEL) {
            self.text += &format!("{label:<LABEL$}{line}\n");
            label = "";
        }
    }

    /// A remark on the text before.
    pub fn note(&mut self, text: &str) {
        for line in wrap(text, WIDTH - LABEL) {
            self.text += &format!("{:LABEL$}{}\n", "", self.styled(QUIET, &line));
        }
    }

    fn styled(&self, style: Style, text: &str) -> String {
        if self.has_styles { format!("{style}{text}{style:#}") } else { text.into() }
    }
}

/// A text in lines of so many columns, broken at its spaces.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = vec![];
    for word in text.split(' ') {
        match lines.last_mut().filter(|line| columns(line) + 1 + columns(word) <= width) {
            Some(line) => *line = format!("{line} {word}"),
            None => lines.push(word.into()),
        }
    }
    lines
}

/// The columns of a text in the letters of these stories.
pub fn columns(text: &str) -> usize {
    text.chars().count()
}
