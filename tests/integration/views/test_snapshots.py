"""How long the server sees the snapshots of views, looked at from outside while a view of very many rows is at work."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from datetime import timedelta

import psycopg
import pytest

from evkit import views
from evkit.system import System
from evkit.views import pages as paging
from tests.integration.views.planted import Planted

EVENTS = 100_000
OPEN = (
    "SELECT pid, xact_start, extract(epoch FROM clock_timestamp() - xact_start)::float8 FROM pg_stat_activity"
    " WHERE datname = current_database() AND application_name = 'evkit views' AND xact_start IS NOT NULL"
)


@pytest.fixture
def many(evkit_system, evkit_topic, evkit_group):
    topic = evkit_topic("order", partitions=4)
    return Planted(evkit_system, topic, evkit_group("billing"), evkit_group("shipping"), events=EVENTS).make()


@contextmanager
def watched(dsn):
    """Of each transaction of a view, how old it was when it was last seen: {(session, start): seconds}."""
    seen, begun, is_over = {}, threading.Event(), threading.Event()

    def watch():
        with psycopg.connect(dsn, autocommit=True) as other:
            while not is_over.is_set():
                for session, start, seconds in other.execute(OPEN, prepare=True).fetchall():
                    seen[session, start] = seconds
                begun.set()
                is_over.wait(0.005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    assert begun.wait(60)
    try:
        yield seen
    finally:
        is_over.set()
        watcher.join()


def length(planted):
    return timedelta(seconds=float(planted.window().removesuffix("s")))


def latency_events(system, planted):
    return views.latency_events(system, length(planted), rows_max=10 * EVENTS)


def audit(system, planted):
    return views.audit(system, length(planted), topic=planted.topic, every=True, rows_max=10 * EVENTS)


def lag_of_the_inbox(system, planted):
    return views.lag_history(system, planted.group, window=length(planted), step="1s", source="inbox")


# An audit's pages have a fixed number of events, and are not made shorter for a lower limit: it has that of everybody.
@pytest.mark.parametrize(("look", "limit"), [(latency_events, 0.25), (lag_of_the_inbox, 0.25), (audit, 5.0)])
def test_no_transaction_of_a_long_view_is_older_than_its_limit_and_a_page(look, limit, many, evkit_system):
    system = System(evkit_system.settings.model_copy(update={"snapshot_seconds_max": limit}))
    page = paging._SHARE * paging._CUT_AT * limit

    with watched(system.settings.postgres_dsn) as seen:
        began = time.perf_counter()
        made = look(system, many)
        took = time.perf_counter() - began

    assert not made.is_empty()
    assert len(seen) > 2
    assert max(seen.values()) <= limit + page
    # Both say that it was long enough: one snapshot for all of it would have been seen.
    assert max(seen.values()) < took / 2
    assert took > limit or look is audit
