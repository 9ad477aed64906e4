//! The requests that take the same ways to a server.

use logitd_client::api::{
    BeamStepRequest, BeamStepResponse, EvaluateRequest, EvaluateResponse, GetInfoResponse,
    SampleRequest, SampleResponse, SlotRef, VerifyRequest, VerifyResponse,
};
use logitd_client::{Client, Direct, Error};
use std::future::Future;

/// A request whose logits are bytes of it, or lie in memory that is shared with the server.
pub trait Request: Clone + Default + Send + Sync + 'static {
    type Response: Default + Send + 'static;
    /// Whether its rows may be any distance apart.
    const HAS_STRIDE: bool;
    /// Whether it can be a direct call.
    const IS_DIRECT: bool;

    /// Has it carry these logits; nothing lies in memory then.
    fn carry(&mut self, logits: Vec<u8>);

    /// Says where its logits lie in memory.
    fn place(&mut self, slot: SlotRef, row_stride: u32);

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

impl Request for SampleRequest {
    type Response = SampleResponse;
    const HAS_STRIDE: bool = true;
    const IS_DIRECT: bool = true;

    fn carry(&mut self, logits: Vec<u8>) {
        (self.logits, self.slot, self.row_stride) = (logits.into(), None, 0);
    }

    fn place(&mut self, slot: SlotRef, row_stride: u32) {
        (self.slot, self.row_stride) = (Some(slot), row_stride);
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
    const HAS_STRIDE: bool = true;
    const IS_DIRECT: bool = true;

    fn carry(&mut self, logits: Vec<u8>) {
        (self.logits, self.slot, self.row_stride) = (logits.into(), None, 0);
    }

    fn place(&mut self, slot: SlotRef, row_stride: u32) {
        (self.slot, self.row_stride) = (Some(slot), row_stride);
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
    const HAS_STRIDE: bool = true;
    const IS_DIRECT: bool = false;

    fn carry(&mut self, logits: Vec<u8>) {
        (self.logits, self.slot, self.row_stride) = (logits.into(), None, 0);
    }

    fn place(&mut self, slot: SlotRef, row_stride: u32) {
        (self.slot, self.row_stride) = (Some(slot), row_stride);
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
    const HAS_STRIDE: bool = false;
    const IS_DIRECT: bool = false;

    fn carry(&mut self, logits: Vec<u8>) {
        (self.logits, self.slot) = (logits.into(), None);
    }

    fn place(&mut self, slot: SlotRef, row_stride: u32) {
        assert_eq!(row_stride, 0, "its rows lie one behind the other");
        self.slot = Some(slot);
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
