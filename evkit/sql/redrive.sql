-- Redrives: a frozen selection of dead letters, and what became of each of them.

-- name: add_run
INSERT INTO evkit.redrive_run (redrive_id, consumer_group, state, run_by, to_topic, stop_at_failure, per_second_max,
                               fingerprints, actor, reason, audit_id)
VALUES (%(redrive_id)s, %(group)s, %(state)s, %(run_by)s, %(to_topic)s, %(stop_at_failure)s, %(per_second_max)s,
        %(fingerprints)s, %(actor)s, %(reason)s, %(audit_id)s);

-- name: add_letters
INSERT INTO evkit.redrive_letter (redrive_id, position, letter_id, state)
SELECT %(redrive_id)s, position, letter_id, state
  FROM unnest(%(letter_ids)s::bigint[], %(states)s::text[]) WITH ORDINALITY AS e (letter_id, state, position);

-- name: lock_run
-- One process at a time runs it; the lock goes with the session.
SELECT pg_try_advisory_lock(hashtextextended('evkit.redrive ' || %(redrive_id)s, 0));

-- name: unlock_run
SELECT pg_advisory_unlock(hashtextextended('evkit.redrive ' || %(redrive_id)s, 0));

-- name: runs
-- The newest first.
SELECT r.redrive_id, r.consumer_group,
       CASE WHEN r.state = 'running' AND NOT
-- include: somebody_runs_it
            THEN 'interrupted' ELSE r.state END AS state,
       r.run_by, r.to_topic, r.stop_at_failure, r.per_second_max, r.fingerprints, r.cancel_requested, r.stage, r.why,
       r.actor, r.reason, r.audit_id, r.created_at, r.started_at, r.finished_at, c.*
  FROM evkit.redrive_run r
 CROSS JOIN LATERAL (
       SELECT count(*) AS letters, count(*) FILTER (WHERE state = 'resolved' OR (state = 'tail' AND settled_at IS NOT NULL)) AS resolved,
              count(*) FILTER (WHERE state = 'sent') AS sent, count(*) FILTER (WHERE state = 'failed') AS failed,
              count(*) FILTER (WHERE state = 'skipped') AS skipped,
              count(*) FILTER (WHERE state = 'waiting' OR (state = 'tail' AND settled_at IS NULL)) AS not_tried,
              count(*) FILTER (WHERE state = 'tail' AND settled_at IS NOT NULL) AS tails_left,
              coalesce(sum(released), 0)::bigint AS released, count(failed_behind) AS failed_behind
         FROM evkit.redrive_letter i WHERE i.redrive_id = r.redrive_id) AS c
 WHERE (%(redrive_id)s::text IS NULL OR r.redrive_id = %(redrive_id)s)
   AND (%(group)s::text IS NULL OR r.consumer_group = %(group)s)
 ORDER BY r.created_at DESC
 LIMIT %(runs_max)s;

-- name: run_letters
-- Everything of a run, in its order.
SELECT i.letter_id,
       CASE WHEN i.state = 'tail' THEN CASE WHEN i.settled_at IS NULL THEN 'waiting' ELSE 'resolved' END ELSE i.state END AS state,
       i.released, i.failed_behind, i.why, l.error_class, l.error_message, i.state = 'tail' AND i.settled_at IS NOT NULL AS tail_left,
       l.topic, l.event_type
  FROM evkit.redrive_letter i LEFT JOIN evkit.dead_letter l USING (letter_id)
 WHERE i.redrive_id = %(redrive_id)s ORDER BY i.position;

-- name: run_types
-- Types of the letters that are still to run, with the first letter of each.
SELECT l.event_type, count(*), min(l.letter_id)
  FROM evkit.redrive_letter i JOIN evkit.dead_letter l USING (letter_id)
 WHERE i.redrive_id = %(redrive_id)s AND i.state = 'waiting' AND l.state = 'open'
 GROUP BY 1 ORDER BY 1;

-- name: known_runs
SELECT redrive_id FROM evkit.redrive_run ORDER BY created_at DESC LIMIT 1000;

