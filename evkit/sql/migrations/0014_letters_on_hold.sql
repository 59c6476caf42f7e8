-- Letters on hold leave the verdict on their failure: they are few, and counted beside the index that has all letters.

CREATE INDEX dead_letter_held ON evkit.dead_letter (consumer_group, fingerprint) INCLUDE (state) WHERE held_at IS NOT NULL;
