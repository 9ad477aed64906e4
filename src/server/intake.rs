//! Takes the logits out of an encoded message while it arrives.
//!
//! Gathered whole and then decoded, a message of megabytes is written to fresh memory first, and fresh
//! memory costs more than copying does. So the payload of `logits` goes, piece by piece as it
//! comes off the wire, into a buffer that is used again, and everything else goes on as it is, for the
//! decoder of all messages to decode. What the two give together is what that decoder would give alone:
//!
//! - Only structure is looked at: keys, lengths, and how fields nest. A `logits` field that lies whole
//!   within its message is taken; given again, the last one counts.
//! - Whatever is not plain (groups, broken keys, lengths beyond the message) ends the taking: logits
//!   taken so far are put back before it, it goes on untouched to the end of its message, and the
//!   decoder judges.
//!
//! Everything but logits, candidates and adjustments is small in an honest message: some dozen bytes a row; and candidates are two
//! fields. What is in adjustments is counted before it is decoded, by the codec of all messages, and so is what is in
//! sequences to be verified and in groups of beams, whose lists may be long. A byte of all else costs many
//! times what a byte of logits costs, so it has a bound of its own, and the parameter sets have one too: a message is
//! refused where it passes them, before the rest of it has come. Parameter sets that are long are looked into: the lists
//! of tokens whose logprobs are wanted have a bound by the number of sets.

use super::envelope::{Arity, IdScanner, Passed};
use super::error::Error;
use super::pool::{Buffer, Pool};
use logitd_core::inspection::LOGPROB_IDS_MAX;
use prost::encoding::{WireType, encode_key, encode_varint};

/// The request in a message of a stream.
const REQUEST: u64 = 2;
/// `SamplingParams.logprobs`.
const LOGPROBS: u64 = 17;
/// The longest varint.
const VARINT_BYTES_MAX: u32 = 10;
/// Bytes outside logits, candidates, adjustments and logprobs that a message may have for each row of the largest
/// request: twice what a parameter set can take. A set of no more bytes is not looked into.
const ROW_BYTES_MAX: usize = 128;
/// Bytes of logprobs that a message may have for each of its parameter sets: the key and the value of every token, and
/// what stands beside them.
const LOGPROBS_BYTES_MAX: usize = LOGPROB_IDS_MAX * 5 + 64;
/// And for the message itself.
const MESSAGE_BYTES_MAX: usize = 4 << 10;
/// A buffer that must grow grows to so many times what it has to hold.
const GROWTH: usize = 4;

