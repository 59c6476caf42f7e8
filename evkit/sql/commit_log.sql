-- The copy of Kafka's `__consumer_offsets`: what the sampler writes, and what views read of it.

-- name: tails
SELECT log_partition, next_offset, complete_at, first_hole, whole_from, whole_since, groups
  FROM evkit.commit_log_tail WHERE cluster_id = %(cluster_id)s;

-- name: begin
INSERT INTO evkit.commit_log_tail (cluster_id, log_partition, next_offset, groups)
SELECT %(cluster_id)s, p, 0, %(groups)s::text[] FROM unnest(%(partitions)s::integer[]) AS p
    ON CONFLICT DO NOTHING;

-- name: change_groups
-- What other groups did until now was not copied: for them, as for those that are not copied any more, this is a gap.
WITH changed AS (
    UPDATE evkit.commit_log_tail SET groups = %(groups)s::text[]
     WHERE cluster_id = %(cluster_id)s AND groups <> %(groups)s::text[]
    RETURNING cluster_id, log_partition, next_offset, complete_at
)
INSERT INTO evkit.commit_log_gap (cluster_id, log_partition, log_offset, since)
SELECT cluster_id, log_partition, next_offset, complete_at FROM changed
    ON CONFLICT DO NOTHING;

-- name: keep
-- The same record twice is one row.
INSERT INTO evkit.commit_log (cluster_id, log_partition, log_offset, written_at, kind, consumer_group, topic, partition,
                              committed_offset, committed_at, raw_key, raw_value)
SELECT %(cluster_id)s, r.* FROM unnest(
       %(log_partition)s::integer[], %(log_offset)s::bigint[], %(written_at)s::timestamptz[], %(kind)s::text[],
       %(consumer_group)s::text[], %(topic)s::text[], %(partition)s::integer[], %(committed_offset)s::bigint[],
       %(committed_at)s::timestamptz[], %(raw_key)s::bytea[], %(raw_value)s::bytea[]) AS r
    ON CONFLICT DO NOTHING;

-- name: keep_gap
INSERT INTO evkit.commit_log_gap (cluster_id, log_partition, log_offset, since)
VALUES (%(cluster_id)s, %(log_partition)s, %(log_offset)s, %(since)s)
    ON CONFLICT DO NOTHING;

-- name: move_tails
UPDATE evkit.commit_log_tail t
   SET next_offset = n.next_offset, complete_at = n.complete_at, first_hole = n.first_hole, whole_from = n.whole_from,
       whole_since = n.whole_since
  FROM unnest(%(log_partition)s::integer[], %(next_offset)s::bigint[], %(complete_at)s::timestamptz[],
              %(first_hole)s::bigint[], %(whole_from)s::bigint[], %(whole_since)s::timestamptz[])
       AS n (log_partition, next_offset, complete_at, first_hole, whole_from, whole_since)
 WHERE t.cluster_id = %(cluster_id)s AND t.log_partition = n.log_partition;

-- name: expire_commits
-- What is old and was replaced by something that is old too: the last of each key stays, as Kafka's compaction leaves it, for
-- it is what counts until the next one.
WITH gone AS (
    DELETE FROM evkit.commit_log WHERE ctid = ANY (ARRAY (
           SELECT c.ctid FROM evkit.commit_log c
            WHERE c.cluster_id = %(cluster_id)s AND c.written_at < %(before)s
              AND CASE WHEN c.kind = 'commit'
                       THEN EXISTS (SELECT FROM evkit.commit_log n
                                     WHERE n.cluster_id = c.cluster_id AND n.consumer_group = c.consumer_group
                                       AND n.topic = c.topic AND n.partition = c.partition
                                       AND n.log_offset > c.log_offset AND n.written_at < %(before)s)
                       ELSE EXISTS (SELECT FROM evkit.commit_log n
                                     WHERE n.cluster_id = c.cluster_id AND n.consumer_group = c.consumer_group
                                       AND n.topic IS NULL AND n.raw_key = c.raw_key
                                       AND n.log_offset > c.log_offset AND n.written_at < %(before)s)
                   END
            LIMIT %(rows_max)s))
    RETURNING log_partition, log_offset, written_at
)
SELECT log_partition, max(log_offset), max(written_at), count(*) FROM gone GROUP BY log_partition;

