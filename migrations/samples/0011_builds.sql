-- Two builds behind one lease, each with a cell.
INSERT INTO cells (run_id, cell_hash, ordinal, trial_id, agent_id, device, backend, model, weights, format, precision,
                   workload, generate, build)
VALUES ('01890a5d-ac96-774b-bcce-b302099a8057', randomblob(32), 110, '01890a5d-ac96-774b-bcce-b302099a8057.t0', 'host-a',
        'cpu', 'candle', 'tinyllama-1.1b', 'synthetic', 'safetensors', 'f32', '{}', 1, 'base'),
       ('01890a5d-ac96-774b-bcce-b302099a8057', randomblob(32), 111, '01890a5d-ac96-774b-bcce-b302099a8057.t0', 'host-a',
        'cpu', 'candle', 'tinyllama-1.1b', 'synthetic', 'safetensors', 'f32', '{}', 1, 'candidate');
INSERT INTO worker_facts (trial_id, epoch, build, worker, engine, load_ns, weight_bytes, artifact_digest)
VALUES ('01890a5d-ac96-774b-bcce-b302099a8057.t0', 1, 'base', '{}', 'candle 0.11', 1, 1, ''),
       ('01890a5d-ac96-774b-bcce-b302099a8057.t0', 1, 'candidate', '{}', 'candle 0.12', 1, 1, '');
