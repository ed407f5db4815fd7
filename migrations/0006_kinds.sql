-- Forward passes by themselves, and several worker processes a cell.
--
-- A prompt with nothing after it generates no tokens, and steps without a prompt have none and choose none, so three rules
-- about samples and one about cells are too narrow. The number of worker processes that measured a cell, and why it was no
-- more, is said at its end.

ALTER TABLE samples RENAME TO samples_before;
ALTER TABLE cells RENAME TO cells_before;

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
    -- Tokens that the workload generates, or steps that it times: what a sample is checked against.
    generate         INTEGER NOT NULL CHECK (generate >= 0),
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
    -- Position among the replicas of its workload, from 0.
    replica          INTEGER NOT NULL DEFAULT 0 CHECK (replica >= 0),
    -- How its worker says that it ended, while its replicas are still at it (JSON of {epoch, state, failure, detail}): the
    -- cells of a group end together, or are all tried again.
    said             TEXT CHECK (said IS NULL OR (state = 'waiting' AND json_valid(said))),
    -- Worker processes that measured it, and why it was no more. NULL where that was not said.
    passes           INTEGER CHECK (passes >= 0),
    stop_reason      TEXT CHECK (stop_reason IN ('fixed', 'precise', 'most', 'budget')),
    PRIMARY KEY (run_id, cell_hash),
    UNIQUE (run_id, ordinal),
    CHECK ((state = 'waiting') = (ended_epoch IS NULL)),
    CHECK ((state = 'waiting') = (ended_at_unix_ns IS NULL)),
    CHECK (trial_id IS NOT NULL OR state <> 'waiting'),
    CHECK ((passes IS NULL) = (stop_reason IS NULL))
) STRICT, WITHOUT ROWID;

INSERT INTO cells (run_id, cell_hash, ordinal, trial_id, agent_id, device, backend, model, weights, format, precision,
    workload, generate, state, failure, detail, ended_epoch, ended_at_unix_ns, retry, replica, said)
SELECT run_id, cell_hash, ordinal, trial_id, agent_id, device, backend, model, weights, format, precision,
    workload, generate, state, failure, detail, ended_epoch, ended_at_unix_ns, retry, replica, said
FROM cells_before;

-- One row per repetition: raw, never changed, never deleted.
CREATE TABLE samples (
    run_id              TEXT    NOT NULL,
    cell_hash           BLOB    NOT NULL,
    epoch               INTEGER NOT NULL CHECK (epoch > 0),
    -- Numbered through all passes of the lease: each pass has as many as the run's policy says.
    repetition          INTEGER NOT NULL CHECK (repetition >= 0),
    started_at_unix_ns  INTEGER NOT NULL,
    tokenized_ns        INTEGER NOT NULL CHECK (tokenized_ns >= 0),
    prefill_start_ns    INTEGER NOT NULL CHECK (prefill_start_ns >= tokenized_ns),
    prefill_done_ns     INTEGER NOT NULL CHECK (prefill_done_ns >= prefill_start_ns),
    -- Nanoseconds since the repetition's start, one unsigned 64-bit little-endian number per step. Empty for a prompt with
    -- nothing after it.
    token_times         BLOB    NOT NULL CHECK (length(token_times) % 8 = 0),
    end_ns              INTEGER NOT NULL CHECK (end_ns >= prefill_done_ns),
    -- 0 for steps that follow no prompt.
    prompt_tokens       INTEGER NOT NULL CHECK (prompt_tokens >= 0),
    prompt_digest       BLOB    NOT NULL CHECK (length(prompt_digest) = 32),
    batch               INTEGER NOT NULL CHECK (batch > 0),
    -- Token ids, sequence after sequence, each an unsigned 32-bit little-endian number. Empty where none were chosen.
    output              BLOB    NOT NULL,
    load_ns             INTEGER NOT NULL CHECK (load_ns >= 0),
    first_repetition_ns INTEGER NOT NULL CHECK (first_repetition_ns >= 0),
    warmup_repetitions  INTEGER NOT NULL CHECK (warmup_repetitions >= 0),
    peak_rss_bytes      INTEGER CHECK (peak_rss_bytes >= 0),
    threads             INTEGER NOT NULL CHECK (threads >= 0),
    -- Names, separated by commas.
    flags               TEXT    NOT NULL,
    PRIMARY KEY (run_id, cell_hash, epoch, repetition),
    FOREIGN KEY (run_id, cell_hash) REFERENCES cells (run_id, cell_hash),
    CHECK (prompt_tokens > 0 OR length(token_times) > 0),
    CHECK (prompt_tokens = 0 OR prefill_done_ns > prefill_start_ns),
    CHECK (length(output) * 2 = length(token_times) * batch OR (prompt_tokens = 0 AND length(output) = 0))
) STRICT;

INSERT INTO samples (run_id, cell_hash, epoch, repetition, started_at_unix_ns, tokenized_ns, prefill_start_ns, prefill_done_ns,
    token_times, end_ns, prompt_tokens, prompt_digest, batch, output, load_ns, first_repetition_ns, warmup_repetitions,
    peak_rss_bytes, threads, flags)
SELECT run_id, cell_hash, epoch, repetition, started_at_unix_ns, tokenized_ns, prefill_start_ns, prefill_done_ns,
    token_times, end_ns, prompt_tokens, prompt_digest, batch, output, load_ns, first_repetition_ns, warmup_repetitions,
    peak_rss_bytes, threads, flags
FROM samples_before ORDER BY rowid;

DROP TABLE samples_before;
DROP TABLE cells_before;

CREATE INDEX cells_of_trial ON cells (trial_id, ordinal);
