-- The worker that is known from the first sample data gets its circumstances.
INSERT INTO fingerprints (hash, parts) VALUES (zeroblob(32), '{"device":"AMD EPYC","machine":"host-a","method":"2"}');
UPDATE worker_facts SET fingerprint = zeroblob(32);
