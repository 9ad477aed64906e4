//! What the daemon tells systemd of itself: that it is ready, reads its files again, stops, and lives.
//!
//! The protocol is that of `sd_notify(3)`: lines in a datagram to the socket that `NOTIFY_SOCKET` names. Without it
//! nothing is sent. `WATCHDOG_USEC` asks for a sign of life that often; it is sent by a task of the runtime that
//! serves requests, once the engine has answered it, so that a server whose threads hang is not taken for a
//! live one.

use crate::engine::Engine;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The service manager, if there is one.
#[derive(Clone)]
pub struct Service {
    socket: Option<SocketAddr>,
}

impl Service {
    /// As the environment says; and starts to give signs of life if they are asked for. Call it within a Tokio
    /// runtime.
    pub fn new(engine: Engine) -> Self {
        let socket = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty());
        let socket = socket.and_then(|name| match address(&name) {
            Ok(address) => Some(address),
            Err(error) => {
                tracing::warn!(%error, "NOTIFY_SOCKET cannot be used; nobody is told how the service is");
                None
            }
        });
        let service = Self { socket };
        if let (Some(_), Some(interval)) = (&service.socket, watchdog()) {
            tokio::spawn(service.clone().live(engine, interval));
        }
        service
    }

    /// Requests are taken.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    /// Files are read again, until [`ready`](Self::ready).
    pub fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let us = now.tv_sec as i128 * 1_000_000 + now.tv_nsec as i128 / 1000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={us}"));
    }

    /// Nothing new is taken.
    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    async fn live(self, engine: Engine, interval: Duration) {
        loop {
            // Waits for the engine's lock: if that is held for ever nothing more is sent.
            let _ = engine.devices();
            self.tell("WATCHDOG=1");
            tokio::time::sleep(interval).await;
        }
    }

    fn tell(&self, state: &str) {
        let Some(socket) = &self.socket else { return };
        let send = || -> io::Result<usize> {
            let from = UnixDatagram::unbound()?;
            // A manager that does not read is not waited for.
            from.set_nonblocking(true)?;
            from.send_to_addr(state.as_bytes(), socket)
        };
        if let Err(error) = send() {
            tracing::warn!(%error, state, "the service manager was not told");
        }
    }
}

/// A path, or a name in the abstract namespace, which begins with `@`.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(name),
        _ => Err(io::Error::other(format!("{} is neither a path nor @NAME", name.display()))),
    }
}

/// How often to give a sign of life: twice as often as the manager asks for.
fn watchdog() -> Option<Duration> {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let for_us = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
    let interval = number("WATCHDOG_USEC").filter(|&us| us > 0 && for_us)?;
    Some(Duration::from_micros(interval) / 2)
}
