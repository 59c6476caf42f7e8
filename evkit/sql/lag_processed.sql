-- How far evkit's groups were at moments of the past, by evkit's own tables: published events against those dealt with.

-- name: topics
-- Topics that a group reads, page by page.
SELECT DISTINCT topic FROM evkit.inbox
 WHERE processed_at >= %(first)s AND processed_at < %(last)s AND consumer_group = %(group)s AND generation = 0;

-- name: newest_topics
-- Also those of one that stands still, and has handled nothing lately.
SELECT DISTINCT topic
  FROM (SELECT topic FROM evkit.inbox WHERE consumer_group = %(group)s ORDER BY event_id DESC LIMIT 1000) AS newest;

-- name: events
-- What was published in a page, with when the group had dealt with it and tried it first; in no order.
WITH
-- include: published
, near AS MATERIALIZED ( -- the relay may write down late what a group has dealt with already
    SELECT i.event_id, i.processed_at, i.received_at, i.replay_id FROM evkit.inbox i
     WHERE i.processed_at >= %(first)s::timestamptz - least(interval '1 minute', %(last)s::timestamptz - %(first)s)
       AND i.processed_at < %(last)s::timestamptz + least(interval '1 minute', %(last)s::timestamptz - %(first)s)
       AND i.generation = 0 AND i.consumer_group = %(group)s
), near_tried AS MATERIALIZED (
    SELECT a.event_id, min(a.failed_at) AS tried_at FROM evkit.attempt a
     WHERE a.failed_at >= %(first)s::timestamptz - least(interval '1 minute', %(last)s::timestamptz - %(first)s)
       AND a.failed_at < %(last)s::timestamptz + least(interval '1 minute', %(last)s::timestamptz - %(first)s)
       AND a.generation = 0 AND a.consumer_group = %(group)s
     GROUP BY a.event_id
)
SELECT p.topic, p.partition, p."offset", p.position, p.published_at, coalesce(t.tried_at, a.tried_at) AS tried_at,
       -- A redrive or a release moves processed_at of an event that the group had dealt with before.
       CASE WHEN coalesce(n.replay_id, i.replay_id) IS NULL THEN coalesce(n.processed_at, i.processed_at)
            ELSE coalesce((SELECT min(a.failed_at) FROM evkit.attempt a
                            WHERE a.consumer_group = %(group)s AND a.event_id = p.id AND a.generation = 0
                              AND a.disposition = 'dead'), n.received_at, i.received_at) END AS dealt_with_at
  FROM published p
  LEFT JOIN near n ON n.event_id = p.id
  LEFT JOIN LATERAL (
        SELECT i.processed_at, i.received_at, i.replay_id FROM evkit.inbox i
         WHERE n.event_id IS NULL AND i.consumer_group = %(group)s AND i.event_id = p.id AND i.generation = 0
         OFFSET 0) AS i ON true
  LEFT JOIN near_tried t ON t.event_id = p.id
  LEFT JOIN LATERAL (
        SELECT min(a.failed_at) AS tried_at FROM evkit.attempt a
         WHERE n.event_id IS NULL AND t.event_id IS NULL AND a.consumer_group = %(group)s AND a.event_id = p.id
           AND a.generation = 0) AS a ON true
 WHERE p.topic = ANY (%(topics)s);

-- name: before
-- Of each partition, the last twenty events before its position: what the group has dealt with of them, what it has left.
WITH wanted AS (
    SELECT * FROM unnest(%(topics)s::text[], %(partitions)s::integer[], %(positions)s::bigint[])
        AS w (topic, partition, position)
), earlier AS (
    SELECT w.topic, w.partition, p."offset", o.id,
           row_number() OVER (PARTITION BY w.topic, w.partition ORDER BY p.position DESC) AS n
      FROM evkit.publication p
      JOIN evkit.outbox o USING (position)
      JOIN wanted w ON w.partition = p.partition AND w.topic = coalesce(o.topic, o.aggregatetype)
                   AND p.position < w.position
     WHERE p.position >= %(first)s AND p.position < %(last)s AND o.position >= %(first)s AND o.position < %(last)s
)
SELECT e.topic, e.partition, min(e."offset") FILTER (WHERE i.event_id IS NOT NULL) AS dealt_with_offset,
       max(e."offset") FILTER (WHERE i.event_id IS NULL) AS left_offset, max(i.processed_at) AS dealt_with_at,
       bool_or(i.event_id IS NULL AND EXISTS (
           SELECT FROM evkit.attempt a
            WHERE a.consumer_group = %(group)s AND a.event_id = e.id AND a.generation = 0)) AS has_tried
  FROM earlier e
  LEFT JOIN evkit.inbox i ON i.consumer_group = %(group)s AND i.event_id = e.id AND i.generation = 0
 WHERE e.n <= 20
 GROUP BY e.topic, e.partition;

-- name: foreign_topics
-- Topics of which evkit's outbox did not write every record that was dealt with in a page. Most of them were written shortly
-- before; only what is left of a page is looked up in the whole outbox.
WITH near_written AS MATERIALIZED (
    SELECT o.id FROM evkit.outbox o
     WHERE o.created_at >= %(first)s::timestamptz - least(interval '1 minute', %(last)s::timestamptz - %(first)s)
       AND o.created_at < %(last)s
), left_over AS MATERIALIZED (
    SELECT i.topic, i.event_id
      FROM evkit.inbox i
     WHERE i.consumer_group = %(group)s AND i.generation = 0 AND i.topic = ANY (%(topics)s)
       AND i.processed_at >= %(first)s AND i.processed_at < %(last)s
       AND NOT EXISTS (SELECT FROM near_written w WHERE w.id = i.event_id)
)
SELECT DISTINCT l.topic FROM left_over l WHERE NOT EXISTS (SELECT FROM evkit.outbox o WHERE o.id = l.event_id OFFSET 0);
