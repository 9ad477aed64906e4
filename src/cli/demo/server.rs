//! A server of this process, for as long as the demonstration lasts.

use crate::cli::sampler::Sampler;
use crate::cli::target::Remote;
use crate::config::Config;
use crate::engine::Engine;
use crate::server::Server;
use logitd_client::Client;
use std::error::Error;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A server on a free port of 127.0.0.1, and a connection to it. Drains when stopped.
pub struct Running {
    runtime: Runtime,
    stop: oneshot::Sender<()>,
    server: JoinHandle<Result<(), crate::server::ServerError>>,
    remote: Remote,
}

impl Running {
    /// Starts the server that `logitd serve` would be, and connects to it. The environment has no say:
    /// settings of a real server (certificates, tokens) would shut the demo out of its own.
    pub fn start() -> Result<Self, Box<dyn Error>> {
        let config = Config { listen: vec!["127.0.0.1:0".parse()?], ..Config::default() };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let server = runtime.block_on(Server::bind(config.clone()))?;
        let target = server.targets().into_iter().next().ok_or("the server has no address")?;
        let (stop, stopped) = oneshot::channel();
        let devices = config.devices(config.open()?);
        let engine = runtime.block_on(async { Engine::start(config.engine(), devices) });
        let server = runtime.spawn(server.run(engine, async { drop(stopped.await) }));
        let remote = Remote::connect(&target, Client::builder(target.clone()))?;
        Ok(Self { runtime, stop, server, remote })
    }

    /// For people: what computes, and where it listens.
    pub fn name(&self) -> String {
        self.remote.name()
    }

    /// The connection, and what it says about the other side.
    pub fn sampler(&mut self) -> &mut dyn Sampler {
        &mut self.remote
    }

    /// Lets it drain, and waits for that.
    pub fn stop(self) -> Result<(), Box<dyn Error>> {
        let Self { runtime, stop, server, remote, .. } = self;
        drop(remote);
        // An error says that the server is gone already; its own says why.
        let _ = stop.send(());
        Ok(runtime.block_on(server)??)
    }
}
