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

-- name: sampled_topics
-- Which topics `evkit sample` has ever seen which groups in: a skip scan, one look into the primary key for each pair.
WITH RECURSIVE one AS (
    (SELECT consumer_group, topic FROM evkit.lag_sample
      WHERE cluster_id = %(cluster_id)s ORDER BY cluster_id, consumer_group, topic LIMIT 1)
    UNION ALL
    SELECT later.consumer_group, later.topic
      FROM one
     CROSS JOIN LATERAL (
           SELECT s.consumer_group, s.topic FROM evkit.lag_sample s
            WHERE s.cluster_id = %(cluster_id)s AND (s.consumer_group, s.topic) > (one.consumer_group, one.topic)
            ORDER BY s.cluster_id, s.consumer_group, s.topic LIMIT 1) AS later
)
SELECT consumer_group, topic FROM one;

-- name: sampled_partitions
-- Of these, the partitions that were sampled in the last hour: two looks into the primary key for each, however many samples.
SELECT of.consumer_group, of.topic, numbered.partition
  FROM unnest(%(groups)s::text[], %(topics)s::text[]) AS of (consumer_group, topic)
 CROSS JOIN LATERAL (
       SELECT max(s.partition) AS partition FROM evkit.lag_sample s
        WHERE s.cluster_id = %(cluster_id)s AND s.consumer_group = of.consumer_group AND s.topic = of.topic) AS last
 CROSS JOIN LATERAL generate_series(0, last.partition) AS numbered (partition)
 CROSS JOIN LATERAL (
       SELECT s.sampled_at FROM evkit.lag_sample s
        WHERE s.cluster_id = %(cluster_id)s AND s.consumer_group = of.consumer_group AND s.topic = of.topic
          AND s.partition = numbered.partition
        ORDER BY s.sampled_at DESC LIMIT 1) AS newest
 WHERE newest.sampled_at >= %(now)s::timestamptz - interval '1 hour';
