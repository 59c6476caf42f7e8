"""Nothing that an error says of a hidden value, in whatever form, is shown; where it happened always is."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError, field_validator

from evkit.error_texts import HIDDEN, HIDDEN_STACK, hides_errors, message_of, places_of, quoted
from evkit.masking import Policy
from evkit.runtime.failure import Failure

SECRET = "ada.lovelace@example.com"
EMAIL = Policy(topic="order*", field="customer.email")

# What handlers make of a value before they put it into an error.
FORMS = [
    str,
    repr,
    str.upper,
    lambda v: v[:9] + "…" + v[-9:],
    lambda v: v[::-1],
    lambda v: base64.b64encode(v.encode()).decode(),
    lambda v: f"first line\n{v}: second line\n  {v}\n    {v}",
    lambda v: f'x\n  File "{v}", line 1\n    {v}\n',
    lambda v: f"{v}: {v}",
]


def record(**fields):
    return json.dumps({"customer": fields}).encode()


def failed(text, *, from_none=False):
    def handler():
        try:
            json.loads("{" + text)
        except ValueError as error:
            raise LookupError(text) from (None if from_none else error)

    try:
        handler()
    except LookupError as error:
        error.add_note(text)
        return Failure.of(error)


@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\r"), min_size=9), st.sampled_from(FORMS), st.booleans()
)
def test_no_form_of_a_hidden_value_is_left_of_message_and_stack(word, form, from_none):
    value = f"§{word}§"
    text = form(value)
    failure = failed(text, from_none=from_none)

    said = quoted(record(email=value), (), [EMAIL])
    stack = said.stack(failure.stack_trace)

    assert said.message(failure.error_message) == HIDDEN
    # To the letter what it is for any other value: so it tells nothing of this one.
    other = failed("something else", from_none=from_none)
    assert stack == quoted(record(email="other"), (), [EMAIL]).stack(other.stack_trace)


def test_places_code_and_classes_of_a_stack_stay():
    kept = places_of(failed(SECRET).stack_trace).split("\n")

    assert kept[0] == HIDDEN_STACK
    assert kept[-1] == "LookupError: ***"
    assert "json.decoder.JSONDecodeError: ***" in kept
    assert "    raise LookupError(text) from (None if from_none else error)" in kept
    assert sum(line.strip().startswith("File ") for line in kept) >= 4


def test_an_exception_group_a_syntax_error_and_an_endless_recursion_say_nothing_either():
    def grouped():
        raise ExceptionGroup(SECRET, [ValueError(SECRET), ExceptionGroup("x", [KeyError(SECRET)])])

    def compiled():
        compile(f"'{SECRET}' 1", f"<{SECRET}>", "exec")

    def recursive(n=0):
        if n > 50:
            raise ValueError(SECRET)
        recursive(n + 1)

    for function in (grouped, compiled, recursive):
        with pytest.raises((ExceptionGroup, SyntaxError, ValueError)) as raised:
            function()
        stack = places_of(Failure.of(raised.value).stack_trace)
        assert SECRET not in stack
        assert f"in {function.__name__}" in stack


def test_what_pydantic_says_of_an_input_is_hidden():
    class Customer(BaseModel):
        email: str

        @field_validator("email")
        @classmethod
        def _local(cls, value):
            raise ValueError("no local part")

    with pytest.raises(ValidationError) as raised:
        Customer(email=SECRET + "x" * 60)
    failure = Failure.of(raised.value)
    said = quoted(record(email=SECRET + "x" * 60), (), [EMAIL])

    assert SECRET[:9] in failure.error_message, "the test is about nothing else"
    assert said.message(failure.error_message) == HIDDEN
    assert SECRET[:9] not in said.stack(failure.stack_trace)


def test_of_a_java_stack_places_and_classes_stay():
    stack = (
        f"org.acme.Failed: no mail to {SECRET}\r\nand {SECRET}: x\r\n\tat org.acme.Mail.send(Mail.java:12)\r\n"
        f"\tat java.base/java.lang.Thread.run(Thread.java:840)\r\nCaused by: java.lang.IllegalStateException: {SECRET}\r\n"
        "\tat org.acme.Mail$Inner.<init>(Mail.java:3)\r\n\t... 2 more\r\n"
    )

    assert places_of(stack).split("\n") == [
        HIDDEN_STACK,
        "org.acme.Failed: ***",
        "\tat org.acme.Mail.send(Mail.java:12)",
        "\tat java.base/java.lang.Thread.run(Thread.java:840)",
        "Caused by: java.lang.IllegalStateException: ***",
        "\tat org.acme.Mail$Inner.<init>(Mail.java:3)",
    ]
    assert places_of(f"goroutine 1: {SECRET}\nmain.main()") == HIDDEN_STACK


@pytest.mark.parametrize(
    ("value", "headers", "is_hidden"),
    [
        (record(email=SECRET), (), True),
        (record(email=None), (), True),
        (record(email=7), (), True),
        (record(name="x"), (), False),
        (b'{"customer": {"email": "a"}, "customer": {"name": "x"}}', (), True),
        (b"\xff no JSON", (), True),
        (None, (), False),
        (record(name="x"), [("tenant", b"acme")], True),
        (record(name="x"), [("tenant", None)], False),
    ],
)
def test_errors_of_a_record_are_hidden_where_something_of_it_is_or_nobody_knows(value, headers, is_hidden):
    under = [EMAIL, Policy(header="tenant")]

    assert quoted(value, headers, under).is_hidden is is_hidden


def test_the_error_of_another_payload_is_hidden_whatever_this_one_has():
    assert quoted(record(name="x"), (), [EMAIL], is_own=False).is_hidden
    assert not quoted(record(email=SECRET), (), [], is_own=False).is_hidden


def test_a_policy_may_take_out_the_value_alone_or_leave_errors_as_they_are():
    alone, shown = EMAIL.model_copy(update={"errors": "replace"}), EMAIL.model_copy(update={"errors": "show"})
    text = f"no mail to {SECRET}, attempt 2"

    assert quoted(record(email=SECRET), (), [alone]).message(text) == "no mail to ***, attempt 2"
    assert quoted(record(email=SECRET), (), [shown]).message(text) == text
    assert quoted(record(email=SECRET), (), [shown, EMAIL]).message(text) == HIDDEN
    assert quoted(b"\xff", (), [alone]).message(text) == HIDDEN, "nobody can say what to take out"
    assert [hides_errors([p], "order", "x") for p in (EMAIL, alone, shown)] == [True, True, False]


def test_without_its_record_an_error_is_hidden_where_a_policy_may_be_about_the_event():
    by_type = Policy(topic="order", event_type="order.placed", field="a")

    assert message_of("x", [by_type], "order", "order.placed") == HIDDEN
    assert message_of("x", [by_type], "order", "order.paid") == "x"
    assert message_of("x", [by_type], "order", "(unknown)") == HIDDEN, (
        "a record that is no event is under all of its topic"
    )
    assert message_of("x", [by_type], "order", None) == HIDDEN
    assert message_of("x", [by_type], None, None) == HIDDEN
    assert message_of("x", [by_type], "payment", "order.placed") == "x"
    assert message_of(None, [by_type], "order", None) is None
    assert message_of("x", (), None, None) == "x"
