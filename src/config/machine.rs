//! What the machine grants, against what the settings may come to.
//!
//! Every bound of the server is a setting of its own. [`Config::fit`] adds them up; [`Machine`] knows the memory
//! and the descriptors that the operating system grants this process: the machine's own, its cgroup's, its
//! resource limits. Settings that nobody chose are lowered until the sum fits; those that somebody chose
//! stay, and where the sum then does not fit that is said.

use super::Config;
use rustix::process::{Resource, getrlimit};
use std::fmt;
use std::fs;
use std::path::Path;

/// The share of the memory that the sum may come to. The rest is for what has no setting: code, stacks,
/// connections, the allocator, other processes.
const MEMORY_SHARE: (u64, u64) = (3, 4);
/// What a setting that nobody chose is not lowered below.
const BYTES_MIN: usize = 32 << 20;
/// Likewise, of connections.
const CONNECTIONS_MIN: usize = 64;
/// Descriptors beside those of connections: files, listeners, the runtime's.
const DESCRIPTORS_BESIDE: u64 = 64;

/// What the operating system grants this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Bytes of memory; `None` where nobody knows.
    pub memory: Option<Grant>,
    /// Descriptors at once.
    pub descriptors: Option<Grant>,
}

/// An amount, and who grants no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// How much.
    pub amount: u64,
    /// As in "the cgroup's memory.max".
    pub by: String,
}

impl Machine {
    /// Asks the system.
    pub fn look() -> Self {
        let memory = [machine_memory(), cgroup_memory(Path::new("/")), address_space()];
        let descriptors = getrlimit(Resource::Nofile).current;
        Self {
            memory: memory.into_iter().flatten().min_by_key(|grant| grant.amount),
            descriptors: descriptors
                .map(|amount| Grant { amount, by: "RLIMIT_NOFILE (ulimit -n)".into() }),
        }
    }
}

fn machine_memory() -> Option<Grant> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(Grant { amount: kib << 10, by: "the machine".into() })
}

fn address_space() -> Option<Grant> {
    let amount = getrlimit(Resource::As).current?;
    Some(Grant { amount, by: "RLIMIT_AS (ulimit -v)".into() })
}

/// The least limit of this process's cgroup and those above it, in version 1 or 2 of the files.
fn cgroup_memory(root: &Path) -> Option<Grant> {
    let text = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let limits = text.lines().flat_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next(), parts.next(), parts.next());
        match (controllers, path) {
            (Some(""), Some(path)) => least(root, "sys/fs/cgroup", path, "memory.max"),
            (Some(names), Some(path)) if names.split(',').any(|name| name == "memory") => {
                least(root, "sys/fs/cgroup/memory", path, "memory.limit_in_bytes")
            }
            _ => None,
        }
    });
    limits.min_by_key(|grant| grant.amount)
}

/// The least amount in the files of this name, from a cgroup up to the root of its tree.
fn least(root: &Path, tree: &str, path: &str, name: &str) -> Option<Grant> {
    let relative = Path::new(path).strip_prefix("/").ok()?;
    let limits = relative.ancestors().filter_map(|group| {
        let file = root.join(tree).join(group).join(name);
        // "max" is no limit, and so is what version 1 says instead.
        let amount = fs::read_to_string(&file).ok()?.trim().parse().ok()?;
        let shown = Path::new("/").join(file.strip_prefix(root).unwrap_or(&file));
        (amount < 1 << 62).then(|| Grant { amount, by: shown.display().to_string() })
    });
    limits.min_by_key(|grant| grant.amount)
}

/// Something said of the settings at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// Settings that nobody chose were lowered.
    Lowered(String),
    /// What somebody chose may come to more than there is.
    TooMuch(String),
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Lowered(text) | Self::TooMuch(text)) = self;
        f.write_str(text)
    }
}

/// A setting in bytes, and how often so much of it can be held.
struct Bytes<'a> {
    id: &'static str,
    value: &'a mut usize,
    times: u64,
    least: usize,
}

impl Bytes<'_> {
    fn sum(&self) -> u64 {
        (*self.value as u64).saturating_mul(self.times)
    }
}

