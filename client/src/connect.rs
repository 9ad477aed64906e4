//! Targets, TLS and tokens.

use super::uncopied::Transport;
use super::version::Version;
use super::{Client, Error, Options};
use http::uri::Authority;
use logitd_proto::sampler_service_client::SamplerServiceClient;
use std::error::Error as _;
use std::io;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::time::Duration;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};

/// The largest answer taken. A server's limits keep its answers far below.
pub(super) const RESPONSE_BYTES_MAX: usize = 64 << 20;
/// Flow-control windows: answers are small, but many may be on their way.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to be made. Made by [`Client::builder`].
#[derive(Clone, Debug)]
pub struct Builder {
    target: String,
    tls: Option<ClientTlsConfig>,
    token: Option<String>,
    options: Options,
    connect_timeout: Duration,
}

impl Builder {
    pub(super) fn new(target: String) -> Self {
        Self {
            target,
            tls: None,
            token: None,
            options: Options::default(),
            connect_timeout: CONNECT_TIMEOUT,
        }
    }

    /// Certificates, PEM, that a server of `https://` must be certified by.
    pub fn tls_roots(mut self, pem: impl AsRef<[u8]>) -> Self {
        let tls = self.tls.take().unwrap_or_default();
        self.tls = Some(tls.ca_certificate(Certificate::from_pem(pem)));
        self
    }

    /// This client's certificate chain and key, PEM, for servers that ask for one.
    pub fn tls_identity(mut self, cert_pem: impl AsRef<[u8]>, key_pem: impl AsRef<[u8]>) -> Self {
        let tls = self.tls.take().unwrap_or_default();
        self.tls = Some(tls.identity(Identity::from_pem(cert_pem, key_pem)));
        self
    }

    /// The name in the server's certificate, where it is not the target's host.
    pub fn tls_domain(mut self, name: impl Into<String>) -> Self {
        let tls = self.tls.take().unwrap_or_default();
        self.tls = Some(tls.domain_name(name));
        self
    }

    /// A bearer token.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// How long each attempt of a call may take; the server gives up by then too. Default: no limit.
    /// Streams have no limit.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.options.timeout = Some(timeout);
        self
    }

    /// How often [`Client::sample`] asks again when the server has no room, each time after as long as
    /// the server says. Default 0.
    pub fn retries_max(mut self, retries_max: u32) -> Self {
        self.options.retries_max = retries_max;
        self
    }

    /// How long connecting may take. Default 10 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Connects.
    pub async fn connect(self) -> Result<Client, Error> {
        let bearer = Bearer::new(self.token.as_deref())?;
        let endpoint = self.endpoint()?;
        let target = match self.target.contains(':') {
            true => self.target.clone(),
            // Its port is not said there.
            false => format!("{} (port {PORT})", self.target),
        };
        let channel = endpoint
            .connect()
            .await
            .map_err(|error| Error::Connect { target, reason: deepest(&error) })?;
        let service =
            SamplerServiceClient::new(Transport(InterceptedService::new(channel, bearer.clone())))
                .max_decoding_message_size(RESPONSE_BYTES_MAX)
                // Refused by the server, which says what it takes.
                .max_encoding_message_size(usize::MAX);
        let version = Version::new(service.clone());
        Ok(Client { service, bearer, options: self.options, version })
    }

    fn endpoint(&self) -> Result<Endpoint, Error> {
        let wrong = |reason: String| Error::Target(format!("{}: {reason}", self.target));
        let uri = uri(&self.target).map_err(wrong)?;
        let endpoint = Endpoint::new(uri).map_err(|e| wrong(deepest(&e)))?;
        let endpoint = match (&self.tls, self.target.starts_with("https://")) {
            (Some(tls), true) => {
                endpoint.tls_config(tls.clone()).map_err(|e| wrong(deepest(&e)))?
            }
            (None, true) => {
                let text = "https needs certificates to know the server by (Builder::tls_roots)";
                return Err(wrong(text.into()));
            }
            (Some(_), false) => return Err(wrong("TLS options go with https:// only".into())),
            (None, false) => endpoint,
        };
        endpoint
            .connect_timeout(self.connect_timeout)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .user_agent(concat!("logitd/", env!("CARGO_PKG_VERSION")))
            .map_err(|e| wrong(e.to_string()))
    }
}

/// The port of a target that names none: that of `logitd serve`.
const PORT: u16 = 50051;
const TARGETS: &str = "write http://HOST:PORT, https://HOST:PORT, HOST or unix:PATH";

