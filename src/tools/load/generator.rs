//! Requests made from a seed, over logits that were prepared before the first is sent.
//!
//! All rows lie one after another in one block of memory. A request of n rows is n neighbours somewhere
//! in it: a slice, so that making a request costs neither a copy nor arithmetic on logits, and does not
//! compete with sending it.

use super::drafts::Drafter;
use super::message::Request;
use super::random::{below, bits};
use super::shape::{Choices, Drafting, DraftsFrom, Method, RowsDistribution};
use crate::files::npy::{Declared, LogitsFile};
use crate::wire;
use crate::wire::whole::chosen_seed;
use bytes::Bytes;
use half::{bf16, f16};
use logitd_core::batch::Dtype;
use logitd_core::candidates;
use logitd_core::params::ParamsSpec;
use logitd_proto as api;
use std::io;
use std::path::Path;

/// What requests are made of. Lists are picked from, row by row, each list on its own.
#[derive(Clone, Debug)]
pub struct Shape {
    /// What is called.
    pub method: Method,
    /// Rows a request; of `Verify` sequences, of `BeamStep` groups.
    pub rows: RowsDistribution,
    /// What rows choose from. A parameter that is not named has its default, and each row has a seed of its own.
    pub params: Vec<Choices>,
    /// Who goes first under load.
    pub priority: api::Priority,
    /// Everything that is picked is a function of this and of the request's index.
    pub seed: u64,
}

impl Shape {
    /// The most rows that a request has.
    pub fn rows_max(&self) -> u32 {
        self.rows.rows_max().saturating_mul(self.method.rows_each_max())
    }

    /// The most rows that a server counts of a request.
    pub fn counted_rows_max(&self) -> u32 {
        self.rows.rows_max().saturating_mul(self.method.counted_each_max())
    }

    /// The most bytes that a request says of what its drafts were drawn from, where that is much.
    pub fn distribution_bytes_max(&self, vocab_size: u32) -> u64 {
        match &self.method {
            Method::Verify(Drafting { drafts, from: DraftsFrom::Dense, .. }) => {
                let drafts = u64::from(self.rows.rows_max()) * u64::from(drafts.rows_max());
                drafts * u64::from(vocab_size) * size_of::<f32>() as u64
            }
            _ => 0,
        }
    }
}

/// Rows of logits to make requests from: a bounded number, however long the run is.
#[derive(Clone, Debug)]
pub struct Pool {
    dtype: Dtype,
    vocab_size: u32,
    rows: u32,
    logits: Bytes,
    candidates: Option<PoolCandidates>,
}

/// The tokens of a pool whose rows hold their first ones only.
#[derive(Clone, Debug)]
struct PoolCandidates {
    /// Of each row.
    count: u32,
    tokens: Bytes,
}

/// Bytes of a token, and of a row's number of candidates.
const WORD_BYTES: usize = 4;

impl Pool {
    /// `rows` rows (1 or more) as a model might give them: a bell curve with a few likely tokens.
    pub fn generate(dtype: Dtype, vocab_size: u32, rows: u32, seed: u64) -> Self {
        let mut logits = Vec::with_capacity(rows as usize * row_bytes(dtype, vocab_size));
        for row in 0..rows {
            for token in 0..vocab_size {
                let value = value(bits(seed ^ POOL_SEED, u64::from(row), token));
                match dtype {
                    Dtype::F16 => logits.extend(f16::from_f32(value).to_le_bytes()),
                    Dtype::Bf16 => logits.extend(bf16::from_f32(value).to_le_bytes()),
                    Dtype::F32 => logits.extend(value.to_le_bytes()),
                }
            }
        }
        Self { dtype, vocab_size, rows, logits: logits.into(), candidates: None }
    }

    /// The first rows of files of one dtype and vocabulary, `rows_max` of them at most.
    pub fn read(paths: &[impl AsRef<Path>], declared: Declared, rows_max: u32) -> io::Result<Self> {
        let mut pool: Option<Self> = None;
        let mut logits = Vec::new();
        for path in paths.iter().map(AsRef::as_ref) {
            let error = |text: String| io::Error::other(format!("{}: {text}", path.display()));
            let mut file = LogitsFile::open(path, declared).map_err(|e| error(e.to_string()))?;
            let (dtype, vocab_size) = (file.dtype(), file.vocab_size());
            let logits_later = Bytes::new();
            let empty = Self { dtype, vocab_size, rows: 0, logits: logits_later, candidates: None };
            let pool = pool.get_or_insert(empty);
            if (pool.dtype, pool.vocab_size) != (dtype, vocab_size) {
                return Err(error(format!(
                    "holds {dtype} rows of {vocab_size} tokens, and the files before it {} rows of {}; \
                     give files of one kind",
                    pool.dtype, pool.vocab_size
                )));
            }
            let rows = file.rows().min((rows_max - pool.rows) as usize);
            file.read(0..rows, &mut logits).map_err(|e| error(e.to_string()))?;
            pool.rows += rows as u32;
        }
        let mut pool = pool.ok_or_else(|| io::Error::other("no file"))?;
        pool.logits = logits.into();
        Ok(pool)
    }

