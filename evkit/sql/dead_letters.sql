-- Dead letters: what a group gave up on. Queries of the runtime first, those of the views below them.

-- name: park
-- A letter that fails again is the same letter with one more attempt: first_failed_at and letter_id stay.
INSERT INTO evkit.dead_letter (consumer_group, event_id, generation, event_type, topic, partition, "offset", leader_epoch,
                               appended_at, timestamp_type, key, raw_key, raw_value, header_names, header_values,
                               schema_version, created_at, handler, error_class, error_message, stack_trace, fingerprint,
                               code_version, first_failed_at, failed_at, retry_count, replay_id)
VALUES (%(group)s, %(event_id)s, %(generation)s, %(event_type)s, %(topic)s, %(partition)s, %(offset)s, %(leader_epoch)s,
        %(appended_at)s, %(timestamp_type)s, %(key)s, %(raw_key)s, %(raw_value)s, %(header_names)s::text[],
        %(header_values)s::bytea[], %(schema_version)s, %(created_at)s, %(handler)s, %(error_class)s, %(error_message)s,
        %(stack_trace)s, %(fingerprint)s, %(code_version)s,
        (SELECT coalesce(min(failed_at), clock_timestamp()) FROM evkit.attempt
          WHERE consumer_group = %(group)s AND event_id = %(event_id)s AND generation = %(generation)s),
        clock_timestamp(), %(retry_count)s, %(replay_id)s)
    ON CONFLICT (consumer_group, event_id, generation) DO UPDATE
   SET handler = EXCLUDED.handler, error_class = EXCLUDED.error_class, error_message = EXCLUDED.error_message,
       stack_trace = EXCLUDED.stack_trace, fingerprint = EXCLUDED.fingerprint, code_version = EXCLUDED.code_version,
       failed_at = EXCLUDED.failed_at, retry_count = dead_letter.retry_count + 1, state = 'open',
       state_before = NULL, state_changed_at = clock_timestamp(), replay_id = EXCLUDED.replay_id
RETURNING letter_id;

-- name: letters
-- Letters by filter, oldest first failure first. Every filter is optional; ids win over nothing else.
SELECT letter_id, consumer_group, event_id, generation, event_type, topic, partition, "offset", key, state, error_class,
       error_message, fingerprint, handler, code_version, schema_version, created_at, first_failed_at, failed_at,
       retry_count, note, replay_id, state_changed_at
  FROM evkit.dead_letter
 WHERE (%(ids)s::bigint[] IS NULL OR letter_id = ANY (%(ids)s::bigint[]))
   AND (%(group)s::text IS NULL OR consumer_group = %(group)s)
   AND (%(states)s::text[] IS NULL OR state = ANY (%(states)s::text[]))
   AND (%(topic)s::text IS NULL OR topic = %(topic)s)
   AND (%(event_type)s::text IS NULL OR event_type = %(event_type)s)
   AND (%(key)s::text IS NULL OR key = %(key)s)
   AND (%(fingerprint)s::text IS NULL OR fingerprint = %(fingerprint)s)
   AND (%(error_class)s::text IS NULL OR error_class = %(error_class)s)
 ORDER BY first_failed_at, letter_id
 LIMIT %(letters_max)s;

-- name: letter
-- One letter with the record as it was.
SELECT letter_id, consumer_group, event_id, generation, event_type, topic, partition, "offset", key, state, error_class,
       error_message, fingerprint, handler, code_version, schema_version, created_at, first_failed_at, failed_at,
       retry_count, note, replay_id, state_changed_at,
       leader_epoch, appended_at, timestamp_type, raw_key, raw_value, header_names, header_values, stack_trace
  FROM evkit.dead_letter
 WHERE letter_id = %s;

-- name: letter_to_redrive
-- Locked, so that two redrives of one letter do not run its handler twice; skipped when another has it.
SELECT event_id, generation, topic, partition, "offset", leader_epoch, appended_at, timestamp_type, raw_key, raw_value,
       header_names, header_values
  FROM evkit.dead_letter
 WHERE letter_id = %(letter_id)s AND consumer_group = %(group)s AND state = 'open'
   FOR UPDATE SKIP LOCKED;

-- name: attempts
SELECT attempt, failed_at, duration_seconds, handler, error_class, error_message, fingerprint, disposition, code_version,
       replay_id
  FROM evkit.attempt
 WHERE consumer_group = %(group)s AND event_id = %(event_id)s AND generation = %(generation)s
 ORDER BY attempt_id;

-- name: resolve
UPDATE evkit.dead_letter
   SET state = 'resolved', state_before = 'open', state_changed_at = clock_timestamp(), replay_id = %(replay_id)s
 WHERE letter_id = %(letter_id)s;

-- name: failed_again
UPDATE evkit.dead_letter
   SET handler = %(handler)s, error_class = %(error_class)s, error_message = %(error_message)s,
       stack_trace = %(stack_trace)s, fingerprint = %(fingerprint)s, code_version = %(code_version)s,
       failed_at = clock_timestamp(), retry_count = retry_count + 1
 WHERE letter_id = %(letter_id)s;

-- name: archive
-- Someone has decided: the letter is not open any more, and nothing is lost.
UPDATE evkit.dead_letter
   SET state_before = state, state = 'archived', state_changed_at = clock_timestamp(), note = coalesce(%(note)s, note)
 WHERE letter_id = ANY (%(ids)s::bigint[]) AND state = 'open'
RETURNING letter_id;

-- name: purge
-- Soft: out of sight, with the way back kept in state_before.
UPDATE evkit.dead_letter
   SET state_before = state, state = 'purged', state_changed_at = clock_timestamp(), note = coalesce(%(note)s, note)
 WHERE letter_id = ANY (%(ids)s::bigint[]) AND state IN ('open', 'resolved', 'archived')
RETURNING letter_id;

-- name: restore
UPDATE evkit.dead_letter
   SET state = coalesce(state_before, 'open'), state_before = NULL, state_changed_at = clock_timestamp()
 WHERE letter_id = ANY (%(ids)s::bigint[]) AND state IN ('archived', 'purged')
RETURNING letter_id;

-- name: groups
-- Equal failures together: how many letters, how many keys, since when. Many keys: the code or a dependency; few: the data.
SELECT consumer_group, fingerprint, min(error_class) AS error_class, min(error_message) AS error_message,
       min(handler) AS handler, count(*) AS letters, count(DISTINCT coalesce(key, '')) AS keys,
       min(first_failed_at) AS first_failed_at, max(failed_at) AS failed_at, min(letter_id) AS sample_letter_id
  FROM evkit.dead_letter
 WHERE state = ANY (%(states)s::text[]) AND (%(group)s::text IS NULL OR consumer_group = %(group)s)
 GROUP BY consumer_group, fingerprint
 ORDER BY letters DESC, first_failed_at;

-- name: known_ids
SELECT letter_id FROM evkit.dead_letter ORDER BY letter_id DESC LIMIT 1000;
