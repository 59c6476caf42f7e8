-- Topics each group reads, as its inbox shows, and the oldest event it was given: earlier ones were never its own.

-- name: page
-- Of what it handled lately, page by page.
SELECT consumer_group, topic, min(created_at) AS first_at
  FROM evkit.inbox
 WHERE processed_at >= %(first)s AND processed_at < %(last)s AND generation = 0 AND consumer_group = ANY (%(groups)s)
 GROUP BY 1, 2;

-- name: newest
-- Of a group that stands still the end of its primary key, which grows with time.
SELECT known.consumer_group, newest.topic, min(newest.created_at) AS first_at
  FROM unnest(%(groups)s::text[]) AS known (consumer_group)
  JOIN LATERAL (
        SELECT topic, created_at, processed_at FROM evkit.inbox i
         WHERE i.consumer_group = known.consumer_group
         ORDER BY i.event_id DESC LIMIT 1000) AS newest ON newest.processed_at >= %(until)s::timestamptz - interval '7 days'
 GROUP BY 1, 2;
