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

-- name: stated
-- A row for each event; views/outbox.py counts them.
WITH
-- include: stated
SELECT topic, state, created_at, extract(epoch FROM published_at - created_at)::float8 AS relay_seconds FROM stated;

-- name: scheduled
SELECT coalesce(topic, aggregatetype) AS topic, count(*) AS n, min(due_at) AS oldest_at, max(due_at) AS newest_at
  FROM evkit.scheduled
 WHERE %(topic)s::text IS NULL OR coalesce(topic, aggregatetype) = %(topic)s
 GROUP BY 1;

-- name: schema_usage
-- Which versions of each event type were written in a page of time, and what became of them in each group that reads the topic:
-- without a group, all that were written. views/outbox.py adds pages up.
WITH
-- include: reading
,
-- include: near
, written AS MATERIALIZED (
    SELECT o.id, coalesce(o.topic, o.aggregatetype) AS topic, o.type, o.schema_version, o.created_at
      FROM evkit.outbox o
     WHERE o.created_at >= %(first)s AND o.created_at < %(last)s
       AND (%(topic)s::text IS NULL OR coalesce(o.topic, o.aggregatetype) = %(topic)s)
), met AS (
    SELECT w.*, r.consumer_group, coalesce(n.outcome, i.outcome) AS outcome
      FROM written w
      JOIN reading r USING (topic)
      LEFT JOIN near n ON n.consumer_group = r.consumer_group AND n.event_id = w.id
      LEFT JOIN LATERAL (
            SELECT i.outcome FROM evkit.inbox i
             WHERE n.event_id IS NULL AND i.consumer_group = r.consumer_group AND i.event_id = w.id AND i.generation = 0
             OFFSET 0) AS i ON true
)
SELECT topic, type AS event_type, schema_version, NULL AS "group", count(*) AS written, min(created_at) AS first_at,
       max(created_at) AS last_at, 0 AS handled, 0 AS skipped, 0 AS dead
  FROM written GROUP BY 1, 2, 3
 UNION ALL
SELECT topic, type, schema_version, consumer_group, 0, NULL, NULL, count(*) FILTER (WHERE outcome = 'handled'),
       count(*) FILTER (WHERE outcome = 'skipped'), count(*) FILTER (WHERE outcome = 'dead')
  FROM met WHERE outcome IS NOT NULL GROUP BY 1, 2, 3, 4;
