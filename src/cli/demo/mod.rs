//! `logitd demo`: the main job on real logits, in one command.
//!
//! A server starts in this process; everything shown is asked of it over gRPC. What it answers is
//! then asked again in other batches, and computed again by other code, and must be the same bits.

mod replay;
mod server;
mod speed;

use super::Outcome;
use super::answer::RowAnswer;
use super::chart::{Chart, grid};
use super::sampler::{Local, RowsOfOne, Sampler};
use super::text::{columns, fit, grouped, isolate, tail, visible, wrap};
use crate::config::values::number;
use crate::devices::BackendName;
use crate::files::assets::{self, DTYPE, VOCAB_SIZE};
use crate::files::params::Set;
use anstyle::{AnsiColor, Style};
use bytes::Bytes;
use logitd_core::adjustments::AdjustmentsSpec;
use logitd_core::backend::cpu::Isa;
use logitd_core::backend::cuda::CudaOptions;
use logitd_core::params::{DRAWS_MAX, ParamsSpec};
use replay::Replay;
use server::Running;
use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;
use unicode_width::UnicodeWidthStr;

/// See it work: sample real logits over gRPC, replay the draws, time it
///
/// Starts a server in this process on a free port of 127.0.0.1 and samples next-token logits of a
/// small language model, which the program carries, at several temperatures, under several cuts and
/// under a grammar's mask. Then replays every draw in other batches and on other code, and shows that not
/// a bit differs.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit code: 0 fine, 1 a draw was not replayed, 2 an error.")]
pub struct Args {
    /// The text whose next token is charted: 1 to 8
    #[arg(long, value_name = "N", default_value_t = 1,
        value_parser = number::<u8>(1..=8))]
    text: u8,

    /// Draws a setting: 1 to 1024
    #[arg(long, value_name = "N", default_value_t = 200,
        value_parser = number(1..=DRAWS_MAX))]
    draws: u32,

    /// Key of every random stream; another one draws other tokens
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = number(0..=u64::MAX))]
    seed: u64,
}

const TITLE: Style = Style::new().bold();
const QUIET: Style = Style::new().dimmed();
const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();

/// A row of the program's own and what to do with it.
#[derive(Clone)]
struct Question {
    /// Its place in [`assets::rows`].
    row: usize,
    set: Set,
}

/// Asks questions as one batch.
fn ask(
    sampler: &mut dyn Sampler,
    questions: &[Question],
) -> Result<Vec<RowAnswer>, Box<dyn Error>> {
    let rows = assets::rows();
    let logits: Vec<u8> = questions.iter().flat_map(|q| &rows[q.row].logits).copied().collect();
    let sets: Vec<Set> = questions.iter().map(|q| q.set.clone()).collect();
    ask_bytes(sampler, logits.into(), &sets)
}

fn ask_bytes(
    sampler: &mut dyn Sampler,
    logits: Bytes,
    sets: &[Set],
) -> Result<Vec<RowAnswer>, Box<dyn Error>> {
    sampler.sample(RowsOfOne { dtype: DTYPE, vocab_size: VOCAB_SIZE, logits, params: sets })
}

