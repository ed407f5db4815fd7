-- What has arrived, batch by batch in the order of arrival, in place of record by record in the order of leases.
--
-- Every batch of a lease used to land in a page of its own, which was written again with each batch. Now arrivals fill page
-- after page, and each names the one before it of its lease: a chain that is followed back from the lease. That is done when
-- records come again (nearly always the newest ones) and once when the lease ends.

CREATE TABLE arrivals (
    id        INTEGER NOT NULL PRIMARY KEY,
    trial_id  TEXT    NOT NULL,
    epoch     INTEGER NOT NULL,
    first_seq INTEGER NOT NULL CHECK (first_seq > 0),
    -- BLAKE3 of each record, 32 bytes each: tells a repeated record from another one with the same number.
    hashes    BLOB    NOT NULL CHECK (length(hashes) > 0 AND length(hashes) % 32 = 0),
    -- The arrival of the same lease before this one; NULL for its first.
    before    INTEGER CHECK (before < id),
    FOREIGN KEY (trial_id, epoch) REFERENCES deliveries (trial_id, epoch)
) STRICT;

-- The lease's newest arrival: the end of its chain.
ALTER TABLE deliveries ADD COLUMN last_arrival INTEGER REFERENCES arrivals (id);

INSERT INTO arrivals (id, trial_id, epoch, first_seq, hashes, before)
SELECT row_number() OVER by_lease, trial_id, epoch, seq, hash,
       CASE WHEN lag(trial_id) OVER by_lease = trial_id AND lag(epoch) OVER by_lease = epoch
            THEN row_number() OVER by_lease - 1 END
FROM records WINDOW by_lease AS (ORDER BY trial_id, epoch, seq);

UPDATE deliveries SET last_arrival = newest.id
FROM (SELECT trial_id, epoch, max(id) AS id FROM arrivals GROUP BY trial_id, epoch) AS newest
WHERE deliveries.trial_id = newest.trial_id AND deliveries.epoch = newest.epoch;

DROP TABLE records;
