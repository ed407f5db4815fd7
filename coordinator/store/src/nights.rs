//! Nights: the runs of a scenario one after the other as series of values, and what was said of them.
//!
//! The nights of a cell are the runs of the **same scenario name** that have ended, in the order in which they were submitted. A
//! run that repeats cells of another one is no night: cells that had failed in that one have its values, and those of others
//! confirm what was flagged.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;
use regatta_core::cell::{Cell, CellHash, Outcome};
use regatta_core::digest::Digest;
use regatta_core::fingerprint::{Fingerprint, WORKER_BUILD};
use regatta_core::id::{AgentId, RunId};
use regatta_core::nightly::{
    Again, Direction, Finding, Judgement, Metric, Night, Rules, Said, Series, Standing, judge, pairs, processes,
};
use regatta_core::policy::Policy;
use regatta_core::sample::Sample;
use regatta_core::worker::PRESENT;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use crate::blob;
use crate::error::StoreError;
use crate::read::{CANONICAL, CellRecord, Reader};
use crate::row::{Columns, to_json, unix_ns, unreadable};
use crate::writer::Change;

/// Nights that are looked back at, at most.
const NIGHTS: u32 = 120;

/// One metric of a cell with its nights.
#[derive(Debug, Clone, PartialEq)]
pub struct History {
    /// The cell.
    pub cell: Cell,
    /// Its hash.
    pub hash: CellHash,
    /// The metric.
    pub metric: Metric,
    /// Its values.
    pub series: Series,
    /// What else is known of each night of the series.
    pub nights: Vec<NightRecord>,
}

/// What is known of a night beside its values.
#[derive(Debug, Clone, PartialEq)]
pub struct NightRecord {
    /// When its run was submitted: a label.
    pub at: Timestamp,
    /// How the cell ended, where it was in that run.
    pub outcome: Option<Outcome>,
    /// What was said of it, where it was judged.
    pub verdict: Option<VerdictRecord>,
    /// Why a person took it out.
    pub excluded: Option<String>,
}

/// What was said of a metric of a cell in one run.
#[derive(Debug, Clone, PartialEq)]
pub struct VerdictRecord {
    /// The run.
    pub run: RunId,
    /// The cell.
    pub cell: CellHash,
    /// The metric.
    pub metric: Metric,
    /// The word for it.
    pub finding: String,
    /// Which way, where it moved.
    pub direction: Option<Direction>,
    /// What it means for later nights, a person's answer not counted.
    pub said: Said,
    /// For people.
    pub sentence: String,
    /// Everything, as JSON.
    pub evidence: String,
    /// What a person said to it, and why.
    pub answer: Option<(Answer, String)>,
}

/// A machine whose cells moved together in one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineEventRecord {
    /// The machine.
    pub machine: String,
    /// Whether it is certain.
    pub confirmed: bool,
    /// For people.
    pub sentence: String,
}

/// What a person says to a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It was seen.
    Acknowledged,
    /// The change was to be expected: a new level begins with that night.
    Expected,
    /// There is no change.
    Dismissed,
}

impl Answer {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Acknowledged, Self::Expected, Self::Dismissed];

    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Acknowledged => "acknowledged",
            Self::Expected => "expected",
            Self::Dismissed => "dismissed",
        }
    }

    /// The answer of that word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|answer| answer.as_str() == text)
    }
}

/// A cell that was measured in runs of a scenario.
#[derive(Debug, Clone, PartialEq)]
pub struct KnownCell {
    /// The scenario's name.
    pub scenario: String,
    /// The cell.
    pub cell: Cell,
    /// Its hash.
    pub hash: CellHash,
}

/// A night that can be judged: its series, and what was measured again, by the position of the series.
#[derive(Debug, Clone, PartialEq)]
pub struct ToJudge {
    /// The run.
    pub run: RunId,
    /// The series that end with it.
    pub histories: Vec<History>,
    /// What was measured again.
    pub again: BTreeMap<usize, Again>,
}

/// What was measured of a cell in a run.
struct Measured {
    record: CellRecord,
    samples: Vec<Sample>,
    per_pass: u32,
    fingerprint: Fingerprint,
    machine: String,
}

impl Measured {
    /// The hash of the worker program that measured it.
    fn build(&self) -> Option<&String> {
        self.fingerprint.parts().get(WORKER_BUILD)
    }

    fn is_of(&self, history: &History) -> bool {
        self.is_like(history.hash, &history.cell)
    }

