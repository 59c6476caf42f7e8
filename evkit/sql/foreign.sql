-- Dead letters of other frameworks, imported from their topics.

-- name: import
-- Adds nothing when the record is a letter already, or its event is one of this group.
INSERT INTO evkit.dead_letter (consumer_group, event_id, event_type, topic, partition, "offset", appended_at, timestamp_type,
                               key, raw_key, raw_value, header_names, header_values, schema_version, created_at, handler,
                               error_class, error_message, stack_trace, fingerprint, first_failed_at, failed_at, retry_count,
                               source_dialect, source_topic, source_topic_id, source_partition, source_offset, source_facts)
VALUES (%(group)s, %(event_id)s, %(event_type)s, %(topic)s, %(partition)s, %(offset)s, %(appended_at)s, %(timestamp_type)s,
        %(key)s, %(raw_key)s, %(raw_value)s, %(header_names)s::text[], %(header_values)s::bytea[], %(schema_version)s,
        %(created_at)s, %(handler)s, %(error_class)s, %(error_message)s, %(stack_trace)s, %(fingerprint)s, %(failed_at)s,
        %(failed_at)s, %(retry_count)s, %(source_dialect)s, %(source_topic)s, %(source_topic_id)s, %(source_partition)s,
        %(source_offset)s, %(source_facts)s)
    ON CONFLICT DO NOTHING
RETURNING source_partition, source_offset;

-- name: imported
-- Of these places of a dead-letter topic, those whose records are letters, or were and are deleted for good.
SELECT l.source_partition, l.source_offset, false AS deleted
  FROM unnest(%(partitions)s::integer[], %(offsets)s::bigint[]) AS r (partition, "offset")
  JOIN evkit.dead_letter l
    ON l.source_topic = %(topic)s AND l.source_topic_id = %(topic_id)s
   AND l.source_partition = r.partition AND l.source_offset = r."offset"
 UNION ALL
SELECT d.source_partition, d.source_offset, true
  FROM unnest(%(partitions)s::integer[], %(offsets)s::bigint[]) AS r (partition, "offset")
  JOIN evkit.deleted_import d
    ON d.source_topic = %(topic)s AND d.source_topic_id = %(topic_id)s
   AND d.source_partition = r.partition AND d.source_offset = r."offset";

-- name: same_event
-- Of these events, those that are letters of their group, or were and are deleted for good.
SELECT e.consumer_group, e.event_id
  FROM unnest(%(groups)s::text[], %(event_ids)s::text[]) AS e (consumer_group, event_id)
 WHERE EXISTS (SELECT FROM evkit.dead_letter l
                WHERE l.consumer_group = e.consumer_group AND l.event_id = e.event_id AND l.generation = 0)
    OR EXISTS (SELECT FROM evkit.deleted_import d
                WHERE d.consumer_group = e.consumer_group AND d.event_id = e.event_id);
