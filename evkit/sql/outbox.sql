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

-- name: status
SELECT (SELECT count(*) FROM evkit.outbox) AS written,
       (SELECT count(*) FROM evkit.publication) AS published,
       w.waiting, w.oldest_waiting_seconds, r.failing_position, r.failing_since, r.failing_error
  FROM (SELECT count(*) AS waiting,
               extract(epoch FROM clock_timestamp() - min(o.created_at))::float8 AS oldest_waiting_seconds
          FROM evkit.outbox o
         WHERE NOT EXISTS (SELECT FROM evkit.publication p WHERE p.position = o.position)) AS w
  LEFT JOIN (SELECT failing_position, failing_since, failing_error FROM evkit.relay
              WHERE failing_position IS NOT NULL ORDER BY failing_since LIMIT 1) AS r ON true;
