-- A prompt with nothing after it, measured by one process; and steps that follow no prompt, by seven.
INSERT INTO cells (run_id, cell_hash, ordinal, trial_id, agent_id, device, backend, model, weights, format, precision,
                   workload, generate, state, ended_epoch, ended_at_unix_ns, passes, stop_reason)
VALUES ('01890a5d-ac96-774b-bcce-b302099a8057', randomblob(32), 100, '01890a5d-ac96-774b-bcce-b302099a8057.t0', 'host-a',
        'cpu', 'candle', 'tinyllama-1.1b', 'synthetic', 'safetensors', 'f32', '{}', 0, 'ok', 1, 1700000000000000000, 1,
        'fixed'),
       ('01890a5d-ac96-774b-bcce-b302099a8057', randomblob(32), 101, '01890a5d-ac96-774b-bcce-b302099a8057.t0', 'host-a',
        'cpu', 'candle', 'tinyllama-1.1b', 'synthetic', 'safetensors', 'f32', '{}', 1, 'ok', 1, 1700000000000000000, 7,
        'precise');
INSERT INTO samples (run_id, cell_hash, epoch, repetition, started_at_unix_ns, tokenized_ns, prefill_start_ns, prefill_done_ns,
                     token_times, end_ns, prompt_tokens, prompt_digest, batch, output, load_ns, first_repetition_ns,
                     warmup_repetitions, peak_rss_bytes, threads, flags)
SELECT run_id, cell_hash, 1, 0, 1700000000000000000, 0, 1, 2, x'', 3, 8, zeroblob(32), 1, x'', 5, 6, 4, NULL, 2, ''
FROM cells WHERE ordinal = 100;
INSERT INTO samples (run_id, cell_hash, epoch, repetition, started_at_unix_ns, tokenized_ns, prefill_start_ns, prefill_done_ns,
                     token_times, end_ns, prompt_tokens, prompt_digest, batch, output, load_ns, first_repetition_ns,
                     warmup_repetitions, peak_rss_bytes, threads, flags)
SELECT run_id, cell_hash, 1, 0, 1700000000000000000, 0, 1, 1, x'0300000000000000', 3, 0, zeroblob(32), 1, x'', 5, 6, 4, NULL,
       2, ''
FROM cells WHERE ordinal = 101;
