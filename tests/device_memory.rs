//! Logits in the memory of a device, where there is none: the real binary over the fake driver (`fake_cuda/`)
//! serves, and this process, or the real binary again, is the client with a driver of its own.

#![cfg(all(target_os = "linux", target_pointer_width = "64"))]

mod fake_cuda;
#[path = "service/harness/mod.rs"]
mod harness;

use fake_cuda::{folder, ok};
use harness::daemon::{Daemon, value};
use harness::{expected, request, until};
use logitd_client::{Client, DeviceRegion, Error};
use logitd_core::backend::cuda::region::ImportedRegion;
use logitd_proto::{Plane, SampleRequest, SampleResponse, SlotRef};
use serde_json::Value;
use std::sync::Once;
use std::time::Duration;
use tonic::Code;

/// Memory for small launches, so that a start takes no time.
const SMALL: [&str; 2] = ["--cuda-launch-rows-max=8", "--cuda-launch-bytes-max=9MiB"];
/// What a device gives at once.
const PIECE_BYTES: u64 = 2 << 20;
/// Sampling launches of the self-test with these flags.
const SELF_TEST_LAUNCHES: usize = 4;
/// A row's descriptor.
const DESCRIPTOR_BYTES: usize = 80;

/// A server that makes memory on its devices, and a client on its Unix socket.
struct Served {
    daemon: Daemon,
    client: Client,
    control: String,
    directory: tempfile::TempDir,
}

impl Served {
    async fn start(flags: &[&str], variables: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        let own = [
            format!("--listen=unix:{}", path("logitd.sock")),
            format!("--shm=unix:{}", path("shm.sock")),
        ];
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        let memory =
            ["--device=cuda", "--cuda-region-bytes-max=64MiB", "--metrics-listen=127.0.0.1:0"];
        let given =
            |flag: &&&str| !flags.iter().any(|f| f.split('=').next() == flag.split('=').next());
        let own = [&SMALL[..], &own, &memory].concat();
        let flags: Vec<&str> = own.iter().filter(given).chain(flags).copied().collect();
        // This process says otherwise to its own driver, and children would inherit it.
        let own = [("FAKE_CUDA_DEVICES", "1"), ("FAKE_CUDA_FIRST", "0")];
        let log = path("fake.log");
        let own = [&own[..], &[("LD_LIBRARY_PATH", folder()), ("FAKE_CUDA_LOG", &log)]].concat();
        let daemon = Daemon::start_with(&flags, &[&own[..], variables].concat()).await;
        let client = Client::connect(daemon.target()).await.unwrap();
        let control = client.info().await.unwrap().shm_control;
        Self { daemon, client, control, directory }
    }

    fn register(&self, device: u32, slot_bytes: usize, slots: u32) -> Result<Written, Error> {
        Written::over(DeviceRegion::register(&self.control, device, slot_bytes, slots)?)
    }

    fn refused(&self, device: u32, slot_bytes: usize) -> String {
        self.register(device, slot_bytes, 1).map(|_| ()).unwrap_err().to_string()
    }

    /// Asks with logits on the device and holds the answer to the oracle's.
    async fn right(&self, region: &mut Written, slot: u32, inline: SampleRequest) -> String {
        let response = self.client.sample(region.through(slot, &inline)).await;
        let response = response.unwrap_or_else(|error| panic!("{error}: {}", self.daemon.log()));
        assert_eq!(response.rows, expected(&inline), "{}", self.daemon.log());
        assert_eq!(response.plane(), Plane::DeviceMemory);
        response.device
    }

    /// What the fake driver was asked for.
    fn asked(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("fake.log")).unwrap()
    }

    /// Nothing that is wrong with the program itself has come up.
    async fn stop(mut self) {
        self.daemon.signal("TERM");
        assert_eq!(self.daemon.exit_code().await, Some(0), "{}", self.daemon.log());
        assert!(!self.asked().contains("misused"), "{}", self.asked());
    }
}

/// A region, written to as a client does it that has CUDA.
struct Written {
    region: DeviceRegion,
    memory: ImportedRegion,
}

