"""Looking at dead letters, and acting on them: filters, the whole story, hold, note, purge, export; each act on record."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime, timedelta

import pytest

from evkit import Event, Retry, dead_letters, kafka, views
from evkit.errors import MissingExtra, RedriveRefused, UnknownLetter, UsageError
from evkit.runtime import export as exporting
from evkit.runtime.dead_letters import Selection
from evkit.views.frame import rows_of


@pytest.fixture
def shop(evkit_system, evkit_topic, new_consumer, published, consumed):
    """A group that handled 'order-2', and gave up on 'order-1' (two events wait behind it), 'refund-3' and on bytes."""
    topic = evkit_topic()
    consumer = new_consumer(topic, retry=Retry(attempts=2, backoff_seconds=0.001), code_version="7")

    @consumer.handler("order.placed", "refund.paid")
    def bill(event, tx):
        if "total" not in event.payload:
            raise KeyError("total")
        tx.execute("SELECT 1")

    published(
        Event("order.placed", "order-2", {"total": 5, "currency": "EUR"}, topic=topic),
        Event("order.placed", "order-1", {"total_cents": 500, "currency": 7}, topic=topic, correlation_id="c-1"),
        Event("order.placed", "order-1", {"total": 6}, topic=topic),
        Event("order.placed", "order-1", {"total": 7}, topic=topic),
        Event("refund.paid", "refund-3", {"note": "=cmd()"}, topic=topic),
    )
    producer = kafka.producer(evkit_system.settings)
    producer.produce(
        topic, b"\xff\x1b[2J\x00{", "raw-\x1b[31m", headers=[("ce_id", b"raw"), ("ce_type", b"order.placed")]
    )
    producer.flush()
    consumed(consumer, 6)
    consumer.topic = topic
    return consumer


def letter_of(system, key, **more):
    (found,) = dead_letters.letters(system, Selection(key=key, **more))
    return found.letter_id


@pytest.mark.usefixtures("shop")
def test_each_filter_keeps_the_letters_that_it_names_and_no_other(evkit_system, shop):
    now = datetime.now(UTC)
    keys = {
        "none": (Selection(), {"order-1", "refund-3", "raw-\x1b[31m"}),
        "group": (Selection(group=shop.group), {"order-1", "refund-3", "raw-\x1b[31m"}),
        "type": (Selection(event_type="refund.paid"), {"refund-3"}),
        "key": (Selection(key="order-1"), {"order-1"}),
        "class": (Selection(error_class="KeyError"), {"order-1", "refund-3"}),
        "text of the error, in another case": (Selection(text="KEYERROR"), {"order-1", "refund-3"}),
        "text of the payload": (Selection(text="total_cents"), {"order-1"}),
        "text that is no text": (Selection(text="\x00"), set()),
        "since": (Selection(since=now + timedelta(hours=1)), set()),
        "until": (Selection(until=now + timedelta(hours=1)), {"order-1", "refund-3", "raw-\x1b[31m"}),
        "attempts": (Selection(attempts_min=2), {"order-1", "refund-3"}),
        "attempts at most": (Selection(attempts_max=1), {"raw-\x1b[31m"}),
        "state": (Selection(states=("resolved",)), set()),
        "topic": (Selection(topic="other"), set()),
        "held": (Selection(held=True), set()),
        "of all": (Selection(event_type="order.placed", key="refund-3"), set()),
    }

    found = {
        name: {letter.key for letter in dead_letters.letters(evkit_system, selection)}
        for name, (selection, _) in keys.items()
    }

    assert found == {name: expected for name, (_, expected) in keys.items()}
    for selection, expected in keys.values():
        assert len(dead_letters.ids_of(evkit_system, selection)) == len(expected)


def test_a_letter_that_came_back_after_another_was_resolved_makes_its_failure_a_regression(
    evkit_system, shop, published, consumed
):
    (group,) = [g for g in dead_letters.groups(evkit_system) if g["error_class"] == "KeyError"]
    assert (group["n_letters"], group["n_keys"], group["spread"], group["regressed"]) == (2, 2, "poison", False)
    assert (group["first_code_version"], group["last_code_version"], group["letters_per_minute"]) == ("7", "7", 0.4)
    plan = dead_letters.plan_edit(evkit_system, letter_of(evkit_system, "refund-3"), payload=b'{"total": 1}')
    dead_letters.edit(evkit_system, plan, reason="x")
    (group,) = [g for g in dead_letters.groups(evkit_system) if g["error_class"] == "KeyError"]
    assert not group["regressed"]

    published(Event("order.placed", "order-9", {}, topic=shop.topic))
    consumed(shop, 7)

    (group,) = [g for g in dead_letters.groups(evkit_system) if g["error_class"] == "KeyError"]
    assert group["regressed"]


def test_the_story_of_a_letter_has_what_waits_behind_it_and_what_its_payload_lacks(evkit_system, shop):
    letter_id = letter_of(evkit_system, "order-1")

    story = dead_letters.story(evkit_system, letter_id)

    assert (story.behind, [e["event_type"] for e in story.first_behind]) == (2, ["order.placed"] * 2)
    assert story.good.payload == {"total": 5, "currency": "EUR"}
    assert [(c.kind, c.path, c.before, c.after) for c in story.good.difference] == [
        ("removed", "total", 5, None), ("type", "currency", "EUR", 7), ("added", "total_cents", None, 500),
    ]  # fmt: skip
    assert story.next_steps == (f"evkit dlq redrive {letter_id} --app MODULE:CONSUMER",)
    assert story.problem is None


def test_the_last_good_payload_is_read_from_the_topic_when_the_outbox_has_it_no_more(evkit_system, shop):
    with evkit_system.writing() as connection:
        connection.execute("DELETE FROM evkit.outbox")
    letter_id = letter_of(evkit_system, "order-1")

    assert dead_letters.story(evkit_system, letter_id).good.payload == {"total": 5, "currency": "EUR"}

    with evkit_system.writing() as connection:
        connection.execute('UPDATE evkit.inbox SET "offset" = 999 WHERE outcome = %s', ("handled",))
    good = dead_letters.story(evkit_system, letter_id).good
    assert (good.payload, good.reason) == (None, "it is no longer in the outbox, nor in the topic")


def test_a_payload_that_is_no_text_is_listed_and_told_with_the_reason(evkit_system, shop):
    letter_id = letter_of(evkit_system, "raw-\x1b[31m")

    story = dead_letters.story(evkit_system, letter_id)

    assert story.letter.raw_value == b"\xff\x1b[2J\x00{"
    assert story.problem is not None
    assert story.good.difference is None


def test_no_redrive_takes_a_letter_on_hold_until_it_is_off_again(evkit_system, shop):
    held, other = letter_of(evkit_system, "order-1"), letter_of(evkit_system, "refund-3")
    before = dead_letters.plan_redrive(evkit_system, Selection(error_class="KeyError"))

    assert dead_letters.hold(evkit_system, [held], reason="ask sales first") == [held]
    assert dead_letters.hold(evkit_system, [held], reason="again") == []

    assert dead_letters.plan_redrive(evkit_system, Selection(error_class="KeyError")).ids == (other,)
    with pytest.raises(RedriveRefused, match=rf"{held} is on hold since .* \(ask sales first\): `evkit dlq unhold"):
        dead_letters.plan_redrive(evkit_system, Selection(ids=(held,)))
    result = dead_letters.redrive(evkit_system, before, shop, stop_at_failure=False)
    assert (result.skipped, result.failed, result.released) == ([held], [other], 0)
    assert dead_letters.unhold(evkit_system, [held, other]) == [held]
    assert dead_letters.plan_redrive(evkit_system, Selection(ids=(held,))).ids == (held,)


def test_note_ticket_and_assignee_are_written_each_alone_and_taken_away_by_nothing(evkit_system, shop):
    letter_id = letter_of(evkit_system, "order-1")

    dead_letters.annotate(evkit_system, [letter_id], note="old app", ticket="OPS-7")
    dead_letters.annotate(evkit_system, [letter_id], assignee="ana", ticket="")

    letter = dead_letters.show(evkit_system, letter_id)
    assert (letter.note, letter.ticket, letter.assignee) == ("old app", None, "ana")
    with pytest.raises(UsageError):
        dead_letters.annotate(evkit_system, [letter_id])
    with pytest.raises(UnknownLetter, match="999999"):
        dead_letters.annotate(evkit_system, [letter_id, 999999], note="x")


def test_only_what_was_purged_long_ago_is_deleted_and_no_letter_that_a_key_waits_for(
    evkit_system, shop, rows, published, consumed
):
    published(Event("other", "", {}, topic=shop.topic))  # no key
    shop.handler("other")(lambda event, tx: 1 / 0)
    consumed(shop, 7)
    waited_for = letter_of(evkit_system, "order-1")
    old, fresh = letter_of(evkit_system, "raw-\x1b[31m"), letter_of(evkit_system, "")
    chosen = [waited_for, old, fresh]
    dead_letters.purge(evkit_system, chosen, reason="test data")
    with evkit_system.writing() as connection:
        connection.execute(
            "UPDATE evkit.dead_letter SET state_changed_at = state_changed_at - interval '8 days' WHERE letter_id <> %s",
            (fresh,),
        )

    plan = dead_letters.plan_expiry(evkit_system)

    assert (plan.ids, plan.kept) == ((old,), (waited_for,))
    dead_letters.restore(evkit_system, [old])
    assert dead_letters.delete_expired(evkit_system, plan) == 0  # it was restored after the plan was made
    dead_letters.purge(evkit_system, [old], reason="after all")
    assert dead_letters.delete_expired(evkit_system, dead_letters.plan_expiry(evkit_system, timedelta(0))) == 2
    assert {*chosen} & {*dead_letters.ids_of(evkit_system, Selection(states=None))} == {waited_for}
    with pytest.raises(UnknownLetter):
        dead_letters.restore(evkit_system, [old])
    assert rows("SELECT result ->> 'deleted' FROM evkit.audit WHERE act = 'dead_letters.delete' ORDER BY 1") == [
        ("0",),
        ("2",),
    ]


def test_every_act_is_a_row_of_the_audit_table_with_who_why_plan_and_result(evkit_system, shop, monkeypatch):
    monkeypatch.setenv("EVKIT_ACTOR", "ana")
    letter_id = letter_of(evkit_system, "order-1")
    dead_letters.hold(evkit_system, [letter_id], reason="r1")
    dead_letters.unhold(evkit_system, [letter_id], reason="r2")
    dead_letters.annotate(evkit_system, [letter_id], note="n")
    plan = dead_letters.plan_edit(evkit_system, letter_id, settings={"total": 5})
    new_id = dead_letters.edit(evkit_system, plan, reason="r3")

    acts = rows_of(views.acts(evkit_system), "acts")

    assert [(a["actor"], a["act"], a["target"], a["reason"]) for a in reversed(acts)] == [
        ("ana", "dead_letters.hold", str(letter_id), "r1"),
        ("ana", "dead_letters.unhold", str(letter_id), "r2"),
        ("ana", "dead_letters.annotate", str(letter_id), None),
        ("ana", "dead_letters.edit", str(letter_id), "r3"),
    ]
    assert json.loads(acts[0]["plan"])["difference"] == [{"path": "total", "kind": "added", "before": None, "after": 5}]
    assert json.loads(acts[0]["result"])["letter_id"] == new_id
    assert all(json.loads(a["result"]) for a in acts)


def test_jsonl_csv_and_parquet_hold_the_same_letters_with_their_records(evkit_system, shop, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    for format in exporting.FORMATS:
        assert dead_letters.export(evkit_system, Selection(), format, tmp_path / f"letters.{format}") == 3

    of_jsonl = [json.loads(line) for line in (tmp_path / "letters.jsonl").read_text().splitlines()]
    with (tmp_path / "letters.csv").open(newline="") as file:
        of_csv = list(csv.DictReader(file))
    of_parquet = pq.read_table(tmp_path / "letters.parquet").to_pylist()
    assert (
        [r["letter_id"] for r in of_jsonl]
        == [r["letter_id"] for r in of_parquet]
        == [int(r["letter_id"]) for r in of_csv]
    )
    for rows in (of_jsonl, of_csv, of_parquet):
        assert tuple(rows[0]) == exporting.COLUMNS
        assert [(r["record_value"], r["record_value_encoding"]) for r in rows] == [
            ('{"total_cents":500,"currency":7}', "text"), ('{"note":"=cmd()"}', "text"), ("/xtbMkoAew==", "base64"),
        ]  # fmt: skip
        assert ["ce_correlationid", "c-1", "text"] in json.loads(rows[0]["headers"])
    assert of_parquet[0]["failed_at"].tzinfo is not None
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".part")] == []


def test_an_export_is_there_whole_or_not_at_all_and_writes_over_nothing_unasked(
    evkit_system, shop, tmp_path, monkeypatch
):
    out = tmp_path / "letters.jsonl"
    out.write_text("before")
    with pytest.raises(UsageError, match="is there already: add --force"):
        dead_letters.export(evkit_system, Selection(), "jsonl", out)

    def breaks(letter):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        dead_letters.export(evkit_system, Selection(), "jsonl", out, force=True, rows=breaks)
    assert out.read_text() == "before"
    assert list(tmp_path.iterdir()) == [out]
    with pytest.raises(UsageError, match="no folder"):
        dead_letters.export(evkit_system, Selection(), "jsonl", tmp_path / "no" / "x.jsonl")
    with pytest.raises(UsageError, match="Parquet is no text"):
        dead_letters.export(evkit_system, Selection(), "parquet", io.StringIO())
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"evkit\[views\]"):
        dead_letters.export(evkit_system, Selection(), "parquet", tmp_path / "x.parquet")
    assert dead_letters.export(evkit_system, Selection(), "jsonl", out, force=True) == 3


def test_an_export_holds_one_fetch_of_letters_in_memory_and_not_all(evkit_system, monkeypatch, tmp_path):
    from evkit.runtime import letters
    from tests.integration.runtime.letter_rows import fill

    with evkit_system.writing(autocommit=True) as connection:
        fill(connection, 500)
    monkeypatch.setattr(letters, "_FETCH_LETTERS", 10)
    out, seen = io.StringIO(), []

    def watched(letter):
        # What was written before the last letter was read.
        seen.append(out.tell() > 0)
        return exporting.row_of(letter)

    assert dead_letters.export(evkit_system, Selection(), "jsonl", out, rows=watched) == 500
    assert seen == [False] + [True] * 499
