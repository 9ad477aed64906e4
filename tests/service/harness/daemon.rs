//! The real binary as a child process.

use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// `logitd serve` with JSON logs, on a free port unless the flags say where. Killed when dropped.
pub struct Daemon {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    target: String,
    metrics: Option<String>,
}

impl Daemon {
    pub async fn start(flags: &[&str]) -> Self {
        Self::start_with(flags, &[]).await
    }

    pub async fn start_with(flags: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = command(flags);
        command.envs(variables.iter().copied());
        Self::run(command).await
    }

    /// As [`command`] makes it, or with a shell around it.
    pub async fn run(mut command: Command) -> Self {
        command.arg("--log-format=json");
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the daemon starts");
        let stderr = child.stderr.take().expect("piped");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&lines);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                kept.lock().unwrap().push(line);
            }
        });
        let mut daemon = Self { child, lines, target: String::new(), metrics: None };
        super::until("the daemon listens", || daemon.find("listening").is_some()).await;
        daemon.target = daemon.find("listening").unwrap()["address"].as_str().unwrap().into();
        daemon.metrics =
            daemon.find("metrics").map(|event| event["address"].as_str().unwrap().to_owned());
        daemon
    }

    pub fn target(&self) -> &str {
        &self.target
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, by its name without SIG.
    pub fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    /// Waits for its end; `None` if a signal ended it.
    pub async fn exit_code(&mut self) -> Option<i32> {
        let patience = std::time::Instant::now() + std::time::Duration::from_secs(40);
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(std::time::Instant::now() < patience, "it does not end:\n{}", self.log());
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        };
        status.code()
    }

    /// Everything logged.
    pub fn log(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    pub fn log_has(&self, words: &str) -> bool {
        self.log().contains(words)
    }

    /// Waits for a message.
    pub async fn logged(&self, message: &str) {
        super::until(message, || self.find(message).is_some()).await;
    }

    fn find(&self, message: &str) -> Option<Value> {
        self.events(message).into_iter().next()
    }

    /// All lines with this message.
    pub fn events(&self, message: &str) -> Vec<Value> {
        let lines = self.lines.lock().unwrap();
        let events = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events.filter(|event| event["message"] == message).collect()
    }

    /// Where the metrics are: host and port.
    pub fn metrics_address(&self) -> String {
        let url = self.metrics.as_ref().expect("--metrics-listen was given");
        let address = url.strip_prefix("http://").and_then(|rest| rest.strip_suffix("/metrics"));
        address.unwrap().to_owned()
    }

    /// The metrics as Prometheus reads them.
    pub async fn scrape(&self) -> String {
        scrape(&self.metrics_address()).await
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a daemon that does not start says. It must exit with 2.
pub fn refused(flags: &[&str]) -> String {
    let output = command(flags).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{flags:?}: {said}");
    said
}

pub fn command(flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_logitd"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("LOGITD_") || name == "RUST_LOG" {
            command.env_remove(name);
        }
    }
    command.arg("serve");
    if !flags.iter().any(|flag| flag.starts_with("--listen")) {
        command.arg("--listen=127.0.0.1:0");
    }
    command.args(flags);
    command
}

/// The same as a shell runs it after this, as `ulimit -n 40`.
pub fn command_after(shell: &str, flags: &[&str]) -> Command {
    let mut around = Command::new("sh");
    around.arg("-c").arg(format!("{shell}; exec \"$0\" \"$@\""));
    within(around, &command(flags))
}

/// `around`, whose last arguments are `inner`.
fn within(mut around: Command, inner: &Command) -> Command {
    around.arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => around.env(name, value),
            None => around.env_remove(name),
        };
    }
    around
}

/// The same in a cgroup that is made up, and that this process alone sees: `of_process` is what /proc/self/cgroup says
/// there, and `limits` are files below /sys/fs/cgroup. They lie in `folder`, which must outlive the process.
///
/// None where a process may not have mounts of its own, which is then said; `LOGITD_REQUIRE_NAMESPACES=1` makes that
/// a failure.
pub fn command_in_cgroup(
    folder: &Path,
    of_process: &str,
    limits: &[(&str, &str)],
    flags: &[&str],
) -> Option<Command> {
    let (own, tree) = (folder.join("own"), folder.join("tree"));
    std::fs::create_dir_all(&tree).unwrap();
    std::fs::write(&own, of_process).unwrap();
    for (file, text) in limits {
        let path = tree.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    // The shell becomes the daemon, so the process whose file is replaced is the daemon's.
    let mounts = format!(
        "/usr/bin/mount --bind {} /proc/$$/cgroup && /usr/bin/mount --bind {} /sys/fs/cgroup",
        own.display(),
        tree.display()
    );
    let apart = || {
        let mut command = Command::new("/usr/bin/unshare");
        command.args(["--map-root-user", "--mount"]);
        command
    };
    match apart().args(["sh", "-c", &mounts]).output() {
        Ok(output) if output.status.success() => {
            Some(within(apart(), &command_after(&mounts, flags)))
        }
        found => {
            let why = found.map(|output| String::from_utf8_lossy(&output.stderr).into_owned());
            let required = std::env::var("LOGITD_REQUIRE_NAMESPACES").is_ok_and(|v| v == "1");
            assert!(!required, "LOGITD_REQUIRE_NAMESPACES=1, but no mounts of its own: {why:?}");
            let line = format!("SKIPPED limits of a cgroup: no mounts of its own: {why:?}\n");
            std::io::stderr().write_all(line.as_bytes()).expect("stderr is open");
            None
        }
    }
}

/// What a metrics port says.
pub async fn scrape(address: &str) -> String {
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").expect("an HTTP response");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    body.to_owned()
}

/// The value of a sample; labels may stand in any order in what is asked for.
pub fn value(text: &str, name: &str) -> f64 {
    let key = |name: &str| {
        let (metric, labels) = name.split_once('{').unwrap_or((name, "}"));
        let mut labels: Vec<String> =
            labels.trim_end_matches('}').split(',').map(str::to_owned).collect();
        labels.sort();
        (metric.to_owned(), labels)
    };
    let found = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit_once(' '))
        .find(|(candidate, _)| key(candidate) == key(name));
    found.unwrap_or_else(|| panic!("no {name} in\n{text}")).1.parse().unwrap()
}
