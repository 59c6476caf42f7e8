-- evkit's tables as they are today. A database gets them by the numbered files in migrations/, never by this one: it is
-- for reading, and tests/integration/sql/test_migrations.py proves that both ways make the same tables.

CREATE SCHEMA evkit;

-- Which migrations this database has had.
CREATE TABLE evkit.migration (
    number      integer     PRIMARY KEY,
    name        text        NOT NULL,
    applied_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Numbers the outbox rows. A sequence and not an identity column, which partitions have only from PostgreSQL 17 on.
CREATE SEQUENCE evkit.outbox_position AS bigint;

-- What a service's transactions have written. Append-only: nothing updates a row, so there is no dead tuple for a long
-- analytic query to keep, and Debezium's EventRouter (id, aggregatetype, aggregateid, type, payload) works on it unchanged.
-- Partitions are ranges of positions, so that retention drops tables and never deletes rows (runtime/retention.py).
CREATE TABLE evkit.outbox (
    -- Must stand before position: the transaction id has to be assigned before the position is taken, else the relay
    -- cannot tell a hole that will be filled from one that never will (runtime/outbox_cursor.py).
    txid            xid8        NOT NULL DEFAULT pg_current_xact_id(),
    position        bigint      NOT NULL DEFAULT nextval('evkit.outbox_position') PRIMARY KEY,
    id              text        COLLATE "C" NOT NULL DEFAULT gen_random_uuid()::text, -- unique in its partition
    aggregatetype   text        NOT NULL,                          -- topic, unless topic says another
    aggregateid     text        NOT NULL,                          -- key
    type            text        NOT NULL,
    payload         json        NOT NULL,                          -- json, not jsonb: published byte for byte
    topic           text,
    schema_version  integer     NOT NULL DEFAULT 1 CONSTRAINT outbox_schema_version CHECK (schema_version >= 1),
    headers         json,                                          -- object of text to text
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(), -- time of the write, not of the transaction's start
    correlation_id  text        COLLATE "C",                       -- what all events of one business process share
    causation_id    text        COLLATE "C",                       -- id of the event that led to this one
    traceparent     text                                           -- W3C trace context of the writer
) PARTITION BY RANGE (position);
CREATE INDEX outbox_created_at ON evkit.outbox USING brin (created_at);
CREATE INDEX outbox_aggregateid ON evkit.outbox (aggregateid);
CREATE INDEX outbox_correlation_id ON evkit.outbox (correlation_id) WHERE correlation_id IS NOT NULL;
ALTER SEQUENCE evkit.outbox_position OWNED BY evkit.outbox.position;

-- What the broker confirmed, by outbox position. A position without a row here is not published.
CREATE TABLE evkit.publication (
    position      bigint      PRIMARY KEY,
    partition     integer     NOT NULL,  -- -1: the broker's transaction is committed, where the record is was not found
    "offset"      bigint      NOT NULL,
    published_at  timestamptz NOT NULL   -- time of the broker's answer on the database's clock, as created_at: skew cancels
) PARTITION BY RANGE (position);
CREATE INDEX publication_published_at ON evkit.publication USING brin (published_at);

-- The first partitions of both; the relay makes more in time. An id is unique in its partition: an index over all of them
-- could not be dropped with one.
CREATE TABLE evkit.outbox_0 PARTITION OF evkit.outbox FOR VALUES FROM (0) TO (1000000);
CREATE TABLE evkit.outbox_1000000 PARTITION OF evkit.outbox FOR VALUES FROM (1000000) TO (2000000);
CREATE TABLE evkit.outbox_2000000 PARTITION OF evkit.outbox FOR VALUES FROM (2000000) TO (3000000);
CREATE UNIQUE INDEX outbox_0_id ON evkit.outbox_0 (id);
CREATE UNIQUE INDEX outbox_1000000_id ON evkit.outbox_1000000 (id);
CREATE UNIQUE INDEX outbox_2000000_id ON evkit.outbox_2000000 (id);
CREATE TABLE evkit.publication_0 PARTITION OF evkit.publication FOR VALUES FROM (0) TO (1000000);
CREATE TABLE evkit.publication_1000000 PARTITION OF evkit.publication FOR VALUES FROM (1000000) TO (2000000);
CREATE TABLE evkit.publication_2000000 PARTITION OF evkit.publication FOR VALUES FROM (2000000) TO (3000000);
-- Where rows go when nobody has made a partition for them: a writer must never fail for that.
CREATE TABLE evkit.outbox_rest PARTITION OF evkit.outbox DEFAULT;
CREATE UNIQUE INDEX outbox_rest_id ON evkit.outbox_rest (id);
CREATE TABLE evkit.publication_rest PARTITION OF evkit.publication DEFAULT;

-- Events that are to be published later. When one is due, the relay moves it into the outbox, where it gets its position
-- and its created_at: the outbox stays append-only, and Debezium sees no event before its time.
CREATE TABLE evkit.scheduled (
    scheduled_id    bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    due_at          timestamptz NOT NULL,
    id              text        COLLATE "C" NOT NULL DEFAULT gen_random_uuid()::text UNIQUE,
    aggregatetype   text        NOT NULL,
    aggregateid     text        NOT NULL,
    type            text        NOT NULL,
    payload         json        NOT NULL,
    topic           text,
    schema_version  integer     NOT NULL DEFAULT 1 CHECK (schema_version >= 1),
    headers         json,
    written_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    correlation_id  text        COLLATE "C",
    causation_id    text        COLLATE "C",
    traceparent     text
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
CREATE INDEX scheduled_due_at ON evkit.scheduled (due_at, scheduled_id);

-- Outbox rows that could not be published, and those behind them. 'parked': the broker will not take it as it is. 'held':
-- of the same topic and key, later, so it waits. 'retry': somebody asked for another try. The rest is history.
CREATE TABLE evkit.unpublishable (
    position          bigint      PRIMARY KEY,
    topic             text        NOT NULL,
    key               text        NOT NULL,
    state             text        NOT NULL CHECK (state IN ('parked', 'held', 'retry', 'published', 'skipped')),
    blocked_by        bigint,                                      -- of a held one: position of the parked one
    attempts          integer     NOT NULL DEFAULT 0,
    error_class       text,
    error             text,
    parked_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    state_changed_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX unpublishable_open ON evkit.unpublishable (topic, key, position) WHERE state IN ('parked', 'held', 'retry');

-- How far the relay has come: every position up to settled_position is published, unpublishable, or will never exist. One
-- relay leads per outbox, so there is one row.
CREATE TABLE evkit.relay (
    name              text        PRIMARY KEY CONSTRAINT relay_name CHECK (name = 'default'),
    settled_position  bigint      NOT NULL DEFAULT 0,
    moved_at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    failing_position  bigint,                                      -- the event it stands at, while it cannot go on
    failing_since     timestamptz,
    failing_error     text,
    relay_id          uuid        NOT NULL DEFAULT gen_random_uuid(), -- its transactional.id on Kafka ends with it
    epoch             bigint      NOT NULL DEFAULT 0,              -- grows with every lead: marks of an older one are refused
    delivery          text        NOT NULL DEFAULT 'at-least-once' CHECK (delivery IN ('at-least-once', 'exactly-once')),
    claim             bigint      NOT NULL DEFAULT 0,              -- number of the last batch that was claimed
    claims            jsonb       NOT NULL DEFAULT '[]',           -- what is claimed and not marked: [{n, ranges: [[first, last]]}]
    claim_attempts    integer     NOT NULL DEFAULT 0,              -- leads that ended without a mark: a crash burns one
    claimed_at        timestamptz,
    marked_claim      bigint      NOT NULL DEFAULT 0,              -- the last claim that is marked as published
    hole_position     bigint,                                      -- oldest position that may still be filled
    hole_since        timestamptz,
    decisions         bigint      NOT NULL DEFAULT 0,              -- counts retries and skips of unpublishable rows
    cluster_id        text                                         -- of the Kafka cluster that it has published to
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- Which events a consumer group has dealt with; written in the transaction of the handler's own writes.
CREATE TABLE evkit.inbox (
    consumer_group  text        COLLATE "C" NOT NULL,
    event_id        text        COLLATE "C" NOT NULL,
    generation      integer     NOT NULL DEFAULT 0,                -- above 0: handled again by a replay, on purpose
    event_type      text        NOT NULL,
    topic           text        NOT NULL,
    partition       integer     NOT NULL,
    "offset"        bigint      NOT NULL,
    key             text,
    outcome         text        NOT NULL DEFAULT 'handled' CHECK (outcome IN ('handled', 'dead', 'skipped', 'parked')),
    attempts        integer     NOT NULL DEFAULT 1,
    created_at      timestamptz,                                   -- of the outbox row, from ce_time
    appended_at     timestamptz,                                   -- timestamp of the record
    received_at     timestamptz NOT NULL,                          -- clock of the consumer's machine
    processed_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    replay_id       text,                                          -- set when a replay or a redrive handled it
    payload_crc32   bigint,                                        -- of the record's value; NULL in rows older than this column
    handler         text,                                          -- the function; NULL where none was called
    code_version    text,
    PRIMARY KEY (consumer_group, event_id, generation)
);
CREATE INDEX inbox_processed_at ON evkit.inbox (processed_at);

-- Records that came under an id that the group had dealt with, and are not that event: their bytes or their type differ.
-- They were not handled. One row an id, however many come, so that a producer that numbers wrongly cannot fill the disk.
CREATE TABLE evkit.id_conflict (
    consumer_group  text        COLLATE "C" NOT NULL,
    event_id        text        COLLATE "C" NOT NULL,
    generation      integer     NOT NULL DEFAULT 0,
    event_type      text        NOT NULL,                          -- of the last such record, as is its place
    topic           text        NOT NULL,
    partition       integer     NOT NULL,
    "offset"        bigint      NOT NULL,
    key             text,
    records         bigint      NOT NULL DEFAULT 1,                -- how often one came; a redelivered one counts again
    first_seen_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_seen_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (consumer_group, event_id, generation)
);

-- Every failed attempt; the successful one is the event's row in evkit.inbox. An attempt that is 'held' failed through
-- nobody's fault (the network, a dependency, a breaker that opened) and does not count against the event.
CREATE TABLE evkit.attempt (
    attempt_id        bigint           GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    consumer_group    text             COLLATE "C" NOT NULL,
    event_id          text             COLLATE "C" NOT NULL,
    generation        integer          NOT NULL DEFAULT 0,
    event_type        text             NOT NULL,
    topic             text             NOT NULL,
    partition         integer          NOT NULL,
    "offset"          bigint           NOT NULL,
    key               text,
    attempt           integer          NOT NULL,                   -- 1 for the first delivery
    failed_at         timestamptz      NOT NULL DEFAULT clock_timestamp(),
    duration_seconds  double precision NOT NULL,
    handler           text,
    error_class       text             NOT NULL,
    error_message     text             NOT NULL,
    stack_trace       text             NOT NULL,
    fingerprint       text             NOT NULL,
    disposition       text             NOT NULL CHECK (disposition IN ('retry', 'dead', 'held')),
    code_version      text,
    replay_id         text
);
CREATE INDEX attempt_failed_at ON evkit.attempt (failed_at, attempt_id);
CREATE INDEX attempt_event ON evkit.attempt (consumer_group, event_id);
CREATE INDEX attempt_fingerprint ON evkit.attempt (consumer_group, fingerprint, failed_at);

-- Handlers that are held because most of their events fail alike, over many keys: a dependency is away, and their events
-- wait in Kafka instead of becoming dead letters. One row for each handler that was ever held; its last time.
CREATE TABLE evkit.breaker (
    consumer_group  text        COLLATE "C" NOT NULL,
    handler         text        COLLATE "C" NOT NULL,
    state           text        NOT NULL CHECK (state IN ('open', 'closed')),
    fingerprint     text        NOT NULL,                          -- of the failure that opened it
    error_class     text        NOT NULL,
    error_message   text        NOT NULL,
    keys            bigint      NOT NULL,                          -- that had failed alike when it opened
    opened_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    probes          integer     NOT NULL DEFAULT 0,                -- events that were tried since, and failed
    probe_at        timestamptz NOT NULL,                          -- no event is tried before
    probed_key      text,                                          -- of the last one that was tried
    probed_times    integer     NOT NULL DEFAULT 0,                -- how often in a row that key was the one
    closed_at       timestamptz,
    closed_by       text,                                          -- 'probe', or a person
    PRIMARY KEY (consumer_group, handler)
);

-- The highest version that a group has applied of each key, where the consumer says what a version is.
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

-- Events that a group gave up on, with everything needed to understand and to handle them later.
CREATE TABLE evkit.dead_letter (
    letter_id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    consumer_group    text        COLLATE "C" NOT NULL,
    event_id          text        COLLATE "C" NOT NULL,
    generation        integer     NOT NULL DEFAULT 0,
    event_type        text        NOT NULL,
    topic             text        NOT NULL,
    partition         integer     NOT NULL,
    "offset"          bigint      NOT NULL,
    leader_epoch      integer,
    appended_at       timestamptz,
    timestamp_type    text        NOT NULL CHECK (timestamp_type IN ('create', 'append', 'none')),
    key               text,                                        -- readable form of raw_key, for lists and filters
    raw_key           bytea,                                       -- the record as it was, byte for byte
    raw_value         bytea,
    header_names      text[]      NOT NULL,
    header_values     bytea[]     NOT NULL,                        -- NULL elements are headers without a value
    schema_version    integer,
    created_at        timestamptz,
    handler           text,
    error_class       text        NOT NULL,
    error_message     text        NOT NULL,
    stack_trace       text        NOT NULL,
    fingerprint       text        NOT NULL,
    code_version      text,
    first_failed_at   timestamptz NOT NULL,
    failed_at         timestamptz NOT NULL,                        -- last failure
    retry_count       integer     NOT NULL,                        -- attempts after the first one, redrives included
    state             text        NOT NULL DEFAULT 'open'
                      CHECK (state IN ('open', 'retrying', 'resolved', 'archived', 'purged')),
    state_changed_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    state_before      text,                                        -- what restore goes back to
    note              text,
    replay_id         text,                                        -- the replay that it failed in
    ticket            text,
    assignee          text,
    held_at           timestamptz,                                 -- on hold since: no redrive takes it
    hold_reason       text,
    edited_from       bigint,                                      -- letter whose event was edited; this event was never in the topic
    replaced_by       bigint,                                      -- letter of the edited event; this one is resolved by it
    edit              jsonb,                                       -- {actor, reason, difference}, with edited_from
    -- What lists and groups ask for, short enough for an index whatever a record says.
    key_hash          bigint      NOT NULL GENERATED ALWAYS AS (hashtextextended(coalesce(key, ''), 0)) STORED,
    event_type_hash   bigint      NOT NULL GENERATED ALWAYS AS (hashtextextended(event_type, 0)) STORED,
    error_class_hash  bigint      NOT NULL GENERATED ALWAYS AS (hashtextextended(error_class, 0)) STORED,
    source_dialect    text,                                        -- imported: in whose words ('spring'); NULL: evkit's own
    source_topic      text,                                        -- dead-letter topic that it was imported from
    source_topic_id   text,                                        -- that topic's id: one made anew has another
    source_partition  integer,
    source_offset     bigint,
    source_facts      jsonb,                                       -- what else its headers said, and what they did not
    UNIQUE (consumer_group, event_id, generation),
    CHECK (cardinality(header_names) = cardinality(header_values))
);
CREATE INDEX dead_letter_open ON evkit.dead_letter (consumer_group, first_failed_at) WHERE state = 'open';
CREATE INDEX dead_letter_fingerprint ON evkit.dead_letter (fingerprint);
-- Queries of a million letters are answered from these two alone (tests/integration/runtime/test_letters_speed.py).
CREATE INDEX dead_letter_list ON evkit.dead_letter (first_failed_at, letter_id)
  INCLUDE (state, consumer_group, topic, fingerprint, retry_count, held_at, key_hash, event_type_hash, error_class_hash);
CREATE INDEX dead_letter_groups ON evkit.dead_letter (state, consumer_group, fingerprint, event_type_hash, key_hash)
  INCLUDE (letter_id, first_failed_at, failed_at, state_changed_at, generation);
CREATE INDEX dead_letter_held ON evkit.dead_letter (consumer_group, fingerprint) INCLUDE (state) WHERE held_at IS NOT NULL;
-- A record of a dead-letter topic is one letter, however often the topic is imported.
CREATE UNIQUE INDEX dead_letter_source ON evkit.dead_letter (source_topic, source_topic_id, source_partition, source_offset)
 WHERE source_topic IS NOT NULL;

-- Imported letters that were deleted for good: which records they were, and of which events, so that no import brings them back.
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

-- Keys of which an event of a group is dead: later events of such a key wait in evkit.parked until somebody has dealt with
-- the letter (`evkit dlq redrive`, `evkit dlq release`). Whoever parks an event holds this row's lock, and so does whoever
-- takes the row away after the last one: so none is parked behind a key that has just been released.
CREATE TABLE evkit.parked_key (
    consumer_group  text        COLLATE "C" NOT NULL,
    topic           text        NOT NULL,
    raw_key         bytea       NOT NULL,
    key             text,                                          -- readable form of raw_key
    letter_id       bigint      NOT NULL,                          -- of the event that the others wait behind
    events          bigint      NOT NULL DEFAULT 0,                -- that wait
    parked_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (consumer_group, topic, raw_key)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- Events that wait behind a dead letter of their key, as they were; a key's in the order in which they came.
CREATE TABLE evkit.parked (
    parked_id       bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    consumer_group  text        COLLATE "C" NOT NULL,
    event_id        text        COLLATE "C" NOT NULL,              -- its inbox row says 'parked'
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

-- Redrives: what a person, or a notebook, asked for. A run is in one process's hands at a time, by a session advisory lock, so a
-- run that is 'running' and not locked was killed.
CREATE TABLE evkit.redrive_run (
    redrive_id        text             COLLATE "C" PRIMARY KEY,
    consumer_group    text             COLLATE "C" NOT NULL,
    state             text             NOT NULL
                      CHECK (state IN ('planned', 'queued', 'running', 'done', 'stopped', 'cancelled')),
    run_by            text             NOT NULL CHECK (run_by IN ('process', 'consumers', 'topic')),
    to_topic          text,                                        -- where the records go, of a redrive by 'topic'
    stop_at_failure   boolean          NOT NULL,
    per_second_max    double precision,
    fingerprints      text[]           NOT NULL,                   -- of the selection: a new failure of one of them stops it
    cancel_requested  boolean          NOT NULL DEFAULT false,
    stage             bigint           NOT NULL DEFAULT 0,         -- letters of the stage it is in: 1, 10, 100; 0: all others
    why               text,                                        -- why it has stopped
    actor             text             NOT NULL,
    reason            text,
    audit_id          bigint,                                      -- the act whose result is still to be written
    created_at        timestamptz      NOT NULL DEFAULT clock_timestamp(),
    started_at        timestamptz,
    finished_at       timestamptz,
    CHECK ((run_by = 'topic') = (to_topic IS NOT NULL))
);
CREATE INDEX redrive_run_waiting ON evkit.redrive_run (consumer_group, created_at)
 WHERE run_by = 'consumers' AND state IN ('queued', 'running');

-- The selection of a redrive, frozen before its first letter runs. A letter is settled here in the transaction of its own
-- handling, so that a redrive that was killed goes on exactly where it was.
CREATE TABLE evkit.redrive_letter (
    redrive_id     text        COLLATE "C" NOT NULL REFERENCES evkit.redrive_run ON DELETE CASCADE,
    position       integer     NOT NULL,                           -- in the order in which they run
    letter_id      bigint      NOT NULL,
    state          text        NOT NULL DEFAULT 'waiting'          -- 'tail': what waits behind it is still to be released
                   CHECK (state IN ('waiting', 'tail', 'resolved', 'released', 'sent', 'failed', 'skipped')),
    released       bigint      NOT NULL DEFAULT 0,                 -- events behind it that are handled now
    failed_behind  bigint,                                         -- the letter of the one behind it that failed
    why            text,                                           -- why it was skipped
    settled_at     timestamptz,
    PRIMARY KEY (redrive_id, position)
) WITH (fillfactor = 50);
CREATE INDEX redrive_letter_of ON evkit.redrive_letter (letter_id);

-- Replays: the plan is written before the first event, so that a killed one can go on. The counts of a batch are written in the
-- transaction of its inbox rows, so they are exact whenever it is killed.
CREATE TABLE evkit.replay_run (
    replay_id          text             COLLATE "C" PRIMARY KEY,
    consumer_group     text             NOT NULL,
    topics             text[]           NOT NULL,
    from_time          timestamptz      NOT NULL,
    until_time         timestamptz,
    dedupe             text             NOT NULL CHECK (dedupe IN ('honour', 'again', 'dry')),
    generation         integer          NOT NULL,
    ranges             jsonb            NOT NULL,                  -- as planned; how far each has come: evkit.replay_range
    state              text             NOT NULL DEFAULT 'planned'
                       CHECK (state IN ('planned', 'running', 'done', 'stopped')),
    handled            bigint           NOT NULL DEFAULT 0,
    skipped            bigint           NOT NULL DEFAULT 0,        -- no handler for their type
    failed             bigint           NOT NULL DEFAULT 0,        -- became dead letters; in a dry one, would have
    actor              text             NOT NULL,
    reason             text,
    created_at         timestamptz      NOT NULL DEFAULT clock_timestamp(),
    started_at         timestamptz,
    finished_at        timestamptz,
    known              bigint           NOT NULL DEFAULT 0,        -- the inbox had seen them
    parked             bigint           NOT NULL DEFAULT 0,        -- wait behind a dead letter of their key
    filtered           bigint           NOT NULL DEFAULT 0,        -- records of other times, keys or types
    emitted            bigint           NOT NULL DEFAULT 0,        -- follow-up events of its handlers, written or withheld
    mode               text             NOT NULL DEFAULT 'beside' CHECK (mode IN ('beside', 'paused')),
    emit               text             NOT NULL DEFAULT 'marked' CHECK (emit IN ('none', 'marked', 'normal')),
    keys               text[],                                     -- only these; NULL: all
    types              text[],
    errors_max         bigint,                                     -- failures after which it stops
    per_second_max     double precision,
    allow_missing      boolean          NOT NULL DEFAULT false,    -- retention may have taken a part of it
    epoch              integer          NOT NULL DEFAULT 0,        -- grows with every start: a process of an older one is refused
    alive_at           timestamptz,                                -- last sign of life of the process that runs it
    stop_requested_at  timestamptz,
    stop_requested_by  text,
    why                text                                        -- why it stopped
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- What a replay reads of each partition, and what of it is done: offsets, those without a record and those passed over included.
CREATE TABLE evkit.replay_range (
    replay_id     text            COLLATE "C" NOT NULL,
    topic         text            NOT NULL,
    partition     integer         NOT NULL,
    topic_id      text,                                            -- a topic that is made anew has another one
    start_offset  bigint          NOT NULL,
    end_offset    bigint          NOT NULL,                        -- frozen; not read itself
    done          int8multirange  NOT NULL DEFAULT '{}',
    PRIMARY KEY (replay_id, topic, partition)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- What failed in a replay, equal failures together, with the first event of each: all that stays of the failures of a dry one.
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

-- Groups whose consumers are to handle nothing, because a replay handles their events meanwhile. The row counts while its
-- replay gives signs of life.
CREATE TABLE evkit.group_pause (
    consumer_group  text         COLLATE "C" PRIMARY KEY,
    replay_id       text         COLLATE "C" NOT NULL,
    actor           text         NOT NULL,
    requested_at    timestamptz  NOT NULL DEFAULT clock_timestamp(),
    alive_at        timestamptz  NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- Consumers that have seen the pause of their group, and what they still had in hand then.
CREATE TABLE evkit.group_pause_member (
    consumer_group  text         COLLATE "C" NOT NULL,
    member          uuid         NOT NULL,                         -- of our own: Kafka's changes with every join
    replay_id       text         COLLATE "C" NOT NULL,
    kafka_member    text,
    process         text         NOT NULL,                         -- host and process id
    in_hand         integer      NOT NULL,
    seen_at         timestamptz  NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (consumer_group, member)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- Committed offsets of groups that are not evkit's, moved back by somebody; with what they were before.
CREATE TABLE evkit.rewind (
    rewind_id       text         COLLATE "C" PRIMARY KEY,
    consumer_group  text         NOT NULL,
    to_time         timestamptz  NOT NULL,
    offsets         jsonb        NOT NULL,                         -- [{topic, partition, topic_id, before, after}]
    state           text         NOT NULL DEFAULT 'planned' CHECK (state IN ('planned', 'done', 'undone')),
    actor           text         NOT NULL,
    reason          text,
    created_at      timestamptz  NOT NULL DEFAULT clock_timestamp(),
    done_at         timestamptz,
    undone_at       timestamptz
);

-- How far each group was, as `evkit sample` has measured it: committed offsets first, then where the partitions began and ended.
CREATE TABLE evkit.lag_sample (
    cluster_id        text        COLLATE "C" NOT NULL,            -- Kafka's own id: several clusters never mix
    consumer_group    text        COLLATE "C" NOT NULL,
    topic             text        COLLATE "C" NOT NULL,
    partition         integer     NOT NULL,
    sampled_at        timestamptz NOT NULL,                        -- between both questions, clock of the sampler's machine
    every_seconds     real        NOT NULL,                        -- until the next one was due: it speaks for no longer
    committed_offset  bigint,                                      -- NULL: never committed
    start_offset      bigint,
    stable_offset     bigint,                                      -- end for who reads committed records
    end_offset        bigint,                                      -- NULL: the broker did not tell
    group_state       text,
    members           integer,                                     -- NULL: the group may not be described
    PRIMARY KEY (cluster_id, consumer_group, topic, partition, sampled_at)
);
CREATE INDEX lag_sample_sampled_at ON evkit.lag_sample USING brin (sampled_at);

-- What `evkit sample` has copied of Kafka's `__consumer_offsets`, so that it survives the compaction of that topic: commits with
-- their fields, records of a group's members as they were.
CREATE TABLE evkit.commit_log (
    cluster_id        text        COLLATE "C" NOT NULL,
    log_partition     integer     NOT NULL,                        -- of `__consumer_offsets`
    log_offset        bigint      NOT NULL,
    written_at        timestamptz NOT NULL,                        -- the coordinator's clock
    kind              text        COLLATE "C" NOT NULL,            -- commit, classic_group, group_epoch or member
    consumer_group    text        COLLATE "C" NOT NULL,
    topic             text        COLLATE "C",                     -- of a commit, as are the next three
    partition         integer,
    committed_offset  bigint,                                      -- NULL: the commit was deleted
    committed_at      timestamptz,                                 -- of a deletion: when it was written
    raw_key           bytea,                                       -- of the other kinds
    raw_value         bytea,
    PRIMARY KEY (cluster_id, log_partition, log_offset),
    CHECK ((kind = 'commit') = (raw_key IS NULL))
);
CREATE INDEX commit_log_group ON evkit.commit_log (cluster_id, consumer_group, topic, partition, committed_at, log_offset);
CREATE INDEX commit_log_written_at ON evkit.commit_log USING brin (written_at);

-- How far that copy has come in each partition of the log, moved in the transaction of the rows: so none is lost or there twice.
CREATE TABLE evkit.commit_log_tail (
    cluster_id     text        COLLATE "C" NOT NULL,
    log_partition  integer     NOT NULL,
    next_offset    bigint      NOT NULL,
    complete_at    timestamptz,                                    -- all that was committed by then is here
    first_hole     bigint,                                         -- what was missing when it began; see offsets_log.Part
    whole_from     bigint      NOT NULL DEFAULT 0,
    whole_since    timestamptz,
    groups         text[]      NOT NULL,                           -- patterns of the groups that are copied; empty: all
    PRIMARY KEY (cluster_id, log_partition)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- Where that copy was interrupted, and Kafka has compacted the log meanwhile: from there on a group's commits are unknown until
-- its next one.
CREATE TABLE evkit.commit_log_gap (
    cluster_id     text        COLLATE "C" NOT NULL,
    log_partition  integer     NOT NULL,
    log_offset     bigint      NOT NULL,                           -- the first that may be missing
    since          timestamptz,                                    -- until then all was there; NULL: that is not known
    PRIMARY KEY (cluster_id, log_partition, log_offset)
);

-- Who did what, when and why: one row for every act that changes what happens to events.
CREATE TABLE evkit.audit (
    audit_id  bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    acted_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor     text        NOT NULL,
    act       text        NOT NULL,                                -- 'dead_letters.redrive', 'replay.run', …
    target    text        NOT NULL,                                -- group, letter ids, replay id
    reason    text,
    plan      jsonb       NOT NULL,
    result    jsonb
);

-- What people and deploy hooks know of a time, and no other table says. An incident is a window with a name.
CREATE TABLE evkit.annotation (
    annotation_id   bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind            text        NOT NULL CHECK (kind IN ('deploy', 'config', 'broker', 'note', 'incident')),
    at              timestamptz NOT NULL,
    until           timestamptz,                                   -- NULL: a moment; of an incident: it is not over
    text            text        NOT NULL,
    name            text,                                          -- of an incident: --window incident:NAME
    version         text,                                          -- of a deploy
    consumer_group  text        COLLATE "C",                       -- what it is about; NULL: everything
    topic           text,
    actor           text        NOT NULL,
    source          text        NOT NULL,                          -- what wrote it: 'cli', 'python', a pipeline's name
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK (until > at),
    CHECK ((kind = 'incident') = (name IS NOT NULL))
);
CREATE INDEX annotation_at ON evkit.annotation (at);
CREATE UNIQUE INDEX annotation_incident ON evkit.annotation (name) WHERE kind = 'incident';
