//! A line of a file of parameters: one flat JSON object, taken apart without giving a number to anybody
//! who would round it.
//!
//! It says what is wrong with lines that programs really write: `NaN` of Python, arrays, objects over
//! several lines, two keys of one name.

/// What stands behind a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// `null`: as if the key were not there.
    Null,
    /// A string.
    Text(String),
    /// A number, or a word where one belongs: `NaN`.
    Bare(&'a str),
    /// `true`, an array or an object.
    Other(&'a str),
}

const OBJECT: &str = "a line is an object, such as {\"temperature\": 0.7, \"seed\": 42}";
const ONE_A_LINE: &str = "one object a line is wanted (jq -c . writes such lines)";

/// The keys of a line, in their order, and what stands behind them.
pub fn object(line: &str) -> Result<Vec<(String, Value<'_>)>, String> {
    let mut reader = Reader { text: line, at: 0 };
    reader.skip_space();
    if !reader.take('{') {
        return Err(format!("is {}; {OBJECT}", kind_of(reader.rest())));
    }
    let mut pairs = Vec::new();
    while !reader.take('}') {
        if !pairs.is_empty() && !reader.take(',') {
            return Err(reader.unexpected("a , or a } belongs"));
        }
        let key = reader.key()?;
        if !reader.take(':') {
            return Err(reader.unexpected(&format!("a : belongs, behind {key:?}")));
        }
        pairs.push((key, reader.value()?));
        reader.skip_space();
    }
    match reader.rest() {
        "" => Ok(pairs),
        rest => Err(format!("goes on behind its object: {}; {ONE_A_LINE}", short(rest))),
    }
}

fn kind_of(text: &str) -> &'static str {
    match text.chars().next() {
        Some('[') => "an array",
        Some('"') => "a string",
        Some('0'..='9' | '-' | '+' | '.') => "a number",
        Some('#' | '/' | ';') => "no JSON, which has no comments",
        _ => "no JSON object",
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn skip_space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.rest().starts_with(wanted);
        if found {
            self.at += wanted.len_utf8();
            self.skip_space();
        }
        found
    }

    fn unexpected(&self, wanted: &str) -> String {
        match self.rest() {
            "" => format!("ends within its object; {ONE_A_LINE}"),
            rest => format!("has {} where {wanted}", short(rest)),
        }
    }

    fn key(&mut self) -> Result<String, String> {
        if !self.rest().starts_with('"') {
            return Err(self.unexpected("a key in double quotes belongs"));
        }
        let key = self.string()?;
        self.skip_space();
        Ok(key)
    }

    fn string(&mut self) -> Result<String, String> {
        let rest = self.rest();
        let length = string_length(rest).ok_or_else(|| self.unterminated())?;
        self.at += length;
        let text = &rest[..length];
        serde_json::from_str(text)
            .map_err(|_| format!("has {}, which is no JSON string", short(text)))
    }

    fn unterminated(&self) -> String {
        format!("ends within {}; {ONE_A_LINE}", short(self.rest()))
    }

    fn value(&mut self) -> Result<Value<'a>, String> {
        let rest = self.rest();
        match rest.chars().next() {
            Some('"') => self.string().map(Value::Text),
            Some('[' | '{') => {
                let length = nested_length(rest).ok_or_else(|| self.unterminated())?;
                self.at += length;
                Ok(Value::Other(&rest[..length]))
            }
            _ => {
                let is_end =
                    |c: char| c.is_whitespace() || matches!(c, ',' | '}' | ']' | ':' | '"');
                let word = &rest[..rest.find(is_end).unwrap_or(rest.len())];
                self.at += word.len();
                match word {
                    "" => Err(self.unexpected("a value belongs")),
                    "null" => Ok(Value::Null),
                    "true" | "false" => Ok(Value::Other(word)),
                    _ => Ok(Value::Bare(word)),
                }
            }
        }
    }
}

