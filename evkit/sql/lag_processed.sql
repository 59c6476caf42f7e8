-- How far evkit's groups were at moments of the past, by evkit's own tables: published events against those dealt with.

-- name: topics
-- Topics that a group reads. The newest rows, too: one that stands still has handled nothing lately.
SELECT topic FROM evkit.inbox
 WHERE processed_at >= %(lookback)s AND processed_at < %(until)s AND consumer_group = %(group)s AND generation = 0
 UNION
SELECT topic FROM (SELECT topic FROM evkit.inbox WHERE consumer_group = %(group)s ORDER BY event_id DESC LIMIT 1000) AS newest;

-- name: steps
-- Per partition, where it ended ('end') and how far the group had come without leaving one out ('position'), each where it
-- last was before a moment; moments are numbered, `step` apart. 'from': since when that is known, and the first offset.
WITH published AS (
    SELECT coalesce(o.topic, o.aggregatetype) AS topic, p.partition, p."offset", p.position, p.published_at, o.id
      FROM evkit.publication p JOIN evkit.outbox o USING (position)
     WHERE p.published_at >= %(lookback)s AND p.published_at <= %(until)s
       AND coalesce(o.topic, o.aggregatetype) = ANY (%(topics)s)
), handled AS (
    SELECT i.event_id, i.topic, i.partition, i."offset",
           -- A redrive or a release moves processed_at of an event that the group had dealt with before.
           CASE WHEN i.replay_id IS NULL THEN i.processed_at
                ELSE coalesce((SELECT min(a.failed_at) FROM evkit.attempt a
                                WHERE a.consumer_group = i.consumer_group AND a.event_id = i.event_id
                                  AND a.generation = 0 AND a.disposition = 'dead'), i.received_at) END AS dealt_with_at
      FROM evkit.inbox i
     WHERE i.consumer_group = %(group)s AND i.generation = 0 AND i.topic = ANY (%(topics)s)
       -- The relay may write down late what a group has dealt with already.
       AND i.processed_at >= %(lookback)s::timestamptz - interval '1 hour'
), tried AS (
    SELECT a.event_id, min(a.failed_at) AS tried_at
      FROM evkit.attempt a
     WHERE a.consumer_group = %(group)s AND a.generation = 0 AND a.topic = ANY (%(topics)s) AND a.failed_at >= %(lookback)s
     GROUP BY a.event_id
), event AS (
    SELECT p.topic, p.partition, p."offset", p.position, p.published_at, h.dealt_with_at,
           least(h.dealt_with_at, t.tried_at) AS seen_at
      FROM published p LEFT JOIN handled h ON h.event_id = p.id LEFT JOIN tried t ON t.event_id = p.id
     WHERE p.partition >= 0
), first AS (
    SELECT topic, partition, min("offset") AS "offset", min(position) AS position,
           min("offset") FILTER (WHERE seen_at IS NOT NULL) AS seen_offset, min(seen_at) AS seen_at
      FROM event GROUP BY topic, partition
), before AS (
    -- The last twenty before: what the group has dealt with of them, and what it has left.
    SELECT f.topic, f.partition, min(p."offset") FILTER (WHERE i.event_id IS NOT NULL) AS dealt_offset,
           max(p."offset") FILTER (WHERE i.event_id IS NULL) AS left_offset, max(i.processed_at) AS dealt_with_at,
           bool_or(i.event_id IS NULL AND EXISTS (
               SELECT FROM evkit.attempt a
                WHERE a.consumer_group = %(group)s AND a.event_id = p.id AND a.generation = 0)) AS has_tried
      FROM first f
      CROSS JOIN LATERAL (
           SELECT p."offset", o.id FROM evkit.publication p JOIN evkit.outbox o USING (position)
            WHERE p.position < f.position AND p.position >= f.position - 100000 AND p.partition = f.partition
              AND coalesce(o.topic, o.aggregatetype) = f.topic
            ORDER BY p.position DESC LIMIT 20) AS p
      LEFT JOIN evkit.inbox i ON i.consumer_group = %(group)s AND i.event_id = p.id AND i.generation = 0
     GROUP BY f.topic, f.partition
), base AS (
    -- The group had dealt with all before, from where it began: it stands at the first one. Where it has left one of them
    -- behind, it stands further back than this looks, and nothing is known. Else it began at the first that it dealt with or
    -- tried, and is known to be there since then.
    SELECT f.topic, f.partition,
           CASE WHEN b.has_tried OR b.left_offset > b.dealt_offset THEN NULL
                WHEN b.dealt_offset IS NOT NULL THEN f."offset" ELSE f.seen_offset END AS "offset",
           CASE WHEN b.dealt_offset IS NOT NULL THEN greatest(b.dealt_with_at, %(lookback)s) ELSE f.seen_at END AS known_from
      FROM first f LEFT JOIN before b USING (topic, partition)
), done AS (
    SELECT e.topic, e.partition, e."offset", e.published_at,
           max(coalesce(e.dealt_with_at, 'infinity')) OVER (PARTITION BY e.topic, e.partition ORDER BY e."offset") AS done_at
      FROM event e JOIN base b USING (topic, partition) WHERE e."offset" >= b."offset"
), step AS (
    SELECT topic, partition, 'end' AS kind, published_at AS at, "offset" + 1 AS "offset" FROM done
     UNION ALL
    SELECT topic, partition, 'position', done_at, "offset" + 1 FROM done WHERE done_at < 'infinity'
)
SELECT topic, partition, kind,
       greatest(ceil(extract(epoch FROM at - %(start)s) / extract(epoch FROM %(step)s::interval)), 0)::bigint AS n,
       max("offset") AS "offset", NULL::timestamptz AS known_from
  FROM step WHERE at <= %(until)s
 GROUP BY topic, partition, kind, n
 UNION ALL
SELECT b.topic, b.partition, 'from', 0, b."offset", b.known_from
  FROM base b WHERE b."offset" IS NOT NULL
 ORDER BY 1, 2, 3, 4;

-- name: foreign_topics
-- Topics of which evkit's tables do not have every record: another producer writes to them, too, or where the broker has put
-- some events is not known.
SELECT DISTINCT i.topic
  FROM evkit.inbox i
 WHERE i.consumer_group = %(group)s AND i.generation = 0 AND i.topic = ANY (%(topics)s)
   AND i.processed_at >= %(lookback)s AND i.processed_at < %(until)s
   AND NOT EXISTS (SELECT FROM evkit.outbox o WHERE o.id = i.event_id)
 UNION
SELECT DISTINCT coalesce(o.topic, o.aggregatetype)
  FROM evkit.publication p JOIN evkit.outbox o USING (position)
 WHERE p.published_at >= %(lookback)s AND p.published_at < %(until)s AND p.partition < 0
   AND coalesce(o.topic, o.aggregatetype) = ANY (%(topics)s);
