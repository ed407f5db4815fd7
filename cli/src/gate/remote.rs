//! A night that a coordinator judges, and keeps the verdicts on.

use anyhow::Context;
use jiff::Timestamp;
use regatta_core::digest::Digest;
use regatta_core::nightly::{MachineEvent, Metric, Rules, Verdict};
use regatta_proto::pb;
use regatta_reporter::nights::{Event, Gate, GateVerdict};
use regatta_reporter::text;

use crate::connect::RunClient;
use crate::rpc;

/// Has a night judged.
pub(super) async fn judge(client: &mut RunClient, run: &str, rules: &Rules) -> anyhow::Result<Gate> {
    let request = pb::JudgeRunRequest { run_id: run.to_owned(), threshold: rules.threshold };
    let judged = client.judge_run(rpc::request(request)).await.map_err(|status| rpc::refused(&status))?;
    gate(judged.into_inner()).context("the coordinator's verdict can't be read: is it of another version?")
}

fn gate(judged: pb::JudgeRunResponse) -> anyhow::Result<Gate> {
    let event = |json: &String| {
        let event: MachineEvent = serde_json::from_str(json)?;
        Ok(Event { sentence: text::reason(&event.sentence()), event })
    };
    let hash = |bytes: &Vec<u8>| Ok(Digest::try_from(bytes.as_slice())?.to_string());
    Ok(Gate {
        run: judged.run_id,
        scenario: text::label(&judged.scenario),
        at: Timestamp::from_nanosecond(i128::from(judged.created_at_unix_ns))?,
        slowdowns: usize::try_from(judged.slowdowns)?,
        events: judged.machine_events.iter().map(event).collect::<anyhow::Result<_>>()?,
        verdicts: judged.verdicts.iter().map(verdict).collect::<anyhow::Result<_>>()?,
        to_measure: judged.cells_to_measure.iter().map(hash).collect::<anyhow::Result<_>>()?,
    })
}

fn verdict(said: &pb::NightVerdict) -> anyhow::Result<GateVerdict> {
    let verdict: Verdict = serde_json::from_str(&said.verdict)?;
    let metric =
        Metric::parse(&said.metric).with_context(|| format!("there is no metric '{}'", text::label(&said.metric)))?;
    Ok(GateVerdict {
        cell: text::label(&said.cell),
        hash: Digest::try_from(said.cell_hash.as_slice())?.to_string(),
        metric: metric.as_str(),
        machine: text::label(&said.machine),
        sentence: text::reason(&verdict.sentence()),
        verdict,
    })
}
