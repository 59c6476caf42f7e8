-- What a replay would meet: what the group has done with the events, and what is in the way.

-- name: seen
-- What the group has done with these events, and the state of the letter where it has given one up.
SELECT i.event_id, i.outcome, l.state
  FROM evkit.inbox i
  LEFT JOIN evkit.dead_letter l
    ON i.outcome = 'dead' AND (l.consumer_group, l.event_id, l.generation) = (i.consumer_group, i.event_id, i.generation)
 WHERE i.consumer_group = %(group)s AND i.generation = 0 AND i.event_id = ANY (%(event_ids)s::text[]);

-- name: seen_in_range
-- The same without looking at the records: by where the group met the events. An event that it met elsewhere as a copy is not
-- found. What was appended after the start was handled after it, which the index on processed_at helps with.
SELECT i.outcome, l.state, count(*)
  FROM evkit.inbox i
  LEFT JOIN evkit.dead_letter l
    ON i.outcome = 'dead' AND (l.consumer_group, l.event_id, l.generation) = (i.consumer_group, i.event_id, i.generation)
 WHERE i.consumer_group = %(group)s AND i.generation = 0 AND i.topic = %(topic)s AND i.partition = %(partition)s
   AND i."offset" >= %(start)s AND i."offset" < %(end)s
   AND (%(since)s::timestamptz IS NULL OR i.processed_at >= %(since)s)
 GROUP BY 1, 2;

-- name: beyond
-- Places that the group has handled since, by their highest offset: one beyond the end of its partition is of another topic that
-- had this name.
SELECT topic, partition, max("offset") FROM evkit.inbox
 WHERE consumer_group = %(group)s AND generation = 0 AND topic = ANY (%(topics)s::text[]) AND processed_at >= %(since)s
 GROUP BY topic, partition;

-- name: gone
-- How many events of a partition the outbox has published since, of which the topic has not got the records any more.
SELECT count(*) FROM evkit.publication p JOIN evkit.outbox o USING (position)
 WHERE p.published_at >= %(since)s AND p.partition = %(partition)s AND p."offset" < %(first)s
   AND coalesce(o.topic, o.aggregatetype) = %(topic)s;

-- name: parked_keys
SELECT topic, raw_key FROM evkit.parked_key
 WHERE consumer_group = %(group)s AND topic = ANY (%(topics)s::text[])
 LIMIT 100000;

-- name: held_handlers
SELECT handler FROM evkit.breaker WHERE consumer_group = %(group)s AND state = 'open' ORDER BY handler;

-- name: rate_of_replays
-- Records a second of the last replay of the group that had enough of them to tell.
SELECT (handled + known + skipped + failed + parked + filtered) / extract(epoch FROM finished_at - started_at)::float8
  FROM evkit.replay_run
 WHERE consumer_group = %(group)s AND state = 'done' AND epoch = 1 AND finished_at > started_at
   AND handled + known + skipped + failed + parked + filtered >= 1000 AND dedupe = %(dedupe)s AND per_second_max IS NULL
 ORDER BY finished_at DESC
 LIMIT 1;

-- name: rate_of_group
-- Events that the group dealt with in its busiest second of the last day.
SELECT count(*)::float8 FROM evkit.inbox
 WHERE consumer_group = %(group)s AND processed_at > clock_timestamp() - interval '1 day' AND replay_id IS NULL
 GROUP BY date_trunc('second', processed_at)
 ORDER BY 1 DESC
 LIMIT 1;

-- name: rate_timeout
SELECT set_config('statement_timeout', %s, true);
