//! Whole sentences, offline: what temperatures, cuts, seeds, beams and drafts do to a text.
//!
//! ```sh
//! cargo run --release --example sentences
//! cargo run --release --example sentences -- --prompt "In the evening" --seed 3
//! ```
//!
//! The language model is small enough to be learnt from the stories in `stories/` at every start ([`model`]); everything
//! is sampled in this process ([`decode`]), on the CPU.

mod decode;
mod model;
mod page;

use clap::Parser;
use decode::{Decoder, Outcome, Speculation};
use logitd_core::backend::cpu::{Cpu, CpuOptions, Isa};
use logitd_core::backend::{Backend, reference::Reference};
use logitd_core::params::{DrawRule, ParamsSpec};
use logitd_core::row::DRAFTS_MAX;
use logitd_core::verify::Mode;
use model::{Model, Vocabulary};
use page::Page;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

/// What the model has read.
const STORIES: [&str; 8] = [
    include_str!("stories/lighthouse.txt"),
    include_str!("stories/village.txt"),
    include_str!("stories/voyages.txt"),
    include_str!("stories/school.txt"),
    include_str!("stories/inn.txt"),
    include_str!("stories/seasons.txt"),
    include_str!("stories/trades.txt"),
    include_str!("stories/creatures.txt"),
];
/// The model whose texts they are goes by three tokens before, and the one that drafts for it by two.
const ORDERS: [usize; 2] = [4, 3];
/// Over so many texts it is counted how many tokens a step of the target gives.
const COUNTED: u64 = 20;

/// Whole sentences, offline: what temperatures, cuts, seeds, beams and drafts do to a text
#[derive(Clone, Debug, Parser)]
struct Args {
    /// What every text begins with, in words of the stories
    #[arg(long, value_name = "TEXT", default_value = "In the winter")]
    prompt: String,
    /// Key of the random draws
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// The temperature of drawn texts, above 0: half of it and one and a half are shown too, and greedy texts with any
    #[arg(long, value_name = "T", default_value_t = 1.0, allow_negative_numbers = true)]
    temperature: f32,
    /// How many tokens top_k keeps
    #[arg(long, value_name = "K", default_value_t = 5)]
    top_k: u32,
    /// The share of the probability that top_p keeps
    #[arg(long, value_name = "P", default_value_t = 0.7)]
    top_p: f32,
    /// How likely a token must be for min_p, next to the likeliest
    #[arg(long, value_name = "P", default_value_t = 0.1)]
    min_p: f32,
    /// Widths of beam searches: 1 to 64 each
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "1,4,16",
        value_parser = clap::value_parser!(u8).range(1..=64))]
    beams: Vec<u8>,
    /// Tokens that are drafted for each step: 1 to 64
    #[arg(long, value_name = "N", default_value_t = 4,
        value_parser = clap::value_parser!(u8).range(1..=DRAFTS_MAX as i64))]
    drafts: u8,
    /// Tokens of a text, at most: 1 to 500
    #[arg(long, value_name = "N", default_value_t = 36,
        value_parser = clap::value_parser!(u16).range(1..=500))]
    tokens: u16,
}

/// By what the temperature is multiplied in the texts that show what it does.
const FACTORS: [f32; 3] = [0.5, 1.0, 1.5];

