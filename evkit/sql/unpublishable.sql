-- Outbox rows that could not be published, and what people decide about them; the relay's own queries are in relay.sql.

-- name: rows
-- The parked ones first in the order of their positions, each with how many wait behind it.
SELECT u.position, u.state, u.topic, u.key, o.id AS event_id, o.type AS event_type, u.attempts, u.error_class, u.error,
       u.parked_at, u.state_changed_at,
       (SELECT count(*) FROM evkit.unpublishable h WHERE h.state = 'held' AND h.blocked_by = u.position) AS held
  FROM evkit.unpublishable u LEFT JOIN evkit.outbox o USING (position)
 WHERE u.state = ANY (%(states)s)
   AND (%(positions)s::bigint[] IS NULL OR u.position = ANY (%(positions)s))
   AND (%(topic)s::text IS NULL OR u.topic = %(topic)s)
   AND (%(key)s::text IS NULL OR u.key = %(key)s)
   AND (%(error_class)s::text IS NULL OR u.error_class = %(error_class)s)
 ORDER BY u.position
 LIMIT %(rows_max)s;

-- name: ask_for_retry
UPDATE evkit.unpublishable SET state = 'retry', state_changed_at = clock_timestamp()
 WHERE position = ANY (%s::bigint[]) AND state IN ('parked', 'skipped')
RETURNING position;

-- name: skip
UPDATE evkit.unpublishable SET state = 'skipped', state_changed_at = clock_timestamp()
 WHERE position = ANY (%s::bigint[]) AND state IN ('parked', 'retry')
RETURNING position;

-- name: decided
-- The relay sees another number with its next read, and looks.
UPDATE evkit.relay SET decisions = decisions + 1;

-- name: release_behind
-- What waited behind skipped rows may be tried; the relay still keeps it behind any other parked row of its key.
UPDATE evkit.unpublishable SET state = 'retry', blocked_by = NULL, state_changed_at = clock_timestamp()
 WHERE state = 'held' AND blocked_by = ANY (%s::bigint[])
RETURNING position;
