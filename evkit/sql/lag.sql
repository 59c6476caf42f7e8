-- Which groups and partitions evkit's own tables know; the offsets themselves come from Kafka.

-- name: known_groups
-- A skip scan: one look into the primary key for each group, however many rows a group has.
WITH RECURSIVE one AS (
    (SELECT consumer_group FROM evkit.inbox ORDER BY consumer_group LIMIT 1)
    UNION ALL
    SELECT (SELECT i.consumer_group FROM evkit.inbox i
             WHERE i.consumer_group > one.consumer_group
             ORDER BY i.consumer_group LIMIT 1)
      FROM one
     WHERE one.consumer_group IS NOT NULL
)
SELECT consumer_group FROM one WHERE consumer_group IS NOT NULL
 UNION
SELECT DISTINCT consumer_group FROM evkit.dead_letter
 UNION
SELECT DISTINCT consumer_group FROM evkit.attempt
 ORDER BY 1;

-- name: inbox_partitions
-- Partitions each group has read from last, in seven days: as long as Kafka keeps the offsets of a group without members.
-- Event ids of evkit's making grow with time, so the end of the primary key is a group's newest rows, at any size.
SELECT DISTINCT known.consumer_group, newest.topic, newest.partition
  FROM unnest(%(groups)s::text[]) AS known (consumer_group)
 CROSS JOIN LATERAL (
       SELECT topic, partition, processed_at FROM evkit.inbox i
        WHERE i.consumer_group = known.consumer_group
        ORDER BY i.event_id DESC LIMIT 1000) AS newest
 WHERE newest.processed_at >= clock_timestamp() - interval '7 days';