    /// The same rows, each by the first `count` of its tokens (all, if it has fewer).
    pub fn candidates(self, count: u32) -> Self {
        let count = count.clamp(1, self.vocab_size);
        let (mut tokens, mut logits) = (Vec::new(), Vec::new());
        for row in self.logits.chunks_exact(row_bytes(self.dtype, self.vocab_size)) {
            let first = candidates::top(self.dtype, row, count as usize);
            tokens.extend(first.0);
            logits.extend(first.1);
        }
        let candidates = Some(PoolCandidates { count, tokens: tokens.into() });
        Self { logits: logits.into(), candidates, ..self }
    }

    /// How the logits are stored.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Tokens a row.
    pub fn vocab_size(&self) -> u32 {
        self.vocab_size
    }

    /// Bytes a row, with its tokens where it has candidates only.
    pub fn row_bytes(&self) -> usize {
        let words = if self.candidates.is_some() { self.row_logits() + 1 } else { 0 };
        self.row_logits() * self.dtype.size_bytes() + words * WORD_BYTES
    }

    /// Logits a row.
    fn row_logits(&self) -> usize {
        self.candidates.as_ref().map_or(self.vocab_size, |given| given.count) as usize
    }

    /// Rows in the pool.
    pub fn rows(&self) -> u32 {
        self.rows
    }
}

/// Makes requests: [`request`](Self::request) is a pure function of the index.
#[derive(Debug)]
pub struct Generator {
    shape: Shape,
    pool: Pool,
    /// The pool's rows, and behind the last one the first ones again, so that every row can be
    /// followed by as many as a request has.
    logits: Bytes,
    /// The same of candidates' tokens.
    tokens: Bytes,
    /// As many rows' numbers of candidates as a request has at most.
    counts: Bytes,
    /// What is drafted for each row of the pool, where drafts are sent.
    drafters: Vec<Drafter>,
}

impl Generator {
    /// Copies as many rows of the pool as the largest request needs behind its end.
    pub fn new(shape: Shape, pool: Pool) -> Self {
        let rows = (pool.rows + shape.rows_max() - 1) as usize * pool.row_logits();
        let logits = followed(&pool.logits, rows * pool.dtype.size_bytes());
        let (tokens, counts) = match &pool.candidates {
            None => (Bytes::new(), Bytes::new()),
            Some(PoolCandidates { count, tokens }) => {
                let counts = count.to_le_bytes().repeat(shape.rows_max() as usize);
                (followed(tokens, rows * WORD_BYTES), counts.into())
            }
        };
        let drafter = |row: &[u8]| Drafter::of(pool.dtype, row);
        let drafters = match shape.method {
            Method::Verify(_) => {
                let row_bytes = row_bytes(pool.dtype, pool.vocab_size);
                pool.logits.chunks_exact(row_bytes).map(drafter).collect()
            }
            Method::Sample | Method::BeamStep(_) => vec![],
        };
        Self { shape, pool, logits, tokens, counts, drafters }
    }

    /// The rows that requests are made of.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The row of the pool that request `index` begins with.
    pub fn first_row(&self, index: u64) -> u32 {
        below(bits(self.shape.seed, index, 2), u64::from(self.pool.rows)) as u32
    }

    /// Request `index`.
    pub fn request(&self, index: u64) -> Request {
        match &self.shape.method {
            Method::Sample => self.sample(index).into(),
            Method::Verify(drafting) => self.verify(index, drafting).into(),
            Method::BeamStep(beams) => self.beam_step(index, *beams).into(),
        }
    }

