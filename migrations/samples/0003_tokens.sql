INSERT INTO tokens (id, role, name, digest, created_at_unix_ns, expires_at_unix_ns, revoked_at_unix_ns) VALUES
    ('00112233445566aa', 'agent', 'gpu-07', zeroblob(32), 1, NULL, NULL),
    ('00112233445566bb', 'submitter', 'ci', zeroblob(32), 1, 5, NULL),
    ('00112233445566cc', 'viewer', 'board', zeroblob(32), 1, NULL, 3);
