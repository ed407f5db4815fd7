-- A group of two, one of them in a pool; a quarantined trial; an agent out of service.
INSERT INTO runs (id, name, state, bundle, policy, created_at_unix_ns, priority, retry_of)
VALUES ('01890a5d-ac96-774b-bcce-b302099a8058', 'scaling', 'active', '{}', '{}', 1700000000000000000, -100,
        '01890a5d-ac96-774b-bcce-b302099a8057');
INSERT INTO trials (id, run_id, ordinal, agent_id, device, backend, model, weights, format, precision, state, epoch, attempts,
                    group_id, replicas, replica, pool, work)
VALUES ('01890a5d-ac96-774b-bcce-b302099a8058.t0', '01890a5d-ac96-774b-bcce-b302099a8058', 0, 'host-a', 'cuda:0', 'candle',
        'tinyllama-1.1b', 'synthetic', 'safetensors', 'f32', 'running', 1, 1, '01890a5d-ac96-774b-bcce-b302099a8058.t0', 2, 0,
        NULL, lower(hex(zeroblob(32)))),
       ('01890a5d-ac96-774b-bcce-b302099a8058.t1', '01890a5d-ac96-774b-bcce-b302099a8058', 1, 'host-a', 'cuda:1', 'candle',
        'tinyllama-1.1b', 'synthetic', 'safetensors', 'f32', 'queued', 1, 1, '01890a5d-ac96-774b-bcce-b302099a8058.t0', 2, 1,
        '[["host-a","cuda:0"],["host-a","cuda:1"]]', NULL);
INSERT INTO trials (id, run_id, ordinal, agent_id, device, backend, model, weights, format, precision, state, epoch, attempts,
                    evidence)
VALUES ('01890a5d-ac96-774b-bcce-b302099a8058.t2', '01890a5d-ac96-774b-bcce-b302099a8058', 2, 'host-a', 'cuda:0', 'candle',
        'tinyllama-1.1b', 'synthetic', 'safetensors', 'f16', 'failed', 1, 1,
        '[{"epoch":1,"agent":"host-a","device":"cuda:0","reason":"agent was lost"}]');
INSERT INTO cells (run_id, cell_hash, ordinal, trial_id, agent_id, device, backend, model, weights, format, precision,
                   workload, generate, replica, said)
VALUES ('01890a5d-ac96-774b-bcce-b302099a8058', zeroblob(32), 0, '01890a5d-ac96-774b-bcce-b302099a8058.t1', 'host-a', 'cuda:1',
        'candle', 'tinyllama-1.1b', 'synthetic', 'safetensors', 'f32', '{}', 1, 1, '{"epoch":1,"state":"ok"}');
INSERT INTO deliveries (trial_id, epoch, boot_id, leased_at_unix_ns, last_seq, agent_id, device, failure, took_ns)
VALUES ('01890a5d-ac96-774b-bcce-b302099a8058.t2', 1, 'boot', 1700000000000000000, 0, 'host-a', 'cuda:0', 'agent was lost', 5);
INSERT INTO agents (id, boot_id, version, host, workers, first_seen_at_unix_ns, last_seen_at_unix_ns, labels, service,
                    service_reason)
VALUES ('host-b', 'boot', '0.1.0', '{}', '[]', 1700000000000000000, 1700000000000000000, '{"zone":"lab"}', 'quarantined',
        '3 failures in a row');
INSERT INTO barriers (group_id, epoch, cell_hash, repetition, replicas, skew_ns, released_at_unix_ns)
VALUES ('01890a5d-ac96-774b-bcce-b302099a8058.t0', 1, zeroblob(32), 0, 2, 12000, 1700000000000000000);
