"""evkit journey by key and business id, and `evkit view` of who was hurt: the options reach the views."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from evkit import Event, Relay, outbox
from evkit.cli import app
from evkit.errors import InvalidParameter, UsageError
from evkit.testing.waiting import until
from tests.integration.views.groups import commit
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


@pytest.fixture
def one_lost(evkit_system, evkit_topic, evkit_group, streams):
    """Events of three customers, one of which its group went past and did not handle."""
    topic, group = evkit_topic("order"), evkit_group("billing")
    with evkit_system.writing() as connection:
        outbox.write_many(connection, [Event("order.placed", f"k{i}", {"customer": i}, topic=topic) for i in range(3)])
    relay = Relay(evkit_system)
    until(lambda: not relay.step())
    relay.close()
    with evkit_system.writing() as connection:
        # Long enough ago to be no longer on their way.
        connection.execute("UPDATE evkit.outbox SET created_at = created_at - interval '1 minute'")
        connection.execute("UPDATE evkit.publication SET published_at = published_at - interval '1 minute'")
        connection.execute(
            'INSERT INTO evkit.inbox (consumer_group, event_id, event_type, topic, partition, "offset", key, created_at,'
            ' received_at) SELECT %s, o.id, o.type, o.topic, p.partition, p."offset", o.aggregateid, o.created_at, now()'
            " FROM evkit.outbox o JOIN evkit.publication p USING (position) WHERE o.aggregateid <> 'k1'",
            (group,),
        )
    commit(evkit_system, group, topic, 3)
    return lambda *more: streams(
        "view", "impact", "--topic", topic, "--by", "$.customer", "--late", "5m", "--format", "json", *more
    )


def test_lost_events_are_counted_when_an_audit_is_asked_for_and_else_it_is_said_that_nobody_looked(one_lost):
    code, printed, said = one_lost()
    code_audited, audited, said_audited = one_lost("--audit")

    assert (code, code_audited) == (0, 0)
    assert [(r["value"], r["n_lost"], r["n_pending"]) for r in json.loads(printed)] == [("1", None, 1)]
    assert "lost events are not looked for, and n_lost is not known: add --audit" in said
    assert [(r["value"], r["n_lost"], r["n_pending"]) for r in json.loads(audited)] == [("1", 1, 0)]
    assert "not looked for" not in said_audited


def test_an_audit_belongs_to_impact_alone(printed):
    with pytest.raises(UsageError, match="view latency has no --audit"):
        printed("view", "latency", "--audit")
