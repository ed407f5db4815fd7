-- Samples from before have none; new ones may.
INSERT INTO samples (run_id, cell_hash, epoch, repetition, started_at_unix_ns, tokenized_ns, prefill_start_ns, prefill_done_ns,
                     token_times, end_ns, prompt_tokens, prompt_digest, batch, output, load_ns, first_repetition_ns,
                     warmup_repetitions, peak_rss_bytes, threads, flags, telemetry)
VALUES ('01890a5d-ac96-774b-bcce-b302099a8057', zeroblob(32), 1, 2, 1700000000000000000, 0, 1, 2, x'0300000000000000', 3, 8,
        zeroblob(32), 1, x'01000000', 5, 6, 4, NULL, 2, 'busy_host',
        '{"window_ns":3,"readings":0,"load_by_others":0.75,"throttled_ns":{}}');
