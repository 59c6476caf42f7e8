-- What happened to single events, and to whom: latency, harm, differences, hot keys. An event counts once for each group
-- that reads its topic.

-- part: timed
-- Handled events, or those that wait, with every time that is known of them. A page is a stretch of the time of handling, or
-- of writing.
-- include: near
, near_written AS MATERIALIZED (
    SELECT o.id, o.created_at, p.published_at
      FROM evkit.outbox o LEFT JOIN evkit.publication p USING (position)
     WHERE NOT %(pending)s AND o.created_at < %(last)s
       AND o.created_at >= %(first)s::timestamptz - least(interval '1 minute', %(last)s::timestamptz - %(first)s)
), handled AS (
    SELECT i.event_id, i.event_type, i.consumer_group, i.topic, i.partition, i."offset", i.key,
           coalesce(i.created_at, n.created_at, o.created_at) AS created_at,
           coalesce(n.published_at, o.published_at) AS published_at, i.appended_at, i.received_at, i.processed_at,
           i.attempts, i.handler, i.code_version, i.replay_id
      FROM evkit.inbox i
      LEFT JOIN near_written n ON n.id = i.event_id
      LEFT JOIN LATERAL (
            SELECT o.created_at, p.published_at
              FROM evkit.outbox o LEFT JOIN evkit.publication p USING (position)
             WHERE n.id IS NULL AND o.id = i.event_id OFFSET 0) AS o ON true
     WHERE NOT %(pending)s AND i.processed_at >= %(first)s AND i.processed_at < %(last)s AND i.outcome = 'handled'
       AND (NOT %(by_written)s OR (i.created_at >= %(since)s AND i.created_at < %(until)s))
       AND (%(replays)s OR i.replay_id IS NULL) AND i.consumer_group = ANY (%(groups)s)
), pending AS (
    SELECT o.id AS event_id, o.type AS event_type, r.consumer_group, r.topic, p.partition, p."offset", o.aggregateid AS key,
           o.created_at, p.published_at, NULL::timestamptz AS appended_at, NULL::timestamptz AS received_at,
           NULL::timestamptz AS processed_at, NULL::integer AS attempts, NULL::text AS handler, NULL::text AS code_version,
           NULL::text AS replay_id
      FROM bound CROSS JOIN reading r
      JOIN evkit.outbox o ON coalesce(o.topic, o.aggregatetype) = r.topic AND o.created_at >= r.first_at
       AND o.created_at >= %(first)s AND o.created_at < %(last)s
      LEFT JOIN evkit.publication p ON p.position = o.position AND p.published_at < bound.until
     WHERE %(pending)s
       AND NOT EXISTS (SELECT FROM near n WHERE n.consumer_group = r.consumer_group AND n.event_id = o.id)
       AND NOT EXISTS (
               SELECT FROM evkit.inbox i
                WHERE i.consumer_group = r.consumer_group AND i.event_id = o.id AND i.generation = 0
                  AND (i.processed_at < %(until)s OR i.replay_id IS NOT NULL))
), timed AS (
    SELECT t.*, t.processed_at IS NULL AS censored,
           extract(epoch FROM published_at - created_at)::float8 AS relay_seconds,
           extract(epoch FROM appended_at - created_at)::float8 AS append_seconds,
           extract(epoch FROM received_at - published_at)::float8 AS transit_seconds,
           extract(epoch FROM received_at - appended_at)::float8 AS queue_seconds,
           extract(epoch FROM processed_at - received_at)::float8 AS handle_seconds,
           extract(epoch FROM coalesce(processed_at, bound.until) - created_at)::float8 AS total_seconds
      FROM bound, (SELECT * FROM handled UNION ALL SELECT * FROM pending) AS t
)

-- name: latency_events
WITH
-- include: reading
,
-- include: timed
SELECT event_id, event_type, consumer_group AS "group", topic, partition, "offset", key, created_at, published_at,
       appended_at, received_at, processed_at, relay_seconds, append_seconds, transit_seconds, queue_seconds,
       handle_seconds, total_seconds, censored, attempts, handler, code_version, replay_id IS NOT NULL AS replay, replay_id
  FROM timed
 ORDER BY coalesce(created_at, processed_at) DESC, event_id DESC, consumer_group
 LIMIT %(rows_max)s;

