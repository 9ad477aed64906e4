//! Frames: how a trace lies in its file.

use super::Entry;
use crate::api::{SampleRequest, SampleResponse, StreamError};
use bytes::Bytes;
use prost::Message;
use std::time::Duration;

/// What every trace begins with; the last byte is the version of the format.
pub const MAGIC: &[u8; 16] = b"logitd trace\0\0\0\x01";

/// Bytes before a frame's body: its length and its checksum.
pub(super) const HEADER_BYTES: usize = 8;

/// One run of a server.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Session {
    /// When it began, in microseconds since 1970. Arrivals count from here.
    #[prost(uint64, tag = "1")]
    pub started_unix_us: u64,
    /// Version of the server.
    #[prost(string, tag = "2")]
    pub server_version: String,
}

/// What a frame's body holds: one of these.
#[derive(Clone, PartialEq, prost::Message)]
struct Frame {
    #[prost(message, optional, tag = "1")]
    session: Option<Session>,
    #[prost(message, optional, tag = "2")]
    record: Option<Record>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Record {
    #[prost(uint64, tag = "1")]
    arrival_us: u64,
    #[prost(uint64, tag = "2")]
    took_us: u64,
    /// Without its logits where they are packed.
    #[prost(message, optional, tag = "3")]
    request: Option<SampleRequest>,
    #[prost(message, optional, tag = "4")]
    response: Option<SampleResponse>,
    #[prost(message, optional, tag = "5")]
    error: Option<StreamError>,
    /// The logits, in planes of bytes, as a zstd frame.
    #[prost(bytes = "bytes", tag = "6")]
    packed: Bytes,
    /// How many bytes they are unpacked. 0: they are in the request.
    #[prost(uint64, tag = "7")]
    unpacked_bytes: u64,
    /// Into how many planes they were split.
    #[prost(uint32, tag = "8")]
    planes: u32,
}

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
    shuffled: Vec<u8>,
}

impl Encoder {
    pub(super) fn session(&mut self, session: Session) -> &[u8] {
        self.encode(&Frame { session: Some(session), record: None })
    }

    pub(super) fn entry(&mut self, entry: Entry) -> &[u8] {
        let Entry { arrival, took, mut request, result } = entry;
        let (planes, packed) = self.pack(&request);
        let unpacked_bytes = if packed.is_empty() { 0 } else { request.logits.len() as u64 };
        if unpacked_bytes > 0 {
            request.logits = Bytes::new();
        }
        let (response, error) = match result {
            Ok(response) => (Some(response), None),
            Err(error) => (None, Some(error)),
        };
        let record = Record {
            arrival_us: micros(arrival),
            took_us: micros(took),
            request: Some(request),
            response,
            error,
            packed: packed.into(),
            unpacked_bytes,
            planes,
        };
        self.encode(&Frame { session: None, record: Some(record) })
    }

    fn encode(&mut self, frame: &Frame) -> &[u8] {
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

    /// The number of planes and the packed logits; empty where packing gains less than a twentieth.
    fn pack(&mut self, request: &SampleRequest) -> (u32, Vec<u8>) {
        let logits = &request.logits;
        let planes = if request.dtype() == crate::api::Dtype::F32 { 4 } else { 2 };
        if logits.is_empty() || !logits.len().is_multiple_of(planes) {
            return (0, Vec::new());
        }
        self.shuffled.clear();
        for plane in 0..planes {
            self.shuffled.extend(logits.iter().skip(plane).step_by(planes));
        }
        match zstd::bulk::compress(&self.shuffled, ZSTD_LEVEL) {
            Ok(packed) if packed.len() < logits.len() / 20 * 19 => (planes as u32, packed),
            _ => (0, Vec::new()),
        }
    }
}

/// Reads a frame's body. An error says what is wrong with it.
pub(super) fn decode(body: Bytes) -> Result<Content, String> {
    let frame = Frame::decode(body).map_err(|error| error.to_string())?;
    let record = match frame {
        Frame { session: Some(session), .. } => return Ok(Content::Session(session)),
        Frame { record: Some(record), .. } => record,
        _ => return Ok(Content::Unknown),
    };
    let (logits, packed) = (unpack(&record)?, record.unpacked_bytes > 0);
    let mut request = record.request.ok_or("a record without a request")?;
    if packed {
        request.logits = logits;
    }
    let result = match (record.response, record.error) {
        (Some(response), _) => Ok(response),
        (None, Some(error)) => Err(error),
        (None, None) => return Err("a record without an answer".into()),
    };
    Ok(Content::Entry(Box::new(Entry {
        arrival: Duration::from_micros(record.arrival_us),
        took: Duration::from_micros(record.took_us),
        request,
        result,
    })))
}

/// The checksum of a frame: of its length too, so that a run of zeros is no frame.
pub(super) fn checksum(length: [u8; 4], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length);
    hasher.update(body);
    hasher.finalize()
}

