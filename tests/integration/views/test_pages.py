"""No view holds a snapshot for long: very many rows come in pages, and what cannot is cut off with a sentence."""

from __future__ import annotations

import importlib
import threading
from contextlib import contextmanager
from datetime import timedelta

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings, strategies
from polars.testing import assert_frame_equal

from evkit import views
from evkit.errors import QueryTimeout
from evkit.system import System, viewing
from evkit.views import pages as paging
from evkit.views.pages import pages

ATTEMPTS = (
    'INSERT INTO evkit.attempt (consumer_group, event_id, event_type, topic, partition, "offset", attempt, failed_at,'
    " duration_seconds, error_class, error_message, stack_trace, fingerprint, disposition)"
    " SELECT 'billing', i::text, 't', 't', 0, i, 1, %s::timestamptz - i * interval '1 ms', 0, 'E', 'm', '', 'f', 'retry'"
    " FROM generate_series(1, %s::integer) i"
)


def quick(system, seconds):
    return System(system.settings.model_copy(update={"snapshot_seconds_max": seconds}))


@contextmanager
def short_pages(monkeypatch, seconds=0.5, positions=200, growth=1.0):
    """Pages that stay about as long as the first one."""
    monkeypatch.setattr(paging, "FIRST_SECONDS", seconds)
    monkeypatch.setattr(paging, "FIRST_POSITIONS", positions)
    monkeypatch.setattr(paging, "_GROWTH", growth)
    yield


@contextmanager
def seen_by_the_server(monkeypatch, dsn):
    """Of each page, when its transaction began and how old its snapshot's session says it is, asked while it is read."""
    found: list[tuple] = []
    read = paging.pages

    def watched(system, connection, start, end, of_page, **how):
        def looked(first, last):
            page = of_page(first, last)
            with psycopg.connect(dsn, autocommit=True) as other:
                found.extend(
                    other.execute(
                        "SELECT xact_start, backend_xmin IS NOT NULL FROM pg_stat_activity WHERE pid = %s",
                        (connection.info.backend_pid,),
                    ).fetchall()
                )
            return page

        return read(system, connection, start, end, looked, **how)

    monkeypatch.setattr("evkit.views.copied.pages", watched)
    yield found


def test_a_view_of_many_rows_gives_its_snapshot_back_after_every_page(evkit_system, evkit_database, past, monkeypatch):
    past.sql(ATTEMPTS, past.at(1), 5000)

    with short_pages(monkeypatch), seen_by_the_server(monkeypatch, evkit_database) as seen:
        made = views.errors(evkit_system, past.window(20))

    assert made["event_id"].to_list() == [str(i) for i in range(1, 5001)]
    with_rows = [at for at, held in seen if held]
    assert len(with_rows) >= 40
    assert len(set(with_rows)) == len(with_rows), "each page should have a transaction of its own"
    assert with_rows == sorted(with_rows)


def test_pages_double_no_row_and_leave_none_out_whatever_the_view(evkit_system, past, monkeypatch):
    past.sql(ATTEMPTS, past.at(1), 3000)
    past.sql(
        "INSERT INTO evkit.outbox (id, aggregatetype, aggregateid, type, payload, created_at)"
        " SELECT i::text, 'order', 'k', 'order.placed', '{}', %s::timestamptz - i * interval '1 ms'"
        " FROM generate_series(3000, 1, -1) i",
        past.at(1),
    )
    for n in range(30):
        past.letter("billing", f"e{n}", 1 + n % 10)
        past.sql("INSERT INTO evkit.audit (actor, act, target, plan, acted_at) VALUES ('a', 'x', %s, '{}', %s)", str(n),
                 past.at(1 + n / 10))  # fmt: skip

    def every():
        return {
            "errors": views.errors(evkit_system, past.window(20))["event_id"].to_list(),
            "outbox": views.outbox(evkit_system, past.window(20))["position"].to_list(),
            "letters": views.dead_letters(evkit_system)["letter_id"].to_list(),
            "letters of a window": views.dead_letters(evkit_system, window=past.window(6))["letter_id"].to_list(),
            "acts": views.acts(evkit_system, past.window(20))["target"].to_list(),
            "errors, the newest": views.errors(evkit_system, past.window(20), rows_max=700)["event_id"].to_list(),
            "outbox, the newest": views.outbox(evkit_system, past.window(20), rows_max=700)["position"].to_list(),
        }

    whole = every()
    with short_pages(monkeypatch):
        assert every() == whole
    assert (len(whole["errors"]), len(whole["outbox"]), len(whole["letters"])) == (3000, 3000, 30)


