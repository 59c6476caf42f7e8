-- From the database write to the broker's confirmation, both on the database's clock.

-- name: relay_lag
-- Percentiles of what was confirmed in the window, and of what waits by now for longer than their p99. Rows up to the
-- settled position are published, unpublishable or will never exist; what is unpublishable does not wait for the relay.
WITH bound AS (
    SELECT clock_timestamp() AS now
), published AS (
    SELECT extract(epoch FROM p.published_at - o.created_at)::float8 AS seconds, false AS pending
      FROM evkit.publication p JOIN evkit.outbox o USING (position)
     WHERE p.published_at >= %(since)s AND p.published_at < %(until)s
), cut AS (
    SELECT count(*) AS n, coalesce(percentile_disc(0.99) WITHIN GROUP (ORDER BY seconds), -1) AS p99 FROM published
), late AS (
    SELECT extract(epoch FROM bound.now - o.created_at)::float8 AS seconds, true AS pending
      FROM bound, cut, evkit.outbox o
     WHERE o.position > coalesce((SELECT settled_position FROM evkit.relay), 0) AND o.created_at < %(until)s
       AND extract(epoch FROM bound.now - o.created_at)::float8 > cut.p99
       AND NOT EXISTS (SELECT FROM evkit.publication p WHERE p.position = o.position)
       AND NOT EXISTS (SELECT FROM evkit.unpublishable u WHERE u.position = o.position AND u.state <> 'published')
), spread AS (
    SELECT percentile_disc(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY seconds) AS p, max(seconds) AS longest,
           min(seconds) FILTER (WHERE pending) AS late_least
      FROM (SELECT * FROM published UNION ALL SELECT * FROM late) AS every
)
SELECT bound.now AS measured_at, (SELECT name FROM evkit.relay) AS relay, cut.n AS published,
       s.p[1] AS p50_seconds, s.p[2] AS p95_seconds, s.p[3] AS p99_seconds, s.longest AS max_seconds,
       coalesce(s.p[3] >= s.late_least, false) AS p99_is_lower_bound
  FROM bound CROSS JOIN cut CROSS JOIN spread s;

-- name: relay_lag_over_time
WITH bound AS (
    SELECT least(%(until)s::timestamptz, clock_timestamp()) AS until
), event AS (
    SELECT o.created_at, p.position IS NULL AS pending,
           extract(epoch FROM coalesce(p.published_at, bound.until) - o.created_at)::float8 AS seconds
      FROM bound, evkit.outbox o
      LEFT JOIN evkit.publication p ON p.position = o.position AND p.published_at < %(until)s
     WHERE o.created_at >= %(since)s AND o.created_at < bound.until
), bucketed AS (
    SELECT date_bin(%(bucket)s, created_at, '2000-01-03Z') AS bucket_at,
           count(*) FILTER (WHERE NOT pending) AS n, count(*) FILTER (WHERE pending) AS pending_n,
           percentile_disc(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY seconds) AS p, max(seconds) AS longest,
           min(seconds) FILTER (WHERE pending) AS pending_least
      FROM event GROUP BY 1
)
SELECT bucket_at, extract(epoch FROM least(bucket_at + %(bucket)s, bound.until) - greatest(bucket_at, %(since)s))::float8
           AS bucket_seconds,
       n, pending_n, p[1] AS p50_seconds, p[2] AS p95_seconds, p[3] AS p99_seconds, longest AS max_seconds,
       coalesce(p[3] >= pending_least, false) AS p99_is_lower_bound,
       bucket_at < %(since)s OR bucket_at + %(bucket)s > bound.until AS partial
  FROM bucketed, bound
 ORDER BY bucket_at;