    /// Whether it is this cell, measured by whatever build.
    fn is_like(&self, hash: CellHash, cell: &Cell) -> bool {
        let Self { record, .. } = self;
        match &record.cell.build {
            None => (record.hash, &record.cell.agent) == (hash, &cell.agent),
            Some(_) => Cell { build: None, ..record.cell.clone() } == *cell,
        }
    }
}

/// What runs that repeat cells of a night measured again.
#[derive(Default)]
struct Repeated {
    /// By the build that is there.
    present: Vec<Measured>,
    /// By one that was kept from a good night, in turns with that one.
    kept: Vec<Measured>,
}

impl Repeated {
    /// Takes in what one of the runs measured; later ones come later.
    fn add(&mut self, cell: Measured) {
        let of_present = cell.record.cell.build.as_ref().is_none_or(|build| build.as_str() == PRESENT);
        if of_present { self.present.push(cell) } else { self.kept.push(cell) }
    }

    /// What the newest of them says of a cell, if what it measured may speak.
    fn again(&self, history: &History) -> Option<Again> {
        let newest = |all: &'_ [Measured]| all.iter().rposition(|cell| cell.is_of(history));
        let present = &self.present[newest(&self.present)?];
        let tonight = history.series.nights.last()?.fingerprint.parts().get(WORKER_BUILD);
        // Of another build than tonight's nothing follows for tonight.
        let in_turns = present.record.cell.build.is_some() && present.build() == tonight;
        if let Some(kept) = newest(&self.kept).map(|at| &self.kept[at]).filter(|_| in_turns) {
            let pairs = pairs(&kept.samples, &present.samples, present.per_pass, history.metric);
            if !pairs.is_empty() {
                return Some(Again::Pairs(pairs));
            }
        }
        let (values, standing) = processes(&present.samples, present.per_pass, history.metric);
        (standing == Standing::Valid && !values.is_empty()).then_some(Again::Apart(values))
    }
}

/// A run of a series.
struct Row {
    run: RunId,
    at: Timestamp,
    per_pass: u32,
    excluded: Option<String>,
}

impl Reader {
    /// Cells that were measured in some run, each with its scenario; the newest first.
    pub async fn known_cells(&self) -> Result<Vec<KnownCell>, StoreError> {
        let rows = sqlx::query(
            "SELECT r.name, max(r.id) AS newest, c.* FROM cells c JOIN runs r ON r.id = c.run_id
             WHERE c.state = 'ok' AND r.retry_of IS NULL
             GROUP BY r.name, c.cell_hash, c.agent_id, c.device ORDER BY newest DESC, c.ordinal",
        )
        .fetch_all(&self.pool)
        .await?;
        let known = |row: &SqliteRow| {
            let cell = crate::row::cell(row)?;
            Ok(KnownCell { scenario: row.text("name")?, cell, hash: CellHash(row.digest("cell_hash")?) })
        };
        rows.iter().map(known).collect()
    }

    /// The nights of a cell in the runs of a scenario.
    pub async fn history(&self, of: &KnownCell) -> Result<Vec<History>, StoreError> {
        let nights = self.nights(&of.scenario, None).await?;
        self.histories(&nights, |cell| {
            (cell.hash, &cell.cell.agent, cell.cell.device) == (of.hash, &of.cell.agent, of.cell.device)
        })
        .await
        .map(|(histories, _)| histories)
    }

    /// The series that end with a run, to be judged.
    pub async fn to_judge(&self, run: &RunId) -> Result<ToJudge, StoreError> {
        let name = self.run(run.as_str()).await?.summary.name;
        let nights = self.nights(&name, Some(run)).await?;
        let tonight: Vec<(CellHash, AgentId)> =
            self.cells(run).await?.into_iter().map(|cell| (cell.hash, cell.cell.agent)).collect();
        let is_of_tonight = |cell: &CellRecord| tonight.contains(&(cell.hash, cell.cell.agent.clone()));
        let (mut histories, repeated) = self.histories(&nights, is_of_tonight).await?;
        let is_judged = |history: &History| history.series.nights.last().is_some_and(|night| night.run == *run);
        histories.retain(is_judged);
        // What was said of this night before must not be what it is judged by; what a person expects is.
        for history in &mut histories {
            let expected = |(answer, _): &(Answer, String)| *answer == Answer::Expected;
            let record = history.nights.last().and_then(|night| night.verdict.as_ref());
            let is_expected = record.and_then(|verdict| verdict.answer.as_ref()).is_some_and(expected);
            if let Some(tonight) = history.series.nights.last_mut().filter(|_| !is_expected) {
                tonight.said = Said::Nothing;
            }
        }
        let again = |(at, history)| Some((at, repeated.again(history)?));
        let again = histories.iter().enumerate().filter_map(again).collect();
        Ok(ToJudge { run: run.clone(), histories, again })
    }

