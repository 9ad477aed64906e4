//! A beam search over the logits of a model in another process, sampled in this one.
//!
//! The first line of the standard input says what is searched for; then, whenever a line asks for rows, it has their logits:
//! f32, little-endian, one row a beam.
//!
//! ```sh
//! cargo run --release --example beam_search < REQUEST
//! ```

use logitd_client::api;
use logitd_client::beam::{Candidate, EarlyStopping, Group, Options, Search, Step};
use logitd_core::adjustments::{AdjustmentsSpec, Limits};
use logitd_core::backend::{Backend, cpu::Cpu};
use logitd_core::batch::{Dtype, Results, Row, RowError};
use logitd_core::beams::{self, StepSpec};
use logitd_core::inspection::Normaliser;
use logitd_core::params::{ParamsSpec, SamplingParams};
use serde_json::{Value, json};
use std::error::Error;
use std::io::{BufRead, Read, Write, stdin, stdout};

/// What the first line says.
#[derive(serde::Deserialize)]
struct Request {
    vocab_size: u32,
    beams: u32,
    eos_ids: Vec<u32>,
    max_length: u32,
    /// Tokens before which no text ends. As in transformers, other tokens do not become more likely by that.
    min_length: usize,
    length_penalty: f64,
    /// `when_full`, `when_unlikely` or `never`.
    early_stopping: String,
    /// How many texts are searched for side by side.
    groups: usize,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut line = String::new();
    let mut input = stdin().lock();
    input.read_line(&mut line)?;
    let request: Request = serde_json::from_str(&line)?;
    let early_stopping = match &*request.early_stopping {
        "when_full" => EarlyStopping::WhenFull,
        "when_unlikely" => EarlyStopping::WhenUnlikely,
        "never" => EarlyStopping::Never,
        other => return Err(format!("early_stopping is {other}").into()),
    };
    let options = Options {
        beams: request.beams,
        eos_ids: request.eos_ids,
        max_length: request.max_length,
        length_penalty: request.length_penalty,
        early_stopping,
    };
    let search = Search::new(options.clone(), request.groups)?;
    let mut stepper = Stepper {
        options,
        min_length: request.min_length,
        vocab_size: request.vocab_size,
        // Nothing is drawn.
        params: ParamsSpec { temperature: 0.0, ..ParamsSpec::default() }.parse(|| 0)?,
        backend: Cpu::new(Default::default())?,
        results: Results::default(),
    };
    let found = search.run(|open| {
        let beams = |group: &&Group| -> Value {
            group
                .beams()
                .iter()
                .map(|beam| json!({"tokens": beam.tokens, "score": beam.score}))
                .collect()
        };
        let beams: Vec<Value> = open
            .iter()
            .map(|group| json!({"group": group.index(), "beams": beams(group)}))
            .collect();
        say(&json!({"rows": beams}))?;
        let steps: Vec<Step> =
            open.iter().map(|group| stepper.step(group, &mut input)).collect::<Result<_, _>>()?;
        say(&json!({"steps": steps.iter().map(step).collect::<Vec<_>>()}))?;
        Ok::<_, Box<dyn Error>>(steps)
    });
    let found = found.map_err(|error| error.to_string())?;
    let texts = found.iter().map(|found| {
        let text = |text: &logitd_client::beam::Text| {
            json!({"tokens": text.tokens, "score": text.score, "normalised": text.normalised})
        };
        json!({"texts": found.texts.iter().map(text).collect::<Vec<_>>(), "end": format!("{:?}", found.end)})
    });
    say(&json!({"found": texts.collect::<Vec<_>>()}))
}

struct Stepper {
    options: Options,
    min_length: usize,
    vocab_size: u32,
    params: SamplingParams,
    backend: Cpu,
    results: Results,
}

impl Stepper {
    /// Reads the logits of a group's beams, and says how they go on.
    fn step(&mut self, group: &Group, input: &mut impl Read) -> Result<Step, Box<dyn Error>> {
        let spec = StepSpec {
            scores: group.beams().iter().map(|beam| beam.score).collect(),
            beams: self.options.beams,
            eos_ids: self.options.eos_ids.clone(),
            normaliser: Normaliser::Raw,
            ..StepSpec::default()
        };
        let step = spec.parse(self.vocab_size).map_err(|mut errors| errors.swap_remove(0))?;
        let row_bytes = self.vocab_size as usize * Dtype::F32.size_bytes();
        let mut logits = vec![0; row_bytes * group.beams().len()];
        input.read_exact(&mut logits)?;
        let asked = step.inspect();
        let is_short = group.beams()[0].tokens.len() < self.min_length;
        let banned_ids = if is_short { self.options.eos_ids.clone() } else { vec![] };
        let adjustments = AdjustmentsSpec { banned_ids, ..AdjustmentsSpec::default() }
            .parse(self.vocab_size, Limits::default())
            .map_err(|mut errors| errors.swap_remove(0))?;
        let rows = logits.chunks_exact(row_bytes);
        let rows: Vec<Row<'_>> = rows
            .map(|row| {
                let row = Row::new(Dtype::F32, row, self.params)?;
                Ok(row.with_adjustments(Some(&adjustments)).with_inspect(Some(&asked)))
            })
            .collect::<Result<_, RowError>>()?;
        self.backend.sample(&rows, &mut self.results)?;
        let found = self.results.iter().filter_map(|row| row.inspection?.continuations.as_ref());
        let stepped = step.merge(found);
        Ok(Step {
            statuses: stepped.statuses.iter().map(|status| message(*status)).collect(),
            candidates: candidates(&stepped.candidates),
            running: candidates(&stepped.running),
            finished: candidates(&stepped.finished),
        })
    }
}

fn message(status: logitd_core::batch::RowStatus) -> api::RowStatus {
    use logitd_core::batch::RowStatus;
    match status {
        RowStatus::Ok => api::RowStatus::Ok,
        RowStatus::Nan => api::RowStatus::Nan,
        RowStatus::PositiveInfinity => api::RowStatus::PositiveInfinity,
        _ => api::RowStatus::NoCandidate,
    }
}

fn candidates(of: &[beams::Candidate]) -> Vec<Candidate> {
    of.iter()
        .map(|&beams::Candidate { beam, token, score }| Candidate { beam, token, score })
        .collect()
}

fn step(step: &Step) -> Value {
    let triples = |of: &[Candidate]| -> Value {
        of.iter().map(|it| json!([it.beam, it.token, it.score])).collect()
    };
    json!({
        "candidates": triples(&step.candidates),
        "running": triples(&step.running),
        "finished": triples(&step.finished),
    })
}

fn say(line: &Value) -> Result<(), Box<dyn Error>> {
    let mut out = stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}
