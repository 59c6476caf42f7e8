"""Retention: partitions are made in time, and dropped only when nothing in them is needed; writers go on meanwhile."""

from __future__ import annotations

import json
import logging
import threading
import time
from datetime import timedelta
from types import SimpleNamespace

import psycopg
import pytest
from psycopg import sql as compose
from typer.testing import CliRunner

from evkit import Event, Relay, decoding, partitions
from evkit.cli import app
from evkit.partitions import WIDTH, Range
from evkit.runtime import audit, retention
from evkit.runtime.outbox import write_many
from evkit.runtime.retention import LOCK_SECONDS, Keeper, Partition
from evkit.settings import Settings
from evkit.testing.events import read_topic
from tests.relaying import drain

MONTH = timedelta(days=30)
# What a writer may wait: for the lock that somebody waits for before it, and for the drop itself on a busy machine. Where
# the machine stood still meanwhile, a bystander has waited as well.
WRITER_SECONDS_MAX = 5 * LOCK_SECONDS


class Outbox:
    """An outbox of which a test says what was written, published and settled; three ranges, as after `evkit migrate`."""

    def __init__(self, dsn):
        self.dsn = dsn
        self.connection = psycopg.connect(dsn, autocommit=True)

    def one(self, query, *values):
        row = self.connection.execute(query, values).fetchone()
        return row[0] if row else None

    def write(self, *positions, days_ago=40, published=True):
        """Rows at these positions, and their publications."""
        for position in positions:
            self.connection.execute(
                "INSERT INTO evkit.outbox (position, aggregatetype, aggregateid, type, payload, created_at) "
                "VALUES (%s, 'order', 'k', 'order.placed', '{}', now() - make_interval(days => %s))",
                (position, days_ago),
            )
            if published:
                self.connection.execute("INSERT INTO evkit.publication VALUES (%s, 0, 0, now())", (position,))

    def park(self, position, state="parked"):
        self.connection.execute(
            "INSERT INTO evkit.unpublishable (position, topic, key, state) VALUES (%s, 'order', 'k', %s)",
            (position, state),
        )

    def reach(self, position, settled=None):
        """Writers have taken positions up to here, and the relay has settled them, or less."""
        self.connection.execute("SELECT setval('evkit.outbox_position', %s)", (position,))
        self.connection.execute(
            "INSERT INTO evkit.relay (name, settled_position) VALUES ('default', %(settled)s) "
            "ON CONFLICT (name) DO UPDATE SET settled_position = %(settled)s",
            {"settled": position if settled is None else settled},
        )

    def ranges(self):
        return partitions.layout(self.connection).all_ranges()

    def positions(self, table="outbox"):
        query = compose.SQL("SELECT position FROM {} ORDER BY 1").format(compose.Identifier("evkit", table))
        return [row[0] for row in self.connection.execute(query)]


@pytest.fixture
def outbox(evkit_database):
    outbox = Outbox(evkit_database)
    yield outbox
    outbox.connection.close()


@pytest.fixture
def old_range(outbox):
    """Range 0 is published and old, range 1,000,000 is being written."""
    outbox.write(1, 2, WIDTH - 1)
    outbox.reach(WIDTH + 5)
    return outbox


def drop(system, chosen, **more):
    return retention.drop(system, chosen, patience_seconds=0, **more)


# --- dropping ---------------------------------------------------------------------------------------------------------


def test_plan_says_of_each_range_why_it_stays_or_may_go(evkit_system, outbox):
    outbox.write(1)
    outbox.reach(WIDTH + 5, settled=WIDTH + 5)

    found = retention.plan(evkit_system, MONTH)

    assert [(p.lower, p.upper, p.droppable, p.reason) for p in found] == [
        (0, WIDTH, True, "all published, and older than the setting"),
        (WIDTH, 2 * WIDTH, False, "is being written"),
        (2 * WIDTH, 3 * WIDTH, False, "empty, made ahead"),
    ]


