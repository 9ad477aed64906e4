//! Logits as a trace stores them: in planes of bytes, each packed where that gains.
//!
//! The first plane has the first byte of every logit, the next has the second, and so on. A row of real
//! logits is noise in the planes of its lower bytes. In that of its sign and exponent few values are
//! frequent, and nothing is repeated; so a plane is packed by how frequent its values are (DEFLATE, and
//! of that its Huffman codes and its runs only), and one whose frequencies promise nothing is left as it is.

use bytes::Bytes;
use logitd_proto::Dtype;
use logitd_proto::trace::BytePlane;
use zlib_rs::{DeflateConfig, InflateConfig, ReturnCode, Strategy};

/// What is not a twentieth smaller is stored as it is.
const GAIN: usize = 20;
/// No record says that it unpacks to more.
const UNPACKED_BYTES_MAX: u64 = 1 << 32;
/// A byte of a DEFLATE stream unpacks to no more (and 1,032 is what zlib's authors prove).
const DEFLATE_RATIO_MAX: u64 = 1032;
/// Levels decide how hard repetitions are looked for; none are.
const LEVEL: i32 = 1;
/// No wrapper, and the usual window.
const WINDOW_BITS: i32 = -15;

/// Logits in planes; none where no plane gains.
pub(super) fn pack(dtype: Dtype, logits: &[u8]) -> Vec<BytePlane> {
    let planes = match dtype {
        Dtype::F32 => split::<4>(logits),
        _ => split::<2>(logits),
    };
    let planes: Vec<BytePlane> = planes.into_iter().map(plane).collect();
    if planes.iter().any(|plane| plane.deflated) { planes } else { Vec::new() }
}

/// The logits of these planes, which say that they are so many bytes and are not believed.
pub(super) fn unpack(planes: &[BytePlane], bytes: u64) -> Result<Bytes, String> {
    let count = planes.len() as u64;
    if bytes > UNPACKED_BYTES_MAX || count == 0 || !bytes.is_multiple_of(count) {
        return Err(format!("logits of {bytes} bytes in {count} planes"));
    }
    let planes = planes.iter().map(|plane| bytes_of(plane, bytes / count));
    let planes = planes.collect::<Result<Vec<Bytes>, String>>()?;
    let mut logits = vec![0; bytes as usize];
    for (index, plane) in planes.iter().enumerate() {
        let places = logits.iter_mut().skip(index).step_by(planes.len());
        places.zip(plane).for_each(|(place, value)| *place = *value);
    }
    Ok(logits.into())
}

/// The planes of numbers of `N` bytes; none where something is left over.
fn split<const N: usize>(logits: &[u8]) -> Vec<Vec<u8>> {
    match logits.as_chunks::<N>() {
        (values, []) => (0..N).map(|i| values.iter().map(|value| value[i]).collect()).collect(),
        _ => Vec::new(),
    }
}

/// These bytes, packed where that gains.
fn plane(bytes: Vec<u8>) -> BytePlane {
    match deflate(&bytes) {
        Some(stream) => BytePlane { bytes: stream.into(), deflated: true },
        None => BytePlane { bytes: bytes.into(), deflated: false },
    }
}

/// The bytes of a plane, of which there must be so many.
fn bytes_of(plane: &BytePlane, length: u64) -> Result<Bytes, String> {
    let stored = plane.bytes.len() as u64;
    let possible =
        if plane.deflated { length / DEFLATE_RATIO_MAX <= stored } else { length == stored };
    if !possible {
        return Err(format!("a plane of {length} bytes in {stored}"));
    }
    if !plane.deflated {
        return Ok(plane.bytes.clone());
    }
    let mut bytes = vec![0; length as usize];
    let config = InflateConfig { window_bits: WINDOW_BITS };
    match zlib_rs::decompress_slice(&mut bytes, &plane.bytes, config) {
        (whole, ReturnCode::Ok) if whole.len() as u64 == length => Ok(bytes.into()),
        (part, code) => Err(format!("a plane of {length} bytes has {} ({code:?})", part.len())),
    }
}

