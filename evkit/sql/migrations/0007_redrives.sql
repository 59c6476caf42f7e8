-- Redrives with a frozen selection, in which each letter is settled in the transaction of its own handling.

CREATE TABLE evkit.redrive_run (
    redrive_id        text             COLLATE "C" PRIMARY KEY,
    consumer_group    text             COLLATE "C" NOT NULL,
    state             text             NOT NULL
                      CHECK (state IN ('planned', 'queued', 'running', 'done', 'stopped', 'cancelled')),
    run_by            text             NOT NULL CHECK (run_by IN ('process', 'consumers', 'topic')),
    to_topic          text,
    stop_at_failure   boolean          NOT NULL,
    per_second_max    double precision,
    fingerprints      text[]           NOT NULL,
    cancel_requested  boolean          NOT NULL DEFAULT false,
    stage             bigint           NOT NULL DEFAULT 0,
    why               text,
    actor             text             NOT NULL,
    reason            text,
    audit_id          bigint,
    created_at        timestamptz      NOT NULL DEFAULT clock_timestamp(),
    started_at        timestamptz,
    finished_at       timestamptz,
    CHECK ((run_by = 'topic') = (to_topic IS NOT NULL))
);
CREATE INDEX redrive_run_waiting ON evkit.redrive_run (consumer_group, created_at)
 WHERE run_by = 'consumers' AND state IN ('queued', 'running');

CREATE TABLE evkit.redrive_letter (
    redrive_id     text        COLLATE "C" NOT NULL REFERENCES evkit.redrive_run ON DELETE CASCADE,
    position       integer     NOT NULL,
    letter_id      bigint      NOT NULL,
    state          text        NOT NULL DEFAULT 'waiting'
                   CHECK (state IN ('waiting', 'tail', 'resolved', 'released', 'sent', 'failed', 'skipped')),
    released       bigint      NOT NULL DEFAULT 0,
    failed_behind  bigint,
    why            text,
    settled_at     timestamptz,
    PRIMARY KEY (redrive_id, position)
) WITH (fillfactor = 50);
