-- Letters that were imported from another framework's dead-letter topic, and which record of it each one is; and which records
-- were such letters, once these are deleted for good.

ALTER TABLE evkit.dead_letter
    ADD COLUMN source_dialect   text,
    ADD COLUMN source_topic     text,
    ADD COLUMN source_topic_id  text,
    ADD COLUMN source_partition integer,
    ADD COLUMN source_offset    bigint,
    ADD COLUMN source_facts     jsonb;
CREATE UNIQUE INDEX dead_letter_source ON evkit.dead_letter (source_topic, source_topic_id, source_partition, source_offset)
 WHERE source_topic IS NOT NULL;

CREATE TABLE evkit.deleted_import (
    source_topic      text        NOT NULL,
    source_topic_id   text        NOT NULL,
    source_partition  integer     NOT NULL,
    source_offset     bigint      NOT NULL,
    consumer_group    text        COLLATE "C" NOT NULL,
    event_id          text        COLLATE "C" NOT NULL,
    deleted_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (source_topic, source_topic_id, source_partition, source_offset)
);
CREATE INDEX deleted_import_event ON evkit.deleted_import (consumer_group, event_id);
