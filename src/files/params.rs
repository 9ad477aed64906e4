//! A file with one set of parameters a line.
//!
//! Keys are those of the API's `SamplingParams`, in either spelling of its JSON (`top_k`, `topK`); `null` is
//! the same as nothing. Beside them stand the keys of `Adjustments`, with lists behind them, `logprobs` and `return_kept`. A line of an answer (`logitd sample --json`) is accepted too: it says which seed its row was
//! sampled with, and that is what it is read for.

use crate::wire::adjustments;
use crate::wire::inspection::{self, InspectSpec};
use crate::wire::json::{self, Value, short};
use crate::wire::names::nearest;
use logitd_core::adjustments::AdjustmentsSpec;
use logitd_core::params::{COEFFICIENTS, FIELDS, Field, ParamsError, ParamsSpec};
use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

/// Longer files are not read: a million lines are a tenth of it.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// The keys of an answer that say which it is.
const ANSWER_KEYS: [&str; 2] = ["row", "status"];

/// What a file says.
#[derive(Debug, PartialEq)]
pub enum Sets {
    /// One set a line.
    Each(Vec<Set>),
    /// The set of each row that was answered, by the row's number.
    OfRows(HashMap<usize, Set>),
}

/// What a line says of a row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Set {
    /// The parameters.
    pub params: ParamsSpec,
    /// What is done to single logits; nothing, where all of it is empty.
    pub adjustments: AdjustmentsSpec,
    /// What is wanted beside tokens.
    pub inspect: InspectSpec,
}

impl Set {
    /// Whether it asks for anything that is done to single logits.
    pub fn adjusts(&self) -> bool {
        let is_set = |field: &Field| field.get(self.params) != field.get(ParamsSpec::default());
        let mut coefficients = FIELDS.iter().filter(|field| COEFFICIENTS.contains(&field.name));
        self.adjustments != AdjustmentsSpec::default() || coefficients.any(is_set)
    }
}

impl From<ParamsSpec> for Set {
    fn from(params: ParamsSpec) -> Self {
        Self { params, ..Default::default() }
    }
}

/// Reads a file; what a line leaves out is as in `flags`. Errors name file, line, key, value and range.
pub fn read(path: &Path, flags: &Set) -> Result<Sets, String> {
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|e| named(&e))?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|e| named(&e))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(named(&format_args!(
            "has more than {FILE_BYTES_MAX} bytes; split it, and name rows with --rows"
        )));
    }
    let text = text(bytes).map_err(|e| named(&e))?;
    sets(&text, flags).map_err(|(line, error)| format!("{}, line {line}: {error}", path.display()))
}

/// What one line asks for; what it leaves out is as in `flags`. The error names key, value and range.
pub fn line(text: &str, flags: &Set) -> Result<Set, String> {
    Line::read(text)?.set(flags)
}

/// The text of a file, without the mark that some programs begin it with. PowerShell writes UTF-16.
fn text(bytes: Vec<u8>) -> Result<String, String> {
    let utf16 = |of: fn([u8; 2]) -> u16| {
        let (words, rest) = bytes[2..].as_chunks();
        let words: Vec<u16> = words.iter().copied().map(of).collect();
        let whole = String::from_utf16(&words).ok().filter(|_| rest.is_empty());
        whole.ok_or("begins with the mark of UTF-16 and is none; save it as UTF-8".into())
    };
    match bytes[..] {
        [0xff, 0xfe, 0, 0, ..] => Err("is UTF-32; save it as UTF-8".into()),
        [0xff, 0xfe, ..] => utf16(u16::from_le_bytes),
        [0xfe, 0xff, ..] => utf16(u16::from_be_bytes),
        _ => String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            format!("is not UTF-8 text, from byte {at} on; save it as UTF-8")
        }),
    }
}

