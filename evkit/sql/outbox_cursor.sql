-- Reading the outbox without losing or reordering a row; see runtime/outbox_cursor.py for why these forms and no others.

-- name: read
-- Rows above the high-water mark in the order of their positions. One statement is one snapshot; its first row, which has
-- no key, tells the snapshot's xmin (as position) and more (as schema_version): 1 a scheduled event is due, 2 times how
-- often people decided about unpublishable rows. At most so many bytes as are stored (what is inside is looked at by
-- nobody), so that a few huge payloads do not fill the relay's memory; one row at least.
SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS position, NULL AS topic, NULL AS key, NULL AS value,
       NULL AS id, NULL AS type,
       (CASE WHEN (SELECT min(due_at) FROM evkit.scheduled) <= clock_timestamp() THEN 1 ELSE 0 END
      + 2 * coalesce((SELECT decisions FROM evkit.relay WHERE name = 'default'), 0)) AS schema_version,
       NULL AS headers, NULL AS time, NULL AS correlation_id, NULL AS causation_id, NULL AS traceparent
 UNION ALL
SELECT position, topic, key, payload, id, type, schema_version, headers, time, correlation_id, causation_id, traceparent
  FROM (SELECT position, coalesce(topic, aggregatetype) AS topic, aggregateid AS key, payload, id, type, schema_version,
               headers, replace((created_at AT TIME ZONE 'UTC')::text, ' ', 'T') || 'Z' AS time,
               correlation_id, causation_id, traceparent, pg_column_size(payload) AS bytes,
               sum(pg_column_size(payload)) OVER (ORDER BY position ROWS UNBOUNDED PRECEDING) AS bytes_until
          FROM evkit.outbox
         WHERE position > %(high)s
         ORDER BY position
         LIMIT %(events_max)s) AS above
 WHERE bytes_until - bytes < %(bytes_max)s;

-- name: read_with_holes
-- The same, with rows that filled a remembered hole among them, in the order of all positions.
WITH found AS MATERIALIZED (
    (SELECT o.*, pg_column_size(o.payload) AS bytes
       FROM evkit.outbox o
      WHERE o.position > %(high)s
      ORDER BY o.position
      LIMIT %(events_max)s)
    UNION ALL
    SELECT f.*
      FROM unnest(%(hole_first)s::bigint[], %(hole_last)s::bigint[]) AS hole (first, last)
     CROSS JOIN LATERAL (
           SELECT o.*, pg_column_size(o.payload) AS bytes
             FROM evkit.outbox o
            WHERE o.position BETWEEN hole.first AND hole.last
            ORDER BY o.position
            LIMIT %(events_max)s) AS f
)
SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS position, NULL AS topic, NULL AS key, NULL AS value,
       NULL AS id, NULL AS type,
       (CASE WHEN (SELECT min(due_at) FROM evkit.scheduled) <= clock_timestamp() THEN 1 ELSE 0 END
      + 2 * coalesce((SELECT decisions FROM evkit.relay WHERE name = 'default'), 0)) AS schema_version,
       NULL AS headers, NULL AS time, NULL AS correlation_id, NULL AS causation_id, NULL AS traceparent
 UNION ALL
SELECT * FROM (
    SELECT position, coalesce(topic, aggregatetype), aggregateid, payload, id, type, schema_version, headers,
           replace((created_at AT TIME ZONE 'UTC')::text, ' ', 'T') || 'Z', correlation_id, causation_id, traceparent
      FROM (SELECT *, sum(bytes) OVER (ORDER BY position ROWS UNBOUNDED PRECEDING) AS bytes_until FROM found) AS counted
     WHERE bytes_until - bytes < %(bytes_max)s
     ORDER BY position
     LIMIT %(events_max)s) AS rows;

-- name: own_xid
-- A transaction id taken after a read: every transaction that held a position by then has a smaller one.
SELECT pg_current_xact_id()::text::bigint;

-- name: unpublished_ranges
-- After a start: the stretches between the settled position and the last one that was dealt with, of which nothing is
-- recorded. Some are events that were not marked before the crash, some are holes; the next read tells.
SELECT previous + 1, position - 1
  FROM (SELECT position, lag(position, 1, %(settled)s::bigint) OVER (ORDER BY position) AS previous
          FROM (SELECT position FROM evkit.publication WHERE position > %(settled)s
                 UNION ALL
                SELECT u.position FROM evkit.unpublishable u
                 WHERE u.position > %(settled)s AND u.state <> 'published') AS dealt_with) AS p
 WHERE position > previous + 1
 ORDER BY 1;

-- name: last_dealt_with
SELECT greatest((SELECT max(position) FROM evkit.publication WHERE position > %(settled)s),
                (SELECT max(position) FROM evkit.unpublishable WHERE position > %(settled)s), 0);
