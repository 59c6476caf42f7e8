"""An incident as the one on call sees it: evkit check turns critical, names what is wrong, and is calm when it is cured."""

from __future__ import annotations

import functools
import json
import os

import pytest

from evkit import Consumer, Event, Relay, Retry, Window, dead_letters, monitors, outbox, views
from evkit.monitors import Thresholds
from evkit.runtime.dead_letters import Selection
from evkit.system import System
from tests.relaying import drain

N = 60
OF_ONE_GROUP = ("lag_history", "rebalances", "offset_resets", "unread_keys")


@pytest.fixture
def shop(evkit_system, evkit_topic, evkit_group):
    """A group with a bug, two thirds of its events die of it; `shop.fixed = True` is the deploy of the fix."""

    class Shop:
        fixed = False
        topic = evkit_topic("order", partitions=2)
        group = evkit_group("billing")

    shop = Shop()
    shop.system = evkit_system

    def bill(event, tx):
        if not shop.fixed and event.payload["i"] % 3:
            raise KeyError("total")

    def consumer():
        # No breaker: with so many failures alike it would hold the handler, and the letters would come one in a minute.
        retry = Retry(attempts=2, backoff_seconds=0.001)
        made = Consumer(shop.group, [shop.topic], system=evkit_system, retry=retry, breaker=None)
        made.handler("order.placed")(bill)
        return made

    shop.consumer = consumer
    return shop


def write(shop, n=N):
    with shop.system.writing() as connection:
        outbox.write_many(connection, [Event("order.placed", f"k{i}", {"i": i}, topic=shop.topic) for i in range(n)])


def publish(shop):
    relay = Relay(shop.system)
    drain(relay)
    relay.close()


def consume(shop, n):
    """Handle so many events and leave the group, which commits their offsets."""
    consumer = shop.consumer()
    while consumer.counts.total < n:
        consumer.step(1.0)
    consumer.close()


def worst(document, monitor):
    return next(f for f in document["findings"] if f["monitor"] == monitor)


def test_check_is_critical_in_the_incident_and_calm_when_the_letters_are_redriven(shop, cli):
    write(shop)
    publish(shop)
    consume(shop, N)

    code, printed = cli("check", "--group", shop.group, "--format", "json")

    assert code == 2
    document = json.loads(printed)
    assert document["verdict"] == "critical"
    assert worst(document, "dead_letters")["severity"] == "critical"
    assert "many keys: look at the code" in worst(document, "dead_letters")["sentence"]
    assert worst(document, "error_rate")["severity"] == "critical"
    assert worst(document, "consumer_lag")["severity"] == "ok"

    shop.fixed = True
    plan = dead_letters.plan_redrive(shop.system, Selection(group=shop.group))
    assert not dead_letters.redrive(shop.system, plan, shop.consumer()).failed
    code, printed = cli("check", "--group", shop.group, "--format", "json")

    assert code == 0, printed
    document = json.loads(printed)
    assert "all of it is dealt with" in worst(document, "error_rate")["sentence"]
    assert worst(document, "dead_letters")["sentence"] == "no open dead letter; 40 letters resolved or archived"
    live = views.latency(shop.system, "10m", group=shop.group)
    assert live["n"].to_list() == [20]  # the redriven ones did not take as long as their repair


def test_archiving_with_a_note_calms_it_too(shop, cli):
    write(shop, 2)
    publish(shop)
    consume(shop, 2)
    (letter,) = dead_letters.letters(shop.system, Selection(group=shop.group))

    before, _ = cli("check", "--group", shop.group)
    dead_letters.archive(shop.system, [letter.letter_id], note="no total, told sales")
    after, printed = cli("check", "--group", shop.group)

    assert (before, after) == (1, 0), printed


def test_a_relay_that_is_held_and_a_group_that_stands_still_are_told_apart(shop):
    strict = Thresholds(relay_seconds_warning=0.0005, relay_seconds_critical=0.001, lag_seconds_warning=0.0005,
                        lag_seconds_critical=0.001)  # fmt: skip

    def verdict():
        judged = monitors.judge(views.measure(shop.system, "10m", group=shop.group), strict)
        return {f.monitor: f for f in judged.findings}

    shop.fixed = True
    write(shop, 20)  # some in each partition: a group has no lag where it has committed nothing
    publish(shop)
    consume(shop, 20)
    write(shop, 5)

    held = verdict()
    publish(shop)
    still = verdict()

    assert held["relay_lag"].severity == "critical"
    assert held["relay_lag"].evidence["pending"] == 5
    assert held["consumer_lag"].sentence.endswith("has read everything")
    assert still["relay_lag"].evidence["pending"] == 0
    assert still["consumer_lag"].severity == "critical"
    assert still["consumer_lag"].evidence["lag_events"] == 5
    assert still["latency"].evidence["pending_n"] == 5


