-- A notice that waits after a failure, one that was delivered, and one that nobody took.
INSERT INTO outbox (id, body, state, created_at_unix_ns, attempts, next_unix_ns, last_error, ended_at_unix_ns)
VALUES ('firing.missed-nightly-1700000000', '{}', 'waiting', 1700000000000000000, 2, 1700000010000000000, 'answered 503', NULL),
       ('night.judged-1', '{}', 'delivered', 1700000000000000000, 1, 1700000000000000000, NULL, 1700000001000000000),
       ('night.judged-2', '{}', 'given_up', 1700000000000000000, 80, 1700000000000000000, 'answered 404', 1700300000000000000);
