//! What an operator's bad days look like: a log that nobody reads, a full disk, too few descriptors, certificates that
//! end, and signals.

use crate::harness::daemon::{Daemon, command, command_after, command_in_cgroup, refused, value};
use crate::harness::{expected, request, until};
use logitd::record::Reader;
use logitd_client::{Client, Error};
use rcgen::{CertificateParams, CertifiedKey, KeyPair, date_time_ymd};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::io::{BufRead, BufReader, Read};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tonic::Code;

/// Waits for what a daemon tells Prometheus.
async fn metric(daemon: &Daemon, name: &str, so: impl Fn(f64) -> bool) -> f64 {
    let patience = Instant::now() + Duration::from_secs(20);
    loop {
        let found = value(&daemon.scrape().await, name);
        if so(found) {
            return found;
        }
        assert!(Instant::now() < patience, "{name} is {found}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Its log is read up to where it listens, then not for a while, and then again, or never.
#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_reader_of_the_log_stops_nothing() {
    for comes_back in [true, false] {
        let mut command = command(&["--metrics-listen=127.0.0.1:0"]);
        command.env("RUST_LOG", "trace").stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let (mut target, mut metrics) = (String::new(), String::new());
        while target.is_empty() {
            let mut line = String::new();
            log.read_line(&mut line).unwrap();
            let address = |message: &str| {
                let rest = line.split_once(message)?.1;
                Some(rest.split_once("address=")?.1.trim().trim_matches('"').to_owned())
            };
            metrics = address("metrics").unwrap_or(metrics);
            target = address("listening").unwrap_or(target);
        }
        let metrics = metrics.trim_start_matches("http://").trim_end_matches("/metrics");
        let client = Client::connect(&target).await.unwrap();
        let dropped = async || {
            let text = crate::harness::daemon::scrape(metrics).await;
            value(&text, "logitd_log_lines_dropped_total")
        };
        let mut answered = 0;
        while dropped().await == 0.0 {
            for _ in 0..100 {
                let request = request(1, 20, answered);
                let answer = client.sample(request.clone()).await.unwrap();
                assert_eq!(answer.rows, expected(&request));
                answered += 1;
            }
            assert!(answered < 100_000, "nothing was ever dropped");
        }
        let (tell, told) = mpsc::channel();
        let mut log = Some(log);
        if comes_back {
            let log = log.take().unwrap();
            std::thread::spawn(move || {
                for line in log.lines().map_while(Result::ok) {
                    let _ = tell.send(line);
                }
            });
            let reported = |line: &String| line.contains("log lines were dropped");
            let line = told.iter().find(reported).expect("the log goes on");
            println!("{answered} answers with a stuck reader; then: {line}");
            assert!(line.contains("dropped="), "{line}");
        } else {
            println!("{answered} answers with a reader that never comes back");
        }
        let stopped = format!("kill -TERM {}", child.id());
        assert!(
            std::process::Command::new("sh").args(["-c", &stopped]).status().unwrap().success()
        );
        let code = tokio::task::spawn_blocking(move || child.wait().unwrap().code()).await.unwrap();
        assert_eq!(code, Some(0), "it leaves as ever");
        if comes_back {
            assert!(told.iter().any(|line| line.contains("drained")), "the last lines are there");
        }
    }
}

/// Files that a daemon may write end at 64 KiB.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_costs_the_recording_and_nothing_else() {
    const CALLS: u64 = 60;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trace");
    let record = format!("--record={}", file.display());
    // In units of 512 bytes, as POSIX has them; some shells count in 1024.
    let command = command_after("ulimit -f 128", &[&record, "--metrics-listen=127.0.0.1:0"]);
    let mut daemon = Daemon::run(command).await;
    let client = Client::connect(daemon.target()).await.unwrap();
    let begun = Instant::now();
    let (mut asked, mut dropped) = (0, 0.0);
    // A little at a time: what is written when the disk is full is a part of it.
    while dropped == 0.0 || asked < CALLS {
        for _ in 0..5 {
            let request = request(1, 2000, asked);
            let answer = client.sample(request.clone()).await.unwrap();
            assert_eq!(answer.rows, expected(&request));
            asked += 1;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        dropped = value(&daemon.scrape().await, "logitd_recorded_total{result=\"dropped\"}");
        assert!(begun.elapsed() < Duration::from_secs(60), "the disk was never full");
    }
    until("it is said", || daemon.log_has("requests are not recorded")).await;
    let all = |text: &str| {
        ["written", "dropped"].map(|result| {
            value(text, &format!("logitd_recorded_total{{result=\"{result}\"}}")) as u64
        })
    };
    let mut counts = [0, 0];
    let patience = Instant::now() + Duration::from_secs(20);
    while counts.iter().sum::<u64>() != asked {
        assert!(Instant::now() < patience, "{counts:?} of {asked}");
        tokio::time::sleep(Duration::from_millis(20)).await;
        counts = all(&daemon.scrape().await);
    }
    let [written, dropped] = counts;
    println!("{asked} answers: {written} written, {dropped} dropped");
    let readable = Reader::open(&file).unwrap().filter(|entry| entry.is_ok()).count() as u64;
    assert_eq!(readable, written, "what the metric calls written can be read");
    assert!(written > 0 && dropped > 0);
    let lines = daemon.events("requests are not recorded");
    assert!(lines.len() < 10, "said now and then: {lines:?}");
    assert!(lines[0]["reason"].as_str().unwrap().contains("too large"), "{lines:?}");
    daemon.signal("TERM");
    assert_eq!(daemon.exit_code().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_recorded_a_second_ago_outlives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trace");
    let record = format!("--record={}", file.display());
    let mut daemon = Daemon::start(&[&record, "--metrics-listen=127.0.0.1:0"]).await;
    let client = Client::connect(daemon.target()).await.unwrap();
    for n in 0..40 {
        client.sample(request(1, 100, n)).await.unwrap();
    }
    // Steady traffic, never silent for a second.
    let traffic = tokio::spawn(async move {
        for n in 40.. {
            if client.sample(request(1, 100, n)).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let name = "logitd_recorded_total{result=\"written\"}";
    let written = metric(&daemon, name, |written| written >= 40.0).await;
    daemon.signal("KILL");
    assert_eq!(daemon.exit_code().await, None);
    traffic.await.unwrap();
    let (whole, lost): (Vec<_>, Vec<_>) = Reader::open(&file).unwrap().partition(Result::is_ok);
    println!("{written} were written by the metric, {} are read, {lost:?} lost", whole.len());
    assert!(whole.len() >= written as usize);
    assert!(lost.len() <= 1, "a torn tail at most, and it is said: {lost:?}");
}

#[test]
fn a_pipe_is_no_recording() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).unwrap();
    let said = refused(&[&format!("--record={}", pipe.display())]);
    assert!(said.contains("not a regular file"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_descriptors_a_daemon_waits_and_says_so_now_and_then() {
    // Given, since the default follows the limit.
    let flags = ["--connections-max=4096", "--connections-per-address-max=4096"];
    let mut daemon = Daemon::run(command_after("ulimit -n 40", &flags)).await;
    let address = daemon.target().strip_prefix("http://").unwrap().to_owned();
    let mut held = Vec::new();
    for _ in 0..80 {
        held.push(TcpStream::connect(&address).await.unwrap());
    }
    daemon.logged("cannot accept connections").await;
    let begun = Instant::now();
    until("it is said again", || daemon.events("cannot accept connections").len() > 2).await;
    let (lines, time) = (daemon.events("cannot accept connections"), begun.elapsed());
    println!("{} lines in {time:?}", lines.len());
    assert!(lines.len() as u64 <= 2 + time.as_secs(), "{lines:?}");
    assert!(lines[1]["suppressed"].as_u64().unwrap() > 0, "{lines:?}");
    drop(held);
    let client = Client::connect(daemon.target()).await.unwrap();
    let wanted = request(1, 10, 1);
    assert_eq!(client.sample(wanted.clone()).await.unwrap().rows, expected(&wanted));
    daemon.signal("TERM");
    assert_eq!(daemon.exit_code().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_that_nobody_set_fit_what_the_system_grants() {
    let granted = "ulimit -n 300; ulimit -v 2000000";
    let daemon = Daemon::run(command_after(granted, &["--device=cpu", "--threads=1"])).await;
    let log = daemon.log();
    assert!(log.contains("1953 MiB of memory that RLIMIT_AS (ulimit -v) grants"), "{log}");
    assert!(log.contains("300 descriptors that RLIMIT_NOFILE (ulimit -n) grants"), "{log}");
    assert!(log.contains("--connections-max 236"), "{log}");
    let client = Client::connect(daemon.target()).await.unwrap();
    let limits = client.info().await.unwrap().limits.unwrap();
    println!(
        "queue_bytes_max {}, answer_bytes_max {}",
        limits.queue_bytes_max, limits.answer_bytes_max
    );
    assert!(limits.queue_bytes_max < 1 << 30 && limits.queue_bytes_max > 1 << 29);
    let wanted = request(1, 10, 1);
    assert_eq!(client.sample(wanted.clone()).await.unwrap().rows, expected(&wanted));

    // What somebody set stays, and is warned of.
    let flags = ["--device=cpu", "--threads=1", "--queue-bytes-max=3GiB"];
    let daemon = Daemon::run(command_after(granted, &flags)).await;
    let log = daemon.log();
    assert!(log.contains("--queue-bytes-max 3072MiB") && log.contains("WARN"), "{log}");
    let client = Client::connect(daemon.target()).await.unwrap();
    assert_eq!(client.info().await.unwrap().limits.unwrap().queue_bytes_max, 3 << 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_that_nobody_set_fit_the_cgroup() {
    let on_one_thread = ["--device=cpu", "--threads=1"];
    // Version 2, where a group above has the least limit, and version 1 beside controllers of other trees.
    for (of_process, file, by) in [
        ("0::/pods/logitd\n", "pods/memory.max", "/sys/fs/cgroup/pods/memory.max"),
        (
            "4:cpu:/other\n3:memory:/pods\n0::/\n",
            "memory/pods/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/pods/memory.limit_in_bytes",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let limits = [("pods/logitd/memory.max", "max\n"), (file, "419430400\n")];
        let in_cgroup =
            |flags: &[&str]| command_in_cgroup(folder.path(), of_process, &limits, flags);
        let Some(command) = in_cgroup(&on_one_thread) else { return };
        let daemon = Daemon::run(command).await;
        let log = daemon.log();
        let granted = format!("400 MiB of memory that {by} grants");
        assert!(log.contains(&format!("lowered to fit the {granted}: --queue-bytes-max")), "{log}");
        let client = Client::connect(daemon.target()).await.unwrap();
        let limits = client.info().await.unwrap().limits.unwrap();
        let sum = limits.queue_bytes_max + limits.answer_bytes_max;
        assert!(sum < 300 << 20 && sum > 200 << 20, "{sum} bytes, beside those of windows");
        let wanted = request(1, 10, 1);
        assert_eq!(client.sample(wanted.clone()).await.unwrap().rows, expected(&wanted));

        // What somebody set stays, and is warned of.
        let flags = [&on_one_thread[..], &["--queue-bytes-max=1GiB"]].concat();
        let daemon = Daemon::run(in_cgroup(&flags).expect("as before")).await;
        let log = daemon.log();
        assert!(log.contains("--queue-bytes-max 1024MiB") && log.contains(&granted), "{log}");
        assert!(log.contains("WARN"), "{log}");
        let client = Client::connect(daemon.target()).await.unwrap();
        assert_eq!(client.info().await.unwrap().limits.unwrap().queue_bytes_max, 1 << 30);
    }
}

/// Puts a certificate for localhost in these files that ends on this day of January, and says what trusts it.
fn certify(folder: &Path, year: i32, day: u8) -> String {
    let mut params = CertificateParams::new(vec!["localhost".into()]).unwrap();
    params.not_after = date_time_ymd(year, 1, day);
    let signing_key = KeyPair::generate().unwrap();
    let cert = params.self_signed(&signing_key).unwrap();
    let CertifiedKey { cert, signing_key } = CertifiedKey { cert, signing_key };
    std::fs::write(folder.join("key.pem"), signing_key.serialize_pem()).unwrap();
    std::fs::write(folder.join("cert.pem"), cert.pem()).unwrap();
    cert.pem()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_has_certificates_and_tokens_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let first = certify(folder.path(), 2090, 1);
    std::fs::write(path("tokens"), "alpha Ann\nbeta Bob\n").unwrap();
    let flags = [
        format!("--tls-cert={}", path("cert.pem")),
        format!("--tls-key={}", path("key.pem")),
        format!("--tokens-file={}", path("tokens")),
        "--metrics-listen=127.0.0.1:0".into(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut daemon = Daemon::start(&flags).await;
    let target = daemon.target().to_owned();
    let connect = |roots: &str, token: &str| {
        Client::builder(&target).tls_roots(roots).tls_domain("localhost").token(token).connect()
    };
    let wanted = request(1, 20, 1);
    let ann = connect(&first, "alpha").await.unwrap();
    let bob = connect(&first, "beta").await.unwrap();
    let mut stream = bob.stream().await.unwrap();
    stream.send(wanted.clone()).await.unwrap();
    assert!(stream.receive().await.unwrap().unwrap().1.is_ok());
    let expiry = "logitd_tls_certificate_expiry_timestamp_seconds{certificate=\"server\"}";
    assert_eq!(value(&daemon.scrape().await, expiry), 3_786_912_000.0);

    // A broken file changes nothing, whatever else is new.
    std::fs::write(path("tokens"), "gamma\n").unwrap();
    std::fs::write(path("cert.pem"), "nothing of use").unwrap();
    daemon.signal("HUP");
    daemon.logged("certificates and tokens stay as they were").await;
    assert!(daemon.log_has("cert.pem"), "{}", daemon.log());
    for client in [&ann, &bob] {
        assert_eq!(client.sample(wanted.clone()).await.unwrap().rows, expected(&wanted));
    }
    assert!(connect(&first, "alpha").await.is_ok());

    let second = certify(folder.path(), 2091, 1);
    std::fs::write(path("tokens"), "alpha Ann\ngamma\n").unwrap();
    daemon.signal("HUP");
    daemon.logged("read certificates and tokens again").await;
    let text = daemon.scrape().await;
    assert_eq!(value(&text, expiry), 3_818_448_000.0);
    for result in ["ok", "failed"] {
        assert_eq!(value(&text, &format!("logitd_reloads_total{{result=\"{result}\"}}")), 1.0);
    }
    // Connections go on; what is gone is refused, on a stream that had begun, too.
    assert_eq!(ann.sample(wanted.clone()).await.unwrap().rows, expected(&wanted));
    let error = bob.sample(wanted.clone()).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Unauthenticated), "{error}");
    stream.send(wanted.clone()).await.unwrap();
    let error = stream.receive().await.unwrap().unwrap().1.unwrap_err();
    assert_eq!(error.code(), Some(Code::Unauthenticated), "{error}");
    assert!(matches!(connect(&first, "alpha").await, Err(Error::Connect { .. })));
    let gamma = connect(&second, "gamma").await.unwrap();
    assert_eq!(gamma.sample(wanted.clone()).await.unwrap().rows, expected(&wanted));

    for signal in ["USR1", "USR2", "PIPE", "ALRM", "XFSZ"] {
        daemon.signal(signal);
    }
    assert_eq!(gamma.sample(wanted.clone()).await.unwrap().rows, expected(&wanted));
    daemon.signal("TERM");
    assert_eq!(daemon.exit_code().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_end_are_warned_of() {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let flags =
        [format!("--tls-cert={}", path("cert.pem")), format!("--tls-key={}", path("key.pem"))];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    certify(folder.path(), 2020, 1);
    let daemon = Daemon::start(&flags).await;
    daemon.logged("the certificate has expired").await;
    let days = daemon.events("the certificate has expired")[0]["days_ago"].as_u64().unwrap();
    assert!(days.abs_diff(now.as_secs() / 86_400 - 18_262) <= 1, "{days}");
    let soon = rcgen::date_time_ymd(1970, 1, 1) + now + Duration::from_secs(5 * 86_400 + 3600);
    let mut params = CertificateParams::new(vec!["localhost".into()]).unwrap();
    params.not_after = soon;
    let key = KeyPair::generate().unwrap();
    std::fs::write(path("cert.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(path("key.pem"), key.serialize_pem()).unwrap();
    daemon.signal("HUP");
    daemon.logged("the certificate expires soon").await;
    assert_eq!(daemon.events("the certificate expires soon")[0]["days"], 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_manager_is_told_how_the_service_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify").display().to_string();
    let abstract_name = format!("logitd-test-{}", std::process::id());
    let by_name = SocketAddr::from_abstract_name(&abstract_name).unwrap();
    for (socket, name) in [
        (UnixDatagram::bind(&path).unwrap(), path),
        (UnixDatagram::bind_addr(&by_name).unwrap(), format!("@{abstract_name}")),
    ] {
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let told = || {
            let mut buffer = [0; 256];
            let bytes = socket.recv(&mut buffer).expect("a message");
            String::from_utf8(buffer[..bytes].to_vec()).unwrap()
        };
        let variables = [("NOTIFY_SOCKET", name.as_str()), ("WATCHDOG_USEC", "200000")];
        let mut daemon = Daemon::start_with(&[], &variables).await;
        let until = |wanted: &str| loop {
            let message = told();
            match message.as_str() {
                message if message.starts_with(wanted) => return message.to_owned(),
                "WATCHDOG=1" => {}
                other => panic!("{other} before {wanted}"),
            }
        };
        until("READY=1");
        let begun = Instant::now();
        (0..4).for_each(|_| drop(until("WATCHDOG=1")));
        println!("4 signs of life in {:?}", begun.elapsed());
        daemon.signal("HUP");
        let reloading = until("RELOADING=1");
        let at = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("the time");
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        let at = at.parse::<u64>().unwrap() as f64 / 1e6;
        println!("reloading at {at} s, {uptime} s after boot");
        until("READY=1");
        daemon.signal("TERM");
        until("STOPPING=1");
        assert_eq!(daemon.exit_code().await, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_do_not_hide_the_metrics() {
    let daemon = Daemon::start(&["--metrics-listen=127.0.0.1:0"]).await;
    let metrics = daemon.metrics_address();
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(std::net::TcpStream::connect(&metrics).unwrap());
    }
    let begun = Instant::now();
    for _ in 0..3 {
        assert!(daemon.scrape().await.contains("logitd_device_up"));
    }
    println!("3 scrapes beside 40 silent connections in {:?}", begun.elapsed());
    // None of them is kept for ever.
    for mut silent in silent {
        silent.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut rest = Vec::new();
        let _ = silent.read_to_end(&mut rest);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_port_says_what_it_answers() {
    let daemon = Daemon::start(&["--metrics-listen=127.0.0.1:0"]).await;
    for (asked, status, body) in [
        ("GET /metrics", 200, "# TYPE logitd_reloads_total counter"),
        ("GET /metrics?name=x", 200, "# TYPE logitd_reloads_total counter"),
        ("GET /", 404, "GET /metrics\n"),
        ("GET /metrics/", 404, "GET /metrics\n"),
        ("POST /metrics", 404, "GET /metrics\n"),
    ] {
        let request = format!("{asked} HTTP/1.1\r\nHost: x\r\n\r\n");
        let mut stream = std::net::TcpStream::connect(daemon.metrics_address()).unwrap();
        std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{asked}: {text}");
        assert!(text.contains(body), "{asked}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_that_others_can_reach_need_a_token() {
    let said = refused(&["--metrics-listen=0.0.0.0:0"]);
    assert!(said.contains("--metrics-listen") && said.contains("--tokens-file"), "{said}");
    let tokens = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(tokens.path(), "alpha\n").unwrap();
    let tokens = format!("--tokens-file={}", tokens.path().display());
    let daemon = Daemon::start(&["--metrics-listen=0.0.0.0:0", &tokens]).await;
    let address = daemon.metrics_address().replace("0.0.0.0", "127.0.0.1");
    let get = |authorization: &str| {
        let request = format!("GET /metrics HTTP/1.1\r\nHost: x\r\n{authorization}\r\n");
        let mut stream = std::net::TcpStream::connect(&address).unwrap();
        std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    assert!(get("authorization: Bearer alpha\r\n").starts_with("HTTP/1.1 200"));
    for wrong in [
        "",
        "authorization: Bearer beta\r\n",
        "authorization: Bearer alpha\r\nauthorization: Bearer alpha\r\n",
    ] {
        let text = get(wrong);
        assert!(text.starts_with("HTTP/1.1 401") && !text.contains("logitd_"), "{text}");
    }
}