/// A target as the transport wants it. A host by itself is a server at its usual port; a URL without a port, which
/// would be port 80 or 443, most likely lacks one.
fn uri(target: &str) -> Result<String, String> {
    if let Some(path) = target.strip_prefix("unix:") {
        return unix_uri(path);
    }
    let (scheme, authority) = match target.split_once("://") {
        Some((scheme @ ("http" | "https"), rest)) => (Some(scheme), rest),
        Some(_) => return Err(TARGETS.into()),
        None => (None, target),
    };
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    let authority = match authority.parse::<Ipv6Addr>() {
        Ok(address) => format!("[{address}]"),
        Err(_) => authority.to_owned(),
    };
    let parsed: Authority = authority.parse().map_err(|error| format!("{error}; {TARGETS}"))?;
    let host = parsed.host();
    let port = authority[authority.find(host).unwrap_or(0) + host.len()..].strip_prefix(':');
    let port = match (port, scheme) {
        _ if host.is_empty() => return Err(format!("names no host; {TARGETS}")),
        (Some(port), _) => match port.parse::<u16>() {
            Ok(port @ 1..) => port,
            _ => return Err(format!("names the port {port:?}; allowed: 1 to 65535")),
        },
        (None, None) => PORT,
        (None, Some(scheme)) => {
            return Err(format!(
                "names no port; logitd serve listens on {PORT}: {scheme}://{host}:{PORT}"
            ));
        }
    };
    Ok(format!("{}://{host}:{port}", scheme.unwrap_or("http")))
}

/// `unix:PATH` as the transport wants it: with an absolute path.
fn unix_uri(path: &str) -> Result<String, String> {
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.is_empty() {
        return Err("unix: needs a path, as in unix:/run/logitd.sock".into());
    }
    let path: PathBuf = std::path::absolute(path).map_err(|e| e.to_string())?;
    let path = path.to_str().ok_or("the path is not UTF-8")?;
    Ok(format!("unix://{path}"))
}

/// The innermost reason, which says most.
fn deepest(error: &tonic::transport::Error) -> String {
    let mut reason = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        reason = inner.to_string();
        let kind = inner.downcast_ref().map(io::Error::kind);
        if matches!(kind, Some(io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)) {
            reason += "; no server listens there";
        }
        source = inner.source();
    }
    reason
}

/// Adds the token to every call.
#[derive(Clone, Debug)]
pub(super) struct Bearer(Option<MetadataValue<Ascii>>);

impl Bearer {
    fn new(token: Option<&str>) -> Result<Self, Error> {
        let header = |token: &str| {
            let mut value: MetadataValue<Ascii> = format!("Bearer {token}")
                .parse()
                .map_err(|_| Error::Target("the token is not visible ASCII".into()))?;
            value.set_sensitive(true);
            Ok(value)
        };
        token.map(header).transpose().map(Self)
    }

    /// The token by itself.
    pub(super) fn token(&self) -> Option<&str> {
        self.0.as_ref()?.to_str().ok()?.strip_prefix("Bearer ")
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_names_a_port_or_has_that_of_the_server() {
        for (target, expected) in [
            ("localhost", "http://localhost:50051"),
            ("127.0.0.1", "http://127.0.0.1:50051"),
            ("::1", "http://[::1]:50051"),
            ("[::1]", "http://[::1]:50051"),
            ("[::1]:7", "http://[::1]:7"),
            ("host:80", "http://host:80"),
            ("http://host:80/", "http://host:80"),
            ("https://host:443", "https://host:443"),
            ("unix:/run/a", "unix:///run/a"),
            ("unix:///run/a", "unix:///run/a"),
        ] {
            assert_eq!(uri(target).as_deref(), Ok(expected), "{target}");
        }
        for (target, part) in [
            (
                "http://localhost",
                "names no port; logitd serve listens on 50051: http://localhost:50051",
            ),
            ("https://host/", "https://host:50051"),
            ("host:", "names the port \"\""),
            ("host:0", "names the port \"0\"; allowed: 1 to 65535"),
            ("host:65536", "names the port \"65536\""),
            ("host:http", "names the port"),
            ("http://host:80/path", "write http://HOST:PORT"),
            ("ftp://host:1", "write http://HOST:PORT"),
            ("", "write http://HOST:PORT"),
            (":50051", "write http://HOST:PORT"),
            ("unix:", "needs a path"),
        ] {
            let error = uri(target).expect_err(target);
            assert!(error.contains(part), "{target}: {error}");
        }
    }
}