def test_what_is_counted_by_pages_is_what_one_page_counts(evkit_system, past, monkeypatch):
    for n in range(60):
        ago = 2 + n / 4
        past.write(f"e{n}", ago, key=f"k{n % 7}", published=ago - 0.1 if n % 9 else None)
        if n % 5:
            past.handle(
                "billing", f"e{n}", ago - 0.2 - (n % 4), written=ago, outcome="dead" if n % 11 == 0 else "handled"
            )
        if n % 3 == 0:
            past.fail("billing", f"e{n}", ago - 0.3)
            past.fail("billing", f"e{n}", ago - 1.4, attempt=2, dead=n % 11 == 0)
        past.handle("foreign", f"f{n % 30}", ago, topic="elsewhere", generation=n // 30)
        past.handle("stranger", f"f{n % 30}", ago / 2, topic="elsewhere", generation=n // 30)
    window = past.window(20)
    asked = {
        "latency": lambda: views.latency(evkit_system, window, by_event_type=True),
        "latency_over_time": lambda: views.latency_over_time(evkit_system, window, bucket="3s"),
        "latency_events": lambda: views.latency_events(evkit_system, window),
        "latency_events, the newest": lambda: views.latency_events(evkit_system, window, by="written", rows_max=9),
        "latency_segments": lambda: views.latency_segments(evkit_system, window),
        "throughput": lambda: views.throughput(evkit_system, window, bucket="3s"),
        "publish_rate": lambda: views.publish_rate(evkit_system, window, bucket="3s"),
        "hot_keys": lambda: views.hot_keys(evkit_system, window),
        "impact": lambda: views.impact(evkit_system, window, late="1s"),
        "impact by a function": lambda: views.impact(evkit_system, window, lambda e: e["key"], late="1s"),
        "differs": lambda: views.differs(evkit_system, window, noise=True),
        "slo": lambda: views.slo(evkit_system, until=window.end, windows_seconds=(5, 20)),
        "compare": lambda: views.compare(evkit_system, b=past.window(10)),
        "relay_lag_over_time": lambda: views.relay_lag_over_time(evkit_system, window, bucket="3s"),
        "outbox_summary": lambda: views.outbox_summary(evkit_system, window).drop("oldest_seconds"),
        "schema_usage": lambda: views.schema_usage(evkit_system, window),
        "relay_lag": lambda: views.relay_lag(evkit_system, window)["published", "pending", "p50_seconds"],
    }

    whole = {name: look() for name, look in asked.items()}
    for module in ("latency", "latency_events", "throughput"):
        monkeypatch.setattr(importlib.import_module(f"evkit.views.{module}"), "LOOKBACK", timedelta(seconds=3))
    with short_pages(monkeypatch, seconds=0.7, growth=1.3):  # they grow, for some look back a day
        for name, look in asked.items():
            assert_frame_equal(look(), whole[name], check_exact=name != "impact by a function")
    assert all(len(frame) for frame in whole.values())


def test_what_commits_behind_the_page_is_not_there_and_nothing_is_doubled(evkit_system, past, monkeypatch):
    """The newest page is read first: a row that commits under a newer time is too late, one under an older time not."""
    past.sql(ATTEMPTS, past.at(1), 3000)
    late = iter([True])

    def commit_one_more(system, connection, start, end, read, **how):
        def then(first, last):
            page = read(first, last)
            if next(late, False):
                past.fail("billing", "newer", 0.1)
                past.fail("billing", "older", 4.2)
            return page

        return pages(system, connection, start, end, then, **how)

    with short_pages(monkeypatch):
        monkeypatch.setattr("evkit.views.copied.pages", commit_one_more)
        made = views.errors(evkit_system, past.window(5))["event_id"].to_list()

    assert len(set(made)) == len(made) == 3001
    assert "older" in made


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    strategies.integers(0, 3_000),
    strategies.integers(0, 3_000_000),
    strategies.booleans(),
    strategies.lists(strategies.floats(0, 2), max_size=20),
)
def test_stretches_touch_and_cover_the_window_exactly(evkit_system, start, length, newest_first, cuts):
    """Whatever a page takes, and whichever are cut off."""
    cut = iter(cuts)
    times = iter(cuts)

    def read(first, last):
        if last - first > 1 and next(cut, 0) > 1.5:
            raise psycopg.errors.QueryCanceled
        return first, last

    class Clock:
        now = 0.0

        def __call__(self):
            Clock.now += next(times, 0.1)
            return Clock.now

    with evkit_system.reading() as connection, pytest.MonkeyPatch.context() as patched:
        patched.setattr(paging, "perf_counter", Clock())
        patched.setattr(paging, "_CUTS_MAX", 30)
        found = list(pages(evkit_system, connection, start, start + length, read, newest_first=newest_first))

    found = found[::-1] if newest_first else found
    assert all(first < last for first, last in found)
    assert [first for first, _ in found] == [start, *(last for _, last in found[:-1])][: len(found)]
    assert (found[-1][1] if found else start) == start + length


def test_a_statement_of_a_view_that_takes_too_long_is_cut_off_with_a_sentence(evkit_system, past):
    past.fail("billing", "e1", 1)
    system = quick(evkit_system, 0.3)

    with pytest.raises(QueryTimeout) as told, past.connection.transaction():  # noqa: PT012
        past.sql("LOCK TABLE evkit.attempt IN ACCESS EXCLUSIVE MODE")
        views.error_rate(system, past.window(60))

    assert str(told.value).startswith("views.error_rate was cut off at 127.0.0.1:")
    assert "not done after 0.3 s" in str(told.value)
    assert "shorter window or at one group, or raise snapshot_seconds_max for a replica" in str(told.value)


def test_a_page_that_is_cut_off_is_tried_again_in_shorter_ones(evkit_system, past):
    """Somebody's lock that goes away meanwhile is no reason for a view to fail."""
    past.sql(
        "INSERT INTO evkit.audit (actor, act, target, plan, acted_at) VALUES ('a', 'x', 'y', '{}', %s)", past.at(1)
    )
    with past.connection.transaction():
        past.sql("LOCK TABLE evkit.audit IN ACCESS EXCLUSIVE MODE")
        system, cut, found = quick(evkit_system, 1.0), threading.Event(), []

        def looked(*_):
            cut.set()
            return real(*_)

        real = paging._times
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(paging, "_times", looked)
            looking = threading.Thread(target=lambda: found.append(views.acts(system, past.window(60))))
            looking.start()
            assert cut.wait(60)
    looking.join()

    assert found[0]["target"].to_list() == ["y"]


def test_a_view_of_several_statements_holds_its_snapshot_no_longer_than_one(evkit_system):
    """Each statement is quick enough, all of them together are not: PostgreSQL ends the session."""
    with pytest.raises(QueryTimeout, match=r"views\.slow was cut off"), viewing("slow"):  # noqa: PT012, SIM117
        with quick(evkit_system, 0.5).reading() as connection:
            for _ in range(100):
                connection.execute("SELECT pg_sleep(0.1)")


def test_a_view_that_does_nothing_between_two_statements_gives_its_snapshot_back(evkit_system):
    with pytest.raises(QueryTimeout, match="holds no snapshot longer"), viewing("slow"):  # noqa: PT012, SIM117
        with quick(evkit_system, 0.3).reading() as connection:
            connection.execute("SELECT 1")
            with psycopg.connect(evkit_system.settings.postgres_dsn, autocommit=True) as other:
                gone = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = %s)"
                while other.execute(gone, (connection.info.backend_pid,)).fetchone() != (True,):
                    pass
            connection.execute("SELECT 1")


