"""Commands as somebody types them, against the test's own database and the stack's Kafka."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from evkit.cli import app


@pytest.fixture
def streams(evkit_system, monkeypatch):
    """Runs a command against the test's servers; returns the exit code, stdout and stderr."""
    monkeypatch.setenv("EVKIT_POSTGRES_DSN", evkit_system.settings.postgres_dsn)
    monkeypatch.setenv("EVKIT_KAFKA_BOOTSTRAP_SERVERS", evkit_system.settings.bootstrap_servers)
    return typed


@pytest.fixture
def cli(streams):
    """The same; returns the exit code and what was printed."""
    return lambda *words: streams(*words)[:2]


def typed(*words):
    """What a command does that is no error of evkit's own: those are raised, as `evkit` prints them in one sentence."""
    done = CliRunner().invoke(app, words)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr
