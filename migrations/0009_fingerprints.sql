-- The circumstances of measurements, each set once: named parts, and the hash over them.
CREATE TABLE fingerprints (
    hash  BLOB NOT NULL PRIMARY KEY CHECK (length(hash) = 32),
    -- JSON object of texts.
    parts TEXT NOT NULL CHECK (json_valid(parts))
) STRICT, WITHOUT ROWID;

-- NULL for leases from before there were any.
ALTER TABLE worker_facts ADD COLUMN fingerprint BLOB REFERENCES fingerprints (hash);
