//! `regatta agents`, `drain`, `resume` and `forget`: the machines of a coordinator.

use std::fmt::Write as _;

use clap::Args;
use regatta_proto::pb;
use serde_json::{Value, json};

use crate::connect::{ConnectArgs, RunClient};
use crate::exit::Exit;
use crate::output;
use crate::rpc;
use crate::view::time;

/// Arguments of `regatta agents`.
#[derive(Debug, Args)]
pub(crate) struct AgentsArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Lists agents.
pub(crate) async fn list(args: AgentsArgs) -> anyhow::Result<Exit> {
    let agents = agents(&mut args.connect.client().await?).await?;
    if args.json {
        output::json(&Value::Array(agents.iter().map(agent_json).collect()));
    } else if agents.is_empty() {
        output::note("no agents yet: start one on each machine with 'regatta agent --coordinator URL'");
    } else {
        for agent in &agents {
            output::text(&agent_text(agent));
        }
    }
    Ok(Exit::Done)
}

async fn agents(client: &mut RunClient) -> anyhow::Result<Vec<pb::Agent>> {
    let request = rpc::request(pb::ListAgentsRequest {});
    Ok(client.list_agents(request).await.map_err(|status| rpc::refused(&status))?.into_inner().agents)
}

/// An agent in a few lines: itself, then its devices.
fn agent_text(agent: &pb::Agent) -> String {
    let mut text = format!("{}  {}", agent.id, state(agent));
    if !agent.reason.is_empty() {
        let _ = write!(text, " ({})", plain(&agent.reason));
    }
    if !agent.trials.is_empty() {
        let _ = write!(text, ", holds {}", agent.trials.join(", "));
    }
    if agent.spool_records > 0 {
        let _ = write!(text, ", {} records not yet delivered", agent.spool_records);
    }
    let labels: Vec<String> = sorted(agent).into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    if !labels.is_empty() {
        let _ = write!(text, "  [{}]", plain(&labels.join(" ")));
    }
    if !agent.connected && agent.last_seen_at_unix_ns > 0 {
        let _ = write!(text, ", last seen {}", time(agent.last_seen_at_unix_ns).strftime("%Y-%m-%d %H:%M UTC"));
    }
    text.push('\n');
    if let Some(off) = agent.clock_ahead_ns.and_then(clock) {
        let _ = writeln!(text, "  {off}");
    }
    for device in &agent.devices {
        let memory = device.memory_bytes.map_or_else(String::new, |bytes| format!(", {} GiB", bytes >> 30));
        let name = plain(&device.name);
        let _ = writeln!(text, "  {}  {name}{memory}: {}", device.id, device.backends.join(", "));
        let facts = [device.stable_id.clone(), device.architecture.clone(), after("driver ", &device.driver)];
        let facts: Vec<String> = facts.into_iter().filter(|fact| !fact.is_empty()).collect();
        if !facts.is_empty() {
            let _ = writeln!(text, "    {}", plain(&facts.join(", ")));
        }
        for canary in agent.canaries.iter().filter(|canary| canary.device == device.id) {
            let _ = writeln!(text, "    {}", canary_text(canary));
        }
    }
    text
}

fn after(word: &str, text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("{word}{text}") }
}

/// What a device was found to do.
fn canary_text(canary: &pb::Canary) -> String {
    let rate = |rate: Option<f64>, what: &str| rate.map(|rate| format!("{:.1} GB/s {what}", rate / 1e9));
    let read = [rate(canary.read_bytes_per_s, "read"), rate(canary.mixed_bytes_per_s, "read and written")];
    let flops: std::collections::BTreeMap<_, _> = canary.flops.iter().collect();
    let flops = flops.into_iter().map(|(number, rate)| format!("{:.1} GFLOPS {}", rate / 1e9, plain(number)));
    let launch = canary.launch_ns.map(|ns| format!("{:.1} µs a launch", ns as f64 / 1e3));
    let found: Vec<String> = read.into_iter().flatten().chain(flops).chain(launch).collect();
    format!("canary of {}: {}", time(canary.measured_at_unix_ns).strftime("%Y-%m-%d %H:%M UTC"), found.join(", "))
}

