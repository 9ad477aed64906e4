//! The requests that take the same ways to a server.

use bytes::Bytes;
use logitd_client::api::{
    BeamStepRequest, BeamStepResponse, EvaluateRequest, EvaluateResponse, GetInfoResponse,
    SampleRequest, SampleResponse, SlotRef, VerifyRequest, VerifyResponse,
};
use logitd_client::{Client, Direct, Error};
use std::future::Future;

/// A request whose logits are bytes of it, or lie in memory that is shared with the server.
pub trait Request: Clone + Default + Send + Sync + 'static {
    type Response: Default + Send + 'static;
    /// Whether it can be a direct call.
    const IS_DIRECT: bool;

    /// Where it says which logits it is about.
    fn logits(&mut self) -> LogitsOf<'_>;

    /// Whether its rows may be any distance apart.
    fn has_stride() -> bool {
        Self::default().logits().row_stride.is_some()
    }

    /// Has it carry these logits; nothing lies in memory then.
    fn carry(&mut self, logits: Vec<u8>) {
        let LogitsOf { bytes, slot, row_stride } = self.logits();
        (*bytes, *slot) = (logits.into(), None);
        row_stride.into_iter().for_each(|row_stride| *row_stride = 0);
    }

    /// Says where its logits lie in memory. `row_stride` is 0 unless its rows may be any distance apart.
    fn place(&mut self, slot: SlotRef, row_stride: u32) {
        let of = self.logits();
        *of.slot = Some(slot);
        match of.row_stride {
            Some(stride) => *stride = row_stride,
            None => assert_eq!(row_stride, 0, "its rows lie one behind the other"),
        }
    }

    /// Sends it by gRPC, as it is; in several messages where it can be and what the server says of itself is given.
    fn send(
        self,
        client: &Client,
        cut_for: Option<&GetInfoResponse>,
    ) -> impl Future<Output = Result<Self::Response, Error>> + Send;

    /// Sends it as a direct call, if it can be one.
    fn send_directly(
        &self,
        direct: &mut Direct,
    ) -> impl Future<Output = Result<Self::Response, Error>> + Send;
}

/// The fields of a request that say which logits it is about.
pub struct LogitsOf<'a> {
    bytes: &'a mut Bytes,
    slot: &'a mut Option<SlotRef>,
    /// How many logits there are from a row to the next, where its rows may be any distance apart.
    row_stride: Option<&'a mut u32>,
}

impl Request for SampleRequest {
    type Response = SampleResponse;
    const IS_DIRECT: bool = true;

    fn logits(&mut self) -> LogitsOf<'_> {
        let Self { logits: bytes, slot, row_stride, .. } = self;
        LogitsOf { bytes, slot, row_stride: Some(row_stride) }
    }

    async fn send(
        self,
        client: &Client,
        cut_for: Option<&GetInfoResponse>,
    ) -> Result<SampleResponse, Error> {
        match cut_for {
            Some(info) => client.sample_chunked(self, info).await,
            None => client.sample(self).await,
        }
    }

    async fn send_directly(&self, direct: &mut Direct) -> Result<SampleResponse, Error> {
        direct.sample(self).await
    }
}

impl Request for VerifyRequest {
    type Response = VerifyResponse;
    const IS_DIRECT: bool = true;

    fn logits(&mut self) -> LogitsOf<'_> {
        let Self { logits: bytes, slot, row_stride, .. } = self;
        LogitsOf { bytes, slot, row_stride: Some(row_stride) }
    }

    async fn send(
        self,
        client: &Client,
        _: Option<&GetInfoResponse>,
    ) -> Result<VerifyResponse, Error> {
        client.verify(self).await
    }

    async fn send_directly(&self, direct: &mut Direct) -> Result<VerifyResponse, Error> {
        direct.verify(self).await
    }
}

impl Request for BeamStepRequest {
    type Response = BeamStepResponse;
    const IS_DIRECT: bool = false;

    fn logits(&mut self) -> LogitsOf<'_> {
        let Self { logits: bytes, slot, row_stride, .. } = self;
        LogitsOf { bytes, slot, row_stride: Some(row_stride) }
    }

    async fn send(
        self,
        client: &Client,
        _: Option<&GetInfoResponse>,
    ) -> Result<BeamStepResponse, Error> {
        client.beam_step(self).await
    }

    async fn send_directly(&self, _: &mut Direct) -> Result<BeamStepResponse, Error> {
        unreachable!("it is no direct call")
    }
}

impl Request for EvaluateRequest {
    type Response = EvaluateResponse;
    const IS_DIRECT: bool = false;

    fn logits(&mut self) -> LogitsOf<'_> {
        let Self { logits: bytes, slot, .. } = self;
        LogitsOf { bytes, slot, row_stride: None }
    }

    async fn send(
        self,
        client: &Client,
        _: Option<&GetInfoResponse>,
    ) -> Result<EvaluateResponse, Error> {
        client.evaluate(self).await
    }

    async fn send_directly(&self, _: &mut Direct) -> Result<EvaluateResponse, Error> {
        unreachable!("it is no direct call")
    }
}