    /// Request `index` of `Verify`. Every sequence has its own seed.
    fn verify(&self, index: u64, drafting: &Drafting) -> api::VerifyRequest {
        let shape = &self.shape;
        let (count, mut rows) = (shape.rows.rows(shape.seed, index), 0);
        let sequences = (0..count).map(|sequence| {
            let first = rows;
            let drafts = drafting.drafts.rows(shape.seed ^ DRAFTS_SEED, number(index, sequence));
            rows += drafts + 1;
            let drafted = (first..first + drafts).map(|place| {
                let drafter = &self.drafters[self.pool_row(index, place)];
                let token = drafter.draft(bits(shape.seed ^ DRAFTS_SEED, index, place));
                (token, drafter.distribution(drafting.from, place))
            });
            let (tokens, kinds): (Vec<u32>, Vec<_>) = drafted.unzip();
            let distributions = match drafting.from {
                DraftsFrom::Point => vec![],
                _ => kinds.into_iter().map(|kind| api::DraftDistribution { kind }).collect(),
            };
            api::DraftedSequence {
                mode: wire::verify::mode_message(drafting.mode).into(),
                drafts: tokens,
                params: Some(self.params(index, sequence)),
                distributions,
                ..Default::default()
            }
        });
        let sequences = sequences.collect();
        api::VerifyRequest {
            dtype: wire::row::dtype_message(self.pool.dtype).into(),
            vocab_size: self.pool.vocab_size,
            logits: self.logits(index, rows),
            rows: Some(rows),
            sequences,
            priority: shape.priority.into(),
            ..Default::default()
        }
    }

    /// Request `index` of `BeamStep`: groups in the midst of their search, with a token that ends a text.
    fn beam_step(&self, index: u64, beams: u32) -> api::BeamStepRequest {
        let shape = &self.shape;
        let groups = shape.rows.rows(shape.seed, index);
        let rows = groups * beams;
        let group = |group: u32| {
            let number = |n: u32| bits(shape.seed ^ DRAFTS_SEED, index, group * (beams + 1) + n);
            // Up to a nat from one beam to the next.
            let mut score = 0;
            let scores = (0..beams).map(|beam| {
                score -= (number(beam) >> 32) as i64;
                score
            });
            let end = below(number(beams), self.pool.vocab_size.into()) as u32;
            api::BeamGroup {
                scores: scores.collect(),
                beams,
                eos_ids: vec![end],
                ..Default::default()
            }
        };
        api::BeamStepRequest {
            dtype: wire::row::dtype_message(self.pool.dtype).into(),
            vocab_size: self.pool.vocab_size,
            logits: self.logits(index, rows),
            rows: Some(rows),
            groups: (0..groups).map(group).collect(),
            priority: shape.priority.into(),
            ..Default::default()
        }
    }

    /// The logits of so many rows of request `index`.
    fn logits(&self, index: u64, rows: u32) -> Bytes {
        let row_bytes = row_bytes(self.pool.dtype, self.pool.vocab_size);
        let start = self.first_row(index) as usize * row_bytes;
        self.logits.slice(start..start + rows as usize * row_bytes)
    }

    /// Which row of the pool the row at a place of request `index` is.
    fn pool_row(&self, index: u64, place: u32) -> usize {
        ((u64::from(self.first_row(index)) + u64::from(place)) % u64::from(self.pool.rows)) as usize
    }

    /// Request `index` of `Sample`. Every row has its own seed.
    pub(super) fn sample(&self, index: u64) -> api::SampleRequest {
        let rows = self.shape.rows.rows(self.shape.seed, index);
        let row_logits = self.pool.row_logits();
        let start = self.first_row(index) as usize * row_logits;
        let end = start + rows as usize * row_logits;
        let cut = |bytes: &Bytes, size| bytes.slice(start * size..end * size);
        let candidates = self.pool.candidates.as_ref().map(|_| api::Candidates {
            counts: self.counts.slice(..rows as usize * WORD_BYTES),
            tokens: cut(&self.tokens, WORD_BYTES),
        });
        api::SampleRequest {
            dtype: wire::row::dtype_message(self.pool.dtype).into(),
            vocab_size: self.pool.vocab_size,
            logits: cut(&self.logits, self.pool.dtype.size_bytes()),
            candidates,
            params: (0..rows).map(|row| self.params(index, row)).collect(),
            priority: self.shape.priority.into(),
            rows: Some(rows),
            ..Default::default()
        }
    }

    fn params(&self, index: u64, row: u32) -> api::SamplingParams {
        let shape = &self.shape;
        let number = |n| bits(shape.seed, index, 8 + row * NUMBERS_A_ROW + n);
        let mut spec = ParamsSpec { seed: Some(chosen_seed(number(0))), ..Default::default() };
        for (n, Choices { field, values }) in (1..).zip(&shape.params) {
            field.set(&mut spec, pick(values, || number(n)));
        }
        wire::params::message(&spec)
    }
}

/// Random numbers for each row, behind the eight of its request.
const NUMBERS_A_ROW: u32 = 32;