fn canary_json(canary: &pb::Canary) -> Value {
    let flops: std::collections::BTreeMap<_, _> = canary.flops.iter().collect();
    json!({
        "measured_at": time(canary.measured_at_unix_ns).to_string(),
        "version": canary.version,
        "engine": canary.engine,
        "threads": canary.threads,
        "buffer_bytes": canary.buffer_bytes,
        "cache_bytes": canary.cache_bytes,
        "read_bytes_per_s": canary.read_bytes_per_s,
        "mixed_bytes_per_s": canary.mixed_bytes_per_s,
        "flops": flops,
        "launch_ns": canary.launch_ns,
    })
}

/// A clock that differs from the coordinator's by more than this is worth a word, in nanoseconds.
const CLOCK_LIMIT_NS: u64 = 2_000_000_000;

/// What is to be said of a clock that is so far ahead. What is measured does not depend on it.
fn clock(ahead_ns: i64) -> Option<String> {
    let off = ahead_ns.unsigned_abs();
    let way = if ahead_ns < 0 { "behind" } else { "ahead of" };
    (off > CLOCK_LIMIT_NS).then(|| {
        format!(
            "warning: its clock is {} s {way} the coordinator's; results are not touched, but set it by NTP",
            off / 1_000_000_000
        )
    })
}

/// The state, also of a coordinator that names none.
fn state(agent: &pb::Agent) -> &str {
    match (agent.state.as_str(), agent.connected) {
        ("", true) => "ready",
        ("", false) => "away",
        (state, _) => state,
    }
}

fn sorted(agent: &pb::Agent) -> std::collections::BTreeMap<&String, &String> {
    agent.labels.iter().collect()
}

