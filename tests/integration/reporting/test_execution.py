"""A report is done when every cell ran and the last one left a summary; anything else is unknown, and says why."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from evkit import reporting
from evkit.errors import InvalidParameter, UnknownNotebook, UsageError
from evkit.reporting import execution, kernel

SECRET = "ge'heim<1>"


def files(path):
    return sorted(p.name for p in path.iterdir())


def test_notebook_runs_on_this_interpreter_with_its_parameters(away, a_notebook):
    """Whatever kernelspec the notebook names: one of the same name may be of another environment."""
    path = a_notebook("import sys\nprint(sys.executable, n, report.system)")

    run = reporting.run(path, system=away, n="41")

    assert run.error is None
    assert files(run.path) == ["report.html", "report.ipynb", "summary.json"]
    printed = json.dumps(nbformat.read(run.path / "report.ipynb", 4))
    assert sys.executable in printed
    assert "41 <System 'away'" in printed
    assert run.summary.parameters == {"n": 41}
    assert run.exit_code == 3  # nothing was judged, so nothing is known


@pytest.mark.parametrize(
    ("cell", "sentence"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import sys; sys.exit(0)", "a cell ended the notebook with sys.exit: the cells after it did not run"),
        ("import sys; sys.exit(3)", "a cell ended the notebook with sys.exit(3): the cells after it did not run"),
        (
            "from evkit.errors import UnknownGroup; raise UnknownGroup('bilings', ['billing'])",
            "consumer group 'bilings' is not known here; did you mean 'billing'?",
        ),
        (
            "import os; os._exit(0)",
            "the kernel died in the middle of a cell (out of memory, or killed): its last words are in log.txt",
        ),
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
            "the kernel died in the middle of a cell (out of memory, or killed): its last words are in log.txt",
        ),
    ],
    ids=["raises", "exit-0", "exit-3", "evkit-error", "dies", "killed"],
)
def test_broken_notebook_is_unknown_and_kept_readable(away, a_notebook, cell, sentence):
    path = a_notebook("print('came so far')", cell, "print('never')")

    run = reporting.run(path, system=away)

    assert run.error == sentence
    assert (run.verdict, run.exit_code) == ("unknown", 3)
    assert run.path.name.endswith("-failed")
    assert files(run.path) == ["log.txt", "report.html", "report.ipynb", "summary.json"]
    page = (run.path / "report.html").read_text()
    assert "came so far" in page
    assert "UNKNOWN" in page
    assert reporting.Summary.read(run.path).error == sentence


def test_cell_that_runs_too_long_is_given_up(away, a_notebook):
    path = a_notebook("import time; time.sleep(600)")

    run = reporting.run(path, system=away, cell_seconds_max=1.0)

    assert run.error == "a cell ran for more than 1 s and was given up: take a shorter window, or a longer time"


def test_notebook_without_a_summary_is_no_report(away, a_notebook):
    run = reporting.run(a_notebook(ending=False), system=away)

    assert run.error == "the notebook ran to its end and left no summary: its last cell must call report.finish()"
    assert run.exit_code == 3


@pytest.mark.parametrize(
    ("name", "given", "refused"),
    [
        ("health", {"sinse": "now"}, InvalidParameter),
        ("health", {"since": "soon"}, InvalidParameter),
        ("redrive_and_replay", {"dry_run": "flase"}, InvalidParameter),
        ("helth", {}, UnknownNotebook),
    ],
)
def test_bad_input_is_refused_before_a_kernel_starts(away, monkeypatch, name, given, refused):
    monkeypatch.setattr(kernel, "running", lambda *_: pytest.fail("a kernel was started"))

    with pytest.raises(refused):
        reporting.run(name, system=away, **given)

    assert not Path("reports").exists()


def test_no_secret_is_left_in_any_file(away, a_notebook):
    """Printed, raised, in an output of its own, written past the cells: grep finds none of it."""
    path = a_notebook(
        "print(report.system.settings.postgres_dsn, report.system.settings.kafka)",
        "report.system.settings.postgres_dsn",
        "import os; os.write(2, repr(report.system.settings.kafka).encode()); print(dict(os.environ))",
        "import json; print({'x': json.dumps(report.system.settings.kafka)})",
        "raise ValueError(report.system.settings.secrets(), report.system.settings.postgres_dsn)",
    )

    run = reporting.run(path, system=away)

    assert run.error
    for file in run.path.iterdir():
        text = file.read_text()
        for form in (SECRET, "ge%27heim", "ge\\'heim", "ge&#x27;heim", "ge&#39;heim", "heim&lt;1", "ge\\\\'heim"):
            assert form not in text, file.name
    assert "***" in (run.path / "report.ipynb").read_text()


def test_servers_that_are_away_make_a_report_that_is_unknown(away):
    """When a system is broken a report is needed most: it comes to its end, and says what it could not see."""
    run = reporting.run("health", system=away)

    assert run.error is None
    assert run.exit_code == 3
    assert {m.severity for m in run.summary.monitors} == {"unknown"}
    assert len(run.summary.monitors) == 6
    assert {u.what for u in run.summary.unmeasured} >= {"lag", "publish_rate", "latency_over_time", "acts"}
    assert run.summary.charts == []
    assert "PostgreSQL does not answer at 127.0.0.1:1/evkit" in (run.path / "report.html").read_text()


def test_second_report_compares_itself_with_the_first(away, a_notebook):
    path = a_notebook(
        "report.judge([])",
        parameters="previous: str | None = None  # report before",
    )
    beginning = nbformat.read(path, 4)
    beginning.cells[3].source = "report = reporting.begin(previous=previous)"
    nbformat.write(beginning, path)

    first, second = (reporting.run(path, system=away) for _ in range(2))

    assert first.summary.compared_with is None
    assert second.summary.parameters["previous"] == str(first.path)
    assert second.summary.compared_with["sentence"].startswith("unknown → unknown")


def test_two_reports_of_one_second_lie_beside_each_other(tmp_path):
    now = execution.datetime(2026, 2, 8, 14, 0, 0, tzinfo=execution.UTC)
    names = []
    for failed in (False, False, True):
        growing = tmp_path / ".running-1"
        growing.mkdir()
        names.append(execution._settle(growing, now, failed=failed).name)

    assert names == ["20260208T140000Z", "20260208T140000Z-2", "20260208T140000Z-failed"]
    assert [p.name for p in reporting.runs(tmp_path)] == ["20260208T140000Z-2", "20260208T140000Z"]


def test_what_a_killed_run_left_is_swept_and_a_living_one_is_not(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead, living = tmp_path / f".running-{ended.pid}-x", tmp_path / f".running-{os.getpid()}-x"
    dead.mkdir()
    living.mkdir()

    execution._sweep(tmp_path)

    assert (dead.exists(), living.exists()) == (False, True)


def test_folder_that_cannot_be_written_is_refused_with_its_path(away, tmp_path):
    (tmp_path / "reports").write_text("")

    with pytest.raises(UsageError, match="the report cannot be written to reports/health"):
        reporting.run("health", system=away)


def test_kernel_ends_with_the_run(away, a_notebook):
    run = reporting.run(a_notebook("import os; print('pid', os.getpid())"), system=away)

    page = (run.path / "report.html").read_text()
    pid = int(page.partition("pid ")[2].split("<")[0])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_command_line_says_why_and_exits_with_unknown(away, a_notebook, tmp_path):
    path = a_notebook("raise ValueError('no')")
    environment = os.environ | {
        "EVKIT_POSTGRES_DSN": away.settings.postgres_dsn,
        "EVKIT_KAFKA_BOOTSTRAP_SERVERS": away.settings.bootstrap_servers,
    }

    done = subprocess.run(
        [sys.executable, "-m", "evkit", "report", "run", path],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 3
    assert "evkit: the report broke: ValueError: no; what there is of it: reports/probe/" in done.stderr
    assert "encryption" not in done.stderr  # ipykernel's warning of every run

    refused = subprocess.run(
        [sys.executable, "-m", "evkit", "report", "run", "health", "-p", "x=1"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert refused.returncode == 3
    assert (
        refused.stderr.strip()
        == "evkit: notebook 'health_report' has no parameter 'x'; it has profile, since, until, thresholds, previous"
    )


def test_interrupted_run_leaves_nothing_behind(away, a_notebook, tmp_path):
    path = a_notebook("import os, pathlib, time; pathlib.Path('started').write_text(str(os.getpid())); time.sleep(600)")
    environment = os.environ | {
        "EVKIT_POSTGRES_DSN": away.settings.postgres_dsn,
        "EVKIT_KAFKA_BOOTSTRAP_SERVERS": away.settings.bootstrap_servers,
    }
    run = subprocess.Popen(
        [sys.executable, "-m", "evkit", "report", "run", path],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    started = tmp_path / "started"
    while not (started.exists() and started.read_text()):
        assert run.poll() is None, run.communicate()
        time.sleep(0.05)

    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=120)

    assert run.returncode == 130
    assert "Traceback" not in said, said
    assert list((tmp_path / "reports" / "probe").iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)
