"""P1, P2, P3, P8 under every fault that we can inject: what an outbox holds is in its topics, and nothing else is.

    uv run pytest tests/acceptance/test_relay_faults.py -s
    uv run pytest tests/acceptance/test_relay_faults.py -s -k exactly_once --events 100000 --seconds 240 --seed 7

Eight writers (relay_faults/writers.py) make the traffic. Meanwhile the relay, a process of its own as in production, is
killed by kill -9, stopped by SIGSTOP for longer than its lease while another stands by, loses its PostgreSQL sessions and
its broker, and is run twice at once. Then a checker (relay_faults/checker.py), which imports nothing of evkit, compares the
tables with the topics. Which fault comes when is drawn from the seed, which is printed and can be given again. A planted
bug must be caught by the same run and the same checker (relay_faults/planted.py): else the green would mean nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import psycopg
import pytest
from confluent_kafka.admin import AdminClient, NewTopic
from psycopg import sql

from evkit.local import StackInfo
from evkit.local.kafka_server import KafkaServer
from evkit.testing.faults import kill9, pause, resume

SCRIPTS = Path(__file__).parent / "relay_faults"
LEASE_SECONDS = 10  # the relay's default
# A relay that publishes nothing for so long, with events waiting and nobody hurting it, hangs.
HANG_SECONDS = 90


class Hang(AssertionError):
    """Raised when something that must come does not."""


class RelayProcess:
    """A relay as an operator starts it; its log is a file."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, cwd=log.parent)

    @property
    def pid(self) -> int:
        return self.process.pid

    def ended(self) -> bool:
        return self.process.poll() is not None

    def words(self) -> str:
        return self.log.read_text(errors="replace")[-8000:]


