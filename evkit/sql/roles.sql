-- Who may do what with evkit's tables.

-- name: roles
SELECT rolname, rolcanlogin, rolsuper, rolbypassrls,
       ARRAY(SELECT pg_get_userbyid(m.roleid)::text FROM pg_auth_members m WHERE m.member = r.oid ORDER BY 1)
  FROM pg_roles r WHERE rolname = ANY (%s::text[]);

-- name: privileges
-- What is granted to these roles on the schema, its tables and partitions, sequences and single columns.
SELECT pg_get_userbyid(acl.grantee)::text AS role, granted.kind, granted.name, granted.parent, acl.privilege_type AS privilege
  FROM (
       SELECT 'SCHEMA' AS kind, n.nspname::text AS name, NULL::text AS parent, n.nspacl AS acl
         FROM pg_namespace n WHERE n.nspname = 'evkit'
        UNION ALL
       SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, c.relname,
              (SELECT p.relname FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent WHERE i.inhrelid = c.oid), c.relacl
         FROM pg_class c WHERE c.relnamespace = to_regnamespace('evkit') AND c.relkind IN ('r', 'p', 'S')
        UNION ALL
       SELECT 'COLUMN ' || quote_ident(a.attname), c.relname, NULL, a.attacl
         FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        WHERE c.relnamespace = to_regnamespace('evkit') AND c.relkind IN ('r', 'p') AND a.attacl IS NOT NULL
       ) AS granted
 CROSS JOIN LATERAL aclexplode(granted.acl) AS acl
 WHERE acl.grantee <> 0 AND pg_get_userbyid(acl.grantee) = ANY (%s::text[])
 ORDER BY 1, 2, 3, 5;
