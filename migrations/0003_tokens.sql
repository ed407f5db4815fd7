-- Tokens: who may do what. Only hashes are stored; a token is shown once, when it is made.

CREATE TABLE tokens (
    -- The token's public part.
    id                 TEXT    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    role               TEXT    NOT NULL CHECK (role IN ('agent', 'submitter', 'viewer')),
    -- The agent that an agent's token is bound to; a label for any other.
    name               TEXT    NOT NULL CHECK (length(name) BETWEEN 1 AND 64),
    -- BLAKE3 of the token.
    digest             BLOB    NOT NULL CHECK (length(digest) = 32),
    created_at_unix_ns INTEGER NOT NULL,
    -- NULL for one that does not expire.
    expires_at_unix_ns INTEGER,
    revoked_at_unix_ns INTEGER
) STRICT, WITHOUT ROWID;