-- name: start
UPDATE evkit.redrive_run
   SET state = 'running', started_at = coalesce(started_at, clock_timestamp()), finished_at = NULL, why = NULL
 WHERE redrive_id = %(redrive_id)s;

-- name: stage
-- Also the way in which a cancellation is seen.
UPDATE evkit.redrive_run SET stage = %(stage)s WHERE redrive_id = %(redrive_id)s;

-- name: is_cancelled
SELECT cancel_requested FROM evkit.redrive_run WHERE redrive_id = %(redrive_id)s;

-- name: is_left
-- Whether a letter is still to run, or what waits behind one.
SELECT EXISTS (SELECT FROM evkit.redrive_letter WHERE redrive_id = %(redrive_id)s AND state IN ('waiting', 'tail'));

-- name: end
UPDATE evkit.redrive_run SET state = %(state)s, why = %(why)s, stage = 0, finished_at = clock_timestamp()
 WHERE redrive_id = %(redrive_id)s;

-- name: go_on
-- By whoever takes up a run again.
UPDATE evkit.redrive_run
   SET state = %(state)s, run_by = %(run_by)s, cancel_requested = false, audit_id = %(audit_id)s
 WHERE redrive_id = %(redrive_id)s;

-- name: try_failed_again
UPDATE evkit.redrive_letter SET state = 'waiting', settled_at = NULL WHERE redrive_id = %(redrive_id)s AND state = 'failed';

-- name: cancel
-- A run that nobody has in hand ends at once, another at its next look.
UPDATE evkit.redrive_run
   SET cancel_requested = true,
       state = CASE WHEN %(at_once)s THEN 'cancelled' ELSE state END,
       finished_at = CASE WHEN %(at_once)s THEN clock_timestamp() ELSE finished_at END
 WHERE redrive_id = %(redrive_id)s AND state IN ('planned', 'queued', 'running', 'stopped');

-- name: queued
-- What the running consumers of a group have to do, the oldest first.
SELECT redrive_id FROM evkit.redrive_run
 WHERE consumer_group = %(group)s AND run_by = 'consumers' AND state IN ('queued', 'running')
 ORDER BY created_at
 LIMIT 10;

-- name: next
-- What comes next, as much of it as one transaction may have in memory: a letter to run, or the tail behind one that needs
-- none. Before position %(first)s nothing is left. Each letter is looked up by itself (OFFSET 0), however few there are.
SELECT position, letter_id, state, has_tail, begun
  FROM (SELECT i.position, i.letter_id, i.state, coalesce(p.events, 0) > 0 AS has_tail, i.settled_at IS NOT NULL AS begun,
               sum(coalesce(l.bytes, 0)) OVER (ORDER BY i.position) - coalesce(l.bytes, 0) AS bytes_before
          FROM (SELECT position, letter_id, state, settled_at
                  FROM evkit.redrive_letter
                 WHERE redrive_id = %(redrive_id)s AND position >= %(first)s AND state IN ('waiting', 'tail')
                 ORDER BY position
                 LIMIT %(letters_max)s) AS i
          LEFT JOIN LATERAL (SELECT consumer_group, topic, raw_key, octet_length(raw_value) AS bytes
                               FROM evkit.dead_letter
                              WHERE letter_id = i.letter_id
                             OFFSET 0) AS l ON true
          LEFT JOIN LATERAL (SELECT events
                               FROM evkit.parked_key
                              WHERE (consumer_group, topic, raw_key) = (l.consumer_group, l.topic, l.raw_key)
                                AND letter_id = i.letter_id
                             OFFSET 0) AS p ON true) AS n
 WHERE bytes_before < %(bytes_max)s
 ORDER BY position;

-- name: lock_letters
-- Locked, so that two redrives of one letter do not run its handler twice; those that another one has are left out.
SELECT i.position, l.letter_id, l.event_id, l.generation, l.retry_count, l.topic, l.partition, l."offset", l.leader_epoch,
       l.appended_at, l.timestamp_type, l.raw_key, l.raw_value, l.header_names, l.header_values, l.failed_at, l.edited_from,
       EXISTS (SELECT FROM evkit.parked_key p
                WHERE (p.consumer_group, p.topic, p.raw_key) = (l.consumer_group, l.topic, l.raw_key)
                  AND p.letter_id = l.letter_id) AS parks
  FROM evkit.redrive_letter i JOIN evkit.dead_letter l USING (letter_id)
 WHERE i.redrive_id = %(redrive_id)s AND i.position = ANY (%(positions)s::integer[]) AND i.state = 'waiting'
   AND l.consumer_group = %(group)s AND l.state = 'open' AND l.held_at IS NULL
 ORDER BY i.position
   FOR UPDATE OF l SKIP LOCKED;

