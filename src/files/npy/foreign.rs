//! Files that people give in place of a `.npy`, by how they begin.

/// What such a file is, and what to do about it.
pub struct Foreign {
    /// For people: `is a zip archive ..`.
    pub what: &'static str,
    /// How to come to a file of logits.
    pub way_out: &'static str,
}

const ARCHIVE: Foreign = Foreign {
    what: "is a zip archive, as numpy.savez (.npz) and torch.save write them, and may hold several arrays",
    way_out: "save one of them: numpy.save('logits.npy', numpy.load('FILE.npz')['arr_0'])",
};
const COMPRESSED: Foreign = Foreign {
    what: "is compressed",
    way_out: "unpack it first, as in zcat FILE | logitd sample --logits /dev/stdin",
};
const HDF5: Foreign = Foreign {
    what: "is an HDF5 file, and may hold several arrays",
    way_out: "save one of them with numpy.save",
};
const PICKLE: Foreign = Foreign {
    what: "is a Python pickle, which only Python can read",
    way_out: "save the array: numpy.save('logits.npy', numpy.load('FILE', allow_pickle=True))",
};

/// Beginnings that raw logits do not have but by a chance of one in millions.
const SURE: [(&[u8], &Foreign); 8] = [
    (b"PK\x03\x04", &ARCHIVE),
    (b"PK\x05\x06", &ARCHIVE),
    (b"PK\x07\x08", &ARCHIVE),
    (b"\x1f\x8b\x08", &COMPRESSED),
    (b"\xfd7zXZ\0", &COMPRESSED),
    (b"\x28\xb5\x2f\xfd", &COMPRESSED),
    (b"BZh", &COMPRESSED),
    (b"\x89HDF\r\n\x1a\n", &HDF5),
];
/// Beginnings that raw logits may have too.
const LIKELY: [(&[u8], &Foreign); 5] = [
    (b"\x80\x02", &PICKLE),
    (b"\x80\x03", &PICKLE),
    (b"\x80\x04", &PICKLE),
    (b"\x80\x05", &PICKLE),
    (b"cnumpy", &PICKLE),
];

/// What a file is that begins so, if it is known. Somebody who has said that it is raw is believed where that
/// is possible.
pub fn recognise(begin: &[u8], declared_raw: bool) -> Option<&'static Foreign> {
    let likely = if declared_raw { &[][..] } else { &LIKELY };
    let mut known = SURE.iter().chain(likely);
    known.find(|(magic, _)| begin.starts_with(magic)).map(|(_, foreign)| *foreign)
}