/// The settings that are charted, and what each is called.
fn settings(args: &Args) -> [(&'static str, Set); 8] {
    let base = ParamsSpec { seed: Some(args.seed), draws: args.draws, ..Default::default() };
    let at = |temperature| ParamsSpec { temperature, ..base };
    let xtc = ParamsSpec { xtc_probability: 1.0, xtc_threshold: 0.05, ..base };
    let adjustments = AdjustmentsSpec { allowed_bitmask: words_of_four(), ..Default::default() };
    [
        ("temperature 0 (greedy)", at(0.0).into()),
        ("temperature 1", base.into()),
        ("temperature 2", at(2.0).into()),
        ("temperature 2, top_n_sigma 1", ParamsSpec { top_n_sigma: 1.0, ..at(2.0) }.into()),
        ("top_k 5", ParamsSpec { top_k: 5, ..base }.into()),
        ("top_p 0.5", ParamsSpec { top_p: 0.5, ..base }.into()),
        ("XTC above 0.05", xtc.into()),
        ("grammar: four letters", Set { adjustments, ..base.into() }),
    ]
}

/// What a grammar engine would allow where a word of four letters has to come: a bit a token.
fn words_of_four() -> Vec<u32> {
    let is_word = |token: u32| {
        let text = assets::tokens().get(token).unwrap_or_default();
        let word = text.strip_prefix(' ').unwrap_or(text);
        word.len() == 4 && word.bytes().all(|letter| letter.is_ascii_lowercase())
    };
    let mut words = vec![0; VOCAB_SIZE.div_ceil(32) as usize];
    for token in (0..VOCAB_SIZE).filter(|&token| is_word(token)) {
        words[token as usize / 32] |= 1 << (token % 32);
    }
    words
}

/// The setting under which the other texts are shown.
const TOGETHER: ParamsSpec =
    ParamsSpec { temperature: 0.8, top_k: 50, top_p: 0.9, ..ParamsSpec::DEFAULT };

/// Runs the command.
pub fn run(args: Args) -> Outcome {
    let mut server = Running::start()?;
    let mut page = Page { out: anstream::stdout().lock(), width: columns() };
    page.head(&server)?;
    let questions = questions(&args);
    let answers = ask(server.sampler(), &questions)?;
    let (of_charted, of_others) = answers.split_at(settings(&args).len());
    page.charts(&args, of_charted)?;
    page.others(&questions[of_charted.len()..], of_others)?;
    let differences = page.replays(server.sampler(), &questions, &answers)?;
    page.speed(server.sampler())?;
    page.parity(&questions, &answers, differences)?;
    page.next()?;
    server.stop()?;
    Ok(if differences == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What is printed, section by section.
struct Page<W> {
    out: W,
    width: usize,
}

impl<W: Write> Page<W> {
    fn head(&mut self, server: &Running) -> io::Result<()> {
        let (version, rows) = (env!("CARGO_PKG_VERSION"), assets::rows().len());
        writeln!(
            self.out,
            "{TITLE}logitd {version}{TITLE:#}: logits in, tokens out, the same bits everywhere\n"
        )?;
        writeln!(self.out, "{QUIET}server{QUIET:#}  {}", server.name())?;
        writeln!(
            self.out,
            "{QUIET}logits{QUIET:#}  what Gemma 3 270M says after {rows} texts: {} tokens each, f16\n",
            grouped(VOCAB_SIZE.into())
        )
    }

    /// One text under every setting.
    fn charts(&mut self, args: &Args, answers: &[RowAnswer]) -> io::Result<()> {
        self.section(&format!("What comes next? {} draws a setting, over gRPC", args.draws))?;
        let context = format!("{} …", assets::rows()[charted(args)].context);
        for line in wrap(&context, self.width) {
            writeln!(self.out, "{line}")?;
        }
        writeln!(self.out)?;
        let charts: Vec<Chart> = settings(args)
            .iter()
            .zip(answers)
            .map(|((title, _), answer)| chart(title, answer))
            .collect();
        grid(&charts, self.width).iter().try_for_each(|line| writeln!(self.out, "{line}"))
    }

    /// The other texts under one setting, a line each.
    fn others(&mut self, questions: &[Question], answers: &[RowAnswer]) -> io::Result<()> {
        let ParamsSpec { temperature, top_k, top_p, .. } = TOGETHER;
        self.section(&format!(
            "After other texts: temperature {temperature}, top_k {top_k}, top_p {top_p}"
        ))?;
        for (question, answer) in questions.iter().zip(answers) {
            let context = tail(&assets::rows()[question.row].context, self.width - 2);
            writeln!(self.out, "{QUIET}{context} …{QUIET:#}")?;
            writeln!(self.out, "{}", summary(&chart("", answer), self.width))?;
        }
        writeln!(self.out)
    }

    /// Everything again in other ways; the number of rows that differ.
    fn replays(
        &mut self,
        server: &mut dyn Sampler,
        questions: &[Question],
        answers: &[RowAnswer],
    ) -> Result<usize, Box<dyn Error>> {
        self.section("The same draws again, compared bit for bit")?;
        let mut differences = 0;
        for replay in replay::replay(server, questions, answers)? {
            let Replay { how, draws, differences: rows } = replay;
            differences += rows;
            let (style, verdict) = match rows {
                0 => (GOOD, "identical".into()),
                n => (BAD, format!("{n} rows DIFFER")),
            };
            let draws = grouped(draws as u64);
            writeln!(self.out, "{} {draws:>8} draws  {style}{verdict}{style:#}", fit(&how, 48))?;
        }
        writeln!(self.out)?;
        Ok(differences)
    }

    fn speed(&mut self, server: &mut dyn Sampler) -> Result<(), Box<dyn Error>> {
        let ParamsSpec { temperature, top_k, top_p, .. } = speed::PARAMS;
        self.section(&format!(
            "Speed: rows of 512 KiB, temperature {temperature}, top_k {top_k}, top_p {top_p}, median"
        ))?;
        let mut cpu = Local::new(BackendName::Cpu(None).open(0, &CudaOptions::default())?);
        let samplers: [(&str, &mut dyn Sampler); 2] =
            [("in process", &mut cpu), ("over gRPC", server)];
        for (name, sampler) in samplers {
            for rows in [1, 16] {
                let took = speed::median(sampler, rows)?.as_secs_f64() / rows as f64;
                let batch =
                    format!("{name}, {rows} row{} a request", if rows == 1 { "" } else { "s" });
                let (us, rate) = (took * 1e6, grouped((1.0 / took) as u64));
                writeln!(self.out, "{} {us:>8.1} µs a row {rate:>9} rows/s", fit(&batch, 32))?;
            }
        }
        writeln!(self.out)?;
        Ok(())
    }

    fn parity(
        &mut self,
        questions: &[Question],
        answers: &[RowAnswer],
        differences: usize,
    ) -> io::Result<()> {
        let draws: usize = answers.iter().map(|answer| answer.draws.len()).sum();
        let isas: Vec<_> = Isa::supported().map(Isa::name).collect();
        writeln!(
            self.out,
            "{TITLE}Parity:{TITLE:#} {} rows, {} draws, {} vs reference: {differences} differences",
            questions.len(),
            grouped(draws as u64),
            isas.join("/"),
        )
    }

    /// What a reader can try after this.
    fn next(&mut self) -> io::Result<()> {
        writeln!(
            self.out,
            "{TITLE}Next:{TITLE:#} cargo run --release --example sentences  {QUIET}(whole sentences, beams, drafts){QUIET:#}"
        )
    }

    fn section(&mut self, title: &str) -> io::Result<()> {
        let line = "─".repeat(self.width.saturating_sub(title.width() + 4));
        writeln!(self.out, "{QUIET}──{QUIET:#} {TITLE}{title}{TITLE:#} {QUIET}{line}{QUIET:#}")
    }
}

fn chart(title: &str, answer: &RowAnswer) -> Chart {
    let drawn = answer.draws.iter().map(|draw| draw.token);
    let text = |token| assets::tokens().get(token).map_or("?".into(), visible);
    Chart::new(title.into(), answer.outcome.kept, drawn, text)
}

/// Every setting for the text that is charted, then one setting for the other texts.
fn questions(args: &Args) -> Vec<Question> {
    let charted = charted(args);
    let together = ParamsSpec { seed: Some(args.seed), draws: args.draws, ..TOGETHER };
    let of_charted = settings(args).map(|(_, set)| Question { row: charted, set });
    let others = (0..assets::rows().len()).filter(|&row| row != charted);
    let of_others = others.map(|row| Question { row, set: together.into() });
    of_charted.into_iter().chain(of_others).collect()
}

/// The place of the text that is charted.
fn charted(args: &Args) -> usize {
    usize::from(args.text) - 1
}

/// ` like 72   have 55 ..` in one line, with what was kept and drawn at its end.
fn summary(chart: &Chart, width: usize) -> String {
    let facts = format!("{} kept, {} distinct", chart.kept(), chart.distinct());
    let room = width - facts.len() - 4;
    let mut line = String::new();
    for (text, count) in chart.most_frequent() {
        let item = format!("{} {count}  ", isolate(text));
        if line.width() + item.width() > room {
            break;
        }
        line += &item;
    }
    let gap = " ".repeat(room - line.width());
    format!("  {line}{gap}  {QUIET}{facts}{QUIET:#}")
}
