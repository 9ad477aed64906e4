//! Calls to a server on the same host without HTTP/2.

use super::Error;
use super::connect::{CONNECT_TIMEOUT, RESPONSE_BYTES_MAX};
use super::version::{Known, Version};
use logitd_proto::direct::{
    ANSWER_HEAD_BYTES, Hello, REQUEST_BYTES_MAX, RequestHead, SAMPLE, VERIFY,
};
use logitd_proto::sample_stream_response::Result as Outcome;
use logitd_proto::shm::Registered;
use logitd_proto::verify_stream_response::Result as Verified;
use logitd_proto::{
    SampleRequest, SampleResponse, SampleStreamResponse, VerifyRequest, VerifyResponse,
    VerifyStreamResponse,
};
use prost::Message;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tonic::Status;

/// A connection for calls whose logits lie in a [`Region`](super::Region) of this process: a third of the time
/// that gRPC takes for a call without logits. One call at a time; open several for more.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use logitd_proto::{Dtype, SampleRequest};
/// use logitd_client::{Client, Region};
///
/// let client = Client::connect("unix:/run/logitd.sock").await?;
/// let mut region = Region::register(&client.info().await?.shm_control, 2 * 128_256, 1)?;
/// let mut calls = client.direct().await?;
/// loop {
///     region.slot_mut(0).fill(0); // the logits
///     let request = SampleRequest {
///         dtype: Dtype::F16.into(),
///         vocab_size: 128_256,
///         slot: Some(region.commit(0, 2 * 128_256)),
///         ..Default::default()
///     };
///     println!("{:?}", calls.sample(&request).await?.rows[0].token);
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Direct {
    /// Taken while a call is under way: one that is dropped half way takes the connection with it.
    stream: Option<UnixStream>,
    buffer: Vec<u8>,
    timeout: Option<Duration>,
    /// Where a client has opened it, who can ask the server.
    version: Option<Version>,
}

impl Direct {
    /// Connects to the control socket (`unix:PATH`, as in `GetInfoResponse.shm_control`), with a bearer token
    /// where the server wants one. Nobody can ask the server over this connection what it is: requests with a field
    /// that came later than arithmetic version 1 need one that is opened by
    /// [`Client::direct`](super::Client::direct).
    pub async fn connect(control: &str, token: Option<&str>) -> Result<Self, Error> {
        let path = control.strip_prefix("unix:").unwrap_or(control);
        let wrong = |reason: String| Error::Connect { target: control.to_owned(), reason };
        let greeting = Self::greet(path, token.unwrap_or_default());
        let Ok(greeted) = tokio::time::timeout(CONNECT_TIMEOUT, greeting).await else {
            let text = format!(
                "no answer within {CONNECT_TIMEOUT:?}; the server may be busy refusing connections beyond its \
                 --shm-connections-max"
            );
            return Err(wrong(text));
        };
        match greeted {
            Ok(Ok(stream)) => {
                Ok(Self { stream: Some(stream), buffer: Vec::new(), timeout: None, version: None })
            }
            Ok(Err(refused)) => Err(wrong(refused)),
            Err(error) => Err(wrong(error.to_string())),
        }
    }

    async fn greet(path: &str, token: &str) -> io::Result<Result<UnixStream, String>> {
        let mut stream = UnixStream::connect(path).await?;
        let hello = Hello { token_bytes: token.len() as u32 };
        stream.write_all(&[&hello.encode(), token.as_bytes()].concat()).await?;
        let length = stream.read_u32_le().await? as usize;
        if length == 0 {
            return Ok(Ok(stream));
        }
        let mut reason = vec![0; length.min(Registered::REASON_BYTES_MAX)];
        stream.read_exact(&mut reason).await?;
        Ok(Err(String::from_utf8_lossy(&reason).into_owned()))
    }

    /// How long each call may take from now on; the server gives up by then too. At first there is no limit.
    pub fn set_timeout(&mut self, timeout: Option<Duration>) {
        self.timeout = timeout;
    }

    /// Has a client's knowledge of the server's version.
    pub(super) fn set_version(&mut self, version: Version) {
        self.version = Some(version);
    }

    /// Whether there can be another call.
    pub fn is_open(&self) -> bool {
        self.stream.is_some()
    }

    /// Samples one batch. A call that is dropped or times out before its answer has come closes the connection,
    /// and so does an error of the connection; after any other error it goes on.
    pub async fn sample(&mut self, request: &SampleRequest) -> Result<SampleResponse, Error> {
        match &self.version {
            Some(version) => version.check(request).await?,
            None => Known::OF_ALL.check(request)?,
        }
        let answer: SampleStreamResponse = self.exchange(SAMPLE, request).await?;
        match answer.result {
            Some(Outcome::Response(response)) => Ok(response),
            Some(Outcome::Error(error)) => Err(error.into()),
            None => Err(Status::internal("an answer without a result").into()),
        }
    }

    /// Verifies the drafts of sequences, as [`Client::verify`](super::Client::verify). All else is as with
    /// [`sample`](Self::sample). A server that does not know such calls is refused here where a client has opened the
    /// connection; otherwise it refuses the call, and ends the connection.
    pub async fn verify(&mut self, request: &VerifyRequest) -> Result<VerifyResponse, Error> {
        if let Some(version) = &self.version {
            version.knows("verify").await?;
        }
        let answer: VerifyStreamResponse = self.exchange(VERIFY, request).await?;
        match answer.result {
            Some(Verified::Response(response)) => Ok(response),
            Some(Verified::Error(error)) => Err(error.into()),
            None => Err(Status::internal("an answer without a result").into()),
        }
    }

    /// Sends a request of a kind, and receives its answer.
    async fn exchange<A: Message + Default>(
        &mut self,
        kind: u8,
        request: &impl Message,
    ) -> Result<A, Error> {
        let length = request.encoded_len();
        if length > REQUEST_BYTES_MAX {
            let text = format!(
                "the request has {length} bytes; allowed: {REQUEST_BYTES_MAX}, its logits lie in shared memory"
            );
            return Err(Status::invalid_argument(text).into());
        }
        let mut stream = self.stream.take().ok_or(Error::Closed)?;
        let timeout = self.timeout;
        let timeout_us = timeout
            .map_or(0, |timeout| u32::try_from(timeout.as_micros()).unwrap_or(u32::MAX).max(1));
        let head = RequestHead { kind, length: length as u32, timeout_us };
        let called = self.call(&mut stream, request, head);
        let response = match timeout {
            None => called.await,
            Some(timeout) => tokio::time::timeout(timeout, called)
                .await
                .map_err(|_| Status::deadline_exceeded("the answer did not come in time"))?,
        };
        let response = response
            .map_err(|error| Status::unavailable(format!("the connection is lost: {error}")))?;
        self.stream = Some(stream);
        Ok(response)
    }

    async fn call<A: Message + Default>(
        &mut self,
        stream: &mut UnixStream,
        request: &impl Message,
        head: RequestHead,
    ) -> io::Result<A> {
        self.buffer.clear();
        self.buffer.extend(head.encode());
        request.encode(&mut self.buffer).map_err(io::Error::other)?;
        stream.write_all(&self.buffer).await?;
        let mut head = [0; ANSWER_HEAD_BYTES];
        stream.read_exact(&mut head).await?;
        let length = u32::from_le_bytes(head) as usize;
        if length > RESPONSE_BYTES_MAX {
            return Err(io::Error::other(format!("an answer of {length} bytes is no answer")));
        }
        self.buffer.resize(length, 0);
        stream.read_exact(&mut self.buffer).await?;
        A::decode(&*self.buffer).map_err(io::Error::other)
    }
}
