-- Replays: progress in the transactions of what they handle, modes and limits, pausing the live group, and rewound offsets.

ALTER TABLE evkit.replay_run DROP CONSTRAINT replay_run_dedupe_check;
UPDATE evkit.replay_run SET dedupe = 'again' WHERE dedupe = 'override';
ALTER TABLE evkit.replay_run ADD CONSTRAINT replay_run_dedupe_check CHECK (dedupe IN ('honour', 'again', 'dry'));
ALTER TABLE evkit.replay_run
    ADD COLUMN known              bigint           NOT NULL DEFAULT 0,
    ADD COLUMN parked             bigint           NOT NULL DEFAULT 0,
    ADD COLUMN filtered           bigint           NOT NULL DEFAULT 0,
    ADD COLUMN emitted            bigint           NOT NULL DEFAULT 0,
    ADD COLUMN mode               text             NOT NULL DEFAULT 'beside' CHECK (mode IN ('beside', 'paused')),
    ADD COLUMN emit               text             NOT NULL DEFAULT 'marked' CHECK (emit IN ('none', 'marked', 'normal')),
    ADD COLUMN keys               text[],
    ADD COLUMN types              text[],
    ADD COLUMN errors_max         bigint,
    ADD COLUMN per_second_max     double precision,
    ADD COLUMN allow_missing      boolean          NOT NULL DEFAULT false,
    ADD COLUMN epoch              integer          NOT NULL DEFAULT 0,
    ADD COLUMN alive_at           timestamptz,
    ADD COLUMN stop_requested_at  timestamptz,
    ADD COLUMN stop_requested_by  text,
    ADD COLUMN why                text;
ALTER TABLE evkit.replay_run
    SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

CREATE TABLE evkit.replay_range (
    replay_id     text            COLLATE "C" NOT NULL,
    topic         text            NOT NULL,
    partition     integer         NOT NULL,
    topic_id      text,
    start_offset  bigint          NOT NULL,
    end_offset    bigint          NOT NULL,
    done          int8multirange  NOT NULL DEFAULT '{}',
    PRIMARY KEY (replay_id, topic, partition)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
INSERT INTO evkit.replay_range (replay_id, topic, partition, start_offset, end_offset, done)
SELECT r.replay_id, p.topic, p.partition, p.start, p."end",
       CASE WHEN p.next > p.start THEN int8multirange(int8range(p.start, p.next)) ELSE '{}' END
  FROM evkit.replay_run r
 CROSS JOIN LATERAL jsonb_to_recordset(r.ranges)
            AS p (topic text, partition integer, start bigint, "end" bigint, next bigint);

CREATE TABLE evkit.replay_failure (
    replay_id      text     COLLATE "C" NOT NULL,
    fingerprint    text     NOT NULL,
    events         bigint   NOT NULL,
    error_class    text     NOT NULL,
    error_message  text     NOT NULL,
    handler        text,
    event_id       text     NOT NULL,
    topic          text     NOT NULL,
    partition      integer  NOT NULL,
    "offset"       bigint   NOT NULL,
    PRIMARY KEY (replay_id, fingerprint)
);

CREATE TABLE evkit.group_pause (
    consumer_group  text         COLLATE "C" PRIMARY KEY,
    replay_id       text         COLLATE "C" NOT NULL,
    actor           text         NOT NULL,
    requested_at    timestamptz  NOT NULL DEFAULT clock_timestamp(),
    alive_at        timestamptz  NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

CREATE TABLE evkit.group_pause_member (
    consumer_group  text         COLLATE "C" NOT NULL,
    member          uuid         NOT NULL,
    replay_id       text         COLLATE "C" NOT NULL,
    kafka_member    text,
    process         text         NOT NULL,
    in_hand         integer      NOT NULL,
    seen_at         timestamptz  NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (consumer_group, member)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

CREATE TABLE evkit.rewind (
    rewind_id       text         COLLATE "C" PRIMARY KEY,
    consumer_group  text         NOT NULL,
    to_time         timestamptz  NOT NULL,
    offsets         jsonb        NOT NULL,
    state           text         NOT NULL DEFAULT 'planned' CHECK (state IN ('planned', 'done', 'undone')),
    actor           text         NOT NULL,
    reason          text,
    created_at      timestamptz  NOT NULL DEFAULT clock_timestamp(),
    done_at         timestamptz,
    undone_at       timestamptz
);