    /// What was said of a run.
    pub async fn verdicts(&self, run: &RunId) -> Result<Vec<VerdictRecord>, StoreError> {
        let rows =
            sqlx::query("SELECT * FROM verdicts WHERE run_id = ?").bind(run.as_str()).fetch_all(&self.pool).await?;
        rows.iter().map(verdict_record).collect()
    }

    /// Machines whose cells moved together in a run, by name.
    pub async fn machine_events(&self, run: &RunId) -> Result<Vec<MachineEventRecord>, StoreError> {
        let rows = sqlx::query("SELECT * FROM machine_events WHERE run_id = ? ORDER BY machine, direction");
        let event = |row: &SqliteRow| {
            let confirmed = row.integer("confirmed")? != 0;
            Ok(MachineEventRecord { machine: row.text("machine")?, confirmed, sentence: row.text("sentence")? })
        };
        rows.bind(run.as_str()).fetch_all(&self.pool).await?.iter().map(event).collect()
    }

    /// Why a person took a night out, if somebody did.
    pub async fn excluded(&self, run: &RunId) -> Result<Option<String>, StoreError> {
        let row = sqlx::query("SELECT reason FROM excluded_nights WHERE run_id = ?").bind(run.as_str());
        row.fetch_optional(&self.pool).await?.map(|row| row.text("reason")).transpose()
    }

    /// The ended runs of a scenario up to this one, oldest first.
    async fn nights(&self, scenario: &str, last: Option<&RunId>) -> Result<Vec<Row>, StoreError> {
        let rows = sqlx::query(
            "SELECT r.id, r.created_at_unix_ns, r.policy, e.reason FROM runs r
             LEFT JOIN excluded_nights e ON e.run_id = r.id
             WHERE r.name = ?1 AND r.retry_of IS NULL AND r.state <> 'active' AND (?2 IS NULL OR r.id <= ?2)
             ORDER BY r.id DESC LIMIT ?3",
        )
        .bind(scenario)
        .bind(last.map(RunId::as_str))
        .bind(NIGHTS)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().rev().map(night_row).collect()
    }

    /// The series of the cells that are asked for, and what runs that repeat the last of them measured again.
    async fn histories(
        &self,
        nights: &[Row],
        wanted: impl Fn(&CellRecord) -> bool,
    ) -> Result<(Vec<History>, Repeated), StoreError> {
        let mut histories: Vec<History> = Vec::new();
        let mut all = Repeated::default();
        for night in nights {
            let mut said = self.verdicts(&night.run).await?;
            let mut measured = self.measured(night, &wanted).await?;
            all = Repeated::default();
            for repeated in self.repeated(&night.run).await? {
                // Cells that builds measured in turns have hashes of their own.
                let wanted = |cell: &CellRecord| cell.cell.build.is_some() || wanted(cell);
                for cell in self.measured(&repeated, wanted).await? {
                    let alike = |first: &&mut Measured| cell.is_like(first.record.hash, &first.record.cell);
                    match measured.iter_mut().find(alike) {
                        Some(failed) if failed.samples.is_empty() && cell.record.cell.build.is_none() => *failed = cell,
                        _ => all.add(cell),
                    }
                }
            }
            for cell in &measured {
                for metric in Metric::ALL {
                    let verdict = said.iter().position(|said| (said.cell, said.metric) == (cell.record.hash, metric));
                    add(&mut histories, cell, metric, night, verdict.map(|at| said.swap_remove(at)));
                }
            }
        }
        // A metric that a workload does not have.
        histories.retain(|history| history.series.nights.iter().any(|night| !night.values.is_empty()));
        Ok((histories, all))
    }

