-- The outbox and its publications in partitions, so that retention drops tables instead of deleting rows; scheduled
-- events; events that cannot be published; what a relay has claimed.

-- A partition has no identity column before PostgreSQL 17, so the position comes from a sequence of its own.
CREATE SEQUENCE evkit.outbox_position AS bigint;

ALTER TABLE evkit.outbox ALTER COLUMN position DROP IDENTITY;
ALTER TABLE evkit.outbox ALTER COLUMN position SET DEFAULT nextval('evkit.outbox_position');
ALTER TABLE evkit.outbox ALTER COLUMN id SET DEFAULT gen_random_uuid()::text;
ALTER TABLE evkit.outbox
    ADD COLUMN correlation_id text COLLATE "C",
    ADD COLUMN causation_id text COLLATE "C",
    ADD COLUMN traceparent text;
ALTER TABLE evkit.outbox RENAME TO outbox_0;
ALTER TABLE evkit.outbox_0 RENAME CONSTRAINT outbox_schema_version_check TO outbox_schema_version;
ALTER TABLE evkit.outbox_0 DROP CONSTRAINT outbox_id_key;
CREATE UNIQUE INDEX outbox_0_id ON evkit.outbox_0 (id);
ALTER INDEX evkit.outbox_pkey RENAME TO outbox_0_pkey;
ALTER INDEX evkit.outbox_created_at RENAME TO outbox_0_created_at_idx;
ALTER INDEX evkit.outbox_aggregateid RENAME TO outbox_0_aggregateid_idx;

CREATE TABLE evkit.outbox (
    txid            xid8        NOT NULL DEFAULT pg_current_xact_id(),
    position        bigint      NOT NULL DEFAULT nextval('evkit.outbox_position') PRIMARY KEY,
    id              text        COLLATE "C" NOT NULL DEFAULT gen_random_uuid()::text,
    aggregatetype   text        NOT NULL,
    aggregateid     text        NOT NULL,
    type            text        NOT NULL,
    payload         json        NOT NULL,
    topic           text,
    schema_version  integer     NOT NULL DEFAULT 1 CONSTRAINT outbox_schema_version CHECK (schema_version >= 1),
    headers         json,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    correlation_id  text        COLLATE "C",
    causation_id    text        COLLATE "C",
    traceparent     text
) PARTITION BY RANGE (position);
CREATE INDEX outbox_created_at ON evkit.outbox USING brin (created_at);
CREATE INDEX outbox_aggregateid ON evkit.outbox (aggregateid);
CREATE INDEX outbox_correlation_id ON evkit.outbox (correlation_id) WHERE correlation_id IS NOT NULL;
ALTER SEQUENCE evkit.outbox_position OWNED BY evkit.outbox.position;

ALTER TABLE evkit.publication RENAME TO publication_0;
ALTER INDEX evkit.publication_pkey RENAME TO publication_0_pkey;
ALTER INDEX evkit.publication_published_at RENAME TO publication_0_published_at_idx;
CREATE TABLE evkit.publication (
    position      bigint      PRIMARY KEY,
    partition     integer     NOT NULL,
    "offset"      bigint      NOT NULL,
    published_at  timestamptz NOT NULL
) PARTITION BY RANGE (position);
CREATE INDEX publication_published_at ON evkit.publication USING brin (published_at);

-- What is there already stays where it is, as the first partition: no row is copied.
DO $$
DECLARE
    next_position bigint := (SELECT coalesce(max(position), 0) + 1 FROM evkit.outbox_0);
    first_end bigint := ((next_position / 1000000) + 1) * 1000000;
BEGIN
    PERFORM setval('evkit.outbox_position', next_position, false);
    EXECUTE format('ALTER TABLE evkit.outbox ATTACH PARTITION evkit.outbox_0 FOR VALUES FROM (0) TO (%s)', first_end);
    EXECUTE format('ALTER TABLE evkit.publication ATTACH PARTITION evkit.publication_0 FOR VALUES FROM (0) TO (%s)', first_end);
    -- Two ahead; the relay makes more in time.
    FOR n IN 0..1 LOOP
        EXECUTE format('CREATE TABLE evkit.outbox_%1$s PARTITION OF evkit.outbox FOR VALUES FROM (%1$s) TO (%2$s)',
                       first_end + n * 1000000, first_end + (n + 1) * 1000000);
        EXECUTE format('CREATE UNIQUE INDEX outbox_%1$s_id ON evkit.outbox_%1$s (id)', first_end + n * 1000000);
        EXECUTE format('CREATE TABLE evkit.publication_%1$s PARTITION OF evkit.publication FOR VALUES FROM (%1$s) TO (%2$s)',
                       first_end + n * 1000000, first_end + (n + 1) * 1000000);
    END LOOP;
END $$;

-- Where rows go when nobody has made a partition for them: a writer must never fail for that.
CREATE TABLE evkit.outbox_rest PARTITION OF evkit.outbox DEFAULT;
CREATE UNIQUE INDEX outbox_rest_id ON evkit.outbox_rest (id);
CREATE TABLE evkit.publication_rest PARTITION OF evkit.publication DEFAULT;

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

CREATE TABLE evkit.unpublishable (
    position          bigint      PRIMARY KEY,
    topic             text        NOT NULL,
    key               text        NOT NULL,
    state             text        NOT NULL CHECK (state IN ('parked', 'held', 'retry', 'published', 'skipped')),
    blocked_by        bigint,
    attempts          integer     NOT NULL DEFAULT 0,
    error_class       text,
    error             text,
    parked_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    state_changed_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX unpublishable_open ON evkit.unpublishable (topic, key, position) WHERE state IN ('parked', 'held', 'retry');

-- One relay leads per outbox, so there is one row.
DELETE FROM evkit.relay WHERE name <> (SELECT name FROM evkit.relay ORDER BY settled_position, name LIMIT 1);
UPDATE evkit.relay SET name = 'default';
ALTER TABLE evkit.relay
    ADD COLUMN relay_id uuid NOT NULL DEFAULT gen_random_uuid(),
    ADD COLUMN epoch bigint NOT NULL DEFAULT 0,
    ADD COLUMN delivery text NOT NULL DEFAULT 'at-least-once' CHECK (delivery IN ('at-least-once', 'exactly-once')),
    ADD COLUMN claim bigint NOT NULL DEFAULT 0,
    ADD COLUMN claims jsonb NOT NULL DEFAULT '[]',
    ADD COLUMN claim_attempts integer NOT NULL DEFAULT 0,
    ADD COLUMN claimed_at timestamptz,
    ADD COLUMN marked_claim bigint NOT NULL DEFAULT 0,
    ADD COLUMN hole_position bigint,
    ADD COLUMN hole_since timestamptz,
    ADD COLUMN decisions bigint NOT NULL DEFAULT 0,
    ADD COLUMN cluster_id text,
    ADD CONSTRAINT relay_name CHECK (name = 'default');
ALTER TABLE evkit.relay SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
