//! Files of known answers: cases with parameters and what they must come to, for any implementation.
//!
//! A file is one JSON object: `rows`, small rows by name as bit patterns of their dtype; `logits`, a `.npy` file of
//! further rows; and `cases`. A case has a `kind`, which says what is computed, and what that kind asks for. This
//! file reads what all kinds share. Nothing is refused for being unknown: whoever runs a case says what it knows.
//!
//! Cases without a kind are of the form of version 1, and are read as what they would be today ([`version1`]).

mod version1;

use crate::wire::json::short;
use logitd_core::batch::Dtype;
use logitd_core::params::{Field, Value};
use serde_json::{Map, Value as Json};
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Longer files are not read.
const FILE_BYTES_MAX: u64 = 1 << 28;

/// A file of known answers.
#[derive(Debug)]
pub struct Vectors {
    /// Where rows with a number lie, if the file says so: relative to the file's folder.
    pub logits: Option<PathBuf>,
    /// In the order of the file.
    pub cases: Vec<Case>,
    rows: HashMap<String, StoredRow>,
}

/// A row that stands in the file.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredRow {
    /// How its logits are stored.
    pub dtype: Dtype,
    /// Little-endian.
    pub logits: Vec<u8>,
}

impl StoredRow {
    /// How many tokens it has.
    pub fn vocab_size(&self) -> u32 {
        (self.logits.len() / self.dtype.size_bytes()) as u32
    }
}

/// Where a case has its row from.
#[derive(Clone, Debug, PartialEq)]
pub enum RowSource {
    /// The file itself.
    Stored(StoredRow),
    /// The row of this number of the file's `logits`.
    Numbered(usize),
}

/// A case.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// Its place in the file, from 0.
    pub index: usize,
    /// What it is about. Several cases may have one name.
    pub name: String,
    /// What is computed.
    pub kind: String,
    /// All of it, `name` and `kind` included.
    pub fields: Map<String, Json>,
}

impl Vectors {
    /// Reads a file. Errors name the file.
    pub fn read(path: &Path) -> Result<Self, String> {
        let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(|e| named(&e))?;
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|e| named(&e))?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(named(&format_args!("has more than {FILE_BYTES_MAX} bytes")));
        }
        let json = serde_json::from_slice(&bytes).map_err(|e| {
            named(&format_args!("is no JSON: {e}; wanted: an object with the key cases"))
        })?;
        Self::parse(json).map_err(|e| named(&e))
    }

    fn parse(json: Json) -> Result<Self, String> {
        let Json::Object(mut file) = json else {
            return Err("is no JSON object; wanted: one with the key cases".into());
        };
        let Some(Json::Array(cases)) = file.remove("cases") else {
            return Err("has no cases; wanted: an array of them under the key cases".into());
        };
        let rows = match file.get("rows") {
            None => HashMap::new(),
            Some(Json::Object(rows)) => rows
                .iter()
                .map(|(name, row)| match stored_row(row) {
                    Ok(row) => Ok((name.clone(), row)),
                    Err(error) => Err(format!("row {}: {error}", short(name))),
                })
                .collect::<Result<_, _>>()?,
            Some(_) => return Err("has rows that are no object; wanted: rows by name".into()),
        };
        let logits = file.get("logits").and_then(Json::as_str).map(PathBuf::from);
        let cases = cases
            .into_iter()
            .enumerate()
            .map(|(index, case)| {
                Case::parse(index, case).map_err(|error| format!("case {index}: {error}"))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { logits, cases, rows })
    }

    /// The row that a case names: by its name, by its number, or with all its bits.
    pub fn row(&self, named: &Json) -> Result<RowSource, String> {
        match named {
            Json::String(name) => match self.rows.get(name) {
                Some(row) => Ok(RowSource::Stored(row.clone())),
                None => Err(format!("row is {}, which is none of the file's rows", short(name))),
            },
            Json::Object(_) => stored_row(named).map(RowSource::Stored),
            _ => match named.as_u64().and_then(|number| usize::try_from(number).ok()) {
                Some(number) => Ok(RowSource::Numbered(number)),
                None => Err(format!("row is {}; wanted: a name, or a number", shown(named))),
            },
        }
    }
}

