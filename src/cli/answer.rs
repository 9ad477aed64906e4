//! What became of the rows, as a table for people or as JSON for programs.

use crate::files::assets::TokenTexts;
use crate::wire::inspection::{Found, kept_tokens};
use crate::wire::whole::Whole;
use logitd_core::batch::{Draw, Outcome, RowStatus, State};
use logitd_core::inspection::{Inspection, Logprobs, TokenLogprob};
use serde::Serialize;
use std::io::{self, Write};

/// What became of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowAnswer {
    /// Whether it has tokens, and why not; how many the cuts left.
    pub outcome: Outcome,
    /// One a draw; none unless the status is OK.
    pub draws: Vec<Draw>,
    /// What was asked for beside them.
    pub inspection: Inspection,
    /// What it gives back to its sequence, if anything.
    pub state: Option<State>,
    /// The seed that was used.
    pub seed: u64,
}

/// How answers are written.
pub struct Printer<W> {
    out: W,
    json: bool,
    tokens: Option<TokenTexts>,
    columns: Columns,
    begun: bool,
}

/// The widths of the table's columns; without `draw` where no row has several.
#[derive(Clone, Copy)]
struct Columns {
    row: usize,
    draw: Option<usize>,
    seed: usize,
}

/// Statuses stand where a row has none of these three.
const STATUS: usize = 6;
const TOKEN: usize = 9;
const LOGPROB: usize = 13;
const KEPT: usize = 9;

/// A line of JSON.
#[derive(Serialize)]
struct Line<'a> {
    row: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    draw: Option<usize>,
    status: &'static str,
    token: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    logprob: Option<f32>,
    kept: u32,
    seed: Whole,
    #[serde(flatten)]
    state: StateLine,
    #[serde(flatten)]
    inspection: Found<'a>,
}

/// What the sequence's next row is given, by the names of its parameters.
#[derive(Default, Serialize)]
struct StateLine {
    #[serde(skip_serializing_if = "Option::is_none")]
    mirostat_mu: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    adaptive_sum: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    adaptive_weight: Option<f32>,
}

impl StateLine {
    fn new(state: Option<State>) -> Self {
        match state {
            Some(State::Mirostat { mu }) => Self { mirostat_mu: Some(mu), ..Self::default() },
            Some(State::Adaptive { sum, weight }) => {
                Self { adaptive_sum: Some(sum), adaptive_weight: Some(weight), ..Self::default() }
            }
            None => Self::default(),
        }
    }
}

impl<W: Write> Printer<W> {
    /// Writes to `out`: a line of JSON a draw, or a table. `row_max` is the last row's number and
    /// `draws_max` the most draws that a row has; `seed_max` is the largest seed that one may have.
    pub fn new(
        out: W,
        json: bool,
        tokens: Option<TokenTexts>,
        row_max: usize,
        draws_max: u32,
        seed_max: u64,
    ) -> Self {
        let digits = |n: u64| n.to_string().len();
        let columns = Columns {
            row: digits(row_max as u64).max(3),
            draw: (draws_max > 1).then(|| digits(u64::from(draws_max) - 1).max(4)),
            seed: digits(seed_max).max(4),
        };
        Self { out, json, tokens, columns, begun: false }
    }

    /// Writes one row: a line for each of the `draws` that were asked for, tokens or not.
    pub fn row(&mut self, row: usize, draws: u32, answer: &RowAnswer) -> io::Result<()> {
        if !self.begun && !self.json {
            self.head()?;
        }
        self.begun = true;
        (0..draws as usize).try_for_each(|draw| match self.json {
            true => self.json_line(row, draw, answer),
            false => self.table_line(row, draw, answer),
        })
    }

