-- What queries of several nouns have in common: `-- include: NAME` puts it in its place in any file of this folder.

-- part: reading
-- What evkit/views/reading.py has found: the end of the window, frozen, and the topics that each group reads.
bound AS (
    SELECT %(until)s::timestamptz AS until
), reading AS (
    SELECT consumer_group, topic, first_at
      FROM unnest(%(reading_groups)s::text[], %(reading_topics)s::text[], %(reading_since)s::timestamptz[])
           AS found (consumer_group, topic, first_at)
)

-- part: near
-- What groups dealt with soon after it was written (a minute; of a shorter page, as long as it is): nearly all of a page, read
-- in one stretch and joined by a hash. The rest is looked up one by one, which costs three times as much an event.
near AS MATERIALIZED (
    SELECT i.consumer_group, i.event_id, i.topic, i.partition, i.outcome, i.processed_at, i.replay_id, i.handler,
           i.code_version
      FROM evkit.inbox i
     WHERE i.processed_at >= %(first)s
       AND i.processed_at < %(last)s::timestamptz + least(interval '1 minute', %(last)s::timestamptz - %(first)s)
       AND i.processed_at < %(until)s AND i.generation = 0 AND i.consumer_group = ANY (%(groups)s)
)

-- part: published
-- What the broker confirmed in a page, with what was written. Both tables are read by one stretch of positions, for a look-up
-- each costs more; what is far below them (an event that could not be published for long) is looked up.
confirmed AS MATERIALIZED (
    SELECT p.position, p.partition, p."offset", p.published_at FROM evkit.publication p
     WHERE p.published_at >= %(first)s AND p.published_at < %(last)s
), stretch AS MATERIALIZED (
    SELECT greatest(min(position), max(position) - 4 * count(*)) AS low, max(position) AS high FROM confirmed
), published AS (
    SELECT c.*, coalesce(o.topic, o.aggregatetype) AS topic, o.id, o.created_at
      FROM confirmed c JOIN evkit.outbox o USING (position)
     WHERE o.position BETWEEN (SELECT low FROM stretch) AND (SELECT high FROM stretch)
     UNION ALL
    SELECT c.*, coalesce(o.topic, o.aggregatetype), o.id, o.created_at
      FROM confirmed c
     CROSS JOIN LATERAL (
            SELECT o.topic, o.aggregatetype, o.id, o.created_at FROM evkit.outbox o WHERE o.position = c.position OFFSET 0) AS o
     WHERE c.position < (SELECT low FROM stretch)
)

-- part: confirmation
-- Of what was `written` in a page, what the broker has confirmed by the end of the window: by one stretch of positions, too.
confirmation AS MATERIALIZED (
    SELECT p.position, p.partition, p.published_at FROM evkit.publication p
     WHERE p.position BETWEEN (SELECT min(position) FROM written) AND (SELECT max(position) FROM written)
       AND p.published_at < %(until)s
)

-- part: relay_state
-- What the relay stands at, and what does not wait for it alone. Its lock is the one that relay.sql takes.
relay AS (
    SELECT r.*, r.hole_position > r.settled_position AS held_open FROM evkit.relay r
), later AS (
    SELECT count(*) AS n, count(*) FILTER (WHERE due_at <= clock_timestamp()) AS due, min(due_at) AS first
      FROM evkit.scheduled
), stuck AS (
    SELECT count(*) FILTER (WHERE state = 'parked') AS parked, count(*) FILTER (WHERE state = 'held') AS held,
           count(*) FILTER (WHERE state = 'retry') AS retrying,
           min(parked_at) FILTER (WHERE state IN ('parked', 'retry')) AS since
      FROM evkit.unpublishable WHERE state IN ('parked', 'held', 'retry')
), leader AS (
    SELECT l.pid, CASE WHEN a.client_port = -1 THEN 'local' ELSE host(a.client_addr) END AS address
      FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
     WHERE l.locktype = 'advisory' AND l.granted AND l.classid = 6085 AND l.objid = 1 AND l.objsubid = 2
       AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
     LIMIT 1
)

-- part: relay_state_columns
       s.n AS scheduled, s.due, greatest(extract(epoch FROM clock_timestamp() - s.first), 0)::float8
           * CASE WHEN s.due > 0 THEN 1 END AS oldest_due_seconds,
       u.parked AS unpublishable, u.held, u.retrying,
       extract(epoch FROM clock_timestamp() - u.since)::float8 AS oldest_unpublishable_seconds,
       CASE WHEN r.held_open THEN r.hole_position END AS oldest_hole_position,
       CASE WHEN r.held_open THEN extract(epoch FROM clock_timestamp() - r.hole_since)::float8 END AS oldest_hole_seconds,
       CASE WHEN r.held_open THEN r.hole_since END AS hole_since,
       r.settled_position, r.moved_at, r.failing_position, r.failing_since, r.failing_error,
       l.pid AS leader_pid, l.address AS leader_address

-- part: somebody_runs_it
-- A redrive that says that it is running and that nobody has locked was killed.
EXISTS (SELECT FROM pg_locks l
         WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted
           AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
           AND (l.classid::bigint << 32 | l.objid::bigint) = hashtextextended('evkit.redrive ' || r.redrive_id, 0))
