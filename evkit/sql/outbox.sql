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
-- everything is published, unpublishable or will never exist, so only rows above it are looked at.
WITH waiting AS (
    SELECT count(*) AS n, min(o.created_at) AS since
      FROM evkit.outbox o
     WHERE o.position > coalesce((SELECT settled_position FROM evkit.relay), 0)
       AND NOT EXISTS (SELECT FROM evkit.publication p WHERE p.position = o.position)
       AND NOT EXISTS (SELECT FROM evkit.unpublishable u WHERE u.position = o.position AND u.state <> 'published')
)
,
-- include: relay_state
SELECT w.n AS waiting, extract(epoch FROM clock_timestamp() - w.since)::float8 AS oldest_waiting_seconds,
-- include: relay_state_columns
  FROM waiting w CROSS JOIN later s CROSS JOIN stuck u LEFT JOIN relay r ON true LEFT JOIN leader l ON true;

-- name: status_counts
-- All rows there are, exactly: the only part of the status whose cost grows with the table and not with what waits.
-- A skipped one whose partition is gone is history, not a row.
SELECT (SELECT count(*) FROM evkit.outbox) AS written,
       (SELECT count(*) FROM evkit.publication) AS published,
       (SELECT count(*) FROM evkit.unpublishable u
         WHERE u.state = 'skipped' AND EXISTS (SELECT FROM evkit.outbox o WHERE o.position = u.position)) AS skipped;