-- name: lock_keys
-- Of these letters' parked keys, those that nobody is parking an event of: how many events wait.
SELECT p.letter_id, p.events
  FROM evkit.parked_key p
  JOIN evkit.dead_letter l ON (p.consumer_group, p.topic, p.raw_key) = (l.consumer_group, l.topic, l.raw_key)
                          AND p.letter_id = l.letter_id
 WHERE l.letter_id = ANY (%(letter_ids)s::bigint[])
   FOR UPDATE OF p SKIP LOCKED;

-- name: resolve
-- Letters that are handled now; a key that nothing waits for is free, the others' tails come next.
WITH freed AS (
    DELETE FROM evkit.parked_key p USING evkit.dead_letter l
     WHERE l.letter_id = ANY (%(free_ids)s::bigint[]) AND p.letter_id = l.letter_id
       AND (p.consumer_group, p.topic, p.raw_key) = (l.consumer_group, l.topic, l.raw_key)
), resolved AS (
    UPDATE evkit.dead_letter
       SET state = 'resolved', state_before = 'open', state_changed_at = clock_timestamp(), replay_id = %(redrive_id)s
     WHERE letter_id = ANY (%(letter_ids)s::bigint[])
)
UPDATE evkit.redrive_letter SET state = %(state)s, settled_at = clock_timestamp()
 WHERE redrive_id = %(redrive_id)s AND position = ANY (%(positions)s::integer[]);

-- name: failed_again
UPDATE evkit.dead_letter
   SET handler = %(handler)s, error_class = %(error_class)s, error_message = %(error_message)s,
       stack_trace = %(stack_trace)s, fingerprint = %(fingerprint)s, code_version = %(code_version)s,
       failed_at = clock_timestamp(), retry_count = retry_count + 1, replay_id = %(replay_id)s
 WHERE letter_id = %(letter_id)s AND state = 'open';

-- name: settle
UPDATE evkit.redrive_letter SET state = %(state)s, why = %(why)s, settled_at = clock_timestamp()
 WHERE redrive_id = %(redrive_id)s AND position = %(position)s;

-- name: settle_tail
-- A letter that has run is resolved; of one that nobody wanted handled, what waited behind it is released.
UPDATE evkit.redrive_letter
   SET state = CASE WHEN settled_at IS NULL THEN 'released' ELSE 'resolved' END, settled_at = clock_timestamp()
 WHERE redrive_id = %(redrive_id)s AND position = %(position)s;

-- name: note_behind
-- So many events behind the letter are handled, or (failed_behind) one has become a letter itself; and whether the run is
-- cancelled.
UPDATE evkit.redrive_letter
   SET released = released + %(released)s, failed_behind = %(failed_behind)s::bigint
 WHERE redrive_id = %(redrive_id)s AND position = %(position)s
RETURNING (SELECT cancel_requested FROM evkit.redrive_run WHERE redrive_id = %(redrive_id)s);

-- name: why_not
-- Why a letter cannot be locked.
SELECT state, held_at IS NOT NULL FROM evkit.dead_letter WHERE letter_id = %(letter_id)s;

-- name: keys_behind
-- The parked key that waits behind a letter.
SELECT p.consumer_group, p.topic, p.raw_key, p.key, p.letter_id, l.state AS letter_state, l.error_class, l.error_message,
       p.events, p.parked_at
  FROM evkit.dead_letter l
  JOIN evkit.parked_key p ON (p.consumer_group, p.topic, p.raw_key) = (l.consumer_group, l.topic, l.raw_key)
                         AND p.letter_id = l.letter_id
 WHERE l.letter_id = %(letter_id)s;
