//! Messages to bytes, as prost makes them, and answers with many draws in less time.
//!
//! A draw is a message of up to 11 bytes. prost asks for its length twice, once for its own prefix and once for the row's, and then
//! writes it in up to nine steps, each of which looks whether the buffer has room. An answer of 65,536 draws so holds up whatever
//! else its thread serves. Here a row with many draws is taken apart at their field:
//!
//! ```text
//! fields before `draws`    prost
//! draws                    one look at each for the lengths; then each is put together in 16 bytes, and appended
//! fields after `draws`     prost
//! ```
//!
//! prost writes fields in the order of their numbers, so the bytes are the same.

use super::sample_stream_response::Result as Outcome;
use super::{Draw, RowResult, SampleResponse, SampleStreamResponse};
use bytes::BufMut;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use tonic::codec::EncodeBuf;

/// Rows with fewer draws are left to prost.
const DRAWS_MIN: usize = 16;

/// The field numbers, as the proto file has them.
const ROWS: u32 = 1;
const RESPONSE: u32 = 2;
const DRAWS: u32 = 7;
const TOKEN: u32 = 1;
const LOGPROB: u32 = 2;

/// Memory that messages are appended to, and that is made larger at once.
pub trait Growing: BufMut {
    /// Makes room for so many bytes more.
    fn grow(&mut self, bytes: usize);
}

impl Growing for EncodeBuf<'_> {
    fn grow(&mut self, bytes: usize) {
        self.reserve(bytes);
    }
}

impl Growing for Vec<u8> {
    fn grow(&mut self, bytes: usize) {
        self.reserve(bytes);
    }
}

/// A message that can be sent.
pub trait Sent: Message + Sized {
    /// Appends its bytes.
    fn append(self, to: &mut impl Growing) {
        to.grow(self.encoded_len());
        self.encode_raw(to);
    }
}

macro_rules! as_prost_does {
    ($($message:ident)*) => {$(
        impl Sent for super::$message {}
    )*};
}

as_prost_does! {
    SampleRequest SampleStreamRequest EvaluateRequest EvaluateStreamRequest VerifyRequest VerifyStreamRequest
    BeamStepRequest GetInfoRequest EvaluateResponse EvaluateStreamResponse VerifyResponse VerifyStreamResponse
    BeamStepResponse GetInfoResponse
}

impl Sent for SampleResponse {
    fn append(self, to: &mut impl Growing) {
        if !self.has_many_draws() {
            to.grow(self.encoded_len());
            return self.encode_raw(to);
        }
        let parts = Response::from(self);
        to.grow(parts.bytes);
        parts.write(to);
    }
}

impl Sent for SampleStreamResponse {
    fn append(self, to: &mut impl Growing) {
        // Every field by its name, so that a new one cannot be left out.
        let Self { id, result, first_row } = self;
        let response = match result {
            Some(Outcome::Response(response)) if response.has_many_draws() => response,
            result => {
                let all = Self { id, result, first_row };
                to.grow(all.encoded_len());
                return all.encode_raw(to);
            }
        };
        let before = Self { id, result: None, first_row: Self::default().first_row };
        let after = Self { id: 0, result: None, first_row };
        let parts = Response::from(response);
        let framed = length_delimited_len(RESPONSE, parts.bytes);
        to.grow(before.encoded_len() + framed + after.encoded_len());
        before.encode_raw(to);
        begin(RESPONSE, parts.bytes, to);
        parts.write(to);
        after.encode_raw(to);
    }
}

impl SampleResponse {
    fn has_many_draws(&self) -> bool {
        self.rows.iter().any(|row| row.draws.len() >= DRAWS_MIN)
    }
}

/// A response, taken apart.
struct Response {
    rows: Vec<Row>,
    rest: SampleResponse,
    bytes: usize,
}

impl From<SampleResponse> for Response {
    fn from(mut response: SampleResponse) -> Self {
        let rows: Vec<Row> =
            std::mem::take(&mut response.rows).into_iter().map(Row::from).collect();
        let of_rows: usize = rows.iter().map(|row| length_delimited_len(ROWS, row.bytes)).sum();
        let bytes = of_rows + response.encoded_len();
        Self { rows, rest: response, bytes }
    }
}

