-- Runs, their cells, trials and samples; the delivery ledger; agents, devices and events.
--
-- Times: columns that end in _ns are nanoseconds. Durations come from one monotonic clock of the measured machine;
-- columns that end in _unix_ns are wall-clock labels and are never subtracted.

-- "RGTA": a file with another id is not ours and is left alone.
PRAGMA application_id = 1380406337;

CREATE TABLE runs (
    -- A time-ordered UUID.
    id                 TEXT    NOT NULL PRIMARY KEY CHECK (length(id) BETWEEN 1 AND 64),
    name               TEXT    NOT NULL,
    state              TEXT    NOT NULL CHECK (state IN ('active', 'done', 'cancelled')),
    -- A person stopped the run; the state follows when its last trial has ended.
    cancel_requested   INTEGER NOT NULL DEFAULT 0 CHECK (cancel_requested IN (0, 1)),
    -- The scenario with everything it needs, frozen (JSON of ScenarioBundle).
    bundle             TEXT    NOT NULL CHECK (json_valid(bundle)),
    -- How its cells are measured (JSON of Policy).
    policy             TEXT    NOT NULL CHECK (json_valid(policy)),
    created_at_unix_ns INTEGER NOT NULL,
    ended_at_unix_ns   INTEGER,
    CHECK ((state = 'active') = (ended_at_unix_ns IS NULL))
) STRICT;

-- The devices a run was unfolded over, as they were then.
CREATE TABLE run_devices (
    run_id        TEXT NOT NULL REFERENCES runs (id),
    agent_id      TEXT NOT NULL,
    device        TEXT NOT NULL,
    -- JSON of Device.
    facts         TEXT NOT NULL CHECK (json_valid(facts)),
    agent_version TEXT NOT NULL,
    -- Operating system and processor, as labels (JSON object of texts).
    host          TEXT NOT NULL CHECK (json_valid(host)),
    PRIMARY KEY (run_id, agent_id, device)
) STRICT, WITHOUT ROWID;

CREATE TABLE trials (
    id        TEXT    NOT NULL PRIMARY KEY CHECK (length(id) BETWEEN 1 AND 64),
    run_id    TEXT    NOT NULL REFERENCES runs (id),
    ordinal   INTEGER NOT NULL CHECK (ordinal >= 0),
    agent_id  TEXT    NOT NULL,
    device    TEXT    NOT NULL,
    backend   TEXT    NOT NULL,
    model     TEXT    NOT NULL,
    weights   TEXT    NOT NULL,
    format    TEXT    NOT NULL,
    precision TEXT    NOT NULL,
    state     TEXT    NOT NULL CHECK (state IN ('queued', 'leased', 'running', 'done', 'failed', 'cancelled')),
    -- Leases so far: the fencing token of the current or last one.
    epoch     INTEGER NOT NULL DEFAULT 0 CHECK (epoch >= 0),
    -- Leases since the run was submitted or resumed.
    attempts  INTEGER NOT NULL DEFAULT 0 CHECK (attempts BETWEEN 0 AND epoch),
    UNIQUE (run_id, ordinal),
    CHECK (state NOT IN ('leased', 'running') OR epoch > 0)
) STRICT;

CREATE INDEX trials_open ON trials (state) WHERE state IN ('queued', 'leased', 'running');

CREATE TABLE cells (
    run_id           TEXT    NOT NULL REFERENCES runs (id),
    cell_hash        BLOB    NOT NULL CHECK (length(cell_hash) = 32),
    -- Position in the matrix.
    ordinal          INTEGER NOT NULL CHECK (ordinal >= 0),
    -- NULL for a cell that is not tried.
    trial_id         TEXT REFERENCES trials (id),
    agent_id         TEXT    NOT NULL,
    device           TEXT    NOT NULL,
    backend          TEXT    NOT NULL,
    model            TEXT    NOT NULL,
    weights          TEXT    NOT NULL,
    format           TEXT    NOT NULL,
    precision        TEXT    NOT NULL,
    -- JSON of Workload.
    workload         TEXT    NOT NULL CHECK (json_valid(workload)),
    -- Tokens that the workload generates: what a sample is checked against.
    generate         INTEGER NOT NULL CHECK (generate > 0),
    state            TEXT    NOT NULL DEFAULT 'waiting' CHECK (
        state IN ('waiting', 'ok', 'oom', 'skipped', 'failed', 'timeout', 'crashed', 'cancelled')
    ),
    -- Kind of failure, for a failed cell.
    failure          TEXT CHECK ((failure IS NOT NULL) = (state = 'failed')),
    detail           TEXT CHECK (length(detail) <= 65536),
    -- The lease under which it ended: its samples are the canonical ones. 0 for a cell that never ran.
    ended_epoch      INTEGER CHECK (ended_epoch >= 0),
    ended_at_unix_ns INTEGER,
    -- It failed by what the infrastructure did, and the next lease tries again.
    retry            INTEGER NOT NULL DEFAULT 0 CHECK (retry IN (0, 1)),
    PRIMARY KEY (run_id, cell_hash),
    UNIQUE (run_id, ordinal),
    CHECK ((state = 'waiting') = (ended_epoch IS NULL)),
    CHECK ((state = 'waiting') = (ended_at_unix_ns IS NULL)),
    CHECK (trial_id IS NOT NULL OR state <> 'waiting')
) STRICT, WITHOUT ROWID;