/// The stream, where it is enough smaller.
fn deflate(bytes: &[u8]) -> Option<Vec<u8>> {
    let enough = bytes.len() - bytes.len().div_ceil(GAIN);
    if frequency_coded_bytes(bytes) >= enough as f64 {
        return None;
    }
    let mut stream = vec![0; enough];
    let config = DeflateConfig {
        level: LEVEL,
        window_bits: WINDOW_BITS,
        strategy: Strategy::Rle,
        ..DeflateConfig::default()
    };
    let (stored, code) = zlib_rs::compress_slice(&mut stream, bytes, config);
    let length = stored.len();
    stream.truncate(length);
    // It fails where the stream has no room, which is where it does not gain.
    (code == ReturnCode::Ok).then_some(stream)
}

/// What is left of these bytes when each value takes as many bits as its frequency is worth: their entropy.
fn frequency_coded_bytes(bytes: &[u8]) -> f64 {
    // Several tables, so that equal bytes one after the other do not wait for each other.
    let mut tables = [[0u32; 256]; 4];
    for (i, &byte) in bytes.iter().enumerate() {
        tables[i % 4][usize::from(byte)] += 1;
    }
    let count = |value: usize| tables.iter().map(|table| f64::from(table[value])).sum::<f64>();
    let bits = |n: f64| if n > 0.0 { n * (bytes.len() as f64 / n).log2() } else { 0.0 };
    (0..256).map(|value| bits(count(value))).sum::<f64>() / 8.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::generate::Random;

    /// Stored bytes for each byte of logits.
    fn ratio(dtype: Dtype, logits: Vec<u8>) -> f64 {
        let planes = pack(dtype, &logits);
        let bytes = logits.len();
        if !planes.is_empty() {
            assert_eq!(unpack(&planes, bytes as u64), Ok(Bytes::from(logits)));
        }
        let stored: usize = planes.iter().map(|plane| plane.bytes.len()).sum();
        if planes.is_empty() { 1.0 } else { stored as f64 / bytes as f64 }
    }

    #[test]
    fn real_rows_are_a_quarter_smaller_and_masked_ones_vanish() {
        let rows: Vec<&[u8]> =
            crate::files::assets::rows().iter().map(|row| &row.logits[..]).collect();
        let logits = rows.concat();
        assert!(ratio(Dtype::F16, logits.clone()) < 0.78);
        let (values, _) = logits.as_chunks();
        let wide = values.iter().map(|&value| half::f16::from_le_bytes(value).to_f32());
        assert!(ratio(Dtype::F32, wide.flat_map(f32::to_le_bytes).collect()) < 0.5);
        let infinity = half::f16::NEG_INFINITY.to_le_bytes();
        let masked =
            values.iter().enumerate().flat_map(|(i, &x)| if i % 100 == 0 { x } else { infinity });
        assert!(ratio(Dtype::F16, masked.collect()) < 0.1);
    }

    #[test]
    fn noise_is_left_as_it_is() {
        let mut random = Random::new(1, 2);
        let mut noise = |bytes| (0..bytes).map(|_| random.bits() as u8).collect::<Vec<u8>>();
        for bytes in [0, 2, 3, 1000, 100_000] {
            assert_eq!(pack(Dtype::F16, &noise(bytes)), [], "{bytes} bytes");
        }
    }

    #[test]
    fn planes_that_hold_something_else_are_refused() {
        let planes = pack(Dtype::F16, &[1, 2].repeat(500));
        assert_eq!(planes.len(), 2);
        assert!(unpack(&planes, 1000).is_ok());
        for bytes in [0, 998, 999, 1002, 1 << 31, u64::MAX - 1] {
            assert!(unpack(&planes, bytes).is_err(), "{bytes} bytes");
        }
        assert!(unpack(&[], 0).is_err());
        let mut spoilt = planes.clone();
        spoilt[1].deflated = false;
        assert!(unpack(&spoilt, 1000).is_err());
        spoilt[1] = BytePlane { bytes: vec![0xff; 40].into(), deflated: true };
        assert!(unpack(&spoilt, 1000).is_err());
    }
}
