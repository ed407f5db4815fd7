-- The fleet: priorities, groups of replicas, pools of devices, agents in and out of service, start skews.

-- Runs of a higher priority go first.
ALTER TABLE runs ADD COLUMN priority INTEGER NOT NULL DEFAULT 0 CHECK (priority BETWEEN -100 AND 100);
-- The run whose failed cells this one repeats. A label: a run may be copied to another file without that one.
ALTER TABLE runs ADD COLUMN retry_of TEXT CHECK (length(retry_of) BETWEEN 1 AND 64);

-- Trials that are measured at the same time on as many devices: the id of the first of them. NULL for one by itself.
ALTER TABLE trials ADD COLUMN group_id TEXT REFERENCES trials (id);
ALTER TABLE trials ADD COLUMN replicas INTEGER NOT NULL DEFAULT 1 CHECK (replicas BETWEEN 1 AND 1024);
-- Position in the group, from 0.
ALTER TABLE trials ADD COLUMN replica INTEGER NOT NULL DEFAULT 0 CHECK (replica BETWEEN 0 AND replicas - 1);
-- Where it may go (JSON list of [agent, device]); agent_id and device say where it went last. NULL: nowhere else.
ALTER TABLE trials ADD COLUMN pool TEXT CHECK (json_valid(pool));
-- What it does on which kind of device, as a hash: trials with the same take about the same time.
ALTER TABLE trials ADD COLUMN work TEXT CHECK (length(work) = 64);
-- Why it is not tried any more, attempt by attempt (JSON list of {epoch, agent, device, reason}): the trial is
-- quarantined. NULL for any other trial.
ALTER TABLE trials ADD COLUMN evidence TEXT CHECK (evidence IS NULL OR (state = 'failed' AND json_valid(evidence)));

CREATE INDEX trials_of_group ON trials (group_id) WHERE group_id IS NOT NULL;
CREATE INDEX trials_of_work ON trials (work) WHERE work IS NOT NULL;

-- Position among the replicas of its workload, from 0.
ALTER TABLE cells ADD COLUMN replica INTEGER NOT NULL DEFAULT 0 CHECK (replica >= 0);
-- How its worker says that it ended, while its replicas are still at it (JSON of {epoch, state, failure, detail}): the
-- cells of a group end together, or are all tried again.
ALTER TABLE cells ADD COLUMN said TEXT CHECK (said IS NULL OR (state = 'waiting' AND json_valid(said)));

-- Who got the lease, and for which device.
ALTER TABLE deliveries ADD COLUMN agent_id TEXT;
ALTER TABLE deliveries ADD COLUMN device TEXT;
-- What the infrastructure did to it. NULL while the lease lives, and where nothing of that kind happened.
ALTER TABLE deliveries ADD COLUMN failure TEXT;
-- From the lease to its checked end, by the coordinator's monotonic clock. NULL where a lease did not do the whole
-- trial, or the coordinator was started in between.
ALTER TABLE deliveries ADD COLUMN took_ns INTEGER CHECK (took_ns >= 0);
UPDATE deliveries SET agent_id = (SELECT t.agent_id FROM trials t WHERE t.id = trial_id),
                      device = (SELECT t.device FROM trials t WHERE t.id = trial_id);

-- Labels that the agent's owner gave it (JSON object of texts).
ALTER TABLE agents ADD COLUMN labels TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(labels));
-- Whether it gets trials: a person drains it, repeated failures quarantine it.
ALTER TABLE agents ADD COLUMN service TEXT NOT NULL DEFAULT 'ready' CHECK (service IN ('ready', 'draining', 'quarantined'));
ALTER TABLE agents ADD COLUMN service_reason TEXT NOT NULL DEFAULT '';

-- One row per repetition that a group began together.
CREATE TABLE barriers (
    group_id            TEXT    NOT NULL REFERENCES trials (id),
    -- The lease of the group's first trial; its members are leased together.
    epoch               INTEGER NOT NULL CHECK (epoch > 0),
    -- The cell of replica 0.
    cell_hash           BLOB    NOT NULL CHECK (length(cell_hash) = 32),
    repetition          INTEGER NOT NULL CHECK (repetition >= 0),
    replicas            INTEGER NOT NULL CHECK (replicas > 1),
    -- From the release to the moment when the last replica said it had begun, by the coordinator's monotonic clock: an
    -- upper bound of how far apart they began. NULL where not all of them said so.
    skew_ns             INTEGER CHECK (skew_ns >= 0),
    released_at_unix_ns INTEGER NOT NULL,
    PRIMARY KEY (group_id, epoch, cell_hash, repetition)
) STRICT, WITHOUT ROWID;