impl Case {
    fn parse(index: usize, case: Json) -> Result<Self, String> {
        let Json::Object(fields) = case else { return Err("is no JSON object".into()) };
        let fields = match fields.contains_key("kind") {
            true => fields,
            false => version1::renewed(fields)?,
        };
        let Some(kind) = fields["kind"].as_str().map(str::to_owned) else {
            return Err(format!("kind is {}; wanted: a name", shown(&fields["kind"])));
        };
        let name = fields.get("name").and_then(Json::as_str).unwrap_or_default().to_owned();
        Ok(Self { index, name, kind, fields })
    }

    /// What stands under a key.
    pub fn get(&self, key: &str) -> Result<&Json, String> {
        self.fields.get(key).ok_or_else(|| format!("has no {key}"))
    }

    /// The object under a key.
    pub fn object(&self, key: &str) -> Result<&Map<String, Json>, String> {
        let value = self.get(key)?;
        value.as_object().ok_or_else(|| format!("{key} is {}; wanted: an object", shown(value)))
    }

    /// The whole number under a key.
    pub fn whole(&self, key: &str) -> Result<u64, String> {
        let value = self.get(key)?;
        value.as_u64().ok_or_else(|| {
            format!("{key} is {}; wanted: a whole number, 0 to {}", shown(value), u64::MAX)
        })
    }

    /// The f32 whose bits stand under a key.
    pub fn real_of_bits(&self, key: &str) -> Result<f32, String> {
        let value = self.get(key)?;
        bits32(value).map(f32::from_bits).ok_or_else(|| {
            format!("{key} is {}; wanted: an f32 as 8 hexadecimal digits", shown(value))
        })
    }
}

/// A parameter of the API by its name, as a file of known answers writes it. `Ok(None)`: there is no parameter of
/// that name.
pub fn parameter(name: &str, value: &Json) -> Result<Option<(&'static Field, Value)>, String> {
    let Some(field) = Field::named(name) else { return Ok(None) };
    let read = match value {
        // The shortest text of the f64 that was read: for the shortest text of an f32 that is the same text.
        Json::Bool(is_set) => field.read(&is_set.to_string()),
        Json::Number(number) => field.read(&number.to_string()),
        Json::String(text) => field.read(text),
        other => Err(field.refuse_text(&shown(other))),
    };
    read.map(|value| Some((field, value))).map_err(|error| error.to_string())
}

/// 32 bits in hexadecimal.
pub fn bits32(value: &Json) -> Option<u32> {
    let text = value.as_str().filter(|text| text.len() == 8)?;
    u32::from_str_radix(text, 16).ok()
}

/// A value as an error repeats it.
pub fn shown(value: &Json) -> String {
    short(&value.to_string())
}

