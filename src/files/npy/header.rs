//! The header of a `.npy` file: a dictionary, written as a Python literal.
//!
//! It is read as Python reads it, and not searched for what looks right: keys in any order and once
//! each, `True` or `False` and nothing like them, whole numbers as Python 2 wrote them too (`2L`). What
//! is there beside the three keys of a plain array, or instead of them, is refused by name.

use super::NpyError;

const KEYS: [&str; 3] = ["descr", "fortran_order", "shape"];
/// Literals within literals, at most.
const DEPTH_MAX: usize = 16;
/// Characters of a header that an error repeats.
const QUOTED_MAX: usize = 60;

/// What the header of a plain array says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// numpy's name of the dtype.
    pub descr: String,
    /// Whether columns come first.
    pub fortran_order: bool,
    /// The length of each dimension; `None` where it is no u64.
    pub shape: Vec<Option<u64>>,
    /// The same, as it is written.
    pub shape_text: String,
}

/// Reads the text of a header.
pub fn parse(text: &str) -> Result<Header, NpyError> {
    let mut reader = Reader { text, at: 0, depth: 0 };
    reader.skip_space();
    let pairs = match reader.value()? {
        Value { kind: Kind::Dictionary(pairs), .. } => pairs,
        Value { text, .. } => return wrong(format!("is {}, not a dictionary", quoted(text))),
    };
    reader.skip_space();
    if !reader.rest().trim_matches('\0').is_empty() {
        return wrong(format!("goes on after its dictionary: {}", quoted(reader.rest())));
    }
    let [descr, fortran_order, shape] = three(pairs)?;
    let descr = match descr.kind {
        Kind::Text(descr) => descr.to_owned(),
        _ => return Err(NpyError::Structure(quoted(descr.text))),
    };
    let fortran_order = match fortran_order.kind {
        Kind::Bool(order) => order,
        _ => {
            let written = quoted(fortran_order.text);
            return wrong(format!(
                "says fortran_order: {written}, which is not True and not False"
            ));
        }
    };
    let shape_text = quoted(shape.text);
    let dimensions = match &shape.kind {
        Kind::Tuple(items) => items.iter().map(|item| item.whole_number()).collect(),
        _ => None,
    };
    let Some(shape) = dimensions else {
        let written = &shape_text;
        return wrong(format!("says shape: {written}, which is no tuple of whole numbers"));
    };
    Ok(Header { descr, fortran_order, shape, shape_text })
}

/// The values of the three keys, if there are these three and no others.
fn three<'a>(pairs: Vec<(Value<'a>, Value<'a>)>) -> Result<[Value<'a>; 3], NpyError> {
    let mut found: [Option<Value<'a>>; 3] = [None, None, None];
    for (key, value) in pairs {
        let known = match key.kind {
            Kind::Text(name) => KEYS.iter().position(|key| *key == name),
            _ => None,
        };
        let Some(place) = known else {
            return wrong(format!("has the unknown key {}", quoted(key.text)));
        };
        if found[place].replace(value).is_some() {
            return wrong(format!("has {} twice", KEYS[place]));
        }
    }
    if let Some(place) = found.iter().position(Option::is_none) {
        return wrong(format!("has no {}", KEYS[place]));
    }
    Ok(found.map(|value| value.expect("each was found")))
}

/// A literal, and how it is written.
struct Value<'a> {
    text: &'a str,
    kind: Kind<'a>,
}

