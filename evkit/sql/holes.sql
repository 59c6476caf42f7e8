-- A hole is a position that the relay cannot pass yet: whoever took it may still commit. See runtime/outbox_cursor.py.

-- name: hole_holder
-- Which transaction keeps a hole open since %(since)s: one that writes to the outbox and was there before the hole; else
-- the oldest with a transaction id in any database of the server, for that is what the snapshot's xmin waits for. Locks on
-- transaction ids are shown to everybody, so the pid is known even where the rest of pg_stat_activity is hidden (null).
-- Who began after the hole was found does not hold it. A prepared transaction has no pid.
WITH held AS MATERIALIZED (
    SELECT * FROM pg_locks WHERE granted
), holder AS (
    SELECT x.virtualtransaction, x.pid, max(age(x.transactionid)) AS xids_ago,
           (array_agg(x.transactionid ORDER BY age(x.transactionid) DESC))[1] AS xid,
           EXISTS (SELECT FROM held w
                    WHERE w.virtualtransaction = x.virtualtransaction AND w.locktype = 'relation'
                      AND w.mode = 'RowExclusiveLock'
                      AND w.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                      AND (w.relation = 'evkit.outbox'::regclass
                           OR w.relation IN (SELECT inhrelid FROM pg_inherits
                                              WHERE inhparent = 'evkit.outbox'::regclass))) AS writes_outbox
      FROM held x
     WHERE x.locktype = 'transactionid' AND x.mode = 'ExclusiveLock'
     GROUP BY x.virtualtransaction, x.pid
)
SELECT h.pid AS hole_pid,
       extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, p.prepared))::float8 AS hole_pid_seconds,
       coalesce(a.datname, p.database)::text AS hole_database,
       coalesce(a.state, CASE WHEN p.gid IS NOT NULL THEN 'prepared transaction ' || p.gid END) AS hole_state,
       nullif(a.application_name, '') AS hole_application
  FROM holder h
  LEFT JOIN pg_stat_activity a ON a.pid = h.pid
  LEFT JOIN pg_prepared_xacts p ON h.pid IS NULL AND p.transaction = h.xid
 WHERE a.xact_start IS NULL OR a.xact_start <= %(since)s
 ORDER BY h.writes_outbox AND a.xact_start IS NOT NULL DESC, h.xids_ago DESC
 LIMIT 1;
