//! What somebody is told of nights: the body of each notice. Pure.
//!
//! `docs/webhook.md` shows one of each kind; a test holds it to what is made here.

use std::collections::BTreeMap;

use jiff::Timestamp;
use regatta_core::nightly::{Judgement, MachineEvent, Verdict};
use regatta_core::run::RunState;
use regatta_store::{Firing, FiringOutcome, History, NewNotice, StoreError, ToJudge};
use serde::Serialize;

/// Verdicts in one notice at most: the rest is counted, and 'regatta gate' has them all.
const VERDICTS: usize = 100;

/// A notice as it is sent.
#[derive(Debug, Serialize)]
struct Body<'b> {
    /// The same each time it is sent.
    id: &'b str,
    #[serde(flatten)]
    news: News<'b>,
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", content = "data")]
enum News<'b> {
    #[serde(rename = "night.judged")]
    Judged(Judged<'b>),
    #[serde(rename = "firing.missed")]
    Missed(NotFired<'b>),
    #[serde(rename = "firing.failed")]
    Failed(NotFired<'b>),
}

/// The verdict on a night.
#[derive(Debug, Serialize)]
struct Judged<'b> {
    schedule: &'b str,
    due: Timestamp,
    run: &'b str,
    scenario: &'b str,
    /// How its run ended: done or cancelled.
    state: &'static str,
    /// Metrics of cells, and machines, that are slower for certain.
    slowdowns: usize,
    /// Metrics of cells that were judged.
    #[serde(rename = "judged")]
    metrics: usize,
    machines: Vec<Machine>,
    /// Metrics of cells that moved, on their own.
    moved: Vec<Moved<'b>>,
    /// Those that are left out here.
    more: usize,
}

#[derive(Debug, Serialize)]
struct Machine {
    #[serde(rename = "machine")]
    name: String,
    direction: &'static str,
    confirmed: bool,
    sentence: String,
}

#[derive(Debug, Serialize)]
struct Moved<'b> {
    cell: String,
    cell_hash: String,
    machine: &'b str,
    metric: &'static str,
    finding: &'static str,
    direction: &'static str,
    /// Tonight over the level, less 1.
    change: Option<f64>,
    sentence: String,
}

/// Firings that no run came of, for the same reason.
#[derive(Debug, Serialize)]
struct NotFired<'b> {
    schedule: &'b str,
    firings: usize,
    first_due: Timestamp,
    last_due: Timestamp,
    reason: &'b str,
}

/// A night of a schedule that is judged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct JudgedNight<'n> {
    pub(crate) firing: &'n Firing,
    pub(crate) scenario: &'n str,
    pub(crate) state: RunState,
    pub(crate) night: &'n ToJudge,
    pub(crate) judgement: &'n Judgement,
}

/// Tells of a night that is judged.
pub(crate) fn judged(of: JudgedNight<'_>) -> Result<NewNotice, StoreError> {
    let JudgedNight { firing, scenario, state, night, judgement } = of;
    let moved = night.histories.iter().zip(&judgement.verdicts).filter_map(moved).collect::<Vec<Moved<'_>>>();
    let more = moved.len().saturating_sub(VERDICTS);
    let machine = |event: &MachineEvent| Machine {
        name: event.machine.clone(),
        direction: event.direction.as_str(),
        confirmed: event.confirmed,
        sentence: event.sentence(),
    };
    let judged = Judged {
        schedule: firing.schedule.as_str(),
        due: firing.due,
        run: night.run.as_str(),
        scenario,
        state: state.as_str(),
        slowdowns: judgement.slowdowns(),
        metrics: judgement.verdicts.len(),
        machines: judgement.events.iter().map(machine).collect(),
        moved: moved.into_iter().take(VERDICTS).collect(),
        more,
    };
    notice(&format!("night.judged-{}", night.run), News::Judged(judged))
}

