"""Lists and groups of many letters read an index alone; EXPLAIN proves it on a few, --letters=1000000 times it."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta

import pytest

from evkit import dead_letters, views
from evkit.letter_states import STATES
from evkit.runtime.dead_letters import Selection
from evkit.runtime.letters import POISON_KEYS_MAX
from evkit.sql import named
from evkit.views.frame import rows_of
from evkit.window import Window
from tests.integration.runtime.letter_rows import fill

NOW = datetime.now(UTC)
FILTERS = {
    "none": Selection(),
    "group": Selection(group="group-1"),
    "fingerprint": Selection(fingerprint="rare"),
    "topic that has none": Selection(topic="nosuch"),
    "type": Selection(event_type="order.type3"),
    "type that has none": Selection(event_type="nosuch"),
    "class that has none": Selection(error_class="nosuch"),
    "key": Selection(key="key-77"),
    "time": Selection(since=NOW - timedelta(minutes=5)),
    "attempts that none had": Selection(attempts_min=100),
    "held": Selection(held=True),
    "all states": Selection(states=None),
    "purged": Selection(states=("purged",)),
    "retrying": Selection(states=("retrying",)),
}
GROUPS = {
    "group": None,
    "states": ["open"],
    "retrying": None,
    "since": NOW - timedelta(hours=1),
    "until": NOW,
    "groups_max": 100,
    "poison_keys_max": POISON_KEYS_MAX,
}


@pytest.fixture
def many(evkit_system, request):
    with evkit_system.writing(autocommit=True) as connection:
        fill(connection, request.config.getoption("--letters") or 10_000)
        yield connection


def scans(connection, query, values):
    """How the plan reads the table of letters: (kind of scan, index) in the plan's order."""
    lines = [row[0] for row in connection.execute(b"EXPLAIN " + named("dead_letters")[query], values).fetchall()]
    return [
        (found[1], found[2])
        for line in lines
        if (found := re.search(r"(\w[\w ]* Scan)(?: using (\w+))? on dead_letter", line))
    ]


def test_a_list_is_chosen_from_an_index_alone_whatever_the_filter(many):
    plans = {name: scans(many, "letters", selection.parameters(100)) for name, selection in FILTERS.items()}

    # Letters of one failure have an index of their own, and so have those on hold; which one is used, their number says.
    for name in ("fingerprint", "held"):
        assert not any("Seq Scan" in kind for kind, _ in plans.pop(name))
    for name, (chosen, *texts) in plans.items():
        assert chosen[0].removeprefix("Parallel ") == "Index Only Scan", (name, chosen, texts)
        assert chosen[1] in ("dead_letter_list", "dead_letter_groups"), (name, chosen, texts)
        assert all(how == ("Index Scan", "dead_letter_pkey") for how in texts), (name, texts)


def test_groups_are_counted_in_one_pass_over_an_index_and_nothing_is_sorted(many):
    for states in (["open"], list(STATES)):
        for group in (None, "group-1"):
            found = scans(many, "groups", GROUPS | {"group": group, "states": states})

            # Letters on hold are few, and have an index of their own.
            assert [kind for kind, index in found if index == "dead_letter_held"] == ["Index Only Scan"]
            assert all(index in ("dead_letter_groups", "dead_letter_pkey", "dead_letter_held") for _, index in found), (
                found
            )
            assert [how for how in found if how == ("Index Scan", "dead_letter_pkey")] == [
                ("Index Scan", "dead_letter_pkey")
            ] * 2


def test_a_million_letters_are_listed_and_grouped_within_a_second(many, evkit_system, request):
    """Times are printed, and judged only when --letters asked for this size: CI's machine is not a measure."""
    took = {}
    for name, selection in FILTERS.items():
        started = time.perf_counter()
        dead_letters.letters(evkit_system, selection, letters_max=100)
        took[f"list: {name}"] = time.perf_counter() - started
    for name, states in (("open", ("open",)), ("all states", STATES)):
        started = time.perf_counter()
        found = dead_letters.groups(evkit_system, states=states)
        took[f"groups: {name}"] = time.perf_counter() - started
    for name, seconds in took.items():
        print(f"{name:32} {seconds:.3f} s")

    assert len(found) == 41
    if request.config.getoption("--letters"):
        assert {name: seconds for name, seconds in took.items() if seconds > 1.0} == {}


def test_python_and_the_view_tell_the_same_of_the_groups(evkit_system):
    with evkit_system.writing(autocommit=True) as connection:
        fill(connection, 3_000, open_tenths=3)
    until = datetime.now(UTC)
    of_view = rows_of(
        views.dead_letter_groups(evkit_system, window=Window(until - timedelta(hours=1), until)), "dead_letter_groups"
    )

    of_python = dead_letters.groups(evkit_system, states=STATES, until=until)

    for row in of_python:
        del row["n_letters"]
    for row in of_python + of_view:
        del row["letters_per_minute"]  # of the moment of the question
        row["oldest_open_seconds"] = row["oldest_open_seconds"] and round(row["oldest_open_seconds"], -1)
    assert of_python == of_view
    assert sum(row["n_open"] for row in of_python) == 900
