-- Writing events, in the caller's transaction.

-- name: write
-- clock_timestamp() is the column's default: a long business transaction must not make its events look late.
INSERT INTO evkit.outbox (id, aggregatetype, aggregateid, type, payload, topic, schema_version, headers,
                          correlation_id, causation_id, traceparent)
VALUES (%s, %s, %s, %s, %s::json, %s, %s, %s::json, %s, %s, %s);

-- name: write_many
-- One statement for thousands of events. The ordinality keeps the caller's order, which is the order of the positions.
INSERT INTO evkit.outbox (id, aggregatetype, aggregateid, type, payload, topic, schema_version, headers,
                          correlation_id, causation_id, traceparent)
SELECT id, aggregatetype, aggregateid, type, payload::json, topic, schema_version, headers::json,
       correlation_id, causation_id, traceparent
  FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::integer[], %s::text[],
              %s::text[], %s::text[], %s::text[])
       WITH ORDINALITY AS e (id, aggregatetype, aggregateid, type, payload, topic, schema_version, headers,
                             correlation_id, causation_id, traceparent, nth)
 ORDER BY nth;

-- name: schedule
INSERT INTO evkit.scheduled (id, aggregatetype, aggregateid, type, payload, topic, schema_version, headers,
                          correlation_id, causation_id, traceparent, due_at)
VALUES (%s, %s, %s, %s, %s::json, %s, %s, %s::json, %s, %s, %s, %s);

-- name: schedule_many
INSERT INTO evkit.scheduled (id, aggregatetype, aggregateid, type, payload, topic, schema_version, headers,
                          correlation_id, causation_id, traceparent, due_at)
SELECT id, aggregatetype, aggregateid, type, payload::json, topic, schema_version, headers::json,
       correlation_id, causation_id, traceparent, due_at
  FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::integer[], %s::text[],
              %s::text[], %s::text[], %s::text[], %s::timestamptz[])
       WITH ORDINALITY AS e (id, aggregatetype, aggregateid, type, payload, topic, schema_version, headers,
                             correlation_id, causation_id, traceparent, due_at, nth)
 ORDER BY nth;

-- name: cancel
DELETE FROM evkit.scheduled WHERE id = %s;

-- name: notify
-- Wakes the relay at the commit; many in one transaction are one.
SELECT pg_notify('evkit_outbox', '');

-- name: lock_key
-- Two events of one key written by two transactions get positions in the order of their commits.
SELECT pg_advisory_xact_lock(hashtextextended(%s, 6085));

-- name: status
-- What waits, and what the relay stands at; cheap enough for every scrape of the metrics. Up to the settled position
-- everything is published, unpublishable or will never exist, so only rows above it are looked at. The relay's lock is the
-- one that relay.sql takes.
WITH relay AS (
    SELECT r.*, r.hole_position > r.settled_position AS held_open FROM evkit.relay r
), waiting AS (
    SELECT count(*) AS n, min(o.created_at) AS since
      FROM evkit.outbox o
     WHERE o.position > coalesce((SELECT settled_position FROM relay), 0)
       AND NOT EXISTS (SELECT FROM evkit.publication p WHERE p.position = o.position)
       AND NOT EXISTS (SELECT FROM evkit.unpublishable u WHERE u.position = o.position AND u.state <> 'published')
), later AS (
    SELECT count(*) AS n, count(*) FILTER (WHERE due_at <= clock_timestamp()) AS due, min(due_at) AS first
      FROM evkit.scheduled
), stuck AS (
    SELECT count(*) FILTER (WHERE state = 'parked') AS parked, count(*) FILTER (WHERE state = 'held') AS held,
           count(*) FILTER (WHERE state = 'retry') AS retrying,
           min(parked_at) FILTER (WHERE state IN ('parked', 'retry')) AS since
      FROM evkit.unpublishable WHERE state IN ('parked', 'held', 'retry')
), leader AS (
    SELECT l.pid, CASE WHEN a.client_port = -1 THEN 'local' ELSE host(a.client_addr) END AS address
      FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
     WHERE l.locktype = 'advisory' AND l.granted AND l.classid = 6085 AND l.objid = 1 AND l.objsubid = 2
       AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
     LIMIT 1
)
SELECT w.n AS waiting, extract(epoch FROM clock_timestamp() - w.since)::float8 AS oldest_waiting_seconds,
       s.n AS scheduled, s.due, greatest(extract(epoch FROM clock_timestamp() - s.first), 0)::float8
           * CASE WHEN s.due > 0 THEN 1 END AS oldest_due_seconds,
       u.parked AS unpublishable, u.held, u.retrying,
       extract(epoch FROM clock_timestamp() - u.since)::float8 AS oldest_unpublishable_seconds,
       CASE WHEN r.held_open THEN r.hole_position END AS oldest_hole_position,
       CASE WHEN r.held_open THEN extract(epoch FROM clock_timestamp() - r.hole_since)::float8 END AS oldest_hole_seconds,
       CASE WHEN r.held_open THEN r.hole_since END AS hole_since,
       r.settled_position, r.moved_at, r.failing_position, r.failing_since, r.failing_error,
       l.pid AS leader_pid, l.address AS leader_address
  FROM waiting w CROSS JOIN later s CROSS JOIN stuck u LEFT JOIN relay r ON true LEFT JOIN leader l ON true;

-- name: status_counts
-- All rows there are, exactly: the only part of the status whose cost grows with the table and not with what waits.
-- A skipped one whose partition is gone is history, not a row.
SELECT (SELECT count(*) FROM evkit.outbox) AS written,
       (SELECT count(*) FROM evkit.publication) AS published,
       (SELECT count(*) FROM evkit.unpublishable u
         WHERE u.state = 'skipped' AND EXISTS (SELECT FROM evkit.outbox o WHERE o.position = u.position)) AS skipped;
