-- A processor that was measured twice, a GPU without a figure for reads, and a file of two rows.
INSERT INTO canaries (agent_id, device, measured_at_unix_ns, received_at_unix_ns, device_name, read_bytes_per_s, f32_flops,
                      reading)
VALUES ('host-a', 'cpu', 1700000000000000000, 1700000000500000000, 'AMD EPYC', 2.1e10, 9.0e10,
        '{"version":1,"engine":"candle 0.11.0","threads":2,"buffer_bytes":1073741824,"cache_bytes":33554432,
          "read_bytes_per_s":2.1e10,"mixed_bytes_per_s":1.6e10,"flops":{"f32":9.0e10},"launch_ns":null}'),
       ('host-a', 'cpu', 1700086400000000000, 1700086400500000000, 'AMD EPYC', 1.1e10, 4.5e10,
        '{"version":1,"engine":"candle 0.11.0","threads":2,"buffer_bytes":1073741824,"cache_bytes":33554432,
          "read_bytes_per_s":1.1e10,"mixed_bytes_per_s":0.9e10,"flops":{"f32":4.5e10},"launch_ns":null}'),
       ('host-a', 'cuda:0', 1700000000000000000, 1700000000500000000, 'NVIDIA H100 80GB HBM3', NULL, 5.0e13,
        '{"version":1,"engine":"candle 0.11.0","threads":1,"buffer_bytes":4294967296,"cache_bytes":null,
          "read_bytes_per_s":null,"mixed_bytes_per_s":2.9e12,"flops":{"f32":5.0e13,"f16":6.0e14},"launch_ns":9000}');
INSERT INTO imports (id, tool, file, digest, imported_at_unix_ns)
VALUES ('01890a5d-ac96-774b-bcce-b302099a8060', 'llama-bench', 'h200.jsonl', zeroblob(32), 1700000000000000000);
INSERT INTO imported_rows (import_id, ordinal, row)
VALUES ('01890a5d-ac96-774b-bcce-b302099a8060', 0, '{"n_prompt":512,"n_gen":0,"avg_ts":4321.0}'),
       ('01890a5d-ac96-774b-bcce-b302099a8060', 1, '{"n_prompt":0,"n_gen":128,"avg_ts":98.7,"of_tomorrow":[1]}');
