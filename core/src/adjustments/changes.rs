//! What the adjustments of a row come to: a mask of the tokens that are allowed, and the few that get another logit.
//!
//! ```text
//! mask    = bitmask and allowed_ids, less banned_ids, biases of -inf, ends of bad words and of n-grams
//! mask    = mask less stop_ids, while the output is short, unless nothing would be left
//! touched = tokens with a bias, in the history, or that go on with a repetition; those that the mask allows
//! mask    = mask less touched
//! ```
//!
//! So the mask has the tokens that are as they are stored, and the touched ones are a list beside it.
//!
//! A history may be long and names few tokens, so a table with a word a token says where among the touched ones a token
//! is. The table is cleared by what was touched, not as a whole.

use super::repeats::{self, Repetitions, bad_ends, ngram_ends};
use super::{Adjustments, AdjustmentsSpec, COUNT_MAX};
use crate::params::{Dry, Penalties, Profile, SamplingParams};

/// A penalty grows no further.
const DRY_PENALTY_MAX: f64 = 3e38;

/// Memory that is kept from row to row.
#[derive(Clone, Debug, Default)]
pub struct Buffers {
    history: Vec<u32>,
    mask: Mask,
    touched: Touched,
    repeats: repeats::Buffers,
    dry_penalties: Vec<f32>,
    stops: Vec<Touch>,
}

/// What is done to a row.
#[derive(Clone, Copy, Debug)]
pub struct Changes<'a> {
    mask: Option<&'a [u32]>,
    touched: &'a [Touch],
    stops: &'a [Touch],
    penalties: Option<Penalties>,
    profile: Profile,
}

/// A token whose logit may change, and what by.
#[derive(Clone, Copy, Debug, Default)]
pub struct Touch {
    /// The token.
    pub token: u32,
    /// 0 is none.
    bias: f32,
    /// How often the output holds it, if the history does at all.
    count: Option<u32>,
    /// The length of the repetition that it would go on with.
    repetition: u32,
    /// DRY's penalty; 0 is none.
    dry: f32,
}

impl Changes<'_> {
    /// Bit `i % 32` of word `i / 32` is 1 where token i is as it is stored: neither banned nor touched. `None` where all
    /// are.
    pub fn mask(&self) -> Option<&[u32]> {
        self.mask
    }

    /// The tokens with new logits, none of them banned and none twice.
    pub fn touched(&self) -> &[Touch] {
        self.touched
    }

    /// Stop tokens that are neither allowed nor touched, unless without them no token of the others, as it is stored, is
    /// above -inf or NaN: then these have new logits too. None where that was known ([`changes`]).
    pub fn stops(&self) -> &[Touch] {
        self.stops
    }

    /// What [`apply`](Self::apply) goes by beside the touch.
    pub fn penalties(&self) -> Option<Penalties> {
        self.penalties
    }

    /// The new logit of a token, from the one that is stored.
    pub fn apply(&self, touch: &Touch, mut x: f32) -> f32 {
        if self.profile == Profile::Sglang {
            return self.apply_in_reverse(touch, x);
        }
        if touch.bias != 0.0 {
            x += touch.bias;
        }
        if let (Some(count), Some(penalties)) = (touch.count, self.penalties) {
            x = penalized(x, count, penalties);
        }
        if touch.dry > 0.0 {
            x -= touch.dry;
        }
        x
    }

    /// SGLang's order. It has no DRY.
    fn apply_in_reverse(&self, touch: &Touch, mut x: f32) -> f32 {
        if let (Some(count), Some(penalties)) = (touch.count, self.penalties) {
            x = without_counted(x, count, penalties);
            x = without_repeated(x, penalties);
        }
        if touch.bias != 0.0 {
            x += touch.bias;
        }
        x
    }
}

impl Touch {
    /// What is added; 0 is nothing.
    pub fn bias(&self) -> f32 {
        self.bias
    }

    /// How often the output holds it, if it has penalties.
    pub fn count(&self) -> Option<u32> {
        self.count
    }

    /// What DRY takes off; 0 is nothing.
    pub fn dry(&self) -> f32 {
        self.dry
    }
}

fn penalized(x: f32, count: u32, penalties: Penalties) -> f32 {
    without_counted(without_repeated(x, penalties), count, penalties)
}

fn without_repeated(x: f32, Penalties { repetition, .. }: Penalties) -> f32 {
    match x {
        _ if repetition == 1.0 => x,
        x if x > 0.0 => x / repetition,
        _ => x * repetition,
    }
}

fn without_counted(mut x: f32, count: u32, penalties: Penalties) -> f32 {
    let Penalties { frequency, presence, .. } = penalties;
    if count > 0 && frequency != 0.0 {
        x -= frequency * count as f32;
    }
    if count > 0 && presence != 0.0 {
        x -= presence;
    }
    x
}

/// Works out the changes of a row with so many tokens, whose stored logits are asked for one by one.
pub fn changes<'a>(
    adjustments: &Adjustments,
    params: &SamplingParams,
    vocab_size: u32,
    stored: impl Fn(u32) -> f32,
    buffers: &'a mut Buffers,
) -> Changes<'a> {
    work_out(adjustments, params, vocab_size, Some(stored), buffers)
}

