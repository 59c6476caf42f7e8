"""What a policy hides is in no output of a command that prints or writes a payload; what acts on letters has all of it."""

from __future__ import annotations

import io
import json
import re
import sys
import types
from datetime import timedelta

import polars as pl
import pytest
from typer.testing import CliRunner

from evkit import Consumer, Event, Relay, Retry, dead_letters, outbox, views
from evkit.cli import app
from evkit.error_texts import HIDDEN
from evkit.errors import InvalidParameter
from evkit.window import Window
from tests.relaying import drain

SECRET, OTHER, TENANT = "ada.lovelace@example.com", "grace@example.com", "tenant-4711-acme"
MADE_OF_IT = "ADA.LOVELACE"
SEEN = (SECRET, OTHER, TENANT, MADE_OF_IT)
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
    drain(relay)
    relay.close()

    def bill(event, tx):
        address = event.payload["customer"]["email"]
        tx.execute("INSERT INTO mailed VALUES (%s, %s)", (event.id, address))
        outbox.write(tx, Event("mail.sent", event.key, {"customer": {"email": address}}, topic=topic))
        if event.payload["is_bad"] and not bill.is_cured:
            raise ValueError(f"no mail to {address} ({address.upper()[:12]}…) of {event.headers['tenant']}")

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
    redriven = dead_letters.redrive(
        evkit_system, dead_letters.plan_redrive(evkit_system, dead_letters.Selection(group=group)), module.consumer
    )
    assert redriven.failed == [letter.letter_id]
    with evkit_system.writing() as connection:
        failed = (group, "bill", letter.fingerprint, letter.error_class, letter.error_message)
        connection.execute(
            "INSERT INTO evkit.breaker (consumer_group, handler, state, fingerprint, error_class, error_message, keys,"
            " probe_at) VALUES (%s, %s, 'open', %s, %s, %s, 9, now())",
            failed,
        )  # fmt: skip
        connection.execute(
            "INSERT INTO evkit.replay_run (replay_id, consumer_group, topics, from_time, dedupe, generation, ranges, actor)"
            " VALUES ('replay-1', %s, %s, now(), 'dry', 0, '[]', 'ada')", (group, [topic]),
        )  # fmt: skip
        connection.execute(
            "INSERT INTO evkit.replay_failure VALUES ('replay-1', %s, 1, %s, %s, 'bill', %s, %s, 0, 1)",
            (letter.fingerprint, letter.error_class, letter.error_message, letter.event_id, topic),
        )
    return types.SimpleNamespace(system=system, letter_id=letter.letter_id, event_id=letter.event_id,
                                 redrive_id=redriven.redrive_id, group=group, topic=topic, handler=bill,
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


def errors(died):
    """Every command that prints what an error says, without its payload."""
    for form in ("table", "json"):
        yield ("dlq", "redrives", died.redrive_id, "--format", form)
        yield ("replay", "status", "replay-1", "--format", form)
        for name in ("list", "groups", "parked"):
            yield ("dlq", name, "--format", form)
        for name in ("errors", "dead_letters", "dead_letter_groups", "breakers"):
            yield ("view", name, "--wide", "--format", form)
        yield ("journey", died.event_id, "--wide", "--format", form)
        yield ("breaker", "list", "--format", form)
    yield ("triage", "--group", died.group, "--format", "json")


def test_no_list_prints_what_an_error_quotes_of_a_hidden_value(died):
    died.system()
    told = {words: run(*words) for words in errors(died)}
    died.system({"field": "customer.email", "topic": died.topic}, {"header": "tenant", "event_type": "order.*"})
    hidden = {words: run(*words) for words in errors(died)}

    for words, output in told.items():
        assert any(text in output for text in SEEN), ("the test looks at the wrong ones", words)
        assert not any(text in hidden[words] for text in SEEN), words
        assert "ValueError" in hidden[words], "the class stays"
    assert "by a masking policy" in hidden["dlq", "list", "--format", "json"]


@pytest.mark.parametrize("action", ["mask", "remove", "replace", "hash"])
def test_no_command_prints_what_a_policy_hides(died, action, evkit_stack):
    died.system(*policies(action))
    (died.folder / "new.json").write_text(json.dumps({"customer": {"email": OTHER}, "is_bad": True}))
    foreign_letter(died, evkit_stack)
    printed = {words: run(*words) for words in commands(died)}

    for words, output in printed.items():
        assert not re.search("|".join(map(re.escape, SEEN)), output), words
        assert "error" not in output.lower().splitlines()[0:1], words
    shown = {"mask": "***", "replace": "n/a", "hash": "hash:", "remove": ""}[action]
    assert shown in printed["dlq", "show", died.letter_id, "--format", "table"]


def test_without_policies_they_print_it_so_that_the_test_above_looks_at_the_right_ones(died, evkit_stack):
    died.system()
    (died.folder / "new.json").write_text(json.dumps({"customer": {"email": OTHER}, "is_bad": True}))
    foreign_letter(died, evkit_stack)

    for words in commands(died):
        output = run(*words)
        assert any(text in output for text in SEEN), words


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
    assert producer.flush(60) == 0


def test_where_something_is_hidden_an_error_says_so_and_keeps_class_and_places(died):
    system = died.system(*policies("mask"))

    (row,) = views.dead_letters(system, payload=True).to_dicts()
    (other,) = views.dead_letters(died.system({"field": "not.there"}), payload=True).to_dicts()

    assert (row["error_message"], row["error_class"]) == (HIDDEN, "ValueError")
    assert "in bill\n" in row["stack_trace"]
    assert row["stack_trace"].endswith("ValueError: ***\n"[:-1])
    assert SECRET in other["error_message"], "nothing of this letter is hidden: its error is shown"
    assert row["fingerprint"] == other["fingerprint"]
    (kept,) = dead_letters.groups(system, died.group)
    assert kept["error_message"] == HIDDEN
    assert kept.keys() == dead_letters.groups(died.system(), died.group)[0].keys()


def test_no_frozen_file_quotes_what_a_policy_hides(died):
    from evkit.freeze import take

    for words, is_masked in ((policies("mask"), True), ([], False)):
        system, folder = died.system(*words), died.folder / f"evidence-{is_masked}"
        take.run(system, take.plan(system, Window.last(timedelta(hours=1)), folder))
        text = " ".join(
            str(pl.read_parquet(folder / "postgres" / f"{name}.parquet").to_dicts())
            for name in ("dead_letter", "attempt", "breaker", "replay_failure", "redrive_run", "audit")
        )
        assert any(part in text for part in SEEN) is not is_masked


def test_an_edited_letter_has_the_error_of_the_payload_before_and_it_stays_hidden(died):
    system = died.system(*policies("mask"))
    plan = dead_letters.plan_edit(system, died.letter_id, payload=b'{"is_bad": true}')

    made = dead_letters.edit(system, plan, reason="no customer")

    assert dead_letters.story(system, made).letter.error_message == HIDDEN
    (row,) = views.dead_letters(system, state="open", payload=True).to_dicts()
    assert (row["letter_id"], row["error_message"]) == (made, HIDDEN)


@pytest.mark.parametrize("action", ["mask", "hash"])
def test_no_letter_and_no_event_is_found_by_what_is_hidden_of_it(died, action):
    hidden = died.system({"field": "customer.email", "action": action, "topic": died.topic})

    for path in ("$.customer.email=" + SECRET, '$."customer"=x', "$.customer.email.x=1"):
        with pytest.raises(InvalidParameter, match="hidden by the masking policy of field 'customer.email'"):
            views.journey(hidden, business_id=path)
    searching = dead_letters.Selection(group=died.group, text=MADE_OF_IT)
    for search in (
        lambda: dead_letters.letters(hidden, searching),
        lambda: dead_letters.ids_of(hidden, searching),
        lambda: dead_letters.plan_redrive(hidden, searching),
        lambda: run("dlq", "list", "--text", MADE_OF_IT),
        lambda: dead_letters.export(hidden, searching, "jsonl", io.StringIO()),
    ):
        with pytest.raises(InvalidParameter, match="cannot be searched for a text: the masking policy of field"):
            search()
    assert views.journey(hidden, business_id="$.is_bad=true").height > 0
    elsewhere = dead_letters.Selection(topic="another", text=MADE_OF_IT)
    assert dead_letters.letters(hidden, elsewhere) == []
    unmasked = io.StringIO()
    assert dead_letters.export(hidden, searching, "jsonl", unmasked, unmasked=True, reason="asked for") == 1


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