/// What moved, where its machine does not explain it.
fn moved<'n>((history, verdict): (&'n History, &Verdict)) -> Option<Moved<'n>> {
    use regatta_core::nightly::Finding::WithMachine;
    let direction = verdict.finding.direction().filter(|_| !matches!(verdict.finding, WithMachine { .. }))?;
    Some(Moved {
        cell: history.cell.label(),
        cell_hash: history.hash.to_string(),
        machine: &history.series.machine,
        metric: history.metric.as_str(),
        finding: verdict.finding.as_str(),
        direction: direction.as_str(),
        change: verdict.evidence.as_ref().map(|evidence| evidence.change),
        sentence: verdict.sentence(),
    })
}

/// Tells of firings that no run came of: one notice for each reason, however long the coordinator was away.
pub(crate) fn not_fired(firings: &[Firing]) -> Result<Vec<NewNotice>, StoreError> {
    let mut by_reason: BTreeMap<(bool, &str), Vec<&Firing>> = BTreeMap::new();
    for firing in firings {
        let reason = match &firing.outcome {
            FiringOutcome::Missed(reason) => (true, reason.as_str()),
            FiringOutcome::Failed(reason) => (false, reason.as_str()),
            FiringOutcome::Submitted(..) => continue,
        };
        by_reason.entry(reason).or_default().push(firing);
    }
    let mut notices = Vec::new();
    for ((missed, reason), firings) in by_reason {
        let (Some(first), Some(last)) = (firings.first(), firings.last()) else { continue };
        let schedule = last.schedule.as_str();
        let not = NotFired { schedule, firings: firings.len(), first_due: first.due, last_due: last.due, reason };
        let (kind, news) =
            if missed { ("firing.missed", News::Missed(not)) } else { ("firing.failed", News::Failed(not)) };
        notices.push(notice(&format!("{kind}-{schedule}-{}", last.due.as_second()), news)?);
    }
    Ok(notices)
}