impl Written {
    fn over(region: DeviceRegion) -> Result<Self, Error> {
        static LOADED: Once = Once::new();
        LOADED.call_once(|| {
            // SAFETY: the driver, which reads them, is loaded after this, and the tests read no such variables.
            unsafe {
                std::env::set_var("FAKE_CUDA_DEVICES", "2");
                // What is number 0 for a server is number 1 here.
                std::env::set_var("FAKE_CUDA_FIRST", "1");
            }
            fake_cuda::load();
        });
        let (uuid, bytes) = (region.uuid(), region.allocation_bytes());
        let patience = Duration::from_secs(10);
        let memory = ImportedRegion::open(uuid, region.descriptor(), bytes, patience).unwrap();
        Ok(Self { region, memory })
    }

    /// The same request with its logits in a slot.
    fn through(&mut self, slot: u32, inline: &SampleRequest) -> SampleRequest {
        self.memory.write(self.region.slot_offset(slot), &inline.logits).unwrap();
        let slot = Some(self.region.commit(slot, inline.logits.len()));
        SampleRequest { logits: Default::default(), slot, ..inline.clone() }
    }
}

fn refusal(result: Result<SampleResponse, Error>) -> (Code, String) {
    let error = result.unwrap_err();
    (error.code().expect("an answer of the server"), error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_go_from_the_region_to_the_kernel_without_the_host() {
    let served = Served::start(&[], &[]).await;
    let info = served.client.info().await.unwrap();
    assert!(info.planes.contains(&i32::from(Plane::DeviceMemory)), "{info:?}");
    assert_eq!(info.devices[0].uuid, &b"FAKE-CUDA-UUID00"[..]);
    let mut region = served.register(0, 1 << 20, 3).unwrap();
    assert_eq!(region.region.allocation_bytes(), 2 * PIECE_BYTES, "3 MiB and headers, rounded up");
    let before = served.asked();
    for (n, (rows, vocab_size)) in
        [(1, 3), (5, 1001), (19, 4096), (2, 128_256), (7, 64)].into_iter().enumerate()
    {
        let inline = request(rows, vocab_size, n as u64);
        assert_eq!(served.right(&mut region, n as u32 % 3, inline).await, "cuda:0");
    }
    let asked = served.asked();
    let news = asked.strip_prefix(&before).unwrap();
    let sizes = |word: &str| {
        let lines = news.lines().filter_map(|line| line.strip_prefix(word)?.parse::<usize>().ok());
        lines.collect::<Vec<_>>()
    };
    assert!(sizes("upload ").iter().all(|&bytes| bytes <= 8 * DESCRIPTOR_BYTES), "{news}");
    let bytes = 2 * (3 + 5 * 1001 + 19 * 4096 + 2 * 128_256 + 7 * 64);
    assert_eq!(sizes("copy ").iter().sum::<usize>(), bytes, "{news}");
    // Rows that lie one after another in both are one copy: 19 rows of 8 KiB in launches of 8.
    assert_eq!(sizes("copy ").iter().filter(|&&bytes| bytes == 8 * 8192).count(), 2, "{news}");
    let taking = ["alloc", "host-alloc", "stream", "event", "module", "create", "reserve"];
    let takes = |line: &str| taking.contains(&line.split(' ').next().unwrap());
    assert!(!news.lines().any(takes), "nothing is taken while it works: {news}");

    let metrics = served.daemon.scrape().await;
    let named = "logitd_bytes_total{plane=\"device_memory\"}";
    assert_eq!(value(&metrics, named), bytes as f64);
    drop(region);
    until("the memory is given back", || served.asked().contains("unmap")).await;
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_given_back() {
    let log = tempfile::NamedTempFile::new().unwrap();
    let path = log.path().to_str().unwrap();
    let served = Served::start(&[], &[("FAKE_CUDA_LOG", path)]).await;
    let mut region = served.register(0, 4096, 2).unwrap();
    served.right(&mut region, 0, request(3, 500, 1)).await;
    drop(region);
    let asked = || std::fs::read_to_string(path).unwrap();
    until("the memory is given back", || asked().contains("unmap")).await;
    let Served { mut daemon, .. } = served;
    daemon.signal("TERM");
    assert_eq!(daemon.exit_code().await, Some(0));
    assert!(asked().ends_with("released\n"), "{}", asked());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_begins_with_zeros() {
    let served = Served::start(&[], &[]).await;
    for _ in 0..2 {
        let region = served.register(0, 3 << 20, 1).unwrap();
        let mut found = vec![1; region.region.allocation_bytes() as usize];
        region.memory.read(0, &mut found).unwrap();
        assert!(found.iter().all(|&byte| byte == 0), "others' logits, or what they left behind");
        region.memory.write(0, &vec![7; 1 << 20]).unwrap();
    }
    served.stop().await;
}

/// Rows of both kinds in one launch.
#[tokio::test(flavor = "multi_thread")]
async fn rows_on_the_device_and_rows_in_messages_share_launches() {
    let served = Served::start(&["--batch-delay-us=3000"], &[]).await;
    let mut region = served.register(0, 64 << 10, 8).unwrap();
    for round in 0..6 {
        let mut calls = tokio::task::JoinSet::new();
        for n in 0..12u32 {
            let salt = u64::from(round * 100 + n);
            let inline = request(1 + n as usize % 3, 100 + 37 * n as usize, salt);
            let sent = match n {
                0..8 if n % 3 != 0 => region.through(n, &inline),
                _ => inline.clone(),
            };
            let client = served.client.clone();
            calls.spawn(async move {
                let response = client.sample(sent).await.unwrap();
                assert_eq!(response.rows, expected(&inline), "{n} in round {round}");
            });
        }
        calls.join_all().await;
    }
    let both = |pair: &[&str]| pair[0].starts_with("upload") && pair[1].starts_with("copy");
    let asked = served.asked();
    let lines: Vec<&str> = asked.lines().collect();
    assert!(lines.windows(2).any(both), "no launch had rows of both kinds: {asked}");
    served.stop().await;
}

/// Rows in the memory of one of several devices are sampled there, however free the other is, and never go through
/// the host; until the device is taken out.
#[tokio::test(flavor = "multi_thread")]
async fn of_several_devices_each_samples_what_lies_in_its_memory() {
    // After the 24 launches of the first part.
    let fault = format!("oom:{}", SELF_TEST_LAUNCHES + 25);
    let variables = [
        ("FAKE_CUDA_DEVICES", "2"),
        ("FAKE_CUDA_FAULT_DEVICE", "1"),
        ("FAKE_CUDA_FAULT", fault.as_str()),
    ];
    let served = Served::start(&["--device=cuda:0,1"], &variables).await;
    let regions = [0, 1].map(|device| served.register(device, 1 << 20, 8).unwrap());
    let before = served.asked();
    let mut sampled = tokio::task::JoinSet::new();
    for (device, mut region) in regions.into_iter().enumerate() {
        let client = served.client.clone();
        sampled.spawn(async move {
            let mut devices = Vec::new();
            for salt in 0..24 {
                let inline = request(3, 500, salt);
                let response = client.sample(region.through(salt as u32 % 8, &inline)).await;
                let response = response.unwrap();
                assert_eq!(response.rows, expected(&inline));
                devices.push(response.device);
            }
            (device, region, devices)
        });
    }
    let mut on_the_second = None;
    for (device, region, devices) in sampled.join_all().await {
        assert_eq!(devices, vec![format!("cuda:{device}"); 24]);
        on_the_second = (device == 1).then_some(region).or(on_the_second);
    }
    let asked = served.asked();
    let news = asked.strip_prefix(&before).unwrap();
    let uploads = news.lines().filter_map(|line| line.strip_prefix("upload ")?.parse().ok());
    assert_eq!(uploads.filter(|&bytes: &usize| bytes > 8 * DESCRIPTOR_BYTES).count(), 0, "{news}");

    let mut region = on_the_second.unwrap();
    let mut devices = Vec::new();
    for salt in 0..6 {
        devices.push(served.right(&mut region, salt as u32, request(3, 500, salt)).await);
    }
    assert_eq!(devices.last().unwrap(), "cuda:0", "{devices:?}");
    served.daemon.logged("device taken out").await;
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn load_writes_to_every_device_and_finds_no_wrong_answer() {
    let two = [("FAKE_CUDA_DEVICES", "2")];
    let served = Served::start(&["--device=cuda:0,1"], &two).await;
    let target = served.daemon.target().to_owned();
    let load = move || {
        let args = ["load", "--plane=device", "--target", &target, "--connections=2"];
        let shape = ["--rows=1..5", "--vocab-size=700", "--temperature=0,0.8", "--top-k=0,20"];
        let pace = ["--requests=80", "--concurrency=6", "--check=1", "--json"];
        let variables = [("FAKE_CUDA_DEVICES", "2"), ("FAKE_CUDA_FIRST", "1")];
        ok(&[&args[..], &shape, &pace].concat(), &variables)
    };
    let said = tokio::task::spawn_blocking(load).await.unwrap();
    let report: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    let text = report.to_string();
    assert!(text.contains("via DEVICE_MEMORY") && !text.contains("via INLINE"), "{text}");
    let check = &report["check"];
    assert_eq!((&check["answers"], &check["rows_wrong"]), (&80.into(), &0.into()), "{check}");
    let metrics = served.daemon.scrape().await;
    assert!(value(&metrics, "logitd_bytes_total{plane=\"device_memory\"}") > 80.0 * 1400.0);
    let created = served.asked().matches("create ").count();
    assert_eq!(created, 2, "a region on each device: {}", served.asked());
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_named_wrongly_is_refused_by_field() {
    let served = Served::start(&[], &[]).await;
    let mut region = served.register(0, 4096, 2).unwrap();
    let inline = request(2, 100, 1);
    let good = region.through(1, &inline);
    let named = good.slot.clone().unwrap();
    let with = |slot: SlotRef| SampleRequest { slot: Some(slot), ..good.clone() };
    let used = "slot 1 was answered with generation 1, the request names";
    assert!(served.client.sample(good.clone()).await.is_ok());
    for (slot, expected, text) in [
        (SlotRef { slot: 2, ..named.clone() }, Code::InvalidArgument, "slot is 2; allowed: 0 to 1"),
        (SlotRef { length_bytes: 4097, ..named.clone() }, Code::InvalidArgument, "length_bytes"),
        (SlotRef { length_bytes: u64::MAX, ..named.clone() }, Code::OutOfRange, "bytes"),
        (SlotRef { generation: 1, ..named.clone() }, Code::FailedPrecondition, used),
        (SlotRef { generation: 0, ..named.clone() }, Code::FailedPrecondition, used),
        (SlotRef { region: vec![1; 16].into(), ..named.clone() }, Code::NotFound, "register"),
    ] {
        let (found, message) = refusal(served.client.sample(with(slot)).await);
        assert_eq!(found, expected, "{message}");
        assert!(message.contains(text), "{message}");
    }
    // What was refused for another reason was not answered: the same generation is still good.
    let torn = SlotRef { generation: 2, length_bytes: 399, ..named.clone() };
    assert_eq!(refusal(served.client.sample(with(torn)).await).0, Code::InvalidArgument);
    let again = with(SlotRef { generation: 2, ..named });
    assert_eq!(served.client.sample(again).await.unwrap().rows, expected(&inline));
    served.stop().await;
}

/// Where logits are copied before they are checked, as for a recording, they are read for requests that are then
/// refused, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_refused_after_it_was_read_does_not_use_up_its_generation() {
    let folder = tempfile::tempdir().unwrap();
    let record = format!("--record={}", folder.path().join("trace").display());
    for flags in [[record.as_str()], ["--verify-fraction=1"]] {
        let served = Served::start(&flags, &[]).await;
        let mut region = served.register(0, 4096, 1).unwrap();
        let inline = request(2, 100, 1);
        let good = region.through(0, &inline);
        let mut wrong = good.clone();
        wrong.params[1].temperature = Some(-1.0);
        for _ in 0..2 {
            let (found, message) = refusal(served.client.sample(wrong.clone()).await);
            assert_eq!(found, Code::InvalidArgument, "{flags:?}: {message}");
            assert!(message.contains("params[1].temperature"), "{flags:?}: {message}");
        }
        let answer = served.client.sample(good.clone()).await;
        assert_eq!(answer.unwrap().rows, expected(&inline), "{flags:?}");
        let (found, message) = refusal(served.client.sample(good).await);
        assert_eq!(found, Code::FailedPrecondition, "{flags:?}: {message}");
        assert!(message.contains("answered with generation 1"), "{flags:?}: {message}");
        served.stop().await;
    }
}

/// Runs itself as the other process, which is told what to ask for.
#[tokio::test(flavor = "multi_thread")]
async fn another_process_of_the_same_user_gets_nothing() {
    const ASKED: &str = "TEST_ASKED_BY_ANOTHER";
    let inline = request(2, 100, 1);
    if let Ok(asked) = std::env::var(ASKED) {
        let (target, region) = asked.split_once(' ').unwrap();
        let region: Vec<u8> = region.split(',').map(|byte| byte.parse().unwrap()).collect();
        let length_bytes = inline.logits.len() as u64;
        let slot = SlotRef { region: region.into(), slot: 0, generation: 2, length_bytes };
        let sent = SampleRequest { logits: Default::default(), slot: Some(slot), ..inline };
        let client = Client::connect(target).await.unwrap();
        let (code, message) = refusal(client.sample(sent).await);
        assert_eq!(code, Code::NotFound, "{message}");
        assert!(message.contains("no such region"), "{message}");
        return;
    }
    let served = Served::start(&[], &[]).await;
    let mut region = served.register(0, 4096, 1).unwrap();
    served.right(&mut region, 0, inline.clone()).await;
    let named = region.region.commit(0, 1).region;
    let bytes: Vec<String> = named.iter().map(u8::to_string).collect();
    let asked = format!("{} {}", served.daemon.target(), bytes.join(","));
    let mut other = std::process::Command::new(std::env::current_exe().unwrap());
    other.args(["--exact", "another_process_of_the_same_user_gets_nothing"]).env(ASKED, asked);
    let output = tokio::task::spawn_blocking(move || other.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    served.right(&mut region, 0, inline).await;
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas_name_their_flag_and_what_cannot_be_had_its_reason() {
    let memory = PIECE_BYTES * 24;
    let variables = [("FAKE_CUDA_MEMORY", memory.to_string())];
    let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
    let flags = ["--cuda-region-bytes-max=12MiB", "--shm-regions-per-peer-max=3"];
    let served = Served::start(&flags, &variables).await;
    let first = served.register(0, 1000, 1).unwrap();
    let said = served.refused(0, (10 << 20) + 1);
    assert!(said.contains("--cuda-region-bytes-max") && said.contains("12582912"), "{said}");
    let said = served.refused(0, 10 << 20);
    assert!(said.contains("--cuda-region-bytes-max"), "headers count: {said}");
    let said = served.refused(7, 1000);
    assert!(said.contains("there is no memory on cuda:7 here; there is on cuda:0"), "{said}");
    let _more = [0, 1].map(|_| served.register(0, 1000, 1).unwrap());
    assert!(served.refused(0, 1000).contains("--shm-regions-per-peer-max"));
    drop(first);
    until("the quota is free again", || served.register(0, 1000, 1).is_ok()).await;
    served.stop().await;

    // A device that has given all its memory to launches has none left, and goes on.
    let variables = [("FAKE_CUDA_MEMORY", "48000000")];
    let served = Served::start(&[], &variables).await;
    let said = served.refused(0, 40 << 20);
    assert!(said.contains("cuda:0: cuMemCreate of") && said.contains("OUT_OF_MEMORY"), "{said}");
    let inline = request(2, 100, 1);
    assert_eq!(served.client.sample(inline.clone()).await.unwrap().device, "cuda:0");
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_offered_only_where_it_can_be_had() {
    for (flags, variables, reason) in [
        (&["--cuda-region-bytes-max=0"][..], &[][..], ""),
        (&[], &[("FAKE_CUDA_EXPORT", "0")], "cuda:0 cannot hand memory over as a descriptor"),
    ] {
        let served = Served::start(flags, variables).await;
        let info = served.client.info().await.unwrap();
        assert!(!info.planes.contains(&i32::from(Plane::DeviceMemory)), "{info:?}");
        assert!(info.devices[0].uuid.is_empty());
        assert!(served.daemon.log_has(reason), "{}", served.daemon.log());
        assert!(served.refused(0, 1000).contains("--cuda-region-bytes-max"));
        served.stop().await;
    }
}

/// A client that leaves while its rows are read takes nothing away from anybody.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_hangs_up_while_its_requests_run() {
    let served = Served::start(&[], &[]).await;
    for round in 0..5u64 {
        let mut region = served.register(0, 64 << 10, 8).unwrap();
        let mut calls = tokio::task::JoinSet::new();
        for slot in 0..8 {
            let inline = request(4, 3000, round * 10 + u64::from(slot));
            let sent = region.through(slot, &inline);
            let client = served.client.clone();
            calls.spawn(async move { (client.sample(sent).await, inline) });
        }
        let first = calls.join_next().await.unwrap().unwrap();
        drop(region);
        for (answer, inline) in std::iter::once(first).chain(calls.join_all().await) {
            match answer {
                Ok(response) => assert_eq!(response.rows, expected(&inline)),
                Err(error) => assert_eq!(error.code(), Some(Code::NotFound), "{error}"),
            }
        }
        let given_back = || served.asked().matches("unmap").count() as u64 == round + 1;
        until("the memory is given back", given_back).await;
    }
    served.stop().await;
}

/// A device that refuses launches, or hangs in one, can still be read: its batch is done again from there.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_on_a_device_that_is_taken_out_is_done_again_by_the_processor() {
    for fault in ["oom", "hang"] {
        let fault = format!("{fault}:{}", SELF_TEST_LAUNCHES + 2);
        let flags = ["--cuda-hang-timeout=400ms"];
        let served = Served::start(&flags, &[("FAKE_CUDA_FAULT", &fault)]).await;
        let mut region = served.register(0, 1 << 20, 2).unwrap();
        let mut devices = Vec::new();
        for salt in 0..4 {
            let inline = request(3 + salt, 500, salt as u64);
            devices.push(served.right(&mut region, salt as u32 % 2, inline).await);
        }
        assert_eq!(devices, ["cuda:0", "cpu", "cpu", "cpu"], "{fault}");
        served.daemon.logged("device taken out").await;
        let said = served.refused(0, 1000);
        assert!(said.contains("cuda:0 was taken out"), "{fault}: {said}");
        let info = served.client.info().await.unwrap();
        assert!(!info.planes.contains(&i32::from(Plane::DeviceMemory)), "{info:?}");
        drop(region);
        served.stop().await;
    }
}

/// One that cannot be read any more answers nothing that lies there, says so, and the server goes on.
#[tokio::test(flavor = "multi_thread")]
async fn what_lies_on_a_dead_device_is_unavailable() {
    for (fault, reason) in [
        ("sticky", "CUDA_ERROR_ILLEGAL_ADDRESS"),
        ("stuck", "a copy has not ended within 300ms (--cuda-hang-timeout)"),
    ] {
        let fault = format!("{fault}:{}", SELF_TEST_LAUNCHES + 2);
        let flags = ["--cuda-hang-timeout=300ms"];
        let served = Served::start(&flags, &[("FAKE_CUDA_FAULT", &fault)]).await;
        let mut region = served.register(0, 1 << 20, 2).unwrap();
        let inline = request(3, 500, 1);
        assert_eq!(served.right(&mut region, 0, inline.clone()).await, "cuda:0");
        for _ in 0..3 {
            let sent = region.through(1, &inline);
            let (code, message) = refusal(served.client.sample(sent).await);
            assert_eq!(code, Code::Unavailable, "{fault}: {message}");
            for part in ["memory on cuda:0 can no longer be read", reason, "GetInfo"] {
                assert!(message.contains(part), "{fault}: {message}");
            }
        }
        let response = served.client.sample(inline.clone()).await.unwrap();
        assert_eq!((response.device.as_str(), response.rows), ("cpu", expected(&inline)));
        assert!(served.refused(0, 1000).contains("cuda:0 was taken out"));
        drop(region);
        served.stop().await;
    }
}

/// What is looked at again after the answer is copied before it.
#[tokio::test(flavor = "multi_thread")]
async fn device_rows_are_recorded_and_verified() {
    let directory = tempfile::tempdir().unwrap();
    let trace = directory.path().join("a.trace").display().to_string();
    let record = format!("--record={trace}");
    let served = Served::start(&[&record, "--verify-fraction=1"], &[]).await;
    let mut region = served.register(0, 2 << 20, 1).unwrap();
    for salt in 0..5 {
        served.right(&mut region, 0, request(3, 100_000, salt)).await;
    }
    let checks = async || {
        let metrics = served.daemon.scrape().await;
        assert_eq!(value(&metrics, "logitd_parity_mismatches_total"), 0.0);
        value(&metrics, "logitd_parity_checks_total")
    };
    while checks().await == 0.0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(region);
    served.stop().await;
    let said = ok(&["verify", "--recorded", &trace, "--device=cpu"], &[]);
    assert!(said.contains("15 rows") && said.contains("0 differences"), "{said}");
}

/// What proves order must be able to fail.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_the_kernel_does_not_wait_for_shows() {
    let mut served = Served::start(&[], &[("FAKE_CUDA_FORGET", "stream")]).await;
    let mut region = served.register(0, 4096, 1).unwrap();
    let sent = region.through(0, &request(2, 500, 1));
    assert_eq!(refusal(served.client.sample(sent).await).0, Code::Unavailable);
    assert_eq!(served.daemon.exit_code().await, None, "it was stopped by force");
    let said = served.asked();
    assert!(said.contains("nothing orders") && said.contains("a copy"), "{said}");
}
