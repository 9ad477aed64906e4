//! What drives connections.

use logitd_client::Error;
use std::ops::Deref;
use tokio::runtime::{Builder, Runtime};

/// A runtime that may end anywhere. A plain one waits for its threads when it is dropped, which panics in a thread of any
/// runtime, and Python's collector drops a client in whichever thread it runs.
pub struct Driver(Option<Runtime>);

impl Driver {
    /// With a thread of its own.
    pub fn with_a_thread() -> Result<Self, Error> {
        Self::of(Builder::new_multi_thread().worker_threads(1).thread_name("logitd-client"))
    }

    /// Driven by whoever waits for a call.
    pub fn of_the_caller() -> Result<Self, Error> {
        Self::of(&mut Builder::new_current_thread())
    }

    fn of(builder: &mut Builder) -> Result<Self, Error> {
        let made = builder.enable_all().build();
        made.map(|runtime| Self(Some(runtime))).map_err(|error| Error::Target(error.to_string()))
    }
}

impl Deref for Driver {
    type Target = Runtime;

    fn deref(&self) -> &Runtime {
        self.0.as_ref().expect("there until it is dropped")
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
