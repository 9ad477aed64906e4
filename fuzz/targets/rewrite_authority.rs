//! Any bytes of a client's connection, in pieces of any size: through what makes a socket's path an authority that HTTP allows.
//!
//! Nothing may panic; as many bytes come out as went in; what comes out does not depend on the pieces; and, since a
//! second passage finds nothing more to change, what was changed is an authority.

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
