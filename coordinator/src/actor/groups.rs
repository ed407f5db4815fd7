//! The barriers of the groups that are being measured: messages in, verdicts carried out.
//!
//! A group's barrier lives as long as the leases of its trials, in memory only. After a restart the replicas that wait say
//! so again, and what others have said of their cells is read from the database.

use std::collections::HashMap;
use std::time::Duration;

use regatta_core::cell::{CellHash, Outcome};
use regatta_core::id::TrialId;
use regatta_core::trial::Epoch;
use regatta_proto::pb;
use regatta_proto::pb::coordinator_message::Message;
use regatta_store::{Begun, EndedCell, ReleaseReason, ReplicaCell, StoreError};
use tracing::{debug, info, warn};

use super::{Actor, SessionId};
use crate::barrier::{Barrier, Connection, Place, Verdict};
use crate::scheduler::Hold;

/// A repetition, as replicas name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gate {
    pub(crate) trial: TrialId,
    pub(crate) epoch: Epoch,
    pub(crate) cell: CellHash,
    pub(crate) repetition: u32,
}

/// A group under one lease.
pub(super) struct Together {
    epoch: Epoch,
    replicas: Vec<Replica>,
    barrier: Barrier,
}

/// A trial of a group.
struct Replica {
    trial: TrialId,
    /// Its cells, by position.
    cells: Vec<CellHash>,
}

impl Together {
    fn new(epoch: Epoch, cells: Vec<ReplicaCell>) -> Self {
        let mut replicas: Vec<Replica> = Vec::new();
        let mut failed = Vec::new();
        for ReplicaCell { trial, replica, cell, said } in cells {
            if replicas.last().is_none_or(|last| last.trial != trial) {
                replicas.push(Replica { trial, cells: Vec::new() });
            }
            let Some(last) = replicas.last_mut() else { continue };
            if let Some((lease, outcome)) = said.filter(|(lease, outcome)| *lease == epoch && is_final(outcome)) {
                debug!(epoch = lease.0, %outcome, "a replica has failed before");
                failed.push((replica, last.cells.len(), outcome));
            }
            last.cells.push(cell);
        }
        let mut barrier = Barrier::new(number(replicas.len()));
        for (replica, position, outcome) in failed {
            barrier.fail(replica, number(position), &outcome.to_string());
        }
        Self { epoch, replicas, barrier }
    }

    /// Which replica that is, and the place it means.
    fn place(&self, gate: &Gate) -> Option<(u32, Place)> {
        let replica = self.replica(&gate.trial)?;
        let position = self.replicas[replica as usize].cells.iter().position(|cell| *cell == gate.cell)?;
        Some((replica, Place { position: number(position), repetition: gate.repetition }))
    }

    fn replica(&self, trial: &TrialId) -> Option<u32> {
        self.replicas.iter().position(|replica| replica.trial == *trial).map(number)
    }

    /// The repetition in the words of one replica.
    fn gate(&self, replica: u32, place: Place) -> Option<Gate> {
        let Replica { trial, cells } = self.replicas.get(replica as usize)?;
        let cell = *cells.get(place.position as usize)?;
        Some(Gate { trial: trial.clone(), epoch: self.epoch, cell, repetition: place.repetition })
    }
}

/// Whether a replica's cell has ended so that the others' must end too: neither well, nor to be tried again.
fn is_final(outcome: &Outcome) -> bool {
    let again = outcome.failure().is_some_and(regatta_core::failure::FailureKind::is_infrastructure);
    !matches!(outcome, Outcome::Ok | Outcome::Cancelled) && !again
}

