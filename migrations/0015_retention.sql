-- Retention: runs that a person wants to keep, and what is left of those that were removed.
CREATE TABLE pins (
    run_id            TEXT    NOT NULL PRIMARY KEY REFERENCES runs (id),
    reason            TEXT    NOT NULL CHECK (length(reason) > 0),
    pinned_at_unix_ns INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- An agent may still have records of such a run: they are taken and dropped, or it would send them for ever.
CREATE TABLE pruned_runs (
    run_id             TEXT    NOT NULL PRIMARY KEY,
    name               TEXT    NOT NULL,
    created_at_unix_ns INTEGER NOT NULL,
    pruned_at_unix_ns  INTEGER NOT NULL,
    -- A run goes at once, its samples after it piece by piece. Whoever comes next goes on where this was broken off.
    samples_left       INTEGER NOT NULL CHECK (samples_left IN (0, 1))
) STRICT, WITHOUT ROWID;
