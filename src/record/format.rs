//! Frames: how a trace lies in its file. `proto/logitd/trace/v1/trace.proto` says it for readers in other languages.

use super::method::{Method, Parts, ReadParts};
use super::planes::{pack, unpack};
use super::{Call, Entry, Exchange};
use crate::wire::columns;
use bytes::Bytes;
use logitd_proto::trace::{Frame, Session, frame};
use logitd_proto::{BeamStepRequest, SampleRequest, SamplingParams, VerifyRequest};
use prost::Message;
use std::time::Duration;

/// What every trace begins with; the last byte is the version of the format.
pub const MAGIC: &[u8; 16] = b"logitd trace\0\0\0\x02";

/// Bytes before a frame's body: its length and its checksum.
pub(super) const HEADER_BYTES: usize = 8;

/// The columns of no record stand for more: no server takes longer messages.
const PARAMS_BYTES_MAX: usize = u32::MAX as usize;

/// What a whole frame says.
#[derive(Debug, PartialEq)]
pub(super) enum Content {
    Session(Session),
    Entry(Box<Entry>),
    /// Of a later version of the format: nothing that is known here.
    Unknown,
}

/// Makes frames, reusing its memory from one to the next.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    frame: Vec<u8>,
}

impl Encoder {
    pub(super) fn session(&mut self, session: Session) -> &[u8] {
        self.encode(frame::Content::Session(session))
    }

    /// An entry, its logits packed or, which takes a tenth of the time, as they are.
    pub(super) fn entry(&mut self, entry: Entry, packed: bool) -> &[u8] {
        let Entry { arrival, took, call } = entry;
        let times = (micros(arrival), micros(took));
        let content = match call {
            Call::Sample(exchange) => content(times, exchange, packed),
            Call::Verify(exchange) => content(times, exchange, packed),
            Call::BeamStep(exchange) => content(times, exchange, packed),
        };
        self.encode(content)
    }

    fn encode(&mut self, content: frame::Content) -> &[u8] {
        let frame = Frame { content: Some(content) };
        let length =
            u32::try_from(frame.encoded_len()).expect("a message is below 4 GiB").to_le_bytes();
        self.frame.clear();
        self.frame.extend_from_slice(&length);
        self.frame.extend_from_slice(&[0; 4]);
        frame.encode(&mut self.frame).expect("a vector grows");
        let checksum = checksum(length, &self.frame[HEADER_BYTES..]);
        self.frame[4..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
        &self.frame
    }
}

/// Reads a frame's body. An error says what is wrong with it.
pub(super) fn decode(body: Bytes) -> Result<Content, String> {
    let frame = Frame::decode(body).map_err(|error| error.to_string())?;
    let entry = match frame.content {
        Some(frame::Content::Session(session)) => return Ok(Content::Session(session)),
        Some(frame::Content::Record(record)) => {
            entry(ReadParts::<SampleRequest>::from(record), columns_to_messages)?
        }
        Some(frame::Content::Verify(record)) => {
            entry(ReadParts::<VerifyRequest>::from(record), |_| Ok(()))?
        }
        Some(frame::Content::BeamStep(record)) => {
            entry(ReadParts::<BeamStepRequest>::from(record), |_| Ok(()))?
        }
        None => return Ok(Content::Unknown),
    };
    Ok(Content::Entry(Box::new(entry)))
}

/// What a frame has of a call: when its request came and how long it took, in microseconds, and both messages.
fn content<M: Method>(
    (arrival_us, took_us): (u64, u64),
    exchange: Exchange<M>,
    packed: bool,
) -> frame::Content {
    let Exchange { mut request, result } = exchange;
    let (dtype, logits) = request.logits();
    let planes = if packed { pack(dtype, logits) } else { Vec::new() };
    let mut unpacked_bytes = 0;
    if !planes.is_empty() {
        unpacked_bytes = std::mem::take(logits).len() as u64;
    }
    M::frame(Parts { arrival_us, took_us, request, result, planes, unpacked_bytes })
}

/// The entry of these parts, of whose request `complete` makes what readers know.
fn entry<M: Method>(
    parts: ReadParts<M>,
    complete: impl FnOnce(&mut M) -> Result<(), String>,
) -> Result<Entry, String> {
    let ReadParts { arrival_us, took_us, request, result, planes, unpacked_bytes } = parts;
    let mut request = request.ok_or("a record without a request")?;
    if !planes.is_empty() {
        *request.logits().1 = unpack(&planes, unpacked_bytes)?;
    }
    complete(&mut request)?;
    let result = result.ok_or("a record without an answer")?;
    Ok(Entry {
        arrival: Duration::from_micros(arrival_us),
        took: Duration::from_micros(took_us),
        call: M::call(Exchange { request, result }),
    })
}

/// Columns are written as they came, which is a small part of the messages that they stand for; readers have messages.
fn columns_to_messages(request: &mut SampleRequest) -> Result<(), String> {
    let Some(sets) = columns::sets(request).map_err(|error| error.to_string())? else {
        return Ok(());
    };
    let lists = request.columns.as_ref().map_or(0, |given| columns::list_bytes(given, sets));
    let bytes = lists.saturating_add(sets.saturating_mul(size_of::<SamplingParams>()));
    if bytes > PARAMS_BYTES_MAX {
        return Err(format!(
            "its columns stand for {bytes} bytes of parameters; allowed: up to {PARAMS_BYTES_MAX}, more than any server \
             takes, so the entry is damaged"
        ));
    }
    columns::unpack(request, sets);
    Ok(())
}

/// The checksum of a frame: of its length too, so that a run of zeros is no frame.
pub(super) fn checksum(length: [u8; 4], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length);
    hasher.update(body);
    hasher.finalize()
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use logitd_proto::{
        BeamGroup, BeamGroupResult, BeamStepResponse, DraftedSequence, Dtype, Logprobs,
        ParamColumns, RowResult, SampleResponse, StreamError, VerifiedSequence, VerifyResponse,
    };
    use proptest::prelude::*;

