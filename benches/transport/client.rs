//! The caller's end of every route, and what its answers must say.

use super::answer::Answer;
use super::case::{Load, ROW_BYTES, Route, Socket};
use super::grpc::{self, Http2};
use super::nothing::Nothing;
use bytes::Bytes;
use logitd::config::Config;
use logitd::engine::{self, Engine, Priority, RequestRow};
use logitd_client::{Client, Direct, Region};
use logitd_core::backend::Backend;
use logitd_core::batch::{Dtype, Results, Row};
use logitd_core::params::{ParamsSpec, SamplingParams};
use logitd_proto::{SampleRequest, SampleResponse};
use std::cell::RefCell;
use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Runtime;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Slots of the shared region: so many requests of a stream are in flight.
const SLOTS: u32 = 8;

/// A route with its server.
pub struct Connection {
    route: Route,
    wire: Wire,
    runtime: Runtime,
    /// Leaves when dropped. There is none in process.
    _server: Option<Process>,
}

enum Wire {
    Raw(Box<dyn RawIo>),
    H2(Http2),
    Logitd(Client),
    Shared { client: Client, region: Region },
    Direct { calls: Vec<Direct>, region: RefCell<Region> },
    Engine(Engine),
}

trait RawIo: Read + Write {}
impl<T: Read + Write> RawIo for T {}

/// What a call is answered with.
enum Reply {
    Receipt(Answer),
    Tokens(Vec<u32>),
}

impl Connection {
    pub fn open(route: Route, socket: Socket, flags: &str) -> Result<Self> {
        // One thread: a core is the caller's, the rest are the server's.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        if matches!(route, Route::Engine | Route::EngineCpu) {
            let engine = runtime.block_on(async { in_process(route, flags) })?;
            return Ok(Self { route, wire: Wire::Engine(engine), runtime, _server: None });
        }
        let server = Process::start(route, socket, flags)?;
        let wire = match route {
            Route::Raw => raw(socket, &server.address)?,
            Route::H2 | Route::H2Tonic | Route::H2Logitd => {
                Wire::H2(runtime.block_on(http2(socket, &server.address))?)
            }
            _ => {
                let target = match socket {
                    Socket::Tcp => format!("http://{}", server.address),
                    Socket::Unix => format!("unix:{}", server.address),
                };
                let client = runtime.block_on(Client::connect(target))?;
                match route {
                    Route::Shared | Route::SharedCpu => {
                        Wire::Shared { client, region: shared(&server)? }
                    }
                    Route::Direct | Route::DirectCpu => runtime.block_on(direct(&server))?,
                    _ => Wire::Logitd(client),
                }
            }
        };
        Ok(Self { route, wire, runtime, _server: Some(server) })
    }

    /// Shows that every byte arrives.
    pub fn check(&mut self, load: Load) -> Result<()> {
        match self.reply(load, true)? {
            Reply::Receipt(answer) => {
                let expected = Answer::of(&load.logits(), load.messages);
                (answer == expected)
                    .then_some(())
                    .ok_or(format!("{answer:?}: not {expected:?}"))?;
            }
            Reply::Tokens(tokens) => {
                let rows = expected_tokens(self.route, load)?;
                let expected: Vec<u32> = rows.repeat(load.messages);
                (tokens == expected)
                    .then_some(())
                    .ok_or(format!("{tokens:?}: not {expected:?}"))?;
            }
        }
        Ok(())
    }

    /// One call, as it is timed; the least that an answer must say is looked at.
    pub fn call(&mut self, load: Load) -> Result<()> {
        let (came, sent) = match self.reply(load, false)? {
            Reply::Receipt(answer) => (answer.bytes as usize, load.bytes()),
            Reply::Tokens(tokens) => (tokens.len(), load.rows * load.messages),
        };
        (came == sent).then_some(()).ok_or(format!("{came} of {sent} arrived").into())
    }

    fn reply(&mut self, load: Load, check: bool) -> Result<Reply> {
        match &mut self.wire {
            Wire::Raw(io) => call_raw(io.as_mut(), load, check).map(Reply::Receipt),
            Wire::H2(http) if self.route == Route::H2 => {
                let parts = vec![load.logits(); load.messages];
                let answer = self.runtime.block_on(http.call("/", check, parts))?;
                Ok(Reply::Receipt(Answer::decode(&answer)?))
            }
            Wire::H2(http) => {
                let body = grpc::body(load, check);
                let answer = self.runtime.block_on(http.call(grpc::path(load), check, body))?;
                grpc::tokens(load, answer).map(Reply::Tokens)
            }
            Wire::Logitd(client) => {
                let request = load.request(check);
                self.runtime.block_on(call(client, load, request)).map(Reply::Tokens)
            }
            Wire::Shared { client, region } => {
                let calls = call_shared(client, region, load, check);
                self.runtime.block_on(calls).map(Reply::Tokens)
            }
            Wire::Direct { calls, region } => {
                let calls = call_direct(calls, region, load, check);
                self.runtime.block_on(calls).map(Reply::Tokens)
            }
            Wire::Engine(engine) => {
                self.runtime.block_on(call_engine(engine, load, check)).map(Reply::Tokens)
            }
        }
    }
}