enum Kind<'a> {
    Text(&'a str),
    Bool(bool),
    /// `None` where it is below 0 or beyond 64 bits.
    Whole(Option<u64>),
    Tuple(Vec<Value<'a>>),
    Dictionary(Vec<(Value<'a>, Value<'a>)>),
    /// What Python has and no header of a plain array.
    Other,
}

impl Value<'_> {
    fn whole_number(&self) -> Option<Option<u64>> {
        match self.kind {
            Kind::Whole(number) => Some(number),
            _ => None,
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn skip_space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    /// Takes this character, and the space behind it, if it is the next.
    fn take(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.at += wanted.len_utf8();
            self.skip_space();
        }
        found
    }

    /// Takes the characters up to the first that is not so.
    fn take_while(&mut self, is_part: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    /// The literal that begins here.
    fn value(&mut self) -> Result<Value<'a>, NpyError> {
        let start = self.at;
        let kind = match self.peek() {
            Some('\'' | '"') => Kind::Text(self.string()?),
            Some('(') => self.nested(Self::tuple)?,
            Some('[') => self.nested(|reader| reader.items('[', ']').map(|_| Kind::Other))?,
            Some('{') => self.nested(Self::dictionary)?,
            Some('0'..='9' | '-' | '+' | '.') => self.number(),
            Some(c) if c.is_alphabetic() || c == '_' => self.word()?,
            Some(_) => return wrong(format!("cannot be read from {} on", quoted(self.rest()))),
            None => return wrong("ends too early".into()),
        };
        Ok(Value { text: self.text[start..self.at].trim_end(), kind })
    }

    fn nested(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<Kind<'a>, NpyError>,
    ) -> Result<Kind<'a>, NpyError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return wrong(format!("has more than {DEPTH_MAX} literals within each other"));
        }
        let kind = read(self);
        self.depth -= 1;
        kind
    }

    /// What stands between the quotes. Escapes are left as they are: no name that is accepted has any.
    fn string(&mut self) -> Result<&'a str, NpyError> {
        let rest = self.rest();
        let quote = rest.chars().next().expect("a quote was seen");
        let mut escaped = false;
        for (i, c) in rest.char_indices().skip(1) {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                c if c == quote => {
                    self.at += i + 1;
                    return Ok(&rest[1..i]);
                }
                _ => {}
            }
        }
        wrong(format!("has a string without an end: {}", quoted(rest)))
    }

    /// `(2, 3)`, `(2,)` and `()` are tuples; `(2)` is 2.
    fn tuple(&mut self) -> Result<Kind<'a>, NpyError> {
        let (mut items, comma) = self.items('(', ')')?;
        match items.pop() {
            Some(only) if items.is_empty() && !comma => Ok(only.kind),
            Some(last) => {
                items.push(last);
                Ok(Kind::Tuple(items))
            }
            None => Ok(Kind::Tuple(items)),
        }
    }

    /// What stands between brackets, and whether a comma does.
    fn items(&mut self, open: char, close: char) -> Result<(Vec<Value<'a>>, bool), NpyError> {
        self.take(open);
        let (mut items, mut comma) = (Vec::new(), false);
        while !self.closed(close)? {
            items.push(self.value()?);
            self.skip_space();
            if self.take(',') {
                comma = true;
            } else if self.peek() != Some(close) {
                return self.unexpected(close);
            }
        }
        Ok((items, comma))
    }

    fn dictionary(&mut self) -> Result<Kind<'a>, NpyError> {
        self.take('{');
        let mut pairs = Vec::new();
        while !self.closed('}')? {
            let key = self.value()?;
            self.skip_space();
            if !self.take(':') {
                return self.unexpected(':');
            }
            pairs.push((key, self.value()?));
            self.skip_space();
            if !self.take(',') && self.peek() != Some('}') {
                return self.unexpected('}');
            }
        }
        Ok(Kind::Dictionary(pairs))
    }

    /// Takes the bracket that closes, if it is next.
    fn closed(&mut self, close: char) -> Result<bool, NpyError> {
        match self.peek() {
            Some(c) if c == close => {
                self.at += 1;
                Ok(true)
            }
            Some(_) => Ok(false),
            None => wrong(format!("ends before a {close}")),
        }
    }

    fn unexpected<T>(&self, wanted: char) -> Result<T, NpyError> {
        match self.rest() {
            "" => wrong(format!("ends before a {wanted}")),
            rest => wrong(format!("has {} where a {wanted} belongs", quoted(rest))),
        }
    }

    fn number(&mut self) -> Kind<'a> {
        let text = self.take_while(|c| c.is_alphanumeric() || matches!(c, '-' | '+' | '.' | '_'));
        // Python 2 wrote long numbers with an L.
        let digits = text.strip_suffix(['L', 'l']).unwrap_or(text);
        let unsigned = digits.strip_prefix(['-', '+']).unwrap_or(digits);
        let is_whole = !unsigned.is_empty() && unsigned.bytes().all(|b| b.is_ascii_digit());
        let has_zeros = unsigned.len() > 1 && unsigned.starts_with('0');
        match is_whole && !has_zeros {
            true => Kind::Whole(digits.parse().ok()),
            false => Kind::Other,
        }
    }

    /// A name, or a string with a letter before it, as Python 2 writes those of Unicode.
    fn word(&mut self) -> Result<Kind<'a>, NpyError> {
        let word = self.take_while(|c| c.is_alphanumeric() || c == '_');
        if let Some('\'' | '"') = self.peek() {
            let text = self.string()?;
            return Ok(if matches!(word, "u" | "U") { Kind::Text(text) } else { Kind::Other });
        }
        Ok(match word {
            "True" => Kind::Bool(true),
            "False" => Kind::Bool(false),
            _ => Kind::Other,
        })
    }
}

/// As much of a text as an error needs, on one line.
fn quoted(text: &str) -> String {
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(QUOTED_MAX) {
        Some((end, _)) => format!("{}..", &line[..end]).escape_debug().to_string(),
        None => line.chars().flat_map(shown).collect(),
    }
}

/// Control characters escaped, quotes as they are.
fn shown(c: char) -> Vec<char> {
    if c.is_control() { c.escape_debug().collect() } else { vec![c] }
}