CREATE INDEX cells_of_trial ON cells (trial_id, ordinal);

-- One row per repetition: raw, never changed, never deleted.
CREATE TABLE samples (
    run_id              TEXT    NOT NULL,
    cell_hash           BLOB    NOT NULL,
    epoch               INTEGER NOT NULL CHECK (epoch > 0),
    repetition          INTEGER NOT NULL CHECK (repetition >= 0),
    started_at_unix_ns  INTEGER NOT NULL,
    tokenized_ns        INTEGER NOT NULL CHECK (tokenized_ns >= 0),
    prefill_start_ns    INTEGER NOT NULL CHECK (prefill_start_ns >= tokenized_ns),
    prefill_done_ns     INTEGER NOT NULL CHECK (prefill_done_ns > prefill_start_ns),
    -- Nanoseconds since the repetition's start, one unsigned 64-bit little-endian number per step.
    token_times         BLOB    NOT NULL CHECK (length(token_times) > 0 AND length(token_times) % 8 = 0),
    end_ns              INTEGER NOT NULL CHECK (end_ns >= prefill_done_ns),
    prompt_tokens       INTEGER NOT NULL CHECK (prompt_tokens > 0),
    prompt_digest       BLOB    NOT NULL CHECK (length(prompt_digest) = 32),
    batch               INTEGER NOT NULL CHECK (batch > 0),
    -- Token ids, sequence after sequence, each an unsigned 32-bit little-endian number.
    output              BLOB    NOT NULL CHECK (length(output) * 2 = length(token_times) * batch),
    load_ns             INTEGER NOT NULL CHECK (load_ns >= 0),
    first_repetition_ns INTEGER NOT NULL CHECK (first_repetition_ns >= 0),
    warmup_repetitions  INTEGER NOT NULL CHECK (warmup_repetitions >= 0),
    peak_rss_bytes      INTEGER CHECK (peak_rss_bytes >= 0),
    threads             INTEGER NOT NULL CHECK (threads >= 0),
    -- Names, separated by commas.
    flags               TEXT    NOT NULL,
    PRIMARY KEY (run_id, cell_hash, epoch, repetition),
    FOREIGN KEY (run_id, cell_hash) REFERENCES cells (run_id, cell_hash)
) STRICT, WITHOUT ROWID;

-- One row per lease: how much of what its agent sends has arrived.
CREATE TABLE deliveries (
    trial_id            TEXT    NOT NULL REFERENCES trials (id),
    epoch               INTEGER NOT NULL CHECK (epoch > 0),
    -- The process of the agent that got the lease.
    boot_id             TEXT    NOT NULL,
    leased_at_unix_ns   INTEGER NOT NULL,
    -- Every record from 1 to this one is stored.
    last_seq            INTEGER NOT NULL DEFAULT 0 CHECK (last_seq >= 0),
    -- The end was announced with a count or a digest that did not fit.
    mismatches          INTEGER NOT NULL DEFAULT 0 CHECK (mismatches >= 0),
    finished_at_unix_ns INTEGER,
    PRIMARY KEY (trial_id, epoch)
) STRICT, WITHOUT ROWID;

