"""The lab listens to this machine only, has a token that no process list shows, and asks nothing about news."""

from __future__ import annotations

import importlib.util
import socket

import pytest

from evkit.errors import MissingExtra, UsageError
from evkit.reporting import lab


def test_lab_is_for_this_machine_and_its_token_travels_by_the_environment(tmp_path):
    session = lab.session(tmp_path, browser=False, more=["--debug"])

    token = session.environment["JUPYTER_TOKEN"]
    assert len(token) == 48
    assert token in session.url
    assert not [part for part in session.command if token in part]
    assert "--ServerApp.ip=127.0.0.1" in session.command
    assert session.command[-1] == "--debug"
    assert "--no-browser" in session.command


def test_each_lab_has_a_token_of_its_own(tmp_path):
    assert lab.session(tmp_path).url != lab.session(tmp_path).url


def test_lab_opens_with_the_first_notebook(tmp_path):
    lab.prepare(tmp_path)

    assert "/lab/tree/tutorial/00_start_here.ipynb?token=" in lab.session(tmp_path).url


def test_port_that_is_taken_is_passed_over(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        assert f":{port}/" not in lab.session(tmp_path, port=port).url


def test_no_free_port_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(lab, "_PORTS", 1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UsageError, match="give another one by --port"):
            lab.session(tmp_path, port=taken.getsockname()[1])


def test_without_jupyterlab_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)

    with pytest.raises(MissingExtra, match=r"pip install 'evkit\[notebooks\]'"):
        lab.prepare(tmp_path / "mine")

    assert not (tmp_path / "mine").exists()
