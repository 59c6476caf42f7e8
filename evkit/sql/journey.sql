-- One event through all tables, and what people did meanwhile.

-- name: journey
-- Stops of these events and of what they caused. Times of the outbox, the groups and the letters are the database's own;
-- those of a record are its broker's or its producer's, and those of its receipt the consumer's machine's (`clock`).
-- What an event caused is found by what both share, the correlation id, which has an index; causation_id has none.
WITH RECURSIVE chosen AS (
    SELECT DISTINCT unnest(%(event_ids)s::text[]) COLLATE "C" AS id
), written AS (
    SELECT o.id, o.position, o.created_at, coalesce(o.topic, o.aggregatetype) AS topic, o.type, o.aggregateid AS key,
           o.correlation_id, o.causation_id
      FROM chosen JOIN evkit.outbox o ON o.id = chosen.id
), family AS (
    SELECT o.id, o.created_at, coalesce(o.topic, o.aggregatetype) AS topic, o.type, o.aggregateid AS key, o.causation_id
      FROM (SELECT coalesce(correlation_id, id) AS id FROM written UNION SELECT id FROM chosen) AS business
      JOIN evkit.outbox o ON o.correlation_id = business.id
     WHERE o.causation_id IS NOT NULL
     LIMIT %(rows_max)s
), caused AS (
    SELECT f.* FROM chosen JOIN family f ON f.causation_id = chosen.id
     UNION
    SELECT f.* FROM caused JOIN family f ON f.causation_id = caused.id
), dealt AS (
    SELECT i.* FROM chosen
      JOIN evkit.inbox i ON i.event_id = chosen.id AND i.consumer_group = ANY (%(groups)s)
), letter AS (
    -- By name, as payloads may be closed to who asks.
    SELECT l.letter_id, l.consumer_group, l.event_id, l.generation, l.event_type, l.topic, l.partition, l."offset",
           l.appended_at, l.timestamp_type, l.state, l.state_changed_at, l.first_failed_at, l.error_class, l.fingerprint,
           l.code_version, l.note, l.replaced_by, l.replay_id
      FROM chosen
      JOIN evkit.dead_letter l ON l.event_id = chosen.id AND l.consumer_group = ANY (%(groups)s)
), tried AS (
    SELECT a.* FROM chosen
      JOIN evkit.attempt a ON a.event_id = chosen.id AND a.consumer_group = ANY (%(groups)s)
), typed AS (
    SELECT id AS event_id, type FROM written
     UNION SELECT event_id, event_type FROM dealt UNION SELECT event_id, event_type FROM letter
), record AS (
    SELECT event_id, topic, partition, "offset", appended_at, max(timestamp_type) AS timestamp_type
      FROM (SELECT event_id, topic, partition, "offset", appended_at, NULL AS timestamp_type FROM dealt
             UNION ALL
            SELECT event_id, topic, partition, "offset", appended_at, timestamp_type FROM letter) AS seen
     WHERE appended_at IS NOT NULL
     GROUP BY 1, 2, 3, 4, 5
), stop (event_id, event_type, at, travel, stage, "group", topic, partition, "offset", detail, attempt, error_class,
         fingerprint, code_version, replay_id, clock, caused_by) AS (
    SELECT s.id, s.type, s.written_at, 0, 'scheduled', NULL::text, coalesce(s.topic, s.aggregatetype), NULL::integer,
           NULL::bigint, 'due at ' || to_char(s.due_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS'), NULL::integer, NULL::text,
           NULL::text, NULL::text, NULL::text, 'database', s.causation_id
      FROM chosen JOIN evkit.scheduled s ON s.id = chosen.id
     UNION ALL
    SELECT w.id, w.type, w.created_at, 1, 'written', NULL, w.topic, NULL, NULL, w.type || ', key ' || w.key, NULL, NULL, NULL,
           NULL, NULL, 'database', w.causation_id
      FROM written w
     UNION ALL
    SELECT w.id, w.type, u.parked_at, 2, CASE WHEN u.blocked_by IS NULL THEN 'unpublishable' ELSE 'held' END, NULL, u.topic,
           NULL, NULL, coalesce(u.error, 'behind position ' || u.blocked_by || ' of its key'), NULLIF(u.attempts, 0),
           u.error_class, NULL, NULL, NULL, 'database', NULL
      FROM written w JOIN evkit.unpublishable u ON u.position = w.position
     UNION ALL
    SELECT w.id, w.type, u.state_changed_at, 3, 'relay_' || u.state, NULL, u.topic, NULL, NULL, 'somebody decided', NULL, NULL,
           NULL, NULL, NULL, 'database', NULL
      FROM written w JOIN evkit.unpublishable u ON u.position = w.position AND u.state IN ('retry', 'skipped')
     UNION ALL
    SELECT r.event_id, (SELECT min(t.type) FROM typed t WHERE t.event_id = r.event_id), r.appended_at, 4, 'appended', NULL,
           r.topic, r.partition, r."offset", NULL, NULL, NULL, NULL, NULL, NULL,
           CASE r.timestamp_type WHEN 'append' THEN 'broker' WHEN 'create' THEN 'client' ELSE 'record' END, NULL
      FROM record r
     UNION ALL
    SELECT w.id, w.type, p.published_at, 5, 'published', NULL, w.topic, p.partition, p."offset", NULL, NULL, NULL, NULL, NULL,
           NULL, 'database', NULL
      FROM written w JOIN evkit.publication p ON p.position = w.position
     UNION ALL
    SELECT i.event_id, i.event_type, i.received_at, 6, 'received', i.consumer_group, i.topic, i.partition, i."offset", NULL,
           NULL, NULL, NULL, NULL, CASE WHEN i.generation > 0 THEN i.replay_id END, 'client', NULL
      FROM dealt i
     UNION ALL
    SELECT a.event_id, a.event_type, a.failed_at, 7, 'attempt_failed', a.consumer_group, a.topic, a.partition, a."offset",
           coalesce(a.handler || ': ', '') || a.error_message, a.attempt, a.error_class, a.fingerprint, a.code_version,
           a.replay_id, 'database', NULL
      FROM tried a
     UNION ALL
    SELECT i.event_id, i.event_type, i.processed_at, 8,
           CASE WHEN i.outcome IN ('skipped', 'parked') THEN replace(i.outcome, 'parked', 'waiting')
                WHEN i.replay_id IS NULL THEN 'processed'
                WHEN EXISTS (SELECT FROM evkit.replay_run r WHERE r.replay_id = i.replay_id) THEN 'replayed'
                ELSE 'redriven' END,
           i.consumer_group, i.topic, i.partition, i."offset",
           CASE i.outcome WHEN 'skipped' THEN
                coalesce((SELECT 'edited: the event of dead letter ' || l.replaced_by || ' took its place' FROM letter l
                           WHERE (l.consumer_group, l.event_id, l.generation) = (i.consumer_group, i.event_id, i.generation)
                             AND l.replaced_by IS NOT NULL), 'no handler for ' || i.event_type)
                          WHEN 'parked' THEN 'behind a dead letter of its key' ELSE i.handler END, i.attempts, NULL, NULL,
           i.code_version, i.replay_id, 'database', NULL
      FROM dealt i WHERE i.outcome IN ('handled', 'skipped', 'parked')
     UNION ALL
    -- When the event was given up on: its last failed attempt that said so, or the letter's first failure.
    SELECT l.event_id, l.event_type,
           coalesce((SELECT min(a.failed_at) FROM tried a
                      WHERE (a.consumer_group, a.event_id, a.generation) = (l.consumer_group, l.event_id, l.generation)
                        AND a.disposition = 'dead'), l.first_failed_at),
           9, 'parked', l.consumer_group, l.topic, l.partition, l."offset", 'dead letter ' || l.letter_id, NULL,
           l.error_class, l.fingerprint, l.code_version, NULL, 'database', NULL
      FROM letter l
     UNION ALL
    SELECT l.event_id, l.event_type, l.state_changed_at, 12, l.state, l.consumer_group, l.topic, l.partition, l."offset",
           'dead letter ' || l.letter_id || coalesce(': ' || l.note, ''), NULL, NULL, l.fingerprint, NULL, l.replay_id,
           'database', NULL
      FROM letter l WHERE l.state <> 'open'
     UNION ALL
    SELECT l.event_id, l.event_type, r.created_at, 10, 'redrive_planned', l.consumer_group, l.topic, l.partition, l."offset",
           r.actor || coalesce(': ' || r.reason, ''), NULL, NULL, l.fingerprint, NULL, r.redrive_id, 'database', NULL
      FROM letter l JOIN evkit.redrive_letter s ON s.letter_id = l.letter_id JOIN evkit.redrive_run r USING (redrive_id)
     UNION ALL
    SELECT l.event_id, l.event_type, s.settled_at, 13, 'redrive_' || s.state, l.consumer_group, l.topic, l.partition,
           l."offset", s.why, NULL, NULL, l.fingerprint, NULL, s.redrive_id, 'database', NULL
      FROM letter l JOIN evkit.redrive_letter s ON s.letter_id = l.letter_id AND s.state IN ('sent', 'failed', 'skipped')
     WHERE s.settled_at IS NOT NULL
     UNION ALL
    SELECT i.event_id, i.event_type, r.created_at, 10, 'replay_planned', i.consumer_group, i.topic, i.partition, i."offset",
           r.actor || coalesce(': ' || r.reason, ''), NULL, NULL, NULL, NULL, r.replay_id, 'database', NULL
      FROM dealt i JOIN evkit.replay_run r ON r.replay_id = i.replay_id
     UNION ALL
    SELECT c.event_id, c.event_type, c.first_seen_at, 11, 'id_conflict', c.consumer_group, c.topic, c.partition, c."offset",
           'another record under this id, ' || c.records || ' times; not handled', NULL, NULL, NULL, NULL, NULL, 'database',
           NULL
      FROM chosen JOIN evkit.id_conflict c ON c.event_id = chosen.id AND c.consumer_group = ANY (%(groups)s)
     UNION ALL
    SELECT c.id, c.type, c.created_at, 14, 'caused', NULL, c.topic, NULL, NULL, c.type || ', key ' || c.key, NULL, NULL, NULL,
           NULL, NULL, 'database', c.causation_id
      FROM caused c WHERE NOT EXISTS (SELECT FROM chosen WHERE chosen.id = c.id)
), kept AS (
    SELECT * FROM stop ORDER BY at DESC, travel DESC, event_id DESC LIMIT %(rows_max)s
)
SELECT row_number() OVER way AS step, at, stage, "group", topic, partition, "offset", detail, attempt,
       coalesce(extract(epoch FROM at - lag(at) OVER way)::float8, 0) AS gap_seconds,
       extract(epoch FROM at - min(at) OVER ())::float8 AS total_seconds,
       error_class, fingerprint, code_version, replay_id IS NOT NULL AS replay, replay_id, event_id, event_type, caused_by,
       clock
  FROM kept
WINDOW way AS (ORDER BY at, travel, event_id, "group")
 ORDER BY step;

-- name: events_of_key
-- Newest first. Keys of the outbox have an index.
SELECT o.id FROM evkit.outbox o
 WHERE o.aggregateid = %(key)s AND (%(since)s::timestamptz IS NULL OR o.created_at >= %(since)s)
   AND (%(until)s::timestamptz IS NULL OR o.created_at < %(until)s)
 ORDER BY o.position DESC
 LIMIT %(rows_max)s;

-- name: events_of_foreign_key
-- Of a key that this outbox never wrote: what groups have dealt with, by time, for the inbox has no index of keys.
SELECT event_id FROM (
    SELECT i.event_id, max(i.processed_at) AS at FROM evkit.inbox i
     WHERE i.key = %(key)s AND i.processed_at >= %(since)s AND i.processed_at < %(until)s
     GROUP BY 1) AS found
 ORDER BY at DESC
 LIMIT %(rows_max)s;

-- name: events_of_correlation
-- The event that began it carries no correlation id: its own id became one.
SELECT id FROM (
    (SELECT o.id, o.position FROM evkit.outbox o
      WHERE o.correlation_id = %(business_id)s AND (%(since)s::timestamptz IS NULL OR o.created_at >= %(since)s)
        AND (%(until)s::timestamptz IS NULL OR o.created_at < %(until)s)
      ORDER BY o.position DESC LIMIT %(rows_max)s)
     UNION
    SELECT o.id, o.position FROM evkit.outbox o WHERE o.id = %(business_id)s) AS found
 ORDER BY position DESC
 LIMIT %(rows_max)s;

-- name: events_of_payload
-- By what is at a path of the payload. What jsonb cannot hold (\u0000) is passed over.
SELECT o.id FROM evkit.outbox o
 WHERE o.created_at >= %(since)s AND o.created_at < %(until)s
   AND CASE WHEN position('\u0000' IN o.payload::text) = 0
            THEN jsonb_path_query_first(o.payload::jsonb, %(path)s::text::jsonpath, '{}', true) #>> '{}' END = %(value)s
 ORDER BY o.position DESC
 LIMIT %(rows_max)s;

-- name: like_key
SELECT DISTINCT aggregateid FROM (SELECT aggregateid FROM evkit.outbox ORDER BY position DESC LIMIT 1000) AS newest;

-- name: like_correlation
SELECT DISTINCT correlation_id FROM (
    SELECT correlation_id FROM evkit.outbox ORDER BY position DESC LIMIT 1000) AS newest
 WHERE correlation_id IS NOT NULL;

-- name: like_event
-- Ids that begin as the given one does, then the newest: what somebody may have meant.
SELECT id FROM (
    (SELECT id, 1 AS nearness FROM evkit.outbox
      WHERE id >= left(%(event_id)s, 8) AND id < left(%(event_id)s, 8) || U&'\FFFD' ORDER BY id LIMIT 100)
    UNION ALL
    (SELECT id, 2 FROM evkit.outbox ORDER BY position DESC LIMIT 100)
) AS candidate
 ORDER BY nearness, id;

-- name: acts
SELECT acted_at, actor, act, target, reason, plan::text AS plan, result::text AS result
  FROM evkit.audit
 WHERE acted_at >= %(since)s AND acted_at < %(until)s
 ORDER BY acted_at DESC, audit_id DESC
 LIMIT %(rows_max)s;

-- name: replays
SELECT replay_id, consumer_group AS "group", array_to_string(topics, ', ') AS topics, from_time, until_time, dedupe, mode,
       emit, CASE WHEN state = 'running' AND coalesce(alive_at, '-infinity') < clock_timestamp() - interval '15 seconds'
                  THEN 'interrupted' ELSE state END AS state,
       handled, known, skipped, failed, parked, why, actor, reason, created_at, started_at, finished_at
  FROM evkit.replay_run
 WHERE %(group)s::text IS NULL OR consumer_group = %(group)s
 ORDER BY created_at DESC, replay_id;
