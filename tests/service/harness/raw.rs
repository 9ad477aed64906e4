//! Calls made by hand: any bytes, any headers, any pace, and nothing that helps.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use std::convert::Infallible;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

type Body = BoxBody<Bytes, Infallible>;

/// One HTTP/2 connection.
pub struct Raw {
    requests: http2::SendRequest<Body>,
    /// The connection's own, to break it off.
    socket: std::net::TcpStream,
}

/// What a call ended with.
#[derive(Debug)]
pub struct Reply {
    pub status: Status,
    /// The messages before that, without their headers.
    pub messages: Vec<Bytes>,
}

impl Raw {
    pub async fn connect(address: &str) -> Self {
        Self::with_window(address, 1 << 20).await
    }

    /// The server may send so many bytes that are not read, a stream.
    pub async fn with_window(address: &str, bytes: u32) -> Self {
        let socket = TcpStream::connect(address).await.expect("connected");
        let socket = socket.into_std().unwrap();
        let handle = socket.try_clone().unwrap();
        let socket = TcpStream::from_std(socket).unwrap();
        socket.set_nodelay(true).unwrap();
        let (requests, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(bytes)
            .handshake(TokioIo::new(socket))
            .await
            .expect("HTTP/2");
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Self { requests, socket: handle }
    }

    /// Breaks the connection, as a client does that dies.
    pub fn break_off(self) {
        self.socket.shutdown(std::net::Shutdown::Both).unwrap();
    }

    /// Calls with a whole body.
    pub async fn call(
        &self,
        method: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Reply {
        reply(self.send(method, headers, Full::new(body.into()).boxed()).await).await
    }

    /// Calls with a body that is sent piece by piece; it ends when the sender is dropped.
    pub fn open(
        &self,
        method: &str,
        headers: &[(&str, &str)],
    ) -> (mpsc::Sender<Bytes>, JoinHandle<Response<Incoming>>) {
        let (pieces, sent) = mpsc::channel(1);
        let frames = ReceiverStream::new(sent).map(|piece| Ok(Frame::data(piece)));
        let call = self.send(method, headers, BodyExt::boxed(StreamBody::new(frames)));
        (pieces, tokio::spawn(call))
    }

    /// Sends any request, and does not read the answer's body.
    pub async fn request(&self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        let mut requests = self.requests.clone();
        requests.ready().await.expect("an open connection");
        requests.send_request(request.map(BodyExt::boxed)).await.expect("an answer")
    }

    /// Whether the server has closed the connection, or asked for it.
    pub fn is_closed(&self) -> bool {
        self.requests.is_closed()
    }

    fn send(
        &self,
        method: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> impl Future<Output = Response<Incoming>> + 'static {
        let mut request = Request::post(format!("http://logitd/logitd.v1.SamplerService/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut requests = self.requests.clone();
        let request = request.body(body).expect("a request");
        async move {
            requests.ready().await.expect("an open connection");
            requests.send_request(request).await.expect("an answer")
        }
    }
}

/// Reads an answer to its end.
pub async fn reply(response: Response<Incoming>) -> Reply {
    let headers = response.headers().clone();
    let body = response.into_body().collect().await.expect("a whole answer");
    let trailers = body.trailers().cloned().unwrap_or_default();
    let mut rest = body.to_bytes();
    let mut messages = Vec::new();
    while rest.len() >= 5 {
        let length = u32::from_be_bytes(rest[1..5].try_into().unwrap()) as usize;
        messages.push(rest.slice(5..5 + length));
        rest = rest.slice(5 + length..);
    }
    Reply { status: status(&headers).or_else(|| status(&trailers)).expect("a status"), messages }
}

fn status(headers: &HeaderMap) -> Option<Status> {
    Status::from_header_map(headers)
}

/// A message with its header.
pub fn framed(message: &impl Message) -> Bytes {
    announced(message.encoded_len(), &message.encode_to_vec())
}

/// Bytes with a header that announces a length, true or not.
pub fn announced(length: usize, bytes: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(5 + bytes.len());
    framed.put_u8(0);
    framed.put_u32(length as u32);
    framed.put(bytes);
    framed.freeze()
}

impl Reply {
    #[track_caller]
    pub fn assert_code(&self, code: Code, words: &[&str]) {
        assert_eq!(self.status.code(), code, "{:?}", self.status);
        for word in words {
            assert!(self.status.message().contains(word), "{word} in {:?}", self.status.message());
        }
    }
}
