"""Who leads, who stands by, what a relay that dies or hangs leaves behind, and what wakes the one that leads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from evkit import Event, Relay, decoding, outbox
from evkit.errors import InvalidEvent, RelayStopped
from evkit.runtime import relay as relay_module
from evkit.runtime import unpublishable
from evkit.runtime.batch import Batch
from evkit.runtime.marker import Deposed, Marker
from evkit.runtime.wake import Wake
from evkit.testing.events import read_topic
from tests.relaying import drain


def write(system, *events, **more):
    with system.writing() as connection:
        return outbox.write_many(connection, events, **more)


@pytest.fixture
def running(evkit_system):
    """`running(**arguments)` → (a relay that runs in a thread, a semaphore that counts what it published)."""
    relays = []

    def start(**more):
        published = threading.Semaphore(0)
        relay = Relay(evkit_system, on_batch=published.release, **more)
        relays.append((relay, relay.start()))
        return relay, published

    yield start
    for relay, thread in relays:
        relay.stop()
        thread.join(60)


def end_sessions(system, name):
    with system.writing(autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = %s",
            (name,),
        )


def test_standby_takes_over_when_the_leaders_session_ends(evkit_system, evkit_topic, running):
    topic = evkit_topic()
    first = Relay(evkit_system)
    assert first.step() == 0
    standby, published = running()
    write(evkit_system, Event("a.b", "k", {"n": 1}, topic=topic))
    assert not standby.leading.is_set()

    end_sessions(evkit_system, "evkit relay")  # of both: one of them gets the lock

    assert published.acquire(timeout=60)
    with pytest.raises(psycopg.OperationalError):
        first.step()
    first.close()


def test_leader_that_hangs_is_deposed_and_its_late_marks_are_refused(evkit_system, evkit_topic, running):
    """It holds its lock and its connections and asks nothing, as after SIGSTOP."""
    topic = evkit_topic()
    hanging = Relay(evkit_system, lease_seconds=1)
    hanging.step()
    (event_id,) = write(evkit_system, Event("a.b", "k", {}, topic=topic))
    batch = hanging._next_batch()

    standby, published = running(lease_seconds=1)

    assert published.acquire(timeout=60)
    assert standby.leading.is_set()
    hanging._term.heard_at -= 1  # as its clock says after it went on
    assert not hanging._term.is_certain()
    late = Batch(batch.claim, batch.rows, batch.settled, answers=[(batch.rows[0][0], 0, 7, 0)])
    with pytest.raises(psycopg.OperationalError):  # its session for marks was ended too
        hanging._term.marker.mark([late])
    # And had it another one, its epoch is over.
    with evkit_system.writing(autocommit=True) as connection, pytest.raises(Deposed):
        Marker(connection, hanging._term.epoch, 0, 0).mark([late])
    hanging.close()
    assert [decoding.decode(r).id for r in read_topic(evkit_system, topic)] == [event_id]
    with evkit_system.reading() as connection:
        assert connection.execute('SELECT "offset" FROM evkit.publication').fetchall() == [(0,)]


def test_relay_that_hangs_inside_a_mark_does_not_hold_its_successor_up(evkit_system, evkit_topic):
    """Its session for marks has the row of evkit.relay locked, and does nothing more."""
    topic = evkit_topic()
    write(evkit_system, Event("a.b", "k", {}, topic=topic))
    first = Relay(evkit_system)
    first.step()
    first.close()
    write(evkit_system, Event("a.b", "k", {}, topic=topic))
    stale = psycopg.connect(evkit_system.settings.postgres_dsn, application_name="evkit relay marks")
    stale.execute("UPDATE evkit.relay SET moved_at = now()")

    successor = Relay(evkit_system)
    assert drain(successor) == 1

    successor.close()
    with pytest.raises(psycopg.OperationalError):
        stale.execute("SELECT 1")
    stale.close()


def test_waiting_for_a_wake_takes_no_other_threads_answer(evkit_database):
    with psycopg.connect(evkit_database, autocommit=True) as connection:
        wake, end, wrong = Wake(), threading.Event(), []

        def ask():
            for n in range(500):
                (answer,) = connection.execute("SELECT %s::int", (n,)).fetchone()
                if answer != n:
                    wrong.append((n, answer))
            end.set()

        asking = threading.Thread(target=ask)
        asking.start()
        while not end.is_set() and asking.is_alive():
            wake.wait(connection, 0.01)
        asking.join(60)

    assert end.is_set()
    assert wrong == []


def test_leader_that_waits_for_its_broker_is_heard_and_stays(evkit_system, evkit_topic, running):
    """A full pipeline is not a hanging relay: it asks its connection something while it waits."""
    leader, published = running(lease_seconds=6)
    write(evkit_system, Event("a.b", "k", {}, topic=evkit_topic()))
    assert published.acquire(timeout=60)
    standby, _ = running(lease_seconds=6)

    with evkit_system.writing(autocommit=True) as connection:
        for _ in range(28):  # longer than a lease
            connection.execute("SELECT pg_sleep(0.25)")
            assert leader.leading.is_set()
    assert not standby.leading.is_set()
    assert (leader.health().ok, standby.health().ok) == (True, True)


KILLED = """
import os, signal, sys
from evkit import Relay, connect
from evkit.runtime.publisher import Publisher
real = Publisher._produce
def produce(self, batch, rows):
    rows = list(rows)
    if any(row[2] == b"deadly" for row in rows):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, batch, rows)
