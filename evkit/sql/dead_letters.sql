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

-- part: running
ARRAY (SELECT r.redrive_id FROM evkit.redrive_run r WHERE r.state = 'running' AND
-- include: somebody_runs_it
      )

-- part: in_a_redrive
SELECT x.letter_id FROM evkit.redrive_letter x WHERE x.state = 'waiting' AND x.redrive_id = ANY (
-- include: running
)

-- part: state_now
-- Nobody writes `retrying`: it is an open letter that a running redrive is still to try.
CASE WHEN l.state = 'open' AND EXISTS (
          SELECT FROM evkit.redrive_letter x WHERE x.letter_id = l.letter_id AND x.state = 'waiting' AND x.redrive_id = ANY (
-- include: running
          ))
     THEN 'retrying' ELSE l.state END AS state

-- part: chosen
-- Letters by filter, oldest first failure first; every filter is optional. Which they are is read from the index
-- dead_letter_list alone, whatever the filter: it has all that a filter asks for, long texts as hashes (only "text" is
-- looked for in the letters themselves). What they say is read of those few. Hashes that collide are sorted out at the end.
WITH chosen AS MATERIALIZED (
  SELECT letter_id FROM evkit.dead_letter
   WHERE (%(ids)s::bigint[] IS NULL OR letter_id = ANY (%(ids)s::bigint[]))
     AND (%(group)s::text IS NULL OR consumer_group = %(group)s)
     AND (%(states)s::text[] IS NULL OR state = ANY (%(states)s::text[]))
     AND (%(retrying)s::boolean IS NULL OR state <> 'open' OR letter_id IN (
-- include: in_a_redrive
         ))
     AND (%(topic)s::text IS NULL OR topic = %(topic)s)
     AND (%(event_type)s::text IS NULL OR event_type_hash = hashtextextended(%(event_type)s::text, 0))
     AND (%(key)s::text IS NULL OR key_hash = hashtextextended(%(key)s::text, 0))
     AND (%(fingerprint)s::text IS NULL OR fingerprint = %(fingerprint)s)
     AND (%(error_class)s::text IS NULL OR error_class_hash = hashtextextended(%(error_class)s::text, 0))
     AND (%(since)s::timestamptz IS NULL OR first_failed_at >= %(since)s)
     AND (%(until)s::timestamptz IS NULL OR first_failed_at < %(until)s)
     AND (%(attempts_min)s::bigint IS NULL OR retry_count + 1 >= %(attempts_min)s)
     AND (%(attempts_max)s::bigint IS NULL OR retry_count + 1 <= %(attempts_max)s)
     AND (%(held)s::boolean IS NULL OR (held_at IS NOT NULL) = %(held)s)
     AND (%(text)s::text IS NULL
          OR position(lower(%(text)s::text) IN lower(concat_ws(' ', error_class, error_message, note, ticket))) > 0
          OR position(convert_to(%(text)s::text, 'UTF8') IN coalesce(raw_value, '')) > 0)
   ORDER BY first_failed_at, letter_id
   LIMIT %(letters_max)s
)

-- part: of_the_chosen
  FROM chosen JOIN evkit.dead_letter l USING (letter_id)
 WHERE (%(key)s::text IS NULL OR coalesce(l.key, '') = %(key)s) AND (%(event_type)s::text IS NULL OR l.event_type = %(event_type)s)
   AND (%(error_class)s::text IS NULL OR l.error_class = %(error_class)s)
 ORDER BY l.first_failed_at, l.letter_id

-- name: letters
-- Letters by filter, oldest first failure first; every filter is optional.
-- include: chosen
SELECT letter_id, consumer_group, event_id, generation, event_type, topic, partition, "offset", key,
-- include: state_now
     , error_class,
       error_message, fingerprint, handler, code_version, schema_version, created_at, first_failed_at, failed_at,
       retry_count, note, replay_id, state_changed_at, ticket, assignee, held_at, hold_reason, edited_from, replaced_by,
       source_dialect, source_topic, source_partition, source_offset
-- include: of_the_chosen

-- name: letter_ids
-- The same letters, as nothing but their ids.
-- include: chosen
SELECT letter_id
-- include: of_the_chosen