impl Args {
    /// Refuses parameters outside their range.
    fn check(&self) -> Outcome<()> {
        let Self { temperature, top_k, top_p, min_p, .. } = *self;
        let spec = ParamsSpec { temperature, top_k, top_p, min_p, ..ParamsSpec::default() };
        let parse = |temperature: f32| ParamsSpec { temperature, ..spec }.parse(|| self.seed);
        parse(temperature)?;
        if temperature == 0.0 {
            let text = "temperature is 0, at which nothing is drawn; allowed: above 0; the greedy text is shown with any";
            return Err(text.into());
        }
        for factor in FACTORS {
            parse(factor * temperature).map_err(|error| {
                format!(
                    "temperature is {temperature}, and {factor} times that is shown too: {error}"
                )
            })?;
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let mut out = std::io::stdout();
    let has_styles = out.is_terminal() && std::env::var_os("NO_COLOR").is_none();
    match show(&args, has_styles) {
        Ok(page) => {
            // Whoever reads may have read enough: `| head`.
            let _ = out.write_all(page.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// Everything that is shown, as text.
fn show(args: &Args, has_styles: bool) -> Outcome<String> {
    args.check()?;
    let vocabulary = Vocabulary::of(&STORIES.join("\n"));
    let read = vocabulary.encode(&STORIES.join("\n"))?;
    let [target, drafter] =
        ORDERS.map(|order| Model::learn(&read, vocabulary.words().len(), order));
    let prompt = vocabulary.encode(&args.prompt).map_err(|word| unknown(&word, &vocabulary))?;
    let decoder = Decoder {
        backend: cpu(None)?,
        end: prompt[0],
        prompt: &prompt,
        tokens_max: args.tokens.into(),
    };
    let page = Page::new(has_styles);
    let mut show = Show { args, vocabulary: &vocabulary, target: &target, decoder, page };
    show.head();
    show.sampling()?;
    show.beams()?;
    show.speculation(&drafter)?;
    Ok(show.page.finish())
}

fn cpu(isa: Option<Isa>) -> Outcome<Box<dyn Backend>> {
    Ok(Box::new(Cpu::new(CpuOptions { isa, threads: 1 })?))
}

/// What is said of a word that the model has never read.
fn unknown(word: &str, vocabulary: &Vocabulary) -> String {
    let near = |known: &&String| strsim::damerau_levenshtein(word, known);
    let nearest = vocabulary.words().iter().min_by_key(near).expect("the stories have words");
    format!(
        "--prompt has the word {word:?}, which is in none of the stories (the model knows what it has read); \
         the nearest word there is {nearest:?}"
    )
}

/// What is shown, section by section.
struct Show<'a> {
    args: &'a Args,
    vocabulary: &'a Vocabulary,
    target: &'a Model,
    decoder: Decoder<'a>,
    page: Page,
}

impl Show<'_> {
    fn head(&mut self) {
        let bytes = STORIES.iter().map(|story| story.len()).sum::<usize>();
        self.page.paragraph(&format!(
            "A small language model has read {} KB of stories, {} different words and marks. It guesses what comes next \
             from the three before.",
            bytes / 1000,
            self.vocabulary.words().len()
        ));
    }

    /// Texts under several parameters, then all of them again.
    fn sampling(&mut self) -> Outcome<()> {
        let Args { seed, temperature, top_k, top_p, min_p, .. } = *self.args;
        let base = ParamsSpec { temperature, seed: Some(seed), ..ParamsSpec::default() };
        let at = |temperature| {
            (format!("temperature {temperature}"), ParamsSpec { temperature, ..base })
        };
        let other = seed.wrapping_add(1);
        let sections = [
            (
                "Greedy",
                "Always the likeliest word. Sooner or later such a text goes in circles.",
                vec![at(0.0)],
            ),
            (
                "Temperature",
                "Words are drawn by chance. A low temperature favours the likely ones; a high one, all the others.",
                FACTORS.map(|factor| at(factor * temperature)).into(),
            ),
            (
                "Cuts",
                "Unlikely words are left out before one is drawn: all but the first k, all beyond a share p of the \
                 probability, all that are much less likely than the first.",
                vec![
                    (format!("top_k {top_k}"), ParamsSpec { top_k, ..base }),
                    (format!("top_p {top_p}"), ParamsSpec { top_p, ..base }),
                    (format!("min_p {min_p}"), ParamsSpec { min_p, ..base }),
                ],
            ),
            (
                "Seed",
                "Another seed draws other words. The same one draws the same words, always.",
                vec![(format!("seed {other}"), ParamsSpec { seed: Some(other), ..base })],
            ),
        ];
        let specs = sections.iter().flat_map(|(.., texts)| texts).map(|&(_, spec)| spec);
        let specs: Vec<ParamsSpec> = specs.collect();
        let texts = self.decoder.texts(self.target, &specs)?;
        let mut written = texts.iter();
        for (title, about, labels) in sections {
            self.page.section(title, about);
            for ((label, _), tokens) in labels.iter().zip(&mut written) {
                let text = self.written(tokens);
                self.page.text(label, &text);
            }
        }
        self.again(&specs, &texts)
    }

    /// Says whether texts that were one batch are the same each by itself, on every backend.
    fn again(&mut self, specs: &[ParamsSpec], texts: &[Vec<u32>]) -> Outcome<()> {
        let mut backends: Vec<Box<dyn Backend>> = vec![Box::<Reference>::default()];
        for isa in Isa::supported() {
            backends.push(cpu(Some(isa))?);
        }
        let mut differences = 0;
        for backend in backends {
            let mut decoder = Decoder { backend, ..self.decoder };
            for (spec, text) in specs.iter().zip(texts) {
                differences += usize::from(decoder.texts(self.target, &[*spec])? != [text.clone()]);
            }
        }
        let verdict = match differences {
            0 => "not a word differs".into(),
            n => format!("{n} texts DIFFER"),
        };
        let texts = texts.len();
        let again = format!(
            "The {texts} texts above were one batch. Each by itself, on every backend and instruction set of this \
             machine: {verdict}."
        );
        self.page.text("the same seed", &again);
        Ok(())
    }

    fn beams(&mut self) -> Outcome<()> {
        self.page.section(
            "Beams",
            "Several texts are written at once, and after each word the likeliest are kept; width 1 is greedy. Of the \
             sentences found, the best has the highest mean logarithm of a word's probability: here in parentheses.",
        );
        let stops = self.vocabulary.stops();
        for &width in &self.args.beams {
            let text = match self.decoder.search(self.target, width.into(), &stops)? {
                Some(beam) => {
                    let mean = beam.score as f64 / 2f64.powi(32) / beam.tokens.len() as f64;
                    format!("{} ({mean:.2})", self.written(&beam.tokens))
                }
                None => format!("(no sentence that ends within {} words)", self.args.tokens),
            };
            self.page.text(&format!("width {width}"), &text);
        }
        Ok(())
    }

    fn speculation(&mut self, drafter: &Model) -> Outcome<()> {
        let Args { seed, temperature, drafts, .. } = *self.args;
        self.page.section(
            "Speculation",
            &format!(
                "A smaller model drafts {drafts} words, and the model checks all of them in one step: here what stands \
                 between two bars. Match gives the text that there would be without drafts, and draws by race meet the \
                 drafts more often; rejection gives another text, of the same distribution."
            ),
        );
        // The reference decides about drafts in the plainest way.
        let mut decoder = Decoder { backend: Box::<Reference>::default(), ..self.decoder };
        for (label, mode, draw_rule) in [
            ("match", Mode::Match, DrawRule::Cumulative),
            ("match, race", Mode::Match, DrawRule::Race),
            ("rejection", Mode::Rejection, DrawRule::Cumulative),
        ] {
            let spec = ParamsSpec { temperature, draw_rule, ..ParamsSpec::default() };
            let with = Speculation { drafter, drafts: drafts.into(), mode };
            let (mut words, mut steps, mut same) = (0, 0, 0);
            for number in 0..COUNTED {
                let spec = ParamsSpec { seed: Some(seed.wrapping_add(number)), ..spec };
                let text = decoder.speculate(self.target, spec, &with)?;
                words += text.iter().map(Vec::len).sum::<usize>();
                steps += text.len();
                same += usize::from(decoder.texts(self.target, &[spec])? == [text.concat()]);
                if number == 0 {
                    let text = self.steps(&text);
                    self.page.text(label, &text);
                }
            }
            let a_step = words as f64 / steps as f64;
            let facts = format!(
                "{a_step:.2} words a step; {same} of {COUNTED} texts are those without drafts"
            );
            self.page.note(&facts);
        }
        Ok(())
    }

    /// The prompt and a text behind it.
    fn written(&self, tokens: &[u32]) -> String {
        let all = [self.decoder.prompt, tokens].concat();
        self.vocabulary.decode(all[0], &all[1..]) + self.unended(&all)
    }

    /// The same, with a bar before each step.
    fn steps(&self, steps: &[Vec<u32>]) -> String {
        let mut all = self.decoder.prompt.to_vec();
        let mut text = self.vocabulary.decode(all[0], &all[1..]);
        for step in steps {
            text += " |";
            text += &self.vocabulary.decode(all[all.len() - 1], step);
            all.extend(step);
        }
        text.trim_start().to_owned() + self.unended(&all)
    }

    /// What stands behind a text that might have gone on.
    fn unended(&self, text: &[u32]) -> &'static str {
        let last = text[text.len() - 1];
        if last == self.decoder.end || self.vocabulary.stops().contains(&last) {
            ""
        } else {
            " …"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use page::{QUIET, TITLE, WIDTH, columns};

    const EXPECTED: &str = include_str!("expected.txt");

    fn shown(flags: &[&str]) -> Outcome<String> {
        show(&Args::try_parse_from([&["sentences"], flags].concat())?, false)
    }

    #[test]
    fn the_page_is_the_same_on_every_machine() {
        let page = shown(&[]).unwrap();
        let renew =
            "cargo run --release --example sentences > core/examples/sentences/expected.txt";
        assert!(page == EXPECTED, "{page}\nis not expected.txt; to renew that: {renew}");
    }

    #[test]
    fn every_line_fits_and_styles_change_nothing_else() {
        let flags = ["--prompt", "", "--tokens", "3", "--beams", "2", "--drafts", "64"];
        let plain = shown(&flags).unwrap();
        assert!(
            EXPECTED.lines().chain(plain.lines()).all(|line| columns(line) <= WIDTH),
            "{plain}"
        );
        let args = Args::try_parse_from([&["sentences"], &flags[..]].concat()).unwrap();
        let styled = show(&args, true).unwrap();
        assert_ne!(styled, plain);
        let codes = [TITLE.render(), QUIET.render()].map(|code| code.to_string());
        let bare = codes.iter().fold(styled, |text, code| text.replace(code, ""));
        assert_eq!(bare.replace("\x1b[0m", ""), plain);
    }

    #[test]
    fn mistakes_are_named() {
        let error = |flags: &[&str]| shown(flags).unwrap_err().to_string();
        let unknown = error(&["--prompt", "The old fisherman"]);
        assert!(
            unknown.contains("\"fisherman\"") && unknown.contains("\"fishermen\""),
            "{unknown}"
        );
        assert!(error(&["--top-p", "2"]).contains("top_p is 2"));
        assert!(error(&["--temperature", "-1"]).contains("temperature is -1;"));
        assert!(error(&["--temperature", "0"]).contains("allowed: above 0;"));
        let hot = error(&["--temperature", "9000"]);
        assert!(
            hot.contains("temperature is 9000, and 1.5 times") && hot.contains("is 13500;"),
            "{hot}"
        );
        let cold = error(&["--temperature", "1e-30"]);
        assert!(cold.contains("and 0.5 times that is shown too"), "{cold}");
        assert!(error(&["--beams", "1,65"]).contains("--beams"));
    }
}
