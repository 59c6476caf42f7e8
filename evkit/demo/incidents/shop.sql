-- The shop's own tables, and what incidents ask on the way.

-- name: create
DROP SCHEMA IF EXISTS shop CASCADE;
CREATE SCHEMA shop;
CREATE TABLE shop.bill (order_id text PRIMARY KEY, total double precision NOT NULL);
CREATE TABLE shop.shipment (order_id text PRIMARY KEY);

-- name: foreign_events
SELECT DISTINCT coalesce(topic, aggregatetype) FROM evkit.outbox WHERE coalesce(topic, aggregatetype) <> 'order' LIMIT 3;

-- name: handled
SELECT count(*) FROM evkit.inbox WHERE consumer_group = %s AND generation = 0;

-- name: written
SELECT count(*) FROM evkit.outbox;

-- name: published
SELECT count(*) FROM evkit.publication;

-- name: oldest_unhandled
-- Age of the oldest event that is published and that the group has not dealt with.
SELECT coalesce(extract(epoch FROM clock_timestamp() - min(p.published_at))::float8, 0)
  FROM evkit.outbox o JOIN evkit.publication p USING (position)
 WHERE NOT EXISTS (SELECT FROM evkit.inbox i WHERE i.consumer_group = %s AND i.event_id = o.id);

-- name: oldest_unpublished
SELECT coalesce(extract(epoch FROM clock_timestamp() - min(o.created_at))::float8, 0)
  FROM evkit.outbox o
 WHERE NOT EXISTS (SELECT FROM evkit.publication p WHERE p.position = o.position)
   AND NOT EXISTS (SELECT FROM evkit.unpublishable u WHERE u.position = o.position);

-- name: letters
SELECT count(*) FROM evkit.dead_letter WHERE state = 'open';

-- name: open_breakers
SELECT count(*) FROM evkit.breaker WHERE state = 'open';

-- name: unpublishable
SELECT count(*) FROM evkit.unpublishable WHERE state IN ('parked', 'held');
