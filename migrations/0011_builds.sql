-- Builds of a worker program that are measured in turns: each has cells of its own, and facts of its own.

-- The build that measures the cell. NULL where there is only one.
ALTER TABLE cells ADD COLUMN build TEXT;

ALTER TABLE worker_facts RENAME TO worker_facts_before;

-- What is known of the worker processes behind one lease.
CREATE TABLE worker_facts (
    trial_id        TEXT    NOT NULL,
    epoch           INTEGER NOT NULL,
    -- The build of the worker program; empty where there is only one.
    build           TEXT    NOT NULL DEFAULT '',
    -- The worker's answer to `probe` (JSON, as it came).
    worker          TEXT    NOT NULL,
    engine          TEXT    NOT NULL,
    load_ns         INTEGER NOT NULL CHECK (load_ns >= 0),
    weight_bytes    INTEGER NOT NULL CHECK (weight_bytes >= 0),
    artifact_digest TEXT    NOT NULL,
    -- NULL for leases from before there were any.
    fingerprint     BLOB REFERENCES fingerprints (hash),
    PRIMARY KEY (trial_id, epoch, build),
    FOREIGN KEY (trial_id, epoch) REFERENCES deliveries (trial_id, epoch)
) STRICT, WITHOUT ROWID;

INSERT INTO worker_facts (trial_id, epoch, worker, engine, load_ns, weight_bytes, artifact_digest, fingerprint)
SELECT trial_id, epoch, worker, engine, load_ns, weight_bytes, artifact_digest, fingerprint FROM worker_facts_before;

DROP TABLE worker_facts_before;
