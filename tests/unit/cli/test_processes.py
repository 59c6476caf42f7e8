"""Several processes of one consumer: started, started again, stopped together, and answered for. The children are real
processes that speak the line as `evkit consume` does, and need no server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import pytest

from evkit.cli import processes as module
from evkit.cli.lifeline import ParentsEnd
from evkit.cli.processes import Processes
from evkit.runtime import health

# What every child does: the line first, then what the test says.
PREAMBLE = """
import os, signal, sys, threading, time
from evkit.cli.lifeline import ChildsEnd, apart
from evkit.cli.signals import on_stop
number, fd = map(int, sys.argv[-1].split(":"))
stop = threading.Event()
on_stop(stop.set)
line = ChildsEnd(fd, stop.set)
def well(): return {"status": "ok", "ok": True, "reasons": []}
def metrics():
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
    handled = CounterMetricFamily("evkit_consumer_events", "Events.", labels=["group"])
    handled.add_metric(["billing"], 10 * number)
    took = HistogramMetricFamily("took_seconds", "Time.", labels=["group"])
    took.add_metric(["billing"], buckets=[("1.0", 2), ("+Inf", 3)], sum_value=7)
    return apart([handled, took])
def ready(**more): line.ready({"group": "billing", "topics": ["order"]}, **({"health": well, "metrics": metrics} | more))
"""
WELL = "ready(); stop.wait()"


class Running:
    """Processes in a thread, as `evkit consume` has them in its main thread."""

    def __init__(self, script, count, folder):
        self.folder = folder
        command = [sys.executable, "-c", PREAMBLE + script]
        self.processes = Processes(command, count, "app:billing")
        self.code = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        self.code = self.processes.run()

    def until(self, wanted, seconds=120):
        end = time.monotonic() + seconds
        while not (found := wanted()) and time.monotonic() < end:
            time.sleep(0.02)
        assert found, self.processes.health()
        return found

    def healthy(self):
        return self.until(lambda: (found := self.processes.health()).ok and found)

    def ended(self, seconds=120):
        self.thread.join(seconds)
        assert not self.thread.is_alive()
        return self.code

    def pids(self):
        return [slot.child.process.pid for slot in self.processes._slots if slot.child is not None]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Factory of running processes; a death is followed by a start at once, as far as the test does not say otherwise."""
    monkeypatch.setattr(module, "RESTART_SECONDS_MIN", 0.01)
    made = []

    def make(script=WELL, count=2):
        made.append(Running(script, count, tmp_path))
        return made[-1]

    yield make
    for each in made:
        each.processes.stop()
        each.processes.end()
        each.thread.join(120)


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_all_processes_run_until_they_are_told_to_stop_and_end_well(run, tmp_path):
    running = run(f"ready(); stop.wait(); open('{tmp_path}/%d' % number, 'w').write('drained')", count=3)
    running.healthy()

    running.processes.stop()

    assert running.ended() == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2", "3"]


def test_a_process_that_was_killed_makes_health_red_and_is_started_again(run, monkeypatch):
    monkeypatch.setattr(module, "RESTART_SECONDS_MIN", 600.0)
    running = run()
    running.healthy()
    killed = running.pids()[1]

    os.kill(killed, signal.SIGKILL)

    died = ["process 2: died (SIGKILL) and is started again"]
    red = running.until(lambda: (found := running.processes.health()).reasons == died and found)
    assert not red.ok
    assert [(part["part"], part["status"]) for part in red.parts] == [("process 1", "ok"), ("process 2", "red")]
    running.until(lambda: running.processes._slots[1].child is None)
    running.processes._slots[1].start_at = 0.0  # its time has come
    well = running.healthy()
    assert well.parts[1]["starts"] == 2
    assert well.parts[1]["pid"] != killed
    running.processes.stop()
    assert running.ended() == 0


WAITS = ["process 2: waits for PostgreSQL"]


def test_a_process_that_is_red_makes_the_health_of_all_red_with_its_reason(run):
    running = run(
        "ready(health=lambda: {'status': 'red', 'ok': number == 1, 'reasons': ['waits for PostgreSQL'][:number - 1],"
        "'waits_for': 'PostgreSQL'});"
        "stop.wait()"
    )

    red = running.until(lambda: (found := running.processes.health()).reasons[:1] == WAITS and found)

    assert (red.ok, red.reasons) == (False, WAITS)
    assert red.parts[1]["waits_for"] == "PostgreSQL"


def test_a_process_that_hangs_is_red_and_does_not_keep_the_answer_of_the_others(run, monkeypatch):
    monkeypatch.setattr(module, "HEALTH_SECONDS", 1.0)
    running = run()
    running.healthy()
    hanging = running.pids()[0]
    os.kill(hanging, signal.SIGSTOP)
    try:
        for _ in range(3):
            # The other one may be late once on a busy machine, and never because of this one.
            running.until(lambda: running.processes.health().reasons == ["process 1: does not answer within 1 s"])
    finally:
        os.kill(hanging, signal.SIGCONT)

    running.healthy()


def test_a_process_that_cannot_say_how_it_is_is_red_also_the_second_time(run):
    running = run("ready(health=lambda: 1 / 0); stop.wait()", count=1)
    running.until(lambda: running.processes._slots[0].child and running.processes._slots[0].child.ready_at)

    for _ in range(2):
        assert running.processes.health().reasons == ["process 1: cannot say how it is; its log says why"]