class FaultRun:
    """One database with its topics, its writers, its relays and the faults that happen to them."""

    def __init__(self, info: StackInfo, folder: Path, delivery: str, seed: int) -> None:
        self.folder, self.delivery, self.seed = folder, delivery, seed
        self.broker = KafkaServer(Path(info.home) / "kafka")
        self.chance = random.Random(f"{seed} faults")
        name = f"faults_{os.urandom(3).hex()}"
        with psycopg.connect(info.postgres_dsn, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        self.dsn = f"{info.postgres_dsn.rpartition('/')[0]}/{name}"
        self.bootstrap_servers = info.kafka_bootstrap_servers
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("EVKIT_")} | {
            "EVKIT_POSTGRES_DSN": self.dsn,
            "EVKIT_KAFKA_BOOTSTRAP_SERVERS": self.bootstrap_servers,
        }
        subprocess.run(
            [sys.executable, "-m", "evkit", "migrate"],
            env=self.environment,
            check=True,
            capture_output=True,
            cwd=folder,
        )
        self.topics = [f"{name}-orders", f"{name}-refunds"]
        self.poison_topic = f"{name}-limited"
        admin = AdminClient({"bootstrap.servers": self.bootstrap_servers})
        made = admin.create_topics(
            [NewTopic(topic, 3, 1) for topic in self.topics]
            + [NewTopic(self.poison_topic, 1, 1, config={"max.message.bytes": "100000"})]
        )
        for future in made.values():
            future.result(30)
        self.relays: list[RelayProcess] = []
        self.command = [sys.executable, "-X", "faulthandler", "-m", "evkit", "relay", "run"]
        self.writers: subprocess.Popen[bytes] | None = None
        self.journal = folder / "journal.json"
        self.counts: dict[str, int] = {}
        self.problems: list[str] = []
        self._started = 0
        self._log_number = 0
        self._connection = psycopg.connect(self.dsn, autocommit=True)

    # --- what is there ------------------------------------------------------------------------------------------------

    def ask(self, query: str) -> int:
        """One number from the database."""
        row = self._connection.execute(query).fetchone()
        assert row is not None
        return row[0]

    def published_until(self) -> int:
        return self.ask("SELECT coalesce(max(position), 0) FROM evkit.publication")

    def written_until(self) -> int:
        return self.ask("SELECT last_value FROM evkit.outbox_position")

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def wait(self, what: str, until, seconds: float = HANG_SECONDS) -> None:
        """Wait for a signal; raises Hang, with what the relays were doing, when it does not come."""
        deadline = time.monotonic() + seconds
        while not until():
            for relay in [r for r in self.relays if r.ended()]:
                self.relays.remove(relay)
                self.problems.append(f"a relay ended by itself with code {relay.process.returncode}: {relay.words()}")
                self.start()
            if time.monotonic() > deadline:
                raise Hang(f"waited {seconds:.0f} s in vain until {what}\n" + self.stacks())
            if self.writers is not None and self.writers.poll() not in (None, 0):
                raise Hang(f"the writers ended with code {self.writers.returncode}: {self.folder / 'writers.log'}")
            time.sleep(0.05)

    def stacks(self) -> str:
        """What PostgreSQL's sessions and the relays are doing: each relay's threads are in its log, and it is gone."""
        sessions = [
            f"{name} {state} waits for {wait} blocked by {blocked_by}: {query}"
            for name, state, wait, blocked_by, query in self._connection.execute(
                "SELECT application_name, state, wait_event, pg_blocking_pids(pid), left(query, 200)"
                " FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        ]
        for relay in self.relays:
            with contextlib.suppress(ProcessLookupError):
                os.kill(relay.pid, signal.SIGABRT)
                resume(relay.pid)  # one that is frozen hears it only then
            relay.process.wait(60)
        return "\n---\n".join([*(relay.words() for relay in self.relays), *sessions])

    def wait_progress(self, positions: int) -> None:
        """Wait until so many more positions are published than now."""
        before = self.published_until()
        return self.wait(
            f"position {before + positions} is published", lambda: self.published_until() >= before + positions
        )

    # --- processes ----------------------------------------------------------------------------------------------------

    def start(self) -> RelayProcess:
        self._log_number += 1
        arguments = [] if self.delivery == "at-least-once" else ["--delivery", self.delivery]
        relay = RelayProcess(
            [*self.command, *arguments], self.environment, self.folder / f"relay-{self._log_number:03}.log"
        )
        self.relays.append(relay)
        return relay

    def start_writers(self, events: int, seconds: float, *, poison: bool = True) -> None:
        command = [sys.executable, str(SCRIPTS / "writers.py"), "--dsn", self.dsn, "--seed", str(self.seed)]
        command += ["--events", str(events), "--rate", str(events / seconds), "--topics", ",".join(self.topics)]
        command += ["--journal", str(self.journal)] + (["--poison-topic", self.poison_topic] if poison else [])
        with (self.folder / "writers.log").open("ab") as output:
            self.writers = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output)
        self.wait("the writers write", lambda: self.written_until() > 20)

    def enough(self) -> None:
        """Let the writers come to their end, and wait for it."""
        assert self.writers is not None
        self.writers.stdin.write(b"enough\n")
        self.writers.stdin.flush()
        self.wait("the writers end", lambda: self.writers.poll() is not None, 300)

    def leader(self) -> RelayProcess | None:
        """The relay that holds the outbox's lock: found by the port of the session that has it."""
        ports = {
            port
            for (port,) in self._connection.execute(
                "SELECT a.client_port FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
                " WHERE l.locktype = 'advisory' AND l.granted AND a.datname = current_database()"
                "   AND a.application_name LIKE 'evkit relay%'"
            )
        }
        for relay in self.relays:
            with contextlib.suppress(psutil.Error):
                if ports & {c.laddr.port for c in psutil.Process(relay.pid).net_connections("tcp") if c.laddr}:
                    return relay
        return None

    def end(self, relay: RelayProcess) -> None:
        """SIGTERM: it finishes its batch and goes."""
        relay.process.terminate()
        self.relays.remove(relay)
        try:
            code = relay.process.wait(60)
            if code != 0 and (code != -signal.SIGTERM or "relay of" in relay.words()):  # else it had not begun yet
                self.problems.append(f"a relay that was told to stop ended with code {code}: {relay.words()}")
        except subprocess.TimeoutExpired:
            self.relays = [relay]
            raise Hang("a relay that was told to stop did not within 60 s\n" + self.stacks()) from None

    # --- faults -------------------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """kill -9 of a relay, and another one soon after."""
        victim = self.chance.choice(self.relays)
        kill9(victim.pid)
        victim.process.wait()
        self.relays.remove(victim)
        self.count("kills")
        time.sleep(self.chance.choice((0, 0, 0.5, 1)))  # a backlog of a second, at times
        if not self.relays:
            self.start()

    def terminate_sessions(self) -> None:
        """The administrator ends the relay's PostgreSQL sessions, all or one of them."""
        ended = self.ask(
            "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name LIKE 'evkit relay%'"
            f" ORDER BY random() LIMIT {self.chance.choice((1, 100))}) AS s"
        )
        self.count("sessions_terminated") if ended else None

    def restart_broker(self) -> None:
        """The broker is stopped, by a shutdown or by a kill, and comes back on the same port."""
        if self.chance.random() < 0.5:
            self.broker.stop()
        else:
            process = self.broker.process()
            assert process is not None
            process.kill()
            process.wait(60)
        self.broker.start(lambda _: None)
        self.count("broker_restarts")

    def kill_without_broker(self) -> None:
        """The broker hangs, so that events are on their way without an answer, and then the relay is killed."""
        broker = self.broker.process()
        assert broker is not None
        pause(broker.pid)
        try:
            time.sleep(1)  # a relay that waits for answers gives no signal
            self.kill()
        finally:
            resume(broker.pid)
        self.count("broker_hangs")

    def two_relays(self) -> None:
        """A second relay for a while; then one of the two is killed or told to stop."""
        if len(self.relays) < 2:
            self.start()
        self.wait_progress(self.chance.randint(1, 300))
        self.count("two_relays")
        if self.chance.random() < 0.5:
            self.kill()
        else:
            self.end(self.chance.choice(self.relays))

    def freeze(self) -> None:
        """The leader hangs for longer than its lease and then goes on as if nothing had been."""
        if len(self.relays) < 2:
            self.start()
        self.wait("a relay leads", lambda: self.leader() is not None)
        frozen = self.leader()
        if frozen is None:
            return
        pause(frozen.pid)
        self.count("freezes")
        self.wait(
            "another relay takes over from one that hangs",
            lambda: self.leader() not in (None, frozen),
            LEASE_SECONDS + 60,
        )
        self.wait_progress(self.chance.randint(1, 200))
        resume(frozen.pid)
        self.wait_progress(self.chance.randint(1, 300))
        self.end(self.chance.choice(self.relays))

    def faults(self, plan: dict[str, int], events: int) -> None:
        """All faults of a plan in an order of chance, each at a moment of chance while events are moving."""
        order = [name for name, times in plan.items() for _ in range(times)]
        self.chance.shuffle(order)
        for name in order:
            self.wait_progress(self.chance.randint(1, max(2, events // len(order))))
            time.sleep(self.chance.random() * 0.1)  # anywhere in a batch, not always at its end
            getattr(self, name)()

    # --- the end ------------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Until nothing waits and the cursor has come to the last event; then the relays are told to stop."""
        if not self.relays:
            self.start()
        waiting = (
            "SELECT count(*) FROM evkit.outbox o WHERE NOT EXISTS (SELECT FROM evkit.publication p"
            " WHERE p.position = o.position) AND NOT EXISTS (SELECT FROM evkit.unpublishable u"
            " WHERE u.position = o.position AND u.state IN ('parked', 'held', 'retry'))"
        )
        self.wait("nothing waits", lambda: self.ask(waiting) == 0, 180)
        last = self.ask("SELECT max(position) FROM evkit.outbox")
        self.wait(
            f"everything up to position {last} is settled",
            lambda: self.ask("SELECT coalesce(max(settled_position), 0) FROM evkit.relay") >= last,
        )
        while self.relays:
            self.end(self.relays[0])

    def check(self) -> list[str]:
        """What the checker and the run itself have found; the counts are printed."""
        command = [sys.executable, str(SCRIPTS / "checker.py"), "--dsn", self.dsn, "--journal", str(self.journal)]
        command += ["--bootstrap-servers", self.bootstrap_servers]
        command += ["--isolation", "read_committed" if self.delivery == "exactly-once" else "read_uncommitted"]
        command += ["--exactly-once"] if self.delivery == "exactly-once" else []
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
        assert done.stdout, done.stderr
        told = json.loads(done.stdout)
        counts = ", ".join(f"{k} {v:,}" for k, v in (told["counts"] | self.counts).items())
        print(f"\n{self.delivery}, seed {self.seed}: {counts}")
        return self.problems + told["problems"]

    def settle_down(self) -> None:
        """Until nothing has moved for a while, for relays of which nothing better can be expected; then they are killed."""
        before, since = -1, time.monotonic()
        deadline = since + HANG_SECONDS
        while time.monotonic() < since + 3:
            if not self.relays:
                self.start()
            now = self.ask("SELECT count(*) FROM evkit.publication")
            # One that is about to start has not had its chance yet.
            if now != before or (self.leader() is None and time.monotonic() < deadline):
                before, since = now, time.monotonic()
            time.sleep(0.1)
        for relay in self.relays:
            relay.process.kill()
            relay.process.wait()
        self.relays.clear()

    def close(self) -> None:
        for relay in self.relays:
            with contextlib.suppress(ProcessLookupError):
                relay.process.kill()
            relay.process.wait()
        if self.writers is not None:
            self.writers.kill()
            self.writers.wait()
            self.writers.stdin.close()
        self._connection.close()


@pytest.fixture
def seed(pytestconfig):
    given = pytestconfig.getoption("--seed")
    return random.randrange(10**6) if given is None else given


@pytest.fixture
def fault_run(own_stack, tmp_path, seed):
    """`fault_run(delivery)` → a FaultRun, closed at the end."""
    runs = []

    def make(delivery: str) -> FaultRun:
        print(f"seed {seed}: give it again by --seed {seed}")
        runs.append(FaultRun(own_stack, tmp_path, delivery, seed))
        return runs[-1]

    yield make
    for run in runs:
        run.close()


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("delivery", ["at-least-once", "exactly-once"])
def test_relay_under_faults_loses_nothing_and_inverts_no_key(delivery, fault_run, pytestconfig):
    """P1, P2, P3, P8; in exactly-once mode also that no event is there twice for a reader of committed records."""
    events = pytestconfig.getoption("--events") or 20_000
    seconds = pytestconfig.getoption("--seconds") or events / 500
    run = fault_run(delivery)
    plan = {
        "kill": 20 if events >= 100_000 else 8,
        "terminate_sessions": 3,
        "kill_without_broker": 1,
        "restart_broker": 2 if events >= 100_000 else 1,
        "two_relays": 2,
        "freeze": 2 if events >= 100_000 else 1,
    }

    run.start()
    run.start_writers(events, seconds)
    run.faults(plan, events)
    run.enough()
    run.drain()

    assert run.check() == []


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("bug", "delivery", "plan", "found"),
    [
        ("skip_a_hole", "at-least-once", {"two_relays": 1}, "events are not in their topic"),
        ("settle_over_a_hole", "at-least-once", {"kill": 4}, "events are not in their topic"),
        ("mark_before_confirmation", "at-least-once", {"kill_without_broker": 1}, "marked as published, and not in"),
        ("publish_after_a_failed_event", "at-least-once", {}, "keys went on past an event that is not there"),
        ("order_by_txid", "at-least-once", {}, "come after a later event of their key"),
        ("forget_the_claim", "exactly-once", {"kill": 4}, "in their topic more than once"),
    ],
)
def test_planted_bug_is_caught(bug, delivery, plan, found, fault_run):
    """Else the tests above would prove nothing."""
    run = fault_run(delivery)
    run.command[run.command.index("-m") : run.command.index("relay")] = [str(SCRIPTS / "planted.py"), bug]

    run.start_writers(1500, 5)
    if plan:
        run.start()
    run.faults(plan, 500)
    run.enough()
    run.settle_down()

    problems = run.check()
    assert any(found in problem for problem in problems), problems
