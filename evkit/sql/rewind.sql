-- Committed offsets that were moved back, with what they were before.

-- name: insert
INSERT INTO evkit.rewind (rewind_id, consumer_group, to_time, offsets, actor, reason)
VALUES (%(rewind_id)s, %(group)s, %(to_time)s, %(offsets)s, %(actor)s, %(reason)s);

-- name: done
UPDATE evkit.rewind SET state = 'done', done_at = clock_timestamp() WHERE rewind_id = %s;

-- name: undone
UPDATE evkit.rewind SET state = 'undone', undone_at = clock_timestamp() WHERE rewind_id = %s;

-- name: one
SELECT rewind_id, consumer_group, to_time, offsets, state, actor, reason, created_at, done_at, undone_at
  FROM evkit.rewind
 WHERE rewind_id = %s;

-- name: all
SELECT rewind_id, consumer_group, to_time, offsets, state, actor, reason, created_at, done_at, undone_at
  FROM evkit.rewind
 ORDER BY created_at DESC, rewind_id
 LIMIT 1000;
