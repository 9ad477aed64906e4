//! A client of logitd, a token-sampling daemon: connects, samples, streams.
//!
//! The messages are those of [`api`], which is `logitd-proto`.
//!
//! ```no_run
//! # async fn example() -> Result<(), logitd_client::Error> {
//! use logitd_client::Client;
//! use logitd_client::api::{Dtype, SampleRequest, SamplingParams};
//!
//! let client = Client::connect("http://127.0.0.1:50051").await?;
//! let logits: Vec<u8> = [0.5f32, 2.0, 1.0].iter().flat_map(|x| x.to_le_bytes()).collect();
//! let response = client
//!     .sample(SampleRequest {
//!         dtype: Dtype::F32.into(),
//!         vocab_size: 3,
//!         logits: logits.into(),
//!         params: vec![SamplingParams { temperature: Some(0.7), top_k: 2, ..Default::default() }],
//!         ..Default::default()
//!     })
//!     .await?;
//! println!("token {:?}, seed {}", response.rows[0].token, response.rows[0].seed);
//! # Ok(())
//! # }
//! ```

#![warn(missing_docs)]
#![deny(unsafe_code)]
#![allow(rustdoc::private_intra_doc_links)]

pub mod beam;
mod chunked;
mod connect;
mod control;
mod device;
mod direct;
mod error;
mod region;
mod split;
mod stream;
mod uncopied;
mod verify;
mod version;

pub use logitd_proto as api;

pub use connect::Builder;
pub use device::DeviceRegion;
pub use direct::Direct;
pub use error::Error;
pub use region::Region;
pub use split::split;
pub use stream::{Receiver, SampleReceiver, SampleSender, SampleStream, StreamAnswer};
pub use verify::{VerifyReceiver, VerifySender, VerifyStream};

use connect::Bearer;
use logitd_proto::sampler_service_client::SamplerServiceClient;
use logitd_proto::{
    BeamStepRequest, BeamStepResponse, EvaluateRequest, EvaluateResponse, GetInfoRequest,
    GetInfoResponse, RowResult, SampleRequest, SampleResponse, VerifyRequest, VerifyResponse,
};
use std::future::Future;
use std::time::Duration;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use uncopied::{HasLogits, Transport};
use version::Version;

type Service = SamplerServiceClient<Transport<InterceptedService<Channel, Bearer>>>;

/// A connection to a server. Cheap to clone; clones share the connection, which is made again when it
/// breaks.
#[derive(Clone, Debug)]
pub struct Client {
    service: Service,
    bearer: Bearer,
    options: Options,
    version: Version,
}

#[derive(Clone, Copy, Debug, Default)]
struct Options {
    /// How long each attempt may take.
    timeout: Option<Duration>,
    /// How often an overloaded server is asked again.
    retries_max: u32,
}

impl Client {
    /// Connects to `http://HOST:PORT`, `HOST:PORT` or `unix:PATH`. For TLS and tokens see
    /// [`builder`](Self::builder).
    pub async fn connect(target: impl Into<String>) -> Result<Self, Error> {
        Self::builder(target).connect().await
    }

    /// A connection with options.
    pub fn builder(target: impl Into<String>) -> Builder {
        Builder::new(target.into())
    }

    /// The server's version, devices, limits and planes.
    pub async fn info(&self) -> Result<GetInfoResponse, Error> {
        let request = self.request(GetInfoRequest {});
        Ok(self.service.clone().get_info(request).await?.into_inner())
    }

    /// Samples one batch, which must be within the server's limits; see [`sample_all`](Self::sample_all)
    /// for larger ones.
    ///
    /// A server that has no room says when to try again; with [`Builder::retries_max`] that is done. A request with a
    /// field that the server is too old for is refused here ([`Error::Version`], [`Error::Control`]), and so by every other way to send
    /// one: the first such request asks the server what it is.
    pub async fn sample(&self, request: SampleRequest) -> Result<SampleResponse, Error> {
        self.version.check(&request).await?;
        self.attempts(request, |mut service, sent| async move { service.sample(sent).await }).await
    }

    /// Evaluates sets of sampling parameters over rows whose next token is known, within the server's limits. Sums over
    /// the same sets add up ([`logitd_proto::EvaluateResponse`]), so a larger batch is several calls.
    pub async fn evaluate(&self, request: EvaluateRequest) -> Result<EvaluateResponse, Error> {
        self.attempts(request, |mut service, sent| async move { service.evaluate(sent).await })
            .await
    }

    /// Verifies the drafts of sequences: speculative decoding, within the server's limits. Servers without it answer
    /// UNIMPLEMENTED; those with it name `verify` among their controls.
    pub async fn verify(&self, request: VerifyRequest) -> Result<VerifyResponse, Error> {
        self.attempts(request, |mut service, sent| async move { service.verify(sent).await }).await
    }

    /// A step of beam search, within the server's limits. Servers without it answer UNIMPLEMENTED; those with it name
    /// `beam_step` among their controls.
    pub async fn beam_step(&self, request: BeamStepRequest) -> Result<BeamStepResponse, Error> {
        self.attempts(request, |mut service, sent| async move { service.beam_step(sent).await })
            .await
    }

    /// Sends a request, again as long as the server says that it has no room and attempts are left.
    async fn attempts<M, R, F>(
        &self,
        message: M,
        send: impl Fn(Service, tonic::Request<M>) -> F,
    ) -> Result<R, Error>
    where
        M: HasLogits + Clone,
        F: Future<Output = Result<tonic::Response<R>, tonic::Status>>,
    {
        let mut attempt = 0;
        loop {
            let mut sent = self.request(message.clone());
            uncopied::beside(&mut sent);
            let error = match send(self.service.clone(), sent).await {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) => Error::from(status),
            };
            match error.retry_after() {
                Some(delay) if attempt < self.options.retries_max => {
                    attempt += 1;
                    tokio::time::sleep(delay).await;
                }
                _ => return Err(error),
            }
        }
    }

    /// Samples a batch of any size, in [chunks](Self::sample_chunked) where it is a large one. One result
    /// a row, in the order of the rows.
    pub async fn sample_all(&self, request: SampleRequest) -> Result<Vec<RowResult>, Error> {
        let request = SampleRequest { return_columns: false, ..request };
        let info = self.info().await?;
        let response = match chunked::fits_one(&request, &info) {
            true => self.sample(request).await?,
            false => self.sample_chunked(request, &info).await?,
        };
        Ok(response.rows)
    }

    /// Opens a stream: many requests in flight on one call.
    pub async fn stream(&self) -> Result<SampleStream, Error> {
        SampleStream::open(self.service.clone(), self.version.clone(), None).await
    }

    /// Opens a stream of requests to verify: many in flight on one call.
    pub async fn verify_stream(&self) -> Result<VerifyStream, Error> {
        VerifyStream::open(self.service.clone()).await
    }

    /// Opens a connection for direct calls, to the server's control socket, with this client's token and
    /// timeout.
    pub async fn direct(&self) -> Result<Direct, Error> {
        let control = self.info().await?.shm_control;
        if control.is_empty() {
            return Err(Error::Target(
                "the server takes no direct calls; start it with --shm".into(),
            ));
        }
        let mut direct = Direct::connect(&control, self.bearer.token()).await?;
        direct.set_timeout(self.options.timeout);
        direct.set_version(self.version.clone());
        Ok(direct)
    }

    /// The bearer token that it sends.
    pub fn token(&self) -> Option<&str> {
        self.bearer.token()
    }

    fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        if let Some(timeout) = self.options.timeout {
            request.set_timeout(timeout);
        }
        request
    }
}
