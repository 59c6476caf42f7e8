"""A freeze as a folder: made whole or not at all, refused when it was changed, opened without leaving anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import nbformat
import psutil
import pytest
from typer.testing import CliRunner

import evkit
from evkit import reporting, views
from evkit.cli import app
from evkit.errors import FreezeRefused, NotInFreeze
from evkit.freeze import take
from evkit.freeze.opened import open_freeze
from evkit.system import System
from evkit.testing.waiting import until
from tests.integration.views.groups import commit, produce


def away(system, **what):
    given = {"kafka_timeout_seconds": 1.0, "postgres_timeout_seconds": 1.0} | what
    return System(system.settings.model_copy(update=given))


@pytest.fixture
def made(past, evkit_system, tmp_path):
    """A freeze of ten minutes with some failures."""
    for n in range(5):
        past.write(f"e-{n}", 100 - n, published=99 - n)
        past.fail("billing", f"e-{n}", 90 - n, dead=True)
        past.letter("billing", f"e-{n}", 90 - n)
    take.run(evkit_system, take.plan(evkit_system, past.window(600), tmp_path / "made"))
    return tmp_path / "made"


def test_a_file_that_was_changed_or_is_gone_is_refused(made):
    file = made / "postgres" / "dead_letter.parquet"
    before = file.read_bytes()

    file.write_bytes(before[:200] + bytes([before[200] ^ 1]) + before[201:])
    with pytest.raises(
        FreezeRefused, match=r"dead_letter\.parquet was changed since it was frozen at .*: what a view would"
    ):
        evkit.connect(f"freeze:{made}")
    file.unlink()
    with pytest.raises(FreezeRefused, match=r"dead_letter\.parquet is gone"):
        evkit.connect(f"freeze:{made}")
    with pytest.raises(FreezeRefused, match=r"is no freeze: manifest\.json cannot be read"):
        evkit.connect(f"freeze:{made / 'postgres'}")


def test_a_folder_appears_whole_or_not_at_all_and_is_never_written_over(evkit_system, past, tmp_path):
    plan = take.plan(evkit_system, past.window(600), tmp_path / "new")

    def interrupted(what, *_):
        if what == "evkit.outbox":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        take.run(evkit_system, plan, progress=interrupted)
    assert list(tmp_path.iterdir()) == []

    killed = tmp_path / ".new.freezing-99999999"
    killed.mkdir()
    manifest = take.run(evkit_system, plan)
    assert [p.name for p in tmp_path.iterdir()] == ["new"]
    assert manifest.snapshots >= 1
    assert evkit_system.settings.postgres_dsn not in (tmp_path / "new" / "manifest.json").read_text()
    with pytest.raises(FreezeRefused, match="is there already: a freeze is never written over"):
        take.plan(evkit_system, past.window(600), tmp_path / "new")
    with pytest.raises(FreezeRefused, match="there is no folder"):
        take.plan(evkit_system, past.window(600), tmp_path / "no" / "new")


def test_what_a_server_that_was_away_would_have_had_is_not_in_it_and_said(
    past, evkit_system, evkit_topic, evkit_group, frozen
):
    topic, group = evkit_topic(), evkit_group()
    produce(evkit_system, topic, 3)
    commit(evkit_system, group, topic, 1)
    past.fail("billing", "e-1", 5)
    no_tables = away(evkit_system, postgres_dsn="postgresql://me:secret@127.0.0.1:1/evkit")
    no_kafka = away(evkit_system, kafka={"bootstrap.servers": "127.0.0.1:1"})

    without_tables = frozen(past.window(600), system=no_tables, name="kafka alone")
    without_kafka = frozen(past.window(600), system=no_kafka, name="tables alone")

    assert views.lag(without_tables, group)["lag_events"].to_list() == [2]
    assert len(views.lag_history(without_tables, group, window=without_tables.manifest.window)) > 0
    with pytest.raises(
        NotInFreeze, match=r"not in this freeze: evkit's tables \(PostgreSQL does not answer at 127.0.0.1:1"
    ):
        views.errors(without_tables, "5m")
    assert "secret" not in without_tables.manifest.model_dump_json()
    assert len(views.errors(without_kafka, "5m")) == 1
    for view in (views.lag, views.lag_groups):
        with pytest.raises(
            NotInFreeze, match="not in this freeze: what Kafka said .no Kafka broker answers at 127.0.0.1:1"
        ):
            view(without_kafka)
    nothing = away(no_tables, kafka={"bootstrap.servers": "127.0.0.1:1"})
    with pytest.raises(FreezeRefused, match="there is nothing to freeze: PostgreSQL does not answer"):
        frozen(past.window(600), system=nothing, name="nothing")


def test_processes_share_a_server_and_none_is_left_when_the_last_one_is_killed(made):
    script = (
        "import evkit, sys; s = evkit.connect(sys.argv[1]); print(s._server.server.process().pid, flush=True);"
        "print(len(evkit.views.errors(s, '5m')), flush=True); sys.stdin.read()"
    )
    looking = [
        subprocess.Popen(
            [sys.executable, "-c", script, f"freeze:{made}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    told = [[process.stdout.readline().strip(), process.stdout.readline().strip()] for process in looking]
    server = psutil.Process(int(told[0][0]))

    assert told == [[str(server.pid), "5"]] * 2
    looking[0].kill()
    looking[0].wait()
    assert server.is_running()
    looking[1].kill()
    looking[1].wait()
    until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE, seconds=60)
    for process in looking:
        process.stdin.close()
        process.stdout.close()


def test_commands_look_at_a_freeze_and_write_nothing(made, monkeypatch):
    monkeypatch.setenv("EVKIT_PROFILE", f"freeze:{made}")

    def run(*words):
        return subprocess.run(
            [sys.executable, "-m", "evkit", *words], capture_output=True, text=True, check=False, env=os.environ
        )

    shown = run("view", "errors", "--window", "5m", "--format", "json")
    assert len(json.loads(shown.stdout)) == 5, shown.stderr
    outside = run("view", "errors", "--since", "now-3h")
    assert (outside.returncode, outside.stdout) == (1, "")
    assert outside.stderr.startswith("evkit: not in this freeze: it has ")
    refused = run("dlq", "archive", "--group", "billing", "--note", "x", "--yes")
    assert refused.returncode == 1
    assert "is a freeze: evidence is not changed" in refused.stderr


def test_the_command_shows_a_plan_and_freezes_when_told_to(past, evkit_system, monkeypatch, tmp_path):
    monkeypatch.setenv("EVKIT_POSTGRES_DSN", evkit_system.settings.postgres_dsn)
    monkeypatch.setenv("EVKIT_KAFKA_BOOTSTRAP_SERVERS", evkit_system.settings.bootstrap_servers)
    past.write("e-1", 5)
    words = ["freeze", "--window", "10m", "--out", str(tmp_path / "f")]

    looked = CliRunner().invoke(app, [*words, "--dry-run"])
    assert (looked.exit_code, list(tmp_path.iterdir())) == (0, [])
    assert "evkit.outbox" in looked.stdout
    unasked = CliRunner().invoke(app, words)
    assert "there is no terminal to ask on" in str(unasked.exception)
    done = CliRunner().invoke(app, [*words, "--yes", "--format", "json"])

    assert done.exit_code == 0
    told = json.loads(done.stdout)
    assert told["tables"]["outbox"]["rows"] == 1
    assert told["missing"] == []


def test_a_notebook_on_a_freeze_shows_the_numbers_that_it_showed_live(made, past, evkit_system, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = nbformat.v4.new_code_cell
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [
        nbformat.v4.new_markdown_cell("# What died?\n\nRead it."),
        code("from evkit import reporting, views\nfrom evkit.reporting import Instant"),
        code('since: Instant = "now-5m"  # start\nuntil: Instant = "now"  # end', metadata={"tags": ["parameters"]}),
        code("report = reporting.begin(None, since, until)"),
        code("print(report.look(views.errors).write_json())"),
        code("print(report.look(views.dead_letter_count).select('group', 'open', 'new').write_json())"),
        code("report.finish()"),
    ]
    nbformat.write(notebook, tmp_path / "died.ipynb")
    system = open_freeze(made)

    def printed(system, **given):
        run = reporting.run(str(tmp_path / "died.ipynb"), system=system, **given)
        assert run.error is None, run.error
        cells = nbformat.read(run.path / "report.ipynb", 4).cells[-3:-1]
        return [output["text"] for cell in cells for output in cell.outputs if output.get("name") == "stdout"]

    at = system.now()
    live = printed(evkit_system, since=past.at(300).isoformat(), until=at.isoformat())
    past.sql("TRUNCATE evkit.attempt, evkit.dead_letter")
    try:
        assert printed(system) == live
        assert '"open":5' in live[1]
    finally:
        system.close()
