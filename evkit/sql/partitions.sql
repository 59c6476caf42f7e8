-- Ranges of positions that evkit.outbox and evkit.publication are cut into.

-- name: layout
-- Every attached partition of both, and tables that are named like one but are not attached (bound is null).
SELECT parent.relname AS parent, leaf.relname AS leaf, pg_get_expr(leaf.relpartbound, leaf.oid) AS bound,
       pg_get_userbyid(parent.relowner) AS owner, leaf.reltuples::bigint AS rows, pg_total_relation_size(leaf.oid) AS bytes
  FROM pg_class parent
  JOIN pg_class leaf ON leaf.relnamespace = parent.relnamespace AND leaf.relkind = 'r'
                    AND (leaf.relname ~ ('^' || parent.relname || '_[0-9]+$')
                         OR EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = leaf.oid AND i.inhparent = parent.oid))
 WHERE parent.relnamespace = to_regnamespace('evkit') AND parent.relkind = 'p'
   AND parent.relname IN ('outbox', 'publication')
 ORDER BY parent.relname, leaf.relname;

-- name: last_position
-- Of the sequence: nobody has taken a position above it.
SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM evkit.outbox_position;

-- name: rest_bounds
-- Lowest and highest position of both tables between two positions; a stretch that no range covers is looked up in the
-- default partitions alone, by their primary keys.
SELECT least((SELECT min(position) FROM evkit.outbox WHERE position >= g.first AND position < g.last),
             (SELECT min(position) FROM evkit.publication WHERE position >= g.first AND position < g.last)),
       greatest((SELECT max(position) FROM evkit.outbox WHERE position >= g.first AND position < g.last),
                (SELECT max(position) FROM evkit.publication WHERE position >= g.first AND position < g.last))
  FROM (VALUES (%(first)s::bigint, %(last)s::bigint)) AS g (first, last);

-- name: rest_constraints
-- What keeps a range away from the rows of a default partition while it is looked through; gone when that is done.
SELECT conrelid::regclass::text, conname FROM pg_constraint
 WHERE conrelid IN (to_regclass('evkit.outbox_rest'), to_regclass('evkit.publication_rest')) AND conname = 'rest_bound';

-- name: rest_indexes
-- Indexes of a default partition, which are renamed with it when it becomes a range.
SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
 WHERE i.indrelid = to_regclass(%s) ORDER BY c.relname;
