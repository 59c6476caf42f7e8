"""Many dead letters at once, as rows: for what is about their number, not about how they came."""

from __future__ import annotations

# 5 groups, 40 kinds of failure, 20 types; a few letters are of a failure that hardly anything else has.
FILL = """
INSERT INTO evkit.dead_letter (consumer_group, event_id, event_type, topic, partition, "offset", timestamp_type, key,
                               raw_key, raw_value, header_names, header_values, handler, error_class, error_message,
                               stack_trace, fingerprint, code_version, first_failed_at, failed_at, retry_count, state)
SELECT 'group-' || i %% 5, 'event-' || i, 'order.type' || i %% 20, 'topic-' || i %% 10, i %% 12, i, 'append',
       'key-' || i %% 300000, convert_to('key-' || i %% 300000, 'UTF8'),
       convert_to('{"pad": "' || repeat('x', 200) || i || '"}', 'UTF8'), '{ce_id,ce_type}',
       ARRAY['a'::bytea, 'b'::bytea], 'orders.billing:bill', 'ValueError' || i %% 7, 'order ' || i || ' is broken',
       repeat('File "orders/billing.py", line 7' || i, 20),
       CASE WHEN i %% 5000 = 7 THEN 'rare' ELSE md5((i %% 40)::text) END, 'v' || i %% 3, now() - i * interval '1 second',
       now() - i * interval '0.5 second', i %% 9,
       CASE WHEN i %% 10 < %(open_tenths)s THEN 'open' WHEN i %% 2 = 0 THEN 'resolved' ELSE 'archived' END
  FROM generate_series(1, %(letters)s) AS i
"""


def fill(connection, letters, open_tenths=10):
    """Write so many letters, of which so many tenths are open; the connection is on autocommit."""
    connection.execute(FILL, {"letters": letters, "open_tenths": open_tenths})
    connection.execute("VACUUM (ANALYZE) evkit.dead_letter")
