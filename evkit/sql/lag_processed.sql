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
       AND i.processed_at >= %(lookback)s
), event AS (
    SELECT p.topic, p.partition, p."offset", p.position, p.published_at, h.dealt_with_at
      FROM published p LEFT JOIN handled h ON h.event_id = p.id
     WHERE p.partition >= 0
), first AS (
    SELECT topic, partition, min("offset") AS "offset", min(position) AS position,
           min("offset") FILTER (WHERE dealt_with_at IS NOT NULL) AS handled_offset
      FROM event GROUP BY topic, partition
), base AS (
    -- The group had dealt with the one before: it stands at the first one. Else it began later, or it stands further back
    -- than this looks, and nothing is known before the first that it dealt with.
    SELECT f.topic, f.partition,
           CASE WHEN before.processed_at IS NULL THEN f.handled_offset ELSE f."offset" END AS "offset",
           greatest(before.processed_at, %(lookback)s) AS known_from,
           before.processed_at IS NOT NULL AS is_whole
      FROM first f
      LEFT JOIN LATERAL (
           SELECT i.processed_at
             FROM (SELECT o.id FROM evkit.publication p JOIN evkit.outbox o USING (position)
                    WHERE p.position < f.position AND p.position >= f.position - 100000 AND p.partition = f.partition
                      AND coalesce(o.topic, o.aggregatetype) = f.topic
                    ORDER BY p.position DESC LIMIT 1) AS previous
             JOIN evkit.inbox i ON i.consumer_group = %(group)s AND i.event_id = previous.id AND i.generation = 0
           ) AS before ON true
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
SELECT b.topic, b.partition, 'from', 0, b."offset",
       CASE WHEN b.is_whole THEN b.known_from
            ELSE (SELECT min(done_at) FROM done d WHERE d.topic = b.topic AND d.partition = b.partition) END
  FROM base b WHERE b."offset" IS NOT NULL
 ORDER BY 1, 2, 3, 4;

-- name: foreign_topics
-- Topics of which evkit's tables do not have every record: another producer writes to them, too, or where the broker has put
-- some events is not known.
SELECT DISTINCT i.topic
  FROM evkit.inbox i
 WHERE i.consumer_group = %(group)s AND i.generation = 0 AND i.topic = ANY (%(topics)s)
   AND i.processed_at >= %(start)s AND i.processed_at < %(until)s
   AND NOT EXISTS (SELECT FROM evkit.outbox o WHERE o.id = i.event_id)
 UNION
SELECT DISTINCT coalesce(o.topic, o.aggregatetype)
  FROM evkit.publication p JOIN evkit.outbox o USING (position)
 WHERE p.published_at >= %(lookback)s AND p.published_at < %(until)s AND p.partition < 0
   AND coalesce(o.topic, o.aggregatetype) = ANY (%(topics)s);
