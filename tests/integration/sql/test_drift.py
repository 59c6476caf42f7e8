"""`evkit migrate --check`: every difference made by hand is found, and the printed SQL mends it. Roles do what they may."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg import sql as compose
from typer.testing import CliRunner

import evkit
from evkit import Event, Relay, drift, kafka, outbox, partitions, postgres, roles, sql, views
from evkit.cli import app
from evkit.drift import catalogue
from evkit.errors import Refused
from evkit.partitions import WIDTH
from evkit.runtime import retention
from evkit.runtime.sampler import Sampler
from evkit.system import System
from tests.integration.views.groups import commit

EXPECTED = Path(evkit.__file__).parent / "sql" / "expected.json"


@pytest.fixture
def by_hand(evkit_database):
    """Runs what somebody did by hand."""
    with psycopg.connect(evkit_database, autocommit=True) as connection:
        yield connection.execute


@pytest.fixture
def prefix(evkit_database):
    """Roles belong to the whole server, so each test has its own."""
    name = f"t{os.urandom(4).hex()}"
    yield name
    with psycopg.connect(evkit_database, autocommit=True) as connection:
        for (role,) in connection.execute(
            "SELECT rolname FROM pg_roles WHERE rolname LIKE %s", (f"{name}%",)
        ).fetchall():
            connection.execute(compose.SQL("DROP OWNED BY {}").format(compose.Identifier(role)))
            connection.execute(compose.SQL("DROP ROLE {}").format(compose.Identifier(role)))


def mend(dsn, difference):
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in difference.sql:
            connection.execute(statement)


def test_expected_is_what_tables_sql_makes(evkit_stack):
    """EVKIT_WRITE_EXPECTED=1 writes it anew, after a change of the tables."""
    name = compose.Identifier(f"expected_{os.urandom(4).hex()}")
    with psycopg.connect(evkit_stack.postgres_dsn, autocommit=True) as connection:
        connection.execute(compose.SQL("CREATE DATABASE {}").format(name))
        try:
            dsn = f"{evkit_stack.postgres_dsn.rpartition('/')[0]}/{name.as_string().strip(chr(34))}"
            with psycopg.connect(dsn, autocommit=True) as fresh:
                fresh.execute(sql.tables())
                found = catalogue.snapshot(fresh)
        finally:
            connection.execute(compose.SQL("DROP DATABASE {} WITH (FORCE)").format(name))
    if os.environ.get("EVKIT_WRITE_EXPECTED") == "1":
        EXPECTED.write_text(json.dumps(found, indent=1) + "\n")
        sql.expected.cache_clear()

    assert sql.expected() == found, "sql/tables.sql has changed: run this test with EVKIT_WRITE_EXPECTED=1"


def test_migrated_database_is_equal_and_absent_roles_are_a_note(evkit_database, prefix):
    found = drift.compare(evkit_database, prefix=prefix)

    assert found.differences == []
    assert found.equal
    (note,) = found.notes
    assert note.startswith(
        f"no {prefix}_writer, no {prefix}_relay, no {prefix}_sampler, no {prefix}_reader: `evkit migrate --roles`"
    )


def test_database_in_use_is_equal_too(evkit_database, by_hand, prefix):
    """Rows, ranges made and dropped, and a bigger sequence are no drift."""
    by_hand("INSERT INTO evkit.outbox (aggregatetype, aggregateid, type, payload) VALUES ('a', 'k', 't', '{}')")
    by_hand("SELECT setval('evkit.outbox_position', 2500000)")
    by_hand("DROP TABLE evkit.outbox_1000000, evkit.publication_1000000")
    with psycopg.connect(evkit_database, autocommit=True) as connection:
        assert retention.ahead(connection).made

    assert drift.compare(evkit_database, prefix=prefix).differences == []


BY_HAND = {
    # columns
    "column missing": (
        ["ALTER TABLE evkit.outbox DROP COLUMN traceparent"],
        ["evkit.outbox.traceparent is missing"],
    ),
    "column missing with its index": (
        ["ALTER TABLE evkit.outbox DROP COLUMN correlation_id"],
        ["evkit.outbox.correlation_id is missing", "index outbox_correlation_id of evkit.outbox is missing"],
    ),
    "column of another type": (
        ["ALTER TABLE evkit.outbox ALTER COLUMN headers TYPE jsonb"],
        ["evkit.outbox.headers is jsonb, expected json"],
    ),
    "column of another type with a default": (
        ["ALTER TABLE evkit.unpublishable ALTER COLUMN attempts TYPE text USING attempts::text"],
        ["evkit.unpublishable.attempts is text, expected integer"],
    ),
    "column of another collation": (
        ['ALTER TABLE evkit.inbox ALTER COLUMN event_id TYPE text COLLATE "default"'],
        ['evkit.inbox.event_id is text, expected text COLLATE "C"'],
    ),
    "column that may be null": (
        ["ALTER TABLE evkit.outbox ALTER COLUMN payload DROP NOT NULL"],
        ["evkit.outbox.payload may be null"],
    ),
    "column that may not be null": (
        ["ALTER TABLE evkit.unpublishable ALTER COLUMN error SET NOT NULL"],
        ["evkit.unpublishable.error may not be null"],
    ),
    "default missing": (
        ["ALTER TABLE evkit.outbox ALTER COLUMN created_at DROP DEFAULT"],
        ["default of evkit.outbox.created_at is nothing, expected clock_timestamp()"],
    ),
    "default of the transaction's start": (
        ["ALTER TABLE evkit.outbox ALTER COLUMN created_at SET DEFAULT now()"],
        ["default of evkit.outbox.created_at is now(), expected clock_timestamp()"],
    ),
    "default where none belongs": (
        ["ALTER TABLE evkit.outbox ALTER COLUMN topic SET DEFAULT 'x'"],
        ["default of evkit.outbox.topic is 'x'::text, expected nothing"],
    ),
    "identity gone": (
        ["ALTER TABLE evkit.audit ALTER COLUMN audit_id DROP IDENTITY"],
        ["evkit.audit.audit_id is not numbered by an identity, expected GENERATED ALWAYS"],
    ),
    "txid behind position": (
        ["ALTER TABLE evkit.outbox DROP COLUMN txid",
         "ALTER TABLE evkit.outbox ADD COLUMN txid xid8 NOT NULL DEFAULT pg_current_xact_id()"],
        ["evkit.outbox.txid must stand before position, or the relay loses events"],
    ),
    "txid missing": (
        ["ALTER TABLE evkit.outbox DROP COLUMN txid"],
        ["evkit.outbox.txid must stand before position, or the relay loses events"],
    ),
    "foreign column that wants a value": (
        ["ALTER TABLE evkit.outbox ADD COLUMN tenant text", "DELETE FROM evkit.outbox",
         "ALTER TABLE evkit.outbox ALTER COLUMN tenant SET NOT NULL"],
        ["evkit.outbox.tenant is not evkit's and wants a value that evkit does not give: no row can be written"],
    ),
    # constraints and indexes
    "primary key gone": (
        ["ALTER TABLE evkit.publication DROP CONSTRAINT publication_pkey"],
        ["constraint publication_pkey of evkit.publication is missing, expected PRIMARY KEY (\"position\")"],
    ),
    "check gone": (
        ["ALTER TABLE evkit.unpublishable DROP CONSTRAINT unpublishable_state_check"],
        ["constraint unpublishable_state_check of evkit.unpublishable is missing"],
    ),
    "check that allows more": (
        ["ALTER TABLE evkit.outbox DROP CONSTRAINT outbox_schema_version",
         "ALTER TABLE evkit.outbox ADD CONSTRAINT outbox_schema_version CHECK (schema_version >= 0)"],
        ["constraint outbox_schema_version of evkit.outbox is CHECK ((schema_version >= 0)), expected"],
    ),
    "check that is not validated": (
        ["ALTER TABLE evkit.relay DROP CONSTRAINT relay_name",
         "ALTER TABLE evkit.relay ADD CONSTRAINT relay_name CHECK (name = 'default') NOT VALID"],
        ["constraint relay_name of evkit.relay is CHECK ((name = 'default'::text)) NOT VALID, expected"],
    ),
    "index of a plain table gone": (
        ["DROP INDEX evkit.scheduled_due_at"],
        ["index scheduled_due_at of evkit.scheduled is missing, expected CREATE INDEX"],
    ),
    "index with another predicate": (
        ["DROP INDEX evkit.unpublishable_open",
         "CREATE INDEX unpublishable_open ON evkit.unpublishable (topic, key, position) WHERE state = 'parked'"],
        ["index unpublishable_open of evkit.unpublishable is CREATE INDEX unpublishable_open"],
    ),
    "index of a partitioned table gone": (
        ["DROP INDEX evkit.outbox_created_at"],
        ["index outbox_created_at of evkit.outbox is missing, expected CREATE INDEX outbox_created_at ON ONLY"],
    ),
    "index of a partitioned table never finished": (
        ["DROP INDEX evkit.outbox_aggregateid", "CREATE INDEX outbox_aggregateid ON ONLY evkit.outbox (aggregateid)",
         "CREATE INDEX half ON evkit.outbox_0 (aggregateid)",
         "ALTER INDEX evkit.outbox_aggregateid ATTACH PARTITION evkit.half"],
        ["index outbox_aggregateid of evkit.outbox is not valid"],
    ),
    "unique ids of a partition gone": (
        ["DROP INDEX evkit.outbox_1000000_id"],
        ["evkit.outbox_1000000 has no unique index on id"],
    ),
    # storage
    "autovacuum setting gone": (
        ["ALTER TABLE evkit.relay RESET (autovacuum_vacuum_threshold)"],
        ["autovacuum_vacuum_threshold of evkit.relay is not set, expected 500"],
    ),
    "fillfactor changed": (
        ["ALTER TABLE evkit.relay SET (fillfactor = 100)"],
        ["fillfactor of evkit.relay is 100, expected 50"],
    ),
    "autovacuum off": (
        ["ALTER TABLE evkit.inbox SET (autovacuum_enabled = false)"],
        ["autovacuum of evkit.inbox is turned off"],
    ),
    "autovacuum of a partition off": (
        ["ALTER TABLE evkit.publication_0 SET (autovacuum_enabled = off)"],
        ["autovacuum of evkit.publication_0 is turned off"],
    ),
    "unlogged": (
        ["ALTER TABLE evkit.inbox SET UNLOGGED"],
        ["evkit.inbox is unlogged: a crash of the server empties it"],
    ),
    "row security": (
        ["ALTER TABLE evkit.outbox ENABLE ROW LEVEL SECURITY"],
        ["evkit.outbox has row security: rows that the relay does not see are never published"],
    ),
    # tables and the sequence
    "plain table gone": (["DROP TABLE evkit.scheduled"], ["evkit.scheduled is missing"]),
    "outbox gone": (["DROP TABLE evkit.outbox"], ["evkit.outbox_position is missing", "evkit.outbox is missing"]),
    "publication gone": (["DROP TABLE evkit.publication"], ["evkit.publication is missing"]),
    "sequence gone": (
        ["DROP SEQUENCE evkit.outbox_position CASCADE"],
        ["evkit.outbox_position is missing", "default of evkit.outbox.position is nothing"],
    ),
    "sequence that keeps numbers back": (
        ["ALTER SEQUENCE evkit.outbox_position CACHE 20"],
        ["cache of evkit.outbox_position is 20, expected 1: a session that keeps numbers back breaks the order of a key"],
    ),
    "sequence that begins anew": (
        ["ALTER SEQUENCE evkit.outbox_position MAXVALUE 1000000000 CYCLE"],
        ["highest value of evkit.outbox_position is 1000000000", "evkit.outbox_position begins anew at its end"],
    ),
    "sequence of nobody": (
        ["ALTER SEQUENCE evkit.outbox_position OWNED BY NONE"],
        ["evkit.outbox_position belongs to no column"],
    ),
    "sequence behind what the relay has settled": (
        ["INSERT INTO evkit.relay (name, settled_position) VALUES ('default', 700)"],
        ["evkit.outbox_position stands at 5 and position 700 is taken: the next events cannot be written, or are"],
    ),
    "sequence behind its rows": (
        ["SELECT setval('evkit.outbox_position', 3)"],
        ["evkit.outbox_position stands at 3 and position 5 is taken"],
    ),
    # partitions
    "default partition gone": (
        ["DROP TABLE evkit.outbox_rest"],
        ["evkit.outbox has no default partition: what no range covers cannot be written"],
    ),
    "rows in the default partition, nothing ahead": (
        ["SELECT setval('evkit.outbox_position', 3000000)",
         "INSERT INTO evkit.outbox (aggregatetype, aggregateid, type, payload) VALUES ('a', 'k', 't', '{}')"],
        ["default partitions are not empty, the first position there is 3000001"],
    ),
    "rows in the default partition, ranges ahead": (
        ["DROP TABLE evkit.outbox_1000000, evkit.publication_1000000",
         "INSERT INTO evkit.publication VALUES (1000005, 0, 0, now())", "SELECT setval('evkit.outbox_position', 1000005)"],
        ["default partitions are not empty, the first position there is 1000005"],
    ),
    "no ranges ahead": (
        ["SELECT setval('evkit.outbox_position', 2000001)"],
        ["0 empty range(s) above position 2000001, expected 2"],
    ),
    "range of one table only": (
        ["DROP TABLE evkit.publication_2000000"],
        ["evkit.publication has no partition for positions [2000000, 3000000), which the other table has"],
    ),
    "partition with events taken out": (
        ["ALTER TABLE evkit.outbox DETACH PARTITION evkit.outbox_0"],
        ["evkit.outbox_0 is no partition any more, and not all of it is settled: its events are not published"],
    ),
    "both partitions with events taken out": (
        ["ALTER TABLE evkit.outbox DETACH PARTITION evkit.outbox_0",
         "ALTER TABLE evkit.publication DETACH PARTITION evkit.publication_0"],
        ["evkit.outbox_0 is no partition any more, and not all of it is settled", "evkit.publication_0 is no partition"],
    ),
    "constraint that a killed retention left": (
        ["ALTER TABLE evkit.outbox_rest ADD CONSTRAINT rest_bound CHECK (position < 7000000)"],
        ["a retention that was killed has left a constraint on the default partitions"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BY_HAND)
def test_what_was_changed_by_hand_is_found_and_the_printed_sql_mends_it(kind, evkit_database, by_hand, prefix):
    by_hand(
        "INSERT INTO evkit.outbox (aggregatetype, aggregateid, type, payload) "
        "SELECT 'order', 'k', 'order.placed', '{}' FROM generate_series(1, 5)"
    )
    by_hand("INSERT INTO evkit.publication VALUES (1, 0, 0, now())")
    statements, sentences = BY_HAND[kind]
    for statement in statements:
        by_hand(statement)
    before = rows(evkit_database)

    found = drift.compare(evkit_database, prefix=prefix)

    assert not found.equal
    assert len(found.differences) == len(sentences), found.differences
    for difference, sentence in zip(found.differences, sentences, strict=True):
        assert sentence in difference.sentence
    for difference in found.differences:
        mend(evkit_database, difference)
    assert drift.compare(evkit_database, prefix=prefix).differences == []
    assert rows(evkit_database) >= before
    by_hand("INSERT INTO evkit.outbox (aggregatetype, aggregateid, type, payload) VALUES ('order', 'k', 't', '{}')")


def rows(dsn):
    """Positions of outbox and publication, as far as they are there."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        found = set()
        for table in partitions.PARENTS:
            if connection.execute("SELECT to_regclass(%s)", (f"evkit.{table}",)).fetchone() != (None,):
                query = compose.SQL("SELECT {}, position FROM {}").format(table, compose.Identifier("evkit", table))
                found |= set(connection.execute(query).fetchall())
        return found


