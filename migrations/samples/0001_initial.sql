-- One row at least in every table, so that later migrations are tried on tables that hold data.
INSERT INTO runs (id, name, state, bundle, policy, created_at_unix_ns)
VALUES ('01890a5d-ac96-774b-bcce-b302099a8057', 'demo', 'active', '{}', '{}', 1700000000000000000);
INSERT INTO run_devices (run_id, agent_id, device, facts, agent_version, host)
VALUES ('01890a5d-ac96-774b-bcce-b302099a8057', 'host-a', 'cpu', '{}', '0.1.0', '{"os":"linux"}');
INSERT INTO trials (id, run_id, ordinal, agent_id, device, backend, model, weights, format, precision, state, epoch, attempts)
VALUES ('01890a5d-ac96-774b-bcce-b302099a8057.t0', '01890a5d-ac96-774b-bcce-b302099a8057', 0, 'host-a', 'cpu', 'candle',
        'tinyllama-1.1b', 'synthetic', 'safetensors', 'f32', 'running', 1, 1);
INSERT INTO cells (run_id, cell_hash, ordinal, trial_id, agent_id, device, backend, model, weights, format, precision,
                   workload, generate)
VALUES ('01890a5d-ac96-774b-bcce-b302099a8057', zeroblob(32), 0, '01890a5d-ac96-774b-bcce-b302099a8057.t0', 'host-a', 'cpu',
        'candle', 'tinyllama-1.1b', 'synthetic', 'safetensors', 'f32', '{}', 1);
INSERT INTO cells (run_id, cell_hash, ordinal, agent_id, device, backend, model, weights, format, precision, workload,
                   generate, state, detail, ended_epoch, ended_at_unix_ns)
VALUES ('01890a5d-ac96-774b-bcce-b302099a8057', randomblob(32), 1, 'host-a', 'cpu', 'candle', 'tinyllama-1.1b', 'synthetic',
        'safetensors', 'f16', '{}', 1, 'skipped', 'no worker', 0, 1700000000000000000);
INSERT INTO samples (run_id, cell_hash, epoch, repetition, started_at_unix_ns, tokenized_ns, prefill_start_ns, prefill_done_ns,
                     token_times, end_ns, prompt_tokens, prompt_digest, batch, output, load_ns, first_repetition_ns,
                     warmup_repetitions, peak_rss_bytes, threads, flags)
VALUES ('01890a5d-ac96-774b-bcce-b302099a8057', zeroblob(32), 1, 0, 1700000000000000000, 0, 1, 2, x'0300000000000000', 3, 8,
        zeroblob(32), 1, x'01000000', 5, 6, 4, NULL, 2, 'synthetic_weights');
INSERT INTO deliveries (trial_id, epoch, boot_id, leased_at_unix_ns, last_seq)
VALUES ('01890a5d-ac96-774b-bcce-b302099a8057.t0', 1, 'boot', 1700000000000000000, 1);
INSERT INTO records (trial_id, epoch, seq, hash, bytes)
VALUES ('01890a5d-ac96-774b-bcce-b302099a8057.t0', 1, 1, zeroblob(32), x'00');
INSERT INTO record_conflicts (trial_id, epoch, seq, hash, bytes, received_at_unix_ns)
VALUES ('01890a5d-ac96-774b-bcce-b302099a8057.t0', 1, 1, zeroblob(32), x'01', 1700000000000000000);
INSERT INTO rejected_samples (trial_id, epoch, seq, run_id, reason, bytes, received_at_unix_ns)
VALUES ('01890a5d-ac96-774b-bcce-b302099a8057.t0', 1, 1, '01890a5d-ac96-774b-bcce-b302099a8057', 'batch is 0', x'00',
        1700000000000000000);
INSERT INTO worker_facts (trial_id, epoch, worker, engine, load_ns, weight_bytes, artifact_digest)
VALUES ('01890a5d-ac96-774b-bcce-b302099a8057.t0', 1, '{}', 'candle 0.11', 1, 1, '');
INSERT INTO agents (id, boot_id, version, host, workers, first_seen_at_unix_ns, last_seen_at_unix_ns)
VALUES ('host-a', 'boot', '0.1.0', '{}', '[]', 1700000000000000000, 1700000000000000000);
INSERT INTO devices (agent_id, device, name, memory_bytes, cores, backends)
VALUES ('host-a', 'cpu', 'a processor', 1, 2, '["candle"]');
INSERT INTO events (at_unix_ns, kind, run_id, detail)
VALUES (1700000000000000000, 'run_submitted', '01890a5d-ac96-774b-bcce-b302099a8057', '');