-- name: latency_segments
-- A row for each event; views/latency_events.py makes percentiles of all pages.
WITH
-- include: reading
,
-- include: timed
SELECT consumer_group AS "group", CASE WHEN %(by_event_type)s THEN event_type END AS event_type,
       replay_id IS NOT NULL AS replay, censored, relay_seconds, append_seconds, queue_seconds, transit_seconds,
       handle_seconds, total_seconds
  FROM timed;

-- name: ours
-- Topics that this outbox writes to.
SELECT DISTINCT coalesce(o.topic, o.aggregatetype) AS topic
  FROM evkit.outbox o WHERE o.created_at >= %(first)s AND o.created_at < %(last)s;

-- part: fact
-- One row for each event and group that reads it; without a group where none does. An event of a topic that this outbox does
-- not write to (`ours`) counts by the time of its handling. A page is a stretch of either time.
-- include: near
, written AS MATERIALIZED (
    SELECT o.position, o.id, o.type, o.aggregateid AS key, coalesce(o.topic, o.aggregatetype) AS topic, o.schema_version,
           o.created_at
      FROM evkit.outbox o
     WHERE o.created_at >= %(first)s AND o.created_at < %(last)s
       AND (%(topic)s::text IS NULL OR coalesce(o.topic, o.aggregatetype) = %(topic)s)
),
-- include: confirmation
, event AS (
    SELECT w.*, c.partition, c.published_at FROM written w LEFT JOIN confirmation c USING (position)
), met AS (
    SELECT e.position, e.id AS event_id, e.type AS event_type, e.key, e.topic, coalesce(i.partition, e.partition) AS partition,
           e.schema_version, e.created_at, e.published_at, r.consumer_group, i.outcome, i.processed_at, i.replay_id,
           i.handler, i.code_version
      FROM event e
      LEFT JOIN reading r ON r.topic = e.topic AND e.created_at >= r.first_at
      LEFT JOIN near n ON n.consumer_group = r.consumer_group AND n.event_id = e.id
      LEFT JOIN LATERAL (
            SELECT n.partition, n.outcome, n.processed_at, n.replay_id, n.handler, n.code_version WHERE n.event_id IS NOT NULL
             UNION ALL
            SELECT i.partition, i.outcome, i.processed_at, i.replay_id, i.handler, i.code_version FROM evkit.inbox i
             WHERE n.event_id IS NULL AND i.consumer_group = r.consumer_group AND i.event_id = e.id AND i.generation = 0
               AND (i.processed_at < %(until)s OR i.replay_id IS NOT NULL)) AS i ON true
     WHERE r.consumer_group IS NOT NULL OR %(group)s::text IS NULL
     UNION ALL
    SELECT NULL, i.event_id, i.event_type, i.key, i.topic, i.partition, NULL, i.created_at, NULL, i.consumer_group,
           i.outcome, i.processed_at, i.replay_id, i.handler, i.code_version
      FROM evkit.inbox i
     WHERE i.processed_at >= %(first)s AND i.processed_at < %(last)s AND i.generation = 0
       AND i.consumer_group = ANY (%(groups)s) AND i.topic <> ALL (%(ours)s::text[])
       AND (%(topic)s::text IS NULL OR i.topic = %(topic)s)
), fact AS (
    SELECT m.*, f.event_id IS NOT NULL OR l.letter_id IS NOT NULL AS failed, l.letter_id IS NOT NULL AS dead,
           coalesce(l.state IN ('open', 'retrying'), m.outcome = 'dead', false) AS dead_open,
           CASE WHEN m.consumer_group IS NULL THEN m.published_at IS NULL
                ELSE m.outcome IS NULL OR m.outcome = 'parked' END AS pending,
           coalesce(f.error_class, l.error_class) AS error_class, coalesce(f.fingerprint, l.fingerprint) AS fingerprint,
           coalesce(f.handler, m.handler, l.handler) AS ran, coalesce(f.code_version, m.code_version, l.code_version) AS version,
           CASE WHEN m.consumer_group IS NULL THEN extract(epoch FROM coalesce(m.published_at, bound.until) - m.created_at)
                WHEN m.outcome = 'skipped' THEN NULL
                WHEN m.outcome = 'handled' THEN extract(epoch FROM m.processed_at - m.created_at)
                ELSE extract(epoch FROM bound.until - m.created_at) END::float8 AS delay_seconds
      FROM bound CROSS JOIN met m
      LEFT JOIN LATERAL (
            SELECT a.event_id, a.handler, a.code_version, a.error_class, a.fingerprint
              FROM evkit.attempt a
             WHERE a.consumer_group = m.consumer_group AND a.event_id = m.event_id AND a.generation = 0
               AND a.failed_at >= %(since)s AND a.failed_at < %(until)s AND a.replay_id IS NULL AND a.disposition <> 'held'
             ORDER BY a.failed_at DESC LIMIT 1) AS f ON true
      LEFT JOIN evkit.dead_letter l ON l.consumer_group = m.consumer_group AND l.event_id = m.event_id AND l.generation = 0
)

