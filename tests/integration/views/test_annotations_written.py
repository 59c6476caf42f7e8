"""What people write down of a time is kept, changed with a trace, and names windows."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evkit import annotation, views
from evkit.errors import AnnotationRefused, InvalidParameter, UnknownAnnotation, UnknownIncident, UsageError
from evkit.runtime.annotation import KINDS
from evkit.window import Window

START = datetime(2013, 2, 8, 14, tzinfo=UTC)


@pytest.fixture(autouse=True)
def actor(monkeypatch):
    monkeypatch.setenv("EVKIT_ACTOR", "ada")


def acts(system):
    return [(a["act"], a["target"]) for a in views.acts(system).sort("acted_at").to_dicts()]


def test_a_deploy_hook_needs_no_terminal_and_leaves_an_audit_row(evkit_system, streams):
    code, printed, _ = streams(
        "annotate", "deploy", "--version", "1.4.2", "--at", "now-5m", "--group", "billing", "-f", "json"
    )

    assert code == 0
    (found,) = annotation.stored(evkit_system)
    assert (found.kind, found.version, found.group, found.text) == ("deploy", "1.4.2", "billing", "deploy of 1.4.2")
    assert (found.actor, found.source, found.until) == ("ada", "cli", None)
    assert 299 < (datetime.now(UTC) - found.at).total_seconds() < 400
    (row,) = json.loads(printed)
    assert row["annotation_id"] == found.annotation_id
    assert acts(evkit_system) == [("annotation.add", f"deploy {found.annotation_id}")]


@pytest.mark.parametrize("kind", ["note", "config", "broker"])
def test_every_kind_is_written_by_a_command_of_its_name(kind, evkit_system, streams):
    streams("annotate", kind, "doubled the partitions", "--topic", "orders", "--at", "2013-02-08T14:00Z", "--until",
        "2013-02-08T14:10Z")  # fmt: skip

    (found,) = annotation.stored(evkit_system, kind)
    assert (found.text, found.topic, found.at) == ("doubled the partitions", "orders", START)
    assert found.until == START + timedelta(minutes=10)


def test_a_dry_run_prints_and_writes_nothing(evkit_system, streams):
    code, printed, said = streams("annotate", "note", "x", "--dry-run", "--format", "json")

    assert (code, json.loads(printed)[0]["annotation_id"]) == (0, None)
    assert "nothing was written" in said
    assert annotation.stored(evkit_system) == []
    assert acts(evkit_system) == []


def test_changing_and_removing_ask_and_keep_what_was_said(evkit_system, streams):
    made = annotation.add(evkit_system, "note", "wrng", at=START)
    number = str(made.annotation_id)

    with pytest.raises(UsageError, match="add --yes"):
        streams("annotate", "edit", number, "--text", "right")
    with pytest.raises(UsageError, match="add --yes"):
        streams("annotate", "remove", number)
    assert streams("annotate", "edit", number, "--text", "right", "--dry-run")[0] == 0
    assert annotation.stored(evkit_system) == [made]

    streams("annotate", "edit", number, "--text", "right", "--at", "2013-02-08T13:00Z", "--yes", "--reason", "typo")
    (found,) = annotation.stored(evkit_system)
    assert (found.text, found.at) == ("right", START - timedelta(hours=1))
    streams("annotate", "remove", number, "--yes")
    assert annotation.stored(evkit_system) == []

    rows = views.acts(evkit_system).sort("acted_at").to_dicts()
    assert [r["act"] for r in rows] == ["annotation.add", "annotation.edit", "annotation.remove"]
    assert json.loads(rows[1]["plan"])["before"]["text"] == "wrng"
    assert rows[1]["reason"] == "typo"
    assert json.loads(rows[2]["plan"])["text"] == "right"


def test_an_incident_is_a_window_everywhere_and_open_until_it_is_closed(evkit_system, past, streams):
    past.fail("billing", "before", 7300)
    past.fail("billing", "within", 3600)
    past.fail("billing", "after", 60)
    streams("annotate", "incident", "INC-12", "--since", past.at(7200).isoformat())

    still_open = views.errors(evkit_system, "incident:INC-12")
    streams("annotate", "close", "INC-12", "--until", past.at(1800).isoformat())
    closed = views.errors(evkit_system, window=" incident:INC-12 ")
    _, printed, _ = streams("view", "errors", "--window", "incident:INC-12", "--format", "json")

    assert still_open["event_id"].to_list() == ["after", "within"]
    assert closed["event_id"].to_list() == ["within"]
    assert [row["event_id"] for row in json.loads(printed)] == ["within"]
    assert views.frame.window_of("incident:INC-12", evkit_system) == Window(past.at(7200), past.at(1800))
    assert acts(evkit_system)[-1][0] == "annotation.close"


def test_an_incident_can_be_reopened_and_renamed(evkit_system, streams):
    made = annotation.add(evkit_system, "incident", name="INC-1", at=START, until=START + timedelta(hours=1))

    streams("annotate", "edit", str(made.annotation_id), "--reopen", "--name", "INC-2", "--yes")

    found = annotation.incident(evkit_system, "INC-2")
    assert found.is_open
    assert views.frame.window_of("incident:INC-2", evkit_system).end > datetime.now(UTC) - timedelta(minutes=1)


def test_names_of_incidents_are_unique_and_unknown_ones_have_near_matches(evkit_system, streams):
    annotation.add(evkit_system, "incident", name="INC-12", at=START)
    other = annotation.add(evkit_system, "incident", name="flood", at=START)

    with pytest.raises(AnnotationRefused, match="is there already: edit or close it"):
        streams("annotate", "incident", "INC-12")
    with pytest.raises(AnnotationRefused, match="take another name"):
        annotation.edit(evkit_system, other.annotation_id, name="INC-12")
    with pytest.raises(UnknownIncident, match="did you mean 'INC-12'"):
        views.error_rate(evkit_system, "incident:INC-21")
    code, _, said = streams("check", "--window", "incident:INC12")
    assert (code, "did you mean 'INC-12'" in said) == (3, True)
    with pytest.raises(UnknownAnnotation, match="annotation '999' is not known here"):
        annotation.remove(evkit_system, 999)
    assert len(annotation.stored(evkit_system)) == 2


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"kind": "deplyo", "text": "x"}, "did you mean 'deploy'"),
        ({"kind": "note", "text": "  "}, "needs a text"),
        ({"kind": "deploy"}, "needs a text"),
        ({"kind": "note", "text": "x" * 2001}, "2,001 characters is too long"),
        ({"kind": "note", "text": "a\x00b"}, "has a NUL in it"),
        ({"kind": "note", "text": "x", "at": "yesterday"}, "is no time"),
        ({"kind": "note", "text": "x", "at": START, "until": START}, "must be after its start"),
        ({"kind": "incident"}, "needs a name"),
        ({"kind": "note", "text": "x", "name": "INC"}, "nothing else has one"),
        ({"kind": "incident", "name": "INC", "at": "now+1h"}, "cannot begin in the future"),
    ],
)
def test_what_cannot_be_kept_is_refused_in_a_sentence_before_anything_is_opened(given, sentence):
    with pytest.raises(InvalidParameter, match=sentence):
        annotation.prepared(**given)


@given(st.sampled_from(KINDS), st.text(min_size=1, max_size=200), st.integers(-(10**6), 10**6), st.integers(1, 10**6))
def test_what_is_prepared_is_what_was_given(kind, text, ago, length):
    if not text.strip() or "\x00" in text:
        return
    at = START + timedelta(seconds=ago)
    name = "INC-1" if kind == "incident" else None

    made = annotation.prepared(kind, text, at=at, until=at + timedelta(seconds=length), name=name)

    assert (made.kind, made.text, made.at, made.name) == (kind, text.strip(), at, name)
    assert (made.until - made.at).total_seconds() == length
