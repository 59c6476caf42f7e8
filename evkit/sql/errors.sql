-- Failed attempts, and what part of all attempts they are.

-- name: error_rate
-- Failures are rows of evkit.attempt, successes rows of evkit.inbox. Without a bucket the whole window is one. `by` tells a
-- failure apart in more ways. Handler and code version are of every attempt, so each has attempts of its own; class and
-- fingerprint are of failures alone, and their share is of all attempts.
WITH failure AS (
    SELECT coalesce(greatest(date_bin(%(bucket)s::interval, a.failed_at, '2000-01-03Z'), %(since)s), %(since)s) AS starts_at,
           a.consumer_group, a.event_type, a.replay_id IS NOT NULL AS replay,
           CASE WHEN 'handler' = ANY (%(by)s::text[]) THEN a.handler END AS by_handler,
           CASE WHEN 'code_version' = ANY (%(by)s::text[]) THEN a.code_version END AS by_version,
           -- Equal fingerprints have equal classes: the class tells a reader what the hash is of.
           CASE WHEN %(by)s::text[] && '{error_class,fingerprint}' THEN a.error_class END AS by_class,
           CASE WHEN 'fingerprint' = ANY (%(by)s::text[]) THEN a.fingerprint END AS by_fingerprint,
           a.event_id, a.generation, a.handler,
           a.disposition, coalesce(l.state IN ('resolved', 'archived', 'purged'), false) AS dealt_with,
           i.processed_at AS succeeded_at
      FROM evkit.attempt a
      LEFT JOIN evkit.dead_letter l
             ON (l.consumer_group, l.event_id, l.generation) = (a.consumer_group, a.event_id, a.generation)
      LEFT JOIN evkit.inbox i
             ON (i.consumer_group, i.event_id, i.generation) = (a.consumer_group, a.event_id, a.generation)
            AND i.outcome = 'handled' AND (i.replay_id IS NULL) = (a.replay_id IS NULL)
            AND ('handler' <> ALL (%(by)s::text[]) OR i.handler IS NOT DISTINCT FROM a.handler)
            AND ('code_version' <> ALL (%(by)s::text[]) OR i.code_version IS NOT DISTINCT FROM a.code_version)
     WHERE a.failed_at >= %(since)s AND a.failed_at < %(until)s AND (%(replays)s OR a.replay_id IS NULL)
       AND (%(group)s::text IS NULL OR a.consumer_group = %(group)s)
), failed AS (
    SELECT starts_at, consumer_group, event_type, replay, by_handler, by_version, by_class, by_fingerprint,
           max(handler) AS handler, count(*) AS failures, count(*) FILTER (WHERE dealt_with) AS failures_dealt_with,
           count(*) FILTER (WHERE disposition = 'dead') AS dead, count(*) FILTER (WHERE disposition = 'held') AS held
      FROM failure
     GROUP BY starts_at, consumer_group, event_type, replay, by_handler, by_version, by_class, by_fingerprint
), attempted AS (
    SELECT starts_at, consumer_group, event_type, replay, by_handler, by_version, count(*) AS attempts,
           -- An event that failed and succeeded in the same bucket is one event, and its success counts it already.
           count(DISTINCT (event_id, generation)) FILTER (
               WHERE succeeded_at IS NULL OR succeeded_at < starts_at OR succeeded_at >= %(until)s
                  OR succeeded_at >= starts_at + %(bucket)s::interval) AS events, 0 AS unsaid
      FROM failure
     GROUP BY starts_at, consumer_group, event_type, replay, by_handler, by_version
     UNION ALL
    SELECT coalesce(greatest(date_bin(%(bucket)s::interval, processed_at, '2000-01-03Z'), %(since)s), %(since)s),
           consumer_group, event_type, replay_id IS NOT NULL,
           CASE WHEN 'handler' = ANY (%(by)s::text[]) THEN handler END,
           CASE WHEN 'code_version' = ANY (%(by)s::text[]) THEN code_version END, count(*), count(*),
           -- A success always has its handler, but in rows from before evkit wrote it down, and these have no version either.
           count(*) FILTER (WHERE handler IS NULL AND ('handler' = ANY (%(by)s::text[])
                                                       OR 'code_version' = ANY (%(by)s::text[]) AND code_version IS NULL))
      FROM evkit.inbox
     WHERE processed_at >= %(since)s AND processed_at < %(until)s AND outcome = 'handled'
       AND (%(replays)s OR replay_id IS NULL) AND (%(group)s::text IS NULL OR consumer_group = %(group)s)
     GROUP BY 1, 2, 3, 4, 5, 6
), total AS (
    SELECT starts_at, consumer_group, event_type, replay, by_handler, by_version,
           sum(attempts)::bigint AS attempts, sum(events)::bigint AS events,
           sum(sum(unsaid)) OVER (PARTITION BY starts_at, consumer_group, event_type, replay) > 0
               AND (by_handler IS NOT NULL OR by_version IS NOT NULL) AS unknown
      FROM attempted
     GROUP BY starts_at, consumer_group, event_type, replay, by_handler, by_version
), counted AS (
    SELECT t.starts_at, t.consumer_group, t.event_type, t.replay, coalesce(t.by_handler, f.handler) AS handler,
           t.by_version AS code_version, f.by_class AS error_class, f.by_fingerprint AS fingerprint,
           coalesce(f.failures, 0) AS failures, coalesce(f.failures_dealt_with, 0) AS failures_dealt_with,
           coalesce(f.dead, 0) AS dead, coalesce(f.held, 0) AS held,
           CASE WHEN NOT t.unknown THEN t.attempts END AS attempts, CASE WHEN NOT t.unknown THEN t.events END AS events
      FROM total t
      LEFT JOIN failed f ON (f.starts_at, f.consumer_group, f.event_type, f.replay)
                          = (t.starts_at, t.consumer_group, t.event_type, t.replay)
            AND f.by_handler IS NOT DISTINCT FROM t.by_handler AND f.by_version IS NOT DISTINCT FROM t.by_version
)
SELECT starts_at AS bucket_at,
       extract(epoch FROM least(coalesce(date_bin(%(bucket)s::interval, starts_at, '2000-01-03Z') + %(bucket)s::interval,
                                         %(until)s), %(until)s) - starts_at)::float8 AS bucket_seconds,
       consumer_group AS "group", event_type, handler, attempts, failures, failures_dealt_with, events, dead, held,
       failures::float8 / nullif(attempts, 0) AS attempt_error_ratio,
       dead::float8 / nullif(events, 0) AS event_failure_ratio, replay, code_version, error_class, fingerprint
  FROM counted
 ORDER BY bucket_at, "group", event_type, replay, failures DESC, handler, code_version, error_class, fingerprint;

-- name: errors
-- The newest first, so that a limit cuts the old ones.
SELECT failed_at, consumer_group AS "group", event_type, event_id, key, topic, partition, "offset", attempt, handler,
       error_class, error_message, fingerprint, disposition, duration_seconds, code_version,
       replay_id IS NOT NULL AS replay, replay_id
  FROM evkit.attempt
 WHERE failed_at >= %(since)s AND failed_at < %(until)s AND (%(group)s::text IS NULL OR consumer_group = %(group)s)
 ORDER BY failed_at DESC, attempt_id DESC
 LIMIT %(rows_max)s;