/// Lowers all until their sum fits `room`: each has its least, and of what it wants beyond that the same share
/// as the others. Whole MiB.
fn lower(settings: &mut [Bytes<'_>], room: u64) {
    let beyond =
        |setting: &Bytes<'_>| setting.value.saturating_sub(setting.least) as u64 * setting.times;
    let least: u64 = settings.iter().map(|s| s.sum() - beyond(s)).sum();
    let wanted: u64 = settings.iter().map(beyond).sum();
    let share = (room.saturating_sub(least) as f64 / wanted.max(1) as f64).min(1.0);
    for setting in settings {
        let more = (beyond(setting) as f64 * share / setting.times as f64) as usize;
        *setting.value = setting.least.min(*setting.value) + (more >> 20 << 20);
    }
}

impl Config {
    /// Lowers settings that nobody chose until the sum of all fits the machine, and says what it did and
    /// what still does not fit.
    pub fn fit(&mut self, machine: &Machine) -> Vec<Note> {
        let memory = machine.memory.as_ref().and_then(|grant| self.fit_memory(grant));
        let descriptors = machine.descriptors.as_ref().and_then(|g| self.fit_descriptors(g));
        memory.into_iter().chain(descriptors).collect()
    }

    fn fit_memory(&mut self, grant: &Grant) -> Option<Note> {
        let room = grant.amount / MEMORY_SHARE.1 * MEMORY_SHARE.0;
        let chosen_ids = std::mem::take(&mut self.chosen);
        let mut settings = self.bytes_held();
        let sum_of = |settings: &[Bytes<'_>]| {
            settings.iter().fold(0, |sum: u64, setting| sum.saturating_add(setting.sum()))
        };
        let all = sum_of(&settings);
        let (chosen, mut open): (Vec<_>, Vec<_>) =
            settings.drain(..).partition(|setting| chosen_ids.contains(setting.id));
        let note = if all <= room {
            None
        } else {
            let fixed = sum_of(&chosen);
            lower(&mut open, room.saturating_sub(fixed));
            let sum = fixed + sum_of(&open);
            let list = |settings: &[Bytes<'_>]| {
                let shown = settings.iter().map(|setting| {
                    format!("--{} {}MiB", setting.id.replace('_', "-"), *setting.value >> 20)
                });
                shown.collect::<Vec<_>>().join(", ")
            };
            let granted = format!("{} MiB of memory that {} grants", grant.amount >> 20, grant.by);
            Some(if sum <= room {
                Note::Lowered(format!("lowered to fit the {granted}: {}", list(&open)))
            } else {
                let all: Vec<_> = chosen.into_iter().chain(open).collect();
                Note::TooMuch(format!(
                    "the limits come to {} MiB, more than three quarters of the {granted}: {}; lower some of them",
                    sum >> 20,
                    list(&all)
                ))
            })
        };
        self.chosen = chosen_ids;
        note
    }

    /// The settings whose sum the server may hold in memory.
    fn bytes_held(&mut self) -> Vec<Bytes<'_>> {
        let message = self.work.message_bytes_max;
        let once = |id, value, least| Bytes { id, value, times: 1, least };
        let mut held = vec![
            once("queue_bytes_max", &mut self.work.queue_bytes_max, BYTES_MIN.max(message)),
            once("answer_bytes_max", &mut self.work.answer_bytes_max, BYTES_MIN),
            once("window_bytes_max", &mut self.connections.window_bytes_max, BYTES_MIN),
        ];
        if self.work.verify_fraction > 0.0 {
            // One batch that is being verified and one that waits.
            let value = &mut self.work.batch_bytes_max;
            held.push(Bytes { id: "batch_bytes_max", value, times: 2, least: BYTES_MIN });
        }
        if self.shm.shm.is_some() {
            // Pages that nobody has written to become the server's when it reads them.
            held.push(once("shm_bytes_max", &mut self.shm.shm_bytes_max, BYTES_MIN));
        }
        if self.recording.record.is_some() {
            let value = &mut self.recording.record_buffer_bytes_max;
            held.push(once("record_buffer_bytes_max", value, BYTES_MIN));
        }
        held
    }

    fn fit_descriptors(&mut self, grant: &Grant) -> Option<Note> {
        let shm = if self.shm.shm.is_some() { self.shm.shm_connections_max as u64 } else { 0 };
        let beside = DESCRIPTORS_BESIDE + shm;
        let connections = &mut self.connections.connections_max;
        if *connections as u64 + beside <= grant.amount {
            return None;
        }
        let granted = format!("{} descriptors that {} grants", grant.amount, grant.by);
        let room = grant.amount.saturating_sub(beside) as usize;
        if self.chosen.contains("connections_max") || room < CONNECTIONS_MIN {
            return Some(Note::TooMuch(format!(
                "--connections-max {connections} and {beside} others are more than the {granted}; lower it, \
                 or raise the limit (LimitNOFILE= in a systemd unit)"
            )));
        }
        *connections = room;
        Some(Note::Lowered(format!("lowered to fit the {granted}: --connections-max {room}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(args: &[&str]) -> Config {
        Config::from_args(["serve"].iter().chain(args)).unwrap()
    }

    fn granting(memory: u64, descriptors: u64) -> Machine {
        let grant = |amount, by: &str| Some(Grant { amount, by: by.into() });
        Machine { memory: grant(memory, "a test"), descriptors: grant(descriptors, "a test") }
    }

    #[test]
    fn a_large_machine_changes_nothing() {
        let mut config = config(&[]);
        assert_eq!(config.fit(&granting(64 << 30, 1 << 20)), []);
        assert_eq!(config.work.queue_bytes_max, 1 << 30);
        assert_eq!(config.connections.connections_max, 4096);
    }

    #[test]
    fn what_nobody_chose_is_lowered_and_what_somebody_chose_stays() {
        let shm = ["--shm=unix:/s", "--listen=unix:/l"];
        let mut lowered = config(&shm);
        let notes = lowered.fit(&granting(1 << 30, 1024));
        assert!(matches!(&notes[..], [Note::Lowered(_), Note::Lowered(_)]), "{notes:?}");
        let sum = lowered.work.queue_bytes_max
            + lowered.work.answer_bytes_max
            + lowered.connections.window_bytes_max
            + lowered.shm.shm_bytes_max;
        assert!(sum <= 768 << 20 && sum > 700 << 20, "{sum}");
        assert_eq!(lowered.connections.connections_max, 1024 - 64 - 256);
        assert_eq!(lowered.fit(&granting(1 << 30, 1024)), [], "it fits now");

        let mut mixed = config(&[&shm[..], &["--queue-bytes-max=512MiB"]].concat());
        mixed.fit(&granting(1 << 30, 1 << 20));
        assert_eq!(mixed.work.queue_bytes_max, 512 << 20);
        // 256 MiB are left: 32 for each of three, and 160 for the 4064 + 480 + 480 that they want beyond that.
        assert_eq!(mixed.shm.shm_bytes_max, (32 + 129) << 20);
    }

    #[test]
    fn what_cannot_fit_is_said_with_its_flags_and_the_limit() {
        let mut chosen = config(&["--queue-bytes-max=2GiB", "--connections-max=5000"]);
        let notes = chosen.fit(&granting(1 << 30, 1024));
        let text: Vec<String> = notes.iter().map(ToString::to_string).collect();
        assert!(notes.iter().all(|note| matches!(note, Note::TooMuch(_))), "{text:?}");
        assert!(text[0].contains("--queue-bytes-max 2048MiB") && text[0].contains("1024 MiB"));
        assert!(text[1].contains("--connections-max 5000") && text[1].contains("1024"));
        assert_eq!(chosen.work.queue_bytes_max, 2 << 30);
        assert_eq!(chosen.connections.connections_max, 5000);
    }

    #[test]
    fn the_least_limit_of_a_cgroup_and_those_above_it_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert_eq!(cgroup_memory(root.path()), None);
        write("proc/self/cgroup", "0::/a/b\n");
        write("sys/fs/cgroup/a/b/memory.max", "max\n");
        assert_eq!(cgroup_memory(root.path()), None);
        write("sys/fs/cgroup/a/memory.max", "1048576\n");
        let grant = cgroup_memory(root.path()).unwrap();
        assert_eq!(grant.amount, 1 << 20);
        assert_eq!(grant.by, "/sys/fs/cgroup/a/memory.max");

        write("proc/self/cgroup", "4:memory:/c\n1:name=systemd:/\n0::/\n");
        write("sys/fs/cgroup/memory/c/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(cgroup_memory(root.path()), None, "version 1 for no limit");
        write("sys/fs/cgroup/memory/c/memory.limit_in_bytes", "2097152\n");
        assert_eq!(cgroup_memory(root.path()).unwrap().amount, 2 << 20);
    }

    #[test]
    fn this_machine_grants_something() {
        let machine = Machine::look();
        assert!(machine.memory.is_some_and(|grant| grant.amount > 1 << 20));
        assert!(machine.descriptors.is_none_or(|grant| grant.amount > 8));
    }
}
