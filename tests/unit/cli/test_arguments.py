"""What is typed and cannot be meant is one sentence."""

from __future__ import annotations

import sys

import pytest

from evkit import cli


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        # As Python hands over the bytes 66 ff of a terminal with another encoding.
        (["dlq", "list", "--key", "f\udcff"], "evkit: argument 'f\\udcff' is no UTF-8 text: type it again"),
        (["dlq", "edit", "1", "--reason", "\udcff"], "evkit: argument '\\udcff' is no UTF-8 text: type it again"),
    ],
)
def test_an_argument_that_no_server_would_take_is_refused_before_one_is_asked(monkeypatch, capsys, arguments, says):
    monkeypatch.setattr(sys, "argv", ["evkit", *arguments])

    with pytest.raises(SystemExit) as ended:
        cli.main()

    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(says)
