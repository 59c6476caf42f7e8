-- From the database write to the commit of the handler. Both times are the database's own, so no clock skew is in them.
-- Events that still wait are counted with their age (censored): without them a consumer that stands still looks fast.
-- A page has a row for each event, and views/latency.py makes percentiles of all pages.

-- name: handled
-- A page is a stretch of the time of handling.
SELECT consumer_group AS "group", CASE WHEN %(by_event_type)s THEN event_type END AS event_type,
       replay_id IS NOT NULL AS replay,
       date_bin(%(bucket)s::interval, CASE WHEN %(by_written)s THEN created_at ELSE processed_at END, '2000-01-03Z')
           AS bucket_at,
       extract(epoch FROM processed_at - created_at)::float8 AS seconds
  FROM evkit.inbox
 WHERE processed_at >= %(first)s AND processed_at < %(last)s AND outcome = 'handled'
   AND (NOT %(by_written)s OR (created_at >= %(since)s AND created_at < %(until)s))
   AND (%(replays)s OR replay_id IS NULL) AND consumer_group = ANY (%(groups)s);

-- name: pending
-- A page is a stretch of the time of writing. By the time of handling, what has none yet belongs to the last bucket.
WITH
-- include: reading
,
-- include: near
SELECT r.consumer_group AS "group", CASE WHEN %(by_event_type)s THEN o.type END AS event_type, false AS replay,
       date_bin(%(bucket)s::interval,
                CASE WHEN %(by_written)s THEN o.created_at ELSE bound.until - interval '1 microsecond' END, '2000-01-03Z')
           AS bucket_at,
       extract(epoch FROM bound.until - o.created_at)::float8 AS seconds
  FROM bound, reading r
  JOIN evkit.outbox o ON coalesce(o.topic, o.aggregatetype) = r.topic AND o.created_at >= r.first_at
   AND o.created_at >= %(first)s AND o.created_at < %(last)s
 WHERE NOT EXISTS (SELECT FROM near n WHERE n.consumer_group = r.consumer_group AND n.event_id = o.id)
   AND NOT EXISTS (
           SELECT FROM evkit.inbox i
            WHERE i.consumer_group = r.consumer_group AND i.event_id = o.id AND i.generation = 0
              -- A replay or redrive came later than the death or the miss it makes good: not pending then either.
              AND (i.processed_at < %(until)s OR i.replay_id IS NOT NULL));
