//! `logitd info`: says what this machine, or a running server, offers.

use super::Outcome;
use super::target::TargetArgs;
use super::text::grouped;
use crate::config::Config;
use crate::server::convert;
use crate::wire;
use crate::wire::whole::Whole;
use anstyle::Style;
use logitd_core::arithmetic;
use logitd_core::backend::cpu::{Cpu, CpuOptions, Isa};
use logitd_core::backend::cuda;
use logitd_core::backend::reference::Reference;
use logitd_core::backend::{Backend, DeviceInfo};
use logitd_proto::{Device, GetInfoResponse, Limits, Plane};
use serde_json::{Value, json};
use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

/// Show devices, instruction sets and limits, of this machine or of a running server
///
/// Without --target it says what `logitd serve` would have here: the devices, the vector instructions
/// that are here and those that are used, and the limits with the flags that set them.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten, next_help_heading = "Ask a server")]
    target: TargetArgs,
}

const EXAMPLES: &str = "\
Examples:
  logitd info
  logitd info --json
  logitd info --target unix:/run/logitd.sock

Exit code: 0 fine, 2 an error.";

const TITLE: Style = Style::new().bold();
const QUIET: Style = Style::new().dimmed();
/// Characters of a line of names.
const CONTROLS_WIDTH: usize = 90;

