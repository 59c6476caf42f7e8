-- Leading, claiming and marking; what is read from the outbox is in outbox_cursor.sql.

-- name: lead
-- One relay leads per outbox: a session lock, gone with the connection that the outbox is read on.
SELECT pg_try_advisory_lock(6085, 1);

-- name: silent_leader
-- The leader asks its connection something every second, whatever it waits for. Seconds since it last did; null when its
-- role's sessions are not ours to see.
SELECT l.pid, extract(epoch FROM clock_timestamp() - a.query_start)::float8
  FROM pg_locks l JOIN pg_stat_activity a USING (pid)
 WHERE l.locktype = 'advisory' AND l.granted AND l.classid = 6085 AND l.objid = 1 AND l.objsubid = 2
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database());

-- name: depose
SELECT pg_terminate_backend(%s);

-- name: end_stale_marks
-- Whoever has the lock is the only leader: another one's session for marks is left over, and one that hangs inside a mark
-- would hold the row that we need for as long as it hangs.
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
 WHERE datname = current_database() AND application_name = 'evkit relay marks' AND pid <> pg_backend_pid();

-- name: heartbeat
SELECT 1;

-- name: listen
LISTEN evkit_outbox;

-- name: register
INSERT INTO evkit.relay (name) VALUES ('default') ON CONFLICT DO NOTHING;

-- name: take
-- A new epoch: whoever led before cannot mark any more.
UPDATE evkit.relay SET epoch = epoch + 1, delivery = %(delivery)s WHERE name = 'default'
RETURNING relay_id::text, epoch, settled_position, claim, claims, marked_claim, claimed_at, cluster_id, decisions;

-- name: remember_cluster
UPDATE evkit.relay SET cluster_id = %(cluster_id)s WHERE name = 'default' AND epoch = %(epoch)s;

-- name: burn
-- The relay before us died with something claimed and not marked.
UPDATE evkit.relay SET claim_attempts = claim_attempts + 1 WHERE name = 'default' AND epoch = %s RETURNING claim_attempts;

-- name: spare
-- We go with nothing on our conscience: what we leave was given back, it did not kill us.
UPDATE evkit.relay SET claim_attempts = 0 WHERE name = 'default' AND epoch = %s AND claim_attempts > 0;

-- name: claim
UPDATE evkit.relay SET claim = %(claim)s, claims = %(claims)s, claimed_at = clock_timestamp()
 WHERE name = 'default' AND epoch = %(epoch)s;

-- name: claims_may_lag
SET synchronous_commit = off;

-- name: claimed_rows
-- Rows of claims that reached their topics for all we know, and that are not marked: id and position by topic.
SELECT coalesce(o.topic, o.aggregatetype), o.id, o.position, o.aggregateid
  FROM jsonb_to_recordset(%s::jsonb) AS claimed (first bigint, last bigint)
  JOIN evkit.outbox o ON o.position BETWEEN claimed.first AND claimed.last
 WHERE NOT EXISTS (SELECT FROM evkit.publication p WHERE p.position = o.position);

-- name: mark
UPDATE evkit.relay
   SET settled_position = greatest(settled_position, %(settled)s), moved_at = clock_timestamp(),
       marked_claim = greatest(marked_claim, %(claim)s), claim_attempts = 0,
       hole_position = %(hole_position)s, hole_since = clock_timestamp() - %(hole_seconds)s * interval '1 second',
       failing_position = NULL, failing_since = NULL, failing_error = NULL
 WHERE name = 'default' AND epoch = %(epoch)s
RETURNING clock_timestamp();

-- name: publications
COPY evkit.publication (position, partition, "offset", published_at) FROM STDIN (FORMAT BINARY);

-- name: unpublished
INSERT INTO evkit.unpublishable AS u (position, topic, key, state, blocked_by, attempts, error_class, error)
SELECT * FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::text[], %s::bigint[], %s::integer[], %s::text[], %s::text[])
    ON CONFLICT (position) DO UPDATE
   SET state = excluded.state, blocked_by = excluded.blocked_by, attempts = u.attempts + excluded.attempts,
       error_class = coalesce(excluded.error_class, u.error_class), error = coalesce(excluded.error, u.error),
       state_changed_at = clock_timestamp();

-- name: published_after_all
UPDATE evkit.unpublishable SET state = 'published', blocked_by = NULL, state_changed_at = clock_timestamp()
 WHERE position = ANY (%s::bigint[]);

-- name: fail
UPDATE evkit.relay
   SET failing_since = CASE WHEN failing_since IS NULL THEN clock_timestamp() ELSE failing_since END,
       failing_position = NULL, failing_error = %(error)s
 WHERE name = 'default';

-- name: held_keys
SELECT topic, key, min(position) FROM evkit.unpublishable
 WHERE state IN ('parked', 'held', 'retry') AND key <> '' GROUP BY topic, key;

-- name: retry_rows
-- What may be tried again: rows that somebody asked for, and those behind them in order of their key, up to the next row
-- that is parked. Rows without a key are behind nobody.
SELECT o.position, coalesce(o.topic, o.aggregatetype), o.aggregateid, o.payload, o.id, o.type, o.schema_version, o.headers,
       replace((o.created_at AT TIME ZONE 'UTC')::text, ' ', 'T') || 'Z', o.correlation_id, o.causation_id, o.traceparent
  FROM evkit.unpublishable u JOIN evkit.outbox o USING (position)
 WHERE u.state IN ('retry', 'held')
   AND NOT EXISTS (SELECT FROM evkit.unpublishable p
                    WHERE p.topic = u.topic AND p.key = u.key AND p.key <> '' AND p.state = 'parked'
                      AND p.position < u.position)
 ORDER BY o.position
 LIMIT %s;

-- name: move_due
-- Scheduled events whose time has come get their place in the outbox, those of the earliest time first. An id that the
-- outbox has already is the same event twice, and is not written again.
WITH due AS (
    DELETE FROM evkit.scheduled
     WHERE scheduled_id = ANY (ARRAY(SELECT scheduled_id FROM evkit.scheduled WHERE due_at <= clock_timestamp()
                                      ORDER BY due_at, scheduled_id LIMIT %s FOR UPDATE SKIP LOCKED))
    RETURNING *
)
INSERT INTO evkit.outbox (id, aggregatetype, aggregateid, type, payload, topic, schema_version, headers,
                          correlation_id, causation_id, traceparent)
SELECT id, aggregatetype, aggregateid, type, payload, topic, schema_version, headers,
       correlation_id, causation_id, traceparent
  FROM due ORDER BY due_at, scheduled_id
    ON CONFLICT DO NOTHING;