def test_what_is_no_view_keeps_the_longer_limit(evkit_system):
    with quick(evkit_system, 0.2).reading() as connection:
        assert connection.execute("SELECT pg_sleep(0.4)").fetchone() is not None
        assert connection.execute("SHOW statement_timeout").fetchone() == ("1min",)


def test_of_views_inside_a_view_the_outer_one_is_named(evkit_system, past):
    cut_off = pytest.raises(QueryTimeout, match=r"views\.timeline was cut off")
    with cut_off, past.connection.transaction():
        past.sql("LOCK TABLE evkit.inbox IN ACCESS EXCLUSIVE MODE")
        views.timeline(quick(evkit_system, 0.3), timedelta(minutes=5))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    strategies.lists(
        strategies.tuples(
            strategies.integers(0, 1),  # partition
            strategies.integers(0, 40),  # published, seconds before the end
            strategies.one_of(strategies.none(), strategies.integers(-5, 60)),  # dealt with, seconds after that
            strategies.integers(1, 3),  # how far its offset is behind the last one: markers are in between
        ),
        max_size=25,
    ),
    strategies.booleans(),
)
@example([(1, 0, -1, 1), (1, 1, 0, 1)], False)  # the last moment knows what was written down after it
@example([(1, 0, -1, 1), (1, 1, 0, 1)], True)
def test_lag_of_the_past_is_that_of_the_first_event_not_dealt_with(evkit_system, past, published, in_pages):
    """Against the plain form: at each moment, look at every event."""
    past.sql("TRUNCATE evkit.outbox, evkit.publication, evkit.inbox")
    offset, events, names = [0, 0], [], iter(f"{past.now.timestamp()}-{n:04}" for n in range(100))
    for place, ago, after, gap in sorted(published, key=lambda e: -e[1]):
        offset[place] += gap
        events.append((place, offset[place], ago, None if after is None else ago - after, next(names)))
    for place, at, ago, done, name in events:
        past.sql(
            "WITH o AS (INSERT INTO evkit.outbox (id, aggregatetype, aggregateid, type, payload, created_at)"
            " VALUES (%s, 'order', 'k', 'order.placed', '{}', %s) RETURNING position)"
            " INSERT INTO evkit.publication SELECT position, %s, %s, %s FROM o",
            name, past.at(ago), place, at, past.at(ago),
        )  # fmt: skip
        if done is not None:
            past.handle("billing", name, done, written=ago)
    past.handle("billing", "long ago", 90_000)
    with pytest.MonkeyPatch.context() as patched:
        if in_pages:
            with short_pages(patched, seconds=3.3, growth=1.0):
                made = views.lag_history(evkit_system, "billing", window=past.window(30), step="1s", source="inbox")
        else:
            made = views.lag_history(evkit_system, "billing", window=past.window(30), step="1s", source="inbox")

    for row in made.to_dicts():
        mine = [e for e in events if e[0] == row["partition"]]
        began = [e[1] for e in mine if e[3] is not None]
        known = [e for e in mine if began and e[1] >= min(began)]
        ago = (past.now - row["at"]).total_seconds()
        if not began or ago > max(e[3] for e in mine if e[3] is not None):
            assert row["committed_offset"] is None, row
            continue
        waiting = [e[1] for e in known if e[3] is None or e[3] < ago]
        done = [e[1] for e in known if not waiting or e[1] < min(waiting)]
        assert row["committed_offset"] == (max(done) + 1 if done else min(began)), row
        assert row["end_offset"] == max([e[1] + 1 for e in known if e[2] >= ago], default=min(began)), row
