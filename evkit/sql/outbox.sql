-- Writing events, in the caller's transaction.

-- name: write
-- clock_timestamp() is the column's default: a long business transaction must not make its events look late.
INSERT INTO evkit.outbox (id, aggregatetype, aggregateid, type, payload, topic, schema_version, headers)
VALUES (%s, %s, %s, %s, %s::json, %s, %s, %s::json);

-- name: write_many
-- One statement for thousands of events. The ordinality keeps the caller's order, which is the order of the positions.
INSERT INTO evkit.outbox (id, aggregatetype, aggregateid, type, payload, topic, schema_version, headers)
SELECT id, aggregatetype, aggregateid, type, payload::json, topic, schema_version, headers::json
  FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::integer[], %s::text[])
       WITH ORDINALITY AS e (id, aggregatetype, aggregateid, type, payload, topic, schema_version, headers, nth)
 ORDER BY nth;

-- name: lock_key
-- Two events of one key written by two transactions get positions in the order of their commits.
SELECT pg_advisory_xact_lock(hashtextextended(%s, 6085));
