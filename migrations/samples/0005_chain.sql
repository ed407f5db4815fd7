-- The chain of a lease goes on behind what was brought along.
INSERT INTO arrivals (id, trial_id, epoch, first_seq, hashes, before)
VALUES (1000, '01890a5d-ac96-774b-bcce-b302099a8057.t0', 1, 3, zeroblob(64), 2);
UPDATE deliveries SET last_arrival = 1000 WHERE trial_id = '01890a5d-ac96-774b-bcce-b302099a8057.t0' AND epoch = 1;
