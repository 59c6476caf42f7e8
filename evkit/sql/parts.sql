-- What queries of several nouns have in common: `-- include: NAME` puts it in its place in any file of this folder.

-- part: reading
-- What evkit/views/reading.py has found: the end of the window, frozen, and the topics that each group reads.
bound AS (
    SELECT %(until)s::timestamptz AS until
), reading AS (
    SELECT consumer_group, topic, first_at
      FROM unnest(%(reading_groups)s::text[], %(reading_topics)s::text[], %(reading_since)s::timestamptz[])
           AS found (consumer_group, topic, first_at)
)