fn number(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

impl Actor {
    /// A replica is ready for a repetition.
    pub(super) async fn at_barrier(&mut self, session: SessionId, gate: Gate) {
        self.heard(session);
        self.renew(session, &gate.trial, gate.epoch);
        let Some(group) = self.group_of(&gate.trial, gate.epoch) else {
            debug!(trial = %gate.trial, epoch = gate.epoch.0, "a replica without a lease waits");
            return;
        };
        if self.groups.get(&group).is_none_or(|together| together.epoch != gate.epoch)
            && let Err(error) = self.gather(&group, gate.epoch).await
        {
            // It stays where it is: its lease runs out if this goes on.
            return warn!(%group, %error, "failed to read a group");
        }
        let now = self.now();
        let Some(together) = self.groups.get_mut(&group) else { return };
        let Some((replica, place)) = together.place(&gate) else {
            return warn!(trial = %gate.trial, "a replica waits for a cell that is not its own");
        };
        let verdict = together.barrier.arrive(replica, place, Connection(session.0), now);
        self.carry_out(&group, verdict).await;
    }

    /// A replica has begun a repetition; `at` is when that was heard.
    pub(super) async fn passed_barrier(&mut self, gate: Gate, at: Duration) {
        let Some(group) = self.group_of(&gate.trial, gate.epoch) else { return };
        let Some(together) = self.groups.get_mut(&group).filter(|together| together.epoch == gate.epoch) else {
            return;
        };
        let Some((replica, place)) = together.place(&gate) else { return };
        let Some(skew) = together.barrier.passed(replica, place, at) else { return };
        let Some(first) = together.gate(0, place) else { return };
        let replicas = number(together.replicas.len());
        debug!(%group, repetition = place.repetition, ?skew, "every replica has begun");
        let begun = Begun { group, epoch: gate.epoch, cell: first.cell, repetition: place.repetition, replicas, skew };
        if let Err(error) = self.writer.write(begun).await {
            warn!(%error, "failed to store a start skew");
        }
    }

    /// Cells of a trial have ended. Where it is a replica, the others need not wait for those that failed.
    pub(super) async fn cells_failed(&mut self, trial: &TrialId, epoch: Epoch, ended: &[EndedCell]) {
        let Some(group) = self.group_of(trial, epoch) else { return };
        for EndedCell { hash, outcome, .. } in ended.iter().filter(|ended| is_final(&ended.outcome)) {
            // Nobody waits yet where the group is not known: then the database says it.
            let Some(together) = self.groups.get_mut(&group).filter(|together| together.epoch == epoch) else { return };
            let gate = Gate { trial: trial.clone(), epoch, cell: *hash, repetition: 0 };
            let Some((replica, place)) = together.place(&gate) else { continue };
            let verdict = together.barrier.fail(replica, place.position, &outcome.to_string());
            self.carry_out(&group, verdict).await;
        }
    }

    /// A replica comes to no barrier any more.
    pub(super) async fn replica_ended(&mut self, trial: &TrialId, epoch: Epoch) {
        let now = self.now();
        let Some(group) = self.group_of(trial, epoch) else { return };
        let Some(together) = self.groups.get_mut(&group).filter(|together| together.epoch == epoch) else { return };
        let Some(replica) = together.replica(trial) else { return };
        let verdict = together.barrier.end(replica, now);
        self.carry_out(&group, verdict).await;
    }

    /// Who has waited over that connection can't be told any more.
    pub(super) fn barriers_without(&mut self, session: SessionId) {
        for together in self.groups.values_mut() {
            together.barrier.disconnect(Connection(session.0));
        }
    }

    /// The leases of a group are over.
    pub(super) fn forget_group(&mut self, trial: &TrialId) {
        if let Some(group) = self.snapshot.trial(trial).and_then(|view| view.group.as_ref()) {
            self.groups.remove(&group.id);
        }
    }

    /// The group of a trial that is held under that lease.
    fn group_of(&self, trial: &TrialId, epoch: Epoch) -> Option<TrialId> {
        let view = self.snapshot.trial(trial)?;
        let held = matches!(view.hold, Hold::Held { epoch: held, .. } if held == epoch);
        view.group.as_ref().filter(|_| held).map(|group| group.id.clone())
    }

    async fn gather(&mut self, group: &TrialId, epoch: Epoch) -> Result<(), StoreError> {
        let cells = self.reader.replica_cells(group).await?;
        let mut together = Together::new(epoch, cells);
        let now = self.now();
        for replica in 0..number(together.replicas.len()) {
            let view = self.snapshot.trial(&together.replicas[replica as usize].trial);
            if matches!(view.map(|view| &view.hold), Some(Hold::Held { expires_at: None, .. })) {
                together.barrier.end(replica, now);
            }
        }
        // Groups whose trials have ended or lost their leases leave nothing else behind.
        let Self { groups, snapshot, .. } = self;
        groups.retain(|id, together| {
            let hold = snapshot.trial(id).map(|view| &view.hold);
            matches!(hold, Some(Hold::Held { epoch, .. }) if *epoch == together.epoch)
        });
        groups.insert(group.clone(), together);
        Ok(())
    }

    async fn carry_out(&mut self, group: &TrialId, verdict: Verdict) {
        let Some(together) = self.groups.get(group) else { return };
        match verdict {
            Verdict::Wait => {}
            Verdict::Open(place) => {
                let gates = (0..number(together.replicas.len())).filter_map(|replica| together.gate(replica, place));
                self.tell_gates(&gates.collect::<Vec<_>>(), "");
            }
            Verdict::Abandon { replicas, reason } => {
                let gates = replicas.into_iter().filter_map(|(replica, place)| together.gate(replica, place));
                self.tell_gates(&gates.collect::<Vec<_>>(), &reason);
            }
            Verdict::Apart(reason) => {
                info!(%group, epoch = together.epoch.0, reason, "a group came apart");
                let epoch = together.epoch;
                let trial = together.replicas.iter().map(|replica| &replica.trial);
                let held = trial.clone().find(|trial| self.is_held(trial, epoch)).cloned();
                if let Some(trial) = held {
                    // Boxed, because taking a lease back is what may have brought us here.
                    Box::pin(self.release(&trial, epoch, ReleaseReason::Apart(reason))).await;
                }
            }
        }
    }

    /// Tells replicas to begin or, with a reason, to end the cell. First all messages are made, then they are sent one
    /// right after the other.
    fn tell_gates(&self, gates: &[Gate], abandon: &str) {
        let link = |gate: &Gate| match &self.snapshot.trial(&gate.trial)?.hold {
            Hold::Held { place, .. } => self.sessions.get(&place.agent).map(|session| &session.link),
            Hold::Queued => None,
        };
        let message = |gate: &Gate| pb::ReleaseBarrier {
            trial_id: gate.trial.to_string(),
            epoch: gate.epoch.0,
            cell_hash: gate.cell.0.as_bytes().to_vec(),
            repetition: gate.repetition,
            abandon: abandon.to_owned(),
        };
        let ready: Vec<_> = gates.iter().filter_map(|gate| Some((link(gate)?, message(gate)))).collect();
        for (link, message) in ready {
            link.send(Message::ReleaseBarrier(message));
        }
    }
}

pub(super) type Groups = HashMap<TrialId, Together>;