fn stored_row(row: &Json) -> Result<StoredRow, String> {
    let name = row["dtype"].as_str().unwrap_or_default();
    let dtype = Dtype::ALL
        .into_iter()
        .find(|dtype| dtype.name() == name)
        .ok_or_else(|| format!("dtype is {}; wanted: f16, bf16 or f32", shown(&row["dtype"])))?;
    let bits = row["bits"].as_array().ok_or("has no bits; wanted: a bit pattern a token")?;
    let size = dtype.size_bytes();
    let mut logits = Vec::with_capacity(bits.len() * size);
    for pattern in bits {
        let text = pattern.as_str().filter(|text| text.len() == 2 * size);
        let word = text.and_then(|text| u32::from_str_radix(text, 16).ok()).ok_or_else(|| {
            format!("has the bits {}; wanted: {} hexadecimal digits", shown(pattern), 2 * size)
        })?;
        logits.extend_from_slice(&word.to_le_bytes()[..size]);
    }
    Ok(StoredRow { dtype, logits })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(json: Json) -> Result<Vectors, String> {
        Vectors::parse(json)
    }

    #[test]
    fn rows_are_found_by_name_by_number_and_by_their_bits() {
        let vectors = read(json!({
            "logits": "a.npy",
            "rows": {"two": {"dtype": "bf16", "bits": ["3f80", "ff80"]}},
            "cases": [],
        }))
        .unwrap();
        let two = StoredRow { dtype: Dtype::Bf16, logits: vec![0x80, 0x3f, 0x80, 0xff] };
        assert_eq!(vectors.row(&json!("two")), Ok(RowSource::Stored(two)));
        assert_eq!(vectors.row(&json!(7)), Ok(RowSource::Numbered(7)));
        let one = StoredRow { dtype: Dtype::F32, logits: vec![1, 0, 0, 0] };
        let inside = json!({"dtype": "f32", "bits": ["00000001"]});
        assert_eq!(vectors.row(&inside), Ok(RowSource::Stored(one)));
        assert_eq!(vectors.logits, Some("a.npy".into()));
        for (row, part) in [
            (json!("three"), "row is three, which is none"),
            (json!(-1), "row is -1; wanted"),
            (json!({"dtype": "f64", "bits": []}), "dtype is \"f64\""),
            (json!({"dtype": "f16", "bits": ["3f8"]}), "wanted: 4 hexadecimal digits"),
            (json!({"dtype": "f16", "bits": ["3g80"]}), "wanted: 4 hexadecimal digits"),
            (json!({"dtype": "f16"}), "has no bits"),
        ] {
            let error = vectors.row(&row).unwrap_err();
            assert!(error.contains(part), "{row}: {error}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_file_is_named() {
        for (file, part) in [
            (json!([]), "is no JSON object"),
            (json!({"cases": {}}), "has no cases"),
            (json!({"cases": [], "rows": []}), "rows that are no object"),
            (json!({"cases": [], "rows": {"a": {}}}), "row a: dtype is null"),
            (json!({"cases": [{"kind": "log2"}, 5]}), "case 1: is no JSON object"),
            (json!({"cases": [{"kind": 5}]}), "case 0: kind is 5; wanted"),
            (json!({"cases": [{"w": 5}]}), "case 0: has no kind"),
        ] {
            let error = read(file.clone()).unwrap_err();
            assert!(error.contains(part), "{file}: {error}");
        }
    }

    #[test]
    fn parameters_are_the_f32_that_is_written_and_within_their_range() {
        let read = |name, value| parameter(name, &value);
        for x in [0.1f32, 0.7, 1.0, 1e-30, 1234.5678, 1.0f32.next_down()] {
            let written = serde_json::from_str(&format!("{x:?}")).unwrap();
            let (field, value) = read("temperature", written).unwrap().unwrap();
            assert_eq!((field.name, value), ("temperature", Value::Real(x)), "{x}");
        }
        let seed = read("seed", json!(u64::MAX)).unwrap().unwrap().1;
        assert_eq!(seed, Value::Whole(u64::MAX));
        assert!(read("a_name_of_no_parameter", json!(1)).unwrap().is_none());
        assert!(read("top_p", json!(0)).unwrap_err().contains("top_p is 0; allowed"));
        assert!(read("top_k", json!([1])).unwrap_err().contains("top_k is [1]; allowed"));
    }

    #[test]
    fn cases_of_version_1_are_read_as_those_of_today() {
        let old = json!({"cases": [
            {"name": "a", "dtype": "f16", "bits": ["3c00"], "params": {"T": 0.5, "k": 3, "p": 0.9, "minp": 0.1},
                "seed": 5, "position": 6, "expect": {"status": "OK", "token": 0}},
            {"row": 3, "params": {"T": 1.0}, "seed": 5, "position": 0, "expect": {"status": "OK", "logprob": -1.5}},
            {"T": 0.1, "x_minus_max": "-0.5", "mass": 7408451072u64},
        ]});
        let new = json!({"cases": [
            {"name": "a", "kind": "sample", "row": {"dtype": "f16", "bits": ["3c00"]},
                "params": {"temperature": 0.5, "top_k": 3, "top_p": 0.9, "min_p": 0.1, "seed": 5, "position": 6},
                "expect": {"status": "OK", "token": 0}},
            {"kind": "sample", "row": 3, "params": {"temperature": 1.0, "seed": 5, "position": 0},
                "expect": {"status": "OK"}},
            {"kind": "mass", "temperature": 0.1, "x_minus_max": "-0.5", "expect": 7408451072u64},
        ]});
        assert_eq!(read(old).unwrap().cases, read(new).unwrap().cases);
    }
}
