//! Makes the path of a Unix socket an authority that HTTP allows, in the bytes of HTTP/2, before they are decoded.
//!
//! A gRPC client on a Unix socket may send the socket's path as its `:authority`, percent-encoded: gRPC's C core does
//! (Python, C++, Ruby, PHP), and those of Java and Swift. The HTTP/2 library parses authorities as RFC 3986 has them,
//! where a host has no `%` and no `/`, and resets the call before anybody sees it. Nobody here looks at an authority,
//! so its `%` and `/` become `-`.
//!
//! The bytes of a header block cannot just be changed: HPACK keeps a table of earlier headers on both sides, by the
//! size of their names and values. But `-` is as long as `%` and `/`: one byte where a value is plain, and six bits
//! where it is in Huffman's code. So no length changes, neither on the wire nor in the table, and a header that is
//! later named by its place in the table is the changed one. All that must be known is where the values of
//! `:authority` are; that is what [`Rewriter`] follows the frames for.
//!
//! ```text
//! connection:  preface, frames
//! frame:       length (3), type, flags, stream (4), payload; HEADERS and CONTINUATION hold a block's pieces
//! block:       fields: by index | with a name by index or in full, and a value in full | a change of the table's size
//! value:       plain or Huffman's code (1 bit), length (7 bits and more), bytes
//! ```
//!
//! A symbol of Huffman's code that begins in one frame and ends in the next stays as it is where its beginning would
//! have to change: no client cuts so short a block in two. What cannot be followed is passed on unchanged, from there to the end of the connection: the library will say
//! what is wrong with it.

/// What an authority must not have, and what it gets instead.
const WRONG: [u8; 2] = [b'%', b'/'];
const RIGHT: u8 = b'-';
/// The same in Huffman's code, each of six bits.
const HUFFMAN_WRONG: [u32; 2] = [0b01_0101, 0b01_1000];
const HUFFMAN_RIGHT: u32 = 0b01_0110;

const PREFACE_BYTES: usize = 24;
const FRAME_HEAD_BYTES: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
const PRIORITY_BYTES: usize = 5;

/// The name, in full; and its place in the table that every connection begins with.
const NAME: &[u8] = b":authority";
const HUFFMAN_NAME: &[u8] = &[0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f];
const NAME_INDEX: usize = 1;

/// Follows the bytes that one client sends.
#[derive(Debug)]
pub struct Rewriter {
    at: At,
    /// What the frame at hand still has beside its piece of a block.
    padding: usize,
    /// Whether the block goes on in another frame.
    block_goes_on: bool,
    block: Block,
    /// The last byte, which may still change.
    held: Option<u8>,
}

/// Where in the frames the next byte is.
#[derive(Debug)]
enum At {
    /// So many bytes are nothing to look at.
    Skip(usize),
    Head {
        bytes: [u8; FRAME_HEAD_BYTES],
        have: usize,
    },
    /// The length of the padding.
    PadLength {
        left: usize,
        priority: bool,
    },
    Priority {
        skip: usize,
        left: usize,
    },
    Piece {
        left: usize,
    },
    /// It cannot be followed.
    Lost,
}

/// Where in a header block the next byte is.
#[derive(Debug)]
enum Block {
    Field,
    /// A number goes on, which is of no interest.
    Number(Number),
    /// The place of a name.
    NameIndex(Number),
    NameHead,
    NameLength {
        huffman: bool,
        length: Number,
    },
    Name {
        huffman: bool,
        left: usize,
        name: [u8; NAME.len()],
        have: usize,
    },
    ValueHead {
        authority: bool,
    },
    ValueLength {
        authority: bool,
        huffman: bool,
        length: Number,
    },
    Value {
        left: usize,
    },
    Authority {
        left: usize,
    },
    HuffmanAuthority {
        left: usize,
        code: Code,
    },
}

/// A number that does not fit its first byte.
#[derive(Clone, Copy, Debug)]
struct Number {
    value: usize,
    shift: u32,
}

/// The bits of a symbol of Huffman's code that is not complete.
#[derive(Clone, Copy, Debug, Default)]
struct Code {
    bits: u32,
    have: u32,
    /// It begins in another frame.
    out_of_reach: bool,
}

impl Default for Rewriter {
    fn default() -> Self {
        let at = At::Skip(PREFACE_BYTES);
        Self { at, padding: 0, block_goes_on: false, block: Block::Field, held: None }
    }
}