def test_published_and_old_range_goes_with_its_publications_and_leaves_an_audit_row(evkit_system, old_range):
    old_range.write(WIDTH + 1)
    old_range.park(2, "skipped")
    old_range.park(WIDTH + 1, "skipped")

    (dropped,) = drop(
        evkit_system, [p for p in retention.plan(evkit_system, MONTH) if p.droppable], actor="jana", reason="disk"
    )

    assert dropped.dropped
    assert old_range.positions() == old_range.positions("publication") == [WIDTH + 1]
    assert old_range.positions("unpublishable") == [WIDTH + 1]
    assert Range(0, WIDTH) not in old_range.ranges()
    assert old_range.one("SELECT to_regclass('evkit.outbox_0')") is None
    row = old_range.connection.execute("SELECT actor, act, target, reason, plan, result FROM evkit.audit").fetchone()
    assert row[:4] == ("jana", "retention.drop", "outbox positions 0 to 999999", "disk")
    assert (row[4]["lower"], row[4]["upper"]) == (0, WIDTH)
    assert row[5] == {"dropped": True, "unpublishable_forgotten": 1}


def test_range_of_which_nothing_exists_may_go(evkit_system, outbox):
    outbox.reach(WIDTH + 5)

    assert drop(evkit_system, retention.plan(evkit_system, MONTH)[:1])[0].dropped


NEEDED = {
    "an unpublished row above what is settled": (lambda o: o.reach(WIDTH + 5, settled=10), "settled positions up to 10"),
    "an open hole at its end": (lambda o: o.reach(WIDTH + 5, settled=WIDTH - 2), "settled positions up to 999998"),
    "a parked event": (lambda o: o.park(2), "1 event(s) wait in it unpublished, the first at position 2"),
    "a held event": (lambda o: o.park(2, "held"), "wait in it unpublished"),
    "an event to be tried again": (lambda o: o.park(2, "retry"), "wait in it unpublished"),
    "a young event at its end": (lambda o: o.write(500, days_ago=29), "younger than the setting"),
    "a young event in its middle": (lambda o: (o.write(500, days_ago=1), o.write(600)), "younger than the setting"),
    "a writer in it": (lambda o: o.reach(WIDTH - 2, settled=WIDTH + 5), "is being written"),
    "an outbox without a relay": (lambda o: o.connection.execute("DELETE FROM evkit.relay"), "no relay has published"),
    "a row that was settled and never published": (
        lambda o: o.write(777, published=False),
        "position 777 is neither published nor skipped",
    ),
}  # fmt: skip


@pytest.mark.parametrize("why", NEEDED)
def test_range_that_is_needed_is_never_dropped(why, evkit_system, old_range):
    """Also when the plan was made before: all is looked at again."""
    old_range.write(3)  # a young row in the middle is no longer the last one
    (planned, *_) = retention.plan(evkit_system, MONTH)
    assert planned.droppable
    happens, sentence = NEEDED[why]
    happens(old_range)
    before = old_range.positions(), old_range.positions("publication"), old_range.positions("unpublishable")

    (kept,) = drop(evkit_system, [planned])
    by_itself = Keeper(MONTH).keep(old_range.connection)

    assert not kept.dropped
    assert sentence in kept.reason
    assert by_itself.dropped == []
    assert (old_range.positions(), old_range.positions("publication"), old_range.positions("unpublishable")) == before
    assert old_range.one("SELECT count(*) FROM evkit.audit") == 0


def test_range_with_a_skipped_and_never_published_event_may_go(evkit_system, old_range):
    old_range.write(777, published=False)
    old_range.park(777, "skipped")

    assert drop(evkit_system, retention.plan(evkit_system, MONTH)[:1])[0].dropped


def test_dropping_the_same_range_twice_says_that_it_is_gone(evkit_system, old_range):
    planned = retention.plan(evkit_system, MONTH)[:1]
    drop(evkit_system, planned)

    (again,) = drop(evkit_system, planned)

    assert not again.dropped
    assert again.reason == "there is no such range as [0, 1000000) any more"


def test_without_a_retention_everything_is_kept(evkit_system, old_range):
    assert not any(p.droppable for p in retention.plan(evkit_system, None))
    assert Keeper(None).keep(old_range.connection).dropped == []
    assert not drop(evkit_system, [Partition(0, WIDTH, droppable=True)])[0].dropped


# --- making -----------------------------------------------------------------------------------------------------------

SHAPE = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid), a.attstorage,
       (SELECT collname FROM pg_collation WHERE oid = a.attcollation)
  FROM pg_attribute a LEFT JOIN pg_attrdef d ON (d.adrelid, d.adnum) = (a.attrelid, a.attnum)
 WHERE a.attrelid = %(leaf)s::regclass AND a.attnum > 0 ORDER BY a.attnum