-- name: records
-- The same letters, with the records as they were: for export, by a cursor.
-- include: chosen
SELECT letter_id, consumer_group, event_id, generation, event_type, topic, partition, "offset", key,
-- include: state_now
     , error_class,
       error_message, fingerprint, handler, code_version, schema_version, created_at, first_failed_at, failed_at,
       retry_count, note, replay_id, state_changed_at, ticket, assignee, held_at, hold_reason, edited_from, replaced_by,
       source_dialect, source_topic, source_partition, source_offset,
       leader_epoch, appended_at, timestamp_type, raw_key, raw_value, header_names, header_values, stack_trace, source_facts
-- include: of_the_chosen

-- name: letter
-- One letter with the record as it was.
SELECT letter_id, consumer_group, event_id, generation, event_type, topic, partition, "offset", key,
-- include: state_now
     , error_class,
       error_message, fingerprint, handler, code_version, schema_version, created_at, first_failed_at, failed_at,
       retry_count, note, replay_id, state_changed_at, ticket, assignee, held_at, hold_reason, edited_from, replaced_by,
       source_dialect, source_topic, source_partition, source_offset,
       edit, leader_epoch, appended_at, timestamp_type, raw_key, raw_value, header_names, header_values, stack_trace,
       source_facts
  FROM evkit.dead_letter l
 WHERE letter_id = %s;

-- name: attempts
SELECT attempt, failed_at, duration_seconds, handler, error_class, error_message, fingerprint, disposition, code_version,
       replay_id
  FROM evkit.attempt
 WHERE consumer_group = %(group)s AND event_id = %(event_id)s AND generation = %(generation)s
 ORDER BY attempt_id;

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

-- name: hold
UPDATE evkit.dead_letter SET held_at = clock_timestamp(), hold_reason = %(note)s
 WHERE letter_id = ANY (%(ids)s::bigint[]) AND state IN ('open', 'retrying') AND held_at IS NULL
RETURNING letter_id;

-- name: unhold
UPDATE evkit.dead_letter SET held_at = NULL, hold_reason = NULL
 WHERE letter_id = ANY (%(ids)s::bigint[]) AND held_at IS NOT NULL
RETURNING letter_id;

-- name: annotate
-- What is NULL stays as it is; '' takes it away.
UPDATE evkit.dead_letter
   SET note = nullif(coalesce(%(note)s, note), ''), ticket = nullif(coalesce(%(ticket)s, ticket), ''),
       assignee = nullif(coalesce(%(assignee)s, assignee), '')
 WHERE letter_id = ANY (%(ids)s::bigint[])
RETURNING letter_id;

-- name: known
SELECT letter_id FROM evkit.dead_letter WHERE letter_id = ANY (%(ids)s::bigint[]);

-- name: expired
-- Purged letters whose time to be restored is over; and whether a key is parked behind them, which must not lose its letter.
SELECT letter_id, EXISTS (SELECT FROM evkit.parked_key p WHERE p.letter_id = l.letter_id) AS waited_for
  FROM evkit.dead_letter l
 WHERE state = 'purged' AND state_changed_at < clock_timestamp() - %(older_than)s::interval
 ORDER BY letter_id;

-- name: delete
-- For good. What has become of them meanwhile counts: a restored letter is not deleted, nor one that events wait behind. Of an
-- imported one stays which record it was, or the next import would bring it back.
WITH gone AS (
    DELETE FROM evkit.dead_letter l
     WHERE letter_id = ANY (%(ids)s::bigint[]) AND state = 'purged'
       AND state_changed_at < clock_timestamp() - %(older_than)s::interval
       AND NOT EXISTS (SELECT FROM evkit.parked_key p WHERE p.letter_id = l.letter_id)
    RETURNING letter_id, source_topic, source_topic_id, source_partition, source_offset, consumer_group, event_id
), remembered AS (
    INSERT INTO evkit.deleted_import (source_topic, source_topic_id, source_partition, source_offset, consumer_group, event_id)
    SELECT source_topic, source_topic_id, source_partition, source_offset, consumer_group, event_id
      FROM gone WHERE source_topic IS NOT NULL
        ON CONFLICT DO NOTHING
)
SELECT letter_id FROM gone;

-- name: last_good
-- The newest event of a type that a group has handled, among the newest rows of the inbox: a type that never was would else
-- read all of it. Of a record that is no event the type is not known; then one of its topic.
SELECT event_id, event_type, topic, partition, "offset", processed_at
  FROM (SELECT * FROM evkit.inbox ORDER BY processed_at DESC LIMIT %(rows_max)s) AS i
 WHERE consumer_group = %(group)s AND outcome = 'handled' AND event_id <> %(event_id)s
   AND CASE WHEN %(event_type)s = '(unknown)' THEN topic = %(topic)s ELSE event_type = %(event_type)s END
 ORDER BY processed_at DESC LIMIT 1;

