-- What people and deploy hooks know of a time, and no other table says.

CREATE TABLE evkit.annotation (
    annotation_id   bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind            text        NOT NULL CHECK (kind IN ('deploy', 'config', 'broker', 'note', 'incident')),
    at              timestamptz NOT NULL,
    until           timestamptz,
    text            text        NOT NULL,
    name            text,
    version         text,
    consumer_group  text        COLLATE "C",
    topic           text,
    actor           text        NOT NULL,
    source          text        NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK (until > at),
    CHECK ((kind = 'incident') = (name IS NOT NULL))
);
CREATE INDEX annotation_at ON evkit.annotation (at);
CREATE UNIQUE INDEX annotation_incident ON evkit.annotation (name) WHERE kind = 'incident';
