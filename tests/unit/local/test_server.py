"""Ports of the local servers."""

from __future__ import annotations

from evkit.local import server


def test_no_two_ports_of_a_server_are_the_same(monkeypatch):
    """The system is free to give a port again that nobody has taken yet."""
    given = iter([4000, 4000, 4000, 4001, 4001, 4002])
    monkeypatch.setattr(server, "free_port", lambda preferred=None: next(given))

    assert server.free_ports([None, None, None]) == [4000, 4001, 4002]


def test_ports_that_were_had_before_are_asked_for_first(monkeypatch):
    monkeypatch.setattr(server, "free_port", lambda preferred=None: preferred or 5000)

    assert server.free_ports([4000, None]) == [4000, 5000]
    assert server.free_ports([4000, 4000]) == [4000, 5000]
