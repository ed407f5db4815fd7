-- What devices were found to do at most: a series for each device of an agent. It stays when the agent is forgotten.
CREATE TABLE canaries (
    agent_id            TEXT    NOT NULL,
    device              TEXT    NOT NULL,
    -- By the agent's clock: a label, and what tells a canary from one that comes again.
    measured_at_unix_ns INTEGER NOT NULL,
    -- By the coordinator's clock: the order of the series.
    received_at_unix_ns INTEGER NOT NULL,
    -- Another device may be there later.
    device_name         TEXT    NOT NULL,
    -- For looking at the series; everything is in the reading.
    read_bytes_per_s    REAL CHECK (read_bytes_per_s > 0),
    f32_flops           REAL CHECK (f32_flops > 0),
    -- JSON of Reading.
    reading             TEXT    NOT NULL CHECK (json_valid(reading)),
    PRIMARY KEY (agent_id, device, measured_at_unix_ns)
) STRICT, WITHOUT ROWID;

-- Results of other tools, taken from their files. They are nobody's cells and are never counted with any.
CREATE TABLE imports (
    id                  TEXT    NOT NULL PRIMARY KEY,
    -- 'llama-bench'.
    tool                TEXT    NOT NULL,
    -- The file's name, for people.
    file                TEXT    NOT NULL,
    -- BLAKE3 of the file: the same file is imported once.
    digest              BLOB    NOT NULL UNIQUE CHECK (length(digest) = 32),
    imported_at_unix_ns INTEGER NOT NULL
) STRICT;

CREATE TABLE imported_rows (
    import_id TEXT    NOT NULL REFERENCES imports (id),
    -- The row's position in the file, from 0.
    ordinal   INTEGER NOT NULL CHECK (ordinal >= 0),
    -- The row as it came, with fields that nobody here knows.
    row       TEXT    NOT NULL CHECK (json_valid(row)),
    PRIMARY KEY (import_id, ordinal)
) STRICT, WITHOUT ROWID;
