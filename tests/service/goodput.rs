//! Goodput at four times the load: callers who come again when they are told to.
//!
//! Limits are an eighth of the defaults, and messages have 2 MiB instead of 15, so that as many find room, wait and are
//! refused as with the defaults, in an eighth of the memory. How long anything takes is printed; what is asserted is far from it.

use crate::harness::{TestServer, cpu, request};
use logitd_client::Client;
use logitd_proto::SampleRequest;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

const LIMITS: [&str; 6] = [
    "--queue-bytes-max=128MiB",
    "--connection-bytes-max=64MiB",
    "--window-bytes-max=64MiB",
    "--connection-window-bytes=4MiB",
    "--stream-window-bytes=128KiB",
    "--frame-bytes-max=128KiB",
];
/// As many callers as get the most out of a server, and four times as many.
const CALLERS: [usize; 2] = [40, 160];
const WARM_UP: Duration = Duration::from_secs(1);
const MEASURED: Duration = Duration::from_secs(2);

/// What a crowd of callers got.
#[derive(Debug)]
struct Got {
    answered: usize,
    refused: usize,
}

impl Got {
    fn per_second(&self) -> f64 {
        self.answered as f64 / MEASURED.as_secs_f64()
    }

    fn refusals_per_answer(&self) -> f64 {
        self.refused as f64 / self.answered as f64
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn four_times_the_load_gets_the_goodput_of_the_peak() {
    let message = request(8, 1 << 17, 1);
    for connections in [1, 4] {
        let [peak, overload] = [
            crowd(CALLERS[0], connections, &message).await,
            crowd(CALLERS[1], connections, &message).await,
        ];
        let kept = overload.per_second() / peak.per_second();
        println!(
            "{connections} connections: {:.0} messages a second of {} callers, {:.0} of {}: {kept:.2} of it, and {:.2} \
             refusals an answer",
            peak.per_second(),
            CALLERS[0],
            overload.per_second(),
            CALLERS[1],
            overload.refusals_per_answer(),
        );
        // All wait in the line that do not fit.
        assert!(peak.refusals_per_answer() < 0.1, "{peak:?}");
        // A caller that is answered finds others before it, and those who are told to come again find room.
        assert!(overload.refusals_per_answer() < 4.0, "{overload:?}");
        // Other tests may take most of the processor in one half of the time.
        assert!(kept > 0.25, "{kept}");
    }
}

/// So many callers send the message over and over.
async fn crowd(callers: usize, connections: usize, message: &SampleRequest) -> Got {
    let server = TestServer::with(&LIMITS, vec![cpu()]).await;
    let (answered, refused, over) =
        (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let counted = Arc::new((answered, refused, over));
    let mut clients = Vec::new();
    for _ in 0..connections {
        clients.push(server.client().await);
    }
    let calls: Vec<_> = (0..callers)
        .map(|n| {
            tokio::spawn(call(clients[n % connections].clone(), message.clone(), counted.clone()))
        })
        .collect();
    let count = || {
        let (answered, refused, _) = &*counted;
        (answered.load(Ordering::Relaxed), refused.load(Ordering::Relaxed))
    };
    tokio::time::sleep(WARM_UP).await;
    let before = count();
    tokio::time::sleep(MEASURED).await;
    let after = count();
    counted.2.store(true, Ordering::Relaxed);
    for call in calls {
        call.await.unwrap();
    }
    server.stop().await.unwrap().unwrap();
    Got { answered: after.0 - before.0, refused: after.1 - before.1 }
}

async fn call(
    client: Client,
    message: SampleRequest,
    counted: Arc<(AtomicUsize, AtomicUsize, AtomicBool)>,
) {
    let (answered, refused, over) = &*counted;
    while !over.load(Ordering::Relaxed) {
        match client.sample(message.clone()).await {
            Ok(_) => {
                answered.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                refused.fetch_add(1, Ordering::Relaxed);
                let told = error.retry_after();
                tokio::time::sleep(told.unwrap_or_else(|| panic!("{error}"))).await;
            }
        }
    }
}
