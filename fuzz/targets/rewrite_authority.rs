//! Any bytes of a client's connection, in pieces of any size: through what makes a socket's path an authority that HTTP allows.
//!
//! Nothing may panic; what comes out does not depend on the pieces; a second passage finds nothing more to change; and it is
//! what went in, byte for byte, but within the values of `:authority`. Where these are is found by another reader, which has
//! all frames before it; in plain ones `%` and `/` are `-`, and nothing else has changed.

#![no_main]

mod common;

use libfuzzer_sys::fuzz_target;
use logitd::server::authority::Rewriter;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fuzz_target!(init: common::plant("rewrite_authority", seeds()), |data: &[u8]| {
    let Some((&plan, frames)) = data.split_first() else { return };
    let sent = [PREFACE, frames].concat();
    let size = [1, 2, 3, 7, 64][usize::from(plan) % 5];
    let whole = rewritten(&sent, sent.len());
    assert_eq!(whole.len(), sent.len());
    let may_change = authorities(&sent);
    for (at, (&was, &is)) in sent.iter().zip(&whole).enumerate() {
        match may_change[at] {
            Change::None => assert_eq!(is, was, "byte {at} of {sent:02x?}"),
            Change::Plain if was == b'%' || was == b'/' => assert_eq!(is, b'-', "byte {at} of {sent:02x?}"),
            Change::Plain => assert_eq!(is, was, "byte {at} of {sent:02x?}"),
            Change::Huffman => {}
        }
    }
    assert_eq!(rewritten(&sent, size), whole, "in pieces of {size}");
    assert_eq!(rewritten(&whole, size), whole, "a second time");
});

fn rewritten(sent: &[u8], size: usize) -> Vec<u8> {
    let mut rewriter = Rewriter::default();
    let mut out = Vec::new();
    for piece in sent.chunks(size) {
        let held = rewriter.held();
        let mut bytes: Vec<u8> = held.into_iter().chain(piece.iter().copied()).collect();
        let done = rewriter.rewrite(&mut bytes, usize::from(held.is_some()));
        out.extend(&bytes[..done]);
    }
    out.extend(rewriter.held());
    out
}

/// What may happen to a byte.
#[derive(Clone, Copy, PartialEq)]
enum Change {
    None,
    Plain,
    Huffman,
}

/// The bytes of all values of `:authority`, up to where the frames make no sense.
fn authorities(sent: &[u8]) -> Vec<Change> {
    let mut changes = vec![Change::None; sent.len()];
    let mut block = Vec::new();
    let mut open = false;
    let mut at = PREFACE.len();
    loop {
        let Some(head) = sent.get(at..at + 9) else { break };
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let (kind, flags) = (head[3], head[4]);
        at += 9;
        if open != (kind == 9) {
            break;
        }
        if kind != 1 && kind != 9 {
            at += length;
            continue;
        }
        let is_flagged = |flag| kind == 1 && flags & flag != 0 && (flag != 8 || length > 0);
        let mut before = 0;
        let mut after = 0;
        if is_flagged(8) {
            let Some(&padding) = sent.get(at) else { break };
            (before, after) = (1, usize::from(padding));
        }
        if is_flagged(0x20) {
            before += 5;
        }
        if before + after > length {
            break;
        }
        block.extend((at + before..at + length - after).filter(|&at| at < sent.len()));
        at += length;
        open = flags & 4 == 0;
        if !open {
            let whole = Fields { sent, block: &block, next: 0 }.mark(&mut changes);
            block.clear();
            if whole.is_none() || at > sent.len() {
                return changes;
            }
        }
    }
    Fields { sent, block: &block, next: 0 }.mark(&mut changes);
    changes
}

/// The places of a block's bytes, one after another.
struct Fields<'a> {
    sent: &'a [u8],
    block: &'a [usize],
    next: usize,
}

impl Fields<'_> {
    /// Marks values; `None` where the block ends within a field.
    fn mark(mut self, changes: &mut [Change]) -> Option<()> {
        while self.next < self.block.len() {
            let first = self.sent[self.block[self.next]];
            let bits =
                [(0x80, 7), (0x40, 6), (0x20, 5)].into_iter().find(|(bit, _)| first & bit != 0);
            let bits = bits.map_or(4, |(_, bits)| bits);
            let index = self.number(bits)?;
            if bits == 7 || bits == 5 {
                continue;
            }
            let mut is_authority = index == 1 && first & ((1 << bits) - 1) == 1;
            if first & ((1 << bits) - 1) == 0 {
                let (name, huffman, all) = self.text()?;
                all?;
                let name: Vec<u8> = name.iter().map(|&at| self.sent[at]).collect();
                let wanted: &[u8] =
                    if huffman { b"\xb8\x3b\x53\x39\xec\x32\x7d\x7f" } else { b":authority" };
                is_authority = name == wanted;
            }
            let (value, huffman, all) = self.text()?;
            if is_authority {
                let change = if huffman { Change::Huffman } else { Change::Plain };
                value.iter().for_each(|&at| changes[at] = change);
            }
            all?;
        }
        Some(())
    }

    /// A text's places, as far as they are there; whether it is in Huffman's code; and whether that is all of it.
    fn text(&mut self) -> Option<(Vec<usize>, bool, Option<()>)> {
        let huffman = self.sent[*self.block.get(self.next)?] & 0x80 != 0;
        let length = self.number(7)?;
        let there = length.min(self.block.len() - self.next);
        let text = self.block[self.next..self.next + there].to_vec();
        self.next += there;
        Some((text, huffman, (there == length).then_some(())))
    }

    fn number(&mut self, bits: u32) -> Option<usize> {
        let most = (1 << bits) - 1;
        let mut number = usize::from(self.byte()?) & most;
        if number < most {
            return Some(number);
        }
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            number += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn byte(&mut self) -> Option<u8> {
        let at = *self.block.get(self.next)?;
        self.next += 1;
        Some(self.sent[at])
    }
}

/// Settings, then a block in HEADERS, in CONTINUATION, with padding and priority; the authority plain and in Huffman's code.
fn seeds() -> Vec<Vec<u8>> {
    let frame = |kind: u8, flags: u8, payload: &[u8]| {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    };
    let plain = b"\x41\x0a/run/a%2Fb\x83\x86";
    let named = b"\x40\x0a:authority\x05/a/b/";
    // "tmp%2Fa" in Huffman's code, by the place of its name.
    let huffman = b"\x41\x86\x4d\x4a\xea\xc5\x18\x7f";
    let padded = [&[2, 0, 0, 0, 0, 9][..], plain, &[0; 2]].concat();
    let frames = [
        frame(4, 0, &[]),
        frame(1, 4, plain),
        frame(1, 4, named),
        frame(1, 4, huffman),
        frame(1, 4 | 8 | 0x20, &padded),
        [frame(1, 0, &plain[..4]), frame(9, 4, &plain[4..])].concat(),
        frame(0, 1, b"/%/%"),
    ];
    let one = frames.iter().enumerate().map(|(plan, frame)| [&[plan as u8], &frame[..]].concat());
    one.chain([[&[3], &frames.concat()[..]].concat()]).collect()
}