impl Response {
    fn write(&self, to: &mut impl BufMut) {
        for row in &self.rows {
            begin(ROWS, row.bytes, to);
            row.write(to);
        }
        self.rest.encode_raw(to);
    }
}

/// A row, taken apart where it has many draws.
struct Row {
    before: RowResult,
    many: Option<Many>,
    bytes: usize,
}

/// Many draws of a row, and what follows them.
struct Many {
    draws: Vec<Draw>,
    after: RowResult,
}

impl From<RowResult> for Row {
    fn from(mut row: RowResult) -> Self {
        if row.draws.len() < DRAWS_MIN {
            let bytes = row.encoded_len();
            return Self { before: row, many: None, bytes };
        }
        let draws = std::mem::take(&mut row.draws);
        let RowResult { status, token, logprob, kept, kept_mass, seed, .. } = row;
        let before =
            RowResult { status, token, logprob, kept, kept_mass, seed, ..Default::default() };
        let after = RowResult {
            status: 0,
            token: None,
            logprob: None,
            kept: 0,
            kept_mass: 0,
            seed: 0,
            ..row
        };
        let of_draws: usize = draws.iter().map(|draw| 2 + draw_len(draw)).sum();
        let bytes = before.encoded_len() + of_draws + after.encoded_len();
        Self { before, many: Some(Many { draws, after }), bytes }
    }
}

impl Row {
    fn write(&self, to: &mut impl BufMut) {
        self.before.encode_raw(to);
        let Some(Many { draws, after }) = &self.many else { return };
        write_draws(draws, to);
        after.encode_raw(to);
    }
}

/// What a draw is put together in: at most 13 bytes of it are used, 2 of the key and the length, 6 and 5 of the fields.
const DRAW_BYTES: usize = 16;

fn write_draws(draws: &[Draw], to: &mut impl BufMut) {
    // One copy to the buffer for many draws: each looks for room, and calls a function.
    let mut block = [0; 128 * DRAW_BYTES];
    for draws in draws.chunks(block.len() / DRAW_BYTES) {
        let mut at = 0;
        for draw in draws {
            let place = block[at..].first_chunk_mut().expect("room for as many");
            at += put_draw(draw, place);
        }
        to.put_slice(&block[..at]);
    }
}

/// The bytes of a draw, without its key and its length. Fields of 0 are left out.
fn draw_len(draw: &Draw) -> usize {
    let Draw { token, logprob } = *draw;
    let of_token = if token == 0 { 0 } else { 1 + encoded_len_varint(token.into()) };
    let of_logprob = if logprob == 0.0 { 0 } else { 1 + size_of::<f32>() };
    of_token + of_logprob
}

/// Puts a draw with its key and its length in its place, and says how many bytes that is. What follows them there has
/// no meaning: fields are written whether or not they are 0, so that nothing depends on what was drawn.
fn put_draw(draw: &Draw, place: &mut [u8; DRAW_BYTES]) -> usize {
    place[0] = key(DRAWS, WireType::LengthDelimited);
    place[1] = draw_len(draw) as u8;
    place[2] = key(TOKEN, WireType::Varint);
    for part in 0..5 {
        place[3 + part] = (draw.token >> (7 * part)) as u8 | 0x80;
    }
    let length = encoded_len_varint(draw.token.into());
    place[2 + length] &= 0x7f;
    let at = if draw.token == 0 { 2 } else { 3 + length };
    place[at] = key(LOGPROB, WireType::ThirtyTwoBit);
    place[at + 1..at + 5].copy_from_slice(&draw.logprob.to_le_bytes());
    if draw.logprob == 0.0 { at } else { at + 5 }
}

/// A key of one byte: of fields below 16.
const fn key(field: u32, wire_type: WireType) -> u8 {
    (field << 3) as u8 | wire_type as u8
}