/// Runs the command.
pub fn run(args: Args) -> Outcome {
    let mut out = anstream::stdout().lock();
    let remote = args.target.connect()?;
    let (info, kernels) = match &remote {
        Some(remote) => (remote.info().clone(), None),
        None => {
            let kernels = Kernels::look();
            (local(&kernels)?, Some(kernels))
        }
    };
    if args.json {
        writeln!(out, "{}", as_json(&info, kernels.as_ref()))?;
    } else {
        print(&mut out, &info, kernels.as_ref())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What there is of CUDA on this machine.
struct Kernels {
    /// What each device is, or why it cannot be used.
    devices: Vec<Result<DeviceInfo, String>>,
    /// Where the kernels come from: `fatbin`, `nvrtc`, or `cpu` where none can be used.
    tier: &'static str,
    /// Why none can.
    reason: Option<String>,
    /// What is not as it is on most such devices, and why.
    notes: Vec<String>,
}

impl Kernels {
    fn look() -> Self {
        let count = match cuda::count() {
            Ok(count) => count,
            Err(reason) => {
                let (devices, notes) = (Vec::new(), Vec::new());
                return Self { devices, tier: "cpu", reason: Some(reason), notes };
            }
        };
        let (mut tier, mut notes) = (None, Vec::new());
        let devices: Vec<_> = (0..count)
            .map(|ordinal| {
                let found = cuda::look(ordinal).map_err(|reason| reason.to_string())?;
                tier = tier.or(Some(found.tier.name()));
                let id = format!("cuda:{ordinal}");
                notes.extend(found.notes.iter().map(|note| format!("{id}: {note}")));
                Ok(DeviceInfo { id, name: found.name, isa: found.isa, threads: 0 })
            })
            .collect();
        let reason = match tier {
            Some(_) => None,
            None => devices.iter().find_map(|device| device.clone().err()),
        };
        Self { devices, tier: tier.unwrap_or("cpu"), reason, notes }
    }
}

/// What a server here would say.
fn local(kernels: &Kernels) -> Result<GetInfoResponse, Box<dyn Error>> {
    // No flags: the defaults, or what the environment says.
    let config = Config::from_args(["logitd"])?;
    let cpu = Cpu::new(CpuOptions::default())?;
    let oracle = Reference::default();
    let device = |info: &DeviceInfo| Device {
        id: info.id.clone(),
        name: info.name.clone(),
        isa: info.isa.clone(),
        threads: u32::try_from(info.threads).unwrap_or(u32::MAX),
        up: true,
        ..Default::default()
    };
    Ok(GetInfoResponse {
        version: env!("CARGO_PKG_VERSION").into(),
        arithmetic_version: arithmetic::VERSION,
        devices: [cpu.device(), oracle.device()]
            .into_iter()
            .chain(kernels.devices.iter().flatten())
            .map(device)
            .collect(),
        limits: Some(convert::limits(&config)),
        planes: Vec::new(),
        draw_rules: wire::params::draw_rules(),
        controls: wire::controls().map(String::from).collect(),
        profiles: wire::params::profiles(),
        ..Default::default()
    })
}

/// Each limit by its name in the API, with its value, and the flag that sets it.
fn limits(limits: &Limits) -> [(&'static str, u64, Option<&'static str>); 24] {
    let l = limits;
    [
        ("vocab_size_max", l.vocab_size_max.into(), None),
        ("draws_max", l.draws_max.into(), None),
        ("request_rows_max", l.request_rows_max.into(), Some("--request-rows-max")),
        ("request_draws_max", l.request_draws_max.into(), Some("--request-draws-max")),
        ("request_race_tokens_max", l.request_race_tokens_max, Some("--request-race-tokens-max")),
        ("batch_draws_max", l.batch_draws_max.into(), Some("--batch-draws-max")),
        ("message_bytes_max", l.message_bytes_max, Some("--message-bytes-max")),
        ("queue_rows_max", l.queue_rows_max, Some("--queue-rows-max")),
        ("queue_bytes_max", l.queue_bytes_max, Some("--queue-bytes-max")),
        ("batch_rows_max", l.batch_rows_max.into(), Some("--batch-rows-max")),
        ("batch_bytes_max", l.batch_bytes_max, Some("--batch-bytes-max")),
        ("stream_requests_max", l.stream_requests_max.into(), Some("--stream-requests-max")),
        (
            "connection_streams_max",
            l.connection_streams_max.into(),
            Some("--connection-streams-max"),
        ),
        ("answer_bytes_max", l.answer_bytes_max, Some("--answer-bytes-max")),
        ("connection_bytes_max", l.connection_bytes_max, Some("--connection-bytes-max")),
        ("adjusted_tokens_max", l.adjusted_tokens_max.into(), Some("--adjusted-tokens-max")),
        ("history_tokens_max", l.history_tokens_max.into(), Some("--history-tokens-max")),
        ("top_logprobs_max", l.top_logprobs_max.into(), Some("--top-logprobs-max")),
        ("kept_ids_max", l.kept_ids_max.into(), Some("--kept-ids-max")),
        ("evaluate_sets_max", l.evaluate_sets_max.into(), Some("--evaluate-sets-max")),
        ("evaluate_sums_max", l.evaluate_sums_max, Some("--evaluate-sums-max")),
        ("drafts_max", l.drafts_max.into(), Some("--drafts-max")),
        ("tree_nodes_max", l.tree_nodes_max.into(), Some("--tree-nodes-max")),
        ("beams_max", l.beams_max.into(), Some("--beams-max")),
    ]
}

/// The draw rules by their names in the API.
fn draw_rules(info: &GetInfoResponse) -> Vec<&'static str> {
    info.draw_rules().map(|rule| rule.as_str_name()).collect()
}

/// The profiles by their names in the API.
fn profiles(info: &GetInfoResponse) -> Vec<&'static str> {
    info.profiles().map(|profile| profile.as_str_name()).collect()
}

/// The planes by their names in `logitd_bytes_total`.
fn planes(info: &GetInfoResponse) -> Vec<String> {
    let name = |plane: Plane| plane.as_str_name().trim_start_matches("PLANE_").to_lowercase();
    info.planes().map(name).collect()
}

/// Names in lines of about so many characters.
fn lines<'a>(names: impl Iterator<Item = &'a str>, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for name in names {
        match lines.last_mut() {
            Some(line) if line.len() + 2 + name.len() <= width => {
                line.push_str(", ");
                line.push_str(name);
            }
            _ => lines.push(name.to_owned()),
        }
    }
    lines
}