def test_the_numbers_of_the_views_add_up(shop):
    write(shop)
    publish(shop)
    consume(shop, N)
    window = Window.last("5m")

    rate = views.publish_rate(shop.system, window)
    errors = views.error_rate(shop.system, window, group=shop.group)
    river = views.throughput(shop.system, window, group=shop.group)
    letters = views.dead_letter_count(shop.system, window, group=shop.group)
    latency = views.latency(shop.system, window, group=shop.group)
    lag = views.lag(shop.system, shop.group)

    assert rate["written"].sum() == rate["published"].sum() == N
    assert river["published"].sum() == river["dealt_with"].sum() == N
    assert river["backlog"].to_list()[-1] == 0
    assert letters["open"].to_list() == errors["dead"].to_list() == [40]
    assert errors["attempts"].sum() - errors["failures"].sum() == latency["n"].sum() == 20
    assert errors["failures"].sum() == views.errors(shop.system, window).height == 80
    assert lag["committed_offset"].sum() == N
    assert lag["lag_events"].sum() == 0


def test_a_broker_that_is_away_makes_check_unknown_and_says_which_address(cli, monkeypatch, tmp_path):
    (tmp_path / "evkit.toml").write_text("[profiles.impatient]\nkafka_timeout_seconds = 1.0\n")
    monkeypatch.setenv("EVKIT_CONFIG", str(tmp_path / "evkit.toml"))
    monkeypatch.setenv("EVKIT_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")

    code, printed = cli("check")

    assert code == 3
    assert "no Kafka broker answers at 127.0.0.1:1" in " ".join(printed.split())


@pytest.mark.parametrize("words", [("--thresholds", "no.toml"), ("--window", "soon"), ("--until", "now")])
def test_what_keeps_check_from_running_is_unknown_never_ok_or_critical(cli, words):
    code, printed = cli("check", *words)

    assert (code, printed) == (3, "")


def test_a_role_that_may_not_read_a_table_leaves_the_rest_judged(evkit_system, reader):
    measured = views.measure(reader)

    assert "permission denied" in str(measured["dead_letters"])
    verdict = monitors.judge(measured)
    assert {f.monitor for f in verdict.findings if f.severity == "unknown"} >= {"dead_letters"}
    assert "relay_lag" not in {f.monitor for f in verdict.findings if f.severity == "unknown"}


@pytest.fixture
def reader(evkit_system):
    """The system as a role sees it that may read everything but the dead letters."""
    settings = evkit_system.settings
    role = f"reader_{os.urandom(3).hex()}"
    with evkit_system.writing() as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN")
        connection.execute(f"GRANT USAGE ON SCHEMA evkit TO {role}")
        connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA evkit TO {role}")
        connection.execute(f"REVOKE SELECT ON evkit.dead_letter FROM {role}")
    dsn = f"{settings.postgres_dsn}{'&' if '?' in settings.postgres_dsn else '?'}options=-c%20role%3D{role}"
    yield System(settings.model_copy(update={"postgres_dsn": dsn}))
    with evkit_system.writing() as connection:
        connection.execute(f"DROP OWNED BY {role}")
        connection.execute(f"DROP ROLE {role}")


def test_view_prints_what_python_returns(shop, cli):
    write(shop, 4)
    publish(shop)
    consume(shop, 4)

    code, printed = cli("view", "dead-letters", "--group", shop.group, "--format", "json")

    assert code == 0
    frame = views.dead_letters(shop.system, shop.group)
    assert [row["event_id"] for row in json.loads(printed)] == frame["event_id"].to_list()
    assert list(json.loads(printed)[0]) == frame.columns
    code, printed = cli("journey", frame["event_id"][0], "--format", "csv")
    stages = [line.split(",")[2] for line in printed.splitlines()[1:]]
    assert sorted(stages[1:3]) == ["appended", "published"]  # by two clocks, a moment apart
    assert [stages[0], *stages[3:]] == ["written", "received", "attempt_failed", "attempt_failed", "parked"]
    assert [row["impossible"] for row in json.loads(cli("journey", frame["event_id"][0], "-f", "json")[1])] == [
        None
    ] * 7
    code, printed = cli("monitors", "--group", shop.group, "--format", "json")
    assert [row["monitor"] for row in json.loads(printed)] == list(monitors.MONITORS)


def measured_once(view):
    """A view that answers each time what it answered first: how it is printed is no matter of when it was asked."""
    answers = []

    @functools.wraps(view)
    def answer(*asked, **named):
        if not answers:
            answers.append(view(*asked, **named))
        return answers[0]

    return answer


def test_every_view_can_be_printed_in_every_format(shop, cli, monkeypatch):
    write(shop, 4)
    publish(shop)
    consume(shop, 4)

    for name in views.COLUMNS:
        if name != "journey":
            monkeypatch.setattr(views, name, measured_once(getattr(views, name)))
            for format in ("table", "json", "csv"):
                asked = ("--group", shop.group) if name in OF_ONE_GROUP else ()
                asked += ("--topic", shop.topic) if name.startswith("scan") or name == "appended" else ()
                code, printed = cli("view", name, *asked, "--format", format)
                assert code == 0
                assert printed


def test_a_wrong_view_or_option_is_a_sentence(cli):
    from evkit.errors import UnknownView, UsageError

    with pytest.raises(UnknownView, match="did you mean 'latency'"):
        cli("view", "latncy")
    with pytest.raises(UsageError, match="view publish_rate has no --group"):
        cli("view", "publish_rate", "--group", "x")
    with pytest.raises(UsageError, match="add --event ID"):
        cli("view", "journey")
