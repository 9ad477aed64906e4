//! Parameters as text, from flags and files: numbers exactly as somebody wrote them.
//!
//! **One rule.** A number is compared with its range as it is written, before any rounding. Then it is
//! rounded to the nearest f32, but what is not 0 does not become 0: it is the smallest f32 there is. So
//! 1e-46 is as little a temperature as 1e-45, and the same however it is written. A range of all finite f32 has
//! every number whose nearest f32 is finite.
//!
//! Whole numbers are whole however they are written: `5`, `5.0`, `5e0`.

use super::{Field, Kind, ParamsError, Value};

/// Characters of a value that an error repeats.
const QUOTED_MAX: usize = 60;
/// The digits of the greatest u64.
const U64_DIGITS_MAX: i64 = 20;

impl Field {
    /// The value that is written, within the parameter's range.
    pub fn read(&'static self, text: &str) -> Result<Value, ParamsError> {
        let number = || Decimal::parse(text.trim());
        let value = match &self.kind {
            Kind::Real { contains_written, .. } => number()
                .filter(|x| (!x.negative || x.is_zero()) && contains_written(x))
                .map(|x| Value::Real(x.to_f32()))
                // What is below a bound that does not count itself can be rounded to it.
                .filter(|&value| self.kind.contains(value)),
            Kind::Whole { least, most } => number()
                .and_then(|x| x.to_u64())
                .filter(|n| (*least..=*most).contains(n))
                .map(Value::Whole),
            Kind::Name { names, prefix } => {
                let name = text.trim();
                let name = name.strip_prefix(prefix).unwrap_or(name);
                names.iter().find(|known| known.eq_ignore_ascii_case(name)).map(|n| Value::Name(n))
            }
            Kind::Signed { power_max } => {
                number().filter(|x| !x.is_above((*power_max).into())).map(|x| x.to_value())
            }
            Kind::Flag => text.trim().to_ascii_lowercase().parse().ok().map(Value::Flag),
            Kind::Finite => number().filter(Decimal::is_finite_f32).map(|x| x.to_value()),
        };
        value.ok_or_else(|| self.refuse_text(text))
    }

    /// The error of a value that is no number: `true`, or a list.
    pub fn refuse_text(&'static self, text: &str) -> ParamsError {
        self.refuse(quoted(text))
    }
}

fn quoted(text: &str) -> String {
    let text = match text.trim() {
        "" => "empty",
        text => text,
    };
    match text.char_indices().nth(QUOTED_MAX) {
        Some((end, _)) => format!("{}..", &text[..end]),
        None => text.into(),
    }
}

/// `digits * 10^exponent`, exactly.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Decimal {
    negative: bool,
    /// Without zeros at either end; none is 0.
    digits: String,
    exponent: i64,
}

impl Decimal {
    fn parse(text: &str) -> Option<Self> {
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, parse_exponent(exponent)?),
            None => (unsigned, 0),
        };
        let (integer, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = [integer, fraction].concat();
        if all.is_empty() || !all.bytes().all(|digit| digit.is_ascii_digit()) {
            return None;
        }
        let digits = all.trim_end_matches('0');
        let dropped = (all.len() - digits.len()) as i64;
        let exponent = exponent.saturating_add(dropped - fraction.len() as i64);
        Some(Self { negative, digits: digits.trim_start_matches('0').into(), exponent })
    }

    pub fn is_zero(&self) -> bool {
        self.digits.is_empty()
    }

    /// The power of ten of the first digit.
    fn magnitude(&self) -> i64 {
        self.exponent.saturating_add(self.digits.len() as i64 - 1)
    }

    /// Whether it is `10^power` or more, apart from its sign.
    pub fn is_at_least(&self, power: i64) -> bool {
        !self.is_zero() && self.magnitude() >= power
    }

    /// Whether it is more than `10^power`, apart from its sign.
    pub fn is_above(&self, power: i64) -> bool {
        self.is_at_least(power) && (self.magnitude() > power || self.digits != "1")
    }

    /// Whether it is more than the number of these digits whose first has that power of ten, apart from its sign.
    pub fn is_above_digits(&self, digits: &str, magnitude: i64) -> bool {
        self.is_at_least(magnitude) && (self.magnitude() > magnitude || *self.digits > *digits)
    }

    /// Whether the nearest f32 is finite. The greatest f32 is below its own shortest text, 3.4028235e38.
    pub fn is_finite_f32(&self) -> bool {
        self.to_f32().is_finite()
    }

    /// With its sign; a zero has none.
    fn to_value(&self) -> Value {
        let sign = if self.negative && !self.is_zero() { -1.0 } else { 1.0 };
        Value::Real(sign * self.to_f32())
    }

    /// The nearest f32; the smallest where that is 0 and the number is not.
    fn to_f32(&self) -> f32 {
        if self.is_zero() {
            return 0.0;
        }
        let text = format!("{}e{}", self.digits, self.exponent);
        let nearest: f32 = text.parse().expect("a decimal number");
        nearest.max(f32::from_bits(1))
    }

    /// The number, if it is whole and within 64 bits.
    fn to_u64(&self) -> Option<u64> {
        if self.is_zero() {
            return Some(0);
        }
        if self.negative || self.exponent < 0 || self.magnitude() >= U64_DIGITS_MAX {
            return None;
        }
        let zeros = "0".repeat(self.exponent as usize);
        (self.digits.clone() + &zeros).parse().ok()
    }
}

