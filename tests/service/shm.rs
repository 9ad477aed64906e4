//! Shared memory, end to end: the same answers as bytes on the wire, and nothing for anybody else.

use crate::harness::{TestServer, request};
use logitd_client::{Client, Error, Region};
use logitd_proto::{Plane, SampleRequest, SlotRef};
use tonic::Code;

struct Shared {
    server: TestServer,
    client: Client,
    control: String,
    _directory: tempfile::TempDir,
}

impl Shared {
    async fn start(more: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| format!("unix:{}", directory.path().join(name).display());
        let listen = format!("--listen={},127.0.0.1:0", path("logitd.sock"));
        let shm = format!("--shm={}", path("shm.sock"));
        let server = TestServer::start(&[&[listen.as_str(), shm.as_str()], more].concat()).await;
        let client = Client::connect(path("logitd.sock")).await.unwrap();
        let info = client.info().await.unwrap();
        let planes = [Plane::Inline, Plane::Chunked, Plane::Candidates, Plane::SharedMemory];
        assert_eq!(info.planes, planes.map(i32::from));
        Self { server, client, control: info.shm_control, _directory: directory }
    }

    fn region(&self, slot_bytes: usize, slot_count: u32) -> Result<Region, Error> {
        Region::register(&self.control, slot_bytes, slot_count)
    }
}

/// The same request with its logits in a slot.
fn through(region: &mut Region, slot: u32, mut request: SampleRequest) -> SampleRequest {
    let logits = std::mem::take(&mut request.logits);
    region.slot_mut(slot)[..logits.len()].copy_from_slice(&logits);
    request.slot = Some(region.commit(slot, logits.len()));
    request
}

