-- From the database write to the commit of the handler. Both times are the database's own, so no clock skew is in them.
-- Events that still wait are counted with their age (censored): without them a consumer that stands still looks fast.

-- name: latency
WITH
-- include: reading
, handled AS (
    SELECT consumer_group, CASE WHEN %(by_event_type)s THEN event_type END AS event_type,
           replay_id IS NOT NULL AS replay, extract(epoch FROM processed_at - created_at)::float8 AS seconds
      FROM evkit.inbox
     WHERE processed_at >= %(since)s AND processed_at < %(until)s AND outcome = 'handled'
       AND (%(replays)s OR replay_id IS NULL) AND consumer_group = ANY (%(groups)s)
), pending AS (
    SELECT r.consumer_group, CASE WHEN %(by_event_type)s THEN o.type END AS event_type, false AS replay,
           extract(epoch FROM bound.until - o.created_at)::float8 AS seconds
      FROM bound, reading r
      JOIN evkit.outbox o ON coalesce(o.topic, o.aggregatetype) = r.topic AND o.created_at >= r.first_at
       AND o.created_at >= %(since)s::timestamptz - interval '1 hour' AND o.created_at < %(until)s
     WHERE NOT EXISTS (
               SELECT FROM evkit.inbox i
                WHERE i.consumer_group = r.consumer_group AND i.event_id = o.id AND i.generation = 0
                  -- A replay or redrive came later than the death or the miss it makes good: not pending then either.
                  AND (i.processed_at < %(until)s OR i.replay_id IS NOT NULL))
), cut AS (
    SELECT consumer_group, event_type, replay, count(seconds) AS n, count(*) - count(seconds) AS unmeasured_n,
           percentile_disc(0.99) WITHIN GROUP (ORDER BY seconds) AS p99
      FROM handled GROUP BY 1, 2, 3
), wait AS (
    SELECT p.consumer_group, p.event_type, p.replay, p.seconds, p.seconds > coalesce(c.p99, -1) AS overdue
      FROM pending p
      LEFT JOIN cut c ON c.consumer_group = p.consumer_group AND c.event_type IS NOT DISTINCT FROM p.event_type
                     AND c.replay = p.replay
), waiting AS (
    SELECT consumer_group, event_type, replay, count(*) AS n, max(seconds) AS oldest,
           count(*) FILTER (WHERE overdue) AS overdue_n, min(seconds) FILTER (WHERE overdue) AS overdue_least
      FROM wait GROUP BY 1, 2, 3
), spread AS (
    SELECT consumer_group, event_type, replay, max(seconds) AS longest,
           percentile_disc(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY seconds) AS p
      FROM (SELECT consumer_group, event_type, replay, seconds FROM handled WHERE seconds IS NOT NULL
             UNION ALL
            SELECT consumer_group, event_type, replay, seconds FROM wait WHERE overdue) AS every
     GROUP BY 1, 2, 3
), place AS (
    SELECT consumer_group, event_type, replay FROM cut UNION SELECT consumer_group, event_type, replay FROM waiting
)
SELECT k.consumer_group AS "group", k.event_type, coalesce(c.n, 0) AS n, coalesce(w.n, 0) AS pending_n,
       coalesce(w.overdue_n, 0) AS overdue_n, coalesce(c.unmeasured_n, 0) AS unmeasured_n,
       s.p[1] AS p50_seconds, s.p[2] AS p95_seconds, s.p[3] AS p99_seconds, s.longest AS max_seconds,
       coalesce(s.p[3] >= w.overdue_least, false) AS p99_is_lower_bound, w.oldest AS oldest_pending_seconds, k.replay
  FROM place k
  LEFT JOIN cut c ON c.consumer_group = k.consumer_group AND c.event_type IS NOT DISTINCT FROM k.event_type
                 AND c.replay = k.replay
  LEFT JOIN waiting w ON w.consumer_group = k.consumer_group AND w.event_type IS NOT DISTINCT FROM k.event_type
                     AND w.replay = k.replay
  LEFT JOIN spread s ON s.consumer_group = k.consumer_group AND s.event_type IS NOT DISTINCT FROM k.event_type
                    AND s.replay = k.replay
 ORDER BY 1, 2 NULLS FIRST, k.replay;

-- name: latency_over_time
-- By the time of writing: who was hurt, not when it showed. Pending events count with their age.
WITH
-- include: reading
, event AS (
    SELECT consumer_group, replay_id IS NOT NULL AS replay, created_at, false AS pending,
           extract(epoch FROM processed_at - created_at)::float8 AS seconds
      FROM evkit.inbox, bound
     WHERE processed_at >= %(since)s AND created_at >= %(since)s AND created_at < bound.until AND outcome = 'handled'
       AND processed_at < %(until)s
       AND (%(replays)s OR replay_id IS NULL) AND consumer_group = ANY (%(groups)s)
     UNION ALL
    SELECT r.consumer_group, false, o.created_at, true, extract(epoch FROM bound.until - o.created_at)::float8
      FROM bound, reading r
      JOIN evkit.outbox o ON coalesce(o.topic, o.aggregatetype) = r.topic AND o.created_at >= r.first_at
       AND o.created_at >= %(since)s AND o.created_at < %(until)s
     WHERE NOT EXISTS (
               SELECT FROM evkit.inbox i
                WHERE i.consumer_group = r.consumer_group AND i.event_id = o.id AND i.generation = 0
                  AND (i.processed_at < %(until)s OR i.replay_id IS NOT NULL))
), bucketed AS (
    SELECT date_bin(%(bucket)s, created_at, '2000-01-03Z') AS bucket_at, consumer_group, replay,
           count(*) FILTER (WHERE NOT pending) AS n, count(*) FILTER (WHERE pending) AS pending_n,
           percentile_disc(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY seconds) AS p, max(seconds) AS longest,
           min(seconds) FILTER (WHERE pending) AS pending_least
      FROM event GROUP BY 1, 2, 3
)
SELECT bucket_at, extract(epoch FROM least(bucket_at + %(bucket)s, bound.until) - greatest(bucket_at, %(since)s))::float8
           AS bucket_seconds,
       consumer_group AS "group", n, pending_n, p[1] AS p50_seconds, p[2] AS p95_seconds, p[3] AS p99_seconds,
       longest AS max_seconds, coalesce(p[3] >= pending_least, false) AS p99_is_lower_bound,
       bucket_at < %(since)s OR bucket_at + %(bucket)s > bound.until AS partial, replay
  FROM bucketed, bound
 ORDER BY "group", replay, bucket_at;
