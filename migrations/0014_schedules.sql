-- Up to when the firings of a schedule are accounted for: those after that, and before the coordinator came back, were missed.
CREATE TABLE schedules (
    name               TEXT    NOT NULL PRIMARY KEY,
    seen_until_unix_ns INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What came of each firing.
CREATE TABLE firings (
    schedule    TEXT    NOT NULL,
    due_unix_ns INTEGER NOT NULL,
    outcome     TEXT    NOT NULL CHECK (outcome IN ('submitted', 'missed', 'failed')),
    run_id      TEXT REFERENCES runs (id) CHECK ((run_id IS NOT NULL) = (outcome = 'submitted')),
    -- Of a run: 'running', then 'confirming' while flagged cells are measured again, then 'judged'.
    stage       TEXT CHECK (stage IN ('running', 'confirming', 'judged') AND (stage IS NOT NULL) = (run_id IS NOT NULL)),
    -- Why not, for people.
    detail      TEXT    NOT NULL,
    at_unix_ns  INTEGER NOT NULL,
    PRIMARY KEY (schedule, due_unix_ns)
) STRICT, WITHOUT ROWID;
CREATE INDEX firings_by_run ON firings (run_id);