-- What has arrived, record by record. The bytes go when the end has been checked; the hash stays, to tell a
-- repeated record from another one with the same number.
CREATE TABLE records (
    trial_id TEXT    NOT NULL,
    epoch    INTEGER NOT NULL,
    seq      INTEGER NOT NULL CHECK (seq > 0),
    hash     BLOB    NOT NULL CHECK (length(hash) = 32),
    bytes    BLOB,
    PRIMARY KEY (trial_id, epoch, seq),
    FOREIGN KEY (trial_id, epoch) REFERENCES deliveries (trial_id, epoch)
) STRICT, WITHOUT ROWID;

-- Records that came under the number of another one.
CREATE TABLE record_conflicts (
    trial_id            TEXT    NOT NULL,
    epoch               INTEGER NOT NULL,
    seq                 INTEGER NOT NULL,
    hash                BLOB    NOT NULL CHECK (length(hash) = 32),
    bytes               BLOB    NOT NULL,
    received_at_unix_ns INTEGER NOT NULL,
    PRIMARY KEY (trial_id, epoch, seq, hash),
    FOREIGN KEY (trial_id, epoch) REFERENCES deliveries (trial_id, epoch)
) STRICT, WITHOUT ROWID;

-- Samples that break a rule: kept with the reason, never counted.
CREATE TABLE rejected_samples (
    trial_id            TEXT    NOT NULL,
    epoch               INTEGER NOT NULL,
    seq                 INTEGER NOT NULL,
    run_id              TEXT    NOT NULL REFERENCES runs (id),
    -- NULL where the record could not be read that far.
    cell_hash           BLOB CHECK (length(cell_hash) = 32),
    reason              TEXT    NOT NULL,
    bytes               BLOB    NOT NULL,
    received_at_unix_ns INTEGER NOT NULL,
    PRIMARY KEY (trial_id, epoch, seq),
    FOREIGN KEY (trial_id, epoch) REFERENCES deliveries (trial_id, epoch)
) STRICT, WITHOUT ROWID;

CREATE INDEX rejected_samples_of_run ON rejected_samples (run_id);

-- What is known of the worker process behind one lease.
CREATE TABLE worker_facts (
    trial_id        TEXT    NOT NULL,
    epoch           INTEGER NOT NULL,
    -- The worker's answer to `probe` (JSON, as it came).
    worker          TEXT    NOT NULL,
    engine          TEXT    NOT NULL,
    load_ns         INTEGER NOT NULL CHECK (load_ns >= 0),
    weight_bytes    INTEGER NOT NULL CHECK (weight_bytes >= 0),
    artifact_digest TEXT    NOT NULL,
    PRIMARY KEY (trial_id, epoch),
    FOREIGN KEY (trial_id, epoch) REFERENCES deliveries (trial_id, epoch)
) STRICT, WITHOUT ROWID;

CREATE TABLE agents (
    id                    TEXT    NOT NULL PRIMARY KEY,
    -- The process seen last.
    boot_id               TEXT    NOT NULL,
    version               TEXT    NOT NULL,
    -- JSON object of texts.
    host                  TEXT    NOT NULL CHECK (json_valid(host)),
    -- Answers of its worker programs to `probe` (JSON list of texts).
    workers               TEXT    NOT NULL CHECK (json_valid(workers)),
    first_seen_at_unix_ns INTEGER NOT NULL,
    last_seen_at_unix_ns  INTEGER NOT NULL
) STRICT;

CREATE TABLE devices (
    agent_id     TEXT NOT NULL REFERENCES agents (id),
    device       TEXT NOT NULL,
    name         TEXT NOT NULL,
    memory_bytes INTEGER CHECK (memory_bytes >= 0),
    cores        INTEGER CHECK (cores >= 0),
    -- JSON list of texts.
    backends     TEXT NOT NULL CHECK (json_valid(backends)),
    PRIMARY KEY (agent_id, device)
) STRICT, WITHOUT ROWID;

-- What happened, in the order of the coordinator. Every change of a state leaves one.
CREATE TABLE events (
    id         INTEGER NOT NULL PRIMARY KEY,
    at_unix_ns INTEGER NOT NULL,
    kind       TEXT    NOT NULL,
    run_id     TEXT REFERENCES runs (id),
    trial_id   TEXT,
    epoch      INTEGER,
    agent_id   TEXT,
    cell_hash  BLOB CHECK (length(cell_hash) = 32),
    detail     TEXT    NOT NULL
) STRICT;

CREATE INDEX events_of_run ON events (run_id, id);
