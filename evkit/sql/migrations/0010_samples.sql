-- Lag as `evkit sample` measures it, and its copy of what groups leave in Kafka's offsets log, which Kafka compacts. Rows of
-- each cluster apart: several may be sampled into one database.

CREATE TABLE evkit.lag_sample (
    cluster_id        text        COLLATE "C" NOT NULL,
    consumer_group    text        COLLATE "C" NOT NULL,
    topic             text        COLLATE "C" NOT NULL,
    partition         integer     NOT NULL,
    sampled_at        timestamptz NOT NULL,
    every_seconds     real        NOT NULL,
    committed_offset  bigint,
    start_offset      bigint,
    stable_offset     bigint,
    end_offset        bigint,
    group_state       text,
    members           integer,
    PRIMARY KEY (cluster_id, consumer_group, topic, partition, sampled_at)
);
CREATE INDEX lag_sample_sampled_at ON evkit.lag_sample USING brin (sampled_at);

CREATE TABLE evkit.commit_log (
    cluster_id        text        COLLATE "C" NOT NULL,
    log_partition     integer     NOT NULL,
    log_offset        bigint      NOT NULL,
    written_at        timestamptz NOT NULL,
    kind              text        COLLATE "C" NOT NULL,
    consumer_group    text        COLLATE "C" NOT NULL,
    topic             text        COLLATE "C",
    partition         integer,
    committed_offset  bigint,
    committed_at      timestamptz,
    raw_key           bytea,
    raw_value         bytea,
    PRIMARY KEY (cluster_id, log_partition, log_offset),
    CHECK ((kind = 'commit') = (raw_key IS NULL))
);
CREATE INDEX commit_log_group ON evkit.commit_log (cluster_id, consumer_group, topic, partition, committed_at, log_offset);
CREATE INDEX commit_log_written_at ON evkit.commit_log USING brin (written_at);

CREATE TABLE evkit.commit_log_tail (
    cluster_id     text        COLLATE "C" NOT NULL,
    log_partition  integer     NOT NULL,
    next_offset    bigint      NOT NULL,
    complete_at    timestamptz,
    first_hole     bigint,
    whole_from     bigint      NOT NULL DEFAULT 0,
    whole_since    timestamptz,
    groups         text[]      NOT NULL,
    PRIMARY KEY (cluster_id, log_partition)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

CREATE TABLE evkit.commit_log_gap (
    cluster_id     text        COLLATE "C" NOT NULL,
    log_partition  integer     NOT NULL,
    log_offset     bigint      NOT NULL,
    since          timestamptz,
    PRIMARY KEY (cluster_id, log_partition, log_offset)
);
