//! Parameters as a program has them: numbers in double precision, or whole.
//!
//! The rule is that of [`written`](super::written): a number is compared with its range before it is rounded to f32.

use super::{Field, Kind, ParamsError, Value};

impl Field {
    /// The value that a double comes to: the nearest f32, or a whole number, within the parameter's range.
    pub fn of_f64(&'static self, x: f64) -> Result<Value, ParamsError> {
        let nearest = x as f32;
        let contains = |x| self.kind.contains(Value::Real(x));
        let is_exact = f64::from(nearest) == x;
        // What lies between two f32 that are allowed is allowed, and need not be looked at digit by digit.
        let is_within =
            || nearest.is_normal() && contains(nearest.next_down()) && contains(nearest.next_up());
        if contains(nearest) && (is_exact || is_within()) {
            return Ok(Value::Real(nearest));
        }
        let text = format!("{x:?}");
        self.read(text.strip_suffix(".0").unwrap_or(&text))
    }

    /// The value that a whole number comes to, within the parameter's range.
    pub fn of_u64(&'static self, n: u64) -> Result<Value, ParamsError> {
        match &self.kind {
            Kind::Whole { .. } if self.kind.contains(Value::Whole(n)) => Ok(Value::Whole(n)),
            _ => self.read(&n.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::FIELDS;
    use super::*;
    use proptest::prelude::*;

    fn double(name: &str, x: f64) -> Result<Value, String> {
        Field::named(name).unwrap().of_f64(x).map_err(|error| error.to_string())
    }

    #[test]
    fn a_double_is_compared_with_the_range_before_it_is_rounded() {
        assert_eq!(double("temperature", 0.7), Ok(Value::Real(0.7)));
        assert_eq!(double("temperature", -0.0), Ok(Value::Real(0.0)));
        assert_eq!(double("temperature", 1e4), Ok(Value::Real(1e4)));
        assert_eq!(double("top_p", 1.0), Ok(Value::Real(1.0)));
        assert_eq!(double("top_p", 1e-60), Ok(Value::Real(f32::from_bits(1))));
        assert_eq!(double("frequency_penalty", -100.0), Ok(Value::Real(-100.0)));
        assert_eq!(double("top_k", 5.0), Ok(Value::Whole(5)));
        for (name, x, said) in [
            ("temperature", 1e-46, "temperature is 1e-46; allowed: 0 (greedy), or 1e-30 to 10000"),
            ("temperature", -1.0, "temperature is -1; allowed"),
            ("temperature", f64::NAN, "temperature is NaN; allowed"),
            ("temperature", f64::INFINITY, "temperature is inf; allowed"),
            ("top_p", 1.000_000_000_1, "top_p is 1.0000000001; allowed: above 0, up to 1"),
            ("top_p", 0.0, "top_p is 0; allowed"),
            ("frequency_penalty", -100.000_000_1, "frequency_penalty is -100.0000001; allowed"),
            ("top_k", 5.5, "top_k is 5.5; allowed: whole numbers"),
            ("draw_rule", 1.0, "draw_rule is 1; allowed: cumulative, race"),
        ] {
            let error = double(name, x).expect_err(name);
            assert!(error.starts_with(said), "{error}");
        }
    }

    #[test]
    fn a_whole_number_is_one_of_any_parameter_that_has_numbers() {
        let whole = |name, n| Field::named(name).unwrap().of_u64(n).map_err(|e| e.to_string());
        assert_eq!(whole("top_k", u32::MAX.into()), Ok(Value::Whole(u32::MAX.into())));
        assert_eq!(whole("seed", u64::MAX), Ok(Value::Whole(u64::MAX)));
        assert_eq!(whole("temperature", 1), Ok(Value::Real(1.0)));
        let error = whole("top_k", 1 << 32).unwrap_err();
        assert_eq!(error, "top_k is 4294967296; allowed: whole numbers, 0 (off) to 4294967295");
        assert!(whole("draw_rule", 1).is_err());
    }

    proptest! {
        #[test]
        fn a_double_comes_to_what_its_digits_come_to(bits: u64, near in -1000i64..1000) {
            let around = |x: f64| f64::from_bits((x.to_bits() as i64 + near) as u64);
            let edges = [0.01, 1.0, 16.0, 100.0, 1e4, 1e-30, -100.0].map(around);
            for x in edges.into_iter().chain([f64::from_bits(bits), f64::from_bits(bits) as f32 as f64]) {
                for field in &FIELDS {
                    prop_assert_eq!(field.of_f64(x).ok(), field.read(&format!("{:?}", x)).ok(), "{} {}", field.name, x);
                }
            }
        }
    }
}
