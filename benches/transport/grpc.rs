//! The caller's half of HTTP/2 by hand: a message is sent from where its rows lie, without a copy.

use super::case::Load;
use bytes::{BufMut, Bytes, BytesMut};
use h2::SendStream;
use h2::client::SendRequest;
use logitd_proto::{SampleRequest, SampleResponse, SampleStreamResponse, sample_stream_response};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use std::error::Error;
use std::future::poll_fn;
use tokio::io::{AsyncRead, AsyncWrite};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Compression flag and length.
const HEADER_BYTES: usize = 5;
/// As hyper has it.
const SEND_BUFFER_BYTES: usize = 1 << 20;

/// An HTTP/2 connection.
pub struct Http2(SendRequest<Bytes>);

impl Http2 {
    pub async fn new(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Self> {
        let mut builder = h2::client::Builder::new();
        builder.max_send_buffer_size(SEND_BUFFER_BYTES);
        let (requests, connection) = builder.handshake(io).await?;
        tokio::spawn(connection);
        Ok(Self(requests))
    }

    /// Sends a body in these parts and reads the answer's.
    pub async fn call(&mut self, path: &str, check: bool, parts: Vec<Bytes>) -> Result<Bytes> {
        let request = http::Request::post(format!("http://localhost{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("x-check", u16::from(check))
            .body(())?;
        let mut requests = self.0.clone().ready().await?;
        let (response, body) = requests.send_request(request, false)?;
        let receive = async {
            let response = response.await?;
            let status = response.headers().get("grpc-status").cloned();
            let mut body = response.into_body();
            let mut received = BytesMut::new();
            while let Some(piece) = body.data().await {
                let piece = piece?;
                body.flow_control().release_capacity(piece.len())?;
                received.extend_from_slice(&piece);
            }
            match status {
                Some(status) if status != "0" => Err(format!("status {status:?}").into()),
                _ => Ok(received.freeze()),
            }
        };
        let ((), received) = tokio::try_join!(send(body, parts), receive)?;
        Ok(received)
    }
}

async fn send(mut body: SendStream<Bytes>, parts: Vec<Bytes>) -> Result<()> {
    for mut part in parts {
        while !part.is_empty() {
            body.reserve_capacity(part.len());
            let room = poll_fn(|cx| body.poll_capacity(cx)).await.ok_or("the call is over")??;
            body.send_data(part.split_to(room.min(part.len())), false)?;
        }
    }
    body.send_data(Bytes::new(), true)?;
    Ok(())
}

/// The method for such a load.
pub fn path(load: Load) -> &'static str {
    match load.messages {
        1 => "/logitd.v1.SamplerService/Sample",
        _ => "/logitd.v1.SamplerService/SampleStream",
    }
}

/// A call's messages: of each, what comes before its logits, and its logits.
pub fn body(load: Load, check: bool) -> Vec<Bytes> {
    let SampleRequest { logits, .. } = load.request(check);
    let rest = SampleRequest { logits: Bytes::new(), ..load.request(check) };
    let request_bytes = rest.encoded_len() + field_bytes(3, logits.len());
    let mut parts = Vec::new();
    for id in 0..load.messages as u64 {
        let mut head = BytesMut::new();
        let stream = load.messages > 1;
        let message_bytes = match stream {
            true => key_len(1) + encoded_len_varint(id) + field_bytes(2, request_bytes),
            false => request_bytes,
        };
        head.put_u8(0);
        head.put_u32(message_bytes as u32);
        if stream {
            encode_key(1, WireType::Varint, &mut head);
            encode_varint(id, &mut head);
            encode_key(2, WireType::LengthDelimited, &mut head);
            encode_varint(request_bytes as u64, &mut head);
        }
        rest.encode_raw(&mut head);
        encode_key(3, WireType::LengthDelimited, &mut head);
        encode_varint(logits.len() as u64, &mut head);
        parts.extend([head.freeze(), logits.clone()]);
    }
    parts
}

fn field_bytes(tag: u32, length: usize) -> usize {
    key_len(tag) + encoded_len_varint(length as u64) + length
}

/// The tokens that a body of answers tells, row by row.
pub fn tokens(load: Load, mut body: Bytes) -> Result<Vec<u32>> {
    let mut tokens = Vec::new();
    while !body.is_empty() {
        let header = body.split_to(HEADER_BYTES.min(body.len()));
        let length: [u8; 4] = header.get(1..).ok_or("cut short")?.try_into()?;
        let length = u32::from_be_bytes(length) as usize;
        if length > body.len() {
            return Err("cut short".into());
        }
        let message = body.split_to(length);
        let answer = match load.messages {
            1 => SampleResponse::decode(message)?,
            _ => match SampleStreamResponse::decode(message)?.result {
                Some(sample_stream_response::Result::Response(response)) => response,
                other => return Err(format!("{other:?}").into()),
            },
        };
        tokens.extend(answer.rows.iter().map(|row| row.token.unwrap_or(u32::MAX)));
    }
    Ok(tokens)
}