/// The numbers of the fields of a request that are looked at.
#[derive(Debug)]
pub struct RequestFields {
    logits: u64,
    /// Parameter sets, and what they are called.
    params: Option<(u64, &'static str)>,
    candidates: Option<u64>,
    /// Messages with lists in them, and what is told of their number. There are no more of them than rows.
    lists: Option<(u64, &'static str)>,
}

/// Of a `SampleRequest`.
pub const SAMPLE: &RequestFields = &RequestFields {
    logits: 3,
    params: Some((4, "params")),
    candidates: Some(7),
    lists: Some((9, "the number of sets of adjustments in the request")),
};

/// Of an `EvaluateRequest`.
pub const EVALUATE: &RequestFields =
    &RequestFields { logits: 3, params: Some((7, "sets")), candidates: None, lists: None };

/// Of a `VerifyRequest`.
pub const VERIFY: &RequestFields = &RequestFields {
    logits: 3,
    params: None,
    candidates: None,
    lists: Some((7, "the number of sequences in the request")),
};

/// Of a `BeamStepRequest`.
pub const BEAM_STEP: &RequestFields = &RequestFields {
    logits: 3,
    params: None,
    candidates: None,
    lists: Some((7, "the number of groups in the request")),
};

/// One message on its way in.
#[derive(Debug)]
pub struct Intake {
    pool: Pool,
    fields: &'static RequestFields,
    level: Level,
    /// Bytes of this level that are still to come.
    left: usize,
    at: At,
    /// The key and the length of the field that has begun, as they came.
    head: Vec<u8>,
    /// The varint being read, and how many bytes of it were.
    value: u64,
    value_bytes: u32,
    /// What is passed on: of the whole message, and of the request within one of a stream.
    rest: Vec<u8>,
    inner: Vec<u8>,
    logits: Option<Logits>,
    /// Whether there is room for the whole message already.
    whole: bool,
    /// Bytes read, and those of them that are neither logits nor candidates, adjustments or logprobs.
    read: usize,
    outside: usize,
    /// Parameter sets and messages with lists so far, and bytes of logprobs in the former.
    sets: usize,
    lists: usize,
    logprobs: usize,
    /// The fields of the candidates, which are passed on unparsed.
    candidates: IdScanner,
    rows_max: usize,
    refused: Option<Error>,
}

/// The logits so far.
#[derive(Debug)]
struct Logits {
    buffer: Buffer,
    /// Their bytes when all are here.
    length: usize,
}

/// Where in the nesting.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Level {
    /// A message of a stream, in which a request may lie.
    Stream,
    /// A request, and how much of the message around it follows.
    Request { left_around: Option<usize> },
    /// A parameter set, how much of the request around it follows, and of the message around that.
    Params { left_around: usize, left_around_request: Option<usize> },
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    Key,
    Length {
        field: u64,
    },
    /// A field that is passed on.
    Varint,
    Value(usize),
    Candidates(usize),
    /// Adjustments or logprobs, which are passed on unparsed.
    Lists(usize),
    Logits(usize),
    /// Passed on unseen, to the end of this level.
    Unseen,
}

impl Intake {
    /// Whether a message of so many bytes is too small to be much work, whatever it says: a parameter message takes two
    /// bytes at least. A value of a column may take one, and is four bytes then; the sets that columns stand for are
    /// counted before there are any.
    pub fn is_harmless(length: usize, rows_max: usize) -> bool {
        length <= (2 * rows_max).min(MESSAGE_BYTES_MAX)
    }

    /// Of a message of `length` bytes: on a stream one in which a request lies, else a request, with these fields. No
    /// request may have more rows than `rows_max`.
    pub fn new(
        shape: Arity,
        fields: &'static RequestFields,
        length: usize,
        rows_max: usize,
        pool: Pool,
    ) -> Self {
        let level = match shape {
            Arity::Unary => Level::Request { left_around: None },
            Arity::Stream => Level::Stream,
        };
        Self {
            pool,
            fields,
            level,
            left: length,
            at: At::Key,
            head: Vec::new(),
            value: 0,
            value_bytes: 0,
            rest: Vec::new(),
            inner: Vec::new(),
            logits: None,
            whole: false,
            read: 0,
            outside: 0,
            sets: 0,
            lists: 0,
            logprobs: 0,
            candidates: IdScanner::default(),
            rows_max,
            refused: None,
        }
    }

    /// The next piece; all pieces together are the message. `whole` says that there is room for all of it. Where a
    /// bound is passed nothing more is read.
    pub fn read(&mut self, mut bytes: &[u8], whole: bool) -> Result<(), Error> {
        self.whole = whole;
        while !bytes.is_empty() {
            self.leave_ended();
            let here = bytes.len().min(self.left);
            if here == 0 {
                debug_assert!(false, "more than the message");
                return Ok(());
            }
            let taken = match self.at {
                At::Logits(left) => self.take_logits(&bytes[..here.min(left)], left),
                At::Value(left) => self.pass_value(&bytes[..here.min(left)], left),
                At::Candidates(left) => self.pass_candidates(&bytes[..here.min(left)], left),
                At::Lists(left) => self.pass_lists(&bytes[..here.min(left)], left),
                At::Unseen => {
                    self.count(here);
                    self.pass(&bytes[..here])
                }
                At::Key | At::Length { .. } | At::Varint => self.varint_byte(bytes[0]),
            };
            self.left -= taken;
            self.read += taken;
            bytes = &bytes[taken..];
            if let Some(refused) = self.refused.take() {
                return Err(refused);
            }
        }
        Ok(())
    }

    /// The message without the logits that were taken from it, and those.
    pub fn finish(mut self) -> (Vec<u8>, Option<Buffer>) {
        self.leave_ended();
        debug_assert_eq!(self.left, 0, "less than the message");
        self.end_level();
        (self.rest, self.logits.map(|logits| logits.buffer))
    }

    /// What has been read, for who reads past the rest.
    pub fn passed(mut self) -> Passed {
        self.leave_ended();
        let skip = match self.level {
            Level::Request { left_around: Some(_) } => Some(self.left),
            Level::Params { left_around, left_around_request: Some(_) } => {
                Some(self.left + left_around)
            }
            _ => None,
        };
        if skip.is_none() {
            self.rest.append(&mut self.head);
        }
        Passed { bytes: self.read, fields: self.rest, skip }
    }

    /// So many bytes more are neither logits nor candidates, adjustments or logprobs.
    fn count(&mut self, bytes: usize) {
        self.outside += bytes;
        let limit = MESSAGE_BYTES_MAX + ROW_BYTES_MAX * self.rows_max;
        if self.outside > limit {
            self.refused.get_or_insert(Error::OverLimit {
                what: "the message's length without logits, candidates, adjustments and logprobs, in bytes,",
                value: self.outside as u64,
                limit: limit as u64,
                name: "request_rows_max",
                way_out: "send only the fields that the API has, each once",
            });
        }
    }

    fn count_set(&mut self) {
        self.sets += 1;
        self.within_rows("the number of parameter sets in the request", self.sets);
    }

    fn count_lists(&mut self) {
        self.lists += 1;
        let (_, what) = self.fields.lists.expect("they are looked for");
        self.within_rows(what, self.lists);
    }

    /// A list of so many bytes is in one of the sets.
    fn count_logprobs(&mut self, bytes: usize) {
        self.logprobs += bytes;
        if self.logprobs > self.sets * LOGPROBS_BYTES_MAX {
            let text = format!(
                "has {} bytes in {} parameter sets; allowed: up to {LOGPROB_IDS_MAX} tokens in each",
                self.logprobs, self.sets
            );
            let name = self.fields.params.map_or("params", |(_, name)| name);
            let field = format!("{name}.logprobs.ids");
            self.refused.get_or_insert(Error::invalid(field, text));
        }
    }

    fn within_rows(&mut self, what: &'static str, sets: usize) {
        if sets > self.rows_max {
            self.refused.get_or_insert(Error::OverLimit {
                what,
                value: sets as u64,
                limit: self.rows_max as u64,
                name: "request_rows_max",
                way_out: "send several requests",
            });
        }
    }

    /// Goes back to the message around a request or a parameter set that is over.
    fn leave_ended(&mut self) {
        while self.left == 0 {
            let (around, left) = match self.level {
                Level::Stream | Level::Request { left_around: None } => return,
                Level::Request { left_around: Some(left) } => {
                    self.end_level();
                    let request = with_length(REQUEST, &std::mem::take(&mut self.inner));
                    self.rest.extend_from_slice(&request);
                    (Level::Stream, left)
                }
                Level::Params { left_around, left_around_request } => {
                    self.end_level();
                    (Level::Request { left_around: left_around_request }, left_around)
                }
            };
            (self.level, self.left, self.at) = (around, left, At::Key);
        }
    }

    /// A field that was cut short at the end of its message is passed on as it is.
    fn end_level(&mut self) {
        let head = std::mem::take(&mut self.head);
        self.pass(&head);
        (self.value, self.value_bytes) = (0, 0);
    }

    fn take_logits(&mut self, bytes: &[u8], left: usize) -> usize {
        let whole = self.whole;
        let logits = self.logits.as_mut().expect("begun with the field");
        let (here, length) = (logits.buffer.data.len() + bytes.len(), logits.length);
        if here > logits.buffer.data.capacity() {
            // Memory for what was only announced is not taken.
            let bytes = if whole { length } else { length.min(GROWTH * here) };
            let mut larger = self.pool.take(bytes);
            larger.data.extend_from_slice(logits.buffer.as_ref());
            logits.buffer = larger;
        }
        logits.buffer.data.extend_from_slice(bytes);
        self.at = if bytes.len() == left { At::Key } else { At::Logits(left - bytes.len()) };
        bytes.len()
    }