    /// Runs that repeat cells of this one and have ended.
    async fn repeated(&self, run: &RunId) -> Result<Vec<Row>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, created_at_unix_ns, policy, NULL AS reason FROM runs WHERE retry_of = ? AND state <> 'active' ORDER BY id",
        );
        rows.bind(run.as_str()).fetch_all(&self.pool).await?.iter().map(night_row).collect()
    }

    /// What a run measured of the cells that are asked for.
    async fn measured(&self, night: &Row, wanted: impl Fn(&CellRecord) -> bool) -> Result<Vec<Measured>, StoreError> {
        let cells: Vec<CellRecord> = self.cells(&night.run).await?.into_iter().filter(wanted).collect();
        let hashes: Vec<String> = cells.iter().map(|cell| cell.hash.to_string()).collect();
        let sql = format!(
            "SELECT s.* FROM cells c JOIN samples s
                ON s.run_id = c.run_id AND s.cell_hash = c.cell_hash AND s.epoch = {CANONICAL}
             WHERE c.run_id = ?1 AND c.state = 'ok' AND lower(hex(c.cell_hash)) IN (SELECT value FROM json_each(?2))
             ORDER BY c.ordinal, s.repetition"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(night.run.as_str())
            .bind(to_json("hashes", &hashes)?)
            .fetch_all(&self.pool)
            .await?;
        let mut samples: HashMap<CellHash, Vec<Sample>> = HashMap::new();
        for row in &rows {
            let sample = blob::sample(row)?;
            samples.entry(sample.key.cell).or_default().push(sample);
        }
        let workers = self.worker_facts(&night.run).await?;
        let hosts = self.run_devices(&night.run).await?;
        let measured = |record: CellRecord| {
            let worker = workers.iter().find(|worker| {
                let of_trial = (Some(&worker.trial), Some(worker.epoch)) == (record.trial.as_ref(), record.epoch);
                of_trial && worker.facts.build == record.cell.build
            });
            let agent = &record.cell.agent;
            let host = hosts.iter().find(|of| of.device.agent == *agent).and_then(|of| of.host.get("hostname"));
            Measured {
                samples: samples.remove(&record.hash).unwrap_or_default(),
                per_pass: night.per_pass,
                fingerprint: worker.map(|worker| worker.facts.fingerprint.clone()).unwrap_or_default(),
                machine: host.cloned().unwrap_or_else(|| agent.to_string()),
                record,
            }
        };
        Ok(cells.into_iter().map(measured).collect())
    }
}

/// Adds a night to the series it belongs to.
fn add(histories: &mut Vec<History>, cell: &Measured, metric: Metric, of: &Row, verdict: Option<VerdictRecord>) {
    let (mut values, mut standing) = processes(&cell.samples, cell.per_pass, metric);
    if of.excluded.is_some() {
        standing = Standing::Excluded;
    }
    if cell.record.outcome != Some(Outcome::Ok) {
        values.clear();
    }
    let night = Night {
        run: of.run.clone(),
        values,
        standing,
        fingerprint: cell.fingerprint.clone(),
        said: verdict.as_ref().map_or(Said::Nothing, VerdictRecord::bears),
    };
    let record =
        NightRecord { at: of.at, outcome: cell.record.outcome.clone(), verdict, excluded: of.excluded.clone() };
    let same = |history: &&mut History| {
        (history.hash, history.metric) == (cell.record.hash, metric)
            && (&history.cell.agent, history.cell.device) == (&cell.record.cell.agent, cell.record.cell.device)
    };
    if let Some(history) = histories.iter_mut().find(same) {
        history.series.machine.clone_from(&cell.machine);
        history.series.nights.push(night);
        history.nights.push(record);
        return;
    }
    let series = Series {
        machine: cell.machine.clone(),
        cell: cell.record.cell.label(),
        metric: metric.as_str().to_owned(),
        larger_is_better: true,
        nights: vec![night],
    };
    histories.push(History {
        cell: cell.record.cell.clone(),
        hash: cell.record.hash,
        metric,
        series,
        nights: vec![record],
    });
}

impl ToJudge {
    /// The builds of the worker that measured tonight, by their hashes.
    pub fn builds(&self) -> BTreeSet<Digest> {
        let tonight = self.histories.iter().filter_map(|history| history.series.nights.last());
        tonight.filter_map(build_of).collect()
    }

    /// The build of the worker that measured the last good night of a cell, where it is another one than tonight's.
    pub fn last_good_build(&self, cell: &Cell) -> Option<Digest> {
        let history = self.histories.iter().find(|history| history.cell == *cell)?;
        let tonight = history.series.nights.last().and_then(build_of);
        history.series.last_good().and_then(build_of).filter(|good| tonight.is_some_and(|tonight| tonight != *good))
    }

