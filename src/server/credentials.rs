//! Certificates and tokens: read at the start, and again whenever the operator asks for it.
//!
//! Reading them again is all or nothing: a file that cannot be used leaves everything as it was. What is new
//! counts from the next handshake and the next request on. Connections go on, with the certificate they were made
//! with; a token that is gone is refused from then on, also by calls that had begun with it.

use super::auth::{Token, TokenLimits, Tokens};
use super::error::Error;
use super::{metrics, tls};
use crate::config::SecurityConfig;
use http::HeaderMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio_rustls::TlsAcceptor;

/// A certificate that ends within this is warned of, every day.
const NEAR_DAYS: i64 = 14;
/// How often certificates are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// What a server knows its clients by, and they it.
pub struct Credentials {
    config: SecurityConfig,
    current: RwLock<Current>,
    /// One reads files at a time, so that none puts back what another has replaced.
    reading: Mutex<()>,
}

struct Current {
    tls: Option<tls::Tls>,
    tokens: Option<Arc<Tokens>>,
}

impl Current {
    fn read(config: &SecurityConfig) -> Result<Self, String> {
        let tokens = config.tokens_file.as_ref();
        let limits =
            TokenLimits { rows_max: config.token_rows_max, bytes_max: config.token_bytes_max };
        let tokens = tokens.map(|path| Tokens::read(path, limits)).transpose()?;
        Ok(Self { tls: tls::read(config)?, tokens: tokens.map(Arc::new) })
    }
}

impl Credentials {
    /// Reads what these settings name.
    pub fn read(config: &SecurityConfig) -> Result<Self, String> {
        let current = RwLock::new(Current::read(config)?);
        Ok(Self { config: config.clone(), current, reading: Mutex::new(()) })
    }

    /// Reads it again. Blocks. An error says what is wrong with which file, and nothing has changed.
    pub fn reload(&self) -> Result<(), String> {
        let _reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let mut new = Current::read(&self.config)?;
        let old = self.tokens();
        new.tokens = match (new.tokens, old) {
            (Some(new), Some(old)) => Some(Arc::new(new.in_place_of(&old))),
            (new, _) => new,
        };
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    /// What TLS handshakes are made with, where TCP connections speak TLS.
    pub fn tls(&self) -> Option<TlsAcceptor> {
        self.with(|current| current.tls.as_ref().map(|tls| tls.acceptor.clone()))
    }

    /// The tokens, where they are asked for.
    pub fn tokens(&self) -> Option<Arc<Tokens>> {
        self.with(|current| current.tokens.clone())
    }

    /// Whose call this is, where tokens are asked for.
    pub fn check(&self, headers: &HeaderMap) -> Result<Option<Arc<Token>>, Error> {
        self.tokens().map(|tokens| tokens.check(headers)).transpose()
    }

    /// Whose token this is, where tokens are asked for.
    pub fn find(&self, token: &[u8]) -> Result<Option<Arc<Token>>, Error> {
        match self.tokens() {
            None => Ok(None),
            Some(_) if token.is_empty() => Err(Error::Unauthenticated("no token was sent")),
            Some(tokens) => tokens.find(token).map(Some),
        }
    }

    /// Says when the certificates end, and warns once a day of those that have ended or soon will. Goes on
    /// until dropped.
    pub async fn watch_expiry(&self) {
        self.report_expiry(true);
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            self.report_expiry(false);
        }
    }

    /// Says when the certificates end: those that have ended or soon will, or `all`.
    pub fn report_expiry(&self, all: bool) {
        let ends = self.with(|current| current.tls.as_ref().map(|tls| tls.ends.clone()));
        for tls::End { certificate, unix_seconds } in ends.into_iter().flatten() {
            metrics::certificate_expiry(certificate, unix_seconds);
            let days = (unix_seconds as i64).saturating_sub(now() as i64).div_euclid(24 * 3600);
            match days {
                ..0 => tracing::warn!(certificate, days_ago = -days, "the certificate has expired"),
                0..NEAR_DAYS => tracing::warn!(certificate, days, "the certificate expires soon"),
                _ if all => tracing::info!(certificate, days, "the certificate expires"),
                _ => {}
            }
        }
    }

    fn with<T>(&self, look: impl FnOnce(&Current) -> T) -> T {
        look(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tracing::{Event, Level, Metadata, Subscriber, span};

    /// Counts warnings.
    struct Warnings(Arc<AtomicUsize>);

    impl Subscriber for Warnings {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            *metadata.level() == Level::WARN
        }

        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }

        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

        fn event(&self, _: &Event<'_>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }

        fn enter(&self, _: &span::Id) {}

        fn exit(&self, _: &span::Id) {}
    }

    #[tokio::test(start_paused = true)]
    async fn a_certificate_that_has_ended_is_warned_of_once_a_day() {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        let mut params = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2019, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        let pair = rcgen::KeyPair::generate().unwrap();
        std::fs::write(&cert, params.self_signed(&pair).unwrap().pem()).unwrap();
        std::fs::write(&key, pair.serialize_pem()).unwrap();
        let config = SecurityConfig {
            tls_cert: Some(cert),
            tls_key: Some(key),
            tls_client_ca: None,
            tokens_file: None,
            token_rows_max: 1,
            token_bytes_max: 1,
            insecure: false,
        };
        let credentials = Credentials::read(&config).unwrap();
        let warnings = Arc::new(AtomicUsize::new(0));
        let _counted = tracing::subscriber::set_default(Warnings(Arc::clone(&warnings)));
        let days = 3;
        let watched = LOOK_INTERVAL * days + Duration::from_secs(1);
        assert!(tokio::time::timeout(watched, credentials.watch_expiry()).await.is_err());
        assert_eq!(warnings.load(Ordering::Relaxed), 1 + days as usize, "one at the start");
    }
}
