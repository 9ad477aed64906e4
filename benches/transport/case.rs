//! What is measured: which bytes, over which route.

use bytes::Bytes;
use logitd_proto::{Dtype, SampleRequest, SamplingParams};
use std::fmt;
use std::sync::OnceLock;

/// Tokens of a row, f16: a row has a quarter of a megabyte.
const VOCAB_SIZE: usize = 128_256;
pub const ROW_BYTES: usize = VOCAB_SIZE * 2;
/// The position that asks the device that does nothing for a checksum of each row.
pub const CHECK_POSITION: u64 = 1;

macro_rules! names {
    ($type:ident { $($variant:ident = $name:literal: $text:literal,)* }) => {
        impl $type {
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$variant),*];

            pub fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self { $(Self::$variant => $name,)* })
            }
        }

        impl std::str::FromStr for $type {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($name => Ok(Self::$variant),)*
                    _ => Err(format!("is {text}; allowed: {}", [$($name),*].join(", "))),
                }
            }
        }
    };
}

/// From the caller's memory to whoever takes the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    Raw,
    H2,
    H2Tonic,
    H2Logitd,
    Tonic,
    Inline,
    Shared,
    Direct,
    Engine,
    InlineCpu,
    SharedCpu,
    DirectCpu,
    EngineCpu,
}

names!(Route {
    Raw = "raw": "raw socket",
    H2 = "h2": "h2 crate alone",
    H2Tonic = "h2-tonic": "h2 client, bare tonic service",
    H2Logitd = "h2-logitd": "h2 client, logitd, no device",
    Tonic = "tonic": "bare tonic, both sides",
    Inline = "inline": "logitd, no device, inline",
    Shared = "shared": "logitd, no device, shared memory",
    Direct = "direct": "logitd, no device, direct calls",
    Engine = "engine": "logitd, no device, in process",
    InlineCpu = "inline-cpu": "logitd, cpu, inline",
    SharedCpu = "shared-cpu": "logitd, cpu, shared memory",
    DirectCpu = "direct-cpu": "logitd, cpu, direct calls",
    EngineCpu = "engine-cpu": "logitd, cpu, in process",
});

impl Route {
    /// Whether rows are sampled; otherwise nobody looks at them.
    pub fn samples(self) -> bool {
        matches!(self, Self::InlineCpu | Self::SharedCpu | Self::DirectCpu | Self::EngineCpu)
    }

    /// Memory is shared over Unix sockets, and what stays in process is listed there too.
    pub fn goes_over(self, socket: Socket) -> bool {
        let in_process = matches!(self, Self::Engine | Self::EngineCpu);
        socket == Socket::Unix || !(in_process || self.shares_memory())
    }

    /// Whether logits lie in memory that both sides have.
    pub fn shares_memory(self) -> bool {
        matches!(self, Self::Shared | Self::SharedCpu | Self::Direct | Self::DirectCpu)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Socket {
    Tcp,
    Unix,
}

names!(Socket {
    Tcp = "tcp": "TCP, loopback",
    Unix = "unix": "Unix socket",
});

/// What one call carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    pub rows: usize,
    /// More than one: a stream of them.
    pub messages: usize,
}

impl Load {
    /// A stream of messages of a megabyte.
    pub const STREAM: Self = Self { rows: 4, messages: 64 };

    pub fn unary(rows: usize) -> Self {
        Self { rows, messages: 1 }
    }

    pub fn bytes(self) -> usize {
        self.rows * ROW_BYTES * self.messages
    }

    /// The rows of one message. Every message of every load starts with the same rows.
    pub fn logits(self) -> Bytes {
        static LOGITS: OnceLock<Bytes> = OnceLock::new();
        const ROWS_MAX: usize = 64;
        assert!(self.rows <= ROWS_MAX, "{} rows; there are {ROWS_MAX}", self.rows);
        LOGITS.get_or_init(|| made_up(ROWS_MAX * VOCAB_SIZE)).slice(..self.rows * ROW_BYTES)
    }

    /// One message as a request. `check` asks the device that does nothing to look after all.
    pub fn request(self, check: bool) -> SampleRequest {
        let params = SamplingParams {
            temperature: Some(0.8),
            top_k: 50,
            top_p: Some(0.95),
            seed: Some(7),
            position: if check { CHECK_POSITION } else { 0 },
            ..Default::default()
        };
        SampleRequest {
            dtype: Dtype::F16.into(),
            vocab_size: VOCAB_SIZE as u32,
            logits: self.logits(),
            params: vec![params],
            ..Default::default()
        }
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mb = (self.rows * ROW_BYTES) as f64 / 1e6;
        match self.messages {
            1 => f.pad(&format!("{mb:.2} MB")),
            messages => f.pad(&format!("{messages} x {mb:.2} MB")),
        }
    }
}

/// One figure's coordinates.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub route: Route,
    pub socket: Socket,
    pub load: Load,
}

/// Logits from -10 to 10, with ties.
fn made_up(count: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        half::f16::from_f32((state % 4001) as f32 / 200.0 - 10.0)
    };
    (0..count).flat_map(|_| next().to_le_bytes()).collect()
}
