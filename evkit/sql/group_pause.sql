-- A consumer group that is to handle nothing for a while: asked for by a replay, heeded by the consumers.

-- name: request
-- One at a time for each group. What a dead replay has left is replaced.
INSERT INTO evkit.group_pause AS p (consumer_group, replay_id, actor)
VALUES (%(group)s, %(replay_id)s, %(actor)s)
    ON CONFLICT (consumer_group) DO UPDATE
   SET replay_id = EXCLUDED.replay_id, actor = EXCLUDED.actor, requested_at = clock_timestamp(), alive_at = clock_timestamp()
 WHERE p.replay_id = EXCLUDED.replay_id OR p.alive_at < clock_timestamp() - %(dead_seconds)s * interval '1 second'
RETURNING 1;

-- name: holder
SELECT replay_id, actor, requested_at FROM evkit.group_pause WHERE consumer_group = %s;

-- name: beat
UPDATE evkit.group_pause SET alive_at = clock_timestamp()
 WHERE consumer_group = %(group)s AND replay_id = %(replay_id)s
   AND alive_at > clock_timestamp() - %(dead_seconds)s * interval '1 second';

-- name: release
DELETE FROM evkit.group_pause WHERE consumer_group = %(group)s AND replay_id = %(replay_id)s;

-- name: members
-- Consumers that heed this pause and are alive.
SELECT kafka_member, process, in_hand FROM evkit.group_pause_member
 WHERE consumer_group = %(group)s AND replay_id = %(replay_id)s
   AND seen_at > clock_timestamp() - %(fresh_seconds)s * interval '1 second'
 ORDER BY process;

-- name: asked
-- For a consumer: the replay that wants its group to pause, if it is alive.
SELECT replay_id FROM evkit.group_pause
 WHERE consumer_group = %(group)s AND alive_at > clock_timestamp() - %(dead_seconds)s * interval '1 second';

-- name: acknowledge
INSERT INTO evkit.group_pause_member (consumer_group, member, replay_id, kafka_member, process, in_hand)
VALUES (%(group)s, %(member)s, %(replay_id)s, %(kafka_member)s, %(process)s, %(in_hand)s)
    ON CONFLICT (consumer_group, member) DO UPDATE
   SET replay_id = EXCLUDED.replay_id, kafka_member = EXCLUDED.kafka_member, in_hand = EXCLUDED.in_hand,
       seen_at = clock_timestamp();

-- name: leave
DELETE FROM evkit.group_pause_member WHERE consumer_group = %(group)s AND member = %(member)s;

-- name: forget
-- Members that were killed while their group paused.
DELETE FROM evkit.group_pause_member
 WHERE consumer_group = %(group)s AND seen_at < clock_timestamp() - interval '1 hour';

-- name: paused
-- For views: the groups that are paused at a moment, and the replay each waits for. A pause counts for 15 s after its last sign
-- of life (DEAD_SECONDS of runtime/group_pause.py).
SELECT consumer_group, replay_id FROM evkit.group_pause WHERE alive_at > %(now)s::timestamptz - interval '15 s';
