-- What two stretches of time, or two code versions, are compared by: counts in equal buckets, numbered from 0. Live handling
-- only; a window's end is not in it.

-- name: groups
-- Handled, failed and dead of each group.
WITH happened AS (
    SELECT consumer_group, processed_at AS at, 'handled' AS what FROM evkit.inbox
     WHERE processed_at >= %(first)s AND processed_at < %(last)s AND outcome = 'handled' AND replay_id IS NULL
       AND (%(version)s::text IS NULL OR code_version = %(version)s)
     UNION ALL
    SELECT consumer_group, failed_at, CASE disposition WHEN 'dead' THEN 'dead' ELSE 'failed' END FROM evkit.attempt
     WHERE failed_at >= %(first)s AND failed_at < %(last)s AND replay_id IS NULL
       AND (%(version)s::text IS NULL OR code_version = %(version)s)
)
SELECT consumer_group AS "group",
       least(floor(extract(epoch FROM at - %(since)s) / %(bucket_seconds)s::float8)::integer, %(buckets)s - 1) AS bucket,
       count(*) FILTER (WHERE what = 'handled') AS handled, count(*) FILTER (WHERE what <> 'handled') AS failed,
       count(*) FILTER (WHERE what = 'dead') AS dead
  FROM happened
 WHERE consumer_group = ANY (%(groups)s)
 GROUP BY 1, 2;

-- name: topics
WITH
-- include: published
SELECT topic,
       least(floor(extract(epoch FROM published_at - %(since)s) / %(bucket_seconds)s::float8)::integer, %(buckets)s - 1) AS bucket,
       count(*) AS published
  FROM published
 GROUP BY 1, 2;

-- name: durations
-- In steps of half a percent: as good as the rows themselves, and as few for a million of them as for a thousand.
SELECT i.consumer_group AS "group", d.measure,
       least(floor(extract(epoch FROM i.processed_at - %(since)s) / %(bucket_seconds)s::float8)::integer, %(buckets)s - 1) AS bucket,
       floor(ln(greatest(d.seconds, 0.0001)) / 0.005)::integer AS step, count(*) AS n, sum(d.seconds) AS seconds
  FROM evkit.inbox i
 CROSS JOIN LATERAL (VALUES ('latency', extract(epoch FROM i.processed_at - i.created_at)::float8),
                            ('handling', extract(epoch FROM i.processed_at - i.received_at)::float8)) AS d (measure, seconds)
 WHERE i.processed_at >= %(first)s AND i.processed_at < %(last)s AND i.outcome = 'handled' AND i.replay_id IS NULL
   AND (%(version)s::text IS NULL OR i.code_version = %(version)s) AND i.consumer_group = ANY (%(groups)s)
   AND d.seconds IS NOT NULL
 GROUP BY 1, 2, 3, 4;

-- name: versions
-- Code versions that handled or failed something in the window, the newest first.
SELECT code_version FROM (
    SELECT code_version, max(processed_at) AS at FROM evkit.inbox
     WHERE processed_at >= %(since)s AND processed_at < %(until)s AND code_version IS NOT NULL GROUP BY 1
     UNION ALL
    SELECT code_version, max(failed_at) FROM evkit.attempt
     WHERE failed_at >= %(since)s AND failed_at < %(until)s AND code_version IS NOT NULL GROUP BY 1) AS seen
 GROUP BY code_version
 ORDER BY max(at) DESC;
