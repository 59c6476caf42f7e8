-- What queries of several nouns have in common: `-- include: NAME` puts it in its place in any file of this folder.

-- part: reading
bound AS (
    SELECT least(%(until)s::timestamptz, clock_timestamp()) AS until
), reading AS (
    -- Topics each group reads, as its inbox shows, and the oldest event it was given: earlier ones were never its own.
    -- What it handled lately; and for one that stands still the end of its primary key, which grows with time.
    SELECT consumer_group, topic, min(created_at) AS first_at
      FROM (SELECT consumer_group, topic, created_at FROM evkit.inbox
             WHERE processed_at >= %(since)s::timestamptz - interval '1 hour' AND processed_at < %(until)s
               AND generation = 0 AND consumer_group = ANY (%(groups)s)
             UNION ALL
            SELECT known.consumer_group, newest.topic, newest.created_at
              FROM unnest(%(groups)s::text[]) AS known (consumer_group)
             CROSS JOIN LATERAL (
                   SELECT topic, created_at, processed_at FROM evkit.inbox i
                    WHERE i.consumer_group = known.consumer_group
                    ORDER BY i.event_id DESC LIMIT 1000) AS newest
             WHERE newest.processed_at >= %(until)s::timestamptz - interval '7 days') AS handled
     GROUP BY consumer_group, topic
)
