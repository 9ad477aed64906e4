//! The code for CUDA devices, where there is none: the real binary over a fake driver (`fake_cuda/`), which
//! runs the shipped kernels on the CPU and is stricter about order than a device can be.

#![cfg(all(target_os = "linux", target_pointer_width = "64"))]

use crate::fake_cuda::{folder, logitd, ok};
use crate::harness::daemon::{Daemon, value};
use crate::harness::{TestServer, expected, request};
use logitd_client::Client;
use logitd_shim::ShimOptions;
use serde_json::Value;

/// Memory for small launches, so that a start takes no time.
const SMALL: [&str; 2] = ["--cuda-launch-rows-max=8", "--cuda-launch-bytes-max=9MiB"];

/// Sampling launches of the self-test with these flags: 24 rows, 8 a launch, and the largest alone.
const SELF_TEST_LAUNCHES: usize = 4;

async fn daemon(flags: &[&str], variables: &[(&str, &str)]) -> Daemon {
    let flags = [&SMALL[..], &["--metrics-listen=127.0.0.1:0"], flags].concat();
    let variables = [&[("LD_LIBRARY_PATH", folder())], variables].concat();
    Daemon::start_with(&flags, &variables).await
}

/// Asks for so many batches and holds every answer to the oracle's. The devices that answered.
async fn right_answers(daemon: &Daemon, batches: u64) -> Vec<String> {
    let client = Client::connect(daemon.target()).await.unwrap();
    let mut devices = Vec::new();
    for salt in 0..batches {
        let request = request(3 + salt as usize % 20, 300 + 100 * salt as usize, salt);
        let response = client.sample(request.clone()).await.unwrap();
        assert_eq!(response.rows, expected(&request), "batch {salt}: {}", daemon.log());
        devices.push(response.device);
    }
    devices
}

/// What the daemon says that does not start; it must exit with 2.
fn refused(flags: &[&str], variables: &[(&str, &str)]) -> String {
    let output =
        logitd(&[&["serve", "--listen=127.0.0.1:0"], &SMALL[..], flags].concat(), variables);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{variables:?}: {said}");
    said
}

#[test]
fn generated_rows_through_the_driver() {
    for (chip, kernel, rows) in
        [("90", "sm_90", "250"), ("75", "sm_75", "250"), ("121", "sm_121", "50")]
    {
        let args =
            ["verify", "--device=cuda", "--vocab-size-max=3000", "--rows", rows, "--seed", chip];
        let said = ok(&args, &[("FAKE_CUDA_CHIP", chip)]);
        assert!(said.contains("FAKE CUDA device 0") && said.contains(kernel), "{said}");
        assert!(said.contains(": 0 differences"), "{said}");
        let kernel = if chip == "75" { "grid" } else { "cluster" };
        assert!(said.contains(kernel), "{said}");
    }
}

