"""What a command logs: readable by a person or by a machine, and no secret in either."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from evkit.cli import logs
from evkit.cli.logs import JsonLines, Lines, LogFormat
from evkit.errors import UsageError


@pytest.fixture(autouse=True)
def secret_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("EVKIT_POSTGRES_DSN", "postgresql://ops:s3cret-pg@db:5432/orders")
    path = tmp_path / "evkit.toml"
    path.write_text('[profiles.prod.kafka]\n"bootstrap.servers" = "b:9092"\n"sasl.password" = "s3cret-kafka"\n')
    monkeypatch.setenv("EVKIT_CONFIG", str(path))


def record(message="relay leads", *args, level=logging.INFO, exc_info=None, **extra):
    return logging.getLogger("evkit.runtime.relay").makeRecord(
        "evkit.runtime.relay", level, __file__, 1, message, args, exc_info, extra=extra
    )


def in_json(made):
    line = JsonLines().format(made)
    assert "\n" not in line
    return json.loads(line)


def test_a_line_is_one_json_object_with_time_level_logger_message_and_what_was_given_beside():
    made = record("event at position %s parked", 7, position=7, topic="order", at=datetime(2013, 2, 8, tzinfo=UTC))

    found = in_json(made)

    assert list(found) == ["time", "level", "logger", "message", "position", "topic", "at"]
    assert found | {"time": ""} == {
        "time": "", "level": "INFO", "logger": "evkit.runtime.relay", "message": "event at position 7 parked",
        "position": 7, "topic": "order", "at": "2013-02-08T00:00:00Z",
    }  # fmt: skip
    assert datetime.fromisoformat(found["time"]).utcoffset() is not None


def test_of_several_processes_each_line_says_which_one_wrote_it(monkeypatch):
    monkeypatch.setattr(logs, "process", 2)

    assert Lines().format(record()).startswith("[2] ")
    assert list(in_json(record(position=7)).items())[4:] == [("process", 2), ("position", 7)]


def test_another_process_can_be_told_to_log_as_this_one_does(monkeypatch):
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)

    logs.setup(LogFormat.text, verbose=True)

    assert logs.arguments() == ["--log-format", "text", "--verbose"]


def test_a_message_of_several_lines_and_any_value_stay_one_line():
    found = in_json(record("first\nsecond", value={"path": Path("a/b"), "raw": b"\xff", "set": {1}}))

    assert found["message"] == "first\nsecond"
    assert found["value"] == {"path": "a/b", "raw": "0xff", "set": [1]}


def test_an_exception_is_told_with_its_traceback():
    try:
        raise KeyError("total")
    except KeyError:
        found = in_json(record("relay failed", exc_info=sys.exc_info()))

    assert found["exception"].startswith("Traceback")
    assert found["exception"].endswith("KeyError: 'total'")


def test_an_extra_that_is_called_like_a_field_of_ours_does_not_hide_it():
    made = record("parked", level=logging.ERROR, time="yesterday", logger=3)

    found = in_json(made)

    assert (found["logger"], found["extra_logger"], found["extra_time"]) == ("evkit.runtime.relay", 3, "yesterday")


class Told:
    def __str__(self):
        return "as s3cret-kafka says"


@pytest.mark.parametrize("formatter", [JsonLines, Lines])
def test_no_secret_of_the_settings_is_in_a_line(formatter):
    try:
        raise RuntimeError("refused: password=s3cret-pg")
    except RuntimeError:
        made = record(
            "at %s", "postgresql://ops:other@db/x", exc_info=sys.exc_info(), dsn="with s3cret-pg", deep=[{"k": Told()}]
        )

    line = formatter().format(made)

    assert "***" in line
    for secret in ("s3cret-pg", "s3cret-kafka", "other"):
        assert secret not in line


def test_without_settings_logging_goes_on(monkeypatch, tmp_path):
    monkeypatch.setenv("EVKIT_CONFIG", str(tmp_path / "missing.toml"))

    assert in_json(record())["message"] == "relay leads"


@pytest.mark.parametrize(
    ("arguments", "environment"), [(["--log-format", "json"], {}), ([], {"EVKIT_LOG_FORMAT": "json"})]
)
def test_the_option_and_the_environment_choose_json_on_stderr(arguments, environment, tmp_path):
    script = (
        "import logging, sys; from evkit.cli import app\n"
        "app(sys.argv[1:] + ['notebooks', 'list', '--format', 'json'], standalone_mode=False)\n"
        "logging.getLogger('evkit').warning('look', extra={'n': 1})\n"
        "from evkit.cli.output import say; say('a remark')"
    )

    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], env={"PATH": "", "HOME": str(tmp_path)} | environment,
        capture_output=True, text=True, check=True,
    )  # fmt: skip

    json.loads(done.stdout)
    line, remark = map(json.loads, done.stderr.splitlines())
    assert line["n"] == 1
    assert (remark["level"], remark["message"]) == ("INFO", "a remark")


def test_what_ends_a_command_is_a_line_like_the_others(tmp_path):
    script = "from evkit.cli import main; main()"
    environment = {"PATH": "", "HOME": str(tmp_path), "EVKIT_LOG_FORMAT": "json", "EVKIT_PROFILE": "nowhere"}

    done = subprocess.run(
        [sys.executable, "-c", script, "outbox", "status"], env=environment, capture_output=True, text=True, check=False
    )

    assert done.returncode == 2
    (line,) = map(json.loads, done.stderr.splitlines())
    assert line["level"] == "ERROR"
    assert line["message"].startswith("profile 'nowhere' was asked for")


def test_the_plain_form_stays_the_default(monkeypatch):
    monkeypatch.delenv("EVKIT_LOG_FORMAT", raising=False)
    chosen = []
    monkeypatch.setattr(logging, "basicConfig", lambda **given: chosen.append(given))

    logs.setup()

    assert isinstance(chosen[0]["handlers"][0].formatter, Lines)
    assert Lines().format(record()).endswith(" INFO evkit.runtime.relay: relay leads")


def test_an_unknown_format_is_refused(monkeypatch):
    monkeypatch.setenv("EVKIT_LOG_FORMAT", "xml")

    with pytest.raises(UsageError, match="EVKIT_LOG_FORMAT is 'xml': it is text or json"):
        logs.setup(None)
    assert LogFormat("json") is LogFormat.json
