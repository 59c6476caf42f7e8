-- An id that comes again with another payload is told, not silently dropped: the inbox keeps a checksum of the payload.

ALTER TABLE evkit.inbox ADD COLUMN payload_crc32 bigint;

CREATE TABLE evkit.id_conflict (
    consumer_group  text        COLLATE "C" NOT NULL,
    event_id        text        COLLATE "C" NOT NULL,
    generation      integer     NOT NULL DEFAULT 0,
    event_type      text        NOT NULL,
    topic           text        NOT NULL,
    partition       integer     NOT NULL,
    "offset"        bigint      NOT NULL,
    key             text,
    records         bigint      NOT NULL DEFAULT 1,
    first_seen_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_seen_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (consumer_group, event_id, generation)
);
