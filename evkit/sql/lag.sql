-- Which groups and partitions evkit's own tables know; the offsets themselves come from Kafka.

-- name: known_groups
-- A skip scan: one look into an index of each table for each group, however many rows a group has.
WITH RECURSIVE one AS (
    SELECT least((SELECT min(consumer_group) FROM evkit.inbox),
                 (SELECT min(consumer_group) FROM evkit.attempt),
                 (SELECT min(consumer_group) FROM evkit.dead_letter)) AS consumer_group
    UNION ALL
    SELECT least((SELECT min(i.consumer_group) FROM evkit.inbox i WHERE i.consumer_group > one.consumer_group),
                 (SELECT min(a.consumer_group) FROM evkit.attempt a WHERE a.consumer_group > one.consumer_group),
                 (SELECT min(l.consumer_group) FROM evkit.dead_letter l WHERE l.consumer_group > one.consumer_group))
      FROM one
     WHERE one.consumer_group IS NOT NULL
)
SELECT consumer_group FROM one WHERE consumer_group IS NOT NULL ORDER BY 1;

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
