-- Good and bad events of each service level objective, counted in several windows that end at the same moment.
-- Every event is judged once, at one moment: good when it got there in time, bad when its time was over, whatever became of
-- it later. So a consumer that stands still makes bad events, and one that catches up does not make them good again.

-- part: windows
until AS (
    SELECT %(until)s::timestamptz AS until
), longest AS (
    SELECT (%(sinces)s::timestamptz[])[1] AS since
)

-- part: counted
-- By the shortest window that each is in, numbered from 1, the longest: views/slo.py adds up what is in longer ones.
SELECT j."group", j.topic, width_bucket(j.at, %(sinces)s::timestamptz[]) AS ring,
       count(*) FILTER (WHERE j.verdict = 'good') AS good, count(*) FILTER (WHERE j.verdict = 'bad') AS bad,
       count(*) FILTER (WHERE j.verdict = 'unmeasured') AS unmeasured
  FROM judged j, longest, until
 WHERE j.at >= longest.since AND j.at < until.until
 GROUP BY 1, 2, 3

-- name: freshness
-- From the database write to the commit of the handler. What died is correctness' matter; a parked event is late until it
-- is handled; one whose record does not say when it was written is unmeasured.
WITH
-- include: windows
,
-- include: reading
,
-- include: near
, judged AS (
    SELECT i.consumer_group AS "group", NULL::text AS topic,
           CASE WHEN i.created_at IS NULL THEN 'unmeasured'
                WHEN i.outcome = 'handled' AND i.processed_at <= i.created_at + make_interval(secs => %(target)s) THEN 'good'
                ELSE 'bad' END AS verdict,
           CASE WHEN i.created_at IS NULL THEN i.processed_at
                WHEN i.outcome = 'handled' THEN least(i.processed_at, i.created_at + make_interval(secs => %(target)s))
                ELSE i.created_at + make_interval(secs => %(target)s) END AS at
      FROM evkit.inbox i, longest, until
     WHERE i.processed_at >= longest.since AND i.processed_at >= %(first)s AND i.processed_at < %(last)s
       AND i.generation = 0 AND i.outcome IN ('handled', 'parked') AND i.consumer_group = ANY (%(groups)s)
       AND NOT EXISTS (SELECT FROM evkit.dead_letter l
                        WHERE (l.consumer_group, l.event_id, l.generation) = (i.consumer_group, i.event_id, 0))
     UNION ALL
    SELECT r.consumer_group, NULL, 'bad', o.created_at + make_interval(secs => %(target)s)
      FROM longest, until, reading r
      JOIN evkit.outbox o ON coalesce(o.topic, o.aggregatetype) = r.topic AND o.created_at >= r.first_at
     WHERE o.created_at >= %(first)s AND o.created_at < %(last)s
       AND o.created_at < until.until - make_interval(secs => %(target)s)
       AND NOT EXISTS (SELECT FROM near n WHERE n.consumer_group = r.consumer_group AND n.event_id = o.id)
       AND NOT EXISTS (
               SELECT FROM evkit.inbox i
                WHERE i.consumer_group = r.consumer_group AND i.event_id = o.id AND i.generation = 0
                  AND (i.processed_at < until.until OR i.replay_id IS NOT NULL))
)
-- include: counted

-- name: correctness
-- Events handled live against events that died, each at the moment when that was so. A redrive does not undo a death.
WITH
-- include: windows
, judged AS (
    SELECT consumer_group AS "group", NULL::text AS topic, 'good' AS verdict, processed_at AS at
      FROM evkit.inbox, longest, until
     WHERE processed_at >= longest.since AND processed_at >= %(first)s AND processed_at < %(last)s AND outcome = 'handled'
       AND generation = 0 AND replay_id IS NULL AND consumer_group = ANY (%(groups)s)
     UNION ALL
    SELECT consumer_group, NULL, 'bad', failed_at
      FROM evkit.attempt, longest, until
     WHERE failed_at >= longest.since AND failed_at >= %(first)s AND failed_at < %(last)s AND disposition = 'dead'
       AND generation = 0 AND replay_id IS NULL AND consumer_group = ANY (%(groups)s)
)
-- include: counted

-- name: relay
-- From the database write to the broker's confirmation, per topic. What somebody decided to skip is nobody's loss of time.
WITH
-- include: windows
, written AS MATERIALIZED (
    SELECT o.position, coalesce(o.topic, o.aggregatetype) AS topic, o.created_at
      FROM evkit.outbox o WHERE o.created_at >= %(first)s AND o.created_at < %(last)s
),
-- include: confirmation
, judged AS (
    SELECT NULL::text AS "group", w.topic,
           CASE WHEN p.published_at <= w.created_at + make_interval(secs => %(target)s) THEN 'good' ELSE 'bad' END AS verdict,
           least(p.published_at, w.created_at + make_interval(secs => %(target)s)) AS at
      FROM written w
      LEFT JOIN confirmation p USING (position)
     WHERE NOT EXISTS (SELECT FROM evkit.unpublishable u WHERE u.position = w.position AND u.state = 'skipped')
)
-- include: counted

-- name: completeness
-- What was published, against what the group has dealt with in whatever way, once `target` seconds have passed since.
WITH
-- include: windows
,
-- include: reading
,
-- include: near
,
-- include: published
, judged AS (
    SELECT r.consumer_group AS "group", NULL::text AS topic,
           CASE WHEN n.event_id IS NOT NULL OR i.known THEN 'good' ELSE 'bad' END AS verdict,
           e.published_at + make_interval(secs => %(target)s) AS at
      FROM until, published e
      JOIN reading r ON r.topic = e.topic AND e.created_at >= r.first_at
      LEFT JOIN near n ON n.consumer_group = r.consumer_group AND n.event_id = e.id
      LEFT JOIN LATERAL (
            SELECT true AS known FROM evkit.inbox i
             WHERE n.event_id IS NULL AND i.consumer_group = r.consumer_group AND i.event_id = e.id AND i.generation = 0
             OFFSET 0) AS i ON true
     WHERE e.published_at < until.until - make_interval(secs => %(target)s)
)
-- include: counted

-- name: topics
-- Topics that the outbox has written to in the longest window: a relay without a bad event is a measurement for each.
SELECT DISTINCT coalesce(o.topic, o.aggregatetype) AS topic
  FROM evkit.outbox o WHERE o.created_at >= %(first)s AND o.created_at < %(last)s;
