//! What stands around a request in its message: whether it is the only one, and by which id it goes where there are
//! many.

/// Whether a call has one request or many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arity {
    /// One.
    Unary,
    /// Any number.
    Stream,
}

/// What has been read of a message that is refused on its way.
#[derive(Debug)]
pub struct Passed {
    /// Bytes read.
    pub bytes: usize,
    /// The fields of the outermost message; the last may have been cut off.
    pub fields: Vec<u8>,
    /// Bytes that are still to come of a request that has begun.
    pub skip: Option<usize>,
}

/// Finds the `id` and the `first_row` (fields 1 and 3, varints) of an encoded message, in pieces of any
/// size, keeping no other part of it. What is not a message has those found up to there.
#[derive(Debug, Default)]
pub struct IdScanner {
    /// The id, 0 until it is found.
    pub id: u64,
    /// The first row, if one is found.
    pub first_row: Option<u64>,
    at: At,
    /// The varint being read, and how far.
    value: u64,
    shift: u32,
    fields: usize,
}

/// Fields that are looked at for an id: a message has three. Each costs more than its bytes do.
const SCANNED_FIELDS_MAX: usize = 64;

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum At {
    #[default]
    Tag,
    Varint {
        field: u64,
    },
    Length,
    Skip(u64),
    /// Not a message; the rest is ignored.
    Broken,
}

impl IdScanner {
    /// Whether it has stopped to look because there were too many fields.
    pub fn is_crowded(&self) -> bool {
        self.fields > SCANNED_FIELDS_MAX
    }

    pub fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.at != At::Broken {
            let step = match self.at {
                At::Skip(left) => {
                    let step = left.min(bytes.len() as u64);
                    self.skip(left - step);
                    step as usize
                }
                _ => {
                    self.varint_byte(bytes[0]);
                    1
                }
            };
            bytes = &bytes[step..];
        }
    }

    fn varint_byte(&mut self, byte: u8) {
        self.value |= u64::from(byte & 0x7f) << self.shift;
        self.shift += 7;
        if byte & 0x80 != 0 {
            if self.shift > 63 {
                self.at = At::Broken;
            }
            return;
        }
        let value = std::mem::take(&mut self.value);
        self.shift = 0;
        match self.at {
            At::Tag => self.tag(value),
            At::Varint { field } => {
                match field {
                    1 => self.id = value,
                    3 => self.first_row = Some(value),
                    _ => {}
                }
                self.at = At::Tag;
            }
            At::Length => self.skip(value),
            At::Skip(_) | At::Broken => {}
        }
    }

    /// Goes on after what another reader has passed of the message.
    pub fn resume(&mut self, passed: &Passed) {
        self.read(&passed.fields);
        if let Some(left) = passed.skip {
            self.skip(left as u64);
        }
    }

    fn tag(&mut self, tag: u64) {
        self.fields += 1;
        match tag & 7 {
            _ if self.is_crowded() => self.at = At::Broken,
            0 => self.at = At::Varint { field: tag >> 3 },
            1 => self.skip(8),
            2 => self.at = At::Length,
            5 => self.skip(4),
            _ => self.at = At::Broken,
        }
    }

    fn skip(&mut self, bytes: u64) {
        self.at = if bytes == 0 { At::Tag } else { At::Skip(bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use logitd_proto::{SampleRequest, SampleStreamRequest};
    use prost::Message;

    #[test]
    fn the_id_of_a_message_is_found_in_pieces_of_any_size() {
        let request = SampleRequest { logits: vec![8; 300].into(), ..Default::default() };
        for (id, first_row) in
            [(0, None), (1, Some(0)), (127, Some(u64::MAX)), (128, Some(3)), (u64::MAX, None)]
        {
            let request = Some(request.clone());
            let message = SampleStreamRequest { id, request, first_row }.encode_to_vec();
            for size in [1, 2, 3, 7, message.len()] {
                let mut scanner = IdScanner::default();
                message.chunks(size).for_each(|piece| scanner.read(piece));
                assert_eq!((scanner.id, scanner.first_row), (id, first_row), "in pieces of {size}");
            }
        }
    }

    #[test]
    fn the_id_is_found_after_other_fields_and_not_in_garbage() {
        let mut scanner = IdScanner::default();
        // Field 2, 3 bytes that look like an id; field 3, fixed 32 bits; field 1.
        scanner.read(&[0x12, 3, 8, 5, 8, 0x1d, 8, 9, 8, 9, 8, 77]);
        assert_eq!(scanner.id, 77);
        for garbage in [[0xff; 32], [0x0f; 32], [0x80; 32]] {
            let mut scanner = IdScanner::default();
            scanner.read(&garbage);
            assert_eq!(scanner.id, 0);
        }
    }
}
