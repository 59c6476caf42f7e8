-- How much is written, published and dealt with, in buckets of time. Empty buckets are rows with 0: nothing happened is
-- a fact, no row would say that nobody looked.

-- name: publish_rate
-- Per topic. A bucket that ended before the topic's first event is null: there was nothing yet that could be 0.
WITH bound AS (
    SELECT least(%(until)s::timestamptz, clock_timestamp()) AS until,
           %(since)s::timestamptz - greatest(%(until)s::timestamptz - %(since)s::timestamptz, interval '1 day') AS lookback
), written AS (
    SELECT coalesce(o.topic, o.aggregatetype) AS topic, date_bin(%(bucket)s, o.created_at, '2000-01-03Z') AS bucket_at,
           count(*) AS n
      FROM evkit.outbox o, bound
     WHERE o.created_at >= %(since)s AND o.created_at < bound.until
     GROUP BY 1, 2
), published AS (
    SELECT coalesce(o.topic, o.aggregatetype) AS topic, date_bin(%(bucket)s, p.published_at, '2000-01-03Z') AS bucket_at,
           count(*) AS n
      FROM evkit.publication p JOIN evkit.outbox o USING (position), bound
     WHERE p.published_at >= %(since)s AND p.published_at < bound.until
     GROUP BY 1, 2
), seen AS (
    SELECT DISTINCT coalesce(o.topic, o.aggregatetype) AS topic
      FROM evkit.outbox o, bound
     WHERE o.created_at >= bound.lookback AND o.created_at < bound.until
     UNION SELECT topic FROM published
), topic AS (
    SELECT seen.topic,
           (SELECT o.created_at FROM evkit.outbox o
             WHERE coalesce(o.topic, o.aggregatetype) = seen.topic ORDER BY o.position LIMIT 1) AS first_at
      FROM seen
), bucket AS (
    SELECT b AS bucket_at, greatest(b, %(since)s) AS starts_at, least(b + %(bucket)s, bound.until) AS ends_at,
           b < %(since)s OR b + %(bucket)s > bound.until AS partial
      FROM bound, generate_series(date_bin(%(bucket)s, %(since)s, '2000-01-03Z'),
                                  bound.until - interval '1 microsecond', %(bucket)s) AS b
), counted AS (
    SELECT b.bucket_at, extract(epoch FROM b.ends_at - b.starts_at)::float8 AS bucket_seconds, t.topic,
           CASE WHEN b.ends_at > t.first_at THEN coalesce(w.n, 0) END AS written,
           CASE WHEN b.ends_at > t.first_at THEN coalesce(p.n, 0) END AS published, b.partial
      FROM bucket b
     CROSS JOIN topic t
      LEFT JOIN written w ON w.topic = t.topic AND w.bucket_at = b.bucket_at
      LEFT JOIN published p ON p.topic = t.topic AND p.bucket_at = b.bucket_at
)
SELECT bucket_at, bucket_seconds, topic, written, published, written / bucket_seconds AS written_per_second,
       published / bucket_seconds AS published_per_second, partial
  FROM counted
 ORDER BY topic, bucket_at;

-- name: throughput
-- Per group and topic it reads: what became available, what it dealt with, and what was left at the end of each bucket.
-- Only events that evkit's outbox wrote in the window or the hour before it, none from before the group's first one.
WITH
-- include: reading
, event AS (
    SELECT r.consumer_group, r.topic, p.published_at,
           -- A redrive moves processed_at of a dead event; it had been dealt with when it died.
           CASE WHEN i.replay_id IS NULL THEN i.processed_at
                ELSE coalesce((SELECT min(a.failed_at) FROM evkit.attempt a
                                WHERE a.consumer_group = r.consumer_group AND a.event_id = o.id
                                  AND a.generation = 0 AND a.disposition = 'dead'), i.processed_at) END AS dealt_with_at
      FROM reading r
      JOIN evkit.outbox o ON coalesce(o.topic, o.aggregatetype) = r.topic AND o.created_at >= r.first_at
       AND o.created_at >= %(since)s::timestamptz - interval '1 hour' AND o.created_at < %(until)s
      JOIN evkit.publication p USING (position)
      LEFT JOIN evkit.inbox i ON i.consumer_group = r.consumer_group AND i.event_id = o.id AND i.generation = 0
), bucket AS (
    SELECT b AS bucket_at, greatest(b, %(since)s) AS starts_at, least(b + %(bucket)s, bound.until) AS ends_at,
           b < %(since)s OR b + %(bucket)s > bound.until AS partial
      FROM bound, generate_series(date_bin(%(bucket)s, %(since)s, '2000-01-03Z'),
                                  bound.until - interval '1 microsecond', %(bucket)s) AS b
), published AS (
    SELECT consumer_group, topic, date_bin(%(bucket)s, greatest(published_at, %(since)s), '2000-01-03Z') AS bucket_at,
           count(*) AS n, count(*) FILTER (WHERE published_at >= %(since)s) AS n_inside
      FROM event, bound WHERE published_at < bound.until GROUP BY 1, 2, 3
), dealt AS (
    SELECT consumer_group, topic, date_bin(%(bucket)s, greatest(dealt_with_at, %(since)s), '2000-01-03Z') AS bucket_at,
           count(*) AS n, count(*) FILTER (WHERE dealt_with_at >= %(since)s) AS n_inside
      FROM event, bound WHERE dealt_with_at < bound.until GROUP BY 1, 2, 3
)
SELECT b.bucket_at, extract(epoch FROM b.ends_at - b.starts_at)::float8 AS bucket_seconds,
       r.consumer_group AS "group", r.topic,
       coalesce(p.n_inside, 0) AS published, coalesce(d.n_inside, 0) AS dealt_with,
       (sum(coalesce(p.n, 0) - coalesce(d.n, 0))
            OVER (PARTITION BY r.consumer_group, r.topic ORDER BY b.bucket_at))::bigint AS backlog, b.partial
  FROM bucket b
 CROSS JOIN reading r
  LEFT JOIN published p ON (p.consumer_group, p.topic, p.bucket_at) = (r.consumer_group, r.topic, b.bucket_at)
  LEFT JOIN dealt d ON (d.consumer_group, d.topic, d.bucket_at) = (r.consumer_group, r.topic, b.bucket_at)
 ORDER BY "group", topic, bucket_at;
