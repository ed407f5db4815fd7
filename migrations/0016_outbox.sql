-- Notices that are to be delivered to a webhook: written with what they tell of, so that neither is without the other.
CREATE TABLE outbox (
    -- The same however often it is sent: who receives it twice can tell.
    id                   TEXT    NOT NULL PRIMARY KEY CHECK (length(id) BETWEEN 1 AND 200),
    -- What is sent, byte for byte (JSON).
    body                 TEXT    NOT NULL CHECK (json_valid(body)),
    state                TEXT    NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'delivered', 'given_up')),
    created_at_unix_ns   INTEGER NOT NULL,
    attempts             INTEGER NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    -- Not before then.
    next_unix_ns         INTEGER NOT NULL,
    -- Why the last attempt failed. Never an address: those may hold a secret.
    last_error           TEXT,
    ended_at_unix_ns     INTEGER CHECK ((ended_at_unix_ns IS NULL) = (state = 'waiting'))
) STRICT, WITHOUT ROWID;
CREATE INDEX outbox_waiting ON outbox (next_unix_ns) WHERE state = 'waiting';
