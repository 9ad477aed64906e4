//! What every request passes before it reaches its service, whichever that is: it must be gRPC, within the bounds
//! of headers, and by somebody who may ask.
//!
//! Who comes with something else (a browser, `curl`, gRPC-Web, JSON) is told in words what is spoken here.

use super::account::Account;
use super::convert;
use super::credentials::Credentials;
use super::error::Error;
use super::metrics::RequestWatch;
use crate::plane::Peer;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use std::convert::Infallible;
use std::sync::Arc;
use tonic::body::Body;
use tonic::service::Routes;
use tower::ServiceExt;

/// What a client is told that does not speak gRPC.
pub const WAY_OUT: &str = "logitd speaks gRPC over HTTP/2 (POST, content-type application/grpc) and nothing else here: \
    use a gRPC client, grpcurl, or `buf curl --protocol grpc --http2-prior-knowledge`. For gRPC-Web and JSON put a \
    proxy in front that translates them (Envoy: envoy.filters.http.grpc_web, grpc_json_transcoder). \
    Metrics are served at --metrics-listen.\n";

/// Bytes that HTTP/2 counts for each header beside its name and its value.
const HEADER_OVERHEAD_BYTES: usize = 32;

/// The services behind what all of them have in common.
#[derive(Clone)]
pub struct Front {
    routes: Routes,
    credentials: Arc<Credentials>,
    header_bytes_max: usize,
}

impl Front {
    /// Guards `routes`.
    pub fn new(routes: Routes, credentials: Arc<Credentials>, header_bytes_max: usize) -> Self {
        Self { routes, credentials, header_bytes_max }
    }

    /// Answers one request of a connection. `peer` is who the kernel says is at the other end, if it does;
    /// `account` is what the connection holds.
    pub async fn call(
        self,
        request: Request<Incoming>,
        peer: Option<Peer>,
        account: Arc<Account>,
    ) -> Result<Response<Body>, Infallible> {
        let response = match not_grpc(&request) {
            Some(response) => response,
            None => match self.check(&request) {
                Err(error) => refuse(&error),
                Ok(()) => {
                    let mut request = request.map(Body::new);
                    let extensions = request.extensions_mut();
                    extensions.insert(account);
                    peer.map(|peer| extensions.insert(peer));
                    self.routes.oneshot(request).await?
                }
            },
        };
        Ok(response)
    }

    fn check(&self, request: &Request<Incoming>) -> Result<(), Error> {
        let bytes = header_bytes(request);
        if bytes > self.header_bytes_max {
            return Err(Error::HeadersTooLarge { bytes, limit: self.header_bytes_max });
        }
        // What the services say that are not ours is nobody's secret but the shape of the API: asked of all the same,
        // since who has no token has no business here. Health is for balancers, which have none.
        if request.uri().path().starts_with("/grpc.reflection.") {
            self.credentials.check(request.headers())?;
        }
        match request.headers().get("grpc-encoding").map(HeaderValue::as_bytes) {
            None | Some(b"identity") => Ok(()),
            Some(other) => Err(Error::Compressed(String::from_utf8_lossy(other).into_owned())),
        }
    }
}

/// As HTTP/2 counts them.
fn header_bytes<B>(request: &Request<B>) -> usize {
    let size = |name: usize, value: usize| name + value + HEADER_OVERHEAD_BYTES;
    let uri = request.uri();
    let pseudo = [
        (":method", request.method().as_str().len()),
        (":scheme", uri.scheme_str().map_or(0, str::len)),
        (":authority", uri.authority().map_or(0, |authority| authority.as_str().len())),
        (":path", uri.path_and_query().map_or(0, |path| path.as_str().len())),
    ];
    let pseudo: usize = pseudo.iter().map(|(name, value)| size(name.len(), *value)).sum();
    let headers = request.headers().iter();
    pseudo + headers.map(|(name, value)| size(name.as_str().len(), value.len())).sum::<usize>()
}

/// What a request is answered with that is not gRPC, in the words of HTTP.
fn not_grpc<B>(request: &Request<B>) -> Option<Response<Body>> {
    let content_type = request.headers().get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let status = match *request.method() {
        Method::POST if is_grpc(content_type) => return None,
        Method::POST => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        _ => StatusCode::METHOD_NOT_ALLOWED,
    };
    let mut response = Response::new(Body::new(http_body_util::Full::from(WAY_OUT)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(ALLOW, HeaderValue::from_static("POST"));
    Some(response)
}

/// gRPC with protobuf. gRPC-Web begins with the same letters.
fn is_grpc(content_type: &[u8]) -> bool {
    let end = content_type.iter().position(|&byte| byte == b';').unwrap_or(content_type.len());
    let kind = content_type[..end].trim_ascii();
    ["application/grpc", "application/grpc+proto"]
        .iter()
        .any(|known| kind.eq_ignore_ascii_case(known.as_bytes()))
}

fn refuse(error: &Error) -> Response<Body> {
    let status = convert::status(error);
    RequestWatch::begin().done(status.code());
    let mut response = status.into_http();
    if matches!(error, Error::Compressed(_)) {
        response.headers_mut().insert("grpc-accept-encoding", HeaderValue::from_static("identity"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_is_told_from_what_only_looks_like_it() {
        for grpc in
            ["application/grpc", "application/grpc+proto", "Application/gRPC ; charset=utf-8"]
        {
            assert!(is_grpc(grpc.as_bytes()), "{grpc}");
        }
        for other in [
            "",
            "application/json",
            "application/grpc-web",
            "application/grpc-web+proto",
            "application/grpc+json",
            "application/grpcx",
        ] {
            assert!(!is_grpc(other.as_bytes()), "{other}");
        }
    }
}