    /// Judges it.
    pub fn judge(&self, rules: &Rules) -> Judgement {
        let series: Vec<Series> = self.histories.iter().map(|history| history.series.clone()).collect();
        judge(&series, &self.again, rules)
    }

    /// What was said, to be stored.
    pub fn keep(&self, judgement: &Judgement) -> Result<KeepVerdicts, StoreError> {
        let verdict = |(history, verdict): (&History, &regatta_core::nightly::Verdict)| {
            Ok(NewVerdict {
                cell: history.hash,
                metric: history.metric,
                machine: history.series.machine.clone(),
                finding: verdict.finding.clone(),
                sentence: verdict.sentence(),
                evidence: to_json("verdicts.evidence", verdict)?,
            })
        };
        let event = |event: &regatta_core::nightly::MachineEvent| {
            Ok(NewEvent {
                machine: event.machine.clone(),
                direction: event.direction,
                confirmed: event.confirmed,
                sentence: event.sentence(),
                evidence: to_json("machine_events.evidence", event)?,
            })
        };
        let verdicts =
            self.histories.iter().zip(&judgement.verdicts).map(verdict).collect::<Result<_, StoreError>>()?;
        let events = judgement.events.iter().map(event).collect::<Result<_, StoreError>>()?;
        Ok(KeepVerdicts { run: self.run.clone(), verdicts, events })
    }
}

/// The build of the worker that measured a night.
fn build_of(night: &Night) -> Option<Digest> {
    night.fingerprint.parts().get(WORKER_BUILD)?.parse().ok()
}

impl VerdictRecord {
    /// What it means for later nights, with what a person said to it.
    fn bears(&self) -> Said {
        match &self.answer {
            Some((Answer::Dismissed, _)) => Said::Nothing,
            Some((Answer::Expected, _)) => match &self.said {
                changed @ Said::Changed { .. } => changed.clone(),
                _ => Said::Changed { since: self.run.clone() },
            },
            Some((Answer::Acknowledged, _)) | None => self.said.clone(),
        }
    }
}

/// What was said of a night. It replaces what was said before; what a person answered stays.
#[derive(Debug, Clone, PartialEq)]
pub struct KeepVerdicts {
    run: RunId,
    verdicts: Vec<NewVerdict>,
    events: Vec<NewEvent>,
}

#[derive(Debug, Clone, PartialEq)]
struct NewVerdict {
    cell: CellHash,
    metric: Metric,
    machine: String,
    finding: Finding,
    sentence: String,
    evidence: String,
}

#[derive(Debug, Clone, PartialEq)]
struct NewEvent {
    machine: String,
    direction: Direction,
    confirmed: bool,
    sentence: String,
    evidence: String,
}

impl Change for KeepVerdicts {
    type Outcome = ();

    async fn apply(&self, db: &mut SqliteConnection, at: Timestamp) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM verdicts WHERE run_id = ? AND answer IS NULL")
            .bind(self.run.as_str())
            .execute(&mut *db)
            .await?;
        for verdict in &self.verdicts {
            keep_verdict(db, at, &self.run, verdict).await?;
        }
        sqlx::query("DELETE FROM machine_events WHERE run_id = ?").bind(self.run.as_str()).execute(&mut *db).await?;
        for event in &self.events {
            sqlx::query(
                "INSERT INTO machine_events (run_id, machine, direction, confirmed, sentence, evidence, judged_at_unix_ns)
                 VALUES (?, ?, ?, ?, ?, ?, ?)",
            )
            .bind(self.run.as_str())
            .bind(&event.machine)
            .bind(event.direction.as_str())
            .bind(event.confirmed)
            .bind(&event.sentence)
            .bind(&event.evidence)
            .bind(unix_ns(at))
            .execute(&mut *db)
            .await?;
        }
        Ok(())
    }

    fn rows(&self) -> usize {
        1 + self.verdicts.len() + self.events.len()
    }
}