/// The sets of a text, or the number of a wrong line and what is wrong with it.
fn sets(text: &str, flags: &Set) -> Result<Sets, (usize, String)> {
    let (mut each, mut of_rows) = (Vec::new(), HashMap::new());
    for (i, line) in text.lines().enumerate() {
        // The mark, also where files were put together.
        let line = line.trim_start_matches('\u{feff}');
        if line.trim().is_empty() {
            continue;
        }
        let wrong = |error: String| (i + 1, error);
        let line = Line::read(line).map_err(wrong)?;
        let spec = line.set(flags).map_err(wrong)?;
        match line.answered_row().map_err(wrong)? {
            None => each.push(spec),
            // An answer with several draws has a line for each.
            Some(row) => {
                let other = of_rows.insert(row, spec.clone());
                if other.is_some_and(|other| other != spec) {
                    return Err(wrong(format!("row is {row}, which has another seed above")));
                }
            }
        }
        if !each.is_empty() && !of_rows.is_empty() {
            return Err(wrong("a file holds parameters or answers, not both".into()));
        }
    }
    Ok(if of_rows.is_empty() { Sets::Each(each) } else { Sets::OfRows(of_rows) })
}

/// The pairs of a line, no key twice.
struct Line<'a>(Vec<(String, Value<'a>)>);

impl<'a> Line<'a> {
    fn read(line: &'a str) -> Result<Self, String> {
        let mut pairs = json::object(line)?;
        for (key, _) in &mut pairs {
            if let Some(name) = spelled(key) {
                *key = name.into();
            }
        }
        for (i, (key, _)) in pairs.iter().enumerate() {
            if pairs[..i].iter().any(|(other, _)| other == key) {
                return Err(format!("has the key {} twice", short(key)));
            }
        }
        Ok(Self(pairs))
    }

    fn is_answer(&self) -> bool {
        ANSWER_KEYS.iter().all(|name| self.0.iter().any(|(key, _)| key == name))
    }

    /// The row that was answered, if this is a line of an answer.
    fn answered_row(&self) -> Result<Option<usize>, String> {
        let row = self.0.iter().find(|(key, _)| key == "row").filter(|_| self.is_answer());
        let Some((_, value)) = row else { return Ok(None) };
        let text = match value {
            Value::Text(text) => text,
            Value::Bare(text) => *text,
            Value::Null | Value::Other(_) => "",
        };
        // As whole as a position is, and read like one.
        let position = Field::named("position").expect("a parameter").read(text);
        let number = position.ok().and_then(|number| number.to_string().parse().ok());
        match number {
            Some(row) => Ok(Some(row)),
            None => Err(format!("row is {}; allowed: the number of a row", short(text))),
        }
    }

    /// The parameters that it sets, over those of the flags.
    fn set(&self, flags: &Set) -> Result<Set, String> {
        let is_answer = self.is_answer();
        let mut set = flags.clone();
        for (key, value) in &self.0 {
            if is_answer && key != "seed" {
                continue;
            }
            match (key.as_str(), value) {
                ("dry", Value::Other(text)) => {
                    for (key, value) in
                        json::object(text).map_err(|error| format!("dry {error}"))?
                    {
                        set_one(&mut set, &format!("dry_{key}"), &value)?;
                    }
                }
                ("dry", Value::Null) => {}
                ("dry", Value::Text(_) | Value::Bare(_)) => return Err(DRY.into()),
                (key, value) => set_one(&mut set, key, value)?,
            }
        }
        Ok(set)
    }
}

const DRY: &str = "dry is no object; allowed: multiplier, base, allowed_length, last_n, breakers, such as \
                   {\"multiplier\": 0.8}";

/// Sets what stands behind a key.
fn set_one(set: &mut Set, key: &str, value: &Value<'_>) -> Result<(), String> {
    if adjustments::keys().any(|known| known == key) {
        return match value {
            Value::Null => Ok(()),
            Value::Bare(text) | Value::Other(text) => {
                adjustments::set(&mut set.adjustments, key, text)
            }
            Value::Text(text) => adjustments::set(&mut set.adjustments, key, &format!("{text:?}")),
        };
    }
    if inspection::KEYS.contains(&key) {
        return match value {
            Value::Null => Ok(()),
            Value::Bare(text) | Value::Other(text) => inspection::set(&mut set.inspect, key, text),
            Value::Text(text) => inspection::set(&mut set.inspect, key, &format!("{text:?}")),
        };
    }
    let field = Field::named(key).ok_or_else(|| unknown(key))?;
    let value = match value {
        Value::Null => return Ok(()),
        Value::Text(text) => field.read(text),
        Value::Bare(text) => field.read(text),
        Value::Other(text) if field.is_flag() => field.read(text),
        Value::Other(text) => Err(field.refuse_text(&short(text))),
    };
    field.set(&mut set.params, value.map_err(|error: ParamsError| error.to_string())?);
    Ok(())
}

