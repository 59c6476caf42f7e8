-- What a freeze copies of evkit's tables. Of most tables all rows; of those that grow with the traffic those of the window and
-- of what belongs to it; freeze/tables.py reads each query in pages, with the columns that it copies.
--   %(earlier)s  start of the window, and an hour before it: views look for what was written before and handled within
--   %(until)s    its end
--   %(at)s       the moment of the freeze

-- name: moment
SELECT clock_timestamp() AS at;

-- name: columns
-- Tables of evkit that are no partitions, their columns in order (without generated ones) and their primary keys.
SELECT c.relname::text AS name, a.attname::text AS column, format_type(a.atttypid, NULL) AS type,
       coalesce(array_position(i.indkey::smallint[], a.attnum), -1) AS place_in_key
  FROM pg_class c
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
  LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary
 WHERE c.relnamespace = to_regnamespace('evkit') AND c.relkind IN ('r', 'p') AND NOT c.relispartition
   AND c.relname <> 'migration'
 ORDER BY c.relname, a.attnum;

-- name: is_empty
SELECT pg_relation_size(to_regclass('evkit.' || quote_ident(%(name)s::text))) = 0;

-- name: inbox_window
SELECT t.* FROM evkit.inbox t
 WHERE t.processed_at BETWEEN %(earlier)s AND %(until)s;

-- name: inbox_newest
-- What a group handled last, however long ago: which groups and topics there are is asked of these rows.
SELECT t.* FROM evkit.inbox t
 WHERE t.processed_at NOT BETWEEN %(earlier)s AND %(until)s AND t.processed_at <= %(at)s AND (t.consumer_group, t.event_id, t.generation) IN (
    SELECT newest.consumer_group, newest.event_id, newest.generation
      FROM unnest(%(groups)s::text[]) AS known (consumer_group)
     CROSS JOIN LATERAL (
           SELECT i.consumer_group, i.event_id, i.generation FROM evkit.inbox i
            WHERE i.consumer_group = known.consumer_group
            ORDER BY i.event_id DESC LIMIT 1000) AS newest);

-- name: inbox_events
SELECT t.* FROM evkit.inbox t
 WHERE t.processed_at NOT BETWEEN %(earlier)s AND %(until)s AND t.processed_at <= %(at)s AND t.consumer_group = ANY (%(groups)s::text[]) AND t.event_id = ANY (%(ids)s::text[]);

-- name: attempt_window
SELECT t.* FROM evkit.attempt t
 WHERE t.failed_at BETWEEN %(earlier)s AND %(until)s;

-- name: attempt_groups
-- One of each group: a group may have nothing else.
SELECT t.* FROM evkit.attempt t
 WHERE t.failed_at NOT BETWEEN %(earlier)s AND %(until)s AND t.failed_at <= %(at)s AND t.attempt_id IN (
    SELECT (SELECT a.attempt_id FROM evkit.attempt a WHERE a.consumer_group = known.consumer_group
             ORDER BY a.consumer_group, a.event_id LIMIT 1)
      FROM unnest(%(groups)s::text[]) AS known (consumer_group));

-- name: attempt_events
SELECT t.* FROM evkit.attempt t
 WHERE t.failed_at NOT BETWEEN %(earlier)s AND %(until)s AND t.failed_at <= %(at)s AND t.consumer_group = ANY (%(groups)s::text[]) AND t.event_id = ANY (%(ids)s::text[]);

-- name: publication_window
SELECT t.* FROM evkit.publication t
 WHERE t.position >= %(first)s AND t.published_at BETWEEN %(earlier)s AND %(until)s;

-- name: publication_first
SELECT min(position) FROM (SELECT position FROM evkit.publication WHERE published_at >= %(earlier)s OFFSET 0) AS p;

-- name: publication_positions
SELECT t.* FROM evkit.publication t
 WHERE t.published_at NOT BETWEEN %(earlier)s AND %(until)s AND t.published_at <= %(at)s AND t.position = ANY (%(positions)s::bigint[]);

-- name: outbox_window
SELECT t.* FROM evkit.outbox t
 WHERE t.position >= %(first)s AND t.created_at BETWEEN %(earlier)s AND %(until)s;

