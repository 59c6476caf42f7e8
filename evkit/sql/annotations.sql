-- What is known of a time: what people wrote down, and what the other tables tell of themselves.

-- name: insert
INSERT INTO evkit.annotation (kind, at, until, text, name, version, consumer_group, topic, actor, source)
VALUES (%(kind)s, %(at)s, %(until)s, %(text)s, %(name)s, %(version)s, %(group)s, %(topic)s, %(actor)s, %(source)s)
    ON CONFLICT (name) WHERE kind = 'incident' DO NOTHING
RETURNING annotation_id, kind, at, until, text, name, version, consumer_group AS "group", topic, actor, source, created_at;

-- name: one
-- Locked, so that what is changed is what was shown.
SELECT annotation_id, kind, at, until, text, name, version, consumer_group AS "group", topic, actor, source, created_at
  FROM evkit.annotation
 WHERE annotation_id = %s
   FOR UPDATE;

-- name: one_incident
SELECT annotation_id FROM evkit.annotation WHERE kind = 'incident' AND name = %s;

-- name: ids
SELECT annotation_id::text FROM evkit.annotation ORDER BY annotation_id DESC LIMIT 1000;

-- name: incidents
SELECT name, at, until FROM evkit.annotation WHERE kind = 'incident' ORDER BY at DESC;

-- name: stored
-- The newest first, so that a limit cuts the old ones.
SELECT annotation_id, kind, at, until, text, name, version, consumer_group AS "group", topic, actor, source, created_at
  FROM evkit.annotation
 WHERE (%(since)s::timestamptz IS NULL OR coalesce(until, CASE kind WHEN 'incident' THEN 'infinity' ELSE at END) >= %(since)s)
   AND (%(until)s::timestamptz IS NULL OR at < %(until)s)
   AND (%(kind)s::text IS NULL OR kind = %(kind)s)
   AND (%(group)s::text IS NULL OR consumer_group IS NULL OR consumer_group = %(group)s)
 ORDER BY at DESC, annotation_id DESC
 LIMIT %(rows_max)s;

-- name: change
UPDATE evkit.annotation
   SET at = %(at)s, until = %(until)s, text = %(text)s, name = %(name)s, version = %(version)s, consumer_group = %(group)s,
       topic = %(topic)s
 WHERE annotation_id = %(annotation_id)s;

-- name: remove
DELETE FROM evkit.annotation WHERE annotation_id = %s;
