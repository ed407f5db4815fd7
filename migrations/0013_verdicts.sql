-- What was said of a night: one verdict for each metric of each cell of a run, with its evidence. Judging again replaces
-- what was said, not what a person answered.
CREATE TABLE verdicts (
    run_id            TEXT    NOT NULL REFERENCES runs (id),
    cell_hash         BLOB    NOT NULL CHECK (length(cell_hash) = 32),
    -- 'decode' or 'prefill'.
    metric            TEXT    NOT NULL,
    -- What all cells of a machine share.
    machine           TEXT    NOT NULL,
    -- 'steady', 'flagged', 'slower', …: the word for people.
    finding           TEXT    NOT NULL,
    -- Which way, where it moved.
    direction         TEXT CHECK (direction IN ('slower', 'faster')),
    -- 'pending': one night more decides. 'changed': a new level began with the run in since.
    bears             TEXT CHECK (bears IN ('pending', 'changed')),
    since             TEXT CHECK ((since IS NOT NULL) = (bears IS 'changed')),
    sentence          TEXT    NOT NULL,
    -- JSON of Verdict.
    evidence          TEXT    NOT NULL CHECK (json_valid(evidence)),
    judged_at_unix_ns INTEGER NOT NULL,
    -- 'acknowledged': seen. 'expected': a new level begins here, and nobody is to be alarmed. 'dismissed': no change.
    answer            TEXT CHECK (answer IN ('acknowledged', 'expected', 'dismissed')),
    reason            TEXT CHECK ((reason IS NULL) = (answer IS NULL)),
    answered_at_unix_ns INTEGER CHECK ((answered_at_unix_ns IS NULL) = (answer IS NULL)),
    PRIMARY KEY (run_id, cell_hash, metric),
    CHECK (bears IS NOT 'pending' OR direction IS NOT NULL)
) STRICT, WITHOUT ROWID;
CREATE INDEX verdicts_by_cell ON verdicts (cell_hash, metric, run_id);

-- Machines whose cells moved together.
CREATE TABLE machine_events (
    run_id            TEXT    NOT NULL REFERENCES runs (id),
    machine           TEXT    NOT NULL,
    direction         TEXT    NOT NULL CHECK (direction IN ('slower', 'faster')),
    confirmed         INTEGER NOT NULL CHECK (confirmed IN (0, 1)),
    sentence          TEXT    NOT NULL,
    -- JSON of MachineEvent.
    evidence          TEXT    NOT NULL CHECK (json_valid(evidence)),
    judged_at_unix_ns INTEGER NOT NULL,
    PRIMARY KEY (run_id, machine, direction)
) STRICT, WITHOUT ROWID;

-- Nights that a person took out: they are judged no more, and nothing is held against them.
CREATE TABLE excluded_nights (
    run_id              TEXT    NOT NULL PRIMARY KEY REFERENCES runs (id),
    reason              TEXT    NOT NULL CHECK (length(reason) > 0),
    excluded_at_unix_ns INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