impl Rewriter {
    /// The byte that must come again at the front of the next ones, if there is one.
    pub fn held(&mut self) -> Option<u8> {
        self.held.take()
    }

    /// Takes it back, since there were no next ones.
    pub fn hold(&mut self, byte: u8) {
        self.held = Some(byte);
    }

    /// Whether there is no such byte.
    pub fn holds_nothing(&self) -> bool {
        self.held.is_none()
    }

    /// Rewrites `bytes` from `from` on: what is before them was held. Says how many of them are done with: all, or
    /// all but the last, which is held.
    pub fn rewrite(&mut self, bytes: &mut [u8], from: usize) -> usize {
        let done = self.rewrite_all(bytes, from);
        self.held = bytes.get(done).copied();
        done
    }

    fn rewrite_all(&mut self, bytes: &mut [u8], from: usize) -> usize {
        let mut next = from;
        while next < bytes.len() {
            match &mut self.at {
                At::Lost => return bytes.len(),
                At::Skip(left) => {
                    let step = (*left).min(bytes.len() - next);
                    next += step;
                    *left -= step;
                    if *left == 0 {
                        self.at = At::Head { bytes: [0; FRAME_HEAD_BYTES], have: 0 };
                    }
                }
                At::Head { bytes: head, have } => {
                    head[*have] = bytes[next];
                    *have += 1;
                    next += 1;
                    if *have == FRAME_HEAD_BYTES {
                        let head = *head;
                        self.frame(head);
                    }
                }
                At::PadLength { left, priority } => {
                    let (left, priority) = (*left, *priority);
                    self.padding = bytes[next].into();
                    next += 1;
                    self.after_padding(left, priority);
                }
                At::Priority { skip, left } => {
                    *skip -= 1;
                    next += 1;
                    if *skip == 0 {
                        let left = *left;
                        self.piece(left);
                    }
                }
                At::Piece { left } => {
                    *left -= 1;
                    let ended = *left == 0;
                    if !self.block.read(bytes, next) {
                        self.at = At::Lost;
                        return bytes.len();
                    }
                    next += 1;
                    if ended {
                        self.end_piece();
                    }
                }
            }
        }
        match (&self.at, &self.block) {
            // The symbol that is not complete begins in the last byte.
            (At::Piece { .. }, Block::HuffmanAuthority { code: Code { have: 1.., .. }, .. }) => {
                next - usize::from(next > 0)
            }
            _ => next,
        }
    }

    fn frame(&mut self, head: [u8; FRAME_HEAD_BYTES]) {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let (kind, flags) = (head[3], head[4]);
        self.padding = 0;
        match kind {
            HEADERS | CONTINUATION => {
                // Anything else between the pieces of a block ends the connection.
                if (kind == CONTINUATION) != self.block_goes_on {
                    self.at = At::Lost;
                    return;
                }
                self.block_goes_on = flags & END_HEADERS == 0;
                let has = |flag| kind == HEADERS && flags & flag != 0;
                if has(PADDED) && length > 0 {
                    self.at = At::PadLength { left: length - 1, priority: has(PRIORITY) };
                } else {
                    self.after_padding(length, has(PRIORITY));
                }
            }
            _ if self.block_goes_on => self.at = At::Lost,
            _ => self.skip(length),
        }
    }

    fn after_padding(&mut self, length: usize, priority: bool) {
        let before = if priority { PRIORITY_BYTES } else { 0 };
        match length.checked_sub(before + self.padding) {
            None => self.at = At::Lost,
            Some(left) if priority => self.at = At::Priority { skip: before, left },
            Some(left) => self.piece(left),
        }
    }

    fn piece(&mut self, left: usize) {
        if left == 0 {
            self.end_piece();
        } else {
            self.at = At::Piece { left };
        }
    }

    fn end_piece(&mut self) {
        if !self.block_goes_on && !matches!(self.block, Block::Field) {
            self.at = At::Lost;
            return;
        }
        if let Block::HuffmanAuthority { code, .. } = &mut self.block {
            code.out_of_reach = code.have > 0;
        }
        self.skip(self.padding);
    }

    fn skip(&mut self, bytes: usize) {
        self.at = match bytes {
            0 => At::Head { bytes: [0; FRAME_HEAD_BYTES], have: 0 },
            _ => At::Skip(bytes),
        };
    }
}