/// The same of a row whose stored logits are elsewhere: whoever has them decides about [`Changes::stops`].
pub fn changes_unseen<'a>(
    adjustments: &Adjustments,
    params: &SamplingParams,
    vocab_size: u32,
    buffers: &'a mut Buffers,
) -> Changes<'a> {
    work_out(adjustments, params, vocab_size, None::<fn(u32) -> f32>, buffers)
}

fn work_out<'a>(
    adjustments: &Adjustments,
    params: &SamplingParams,
    vocab_size: u32,
    stored: Option<impl Fn(u32) -> f32>,
    buffers: &'a mut Buffers,
) -> Changes<'a> {
    let lists = adjustments.lists();
    let Buffers { history, mask, touched, repeats, dry_penalties, stops } = buffers;
    stops.clear();
    history.clear();
    let ngram = params.no_repeat_ngram();
    if ngram.is_some() || params.dry().is_some() || !lists.bad_words.is_empty() {
        history.extend(adjustments.history());
    }
    mask.begin(vocab_size);
    for lists in adjustments.allowing() {
        mask.allow(lists);
        mask.ban(lists.banned_ids.iter().copied());
    }
    mask.ban(biases(lists).filter(|(_, bias)| *bias == f32::NEG_INFINITY).map(|(id, _)| id));
    let profile = params.all_cuts().profile;
    let of_words = match profile {
        Profile::Vllm => &history[lists.prompt.len().min(history.len())..],
        _ => history,
    };
    mask.ban(bad_ends(of_words, &lists.bad_words));
    if let Some(n) = ngram {
        mask.ban(ngram_ends(history, n));
    }
    if params.min_tokens() > adjustments.output_length() {
        let banned = mask.ban_stops(&lists.stop_ids);
        match stored {
            None => stops.extend(banned.iter().map(|&token| Touch { token, ..Touch::default() })),
            Some(stored) if !mask.allows_any(|token| is_there(stored(token))) => mask.unban(banned),
            Some(_) => {}
        }
    }

    touched.begin(vocab_size);
    for (token, bias) in biases(lists).filter(|(_, bias)| *bias != 0.0) {
        touched.update(token, |touch| touch.bias = bias);
    }
    let penalties = params.penalties();
    if penalties.is_some() {
        touched.count(adjustments);
    }
    if let Some(dry) = params.dry() {
        let window = match dry.last_n as usize {
            0 => &history[..],
            n => &history[history.len().saturating_sub(n)..],
        };
        let breakers = adjustments.breakers();
        touched.repeat(Repetitions::of(window, breakers, repeats), dry, breakers, dry_penalties);
    }
    stops.iter_mut().for_each(|stop| *stop = touched.of(stop.token));
    touched.end(mask);
    mask.ban(touched.list.iter().map(|touch| touch.token));
    Changes { mask: mask.words(), touched: &touched.list, stops, penalties, profile }
}

/// Whether a token could be sampled, or spoils its row.
fn is_there(x: f32) -> bool {
    x.is_nan() || x > f32::NEG_INFINITY
}

fn biases(lists: &AdjustmentsSpec) -> impl Iterator<Item = (u32, f32)> {
    lists.logit_bias.iter().copied()
}

/// Which tokens are allowed: nothing is written before one is banned.
#[derive(Clone, Debug, Default)]
struct Mask {
    vocab_size: u32,
    words: Vec<u32>,
    of_ids: Vec<u32>,
}

impl Mask {
    fn begin(&mut self, vocab_size: u32) {
        self.vocab_size = vocab_size;
        self.words.clear();
    }

    fn words(&self) -> Option<&[u32]> {
        (!self.words.is_empty()).then_some(&self.words)
    }

    fn len(&self) -> usize {
        self.vocab_size.div_ceil(32) as usize
    }

    /// Allows no more than these lists do.
    fn allow(&mut self, lists: &AdjustmentsSpec) {
        if !lists.allowed_bitmask.is_empty() {
            self.fill();
            let given = lists.allowed_bitmask.iter().copied().chain(std::iter::repeat(0));
            self.words.iter_mut().zip(given).for_each(|(word, given)| *word &= given);
        }
        if !lists.allowed_ids.is_empty() {
            self.fill();
            self.of_ids.clear();
            self.of_ids.resize(self.words.len(), 0);
            for id in &lists.allowed_ids {
                self.of_ids[*id as usize / 32] |= 1 << (id % 32);
            }
            self.words.iter_mut().zip(&self.of_ids).for_each(|(word, of_ids)| *word &= of_ids);
        }
    }

    /// Allows everything, where nothing is said yet.
    fn fill(&mut self) {
        if self.words.is_empty() {
            self.words.resize(self.len(), u32::MAX);
        }
    }