def test_table_that_is_built_anew_keeps_its_rows_as_they_were(evkit_database, by_hand, prefix):
    by_hand(
        "INSERT INTO evkit.outbox (aggregatetype, aggregateid, type, payload) VALUES ('a', 'k', 't', '{\"n\":  1}')"
    )
    columns = "position, id, aggregatetype, aggregateid, type, payload::text, created_at"
    (before,) = by_hand(f"SELECT {columns} FROM evkit.outbox").fetchall()
    by_hand("ALTER TABLE evkit.outbox DROP COLUMN txid")

    mend(evkit_database, drift.compare(evkit_database, prefix=prefix).differences[0])

    assert by_hand(f"SELECT {columns} FROM evkit.outbox").fetchall() == [before]
    first = by_hand("SELECT attname FROM pg_attribute WHERE attrelid = 'evkit.outbox'::regclass AND attnum = 1")
    assert first.fetchone() == ("txid",)


@pytest.mark.parametrize(
    ("statement", "note"),
    [
        ("ALTER TABLE evkit.outbox ADD COLUMN tenant text", "column evkit.outbox.tenant is not evkit's"),
        (
            "ALTER TABLE evkit.outbox ADD COLUMN tenant text NOT NULL DEFAULT 'x'",
            "column evkit.outbox.tenant is not evkit's",
        ),
        ("CREATE INDEX by_type ON evkit.outbox (type)", "index by_type of evkit.outbox is not evkit's"),
        ("CREATE INDEX by_type ON evkit.outbox_0 (type)", "index by_type of evkit.outbox_0 is not evkit's"),
        (
            "ALTER TABLE evkit.inbox ADD CONSTRAINT mine CHECK (topic <> '')",
            "constraint mine of evkit.inbox is not evkit's",
        ),
        ("ALTER TABLE evkit.inbox SET (fillfactor = 90)", "setting fillfactor = 90 of evkit.inbox is not evkit's"),
        ("CREATE TABLE evkit.mine (n int)", "table evkit.mine is not evkit's"),
        ("CREATE VIEW evkit.mine AS SELECT 1", "view evkit.mine is not evkit's"),
        (
            "ALTER INDEX evkit.scheduled_due_at RENAME TO mine",
            "index scheduled_due_at of evkit.scheduled is called mine",
        ),
        (
            "ALTER TABLE evkit.relay RENAME CONSTRAINT relay_name TO mine",
            "constraint relay_name of evkit.relay is called mine",
        ),
        (
            "CREATE FUNCTION evkit.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; "
            "CREATE TRIGGER t BEFORE INSERT ON evkit.outbox FOR EACH ROW EXECUTE FUNCTION evkit.f()",
            "trigger t on evkit.outbox is not evkit's",
        ),
    ],
)
def test_what_users_have_added_is_a_note_and_no_difference(statement, note, evkit_database, by_hand, prefix):
    by_hand(statement)

    found = drift.compare(evkit_database, prefix=prefix)

    assert found.differences == []
    assert any(n.startswith(note) for n in found.notes), found.notes