/// The key and the length of so many bytes.
fn begin(field: u32, bytes: usize, to: &mut impl BufMut) {
    encode_key(field, WireType::LengthDelimited, to);
    encode_varint(bytes as u64, to);
}

/// A field of so many bytes, with its key and its length.
fn length_delimited_len(field: u32, bytes: usize) -> usize {
    key_len(field) + encoded_len_varint(bytes as u64) + bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LogprobsResult, ResultColumns, StreamError, Timings, Violation};

    fn assert_as_prost<M: Sent + Clone>(message: M) {
        let mut sent = b"before".to_vec();
        message.clone().append(&mut sent);
        assert_eq!(sent, [b"before", &message.encode_to_vec()[..]].concat());
    }

    /// Values at which a draw takes another number of bytes, or none.
    fn draws(count: usize) -> Vec<Draw> {
        let tokens = [0, 1, 127, 128, 16_383, 16_384, (1 << 21) - 1, 1 << 21, 1 << 28, u32::MAX];
        let logprobs = [0.0, -0.0, -1.5, f32::NEG_INFINITY, f32::NAN, f32::MIN_POSITIVE, 1e-45];
        let draw =
            |n| Draw { token: tokens[n % tokens.len()], logprob: logprobs[n % logprobs.len()] };
        (0..count).map(draw).collect()
    }

    fn full(draws: Vec<Draw>) -> RowResult {
        RowResult {
            status: 1,
            token: Some(0),
            logprob: Some(0.0),
            kept: 300,
            kept_mass: u64::MAX,
            seed: 1 << 63,
            draws,
            logprobs: vec![LogprobsResult { of: 1, entropy: 2.5, ..Default::default() }; 2],
            kept_ids: vec![1, 2, 3],
            kept_bitmask: vec![7; 200].into(),
            violation: Some(Violation { field: "params".into(), description: "wrong".into() }),
            mirostat_mu: Some(1.0),
            adaptive_sum: Some(0.0),
            adaptive_weight: Some(-0.0),
        }
    }

    fn response(rows: Vec<RowResult>) -> SampleResponse {
        SampleResponse {
            rows,
            timings: Some(Timings { queue_us: 1, copy_us: 0, compute_us: 300 }),
            device: "cpu".into(),
            arithmetic_version: 3,
            plane: 1,
            columns: Some(ResultColumns { statuses: vec![1, 2], ..Default::default() }),
        }
    }

    #[test]
    fn bytes_are_those_of_prost() {
        let bare = |draws| RowResult { draws, ..Default::default() };
        for count in [0, 1, DRAWS_MIN - 1, DRAWS_MIN, 70, 1024] {
            let row = full(draws(count));
            for rows in
                [vec![row.clone()], vec![row.clone(), bare(vec![]), bare(draws(count)), row]]
            {
                assert_as_prost(response(rows.clone()));
                assert_as_prost(SampleResponse { rows: rows.clone(), ..Default::default() });
                for (id, first_row) in [(0, None), (7, Some(0)), (u64::MAX, Some(900))] {
                    let result = Some(Outcome::Response(response(rows.clone())));
                    assert_as_prost(SampleStreamResponse { id, first_row, result });
                }
            }
        }
        assert_as_prost(SampleResponse::default());
        assert_as_prost(SampleStreamResponse::default());
        let error = StreamError { code: 8, message: "full".into(), ..Default::default() };
        let result = Some(Outcome::Error(error));
        assert_as_prost(SampleStreamResponse { id: 1, first_row: Some(2), result });
        assert_as_prost(crate::GetInfoResponse { version: "1".into(), ..Default::default() });
    }

    #[test]
    fn every_number_of_bytes_of_a_token_is_as_prost_has_it() {
        for bits in 0..32 {
            for token in [(1u32 << bits) - 1, 1 << bits] {
                let row = RowResult {
                    draws: vec![Draw { token, logprob: -0.25 }; 20],
                    ..Default::default()
                };
                assert_as_prost(response(vec![row]));
            }
        }
    }
}
