-- A schedule that fired, and missed a night.
INSERT INTO schedules (name, seen_until_unix_ns) VALUES ('nightly', 1700000000000000000);
INSERT INTO firings (schedule, due_unix_ns, outcome, run_id, stage, detail, at_unix_ns)
VALUES ('nightly', 1699900000000000000, 'missed', NULL, NULL, 'the coordinator was not running', 1700000000000000000),
       ('nightly', 1700000000000000000, 'submitted', '01890a5d-ac96-774b-bcce-b302099a8057', 'judged', '',
        1700000000000000000);