/// More does not gain on logits, and costs.
const ZSTD_LEVEL: i32 = 1;
/// No record says that it unpacks to more.
const UNPACKED_BYTES_MAX: u64 = 1 << 32;

fn unpack(record: &Record) -> Result<Bytes, String> {
    let (bytes, planes) = (record.unpacked_bytes, record.planes as usize);
    if bytes == 0 {
        return Ok(Bytes::new());
    }
    if bytes > UNPACKED_BYTES_MAX || planes == 0 || !bytes.is_multiple_of(planes as u64) {
        return Err(format!("logits of {bytes} bytes in {planes} planes"));
    }
    // A frame says how much it holds, and is not believed: memory grows with what is there.
    let mut shuffled = Vec::new();
    let mut decoder =
        zstd::stream::read::Decoder::new(&record.packed[..]).map_err(|e| e.to_string())?;
    std::io::Read::read_to_end(&mut std::io::Read::take(&mut decoder, bytes + 1), &mut shuffled)
        .map_err(|error| error.to_string())?;
    if shuffled.len() as u64 != bytes {
        return Err(format!("logits of {} bytes, said to be {bytes}", shuffled.len()));
    }
    let mut logits = vec![0; shuffled.len()];
    for (plane, values) in shuffled.chunks_exact(shuffled.len() / planes).enumerate() {
        let places = logits.iter_mut().skip(plane).step_by(planes);
        places.zip(values).for_each(|(place, value)| *place = *value);
    }
    Ok(logits.into())
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Dtype, RowResult, SamplingParams};
    use proptest::prelude::*;

    fn entry(dtype: Dtype, logits: Vec<u8>) -> Entry {
        Entry {
            arrival: Duration::from_micros(1_234_567),
            took: Duration::from_micros(89),
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

    fn roundtrip(entry: &Entry) -> Content {
        let mut encoder = Encoder::default();
        let frame = encoder.entry(entry.clone());
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
            prop_assert_eq!(roundtrip(&entry), Content::Entry(Box::new(entry)));
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(body in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(body.into());
        }
    }

    #[test]
    fn refusals_are_kept() {
        let mut entry = entry(Dtype::F16, vec![0; 20]);
        entry.result = Err(StreamError { code: 8, message: "full".into(), ..Default::default() });
        assert_eq!(roundtrip(&entry), Content::Entry(Box::new(entry)));
    }

    #[test]
    fn real_rows_get_smaller() {
        let row = &crate::assets::rows()[0];
        let frame = Encoder::default().entry(entry(Dtype::F16, row.logits.clone())).len();
        assert!(frame < row.logits.len() * 17 / 20, "{frame} of {}", row.logits.len());
    }

    #[test]
    fn a_record_that_unpacks_to_something_else_is_refused() {
        let mut record = Record {
            request: Some(SampleRequest::default()),
            response: Some(SampleResponse::default()),
            packed: zstd::bulk::compress(&[1; 100], 1).unwrap().into(),
            unpacked_bytes: 100,
            planes: 2,
            ..Default::default()
        };
        let read = |record: &Record| {
            let frame = Frame { session: None, record: Some(record.clone()) };
            decode(frame.encode_to_vec().into())
        };
        assert!(read(&record).is_ok());
        for (bytes, planes) in [(98, 2), (102, 2), (100, 3), (100, 0), (u64::MAX - 1, 2)] {
            (record.unpacked_bytes, record.planes) = (bytes, planes);
            assert!(read(&record).is_err(), "{bytes} bytes, {planes} planes");
        }
    }

    #[test]
    fn zeros_are_no_frame() {
        assert_ne!(checksum([0; 4], &[]), 0);
    }
}