    fn pass_candidates(&mut self, bytes: &[u8], left: usize) -> usize {
        self.at = if bytes.len() == left { At::Key } else { At::Candidates(left - bytes.len()) };
        self.candidates.read(bytes);
        if self.candidates.is_crowded() {
            let text = "has more fields than are looked at; allowed: counts and tokens, each once";
            self.refused.get_or_insert(Error::invalid("candidates", text));
        }
        self.pass(bytes)
    }

    fn pass_lists(&mut self, bytes: &[u8], left: usize) -> usize {
        self.at = if bytes.len() == left { At::Key } else { At::Lists(left - bytes.len()) };
        self.pass(bytes)
    }

    fn pass_value(&mut self, bytes: &[u8], left: usize) -> usize {
        self.count(bytes.len());
        self.at = if bytes.len() == left { At::Key } else { At::Value(left - bytes.len()) };
        self.pass(bytes)
    }

    fn pass(&mut self, bytes: &[u8]) -> usize {
        match self.level {
            Level::Request { left_around: Some(_) }
            | Level::Params { left_around_request: Some(_), .. } => {
                self.inner.extend_from_slice(bytes);
            }
            _ => self.rest.extend_from_slice(bytes),
        }
        bytes.len()
    }

    fn varint_byte(&mut self, byte: u8) -> usize {
        let left = self.left - 1;
        self.count(1);
        self.head.push(byte);
        self.value |= u64::from(byte & 0x7f) << (7 * self.value_bytes);
        self.value_bytes += 1;
        // The tenth byte has one bit of 64 left.
        let too_long = self.value_bytes == VARINT_BYTES_MAX && byte > 1;
        if too_long {
            self.stop_taking();
        } else if byte & 0x80 == 0 {
            let value = std::mem::take(&mut self.value);
            self.value_bytes = 0;
            match self.at {
                At::Key => self.key(value, left),
                At::Length { field } => self.length(field, value, left),
                _ => self.pass_head(At::Key),
            }
        }
        1
    }

    /// `left` is what this level has after the key.
    fn key(&mut self, key: u64, left: usize) {
        let (field, wire_type) = (key >> 3, key & 7);
        match wire_type {
            _ if field == 0 || key > u32::MAX.into() => self.stop_taking(),
            0 => self.at = At::Varint,
            1 if left >= 8 => self.pass_head(At::Value(8)),
            2 => self.at = At::Length { field },
            5 if left >= 4 => self.pass_head(At::Value(4)),
            _ => self.stop_taking(),
        }
    }

    /// `left` is what this level has after the length.
    fn length(&mut self, field: u64, length: u64, left: usize) {
        let Some(length) = usize::try_from(length).ok().filter(|&length| length <= left) else {
            return self.stop_taking();
        };
        match (self.level, field) {
            (Level::Request { .. }, field) if field == self.fields.logits => {
                self.head.clear();
                // One given before counts no more; its buffer is free for this one.
                self.logits = None;
                self.logits = Some(Logits { buffer: self.pool.take(0), length });
                self.at = if length == 0 { At::Key } else { At::Logits(length) };
            }
            (Level::Stream, REQUEST) => {
                self.head.clear();
                // The length's last byte is still to be counted.
                self.left = length + 1;
                self.level = Level::Request { left_around: Some(left - length) };
                self.at = At::Key;
            }
            (Level::Request { .. }, field)
                if length > 0 && self.fields.candidates == Some(field) =>
            {
                self.pass_head(At::Candidates(length));
            }
            (Level::Request { .. }, field)
                if self.fields.lists.is_some_and(|(lists, _)| lists == field) =>
            {
                self.count_lists();
                self.pass_head(if length == 0 { At::Key } else { At::Lists(length) });
            }
            (Level::Request { left_around: left_around_request }, field)
                if self.fields.params.is_some_and(|(params, _)| params == field) =>
            {
                self.count_set();
                let value = if length == 0 { At::Key } else { At::Value(length) };
                let is_long = length > ROW_BYTES_MAX;
                self.pass_head(if is_long { At::Key } else { value });
                if is_long {
                    let left_around = left - length;
                    // The length's last byte is still to be counted.
                    self.left = length + 1;
                    self.level = Level::Params { left_around, left_around_request };
                }
            }
            (Level::Params { .. }, LOGPROBS) if length > 0 => {
                self.count_logprobs(length);
                self.pass_head(At::Lists(length));
            }
            _ => self.pass_head(if length == 0 { At::Key } else { At::Value(length) }),
        }
    }

