-- A device that something tells from others.
INSERT INTO devices (agent_id, device, name, memory_bytes, cores, backends, facts)
VALUES ('host-a', 'cuda:1', 'NVIDIA H200', 151397597184, NULL, '["candle"]', '{"stable_id":"GPU-4b5e","architecture":"sm_90"}');
