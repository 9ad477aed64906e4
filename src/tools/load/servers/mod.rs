//! Running servers as a target: connections in turn, one request after another.

mod multiplex;
mod shared;

use super::message::{Request, Response};
use super::target::{Code, Failure, Target};
use logitd_client::{self, Client, SampleSender, VerifySender};
use logitd_proto::{Device, GetInfoResponse};
use multiplex::Multiplexed;
use shared::SharedLane;

/// How requests travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Logits in the message, a call a request.
    Unary,
    /// Logits in the message, one stream a connection for all requests, where the method has streams.
    Stream,
    /// A stream a request, which is cut into chunks, where the method has chunks.
    Chunked,
    /// Logits in shared memory, a call a request that says where.
    SharedMemory {
        /// Bytes of the largest request's logits.
        slot_bytes: usize,
        /// Requests in flight on one connection.
        slots: u32,
        /// Whether calls are direct, each of those in flight on a connection of its own.
        direct: bool,
    },
    /// The same, in memory of the server's CUDA devices, of which the connections take one after another.
    DeviceMemory {
        /// As above.
        slot_bytes: usize,
        /// As above.
        slots: u32,
        /// As above.
        direct: bool,
    },
}

/// Connections to one or more servers. Request `i` goes over connection `i` modulo their number.
#[derive(Debug)]
pub struct Servers {
    lanes: Vec<Lane>,
    infos: Vec<GetInfoResponse>,
}

#[derive(Debug)]
enum Lane {
    Unary(Client),
    Stream(Box<Streams>),
    Chunked(Client, Box<GetInfoResponse>),
    SharedMemory(Box<SharedLane>),
}

impl Servers {
    /// Opens `connections` connections (1 or more) to each target, and asks each server what it is.
    /// The connections of different targets take turns.
    pub async fn connect(
        targets: Vec<logitd_client::Builder>,
        connections: usize,
        route: Route,
    ) -> Result<Self, logitd_client::Error> {
        let (mut lanes, mut infos) = (Vec::new(), Vec::new());
        for connection in 0..connections {
            for target in &targets {
                let client = target.clone().connect().await?;
                let info = client.info().await?;
                lanes.push(match route {
                    Route::Unary => Lane::Unary(client),
                    Route::Stream => Lane::Stream(Box::new(Streams::new(client))),
                    Route::Chunked => Lane::Chunked(client, Box::new(info.clone())),
                    Route::SharedMemory { slot_bytes, slots, direct } => {
                        let control = info.shm_control.clone();
                        let register =
                            move || SharedLane::new(client, direct, &control, slot_bytes, slots);
                        let lane = tokio::task::spawn_blocking(register).await;
                        Lane::SharedMemory(Box::new(lane.expect("registering does not panic")?))
                    }
                    Route::DeviceMemory { slot_bytes, slots, direct } => {
                        let device = device_with_memory(&info, connection)?;
                        let control = info.shm_control.clone();
                        let register = move || {
                            SharedLane::on_device(
                                client, direct, &control, &device, slot_bytes, slots,
                            )
                        };
                        let lane = tokio::task::spawn_blocking(register).await;
                        Lane::SharedMemory(Box::new(lane.expect("registering does not panic")?))
                    }
                });
                if connection == 0 {
                    infos.push(info);
                }
            }
        }
        Ok(Self { lanes, infos })
    }

    /// What each server says of itself, in the order of the targets.
    pub fn infos(&self) -> &[GetInfoResponse] {
        &self.infos
    }
}

impl Target for Servers {
    async fn send(&self, index: u64, request: Request) -> Result<Response, Failure> {
        let answer = match &self.lanes[(index % self.lanes.len() as u64) as usize] {
            Lane::Stream(streams) => return streams.send(request).await,
            Lane::Unary(client) => call(client, request).await,
            Lane::Chunked(client, info) => match request {
                Request::Sample(request) => {
                    client.sample_chunked(request, info).await.map(Into::into)
                }
                whole => call(client, whole).await,
            },
            Lane::SharedMemory(lane) => lane.send(request).await,
        };
        answer.map_err(|error| failure(&error))
    }
}

/// A call for one request.
async fn call(client: &Client, request: Request) -> Result<Response, logitd_client::Error> {
    Ok(match request {
        Request::Sample(request) => client.sample(request).await?.into(),
        Request::Verify(request) => client.verify(request).await?.into(),
        Request::BeamStep(request) => client.beam_step(request).await?.into(),
    })
}

/// Streams of a connection, for the methods that have one, and calls for the others.
#[derive(Debug)]
struct Streams {
    client: Client,
    samples: Multiplexed<SampleSender>,
    verified: Multiplexed<VerifySender>,
}

impl Streams {
    fn new(client: Client) -> Self {
        let (samples, verified) =
            (Multiplexed::new(client.clone()), Multiplexed::new(client.clone()));
        Self { client, samples, verified }
    }

    async fn send(&self, request: Request) -> Result<Response, Failure> {
        match request {
            Request::Sample(request) => Ok(self.samples.send(request).await?.into()),
            Request::Verify(request) => Ok(self.verified.send(request).await?.into()),
            step => call(&self.client, step).await.map_err(|error| failure(&error)),
        }
    }
}

/// One of the devices whose memory a server offers, and that take work.
fn device_with_memory(info: &GetInfoResponse, turn: usize) -> Result<Device, logitd_client::Error> {
    let offered = info.devices.iter().filter(|device| device.up && !device.uuid.is_empty());
    let offered: Vec<&Device> = offered.collect();
    if offered.is_empty() {
        let text = "the server offers no memory of a device; it needs --shm, a CUDA device and \
                    --cuda-region-bytes-max";
        return Err(logitd_client::Error::Target(text.into()));
    }
    Ok(offered[turn % offered.len()].clone())
}

/// An error of the client as a failure. One without a code is of the connection.
fn failure(error: &logitd_client::Error) -> Failure {
    let code = error.code().map_or(Code::UNAVAILABLE, |code| Code(code.into()));
    Failure { retry_after: error.retry_after(), ..Failure::new(code, error.to_string()) }
}
