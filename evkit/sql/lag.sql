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
-- Partitions a group has read from in the last seven days: as long as Kafka keeps the offsets of a group without members.
SELECT consumer_group, topic, partition
  FROM evkit.inbox
 WHERE processed_at >= clock_timestamp() - interval '7 days'
 GROUP BY consumer_group, topic, partition;
