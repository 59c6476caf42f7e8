-- After a dead letter, later events of its key wait in order in evkit.parked, and their offsets go on.

ALTER TABLE evkit.inbox DROP CONSTRAINT inbox_outcome_check;
ALTER TABLE evkit.inbox ADD CONSTRAINT inbox_outcome_check CHECK (outcome IN ('handled', 'dead', 'skipped', 'parked'));

CREATE TABLE evkit.parked_key (
    consumer_group  text        COLLATE "C" NOT NULL,
    topic           text        NOT NULL,
    raw_key         bytea       NOT NULL,
    key             text,
    letter_id       bigint      NOT NULL,
    events          bigint      NOT NULL DEFAULT 0,
    parked_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (consumer_group, topic, raw_key)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

CREATE TABLE evkit.parked (
    parked_id       bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    consumer_group  text        COLLATE "C" NOT NULL,
    event_id        text        COLLATE "C" NOT NULL,
    event_type      text        NOT NULL,
    topic           text        NOT NULL,
    partition       integer     NOT NULL,
    "offset"        bigint      NOT NULL,
    leader_epoch    integer,
    appended_at     timestamptz,
    timestamp_type  text        NOT NULL CHECK (timestamp_type IN ('create', 'append', 'none')),
    raw_key         bytea       NOT NULL,
    raw_value       bytea,
    header_names    text[]      NOT NULL,
    header_values   bytea[]     NOT NULL,
    created_at      timestamptz,
    received_at     timestamptz NOT NULL,
    parked_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK (cardinality(header_names) = cardinality(header_values))
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
CREATE INDEX parked_of_key ON evkit.parked (consumer_group, topic, raw_key, parked_id);