def test_archived_partition_that_was_settled_is_a_note(evkit_database, by_hand, prefix):
    by_hand("INSERT INTO evkit.relay (name, settled_position) VALUES ('default', 999999)")
    by_hand("SELECT setval('evkit.outbox_position', 999999)")
    by_hand("ALTER TABLE evkit.outbox DETACH PARTITION evkit.outbox_0")
    by_hand("ALTER TABLE evkit.publication DETACH PARTITION evkit.publication_0")

    found = drift.compare(evkit_database, prefix=prefix)

    assert found.differences == []
    assert "table evkit.outbox_0 is no partition any more; drop it when nobody needs it" in found.notes


def test_missing_and_unknown_migrations_are_all_that_is_said(evkit_database, by_hand, prefix):
    by_hand("DELETE FROM evkit.migration WHERE number = 2")
    by_hand("INSERT INTO evkit.migration (number, name) VALUES (999, 'of_tomorrow')")
    by_hand("ALTER TABLE evkit.outbox DROP COLUMN traceparent")

    first, second = drift.compare(evkit_database, prefix=prefix).differences

    assert first.sentence == "lacks 0002_outbox_in_partitions: run `evkit migrate`"
    assert second.sentence == "has migration 999, which this evkit does not know: install a newer evkit"


# --- roles ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def granted(evkit_database, by_hand, prefix):
    """The roles, and logins that are members of them."""
    with postgres.connect(evkit_database, autocommit=True) as connection:
        assert roles.apply(connection, prefix) is None
    for role in ("writer", "relay", "sampler", "reader"):
        login, group = compose.Identifier(f"{prefix}_login_{role}"), compose.Identifier(f"{prefix}_{role}")
        by_hand(compose.SQL("CREATE ROLE {} LOGIN IN ROLE {}").format(login, group))

    def system(role, settings):
        return System(
            settings.model_copy(update={"postgres_dsn": as_role(settings.postgres_dsn, f"{prefix}_login_{role}")})
        )

    return system


