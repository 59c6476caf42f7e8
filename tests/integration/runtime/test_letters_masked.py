"""What a policy hides is in no output of a command that prints or writes a payload; what acts on letters has all of it."""

from __future__ import annotations

import json
import re
import sys
import types

import pytest
from typer.testing import CliRunner

from evkit import Consumer, Event, Relay, Retry, dead_letters, outbox, views
from evkit.cli import app
from evkit.errors import InvalidParameter

SECRET, OTHER, TENANT = "ada.lovelace@example.com", "grace@example.com", "tenant-4711-acme"
KEY = "a key that nobody guesses"


def policies(action):
    more = {"replacement": "n/a"} if action == "replace" else {}
    return [{"field": "customer.email", "action": action, **more}, {"header": "tenant", "action": action, **more}]


@pytest.fixture
def died(evkit_system, evkit_topic, evkit_group, tmp_path, monkeypatch, request):
    """A letter whose error quotes what must not be seen, beside a good event of its type. Returns a runner of commands."""
    topic, group = evkit_topic("order"), evkit_group("billing")
    with evkit_system.writing() as connection:
        connection.execute("CREATE TABLE mailed (event_id text, address text)")
        for key, email, is_bad in (("k1", OTHER, False), ("k2", SECRET, True)):
            payload = {"customer": {"email": email, "name": "x"}, "is_bad": is_bad}
            outbox.write(connection, Event("order.placed", key, payload, topic=topic, headers={"tenant": TENANT}))
    relay = Relay(evkit_system)
    while relay.step():
        pass
    relay.close()

    def bill(event, tx):
        address = event.payload["customer"]["email"]
        tx.execute("INSERT INTO mailed VALUES (%s, %s)", (event.id, address))
        outbox.write(tx, Event("mail.sent", event.key, {"customer": {"email": address}}, topic=topic))
        if event.payload["is_bad"] and not bill.is_cured:
            raise ValueError(f"no mail to {address} of {event.headers['tenant']}")

    bill.is_cured = False
    consumer = Consumer(group, [topic], system=evkit_system, retry=Retry(attempts=1), breaker=None)
    consumer.handler("order.placed")(bill)
    consumer.handler("mail.sent")(lambda event, tx: None)
    while consumer.counts.total < 2:
        consumer.step(1.0)
    consumer.close()
    module = types.ModuleType("shop_of_masked_letters")
    module.consumer = Consumer(group, [topic], system=evkit_system, retry=Retry(attempts=1), breaker=None)
    module.consumer.handler("order.placed")(bill)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    settings = evkit_system.settings

    def system(*masking):
        lines = ["[profiles.test]", f'postgres_dsn = "{settings.postgres_dsn}"', f'masking_key = "{KEY}"']
        lines += ["[profiles.test.kafka]", f'"bootstrap.servers" = "{settings.bootstrap_servers}"']
        for policy in masking:
            lines += ["[[profiles.test.masking]]", *(f"{name} = {json.dumps(value)}" for name, value in policy.items())]
        (tmp_path / "evkit.toml").write_text("\n".join(lines))
        monkeypatch.setenv("EVKIT_CONFIG", str(tmp_path / "evkit.toml"))
        from evkit import connect

        return connect("test")

    (letter,) = dead_letters.letters(evkit_system, dead_letters.Selection(group=group))
    return types.SimpleNamespace(system=system, letter_id=letter.letter_id, group=group, topic=topic, handler=bill,
                                 dlt=evkit_topic("dlt"), shop=f"{module.__name__}:consumer", folder=tmp_path)  # fmt: skip


def run(*words, input=None):
    done = CliRunner().invoke(app, [*map(str, words)], input=input, env={"EVKIT_PROFILE": "test"})
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def commands(died):
    """Every command that prints something of a payload, in each of its formats."""
    letter = died.letter_id
    for form in ("table", "json"):
        yield ("dlq", "show", letter, "--format", form)
        yield ("dlq", "edit", letter, "--set", f'customer.email="{OTHER}"', "--dry-run", "--format", form)
        yield ("dlq", "edit", letter, "--payload", died.folder / "new.json", "--dry-run", "--format", form)
        yield ("dlq", "redrive", letter, "--try", "--app", died.shop, "--format", form)
        yield ("scan", died.topic, "--payload", "--format", form)
        yield ("scan", died.topic, "--field", "customer.email", "--header", "tenant", "--format", form)
    for form in ("jsonl", "csv"):
        yield ("dlq", "export", "--group", died.group, "--format", form)
        yield ("dlq", "export", "--group", died.group, "--format", form, "--dialect", "spring")
    for form in ("table", "json", "csv"):
        yield ("dlq", "foreign", "--topic", died.dlt, "--dialect", "spring", "--format", form)


