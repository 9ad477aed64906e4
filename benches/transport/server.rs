//! The servers, each in a process of its own.

use super::answer::Receipt;
use super::case::{CHECK_POSITION, ROW_BYTES, Route};
use super::nothing::Nothing;
use bytes::Bytes;
use logitd::config::Config;
use logitd::engine::{Devices, Engine};
use logitd::server::Server;
use logitd_core::backend::Backend;
use logitd_proto::sampler_service_server::{SamplerService, SamplerServiceServer};
use logitd_proto::{
    BeamStepRequest, BeamStepResponse, EvaluateRequest, EvaluateResponse, EvaluateStreamRequest,
    EvaluateStreamResponse, GetInfoRequest, GetInfoResponse, RowResult, SampleRequest,
    SampleResponse, SampleStreamRequest, SampleStreamResponse, VerifyRequest, VerifyResponse,
    VerifyStreamRequest, VerifyStreamResponse, sample_stream_response,
};
use std::error::Error;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::pin::Pin;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

type Result<T> = std::result::Result<T, Box<dyn Error>>;
/// Of a task.
type Sent<T> = std::result::Result<T, h2::Error>;

/// The HTTP/2 settings of all, which are logitd's own defaults.
const FRAME_BYTES: u32 = 1 << 20;
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// What the raw server reads into, over and over.
const RAW_BUFFER_BYTES: usize = 1 << 20;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[arg(long)]
    route: Route,
    /// A path; without it the server listens on a free port
    #[arg(long)]
    unix: Option<PathBuf>,
    /// Where logitd takes memory
    #[arg(long)]
    shm: Option<PathBuf>,
    /// Flags of logitd
    #[arg(allow_hyphen_values = true, trailing_var_arg = true)]
    flags: Vec<String>,
}

/// Says where it listens, and serves until its input ends.
pub fn run(args: Args) -> Result<()> {
    std::thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        std::process::exit(0);
    });
    if args.route == Route::Raw {
        return raw(&args);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match args.route {
            Route::H2 => h2_alone(&args).await,
            Route::H2Tonic | Route::Tonic => tonic_alone(&args).await,
            _ => logitd(&args).await,
        }
    })
}

fn ready(address: impl std::fmt::Display) {
    println!("{address}");
}

fn raw(args: &Args) -> Result<()> {
    match &args.unix {
        Some(path) => {
            let listener = std::os::unix::net::UnixListener::bind(path)?;
            ready(path.display());
            raw_calls(listener.accept()?.0)
        }
        None => {
            let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
            ready(listener.local_addr()?);
            let (stream, _) = listener.accept()?;
            stream.set_nodelay(true)?;
            raw_calls(stream)
        }
    }
}

/// A length, whether to look at what comes, and so many bytes.
fn raw_calls(mut io: impl Read + Write) -> Result<()> {
    let mut buffer = vec![0; RAW_BUFFER_BYTES];
    loop {
        let mut header = [0; 9];
        if io.read_exact(&mut header).is_err() {
            return Ok(()); // The caller has left.
        }
        let mut left = u64::from_le_bytes(header[..8].try_into()?) as usize;
        let mut receipt = Receipt::new(header[8] != 0);
        while left > 0 {
            let room = left.min(buffer.len());
            let read = io.read(&mut buffer[..room])?;
            if read == 0 {
                return Ok(());
            }
            receipt.add(&buffer[..read]);
            left -= read;
        }
        io.write_all(&receipt.answer().encode())?;
    }
}

async fn h2_alone(args: &Args) -> Result<()> {
    // A task, as with hyper: what is awaited outside of any is polled from far away.
    match &args.unix {
        Some(path) => {
            let listener = tokio::net::UnixListener::bind(path)?;
            ready(path.display());
            Ok(tokio::spawn(h2_calls(listener.accept().await?.0)).await??)
        }
        None => {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
            ready(listener.local_addr()?);
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            Ok(tokio::spawn(h2_calls(stream)).await??)
        }
    }
}