fn as_json(info: &GetInfoResponse, here: Option<&Kernels>) -> Value {
    let devices: Vec<Value> = info
        .devices
        .iter()
        .map(|device| {
            json!({
                "id": device.id,
                "name": device.name,
                "isa": device.isa,
                "threads": device.threads,
                "up": device.up,
            })
        })
        .collect();
    let mut object = json!({
        "version": info.version,
        "arithmetic_version": info.arithmetic_version,
        "controls": info.controls,
        "draw_rules": draw_rules(info),
        "profiles": profiles(info),
        "devices": devices,
        "limits": Value::from_iter(
            limits(&info.limits.unwrap_or_default())
                .map(|(name, value, _)| (name, json!(Whole(value)))),
        ),
    });
    if !info.planes.is_empty() {
        object["planes"] = planes(info).into();
        object["chunk_bytes"] = json!(Whole(info.chunk_bytes));
    }
    if let Some(kernels) = here {
        let supported: Vec<_> = Isa::supported().map(Isa::name).collect();
        object["isa"] = json!({ "detected": Isa::detect().name(), "supported": supported });
        object["kernel_tier"] = kernels.tier.into();
        object["kernel_tier_reason"] = kernels.reason.clone().into();
        object["kernel_notes"] = kernels.notes.clone().into();
        object["kernels_built_in"] = cuda::kernels::has_fatbin().into();
        object["kernels_compiled_by"] = cuda::kernels::compiled_by().into();
    }
    object
}

fn print(
    out: &mut impl Write,
    info: &GetInfoResponse,
    here: Option<&Kernels>,
) -> std::io::Result<()> {
    let GetInfoResponse { version, arithmetic_version, devices, .. } = info;
    writeln!(out, "{TITLE}logitd {version}{TITLE:#}, sampling arithmetic {arithmetic_version}\n")?;
    writeln!(out, "{TITLE}Devices{TITLE:#}")?;
    for Device { id, name, isa, threads, up, uuid } in devices {
        let mut facts = vec![name.clone()];
        facts.extend((isa != "none").then(|| isa.clone()));
        facts.extend((isa != "none" && *threads > 0).then(|| format!("{threads} threads")));
        facts.extend((!uuid.is_empty()).then(|| "memory for callers".into()));
        facts.extend((!up).then(|| "DOWN".into()));
        writeln!(out, "  {id:<12}{}", facts.join(", "))?;
    }
    if let Some(kernels) = here {
        let isas: Vec<String> = Isa::ALL
            .iter()
            .map(|&isa| format!("{isa} {}", if isa.is_supported() { "yes" } else { "no" }))
            .collect();
        writeln!(out, "\n{TITLE}Instructions{TITLE:#}\n  {}", isas.join(", "))?;
        writeln!(out, "  {} is used; --isa takes another", Isa::detect())?;
        writeln!(out, "\n{TITLE}Kernels{TITLE:#}")?;
        match &kernels.reason {
            None => writeln!(out, "  {}", kernels.tier)?,
            Some(reason) => writeln!(out, "  {}: {reason}", kernels.tier)?,
        }
        let others = kernels.devices.iter().filter_map(|device| device.as_ref().err());
        for reason in others.filter(|&reason| Some(reason) != kernels.reason.as_ref()) {
            writeln!(out, "  {reason}")?;
        }
        for note in &kernels.notes {
            writeln!(out, "  {note}")?;
        }
        match cuda::kernels::compiled_by() {
            Some(nvcc) => writeln!(out, "  code for GPUs is built in, by nvcc {nvcc}")?,
            None => writeln!(out, "  code for GPUs is not built in")?,
        }
    }
    if !info.planes.is_empty() {
        writeln!(out, "\n{TITLE}Planes{TITLE:#}\n  {}", planes(info).join(", "))?;
        writeln!(out, "  {:<24}{:>16}", "chunk_bytes", grouped(info.chunk_bytes))?;
    }
    writeln!(out, "\n{TITLE}Controls{TITLE:#}")?;
    let known = draw_rules(info).into_iter().chain(profiles(info));
    let names = known.chain(info.controls.iter().map(String::as_str));
    for line in lines(names, CONTROLS_WIDTH) {
        writeln!(out, "  {line}")?;
    }
    writeln!(out, "\n{TITLE}Limits{TITLE:#}")?;
    for (name, value, flag) in limits(&info.limits.unwrap_or_default()) {
        let flag = flag.unwrap_or("fixed");
        writeln!(out, "  {name:<24}{:>16}  {QUIET}{flag}{QUIET:#}", grouped(value))?;
    }
    Ok(())
}
