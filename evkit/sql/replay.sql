-- Replays: planned, running, done; see runtime/replay.py.

-- name: insert
INSERT INTO evkit.replay_run (replay_id, consumer_group, topics, from_time, until_time, dedupe, generation, ranges, actor,
                              reason)
VALUES (%(replay_id)s, %(group)s, %(topics)s, %(from_time)s, %(until_time)s, %(dedupe)s, %(generation)s, %(ranges)s,
        %(actor)s, %(reason)s);

-- name: next_generation
SELECT 1 + greatest(
    (SELECT coalesce(max(generation), 0) FROM evkit.replay_run WHERE consumer_group = %(group)s),
    (SELECT coalesce(max(generation), 0) FROM evkit.inbox WHERE consumer_group = %(group)s));

-- name: run
SELECT replay_id, consumer_group, topics, from_time, until_time, dedupe, generation, ranges, state, handled, skipped,
       failed, actor, reason, created_at, started_at, finished_at
  FROM evkit.replay_run
 WHERE replay_id = %s;

-- name: runs
SELECT replay_id, consumer_group, topics, from_time, until_time, dedupe, generation, ranges, state, handled, skipped,
       failed, actor, reason, created_at, started_at, finished_at
  FROM evkit.replay_run
 ORDER BY created_at DESC
 LIMIT 1000;

-- name: lock
-- One process runs a replay; a second one is told so. The lock goes with the session.
SELECT pg_try_advisory_lock(hashtextextended('evkit.replay ' || %s, 0));

-- name: start
UPDATE evkit.replay_run
   SET state = 'running', started_at = coalesce(started_at, clock_timestamp()), finished_at = NULL
 WHERE replay_id = %s;

-- name: progress
UPDATE evkit.replay_run
   SET ranges = %(ranges)s, handled = handled + %(handled)s, skipped = skipped + %(skipped)s, failed = failed + %(failed)s
 WHERE replay_id = %(replay_id)s;

-- name: finish
UPDATE evkit.replay_run SET state = %(state)s, finished_at = clock_timestamp() WHERE replay_id = %(replay_id)s;

-- name: known_in_range
-- What the group has done with this stretch of a partition already, by outcome.
SELECT outcome, count(*) FROM evkit.inbox
 WHERE consumer_group = %(group)s AND generation = 0 AND topic = %(topic)s AND partition = %(partition)s
   AND "offset" >= %(start)s AND "offset" < %(end)s
 GROUP BY outcome;

-- name: group_topics
SELECT DISTINCT topic FROM evkit.inbox WHERE consumer_group = %s ORDER BY topic;