def as_role(dsn, role):
    return dsn.replace("//postgres@", f"//{role}@")


def test_roles_that_were_made_are_equal_and_made_only_once(evkit_database, granted, prefix):
    found = drift.compare(evkit_database, prefix=prefix)

    assert found.differences == []
    assert found.notes == []
    with postgres.connect(evkit_database, autocommit=True) as connection:
        assert roles.plan(connection, prefix) == []


def test_writer_writes_schedules_and_cancels_and_does_nothing_else(evkit_settings, granted, evkit_topic):
    topic = evkit_topic()
    with granted("writer", evkit_settings).writing() as connection:
        outbox.write(connection, Event("order.placed", "k", {"n": 1}, topic=topic))
        outbox.write_many(connection, [Event("order.placed", "k", {"n": n}, topic=topic, ordered=True) for n in (2, 3)])
        later = Event("order.late", "k", {}, topic=topic, due_at=datetime.now(UTC) + timedelta(hours=1))
        outbox.write(connection, later)
        assert outbox.cancel(connection, later.id)
        for forbidden in (
            "SELECT * FROM evkit.outbox", "UPDATE evkit.outbox SET type = ''", "DELETE FROM evkit.outbox",
            "SELECT * FROM evkit.dead_letter", "INSERT INTO evkit.publication VALUES (1, 0, 0, now())",
            "INSERT INTO evkit.outbox_0 (aggregatetype, aggregateid, type, payload) VALUES ('a', 'k', 't', '{}')",
        ):  # fmt: skip
            with pytest.raises(psycopg.errors.InsufficientPrivilege), connection.transaction():
                connection.execute(forbidden)


