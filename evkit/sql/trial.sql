-- Trying a letter: what its handler would write, seen from inside the transaction that is rolled back.

-- name: letter
-- Locked like a letter that is redriven: nobody handles it meanwhile, and we do not wait for who does.
SELECT event_id, generation, retry_count, topic, partition, "offset", leader_epoch, appended_at, timestamp_type, raw_key,
       raw_value, header_names, header_values, failed_at, edited_from
  FROM evkit.dead_letter
 WHERE letter_id = %(letter_id)s AND state = 'open'
   FOR UPDATE SKIP LOCKED;

-- name: written
-- Rows that this transaction has written so far, a table a row; those of evkit's bookkeeping are nobody's effect.
SELECT schemaname::text, relname::text, n_tup_ins, n_tup_upd, n_tup_del
  FROM pg_stat_xact_user_tables
 WHERE n_tup_ins + n_tup_upd + n_tup_del > 0 AND schemaname <> 'evkit'
 ORDER BY 1, 2;

-- name: last_position
SELECT coalesce(max(position), 0) FROM evkit.outbox;

-- name: follow_ups
SELECT type, aggregateid, topic, payload
  FROM evkit.outbox
 WHERE position > %(position)s AND txid = pg_current_xact_id()
 ORDER BY position
 LIMIT %(rows_max)s;

-- name: limit_time
-- Until the end of the transaction, which is near.
SELECT set_config('statement_timeout', %s, true);