impl Block {
    /// Reads the byte at `at`, and changes it and the one before if they are part of a wrong authority. False if it
    /// makes no sense.
    fn read(&mut self, bytes: &mut [u8], at: usize) -> bool {
        let byte = bytes[at];
        match self {
            Self::Field => *self = Self::field(byte),
            Self::Number(number) => match number.read(byte) {
                Some(true) => *self = Self::Field,
                Some(false) => {}
                None => return false,
            },
            Self::NameIndex(index) => match index.read(byte) {
                Some(true) => *self = Self::ValueHead { authority: false },
                Some(false) => {}
                None => return false,
            },
            Self::NameHead => {
                let huffman = byte & 0x80 != 0;
                *self = match Number::first(byte, 7) {
                    Ok(length) => Self::name(huffman, length),
                    Err(length) => Self::NameLength { huffman, length },
                };
            }
            Self::NameLength { huffman, length } => match length.read(byte) {
                Some(true) => *self = Self::name(*huffman, length.value),
                Some(false) => {}
                None => return false,
            },
            Self::Name { huffman, left, name, have } => {
                if let Some(place) = name.get_mut(*have) {
                    *place = byte;
                }
                *have += 1;
                *left -= 1;
                if *left == 0 {
                    let wanted = if *huffman { HUFFMAN_NAME } else { NAME };
                    let authority = name.get(..*have) == Some(wanted);
                    *self = Self::ValueHead { authority };
                }
            }
            Self::ValueHead { authority } => {
                let (authority, huffman) = (*authority, byte & 0x80 != 0);
                *self = match Number::first(byte, 7) {
                    Ok(length) => Self::value(authority, huffman, length),
                    Err(length) => Self::ValueLength { authority, huffman, length },
                };
            }
            Self::ValueLength { authority, huffman, length } => match length.read(byte) {
                Some(true) => *self = Self::value(*authority, *huffman, length.value),
                Some(false) => {}
                None => return false,
            },
            Self::Value { left } => {
                *left -= 1;
                if *left == 0 {
                    *self = Self::Field;
                }
            }
            Self::Authority { left } => {
                if WRONG.contains(&byte) {
                    bytes[at] = RIGHT;
                }
                *left -= 1;
                if *left == 0 {
                    *self = Self::Field;
                }
            }
            Self::HuffmanAuthority { left, code } => {
                code.read(bytes, at);
                *left -= 1;
                if *left == 0 {
                    *self = Self::Field;
                }
            }
        }
        true
    }

    /// A field begins.
    fn field(byte: u8) -> Self {
        let named = |bits| match Number::first(byte, bits) {
            Ok(0) => Self::NameHead,
            Ok(index) => Self::ValueHead { authority: index == NAME_INDEX },
            Err(index) => Self::NameIndex(index),
        };
        let number = |bits| match Number::first(byte, bits) {
            Ok(_) => Self::Field,
            Err(number) => Self::Number(number),
        };
        match byte {
            0x80.. => number(7),
            0x40.. => named(6),
            0x20.. => number(5),
            _ => named(4),
        }
    }

    fn name(huffman: bool, length: usize) -> Self {
        match length {
            0 => Self::ValueHead { authority: false },
            left => Self::Name { huffman, left, name: [0; NAME.len()], have: 0 },
        }
    }

    fn value(authority: bool, huffman: bool, length: usize) -> Self {
        match (length, authority, huffman) {
            (0, ..) => Self::Field,
            (left, false, _) => Self::Value { left },
            (left, true, false) => Self::Authority { left },
            (left, true, true) => Self::HuffmanAuthority { left, code: Code::default() },
        }
    }
}

impl Number {
    /// The number in the last `bits` of a byte, or its begin.
    fn first(byte: u8, bits: u32) -> Result<usize, Self> {
        let most = (1 << bits) - 1;
        match usize::from(byte) & most {
            value if value < most => Ok(value),
            value => Err(Self { value, shift: 0 }),
        }
    }

    /// Whether it is complete with this byte; `None` where it is longer than any that is allowed.
    fn read(&mut self, byte: u8) -> Option<bool> {
        if self.shift > 21 {
            return None;
        }
        self.value += usize::from(byte & 0x7f) << self.shift;
        self.shift += 7;
        Some(byte & 0x80 == 0)
    }
}