-- name: written_payload
SELECT convert_to(payload::text, 'UTF8') FROM evkit.outbox WHERE id = %(event_id)s LIMIT 1;

-- name: behind
-- What waits behind a letter, in order.
SELECT e.event_id, e.event_type, e."offset", e.parked_at
  FROM evkit.parked_key p JOIN evkit.parked e USING (consumer_group, topic, raw_key)
 WHERE p.letter_id = %(letter_id)s ORDER BY e.parked_id LIMIT %(events_max)s;

-- name: events_behind
SELECT coalesce(sum(events), 0)::bigint AS events FROM evkit.parked_key WHERE letter_id = %(letter_id)s;

-- name: inbox_outcome
SELECT outcome FROM evkit.inbox
 WHERE consumer_group = %(group)s AND event_id = %(event_id)s AND generation = %(generation)s;

-- name: lock_letter
SELECT state FROM evkit.dead_letter WHERE letter_id = %(letter_id)s FOR UPDATE;

-- name: settle_edited
-- The event before the edit (or before it was sent to a topic as another) is dealt with, and will not be handled. One that
-- is handled already is neither edited nor sent.
UPDATE evkit.inbox SET outcome = 'skipped'
 WHERE consumer_group = %(group)s AND event_id = %(event_id)s AND generation = %(generation)s AND outcome = 'dead';

-- name: edited_letter
-- The letter of the edited event: it failed when the other did, it runs in its place, and it is as old.
INSERT INTO evkit.dead_letter (consumer_group, event_id, generation, event_type, topic, partition, "offset", leader_epoch,
                               appended_at, timestamp_type, key, raw_key, raw_value, header_names, header_values,
                               schema_version, created_at, handler, error_class, error_message, stack_trace, fingerprint,
                               code_version, first_failed_at, failed_at, retry_count, replay_id, note, ticket, assignee,
                               edited_from, edit)
SELECT consumer_group, %(new_event_id)s, generation, %(event_type)s, topic, partition, "offset", leader_epoch, appended_at,
       timestamp_type, key, raw_key, %(raw_value)s, %(header_names)s::text[], %(header_values)s::bytea[], schema_version,
       created_at, handler, error_class, error_message, stack_trace, fingerprint, code_version, first_failed_at, failed_at,
       retry_count, replay_id, note, ticket, assignee, letter_id, %(edit)s
  FROM evkit.dead_letter WHERE letter_id = %(letter_id)s
RETURNING letter_id;

-- name: edited_inbox_row
-- Dead, so that a redrive handles it as any other. It is no event of the topic: whoever counts those leaves out the events of
-- letters with edited_from.
INSERT INTO evkit.inbox (consumer_group, event_id, generation, event_type, topic, partition, "offset", key, outcome, attempts,
                         created_at, appended_at, received_at, processed_at, payload_crc32, handler, code_version)
SELECT consumer_group, %(new_event_id)s, generation, %(event_type)s, topic, partition, "offset", key, 'dead', attempts,
       created_at, appended_at, received_at, processed_at, %(payload_crc32)s, handler, code_version
  FROM evkit.inbox
 WHERE consumer_group = %(group)s AND event_id = %(event_id)s AND generation = %(generation)s;

-- name: replace
UPDATE evkit.dead_letter
   SET state = 'resolved', state_before = 'open', state_changed_at = clock_timestamp(), replaced_by = %(new_letter_id)s,
       held_at = NULL, hold_reason = NULL
 WHERE letter_id = %(letter_id)s;

-- name: wait_behind
-- What waited behind the one waits behind the other.
UPDATE evkit.parked_key SET letter_id = %(new_letter_id)s WHERE letter_id = %(letter_id)s;

