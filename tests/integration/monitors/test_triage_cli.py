"""evkit triage and evkit incident as somebody types them."""

from __future__ import annotations

import json

import pytest

from evkit import Consumer, Event, Relay, Retry, outbox, views
from evkit.errors import Refused, UnknownGroup, UnknownIncident
from evkit.testing.waiting import until


@pytest.fixture
def billing(evkit_system, evkit_topic, evkit_group):
    """A group that has handled ten events, each by `bill`."""
    topic, group = evkit_topic("order"), evkit_group("billing")

    def played(bill):
        with evkit_system.writing() as connection:
            outbox.write_many(connection, [Event("order.placed", f"k{i}", {"i": i}, topic=topic) for i in range(10)])
        with_relay = Relay(evkit_system)
        until(lambda: not with_relay.step())
        with_relay.close()
        retry = Retry(attempts=1)
        consumer = Consumer(group, [topic], system=evkit_system, retry=retry, breaker=None)
        consumer.handler("order.placed")(bill)
        while consumer.counts.total < 10:
            consumer.step(1.0)
        consumer.close()
        return group

    return played


def test_a_calm_group_is_told_to_be_calm(billing, cli):
    group = billing(lambda event, tx: None)

    code, printed = cli("triage", "--group", group)

    assert code == 0, printed
    assert "nothing is wrong" in printed


def test_a_failing_handler_is_told_with_its_likely_cause_and_the_next_command(billing, cli):
    def bill(event, tx):
        raise KeyError("total")

    group = billing(bill)

    code, printed = cli("triage", "--group", group)
    as_json = json.loads(cli("triage", "--group", group, "--format", "json")[1])
    as_csv = cli("triage", "--group", group, "--format", "csv")[1]

    assert code == 1
    assert "wrong  failing_handler" in printed
    assert "10 events of 10 keys died" in printed
    assert f"next:   evkit dlq list --group {group} --fingerprint" in printed
    assert [(c["name"], c["harm"], c["events"]) for c in as_json["causes"]] == [("failing_handler", "wrong", 10)]
    assert (as_json["unmeasured"], as_json["of_now"]) == ({}, [])
    assert as_csv.splitlines()[0] == "harm,name,subject,events,sentence,likely,next_step"


def test_without_an_audit_it_is_told_that_nobody_looked_for_lost_and_doubled_events(billing, cli):
    group = billing(lambda event, tx: None)
    told = "lost and doubled events were not looked for: add --audit, which reads the topics of the window"

    printed = cli("triage", "--group", group)[1]
    as_json = json.loads(cli("triage", "--group", group, "--format", "json")[1])
    audited = cli("triage", "--group", group, "--audit")[1]
    audited_as_json = json.loads(cli("triage", "--group", group, "--audit", "--format", "json")[1])

    assert printed.splitlines()[-1] == told
    assert as_json["not_looked_for"] == told
    assert "not looked for" not in audited
    assert audited_as_json["not_looked_for"] is None


@pytest.mark.parametrize("command", ["triage", "check"])
def test_of_a_window_that_has_ended_it_is_told_what_is_of_now(billing, streams, command):
    group = billing(lambda event, tx: None)

    *_, then = streams(command, "--group", group, "--since", "now-2h", "--until", "now-1h")
    *_, now = streams(command, "--group", group)

    assert "what waits in the outbox, held handlers and the state of dead letters are of now all the same" in then
    assert "of now" not in now


def test_a_group_that_nobody_knows_is_refused_and_not_called_calm(billing, cli):
    group = billing(lambda event, tx: None)

    with pytest.raises(UnknownGroup, match=f"did you mean '{group}'") as refused:
        cli("triage", "--group", group + "s")
    assert refused.value.exit_code == 2


def test_without_a_broker_what_the_tables_say_is_told_and_the_rest_is_named(billing, cli, monkeypatch):
    def bill(event, tx):
        raise KeyError("total")

    group = billing(bill)
    monkeypatch.setenv("EVKIT_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")

    code, printed = cli("triage", "--group", group, "--format", "json")

    assert code == 1
    document = json.loads(printed)
    assert [c["name"] for c in document["causes"]] == ["failing_handler"]
    assert set(document["unmeasured"]) == {"consumer_lag", "consumer_status", "rebalances", "offset_resets"}


def test_symptoms_are_the_same_in_pandas(billing, evkit_system):
    group = billing(lambda event, tx: None)

    polars, pandas = (views.symptoms(evkit_system, "5m", group=group, frames=f) for f in ("polars", "pandas"))

    assert polars.keys() == pandas.keys()
    assert {n: len(f) for n, f in polars.items()} == {n: len(f) for n, f in pandas.items()}


def test_incidents_are_listed_and_a_wrong_name_has_near_ones(cli):
    code, printed = cli("incident", "--format", "json")

    assert code == 0
    assert {"incident", "what happens", "triage must say"} == set(json.loads(printed)[0])
    with pytest.raises(UnknownIncident, match="did you mean 'hot_key'"):
        cli("incident", "hot-kee")


def test_an_incident_never_empties_a_folder_that_is_not_its_own(cli, tmp_path):
    kept = tmp_path / "data" / "kept"
    kept.parent.mkdir()
    kept.write_text("somebody's")

    with pytest.raises(Refused, match="something that no incident has made"):
        cli("incident", "calm", "--home", str(kept.parent))

    assert kept.read_text() == "somebody's"
