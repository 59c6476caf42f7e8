-- Databases of tests (testing/databases.py): what they are made of, and what a test has left in them.

-- name: end_sessions
SELECT pg_terminate_backend(pid, %s) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid();

-- name: schemas
SELECT nspname::text FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' ORDER BY 1;

-- name: relations
SELECT oid::bigint FROM pg_class WHERE oid >= 16384 AND relpersistence <> 't' ORDER BY 1;

-- name: added
SELECT CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'S' THEN 'SEQUENCE'
                      WHEN 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE' END, n.nspname::text, c.relname::text
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid >= 16384 AND c.relpersistence <> 't' AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND n.nspname !~ '^pg_'
   AND c.oid <> ALL (%s::bigint[]::oid[])
 ORDER BY c.relkind = 'S'
 LIMIT 1;

-- name: tables
SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid >= 16384 AND c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' ORDER BY 1, 2;

-- name: restart_sequences
SELECT setval(format('%I.%I', schemaname, sequencename)::regclass, start_value, false)
  FROM pg_sequences WHERE last_value IS NOT NULL;

-- name: forget_statistics
SELECT pg_stat_reset();

-- name: catalogs
-- All that a test may change of a database, but for the counts and file names that TRUNCATE and autovacuum write.
SELECT md5(string_agg(kind || ' ' || entry, E'\n' ORDER BY kind, entry)) FROM (
  SELECT 'database', to_jsonb(d) - ARRAY['oid', 'datname', 'datfrozenxid', 'datminmxid'] FROM pg_database d WHERE datname = current_database()
  UNION ALL SELECT 'setting', to_jsonb(s) FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase WHERE datname = current_database()
  UNION ALL SELECT 'slot', to_jsonb(slot_name) FROM pg_replication_slots WHERE database = current_database()
  UNION ALL SELECT 'prepared', to_jsonb(gid) FROM pg_prepared_xacts WHERE database = current_database()
  UNION ALL SELECT 'schema', to_jsonb(n) FROM pg_namespace n WHERE nspname !~ '^pg_(toast_)?temp_'
  UNION ALL SELECT 'relation', to_jsonb(c) - ARRAY['relfilenode', 'relpages', 'reltuples', 'relallvisible', 'relallfrozen',
                                                   'relfrozenxid', 'relminmxid', 'relhassubclass']
              FROM pg_class c WHERE relpersistence <> 't' AND (oid >= 16384 OR relacl IS NOT NULL)
  UNION ALL SELECT 'column', to_jsonb(a::text) FROM pg_attribute a
             WHERE attrelid IN (SELECT oid FROM pg_class WHERE oid >= 16384 AND relpersistence <> 't')
  UNION ALL SELECT 'default', to_jsonb(d::text) FROM pg_attrdef d
  UNION ALL SELECT 'constraint', to_jsonb(c::text) FROM pg_constraint c WHERE oid >= 16384
  UNION ALL SELECT 'index', to_jsonb(i::text) FROM pg_index i WHERE indrelid >= 16384
  UNION ALL SELECT 'parent', to_jsonb(i::text) FROM pg_inherits i
  UNION ALL SELECT 'sequence', to_jsonb(s::text) FROM pg_sequence s
  UNION ALL SELECT 'number', to_jsonb(s::text) FROM pg_sequences s WHERE last_value IS NOT NULL
  UNION ALL SELECT 'function', to_jsonb(p::text) FROM pg_proc p WHERE oid >= 16384 OR proacl IS NOT NULL
  UNION ALL SELECT 'type', to_jsonb(t::text) FROM pg_type t WHERE oid >= 16384 AND typrelid = 0 AND typelem = 0
  UNION ALL SELECT 'trigger', to_jsonb(t::text) FROM pg_trigger t
  UNION ALL SELECT 'event trigger', to_jsonb(t::text) FROM pg_event_trigger t
  UNION ALL SELECT 'rule', to_jsonb(r::text) FROM pg_rewrite r WHERE oid >= 16384
  UNION ALL SELECT 'policy', to_jsonb(p::text) FROM pg_policy p
  UNION ALL SELECT 'extension', to_jsonb(e::text) FROM pg_extension e
  UNION ALL SELECT 'publication', to_jsonb(p::text) FROM pg_publication p
  UNION ALL SELECT 'right', to_jsonb(a::text) FROM pg_default_acl a
  UNION ALL SELECT 'statistics', to_jsonb(s::text) FROM pg_statistic_ext s
  UNION ALL SELECT 'analyzed', to_jsonb(starelid) FROM pg_statistic WHERE starelid >= 16384
  UNION ALL SELECT 'large object', to_jsonb(l::text) FROM pg_largeobject_metadata l
) AS made (kind, entry);