-- name: groups
-- Equal failures together. Counted (keys, types, the sample) are the open letters where there are any, else all of the asked
-- states, so that what was decided no longer blurs the picture. One pass over the index dead_letter_groups has all numbers:
-- its order is that of the groups and of the keys in them, so nothing is sorted. Only where a failure has letters of several
-- types, or in several states, its keys are counted once more, over all of these. Texts come from the letters of the groups
-- that are shown.
WITH part AS MATERIALIZED (
    SELECT consumer_group, fingerprint, state, event_type_hash, state IN ('open', 'retrying') AS is_open, count(*) AS letters,
           count(DISTINCT key_hash) AS keys,
           count(*) FILTER (WHERE first_failed_at >= %(since)s::timestamptz AND first_failed_at < %(until)s::timestamptz) AS new,
           count(*) FILTER (WHERE failed_at >= statement_timestamp() - interval '5 minutes') AS lately,
           min(first_failed_at) AS first_first, max(first_failed_at) AS last_first, max(failed_at) AS last_seen,
           min(letter_id) AS first_id, max(letter_id) AS last_id, max(generation) AS generation
      FROM evkit.dead_letter
     WHERE state = ANY (%(states)s::text[]) AND (%(group)s::text IS NULL OR consumer_group = %(group)s)
       AND (%(retrying)s::boolean IS NULL OR state <> 'open' OR letter_id IN (
-- include: in_a_redrive
           ))
     GROUP BY state, consumer_group, fingerprint, event_type_hash
), counted AS (
    SELECT *, is_open OR NOT bool_or(is_open) OVER (PARTITION BY consumer_group, fingerprint) AS counts FROM part
), folded AS (
    SELECT consumer_group, fingerprint, sum(letters)::bigint AS n_letters,
           coalesce(sum(letters) FILTER (WHERE is_open), 0)::bigint AS n_open, sum(new)::bigint AS n_new,
           coalesce(sum(letters) FILTER (WHERE state = 'resolved'), 0)::bigint AS n_resolved,
           coalesce(sum(letters) FILTER (WHERE state IN ('archived', 'purged')), 0)::bigint AS n_archived,
           max(keys) FILTER (WHERE counts) AS keys, count(*) FILTER (WHERE counts) AS parts,
           array_agg(DISTINCT state) FILTER (WHERE counts) AS states,
           count(DISTINCT event_type_hash) FILTER (WHERE counts) AS n_event_types,
           min(first_first) AS first_seen_at, max(last_seen) AS last_seen_at, sum(lately) / 5.0 AS letters_per_minute,
           min(first_first) FILTER (WHERE is_open) AS oldest_open_at, max(last_first) FILTER (WHERE is_open) AS newest_open_at,
           min(first_id) FILTER (WHERE counts) AS first_id, max(last_id) FILTER (WHERE counts) AS last_id,
           max(generation) > 0 AS replay
      FROM counted
     GROUP BY consumer_group, fingerprint
     ORDER BY n_open DESC, n_letters DESC, last_seen_at DESC, consumer_group, fingerprint COLLATE "C"
     LIMIT %(groups_max)s
), keyed AS MATERIALIZED (
    SELECT f.*, CASE WHEN f.parts = 1 THEN f.keys
                     ELSE (SELECT count(DISTINCT l.key_hash) FROM evkit.dead_letter l
                            WHERE l.state = ANY (f.states) AND l.consumer_group = f.consumer_group
                              AND l.fingerprint = f.fingerprint) END AS n_keys
      FROM folded f
), held AS (
    SELECT consumer_group, fingerprint, count(*) AS n_held FROM evkit.dead_letter
     WHERE held_at IS NOT NULL AND state IN ('open', 'retrying') AND state = ANY (%(states)s::text[])
     GROUP BY consumer_group, fingerprint
)
SELECT k.consumer_group AS "group", k.fingerprint, newest.error_class || coalesce(' in ' || newest.handler, '') AS title,
       newest.error_class, newest.error_message, newest.handler, k.n_letters, k.n_open,
       coalesce(held.n_held, 0) AS n_held, k.n_new, k.n_resolved, k.n_archived, k.n_keys,
       k.n_event_types, k.first_seen_at, k.last_seen_at, k.letters_per_minute::float8 AS letters_per_minute,
       extract(epoch FROM clock_timestamp() - k.oldest_open_at)::float8 AS oldest_open_seconds,
       oldest.code_version AS first_code_version, newest.code_version AS last_code_version,
       EXISTS (SELECT FROM evkit.dead_letter r
                WHERE r.state = 'resolved' AND r.consumer_group = k.consumer_group AND r.fingerprint = k.fingerprint
                  AND r.state_changed_at < k.newest_open_at) AS regressed,
       k.last_id AS sample_letter_id,
       CASE WHEN k.n_keys <= %(poison_keys_max)s THEN 'poison' ELSE 'systemic' END AS spread, k.replay,
       newest.topic, newest.event_type
  FROM keyed k
  JOIN evkit.dead_letter oldest ON oldest.letter_id = k.first_id
  JOIN evkit.dead_letter newest ON newest.letter_id = k.last_id
  LEFT JOIN held ON held.consumer_group = k.consumer_group AND held.fingerprint = k.fingerprint
 ORDER BY k.n_open DESC, k.n_letters DESC, k.last_seen_at DESC, "group", k.fingerprint COLLATE "C";

