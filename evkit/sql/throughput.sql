-- How much is written, published and dealt with, in buckets of time. Empty buckets are rows with 0: nothing happened is
-- a fact, no row would say that nobody looked.

-- name: topics
-- Topics that had an event. Also those without one in the window have a rate, which is 0.
SELECT DISTINCT coalesce(o.topic, o.aggregatetype) AS topic
  FROM evkit.outbox o WHERE o.created_at >= %(first)s AND o.created_at < %(last)s;

-- name: written
SELECT coalesce(o.topic, o.aggregatetype) AS topic, date_bin(%(bucket)s, o.created_at, '2000-01-03Z') AS bucket_at,
       count(*) AS written
  FROM evkit.outbox o WHERE o.created_at >= %(first)s AND o.created_at < %(last)s
 GROUP BY 1, 2;

-- name: published
WITH
-- include: published
SELECT topic, date_bin(%(bucket)s, published_at, '2000-01-03Z') AS bucket_at, count(*) AS published
  FROM published
 GROUP BY 1, 2;

-- name: publish_rate
-- Per topic, of the counts of all pages. A bucket that ended before the topic's first event is null: there was nothing yet that could be 0.
WITH bound AS (
    SELECT %(until)s::timestamptz AS until
), counted AS (
    SELECT c.topic, c.bucket_at, sum(c.written)::bigint AS written, sum(c.published)::bigint AS published
      FROM json_to_recordset(%(counts)s::json)
           AS c (topic text, bucket_at timestamptz, written bigint, published bigint)
     GROUP BY 1, 2
), seen AS (
    SELECT unnest(%(topics)s::text[]) AS topic
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
), filled AS (
    SELECT b.bucket_at, extract(epoch FROM b.ends_at - b.starts_at)::float8 AS bucket_seconds, t.topic,
           CASE WHEN b.ends_at > t.first_at THEN coalesce(c.written, 0) END AS written,
           CASE WHEN b.ends_at > t.first_at THEN coalesce(c.published, 0) END AS published, b.partial
      FROM bucket b
     CROSS JOIN topic t
      LEFT JOIN counted c ON c.topic = t.topic AND c.bucket_at = b.bucket_at
)
SELECT bucket_at, bucket_seconds, topic, written, published, written / bucket_seconds AS written_per_second,
       published / bucket_seconds AS published_per_second, partial
  FROM filled
 ORDER BY topic, bucket_at;

-- name: dealt_with
-- Of the events that were written in a page: how many became available, and how many were dealt with, in which bucket.
WITH
-- include: reading
,
-- include: near
, met AS (
    SELECT r.consumer_group, r.topic, o.id, p.published_at, coalesce(n.processed_at, i.processed_at) AS processed_at,
           coalesce(n.replay_id, i.replay_id) AS replay_id
      FROM reading r
      JOIN evkit.outbox o ON coalesce(o.topic, o.aggregatetype) = r.topic AND o.created_at >= r.first_at
       AND o.created_at >= %(first)s AND o.created_at < %(last)s
      JOIN evkit.publication p USING (position)
      LEFT JOIN near n ON n.consumer_group = r.consumer_group AND n.event_id = o.id
      LEFT JOIN LATERAL (
            SELECT i.processed_at, i.replay_id FROM evkit.inbox i
             WHERE n.event_id IS NULL AND i.consumer_group = r.consumer_group AND i.event_id = o.id AND i.generation = 0
             LIMIT 1) AS i ON true
), event AS (
    SELECT consumer_group, topic, published_at,
           -- A redrive moves processed_at of a dead event; it had been dealt with when it died.
           CASE WHEN replay_id IS NULL THEN processed_at
                ELSE coalesce((SELECT min(a.failed_at) FROM evkit.attempt a
                                WHERE a.consumer_group = met.consumer_group AND a.event_id = met.id
                                  AND a.generation = 0 AND a.disposition = 'dead'), processed_at) END AS dealt_with_at
      FROM met
), published AS (
    SELECT consumer_group, topic, date_bin(%(bucket)s, greatest(published_at, %(since)s), '2000-01-03Z') AS bucket_at,
           count(*) AS n, count(*) FILTER (WHERE published_at >= %(since)s) AS n_inside
      FROM event, bound WHERE published_at < bound.until GROUP BY 1, 2, 3
), dealt AS (
    SELECT consumer_group, topic, date_bin(%(bucket)s, greatest(dealt_with_at, %(since)s), '2000-01-03Z') AS bucket_at,
           count(*) AS n, count(*) FILTER (WHERE dealt_with_at >= %(since)s) AS n_inside
      FROM event, bound WHERE dealt_with_at < bound.until GROUP BY 1, 2, 3
)
SELECT consumer_group, topic, bucket_at, 'published' AS what, n, n_inside FROM published
 UNION ALL
SELECT consumer_group, topic, bucket_at, 'dealt_with', n, n_inside FROM dealt;

-- name: throughput
-- Per group and topic it reads, of the counts of all pages: what became available, what it dealt with, and what was left at
-- the end of each bucket. Only events that evkit's outbox wrote in the window or the hour before it, none from before the
-- group's first one.
WITH
-- include: reading
, counted AS (
    SELECT consumer_group, topic, bucket_at, what, sum(n)::bigint AS n, sum(n_inside)::bigint AS n_inside
      FROM json_to_recordset(%(counts)s::json)
           AS c (consumer_group text, topic text, bucket_at timestamptz, what text, n bigint, n_inside bigint)
     GROUP BY 1, 2, 3, 4
), bucket AS (
    SELECT b AS bucket_at, greatest(b, %(since)s) AS starts_at, least(b + %(bucket)s, bound.until) AS ends_at,
           b < %(since)s OR b + %(bucket)s > bound.until AS partial
      FROM bound, generate_series(date_bin(%(bucket)s, %(since)s, '2000-01-03Z'),
                                  bound.until - interval '1 microsecond', %(bucket)s) AS b
)
SELECT b.bucket_at, extract(epoch FROM b.ends_at - b.starts_at)::float8 AS bucket_seconds,
       r.consumer_group AS "group", r.topic,
       coalesce(p.n_inside, 0) AS published, coalesce(d.n_inside, 0) AS dealt_with,
       (sum(coalesce(p.n, 0) - coalesce(d.n, 0))
            OVER (PARTITION BY r.consumer_group, r.topic ORDER BY b.bucket_at))::bigint AS backlog, b.partial
  FROM bucket b
 CROSS JOIN reading r
  LEFT JOIN counted p ON (p.consumer_group, p.topic, p.bucket_at, p.what) = (r.consumer_group, r.topic, b.bucket_at, 'published')
  LEFT JOIN counted d ON (d.consumer_group, d.topic, d.bucket_at, d.what) = (r.consumer_group, r.topic, b.bucket_at, 'dealt_with')
 ORDER BY "group", topic, bucket_at;
