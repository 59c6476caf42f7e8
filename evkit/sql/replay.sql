-- Replays: planned, running, done; see runtime/replay.py.

-- name: insert
INSERT INTO evkit.replay_run (replay_id, consumer_group, topics, from_time, until_time, dedupe, generation, ranges, actor,
                              reason, mode, emit, keys, types, errors_max, per_second_max, allow_missing)
VALUES (%(replay_id)s, %(group)s, %(topics)s, %(from_time)s, %(until_time)s, %(dedupe)s, %(generation)s, %(ranges)s,
        %(actor)s, %(reason)s, %(mode)s, %(emit)s, %(keys)s, %(types)s, %(errors_max)s, %(per_second_max)s,
        %(allow_missing)s);

-- name: insert_ranges
INSERT INTO evkit.replay_range (replay_id, topic, partition, topic_id, start_offset, end_offset)
SELECT %(replay_id)s, topic, partition, topic_id, start_offset, end_offset
  FROM unnest(%(topics)s::text[], %(partitions)s::integer[], %(topic_ids)s::text[], %(starts)s::bigint[], %(ends)s::bigint[])
       AS r (topic, partition, topic_id, start_offset, end_offset);

-- name: lock_generations
-- Two replays that are written down at the same time get different generations.
SELECT pg_advisory_xact_lock(hashtextextended('evkit.replay generation ' || %s, 0));

-- name: next_generation
SELECT 1 + greatest(
    (SELECT coalesce(max(generation), 0) FROM evkit.replay_run WHERE consumer_group = %(group)s),
    (SELECT coalesce(max(generation), 0) FROM evkit.inbox WHERE consumer_group = %(group)s));

-- name: runs
-- The newest first. A replay that is 'running' and gives no sign of life was killed: 'interrupted'. rows_per_second is over the
-- time that it ran, from its first start.
SELECT r.replay_id, r.consumer_group, r.topics, r.from_time, r.until_time, r.dedupe, r.generation,
       CASE WHEN r.state = 'running' AND coalesce(r.alive_at, '-infinity') < clock_timestamp() - %(dead_seconds)s * interval '1 second'
            THEN 'interrupted' ELSE r.state END AS state,
       r.mode, r.emit, r.keys, r.types, r.handled, r.known, r.skipped, r.failed, r.parked, r.filtered, r.emitted,
       p.offsets, p.offsets_done, r.errors_max, r.per_second_max, r.allow_missing, r.epoch, r.actor, r.reason, r.why,
       r.created_at, r.started_at, r.finished_at, r.alive_at
  FROM evkit.replay_run r
  LEFT JOIN LATERAL (SELECT sum(g.end_offset - g.start_offset)::bigint AS offsets,
                            sum((SELECT coalesce(sum(upper(d) - lower(d)), 0) FROM unnest(g.done) AS d))::bigint AS offsets_done
                       FROM evkit.replay_range g WHERE g.replay_id = r.replay_id) AS p ON true
 WHERE %(replay_id)s::text IS NULL OR r.replay_id = %(replay_id)s
 ORDER BY r.created_at DESC, r.replay_id
 LIMIT 1000;

-- name: ranges
SELECT topic, partition, topic_id, start_offset, end_offset,
       ARRAY (SELECT lower(d) FROM unnest(done) AS d ORDER BY 1) AS done_from,
       ARRAY (SELECT upper(d) FROM unnest(done) AS d ORDER BY 1) AS done_to
  FROM evkit.replay_range
 WHERE replay_id = %s
 ORDER BY topic, partition;

-- name: failures
-- The most frequent first.
SELECT fingerprint, events, error_class, error_message, handler, event_id, topic, partition, "offset"
  FROM evkit.replay_failure
 WHERE replay_id = %s
 ORDER BY events DESC, fingerprint
 LIMIT 50;

-- name: lock
-- One process runs a replay; a second one is told so. The lock goes with the session.
SELECT pg_try_advisory_lock(hashtextextended('evkit.replay ' || %s, 0));

-- name: start
UPDATE evkit.replay_run
   SET state = 'running', started_at = coalesce(started_at, clock_timestamp()), finished_at = NULL, why = NULL,
       alive_at = clock_timestamp(), epoch = epoch + 1, stop_requested_at = NULL, stop_requested_by = NULL,
       errors_max = CASE WHEN %(keep_errors_max)s THEN errors_max ELSE %(errors_max)s END,
       per_second_max = CASE WHEN %(keep_per_second_max)s THEN per_second_max ELSE %(per_second_max)s END
 WHERE replay_id = %(replay_id)s
RETURNING epoch;