-- name: outbox_first
SELECT min(position) FROM (SELECT position FROM evkit.outbox WHERE created_at >= %(earlier)s OFFSET 0) AS o;

-- name: outbox_waiting
-- What the relay has not dealt with, however old.
SELECT t.* FROM evkit.outbox t
 WHERE t.created_at NOT BETWEEN %(earlier)s AND %(until)s AND t.created_at <= %(at)s AND t.position > coalesce((SELECT settled_position FROM evkit.relay), 0);

-- name: outbox_topics
-- The first event of each topic of the window and the day before it, and the last one before the window: since when a topic
-- is there, and that it is.
SELECT t.* FROM evkit.outbox t
 WHERE t.created_at NOT BETWEEN %(earlier)s AND %(until)s AND t.created_at <= %(at)s AND t.position IN (
    SELECT seen.last FROM (
        SELECT max(o.position) AS last FROM evkit.outbox o
         WHERE o.created_at >= %(day)s AND o.created_at < %(earlier)s GROUP BY coalesce(o.topic, o.aggregatetype)) AS seen
     UNION
    SELECT (SELECT o.position FROM evkit.outbox o WHERE coalesce(o.topic, o.aggregatetype) = topic.name
             ORDER BY o.position LIMIT 1)
      FROM (SELECT DISTINCT coalesce(o.topic, o.aggregatetype) AS name FROM evkit.outbox o
             WHERE o.created_at >= %(day)s AND o.created_at <= %(until)s) AS topic);

-- name: outbox_positions
SELECT t.* FROM evkit.outbox t
 WHERE t.created_at NOT BETWEEN %(earlier)s AND %(until)s AND t.created_at <= %(at)s AND t.position = ANY (%(positions)s::bigint[]);

-- name: outbox_events
SELECT t.* FROM evkit.outbox t
 WHERE t.created_at NOT BETWEEN %(earlier)s AND %(until)s AND t.created_at <= %(at)s AND t.id = ANY (%(ids)s::text[]);

-- name: letter_events
-- Events of letters that are open, or about which something was done in the window.
SELECT event_id FROM evkit.dead_letter
 WHERE state IN ('open', 'retrying') OR failed_at >= %(earlier)s OR state_changed_at >= %(earlier)s;

-- name: unpublishable_positions
SELECT position FROM evkit.unpublishable;

-- name: key_version_window
SELECT t.* FROM evkit.key_version t
 WHERE t.applied_at BETWEEN %(earlier)s AND %(until)s;

-- name: server_locks
-- What the server held at that moment, as far as views ask: the relay's lock, and who keeps a hole open. Names in the place of
-- numbers, which are others in another server.
SELECT l.locktype, coalesce(d.datname = current_database(), false) AS is_here, c.relname::text AS relation, l.virtualxid, l.transactionid::text AS transactionid,
       l.classid::bigint AS classid, l.objid::bigint AS objid, l.objsubid::integer AS objsubid, l.virtualtransaction,
       l.pid, l.mode, l.granted
  FROM pg_locks l
  LEFT JOIN pg_database d ON d.oid = l.database
  LEFT JOIN pg_class c ON c.oid = l.relation AND c.relnamespace = to_regnamespace('evkit') AND d.datname = current_database()
 WHERE l.pid IS DISTINCT FROM pg_backend_pid() AND l.locktype IN ('advisory', 'transactionid', 'relation');

-- name: server_sessions
SELECT pid, datname::text AS datname, usename::text AS usename, application_name, host(client_addr) AS client_addr, client_port,
       backend_start, xact_start, query_start, state_change, state, wait_event_type, wait_event, backend_type
  FROM pg_stat_activity
 WHERE pid <> pg_backend_pid();

-- name: server_prepared
SELECT transaction::text AS transaction, gid, prepared, owner::text AS owner, database::text AS database FROM pg_prepared_xacts;

-- name: frozen_position
SELECT setval('evkit.outbox_position', greatest(coalesce((SELECT max(position) FROM evkit.outbox), 1), 1));
