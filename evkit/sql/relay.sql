-- Reading the outbox without losing or reordering a row; see runtime/relay.py for why these forms and no others.

-- name: read
-- Rows above the high-water mark and rows that filled a remembered hole, in the order of their positions. One statement
-- is one snapshot, and xmin is that snapshot's; it comes even when there is no row.
SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint, r.*
  FROM (VALUES (1)) AS one
  LEFT JOIN LATERAL (
       SELECT * FROM (
           (SELECT o.position, o.topic, o.aggregatetype, convert_to(o.aggregateid, 'UTF8') AS key,
                   convert_to(o.payload::text, 'UTF8') AS value, o.id, o.type, o.schema_version, o.headers::text,
                   to_char(o.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
              FROM evkit.outbox o
             WHERE o.position > %(high)s
             ORDER BY o.position
             LIMIT %(events_max)s)
           UNION ALL
           SELECT f.*
             FROM unnest(%(hole_first)s::bigint[], %(hole_last)s::bigint[]) AS hole (first, last)
             CROSS JOIN LATERAL (
                  SELECT o.position, o.topic, o.aggregatetype, convert_to(o.aggregateid, 'UTF8'),
                         convert_to(o.payload::text, 'UTF8'), o.id, o.type, o.schema_version, o.headers::text,
                         to_char(o.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
                    FROM evkit.outbox o
                   WHERE o.position BETWEEN hole.first AND hole.last
                   ORDER BY o.position
                   LIMIT %(events_max)s) AS f
       ) AS found
        ORDER BY position
        LIMIT %(events_max)s
  ) AS r ON true
 ORDER BY r.position;

-- name: own_xid
-- A transaction id taken after a read: every transaction that held a position by then has a smaller one.
SELECT pg_current_xact_id()::text::bigint;

-- name: lead
-- One relay leads per outbox: a session lock, gone with the connection that everything else of the relay uses too.
SELECT pg_try_advisory_lock(hashtextextended('evkit.relay ' || %s, 0));

-- name: register
INSERT INTO evkit.relay (name) VALUES (%s) ON CONFLICT DO NOTHING;

-- name: settled
SELECT settled_position FROM evkit.relay WHERE name = %s;

-- name: unpublished_ranges
-- After a start: the stretches between the settled position and the last published one that have no publication. Some
-- are events that were not marked before the crash, some are holes; the next read tells.
SELECT previous + 1, position - 1
  FROM (SELECT position, lag(position, 1, %(settled)s::bigint) OVER (ORDER BY position) AS previous
          FROM evkit.publication
         WHERE position > %(settled)s) AS p
 WHERE position > previous + 1
 ORDER BY 1;

-- name: last_published
SELECT coalesce(max(position), 0) FROM evkit.publication WHERE position > %s;

-- name: clock
SELECT clock_timestamp();

-- name: mark
COPY evkit.publication (position, partition, "offset", published_at) FROM STDIN (FORMAT BINARY);

-- name: move
UPDATE evkit.relay
   SET settled_position = %(settled)s, moved_at = clock_timestamp(),
       failing_position = NULL, failing_since = NULL, failing_error = NULL
 WHERE name = %(name)s;

-- name: fail
UPDATE evkit.relay
   SET failing_since = CASE WHEN failing_position = %(position)s THEN failing_since ELSE clock_timestamp() END,
       failing_position = %(position)s, failing_error = %(error)s
 WHERE name = %(name)s;