fn code(result: Result<logitd_proto::SampleResponse, Error>) -> (Code, String) {
    let error = result.unwrap_err();
    (error.code().expect("an answer of the server"), error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_gives_the_answer_that_its_bytes_give() {
    let shared = Shared::start(&[]).await;
    let mut region = shared.region(2 << 20, 3).unwrap();
    for (n, (rows, vocab_size)) in
        [(1, 3), (5, 1001), (64, 4096), (2, 262_144)].into_iter().enumerate()
    {
        let inline = request(rows, vocab_size, n as u64);
        let slot = n as u32 % region.slot_count();
        let by_slot = through(&mut region, slot, inline.clone());
        let expected = shared.client.sample(inline).await.unwrap();
        let response = shared.client.sample(by_slot).await.unwrap();
        assert_eq!(response.rows, expected.rows, "{rows} rows of {vocab_size}");
        assert_eq!(response.plane(), Plane::SharedMemory);
        assert_eq!(expected.plane(), Plane::Inline);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_is_not_there_is_refused_by_field() {
    let shared = Shared::start(&[]).await;
    let mut region = shared.region(4096, 2).unwrap();
    let good = through(&mut region, 1, request(2, 100, 1));
    let named = good.slot.clone().unwrap();
    let with = |slot: SlotRef| SampleRequest { slot: Some(slot), ..good.clone() };
    for (slot, expected, text) in [
        (SlotRef { slot: 2, ..named.clone() }, Code::InvalidArgument, "slot is 2; allowed: 0 to 1"),
        (SlotRef { length_bytes: 4097, ..named.clone() }, Code::InvalidArgument, "length_bytes"),
        (SlotRef { length_bytes: u64::MAX, ..named.clone() }, Code::OutOfRange, "bytes"),
        (SlotRef { length_bytes: 399, ..named.clone() }, Code::InvalidArgument, "logits has 399"),
        (SlotRef { generation: 2, ..named.clone() }, Code::FailedPrecondition, "has generation 1"),
        (SlotRef { region: vec![1; 16].into(), ..named.clone() }, Code::NotFound, "register"),
        (SlotRef { region: vec![1; 3].into(), ..named.clone() }, Code::InvalidArgument, "has 3"),
    ] {
        let (found, message) = code(shared.client.sample(with(slot)).await);
        assert_eq!(found, expected, "{message}");
        assert!(message.contains(text), "{message}");
    }
    let both = SampleRequest { logits: vec![0; 400].into(), ..good.clone() };
    assert_eq!(code(shared.client.sample(both).await).0, Code::InvalidArgument);
    assert!(shared.client.sample(good).await.is_ok(), "and the slot is as good as before");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_unix_socket_has_the_plane() {
    let shared = Shared::start(&[]).await;
    let mut region = shared.region(4096, 1).unwrap();
    let by_slot = through(&mut region, 0, request(1, 100, 1));
    let tcp = Client::connect(&shared.server.targets[1]).await.unwrap();
    let (found, message) = code(tcp.sample(by_slot.clone()).await);
    assert_eq!(found, Code::FailedPrecondition, "{message}");
    assert!(message.contains("Unix socket"), "{message}");

    let without = TestServer::start(&[]).await;
    let (found, message) = code(without.client().await.sample(by_slot).await);
    assert_eq!(found, Code::FailedPrecondition, "{message}");
    assert!(message.contains("--shm"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_ends_with_its_connection_and_quotas_name_their_flag() {
    let shared = Shared::start(&["--shm-regions-per-peer-max=1"]).await;
    let mut region = shared.region(4096, 1).unwrap();
    let by_slot = through(&mut region, 0, request(1, 100, 1));
    let refused = shared.region(4096, 1).unwrap_err().to_string();
    assert!(refused.contains("--shm-regions-per-peer-max"), "{refused}");
    drop(region);
    // The server hears of it when it hears of it; until then the slot still answers.
    let gone = async {
        while shared.client.sample(by_slot.clone()).await.is_ok() {
            tokio::task::yield_now().await;
        }
        shared.client.sample(by_slot.clone()).await
    };
    let gone = tokio::time::timeout(std::time::Duration::from_secs(10), gone).await.unwrap();
    assert_eq!(code(gone).0, Code::NotFound);
    assert!(shared.region(4096, 1).is_ok(), "the quota is free again");
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_counts_whole_before_any_of_it_is_written() {
    for limit in ["--shm-bytes-max", "--shm-bytes-per-peer-max"] {
        let shared = Shared::start(&[&format!("{limit}=1MiB")]).await;
        // No page of it is there yet.
        let held = shared.region(600 << 10, 1).unwrap();
        let refused = shared.region(600 << 10, 1).unwrap_err().to_string();
        assert!(refused.contains(&format!("the limit is 1048576 ({limit})")), "{refused}");
        drop(held);
        let free = || shared.region(600 << 10, 1).is_ok();
        crate::harness::until("its room is given back", free).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_writes_while_the_server_reads_hurts_only_itself() {
    let shared = Shared::start(&[]).await;
    let mut region = shared.region(1 << 20, 1).unwrap();
    let honest = request(4, 1000, 5);
    let expected = shared.client.sample(honest.clone()).await.unwrap().rows;
    let mut by_slot = through(&mut region, 0, request(8, 60_000, 1));
    let scribbler = std::thread::spawn(move || {
        for byte in 0..200u32 {
            region.slot_mut(0).fill(byte as u8);
            region.commit(0, 960_000);
        }
        region
    });
    let mut outcomes = [0; 2];
    for generation in 1..60 {
        by_slot.slot.as_mut().unwrap().generation = generation * 3;
        match shared.client.sample(by_slot.clone()).await {
            Ok(response) => {
                assert_eq!(response.rows.len(), 8);
                outcomes[0] += 1;
            }
            Err(error) => {
                assert_eq!(error.code(), Some(Code::FailedPrecondition), "{error}");
                outcomes[1] += 1;
            }
        }
        let rows = shared.client.sample(honest.clone()).await.unwrap().rows;
        assert_eq!(rows, expected);
    }
    assert!(outcomes[1] > 0, "{outcomes:?}: some slot must have been caught");
    drop(scribbler.join().unwrap());
    let done = shared.server.stop().await.unwrap();
    assert!(done.is_ok(), "{done:?}");
}
