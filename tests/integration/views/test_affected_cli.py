"""evkit journey by key and business id, and `evkit view` of who was hurt: the options reach the views."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from evkit.cli import app
from evkit.errors import InvalidParameter, UsageError
from tests.integration.views.rows import deal, fail, write


@pytest.fixture
def printed(evkit_system, monkeypatch, past):
    """Two events of one key, of two customers; the second failed and waits. Runs a command, returns its JSON."""
    monkeypatch.setenv("EVKIT_POSTGRES_DSN", evkit_system.settings.postgres_dsn)
    monkeypatch.setenv("EVKIT_KAFKA_BOOTSTRAP_SERVERS", evkit_system.settings.bootstrap_servers)
    write(past, "e1", 100, key="4711", payload={"customer": 1}, published=99)
    deal(past, "billing", "e1", 98, created=100, key="4711")
    write(past, "e2", 90, key="4711", payload={"customer": 2}, published=89, correlation_id="e1", causation_id="e1")
    fail(past, "billing", "e2", 88, key="4711")

    def run(*words):
        done = CliRunner().invoke(app, [*words, "--format", "json"])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return json.loads(done.stdout)

    return run


def test_a_journey_is_asked_by_key_business_id_or_path(printed):
    by_key = printed("journey", "--key", "4711")

    assert {row["event_id"] for row in by_key} == {"e1", "e2"}
    assert printed("journey", "--business-id", "e1") == by_key
    assert {row["event_id"] for row in printed("view", "journey", "--business-id", "$.customer=2")} == {"e2"}
    with pytest.raises(UsageError, match="add --event ID, --key or --business-id"):
        printed("journey")
    with pytest.raises(InvalidParameter, match="give event_id, key or business_id"):
        printed("journey", "e1", "--key", "4711")


def test_views_of_who_was_hurt_take_their_options(printed):
    [row] = printed("view", "impact", "--by", "$.customer", "--late", "30s", "--topic", "order", "--group", "billing")

    assert (row["dimension"], row["value"], row["n_late"], row["n_failed"], row["n_pending"]) == (
        "$.customer",
        "2",
        1,
        1,
        1,
    )
    assert [r["key"] for r in printed("view", "hot-keys", "--of", "failed")] == ["4711"]
    assert {r["event_id"] for r in printed("view", "latency-events", "--by", "written")} == {"e1", "e2"}
    assert {r["by"] for r in printed("view", "latency-over-time", "--by", "processed")} == {"processed"}
    assert [r["n"] for r in printed("view", "latency", "--by", "written")] == [1]
    assert printed("view", "differs", "--selection", "late", "--attribute", "key", "--attribute", "$.customer") == []
    with pytest.raises(UsageError, match="view impact has no --attribute"):
        printed("view", "impact", "--attribute", "key")
