//! What the baselines answer: how much came, and its checksum where that was asked for.

/// Twelve bytes on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub bytes: u64,
    /// CRC-32; 0 where nobody asked.
    pub checksum: u32,
}

impl Answer {
    pub const BYTES: usize = 12;

    /// What it must be where these bytes came so many times.
    pub fn of(bytes: &[u8], times: usize) -> Self {
        let mut receipt = Receipt::new(true);
        (0..times).for_each(|_| receipt.add(bytes));
        receipt.answer()
    }

    pub fn encode(self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[..8].copy_from_slice(&self.bytes.to_le_bytes());
        out[8..].copy_from_slice(&self.checksum.to_le_bytes());
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let bytes: &[u8; Self::BYTES] =
            bytes.try_into().map_err(|_| format!("an answer of {} bytes", bytes.len()))?;
        let (count, checksum) = bytes.split_at(8);
        Ok(Self {
            bytes: u64::from_le_bytes(count.try_into().expect("eight bytes")),
            checksum: u32::from_le_bytes(checksum.try_into().expect("four bytes")),
        })
    }
}

/// Gathers an answer, piece by piece.
pub struct Receipt {
    bytes: u64,
    checksum: Option<crc32fast::Hasher>,
}

impl Receipt {
    pub fn new(check: bool) -> Self {
        Self { bytes: 0, checksum: check.then(crc32fast::Hasher::new) }
    }

    pub fn add(&mut self, piece: &[u8]) {
        self.bytes += piece.len() as u64;
        if let Some(checksum) = &mut self.checksum {
            checksum.update(piece);
        }
    }

    pub fn answer(self) -> Answer {
        let checksum = self.checksum.map_or(0, crc32fast::Hasher::finalize);
        Answer { bytes: self.bytes, checksum }
    }
}