def test_sampler_samples_copies_the_log_and_deletes_what_is_old_and_sees_nothing_else(
    evkit_settings, granted, evkit_topic, evkit_group, by_hand
):
    topic, group = evkit_topic(), evkit_group()
    commit(System(evkit_settings), group, topic, 1, 2)
    by_hand("INSERT INTO evkit.lag_sample (sampled_at, every_seconds, cluster_id, consumer_group, topic, partition)"
            " SELECT now() - interval '40 days', 15, %s, 'gone', 't', 0", (kafka.cluster_id(evkit_settings),))  # fmt: skip
    sampler = Sampler(granted("sampler", evkit_settings), every_seconds=1, groups=[group])

    done = sampler.once()
    sampler.close()

    assert done.rows == 1
    assert by_hand("SELECT array_agg(consumer_group) FROM evkit.lag_sample").fetchone() == ([group],)
    copied = "SELECT array_agg(committed_offset ORDER BY log_offset) FROM evkit.commit_log WHERE consumer_group = %s"
    assert by_hand(copied, (group,)).fetchone() == ([1, 2],)
    with granted("sampler", evkit_settings).writing() as connection:
        for forbidden in (
            "SELECT * FROM evkit.outbox", "SELECT * FROM evkit.inbox", "SELECT * FROM evkit.dead_letter",
            "SELECT * FROM evkit.attempt", "INSERT INTO evkit.audit (actor, act, target) VALUES ('', '', '')",
            "UPDATE evkit.lag_sample SET partition = 1", "TRUNCATE evkit.commit_log", "CREATE TABLE evkit.mine ()",
        ):  # fmt: skip
            with pytest.raises(psycopg.errors.InsufficientPrivilege), connection.transaction():
                connection.execute(forbidden)