@pytest.mark.parametrize("action", ["mask", "remove", "replace", "hash"])
def test_no_command_prints_what_a_policy_hides(died, action, evkit_stack):
    died.system(*policies(action))
    (died.folder / "new.json").write_text(json.dumps({"customer": {"email": OTHER}, "is_bad": True}))
    foreign_letter(died, evkit_stack)
    printed = {words: run(*words) for words in commands(died)}

    for words, output in printed.items():
        assert not re.search("|".join(map(re.escape, (SECRET, OTHER, TENANT))), output), words
        assert "error" not in output.lower().splitlines()[0:1], words
    shown = {"mask": "***", "replace": "n/a", "hash": "hash:", "remove": ""}[action]
    assert shown in printed["dlq", "show", died.letter_id, "--format", "table"]


def test_without_policies_they_print_it_so_that_the_test_above_looks_at_the_right_ones(died, evkit_stack):
    died.system()
    (died.folder / "new.json").write_text(json.dumps({"customer": {"email": OTHER}, "is_bad": True}))
    foreign_letter(died, evkit_stack)

    for words in commands(died):
        output = run(*words)
        assert any(text in output for text in (SECRET, OTHER, TENANT)), words


def foreign_letter(died, evkit_stack):
    """The letter's record in another framework's dead-letter topic."""
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": evkit_stack.kafka_bootstrap_servers})
    producer.produce(
        died.dlt, json.dumps({"customer": {"email": SECRET}}).encode(), b"k2",
        headers=[("tenant", TENANT.encode()), ("kafka_dlt-original-topic", died.topic.encode()),
                 ("kafka_dlt-exception-fqcn", b"java.lang.IllegalStateException"),
                 ("kafka_dlt-exception-message", f"no mail to {SECRET}".encode()),
                 ("kafka_dlt-exception-stacktrace", f"java.lang.Exception: {SECRET}\n\tat a.B.c(B.java:1)".encode())],
    )  # fmt: skip
    assert producer.flush(10) == 0


def test_a_hidden_value_that_differs_is_told_to_differ(died):
    system = died.system(*policies("mask"))

    changes = {c.path: c for c in dead_letters.story(system, died.letter_id).good.difference}

    assert (changes["customer.email"].before, changes["customer.email"].after) == ("***", "***")
    assert (changes["is_bad"].before, changes["is_bad"].after) == (False, True)


def test_an_edit_a_redrive_and_an_unmasked_export_have_the_true_payload(died, evkit_system):
    system = died.system(*policies("mask"))
    died.handler.is_cured = True

    exported = run("dlq", "export", "--group", died.group, "--unmasked", "--reason", "given back")
    plan = dead_letters.plan_edit(system, died.letter_id, settings={"customer.name": "y"})
    made = dead_letters.edit(system, plan, reason="name")
    run("dlq", "redrive", made, "--app", died.shop, "--yes")

    assert SECRET in exported
    with evkit_system.reading() as connection:
        mailed = connection.execute("SELECT array_agg(address ORDER BY address) FROM mailed").fetchone()[0]
        acts = dict(connection.execute("SELECT act, reason FROM evkit.audit").fetchall())
        told = connection.execute("SELECT string_agg(plan::text, '') FROM evkit.audit").fetchone()[0]
    assert mailed == [SECRET, OTHER]
    assert acts["dead_letters.export_unmasked"] == "given back"
    assert SECRET not in told


def test_views_tell_no_events_apart_by_what_is_hidden_but_by_its_hash(died):
    hidden, hashed = died.system(*policies("mask")), died.system(*policies("hash"))

    for ask in (
        lambda: views.impact(hidden, by="$.customer.email"),
        lambda: views.impact(hidden, by="$.customer"),
        lambda: views.differs(hidden, attributes=["$.customer.email"]),
        lambda: views.differs(hidden, attributes=["header:tenant"]),
        lambda: views.impact(hashed, by="$.customer"),
    ):
        with pytest.raises(InvalidParameter, match="is hidden by .* masking policy"):
            ask()
    values = views.impact(hashed, by="$.customer.email")["value"].to_list()
    assert all(value.startswith("hash:") for value in values if value)
    assert values
    given = []
    views.impact(hidden, by=lambda event: given.append(event["payload"]) or "x", payload=True)
    assert {p["customer"]["email"] for p in given if p} == {"***"}
