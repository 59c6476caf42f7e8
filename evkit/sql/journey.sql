-- One event through all tables, and what people did meanwhile.

-- name: journey
-- Every time is the database's own, so the order of the stops is real. Stops of the same moment keep the order of travel.
WITH stop AS (
    SELECT o.created_at AS at, 1 AS travel, 'written' AS stage, NULL::text AS "group",
           coalesce(o.topic, o.aggregatetype) AS topic, NULL::integer AS partition, NULL::bigint AS "offset",
           o.type || ', key ' || o.aggregateid AS detail, NULL::integer AS attempt, NULL::text AS error_class,
           NULL::text AS fingerprint, NULL::text AS code_version, NULL::text AS replay_id
      FROM evkit.outbox o WHERE o.id = %(event_id)s
     UNION ALL
    SELECT p.published_at, 2, 'published', NULL, coalesce(o.topic, o.aggregatetype), p.partition, p."offset", NULL, NULL,
           NULL, NULL, NULL, NULL
      FROM evkit.outbox o JOIN evkit.publication p USING (position) WHERE o.id = %(event_id)s
     UNION ALL
    SELECT a.failed_at, 3, 'attempt_failed', a.consumer_group, a.topic, a.partition, a."offset",
           coalesce(a.handler || ': ', '') || a.error_message, a.attempt, a.error_class, a.fingerprint, a.code_version,
           a.replay_id
      FROM evkit.attempt a WHERE a.event_id = %(event_id)s AND a.consumer_group = ANY (%(groups)s)
     UNION ALL
    SELECT i.processed_at, 4,
           CASE WHEN i.outcome IN ('skipped', 'parked') THEN replace(i.outcome, 'parked', 'waiting')
                WHEN i.replay_id IS NULL THEN 'processed'
                WHEN EXISTS (SELECT FROM evkit.replay_run r WHERE r.replay_id = i.replay_id) THEN 'replayed'
                ELSE 'redriven' END,
           i.consumer_group, i.topic, i.partition, i."offset",
           CASE i.outcome WHEN 'skipped' THEN
                coalesce((SELECT 'edited: the event of dead letter ' || l.replaced_by || ' took its place' FROM evkit.dead_letter l
                           WHERE (l.consumer_group, l.event_id, l.generation) = (i.consumer_group, i.event_id, i.generation)
                             AND l.replaced_by IS NOT NULL), 'no handler for ' || i.event_type)
                          WHEN 'parked' THEN 'behind a dead letter of its key' END, i.attempts, NULL, NULL, NULL,
           i.replay_id
      FROM evkit.inbox i
     WHERE i.event_id = %(event_id)s AND i.consumer_group = ANY (%(groups)s) AND i.outcome IN ('handled', 'skipped', 'parked')
     UNION ALL
    -- When the event was given up on: its last failed attempt that said so, or the letter's first failure.
    SELECT coalesce((SELECT min(a.failed_at) FROM evkit.attempt a
                      WHERE (a.consumer_group, a.event_id, a.generation) = (l.consumer_group, l.event_id, l.generation)
                        AND a.disposition = 'dead'), l.first_failed_at),
           5, 'parked', l.consumer_group, l.topic, l.partition, l."offset", 'dead letter ' || l.letter_id, NULL,
           l.error_class, l.fingerprint, l.code_version, NULL
      FROM evkit.dead_letter l WHERE l.event_id = %(event_id)s AND l.consumer_group = ANY (%(groups)s)
     UNION ALL
    SELECT l.state_changed_at, 6, l.state, l.consumer_group, l.topic, l.partition, l."offset",
           'dead letter ' || l.letter_id || coalesce(': ' || l.note, ''), NULL, NULL, l.fingerprint, NULL, l.replay_id
      FROM evkit.dead_letter l
     WHERE l.event_id = %(event_id)s AND l.consumer_group = ANY (%(groups)s) AND l.state <> 'open'
)
SELECT row_number() OVER way AS step, at, stage, "group", topic, partition, "offset", detail, attempt,
       coalesce(extract(epoch FROM at - lag(at) OVER way)::float8, 0) AS gap_seconds,
       extract(epoch FROM at - min(at) OVER ())::float8 AS total_seconds,
       error_class, fingerprint, code_version, replay_id IS NOT NULL AS replay, replay_id
  FROM stop
WINDOW way AS (ORDER BY at, travel, "group")
 ORDER BY step;

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