/// How many symbols of Huffman's code (RFC 7541, appendix B) have each length. It is canonical: the codes of one
/// length are the numbers that follow the last code of the length before.
const SYMBOLS: [(u32, u32); 21] = [
    (5, 10),
    (6, 26),
    (7, 32),
    (8, 6),
    (10, 5),
    (11, 3),
    (12, 2),
    (13, 6),
    (14, 2),
    (15, 3),
    (19, 3),
    (20, 8),
    (21, 13),
    (22, 26),
    (23, 29),
    (24, 12),
    (25, 4),
    (26, 15),
    (27, 19),
    (28, 29),
    (30, 4),
];

impl Code {
    /// Reads the eight bits at `at`.
    fn read(&mut self, bytes: &mut [u8], at: usize) {
        for bit in (0..8).rev() {
            self.bits = self.bits << 1 | u32::from(bytes[at] >> bit & 1);
            self.have += 1;
            if !self.is_complete() {
                continue;
            }
            if self.have == 6 && HUFFMAN_WRONG.contains(&self.bits) {
                // It ends `bit` bits before the end of this byte, and may begin in the one before.
                let change = (self.bits ^ HUFFMAN_RIGHT) << bit;
                if change <= 0xff {
                    bytes[at] ^= change as u8;
                } else if !self.out_of_reach {
                    bytes[at] ^= change as u8;
                    bytes[at - 1] ^= (change >> 8) as u8;
                }
            }
            *self = Self::default();
        }
    }

