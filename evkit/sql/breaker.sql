-- Handlers that are held because their events fail alike over many keys.

-- name: failing_keys
-- On how many keys a group has failed in this way lately, at most so many: more need not be counted.
SELECT count(*) FROM (
    SELECT DISTINCT coalesce(key, event_id) FROM evkit.attempt
     WHERE consumer_group = %(group)s AND fingerprint = %(fingerprint)s
       AND failed_at > clock_timestamp() - %(window_seconds)s * interval '1 second'
       AND (handler = %(handler)s) AND replay_id IS NULL
     LIMIT %(keys_max)s) AS failing;

-- name: has_succeeded
-- Whether any member of the group has handled an event of this handler lately.
SELECT 1 FROM evkit.inbox
 WHERE processed_at > clock_timestamp() - %(window_seconds)s * interval '1 second' AND consumer_group = %(group)s
   AND handler = %(handler)s AND outcome = 'handled' AND replay_id IS NULL
 LIMIT 1;

-- name: open
-- One of several members opens it; nothing comes back for the others.
INSERT INTO evkit.breaker (consumer_group, handler, state, fingerprint, error_class, error_message, keys, probe_at)
VALUES (%(group)s, %(handler)s, 'open', %(fingerprint)s, %(error_class)s, %(error_message)s, %(keys)s,
        clock_timestamp() + %(probe_seconds)s * interval '1 second')
    ON CONFLICT (consumer_group, handler) DO UPDATE
   SET state = 'open', fingerprint = EXCLUDED.fingerprint, error_class = EXCLUDED.error_class,
       error_message = EXCLUDED.error_message, keys = EXCLUDED.keys, opened_at = clock_timestamp(), probes = 0,
       probe_at = EXCLUDED.probe_at, probed_key = NULL, probed_times = 0, closed_at = NULL, closed_by = NULL
 WHERE breaker.state = 'closed'
RETURNING 1;

-- name: is_open
-- Seconds until the next event may be tried; no row when the handler is not held.
SELECT extract(epoch FROM probe_at - clock_timestamp())::float8 FROM evkit.breaker
 WHERE consumer_group = %(group)s AND handler = %(handler)s AND state = 'open';

-- name: probe
-- One member at a time may try one event; the next one only after twice the time, up to the bound.
UPDATE evkit.breaker
   SET probes = probes + 1,
       probe_at = clock_timestamp() + least(%(probe_seconds)s * 2.0 ^ least(probes + 1, 30), %(probe_seconds_max)s)
                                      * interval '1 second',
       probed_times = CASE WHEN probed_key IS NOT DISTINCT FROM %(key)s THEN probed_times + 1 ELSE 1 END,
       probed_key = %(key)s
 WHERE consumer_group = %(group)s AND handler = %(handler)s AND state = 'open' AND probe_at <= clock_timestamp()
RETURNING probed_times, fingerprint, keys;

-- name: close
UPDATE evkit.breaker SET state = 'closed', closed_at = clock_timestamp(), closed_by = %(by)s
 WHERE consumer_group = %(group)s AND handler = %(handler)s AND state = 'open'
RETURNING 1;

-- name: breakers
-- The open ones first, the longest open first.
SELECT consumer_group, handler, state, fingerprint, error_class, error_message, keys, opened_at, probes, probe_at, closed_at,
       closed_by
  FROM evkit.breaker
 WHERE (%(group)s::text IS NULL OR consumer_group = %(group)s) AND (%(state)s::text IS NULL OR state = %(state)s)
 ORDER BY state DESC, opened_at, consumer_group, handler;

-- name: breakers_now
-- The same for the view, with how long it has been open.
SELECT consumer_group AS "group", handler, state, error_class, error_message, fingerprint, keys, opened_at,
       CASE WHEN state = 'open' THEN extract(epoch FROM clock_timestamp() - opened_at)::float8 END AS open_seconds,
       probes, closed_at, closed_by
  FROM evkit.breaker
 WHERE consumer_group = ANY (%(groups)s)
 ORDER BY state DESC, opened_at, consumer_group, handler;