#[test]
fn known_answers_through_the_driver() {
    let root = env!("CARGO_MANIFEST_DIR");
    for (file, cases) in [("controls.json", 57), ("beams.json", 13), ("edge_rows.json", 75)] {
        let file = format!("{root}/tests/vectors/independent/{file}");
        let said = ok(&["verify", "--vectors", &file, "--a", "cuda:0"], &[]);
        assert!(said.contains("FAKE CUDA device 0"), "{said}");
        assert!(said.contains(&format!("{cases} cases compared")), "{said}");
        assert!(said.ends_with(": 0 differences\n"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_over_a_device() {
    let log = tempfile::NamedTempFile::new().unwrap();
    let path = log.path().to_str().unwrap();
    let mut daemon = daemon(&["--device=cuda"], &[("FAKE_CUDA_LOG", path)]).await;
    let taken = |log: &str| {
        let takes = ["alloc", "host-alloc", "stream", "event", "module"];
        log.lines().filter(|line| takes.contains(&line.split(' ').next().unwrap())).count()
    };
    let before = std::fs::read_to_string(path).unwrap();
    assert!(taken(&before) > 10, "{before}");
    assert!(right_answers(&daemon, 12).await.iter().all(|device| device == "cuda:0"));
    let after = std::fs::read_to_string(path).unwrap();
    assert_eq!(taken(&after), taken(&before), "nothing is taken while it works: {after}");
    let launches = |log: &str| log.matches("launch logitd_sample_cluster").count();
    assert_eq!(launches(&before), SELF_TEST_LAUNCHES);
    assert!(launches(&after) > SELF_TEST_LAUNCHES + 12, "large batches take several");

    let client = Client::connect(daemon.target()).await.unwrap();
    let info = client.info().await.unwrap();
    assert!(info.devices[0].name.starts_with("FAKE CUDA"), "{info:?}");
    let tier = if logitd_core::backend::cuda::kernels::has_fatbin() { "fatbin" } else { "nvrtc" };
    assert_eq!(info.devices[0].isa, format!("sm_90 {tier} cluster"));
    let metrics = daemon.scrape().await;
    let named = format!("logitd_kernel_tier{{device=\"cuda:0\",tier=\"{tier}\"}}");
    assert_eq!(value(&metrics, &named), 1.0);
    assert_eq!(value(&metrics, "logitd_device_up{device=\"cuda:0\"}"), 1.0);
    assert!(value(&metrics, "logitd_copy_seconds_sum") > 0.0);
    assert!(daemon.log_has(&format!("\"tier\":\"{tier}\"")), "{}", daemon.log());
    daemon.signal("TERM");
    assert_eq!(daemon.exit_code().await, Some(0));
    let end = std::fs::read_to_string(path).unwrap();
    assert!(end.ends_with("released\n"), "everything is given back: {end}");
}

/// Whatever a device does, its batch is answered, by the processor, with the same bits.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_fails_is_taken_out_and_its_batch_done_again() {
    for (fault, reason) in [
        ("sticky", "CUDA_ERROR_ILLEGAL_ADDRESS"),
        ("oom", "CUDA_ERROR_OUT_OF_MEMORY"),
        ("hang", "has not ended within 400ms"),
    ] {
        let fault = format!("{fault}:{}", SELF_TEST_LAUNCHES + 3);
        let flags = ["--device=cuda", "--cuda-hang-timeout=400ms"];
        let mut daemon = daemon(&flags, &[("FAKE_CUDA_FAULT", &fault)]).await;
        let devices = right_answers(&daemon, 6).await;
        assert_eq!((devices[0].as_str(), devices[5].as_str()), ("cuda:0", "cpu"), "{fault}");
        daemon.logged("device taken out").await;
        daemon.logged("fallback takes over").await;
        assert!(daemon.log_has(reason), "{fault}: {}", daemon.log());
        let metrics = daemon.scrape().await;
        assert_eq!(value(&metrics, "logitd_device_up{device=\"cuda:0\"}"), 0.0);
        assert_eq!(value(&metrics, "logitd_device_up{device=\"cpu\"}"), 1.0);
        let info = Client::connect(daemon.target()).await.unwrap().info().await.unwrap();
        let up: Vec<_> = info.devices.iter().map(|d| (d.id.as_str(), d.up)).collect();
        assert_eq!(up, [("cuda:0", false), ("cpu", true)]);
        daemon.signal("TERM");
        assert_eq!(daemon.exit_code().await, Some(0), "{fault}: {}", daemon.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_with_wrong_bits_is_found_by_verification() {
    let fault = format!("flip:{}", SELF_TEST_LAUNCHES + 3);
    let flags = ["--device=cuda", "--verify-fraction=1", "--verify-strict"];
    let daemon = daemon(&flags, &[("FAKE_CUDA_FAULT", &fault)]).await;
    let client = Client::connect(daemon.target()).await.unwrap();
    let mut wrong = 0;
    for salt in 0..100 {
        let request = request(2, 400, salt);
        let response = client.sample(request.clone()).await.unwrap();
        wrong += usize::from(response.rows != expected(&request));
        if response.device == "cpu" {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(wrong > 0, "the fault shows until it is found");
    daemon.logged("device taken out").await;
    assert!(daemon.log_has("its results differ from a second computation"), "{}", daemon.log());
    let metrics = daemon.scrape().await;
    assert!(value(&metrics, "logitd_parity_mismatches_total") >= 1.0);
    assert_eq!(value(&metrics, "logitd_device_up{device=\"cuda:0\"}"), 0.0);
    assert!(right_answers(&daemon, 3).await.iter().all(|device| device == "cpu"));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_devices_the_other_goes_on() {
    let variables = [
        ("FAKE_CUDA_DEVICES", "2"),
        ("FAKE_CUDA_FAULT_DEVICE", "1"),
        ("FAKE_CUDA_FAULT", "sticky:5"),
    ];
    let daemon = daemon(&["--device=cuda:0,1"], &variables).await;
    let mut clients = tokio::task::JoinSet::new();
    for salt in 0..4 {
        let client = Client::connect(daemon.target()).await.unwrap();
        clients.spawn(async move {
            for round in 0..8 {
                let request = request(5, 400, salt * 100 + round);
                let response = client.sample(request.clone()).await.unwrap();
                assert_eq!(response.rows, expected(&request));
                assert_eq!(response.device, "cuda:0", "the other fails at its first batch");
            }
        });
    }
    clients.join_all().await;
    daemon.logged("device taken out").await;
    let metrics = daemon.scrape().await;
    assert_eq!(value(&metrics, "logitd_device_up{device=\"cuda:0\"}"), 1.0);
    assert_eq!(value(&metrics, "logitd_device_up{device=\"cuda:1\"}"), 0.0);
    assert!(!daemon.log_has("fallback takes over"), "{}", daemon.log());
}

/// Each reason why there is no device, as the one who starts it hears it.
const REASONS: [(&[(&str, &str)], &str); 9] = [
    (&[("FAKE_CUDA_DRIVER", "11040")], "offers CUDA 11.4, and 12.8 or later is needed"),
    (&[("FAKE_CUDA_DEVICES", "0")], "CUDA_ERROR_NO_DEVICE"),
    (&[("FAKE_CUDA_CHIP", "70")], "has compute capability 7.0; the kernels need 7.5 or later"),
    (&[("FAKE_CUDA_MEMORY", "9000000")], "CUDA_ERROR_OUT_OF_MEMORY"),
    (&[("FAKE_CUDA_CONTRACT", "1")], "fails its self-test: the kernels' compiler contracts"),
    (&[("FAKE_CUDA_FAULT", "mute:1")], "fails its self-test: it returned the status 4294967295"),
    (&[("FAKE_CUDA_FAULT", "flip:2")], "fails its self-test: it differs from the oracle in row"),
    (
        &[("FAKE_CUDA_REFUSE", "fatbin"), ("FAKE_NVRTC", "error")],
        "NVRTC does not compile the kernels",
    ),
    (&[("FAKE_CUDA_REFUSE", "fatbin,cubin,ptx")], "CUDA_ERROR_NO_BINARY_FOR_GPU"),
];

#[test]
fn a_device_that_cannot_be_used_is_refused_with_the_reason() {
    for (variables, reason) in REASONS {
        let said = refused(&["--device=cuda"], variables);
        assert!(said.contains(reason) && said.contains("--device cpu"), "{variables:?}: {said}");
    }
    let said = refused(&["--device=cuda:1"], &[]);
    assert!(said.contains("cuda:1: there is no such device; the only one is cuda:0"), "{said}");
    let said = refused(&["--device=cuda"], &[("LD_LIBRARY_PATH", "")]);
    match logitd_core::backend::cuda::count() {
        Ok(_) => {
            // Not `eprintln!`, which the harness keeps to itself when a test passes.
            let line = b"SKIPPED the case without libcuda: this machine has one\n";
            std::io::Write::write_all(&mut std::io::stderr(), line).expect("stderr is open");
        }
        Err(reason) => assert!(said.contains(&reason), "{said}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn auto_takes_a_device_that_works_and_else_says_why_not() {
    let working = daemon(&["--device=auto"], &[]).await;
    assert_eq!(right_answers(&working, 1).await, ["cuda:0"]);
    for (variables, reason) in &REASONS[..6] {
        let without = daemon(&[], variables).await;
        assert_eq!(right_answers(&without, 1).await, ["cpu"]);
        assert!(without.log_has(reason), "{variables:?}: {}", without.log());
        let metrics = without.scrape().await;
        assert_eq!(value(&metrics, "logitd_kernel_tier{device=\"cpu\",tier=\"cpu\"}"), 1.0);
    }
}

#[test]
fn info_tells_the_tier_or_why_there_is_none() {
    let info = |variables: &[(&str, &str)]| -> Value {
        serde_json::from_str(&ok(&["info", "--json"], variables)).unwrap()
    };
    let nvrtc = info(&[("FAKE_CUDA_REFUSE", "fatbin")]);
    assert_eq!(nvrtc["kernel_tier"], "nvrtc");
    assert_eq!(nvrtc["kernel_tier_reason"], Value::Null);
    assert_eq!(nvrtc["devices"][2]["id"], "cuda:0");
    assert!(nvrtc["devices"][2]["name"].as_str().unwrap().starts_with("FAKE CUDA"));
    let best = info(&[]);
    let fatbin = best["kernels_built_in"].as_bool().unwrap();
    assert_eq!(best["kernel_tier"], if fatbin { "fatbin" } else { "nvrtc" });
    let none = info(&[("FAKE_CUDA_REFUSE", "fatbin"), ("FAKE_NVRTC", "absent")]);
    assert_eq!(none["kernel_tier"], "cpu");
    assert!(none["kernel_tier_reason"].as_str().unwrap().contains("NVRTC"), "{none}");
    let text = ok(&["info"], &[("FAKE_CUDA_CHIP", "70")]);
    assert!(text.contains("cpu: cuda:0: FAKE CUDA device 0"), "{text}");
    // NVRTC compiles for the newest chip that it knows where it does not know this one.
    let newer = info(&[("FAKE_CUDA_REFUSE", "fatbin,cubin"), ("FAKE_CUDA_CHIP", "121")]);
    assert_eq!(newer["kernel_tier"], "nvrtc");
}

/// Twelve rows, sampled over the fake driver with these variables: the answers, and every sampling launch as the
/// driver's log has it.
fn sampled(variables: &[(&str, &str)]) -> (String, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let (rows, log) = (folder.path().join("rows.npy"), folder.path().join("log"));
    let logits = crate::harness::logits(12, 30_000, 5).to_vec();
    logitd::files::npy::write(&rows, logitd_core::batch::Dtype::F16, 30_000, &logits).unwrap();
    let settings = ["sample", "--device=cuda", "--json", "--seed=3", "--top-p=0.9"];
    let args = [&settings[..], &["--logits", rows.to_str().unwrap()]].concat();
    let text = ok(&args, &[variables, &[("FAKE_CUDA_LOG", log.to_str().unwrap())]].concat());
    let log = std::fs::read_to_string(log).unwrap();
    let launches = log.lines().filter_map(|line| line.strip_prefix("launch logitd_sample_"));
    (text, launches.map(str::to_owned).collect())
}

/// With as many multiprocessors, but in other groups, there is room for fewer clusters than blocks: the grid kernel, whose
/// teams may lie anywhere, has the rows then, and the bits are the same.
#[test]
fn where_there_are_too_few_clusters_the_grid_kernel_has_the_launch() {
    let (answers, launches) = sampled(&[("FAKE_CUDA_GROUPS", "24")]);
    let last = launches.last().unwrap();
    assert!(last.starts_with("cluster blocks 96 cluster 8 "), "96 blocks have room: {launches:?}");
    for (groups, shape) in [
        ("7,7,7,3", "grid blocks 96 "), // 3 + 3 + 3 + 1 clusters of eight; the rows are 12
        ("12,12", "cluster blocks 96 cluster 8 "),
        ("1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1", "grid blocks 96 "),
    ] {
        let (others, launches) = sampled(&[("FAKE_CUDA_GROUPS", groups)]);
        assert!(launches.last().unwrap().starts_with(shape), "{groups}: {launches:?}");
        assert_eq!(others, answers, "{groups}");
    }
}

/// The room that the plan counts on is set aside before anything is launched.
#[test]
fn shared_memory_is_set_aside_for_every_sampling_launch() {
    for chip in ["90", "75"] {
        let (_, launches) = sampled(&[("FAKE_CUDA_CHIP", chip)]);
        assert!(launches.iter().all(|launch| launch.contains(" carveout 100 ")), "{launches:?}");
    }
}

/// Where clusters do not launch, the grid kernel takes their place, with the same bits, and everyone is told.
#[tokio::test(flavor = "multi_thread")]
async fn where_clusters_do_not_launch_the_grid_kernel_takes_their_place() {
    let refused = "thread-block clusters do not launch (of 2 blocks: cuLaunchKernelEx: \
                   CUDA_ERROR_INVALID_CLUSTER_SIZE";
    let none = [("FAKE_CUDA_CLUSTER_MAX", "1")];
    let (answers, _) = sampled(&[]);
    let (others, launches) = sampled(&none);
    assert_eq!(others, answers);
    assert!(launches.iter().all(|launch| launch.starts_with("grid ")), "{launches:?}");

    let info: Value = serde_json::from_str(&ok(&["info", "--json"], &none)).unwrap();
    let isa = info["devices"][2]["isa"].as_str().unwrap();
    assert!(isa.starts_with("sm_90 ") && isa.ends_with(" grid"), "{info}");
    let note = info["kernel_notes"][0].as_str().unwrap();
    assert!(note.starts_with("cuda:0: ") && note.contains(refused), "{note}");
    assert!(note.ends_with("the grid kernel takes the place of the cluster kernel"), "{note}");
    let text = ok(&["info"], &none);
    assert!(text.contains(note) && text.contains(isa), "{text}");

    let daemon = daemon(&["--device=cuda"], &none).await;
    assert_eq!(right_answers(&daemon, 3).await, ["cuda:0"; 3]);
    assert!(daemon.log_has(refused), "{}", daemon.log());

    // Some sizes are better than none.
    let (others, launches) = sampled(&[("FAKE_CUDA_CLUSTER_MAX", "2")]);
    assert_eq!(others, answers);
    let kernels = ["cluster ", "grid "];
    let has = |kernel| launches.iter().any(|launch| launch.starts_with(kernel));
    assert!(kernels.into_iter().all(has), "{launches:?}");
    let some = [("FAKE_CUDA_CLUSTER_MAX", "2")];
    let info: Value = serde_json::from_str(&ok(&["info", "--json"], &some)).unwrap();
    let note = info["kernel_notes"][0].as_str().unwrap();
    assert!(note.contains("(of 4 blocks: ") && note.ends_with("teams have other sizes"), "{note}");
    let usual: Value = serde_json::from_str(&ok(&["info", "--json"], &[])).unwrap();
    assert_eq!(usual["kernel_notes"], serde_json::json!([]));
    // An older chip has none, and nobody misses them.
    let older = ok(&["info", "--json"], &[("FAKE_CUDA_CHIP", "89")]);
    let older: Value = serde_json::from_str(&older).unwrap();
    assert_eq!(older["kernel_notes"], serde_json::json!([]), "{older}");
}

/// What proves order must be able to fail.
#[test]
fn a_forgotten_wait_shows() {
    let args = ["verify", "--device=cuda", "--vocab-size-max=500", "--rows=300"];
    let forgot = logitd(&args, &[("FAKE_CUDA_FORGET", "query")]);
    assert_eq!(forgot.status.code(), Some(2), "{forgot:?}");
    // Two launches on their way at once: a batch that is larger than one takes.
    let long = ["sample", "--device=cuda", "--top-k=5", "--logits"];
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("long.npy");
    let logits: Vec<u8> = crate::harness::logits(600, 200, 1).to_vec();
    logitd::files::npy::write(&path, logitd_core::batch::Dtype::F16, 200, &logits).unwrap();
    let args = [&long[..], &[path.to_str().unwrap()]].concat();
    ok(&args, &[]);
    let forgot = logitd(&args, &[("FAKE_CUDA_FORGET", "wait")]);
    let said = String::from_utf8_lossy(&forgot.stderr);
    assert!(
        !forgot.status.success() && said.contains("nothing orders a kernel and a kernel"),
        "{said}"
    );
}

/// The kernels behind the whole server, without any driver.
#[tokio::test(flavor = "multi_thread")]
async fn the_server_over_the_shim() {
    let shim = logitd_shim::open(ShimOptions::default());
    let server = TestServer::with(&[], vec![Box::new(shim)]).await;
    let client = server.client().await;
    for (rows, vocab_size) in [(1, 1), (3, 257), (90, 300), (4, 5000)] {
        let request = request(rows, vocab_size, rows as u64);
        let response = client.sample(request.clone()).await.unwrap();
        assert_eq!(response.rows, expected(&request), "{rows} x {vocab_size}");
        assert_eq!(response.device, "shim");
    }
    let mut request = request(3, 257, 3);
    request.params[0].top_n_sigma = 1.0;
    request.params[1].typical_p = Some(0.5);
    (request.params[2].xtc_probability, request.params[2].xtc_threshold) = (1.0, Some(0.01));
    let response = client.sample(request.clone()).await.unwrap();
    assert_eq!(response.rows, expected(&request));
    assert_eq!(response.device, "shim");
    // A row that no kernel samples is the processor's, and the answer says so.
    request.params[1].top_a = 0.5;
    let response = client.sample(request.clone()).await.unwrap();
    assert_eq!(response.rows, expected(&request));
    assert_eq!(response.device, "shim+cpu");
    server.stop().await.unwrap().unwrap();
}

/// The benchmark's code for devices; its figures mean nothing here.
#[test]
fn bench_runs_and_names_the_fake() {
    let args = ["bench", "--device=cuda", "--batch=1,3", "--vocab-size=700", "--passes=2"];
    let text = ok(&args, &[]);
    assert!(text.starts_with("cuda:0 (FAKE CUDA device 0"), "{text}");
    let lines = ok(&[&args[..], &["--json"]].concat(), &[]);
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 24, "twelve cases, two batches");
    for line in &lines {
        assert!(line["name"].as_str().unwrap().starts_with("FAKE CUDA"), "{line}");
        assert!(
            line["kernel_us"].as_f64().unwrap() > 0.0
                && line["copy_gb_per_s"].as_f64().unwrap() > 0.0
        );
    }
    assert_eq!((&lines[1]["rows"], &lines[1]["passes"]), (&3.into(), &2.into()));
    // An answer that is wrong is not timed: the self-test takes two launches, the check the third.
    let wrong = logitd(&args, &[("FAKE_CUDA_FAULT", "flip:20")]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("is wrong in row"), "{wrong:?}");
    for case in ["constant_top_p", "beam_step"] {
        let said = logitd(&["bench", "--device=cuda", "--case", case], &[]);
        let said = String::from_utf8_lossy(&said.stderr);
        assert!(
            said.contains(&format!("--case is {case}; with --device allowed: top_k_top_p,")),
            "{said}"
        );
    }
    let said = logitd(&["bench", "--device=cpu"], &[]);
    assert!(String::from_utf8_lossy(&said.stderr).contains("no clock of its own"), "{said:?}");
    // Before a launch is timed the caches are filled by reading. What fills them by writing would be timed too.
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    ok(&args, &[("FAKE_CUDA_LOG", log.to_str().unwrap())]);
    let log = std::fs::read_to_string(log).unwrap();
    let timed: Vec<&str> = log.lines().skip_while(|line| !line.contains("logitd_read")).collect();
    assert_eq!(timed.iter().filter(|line| line.contains("logitd_read")).count(), 24 * 3);
    // Kernels run beside the one that draws only where a case has work for them: in two batches, each once for the check
    // and three times in each of three passes.
    let launched = |kernel| timed.iter().filter(|line| line.contains(kernel)).count();
    assert_eq!((launched("logitd_adjust"), launched("logitd_inspect")), (3 * 2 * 10, 2 * 10));
    assert_eq!(launched("logitd_cut"), 3 * 2 * 10);
    assert!(timed.iter().all(|line| !line.starts_with("memset")), "{timed:?}");
}
