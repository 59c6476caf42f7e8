-- What is really there, for comparison with what evkit expects. Definitions as PostgreSQL prints them with an empty
-- search_path, so that they are the same text everywhere.

-- name: nothing_on_the_path
SELECT set_config('search_path', '', false);

-- name: relations
SELECT c.relname, p.relname AS parent, pg_get_userbyid(c.relowner) AS owner,
       c.relpersistence = 'u' AS unlogged, c.relrowsecurity, c.reloptions,
       CASE WHEN c.relkind = 'p' THEN pg_get_partkeydef(c.oid) END AS partition_by
  FROM pg_class c
  LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
  LEFT JOIN pg_class p ON p.oid = i.inhparent
 WHERE c.relnamespace = to_regnamespace('evkit') AND c.relkind IN ('r', 'p')
 ORDER BY c.relname;

-- name: columns
SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull AS not_null,
       pg_get_expr(d.adbin, d.adrelid) AS "default", a.attidentity::text AS identity, a.attgenerated::text AS generated,
       CASE WHEN a.attcollation <> t.typcollation THEN (SELECT quote_ident(collname) FROM pg_collation WHERE oid = a.attcollation) END
  FROM pg_attribute a
  JOIN pg_class c ON c.oid = a.attrelid
  JOIN pg_type t ON t.oid = a.atttypid
  LEFT JOIN pg_attrdef d ON (d.adrelid, d.adnum) = (a.attrelid, a.attnum)
 WHERE c.relnamespace = to_regnamespace('evkit') AND c.relkind IN ('r', 'p') AND NOT c.relispartition
   AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY c.relname, a.attnum;

-- name: constraints
-- NOT NULL is told by the column; PostgreSQL 18 has rows for it here, older ones have not.
SELECT c.relname, con.conname, pg_get_constraintdef(con.oid) AS definition
  FROM pg_constraint con JOIN pg_class c ON c.oid = con.conrelid
 WHERE c.relnamespace = to_regnamespace('evkit') AND con.contype IN ('c', 'p', 'u', 'f', 'x')
   AND (NOT c.relispartition OR (con.coninhcount = 0 AND con.conparentid = 0 AND con.contype IN ('c', 'f', 'x')))
 ORDER BY c.relname, con.conname;

-- name: indexes
-- All but those that a constraint brought along.
SELECT c.relname, x.relname AS index, pg_get_indexdef(i.indexrelid) AS definition, i.indisvalid AS valid,
       p.relname AS parent_index,
       i.indisunique AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indnatts = 1
           AND (SELECT attname FROM pg_attribute WHERE attrelid = c.oid AND attnum = i.indkey[0]) = 'id' AS unique_id
  FROM pg_index i
  JOIN pg_class c ON c.oid = i.indrelid
  JOIN pg_class x ON x.oid = i.indexrelid
  LEFT JOIN pg_inherits h ON h.inhrelid = i.indexrelid
  LEFT JOIN pg_class p ON p.oid = h.inhparent
 WHERE c.relnamespace = to_regnamespace('evkit') AND c.relkind IN ('r', 'p')
   AND NOT EXISTS (SELECT FROM pg_constraint con WHERE con.conindid = i.indexrelid AND con.contype IN ('p', 'u', 'x'))
 ORDER BY c.relname, x.relname;

-- name: sequences
-- All but those of identity columns, which belong to their column.
SELECT c.relname, format_type(s.seqtypid, NULL) AS type, s.seqincrement, s.seqmin, s.seqmax, s.seqcache, s.seqcycle,
       (SELECT quote_ident(o.relname) || '.' || quote_ident(a.attname)
          FROM pg_depend d JOIN pg_class o ON o.oid = d.refobjid
          JOIN pg_attribute a ON (a.attrelid, a.attnum) = (d.refobjid, d.refobjsubid)
         WHERE d.objid = c.oid AND d.classid = 'pg_class'::regclass AND d.deptype = 'a') AS owned_by
  FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid
 WHERE c.relnamespace = to_regnamespace('evkit')
   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.classid = 'pg_class'::regclass AND d.deptype = 'i')
 ORDER BY c.relname;

-- name: others
-- What users hang on evkit's tables or put beside them.
SELECT 'trigger ' || t.tgname || ' on evkit.' || c.relname
  FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
 WHERE c.relnamespace = to_regnamespace('evkit') AND NOT t.tgisinternal AND t.tgparentid = 0
 UNION ALL
SELECT CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' ELSE 'foreign table' END || ' evkit.' || c.relname
  FROM pg_class c WHERE c.relnamespace = to_regnamespace('evkit') AND c.relkind IN ('v', 'm', 'f')
 UNION ALL
SELECT 'function evkit.' || proname FROM pg_proc WHERE pronamespace = to_regnamespace('evkit')
 ORDER BY 1;

-- name: highest_position
-- Below settled_position the relay looks no more.
SELECT greatest((SELECT max(position) FROM evkit.outbox), (SELECT max(position) FROM evkit.publication),
                (SELECT max(settled_position) FROM evkit.relay), 0);

-- name: settled
SELECT coalesce(max(settled_position), 0) FROM evkit.relay;
