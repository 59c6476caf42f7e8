-- From the database write to the broker's confirmation, both on the database's clock. Pages have a row for each event;
-- views/relay_lag.py makes percentiles of all pages.

-- name: state
-- Of now: what the relay stands at, without what waits for it, which may be very much.
WITH
-- include: relay_state
SELECT clock_timestamp() AS measured_at, r.name AS relay, (SELECT max(position) FROM evkit.outbox) AS newest_position,
-- include: relay_state_columns
  FROM later s CROSS JOIN stuck u LEFT JOIN relay r ON true LEFT JOIN leader l ON true;

-- name: published
-- A page is a stretch of the time of confirmation.
WITH
-- include: published
SELECT extract(epoch FROM published_at - created_at)::float8 AS seconds FROM published;

-- name: waiting
-- A page is a stretch of positions, all above the settled one: rows up to that are published, unpublishable or will never
-- exist. What is unpublishable does not wait for the relay.
SELECT extract(epoch FROM %(now)s::timestamptz - o.created_at)::float8 AS seconds,
       o.created_at < %(until)s AS is_of_window
  FROM evkit.outbox o
 WHERE o.position >= %(first)s AND o.position < %(last)s
   AND NOT EXISTS (SELECT FROM evkit.publication p
                    WHERE p.position = o.position AND p.position >= %(first)s AND p.position < %(last)s)
   AND NOT EXISTS (SELECT FROM evkit.unpublishable u WHERE u.position = o.position AND u.state <> 'published');

-- name: relay_lag_over_time
-- A page is a stretch of the time of writing.
WITH written AS MATERIALIZED (
    SELECT o.position, o.created_at FROM evkit.outbox o WHERE o.created_at >= %(first)s AND o.created_at < %(last)s
),
-- include: confirmation
SELECT date_bin(%(bucket)s, w.created_at, '2000-01-03Z') AS bucket_at, c.position IS NULL AS pending,
       extract(epoch FROM coalesce(c.published_at, %(until)s) - w.created_at)::float8 AS seconds
  FROM written w LEFT JOIN confirmation c USING (position);
