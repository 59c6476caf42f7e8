"""A view that shows fewer rows than there are says so: in the log, and at the terminal on stderr."""

from __future__ import annotations

import functools
import inspect
import logging

import pytest
from typer.testing import CliRunner

from evkit import kafka, views
from evkit.cli import app
from tests.integration.views.rows import deal, fail, letter, write

# What of a view is asked so that it has several rows.
CUT = {
    "acts": {}, "annotations": {}, "audit": {"topic": "?", "every": True}, "dead_letters": {}, "differs": {"noise": True},
    "errors": {}, "impact": {}, "journey": {"key": "k"}, "latency_events": {}, "outbox": {}, "scan": {"topic": "?"},
    "scan_coverage": {"topic": "?"},
}  # fmt: skip


@pytest.fixture
def topic(past, evkit_system, evkit_topic):
    """A topic, and three of everything."""
    topic = evkit_topic("order")
    producer = kafka.producer(evkit_system.settings)
    for n in range(3):
        producer.produce(topic, b"{}", "k", headers={"ce_id": f"e{n}".encode(), "ce_type": b"order.placed"})
        write(past, f"e{n}", 100 + n, topic=topic, published=99, offset=n)
        deal(past, "billing", f"e{n}", 90, created=100 + n, topic=topic, offset=n)
        fail(past, "billing", f"e{n % 2}", 95, attempt=n + 1, topic=topic, offset=n % 2)
        for key in ("k1", "k2"):
            write(past, f"{key}-{n}", 80, topic="refund", key=key)
        fail(past, "billing", f"k1-{n}", 50, topic="refund", key="k1")
        fail(past, "billing", f"k2-{n}", 50, topic="refund", key="k2")
        letter(past, "billing", f"k1-{n}", 50, topic="refund", key="k1")
        past.sql("INSERT INTO evkit.audit (actor, act, target, plan) VALUES ('ada', 'x', 'y', '{}')")
        past.sql("INSERT INTO evkit.annotation (kind, at, text, actor, source) VALUES ('note', %s, 'x', 'ada', 'cli')",
                 past.at(10 + n))  # fmt: skip
    assert producer.flush(60) == 0
    return topic


def asked(name, topic):
    return CUT[name] | ({"topic": topic} if "topic" in CUT[name] else {})


def test_these_are_all_views_that_cut_rows():
    assert set(CUT) == {n for n in views.COLUMNS if "rows_max" in inspect.signature(getattr(views, n)).parameters}


@pytest.mark.parametrize("name", CUT)
def test_a_view_that_leaves_rows_out_warns_and_one_that_shows_all_does_not(name, topic, evkit_system, caplog):
    view = getattr(views, name)
    whole = 3 if name == "scan_coverage" else view(evkit_system, **asked(name, topic)).height
    caplog.clear()

    view(evkit_system, **asked(name, topic), rows_max=whole)
    at_the_limit = warnings(caplog)
    view(evkit_system, **asked(name, topic), rows_max=1)

    assert whole > 1
    assert at_the_limit == []
    (told,) = warnings(caplog)
    assert told.startswith(f"{name.removesuffix('_coverage')}: ")


def warnings(caplog):
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    # The log of offsets is shared: whether it was compacted, or others' transactions left holes in it, is chance.
    return [text for text in told if "compacted away" not in text]


@pytest.mark.parametrize("name", CUT)
def test_what_a_view_warns_of_is_told_at_the_terminal(name, topic, evkit_system, monkeypatch, caplog):
    view, given = getattr(views, name), asked(name, topic)
    view(evkit_system, **given, rows_max=1)
    (told,) = warnings(caplog)

    @functools.wraps(view)
    def short(system, **options):
        return view(system, **given | options, rows_max=1)

    monkeypatch.setattr(views, name, short)
    monkeypatch.setattr(logging.root, "handlers", [])  # pytest's; `evkit` has its own then
    monkeypatch.setenv("EVKIT_POSTGRES_DSN", evkit_system.settings.postgres_dsn)
    monkeypatch.setenv("EVKIT_KAFKA_BOOTSTRAP_SERVERS", evkit_system.settings.bootstrap_servers)
    options = [f"--{option}={given[option]}" for option in ("topic", "key") if option in given]

    done = CliRunner().invoke(app, ["view", name, *options, "--format", "json"])

    assert done.exit_code == 0, done.exception
    assert told in done.stderr
    assert told not in done.stdout
