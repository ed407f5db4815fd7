-- Samples in the order of their arrival, and records without their bytes: half of what has to be written to the disk.
--
-- A fleet sends samples of many cells at the same time. Kept in the order of their key, each batch lands in a page of its
-- own between others, which is split and written again and again. Kept as they come, they fill page after page, and only
-- the small entries of the key's index go to many places.

ALTER TABLE samples RENAME TO samples_by_key;

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
) STRICT;

INSERT INTO samples (run_id, cell_hash, epoch, repetition, started_at_unix_ns, tokenized_ns, prefill_start_ns, prefill_done_ns,
    token_times, end_ns, prompt_tokens, prompt_digest, batch, output, load_ns, first_repetition_ns, warmup_repetitions,
    peak_rss_bytes, threads, flags)
SELECT run_id, cell_hash, epoch, repetition, started_at_unix_ns, tokenized_ns, prefill_start_ns, prefill_done_ns,
    token_times, end_ns, prompt_tokens, prompt_digest, batch, output, load_ns, first_repetition_ns, warmup_repetitions,
    peak_rss_bytes, threads, flags
FROM samples_by_key ORDER BY started_at_unix_ns;

DROP TABLE samples_by_key;

-- The hash of a record is enough to tell it from another one with the same number, and to check the lease's end.
ALTER TABLE records DROP COLUMN bytes;