Publisher._produce = produce
relay = Relay(connect())
while relay.step() or not relay.leading.is_set():  # the one that was killed may still have its lock
    pass
relay.close()
"""


def test_event_that_kills_the_relay_again_and_again_is_found_and_parked(evkit_system, evkit_topic):
    """An attempt counts from the claim, so a crash burns one: first its whole batch, then it alone."""
    topic = evkit_topic()
    ids = write(evkit_system, *[Event("a.b", k, {}, topic=topic) for k in ("a", "b", "deadly", "c", "d")])
    settings = evkit_system.settings
    environment = os.environ | {
        "EVKIT_POSTGRES_DSN": settings.postgres_dsn,
        "EVKIT_KAFKA_BOOTSTRAP_SERVERS": settings.bootstrap_servers,
    }
    deaths = 0

    for _ in range(12):
        code = subprocess.run([sys.executable, "-c", KILLED], env=environment, check=False).returncode
        if code == 0:
            break
        assert code == -signal.SIGKILL
        deaths += 1

    assert deaths == 6, "three with its batch, three alone"
    (parked,) = unpublishable.rows(evkit_system)
    assert (parked.event_id, parked.error_class, parked.attempts) == (ids[2], "RelayDied", 3)
    assert {decoding.decode(r).id for r in read_topic(evkit_system, topic)} == set(ids) - {ids[2]}


def test_outbox_is_not_published_to_another_cluster_by_mistake(evkit_system, evkit_topic):
    topic = evkit_topic()
    write(evkit_system, Event("a.b", "k", {}, topic=topic))
    relay = Relay(evkit_system)
    relay.step()
    relay.close()
    with evkit_system.writing() as connection:
        connection.execute("UPDATE evkit.relay SET cluster_id = 'the-one-in-production'")

    with pytest.raises(RelayStopped, match="the-one-in-production so far.*--accept-cluster"):
        Relay(evkit_system).run()

    moved = Relay(evkit_system, accept_cluster=True)
    write(evkit_system, Event("a.b", "k", {}, topic=topic))
    assert drain(moved) == 1
    moved.close()


@pytest.mark.parametrize("way", ["notify", "wake"])
def test_writer_wakes_the_relay_at_its_commit(way, evkit_system, evkit_topic, running, monkeypatch):
    """It would not look again by itself for a minute."""
    topic = evkit_topic()
    write(evkit_system, Event("a.b", "k", {}, topic=topic))
    relay, published = running()
    assert published.acquire(timeout=60)
    monkeypatch.setattr(relay_module, "POLL_SECONDS_MIN", 60)
    monkeypatch.setattr(relay_module, "POLL_SECONDS_MAX", 60)
    relay.wake()  # out of a wait that may have begun before

    for _ in range(5):
        write(evkit_system, Event("a.b", "k", {}, topic=topic), notify=way == "notify")
        if way == "wake":
            relay.wake()
        assert published.acquire(timeout=60)


def test_scheduled_event_is_published_when_it_is_due_and_not_when_it_is_cancelled(evkit_system, evkit_topic):
    topic = evkit_topic()
    now = datetime.now(UTC)
    later, soon, cancelled = write(
        evkit_system,
        Event("a.b", "k", {"n": "later"}, topic=topic, due_at=now - timedelta(seconds=1), correlation_id="c-1"),
        Event("a.b", "k", {"n": "soon"}, topic=topic, due_at=now - timedelta(seconds=2)),
        Event("a.b", "k", {"n": "cancelled"}, topic=topic, due_at=now + timedelta(hours=1)),
    )
    (far,) = write(evkit_system, Event("a.b", "k", {"n": "far"}, topic=topic, due_at=now + timedelta(hours=1)))
    with evkit_system.writing() as connection:
        assert outbox.cancel(connection, cancelled)
        assert not outbox.cancel(connection, "no such id")
    relay = Relay(evkit_system)

    while relay.step() or outbox.status(evkit_system)["due"]:
        pass

    events = [decoding.decode(r) for r in read_topic(evkit_system, topic)]
    assert [e.id for e in events] == [soon, later], "in the order in which they were due"
    assert events[1].correlation_id == "c-1"
    assert events[0].created_at >= now, "the time of its place in the outbox: relay lag is not the time it was to wait"
    status = outbox.status(evkit_system)
    assert (status["scheduled"], status["waiting"]) == (1, 0)
    with evkit_system.writing() as connection:
        connection.execute("UPDATE evkit.scheduled SET due_at = now() WHERE id = %s", (far,))
    while relay.step() or outbox.status(evkit_system)["due"]:
        pass
    relay.close()
    assert [decoding.decode(r).id for r in read_topic(evkit_system, topic)] == [soon, later, far]


def test_due_time_without_a_time_zone_is_refused(evkit_system):
    with pytest.raises(InvalidEvent, match="without a time zone"):
        write(evkit_system, Event("a.b", "k", {}, due_at=datetime(2013, 2, 8)))  # noqa: DTZ001 - that is the point


def test_batch_of_large_payloads_is_cut_by_bytes(evkit_system, evkit_topic, running):
    topic = evkit_topic()
    pad = os.urandom(300_000).hex()  # 600 kB that do not compress
    write(evkit_system, *[Event("a.b", "k", {"n": n, "pad": pad}, topic=topic) for n in range(40)])
    sizes = []
    relay = Relay(evkit_system)
    while count := relay.step():
        sizes.append(count)
    relay.close()

    assert sum(sizes) == 40
    assert max(sizes) <= 14 * 2, "8 MB of stored payloads; hex halves at best"
    assert [decoding.decode(r).payload["n"] for r in read_topic(evkit_system, topic)] == list(range(40))


def test_event_without_a_key_has_none_on_kafka(evkit_system, evkit_topic):
    """An empty key would send all of them to one partition."""
    topic = evkit_topic(partitions=3)
    write(evkit_system, Event("a.b", "", {}, topic=topic))
    relay = Relay(evkit_system)
    relay.step()
    relay.close()

    (record,) = read_topic(evkit_system, topic)
    assert (record.key, decoding.decode(record).key) == (None, "")