-- part: hurt
-- One row an event: what any group did to it. What an audit says is lost will not come, so it is not pending.
hurt AS (
    SELECT event_id, min(event_type) AS event_type, min(key) AS key, min(topic) AS topic, min(partition) AS partition,
           min(created_at) AS created_at, min(coalesce(created_at, processed_at)) AS at, bool_or(failed) AS failed,
           bool_or(dead) AS dead, bool_or(dead_open) AS dead_open, bool_or(pending AND NOT lost) AS pending,
           max(delay_seconds) AS delay_seconds, max(delay_seconds) FILTER (WHERE pending AND NOT lost) AS pending_seconds,
           coalesce(bool_or(delay_seconds > %(late_seconds)s), false) AS late, min(position) AS position,
           CASE WHEN %(lost)s::text[] IS NOT NULL THEN bool_or(lost) END AS lost
      FROM (SELECT f.*, f.event_id IN (SELECT unnest(%(lost)s::text[])) AS lost FROM fact f) AS fact
     GROUP BY event_id
)

-- name: impact
-- An event a row; views/impact.py counts them by value.
WITH
-- include: reading
,
-- include: fact
,
-- include: hurt
SELECT h.event_id, h.at, h.failed, h.dead, h.dead_open, h.pending, h.late, h.delay_seconds, h.pending_seconds,
       h.lost,
       CASE %(by)s WHEN 'key' THEN h.key WHEN 'event_type' THEN h.event_type WHEN 'topic' THEN h.topic END AS value
  FROM hurt h;

-- name: impact_by_path
-- The same by what is at a path of the payload; a query of its own, for who may not read payloads may still ask the other.
WITH
-- include: reading
,
-- include: fact
,
-- include: hurt
SELECT h.event_id, h.at, h.failed, h.dead, h.dead_open, h.pending, h.late, h.delay_seconds, h.pending_seconds,
       h.lost,
       (SELECT CASE WHEN position('\u0000' IN o.payload::text) = 0
                        THEN jsonb_path_query_first(o.payload::jsonb, %(path)s::text::jsonpath, '{}', true) #>> '{}' END
              FROM evkit.outbox o WHERE o.position = h.position) AS value
  FROM hurt h;

-- part: hurt_events
SELECT h.event_id, h.event_type, h.key, h.topic, h.partition, h.created_at, h.at, h.failed, h.dead, h.dead_open, h.pending,
       h.late, h.delay_seconds, h.pending_seconds, h.lost

-- name: impact_events
-- The same, event by event, for a dimension that Python knows.
WITH
-- include: reading
,
-- include: fact
,
-- include: hurt
-- include: hurt_events
     , NULL::text AS payload
  FROM hurt h
 ORDER BY h.at DESC, h.event_id DESC
 LIMIT %(rows_max)s;

-- name: impact_events_with_payload
WITH
-- include: reading
,
-- include: fact
,
-- include: hurt
-- include: hurt_events
     , (SELECT o.payload::text FROM evkit.outbox o WHERE o.position = h.position) AS payload
  FROM hurt h
 ORDER BY h.at DESC, h.event_id DESC
 LIMIT %(rows_max)s;

