//! What a run has left undone, or is to be measured again, as a matrix for another run.

use std::collections::{HashMap, HashSet};

use regatta_core::cell::{CellHash, Outcome};
use regatta_core::id::{RunId, TrialId};
use regatta_core::matrix::{CellPlan, Matrix, PlannedCell, PlannedGroup, PlannedTrial};

use crate::error::StoreError;
use crate::read::{CellRecord, Reader, TrialRecord};

impl Reader {
    /// The run's cells that were tried and did not end ok, with their trials. Where one replica's cell did not, those of
    /// the other replicas are there too: they are measured together.
    pub async fn undone(&self, run: &RunId) -> Result<Matrix, StoreError> {
        self.parts(run, |cell| cell.outcome != Some(Outcome::Ok)).await
    }

    /// These of the run's cells, as far as they were tried, with their trials, and with the other replicas of each.
    pub async fn again(&self, run: &RunId, which: &HashSet<CellHash>) -> Result<Matrix, StoreError> {
        self.parts(run, |cell| which.contains(&cell.hash)).await
    }

    async fn parts(&self, run: &RunId, wanted: impl Fn(&CellRecord) -> bool) -> Result<Matrix, StoreError> {
        let cells = self.cells(run).await?;
        let mut by_trial: HashMap<&TrialId, Vec<&CellRecord>> = HashMap::new();
        for cell in &cells {
            if let Some(trial) = &cell.trial {
                by_trial.entry(trial).or_default().push(cell);
            }
        }
        let mut matrix = Matrix { cells: Vec::new(), trials: Vec::new() };
        let trials = self.trials(run).await?;
        for group in trials.chunk_by(|a, b| a.group.is_some() && group_id(a) == group_id(b)) {
            push(&mut matrix, group, &by_trial, &wanted);
        }
        Ok(matrix)
    }
}

fn group_id(trial: &TrialRecord) -> Option<&TrialId> {
    trial.group.as_ref().map(|group| &group.id)
}

/// Adds what is wanted of a trial, or of the trials of a group.
fn push(
    matrix: &mut Matrix,
    trials: &[TrialRecord],
    cells: &HashMap<&TrialId, Vec<&CellRecord>>,
    wanted: impl Fn(&CellRecord) -> bool,
) {
    let of_trial = |trial: &TrialRecord| cells.get(&trial.id).map(Vec::as_slice).unwrap_or_default();
    let wanted: HashSet<_> =
        trials.iter().flat_map(of_trial).filter(|cell| wanted(cell)).map(|cell| cell.cell.workload.digest()).collect();
    let first = matrix.trials.len();
    for trial in trials {
        let start = matrix.cells.len();
        let position = matrix.trials.len();
        let left = of_trial(trial).iter().filter(|cell| wanted.contains(&cell.cell.workload.digest()));
        matrix.cells.extend(left.map(|cell| PlannedCell {
            cell: cell.cell.clone(),
            hash: cell.hash,
            plan: CellPlan::Run { trial: position },
        }));
        let cells = start..matrix.cells.len();
        if cells.is_empty() {
            continue;
        }
        let group = trial.group.as_ref();
        matrix.trials.push(PlannedTrial {
            agent: trial.agent.clone(),
            device: trial.device,
            backend: trial.backend,
            artifact: trial.artifact.clone(),
            pool: trial.pool.clone(),
            group: group.map(|group| PlannedGroup { first, replica: group.replica, replicas: group.replicas }),
            // With fewer cells it is other work, of which nothing is known.
            work: trial.work.filter(|_| cells.len() == of_trial(trial).len()),
            cells,
        });
    }
}
