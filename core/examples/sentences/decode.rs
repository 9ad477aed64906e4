//! Texts from a model: token by token, from several beginnings at once, and with drafts.

use crate::model::Model;
use logitd_core::backend::Backend;
use logitd_core::batch::{Dtype, Results, Row};
use logitd_core::beams::{Candidate, StepSpec};
use logitd_core::params::{ParamsSpec, SamplingParams};
use logitd_core::row::{Draft, Proposal, Rule, Source};
use logitd_core::verify::{self, Mode};
use std::error::Error;
use std::sync::Arc;

/// What is made, or why it could not be.
pub type Outcome<T> = Result<T, Box<dyn Error>>;

/// Writes on from a prompt.
pub struct Decoder<'a> {
    /// What samples.
    pub backend: Box<dyn Backend>,
    /// The tokens that every text begins with.
    pub prompt: &'a [u32],
    /// How many tokens a text has after the prompt, at most.
    pub tokens_max: usize,
    /// The token that ends a text before.
    pub end: u32,
}

/// The logits after a text, and how the next token is drawn from them.
#[derive(Debug)]
struct Next {
    logits: Vec<u8>,
    params: SamplingParams,
}

impl Source for Next {
    fn row(&self) -> Row<'_> {
        Row::new(Dtype::F32, &self.logits, self.params).expect("a logit a token")
    }
}

/// A text that a beam search found.
#[derive(Debug)]
pub struct Beam {
    /// The tokens after the prompt.
    pub tokens: Vec<u32>,
    /// The natural logarithm of their probability, in units of 2^-32.
    pub score: i64,
}

/// What drafts its tokens, and how they are verified.
pub struct Speculation<'a> {
    /// The model that drafts.
    pub drafter: &'a Model,
    /// How many tokens it drafts for a step of the target.
    pub drafts: usize,
    /// How the target compares them with its own.
    pub mode: Mode,
}

