"""A broker that hangs or dies in the middle of a view: a sentence, or rows with nulls; never a wrong number."""

from __future__ import annotations

import logging
from functools import partial

import pytest

from evkit.errors import EvkitError
from evkit.testing.faults import kill9, pause, resume
from tests.integration.vanishing import (
    ASKING,
    Watched,
    filled,
    outcome,
    require_honest,
    seen,
    settings_of,
    until_calm,
    watch,
)
from tests.integration.views.test_journey import FROM_KAFKA


@pytest.fixture(scope="module")
def busy(own_stack):
    return filled(own_stack)


@pytest.fixture
def watched(busy, monkeypatch):
    return watch(Watched(settings_of(busy)), monkeypatch)


@pytest.mark.parametrize("part", [0.5, 0.99])
@pytest.mark.parametrize("name", ASKING)
def test_a_broker_that_hangs_in_the_middle_of_a_view_makes_an_error_and_no_wrong_number(
    name, part, busy, watched, caplog
):
    calm = until_calm(name, watched)
    at, watched.questions = 1 + int(watched.questions * part), 0
    watched.before_question = lambda n: pause(busy.kafka_pid) if n == at else None
    caplog.set_level(logging.WARNING)
    caplog.clear()

    try:
        found = outcome(name, lambda: seen(name, watched))
    finally:
        resume(busy.kafka_pid)

    require_honest(name, found, calm, caplog)


def test_after_a_broker_was_killed_in_the_middle_of_one_view_all_say_that_it_is_away(busy, watched, caplog):
    """The last test of this module: its broker does not come back."""
    calm = {name: seen(name, watched) for name in ASKING}
    watched.questions = 0
    watched.before_question = lambda n: kill9(busy.kafka_pid) if n == 4 else None
    caplog.set_level(logging.WARNING)

    first = outcome("lag", lambda: seen("lag", watched))
    watched.before_question = lambda _: None
    others = {name: outcome(name, partial(seen, name, watched)) for name in calm}

    require_honest("lag", first, calm["lag"], caplog)
    for name, found in others.items():
        require_honest(name, found, calm[name], caplog)
        if name in FROM_KAFKA:
            assert isinstance(found, EvkitError), name
            assert "127.0.0.1" in str(found), name
