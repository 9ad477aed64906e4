//! Reads a trace from its start, stepping over what is damaged.

use super::Entry;
use super::format::{Content, HEADER_BYTES, MAGIC, checksum, decode};
use bytes::Bytes;
use logitd_proto::trace::Session;
use rustix::fs::OFlags;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

/// An open trace: an iterator over its entries. Damage is an item too; after a torn tail comes the end.
#[derive(Debug)]
pub struct Reader {
    file: BufReader<File>,
    length: u64,
    /// Where the next frame begins.
    at: u64,
    session: Session,
    first_session_us: Option<u64>,
}

impl Reader {
    /// Opens a trace.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        // Opening a pipe would wait for somebody who writes to it.
        let flags = OFlags::NONBLOCK.bits() as i32;
        let file = File::options().read(true).custom_flags(flags).open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(ReadError::NoFile);
        }
        let length = metadata.len();
        let mut file = BufReader::with_capacity(1 << 20, file);
        let mut magic = [0; MAGIC.len()];
        match file.read_exact(&mut magic) {
            Ok(()) if magic == *MAGIC => {}
            Ok(()) if magic[..15] == MAGIC[..15] => return Err(ReadError::Version(magic[15])),
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error.into()),
            _ => return Err(ReadError::NoTrace),
        }
        let at = MAGIC.len() as u64;
        Ok(Self { file, length, at, session: Session::default(), first_session_us: None })
    }

    /// Bytes of the file, and how many of them have been read.
    pub fn progress(&self) -> (u64, u64) {
        (self.length, self.at)
    }

    /// The session of the entry that was read last.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// How long after the first session of the file the present one began.
    pub fn session_start(&self) -> Duration {
        let first = self.first_session_us.unwrap_or(self.session.started_unix_us);
        Duration::from_micros(self.session.started_unix_us.saturating_sub(first))
    }

    /// Reads up to the end or to the first torn frame, and says where that is: where to append.
    pub(super) fn whole_bytes(mut self) -> Result<u64, ReadError> {
        loop {
            let at = self.at;
            match self.next() {
                None => return Ok(at),
                Some(Err(ReadError::Damage(Damage { torn: true, .. }))) => return Ok(at),
                Some(Err(ReadError::Io(error))) => return Err(error.into()),
                Some(_) => {}
            }
        }
    }

    /// The next frame's body, or `None` at the end.
    fn body(&mut self) -> Result<Option<Bytes>, ReadError> {
        let left = self.length - self.at;
        if left == 0 {
            return Ok(None);
        }
        if left < HEADER_BYTES as u64 {
            return Err(self.torn());
        }
        let mut header = [0; HEADER_BYTES];
        self.file.read_exact(&mut header)?;
        let (length, sum) = header.split_at(4);
        let length: [u8; 4] = length.try_into().expect("four bytes");
        let sum = u32::from_le_bytes(sum.try_into().expect("four bytes"));
        let bytes = u32::from_le_bytes(length);
        if u64::from(bytes) > left - HEADER_BYTES as u64 {
            return Err(self.torn());
        }
        // At most what the file holds.
        let mut body = vec![0; bytes as usize];
        self.file.read_exact(&mut body)?;
        let at = self.at;
        self.at += (HEADER_BYTES + body.len()) as u64;
        if checksum(length, &body) != sum {
            return Err(self.damage(at, "its checksum does not match".into()));
        }
        Ok(Some(body.into()))
    }

    fn torn(&mut self) -> ReadError {
        let (at, bytes) = (self.at, self.length - self.at);
        self.at = self.length;
        let reason = "the file ends within it, as when a server dies while writing".into();
        ReadError::Damage(Damage { at, bytes, reason, torn: true })
    }

    /// A damaged frame that began at `at`. Its length may be a lie, but then the next checksum fails too.
    fn damage(&mut self, at: u64, reason: String) -> ReadError {
        // Whatever follows a frame that is not the last must be readable from here on.
        let _ = self.file.seek(SeekFrom::Start(self.at));
        ReadError::Damage(Damage { at, bytes: self.at - at, reason, torn: self.at == self.length })
    }
}

impl Iterator for Reader {
    type Item = Result<Entry, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let at = self.at;
            let body = match self.body() {
                Ok(body) => body?,
                Err(error) => {
                    if matches!(error, ReadError::Io(_)) {
                        // Said once, and then the end.
                        self.at = self.length;
                    }
                    return Some(Err(error));
                }
            };
            match decode(body) {
                Ok(Content::Entry(entry)) => return Some(Ok(*entry)),
                Ok(Content::Session(session)) => {
                    self.first_session_us.get_or_insert(session.started_unix_us);
                    self.session = session;
                }
                Ok(Content::Unknown) => {}
                Err(reason) => return Some(Err(self.damage(at, reason))),
            }
        }
    }
}

/// A frame that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where it begins, in bytes from the start of the file.
    pub at: u64,
    /// How many bytes are lost with it.
    pub bytes: u64,
    /// What is wrong.
    pub reason: String,
    /// Whether it is the end of the file, as a server leaves it that dies while writing.
    pub torn: bool,
}

/// Why a trace, or a part of it, cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is a pipe, a device or a folder.
    #[error("not a regular file, and a trace can be nothing else")]
    NoFile,
    /// It is something else.
    #[error("not a trace; traces are written by: logitd serve --record FILE")]
    NoTrace,
    /// A format that is not known here.
    #[error("a trace of format {0}, and this program knows format {known}; use the logitd that wrote it", known = MAGIC[15])]
    Version(u8),
    /// A frame is lost; those after it can still be read.
    #[error("the frame at byte {} ({} bytes) is lost: {}", .0.at, .0.bytes, .0.reason)]
    Damage(Damage),
}