-- name: known_ids
SELECT letter_id FROM evkit.dead_letter ORDER BY letter_id DESC LIMIT 1000;

-- Queries of the views from here on; they only read.

-- name: view_bounds
-- The first failures of the oldest and the newest letter there is.
SELECT greatest(min(first_failed_at), %(since)s), least(max(first_failed_at), %(until)s::timestamptz - interval '1 microsecond')
  FROM evkit.dead_letter;

-- name: view_letters
-- Longest waiting first. Age counts from the first failure, so that retries and redrives cannot make a letter young.
SELECT letter_id, consumer_group AS "group",
-- include: state_now
     , event_type, event_id, key, topic, partition, "offset", handler,
       error_class, error_message, fingerprint, retry_count, created_at, first_failed_at, failed_at,
       extract(epoch FROM clock_timestamp() - first_failed_at)::float8 AS age_seconds, state_changed_at, note, ticket,
       assignee, held_at, hold_reason, code_version, schema_version, octet_length(raw_value)::bigint AS value_bytes,
       generation > 0 OR (replay_id IS NOT NULL AND state = 'open') AS replay, replay_id
  FROM evkit.dead_letter l
 WHERE (%(group)s::text IS NULL OR consumer_group = %(group)s)
   AND (%(states)s::text[] IS NULL OR state = ANY (%(states)s::text[]))
   AND (%(retrying)s::boolean IS NULL OR state <> 'open' OR letter_id IN (
-- include: in_a_redrive
       ))
   AND (%(since)s::timestamptz IS NULL OR first_failed_at >= %(since)s)
   AND (%(until)s::timestamptz IS NULL OR first_failed_at < %(until)s)
 ORDER BY first_failed_at, letter_id
 LIMIT %(rows_max)s;

-- name: view_payloads
-- What the letters of these ids held, for those who asked for it.
SELECT letter_id, raw_value, header_names, header_values, stack_trace, edited_from IS NOT NULL AS edited
  FROM evkit.dead_letter
 WHERE letter_id = ANY (%(ids)s::bigint[]);

-- name: view_count
-- Groups that have letters, and groups that have none but are known: 0 is a measurement.
SELECT g.consumer_group AS "group",
       count(l.letter_id) FILTER (WHERE l.state IN ('open', 'retrying')) AS open,
       count(l.letter_id) FILTER (WHERE l.state IN ('open', 'retrying') AND l.held_at IS NOT NULL) AS held,
       count(l.letter_id) FILTER (WHERE l.first_failed_at >= %(since)s AND l.first_failed_at < %(until)s) AS new,
       count(l.letter_id) FILTER (WHERE l.state = 'resolved' AND l.state_changed_at >= %(since)s
                            AND l.state_changed_at < %(until)s) AS resolved,
       count(l.letter_id) FILTER (WHERE l.state IN ('archived', 'purged') AND l.state_changed_at >= %(since)s
                            AND l.state_changed_at < %(until)s) AS archived,
       count(DISTINCT l.fingerprint) FILTER (WHERE l.state IN ('open', 'retrying')) AS fingerprints,
       count(DISTINCT coalesce(l.key, '')) FILTER (WHERE l.state IN ('open', 'retrying')) AS keys,
       extract(epoch FROM clock_timestamp() - min(l.first_failed_at) FILTER (WHERE l.state IN ('open', 'retrying')))::float8
           AS oldest_open_seconds,
       count(l.letter_id) FILTER (WHERE l.state IN ('open', 'retrying') AND (l.generation > 0 OR l.replay_id IS NOT NULL))
           AS from_replays
  FROM unnest(%(groups)s::text[]) AS g (consumer_group)
  LEFT JOIN evkit.dead_letter l USING (consumer_group)
 GROUP BY g.consumer_group
 ORDER BY open DESC, "group";
