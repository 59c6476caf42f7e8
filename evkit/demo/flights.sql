-- The flights system's own tables and statements: what a service of yours would have.

-- name: create
CREATE SCHEMA flights;
CREATE TABLE flights.flight (
    flight_id     text PRIMARY KEY,
    carrier       text NOT NULL,
    tailnum       text,
    state         text NOT NULL,
    happened_at   text NOT NULL
);
CREATE TABLE flights.punctuality (
    carrier       text PRIMARY KEY,
    scheduled     bigint NOT NULL DEFAULT 0,
    departed      bigint NOT NULL DEFAULT 0,
    arrived       bigint NOT NULL DEFAULT 0,
    cancelled     bigint NOT NULL DEFAULT 0,
    late          bigint NOT NULL DEFAULT 0,
    delay_minutes bigint NOT NULL DEFAULT 0
);
CREATE TABLE flights.turnaround (
    key           text PRIMARY KEY,
    steps         bigint NOT NULL,
    chain         text NOT NULL
);
CREATE TABLE flights.maintenance (
    tailnum       text PRIMARY KEY,
    planned       bigint NOT NULL DEFAULT 0,
    legs          bigint NOT NULL DEFAULT 0,
    minutes_flown bigint NOT NULL DEFAULT 0,
    miles         bigint NOT NULL DEFAULT 0
);

-- name: drop
DROP SCHEMA IF EXISTS flights CASCADE;

-- name: foreign_events
SELECT DISTINCT topic FROM (
    SELECT coalesce(topic, aggregatetype) AS topic FROM evkit.outbox
    UNION ALL SELECT topic FROM evkit.inbox
    UNION ALL SELECT topic FROM evkit.dead_letter) AS t
 WHERE topic <> 'flight';

-- name: plan_flight
INSERT INTO flights.flight (flight_id, carrier, tailnum, state, happened_at) VALUES (%s, %s, %s, 'scheduled', %s);

-- name: change_flight
UPDATE flights.flight SET state = %s, happened_at = %s WHERE flight_id = %s;

-- name: count_scheduled
INSERT INTO flights.punctuality AS p (carrier, scheduled) VALUES (%s, 1)
    ON CONFLICT (carrier) DO UPDATE SET scheduled = p.scheduled + 1;

-- name: count_departed
INSERT INTO flights.punctuality AS p (carrier, departed) VALUES (%s, 1)
    ON CONFLICT (carrier) DO UPDATE SET departed = p.departed + 1;

-- name: count_cancelled
INSERT INTO flights.punctuality AS p (carrier, cancelled) VALUES (%s, 1)
    ON CONFLICT (carrier) DO UPDATE SET cancelled = p.cancelled + 1;

-- name: count_arrived
INSERT INTO flights.punctuality AS p (carrier, arrived, late, delay_minutes) VALUES (%s, 1, %s, %s)
    ON CONFLICT (carrier) DO UPDATE
   SET arrived = p.arrived + 1, late = p.late + EXCLUDED.late, delay_minutes = p.delay_minutes + EXCLUDED.delay_minutes;

-- name: chain
SELECT steps, chain FROM flights.turnaround WHERE key = %s;

-- name: link
INSERT INTO flights.turnaround AS t (key, steps, chain) VALUES (%s, 1, %s)
    ON CONFLICT (key) DO UPDATE SET steps = t.steps + 1, chain = EXCLUDED.chain;

-- name: plan_aircraft
INSERT INTO flights.maintenance AS m (tailnum, planned) VALUES (%s, 1)
    ON CONFLICT (tailnum) DO UPDATE SET planned = m.planned + 1;

-- name: wear_aircraft
INSERT INTO flights.maintenance AS m (tailnum, legs, minutes_flown, miles) VALUES (%s, 1, %s, %s)
    ON CONFLICT (tailnum) DO UPDATE
   SET legs = m.legs + 1, minutes_flown = m.minutes_flown + EXCLUDED.minutes_flown, miles = m.miles + EXCLUDED.miles;

-- name: progress
-- One line for the live display.
SELECT (SELECT count(*) FROM evkit.outbox) AS written,
       (SELECT count(*) FROM evkit.publication) AS published,
       (SELECT jsonb_object_agg(consumer_group || ' ' || outcome, n)
          FROM (SELECT consumer_group, outcome, count(*) AS n FROM evkit.inbox GROUP BY 1, 2) AS i) AS inbox;

-- name: outbox_ids
SELECT id FROM evkit.outbox ORDER BY position;

-- name: counts
SELECT (SELECT count(*) FROM flights.flight) AS flights,
       (SELECT count(*) FROM evkit.outbox) AS outbox,
       (SELECT count(*) FROM evkit.publication p JOIN evkit.outbox o USING (position)) AS published,
       (SELECT count(*) FROM evkit.publication p WHERE NOT EXISTS (SELECT FROM evkit.outbox o WHERE o.position = p.position))
           AS published_without_row;

-- name: inbox_counts
-- Of events of the topic: what a person made by editing a dead letter never was in it.
SELECT consumer_group, outcome, count(*) FROM evkit.inbox i
 WHERE generation = 0
   AND NOT EXISTS (SELECT FROM evkit.dead_letter l
                    WHERE (l.consumer_group, l.event_id, l.generation) = (i.consumer_group, i.event_id, i.generation)
                      AND l.edited_from IS NOT NULL)
 GROUP BY 1, 2;

-- name: inbox_missing
-- Events of the outbox that a group has no inbox row for.
SELECT count(*) FROM evkit.outbox o
 WHERE NOT EXISTS (SELECT FROM evkit.inbox i WHERE i.consumer_group = %s AND i.event_id = o.id AND i.generation = 0);

-- name: letter_counts
SELECT consumer_group, state, count(*) FROM evkit.dead_letter WHERE edited_from IS NULL GROUP BY 1, 2;

-- name: punctuality
SELECT carrier, scheduled, departed, arrived, cancelled, late, delay_minutes FROM flights.punctuality
 ORDER BY carrier COLLATE "C";

-- name: maintenance
SELECT tailnum, planned, legs, minutes_flown, miles FROM flights.maintenance ORDER BY tailnum COLLATE "C";

-- name: turnaround
SELECT key, steps, chain FROM flights.turnaround;
