-- Handling once: inbox rows, failed attempts and dead letters, each in the transaction of what it tells about.

-- part: inbox_rows
-- All inbox rows of a batch. They are processed when their handlers are through, as far ahead as that is expected.
INSERT INTO evkit.inbox (consumer_group, event_id, generation, event_type, topic, partition, "offset", key, outcome, attempts,
                         created_at, appended_at, received_at, processed_at, replay_id, payload_crc32, handler, code_version)
SELECT %(group)s, event_id, %(generation)s, event_type, topic, partition, "offset", key, outcome, %(attempts)s,
       created_at, appended_at, received_at, clock_timestamp() + %(ahead)s * interval '1 second', %(replay_id)s,
       payload_crc32, handler, %(code_version)s
  FROM unnest(%(event_id)s::text[], %(event_type)s::text[], %(topic)s::text[], %(partition)b::bigint[],
              %(offset)b::bigint[], %(key)s::text[], %(outcome)s::text[], %(created_at)b::timestamptz[],
              %(appended_at)b::timestamptz[], %(received_at)b::timestamptz[], %(payload_crc32)b::bigint[],
              %(handler)s::text[])
       AS e (event_id, event_type, topic, partition, "offset", key, outcome, created_at, appended_at, received_at,
             payload_crc32, handler)

-- name: claim
-- In one statement; comes back with the ids that are new to the group.
-- include: inbox_rows
    ON CONFLICT DO NOTHING
RETURNING event_id;

-- name: claim_new
-- Of a batch of which all are expected to be new: half the time, for PostgreSQL need not ask before it writes.
-- include: inbox_rows

-- name: flag_conflicts
-- Of records whose ids the group knows, those that are not the event it knows: other bytes, or another type, and not the very
-- record (which an older or newer decode function may have called by another name).
WITH other AS (
    SELECT e.event_id, e.event_type, e.topic, e.partition, e."offset", e.key
      FROM unnest(%(event_id)s::text[], %(event_type)s::text[], %(topic)s::text[], %(partition)b::bigint[],
                  %(offset)b::bigint[], %(key)s::text[], %(payload_crc32)b::bigint[])
           AS e (event_id, event_type, topic, partition, "offset", key, payload_crc32)
     CROSS JOIN LATERAL ( -- LIMIT keeps it a look-up for each id; as a join it may read all rows of the group
           SELECT topic, partition, "offset", event_type, payload_crc32 FROM evkit.inbox
            WHERE consumer_group = %(group)s AND generation = %(generation)s AND event_id = e.event_id LIMIT 1
           ) AS i
     WHERE (i.payload_crc32 <> e.payload_crc32 OR i.event_type <> e.event_type)
       AND (i.topic, i.partition, i."offset") <> (e.topic, e.partition, e."offset")
), flagged AS (
    INSERT INTO evkit.id_conflict AS c (consumer_group, event_id, generation, event_type, topic, partition, "offset", key,
                                        records)
    SELECT DISTINCT ON (event_id) %(group)s, event_id, %(generation)s, event_type, topic, partition, "offset", key,
           count(*) OVER (PARTITION BY event_id)
      FROM other ORDER BY event_id, "offset" DESC
        ON CONFLICT (consumer_group, event_id, generation) DO UPDATE
       SET event_type = excluded.event_type, topic = excluded.topic, partition = excluded.partition,
           "offset" = excluded."offset", key = excluded.key, records = c.records + excluded.records,
           last_seen_at = excluded.last_seen_at
)
SELECT event_id, topic, partition, "offset" FROM other ORDER BY topic, partition, "offset";

-- name: processed_now
-- The rows were claimed before their handlers ran; when that took long, they were not processed by then.
UPDATE evkit.inbox SET processed_at = clock_timestamp()
 WHERE consumer_group = %(group)s AND generation = %(generation)s AND event_id = ANY (%(event_ids)s::text[]);

-- name: gates
-- What may keep a claimed event from its handler: whether the group has parked keys, and which of its handlers are held.
-- Asked after the inbox rows are written, in a snapshot of its own, so that it sees a key that another member parked meanwhile.
SELECT EXISTS (SELECT FROM evkit.parked_key WHERE consumer_group = %(group)s),
       ARRAY (SELECT handler FROM evkit.breaker WHERE consumer_group = %(group)s AND state = 'open');

-- name: attempt
-- The fingerprint and the stack are computed once, at the failure, so that groups of failures stay stable.
INSERT INTO evkit.attempt (consumer_group, event_id, generation, event_type, topic, partition, "offset", key, attempt,
                           duration_seconds, handler, error_class, error_message, stack_trace, fingerprint, disposition,
                           code_version, replay_id)
VALUES (%(group)s, %(event_id)s, %(generation)s, %(event_type)s, %(topic)s, %(partition)s, %(offset)s, %(key)s,
        %(attempt)s, %(duration_seconds)s, %(handler)s, %(error_class)s, %(error_message)s, %(stack_trace)s,
        %(fingerprint)s, %(disposition)s, %(code_version)s, %(replay_id)s);

-- name: reclaim
-- Dead or parked events of one handler are handled after all (redrive, release): their inbox rows turn to handled, once. Comes
-- back with those that were waiting. The row of a parked one has counted its attempt when it came. They are processed when
-- their handlers are through, as far ahead as that is expected.
UPDATE evkit.inbox
   SET outcome = 'handled', attempts = attempts + (outcome = 'dead')::integer,
       processed_at = clock_timestamp() + %(ahead)s * interval '1 second',
       replay_id = %(replay_id)s, handler = %(handler)s, code_version = %(code_version)s
 WHERE consumer_group = %(group)s AND event_id = ANY (%(event_ids)s::text[]) AND generation = %(generation)s
   AND outcome IN ('dead', 'parked')
RETURNING event_id;

-- name: attempts_before
-- Attempts at this event so far, seconds since the first, and how many more failed through nobody's fault: a consumer that was
-- killed between two of them goes on counting.
SELECT count(*) FILTER (WHERE disposition <> 'held'),
       coalesce(extract(epoch FROM clock_timestamp() - min(failed_at) FILTER (WHERE disposition <> 'held')), 0)::float8,
       count(*) FILTER (WHERE disposition = 'held')
  FROM evkit.attempt
 WHERE consumer_group = %(group)s AND event_id = %(event_id)s AND generation = %(generation)s;

-- name: is_known_group
-- By the first row that is found.
SELECT EXISTS (SELECT FROM evkit.inbox WHERE consumer_group = %(group)s)
    OR EXISTS (SELECT FROM evkit.dead_letter WHERE consumer_group = %(group)s);

-- name: known_groups
-- Of events that were dealt with or given up. A skip scan, like that of the views (lag.sql).
WITH RECURSIVE one AS (
    SELECT least((SELECT min(consumer_group) FROM evkit.inbox),
                 (SELECT min(consumer_group) FROM evkit.dead_letter)) AS consumer_group
    UNION ALL
    SELECT least((SELECT min(i.consumer_group) FROM evkit.inbox i WHERE i.consumer_group > one.consumer_group),
                 (SELECT min(l.consumer_group) FROM evkit.dead_letter l WHERE l.consumer_group > one.consumer_group))
      FROM one
     WHERE one.consumer_group IS NOT NULL
)
SELECT consumer_group FROM one WHERE consumer_group IS NOT NULL ORDER BY 1;