fn raw(socket: Socket, address: &str) -> Result<Wire> {
    Ok(Wire::Raw(match socket {
        Socket::Tcp => {
            let stream = std::net::TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            Box::new(stream)
        }
        Socket::Unix => Box::new(std::os::unix::net::UnixStream::connect(address)?),
    }))
}

async fn http2(socket: Socket, address: &str) -> Result<Http2> {
    match socket {
        Socket::Tcp => {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Http2::new(stream).await
        }
        Socket::Unix => Http2::new(UnixStream::connect(address).await?).await,
    }
}

/// Every slot holds the same rows, written once: a caller makes its logits there.
fn shared(server: &Process) -> Result<Region> {
    let logits = Load::unary(64).logits();
    let mut region = Region::register(&server.shm(), logits.len(), SLOTS)?;
    for slot in 0..SLOTS {
        region.slot_mut(slot)[..logits.len()].copy_from_slice(&logits);
    }
    Ok(region)
}

/// One connection for unary calls, and two where requests are in flight.
async fn direct(server: &Process) -> Result<Wire> {
    let mut calls = Vec::new();
    for _ in 0..2 {
        calls.push(Direct::connect(&server.shm(), None).await?);
    }
    Ok(Wire::Direct { calls, region: RefCell::new(shared(server)?) })
}

fn in_process(route: Route, flags: &str) -> Result<Engine> {
    let config = Config::from_args(["serve"].into_iter().chain(flags.split_whitespace()))?;
    let devices = match route.samples() {
        true => config.devices(config.open()?),
        false => vec![Box::new(Nothing::new()) as Box<dyn Backend>].into(),
    };
    Ok(Engine::start(config.engine(), devices))
}

fn call_raw(io: &mut dyn RawIo, load: Load, check: bool) -> Result<Answer> {
    let mut header = [0; 9];
    header[..8].copy_from_slice(&(load.bytes() as u64).to_le_bytes());
    header[8] = u8::from(check);
    io.write_all(&header)?;
    let logits = load.logits();
    for _ in 0..load.messages {
        io.write_all(&logits)?;
    }
    let mut answer = [0; Answer::BYTES];
    io.read_exact(&mut answer)?;
    Ok(Answer::decode(&answer)?)
}

async fn call(client: &Client, load: Load, request: SampleRequest) -> Result<Vec<u32>> {
    if load.messages == 1 {
        return Ok(tokens(&client.sample(request).await?));
    }
    let (mut sender, mut receiver) = client.stream().await?.split();
    let send = async move {
        for _ in 0..load.messages {
            sender.send(request.clone()).await?;
        }
        Ok::<_, Box<dyn Error>>(())
    };
    let receive = async {
        let mut all = Vec::new();
        while let Some(answer) = receiver.receive().await {
            all.extend(tokens(&answer?.1?));
        }
        Ok(all)
    };
    Ok(tokio::try_join!(send, receive)?.1)
}

async fn call_shared(
    client: &Client,
    region: &mut Region,
    load: Load,
    check: bool,
) -> Result<Vec<u32>> {
    let request = SampleRequest { logits: Bytes::new(), ..load.request(check) };
    let bytes = load.rows * ROW_BYTES;
    let mut in_slot =
        |slot| SampleRequest { slot: Some(region.commit(slot, bytes)), ..request.clone() };
    if load.messages == 1 {
        return Ok(tokens(&client.sample(in_slot(0)).await?));
    }
    let mut stream = client.stream().await?;
    let mut all = Vec::new();
    let mut free: Vec<u32> = (0..SLOTS).collect();
    let mut slots = std::collections::HashMap::new();
    let mut unsent = load.messages;
    while unsent > 0 || !slots.is_empty() {
        if unsent > 0
            && let Some(slot) = free.pop()
        {
            slots.insert(stream.send(in_slot(slot)).await?, slot);
            unsent -= 1;
            continue;
        }
        let (id, answer) = stream.receive().await.ok_or("the stream ended")??;
        free.extend(slots.remove(&id));
        all.extend(tokens(&answer?));
    }
    Ok(all)
}