    /// Bans tokens; those that there are not are ignored.
    fn ban(&mut self, tokens: impl Iterator<Item = u32>) {
        let vocab_size = self.vocab_size;
        for token in tokens.filter(|&token| token < vocab_size) {
            self.fill();
            self.words[token as usize / 32] &= !(1 << (token % 32));
        }
    }

    fn allows(&self, token: u32) -> bool {
        self.words.is_empty() || self.words[token as usize / 32] >> (token % 32) & 1 == 1
    }

    /// Bans stop tokens. Which of them were allowed, each once.
    fn ban_stops(&mut self, stop_ids: &[u32]) -> Vec<u32> {
        let vocab_size = self.vocab_size;
        let stops = stop_ids.iter().copied().filter(|&token| token < vocab_size);
        let mut stops: Vec<u32> = stops.filter(|&token| self.allows(token)).collect();
        stops.sort_unstable();
        stops.dedup();
        self.ban(stops.iter().copied());
        stops
    }

    /// Whether a token that is allowed is `there`; true as well where nothing was banned.
    fn allows_any(&self, there: impl Fn(u32) -> bool) -> bool {
        self.words.is_empty() || self.allowed().any(there)
    }

    fn unban(&mut self, tokens: Vec<u32>) {
        tokens.into_iter().for_each(|token| self.words[token as usize / 32] |= 1 << (token % 32));
    }

    fn allowed(&self) -> impl Iterator<Item = u32> {
        let tokens = |(place, &word): (usize, &u32)| {
            let first = place as u32 * 32;
            (0..32).filter(move |bit| word >> bit & 1 == 1).map(move |bit| first + bit)
        };
        let vocab_size = self.vocab_size;
        let all = self.words.iter().enumerate().flat_map(tokens);
        all.take_while(move |&token| token < vocab_size)
    }
}

/// The touched tokens, in the order of their first mention.
#[derive(Clone, Debug, Default)]
struct Touched {
    vocab_size: u32,
    list: Vec<Touch>,
    /// For each token its place in the list, counted from 1; 0 is none. All 0 between rows.
    places: Vec<u32>,
}

impl Touched {
    fn begin(&mut self, vocab_size: u32) {
        self.vocab_size = vocab_size;
        self.list.clear();
        self.places.resize(self.places.len().max(vocab_size as usize), 0);
    }

    /// Changes a token's entry, which there is from then on; tokens that there are not have none.
    fn update(&mut self, token: u32, change: impl FnOnce(&mut Touch)) {
        if token >= self.vocab_size {
            return;
        }
        let place = &mut self.places[token as usize];
        if *place == 0 {
            self.list.push(Touch { token, ..Default::default() });
            *place = self.list.len() as u32;
        }
        change(&mut self.list[*place as usize - 1]);
    }

    /// A token's entry; one without a change where there is none. The token is there.
    fn of(&self, token: u32) -> Touch {
        match self.places[token as usize] {
            0 => Touch { token, ..Touch::default() },
            place => self.list[place as usize - 1],
        }
    }

    /// Notes how often the output holds each token of the history.
    fn count(&mut self, adjustments: &Adjustments) {
        let lists = adjustments.lists();
        if !lists.counts.is_empty() {
            for &(token, count) in &lists.counts {
                self.update(token, |touch| touch.count = Some(count));
            }
            return self.count_output(adjustments.drafts().iter().copied());
        }
        for &token in &lists.prompt {
            self.update(token, |touch| touch.count = touch.count.or(Some(0)));
        }
        self.count_output(adjustments.output());
    }

    fn count_output(&mut self, tokens: impl Iterator<Item = u32>) {
        for token in tokens {
            // Beyond it an f32, which penalties multiply, has not every count.
            let more = |count: Option<u32>| (count.unwrap_or(0) + 1).min(COUNT_MAX);
            self.update(token, |touch| touch.count = Some(more(touch.count)));
        }
    }

    /// Notes what DRY takes off.
    fn repeat(
        &mut self,
        repetitions: Repetitions<'_>,
        dry: Dry,
        breakers: &[Vec<u32>],
        penalties: &mut Vec<f32>,
    ) {
        let allowed_length = u32::from(dry.allowed_length);
        for (token, length) in repetitions.iter() {
            if length >= allowed_length.max(1) {
                self.update(token, |touch| touch.repetition = touch.repetition.max(length));
            }
        }
        penalties.clear();
        let mut next = f64::from(dry.multiplier);
        for touch in self.list.iter_mut().filter(|touch| touch.repetition > 0) {
            if breakers.iter().any(|breaker| *breaker == [touch.token]) {
                continue;
            }
            let exponent = (touch.repetition - allowed_length) as usize;
            while penalties.len() <= exponent {
                penalties.push(next as f32);
                next = (next * f64::from(dry.base)).min(DRY_PENALTY_MAX);
            }
            touch.dry = penalties[exponent];
        }
    }

    /// Clears the table, and leaves out what is banned.
    fn end(&mut self, mask: &Mask) {
        self.list.iter().for_each(|touch| self.places[touch.token as usize] = 0);
        self.list.retain(|touch| mask.allows(touch.token));
    }
}