fn wrong<T>(what: String) -> Result<T, NpyError> {
    Err(NpyError::Header(what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(text: &str) -> Header {
        parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn error(text: &str) -> String {
        parse(text).expect_err(text).to_string()
    }

    #[test]
    fn a_header_is_read_in_every_way_python_writes_it() {
        let plain = header("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }   \n");
        assert_eq!(plain.descr, "<f4");
        assert!(!plain.fortran_order);
        assert_eq!((plain.shape, &*plain.shape_text), (vec![Some(2), Some(3)], "(2, 3)"));
        for text in [
            "{'shape':(2,3),'descr':'<f4','fortran_order':False}",
            "  { \"shape\" : ( 2 , 3 , ) ,\n\t\"fortran_order\" : False , \"descr\" : \"<f4\" , } ",
            "{u'descr': u'<f4', 'fortran_order': False, 'shape': (2L, 3L), }\n",
            "{'descr': '<f4', 'fortran_order': (False), 'shape': ((2), 3)}",
        ] {
            let read = header(text);
            assert_eq!((read.descr.as_str(), read.fortran_order), ("<f4", false), "{text}");
            assert_eq!(read.shape, [Some(2), Some(3)], "{text}");
        }
        let one = header("{'descr': '<f2', 'fortran_order': True, 'shape': (7,), }");
        assert!(one.fortran_order);
        assert_eq!(one.shape, [Some(7)]);
        assert_eq!(header("{'descr':'','fortran_order':True,'shape':()}").shape, []);
        let far = "{'descr':'','fortran_order':True,'shape':(-1, 18446744073709551616L)}";
        assert_eq!(header(far).shape, [None, None]);
    }

    #[test]
    fn what_is_not_the_header_of_a_plain_array_is_named() {
        let with = |order: &str, shape: &str| {
            format!("{{'descr': '<f4', 'fortran_order': {order}, 'shape': {shape}, }}")
        };
        for (text, part) in [
            (&*with("1", "(2, 3)"), "fortran_order: 1, which is not True and not False"),
            (&with("0", "(2, 3)"), "fortran_order: 0,"),
            (&with("'True'", "(2, 3)"), "fortran_order: 'True',"),
            (&with("true", "(2, 3)"), "fortran_order: true,"),
            (&with("None", "(2, 3)"), "fortran_order: None,"),
            (&with("Trueish", "(2, 3)"), "fortran_order: Trueish,"),
            (&with("False", "[2, 3]"), "shape: [2, 3], which is no tuple"),
            (&with("False", "(7)"), "shape: (7), which is no tuple"),
            (&with("False", "(2.0, 3)"), "shape: (2.0, 3),"),
            (&with("False", "(0x2, 3)"), "shape: (0x2, 3),"),
            (&with("False", "(02, 3)"), "shape: (02, 3),"),
            (&with("False", "(True, 3)"), "shape: (True, 3),"),
            (&with("False", "('2', 3)"), "shape: ('2', 3),"),
            (&with("False", "(2, 3), 'shape': (3, 2)"), "has shape twice"),
            (&with("False, 'fortran_order': True", "(2, 3)"), "has fortran_order twice"),
            (&with("False, 'version': 1", "(2, 3)"), "has the unknown key 'version'"),
            (&with("False, 7: 1", "(2, 3)"), "has the unknown key 7"),
            ("{'descr': '<f4', 'fortran_order': False}", "has no shape"),
            ("{'shape': (2, 3), 'fortran_order': False}", "has no descr"),
            ("{}", "has no descr"),
            ("", "ends too early"),
            ("{'descr': '<f4'", "ends before a }"),
            ("{'descr': '<f", "without an end: '<f"),
            ("{'descr' '<f4'}", "'<f4'} where a : belongs"),
            ("{'descr': '<f4' 'shape': (2, 3)}", "where a } belongs"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (2 3)}", "where a ) belongs"),
            ("['descr']", "is ['descr'], not a dictionary"),
            ("{'descr': ?}", "cannot be read from ?} on"),
            (&(with("False", "(2, 3)") + "x"), "goes on after its dictionary: x"),
            (&"(".repeat(60_000), "more than 16 literals"),
            ("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,)}", "('a', '<f4')"),
            ("{'descr': b'<f4', 'fortran_order': False, 'shape': (2,)}", "b'<f4'"),
        ] {
            let said = error(text);
            assert!(said.contains(part), "{text}: {said}");
        }
        // Names of keys that stand in values are no keys.
        let nested = "{'descr': {'shape': (1,)}, 'fortran_order': False, 'shape': (2, 3)}";
        assert!(error(nested).contains("{'shape': (1,)}"));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in r#"[{}()\[\]'", :a-zTLl0-9.\\é-]{0,60}"#) {
            let _ = parse(&text);
        }

        #[test]
        fn what_numpy_writes_is_read(rows: u64, columns: u64, fortran: bool, descr in "[<|][a-z][0-9]") {
            let order = if fortran { "True" } else { "False" };
            let text =
                format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': ({rows}, {columns}), }}");
            let read = header(&text);
            prop_assert_eq!(read.descr, descr);
            prop_assert_eq!(read.fortran_order, fortran);
            prop_assert_eq!(read.shape, [Some(rows), Some(columns)]);
        }
    }
}