    fn entry(dtype: Dtype, logits: Vec<u8>) -> Entry {
        Entry {
            arrival: Duration::from_micros(1_234_567),
            took: Duration::from_micros(89),
            call: Call::Sample(exchange(dtype, logits)),
        }
    }

    fn exchange(dtype: Dtype, logits: Vec<u8>) -> Exchange<SampleRequest> {
        Exchange {
            request: SampleRequest {
                dtype: dtype.into(),
                vocab_size: 5,
                logits: logits.into(),
                params: vec![SamplingParams { seed: Some(7), ..Default::default() }],
                ..Default::default()
            },
            result: Ok(SampleResponse {
                rows: vec![RowResult { token: Some(3), logprob: Some(-0.5), ..Default::default() }],
                device: "cpu".into(),
                ..Default::default()
            }),
        }
    }

    /// The entry with another call.
    fn with(call: Call) -> Entry {
        Entry { call, ..entry(Dtype::F16, vec![]) }
    }

    fn roundtrip(entry: &Entry, packed: bool) -> Content {
        let mut encoder = Encoder::default();
        let frame = encoder.entry(entry.clone(), packed);
        decode(Bytes::copy_from_slice(&frame[HEADER_BYTES..])).unwrap()
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            dtype in prop::sample::select(vec![Dtype::F16, Dtype::Bf16, Dtype::F32]),
            // Repeated bytes pack, others do not: both ways must come back.
            logits in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..600),
                (any::<u8>(), 0usize..900).prop_map(|(byte, n)| vec![byte; n]),
            ],
        ) {
            let entry = entry(dtype, logits);
            for packed in [true, false] {
                prop_assert_eq!(roundtrip(&entry, packed), Content::Entry(Box::new(entry.clone())));
            }
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(body in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(body.into());
        }
    }

    #[test]
    fn columns_are_written_as_they_came_and_read_as_messages() {
        let logprobs = Logprobs { of: vec![1], ids: vec![7; 1000], ..Default::default() };
        let columns = ParamColumns {
            seed: (0..500).collect(),
            logprobs: Some(logprobs),
            ..Default::default()
        };
        let mut given = exchange(Dtype::F16, vec![0; 20]);
        (given.request.params, given.request.columns) = (vec![], Some(columns.clone()));
        let written = with(Call::Sample(given.clone()));
        let bytes = Encoder::default().entry(written.clone(), false).len();
        assert!(bytes < 10_000, "{bytes}");
        let Content::Entry(read) = roundtrip(&written, false) else { panic!("an entry") };
        given.request.columns = None;
        given.request.params = (0..500).map(|row| columns.set(row)).collect();
        assert_eq!(read.call, Call::Sample(given));

        // What no server has taken is not read: of other lengths, or far too much.
        let refused = |columns: ParamColumns| {
            let mut request = SampleRequest { columns: Some(columns), ..Default::default() };
            columns_to_messages(&mut request).unwrap_err()
        };
        let wrong = ParamColumns { top_k: vec![1; 2], ..columns.clone() };
        assert!(refused(wrong).contains("top_k has 2 values"));
        let large = ParamColumns { seed: vec![0; 1 << 20], ..columns };
        assert!(refused(large).contains("bytes of parameters"));
    }

    #[test]
    fn refusals_are_kept() {
        let mut refused = exchange(Dtype::F16, vec![0; 20]);
        refused.result = Err(full());
        let entry = with(Call::Sample(refused));
        assert_eq!(roundtrip(&entry, true), Content::Entry(Box::new(entry)));
    }

    fn full() -> StreamError {
        StreamError { code: 8, message: "full".into(), ..Default::default() }
    }

    /// Logits of one value are packed, whatever was called.
    #[test]
    fn calls_of_every_method_are_written_and_read() {
        let logits: Bytes = [1, 2].repeat(500).into();
        let sequence = DraftedSequence { drafts: vec![3, 4], ..Default::default() };
        let verify = VerifyRequest {
            dtype: Dtype::F16.into(),
            logits: logits.clone(),
            sequences: vec![sequence],
            ..Default::default()
        };
        let verified = VerifiedSequence { tokens: vec![3, 7], seed: 9, ..Default::default() };
        let verified = VerifyResponse { sequences: vec![verified], ..Default::default() };
        let group = BeamGroup { scores: vec![0, -5], beams: 2, ..Default::default() };
        let step = BeamStepRequest {
            dtype: Dtype::F16.into(),
            logits,
            groups: vec![group],
            ..Default::default()
        };
        let statuses = vec![1, 1];
        let stepped = BeamGroupResult { statuses, ..Default::default() };
        let stepped = BeamStepResponse { groups: vec![stepped], ..Default::default() };
        let calls = [
            Call::Verify(Exchange { request: verify.clone(), result: Ok(verified) }),
            Call::Verify(Exchange { request: verify, result: Err(full()) }),
            Call::BeamStep(Exchange { request: step.clone(), result: Ok(stepped) }),
            Call::BeamStep(Exchange { request: step, result: Err(full()) }),
        ];
        for call in calls {
            let entry = with(call);
            for (packed, bytes) in [(true, 0..300), (false, 1000..1300)] {
                let written = Encoder::default().entry(entry.clone(), packed).len();
                assert!(bytes.contains(&written), "{written}: {entry:?}");
                assert_eq!(roundtrip(&entry, packed), Content::Entry(Box::new(entry.clone())));
            }
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn bytes(hex: &str) -> Bytes {
        let byte = |i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap();
        (0..hex.len()).step_by(2).map(byte).collect()
    }

    const SESSION: &str = "0e000000d604478f0a0c088080f9c0c1c48203120131";
    const ANSWERED: &str = "2e0000007e03f6e9122c0887ad4b10591a14080110051a0a0102010201020102010222022807220e0a07\
        10031d000000bf1a03637075";
    const REFUSED: &str = "280000005857b6c812260887ad4b10591a14080110051a0a01020102010201020102220228072a080808\
        120466756c6c";
    /// The planes of bytes 1, 2, 1, 2, ...: each is one value, and packed.
    const PACKED: &str = "3f000000e67b8b9a123d0887ad4b10591a080801100522022807220e0a0710031d000000bf1a03637075\
        320b0a07631c05230e00001001320b0a07631a05230e0000100138e807";

    /// A trace can be read years later, by other programs too.
    #[test]
    fn frames_have_these_bytes() {
        let session =
            Session { started_unix_us: 1_700_000_000_000_000, server_version: "1".into() };
        let answered = entry(Dtype::F16, [1, 2].repeat(5));
        let mut refused = exchange(Dtype::F16, [1, 2].repeat(5));
        refused.result = Err(full());
        let refused = with(Call::Sample(refused));
        let mut encoder = Encoder::default();
        assert_eq!(hex(encoder.session(session.clone())), SESSION);
        assert_eq!(hex(encoder.entry(answered.clone(), false)), ANSWERED);
        assert_eq!(hex(encoder.entry(refused.clone(), false)), REFUSED);

        let packed = entry(Dtype::F16, [1, 2].repeat(500));
        let contents = [
            (SESSION, Content::Session(session)),
            (ANSWERED, Content::Entry(Box::new(answered))),
            (REFUSED, Content::Entry(Box::new(refused))),
            // The stream of a packed plane may be another with another version of zlib.
            (PACKED, Content::Entry(Box::new(packed))),
        ];
        for (frame, content) in contents {
            let frame = bytes(frame);
            let (header, body) = frame.split_at(HEADER_BYTES);
            assert_eq!(body.len(), u32::from_le_bytes(header[..4].try_into().unwrap()) as usize);
            let sum = checksum(header[..4].try_into().unwrap(), body);
            assert_eq!(header[4..], sum.to_le_bytes());
            assert_eq!(decode(frame.slice(HEADER_BYTES..)), Ok(content));
        }
    }

    #[test]
    fn zeros_are_no_frame() {
        assert_ne!(checksum([0; 4], &[]), 0);
    }
}
