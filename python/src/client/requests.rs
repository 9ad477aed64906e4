//! The requests that take the same ways to a server.

use super::planes::{Choice, Link, Plane};
use logitd_client::api::{
    BeamStepRequest, BeamStepResponse, EvaluateRequest, EvaluateResponse, SampleRequest,
    SampleResponse, SlotRef, VerifyRequest, VerifyResponse,
};
use logitd_client::{Direct, Error};
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

    /// Sends it by gRPC, as it is.
    fn send(self, link: &Link) -> impl Future<Output = Result<Self::Response, Error>> + Send;

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

    /// In one message, or in several.
    async fn send(self, link: &Link) -> Result<SampleResponse, Error> {
        let is_large =
            link.info.chunk_bytes > 0 && self.logits.len() as u64 > link.info.chunk_bytes;
        match link.choice {
            Choice::Only(Plane::Chunked) => link.client.sample_chunked(self, &link.info).await,
            Choice::Bytes | Choice::OnThisHost if is_large => {
                link.client.sample_chunked(self, &link.info).await
            }
            _ => link.client.sample(self).await,
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

    async fn send(self, link: &Link) -> Result<VerifyResponse, Error> {
        link.client.verify(self).await
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

    async fn send(self, link: &Link) -> Result<BeamStepResponse, Error> {
        link.client.beam_step(self).await
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

    async fn send(self, link: &Link) -> Result<EvaluateResponse, Error> {
        link.client.evaluate(self).await
    }

    async fn send_directly(&self, _: &mut Direct) -> Result<EvaluateResponse, Error> {
        unreachable!("it is no direct call")
    }
}
