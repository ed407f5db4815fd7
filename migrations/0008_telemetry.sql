-- What the surroundings of a repetition were like, as its agent saw them: one summary, made where the readings were taken.
--
-- JSON of Telemetry. What no source told is not in it; NULL where nobody watched. It is one text because it is read as a
-- whole and never searched, and because what there is to be told differs from machine to machine.

ALTER TABLE samples ADD COLUMN telemetry TEXT CHECK (telemetry IS NULL OR json_valid(telemetry));
