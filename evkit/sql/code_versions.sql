-- Which versions of a group's code handled and failed events.

-- name: code_versions
WITH done AS (
    SELECT consumer_group, code_version, processed_at AS at, true AS is_handled, NULL AS fingerprint
      FROM evkit.inbox
     WHERE processed_at >= %(since)s AND processed_at < %(until)s AND outcome = 'handled' AND replay_id IS NULL
       AND consumer_group = ANY (%(groups)s) AND code_version IS NOT NULL
     UNION ALL
    SELECT consumer_group, code_version, failed_at, false, fingerprint
      FROM evkit.attempt
     WHERE failed_at >= %(since)s AND failed_at < %(until)s AND replay_id IS NULL
       AND consumer_group = ANY (%(groups)s) AND code_version IS NOT NULL
)
SELECT consumer_group AS "group", code_version, min(at) AS first_at, max(at) AS last_at,
       count(*) FILTER (WHERE is_handled) AS handled, count(*) FILTER (WHERE NOT is_handled) AS failures,
       count(DISTINCT fingerprint) AS fingerprints
  FROM done
 GROUP BY 1, 2
 ORDER BY 1, 3, 2;
