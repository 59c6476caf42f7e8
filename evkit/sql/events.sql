-- What happened to single events, and to whom: latency, harm, differences, hot keys. An event counts once for each group
-- that reads its topic.

-- part: timed
-- Handled events, and those that wait, with every time that is known of them.
handled AS (
    SELECT i.event_id, i.event_type, i.consumer_group, i.topic, i.partition, i."offset", i.key,
           coalesce(i.created_at, o.created_at) AS created_at, p.published_at, i.appended_at, i.received_at, i.processed_at,
           i.attempts, i.handler, i.code_version, i.replay_id
      FROM evkit.inbox i
      LEFT JOIN evkit.outbox o ON o.id = i.event_id
      LEFT JOIN evkit.publication p ON p.position = o.position
     WHERE i.processed_at >= %(since)s AND i.processed_at < %(until)s AND i.outcome = 'handled'
       AND (NOT %(by_written)s OR (i.created_at >= %(since)s AND i.created_at < %(until)s))
       AND (%(replays)s OR i.replay_id IS NULL) AND i.consumer_group = ANY (%(groups)s)
), pending AS (
    SELECT o.id AS event_id, o.type AS event_type, r.consumer_group, r.topic, p.partition, p."offset", o.aggregateid AS key,
           o.created_at, p.published_at, NULL::timestamptz AS appended_at, NULL::timestamptz AS received_at,
           NULL::timestamptz AS processed_at, NULL::integer AS attempts, NULL::text AS handler, NULL::text AS code_version,
           NULL::text AS replay_id
      FROM bound CROSS JOIN reading r
      JOIN evkit.outbox o ON coalesce(o.topic, o.aggregatetype) = r.topic AND o.created_at >= r.first_at
       AND o.created_at >= %(since)s::timestamptz - CASE WHEN %(by_written)s THEN interval '0' ELSE interval '1 hour' END
       AND o.created_at < bound.until
      LEFT JOIN evkit.publication p ON p.position = o.position AND p.published_at < bound.until
     WHERE NOT EXISTS (
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
-- The waiting ones are in `total` with their age where they wait longer already than the p99 of the handled ones.
WITH
-- include: reading
,
-- include: timed
, piece AS (
    SELECT t.consumer_group, CASE WHEN %(by_event_type)s THEN t.event_type END AS event_type,
           t.replay_id IS NOT NULL AS replay, t.censored AND s.segment = 'total' AS censored, s.*
      FROM timed t
     CROSS JOIN LATERAL (VALUES
           (1, 'relay', 'database', 'database', t.relay_seconds), (2, 'append', 'database', 'record', t.append_seconds),
           (3, 'queue', 'record', 'client', t.queue_seconds), (4, 'transit', 'database', 'client', t.transit_seconds),
           (5, 'handle', 'client', 'database', t.handle_seconds), (6, 'total', 'database', 'database', t.total_seconds)
           ) AS s (travel, segment, from_clock, to_clock, seconds)
     WHERE s.seconds IS NOT NULL
), cut AS (
    SELECT consumer_group, event_type, replay, percentile_disc(0.99) WITHIN GROUP (ORDER BY seconds) AS p99
      FROM piece WHERE segment = 'total' AND NOT censored GROUP BY 1, 2, 3
), weighed AS (
    SELECT p.*, NOT p.censored OR p.seconds > coalesce(c.p99, -1) AS counts
      FROM piece p
      LEFT JOIN cut c ON c.consumer_group = p.consumer_group AND c.event_type IS NOT DISTINCT FROM p.event_type
                     AND c.replay = p.replay
), spread AS (
    SELECT consumer_group, event_type, replay, travel, segment, from_clock, to_clock,
           count(*) FILTER (WHERE NOT censored) AS n, count(*) FILTER (WHERE censored) AS pending_n,
           percentile_disc(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY seconds) FILTER (WHERE counts) AS p,
           max(seconds) FILTER (WHERE counts) AS longest, min(seconds) FILTER (WHERE NOT censored) AS least,
           count(*) FILTER (WHERE NOT censored AND seconds < 0) AS negative,
           min(seconds) FILTER (WHERE censored AND counts) AS pending_least
      FROM weighed GROUP BY 1, 2, 3, 4, 5, 6, 7
)
SELECT consumer_group AS "group", event_type, segment, from_clock, to_clock, n, pending_n, p[1] AS p50_seconds,
       p[2] AS p95_seconds, p[3] AS p99_seconds, longest AS max_seconds, coalesce(p[3] >= pending_least, false)
           AS p99_is_lower_bound, least AS min_seconds, negative::float8 / nullif(n, 0) AS negative_ratio, replay
  FROM spread
 ORDER BY 1, 2 NULLS FIRST, replay, travel;

-- part: fact
-- One row for each event and group that reads it; without a group where none does. An event of a topic that this outbox does
-- not write to counts by the time of its handling.
failure AS (
    SELECT DISTINCT ON (consumer_group, event_id) consumer_group, event_id, handler, code_version, error_class, fingerprint
      FROM evkit.attempt
     WHERE failed_at >= %(since)s AND failed_at < %(until)s AND generation = 0 AND replay_id IS NULL
       AND disposition <> 'held' AND consumer_group = ANY (%(groups)s)
     ORDER BY consumer_group, event_id, failed_at DESC
), ours AS (
    SELECT DISTINCT coalesce(o.topic, o.aggregatetype) AS topic
      FROM evkit.outbox o
     WHERE o.created_at >= %(since)s::timestamptz - interval '1 day' AND o.created_at < %(until)s
), event AS (
    SELECT o.position, o.id, o.type, o.aggregateid AS key, coalesce(o.topic, o.aggregatetype) AS topic, o.schema_version,
           o.created_at, p.partition, p.published_at
      FROM bound CROSS JOIN evkit.outbox o
      LEFT JOIN evkit.publication p ON p.position = o.position AND p.published_at < bound.until
     WHERE o.created_at >= %(since)s AND o.created_at < bound.until
       AND (%(topic)s::text IS NULL OR coalesce(o.topic, o.aggregatetype) = %(topic)s)
), met AS (
    SELECT e.position, e.id AS event_id, e.type AS event_type, e.key, e.topic, coalesce(i.partition, e.partition) AS partition,
           e.schema_version, e.created_at, e.published_at, r.consumer_group, i.outcome, i.processed_at, i.replay_id,
           i.handler, i.code_version
      FROM event e
      LEFT JOIN reading r ON r.topic = e.topic AND e.created_at >= r.first_at
      LEFT JOIN evkit.inbox i ON i.consumer_group = r.consumer_group AND i.event_id = e.id AND i.generation = 0
                             AND (i.processed_at < %(until)s OR i.replay_id IS NOT NULL)
     WHERE r.consumer_group IS NOT NULL OR %(group)s::text IS NULL
     UNION ALL
    SELECT NULL, i.event_id, i.event_type, i.key, i.topic, i.partition, NULL, i.created_at, NULL, i.consumer_group,
           i.outcome, i.processed_at, i.replay_id, i.handler, i.code_version
      FROM evkit.inbox i
     WHERE i.processed_at >= %(since)s AND i.processed_at < %(until)s AND i.generation = 0
       AND i.consumer_group = ANY (%(groups)s) AND i.topic NOT IN (SELECT topic FROM ours)
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
      LEFT JOIN failure f ON f.consumer_group = m.consumer_group AND f.event_id = m.event_id
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

-- part: by_value
SELECT value, count(*) AS n_events, count(*) FILTER (WHERE harmed) AS n_harmed,
       CASE WHEN %(lost)s::text[] IS NOT NULL THEN count(*) FILTER (WHERE lost) END AS n_lost, count(*) FILTER (WHERE late) AS n_late,
       count(*) FILTER (WHERE failed) AS n_failed, count(*) FILTER (WHERE dead) AS n_dead,
       count(*) FILTER (WHERE dead_open) AS n_dead_open, count(*) FILTER (WHERE pending) AS n_pending,
       percentile_disc(0.95) WITHIN GROUP (ORDER BY delay_seconds) AS delay_p95_seconds, max(delay_seconds) AS delay_max_seconds,
       max(pending_seconds) AS oldest_pending_seconds, min(at) FILTER (WHERE harmed) AS first_at,
       max(at) FILTER (WHERE harmed) AS last_at
  FROM valued
 GROUP BY value
HAVING bool_or(harmed)
 ORDER BY n_lost DESC, n_dead_open DESC, count(*) FILTER (WHERE pending AND late) DESC, n_dead DESC, n_late DESC, n_failed DESC,
          delay_p95_seconds DESC NULLS LAST, value NULLS LAST
 LIMIT %(rows_max)s

-- name: impact
WITH
-- include: reading
,
-- include: fact
,
-- include: hurt
, valued AS (
    SELECT h.*, failed OR dead OR pending OR late OR coalesce(lost, false) AS harmed,
           CASE %(by)s WHEN 'key' THEN h.key WHEN 'event_type' THEN h.event_type WHEN 'topic' THEN h.topic END AS value
      FROM hurt h
)
-- include: by_value
;

-- name: impact_by_path
-- The same by what is at a path of the payload; a query of its own, for who may not read payloads may still ask the other.
WITH
-- include: reading
,
-- include: fact
,
-- include: hurt
, valued AS (
    SELECT h.*, failed OR dead OR pending OR late OR coalesce(lost, false) AS harmed,
           (SELECT CASE WHEN position('\u0000' IN o.payload::text) = 0
                        THEN jsonb_path_query_first(o.payload::jsonb, %(path)s::text::jsonpath, '{}', true) #>> '{}' END
              FROM evkit.outbox o WHERE o.position = h.position) AS value
      FROM hurt h
)
-- include: by_value
;

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
       ARRAY(SELECT (SELECT o.headers ->> h FROM evkit.outbox o WHERE o.position = f.position)
               FROM unnest(%(headers)s::text[]) WITH ORDINALITY AS header (h, place) ORDER BY place) AS headers

-- name: attributes
-- Everything that events can be told apart by, for `differs`.
WITH
-- include: reading
,
-- include: fact
-- include: attribute
     , '{}'::text[] AS fields
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
     , ARRAY(SELECT (SELECT CASE WHEN position('\u0000' IN o.payload::text) = 0
                                 THEN jsonb_path_query_first(o.payload::jsonb, p::jsonpath, '{}', true) #>> '{}' END
                       FROM evkit.outbox o WHERE o.position = f.position)
               FROM unnest(%(paths)s::text[]) WITH ORDINALITY AS path (p, place) ORDER BY place) AS fields
  FROM fact f
 ORDER BY at DESC, f.event_id DESC, f.consumer_group
 LIMIT %(rows_max)s;

-- name: hot_keys
WITH
-- include: reading
, mark AS (
    SELECT r.consumer_group, r.topic, 'unread' AS of, o.aggregateid AS key, p.partition, o.created_at AS at, o.id
      FROM bound CROSS JOIN reading r
      JOIN evkit.outbox o ON coalesce(o.topic, o.aggregatetype) = r.topic AND o.created_at >= r.first_at
       AND o.created_at >= %(since)s AND o.created_at < bound.until
      JOIN evkit.publication p ON p.position = o.position AND p.published_at < bound.until
     WHERE %(unread)s AND NOT EXISTS (
               SELECT FROM evkit.inbox i
                WHERE i.consumer_group = r.consumer_group AND i.event_id = o.id AND i.generation = 0
                  AND (i.processed_at < %(until)s OR i.replay_id IS NOT NULL))
     UNION ALL
    SELECT a.consumer_group, a.topic, 'failed', a.key, max(a.partition), min(a.failed_at), a.event_id
      FROM evkit.attempt a
     WHERE %(failed)s AND a.failed_at >= %(since)s AND a.failed_at < %(until)s AND a.disposition <> 'held'
       AND (%(replays)s OR a.replay_id IS NULL) AND a.consumer_group = ANY (%(groups)s)
     GROUP BY a.consumer_group, a.topic, a.key, a.event_id
), counted AS (
    SELECT consumer_group, topic, of, key, partition, count(*) AS n, min(at) AS oldest_at, max(at) AS newest_at
      FROM mark GROUP BY 1, 2, 3, 4, 5
), ranked AS (
    SELECT c.*, sum(n) OVER place AS of_n, count(*) OVER place AS keys,
           row_number() OVER (PARTITION BY consumer_group, topic, of ORDER BY n DESC, key, partition) AS place
      FROM counted c
    WINDOW place AS (PARTITION BY consumer_group, topic, of)
)
SELECT consumer_group AS "group", topic, of, key, partition, n, n / of_n::float8 AS share_ratio, of_n::bigint, keys, oldest_at,
       newest_at
  FROM ranked
 WHERE place <= %(keys_max)s
 ORDER BY "group", topic, of DESC, n DESC, key, partition;