def test_the_metrics_of_all_processes_are_told_apart_by_a_label(run):
    running = run()
    running.healthy()
    server = health.serve(running.processes, collector=running.processes)
    try:
        with urllib.request.urlopen(server.url + "/metrics", timeout=30) as answer:
            text = answer.read().decode()
        with urllib.request.urlopen(server.url + "/health", timeout=30) as answer:
            document = json.load(answer)
    finally:
        server.close()

    lines = text.splitlines()
    assert 'evkit_consumer_events_total{group="billing",process="1"} 10.0' in lines
    assert 'evkit_consumer_events_total{group="billing",process="2"} 20.0' in lines
    assert 'took_seconds_bucket{group="billing",le="1.0",process="2"} 2.0' in lines
    assert 'evkit_process_up{process="2"} 1.0' in lines
    assert 'evkit_process_starts_total{process="1"} 1.0' in lines
    assert text.count("# TYPE evkit_consumer_events_total") == 1
    assert (document["status"], [p["part"] for p in document["parts"]]) == ("ok", ["process 1", "process 2"])


def test_a_consumer_that_cannot_be_found_is_tried_once_and_ends_with_its_exit_code(run, capfd):
    running = run("print('once', file=sys.stderr); sys.exit(2)", count=3)

    assert running.ended() == 2
    assert capfd.readouterr().err.count("once") == 1


def test_processes_that_die_again_and_again_stop_all_and_end_with_1(run, capfd):
    running = run("ready()\nif number == 2: sys.exit(7)\nstop.wait()")

    assert running.ended() == 1
    assert "process 2 died 5 times in a row before it had consumed for 30 s, the last time by exit code 7" in (
        capfd.readouterr().err
    )


def test_processes_that_cannot_reach_a_server_end_with_3(run):
    assert run("sys.exit(3)", count=1).ended() == 3


def test_a_process_that_had_got_going_is_started_again_as_if_it_were_the_first_time(run, monkeypatch):
    monkeypatch.setattr(module, "GOING_SECONDS", 0.0)
    running = run("ready(); os._exit(1) if len(os.listdir('.')) else None; stop.wait()", count=1)

    running.until(lambda: running.processes._slots[0].starts > module.DEATHS_MAX + 1)


def test_a_process_that_fails_while_it_stops_makes_the_exit_code_1(run, capfd):
    running = run("ready(); stop.wait(); sys.exit(5 if number == 2 else 0)")
    running.healthy()

    running.processes.stop()

    assert running.ended() == 1
    assert "process 2 did not finish what it had in hand (exit code 5)" in capfd.readouterr().err


def test_to_be_told_to_stop_before_the_consumer_was_found_is_no_failure(run):
    running = run("time.sleep(1); stop.wait()")  # an import that takes its time
    running.until(running.pids)

    running.processes.stop()

    assert running.ended() == 0


def test_a_child_that_is_told_twice_drains_all_the_same(run):
    """systemd sends SIGTERM to every process of a service, and the parent tells its children as well."""
    running = run("ready(); stop.wait(); time.sleep(0.5); sys.exit(0)")
    running.healthy()

    for pid in running.pids():
        os.kill(pid, signal.SIGTERM)
    running.processes.stop()

    assert running.ended() == 0


def test_what_is_not_answered_yet_is_not_asked_again():
    line = ParentsEnd(lambda about: None)

    assert line.ask("health") is line.ask("health")
    assert line.ask("health") is not line.ask("metrics")
    os.close(line.childs_fd)


PARENT = """
import sys
from evkit.cli.processes import Processes
from evkit.cli.signals import on_stop
processes = Processes([sys.executable, "-c", sys.argv[1]], 2, "app:billing")
on_stop(processes.stop, processes.end)
raise SystemExit(processes.run())
"""


@pytest.fixture
def parent(tmp_path):
    """Factory: a parent as a process of its own, when both children are there; (process, pids of the children)."""
    made = []

    def make(script):
        told = f"open('{tmp_path}/%d' % number, 'w').write(str(os.getpid())); ready();"
        made.append(subprocess.Popen([sys.executable, "-c", PARENT, PREAMBLE + told + script]))
        end = time.monotonic() + 120
        while len(found := [int(t) for p in tmp_path.iterdir() if (t := p.read_text())]) < 2 and time.monotonic() < end:
            time.sleep(0.02)
        assert len(found) == 2
        return made[-1], found

    yield make
    for process in made:
        process.kill()
        process.wait()


def until_gone(pids, seconds=120):
    end = time.monotonic() + seconds
    while not all(map(gone, pids)) and time.monotonic() < end:
        time.sleep(0.02)
    return all(map(gone, pids))


def test_children_of_a_parent_that_was_killed_drain_and_end(parent, tmp_path):
    process, children = parent(f"stop.wait(); open('{tmp_path}/drained%d' % number, 'w')")

    process.kill()

    assert until_gone(children)
    assert (tmp_path / "drained1").exists()
    assert (tmp_path / "drained2").exists()


def test_a_second_sigterm_ends_children_and_parent_at_once(parent):
    process, children = parent("stop.wait(); time.sleep(600)")
    process.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    assert not any(map(gone, children))  # they finish what they have in hand

    process.terminate()

    assert process.wait(60) == -signal.SIGTERM
    assert until_gone(children)
