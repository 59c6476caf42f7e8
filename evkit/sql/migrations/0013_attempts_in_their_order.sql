-- Failed attempts are listed by their time, and those of one moment by their number: an index in that very order, so that
-- nobody sorts a million of them (half a microsecond each).

DROP INDEX evkit.attempt_failed_at;
CREATE INDEX attempt_failed_at ON evkit.attempt (failed_at, attempt_id);