    fn pass_head(&mut self, at: At) {
        let mut head = std::mem::take(&mut self.head);
        self.pass(&head);
        head.clear();
        self.head = head;
        self.at = at;
    }

    /// From here to the end of this level the decoder must see everything, earlier logits included. Of a parameter set
    /// it sees everything anyway.
    fn stop_taking(&mut self) {
        let is_params = matches!(self.level, Level::Params { .. });
        if let Some(logits) = self.logits.take_if(|_| !is_params) {
            let mut field = with_length(self.fields.logits, logits.buffer.as_ref());
            if self.level == Level::Stream {
                field = with_length(REQUEST, &field);
            }
            self.pass(&field);
        }
        (self.value, self.value_bytes) = (0, 0);
        self.pass_head(At::Unseen);
    }
}

/// A field of bytes, or of a message, with its key; also where it is empty.
fn with_length(field: u64, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(value.len() + 2 * VARINT_BYTES_MAX as usize);
    encode_key(field as u32, WireType::LengthDelimited, &mut bytes);
    encode_varint(value.len() as u64, &mut bytes);
    bytes.extend_from_slice(value);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use logitd_proto::{Logprobs, SampleRequest, SampleStreamRequest, SamplingParams, SlotRef};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use prost::Message;

    /// Taken apart and put together, in pieces of these sizes in turn.
    fn joined<M: Message + Default>(
        shape: Arity,
        message: &[u8],
        sizes: &[usize],
        logits_of: fn(&mut M) -> Option<&mut bytes::Bytes>,
    ) -> Option<M> {
        let mut intake = Intake::new(shape, SAMPLE, message.len(), 1024, Pool::new(1 << 20));
        let (whole, mut sizes) = (sizes.len().is_multiple_of(2), sizes.iter().copied().cycle());
        let mut left = message;
        while !left.is_empty() {
            let (piece, rest) = left.split_at(sizes.next().unwrap_or(1).clamp(1, left.len()));
            intake.read(piece, whole).expect("small");
            left = rest;
        }
        let (rest, logits) = intake.finish();
        let mut decoded = M::decode(&*rest).ok()?;
        if let Some(logits) = logits {
            *logits_of(&mut decoded).expect("logits are of a request") = logits.freeze();
        }
        Some(decoded)
    }

    fn unary(message: &[u8], sizes: &[usize]) -> Option<SampleRequest> {
        joined(Arity::Unary, message, sizes, |request: &mut SampleRequest| {
            Some(&mut request.logits)
        })
    }

    fn stream(message: &[u8], sizes: &[usize]) -> Option<SampleStreamRequest> {
        joined(Arity::Stream, message, sizes, |message: &mut SampleStreamRequest| {
            message.request.as_mut().map(|request| &mut request.logits)
        })
    }

    /// Both readings of the same bytes, whatever they were meant as.
    fn assert_same(message: &[u8], sizes: &[usize]) {
        assert_eq!(unary(message, sizes), SampleRequest::decode(message).ok(), "{message:?}");
        assert_eq!(
            stream(message, sizes),
            SampleStreamRequest::decode(message).ok(),
            "{message:?}"
        );
    }

    /// Fields of a request, known and not, in any order and number, and what no encoder would write.
    fn fields(nested: bool) -> BoxedStrategy<Vec<u8>> {
        let varint = |value: u64| {
            let mut bytes = Vec::new();
            encode_varint(value, &mut bytes);
            bytes
        };
        let key = |field: u32, wire_type: u32| u64::from(field << 3 | wire_type);
        let number = (0u32..9, any::<u64>())
            .prop_map(move |(field, value)| [varint(key(field, 0)), varint(value)].concat());
        let logits = vec(any::<u8>(), 0..40).prop_map(|value| with_length(SAMPLE.logits, &value));
        let params = any::<Option<u64>>().prop_map(|seed| {
            let params = SamplingParams { seed, top_k: 5, ..Default::default() };
            with_length(4, &params.encode_to_vec())
        });
        // Long enough to be looked into, also where something is wrong within.
        let logprobs =
            (vec(any::<u32>(), 28..40), vec(any::<u8>(), 0..4)).prop_map(|(ids, bad)| {
                let logprobs = Some(Logprobs { of: vec![1, 3], top: 5, ids });
                let params = SamplingParams { logprobs, seed: Some(7), ..Default::default() };
                with_length(4, &[params.encode_to_vec(), bad].concat())
            });
        let slot = any::<u32>().prop_map(|slot| {
            let slot = SlotRef { slot, region: vec![3; 16].into(), ..Default::default() };
            with_length(6, &slot.encode_to_vec())
        });
        let unknown = (1u64..30, vec(any::<u8>(), 0..20))
            .prop_map(|(field, value)| with_length(field, &value));
        let fixed = (7u32..40, any::<bool>()).prop_map(move |(field, long)| {
            let wire_type = if long { 1 } else { 5 };
            [varint(key(field, wire_type)), vec![0x1a; if long { 8 } else { 4 }]].concat()
        });
        // A group of an unknown field, with what looks like logits in it.
        let group = (7u32..20, vec(any::<u8>(), 0..9)).prop_map(move |(field, value)| {
            [varint(key(field, 3)), with_length(SAMPLE.logits, &value), varint(key(field, 4))]
                .concat()
        });
        let overlong = vec(any::<u8>(), 0..9).prop_map(|value| {
            [&[0x9a, 0x80, 0x00, 0x80 | value.len() as u8, 0x00], &*value].concat()
        });
        let too_long = (1u64..6, 0u64..100)
            .prop_map(move |(field, length)| [varint(field << 3 | 2), varint(length)].concat());
        let garbage = vec(any::<u8>(), 0..6);
        let field = prop_oneof![
            4 => logits,
            2 => number,
            2 => params,
            2 => logprobs,
            1 => slot,
            1 => unknown,
            1 => fixed,
            1 => group,
            1 => overlong,
        ];
        let field = if nested {
            prop_oneof![
                3 => field,
                3 => fields(false).prop_map(|request| with_length(REQUEST, &request)),
            ]
            .boxed()
        } else {
            field.boxed()
        };
        let bad = prop_oneof![20 => Just(Vec::new()), 1 => too_long, 1 => garbage];
        (vec(field, 0..6), bad, 0usize..8)
            .prop_map(|(fields, bad, at)| {
                let (before, after) = fields.split_at(at.min(fields.len()));
                [before.concat(), bad, after.concat()].concat()
            })
            .boxed()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 3000, ..Default::default() })]

        #[test]
        fn taken_apart_and_decoded_is_as_decoded_whole(
            message in prop_oneof![fields(true), fields(false)],
            sizes in vec(1usize..50, 1..5),
            cut in prop_oneof![3 => Just(None), 1 => (0usize..60).prop_map(Some)],
        ) {
            let end = cut.map_or(message.len(), |cut| cut.min(message.len()));
            assert_same(&message[..end], &sizes);
            assert_same(&message, &[message.len()]);
        }

        #[test]
        fn bytes_of_no_meaning_mean_no_more(message in vec(any::<u8>(), 0..40)) {
            assert_same(&message, &[1]);
        }
    }

    #[test]
    fn logits_are_taken_and_nothing_else_is_kept_back() {
        let params = vec![SamplingParams { seed: Some(9), ..Default::default() }; 3];
        let logits = vec![0x1a; 100_000].into();
        let request =
            SampleRequest { dtype: 1, vocab_size: 50_000, logits, params, ..Default::default() };
        let mut message = SampleStreamRequest { id: 300, first_row: Some(7), ..Default::default() };
        message.request = Some(request.clone());
        let bare = SampleRequest { logits: Vec::new().into(), ..request.clone() };

        let mut intake =
            Intake::new(Arity::Unary, SAMPLE, request.encoded_len(), 3, Pool::new(1 << 20));
        request.encode_to_vec().chunks(999).for_each(|piece| intake.read(piece, false).unwrap());
        let (rest, taken) = intake.finish();
        assert_eq!(rest, bare.encode_to_vec());
        assert_eq!(taken.unwrap().as_ref(), &request.logits);

        let mut intake =
            Intake::new(Arity::Stream, SAMPLE, message.encoded_len(), 3, Pool::new(1 << 20));
        message.encode_to_vec().chunks(999).for_each(|piece| intake.read(piece, false).unwrap());
        let (rest, taken) = intake.finish();
        assert_eq!(rest, SampleStreamRequest { request: Some(bare), ..message }.encode_to_vec());
        assert_eq!(taken.unwrap().as_ref(), &request.logits);
    }

    /// Sets with so many tokens each, in a request of up to `rows_max` rows.
    fn read_sets(rows_max: usize, ids: usize, sets: usize) -> Result<(), Error> {
        let logprobs = Some(Logprobs { of: vec![1, 2, 3], top: 1024, ids: vec![u32::MAX; ids] });
        let one = SamplingParams { logprobs, seed: Some(u64::MAX), ..Default::default() };
        let request = SampleRequest { params: vec![one; sets], ..Default::default() };
        let message = SampleStreamRequest { request: Some(request), ..Default::default() };
        let length = message.encoded_len();
        let mut intake = Intake::new(Arity::Stream, SAMPLE, length, rows_max, Pool::new(1 << 20));
        message.encode_to_vec().chunks(999).try_for_each(|piece| intake.read(piece, false))?;
        assert_eq!(intake.finish().0, message.encode_to_vec());
        Ok(())
    }

    #[test]
    fn every_row_may_list_tokens_and_no_set_more_than_its_share() {
        for (rows_max, ids, sets) in [(1, LOGPROB_IDS_MAX, 1), (50, LOGPROB_IDS_MAX, 50)] {
            read_sets(rows_max, ids, sets).unwrap();
        }
        let error = read_sets(50, 2 * LOGPROB_IDS_MAX, 1).unwrap_err().to_string();
        assert!(error.contains("params.logprobs.ids: has ") && error.contains("1024"), "{error}");
        // What is no list has the bound that it always had.
        let unknown = with_length(30, &vec![0; 5000]);
        let (params, _) = SAMPLE.params.expect("it has parameters");
        let message = with_length(params, &unknown);
        let mut intake = Intake::new(Arity::Unary, SAMPLE, message.len(), 1, Pool::new(1 << 20));
        let error = intake.read(&message, false).unwrap_err().to_string();
        assert!(error.contains("without logits, candidates, adjustments and logprobs"), "{error}");
    }

    #[test]
    fn the_last_logits_count_also_across_requests_and_when_empty() {
        let logits = |value: &[u8]| with_length(SAMPLE.logits, value);
        let request = |fields: &[u8]| with_length(REQUEST, fields);
        let group = [0x7b, 0x7c];
        for message in [
            [logits(b"first"), logits(b"2nd")].concat(),
            [logits(b"first"), logits(b"")].concat(),
            [logits(b"first"), group.to_vec(), logits(b"")].concat(),
            [request(&logits(b"first")), request(&[])].concat(),
            [request(&logits(b"first")), request(&logits(b""))].concat(),
            // Seen, unseen after a group, seen again.
            [request(&[&group[..], &logits(b"a")].concat()), request(&logits(b"b"))].concat(),
            [request(&[&group[..], &logits(b"a")].concat()), request(&logits(b"")), group.to_vec()]
                .concat(),
            [request(&logits(b"b")), group.to_vec(), request(&logits(b"a"))].concat(),
            [request(&logits(b"b")), request(&group), vec![0x08, 1]].concat(),
        ] {
            let is_one = SampleRequest::decode(&*message).is_ok()
                || SampleStreamRequest::decode(&*message).is_ok();
            assert!(is_one, "{message:?}");
            (1..6).for_each(|size| assert_same(&message, &[size]));
        }
    }
}
