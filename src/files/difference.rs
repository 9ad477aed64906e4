//! A row on which two backends disagree, written down so that anybody can sample it again.

use super::npy;
use crate::wire;
use logitd_core::backend::dual::Difference;
use logitd_core::batch::Dtype;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Writes `NAME.npy`, `NAME.params.jsonl` and `NAME.txt` into a folder: the row, its parameters,
/// and both answers with the command that replays it. Returns the path of the last.
///
/// The row and its seed are what somebody sampled. A folder that is made for them is open to
/// nobody else, where the system knows such a thing; keep others as private.
pub fn write(difference: &Difference, folder: &Path, name: &str) -> io::Result<PathBuf> {
    create_private(folder)?;
    let path = |end: &str| folder.join(format!("{name}.{end}"));
    let Difference { dtype, vocab_size, params, adjustments, inspect, logits, .. } = difference;
    npy::write(&path("npy"), *dtype, *vocab_size, logits)?;
    let mut line = wire::params::json(*params);
    for (key, value) in adjustments.iter().flat_map(wire::adjustments::to_json) {
        line[key] = value;
    }
    for (key, value) in inspect.iter().flat_map(wire::inspection::to_json) {
        line[key] = value;
    }
    std::fs::write(path("params.jsonl"), format!("{line}\n"))?;
    // numpy has no bf16, so a file of it does not say what it holds.
    let declared = if *dtype == Dtype::Bf16 { "--dtype bf16 " } else { "" };
    let flags = format!("--logits {name}.npy {declared}--params {name}.params.jsonl");
    let text = path("txt");
    let mut file = std::fs::File::create(&text)?;
    let without = if difference.draft.is_some() { " without the draft" } else { "" };
    writeln!(file, "{difference}\n\nreplay{without}: logitd sample {flags}")?;
    Ok(text)
}

/// [`write()`] into one folder.
pub fn writer(folder: PathBuf) -> impl Fn(&Difference, &str) -> io::Result<PathBuf> + Send {
    move |difference, name| write(difference, &folder, name)
}

fn create_private(folder: &Path) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::npy::{Declared, LogitsFile};
    use logitd_core::adjustments::{AdjustmentsSpec, Limits};
    use logitd_core::backend::dual::OwnedResult;
    use logitd_core::batch::{Draw, Outcome, RowStatus};
    use logitd_core::inspection::Inspect;
    use logitd_core::params::ParamsSpec;

    #[test]
    fn a_difference_can_be_replayed_from_its_files() {
        let logits: Vec<u8> = (0..60).collect();
        let spec = ParamsSpec { temperature: 0.7, top_p: 0.9, draws: 2, ..Default::default() };
        let lists = AdjustmentsSpec { banned_ids: vec![9], ..Default::default() };
        let outcome = Outcome { status: RowStatus::Ok, kept: 3, kept_mass: 9 };
        let draws = vec![Draw { token: 1, logprob: -0.5 }; 2];
        let a = OwnedResult { outcome, draws, inspection: None, state: None, accepted: None };
        let mut b = a.clone();
        b.draws[1].token = 7;
        let difference = Difference {
            row_index: 2,
            dtype: Dtype::Bf16,
            vocab_size: 30,
            params: spec.parse(|| u64::MAX).unwrap(),
            adjustments: Some(lists.parse(30, Limits::default()).unwrap()),
            inspect: Some(Inspect { of: [true, false, true], top: 2, ..Default::default() }),
            draft: None,
            logits: logits.clone(),
            a: Some(a),
            b: Some(b),
        };
        let folder = tempfile::tempdir().unwrap();
        write(&difference, folder.path(), "first").unwrap();
        let declared = Declared { dtype: Some(Dtype::Bf16), vocab_size: None };
        let mut file = LogitsFile::open(&folder.path().join("first.npy"), declared).unwrap();
        let mut read = Vec::new();
        file.read(0..1, &mut read).unwrap();
        assert_eq!(read, logits);
        let json = std::fs::read(folder.path().join("first.params.jsonl")).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(json["seed"], u64::MAX.to_string());
        assert_eq!(json["banned_ids"], serde_json::json!([9]));
        let logprobs = serde_json::json!({"of": ["raw", "sampled"], "top": 2, "ids": []});
        assert_eq!((&json["logprobs"], json.get("return_kept")), (&logprobs, None));
        assert_eq!(json["temperature"].as_f64().unwrap() as f32, 0.7);
    }
}