-- name: beat
-- A sign of life, and what others say of it: whether it is still ours, and who wants it to stop.
UPDATE evkit.replay_run SET alive_at = clock_timestamp()
 WHERE replay_id = %(replay_id)s AND epoch = %(epoch)s
RETURNING stop_requested_by;

-- name: progress
-- The offsets that came to their end, unless they are there already, and the counts with them. The rows of several partitions
-- are locked in one order, as lanes write side by side. No row comes back when another process has started the replay anew.
WITH come AS MATERIALIZED (
    SELECT * FROM unnest(%(topics)s::text[], %(partitions)s::integer[], %(done)s::int8multirange[])
                  AS c (topic, partition, done)
), mine AS MATERIALIZED (
    SELECT r.topic, r.partition FROM evkit.replay_range r JOIN come c USING (topic, partition)
     WHERE r.replay_id = %(replay_id)s AND NOT r.done && c.done
     ORDER BY r.topic, r.partition
       FOR NO KEY UPDATE OF r
), counted AS (
    UPDATE evkit.replay_range r SET done = r.done + c.done
      FROM mine m JOIN come c USING (topic, partition)
     WHERE r.replay_id = %(replay_id)s AND r.topic = m.topic AND r.partition = m.partition
    RETURNING 1
), whole AS (
    SELECT count(*) AS n, (count(*) = %(places)s)::integer AS once FROM counted
)
UPDATE evkit.replay_run r
   SET handled = handled + once * %(handled)s, known = known + once * %(known)s, skipped = skipped + once * %(skipped)s,
       failed = failed + once * %(failed)s, parked = parked + once * %(parked)s, filtered = filtered + once * %(filtered)s,
       emitted = emitted + once * %(emitted)s
  FROM whole
 WHERE replay_id = %(replay_id)s AND epoch = %(epoch)s
RETURNING whole.n, failed, errors_max,
          EXISTS (SELECT FROM evkit.group_pause p
                   WHERE p.consumer_group = r.consumer_group AND p.replay_id = r.replay_id
                     AND p.alive_at > clock_timestamp() - %(relied_on_seconds)s * interval '1 second');

-- name: failure
INSERT INTO evkit.replay_failure AS f (replay_id, fingerprint, events, error_class, error_message, handler, event_id, topic,
                                       partition, "offset")
VALUES (%(replay_id)s, %(fingerprint)s, 1, %(error_class)s, %(error_message)s, %(handler)s, %(event_id)s, %(topic)s,
        %(partition)s, %(offset)s)
    ON CONFLICT (replay_id, fingerprint) DO UPDATE SET events = f.events + 1;

-- name: finish
UPDATE evkit.replay_run SET state = %(state)s, why = %(why)s, finished_at = clock_timestamp()
 WHERE replay_id = %(replay_id)s AND epoch = %(epoch)s;

-- name: request_stop
UPDATE evkit.replay_run SET stop_requested_at = clock_timestamp(), stop_requested_by = %(actor)s
 WHERE replay_id = %(replay_id)s AND state = 'running';

-- name: put_down
-- Of a replay that was killed: nobody runs it, and now it says so.
UPDATE evkit.replay_run SET state = 'stopped', why = %(why)s, finished_at = clock_timestamp(), epoch = epoch + 1
 WHERE replay_id = %(replay_id)s AND state IN ('planned', 'running');

-- name: dry_arm
-- A row of this table makes every COMMIT of its transaction fail, and nothing before that.
CREATE TEMPORARY TABLE IF NOT EXISTS evkit_dry (
    is_dry boolean CONSTRAINT a_dry_replay_commits_nothing UNIQUE DEFERRABLE INITIALLY DEFERRED);

-- name: dry_begin
INSERT INTO pg_temp.evkit_dry (is_dry) VALUES (true), (true);

-- name: dry_end
DELETE FROM pg_temp.evkit_dry;

-- name: dry_check
SET CONSTRAINTS ALL IMMEDIATE;

-- name: group_topics
SELECT DISTINCT topic FROM evkit.inbox WHERE consumer_group = %s ORDER BY topic;

-- name: interrupted
-- Replays of the group that somebody may want to go on with instead of planning another one.
SELECT replay_id, state, alive_at FROM evkit.replay_run
 WHERE consumer_group = %(group)s AND (state = 'stopped' AND why IS NOT NULL OR state = 'running'
       AND coalesce(alive_at, '-infinity') < clock_timestamp() - %(dead_seconds)s * interval '1 second')
   AND created_at > clock_timestamp() - interval '7 days'
 ORDER BY created_at DESC
 LIMIT 3;