    fn is_complete(&self) -> bool {
        let (mut first, mut length_before) = (0, 0);
        for (length, count) in SYMBOLS {
            first <<= length - length_before;
            if length == self.have {
                return self.bits < first + count;
            }
            first += count;
            length_before = length;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_complete() {
        let share = |(length, count): (u32, u32)| u64::from(count) << (32 - length);
        assert_eq!(SYMBOLS.into_iter().map(share).sum::<u64>(), 1 << 32);
        assert_eq!(SYMBOLS.iter().map(|(_, count)| count).sum::<u32>(), 257);
    }

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// What comes out, if it comes in pieces of this size.
    fn rewritten(bytes: &[u8], size: usize) -> Vec<u8> {
        let mut rewriter = Rewriter::default();
        let mut out = Vec::new();
        for piece in bytes.chunks(size) {
            let held = rewriter.held();
            let mut bytes: Vec<u8> = held.into_iter().chain(piece.iter().copied()).collect();
            let done = rewriter.rewrite(&mut bytes, usize::from(held.is_some()));
            out.extend(&bytes[..done]);
        }
        out.extend(rewriter.held());
        out
    }

    /// A connection whose only block is this one, in frames of all kinds.
    fn connection(block: &[u8], cut: usize) -> Vec<u8> {
        let (first, second) = block.split_at(cut);
        let padded = [&[3], &[0; 5][..], first, &[b'%'; 3]].concat();
        [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            frame(4, 0, b"%%%%%%"),
            frame(HEADERS, PADDED | PRIORITY, &padded),
            frame(CONTINUATION, END_HEADERS, second),
            frame(0, 1, b"\x41\x05/%/%/"),
        ]
        .concat()
    }

    #[track_caller]
    fn becomes(block: &[u8], expected: &[u8]) {
        becomes_cut(block, expected, 0..=block.len());
    }

    #[track_caller]
    fn becomes_cut(block: &[u8], expected: &[u8], cuts: impl IntoIterator<Item = usize>) {
        for cut in cuts {
            let (sent, wanted) = (connection(block, cut), connection(expected, cut));
            for size in [1, 2, 3, 7, sent.len()] {
                assert_eq!(rewritten(&sent, size), wanted, "cut at {cut}, in pieces of {size}");
            }
        }
    }

    #[test]
    fn paths_become_authorities_wherever_they_are_named() {
        // By the name's place in the static table, with and without being kept; and by its name in full, as gRPC's
        // C core sends it.
        for name in [&b"\x41"[..], b"\x01", b"\x11", b"\x40\x0a:authority"] {
            let field = |value: &[u8]| [name, &[value.len() as u8], value].concat();
            becomes(&field(b"tmp%2Flogitd.sock"), &field(b"tmp-2Flogitd.sock"));
            becomes(&field(b"/run/logitd.sock"), &field(b"-run-logitd.sock"));
            becomes(&field(b"localhost:50051"), &field(b"localhost:50051"));
        }
        // Other fields are as they were: by index, with numbers of several bytes, after a change of the table's size.
        let others =
            [&b"\x3f\xe1\x1f\x83\xff\x05\x44\x06/a/b%c\x40\x02x%\x03%/%\x7f\x05\x02/%"[..]];
        let path = [others[0], b"\x41\x03a/b"].concat();
        becomes(&path, &[others[0], b"\x41\x03a-b"].concat());
        // A value whose length takes two bytes.
        let long = |byte: u8| [&b"\x41\x7f\x49"[..], &[byte; 200]].concat();
        becomes(&long(b'/'), &long(b'-'));
    }

    /// Puts text of the characters that a path has into Huffman's code.
    fn huffman(text: &str) -> Vec<u8> {
        const FIVE: &str = "012aceiost";
        const SIX: &str = " %-./3456789=A_bdfghlmnpru";
        const SEVEN: &str = ":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz";
        let (mut bits, mut have, mut bytes) = (0u64, 0, Vec::new());
        let code = |c| {
            let place = |all: &str, first| all.find(c).map(|at| first + at as u64);
            let found = [(5, place(FIVE, 0)), (6, place(SIX, 0x14)), (7, place(SEVEN, 0x5c))];
            found.into_iter().find_map(|(length, code)| Some((length, code?))).unwrap()
        };
        // The end is filled with ones.
        let ends = std::iter::once((7, 0x7f));
        for (length, code) in text.chars().map(code).chain(ends) {
            bits = bits << length | code;
            have += length;
            while have >= 8 {
                have -= 8;
                bytes.push((bits >> have) as u8);
                bits &= (1 << have) - 1;
            }
        }
        bytes
    }

    #[test]
    fn paths_in_huffmans_code_become_authorities_at_every_place_in_a_byte() {
        let known = [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        assert_eq!(huffman("www.example.com"), known, "RFC 7541, C.4.1");
        assert_eq!(huffman(":authority"), HUFFMAN_NAME);
        for name in [b"\x41".to_vec(), [b"\x40\x88", HUFFMAN_NAME].concat()] {
            for start in ["", "a", "ab", "aab", "aaab", "aaaab", "qab", "qqab"] {
                let field = |text: &str| {
                    let value = huffman(&format!("{start}{text}"));
                    [&name[..], &[0x80 | value.len() as u8], &value].concat()
                };
                for (text, expected) in [
                    ("tmp%2Flogitd/a.sock", "tmp-2Flogitd-a.sock"),
                    ("%/%", "---"),
                    ("localhost:50051", "localhost:50051"),
                ] {
                    let (sent, expected) = (field(text), field(expected));
                    becomes_cut(&sent, &expected, [0, 1, sent.len()]);
                    // Cut in two within a symbol it may stay as it is, but nothing else changes.
                    for cut in 0..sent.len() {
                        let out = rewritten(&connection(&sent, cut), 3);
                        let (one, other) = (connection(&sent, cut), connection(&expected, cut));
                        let mut bytes = one.iter().zip(&other).zip(&out);
                        let kept = bytes.all(|((a, b), byte)| a != b || byte == a);
                        assert!(kept && out.len() == one.len(), "{text} cut at {cut}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_followed_is_passed_on() {
        let mut state = 1u64;
        for _ in 0..2000 {
            let bytes: Vec<u8> = (0..120)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (state >> 33) as u8
                })
                .collect();
            for size in [1, 5, 120] {
                let sent = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &bytes].concat();
                let mut block = frame(HEADERS, END_HEADERS, &bytes);
                block.splice(0..0, sent[..PREFACE_BYTES].iter().copied());
                for sent in [sent, block] {
                    assert_eq!(rewritten(&sent, size).len(), sent.len());
                }
            }
        }
        // A block that ends within a field.
        let torn = frame(HEADERS, END_HEADERS, b"\x41\x09a/b");
        let after = frame(HEADERS, END_HEADERS, b"\x41\x03a/b");
        let sent = [&[0; PREFACE_BYTES][..], &torn, &after].concat();
        assert!(rewritten(&sent, 4).ends_with(&after), "nothing is known any more");
        // A field by an index that is longer than any number may be.
        let long = b"\xff\xff\xff\xff\xff\xff\x16\x41\x03a/b";
        let sent = [&[0; PREFACE_BYTES][..], &frame(HEADERS, END_HEADERS, long)].concat();
        assert_eq!(rewritten(&sent, 4), sent);
    }
}
