-- Handling once: inbox rows, failed attempts and dead letters, each in the transaction of what it tells about.

-- name: claim
-- All inbox rows of a batch in one statement; comes back with the ids that are new to the group.
INSERT INTO evkit.inbox (consumer_group, event_id, generation, event_type, topic, partition, "offset", key, outcome,
                         attempts, created_at, appended_at, received_at, replay_id)
SELECT %(group)s, event_id, %(generation)s, event_type, topic, partition, "offset", key, outcome,
       %(attempts)s, created_at, appended_at, received_at, %(replay_id)s
  FROM unnest(%(event_id)s::text[], %(event_type)s::text[], %(topic)s::text[], %(partition)s::integer[],
              %(offset)s::bigint[], %(key)s::text[], %(outcome)s::text[], %(created_at)s::timestamptz[],
              %(appended_at)s::timestamptz[], %(received_at)s::timestamptz[])
       AS e (event_id, event_type, topic, partition, "offset", key, outcome, created_at, appended_at, received_at)
    ON CONFLICT DO NOTHING
RETURNING event_id;

-- name: processed_now
-- The rows were claimed before their handlers ran; when that took long, they were not processed by then.
UPDATE evkit.inbox SET processed_at = clock_timestamp()
 WHERE consumer_group = %(group)s AND generation = %(generation)s AND event_id = ANY (%(event_ids)s::text[]);

-- name: reclaim
-- A dead event is handled after all (redrive): its inbox row turns from dead to handled, once.
UPDATE evkit.inbox
   SET outcome = 'handled', attempts = attempts + 1, processed_at = clock_timestamp(), replay_id = %(replay_id)s
 WHERE consumer_group = %(group)s AND event_id = %(event_id)s AND generation = %(generation)s AND outcome = 'dead';

-- name: attempt
-- The fingerprint and the stack are computed once, at the failure, so that groups of failures stay stable.
INSERT INTO evkit.attempt (consumer_group, event_id, generation, event_type, topic, partition, "offset", key, attempt,
                           duration_seconds, handler, error_class, error_message, stack_trace, fingerprint, disposition,
                           code_version, replay_id)
VALUES (%(group)s, %(event_id)s, %(generation)s, %(event_type)s, %(topic)s, %(partition)s, %(offset)s, %(key)s,
        %(attempt)s, %(duration_seconds)s, %(handler)s, %(error_class)s, %(error_message)s, %(stack_trace)s,
        %(fingerprint)s, %(disposition)s, %(code_version)s, %(replay_id)s);

-- name: attempts_before
-- Attempts at this event so far: a consumer that was killed between two of them goes on counting.
SELECT count(*) FROM evkit.attempt
 WHERE consumer_group = %(group)s AND event_id = %(event_id)s AND generation = %(generation)s;

-- name: known_groups
SELECT DISTINCT consumer_group FROM evkit.inbox
 UNION SELECT DISTINCT consumer_group FROM evkit.dead_letter
 ORDER BY 1;