fn notice(id: &str, news: News<'_>) -> Result<NewNotice, StoreError> {
    let body = serde_json::to_string(&Body { id, news });
    let unreadable = |error: serde_json::Error| StoreError::Unreadable {
        column: "outbox.body".to_owned(),
        value: error.to_string(),
    };
    Ok(NewNotice { id: id.to_owned(), body: body.map_err(unreadable)? })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use regatta_core::artifact::{ArtifactRef, Format, Precision, Weights};
    use regatta_core::backend::BackendKind;
    use regatta_core::cell::{Cell, CellHash};
    use regatta_core::device::DeviceId;
    use regatta_core::digest::Digest;
    use regatta_core::nightly::{Direction, Evidence, Finding, Metric, Series};
    use regatta_core::workload::{Kind, Prompt, Workload};
    use regatta_store::Stage;
    use serde_json::Value;

    use super::*;

    const DOC: &str = include_str!("../../docs/webhook.md");

    fn history(metric: Metric) -> History {
        let artifact = ArtifactRef {
            model: "tinyllama-1.1b".parse().unwrap(),
            weights: Weights::Real,
            format: Format::Gguf,
            precision: Precision::Q4KM,
        };
        let workload = Workload {
            kind: Kind::Generate,
            name: "chat".parse().unwrap(),
            prompt: Prompt::Seeded { seed: 1, tokens: 512 },
            generate: 128,
            batch: 1,
            replicas: 1,
        };
        let cell = Cell {
            agent: "gpu-01".parse().unwrap(),
            device: DeviceId::CPU,
            backend: BackendKind::LlamaCpp,
            artifact,
            workload: Arc::new(workload),
            replica: 0,
            build: None,
        };
        let series = Series {
            machine: "gpu-01".to_owned(),
            cell: cell.label(),
            metric: metric.as_str().to_owned(),
            larger_is_better: true,
            nights: Vec::new(),
        };
        History {
            cell,
            hash: CellHash(Digest::try_from([0x3f; 32].as_slice()).unwrap()),
            metric,
            series,
            nights: Vec::new(),
        }
    }

    fn run() -> regatta_core::id::RunId {
        "019b8f2e-5a00-7c31-8d2f-3f0a9b6c1d2e".parse().unwrap()
    }

    fn due(day: u32) -> Timestamp {
        format!("2026-01-{day:02}T01:30:00Z").parse().unwrap()
    }

    fn firing(day: u32, outcome: FiringOutcome) -> Firing {
        Firing { schedule: "nightly".parse().unwrap(), due: due(day), outcome }
    }

    fn verdict(finding: Finding, change: f64) -> Verdict {
        let evidence = Evidence {
            tonight: 96.9,
            level: 100.0,
            nights: 30,
            change,
            noise: 0.004,
            z: change / 0.004,
            least: 0.02,
            change_point: None,
            confirmation: None,
            in_turns: None,
        };
        Verdict { finding, evidence: Some(evidence) }
    }

    /// A night with one metric that is slower for certain, one that is as usual, and a machine that moved.
    fn night() -> (ToJudge, Judgement) {
        let histories = vec![history(Metric::Decode), history(Metric::Prefill)];
        let slower = Finding::Confirmed { direction: Direction::Slower, since: run() };
        let event = MachineEvent {
            machine: "gpu-01".to_owned(),
            direction: Direction::Slower,
            confirmed: false,
            since: None,
            moved: vec![0],
            cells: 4,
            of: 10,
            change: -0.025,
        };
        let verdicts = vec![verdict(slower, -0.031), verdict(Finding::Steady, 0.001)];
        (ToJudge { run: run(), histories, again: BTreeMap::new() }, Judgement { verdicts, events: vec![event] })
    }

    /// The example of a kind, as the documentation shows it.
    fn example(kind: &str) -> Value {
        let blocks = DOC.split("```json\n").skip(1).map(|block| block.split("```").next().unwrap());
        let values = blocks.map(|block| serde_json::from_str::<Value>(block).unwrap());
        values.into_iter().find(|value| value["type"] == kind).unwrap_or_else(|| panic!("no example of {kind}"))
    }

    fn value(notice: &NewNotice) -> Value {
        serde_json::from_str(&notice.body).unwrap()
    }

    #[test]
    fn notices_are_as_the_documentation_shows_them() {
        let (night, judgement) = night();
        let fired = firing(2, FiringOutcome::Submitted(run(), Stage::Confirming));
        let of = JudgedNight {
            firing: &fired,
            scenario: "nightly",
            state: RunState::Done,
            night: &night,
            judgement: &judgement,
        };
        let judged = judged(of).unwrap();
        assert_eq!(value(&judged), example("night.judged"), "made: {}", judged.body);
        assert_eq!(value(&judged)["id"], judged.id.as_str());
        let missed = || FiringOutcome::Missed("the coordinator was not running".to_owned());
        let failed = FiringOutcome::Failed("no agent is connected".to_owned());
        let notices = not_fired(&[firing(2, missed()), firing(3, missed()), firing(4, failed)]).unwrap();
        assert_eq!(notices.len(), 2, "{notices:?}");
        assert_eq!(value(&notices[0]), example("firing.failed"), "made: {}", notices[0].body);
        assert_eq!(value(&notices[1]), example("firing.missed"), "made: {}", notices[1].body);
        assert_eq!(not_fired(&[fired]).unwrap(), []);
    }

    #[test]
    fn a_notice_names_a_hundred_metrics_and_counts_the_rest() {
        let (mut night, mut judgement) = night();
        judgement.events.clear();
        let (history, verdict) = (night.histories[0].clone(), judgement.verdicts[0].clone());
        night.histories = vec![history; 250];
        judgement.verdicts = vec![verdict; 250];
        let fired = firing(2, FiringOutcome::Submitted(run(), Stage::Confirming));
        let of = JudgedNight {
            firing: &fired,
            scenario: "nightly",
            state: RunState::Cancelled,
            night: &night,
            judgement: &judgement,
        };
        let data = value(&judged(of).unwrap())["data"].clone();
        assert_eq!((data["moved"].as_array().unwrap().len(), &data["more"]), (100, &Value::from(150)));
        assert_eq!((&data["slowdowns"], &data["state"]), (&Value::from(250), &Value::from("cancelled")));
    }
}
