//! PTX text -> words, numbers and punctuation, each with its line.

/// A word, a number or a sign.
#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    Word(String),
    Number(u64),
    Punct(char),
}

/// The words of a file, and how far it has been read.
#[derive(Default)]
pub struct Lexer {
    tokens: Vec<(Token, usize)>,
    at: usize,
}

/// Reads a whole file.
pub fn lex(text: &str) -> Lexer {
    let mut tokens = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split("//").next().unwrap_or_default();
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let length = match first {
                '"' => rest[1..].find('"').map_or(rest.len(), |i| i + 2),
                _ if is_word(first) => word_length(rest),
                _ => first.len_utf8(),
            };
            let (piece, after) = rest.split_at(length);
            let token = match number_of(piece) {
                Some(value) if first.is_ascii_digit() => Token::Number(value),
                _ if is_word(first) || first == '"' => Token::Word(piece.to_owned()),
                _ => Token::Punct(first),
            };
            tokens.push((token, number + 1));
            rest = after.trim_start();
        }
    }
    Lexer { tokens, at: 0 }
}

impl Lexer {
    /// Passes over whatever comes next.
    pub fn skip(&mut self) {
        self.at += 1;
    }

    /// Whether all is read.
    pub fn done(&self) -> bool {
        self.at >= self.tokens.len()
    }

    /// The line of what comes next.
    pub fn line(&self) -> usize {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(0, |t| t.1)
    }

    /// An error at what was read last.
    pub fn error(&self, what: &str) -> String {
        format!("line {}: {what}", self.tokens[self.at.saturating_sub(1)].1)
    }

    /// Reads this sign, if it comes next.
    pub fn take(&mut self, c: char) -> bool {
        let found = matches!(self.tokens.get(self.at), Some((Token::Punct(p), _)) if *p == c);
        self.at += usize::from(found);
        found
    }

    /// Reads this sign.
    pub fn expect(&mut self, c: char) -> Result<(), String> {
        if self.take(c) { Ok(()) } else { Err(self.error(&format!("expected {c:?}"))) }
    }

    /// Reads a word.
    pub fn word(&mut self) -> Result<String, String> {
        self.at += 1;
        match self.tokens.get(self.at - 1) {
            Some((Token::Word(word), _)) => Ok(word.clone()),
            other => Err(self.error(&format!("expected a word, found {other:?}"))),
        }
    }

    /// Reads a number.
    pub fn number(&mut self) -> Result<u64, String> {
        self.signed().map(|n| n as u64).ok_or_else(|| self.error("expected a number"))
    }

    /// Reads a number that may be negative, if one comes next.
    pub fn signed(&mut self) -> Option<i64> {
        let start = self.at;
        let negative = self.take('-');
        if let Some((Token::Number(n), _)) = self.tokens.get(self.at) {
            self.at += 1;
            let n = *n as i64;
            return Some(if negative { n.wrapping_neg() } else { n });
        }
        self.at = start;
        None
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '%' | '.')
}

/// Words hold `::` inside (`ld.shared::cluster.u32`), never a single colon (a label's end).
fn word_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if is_word(bytes[at] as char) {
            at += 1;
        } else if text[at..].starts_with("::") {
            at += 2;
        } else {
            break;
        }
    }
    at
}

fn number_of(text: &str) -> Option<u64> {
    if let Some(hex) = text.strip_prefix("0f").or(text.strip_prefix("0F")) {
        return u32::from_str_radix(hex, 16).ok().map(u64::from);
    }
    if let Some(hex) = text.strip_prefix("0d").or(text.strip_prefix("0D")) {
        return u64::from_str_radix(hex, 16).ok();
    }
    let text = text.trim_end_matches('U');
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}
