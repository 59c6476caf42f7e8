-- What evkit's tables know of each event that was written in a window; evkit/views/audit.py compares it with the topics.
-- What is read whole is read in ranges of positions, each in a transaction of its own, so that no snapshot grows old. (What
-- people did is in audit.sql.)

-- name: bounds
-- Where the window lies in the outbox, and how far the relay had come before anything else was looked at.
SELECT min(o.position), max(o.position), (SELECT max(settled_position) FROM evkit.relay), clock_timestamp()
  FROM evkit.outbox o
 WHERE o.created_at >= %(since)s AND o.created_at < %(until)s;

-- name: stretches
-- Where its events are in the topics, and how many of them the broker has not confirmed.
SELECT coalesce(o.topic, o.aggregatetype) AS topic, p.partition, min(p."offset"), max(p."offset"), count(*)
  FROM evkit.outbox o
  LEFT JOIN evkit.publication p ON p.position = o.position AND p.position >= %(first)s AND p.position < %(last)s
 WHERE o.position >= %(first)s AND o.position < %(last)s AND o.created_at >= %(since)s AND o.created_at < %(until)s
   -- An equation of expressions counts as rare, and rare rows are looked up one by one; a number above 0 does not.
   AND (%(topic)s::text IS NULL OR (coalesce(o.topic, o.aggregatetype) = %(topic)s::text)::integer > 0)
 GROUP BY 1, 2;

-- name: events
SELECT o.position, o.id, o.type, o.aggregateid AS key, coalesce(o.topic, o.aggregatetype) AS topic, o.created_at,
       p.partition, p."offset", p.published_at, u.state, u.blocked_by, left(u.error, 500) AS error
  FROM evkit.outbox o
  LEFT JOIN evkit.publication p ON p.position = o.position AND p.position >= %(first)s AND p.position < %(last)s
  LEFT JOIN evkit.unpublishable u ON u.position = o.position AND u.position >= %(first)s AND u.position < %(last)s
       AND u.state <> 'published'
 WHERE o.position >= %(first)s AND o.position < %(last)s AND o.created_at >= %(since)s AND o.created_at < %(until)s
   AND (%(topic)s::text IS NULL OR (coalesce(o.topic, o.aggregatetype) = %(topic)s::text)::integer > 0)
 ORDER BY o.position;

-- name: dealt_with
-- What a group has done with them. The number of the transaction tells the order of what lies within the error of
-- processed_at; `wanted`: a replay handled it again because somebody asked it to.
SELECT o.position, i.generation, i.outcome, i.replay_id, i.processed_at, i.xmin::text::bigint AS txid,
       coalesce(r.dedupe = 'again', false) AS wanted
  FROM evkit.outbox o
  JOIN evkit.inbox i ON i.event_id = o.id AND i.consumer_group = %(group)s
  LEFT JOIN evkit.replay_run r ON i.generation > 0 AND r.replay_id = i.replay_id
 WHERE o.position >= %(first)s AND o.position < %(last)s AND o.created_at >= %(since)s AND o.created_at < %(until)s
   AND coalesce(o.topic, o.aggregatetype) = ANY (%(topics)s::text[]);

-- name: letters
SELECT o.position, l.letter_id, l.state AS letter_state
  FROM evkit.dead_letter l
  JOIN evkit.outbox o ON o.id = l.event_id
 WHERE l.consumer_group = %(group)s AND l.generation = 0
   AND o.position >= %(first)s AND o.position < %(last)s AND o.created_at >= %(since)s AND o.created_at < %(until)s;

-- name: run_again
-- Failed attempts that began after the event was handled, and that no replay made: its handler was called once more.
SELECT o.position, count(*) AS ran_again
  FROM evkit.attempt a
  JOIN evkit.inbox i ON (i.consumer_group, i.event_id, i.generation) = (a.consumer_group, a.event_id, 0)
  JOIN evkit.outbox o ON o.id = a.event_id
 WHERE a.consumer_group = %(group)s AND a.generation = 0 AND a.replay_id IS NULL AND a.failed_at >= %(since)s
   AND i.outcome = 'handled' AND i.replay_id IS NULL
   AND a.failed_at - make_interval(secs => a.duration_seconds) > i.processed_at + interval '0.1 seconds'
   AND o.position >= %(first)s AND o.position < %(last)s AND o.created_at >= %(since)s AND o.created_at < %(until)s
 GROUP BY o.position;

-- name: elsewise
-- What was done with the records at these places under another id: of a decode function's making, or of a record that
-- could not be decoded.
SELECT DISTINCT i.topic, i.partition, i."offset", i.event_id, i.outcome
  FROM evkit.inbox i
  JOIN unnest(%(topics)s::text[], %(partitions)s::integer[], %(offsets)s::bigint[]) AS s (topic, partition, "offset")
       ON (s.topic, s.partition, s."offset") = (i.topic, i.partition, i."offset")
 WHERE i.consumer_group = %(group)s AND i.generation = 0 AND i.replay_id IS NULL;

-- name: keeps_inbox
SELECT known.consumer_group
  FROM unnest(%(groups)s::text[]) AS known (consumer_group)
 WHERE EXISTS (SELECT FROM evkit.inbox i WHERE i.consumer_group = known.consumer_group);
