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

-- Queries of the views from here on; they only read.

-- name: view_letters
-- Longest waiting first. Age counts from the first failure, so that retries and redrives cannot make a letter young.
SELECT letter_id, consumer_group AS "group", state, event_type, event_id, key, topic, partition, "offset", handler,
       error_class, error_message, fingerprint, retry_count, created_at, first_failed_at, failed_at,
       extract(epoch FROM clock_timestamp() - first_failed_at)::float8 AS age_seconds, state_changed_at, note,
       code_version, schema_version, octet_length(raw_value)::bigint AS value_bytes,
       generation > 0 OR (replay_id IS NOT NULL AND state = 'open') AS replay, replay_id
  FROM evkit.dead_letter
 WHERE (%(group)s::text IS NULL OR consumer_group = %(group)s)
   AND (%(states)s::text[] IS NULL OR state = ANY (%(states)s::text[]))
   AND (%(since)s::timestamptz IS NULL OR first_failed_at >= %(since)s)
   AND (%(until)s::timestamptz IS NULL OR first_failed_at < %(until)s)
 ORDER BY first_failed_at, letter_id
 LIMIT %(rows_max)s;

-- name: view_payloads
-- What the letters of these ids held, for those who asked for it.
SELECT letter_id, raw_value, header_names, header_values, stack_trace
  FROM evkit.dead_letter
 WHERE letter_id = ANY (%(ids)s::bigint[]);

-- name: view_groups
-- Equal failures together. Keys are counted among the open letters, so that what was decided no longer blurs the picture.
WITH letter AS (
    SELECT *, state IN ('open', 'retrying') AS is_open,
           bool_or(state IN ('open', 'retrying')) OVER (PARTITION BY consumer_group, fingerprint) AS any_open
      FROM evkit.dead_letter
     WHERE %(group)s::text IS NULL OR consumer_group = %(group)s
), folded AS (
    SELECT consumer_group, fingerprint,
           (array_agg(error_class ORDER BY is_open DESC, letter_id DESC))[1] AS error_class,
           (array_agg(error_message ORDER BY is_open DESC, letter_id DESC))[1] AS error_message,
           (array_agg(handler ORDER BY is_open DESC, letter_id DESC))[1] AS handler,
           (array_agg(letter_id ORDER BY is_open DESC, letter_id DESC))[1] AS sample_letter_id,
           count(*) FILTER (WHERE is_open) AS n_open,
           count(*) FILTER (WHERE first_failed_at >= %(since)s AND first_failed_at < %(until)s) AS n_new,
           count(*) FILTER (WHERE state = 'resolved') AS n_resolved,
           count(*) FILTER (WHERE state IN ('archived', 'purged')) AS n_archived,
           count(DISTINCT coalesce(key, '')) FILTER (WHERE is_open = any_open) AS n_keys,
           count(DISTINCT event_type) FILTER (WHERE is_open = any_open) AS n_event_types,
           min(first_failed_at) AS first_seen_at, max(failed_at) AS last_seen_at,
           extract(epoch FROM clock_timestamp() - min(first_failed_at) FILTER (WHERE is_open))::float8
               AS oldest_open_seconds,
           bool_or(generation > 0) AS replay
      FROM letter
     GROUP BY consumer_group, fingerprint
)
SELECT consumer_group AS "group", fingerprint, error_class || coalesce(' in ' || handler, '') AS title, error_class,
       error_message, handler, n_open, n_new, n_resolved, n_archived, n_keys, n_event_types, first_seen_at, last_seen_at,
       oldest_open_seconds, sample_letter_id,
       CASE WHEN n_keys <= %(poison_keys_max)s THEN 'poison' ELSE 'systemic' END AS spread, replay
  FROM folded
 ORDER BY n_open DESC, last_seen_at DESC, "group", fingerprint;

-- name: view_count
-- Groups that have letters, and groups that have none but are known: 0 is a measurement.
SELECT g.consumer_group AS "group",
       count(l.*) FILTER (WHERE l.state IN ('open', 'retrying')) AS open,
       count(l.*) FILTER (WHERE l.first_failed_at >= %(since)s AND l.first_failed_at < %(until)s) AS new,
       count(l.*) FILTER (WHERE l.state = 'resolved' AND l.state_changed_at >= %(since)s
                            AND l.state_changed_at < %(until)s) AS resolved,
       count(l.*) FILTER (WHERE l.state IN ('archived', 'purged') AND l.state_changed_at >= %(since)s
                            AND l.state_changed_at < %(until)s) AS archived,
       count(DISTINCT l.fingerprint) FILTER (WHERE l.state IN ('open', 'retrying')) AS fingerprints,
       count(DISTINCT coalesce(l.key, '')) FILTER (WHERE l.state IN ('open', 'retrying')) AS keys,
       extract(epoch FROM clock_timestamp() - min(l.first_failed_at) FILTER (WHERE l.state IN ('open', 'retrying')))::float8
           AS oldest_open_seconds,
       count(l.*) FILTER (WHERE l.state IN ('open', 'retrying') AND (l.generation > 0 OR l.replay_id IS NOT NULL))
           AS from_replays
  FROM unnest(%(groups)s::text[]) AS g (consumer_group)
  LEFT JOIN evkit.dead_letter l USING (consumer_group)
 GROUP BY g.consumer_group
 ORDER BY open DESC, "group";
