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