def test_relay_publishes_what_was_written_also_into_partitions_made_later(
    evkit_settings, granted, evkit_topic, by_hand
):
    """Rows are reached through the parents, so a partition made after the grants needs none."""
    topic = evkit_topic()
    by_hand("SELECT setval('evkit.outbox_position', 2999999)")
    with evkit.System(evkit_settings).writing(autocommit=True) as connection:
        retention.ahead(connection)
    with granted("writer", evkit_settings).writing() as connection:
        for n in range(3):
            outbox.write(connection, Event("order.placed", "k", {"n": n}, topic=topic))
    relay = Relay(granted("relay", evkit_settings))

    published = relay.step()
    relay.close()

    assert published == 3
    assert by_hand("SELECT array_agg(position ORDER BY position) FROM evkit.publication").fetchone() == (
        [3 * WIDTH, 3 * WIDTH + 1, 3 * WIDTH + 2],
    )


def test_relay_moves_what_is_due_and_parks_what_the_broker_will_not_take(evkit_settings, granted, evkit_topic, by_hand):
    due = datetime.now(UTC) - timedelta(seconds=1)
    with granted("writer", evkit_settings).writing() as connection:
        outbox.write(connection, Event("order.late", "k", {}, topic=evkit_topic(), due_at=due))
        connection.execute(
            "INSERT INTO evkit.outbox (aggregatetype, aggregateid, type, payload) VALUES ('no such topic!', 'k', 't', '{}')"
        )
    relay = Relay(granted("relay", evkit_settings))

    for _ in range(5):
        relay.step()
    relay.close()

    assert by_hand("SELECT count(*) FROM evkit.scheduled").fetchone() == (0,)
    assert by_hand("SELECT count(*) FROM evkit.publication").fetchone() == (1,)
    assert by_hand("SELECT state FROM evkit.unpublishable").fetchall() == [("parked",)]