impl Decoder<'_> {
    /// A text for each set of parameters; each step of all of them is one batch.
    pub fn texts(&mut self, model: &Model, specs: &[ParamsSpec]) -> Outcome<Vec<Vec<u32>>> {
        let mut texts = vec![vec![]; specs.len()];
        let mut going: Vec<usize> = (0..specs.len()).collect();
        for _ in 0..self.tokens_max {
            let next: Vec<Next> = going
                .iter()
                .map(|&i| self.next(model, &texts[i], specs[i]))
                .collect::<Outcome<_>>()?;
            let drawn = self.sample(next.iter().map(Next::row).collect())?;
            for (&i, result) in going.iter().zip(drawn.iter()) {
                texts[i].push(result.draws[0].token);
            }
            going.retain(|&i| texts[i].last() != Some(&self.end));
        }
        Ok(texts)
    }

    /// The steps of the target that a text takes, each with its tokens.
    pub fn speculate(
        &mut self,
        target: &Model,
        spec: ParamsSpec,
        with: &Speculation<'_>,
    ) -> Outcome<Vec<Vec<u32>>> {
        let (mut text, mut steps) = (vec![], vec![]);
        while text.len() < self.tokens_max && text.last() != Some(&self.end) {
            let mut tokens = self.step(target, spec, with, &text)?;
            // A step may go beyond the end.
            let end = tokens.iter().position(|&token| token == self.end);
            tokens.truncate(end.map_or(tokens.len(), |end| end + 1));
            tokens.truncate(self.tokens_max - text.len());
            text.extend(&tokens);
            steps.push(tokens);
        }
        Ok(steps)
    }

    /// One step of the target: the drafts that it takes, and a token of its own.
    fn step(
        &mut self,
        target: &Model,
        spec: ParamsSpec,
        with: &Speculation<'_>,
        text: &[u32],
    ) -> Outcome<Vec<u32>> {
        // The drafter goes ahead, token by token. For rejection its draws must not depend on the target's: draws of drafts
        // have random bits of their own.
        let drafted = ParamsSpec { draft: with.mode == Mode::Rejection, ..spec };
        let mut ahead = text.to_vec();
        let mut drafts = vec![];
        for _ in 0..with.drafts {
            let next = self.next(with.drafter, &ahead, drafted)?;
            let token = self.sample(vec![next.row()])?.row(0).draws[0].token;
            drafts.push(Draft { token, rule: Rule::Rejection(Proposal::Row(Arc::new(next))) });
            ahead.push(token);
        }
        // The target looks at all of them at once: this is what saves time where the target is a large model.
        let places = text.len()..=ahead.len();
        let next: Vec<Next> =
            places.map(|place| self.next(target, &ahead[..place], spec)).collect::<Outcome<_>>()?;
        let decided = |place| drafts.get(place).filter(|_| with.mode == Mode::Rejection);
        let rows =
            next.iter().enumerate().map(|(place, next)| next.row().with_draft(decided(place)));
        let results = self.sample(rows.collect())?;
        let verified = verify::chain(&ahead[text.len()..], |place| results.row(place));
        Ok(verified.rows.iter().map(|&row| results.row(row).draws[0].token).collect())
    }

    /// Searches with so many beams until as many have come to a token that ends them: of these the one with the best mean
    /// score a token, if there is any.
    pub fn search(&mut self, model: &Model, beams: u32, ends: &[u32]) -> Outcome<Option<Beam>> {
        let mut running = vec![Beam { tokens: vec![], score: 0 }];
        let mut finished: Vec<Beam> = vec![];
        for _ in 0..self.tokens_max {
            let scores = running.iter().map(|beam| beam.score).collect();
            let spec = StepSpec { scores, beams, eos_ids: ends.into(), ..StepSpec::default() };
            let step = spec.parse(model.vocab_size()).map_err(|errors| errors[0].clone())?;
            let next: Vec<Next> = running
                .iter()
                .map(|beam| self.next(model, &beam.tokens, ParamsSpec::default()))
                .collect::<Outcome<_>>()?;
            let asked = step.inspect();
            let rows = next.iter().map(|next| next.row().with_inspect(Some(&asked)));
            let results = self.sample(rows.collect())?;
            let found = results.iter().filter_map(|row| row.inspection?.continuations.as_ref());
            let stepped = step.merge(found);
            let grown = |candidate: &Candidate| {
                let before = &running[candidate.beam as usize].tokens[..];
                Beam { tokens: [before, &[candidate.token]].concat(), score: candidate.score }
            };
            finished.extend(stepped.finished.iter().map(grown));
            if finished.len() >= beams as usize {
                break;
            }
            running = stepped.running.iter().map(grown).collect();
        }
        Ok(finished.into_iter().max_by_key(|beam| beam.score / beam.tokens.len() as i64))
    }

    fn next(&self, model: &Model, text: &[u32], spec: ParamsSpec) -> Outcome<Next> {
        let spec = ParamsSpec { position: text.len() as u64, ..spec };
        // Without a seed nothing is drawn.
        let params = spec.parse(|| 0)?;
        Ok(Next { logits: model.logits(&[self.prompt, text].concat()), params })
    }

    fn sample(&mut self, rows: Vec<Row<'_>>) -> Outcome<Results> {
        let mut results = Results::default();
        self.backend.sample(&rows, &mut results)?;
        Ok(results)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{CERTAIN, END, Vocabulary};
    use crate::{ORDERS, STORIES};
    use logitd_core::backend::reference::Reference;
    use logitd_core::params::DrawRule;

    struct Models {
        vocabulary: Vocabulary,
        target: Model,
        drafter: Model,
        prompt: Vec<u32>,
    }

    impl Models {
        fn learn() -> Self {
            let vocabulary = Vocabulary::of(&STORIES.join("\n"));
            let read = vocabulary.encode(&STORIES.join("\n")).unwrap();
            let [target, drafter] =
                ORDERS.map(|order| Model::learn(&read, vocabulary.words().len(), order));
            let prompt = vocabulary.encode("In the evening").unwrap();
            assert_eq!(vocabulary.word(prompt[0]), END);
            Self { vocabulary, target, drafter, prompt }
        }

        fn decoder(&self, tokens_max: usize) -> Decoder<'_> {
            let backend = Box::<Reference>::default();
            Decoder { backend, prompt: &self.prompt, tokens_max, end: self.prompt[0] }
        }
    }

    #[test]
    fn drafts_that_have_to_match_never_change_a_text() {
        let models = Models::learn();
        let mut decoder = models.decoder(17);
        let mut ended = 0;
        for (seed, drafts) in (0..12).zip([1, 3, 17, 64].into_iter().cycle()) {
            for (temperature, draw_rule) in
                [(0.0, DrawRule::Cumulative), (0.8, DrawRule::Cumulative), (0.8, DrawRule::Race)]
            {
                let spec = ParamsSpec {
                    temperature,
                    draw_rule,
                    seed: Some(seed),
                    ..ParamsSpec::default()
                };
                let plain = decoder.texts(&models.target, &[spec]).unwrap();
                let with = Speculation { drafter: &models.drafter, drafts, mode: Mode::Match };
                let steps = decoder.speculate(&models.target, spec, &with).unwrap();
                assert_eq!([steps.concat()], plain[..], "seed {seed}, {drafts} drafts");
                assert!(steps.iter().all(|step| (1..=drafts + 1).contains(&step.len())));
                ended += usize::from(plain[0].len() < 17);
            }
        }
        assert!(ended > 0, "no text came to its end");
    }

    #[test]
    fn rejection_takes_every_draft_of_the_model_itself() {
        let models = Models::learn();
        let mut decoder = models.decoder(20);
        let with = Speculation { drafter: &models.target, drafts: 4, mode: Mode::Rejection };
        let spec = ParamsSpec { seed: Some(5), ..ParamsSpec::default() };
        let steps = decoder.speculate(&models.target, spec, &with).unwrap();
        let (last, full) = steps.split_last().unwrap();
        assert!(full.iter().all(|step| step.len() == 5) && last.len() <= 5, "{steps:?}");
    }

    #[test]
    fn one_beam_is_greedy_and_scores_are_logarithms_of_probabilities() {
        let models = Models::learn();
        let mut decoder = models.decoder(30);
        let stops = models.vocabulary.stops();
        let greedy = ParamsSpec { temperature: 0.0, ..ParamsSpec::default() };
        let text = decoder.texts(&models.target, &[greedy]).unwrap().remove(0);
        let end = text.iter().position(|token| stops.contains(token)).unwrap();
        let beam = decoder.search(&models.target, 1, &stops).unwrap().unwrap();
        assert_eq!(beam.tokens, text[..=end]);

        for width in [1, 5] {
            let beam = decoder.search(&models.target, width, &stops).unwrap().unwrap();
            let mut context = models.prompt.clone();
            let mut score = 0.0;
            for &token in &beam.tokens {
                let mass = models.target.masses(&context)[token as usize];
                score += (mass as f64 / CERTAIN as f64).ln();
                context.push(token);
            }
            let found = beam.score as f64 / 2f64.powi(32);
            assert!((found - score).abs() < 1e-5, "{found} {score}");
        }
    }
}