async fn call_direct(
    calls: &mut [Direct],
    region: &RefCell<Region>,
    load: Load,
    check: bool,
) -> Result<Vec<u32>> {
    let request = SampleRequest { logits: Bytes::new(), ..load.request(check) };
    let request = &request;
    let each = async move |calls: &mut Direct, slot: u32, messages: usize| {
        let mut all = Vec::new();
        for _ in 0..messages {
            let named = region.borrow_mut().commit(slot, load.rows * ROW_BYTES);
            let request = SampleRequest { slot: Some(named), ..request.clone() };
            all.extend(tokens(&calls.sample(&request).await?));
        }
        Ok::<_, Box<dyn Error>>(all)
    };
    let [first, second] = calls else { return Err("two connections".into()) };
    let half = load.messages / 2;
    let (mut all, more) =
        tokio::try_join!(each(first, 0, load.messages - half), each(second, 1, half))?;
    all.extend(more);
    Ok(all)
}

async fn call_engine(engine: &Engine, load: Load, check: bool) -> Result<Vec<u32>> {
    let request = load.request(check);
    let params = params(&request)?;
    let mut all = Vec::new();
    for _ in 0..load.messages {
        let row = |i: usize| {
            let logits = request.logits.slice(i * ROW_BYTES..(i + 1) * ROW_BYTES);
            RequestRow::new(Dtype::F16, logits, params)
        };
        let rows = (0..load.rows).map(row).collect::<std::result::Result<Vec<_>, _>>()?;
        let permit = engine.reserve(rows.len(), rows.len() * ROW_BYTES)?;
        let (priority, source) = (Priority::Normal, engine::Source::default());
        let work = engine::Request { rows, deadline: None, priority, source };
        let done = engine.submit(permit, work)?.await?;
        all.extend(done.results.iter().map(|row| row.draws[0].token));
    }
    Ok(all)
}

fn tokens(response: &SampleResponse) -> Vec<u32> {
    response.rows.iter().map(|row| row.token.unwrap_or(u32::MAX)).collect()
}

fn params(request: &SampleRequest) -> Result<SamplingParams> {
    let given = &request.params[0];
    let spec = ParamsSpec {
        temperature: given.temperature.unwrap_or(1.0),
        top_k: given.top_k,
        top_p: given.top_p.unwrap_or(1.0),
        seed: given.seed,
        position: given.position,
        ..Default::default()
    };
    Ok(spec.parse(|| 0)?)
}

/// Worked out here, by whatever answers there.
fn expected_tokens(route: Route, load: Load) -> Result<Vec<u32>> {
    let request = load.request(true);
    let params = params(&request)?;
    let rows: Vec<Row<'_>> = request
        .logits
        .chunks(ROW_BYTES)
        .map(|logits| Row::new(Dtype::F16, logits, params))
        .collect::<std::result::Result<_, _>>()?;
    let mut results = Results::default();
    match route.samples() {
        true => {
            logitd_core::backend::cpu::Cpu::new(Default::default())?.sample(&rows, &mut results)?
        }
        false => Nothing::new().sample(&rows, &mut results)?,
    }
    Ok(results.iter().map(|row| row.draws[0].token).collect())
}

/// A server's process, and where it listens.
struct Process {
    child: Child,
    address: String,
    folder: tempfile::TempDir,
}

impl Process {
    fn start(route: Route, socket: Socket, flags: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("serve").arg("--route").arg(route.to_string());
        if socket == Socket::Unix {
            command.arg("--unix").arg(folder.path().join("socket"));
        }
        if route.shares_memory() {
            command.arg("--shm").arg(folder.path().join("shm"));
        }
        command.arg("--").args(flags.split_whitespace());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
        if line.is_empty() {
            return Err(format!("{route}: the server did not start").into());
        }
        Ok(Self { child, address: line.trim_end().to_owned(), folder })
    }

    fn shm(&self) -> String {
        format!("unix:{}", self.folder.path().join("shm").display())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Its input ends, and so does it.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