/// Text from elsewhere, without a say over the terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A text that may be missing.
fn told(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn agent_json(agent: &pb::Agent) -> Value {
    let device = |device: &pb::Device| {
        json!({
            "id": device.id,
            "name": device.name,
            "memory_bytes": device.memory_bytes,
            "cores": device.cores,
            "backends": device.backends,
            "stable_id": told(&device.stable_id),
            "system_id": told(&device.system_id),
            "driver": told(&device.driver),
            "architecture": told(&device.architecture),
            "pci_address": told(&device.pci_address),
            "pci_link": told(&device.pci_link),
            "canary": agent.canaries.iter().find(|canary| canary.device == device.id).map(canary_json),
        })
    };
    json!({
        "agent": agent.id,
        "state": state(agent),
        "reason": Some(&agent.reason).filter(|reason| !reason.is_empty()),
        "connected": agent.connected,
        "labels": sorted(agent),
        "version": agent.version,
        "last_seen_at": (agent.last_seen_at_unix_ns > 0).then(|| time(agent.last_seen_at_unix_ns).to_string()),
        "trials": agent.trials,
        "spool_records": agent.spool_records,
        "clock_ahead_ns": agent.clock_ahead_ns,
        "devices": agent.devices.iter().map(device).collect::<Vec<_>>(),
    })
}

/// Arguments of commands about one agent.
#[derive(Debug, Args)]
pub(crate) struct AgentNameArgs {
    /// The agent's name
    agent: String,
    #[command(flatten)]
    connect: ConnectArgs,
    /// Print JSON: the agent
    #[arg(long)]
    json: bool,
}

/// Arguments of `regatta drain`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  regatta drain gpu-07 --reason \"new driver on Friday\"      later: regatta resume gpu-07")]
pub(crate) struct DrainArgs {
    #[command(flatten)]
    agent: AgentNameArgs,
    /// Why, for others to see
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
}

/// Gives an agent no more trials.
pub(crate) async fn drain(args: DrainArgs) -> anyhow::Result<Exit> {
    let DrainArgs { agent: args, reason } = args;
    let mut client = args.connect.client().await?;
    let request = rpc::request(pb::DrainAgentRequest { agent_id: args.agent.clone(), reason });
    client.drain_agent(request).await.map_err(|status| rpc::refused(&status))?;
    show(&mut client, &args).await
}

/// Takes an agent back into service.
pub(crate) async fn resume(args: AgentNameArgs) -> anyhow::Result<Exit> {
    let mut client = args.connect.client().await?;
    let request = rpc::request(pb::ResumeAgentRequest { agent_id: args.agent.clone() });
    client.resume_agent(request).await.map_err(|status| rpc::refused(&status))?;
    show(&mut client, &args).await
}

/// Removes an agent that is gone for good.
pub(crate) async fn forget(args: AgentNameArgs) -> anyhow::Result<Exit> {
    let mut client = args.connect.client().await?;
    let request = rpc::request(pb::ForgetAgentRequest { agent_id: args.agent.clone() });
    client.forget_agent(request).await.map_err(|status| rpc::refused(&status))?;
    if args.json {
        output::json(&json!({ "agent": args.agent, "state": "forgotten" }));
    } else {
        output::line(&format!("{}  forgotten; what it measured stays", args.agent));
    }
    Ok(Exit::Done)
}

/// The agent as it is after the change.
async fn show(client: &mut RunClient, args: &AgentNameArgs) -> anyhow::Result<Exit> {
    let agents = agents(client).await?;
    if let Some(agent) = agents.iter().find(|agent| agent.id == args.agent) {
        if args.json {
            output::json(&agent_json(agent));
        } else {
            output::text(&agent_text(agent));
        }
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent() -> pb::Agent {
        pb::Agent {
            id: "gpu-07".to_owned(),
            connected: true,
            devices: vec![pb::Device {
                agent_id: "gpu-07".to_owned(),
                id: "cuda:0".to_owned(),
                name: "NVIDIA H100\x1b[2J".to_owned(),
                memory_bytes: Some(80 << 30),
                cores: None,
                backends: vec!["candle".to_owned(), "llama.cpp".to_owned()],
                stable_id: "GPU-4b5e".to_owned(),
                driver: "580.82".to_owned(),
                architecture: "sm_90".to_owned(),
                pci_address: "0000:01:00.0".to_owned(),
                ..pb::Device::default()
            }],
            state: "draining".to_owned(),
            reason: "new driver".to_owned(),
            labels: [("site".to_owned(), "b".to_owned()), ("gpu".to_owned(), "h100".to_owned())].into(),
            version: "0.1.0".to_owned(),
            last_seen_at_unix_ns: 1_700_000_000_000_000_000,
            trials: vec!["r.t0".to_owned()],
            spool_records: 3,
            clock_ahead_ns: Some(-3_601_500_000_000),
            cached: Vec::new(),
            canaries: vec![pb::Canary {
                device: "cuda:0".to_owned(),
                device_name: "NVIDIA H100".to_owned(),
                measured_at_unix_ns: 1_700_000_000_000_000_000,
                version: 1,
                engine: "candle 0.11.0".to_owned(),
                threads: 1,
                buffer_bytes: 4 << 30,
                cache_bytes: None,
                read_bytes_per_s: None,
                mixed_bytes_per_s: Some(2.9e12),
                flops: [("f32".to_owned(), 5.1e13), ("f16".to_owned(), 6.2e14)].into(),
                launch_ns: Some(9_100),
            }],
        }
    }

    #[test]
    fn a_clock_is_worth_a_word_when_it_is_far_off() {
        assert_eq!(clock(1_999_999_999), None);
        assert!(clock(7_200_000_000_000).unwrap().contains("7200 s ahead of"));
        assert!(clock(i64::MIN).unwrap().contains("behind"));
    }

    #[test]
    fn an_agent_in_text() {
        insta::assert_snapshot!(agent_text(&agent()));
    }

    #[test]
    fn an_agent_that_is_away_says_since_when() {
        let away = pb::Agent { connected: false, state: "away".to_owned(), ..agent() };
        assert!(agent_text(&away).contains("last seen 2023-11-14 22:13 UTC"), "{}", agent_text(&away));
    }

    #[test]
    fn an_agent_in_json() {
        insta::assert_snapshot!(serde_json::to_string_pretty(&agent_json(&agent())).unwrap());
    }
}