def test_reader_reads_views_and_the_check_and_writes_nothing(evkit_settings, granted, prefix):
    system = granted("reader", evkit_settings)

    assert len(views.relay_lag(system)) == 1
    assert drift.compare(system.settings.postgres_dsn, prefix=prefix).differences == []
    assert len(retention.plan(system, None)) == 3
    with system.writing() as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("INSERT INTO evkit.relay (name) VALUES ('default')")


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        ("REVOKE INSERT ON evkit.outbox FROM {}_writer", "{}_writer may not INSERT on evkit.outbox"),
        ("REVOKE USAGE ON SCHEMA evkit FROM {}_reader", "{}_reader may not USAGE on schema evkit"),
        ("REVOKE SELECT ON SEQUENCE evkit.outbox_position FROM {}_relay", "{}_relay may not SELECT on sequence"),
        ("GRANT DELETE ON evkit.inbox TO {}_reader", "{}_reader may DELETE on evkit.inbox"),
        ("GRANT UPDATE (payload) ON evkit.outbox TO {}_relay", "{}_relay may UPDATE on column payload of evkit.outbox"),
        ("GRANT INSERT ON evkit.outbox_0 TO {}_reader", "{}_reader may INSERT on evkit.outbox_0"),
        ("GRANT CREATE ON SCHEMA evkit TO {}_writer", "{}_writer may CREATE on schema evkit"),
        ("ALTER ROLE {}_reader LOGIN", "{}_reader can log in; it is meant as a group"),
        ("ALTER ROLE {}_reader BYPASSRLS", "{}_reader passes row security by"),
    ],
)
def test_privileges_changed_by_hand_are_found_and_mended(statement, sentence, evkit_database, granted, by_hand, prefix):
    by_hand(statement.format(prefix))

    (difference,) = drift.compare(evkit_database, prefix=prefix).differences

    assert sentence.format(prefix) in difference.sentence
    mend(evkit_database, difference)
    assert drift.compare(evkit_database, prefix=prefix).differences == []


def test_privileges_on_a_partition_that_its_table_grants_too_are_no_difference(
    evkit_database, granted, by_hand, prefix
):
    """As ALTER DEFAULT PRIVILEGES leaves them."""
    by_hand(f"GRANT SELECT ON evkit.outbox_0 TO {prefix}_reader")

    assert drift.compare(evkit_database, prefix=prefix).differences == []