-- name: places
-- Partitions that a group has committed for.
WITH RECURSIVE place AS (
    (SELECT topic, partition FROM evkit.commit_log
      WHERE cluster_id = %(cluster_id)s AND consumer_group = %(group)s AND topic IS NOT NULL
      ORDER BY topic, partition LIMIT 1)
    UNION ALL
    SELECT further.topic, further.partition FROM place
     CROSS JOIN LATERAL (
           SELECT topic, partition FROM evkit.commit_log
            WHERE cluster_id = %(cluster_id)s AND consumer_group = %(group)s
              AND (topic, partition) > (place.topic, place.partition)
            ORDER BY topic, partition LIMIT 1) AS further
)
SELECT topic, partition FROM place WHERE %(topic)s::text IS NULL OR topic = %(topic)s ORDER BY topic, partition;

-- name: commits
-- What a group had committed for some partitions: of each the first commit that is kept, the last one before the window, and of
-- those in it the last before each moment. Moments are `step` apart; without one, every commit of the window.
-- A time that goes back is another coordinator's clock: the log's order is what happened.
WITH asked AS (
    SELECT topic, partition FROM unnest(%(topics)s::text[], %(partitions)s::integer[]) AS a (topic, partition)
), edge AS (
    SELECT a.topic, a.partition, e.log_offset, e.committed_at AS at, e.committed_offset
      FROM asked a
     CROSS JOIN LATERAL (
           (SELECT log_offset, committed_at, committed_offset FROM evkit.commit_log c
             WHERE c.cluster_id = %(cluster_id)s AND c.consumer_group = %(group)s
               AND c.topic = a.topic AND c.partition = a.partition
             ORDER BY c.committed_at, c.log_offset LIMIT 1)
            UNION
           (SELECT log_offset, committed_at, committed_offset FROM evkit.commit_log c
             WHERE c.cluster_id = %(cluster_id)s AND c.consumer_group = %(group)s
               AND c.topic = a.topic AND c.partition = a.partition AND c.committed_at <= %(start)s
             ORDER BY c.committed_at DESC, c.log_offset DESC LIMIT 1)
           ) AS e
), inside AS (
    SELECT c.topic, c.partition, c.log_offset, c.committed_offset,
           max(c.committed_at) OVER (PARTITION BY c.topic, c.partition ORDER BY c.log_offset) AS at
      FROM asked a
      JOIN evkit.commit_log c USING (topic, partition)
     WHERE c.cluster_id = %(cluster_id)s AND c.consumer_group = %(group)s
       AND c.committed_at > %(start)s AND c.committed_at <= %(until)s
), last AS (
    SELECT DISTINCT ON (topic, partition, n) topic, partition, log_offset, at, committed_offset
      FROM (SELECT inside.*, CASE WHEN %(step)s::interval IS NULL THEN log_offset
                                  ELSE ceil(extract(epoch FROM at - %(start)s) / extract(epoch FROM %(step)s::interval))
                              END AS n
              FROM inside) AS numbered
     ORDER BY topic, partition, n, log_offset DESC
)
SELECT topic, partition, log_offset, at, committed_offset FROM edge
 UNION
SELECT topic, partition, log_offset, at, committed_offset FROM last
 ORDER BY topic, partition, log_offset;

-- name: gaps
-- Gaps of the group's part of the log; of each partition that it had committed to before, when its next commit came.
SELECT g.log_offset, g.since, a.topic, a.partition,
       (SELECT c.committed_at FROM evkit.commit_log c
         WHERE c.cluster_id = %(cluster_id)s AND c.consumer_group = %(group)s AND c.topic = a.topic
           AND c.partition = a.partition AND c.log_offset >= g.log_offset
           AND (g.since IS NULL OR c.committed_at >= g.since - interval '10 minutes')
         ORDER BY c.committed_at, c.log_offset LIMIT 1) AS until
  FROM evkit.commit_log_gap g
 CROSS JOIN unnest(%(topics)s::text[], %(partitions)s::integer[]) AS a (topic, partition)
 WHERE g.cluster_id = %(cluster_id)s AND g.log_partition = %(log_partition)s
   AND (g.since IS NULL OR g.since < %(until)s);

-- name: members
-- Records of a group's members and epochs, as they were.
SELECT log_offset, written_at, raw_key, raw_value FROM evkit.commit_log
 WHERE cluster_id = %(cluster_id)s AND consumer_group = %(group)s AND topic IS NULL
 ORDER BY log_offset;

-- name: last_gap
-- Before it something of the group's part of the log may be missing.
SELECT max(log_offset) FROM evkit.commit_log_gap
 WHERE cluster_id = %(cluster_id)s AND log_partition = %(log_partition)s;
