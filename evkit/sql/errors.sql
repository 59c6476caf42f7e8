-- Failed attempts, and what part of all attempts they are.

-- name: error_rate
-- Failures are rows of evkit.attempt, successes rows of evkit.inbox. Without a bucket the whole window is one.
WITH failure AS (
    SELECT coalesce(greatest(date_bin(%(bucket)s::interval, a.failed_at, '2000-01-03Z'), %(since)s), %(since)s) AS starts_at,
           a.consumer_group, a.event_type, a.replay_id IS NOT NULL AS replay, a.event_id, a.generation, a.handler,
           a.disposition, coalesce(l.state IN ('resolved', 'archived', 'purged'), false) AS dealt_with,
           i.processed_at AS succeeded_at
      FROM evkit.attempt a
      LEFT JOIN evkit.dead_letter l
             ON (l.consumer_group, l.event_id, l.generation) = (a.consumer_group, a.event_id, a.generation)
      LEFT JOIN evkit.inbox i
             ON (i.consumer_group, i.event_id, i.generation) = (a.consumer_group, a.event_id, a.generation)
            AND i.outcome = 'handled' AND (i.replay_id IS NULL) = (a.replay_id IS NULL)
     WHERE a.failed_at >= %(since)s AND a.failed_at < %(until)s AND (%(replays)s OR a.replay_id IS NULL)
       AND (%(group)s::text IS NULL OR a.consumer_group = %(group)s)
), failed AS (
    SELECT starts_at, consumer_group, event_type, replay, max(handler) AS handler, count(*) AS failures,
           count(*) FILTER (WHERE dealt_with) AS failures_dealt_with,
           count(*) FILTER (WHERE disposition = 'dead') AS dead, count(*) FILTER (WHERE disposition = 'held') AS held,
           -- An event that failed and succeeded in the same bucket is one event, and its success counts it already.
           count(DISTINCT (event_id, generation)) FILTER (
               WHERE succeeded_at IS NULL OR succeeded_at < starts_at OR succeeded_at >= %(until)s
                  OR succeeded_at >= starts_at + %(bucket)s::interval) AS events
      FROM failure
     GROUP BY starts_at, consumer_group, event_type, replay
), succeeded AS (
    SELECT coalesce(greatest(date_bin(%(bucket)s::interval, processed_at, '2000-01-03Z'), %(since)s), %(since)s) AS starts_at,
           consumer_group, event_type, replay_id IS NOT NULL AS replay, count(*) AS n
      FROM evkit.inbox
     WHERE processed_at >= %(since)s AND processed_at < %(until)s AND outcome = 'handled'
       AND (%(replays)s OR replay_id IS NULL) AND (%(group)s::text IS NULL OR consumer_group = %(group)s)
     GROUP BY 1, 2, 3, 4
), counted AS (
    SELECT starts_at, consumer_group, event_type, replay, f.handler,
           coalesce(f.failures, 0) AS failures, coalesce(f.failures_dealt_with, 0) AS failures_dealt_with,
           coalesce(f.dead, 0) AS dead, coalesce(f.held, 0) AS held, coalesce(f.failures, 0) + coalesce(s.n, 0) AS attempts,
           coalesce(f.events, 0) + coalesce(s.n, 0) AS events
      FROM failed f FULL JOIN succeeded s USING (starts_at, consumer_group, event_type, replay)
)
SELECT starts_at AS bucket_at,
       extract(epoch FROM least(coalesce(date_bin(%(bucket)s::interval, starts_at, '2000-01-03Z') + %(bucket)s::interval,
                                         %(until)s), %(until)s) - starts_at)::float8 AS bucket_seconds,
       consumer_group AS "group", event_type, handler, attempts, failures, failures_dealt_with, events, dead, held,
       failures::float8 / nullif(attempts, 0) AS attempt_error_ratio,
       dead::float8 / nullif(events, 0) AS event_failure_ratio, replay
  FROM counted
 ORDER BY bucket_at, "group", event_type, replay;

-- name: errors
-- The newest first, so that a limit cuts the old ones.
SELECT failed_at, consumer_group AS "group", event_type, event_id, key, topic, partition, "offset", attempt, handler,
       error_class, error_message, fingerprint, disposition, duration_seconds, code_version,
       replay_id IS NOT NULL AS replay, replay_id
  FROM evkit.attempt
 WHERE failed_at >= %(since)s AND failed_at < %(until)s AND (%(group)s::text IS NULL OR consumer_group = %(group)s)
 ORDER BY failed_at DESC, attempt_id DESC
 LIMIT %(rows_max)s;
