-- What a device is and what tells it from others, whatever number it has.

-- JSON of DeviceFacts; empty for those of agents that tell nothing of it.
ALTER TABLE devices ADD COLUMN facts TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(facts));
