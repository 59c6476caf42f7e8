-- How far each key has come in a group.

-- name: applied
-- The highest version of each of these keys so far. Locked, in one order, until the events at hand are applied.
SELECT topic, raw_key, partition, version FROM evkit.key_version
 WHERE consumer_group = %(group)s AND raw_key = ANY (%(keys)s::bytea[])
 ORDER BY topic, raw_key
   FOR NO KEY UPDATE;

-- name: apply
INSERT INTO evkit.key_version AS v (consumer_group, topic, raw_key, partition, version, event_id)
SELECT %(group)s, topic, raw_key, partition, version, event_id
  FROM unnest(%(topics)s::text[], %(keys)s::bytea[], %(partitions)s::integer[], %(versions)s::bigint[],
              %(event_ids)s::text[]) AS e (topic, raw_key, partition, version, event_id)
 ORDER BY topic, raw_key
    ON CONFLICT (consumer_group, topic, raw_key) DO UPDATE
   SET version = EXCLUDED.version, partition = EXCLUDED.partition, event_id = EXCLUDED.event_id, applied_at = clock_timestamp()
 WHERE EXCLUDED.version > v.version OR (%(by_offset)s AND EXCLUDED.partition <> v.partition);
