//! TLS and mutual TLS from PEM files.

use crate::config::SecurityConfig;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::client::verify_server_cert_signed_by_trust_anchor;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio_rustls::rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use tokio_rustls::rustls::{CertificateError, Error, RootCertStore, ServerConfig, crypto};

/// What TLS is spoken with.
pub struct Tls {
    /// Makes handshakes.
    pub acceptor: TlsAcceptor,
    /// When its certificates end.
    pub ends: Vec<End>,
}

/// When the first certificate of a file ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// `server`, or `client_ca`.
    pub certificate: &'static str,
    /// In seconds since 1970.
    pub unix_seconds: u64,
}

/// Reads what these settings name; `None` where they name nothing.
pub fn read(config: &SecurityConfig) -> Result<Option<Tls>, String> {
    let (Some(cert), Some(key)) = (&config.tls_cert, &config.tls_key) else { return Ok(None) };
    let provider = Arc::new(crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let mut ends = Vec::new();
    let builder = match &config.tls_client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            let certificates = certificates("--tls-client-ca", path)?;
            ends.extend(first_end("client_ca", &certificates));
            for root in certificates {
                roots.add(root).map_err(|e| named("--tls-client-ca", path, e))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            let verifier = verifier.build().map_err(|e| named("--tls-client-ca", path, e))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| match error {
        pem::Error::NoItemsFound => {
            named("--tls-key", key, "no private key in it, as PEM has them")
        }
        error => unread("--tls-key", key, error),
    })?;
    let chain = certificates("--tls-cert", cert)?;
    ends.extend(first_end("server", &chain));
    let mut tls =
        builder.with_single_cert(chain, secret).map_err(|e| named("--tls-cert", cert, e))?;
    tls.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Some(Tls { acceptor: TlsAcceptor::from(Arc::new(tls)), ends }))
}

fn first_end(certificate: &'static str, chain: &[CertificateDer<'_>]) -> Option<End> {
    let unix_seconds = chain.iter().filter_map(end).min()?;
    Some(End { certificate, unix_seconds })
}

/// When a certificate ends. Nothing here reads certificates but the library that verifies them, and it tells when
/// one has ended: so it is asked to verify it at the end of time.
fn end(certificate: &CertificateDer<'_>) -> Option<u64> {
    let end_of_time = UnixTime::since_unix_epoch(Duration::from_secs(u64::MAX));
    let verified = verify_server_cert_signed_by_trust_anchor(
        &ParsedCertificate::try_from(certificate).ok()?,
        &RootCertStore::empty(),
        &[],
        end_of_time,
        crypto::ring::default_provider().signature_verification_algorithms.all,
    );
    match verified {
        Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
            Some(not_after.as_secs())
        }
        _ => None,
    }
}

fn certificates(flag: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|e| unread(flag, path, e))?;
    if chain.is_empty() {
        return Err(named(flag, path, "no certificate in it, as PEM has them"));
    }
    Ok(chain)
}

fn unread(flag: &str, path: &Path, error: pem::Error) -> String {
    match error {
        pem::Error::Io(error) => named(flag, path, error),
        error => named(flag, path, error),
    }
}

fn named(flag: &str, path: &Path, error: impl std::fmt::Display) -> String {
    format!("{flag} {}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};

    #[test]
    fn the_end_of_a_certificate_is_read_from_leaves_and_authorities() {
        for ca in [IsCa::NoCa, IsCa::Ca(BasicConstraints::Unconstrained)] {
            // The century is written in two ways: before 2050, and from then on.
            for (year, unix_seconds) in [(2031, 1_927_238_400), (2101, 4_136_227_200)] {
                let mut params = CertificateParams::new(vec!["localhost".into()]).unwrap();
                params.is_ca = ca;
                params.not_after = date_time_ymd(year, 1, 27);
                let signed = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
                assert_eq!(end(signed.der()), Some(unix_seconds), "{year} {ca:?}");
            }
        }
    }
}
