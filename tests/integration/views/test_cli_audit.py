"""evkit audit: a table, a document or CSV, a sentence, and an exit code."""

from __future__ import annotations

import json

import pytest

from evkit import Event, Relay, outbox
from evkit.cli.audit import sentence_of
from evkit.views.audit.events import Examined
from tests.relaying import drain


@pytest.fixture
def audit(cli):
    return lambda *words: cli("audit", *words)


@pytest.fixture
def published(evkit_system, evkit_topic):
    """Three events of one key in a topic."""
    topic = evkit_topic()
    with evkit_system.writing() as connection:
        outbox.write_many(connection, [Event("a.b", "k", {}, topic=topic, id=f"e{i}") for i in range(3)])
    relay = Relay(evkit_system)
    drain(relay)
    relay.close()
    return topic


def test_a_window_without_events_says_so_and_ends_with_0(audit):
    assert audit() == (0, "no event was written in this window\n")


def test_events_that_are_all_where_they_belong_end_with_0(audit, published):
    code, out = audit("--settle", "0s")

    assert code == 0
    assert "3 events written: nothing is lost, doubled or out of order" in out
    assert "no group of evkit's reads these topics" in out


def test_what_was_found_is_listed_with_what_to_type_next_and_ends_with_1(audit, published, evkit_system):
    with evkit_system.writing() as connection:
        connection.execute("UPDATE evkit.outbox SET id = 'never' WHERE position = 2")
        connection.execute("DELETE FROM evkit.publication WHERE position = 2")

    code, out = audit()

    assert code == 1
    assert "3 events written: LOST: 1 not_published" in out
    assert "next: evkit journey never" in out
    code, out = audit("--format", "json", "--topic", published)
    found = json.loads(out)
    assert (code, found["counts"][0]["unaccounted"]) == (1, 1)
    assert (found["read_records"], found["unread_records"]) == (3, 0)
    assert [e["verdict"] for e in found["events"]] == ["not_published"]
    assert audit("--format", "csv")[1].splitlines()[1].startswith("never,a.b,k,")


def test_findings_that_are_left_out_are_told(streams, published, evkit_system, monkeypatch):
    monkeypatch.setattr("evkit.cli.audit._ROWS_MAX", 1)
    with evkit_system.writing() as connection:
        connection.execute("UPDATE evkit.outbox SET id = 'never' || position")
        connection.execute("DELETE FROM evkit.publication")

    for format in ("table", "csv", "json"):
        _, printed, said = streams("audit", "--topic", published, "--format", format)

        assert "only the worst 1 of 3 findings are listed: --topic, --group or a shorter --window" in said
    assert json.loads(printed)["events_left_out"] == 2


def test_the_sentence_has_what_is_lost_before_what_is_only_wrong():
    found = Examined(0, None)
    found.counts["t", None]["written"] = 1200
    found.verdicts["t", None].update({"published_twice": 2, "ok": 1198})
    assert sentence_of(found) == "1,200 events written: nothing is lost; found 2 published_twice"

    found.verdicts["t", "g"].update({"not_consumed": 3, "dead": 1, "pending": 5})

    assert sentence_of(found) == (
        "1,200 events written: LOST: 3 not_consumed; also 2 published_twice, 1 dead; 5 on their way"
    )


@pytest.mark.usefixtures("published")
def test_a_broker_that_is_away_ends_with_3(audit, monkeypatch):
    from evkit.errors import BrokerUnreachable

    monkeypatch.setenv("EVKIT_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")

    with pytest.raises(BrokerUnreachable) as raised:
        audit()
    assert raised.value.exit_code == 3
