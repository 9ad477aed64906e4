//! HTTP/2 by hand: what no library would send.

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A connection.
pub struct Frames {
    pub socket: TcpStream,
    received: BytesMut,
}

#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Bytes,
}

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const ACK: u8 = 1;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u32;
    let head = [&length.to_be_bytes()[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}

/// The headers of a call, each a literal that no table keeps.
pub fn headers(stream: u32, method: &str) -> Vec<u8> {
    let path = format!("/logitd.v1.SamplerService/{method}");
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", &path),
        (":authority", "logitd"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let text = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
    let field = |(name, value): (&str, &str)| [vec![0], text(name), text(value)].concat();
    frame(HEADERS, END_HEADERS, stream, &fields.map(field).concat())
}

impl Frames {
    pub async fn connect(address: &str) -> Self {
        Self::try_connect(address, 65_535).await.expect("connected")
    }

    /// The server may send so many bytes that are not read, a stream.
    pub async fn try_connect(address: &str, window: u32) -> std::io::Result<Self> {
        let mut socket = TcpStream::connect(address).await?;
        let initial_window_size = [&[0, 4], &window.to_be_bytes()[..]].concat();
        let settings = frame(SETTINGS, 0, 0, &initial_window_size);
        socket.write_all(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &*settings].concat()).await?;
        Ok(Self { socket, received: BytesMut::new() })
    }

    /// The next frame; `None` at the end of the connection.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(head) = self.received.first_chunk::<9>().copied() {
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                if self.received.len() >= 9 + length {
                    let payload = self.received.split_to(9 + length).freeze().slice(9..);
                    let stream = u32::from_be_bytes(head[5..].try_into().unwrap());
                    return Some(Frame { kind: head[3], flags: head[4], stream, payload });
                }
            }
            if !matches!(self.socket.read_buf(&mut self.received).await, Ok(1..)) {
                return None;
            }
        }
    }
}
