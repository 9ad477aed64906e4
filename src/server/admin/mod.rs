//! The port that has a page for people: a playground of the controls, the last minutes of the server, and reports.
//!
//! It shares no budget with sampling. Its connections are counted by themselves ([`web`]), what it computes is computed
//! by a thread of its own and of the lowest priority ([`worker`]), and what it tells of the server is read from the metrics
//! every other second, however many pages are open ([`live`](mod@live)).

mod chi;
mod controls;
mod copy;
mod live;
mod look;
mod rows;
mod studies;
mod worker;

use super::credentials::Credentials;
use super::{metrics, scrape, web};
use crate::config::Config;
use crate::engine::Engine;
use crate::files::npy;
use crate::files::params::{self, Set};
use axum::body::{Body, to_bytes};
use axum::extract::{Path, Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderValue, REFERRER_POLICY,
    RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::{map_request, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::{Router, get, post};
use live::Live;
use logitd_core::adjustments;
use logitd_core::batch::Dtype;
use rows::RowName;
use serde_json::json;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use worker::{Worker, WorkerError};

/// Bytes of a question.
const QUESTION_BYTES_MAX: usize = 256 << 10;
/// How long a question, or a file, may take to arrive.
const ARRIVE_TIMEOUT: Duration = Duration::from_secs(60);
/// First tokens that are told unless somebody asks for more.
const TOP: u32 = 24;
/// Nothing from elsewhere, and nothing that is written into the page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Of reports, whose style is written into them, and which have no scripts.
const REPORT_POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox; frame-ancestors 'none'";

/// The files of the page: where, what, and their text.
const FILES: [(&str, &str, &str); 8] = [
    ("/", HTML, include_str!("../../../templates/admin/play.html")),
    ("/live", HTML, include_str!("../../../templates/admin/live.html")),
    ("/common.js", SCRIPT, include_str!("../../../templates/admin/common.js")),
    ("/play.js", SCRIPT, include_str!("../../../templates/admin/play.js")),
    ("/live.js", SCRIPT, include_str!("../../../templates/admin/live.js")),
    ("/style.css", "text/css; charset=utf-8", STYLE),
    ("/icon.svg", ICON_TYPE, ICON),
    // Where browsers look that have not read the page yet.
    ("/favicon.ico", ICON_TYPE, ICON),
];
const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const ICON_TYPE: &str = "image/svg+xml";
const ICON: &str = include_str!("../../../templates/admin/icon.svg");
/// What reports have, and more.
const STYLE: &str = concat!(
    include_str!("../../../templates/style.css"),
    include_str!("../../../templates/admin/admin.css")
);

/// What pages ask.
struct Admin {
    worker: Worker,
    live: Live,
    draining: CancellationToken,
    limits: look::Limits,
    upload_bytes_max: usize,
    /// One file arrives at a time, so that those on their way take no more memory than one.
    uploading: Semaphore,
    studies: Option<PathBuf>,
    targets: Vec<String>,
    page: String,
    token: bool,
}

/// Binds the port. From here on there is something to tell.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    metrics::install();
    TcpListener::bind(address).await
}

/// Answers pages, until dropped.
pub async fn serve(
    listener: TcpListener,
    config: &Config,
    targets: Vec<String>,
    engine: Engine,
    credentials: Arc<Credentials>,
    draining: CancellationToken,
) {
    let Ok(address) = listener.local_addr() else { return };
    let work = &config.work;
    let admin = Arc::new(Admin {
        worker: Worker::new(config.admin.admin_waiting_max, config.admin.admin_upload_bytes_max),
        live: Live::new(engine),
        draining,
        limits: look::Limits {
            adjustments: adjustments::Limits {
                history_tokens_max: work.history_tokens_max as usize,
                adjusted_tokens_max: work.adjusted_tokens_max as usize,
            },
            race_tokens_max: work.request_race_tokens_max,
        },
        upload_bytes_max: config.admin.admin_upload_bytes_max,
        uploading: Semaphore::new(1),
        studies: config.admin.studies_dir.clone(),
        targets,
        page: format!("http://{address}"),
        token: credentials.tokens().is_some(),
    });
    let bounds = web::Bounds {
        port: "page's",
        connections_max: config.admin.admin_connections_max,
        ask_timeout: Duration::from_secs(10),
        timeout: Duration::from_secs(600),
        keep_alive: true,
    };
    let local = address.ip().is_loopback();
    let routes = routes(Arc::clone(&admin), credentials, local);
    tokio::select! {
        () = admin.live.watch() => {}
        () = web::serve(listener, routes, bounds) => {}
    }
}

/// What the port answers. What is the same for everybody needs no token.
fn routes(admin: Arc<Admin>, credentials: Arc<Credentials>, local: bool) -> Router {
    let asked = credentials.tokens().is_some().then_some(credentials);
    let secret = Router::new()
        .route("/api/about", get(about))
        .route("/api/look", post(look))
        .route("/api/copy", post(copies))
        .route("/api/upload", post(upload))
        .route("/api/row.npy", get(row))
        .route("/api/live", get(live))
        .route("/api/studies", get(list))
        .route("/studies/{name}", get(report))
        .route("/metrics", get(scrape::text))
        .layer(map_request(move |request| std::future::ready(scrape::admit(&asked, request))));
    let mut open = Router::new().route("/healthz", get(health));
    for (path, kind, text) in FILES {
        open = open.route(path, get(async move || ([(CONTENT_TYPE, kind)], text)));
    }
    open.merge(secret)
        .fallback(nothing_else)
        .method_not_allowed_fallback(async || {
            refuse(StatusCode::METHOD_NOT_ALLOWED, "this address is asked by another method")
        })
        .layer(map_request(move |request| std::future::ready(own(request, local))))
        .layer(map_response(protect))
        .with_state(admin)
}

/// Refuses what pages of elsewhere have browsers ask: by a name that they gave to this host, or across sites.
fn own(request: Request, local: bool) -> Result<Request, Refusal> {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let host = header(HOST.as_str()).unwrap_or_default();
    if local && !is_this_host(host) {
        let text = format!("the host is {host:?}; allowed: localhost, or a loopback address");
        return Err(refuse(StatusCode::FORBIDDEN, &text));
    }
    match header("sec-fetch-site") {
        // A link from elsewhere may lead here; a form of elsewhere may not send anything.
        Some("cross-site")
            if header("sec-fetch-mode") != Some("navigate") || request.method() != Method::GET =>
        {
            Err(refuse(StatusCode::FORBIDDEN, "asked by a page of elsewhere"))
        }
        _ => Ok(request),
    }
}

fn is_this_host(host: &str) -> bool {
    let (name, _) = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (name, port),
        _ => (host, ""),
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// What every answer says beside itself.
async fn protect(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

async fn nothing_else(uri: Uri) -> Refusal {
    refuse(StatusCode::NOT_FOUND, &format!("there is no {}; / is the page", uri.path()))
}

/// Why a question is not answered.
struct Refusal {
    status: StatusCode,
    error: String,
    /// Whether it may be asked again, in a second.
    again: bool,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = answer(self.status, json!({ "error": self.error }).to_string());
        if self.again {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<WorkerError> for Refusal {
    fn from(error: WorkerError) -> Self {
        let again = matches!(error, WorkerError::Busy(_));
        let status = match again {
            true => StatusCode::SERVICE_UNAVAILABLE,
            false => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { status, error: error.to_string(), again }
    }
}

fn refuse(status: StatusCode, error: &str) -> Refusal {
    Refusal { status, error: error.into(), again: false }
}

fn wrong(error: String) -> Refusal {
    Refusal { status: StatusCode::BAD_REQUEST, error, again: false }
}

fn answer(status: StatusCode, json: String) -> Response {
    (status, [(CONTENT_TYPE, "application/json")], json).into_response()
}

fn as_json(value: &impl serde::Serialize) -> Response {
    match serde_json::to_string(value) {
        Ok(json) => answer(StatusCode::OK, json),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()).into_response(),
    }
}

/// What stands behind a key of an address; digits, letters and dots need no more than that.
fn asked<'a>(uri: &'a Uri, key: &str) -> Option<&'a str> {
    let pairs = uri.query()?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find(|(name, _)| *name == key).map(|(_, value)| value)
}

fn row_name(uri: &Uri) -> Result<RowName, Refusal> {
    asked(uri, "row").unwrap_or("0").parse().map_err(wrong)
}

/// A number of an address, within bounds.
fn number(uri: &Uri, key: &str, default: u64, most: u64) -> Result<u64, Refusal> {
    let Some(text) = asked(uri, key) else { return Ok(default) };
    let number = text.parse().ok().filter(|number| *number <= most);
    number.ok_or_else(|| wrong(format!("{key} is {text:?}; allowed: 0 to {most}")))
}

/// A body of so many bytes, once it is there.
async fn body(body: Body, flag: &str, most: usize) -> Result<Vec<u8>, Refusal> {
    let late = || {
        let text = format!("the body did not arrive within {} s", ARRIVE_TIMEOUT.as_secs());
        refuse(StatusCode::REQUEST_TIMEOUT, &text)
    };
    let arrived = tokio::time::timeout(ARRIVE_TIMEOUT, to_bytes(body, most)).await;
    match arrived.map_err(|_| late())? {
        Ok(bytes) => Ok(bytes.into()),
        Err(_) => {
            let text = format!("the body has more than {most} bytes{flag}, or was cut off");
            Err(refuse(StatusCode::PAYLOAD_TOO_LARGE, &text))
        }
    }
}

/// The parameters of a question: a line as `--params` has them.
async fn set(request: Request) -> Result<Set, Refusal> {
    let bytes = body(request.into_body(), "", QUESTION_BYTES_MAX).await?;
    let text = String::from_utf8(bytes).map_err(|_| wrong("the question is not UTF-8".into()))?;
    let text = if text.trim().is_empty() { "{}" } else { &text };
    params::line(text, &Set::default()).map_err(wrong)
}

type Asked = State<Arc<Admin>>;
type Answer = Result<Response, Refusal>;

async fn health(State(admin): Asked) -> Response {
    match admin.draining.is_cancelled() {
        false => as_json(&json!({ "status": "serving" })),
        true => {
            answer(StatusCode::SERVICE_UNAVAILABLE, json!({ "status": "draining" }).to_string())
        }
    }
}

async fn about(State(admin): Asked) -> Answer {
    let rows = admin.worker.ask(|_| rows::carried()).await?;
    Ok(as_json(&json!({
        "version": env!("CARGO_PKG_VERSION"),
        "arithmetic_version": logitd_core::arithmetic::VERSION,
        "targets": admin.targets,
        "rows": rows,
        "controls": controls::controls(),
        "upload_bytes_max": admin.upload_bytes_max,
        "studies": admin.studies.is_some(),
    })))
}

async fn look(State(admin): Asked, request: Request) -> Answer {
    let row = row_name(request.uri())?;
    let top = number(request.uri(), "top", TOP.into(), look::TOP_MAX.into())? as u32;
    let set = set(request).await?;
    let limits = admin.limits;
    let seen = admin.worker.ask(move |bench| look::look(bench, &row, &set, top.max(1), limits));
    let seen = seen.await?.map_err(wrong)?;
    Ok(as_json(&seen))
}

async fn copies(State(admin): Asked, request: Request) -> Answer {
    let name = row_name(request.uri())?;
    let set = set(request).await?;
    let shared = Arc::clone(&admin);
    let said = admin.worker.ask(move |bench| {
        let view = bench.uploads.view(&name)?;
        let logits = copy::Logits {
            name: &name,
            dtype: match view.dtype {
                Dtype::F16 => "DTYPE_F16",
                Dtype::Bf16 => "DTYPE_BF16",
                Dtype::F32 => "DTYPE_F32",
            },
            vocab_size: view.vocab_size,
            bytes: view.logits.len(),
        };
        let target = shared.targets.first().map_or("http://127.0.0.1:50051", String::as_str);
        let place = copy::Place { target, page: &shared.page, token: shared.token };
        Ok(copy::copies(&set, logits, &place))
    });
    let said = said.await?.map_err(wrong)?;
    Ok(as_json(&said))
}

async fn upload(State(admin): Asked, request: Request) -> Answer {
    let dtype = match asked(request.uri(), "dtype") {
        None | Some("") => None,
        Some(name) => Some(
            Dtype::ALL
                .into_iter()
                .find(|dtype| dtype.name() == name)
                .ok_or_else(|| wrong(format!("dtype is {name:?}; allowed: f16, bf16, f32")))?,
        ),
    };
    let most = admin.upload_bytes_max;
    let Ok(_one) = admin.uploading.try_acquire() else {
        let text =
            "another file is on its way; one is taken at a time; send it again when that is here";
        return Err(refuse(StatusCode::SERVICE_UNAVAILABLE, text));
    };
    let bytes = body(request.into_body(), " (--admin-upload-bytes-max)", most).await?;
    let added = admin.worker.ask(move |bench| bench.uploads.add(bytes, dtype));
    let added = added.await?.map_err(wrong)?;
    Ok(as_json(&added))
}

async fn row(State(admin): Asked, uri: Uri) -> Answer {
    let name = row_name(&uri)?;
    let file = admin.worker.ask(move |bench| {
        let view = bench.uploads.view(&name)?;
        let mut bytes = Vec::new();
        npy::write_to(&mut bytes, view.dtype, view.vocab_size, view.logits)
            .map_err(|error| error.to_string())?;
        Ok(bytes)
    });
    let file = file.await?.map_err(wrong)?;
    Ok(([(CONTENT_TYPE, "application/octet-stream")], file).into_response())
}

async fn live(State(admin): Asked, uri: Uri) -> Answer {
    let since = number(&uri, "since", 0, u64::MAX)?;
    Ok(answer(StatusCode::OK, admin.live.told(since, admin.draining.is_cancelled())))
}

async fn list(State(admin): Asked) -> Answer {
    let Some(folder) = admin.studies.clone() else { return Ok(as_json(&json!([]))) };
    Ok(as_json(&blocking(move || studies::list(&folder)).await?))
}

async fn report(State(admin): Asked, Path(name): Path<String>) -> Answer {
    let Some(folder) = admin.studies.clone() else {
        return Err(refuse(StatusCode::NOT_FOUND, "there is no --studies-dir"));
    };
    let page = blocking(move || studies::read(&folder, &name)).await?;
    let headers = [(CONTENT_TYPE, HTML), (CONTENT_SECURITY_POLICY, REPORT_POLICY)];
    Ok((headers, page).into_response())
}

/// What a disk says, away from the threads that serve.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, Refusal> {
    let done = tokio::task::spawn_blocking(work).await;
    let done =
        done.map_err(|error| refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()))?;
    done.map_err(|error| refuse(StatusCode::NOT_FOUND, &error))
}