-- part: attribute
SELECT f.event_id, f.consumer_group AS "group", f.event_type, f.topic, f.partition, f.key,
       (hashtextextended(f.key, 0) & 15)::integer AS key_bucket, f.ran AS handler, f.version AS code_version, f.schema_version,
       f.error_class, f.fingerprint, coalesce(f.created_at, f.processed_at) AS at, f.failed, f.dead, f.dead_open, f.pending,
       coalesce(f.delay_seconds > %(late_seconds)s, false) AS late,
       array_to_json(ARRAY(SELECT (SELECT o.headers ->> h FROM evkit.outbox o WHERE o.position = f.position)
               FROM unnest(%(headers)s::text[]) WITH ORDINALITY AS header (h, place) ORDER BY place)) AS headers

-- name: attributes
-- Everything that events can be told apart by, for `differs`.
WITH
-- include: reading
,
-- include: fact
-- include: attribute
     , NULL AS fields
  FROM fact f
 ORDER BY at DESC, f.event_id DESC, f.consumer_group
 LIMIT %(rows_max)s;

-- name: attributes_of_payload
-- The same, with what is at some paths of the payload.
WITH
-- include: reading
,
-- include: fact
-- include: attribute
     , array_to_json(ARRAY(SELECT (SELECT CASE WHEN position('\u0000' IN o.payload::text) = 0
                                 THEN jsonb_path_query_first(o.payload::jsonb, p::jsonpath, '{}', true) #>> '{}' END
                       FROM evkit.outbox o WHERE o.position = f.position)
               FROM unnest(%(paths)s::text[]) WITH ORDINALITY AS path (p, place) ORDER BY place)) AS fields
  FROM fact f
 ORDER BY at DESC, f.event_id DESC, f.consumer_group
 LIMIT %(rows_max)s;

-- name: hot_keys
-- A page is a stretch of the time of writing, and of failing; views/hot_keys.py adds pages up and ranks them.
WITH
-- include: reading
,
-- include: near
, mark AS (
    SELECT r.consumer_group, r.topic, 'unread' AS of, o.aggregateid AS key, p.partition, o.created_at AS at, o.id
      FROM bound CROSS JOIN reading r
      JOIN evkit.outbox o ON coalesce(o.topic, o.aggregatetype) = r.topic AND o.created_at >= r.first_at
       AND o.created_at >= %(first)s AND o.created_at < %(last)s
      JOIN evkit.publication p ON p.position = o.position AND p.published_at < bound.until
     WHERE %(unread)s
       AND NOT EXISTS (SELECT FROM near n WHERE n.consumer_group = r.consumer_group AND n.event_id = o.id)
       AND NOT EXISTS (
               SELECT FROM evkit.inbox i
                WHERE i.consumer_group = r.consumer_group AND i.event_id = o.id AND i.generation = 0
                  AND (i.processed_at < %(until)s OR i.replay_id IS NOT NULL))
     UNION ALL
    SELECT a.consumer_group, a.topic, 'failed', a.key, max(a.partition), min(a.failed_at), a.event_id
      FROM evkit.attempt a
     WHERE %(failed)s AND a.failed_at >= %(first)s AND a.failed_at < %(last)s AND a.disposition <> 'held'
       AND (%(replays)s OR a.replay_id IS NULL) AND a.consumer_group = ANY (%(groups)s)
       -- Each event once, in the page of its first failure.
       AND NOT EXISTS (
               SELECT FROM evkit.attempt b
                WHERE b.consumer_group = a.consumer_group AND b.event_id = a.event_id AND b.topic = a.topic
                  AND b.key IS NOT DISTINCT FROM a.key AND b.failed_at >= %(since)s AND b.failed_at < %(first)s
                  AND b.disposition <> 'held' AND (%(replays)s OR b.replay_id IS NULL))
     GROUP BY a.consumer_group, a.topic, a.key, a.event_id
)
SELECT consumer_group AS "group", topic, of, key, partition, count(*) AS n, min(at) AS oldest_at, max(at) AS newest_at
  FROM mark
 GROUP BY 1, 2, 3, 4, 5;