/// An exponent; one beyond 18 digits is as good as any of them.
fn parse_exponent(text: &str) -> Option<i64> {
    const FAR: i64 = i64::MAX / 4;
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let far = if text.starts_with('-') { -FAR } else { FAR };
    Some(text.parse().map_or(far, |exponent: i64| exponent.clamp(-FAR, FAR)))
}

#[cfg(test)]
mod tests {
    use super::super::{FIELDS, ParamsSpec};
    use super::*;
    use proptest::prelude::*;

    fn read(name: &str, text: &str) -> Result<Value, ParamsError> {
        Field::named(name).unwrap().read(text)
    }

    fn real(name: &str, text: &str) -> Result<f32, ParamsError> {
        read(name, text).map(|value| match value {
            Value::Real(x) => x,
            other => panic!("{other:?}"),
        })
    }

    fn whole(name: &str, text: &str) -> Result<u64, ParamsError> {
        read(name, text).map(|value| match value {
            Value::Whole(n) => n,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn ranges_are_those_of_the_number_as_it_is_written() {
        let smallest = f32::from_bits(1);
        for (text, expected) in [
            ("0", 0.0),
            ("-0.0", 0.0),
            ("0e99999999999999999999", 0.0),
            ("1e-30", 1e-30),
            ("1.00000000000000000001e-30", 1e-30),
            ("0.7", 0.7),
            ("7e-1", 0.7),
            (" .5", 0.5),
            ("+5.", 5.0),
            ("10000", 1e4),
            ("1E4", 1e4),
            ("9999.99999999999999", 1e4),
        ] {
            assert_eq!(real("temperature", text), Ok(expected), "{text}");
        }
        for text in [
            "1e-46",
            "1e-45",
            "1e-400",
            "9.99999999999999999e-31",
            "10000.0000000000001",
            "-1e-46",
            "-1",
            "1e99999999999999999999",
            "NaN",
            "nan",
            "inf",
            "Infinity",
            "",
            "x",
            "1e",
            "1e+",
            "0x1",
            "1_0",
            "٣",
        ] {
            let error = real("temperature", text).expect_err(text);
            assert_eq!(
                (error.field, error.allowed),
                ("temperature", "0 (greedy), or 1e-30 to 10000")
            );
        }
        // What is above 0 stays above 0: a top_p of nearly nothing is the first token, a min_p is not off.
        for text in ["1e-45", "1e-46", "1e-400"] {
            assert_eq!(
                (real("top_p", text), real("min_p", text)),
                (Ok(smallest), Ok(smallest)),
                "{text}"
            );
        }
        assert_eq!((real("top_p", "1.0"), real("min_p", "1e0")), (Ok(1.0), Ok(1.0)));
        for text in ["1.00000001", "1.0000000000000000000001", "-0.1", "2"] {
            assert!(real("top_p", text).is_err() && real("min_p", text).is_err(), "{text}");
        }
        assert!(real("top_p", "0").is_err() && real("top_p", "-0").is_err());
        assert_eq!(real("min_p", "0"), Ok(0.0));
        assert_eq!(real("presence_penalty", "-100"), Ok(-100.0));
        assert!(real("presence_penalty", "-100.00000000001").is_err());
        assert_eq!(real("presence_penalty", "-0").unwrap().to_bits(), 0);
        assert_eq!(
            (real("dry_base", "16"), real("dry_base", "15.999999999")),
            (Ok(16.0), Ok(16.0))
        );
        for text in ["16.0000000000001", "17", "20", "100", "0.99999999999"] {
            assert!(real("dry_base", text).is_err(), "{text}");
        }
        // A state is any finite f32, in the text that an answer has it in.
        for x in [f32::MAX, f32::MAX.next_down(), -0.0, f32::from_bits(1)] {
            for text in [format!("{x:?}"), x.to_string()] {
                assert_eq!(real("adaptive_weight", &text), Ok(x), "{text}");
                assert_eq!(
                    real("adaptive_sum", &format!("-{text}").replace("--", "")),
                    Ok(-x),
                    "{text}"
                );
                assert_eq!(
                    Field::named("mirostat_mu").unwrap().of_f64(x.into()),
                    Ok(Value::Real(x))
                );
            }
        }
        for text in ["3.4028236e38", "340282356779733661637539395458142568448", "1e999"] {
            assert!(real("adaptive_weight", text).is_err(), "{text}");
            assert!(real("adaptive_sum", &format!("-{text}")).is_err(), "{text}");
        }
    }

    #[test]
    fn whole_numbers_are_whole_however_they_are_written() {
        for text in ["50", "50.0", "5e1", "0.5e2", "500e-1", "+50", "5E+1", "050"] {
            assert_eq!(
                (whole("top_k", text), whole("seed", text), whole("draws", text)),
                (Ok(50), Ok(50), Ok(50)),
                "{text}"
            );
        }
        assert_eq!(whole("seed", "18446744073709551615.0"), Ok(u64::MAX));
        assert_eq!(whole("seed", "1.8446744073709551615e19"), Ok(u64::MAX));
        assert_eq!(whole("position", "9007199254740993"), Ok((1 << 53) + 1));
        assert_eq!((whole("top_k", "-0"), whole("top_k", "0e9")), (Ok(0), Ok(0)));
        for text in
            ["18446744073709551616", "1e20", "-1", "5.5", "1e-1", "1e999999999999", "NaN", ""]
        {
            assert_eq!(whole("seed", text).unwrap_err().field, "seed", "{text}");
        }
        let error = whole("top_k", "-1").unwrap_err().to_string();
        assert_eq!(error, "top_k is -1; allowed: whole numbers, 0 (off) to 4294967295");
        assert!(whole("top_k", "4294967296").is_err());
        assert!(
            whole("draws", "0").is_err()
                && whole("draws", "1025").is_err()
                && whole("draws", "1024").is_ok()
        );
    }

    #[test]
    fn names_are_read_as_the_api_and_people_write_them() {
        for text in ["race", "RACE", "Race", "DRAW_RULE_RACE", " race "] {
            assert_eq!(read("draw_rule", text), Ok(Value::Name("race")), "{text}");
        }
        assert_eq!(read("draw_rule", "DRAW_RULE_CUMULATIVE"), Ok(Value::Name("cumulative")));
        for (text, is_set) in [("true", true), (" False ", false), ("TRUE", true)] {
            assert_eq!(read("draft", text), Ok(Value::Flag(is_set)), "{text}");
        }
        for text in ["1", "yes", "", "null"] {
            let error = read("draft", text).expect_err(text);
            assert_eq!((error.field, error.allowed), ("draft", "true, false"));
        }
        for text in ["", "1", "gumbel", "DRAW_RULE_", "DRAW_RULE_UNSPECIFIED"] {
            let error = read("draw_rule", text).expect_err(text);
            assert_eq!((error.field, error.allowed), ("draw_rule", "cumulative, race"));
        }
    }

    #[test]
    fn a_long_value_is_cut_in_its_error() {
        let error = whole("seed", &"9".repeat(1 << 20)).unwrap_err().to_string();
        assert!(error.starts_with("seed is 9999") && error.len() < 150, "{error}");
    }

    proptest! {
        #[test]
        fn every_parameter_reads_back_as_it_is_shown(t in 1e-30f32..=1e4, n: u64, k: u32) {
            prop_assert_eq!(real("temperature", &format!("{t:e}")), Ok(t));
            prop_assert_eq!(real("temperature", &t.to_string()), Ok(t));
            prop_assert_eq!(whole("seed", &n.to_string()), Ok(n));
            prop_assert_eq!(whole("top_k", &format!("{k}.000")), Ok(u64::from(k)));
        }

        #[test]
        fn rounding_is_to_the_nearest(text in "[0-9]{1,12}\\.[0-9]{0,30}(e-?[0-9]{1,2})?") {
            let nearest: f32 = text.parse().unwrap();
            let x = Decimal::parse(&text).unwrap();
            let expected = if x.is_zero() { 0.0 } else { nearest.max(f32::from_bits(1)) };
            prop_assert_eq!(x.to_f32().to_bits(), expected.to_bits());
        }

        #[test]
        fn no_text_makes_it_panic(text in "[-+0-9.eE]{0,40}") {
            for field in &FIELDS {
                if let Ok(value) = field.read(&text) {
                    let mut spec = ParamsSpec::default();
                    field.set(&mut spec, value);
                    prop_assert_eq!(field.get(spec), value);
                    prop_assert!(field.check(spec).is_ok());
                }
            }
        }
    }
}
