-- A cell as usual, one that is slower and was answered, a machine that moved, and a night that was taken out.
INSERT INTO verdicts (run_id, cell_hash, metric, machine, finding, direction, bears, since, sentence, evidence,
                      judged_at_unix_ns, answer, reason, answered_at_unix_ns)
VALUES ('01890a5d-ac96-774b-bcce-b302099a8057', zeroblob(32), 'prefill', 'host-a', 'steady', NULL, NULL, NULL,
        '+0.1 % against 12 nights, where up to 2.0 % is usual', '{"finding":"steady"}', 1700000000000000000, NULL, NULL, NULL),
       ('01890a5d-ac96-774b-bcce-b302099a8057', zeroblob(32), 'decode', 'host-a', 'slower', 'slower', 'changed',
        '01890a5d-ac96-774b-bcce-b302099a8057', 'slower by 5.0 %', '{"finding":"confirmed"}', 1700000000000000000,
        'expected', 'the new default is to check every token', 1700000050000000000);
INSERT INTO machine_events (run_id, machine, direction, confirmed, sentence, evidence, judged_at_unix_ns)
VALUES ('01890a5d-ac96-774b-bcce-b302099a8057', 'host-a', 'slower', 1, '9 of 10 cells slower by 5.0 %', '{}',
        1700000000000000000);
INSERT INTO excluded_nights (run_id, reason, excluded_at_unix_ns)
VALUES ('01890a5d-ac96-774b-bcce-b302099a8057', 'the fans were being replaced', 1700000060000000000);
