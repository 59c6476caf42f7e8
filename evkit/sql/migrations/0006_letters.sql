-- What people say about a letter, and letters that are on hold or were edited; and lists and groups of a million letters
-- within a second.

ALTER TABLE evkit.dead_letter
  ADD COLUMN ticket text,
  ADD COLUMN assignee text,
  ADD COLUMN held_at timestamptz,
  ADD COLUMN hold_reason text,
  ADD COLUMN edited_from bigint,
  ADD COLUMN replaced_by bigint,
  ADD COLUMN edit jsonb,
  ADD COLUMN key_hash bigint NOT NULL GENERATED ALWAYS AS (hashtextextended(coalesce(key, ''), 0)) STORED,
  ADD COLUMN event_type_hash bigint NOT NULL GENERATED ALWAYS AS (hashtextextended(event_type, 0)) STORED,
  ADD COLUMN error_class_hash bigint NOT NULL GENERATED ALWAYS AS (hashtextextended(error_class, 0)) STORED;

CREATE INDEX dead_letter_list ON evkit.dead_letter (first_failed_at, letter_id)
  INCLUDE (state, consumer_group, topic, fingerprint, retry_count, held_at, key_hash, event_type_hash, error_class_hash);
CREATE INDEX dead_letter_groups ON evkit.dead_letter (state, consumer_group, fingerprint, event_type_hash, key_hash)
  INCLUDE (letter_id, first_failed_at, failed_at, state_changed_at, generation);
