//! The priority of a thread to the operating system.

/// Makes this thread one that computes while the processor has nothing else to do.
#[cfg(target_os = "linux")]
pub fn lower_priority() {
    // On Linux a thread has a priority of its own; 19 is the lowest.
    let thread = rustix::thread::gettid();
    if let Err(error) = rustix::process::setpriority_process(Some(thread), 19) {
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        tracing::warn!(%error, thread = name, "a thread for idle time runs at ordinary priority");
    }
}

/// Makes this thread one that computes while the processor has nothing else to do.
#[cfg(not(target_os = "linux"))]
pub fn lower_priority() {}