async fn h2_calls(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Sent<()> {
    let mut connection = h2::server::Builder::new()
        .max_frame_size(FRAME_BYTES)
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .handshake::<_, Bytes>(io)
        .await?;
    while let Some(call) = connection.accept().await {
        let (request, mut respond) = call?;
        tokio::spawn(async move {
            let check = request.headers().get("x-check").is_some_and(|value| value == "1");
            let mut receipt = Receipt::new(check);
            let mut body = request.into_body();
            while let Some(Ok(piece)) = body.data().await {
                receipt.add(&piece);
                let _ = body.flow_control().release_capacity(piece.len());
            }
            let answer = Bytes::copy_from_slice(&receipt.answer().encode());
            if let Ok(mut body) = respond.send_response(http::Response::new(()), false) {
                let _ = body.send_data(answer, true);
            }
        });
    }
    Ok(())
}

async fn tonic_alone(args: &Args) -> Result<()> {
    let service = SamplerServiceServer::new(Bare).max_decoding_message_size(usize::MAX);
    let server = tonic::transport::Server::builder()
        .max_frame_size(FRAME_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .add_service(service);
    match &args.unix {
        Some(path) => {
            let listener = tokio::net::UnixListener::bind(path)?;
            ready(path.display());
            server.serve_with_incoming(UnixListenerStream::new(listener)).await?;
        }
        None => {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
            ready(listener.local_addr()?);
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            server.serve_with_incoming(incoming).await?;
        }
    }
    Ok(())
}

/// Decodes, and throws away.
struct Bare;

fn bare_answer(request: &SampleRequest) -> SampleResponse {
    let check = request.params.first().is_some_and(|params| params.position == CHECK_POSITION);
    let row = |row: &[u8]| {
        let token = Some(if check { crc32fast::hash(row) } else { 0 });
        RowResult { token, ..Default::default() }
    };
    let rows = request.logits.chunks(ROW_BYTES).map(row).collect();
    SampleResponse { rows, ..Default::default() }
}

#[tonic::async_trait]
impl SamplerService for Bare {
    type SampleStreamStream =
        Pin<Box<dyn Stream<Item = std::result::Result<SampleStreamResponse, Status>> + Send>>;
    type EvaluateStreamStream =
        tokio_stream::Empty<std::result::Result<EvaluateStreamResponse, Status>>;
    type VerifyStreamStream =
        tokio_stream::Empty<std::result::Result<VerifyStreamResponse, Status>>;

    async fn sample(
        &self,
        request: Request<SampleRequest>,
    ) -> std::result::Result<Response<SampleResponse>, Status> {
        Ok(Response::new(bare_answer(request.get_ref())))
    }

    async fn sample_stream(
        &self,
        request: Request<Streaming<SampleStreamRequest>>,
    ) -> std::result::Result<Response<Self::SampleStreamStream>, Status> {
        let answers = request.into_inner().map(|message| {
            let SampleStreamRequest { id, request, .. } = message?;
            let response = bare_answer(&request.unwrap_or_default());
            let mut answer = SampleStreamResponse { id, ..Default::default() };
            answer.result = Some(sample_stream_response::Result::Response(response));
            Ok(answer)
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn evaluate(
        &self,
        _: Request<EvaluateRequest>,
    ) -> std::result::Result<Response<EvaluateResponse>, Status> {
        Err(Status::unimplemented("nothing is evaluated here"))
    }

    async fn evaluate_stream(
        &self,
        _: Request<Streaming<EvaluateStreamRequest>>,
    ) -> std::result::Result<Response<Self::EvaluateStreamStream>, Status> {
        Err(Status::unimplemented("nothing is evaluated here"))
    }

    async fn verify(
        &self,
        _: Request<VerifyRequest>,
    ) -> std::result::Result<Response<VerifyResponse>, Status> {
        Err(Status::unimplemented("nothing is verified here"))
    }

    async fn verify_stream(
        &self,
        _: Request<Streaming<VerifyStreamRequest>>,
    ) -> std::result::Result<Response<Self::VerifyStreamStream>, Status> {
        Err(Status::unimplemented("nothing is verified here"))
    }

    async fn beam_step(
        &self,
        _: Request<BeamStepRequest>,
    ) -> std::result::Result<Response<BeamStepResponse>, Status> {
        Err(Status::unimplemented("no beams are here"))
    }

    async fn get_info(
        &self,
        _: Request<GetInfoRequest>,
    ) -> std::result::Result<Response<GetInfoResponse>, Status> {
        Ok(Response::new(GetInfoResponse::default()))
    }
}

async fn logitd(args: &Args) -> Result<()> {
    let mut flags = vec!["serve".to_owned()];
    flags.push(match &args.unix {
        Some(path) => format!("--listen=unix:{}", path.display()),
        None => "--listen=127.0.0.1:0".to_owned(),
    });
    flags.extend(args.shm.as_ref().map(|path| format!("--shm=unix:{}", path.display())));
    flags.extend(args.flags.iter().cloned());
    let config = Config::from_args(flags)?;
    logitd::server::metrics::install();
    let devices: Devices = match args.route.samples() {
        true => config.devices(config.open()?),
        false => vec![Box::new(Nothing::new()) as Box<dyn Backend>].into(),
    };
    let engine = Engine::start(config.engine(), devices);
    let server = Server::bind(config).await?;
    let target = server.targets().remove(0);
    let address = target.trim_start_matches("http://").trim_start_matches("unix:");
    ready(address);
    Ok(server.run(engine, std::future::pending()).await?)
}