"""
INDEXES = "SELECT replace(pg_get_indexdef(indexrelid), %(n)s, 'N') FROM pg_index WHERE indrelid = %(leaf)s::regclass"
CONSTRAINTS = """
SELECT replace(conname, %(n)s, 'N'), pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = %(leaf)s::regclass
"""


@pytest.mark.parametrize("table", partitions.PARENTS)
def test_ranges_are_made_ahead_in_time_and_look_like_those_of_the_migration(table, outbox):
    outbox.reach(2 * WIDTH - 1)

    first, second = retention.ahead(outbox.connection), retention.ahead(outbox.connection)

    assert first.made == [Range(3 * WIDTH, 4 * WIDTH)]
    assert first.obstacles == []
    assert second.made == []

    def shape(leaf):
        values = {"leaf": f"evkit.{leaf}", "n": leaf.rpartition("_")[2]}
        return [sorted(outbox.connection.execute(query, values).fetchall()) for query in (SHAPE, INDEXES, CONSTRAINTS)]

    assert shape(f"{table}_{3 * WIDTH}") == shape(f"{table}_{2 * WIDTH}")


def test_new_ranges_are_written_to_at_once(outbox):
    outbox.reach(3 * WIDTH - 1)
    retention.ahead(outbox.connection)

    outbox.connection.execute(
        "INSERT INTO evkit.outbox (aggregatetype, aggregateid, type, payload) VALUES ('order', 'k', 't', '{}')"
    )

    assert outbox.one("SELECT tableoid::regclass::text FROM evkit.outbox") == f"evkit.outbox_{3 * WIDTH}"


def test_rows_that_nobody_made_a_range_for_become_a_range_and_nothing_is_lost(evkit_system, outbox):
    late = [3 * WIDTH + 1, 5 * WIDTH + 7]
    outbox.write(*late)
    outbox.reach(5 * WIDTH + 7)

    done = retention.ahead(outbox.connection)

    (adopted,) = done.adopted
    assert adopted.lower == 3 * WIDTH
    assert adopted.upper > 6 * WIDTH  # far from the writers
    assert [r.lower for r in done.made] == [adopted.upper, adopted.upper + WIDTH]
    assert outbox.positions() == outbox.positions("publication") == late
    assert outbox.one("SELECT count(*) FROM evkit.outbox_rest") == 0
    assert outbox.one(f"SELECT count(*) FROM evkit.publication_{3 * WIDTH}") == 2
    assert retention.ahead(outbox.connection) == retention.Kept()
    # And it goes the way of every other range.
    outbox.reach(adopted.upper + 5)
    chosen = [p for p in retention.plan(evkit_system, MONTH) if p.lower == adopted.lower]
    assert drop(evkit_system, chosen)[0].dropped


def test_rows_far_below_what_is_written_now_become_a_range_too(outbox):
    """The sequence went on while nobody looked, and ranges were made above it meanwhile."""
    outbox.reach(6 * WIDTH + 5)
    retention.ahead(outbox.connection)
    outbox.write(6 * WIDTH + 1)

    done = retention.ahead(outbox.connection)

    assert done.adopted == [Range(3 * WIDTH, 7 * WIDTH)]
    assert outbox.positions() == [6 * WIDTH + 1]


def test_rows_that_come_back_into_a_dropped_range_and_others_stop_nothing(evkit_system, old_range):
    drop(evkit_system, retention.plan(evkit_system, MONTH)[:1])
    old_range.write(7, 3 * WIDTH + 1)
    old_range.reach(3 * WIDTH + 1)

    done = retention.ahead(old_range.connection)

    assert [r.lower for r in done.made] == [4 * WIDTH, 5 * WIDTH]
    assert "2 ranges that are gone, the first is position 7" in done.obstacles[0]
    assert old_range.positions() == [7, 3 * WIDTH + 1]


def test_constraint_that_a_killed_round_has_left_is_taken_away(outbox):
    """With it, writers would be refused as soon as they come to its end."""
    outbox.connection.execute("ALTER TABLE evkit.outbox_rest ADD CONSTRAINT rest_bound CHECK (position < 3000001)")

    retention.ahead(outbox.connection)

    outbox.write(4 * WIDTH)
    assert outbox.positions() == [4 * WIDTH]


def test_rows_that_cannot_be_taken_in_now_leave_no_constraint_behind(outbox):
    outbox.write(3 * WIDTH + 1)
    outbox.reach(3 * WIDTH + 1)
    with psycopg.connect(outbox.dsn) as reader:
        reader.execute("LOCK TABLE ONLY evkit.outbox IN ACCESS SHARE MODE")

        done = retention.ahead(outbox.connection)

    assert "tried again later" in done.obstacles[0]
    assert partitions.leftovers(outbox.connection) == []
    assert retention.ahead(outbox.connection).adopted


def test_range_that_only_one_table_has_is_made_for_the_other(outbox):
    outbox.connection.execute("DROP TABLE evkit.publication_2000000")

    done = retention.ahead(outbox.connection)

    assert done.made == [Range(2 * WIDTH, 3 * WIDTH)]
    assert partitions.layout(outbox.connection).lacking() == []


def test_partitions_belong_to_the_owner_of_their_table_whoever_makes_them(outbox):
    role = f"owner_{outbox.one('SELECT current_database()')}"[:60]
    name = compose.Identifier(role)
    outbox.connection.execute(compose.SQL("CREATE ROLE {}").format(name))
    try:
        for table in ("outbox", "publication", "outbox_rest", "publication_rest"):
            outbox.connection.execute(
                compose.SQL("ALTER TABLE {} OWNER TO {}").format(compose.Identifier("evkit", table), name)
            )
        outbox.connection.execute(compose.SQL("GRANT USAGE, CREATE ON SCHEMA evkit TO {}").format(name))
        outbox.connection.execute(compose.SQL("GRANT USAGE ON SEQUENCE evkit.outbox_position TO {}").format(name))
        outbox.reach(2 * WIDTH)

        assert retention.ahead(outbox.connection).obstacles == []

        owner = outbox.one("SELECT relowner::regrole::text FROM pg_class WHERE relname = 'outbox_3000000'")
        assert owner.strip('"') == role
    finally:
        outbox.connection.execute(compose.SQL("DROP OWNED BY {} CASCADE").format(name))
        outbox.connection.execute(compose.SQL("DROP ROLE {}").format(name))


# --- beside writers ---------------------------------------------------------------------------------------------------


class Bystander(threading.Thread):
    """Asks for nothing that anybody holds, and remembers the longest it had to wait: what the machine took."""

    def __init__(self, dsn):
        super().__init__()
        self.dsn, self.longest, self.stopped = dsn, 0.0, threading.Event()

    def run(self):
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            began = time.monotonic()
            while not self.stopped.is_set():
                connection.execute("SELECT pg_sleep(0.01)")
                began, before = time.monotonic(), began
                self.longest = max(self.longest, began - before)


class Writer(threading.Thread):
    """Writes one event a transaction until it is stopped, and remembers the longest it had to wait."""

    def __init__(self, dsn):
        super().__init__()
        self.dsn, self.longest, self.written, self.error = dsn, 0.0, 0, None
        self.bystander = Bystander(dsn)
        self.stopped, self.goes = threading.Event(), threading.Event()

    def run(self):
        try:
            with psycopg.connect(self.dsn, autocommit=True) as connection:
                while not self.stopped.is_set():
                    began = time.monotonic()
                    connection.execute(
                        "INSERT INTO evkit.outbox (aggregatetype, aggregateid, type, payload) "
                        "VALUES ('order', 'k', 'order.placed', '{}')"
                    )
                    self.longest = max(self.longest, time.monotonic() - began)
                    self.written += 1
                    self.goes.set()
        except Exception as error:
            self.error = error

    def write_one_more(self):
        self.goes.clear()
        assert self.goes.wait(60)
        if self.error is not None:
            raise self.error

    def __enter__(self):
        self.bystander.start()
        self.start()
        self.write_one_more()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        self.join()
        self.bystander.stopped.set()
        self.bystander.join()


def test_writers_go_on_while_partitions_are_made_adopted_and_dropped(evkit_system, outbox):
    """Also while somebody else's transaction stands in the way of every lock that is asked for."""
    outbox.write(1)
    outbox.reach(2 * WIDTH)
    keeper = Keeper(MONTH)
    with psycopg.connect(outbox.dsn) as blocker, Writer(outbox.dsn) as writer:
        for round_ in range(4):
            if round_:  # far above all ranges: rows go into *_rest
                outbox.reach(outbox.ranges()[-1].upper + 2 * WIDTH)
                writer.write_one_more()
            blocker.execute("SELECT count(*) FROM evkit.outbox")
            in_the_way = keeper.keep(outbox.connection)
            blocker.rollback()
            # The writer holds its locks for as long as the machine lets it stand, and a keeper does not wait for it.
            rounds = [keeper.keep(outbox.connection)]
            while rounds[-1].obstacles:
                rounds.append(keeper.keep(outbox.connection))
            writer.write_one_more()
            assert "tried again later" in in_the_way.obstacles[0]
            assert sum(len(done.made) for done in rounds) == 2
            assert [p.lower for done in rounds for p in done.dropped] == ([0, WIDTH] if round_ == 0 else [])
            assert sum(len(done.adopted) for done in rounds) == (1 if round_ else 0)

    assert writer.error is None
    assert writer.longest < WRITER_SECONDS_MAX + writer.bystander.longest
    assert outbox.one("SELECT count(*) FROM evkit.outbox") == writer.written  # the one of before is dropped


