"""`evkit consume`: run as an operator runs it, stopped, killed and hung in the middle of traffic; every event once."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import psutil
import pytest

from evkit import Event, Relay, kafka, outbox
from evkit.testing.faults import kill9
from tests.relaying import drain

APP = """
import os, time
import evkit
billing = evkit.Consumer(os.environ["TEST_GROUP"], [os.environ["TEST_TOPIC"]], protocol=os.environ["TEST_PROTOCOL"],
                         batch_events_max=20)

@billing.handler("a.b")
def bill(event, tx):
    time.sleep(float(os.environ.get("TEST_SECONDS", "0.003")))
    tx.execute("INSERT INTO effect (id, key, i) VALUES (%s, %s, %s)", (event.id, event.key, event.payload["i"]))

no_handlers = evkit.Consumer("idle", ["order"])
"""
PROTOCOLS = pytest.mark.parametrize("protocol", ["consumer", "classic"])
EVENTS, KEYS, PARTITIONS = 1500, 60, 6


class Service:
    """A topic with events, and `evkit consume` on it, as often as the test starts it."""

    def __init__(self, system, topic, group, folder):
        self.system, self.topic, self.group, self.folder = system, topic, group, folder
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("EVKIT_")} | {
            "EVKIT_POSTGRES_DSN": system.settings.postgres_dsn,
            "EVKIT_KAFKA_BOOTSTRAP_SERVERS": system.settings.bootstrap_servers,
            "TEST_TOPIC": topic, "TEST_GROUP": group, "TEST_PROTOCOL": "consumer",
        }  # fmt: skip
        self.processes = []
        (folder / "app.py").write_text(APP)
        with system.writing() as connection:
            connection.execute("CREATE TABLE effect (n bigserial, id text, key text, i int)")

    def publish(self, n=EVENTS):
        relay = Relay(self.system)
        with self.system.writing() as connection:
            events = [Event("a.b", f"k{i % KEYS}", {"i": i}, topic=self.topic) for i in range(n)]
            outbox.write_many(connection, events)
        drain(relay)
        relay.close()

    def notice_deaths_soon(self, protocol):
        """A classic group waits 45 s for a member that was killed; how long a KIP-848 group does, the broker says."""
        if protocol == "classic":
            (self.folder / "evkit.toml").write_text(
                'default_profile = "p"\n[profiles.p.kafka]\n"session.timeout.ms" = "6000"\n'
            )

    def start(self, *arguments, where="app:billing", options=(), **more):
        log = self.folder / f"log{len(self.processes)}"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "evkit", *options, "consume", where, *arguments],
                stdout=file, stderr=file, cwd=self.folder, env=self.environment | more,
            )  # fmt: skip
        process.log = log.read_text
        self.processes.append(process)
        return process

    def until(self, wanted, seconds=120):
        end = time.monotonic() + seconds
        while not (found := wanted()) and time.monotonic() < end:
            time.sleep(0.05)
        assert found, "\n".join(process.log() for process in self.processes)
        return found

    def effects(self):
        with self.system.reading() as connection:
            return connection.execute("SELECT key, i FROM effect ORDER BY n").fetchall()

    def in_hand(self):
        """How many processes are inside a batch: in a handler, or waiting for one that has the same events."""
        with self.system.reading() as connection:
            inside = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND xact_start IS NOT NULL"
                " AND application_name LIKE 'evkit consumer%'"
            )
            return connection.execute(inside).fetchone()[0]

    def handled(self, n):
        return self.until(lambda: len(self.effects()) >= n)

    def url(self, process):
        return self.until(lambda: re.search(r"health and metrics at (\S+)", process.log()))[1]

    def health(self, process):
        try:
            with urllib.request.urlopen(self.url(process) + "/health", timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return json.load(error)

    def metrics(self, process):
        with urllib.request.urlopen(self.url(process) + "/metrics", timeout=60) as answer:
            return answer.read().decode()

    def says_that_it_died(self, parent, number):
        """Until health has said so of a process; who comes too late for that sees that it was started again."""
        died = f"process {number + 1}: died (SIGKILL) and is started again"

        def is_told():
            found = self.health(parent)
            return died in found["reasons"] or found["parts"][number].get("starts", 1) > 1

        self.until(is_told)

    def well(self, process):
        return self.until(lambda: (found := self.health(process))["ok"] and found)

    def assigned(self, process, *marks):
        """Until a line of each process says that it has partitions."""
        self.until(
            lambda: all(
                any(mark in line and "is assigned" in line for line in process.log().splitlines()) for mark in marks
            )
        )

    def committed(self):
        settings = self.system.settings
        return sum(kafka.committed(settings, self.group, kafka.partitions_of(settings, [self.topic])).values())

    def require_each_once_in_order(self, n=EVENTS):
        effects = self.effects()
        assert sorted(i for _, i in effects) == list(range(n))
        for key in {key for key, _ in effects}:
            of_key = [i for k, i in effects if k == key]
            assert of_key == sorted(of_key), key


@pytest.fixture
def service(evkit_system, evkit_topic, evkit_group, tmp_path):
    made = Service(evkit_system, evkit_topic(partitions=PARTITIONS), evkit_group(), tmp_path)
    yield made
    for process in made.processes:
        process.kill()  # its children see that and end
        process.wait()


def children(process):
    return psutil.Process(process.pid).children()


@PROTOCOLS
def test_processes_that_are_killed_are_started_again_and_every_event_is_handled_once(service, protocol):
    service.notice_deaths_soon(protocol)
    service.publish()
    parent = service.start("--processes", "3", "--http-port", "0", TEST_PROTOCOL=protocol)
    document = service.well(parent)
    assert [part["part"] for part in document["parts"]] == ["process 1", "process 2", "process 3"]

    for number, handled in ((1, 200), (0, 600)):
        service.handled(handled)
        service.well(parent)
        victim = service.health(parent)["parts"][number]["pid"]
        kill9(victim)
        service.says_that_it_died(parent, number)

    service.handled(EVENTS)
    document = service.well(parent)
    assert [part["starts"] for part in document["parts"]] == [2, 2, 1]
    service.until(lambda: service.committed() == EVENTS)
    lag = re.compile(r'evkit_consumer_lag\{.*process="\d".*\} 0\.0')
    service.until(lambda: len(lag.findall(service.metrics(parent))) == PARTITIONS)
    assert 'evkit_process_starts_total{process="1"} 2.0' in service.metrics(parent)
    parent.terminate()

    assert parent.wait(60) == 0, parent.log()
    service.require_each_once_in_order()


@PROTOCOLS
def test_sigterm_lets_every_process_finish_and_commit_what_it_has_in_hand(service, protocol):
    service.publish()
    # So slow that they are not through before they are told to stop.
    parent = service.start("--processes", "2", TEST_PROTOCOL=protocol, TEST_SECONDS="0.02")
    service.handled(100)

    parent.terminate()

    assert parent.wait(60) == 0, parent.log()
    done = len(service.effects())
    assert 100 <= done < EVENTS
    assert service.committed() == done, "what was handled is committed, so that nothing comes again"
    again = service.start(TEST_PROTOCOL=protocol)  # one process is enough, too
    service.handled(EVENTS)
    again.terminate()
    assert again.wait(60) == 0, again.log()
    service.require_each_once_in_order()


def test_children_of_a_parent_that_was_killed_finish_what_they_have_in_hand_and_end(service):
    service.publish()
    parent = service.start("--processes", "2")
    service.handled(100)
    orphans = children(parent)
    assert len(orphans) == 2

    kill9(parent.pid)
    parent.wait()

    _, alive = psutil.wait_procs(orphans, timeout=60)
    assert alive == []
    done = len(service.effects())
    assert service.committed() == done
    assert "the parent process is gone" in parent.log()
    service.start("--processes", "2")
    service.handled(EVENTS)
    service.require_each_once_in_order()


def test_a_second_sigterm_ends_processes_that_hang_and_what_they_had_in_hand_is_handled_once(service):
    service.notice_deaths_soon("classic")
    service.publish(40)
    hanging = service.start("--processes", "2", options=["-v"], TEST_SECONDS="600", TEST_PROTOCOL="classic")
    service.assigned(hanging, "[1]", "[2]")
    service.until(lambda: service.in_hand() == 2)  # before, they have nothing that keeps them
    pids = children(hanging)
    hanging.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        hanging.wait(1.5)

    hanging.terminate()

    assert hanging.wait(60) == -signal.SIGTERM
    assert psutil.wait_procs(pids, timeout=60)[1] == []
    service.start(TEST_PROTOCOL="classic")
    service.handled(40)
    service.require_each_once_in_order(40)


def test_one_process_answers_for_itself_and_its_log_is_one_stream(service):
    service.publish(20)
    alone = service.start("--http-port", "0")
    service.handled(20)
    document = service.well(alone)
    assert (document["status"], document["partitions"]) == ("ok", PARTITIONS)
    alone.send_signal(signal.SIGINT)
    assert alone.wait(60) == 0, alone.log()

    several = service.start("--processes", "2", options=["--log-format", "json", "-v"])
    service.assigned(several, '"process": 1', '"process": 2')
    several.send_signal(signal.SIGINT)
    assert several.wait(60) == 0, several.log()

    lines = [json.loads(line) for line in several.log().splitlines()]
    assert {line.get("process") for line in lines if "is assigned" in line["message"]} == {1, 2}
    assert [line["message"] for line in lines if "consumes" in line["message"]] == [
        f"group {service.group} consumes {service.topic} in 2 processes"
    ]


@pytest.mark.parametrize("processes", ["1", "3"])
@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        ("app:invoices", "module 'app' has no consumer 'invoices'; it has "),
        ("nowhere:billing", "module 'nowhere' cannot be imported"),
        ("app:no_handlers", "consumer 'idle' has no handler: register one with @consumer.handler('type')"),
    ],
)
def test_a_consumer_that_cannot_be_used_is_said_once_and_is_wrong_usage(service, where, sentence, processes):
    process = service.start("--processes", processes, where=where)

    assert process.wait(60) == 2, process.log()
    assert process.log().count(sentence) == 1, process.log()
    assert "Traceback" not in process.log()


def test_processes_wait_for_servers_that_are_away_at_the_start(service):
    nowhere = "127.0.0.1:1"
    waiting = service.start("--processes", "2", "--http-port", "0", EVKIT_KAFKA_BOOTSTRAP_SERVERS=nowhere)

    document = service.until(
        lambda: (
            (found := service.health(waiting))["parts"] and all(p.get("waits_for") for p in found["parts"]) and found
        )
    )

    assert all(nowhere in part["waits_for"] for part in document["parts"])
    assert waiting.poll() is None
    waiting.terminate()
    assert waiting.wait(60) == 0, waiting.log()


def test_a_lifeline_without_a_parent_is_one_sentence(service):
    for lifeline in ("1:99", "x"):
        process = service.start("--lifeline", lifeline)
        assert process.wait(60) == 2
        assert "is for the processes that `evkit consume --processes` starts" in process.log()
        assert "Traceback" not in process.log()
