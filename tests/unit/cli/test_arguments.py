"""What is typed and cannot be meant is refused before any server is asked."""

from __future__ import annotations

import sys

import pytest

from evkit import cli

MORE_THAN_POSTGRESQL_COUNTS = str(10**20)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        # As Python hands over the bytes 66 ff of a terminal with another encoding.
        (["dlq", "list", "--key", "f\udcff"], "evkit: argument 'f\\udcff' is no UTF-8 text: type it again"),
        (["dlq", "edit", "1", "--reason", "\udcff"], "evkit: argument '\\udcff' is no UTF-8 text: type it again"),
        (["dlq", "list", "--limit", MORE_THAN_POSTGRESQL_COUNTS], "Invalid value for '--limit'"),
        (["dlq", "list", "--attempts", MORE_THAN_POSTGRESQL_COUNTS], "Invalid value for '--attempts'"),
        (["dlq", "groups", "--limit", MORE_THAN_POSTGRESQL_COUNTS], "Invalid value for '--limit'"),
        (["dlq", "redrives", "--limit", MORE_THAN_POSTGRESQL_COUNTS], "Invalid value for '--limit'"),
    ],
)
def test_an_argument_that_no_server_would_take_is_refused(monkeypatch, capsys, arguments, says):
    monkeypatch.setattr(sys, "argv", ["evkit", *arguments])
    monkeypatch.setenv("EVKIT_POSTGRES_DSN", "postgresql://127.0.0.1:1/nothing")

    with pytest.raises(SystemExit) as ended:
        cli.main()

    assert ended.value.code == 2
    assert says in capsys.readouterr().err
