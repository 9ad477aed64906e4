//! The handlers: each takes a message, hands it on, and converts what comes back.

use super::admission::Call;
use super::error::Error;
use super::frames::Admitted;
use super::stream::{self, Answers};
use super::{Shared, convert, metrics};
use crate::api::sampler_service_server::SamplerService;
use crate::api::{
    Device, GetInfoRequest, GetInfoResponse, Plane, SampleRequest, SampleResponse,
    SampleStreamRequest,
};
use crate::arithmetic;
use crate::engine;
use crate::engine::Permit;
use crate::params::SamplingParams;
use std::sync::Arc;
use std::time::Instant;
use tonic::{Request, Response, Status, Streaming};

/// Slots up to this size are copied where the call is handled: some 50 us. Larger ones would hold up
/// the calls behind them.
const COPY_INLINE_BYTES_MAX: usize = 512 << 10;

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
    type SampleStreamStream = Answers;

    async fn sample(
        &self,
        mut request: Request<SampleRequest>,
    ) -> Result<Response<SampleResponse>, Status> {
        let call = call(&mut request)?;
        let sampled = match call.admissions.next() {
            Some(Ok(admitted)) => sample(&self.shared, &call, admitted, request.into_inner()).await,
            Some(Err(error)) => Err(error),
            None => return Err(unadmitted()),
        };
        sampled.map(Response::new).map_err(|error| convert::status(&error))
    }

    async fn sample_stream(
        &self,
        mut request: Request<Streaming<SampleStreamRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let call = call(&mut request)?;
        Ok(Response::new(stream::serve(Arc::clone(&self.shared), call, request.into_inner())))
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
        }))
    }
}

impl Sampler {
    fn planes(&self) -> Vec<i32> {
        let shared_memory = self.shared.shm.as_ref().map(|_| Plane::SharedMemory);
        [Some(Plane::Inline), shared_memory].into_iter().flatten().map(i32::from).collect()
    }
}

/// Samples one request, of a unary call or of a stream, with what its message was let in with.
pub(super) async fn sample(
    shared: &Shared,
    call: &Call,
    admitted: Admitted,
    mut request: SampleRequest,
) -> Result<SampleResponse, Error> {
    let arrived = Instant::now();
    let mut permit = admitted.complete(&mut request);
    let plane = fetch(shared, call, &mut permit, &mut request).await?;
    let Some(recorder) = &shared.recorder else {
        return compute(shared, call, permit, request, plane).await;
    };
    let sampled = compute(shared, call, permit, request.clone(), plane).await;
    metrics::recorded(match &sampled {
        Ok(response) => recorder.record(arrived, &request, Ok(response)),
        Err(error) => recorder.record(arrived, &request, Err(&convert::stream_error(error))),
    });
    sampled
}

/// Samples a request whose logits are there.
async fn compute(
    shared: &Shared,
    call: &Call,
    mut permit: Permit,
    request: SampleRequest,
    plane: Plane,
) -> Result<SampleResponse, Error> {
    let batch = convert::batch(request, &shared.limits)?;
    permit.resize(batch.rows.len(), batch.bytes())?;
    metrics::plane_bytes(plane, batch.bytes());
    tracing::Span::current().record("rows", batch.rows.len());
    let _token_rows =
        call.token.as_ref().map(|token| token.reserve(batch.rows.len())).transpose()?;
    let params: Vec<SamplingParams> = batch.rows.iter().map(|row| *row.params()).collect();
    let request =
        engine::Request { rows: batch.rows, deadline: call.deadline, priority: batch.priority };
    let done = shared.engine.submit(permit, request)?.await?;
    Ok(convert::response(&done, &params, plane))
}

/// Puts the logits of a slot in the place of bytes on the wire; from there on both are the same.
async fn fetch(
    shared: &Shared,
    call: &Call,
    permit: &mut Permit,
    request: &mut SampleRequest,
) -> Result<Plane, Error> {
    let Some(slot) = request.slot.take() else { return Ok(Plane::Inline) };
    if !request.logits.is_empty() {
        let bytes = request.logits.len();
        let text = format!("has {bytes} bytes beside a slot; allowed: one or the other");
        return Err(Error::invalid("logits", text));
    }
    let shm = shared.shm.as_ref().ok_or(Error::NoShm("the server has no --shm socket"))?;
    let peer = call.peer.ok_or(Error::NoShm("call over the server's Unix socket"))?;
    let slot = convert::slot(&slot)?;
    let bytes = usize::try_from(slot.length_bytes).unwrap_or(usize::MAX);
    // Parameter sets are small on the wire and wait here for the copy: they take their permits first.
    permit.resize(convert::params_sets(request, &shared.limits)?, bytes)?;
    let (registry, pool) = (Arc::clone(&shm.registry), shared.pool.clone());
    let read = move || registry.read(slot, peer, &pool);
    let buffer = if bytes <= COPY_INLINE_BYTES_MAX {
        read()?
    } else {
        let read = tokio::task::spawn_blocking(read).await;
        read.map_err(|_| Error::NoShm("the server is shutting down"))??
    };
    request.logits = buffer.freeze();
    Ok(Plane::SharedMemory)
}

fn call<T>(request: &mut Request<T>) -> Result<Call, Status> {
    request.extensions_mut().remove().ok_or_else(unadmitted)
}

/// The handlers stand behind [`Admission`](super::admission::Admission), which admits every message.
fn unadmitted() -> Status {
    Status::internal("a message came past admission")
}
