"""What is kept of an exception, and which failures are equal."""

from __future__ import annotations

import json

from evkit.runtime.failure import Failure, storable_json


def fail(message, cause=None):
    try:
        if cause is None:
            raise ValueError(message)
        try:
            raise cause
        except Exception as inner:
            raise ValueError(message) from inner
    except ValueError as error:
        return Failure.of(error)


def fail_elsewhere(message):
    try:
        raise ValueError(message)
    except ValueError as error:
        return Failure.of(error)


def test_same_failure_with_other_values_has_the_same_fingerprint():
    assert fail("order 17 is unknown").fingerprint == fail("order 18 is unknown").fingerprint


def test_failure_in_another_function_or_of_another_cause_is_another():
    prints = {
        fail("x").fingerprint,
        fail_elsewhere("x").fingerprint,
        fail("x", cause=KeyError("k")).fingerprint,
        fail("x", cause=OSError("k")).fingerprint,
    }

    assert len(prints) == 4


def test_without_a_frame_of_the_service_the_message_tells_and_its_numbers_do_not():
    one, two, other = (Failure.of(ValueError(m)) for m in ("row 1 of 'a'", "row 2 of 'b'", "no connection"))

    assert one.fingerprint == two.fingerprint != other.fingerprint


def test_whatever_an_exception_says_can_be_stored():
    class Hostile(Exception):
        def __str__(self):
            raise RuntimeError("no")

    assert "cannot be read" in Failure.of(Hostile()).error_message
    stored = Failure.of(ValueError("nul \x00 and \ud800"))
    stored.error_message.encode("utf-8")
    assert "\x00" not in stored.error_message
    assert len(Failure.of(ValueError("x" * 100_000)).error_message) == 4000


def test_a_document_of_whatever_a_payload_holds_can_be_stored():
    stored = storable_json({"nul \x00": ["\ud800", {"b": (float("inf"), 1.5, None, True)}]})

    assert stored == {"nul \\x00": ["\\ud800", {"b": ["inf", 1.5, None, True]}]}
    json.dumps(stored, ensure_ascii=False, allow_nan=False).encode("utf-8")


def test_endless_chain_ends():
    a, b = ValueError("a"), ValueError("b")
    a.__cause__, b.__cause__ = b, a

    assert Failure.of(a).error_class == "ValueError"