def test_drop_gives_up_behind_an_open_transaction_and_other_writers_hardly_notice(evkit_system, old_range):
    planned = retention.plan(evkit_system, MONTH)[:1]
    with psycopg.connect(old_range.dsn) as long:
        long.execute(
            "INSERT INTO evkit.outbox (aggregatetype, aggregateid, type, payload) VALUES ('a', 'k', 't', '{}')"
        )

        with Writer(old_range.dsn) as writer:
            began = time.monotonic()
            (kept,) = drop(evkit_system, planned)
            seconds = time.monotonic() - began
        long.rollback()

    assert not kept.dropped
    assert "a transaction holds evkit.outbox or evkit.publication" in kept.reason
    assert seconds < 10 * LOCK_SECONDS + writer.bystander.longest
    assert writer.longest > LOCK_SECONDS * 0.5  # it did stand behind the drop
    assert writer.longest < WRITER_SECONDS_MAX + writer.bystander.longest
    assert drop(evkit_system, planned)[0].dropped


def test_patient_drop_tries_again_until_the_transaction_has_ended(evkit_system, old_range, monkeypatch):
    planned = retention.plan(evkit_system, MONTH)[:1]
    tries = []
    with psycopg.connect(old_range.dsn) as long:
        long.execute("SELECT FROM evkit.outbox")
        monkeypatch.setattr(retention, "time", SimpleNamespace(
            monotonic=time.monotonic, sleep=lambda seconds: (tries.append(seconds), long.rollback())
        ))  # fmt: skip

        (dropped,) = retention.drop(evkit_system, planned)

    assert dropped.dropped
    assert tries == [retention.RETRY_SECONDS]