/// So that drafts and parameters of one seed have nothing in common.
const DRAFTS_SEED: u64 = u64::from_be_bytes(*b"drafted.");

/// A number for each sequence of each request.
fn number(index: u64, sequence: u32) -> u64 {
    index.wrapping_mul(1 << 20).wrapping_add(sequence.into())
}

/// So that logits and parameters of one seed have nothing in common.
const POOL_SEED: u64 = u64::from_be_bytes(*b"pool row");

/// `bytes` over and over, up to `total`.
fn followed(bytes: &[u8], total: usize) -> Bytes {
    let mut all = Vec::with_capacity(total);
    while all.len() < total {
        let more = bytes.len().min(total - all.len());
        all.extend_from_slice(&bytes[..more]);
    }
    all.into()
}

fn row_bytes(dtype: Dtype, vocab_size: u32) -> usize {
    vocab_size as usize * dtype.size_bytes()
}

fn pick<T: Copy>(choices: &[T], bits: impl FnOnce() -> u64) -> T {
    match choices {
        [only] => *only,
        _ => choices[below(bits(), choices.len() as u64) as usize],
    }
}

/// A sum of three 16-bit numbers is close to a bell curve; one token in 4096 is lifted out of it.
fn value(bits: u64) -> f32 {
    let sum: u64 = (0..3).map(|i| (bits >> (16 * i)) & 0xffff).sum();
    let bell = sum as f32 / 65536.0 - 1.5;
    let lift = bits >> 48;
    if lift < 16 { 8.0 + lift as f32 * 0.5 + bell } else { bell * 4.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::npy;
    use crate::record::recheck;
    use logitd_core::backend::reference::Reference;
    use logitd_core::verify::Mode;
    use std::collections::HashSet;

    fn shape(rows: &str) -> Shape {
        Shape {
            method: Method::Sample,
            rows: rows.parse().unwrap(),
            params: [
                ("temperature", "0,0.5,1"),
                ("top_k", "0,50"),
                ("top_p", "0.9,1"),
                ("min_p", "0,0.1"),
                ("draws", "1,3"),
            ]
            .map(|(name, values)| Choices::read(name, values).unwrap())
            .into(),
            priority: api::Priority::Low,
            seed: 7,
        }
    }

    fn generator(rows: &str) -> Generator {
        Generator::new(shape(rows), Pool::generate(Dtype::F16, 100, 5, 7))
    }

    #[test]
    fn a_request_is_a_function_of_its_index() {
        let (a, b) = (generator("1..9"), generator("1..9"));
        assert_eq!(a.sample(41), b.sample(41));
        assert_ne!(a.sample(41), a.sample(42));
    }

    #[test]
    fn a_request_holds_whole_neighbouring_rows_of_the_pool_and_a_seed_for_each() {
        let generator = generator("1..9");
        for index in 0..200 {
            let request = generator.sample(index);
            let rows = request.params.len();
            assert_eq!(request.logits.len(), rows * 200);
            for row in 0..rows {
                let at = (generator.first_row(index) as usize + row) % 5 * 200;
                let expected = &generator.pool.logits[at..at + 200];
                assert_eq!(&request.logits[row * 200..][..200], expected);
            }
            let seeds: HashSet<_> = request.params.iter().map(|params| params.seed).collect();
            assert_eq!(seeds.len(), rows);
        }
    }

    #[test]
    fn every_combination_of_parameters_comes_up() {
        let generator = generator("8");
        let seen: HashSet<_> = (0..200)
            .flat_map(|index| generator.sample(index).params)
            .map(|p| {
                let bits = |x: f32| x.to_bits();
                (
                    bits(p.temperature.unwrap()),
                    p.top_k,
                    bits(p.top_p.unwrap()),
                    bits(p.min_p),
                    p.draws,
                )
            })
            .collect();
        assert_eq!(seen.len(), 3 * 2 * 2 * 2 * 2);
    }

    #[test]
    fn requests_of_candidates_hold_the_first_tokens_of_the_same_rows() {
        let pool = Pool::generate(Dtype::F16, 100, 5, 7).candidates(9);
        assert_eq!(pool.row_bytes(), 9 * 2 + 10 * 4);
        let (whole, sparse) = (generator("1..9"), Generator::new(shape("1..9"), pool));
        for index in 0..50 {
            let (whole, sparse) = (whole.sample(index), sparse.sample(index));
            assert_eq!(whole.params, sparse.params);
            let given = sparse.candidates.unwrap();
            assert_eq!(given.counts, 9u32.to_le_bytes().repeat(whole.params.len()));
            for (i, row) in whole.logits.chunks(200).enumerate() {
                let (tokens, logits) = candidates::top(Dtype::F16, row, 9);
                assert_eq!(given.tokens[i * 36..][..36], tokens);
                assert_eq!(sparse.logits[i * 18..][..18], logits);
            }
        }
    }

    fn drafting(mode: Mode, from: DraftsFrom) -> Shape {
        let drafts = "1..4".parse().unwrap();
        let method = Method::Verify(Drafting { drafts, mode, from });
        let params = shape("1..3").params.into_iter().filter(|one| one.field.name != "draws");
        Shape { method, params: params.collect(), ..shape("1..3") }
    }

    #[test]
    fn sequences_have_their_rows_and_drafts_that_are_sometimes_taken() {
        for (mode, from) in [
            (Mode::Match, DraftsFrom::Point),
            (Mode::Rejection, DraftsFrom::Point),
            (Mode::Rejection, DraftsFrom::Sparse),
            (Mode::Rejection, DraftsFrom::Dense),
            (Mode::Rejection, DraftsFrom::Logits),
            (Mode::Typical, DraftsFrom::Point),
        ] {
            let shape = drafting(mode, from);
            assert_eq!(shape.rows_max(), 15);
            let generator = Generator::new(shape, Pool::generate(Dtype::F16, 100, 5, 7));
            let (mut drafts, mut accepted, mut seeds) = (0, 0, HashSet::new());
            for index in 0..40 {
                let (request, again) = (generator.request(index), generator.request(index));
                assert_eq!(request, again);
                let Request::Verify(request) = request else { panic!("sequences") };
                let answer = recheck::tests::verified(&mut Reference::default(), &request, 0);
                let rows: usize = request.sequences.iter().map(|one| one.drafts.len() + 1).sum();
                assert_eq!(request.logits.len(), rows * 200);
                drafts += rows - request.sequences.len();
                accepted += answer.sequences.iter().map(|one| one.accepted).sum::<u32>();
                let own = request.sequences.iter().filter_map(|one| one.params.as_ref()?.seed);
                seeds.extend(own);
                assert_eq!(answer.sequences.len(), request.sequences.len());
            }
            assert!(seeds.len() > 40, "a seed a sequence");
            let accepted = accepted as usize;
            assert!(accepted > 0 && accepted < drafts, "{mode:?} {from:?}: {accepted} of {drafts}");
        }
    }

    #[test]
    fn groups_have_a_row_a_beam() {
        let shape = Shape { method: Method::BeamStep(4), ..shape("1..3") };
        let generator = Generator::new(shape, Pool::generate(Dtype::F16, 100, 5, 7));
        let mut scores = HashSet::new();
        for index in 0..20 {
            let Request::BeamStep(request) = generator.request(index) else { panic!("groups") };
            assert_eq!(request.logits.len(), request.groups.len() * 4 * 200);
            assert!(request.groups.iter().all(|group| group.scores.is_sorted_by(|a, b| a >= b)));
            scores.extend(request.groups.iter().map(|group| group.scores.clone()));
            let answer = recheck::tests::stepped(&mut Reference::default(), &request);
            assert!(answer.groups.iter().all(|group| group.running.is_some()));
        }
        assert!(scores.len() > 20, "groups differ");
    }

    #[test]
    fn making_a_request_copies_no_logits() {
        let generator = generator("3");
        let request = generator.sample(0);
        assert!(generator.logits.as_ptr_range().contains(&request.logits.as_ptr()));
    }

    #[test]
    fn files_are_read_up_to_the_limit_and_must_agree() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        npy::write(&path("a.npy"), Dtype::F16, 3, &[1; 12]).unwrap();
        npy::write(&path("b.npy"), Dtype::F16, 3, &[2; 12]).unwrap();
        npy::write(&path("c.npy"), Dtype::F16, 2, &[3; 12]).unwrap();
        let read = |names: &[&str], rows_max| {
            let paths: Vec<_> = names.iter().map(|name| path(name)).collect();
            Pool::read(&paths, Declared::default(), rows_max)
        };
        let pool = read(&["a.npy", "b.npy"], 3).unwrap();
        assert_eq!((pool.dtype(), pool.vocab_size(), pool.rows()), (Dtype::F16, 3, 3));
        assert_eq!(pool.logits[..], [vec![1; 12], vec![2; 6]].concat());
        let error = read(&["a.npy", "c.npy"], 9).unwrap_err().to_string();
        assert!(error.contains("c.npy: holds f16 rows of 2 tokens"), "{error}");
        assert!(read(&["d.npy"], 9).unwrap_err().to_string().contains("d.npy"));
    }
}
