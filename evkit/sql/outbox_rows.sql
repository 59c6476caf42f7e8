-- What is in the outbox, row by row and counted; the relay's own queries are in outbox.sql and outbox_cursor.sql.

-- name: bounds
-- Where a window lies among the positions: an identity is not in the order of time, but never far from it.
SELECT min(o.position), max(o.position) FROM evkit.outbox o WHERE o.created_at >= %(since)s AND o.created_at < %(until)s;

-- part: stated
-- Every row of the window, and of a page of positions, with its state; scheduled ones are not rows yet.
stated AS (
    SELECT o.position, o.id, o.type, o.aggregateid, coalesce(o.topic, o.aggregatetype) AS topic, o.schema_version,
           o.created_at, p.partition, p."offset", p.published_at, u.attempts, u.error,
           CASE WHEN p.position IS NOT NULL THEN 'published'
                WHEN u.state = 'parked' THEN 'unpublishable'
                WHEN u.state IN ('held', 'retry', 'skipped') THEN replace(u.state, 'retry', 'retrying')
                ELSE 'waiting' END AS state
      FROM evkit.outbox o
      -- The range is said twice: PostgreSQL does not carry it over to what is joined.
      LEFT JOIN evkit.publication p ON p.position = o.position AND p.position >= %(first)s AND p.position < %(last)s
      LEFT JOIN evkit.unpublishable u ON u.position = o.position AND u.state <> 'published'
     WHERE o.position >= %(first)s AND o.position < %(last)s AND o.created_at >= %(since)s AND o.created_at < %(until)s
       AND (%(topic)s::text IS NULL OR coalesce(o.topic, o.aggregatetype) = %(topic)s)
)

-- name: outbox
-- The newest first, so that a limit cuts the old ones.
WITH
-- include: stated
SELECT position, id AS event_id, type AS event_type, aggregateid AS key, topic, schema_version, state, created_at,
       published_at, partition, "offset", extract(epoch FROM published_at - created_at)::float8 AS relay_seconds,
       CASE WHEN state NOT IN ('published', 'skipped') THEN extract(epoch FROM clock_timestamp() - created_at)::float8
            END AS age_seconds,
       attempts, error
  FROM stated
 WHERE %(state)s::text IS NULL OR state = %(state)s
 ORDER BY position DESC
 LIMIT %(rows_max)s;

-- name: outbox_summary
WITH
-- include: stated
, counted AS (
    SELECT topic, state, count(*) AS n, min(created_at) AS oldest_at, max(created_at) AS newest_at,
           percentile_disc(0.5) WITHIN GROUP (ORDER BY published_at - created_at) AS p50,
           percentile_disc(0.99) WITHIN GROUP (ORDER BY published_at - created_at) AS p99
      FROM stated GROUP BY topic, state
     UNION ALL
    SELECT coalesce(topic, aggregatetype), 'scheduled', count(*), min(due_at), max(due_at), NULL, NULL
      FROM evkit.scheduled
     WHERE %(topic)s::text IS NULL OR coalesce(topic, aggregatetype) = %(topic)s
     GROUP BY 1
)
SELECT topic, state, n, oldest_at, newest_at,
       CASE WHEN state NOT IN ('published', 'skipped')
            THEN greatest(extract(epoch FROM clock_timestamp() - oldest_at), 0)::float8 END AS oldest_seconds,
       extract(epoch FROM p50)::float8 AS relay_p50_seconds, extract(epoch FROM p99)::float8 AS relay_p99_seconds
  FROM counted
 ORDER BY topic, state;

-- name: schema_usage
-- Which versions of each event type were written, and what became of them in each group that reads the topic.
WITH
-- include: stated
, dealt AS (
    SELECT s.topic, s.type, s.schema_version, i.consumer_group, count(*) FILTER (WHERE i.outcome = 'handled') AS handled,
           count(*) FILTER (WHERE i.outcome = 'skipped') AS skipped, count(*) FILTER (WHERE i.outcome = 'dead') AS dead
      FROM stated s
      JOIN evkit.inbox i ON i.event_id = s.id AND i.generation = 0 AND i.consumer_group = ANY (%(groups)s)
     GROUP BY 1, 2, 3, 4
), written AS (
    SELECT topic, type, schema_version, count(*) AS n, min(created_at) AS first_at, max(created_at) AS last_at
      FROM stated GROUP BY 1, 2, 3
)
SELECT w.topic, w.type AS event_type, w.schema_version, w.n AS written, w.first_at, w.last_at, d.consumer_group AS "group",
       d.handled, d.skipped, d.dead
  FROM written w
  LEFT JOIN dealt d USING (topic, type, schema_version)
 WHERE %(group)s::text IS NULL OR d.consumer_group IS NOT NULL
 ORDER BY 1, 2, 3, 7;