def test_two_at_once_do_not_get_in_each_others_way(evkit_system, old_range):
    with psycopg.connect(old_range.dsn, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(hashtextextended('evkit.retention', 0))")
        old_range.reach(2 * WIDTH)

        kept = Keeper(MONTH).keep(old_range.connection)

        assert kept.obstacles == ["somebody else makes or drops partitions of this outbox just now"]

    assert Keeper(MONTH).keep(old_range.connection).made


# --- the relay's keeper -----------------------------------------------------------------------------------------------


def test_role_that_may_not_change_tables_gets_one_sentence_and_says_it_once(evkit_system, old_range, caplog):
    role = f"lean_{old_range.one('SELECT current_database()')}"[:60]
    name, connection = compose.Identifier(role), old_range.connection
    connection.execute(compose.SQL("CREATE ROLE {} LOGIN").format(name))
    try:
        connection.execute(compose.SQL("GRANT USAGE ON SCHEMA evkit TO {}").format(name))
        connection.execute(compose.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA evkit TO {}").format(name))
        connection.execute(compose.SQL("GRANT SELECT ON evkit.outbox_position TO {}").format(name))
        old_range.reach(2 * WIDTH)
        keeper = Keeper(MONTH)
        with psycopg.connect(old_range.dsn, user=role, autocommit=True) as lean, caplog.at_level(logging.WARNING):
            first, second = keeper.keep(lean), keeper.keep(lean)
            assert lean.execute("SELECT 1").fetchone() == (1,)

        assert first.obstacles == second.obstacles
        assert first.obstacles[0].startswith(
            f"partitions have to be made or dropped, and user {role} may not act as postgres, who owns evkit.outbox: run "
            "`evkit outbox retention` as postgres"
        )
        assert len(caplog.records) == 1
    finally:
        connection.execute(compose.SQL("DROP OWNED BY {}").format(name))
        connection.execute(compose.SQL("DROP ROLE {}").format(name))


def test_keeper_drops_few_a_round_and_passes_over_a_range_that_waits_for_a_person(outbox):
    outbox.reach(2 * WIDTH)
    retention.ahead(outbox.connection)
    outbox.reach(3 * WIDTH + 5)
    outbox.write(WIDTH + 1)
    outbox.park(1)  # in the first range
    keeper = Keeper(MONTH, drops_max=1)

    first, second, third = (keeper.keep(outbox.connection) for _ in range(3))

    assert [[p.lower for p in done.dropped] for done in (first, second, third)] == [[WIDTH], [2 * WIDTH], []]
    assert outbox.one("SELECT array_agg(DISTINCT actor) FROM evkit.audit") == ["evkit relay"]


def test_keeper_wants_a_connection_without_a_transaction(outbox):
    with psycopg.connect(outbox.dsn) as connection, pytest.raises(ValueError, match="autocommit"):
        Keeper(MONTH).keep(connection)


def test_relay_goes_on_over_ranges_that_are_made_and_dropped(evkit_system, evkit_topic, outbox):
    """Also one that starts anew above a range that is gone: nothing is lost, nothing comes twice."""
    topic = evkit_topic()
    outbox.reach(WIDTH - 3, settled=WIDTH - 3)

    def publish(*numbers):
        with evkit_system.writing() as connection:
            write_many(connection, [Event("order.placed", "k", {"n": n}, topic=topic) for n in numbers])
        relay = Relay(evkit_system)
        try:
            drain(relay)
        finally:
            relay.close()

    publish(*range(5))  # the last positions of one range, the first of the next
    first = Keeper(timedelta(0)).keep(outbox.connection)
    publish(*range(5, 10))

    assert [p.lower for p in first.dropped] == [0]
    assert [decoding.decode(r).payload["n"] for r in read_topic(evkit_system, topic)] == list(range(10))
    assert min(outbox.positions()) == WIDTH
    assert outbox.positions() == outbox.positions("publication")


# --- command and setting ----------------------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch, evkit_settings):
    monkeypatch.setenv("EVKIT_POSTGRES_DSN", evkit_settings.postgres_dsn)
    monkeypatch.setenv("EVKIT_KAFKA_BOOTSTRAP_SERVERS", evkit_settings.bootstrap_servers)
    return lambda *arguments: CliRunner().invoke(app, ["outbox", "retention", *arguments])


def test_command_shows_the_plan_and_a_dry_run_changes_nothing(run, old_range):
    done = run("--dry-run")

    assert done.exit_code == 0, done.output
    assert "all published, and older than the setting" in done.stdout
    assert "is being written" in done.stdout
    assert "drop 1 range(s)" in done.stderr
    assert old_range.positions() == [1, 2, WIDTH - 1]


def test_command_asks_and_without_a_terminal_wants_yes(run, old_range):
    done = run()

    assert "add --yes" in str(done.exception)
    assert old_range.positions() == [1, 2, WIDTH - 1]


def test_command_drops_makes_ahead_and_answers_with_one_document(run, old_range):
    old_range.reach(2 * WIDTH - 1, settled=WIDTH)

    done = run("--yes", "--format", "json", "--reason", "disk")

    assert done.exit_code == 0, done.output
    (first, *others) = json.loads(done.stdout)
    assert (first["lower"], first["dropped"], first["reason"]) == (0, True, "dropped")
    assert not any(p["dropped"] for p in others)
    assert old_range.ranges()[-1] == Range(3 * WIDTH, 4 * WIDTH)
    assert old_range.one("SELECT actor FROM evkit.audit WHERE reason = 'disk'") == audit.actor()


def test_command_fails_when_a_range_of_its_plan_stays(run, old_range):
    old_range.write(777, published=False)

    done = run("--yes")

    assert done.exit_code == 1
    assert "positions 0 to 999999 stay: position 777 is neither published nor skipped" in done.stderr


def test_retention_can_be_longer_or_for_ever(run, old_range, evkit_settings, tmp_path, monkeypatch):
    assert "older than 41 days is what would go" in run("--dry-run", "--older-than-days", "41").stderr
    config = tmp_path / "evkit.toml"
    config.write_text('[profiles.test]\noutbox_retention_days = "forever"\n')
    monkeypatch.setenv("EVKIT_CONFIG", str(config))

    done = run("--dry-run")

    assert "outbox_retention_days is not set: everything is kept" in done.stdout
    assert Settings(postgres_dsn="", kafka={}).outbox_retention_days == 30