# --- command ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch, evkit_settings):
    monkeypatch.setenv("EVKIT_POSTGRES_DSN", evkit_settings.postgres_dsn)
    monkeypatch.setenv("EVKIT_KAFKA_BOOTSTRAP_SERVERS", evkit_settings.bootstrap_servers)
    return lambda *arguments: CliRunner().invoke(app, ["migrate", *arguments])


def test_check_is_a_script_on_stdout_and_fails_when_something_differs(run, by_hand, prefix, evkit_database):
    equal = run("--check", "--role-prefix", prefix)
    by_hand("ALTER TABLE evkit.relay SET (fillfactor = 100)")
    by_hand("DROP INDEX evkit.scheduled_due_at")
    differs = run("--check", "--role-prefix", prefix)

    assert (equal.exit_code, differs.exit_code) == (0, 1)
    assert "is up to date" in equal.stdout
    assert (
        "-- fillfactor of evkit.relay is 100, expected 50\nALTER TABLE evkit.relay SET (fillfactor = 50);"
        in differs.stdout
    )
    for line in differs.stdout.splitlines():
        if line and not line.startswith("--"):
            by_hand(line)
    assert run("--check", "--role-prefix", prefix).exit_code == 0


def test_check_as_json_is_one_document(run, by_hand, prefix):
    by_hand("ALTER TABLE evkit.outbox ADD COLUMN tenant text")
    by_hand("ALTER TABLE evkit.relay SET (fillfactor = 100)")

    done = run("--check", "--format", "json", "--role-prefix", prefix)

    document = json.loads(done.stdout)
    assert document["equal"] is False
    assert document["differences"] == [
        {
            "object": "evkit.relay",
            "sentence": "fillfactor of evkit.relay is 100, expected 50",
            "sql": ["ALTER TABLE evkit.relay SET (fillfactor = 50)"],
        }
    ]
    assert "column evkit.outbox.tenant is not evkit's" in document["notes"]
    assert done.exit_code == 1


def test_check_of_a_server_that_does_not_answer_ends_with_3(run, monkeypatch):
    monkeypatch.setenv("EVKIT_POSTGRES_DSN", "postgresql://postgres@127.0.0.1:1/evkit")

    assert run("--check").exception.exit_code == 3


def test_roles_are_shown_first_and_made_on_yes_with_an_audit_row(run, by_hand, prefix):
    looked = run("--roles", "--role-prefix", prefix, "--dry-run")
    assert by_hand("SELECT count(*) FROM pg_roles WHERE rolname LIKE %s", (f"{prefix}%",)).fetchone() == (0,)

    done = run("--roles", "--role-prefix", prefix, "--yes", "--reason", "first deploy")

    assert f'CREATE ROLE "{prefix}_writer" NOLOGIN;' in looked.stdout
    assert done.exit_code == 0, done.output
    assert run("--check", "--role-prefix", prefix).exit_code == 0
    assert by_hand("SELECT act, target, reason FROM evkit.audit").fetchone() == (
        "roles.grant", f"{prefix}_*", "first deploy",
    )  # fmt: skip
    assert "roles are as expected" in run("--roles", "--role-prefix", prefix, "--yes").stdout


def test_who_may_not_make_roles_is_told_so_and_nothing_is_half_made(run, by_hand, prefix, granted, monkeypatch):
    by_hand(f"REVOKE INSERT ON evkit.outbox FROM {prefix}_writer")
    monkeypatch.setenv("EVKIT_POSTGRES_DSN", as_role(os.environ["EVKIT_POSTGRES_DSN"], f"{prefix}_login_relay"))

    done = run("--roles", "--role-prefix", prefix, "--yes")

    assert isinstance(done.exception, Refused)
    assert f"{prefix}_writer may not INSERT on evkit.outbox, and user {prefix}_login_relay cannot change it" in str(
        done.exception
    )
    assert by_hand("SELECT result->>'done' FROM evkit.audit").fetchone() == ("0",)
