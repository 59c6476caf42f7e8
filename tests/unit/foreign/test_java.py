"""Java's stack traces, as their text has them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from evkit.foreign import ForeignLetter, java
from evkit.kafka import Record

TRACE = """org.springframework.kafka.listener.ListenerExecutionFailedException: Listener failed
\tat org.springframework.kafka.listener.KafkaMessageListenerContainer.run(KafkaMessageListenerContainer.java:1)
\tSuppressed: org.springframework.kafka.listener.ListenerExecutionFailedException: Restored Stack Trace
\t\tat org.springframework.kafka.listener.Adapter.invoke(Adapter.java:2)
Caused by: orders.BillingException: cannot bill
order 17
\tat orders.Billing.lambda$bill$0(Billing.java:13)
\tat orders.Billing$$SpringCGLIB$$0.bill(<generated>)
\tat java.base/java.util.ArrayList.forEach(Unknown Source)
\tat app//orders.Desk.run(Desk.java:3)
\t... 12 more
Caused by: java.lang.NullPointerException
\tat orders.Prices.of(Prices.java:99)
\t... 14 more
"""


def a_letter(stack):
    """A letter with a stack trace and nothing else."""
    found = Record("dlq", 0, 0, None, None, [], None, "none", None, datetime(2026, 3, 1, tzinfo=UTC))
    return ForeignLetter("spring", found, None, [], stack_trace=stack)


def test_chain_has_every_cause_with_its_whole_message_and_the_services_own_frames():
    wrapper, raised, root = java.chain(TRACE)

    assert (wrapper.message, wrapper.own_frames) == ("Listener failed", [])
    assert str(raised) == "orders.BillingException: cannot bill\norder 17"
    assert raised.own_frames == ["orders.Billing.lambda$", "orders.Billing.bill", "orders.Desk.run"]
    assert str(root) == "java.lang.NullPointerException"
    assert java.raised([wrapper, raised, root]) is raised
    assert java.root([wrapper, raised, root]) is root


def test_wrapper_that_nothing_has_caused_is_what_was_raised():
    (only,) = java.chain("org.apache.kafka.common.errors.SerializationException: not 4 bytes\n\tat a.B.c(D.java:1)")

    assert java.raised([only]) is only


def test_line_of_a_message_that_looks_like_a_cause_is_a_line_of_the_message():
    trace = (
        "a.B: first\nCaused by: nobody knows\nlast\n\tat a.B.c(D.java:1)\nCaused by: Unnamed: it\n\tat a.B.d(D.java:2)"
    )

    assert [str(cause) for cause in java.chain(trace)] == ["a.B: first\nCaused by: nobody knows\nlast", "Unnamed: it"]


def test_text_that_is_no_stack_trace_of_java_has_no_chain():
    for text in (
        "",
        'Traceback (most recent call last):\n  File "a.py"',
        "no name: at all",
        "\n",
        "\tat a.B.c(D.java)",
    ):
        assert java.chain(text) == []


def test_deploy_that_moves_lines_and_numbers_proxies_anew_keeps_the_fingerprint():
    moved = (
        TRACE.replace("java:13", "java:14").replace("lambda$bill$0", "lambda$bill$1").replace("CGLIB$$0", "CGLIB$$7")
    )
    moved = moved.replace("order 17", "order 18")

    assert a_letter(moved).fingerprint == a_letter(TRACE).fingerprint


def test_other_code_and_another_cause_are_other_fingerprints():
    prints = {
        a_letter(TRACE).fingerprint,
        a_letter(TRACE.replace("orders.Prices.of", "orders.Prices.for")).fingerprint,
        a_letter(TRACE.replace("NullPointerException", "ArithmeticException")).fingerprint,
    }

    assert len(prints) == 3


def test_letters_without_a_stack_are_equal_when_their_messages_are_but_for_numbers_and_names():
    def said(message, handler="billing"):
        return replace(a_letter(None), error_message=message, handler=handler).fingerprint

    assert said("cannot bill order 17 of 'north'") == said("cannot bill order 18 of 'south'")
    assert said("cannot bill order 17") != said("cannot ship order 17")
    assert said("x") != said("x", handler="shipping")
