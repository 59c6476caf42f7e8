-- Lag as `evkit sample` measures it: who writes, what is written, and what of it a view shows.

-- name: lead
-- One sampler writes for a cluster: a session lock, gone with the connection that everything is written on.
SELECT pg_try_advisory_lock(6086, hashtext(%s::text));

-- name: give_up
SELECT pg_advisory_unlock_all();

-- name: samples
COPY evkit.lag_sample (cluster_id, consumer_group, topic, partition, sampled_at, every_seconds, committed_offset, start_offset, stable_offset, end_offset, group_state, members) FROM STDIN;

-- name: expire_samples
-- So many at a time, so that nobody waits for it. The brin index finds the blocks.
DELETE FROM evkit.lag_sample
 WHERE ctid = ANY (ARRAY (SELECT ctid FROM evkit.lag_sample
                           WHERE cluster_id = %(cluster_id)s AND sampled_at < %(before)s LIMIT %(rows_max)s));

-- name: rows_kept
-- The planner's estimate; -1 before the first ANALYZE.
SELECT relname::text, reltuples::bigint FROM pg_class
 WHERE oid IN ('evkit.lag_sample'::regclass, 'evkit.commit_log'::regclass) ORDER BY relname DESC;

-- name: clusters
-- A skip scan: the tables hold a million rows for each cluster, and there are few.
WITH RECURSIVE one AS (
    (SELECT cluster_id FROM evkit.lag_sample ORDER BY cluster_id LIMIT 1)
    UNION ALL
    SELECT (SELECT s.cluster_id FROM evkit.lag_sample s WHERE s.cluster_id > one.cluster_id ORDER BY s.cluster_id LIMIT 1)
      FROM one
     WHERE one.cluster_id IS NOT NULL
)
SELECT cluster_id FROM one WHERE cluster_id IS NOT NULL;

-- name: groups
-- Groups that were ever sampled, or copied from the offsets log.
WITH RECURSIVE sampled AS (
    (SELECT consumer_group FROM evkit.lag_sample WHERE cluster_id = %(cluster_id)s
      ORDER BY cluster_id, consumer_group LIMIT 1)
    UNION ALL
    SELECT (SELECT s.consumer_group FROM evkit.lag_sample s
             WHERE s.cluster_id = %(cluster_id)s AND s.consumer_group > sampled.consumer_group
             ORDER BY s.consumer_group LIMIT 1)
      FROM sampled
     WHERE sampled.consumer_group IS NOT NULL
), copied AS (
    (SELECT consumer_group FROM evkit.commit_log WHERE cluster_id = %(cluster_id)s
      ORDER BY cluster_id, consumer_group LIMIT 1)
    UNION ALL
    SELECT (SELECT c.consumer_group FROM evkit.commit_log c
             WHERE c.cluster_id = %(cluster_id)s AND c.consumer_group > copied.consumer_group
             ORDER BY c.consumer_group LIMIT 1)
      FROM copied
     WHERE copied.consumer_group IS NOT NULL
)
SELECT consumer_group FROM sampled WHERE consumer_group IS NOT NULL
 UNION
SELECT consumer_group FROM copied WHERE consumer_group IS NOT NULL
 ORDER BY 1;

-- name: nearest
-- Of each partition and moment of a page, the sample that is nearest to it: moments are numbered, `step` apart from `start`
-- on. A sample speaks for the time until the next one was due, and for half of that before it, where it is nearer than the
-- one before; for more there was none, and nobody knows. A sample between two moments can be the nearest one of both.
WITH sample AS (
    SELECT s.topic, s.partition, s.committed_offset, s.end_offset, s.every_seconds,
           extract(epoch FROM s.sampled_at - %(start)s)::float8 AS second,
           extract(epoch FROM %(step)s::interval)::float8 AS step
      FROM evkit.lag_sample s
     WHERE s.cluster_id = %(cluster_id)s AND s.consumer_group = %(group)s
       AND (%(topic)s::text IS NULL OR s.topic = %(topic)s)
       AND s.sampled_at >= %(first)s::timestamptz - interval '1 hour'
       AND s.sampled_at < %(last)s::timestamptz + interval '1 hour'
), numbered AS (
    SELECT topic, partition, committed_offset, end_offset, second, step,
           greatest(ceil((second - every_seconds / 2) / step), %(first_n)s)::bigint AS first_n,
           least(floor((second + every_seconds) / step), %(last_n)s)::bigint AS last_n
      FROM sample
), candidate AS (
    SELECT topic, partition, committed_offset, end_offset, first_n AS n, abs(second - first_n * step) AS off
      FROM numbered WHERE first_n <= last_n
     UNION ALL -- with long steps there are none of these
    SELECT topic, partition, committed_offset, end_offset, n, abs(second - n * step)
      FROM numbered CROSS JOIN LATERAL generate_series(first_n + 1, last_n) AS n WHERE first_n < last_n
)
SELECT DISTINCT ON (topic, partition, n) topic, partition, n, committed_offset, end_offset
  FROM candidate
 ORDER BY topic, partition, n, off;

-- name: looks
-- Where partitions of some groups began, were stable and ended: the last look in each stretch of a window, whose it was does
-- not matter.
SELECT DISTINCT ON (topic, partition, stretch) topic, partition, sampled_at, start_offset, end_offset, stable_offset
  FROM (SELECT s.topic, s.partition, s.sampled_at, s.start_offset, s.stable_offset, s.end_offset,
               floor(date_part('epoch', s.sampled_at - %(start)s) / date_part('epoch', %(step)s::interval)) AS stretch
          FROM evkit.lag_sample s
         WHERE s.cluster_id = %(cluster_id)s AND s.consumer_group = ANY (%(groups)s)
           AND s.sampled_at >= %(start)s AND s.sampled_at < %(until)s
           AND s.start_offset IS NOT NULL AND s.end_offset IS NOT NULL) AS look
 ORDER BY topic, partition, stretch, sampled_at DESC;
