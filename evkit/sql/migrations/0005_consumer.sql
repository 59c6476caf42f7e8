-- Which code handled an event; breakers that hold a handler whose events all fail alike; how far each key has come.

ALTER TABLE evkit.inbox ADD COLUMN handler text, ADD COLUMN code_version text;

ALTER TABLE evkit.attempt DROP CONSTRAINT attempt_disposition_check;
ALTER TABLE evkit.attempt ADD CONSTRAINT attempt_disposition_check CHECK (disposition IN ('retry', 'dead', 'held'));
CREATE INDEX attempt_fingerprint ON evkit.attempt (consumer_group, fingerprint, failed_at);

CREATE TABLE evkit.breaker (
    consumer_group  text        COLLATE "C" NOT NULL,
    handler         text        COLLATE "C" NOT NULL,
    state           text        NOT NULL CHECK (state IN ('open', 'closed')),
    fingerprint     text        NOT NULL,
    error_class     text        NOT NULL,
    error_message   text        NOT NULL,
    keys            bigint      NOT NULL,
    opened_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    probes          integer     NOT NULL DEFAULT 0,
    probe_at        timestamptz NOT NULL,
    probed_key      text,
    probed_times    integer     NOT NULL DEFAULT 0,
    closed_at       timestamptz,
    closed_by       text,
    PRIMARY KEY (consumer_group, handler)
);

CREATE TABLE evkit.key_version (
    consumer_group  text        COLLATE "C" NOT NULL,
    topic           text        NOT NULL,
    raw_key         bytea       NOT NULL,
    partition       integer     NOT NULL,
    version         bigint      NOT NULL,
    event_id        text        NOT NULL,
    applied_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (consumer_group, topic, raw_key)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