/// Every key that a line can have. Those of `dry` can stand by themselves.
fn names() -> impl Iterator<Item = &'static str> {
    let parameters = FIELDS.iter().map(|field| field.name).chain(["dry"]);
    parameters.chain(adjustments::keys()).chain(inspection::KEYS)
}

/// `topK` is what JSON of Protocol Buffers calls `top_k`.
fn spelled(key: &str) -> Option<&'static str> {
    names().find(|name| {
        let mut parts = name.split('_');
        let first = parts.next().unwrap_or_default().to_owned();
        let camel =
            parts.fold(first, |camel, part| camel + &part[..1].to_ascii_uppercase() + &part[1..]);
        camel == key
    })
}

fn unknown(key: &str) -> String {
    let meant = match nearest(key, names()) {
        Some(name) => format!(" (did you mean {name}?)"),
        None => String::new(),
    };
    format!(
        "has the unknown key {}{meant}; known: {}",
        short(key),
        names().collect::<Vec<_>>().join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use logitd_core::inspection::Distribution;
    use logitd_core::params::DrawRule;

    const FLAGS: ParamsSpec = ParamsSpec {
        temperature: 0.7,
        top_k: 40,
        top_p: 0.9,
        min_p: 0.1,
        seed: Some(1),
        position: 2,
        draws: 3,
        draw_rule: DrawRule::Race,
        ..ParamsSpec::DEFAULT
    };

    fn each(text: &str) -> Vec<ParamsSpec> {
        match sets(text, &FLAGS.into()) {
            Ok(Sets::Each(sets)) => sets.into_iter().map(|set| set.params).collect(),
            other => panic!("{text}: {other:?}"),
        }
    }

    fn line(line: &str) -> ParamsSpec {
        let specs = each(line);
        assert_eq!(specs.len(), 1, "{line}");
        specs[0]
    }

    fn error(line: &str) -> String {
        sets(line, &FLAGS.into()).expect_err(line).1
    }

    #[test]
    fn a_line_changes_what_it_names() {
        assert_eq!(line("{}"), FLAGS);
        let spec =
            line(r#"{"temperature": 0.1, "top_k": 4294967295, "seed": 18446744073709551615}"#);
        let expected =
            ParamsSpec { temperature: 0.1, top_k: u32::MAX, seed: Some(u64::MAX), ..FLAGS };
        assert_eq!(spec, expected);
        assert_eq!(line(r#"{"temperature": null, "seed": null, "draws": null}"#), FLAGS);
    }

    #[test]
    fn numbers_are_read_in_every_way_that_programs_write_them() {
        for text in [
            r#"{"top_k": 5, "seed": 42, "draws": 1, "min_p": 0}"#,
            r#"{"topK": 5.0, "seed": 42.0, "draws": 1.0, "minP": 0.0}"#,
            r#"{"top_k": "5", "seed": "42", "draws": "1", "min_p": "0"}"#,
            r#"{"top_k": 5e0, "seed": 4.2e1, "draws": 10e-1, "min_p": -0}"#,
            "\t{\"top_k\":5,\"seed\":42,\"draws\":1,\"min_p\":0e5}\r",
        ] {
            let expected = ParamsSpec { top_k: 5, seed: Some(42), draws: 1, min_p: 0.0, ..FLAGS };
            assert_eq!(line(text), expected, "{text}");
        }
        for name in ["cumulative", "CUMULATIVE", "DRAW_RULE_CUMULATIVE"] {
            let text = format!(r#"{{"drawRule": "{name}"}}"#);
            let expected = ParamsSpec { draw_rule: DrawRule::Cumulative, ..FLAGS };
            assert_eq!(line(&text), expected, "{text}");
        }
        let whole = Some((1 << 53) + 1);
        assert_eq!(line(r#"{"seed": "9007199254740993"}"#).seed, whole);
        assert_eq!(line(r#"{"seed": 9007199254740993}"#).seed, whole);
        assert_eq!(line(r#"{"seed": 9.007199254740993e15}"#).seed, whole);
    }

    #[test]
    fn what_is_wrong_with_a_line_is_named() {
        for (line, part) in [
            (r#"{"tempreature": 1}"#, "unknown key tempreature (did you mean temperature?); known"),
            (r#"{"temp": 1}"#, "known: temperature, top_k, top_p"),
            (r#"{"row": 1}"#, "unknown key row"),
            (r#"{"seed": 18446744073709551616}"#, "seed is 18446744073709551616; allowed: whole"),
            (r#"{"seed": -1}"#, "seed is -1; allowed: whole numbers, 0 to 18446744073709551615"),
            (r#"{"top_p": 0}"#, "top_p is 0; allowed: above 0"),
            (r#"{"top_k": 5.5}"#, "top_k is 5.5; allowed: whole numbers"),
            (r#"{"top_k": -1}"#, "top_k is -1; allowed: whole numbers, 0 (off) to 4294967295"),
            (r#"{"top_k": "five"}"#, "top_k is five; allowed: whole numbers"),
            (r#"{"top_k": true}"#, "top_k is true; allowed"),
            (r#"{"top_k": [5]}"#, "top_k is [5]; allowed"),
            (r#"{"top_k": ""}"#, "top_k is empty; allowed"),
            (
                r#"{"temperature": NaN}"#,
                "temperature is NaN; allowed: 0 (greedy), or 1e-30 to 10000",
            ),
            (r#"{"temperature": "NaN"}"#, "temperature is NaN; allowed"),
            (r#"{"temperature": -Infinity}"#, "temperature is -Infinity; allowed"),
            (r#"{"temperature": 1e-46}"#, "temperature is 1e-46; allowed"),
            (r#"{"temperature": 1e-45}"#, "temperature is 1e-45; allowed"),
            (r#"{"draw_rule": "gumbel"}"#, "draw_rule is gumbel; allowed: cumulative, race"),
            (r#"{"draws": 1025}"#, "draws is 1025; allowed: whole numbers, 1 to 1024"),
            (r#"{"draws": 1, "draws": 2}"#, "has the key draws twice"),
            (r#"{"top_k": 1, "topK": 2}"#, "has the key top_k twice"),
            ("[1]", "is an array; a line is an object"),
            ("{", "ends within its object"),
        ] {
            let message = error(line);
            assert!(message.contains(part), "{line}: {message}");
        }
        let (number, _) = sets("{}\n\n{}\r\n{\"top_k\": -1}", &FLAGS.into()).unwrap_err();
        assert_eq!(number, 4);
    }

    #[test]
    fn adjustments_stand_beside_the_parameters() {
        let text = r#"{"repetition_penalty": 1.3, "frequencyPenalty": "-0.5", "dry": {"multiplier": 0.8, "breakers": [[1], [2, 3]]}, "allowed_bitmask": ["80000001", 7], "logitBias": [[3, -2.5], [4, "-inf"]], "prompt": [1, 2], "output_length": 9, "counts": [[5, 0]], "bad_words": null}"#;
        let Ok(Sets::Each(sets)) = sets(text, &FLAGS.into()) else { panic!("{text}") };
        let params = ParamsSpec {
            repetition_penalty: 1.3,
            frequency_penalty: -0.5,
            dry_multiplier: 0.8,
            ..FLAGS
        };
        let adjustments = AdjustmentsSpec {
            allowed_bitmask: vec![0x8000_0001, 7],
            logit_bias: vec![(3, -2.5), (4, f32::NEG_INFINITY)],
            prompt: vec![1, 2],
            output_length: Some(9),
            counts: vec![(5, 0)],
            breakers: vec![vec![1], vec![2, 3]],
            ..Default::default()
        };
        assert_eq!(sets, [Set { params, adjustments, ..Default::default() }]);
        assert!(sets[0].adjusts() && !Set::from(FLAGS).adjusts());
        assert!(Set::from(ParamsSpec { dry_last_n: 3, ..FLAGS }).adjusts());
        assert!(Set::from(ParamsSpec { min_tokens: 3, ..FLAGS }).adjusts());
        for (line, part) in [
            (r#"{"dry": 1}"#, "dry is no object; allowed: multiplier"),
            (r#"{"dry": {"base": 17}}"#, "dry_base is 17; allowed: 1 to 16"),
            (r#"{"dry": {"bases": 1}}"#, "unknown key dry_bases (did you mean dry_base?)"),
            (r#"{"prompt": "1, 2"}"#, "prompt is \"1, 2\"; allowed: a list of tokens"),
            (r#"{"banned_id": [1]}"#, "did you mean banned_ids?"),
            (r#"{"no_repeat_ngram": 65}"#, "no_repeat_ngram is 65; allowed"),
            (r#"{"presence_penalty": -101}"#, "presence_penalty is -101; allowed: -100 to 100"),
        ] {
            let said = error(line);
            assert!(said.contains(part), "{line}: {said}");
        }
    }

    #[test]
    fn what_is_wanted_beside_tokens_stands_there_too() {
        let flags = Set {
            inspect: InspectSpec { top: 3, of: vec![Distribution::Raw], ..Default::default() },
            ..FLAGS.into()
        };
        let of = |text: &str| match sets(text, &flags).expect(text) {
            Sets::Each(sets) => sets[0].inspect.clone(),
            Sets::OfRows(_) => panic!("{text} is no answer"),
        };
        assert_eq!(of("{}"), flags.inspect);
        let text = r#"{"logprobs": {"of": ["sampled", "LOGPROBS_OF_ADJUSTED"], "ids": [5]}, "returnKept": true}"#;
        let expected = InspectSpec {
            of: vec![Distribution::Sampled, Distribution::Adjusted],
            top: 0,
            ids: vec![5],
            return_kept: true,
        };
        assert_eq!(of(text), expected);
        for (line, part) in [
            (r#"{"logprobs": 5}"#, "logprobs is 5; allowed: such as {"),
            (r#"{"logprobs": {"of": "rare"}}"#, "logprobs.of is rare; allowed: raw, adjusted"),
            (r#"{"return_kept": "yes"}"#, "return_kept is \"yes\"; allowed: true, false"),
            (r#"{"logprob": {}}"#, "did you mean logprobs?"),
        ] {
            let said = error(line);
            assert!(said.contains(part), "{line}: {said}");
        }
    }

    #[test]
    fn marks_and_utf_16_are_read() {
        let plain = "{\"top_k\": 5}\r\n{\"top_k\": 6}\r\n";
        let words = |mark: u16, bytes: fn(u16) -> [u8; 2]| {
            std::iter::once(mark).chain(plain.encode_utf16()).flat_map(bytes).collect::<Vec<u8>>()
        };
        for bytes in [
            plain.as_bytes().to_vec(),
            ["\u{feff}", plain].concat().into_bytes(),
            ["\u{feff}{\"top_k\": 5}\n\u{feff}{\"top_k\": 6}"].concat().into_bytes(),
            words(0xfeff, u16::to_le_bytes),
            words(0xfeff, u16::to_be_bytes),
        ] {
            let specs = each(&text(bytes).unwrap());
            assert_eq!(specs.iter().map(|spec| spec.top_k).collect::<Vec<_>>(), [5, 6]);
        }
        assert!(text(b"\xff\xfe{".to_vec()).unwrap_err().contains("UTF-16"));
        assert!(text(b"\xff\xfe\0\0{\0\0\0".to_vec()).unwrap_err().contains("UTF-32"));
        assert!(text(b"{\"a\": \"\xe9\"}".to_vec()).unwrap_err().contains("from byte 7 on"));
    }

    #[test]
    fn a_line_of_an_answer_gives_its_row_its_seed() {
        let answers = "\
{\"row\":3,\"draw\":0,\"status\":\"OK\",\"token\":1,\"logprob\":-0.5,\"kept\":9,\"seed\":7}
{\"row\":3,\"draw\":1,\"status\":\"OK\",\"token\":2,\"logprob\":NaN,\"kept\":9,\"seed\":7}
{\"row\":0.0,\"status\":\"NAN\",\"token\":null,\"text\":\"x\",\"kept\":0,\"seed\":\"18446744073709551615\"}
";
        let seeded = |seed| Set::from(ParamsSpec { seed: Some(seed), ..FLAGS });
        let expected = Sets::OfRows(HashMap::from([(3, seeded(7)), (0, seeded(u64::MAX))]));
        assert_eq!(sets(answers, &FLAGS.into()), Ok(expected));
        let other = answers.replacen("\"seed\":7", "\"seed\":8", 1);
        assert!(error(&other).contains("row is 3, which has another seed above"));
        assert!(error(&format!("{{}}\n{answers}")).contains("not both"));
        assert!(error(r#"{"row": -1, "status": "OK"}"#).contains("row is -1"));
        assert!(error(r#"{"row": 1, "status": "OK", "seed": -1}"#).contains("seed is -1"));
    }
}
