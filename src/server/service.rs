//! The handlers: each takes a message, hands it on, and converts what comes back.

use super::beam::step;
use super::call::Call;
use super::evaluate::evaluate;
use super::frames::Admitted;
use super::sample::{Answered, sample};
use super::state::Shared;
use super::stream::{self, Answers, Evaluating, Sampling, Verifying};
use super::verify::verify;
use super::{Error, convert};
use crate::engine;
use crate::wire;
use logitd_core::arithmetic;
use logitd_proto::sampler_service_server::SamplerService;
use logitd_proto::{
    BeamStepRequest, BeamStepResponse, Device, EvaluateRequest, EvaluateResponse,
    EvaluateStreamRequest, GetInfoRequest, GetInfoResponse, Plane, SampleRequest, SampleResponse,
    SampleStreamRequest, VerifyRequest, VerifyResponse, VerifyStreamRequest,
};
use std::sync::Arc;
use tonic::{Request, Response, Status, Streaming};

/// What a chunk of a large batch best has: a stream is at its fastest with messages of about this size.
const CHUNK_BYTES: u64 = 1 << 20;

/// Implements the API over the engine.
#[derive(Clone)]
pub struct Sampler {
    shared: Arc<Shared>,
}

impl Sampler {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

#[tonic::async_trait]
impl SamplerService for Sampler {
    type SampleStreamStream = Answers<Sampling>;
    type EvaluateStreamStream = Answers<Evaluating>;
    type VerifyStreamStream = Answers<Verifying>;

    async fn sample(
        &self,
        mut request: Request<SampleRequest>,
    ) -> Result<Response<SampleResponse>, Status> {
        let (call, admitted) = admitted(&mut request)?;
        let request = request.into_inner();
        unary(sample(&self.shared, &call, admitted, request, Plane::Inline).await)
    }

    async fn sample_stream(
        &self,
        mut request: Request<Streaming<SampleStreamRequest>>,
    ) -> Result<Response<Answers<Sampling>>, Status> {
        let call = call(&mut request)?;
        Ok(Response::new(stream::serve(Arc::clone(&self.shared), call, request.into_inner())))
    }

    async fn evaluate(
        &self,
        mut request: Request<EvaluateRequest>,
    ) -> Result<Response<EvaluateResponse>, Status> {
        let (call, admitted) = admitted(&mut request)?;
        let request = request.into_inner();
        unary(evaluate(&self.shared, &call, admitted, request, Plane::Inline).await)
    }

    async fn evaluate_stream(
        &self,
        mut request: Request<Streaming<EvaluateStreamRequest>>,
    ) -> Result<Response<Answers<Evaluating>>, Status> {
        let call = call(&mut request)?;
        Ok(Response::new(stream::serve(Arc::clone(&self.shared), call, request.into_inner())))
    }

    async fn verify(
        &self,
        mut request: Request<VerifyRequest>,
    ) -> Result<Response<VerifyResponse>, Status> {
        let (call, admitted) = admitted(&mut request)?;
        let request = request.into_inner();
        unary(verify(&self.shared, &call, admitted, request, Plane::Inline).await)
    }

    async fn verify_stream(
        &self,
        mut request: Request<Streaming<VerifyStreamRequest>>,
    ) -> Result<Response<Answers<Verifying>>, Status> {
        let call = call(&mut request)?;
        Ok(Response::new(stream::serve(Arc::clone(&self.shared), call, request.into_inner())))
    }

    async fn beam_step(
        &self,
        mut request: Request<BeamStepRequest>,
    ) -> Result<Response<BeamStepResponse>, Status> {
        let (call, admitted) = admitted(&mut request)?;
        let request = request.into_inner();
        unary(step(&self.shared, &call, admitted, request, Plane::Inline).await)
    }

    async fn get_info(
        &self,
        _: Request<GetInfoRequest>,
    ) -> Result<Response<GetInfoResponse>, Status> {
        let device = |state: engine::DeviceState| Device {
            id: state.info.id.clone(),
            name: state.info.name.clone(),
            isa: state.info.isa.clone(),
            threads: state.info.threads as u32,
            up: state.up,
            uuid: self.shared.device_uuid(&state.info.id).into(),
        };
        Ok(Response::new(GetInfoResponse {
            version: env!("CARGO_PKG_VERSION").into(),
            arithmetic_version: arithmetic::VERSION,
            devices: self.shared.engine.devices().into_iter().map(device).collect(),
            limits: Some(self.shared.limits),
            planes: self.planes(),
            shm_control: self
                .shared
                .shm
                .as_ref()
                .map_or_else(String::new, |shm| shm.control.clone()),
            chunk_bytes: CHUNK_BYTES.min(self.shared.limits.message_bytes_max),
            draw_rules: wire::params::draw_rules(),
            controls: wire::controls().map(str::to_owned).collect(),
            profiles: wire::params::profiles(),
        }))
    }
}

impl Sampler {
    fn planes(&self) -> Vec<i32> {
        let shared_memory = self.shared.shm.as_ref().map(|_| Plane::SharedMemory);
        let offered = |state: &engine::DeviceState| {
            state.up && !self.shared.device_uuid(&state.info.id).is_empty()
        };
        let on_device = self.shared.engine.devices().iter().any(offered);
        let device_memory = on_device.then_some(Plane::DeviceMemory);
        let always = [Plane::Inline, Plane::Chunked, Plane::Candidates];
        always.into_iter().chain(shared_memory).chain(device_memory).map(i32::from).collect()
    }
}

fn call<T>(request: &mut Request<T>) -> Result<Call, Status> {
    request.extensions_mut().remove().ok_or_else(unadmitted)
}

/// The call, and what its one message was let in with, or the refusal.
fn admitted<T>(request: &mut Request<T>) -> Result<(Call, Admitted), Status> {
    let call = call(request)?;
    let admitted = call.admissions.next().ok_or_else(unadmitted)?;
    Ok((call, admitted.map_err(|error| convert::status(&error))?))
}

/// The room is free before the answer is encoded, which happens next, and its bytes are counted.
fn unary<R>(answered: Result<Answered<R>, Error>) -> Result<Response<R>, Status> {
    let answered = answered.map(|answered| Response::new(answered.response));
    answered.map_err(|error| convert::status(&error))
}

/// The handlers stand behind [`admission`](super::admission), which admits every message.
fn unadmitted() -> Status {
    Status::internal("a message came past admission")
}
