-- Events that wait behind a dead letter of their key.

-- name: parked_keys
-- Which of these keys are parked. Locked, in one order, until the events that come now stand behind the others.
SELECT topic, raw_key, letter_id, events FROM evkit.parked_key
 WHERE consumer_group = %(group)s AND raw_key = ANY (%(keys)s::bytea[])
 ORDER BY topic, raw_key
   FOR NO KEY UPDATE;

-- name: waiting
-- How many events of a group wait, and behind how many keys.
SELECT coalesce(sum(events), 0)::bigint, count(*) FROM evkit.parked_key WHERE consumer_group = %(group)s;

-- name: mark
UPDATE evkit.inbox SET outcome = 'parked'
 WHERE consumer_group = %(group)s AND generation = 0 AND event_id = ANY (%(event_ids)s::text[]);

-- name: add
INSERT INTO evkit.parked (consumer_group, event_id, event_type, topic, partition, "offset", leader_epoch, appended_at,
                          timestamp_type, raw_key, raw_value, header_names, header_values, created_at, received_at)
VALUES (%(group)s, %(event_id)s, %(event_type)s, %(topic)s, %(partition)s, %(offset)s, %(leader_epoch)s, %(appended_at)s,
        %(timestamp_type)s, %(raw_key)s, %(raw_value)s, %(header_names)s::text[], %(header_values)s::bytea[],
        %(created_at)s, %(received_at)s);

-- name: grow
UPDATE evkit.parked_key SET events = events + %(events)s
 WHERE consumer_group = %(group)s AND topic = %(topic)s AND raw_key = %(raw_key)s;

-- name: park
-- From now on events of this key wait. Where it is parked already (a letter of a released event), they wait behind the new
-- letter.
INSERT INTO evkit.parked_key (consumer_group, topic, raw_key, key, letter_id)
VALUES (%(group)s, %(topic)s, %(raw_key)s, %(key)s, %(letter_id)s)
    ON CONFLICT (consumer_group, topic, raw_key) DO UPDATE SET letter_id = EXCLUDED.letter_id;

-- name: keys
-- Parked keys with the letter that they wait behind, the longest parked first.
SELECT p.consumer_group, p.topic, p.raw_key, p.key, p.letter_id, l.state AS letter_state, l.error_class, l.error_message,
       p.events, p.parked_at
  FROM evkit.parked_key p LEFT JOIN evkit.dead_letter l USING (letter_id)
 WHERE (%(group)s::text IS NULL OR p.consumer_group = %(group)s)
   AND (%(key)s::text IS NULL OR p.key = %(key)s) AND (%(topic)s::text IS NULL OR p.topic = %(topic)s)
   AND (%(letters)s::bigint[] IS NULL OR p.letter_id = ANY (%(letters)s::bigint[]))
 ORDER BY p.parked_at, p.consumer_group, p.topic, p.raw_key
 LIMIT %(keys_max)s;

-- name: lock
-- One process at a time releases a key; the lock goes with the session.
SELECT pg_try_advisory_lock(hashtextextended('evkit.parked ' || %(group)s || ' ' || %(topic)s || ' ' || %(raw_key)s::bytea::text, 0));

-- name: unlock
SELECT pg_advisory_unlock(hashtextextended('evkit.parked ' || %(group)s || ' ' || %(topic)s || ' ' || %(raw_key)s::bytea::text, 0));

-- name: open_letter
-- A letter of the key that nobody has dealt with: what is parked waits behind it.
SELECT letter_id FROM evkit.dead_letter
 WHERE consumer_group = %(group)s AND topic = %(topic)s AND raw_key = %(raw_key)s AND generation = 0
   AND state IN ('open', 'retrying')
 ORDER BY letter_id LIMIT 1;

-- name: next
-- What comes next behind a letter, as much of it as one transaction may have in memory.
SELECT parked_id, event_id, topic, partition, "offset", leader_epoch, appended_at, timestamp_type, raw_key, raw_value,
       header_names, header_values, received_at
  FROM evkit.parked
 WHERE parked_id = ANY (ARRAY (
           SELECT parked_id
             FROM (SELECT parked_id, sum(bytes) OVER (ORDER BY parked_id) - bytes AS bytes_before
                     FROM (SELECT parked_id, coalesce(octet_length(raw_value), 0) AS bytes
                             FROM evkit.parked
                            WHERE consumer_group = %(group)s AND topic = %(topic)s AND raw_key = %(raw_key)s
                            ORDER BY parked_id
                            LIMIT %(events_max)s) AS n) AS m
            WHERE bytes_before < %(bytes_max)s))
 ORDER BY parked_id
   FOR UPDATE;

-- name: lock_key
SELECT letter_id FROM evkit.parked_key
 WHERE consumer_group = %(group)s AND topic = %(topic)s AND raw_key = %(raw_key)s
   FOR UPDATE;

-- name: free
-- After lock_key: the last event is through, and none came behind it while we waited for the lock.
DELETE FROM evkit.parked_key p
 WHERE p.consumer_group = %(group)s AND p.topic = %(topic)s AND p.raw_key = %(raw_key)s
   AND NOT EXISTS (SELECT FROM evkit.parked e
                    WHERE (e.consumer_group, e.topic, e.raw_key) = (p.consumer_group, p.topic, p.raw_key));

-- name: remove
WITH gone AS (DELETE FROM evkit.parked WHERE parked_id = ANY (%(parked_ids)s::bigint[]) RETURNING 1)
UPDATE evkit.parked_key SET events = events - (SELECT count(*) FROM gone)
 WHERE consumer_group = %(group)s AND topic = %(topic)s AND raw_key = %(raw_key)s;

-- name: settle
-- What became of a parked event that is not handled: skipped, or dead.
UPDATE evkit.inbox
   SET outcome = %(outcome)s, processed_at = clock_timestamp(), replay_id = %(replay_id)s
 WHERE consumer_group = %(group)s AND event_id = %(event_id)s AND generation = 0 AND outcome = 'parked';