async fn keep_verdict(
    db: &mut SqliteConnection,
    at: Timestamp,
    run: &RunId,
    verdict: &NewVerdict,
) -> Result<(), StoreError> {
    let (bears, since) = match verdict.finding.said() {
        Said::Nothing => (None, None),
        Said::Pending(_) => (Some("pending"), None),
        Said::Changed { since } => (Some("changed"), Some(since)),
    };
    sqlx::query(
        "INSERT INTO verdicts (run_id, cell_hash, metric, machine, finding, direction, bears, since, sentence, evidence,
                               judged_at_unix_ns)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT (run_id, cell_hash, metric) DO UPDATE SET machine = excluded.machine, finding = excluded.finding,
            direction = excluded.direction, bears = excluded.bears, since = excluded.since, sentence = excluded.sentence,
            evidence = excluded.evidence, judged_at_unix_ns = excluded.judged_at_unix_ns",
    )
    .bind(run.as_str())
    .bind(verdict.cell.0.as_bytes().as_slice())
    .bind(verdict.metric.as_str())
    .bind(&verdict.machine)
    .bind(verdict.finding.as_str())
    .bind(verdict.finding.direction().map(Direction::as_str))
    .bind(bears)
    .bind(since.as_ref().map(RunId::as_str))
    .bind(&verdict.sentence)
    .bind(&verdict.evidence)
    .bind(unix_ns(at))
    .execute(db)
    .await?;
    Ok(())
}

/// A person answers verdicts of a run that say that something moved: those of one cell, or all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerVerdicts {
    /// The run.
    pub run: RunId,
    /// The cell; all without one.
    pub cell: Option<CellHash>,
    /// What they say.
    pub answer: Answer,
    /// Why.
    pub reason: String,
}

impl Change for AnswerVerdicts {
    /// How many verdicts were answered.
    type Outcome = u64;

    async fn apply(&self, db: &mut SqliteConnection, at: Timestamp) -> Result<u64, StoreError> {
        let cell = self.cell.map(|cell| cell.0.as_bytes().to_vec());
        let answered = sqlx::query(
            "UPDATE verdicts SET answer = ?3, reason = ?4, answered_at_unix_ns = ?5
             WHERE run_id = ?1 AND direction IS NOT NULL AND (?2 IS NULL OR cell_hash = ?2)",
        )
        .bind(self.run.as_str())
        .bind(cell)
        .bind(self.answer.as_str())
        .bind(&self.reason)
        .bind(unix_ns(at))
        .execute(db)
        .await?;
        Ok(answered.rows_affected())
    }
}

/// A person takes a night out, or puts it back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExcludeNight {
    /// Its run.
    pub run: RunId,
    /// Why; `None` puts it back.
    pub reason: Option<String>,
}

impl Change for ExcludeNight {
    type Outcome = ();

    async fn apply(&self, db: &mut SqliteConnection, at: Timestamp) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM excluded_nights WHERE run_id = ?").bind(self.run.as_str()).execute(&mut *db).await?;
        if let Some(reason) = &self.reason {
            sqlx::query("INSERT INTO excluded_nights (run_id, reason, excluded_at_unix_ns) VALUES (?, ?, ?)")
                .bind(self.run.as_str())
                .bind(reason)
                .bind(unix_ns(at))
                .execute(db)
                .await?;
        }
        Ok(())
    }
}

fn night_row(row: &SqliteRow) -> Result<Row, StoreError> {
    Ok(Row {
        run: row.parsed("id")?,
        at: row.time("created_at_unix_ns")?,
        per_pass: row.json::<Policy>("policy")?.repetitions,
        excluded: row.optional_text("reason")?,
    })
}

fn verdict_record(row: &SqliteRow) -> Result<VerdictRecord, StoreError> {
    let metric = row.text("metric")?;
    let direction = match row.optional_text("direction")?.as_deref() {
        None => None,
        Some("slower") => Some(Direction::Slower),
        Some("faster") => Some(Direction::Faster),
        Some(other) => return Err(unreadable("verdicts.direction", &other)),
    };
    let said = match (row.optional_text("bears")?.as_deref(), direction, row.optional_parsed("since")?) {
        (None, ..) => Said::Nothing,
        (Some("pending"), Some(direction), _) => Said::Pending(direction),
        (Some("changed"), _, Some(since)) => Said::Changed { since },
        (Some(other), ..) => return Err(unreadable("verdicts.bears", &other)),
    };
    let answer = row.optional_text("answer")?;
    let answer =
        answer.map(|text| Answer::parse(&text).ok_or_else(|| unreadable("verdicts.answer", &text))).transpose()?;
    Ok(VerdictRecord {
        run: row.parsed("run_id")?,
        cell: CellHash(row.digest("cell_hash")?),
        metric: Metric::parse(&metric).ok_or_else(|| unreadable("verdicts.metric", &metric))?,
        finding: row.text("finding")?,
        direction,
        said,
        sentence: row.text("sentence")?,
        evidence: row.text("evidence")?,
        answer: answer.zip(row.optional_text("reason")?),
    })
}
