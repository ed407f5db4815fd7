-- A run that is pinned, and two that are gone: one of them not quite yet.
INSERT INTO pins (run_id, reason, pinned_at_unix_ns)
VALUES ('01890a5d-ac96-774b-bcce-b302099a8057', 'the release', 1700000000000000000);
INSERT INTO pruned_runs (run_id, name, created_at_unix_ns, pruned_at_unix_ns, samples_left)
VALUES ('01880000-0000-7000-8000-000000000001', 'demo', 1690000000000000000, 1700000000000000000, 0),
       ('01880000-0000-7000-8000-000000000002', 'demo', 1690000000000000000, 1700000000000000000, 1);
