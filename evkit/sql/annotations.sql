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

-- name: told
-- What was written down, and what the tables tell of themselves, that lies in a window or reaches into it. A version counts
-- as new when it was not seen in the day before the window, and another one was. The newest first, so that a limit cuts
-- the old ones.
WITH bound AS (
    SELECT %(since)s::timestamptz AS since, %(until)s::timestamptz AS until,
           %(since)s::timestamptz - interval '1 day' AS lookback
), handled AS (
    SELECT consumer_group, code_version, min(at) AS at
      FROM (SELECT consumer_group, code_version, min(processed_at) AS at FROM evkit.inbox, bound
             WHERE processed_at >= bound.lookback AND processed_at < bound.until AND replay_id IS NULL GROUP BY 1, 2
             UNION ALL
            -- A version whose every event fails has no row in the inbox.
            SELECT consumer_group, code_version, min(failed_at) FROM evkit.attempt, bound
             WHERE failed_at >= bound.lookback AND failed_at < bound.until AND replay_id IS NULL GROUP BY 1, 2) AS every
     GROUP BY 1, 2
), versioned AS (
    SELECT consumer_group, code_version, at, count(*) OVER earlier AS earlier,
           lag(code_version) OVER (PARTITION BY consumer_group ORDER BY at) AS before
      FROM handled
    WINDOW earlier AS (PARTITION BY consumer_group ORDER BY at ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
), written AS (
    SELECT type, coalesce(topic, aggregatetype) AS topic, schema_version, min(created_at) AS at
      FROM evkit.outbox, bound WHERE created_at >= bound.lookback AND created_at < bound.until GROUP BY 1, 2, 3
), modelled AS (
    SELECT type, topic, schema_version, at, lag(schema_version) OVER (PARTITION BY type, topic ORDER BY at) AS before
      FROM written
), every AS (
    SELECT at, coalesce(until, CASE kind WHEN 'incident' THEN 'infinity'::timestamptz END) AS until, kind,
           CASE WHEN kind = 'incident' AND text <> 'incident ' || name THEN 'incident ' || name || ': ' || text
                WHEN kind = 'deploy' AND version IS NOT NULL AND position(version IN text) = 0
                THEN text || ' (' || version || ')' ELSE text END AS text,
           consumer_group AS "group", topic, source, actor, version, annotation_id
      FROM evkit.annotation
     UNION ALL
    SELECT at, NULL, 'deploy', code_version || ' of ' || consumer_group || ' had its first event'
               || coalesce(', after ' || before, ''), consumer_group, NULL, 'inbox', NULL, code_version, NULL
      FROM versioned, bound
     WHERE code_version IS NOT NULL AND earlier > 0 AND at >= bound.since
       AND NOT EXISTS (
               SELECT FROM evkit.annotation a
                WHERE a.kind = 'deploy' AND a.version = versioned.code_version
                  AND coalesce(a.consumer_group, versioned.consumer_group) = versioned.consumer_group
                  AND a.at BETWEEN versioned.at - interval '1 day' AND versioned.at + interval '1 day')
     UNION ALL
    SELECT at, NULL, 'schema', type || ' was written in version ' || schema_version || ' for the first time, before in '
               || before, NULL, topic, 'outbox', NULL, schema_version::text, NULL
      FROM modelled, bound WHERE before IS NOT NULL AND at >= bound.since
     UNION ALL
    SELECT opened_at, coalesce(closed_at, 'infinity'), 'breaker',
           handler || ' of ' || consumer_group || ' was held: ' || error_class || ' on ' || keys || ' keys'
               || CASE WHEN closed_at IS NULL THEN ', and still is' ELSE '' END,
           consumer_group, NULL, 'breaker', closed_by, NULL, NULL
      FROM evkit.breaker
     UNION ALL
    SELECT started_at, CASE WHEN state = 'running' THEN 'infinity' ELSE finished_at END, 'replay',
           'replay ' || replay_id || ' of ' || consumer_group || ' from ' || to_char(from_time AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI')
               || ' (' || dedupe || ', ' || state || '): ' || handled || ' handled, ' || failed || ' failed',
           consumer_group, CASE cardinality(topics) WHEN 1 THEN topics[1] END, 'replay_run', actor, NULL, NULL
      FROM evkit.replay_run WHERE started_at IS NOT NULL
     UNION ALL
    SELECT started_at, CASE WHEN state = 'running' THEN 'infinity' ELSE finished_at END, 'redrive',
           'redrive ' || redrive_id || ' of ' || consumer_group || ' (' || state || '): '
               || (SELECT count(*) FROM evkit.redrive_letter l WHERE l.redrive_id = r.redrive_id) || ' letters',
           consumer_group, NULL, 'redrive_run', actor, NULL, NULL
      FROM evkit.redrive_run r WHERE started_at IS NOT NULL
     UNION ALL
    SELECT done_at, NULL, 'offset_reset',
           'offsets of ' || consumer_group || ' were moved back to ' || to_char(to_time AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI')
               || coalesce(': ' || reason, ''),
           consumer_group, NULL, 'rewind', actor, NULL, NULL
      FROM evkit.rewind WHERE done_at IS NOT NULL
     UNION ALL
    SELECT undone_at, NULL, 'offset_reset', 'offsets of ' || consumer_group || ' were put back where they were',
           consumer_group, NULL, 'rewind', actor, NULL, NULL
      FROM evkit.rewind WHERE undone_at IS NOT NULL
     UNION ALL
    -- What has lines of its own above is left out.
    SELECT acted_at, NULL, 'act', act || ' of ' || target || coalesce(': ' || reason, ''), NULL, NULL, 'audit', actor, NULL, NULL
      FROM evkit.audit
     WHERE act NOT LIKE 'annotation.%%' AND act NOT LIKE 'rewind.%%' AND act NOT IN ('replay.run', 'dead_letters.redrive')
)
SELECT e.at, nullif(e.until, 'infinity') AS until, e.kind, e.text, e."group", e.topic, e.source, e.actor, e.version,
       e.annotation_id
  FROM every e, bound
 WHERE e.at < bound.until AND coalesce(e.until, e.at) >= bound.since
   AND (%(group)s::text IS NULL OR e."group" IS NULL OR e."group" = %(group)s)
 ORDER BY e.at DESC, e.kind, e.text
 LIMIT %(rows_max)s;
