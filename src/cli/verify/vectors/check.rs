//! What was compared of a case, and where it differs.

use serde_json::{Value as Json, json};

/// A case, compared.
#[derive(Debug, Default)]
pub struct Check {
    /// Fields of the expectation that were compared.
    pub compared: usize,
    /// Those that the subject cannot tell.
    pub skipped: Vec<String>,
    /// Those that differ.
    pub wrong: Vec<Wrong>,
}

/// A field that differs.
#[derive(Debug)]
pub struct Wrong {
    /// Its name in the file; empty where the expectation is one value.
    pub field: String,
    /// What the file says.
    pub expected: Json,
    /// What was computed.
    pub got: Json,
}

impl Check {
    /// Compares a field that is exact.
    pub fn exact(&mut self, field: &str, expected: &Json, got: Json) {
        let equal = *expected == got;
        self.settle(field, expected, got, equal);
    }

    /// Compares the bits of an f32, of which the last place may differ by one: its logarithm may have come from
    /// another library.
    pub fn within_a_unit(&mut self, field: &str, expected: &Json, got: Option<f32>) {
        let bits = got.map(f32::to_bits);
        let equal = match (crate::files::vectors::bits32(expected), bits) {
            (Some(a), Some(b)) => a.abs_diff(b) <= 1,
            _ => false,
        };
        self.settle(field, expected, json!(bits.map(|bits| format!("{bits:08x}"))), equal);
    }

    /// The same for a list of them.
    pub fn all_within_a_unit(&mut self, field: &str, expected: &Json, got: &[f32]) {
        let near = |(expected, x): (&Json, &f32)| {
            crate::files::vectors::bits32(expected)
                .is_some_and(|bits| bits.abs_diff(x.to_bits()) <= 1)
        };
        let list = expected.as_array().filter(|list| list.len() == got.len());
        let equal = list.is_some_and(|list| list.iter().zip(got).all(near));
        let got: Vec<_> = got.iter().map(|x| format!("{:08x}", x.to_bits())).collect();
        self.settle(field, expected, json!(got), equal);
    }

    /// Leaves out a field.
    pub fn skip(&mut self, field: &str) {
        self.skipped.push(field.into());
    }

    fn settle(&mut self, field: &str, expected: &Json, got: Json, equal: bool) {
        self.compared += 1;
        if !equal {
            self.wrong.push(Wrong { field: field.into(), expected: expected.clone(), got });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_may_differ_by_one_and_nothing_else_may() {
        let mut check = Check::default();
        let x = f32::from_bits(0xbf80_0001);
        for bits in ["bf800000", "bf800001", "bf800002"] {
            check.within_a_unit("logprob_bits", &json!(bits), Some(x));
        }
        check.exact("kept", &json!(5), json!(5));
        assert!(check.wrong.is_empty(), "{:?}", check.wrong);
        for bits in [json!("bf7fffff"), json!("3f800001"), json!(null), json!("bf80000")] {
            check.within_a_unit("logprob_bits", &bits, Some(x));
        }
        check.within_a_unit("logprob_bits", &json!("00000000"), None);
        check.exact("kept", &json!(5), json!(6));
        check.exact("kept", &json!(5), json!("5"));
        check.exact("kept", &json!(5), Json::Null);
        assert_eq!((check.compared, check.wrong.len()), (12, 8));
        let mut check = Check::default();
        check.all_within_a_unit("logprob_bits", &json!(["bf800000", "bf800002"]), &[x, x]);
        assert!(check.wrong.is_empty(), "{:?}", check.wrong);
        for bits in [json!(["bf800000"]), json!(["bf800001", "bf7fffff"]), json!("bf800001")] {
            check.all_within_a_unit("logprob_bits", &bits, &[x, x]);
        }
        assert_eq!((check.compared, check.wrong.len()), (4, 3));
    }
}