/// Bytes of the string that a text begins with, its quotes included.
fn string_length(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (i, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(i + 1),
            _ => {}
        }
    }
    None
}

/// Bytes of the array or object that a text begins with, up to the bracket that closes the first.
fn nested_length(text: &str) -> Option<usize> {
    let (mut depth, mut at) = (0usize, 0);
    while let Some(&byte) = text.as_bytes().get(at) {
        match byte {
            b'"' => at += string_length(&text[at..])? - 1,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

/// As much of a text as an error needs.
pub fn short(text: &str) -> String {
    const CHARS_MAX: usize = 40;
    let text = text.trim();
    let cut = match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}..", &text[..end]),
        None => text.into(),
    };
    cut.replace(char::is_control, "?")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_flat_object_is_taken_apart_as_it_is_written() {
        let line = "\t{ \"a\" : 1.50 ,\"b\":\"x\\\"}\\u0041\",\"c\":NaN, \"d\":null,\"e\":[1,{\"x\":\"]\"}] } \r";
        let expected = [
            ("a", Value::Bare("1.50")),
            ("b", Value::Text("x\"}A".into())),
            ("c", Value::Bare("NaN")),
            ("d", Value::Null),
            ("e", Value::Other("[1,{\"x\":\"]\"}]")),
        ];
        let expected = expected.map(|(key, value)| (key.to_owned(), value));
        assert_eq!(object(line).unwrap(), expected);
        assert_eq!(object("{}").unwrap(), []);
    }

    #[test]
    fn what_is_no_object_on_a_line_is_named() {
        for (line, part) in [
            ("[0.7, 5]", "is an array; a line is an object"),
            ("[", "is an array"),
            ("42", "is a number"),
            ("\"a\"", "is a string"),
            ("# temperatures", "has no comments"),
            ("// x", "has no comments"),
            ("null", "no JSON object"),
            ("}", "no JSON object"),
            ("{", "ends within its object"),
            ("{\"a\"", "ends within its object"),
            ("{\"a\": 1", "ends within its object; one object a line"),
            ("{\"a\": ", "ends within its object"),
            ("{\"a\": [1, ", "ends within [1,"),
            ("{\"a\": \"x", "ends within \"x"),
            ("{'a': 1}", "has 'a': 1} where a key in double quotes belongs"),
            ("{a: 1}", "where a key in double quotes belongs"),
            ("{\"a\": 1,}", "has } where a key in double quotes belongs"),
            ("{,}", "has ,} where a key"),
            ("{\"a\" 1}", "where a : belongs, behind \"a\""),
            ("{\"a\": 1 \"b\": 2}", "has \"b\": 2} where a , or a } belongs"),
            ("{\"a\": }", "where a value belongs"),
            ("{\"a\": 1} {\"b\": 2}", "goes on behind its object: {\"b\": 2}"),
            ("{\"a\": \"\\x\"}", "is no JSON string"),
        ] {
            let said = object(line).expect_err(line);
            assert!(said.contains(part), "{line}: {said}");
        }
        let long = format!("{{\"a\": {}", "[".repeat(1 << 20));
        assert!(object(&long).unwrap_err().len() < 200);
    }

    proptest! {
        #[test]
        fn what_json_has_is_read(a: u64, b in "[a-z\"\\\\ é\n]{0,9}", c: f64) {
            let json = serde_json::json!({"a": a, "b": b, "c": c, "d": [b, {"e": c}], "f": null}).to_string();
            let pairs = object(&json).unwrap();
            prop_assert_eq!(pairs.len(), 5);
            prop_assert_eq!(&pairs[0].1, &Value::Bare(&a.to_string()));
            prop_assert_eq!(&pairs[1].1, &Value::Text(b));
        }

        #[test]
        fn no_text_makes_it_panic(text in r#"[{}\[\]",:\\a-zN0-9.é -]{0,40}"#) {
            let _ = object(&text);
        }
    }
}
