"""Connections to a broker that break in the middle of a view: a sentence, or rows with nulls; never a wrong number."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from evkit import views
from evkit.errors import EvkitError
from evkit.local import Stack, kafka_server
from evkit.testing.faults import TcpProxy
from evkit.window import Window
from tests.integration.vanishing import (
    ASKING,
    Watched,
    filled,
    once_awake,
    outcome,
    require_honest,
    seen,
    settings_of,
    until_calm,
    watch,
)


@pytest.fixture(scope="module")
def proxied():
    """A stack with twenty events, whose broker tells clients the address of a proxy; and that proxy."""
    made = kafka_server._properties
    proxies = []

    def properties(port, *others):
        proxies.append(TcpProxy("127.0.0.1", port))
        text = made(port, *others)
        told = f"advertised.listeners=PLAINTEXT://127.0.0.1:{port}"
        assert told in text
        return text.replace(told, f"advertised.listeners=PLAINTEXT://127.0.0.1:{proxies[-1].port}")

    stack = Stack(Path(tempfile.mkdtemp(prefix="evkit-cut-")), owned=True)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kafka_server, "_properties", properties)
            info = stack.up()
        proxy = proxies[-1]
        yield filled(replace(info, kafka_bootstrap_servers=f"127.0.0.1:{proxy.port}")), proxy
    finally:
        for proxy in proxies:
            proxy.cut()
        stack.delete()


@pytest.fixture
def cut_off(proxied, monkeypatch):
    """A system, and a function that says before which of its questions the connections break."""
    stack, proxy = proxied
    system = watch(Watched(settings_of(stack)), monkeypatch)

    def before(question, *, for_good):
        def cut(n):
            if n == question:
                proxy.cut()
                if not for_good:
                    proxy.restore()

        system.questions, system.before_question = 0, cut

    yield system, before
    proxy.restore()


def test_these_are_all_views_that_ask_kafka(cut_off):
    system, _ = cut_off
    asking = set()
    for name in views.COLUMNS:
        system.questions = 0
        seen(name, system)
        if system.questions:
            asking.add(name)

    assert asking == set(ASKING)


@pytest.mark.parametrize("part", [0.3, 0.6, 0.99])
@pytest.mark.parametrize("name", ASKING)
def test_connections_that_break_for_good_in_the_middle_of_a_view_make_an_error_and_no_wrong_number(
    name, part, cut_off, caplog
):
    system, before = cut_off
    calm = until_calm(name, system)
    before(1 + int(system.questions * part), for_good=True)
    caplog.set_level(logging.WARNING)
    caplog.clear()

    found = outcome(name, lambda: seen(name, system))

    require_honest(name, found, calm, caplog)


@pytest.mark.parametrize("name", ASKING)
def test_connections_that_break_and_come_back_make_no_wrong_number_either(name, cut_off, caplog):
    system, before = cut_off
    calm = until_calm(name, system)
    before(1 + int(system.questions * 0.6), for_good=False)
    caplog.set_level(logging.WARNING)
    caplog.clear()

    found = outcome(name, lambda: seen(name, system))

    require_honest(name, found, calm, caplog)


@pytest.mark.parametrize("measure", [views.measure, views.symptoms])
def test_what_checks_and_triage_measure_is_honest_measure_by_measure(measure, cut_off, caplog):
    system, before = cut_off
    window = Window.last(timedelta(hours=1))
    calm = once_awake(lambda: measure(system, window))
    system.questions = 0
    measure(system, window)
    before(1 + int(system.questions * 0.5), for_good=True)
    caplog.set_level(logging.WARNING)
    caplog.clear()

    found = outcome(measure.__name__, lambda: measure(system, window))

    assert set(found) == set(calm)
    for name, measured in found.items():
        assert not isinstance(calm[name], Exception), (name, calm[name])
        rows = measured if isinstance(measured, Exception) else measured.to_dicts()
        require_honest(name, rows, calm[name].to_dicts(), caplog)
    assert any(isinstance(measured, EvkitError) for measured in found.values())
