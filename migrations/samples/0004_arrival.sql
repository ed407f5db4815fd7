-- No table is new; the ones that were made anew still take rows.
INSERT INTO samples (run_id, cell_hash, epoch, repetition, started_at_unix_ns, tokenized_ns, prefill_start_ns, prefill_done_ns,
                     token_times, end_ns, prompt_tokens, prompt_digest, batch, output, load_ns, first_repetition_ns,
                     warmup_repetitions, peak_rss_bytes, threads, flags)
VALUES ('01890a5d-ac96-774b-bcce-b302099a8057', zeroblob(32), 1, 1, 1700000000000000000, 0, 1, 2, x'0300000000000000', 3, 8,
        zeroblob(32), 1, x'01000000', 5, 6, 4, NULL, 2, 'synthetic_weights');
INSERT INTO records (trial_id, epoch, seq, hash) VALUES ('01890a5d-ac96-774b-bcce-b302099a8057.t0', 1, 2, zeroblob(32));