    /// Writes everything out.
    pub fn end(mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// What goes above all rows; written with the first, so that an error stands alone.
    fn head(&mut self) -> io::Result<()> {
        let Columns { row, draw, seed } = self.columns;
        write!(self.out, "{:>row$}", "row")?;
        if let Some(draw) = draw {
            write!(self.out, "  {:>draw$}", "draw")?;
        }
        write!(
            self.out,
            "  {:<STATUS$}{:>TOKEN$}  {:>LOGPROB$}{:>KEPT$}  {:>seed$}",
            "status", "token", "logprob", "kept", "seed"
        )?;
        writeln!(self.out, "{}", if self.tokens.is_some() { "  text" } else { "" })
    }

    fn json_line(&mut self, row: usize, draw: usize, answer: &RowAnswer) -> io::Result<()> {
        let drawn = answer.draws.get(draw);
        let line = Line {
            row,
            draw: self.columns.draw.map(|_| draw),
            status: answer.outcome.status.name(),
            token: drawn.map(|d| d.token),
            text: drawn.and_then(|d| self.tokens.as_ref()?.get(d.token)),
            logprob: drawn.map(|d| d.logprob),
            kept: answer.outcome.kept,
            seed: Whole(answer.seed),
            state: StateLine::new(answer.state),
            inspection: Found::new(&answer.inspection, draw),
        };
        serde_json::to_writer(&mut self.out, &line)?;
        writeln!(self.out)
    }

    fn table_line(&mut self, row: usize, draw: usize, answer: &RowAnswer) -> io::Result<()> {
        let columns = self.columns;
        write!(self.out, "{row:>0$}", columns.row)?;
        if let Some(width) = columns.draw {
            write!(self.out, "  {draw:>width$}")?;
        }
        match answer.draws.get(draw) {
            Some(d) => write!(
                self.out,
                "  {:<STATUS$}{:>TOKEN$}  {:>LOGPROB$}",
                answer.outcome.status.name(),
                d.token,
                d.logprob
            )?,
            None => {
                let width = STATUS + TOKEN + 2 + LOGPROB;
                write!(self.out, "  {:<width$}", answer.outcome.status.name())?;
            }
        }
        write!(self.out, "{:>KEPT$}  {:>2$}", answer.outcome.kept, answer.seed, columns.seed)?;
        let text = answer.draws.get(draw).and_then(|d| self.tokens.as_ref()?.get(d.token));
        writeln!(self.out, "{}", text.map(|text| format!("  {text:?}")).unwrap_or_default())?;
        if let Some(state) = answer.state {
            self.state(state)?;
        }
        for found in &answer.inspection.logprobs {
            self.distribution(found, draw)?;
        }
        match &answer.inspection.kept {
            Some(kept) if draw == 0 => self.kept(&kept_tokens(kept)),
            _ => Ok(()),
        }
    }

    /// What the sequence's next row is given, below the line of its draw.
    fn state(&mut self, state: State) -> io::Result<()> {
        let indent = self.columns.row;
        match state {
            State::Mirostat { mu } => writeln!(self.out, "{:indent$}  mirostat_mu {mu}", ""),
            State::Adaptive { sum, weight } => {
                writeln!(self.out, "{:indent$}  adaptive_sum {sum}, adaptive_weight {weight}", "")
            }
        }
    }

    /// What is said of a distribution below the line of a draw: with the first, all that is of the row.
    fn distribution(&mut self, found: &Logprobs, draw: usize) -> io::Result<()> {
        let Logprobs { of, status, entropy, drawn, top, ids } = found;
        let indent = self.columns.row;
        if *status != RowStatus::Ok {
            return writeln!(self.out, "{:indent$}  {of}: {status}", "");
        }
        let drawn =
            drawn.get(draw).map(|one| format!("rank {}, logprob {}", one.rank, one.logprob));
        let entropy = (draw == 0).then(|| format!("entropy {} nats", entropy.0));
        let facts: Vec<String> = drawn.into_iter().chain(entropy).collect();
        writeln!(self.out, "{:indent$}  {of}: {}", "", facts.join("; "))?;
        for one in top.iter().chain(ids).filter(|_| draw == 0) {
            let text = self.tokens.as_ref().and_then(|tokens| tokens.get(one.token));
            let text = text.map(|text| format!("  {text:?}")).unwrap_or_default();
            let TokenLogprob { token, rank, logprob } = one;
            writeln!(
                self.out,
                "{:indent$}  {rank:>STATUS$}{token:>TOKEN$}  {logprob:>LOGPROB$}{text}",
                ""
            )?;
        }
        Ok(())
    }

    /// The kept tokens, as many as a line has room for.
    fn kept(&mut self, tokens: &[u32]) -> io::Result<()> {
        const SHOWN: usize = 16;
        let indent = self.columns.row;
        let shown: Vec<String> = tokens.iter().take(SHOWN).map(u32::to_string).collect();
        let more = match tokens.len().saturating_sub(SHOWN) {
            0 => String::new(),
            more => format!(" and {more} more (--json has all)"),
        };
        writeln!(self.out, "{:indent$}  kept: {}{more}", "", shown.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use logitd_core::inspection::{Distribution, Entropy, KeptIds};

    fn print(json: bool, draws: u32) -> String {
        print_with(json, draws, &Inspection::default())
    }

    fn print_with(json: bool, draws: u32, inspection: &Inspection) -> String {
        let tokens = TokenTexts::from_json(br#"["a", "\n"]"#).unwrap();
        let mut out = Vec::new();
        let mut printer = Printer::new(&mut out, json, Some(tokens), 12, draws, 77);
        let draw = |token| Draw { token, logprob: -0.1 };
        let drawn = (0..draws).map(draw).collect();
        let outcome = Outcome { status: RowStatus::Ok, kept: 5, kept_mass: 9 };
        let ok = RowAnswer {
            outcome,
            draws: drawn,
            inspection: inspection.clone(),
            state: None,
            seed: 77,
        };
        let outcome = Outcome::failed(RowStatus::PositiveInfinity);
        let failed = RowAnswer {
            outcome,
            draws: Vec::new(),
            inspection: Default::default(),
            state: None,
            seed: 1,
        };
        printer.row(3, draws, &ok).unwrap();
        printer.row(12, draws, &failed).unwrap();
        printer.end().unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_table() {
        let expected = "\
row  draw  status    token        logprob     kept  seed  text
  3     0  OK            0           -0.1        5    77  \"a\"
  3     1  OK            1           -0.1        5    77  \"\\n\"
 12     0  POSITIVE_INFINITY                     0     1
 12     1  POSITIVE_INFINITY                     0     1
";
        assert_eq!(print(false, 2), expected);
    }

    #[test]
    fn what_was_asked_for_stands_below_the_draws() {
        let token = |token, rank, logprob| TokenLogprob { token, rank, logprob };
        let raw = Logprobs {
            of: Distribution::Raw,
            status: RowStatus::Ok,
            entropy: Entropy(1.25),
            drawn: vec![token(0, 1, -0.5), token(1, 2, -1.5)],
            top: vec![token(0, 1, -0.5), token(1, 2, -1.5)],
            ids: vec![token(7, 0, f32::NEG_INFINITY)],
        };
        let missing = Logprobs {
            of: Distribution::Adjusted,
            status: RowStatus::Nan,
            entropy: Entropy::default(),
            drawn: vec![],
            top: vec![],
            ids: vec![],
        };
        let kept = Some(KeptIds::Ids((0..18).collect()));
        let inspection = Inspection { logprobs: vec![raw, missing], kept, continuations: None };
        let expected = "\
row  draw  status    token        logprob     kept  seed  text
  3     0  OK            0           -0.1        5    77  \"a\"
     raw: rank 1, logprob -0.5; entropy 1.25 nats
          1        0           -0.5  \"a\"
          2        1           -1.5  \"\\n\"
          0        7           -inf
     adjusted: NAN
     kept: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 and 2 more (--json has all)
  3     1  OK            1           -0.1        5    77  \"\\n\"
     raw: rank 2, logprob -1.5
     adjusted: NAN
";
        let printed = print_with(false, 2, &inspection);
        assert!(printed.starts_with(expected), "{printed}");
        let line = r#"{"row":3,"status":"OK","token":0,"text":"a","logprob":-0.1,"kept":5,"seed":77,"logprobs":[{"of":"raw","status":"OK","drawn":{"token":0,"rank":1,"logprob":-0.5},"entropy":1.25,"#;
        let printed = print_with(true, 1, &inspection);
        assert!(printed.starts_with(line) && printed.contains(r#""kept_ids":[0,1,2"#), "{printed}");
    }

    #[test]
    fn what_goes_back_to_the_sequence_is_told_by_the_names_of_parameters() {
        let print = |json, state| {
            let mut out = Vec::new();
            let mut printer = Printer::new(&mut out, json, None, 3, 1, 77);
            let answer = RowAnswer {
                outcome: Outcome { status: RowStatus::Ok, kept: 5, kept_mass: 9 },
                draws: vec![Draw { token: 1, logprob: -0.5 }],
                inspection: Inspection::default(),
                state: Some(state),
                seed: 7,
            };
            printer.row(3, 1, &answer).unwrap();
            String::from_utf8(out).unwrap()
        };
        let mirostat = State::Mirostat { mu: 9.75 };
        let adaptive = State::Adaptive { sum: 2.5, weight: 3.25 };
        assert!(print(true, mirostat).ends_with(",\"seed\":7,\"mirostat_mu\":9.75}\n"));
        assert!(print(false, mirostat).ends_with("\n     mirostat_mu 9.75\n"));
        let said = print(true, adaptive);
        assert!(said.ends_with(",\"adaptive_sum\":2.5,\"adaptive_weight\":3.25}\n"), "{said}");
        assert!(print(false, adaptive).ends_with("     adaptive_sum 2.5, adaptive_weight 3.25\n"));
    }

    #[test]
    fn lines_of_json() {
        let expected = r#"{"row":3,"status":"OK","token":0,"text":"a","logprob":-0.1,"kept":5,"seed":77}
{"row":12,"status":"POSITIVE_INFINITY","token":null,"logprob":null,"kept":0,"seed":1}
"#;
        assert_eq!(print(true, 1), expected);
        assert!(print(true, 2).starts_with(r#"{"row":3,"draw":0,"status":"OK","#));
    }
}
