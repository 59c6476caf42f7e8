"""P3, P4, P5, P8 under every fault that we can inject: each event of a topic has its effect once, in the order of its key.

    uv run pytest tests/acceptance/test_consumer_faults.py -s
    uv run pytest tests/acceptance/test_consumer_faults.py -s -k "under_faults and classic" --events 50000 --seed 7

A publisher (consumer_faults/publisher.py) makes the traffic: copies of events, events that fail once, twice or always,
records that are no events. Three consumer processes of one group and one of another, which does not park keys, handle it
(consumer_faults/service.py) by handlers of every form. Meanwhile they are killed by kill -9, stopped by SIGSTOP until
others have their partitions, join and leave each second, and lose their PostgreSQL sessions, PostgreSQL itself and the
broker, while somebody redrives dead letters by `evkit dlq`, which is killed too. Then a checker, which imports nothing of
evkit (consumer_faults/checker.py), compares the topic with the effects. Which fault comes when is drawn from the seed,
which is printed and can be given again. A planted bug must be caught by the same checker (consumer_faults/planted.py): else
the green would mean nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import psycopg
import pytest
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from psycopg import sql

from evkit import kafka
from evkit.local import StackInfo
from evkit.local.kafka_server import KafkaServer
from evkit.local.postgres_server import PostgresServer
from evkit.runtime.watchdog import Watchdog
from evkit.settings import Settings
from evkit.system import System
from evkit.testing.faults import kill9, pause, resume

SCRIPTS = Path(__file__).parent / "consumer_faults"
FORMS = ("plain", "lanes", "batch", "pipeline", "mixed")  # of service.py
PARTITIONS = 6
# Of the embedded broker's KIP-848 groups, and what we give classic members.
SESSION_SECONDS = 6
# A group that handles nothing for so long, with events waiting and nobody hurting it, hangs: a member that was killed is
# missed after its session, and partitions that are taken away may wait for a slow handler.
HANG_SECONDS = 120
# How long after it woke up a member that hung may still be at what it had in hand, and how long after the broker came back
# a client may still send it what it had not answered.
AFTER_SECONDS = 15
# Grows with every event that is parked, also when it is taken out again.
PARKED = "SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence('evkit.parked', 'parked_id')::regclass), 0)"


class Hang(AssertionError):
    """Raised when something that must come does not."""


class Process:
    """A process of ours; what it says is a file."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path, *, stdin: int | None = None) -> None:
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command, env=environment, stdin=stdin, stdout=output, stderr=output, cwd=SCRIPTS
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def ended(self) -> bool:
        return self.process.poll() is not None

    def words(self) -> str:
        return f"{self.log.name}: {self.log.read_text(errors='replace')[-6000:]}"


class Member(Process):
    """A consumer as an operator starts it. Its `client_id` tells Kafka's view of the group which one it is."""

    def __init__(self, group: Group, form: str, client_id: str, *arguments) -> None:
        super().__init__(*arguments)
        self.group, self.form, self.client_id = group, form, client_id


@dataclass(eq=False)
class Group:
    """A consumer group, its processes, and the letters that somebody has decided to put away."""

    name: str
    parks: bool
    size: int
    members: list[Member] = field(default_factory=list)
    put_away: list[int] = field(default_factory=list)


class FaultRun:
    """One database with its topic, its publisher, its groups and the faults that happen to them."""

    def __init__(self, info: StackInfo, folder: Path, protocol: str, seed: int) -> None:
        self.folder, self.protocol, self.seed = folder, protocol, seed
        self.broker = KafkaServer(Path(info.home) / "kafka")
        self.postgres = PostgresServer(Path(info.home) / "postgres")
        self.chance = random.Random(f"{seed} faults")
        name = f"faults_{os.urandom(3).hex()}"
        with psycopg.connect(info.postgres_dsn, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        self.dsn = f"{info.postgres_dsn.rpartition('/')[0]}/{name}"
        self.bootstrap_servers = info.kafka_bootstrap_servers
        self.topic = f"{name}-orders"
        self.groups = [Group(f"{name}-billing", parks=True, size=3), Group(f"{name}-statistics", parks=False, size=1)]
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("EVKIT_")} | {
            "FAULTS_TOPIC": self.topic,
            "FAULTS_PROTOCOL": protocol,
        }
        self.forms = FORMS
        self.command = [sys.executable, "-X", "faulthandler", "-m", "evkit", "--verbose"]
        self.publisher: Process | None = None
        self.leaving: list[Member] = []  # told to end, and not ended yet
        self.people: list[Process] = []
        self.counts: dict[str, int] = {}
        self.problems: list[str] = []
        self.zombies: list[tuple[float, float]] = []
        self.broker_outages: list[tuple[float, float]] = []
        self._number = 0
        self._since = time.monotonic()
        self._connection: psycopg.Connection | None = None
        self._run(["migrate"])
        self.ask(
            "CREATE TABLE effect (position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, consumer_group text, event_id"
            " text, key text, n int, attempt int, replay_id text, form text, pid int, at timestamptz DEFAULT"
            " clock_timestamp()); SELECT 0"
        )
        admin = AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0})
        for future in admin.create_topics([NewTopic(self.topic, PARTITIONS, 1)]).values():
            future.result(30)
        self._clients = {
            group: Consumer({"bootstrap.servers": self.bootstrap_servers, "group.id": group.name, "log_level": 0})
            for group in self.groups
        }

    def plant(self, bug: str) -> None:
        """All processes of evkit have this bug from now on."""
        self.command[self.command.index("-m") : self.command.index("--verbose")] = [str(SCRIPTS / "planted.py"), bug]

    # --- what is there ------------------------------------------------------------------------------------------------

    def ask(self, query: str, *parameters: object) -> int:
        """One number from the database; waits while that is away."""
        until = time.monotonic() + HANG_SECONDS
        while True:
            try:
                if self._connection is None:
                    self._connection = psycopg.connect(self.dsn, autocommit=True, application_name="faults")
                cursor = self._connection.execute(query, parameters or None)
                while cursor.nextset():
                    pass
                row = cursor.fetchone()
                return 0 if row is None else row[0]
            except psycopg.OperationalError:
                self._connection = None
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)

    def handled(self) -> int:
        """Grows with every effect of any group."""
        return self.ask("SELECT coalesce(max(position), 0) FROM effect")

    def behind(self) -> list[str]:
        """Partitions that a group has not committed to their end; not empty while the broker is away."""
        found = []
        try:
            for group in self.groups:
                client = self._clients[group]
                for place in client.committed([TopicPartition(self.topic, n) for n in range(PARTITIONS)], timeout=5):
                    _, end = client.get_watermark_offsets(TopicPartition(self.topic, place.partition), timeout=5)
                    if max(place.offset, 0) < end:
                        found.append(f"{group.name} {place.partition}: {place.offset} of {end}")
        except KafkaException as error:
            found.append(f"the broker does not answer: {error}")
        return found

    def owners(self, group: Group) -> dict[str, set[int]]:
        """Partitions by the client id of the member that has them, as the members say.

        The broker is not asked: an admin client whose question for a group outlived the broker's restart gets no answer any
        more, or ends its process (librdkafka's issue 4605, open).
        """
        return {m.client_id: places for m in group.members if (places := self.partitions(m))}

    @staticmethod
    def partitions(member: Member) -> set[int]:
        """What a member has by its own words."""
        found: set[int] = set()
        for line in member.log.read_text(errors="replace").splitlines():
            said = re.search(r": group \S+ (is assigned|gave up|lost) (.*)", line)
            if said is not None:
                places = {int(n) for n in re.findall(r"/(\d+)", said[2])}
                found = found | places if said[1] == "is assigned" else found - places
        return found

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def say(self, what: str) -> None:
        """For `-s`, and for the report of a failure: what happened when, in seconds."""
        print(f"{time.monotonic() - self._since:6.1f} {what}", flush=True)

    @property
    def members(self) -> list[Member]:
        return [member for group in self.groups for member in group.members]

    def wait(self, what: str, until, seconds: float = HANG_SECONDS) -> None:
        """Wait for a signal; raises Hang, with what everybody was doing, when it does not come."""
        deadline = time.monotonic() + seconds
        while not until():
            self.look_after()
            if time.monotonic() > deadline:
                raise Hang(f"waited {seconds:.0f} s in vain until {what}\n{self.stacks()}")
            time.sleep(0.1)

    def look_after(self) -> None:
        """Who has ended, and whether that was to be expected."""
        for member in [m for m in self.members if m.ended()]:
            member.group.members.remove(member)
            self.problems.append(f"a member ended by itself, code {member.process.returncode}: {member.words()}")
            self.start(member.group)
        for member in [m for m in self.leaving if m.ended()]:
            self.leaving.remove(member)
            code = member.process.returncode
            if code != 0 and (code != -signal.SIGTERM or "consumes" in member.words()):  # else it had not begun yet
                self.problems.append(f"a member that was told to stop ended with code {code}: {member.words()}")
        for person in [p for p in self.people if p.ended()]:
            self.people.remove(person)
            self.judge_person(person)
        if self.publisher is not None and self.publisher.process.poll() not in (None, 0):
            raise Hang(f"the publisher ended with code {self.publisher.process.returncode}: {self.publisher.words()}")

    def judge_person(self, person: Process) -> None:
        """A command of `evkit dlq` ends with one of its exit codes and a sentence, whatever happens meanwhile."""
        if person.process.returncode not in (0, 1, 3, -signal.SIGKILL) or "Traceback" in person.words():
            self.problems.append(f"evkit dlq ended with code {person.process.returncode}: {person.words()}")

    def stacks(self) -> str:
        """What PostgreSQL's sessions and the processes are doing: their threads are in their logs, and they are gone."""
        sessions = []
        with contextlib.suppress(psycopg.Error), psycopg.connect(self.dsn, autocommit=True) as connection:
            sessions = [
                f"{pid} {name} {state} waits for {wait} blocked by {blocked_by}: {query}"
                for pid, name, state, wait, blocked_by, query in connection.execute(
                    "SELECT pid, application_name, state, wait_event, pg_blocking_pids(pid), left(query, 200)"
                    " FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            ]
        owners = [f"{group.name}: {self.owners(group)}" for group in self.groups] + self.behind()
        everybody = [*self.members, *self.leaving, *self.people]
        for process in everybody:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGABRT)
                resume(process.pid)  # one that is frozen hears it only then
            process.process.wait(60)
        return "\n---\n".join([*(process.words() for process in everybody), *sessions, *owners])

    def wait_progress(self, events: int) -> None:
        """Wait until so many more events are handled, or parked, than now; less when the publisher has no more."""
        before = self.handled() + self.ask(PARKED)
        self.wait(
            f"{before + events} events are handled or parked",
            lambda: (
                self.handled() + self.ask(PARKED) >= before + events
                or (self.publisher is not None and self.publisher.ended())
            ),
        )

    # --- processes ----------------------------------------------------------------------------------------------------

    def _environment(self, client_id: str, group: Group | None) -> dict[str, str]:
        """Environment of an evkit process, with a configuration file of its own."""
        config = self.folder / f"{client_id}.toml"
        classic = f'"session.timeout.ms" = "{SESSION_SECONDS * 1000}"\n"heartbeat.interval.ms" = "1000"\n'
        config.write_text(
            f'default_profile = "faults"\n[profiles.faults]\npostgres_dsn = "{self.dsn}"\n[profiles.faults.kafka]\n'
            f'"bootstrap.servers" = "{self.bootstrap_servers}"\n"client.id" = "{client_id}"\n'
            + (classic if self.protocol == "classic" else "")
        )
        more = {} if group is None else {"FAULTS_GROUP": group.name, "FAULTS_PARK_KEY": "yes" if group.parks else "no"}
        return self.environment | {"EVKIT_CONFIG": str(config)} | more

    def _name(self, what: str) -> str:
        self._number += 1
        return f"{what}-{self._number:03}"

    def _run(self, arguments: list[str]) -> str:
        """A command that must do what it says; returns what it prints."""
        done = subprocess.run(
            [*self.command, *arguments],
            env=self._environment(self._name("command"), None),
            capture_output=True,
            text=True,
            check=False,
            cwd=SCRIPTS,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, group: Group, form: str | None = None) -> Member:
        form = form or self.chance.choice(self.forms)
        client_id = self._name(form)
        command = [*self.command, "consume", f"service:{form}"]
        environment = self._environment(client_id, group)
        member = Member(group, form, client_id, command, environment, self.folder / f"{client_id}.log")
        group.members.append(member)
        return member

    def start_all(self) -> None:
        """The processes that each group is to have: all forms come about, in an order of chance."""
        forms = self.chance.sample(self.forms, len(self.forms))
        for group in self.groups:
            while len(group.members) < group.size:
                self.start(group, forms[len(self.members) % len(forms)])

    def leave(self, member: Member) -> None:
        """SIGTERM: it finishes what is in hand, commits and goes; nobody waits for it here."""
        member.process.terminate()
        member.group.members.remove(member)
        self.leaving.append(member)

    def end_all(self) -> None:
        for member in self.members:
            self.leave(member)
        self.wait("members end that were told to stop", lambda: self.look_after() or not self.leaving)

    def publish(self, events: int, seconds: float, *more: str) -> None:
        """Start the publisher when all members are there, and wait for the first effect."""
        for group in self.groups:
            self.wait("all members have partitions", lambda g=group: len(self._having(g)) == len(g.members))
        command = [sys.executable, str(SCRIPTS / "publisher.py"), "--bootstrap-servers", self.bootstrap_servers]
        command += ["--topic", self.topic, "--seed", str(self.seed), "--events", str(events), *more]
        command += ["--rate", str(events / seconds), "--journal", str(self.folder / "published.json")]
        self.publisher = Process(command, self.environment, self.folder / "publisher.log", stdin=subprocess.PIPE)
        self.wait("the first event is handled", lambda: self.handled() > 0)

    def enough(self) -> None:
        """Let the publisher come to its end, and wait for it."""
        assert self.publisher is not None
        self.publisher.process.stdin.write(b"enough\n")
        self.publisher.process.stdin.flush()
        self.wait("the publisher ends", self.publisher.ended, 120)

    # --- people -------------------------------------------------------------------------------------------------------

    def person(self, group: Group, *arguments: str) -> Process:
        """Somebody who runs a command of `evkit dlq`."""
        name = self._name("dlq")
        command = [*self.command, "dlq", *arguments]
        person = Process(command, self._environment(name, group), self.folder / f"{name}.log")
        self.people.append(person)
        return person

    def open_letters(self, group: Group, what: str = "true") -> int:
        return self.ask(
            f"SELECT count(*) FROM evkit.dead_letter WHERE consumer_group = %s AND state = 'open' AND {what}",
            group.name,
        )

    def redriven(self, group: Group) -> int:
        return self.ask("SELECT count(*) FROM effect WHERE consumer_group = %s AND replay_id IS NOT NULL", group.name)

    def redrive(self) -> None:
        """Somebody redrives all letters of a group, at times with the release that they failed in."""
        group = self.chance.choice(self.groups)
        form = self.chance.choice(("mended", "mended", "mended", "plain"))
        self.wait("there is a letter to redrive", lambda: self.open_letters(group) > 0)
        self.person(group, "redrive", "-g", group.name, "--app", f"service:{form}", "--go-on", "--yes")
        self.count("redrives")

    def mend(self) -> None:
        """The mended release is there, and somebody redrives all letters with it; until it has ended or handled many."""
        group = self.groups[0]
        self.wait("there are letters to redrive", lambda: self.open_letters(group, "handler IS NOT NULL") > 1)
        many = self.redriven(group) + 500
        person = self.person(group, "redrive", "-g", group.name, "--app", "service:mended", "--go-on", "--yes")
        self.wait("a redrive ends", lambda: person.ended() or self.redriven(group) >= many)
        self.count("redrives")

    def kill_redrive(self) -> None:
        """A redrive is killed in the middle: after some of its letters, or some of what waits behind them."""
        group = self.groups[0]
        self.wait("there are letters to redrive", lambda: self.open_letters(group) > 2)
        before, some = self.redriven(group), self.chance.randint(1, 20)
        person = self.person(group, "redrive", "-g", group.name, "--app", "service:mended", "--go-on", "--yes")
        self.wait("a redrive is under way", lambda: person.ended() or self.redriven(group) >= before + some)
        if not person.ended():
            kill9(person.pid)
            person.process.wait()
            self.count("redrives_killed")

    def put_away(self) -> None:
        """Somebody decides that a letter needs no handling, and lets what waits behind it go on."""
        group = self.groups[0]
        self.wait("there is a letter to put away", lambda: self.open_letters(group, "handler IS NOT NULL") > 0)
        self.archive(group, "handler IS NOT NULL", 1)
        self.person(group, "release", "-g", group.name, "--app", "service:mended", "--yes")
        self.count("letters_put_away")

    def archive(self, group: Group, what: str, letters_max: int) -> None:
        """Archive open letters, and remember which; waits for it."""
        assert self.ask("SELECT 1") == 1
        rows = self._connection.execute(
            f"SELECT letter_id FROM evkit.dead_letter WHERE consumer_group = %s AND state = 'open' AND {what}"
            " ORDER BY random() LIMIT %s",
            (group.name, letters_max),
        ).fetchall()
        if not rows:
            return
        ids = [letter_id for (letter_id,) in rows]
        person = self.person(group, "archive", *map(str, ids), "--note", "needs no handling", "--yes")
        self.wait("letters are archived", person.ended)
        # One of them may have been redriven meanwhile; and a command that died may have done it before.
        for letter_id in ids:
            if self.ask(
                "SELECT count(*) FROM evkit.dead_letter WHERE letter_id = %s AND state = 'archived'", letter_id
            ):
                group.put_away.append(letter_id)

    # --- faults -------------------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """kill -9 of a member, or of all at once, and others soon after."""
        victims = self.members if self.chance.random() < 0.15 else [self.chance.choice(self.members)]
        for victim in victims:
            kill9(victim.pid)
        for victim in victims:
            victim.process.wait()
            victim.group.members.remove(victim)
            self.count("kills")
        time.sleep(self.chance.choice((0, 0, 0.5, 1)))  # a backlog of a second, at times
        for victim in victims:
            self.start(victim.group)

    def freeze(self) -> None:
        """A member hangs until the others have its partitions and are at them, and then goes on as if nothing had been."""
        group = self.groups[0]
        while len(group.members) < 2:
            self.start(group)
        self.wait("two members have partitions", lambda: len(self._having(group)) > 1)
        having = self._having(group)
        if len(having) < 2:
            return
        frozen = self.chance.choice(having)
        since = time.time()
        pause(frozen.pid)
        self.count("freezes")

        def taken_over() -> bool:
            others = [self.partitions(member) for member in group.members if member is not frozen]
            return len(set().union(*others)) == PARTITIONS

        self.wait("others take over from a member that hangs", taken_over, SESSION_SECONDS + 90)
        before, some = self.handled(), self.chance.randint(1, 200)
        # It may hang in a transaction, whose inbox rows those who come to the same events wait for.
        blocked = "SELECT count(*) FROM pg_stat_activity WHERE cardinality(pg_blocking_pids(pid)) > 0"
        self.wait(
            "others handle events, or wait for the one that hangs",
            lambda: self.handled() >= before + some or self.ask(blocked) > 0 or self.publisher.ended(),
        )
        self.counts["freezes_in_a_transaction"] = self.counts.get("freezes_in_a_transaction", 0) + (
            self.ask(blocked) > 0
        )
        resume(frozen.pid)
        self.zombies.append((since, time.time() + AFTER_SECONDS))
        self.wait_progress(self.chance.randint(1, 200))
        while len(group.members) > group.size:
            self.leave(self.chance.choice(group.members))

    def _having(self, group: Group) -> list[Member]:
        owners = self.owners(group)
        return [member for member in group.members if member.client_id in owners]

    def terminate_sessions(self) -> None:
        """The administrator ends sessions of consumers and redrives, all or one of them."""
        ended = self.ask(
            "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name LIKE 'evkit%%'"
            " ORDER BY random() LIMIT %s) AS s",
            self.chance.choice((1, 100)),
        )
        self.count("sessions_terminated") if ended else None

    def restart_postgres(self) -> None:
        """PostgreSQL is shut down and comes back; or one of its sessions is killed, and it recovers from that crash."""
        if self.chance.random() < 0.5:
            self.postgres.stop()
            time.sleep(self.chance.choice((0, 1)))
            self.postgres.start(lambda _: None)
            self.count("postgres_restarts")
        else:
            pid = self.ask(
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name LIKE 'evkit consumer%%' ORDER BY random() LIMIT 1"
            )
            if pid:
                kill9(pid)
                self.count("postgres_crashes")

    def restart_broker(self) -> None:
        """The broker is stopped, or killed, and comes back on the same port; or it hangs for longer than all sessions."""
        how = self.chance.choice(("stop", "kill", "hang"))
        process = self.broker.process()
        assert process is not None
        since = time.time()
        if how == "hang":
            pause(process.pid)
            try:
                time.sleep(SESSION_SECONDS + 1)  # nobody can say anything meanwhile
            finally:
                resume(process.pid)
            self.zombies.append((since, time.time() + AFTER_SECONDS))
        else:
            if how == "stop":
                self.broker.stop()
            else:
                process.kill()
                process.wait(60)
            self.broker.start(lambda _: None)
        self.broker_outages.append((since, time.time() + AFTER_SECONDS))
        self.count(f"broker_{how}s")

    def storm(self, changes: int = 8) -> None:
        """A member joins or leaves each second, whatever has become of the last one."""
        group = self.groups[0]
        for _ in range(changes):
            self.look_after()
            leaves = len(group.members) > 4 or (len(group.members) > 1 and self.chance.random() < 0.5)
            if not leaves:
                self.start(group)
                self.count("joins")
            elif self.chance.random() < 0.25:
                victim = self.chance.choice(group.members)
                kill9(victim.pid)
                victim.process.wait()
                group.members.remove(victim)
                self.count("kills")
            else:
                self.leave(self.chance.choice(group.members))
                self.count("leaves")
            time.sleep(1)
        while len(group.members) > group.size:
            self.leave(self.chance.choice(group.members))
        self.start_all()

    def handover(self) -> None:
        """A member joins and is given partitions by the others, and one leaves and gives them its own."""
        group = self.groups[0]
        new = self.start(group)
        self.wait("a new member has partitions", lambda: new in self._having(group))
        self.leave(self.chance.choice(group.members[:-1]))
        self.wait("a member leaves", lambda: self.look_after() or not self.leaving)
        self.count("handovers")

    def cut_transactions(self) -> None:
        """The administrator ends sessions that are in the middle of a handler."""
        ended = (
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name LIKE 'evkit consumer%%' AND state = 'idle in transaction'"
        )
        self.wait("a handler is at work", lambda: self.ask(ended) > 0)
        self.count("transactions_cut")

    def faults(self, plan: dict[str, int], events: int) -> None:
        """All faults of a plan in an order of chance, each at a moment of chance while events are moving."""
        order = [name for name, times in plan.items() for _ in range(times)]
        self.chance.shuffle(order)
        for name in order:
            self.wait_progress(self.chance.randint(1, max(2, events // len(order))))
            time.sleep(self.chance.random() * 0.1)  # anywhere in a batch, not always at its end
            self.say(name)
            getattr(self, name)()

    # --- the end ------------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Until everything is handled, committed, redriven or put away; then the members are told to stop."""
        self.say("drain")
        self.start_all()
        self.wait("every group has committed the end of its topic", lambda: not self.behind(), 180)
        self.say("redrive the rest")
        self.wait("nobody redrives any more", lambda: self.look_after() or not self.people)
        for group in self.groups:
            self.archive(group, "handler IS NULL", 10_000)  # records that are no events
            waiting = f"SELECT count(*) FROM evkit.parked_key WHERE consumer_group = '{group.name}'"
            tries = 0
            while (letters := self.open_letters(group)) or self.ask(waiting):
                what = "redrive" if letters else "release"
                person = self.person(group, what, "-g", group.name, "--app", "service:mended", "--yes")
                self.wait(f"`evkit dlq {what}` ends", lambda p=person: p.ended(), 180)
                tries += 1
                if tries > 5:
                    raise Hang(f"{letters} letters are open after {tries} redrives: {person.words()}")
        self.end_all()

    def settle_down(self) -> None:
        """Until nothing has moved for a while, for consumers of which no better can be expected; then they are killed."""
        before, since = -1, time.monotonic()
        while time.monotonic() < since + (SESSION_SECONDS + 3 if self.behind() else 1):
            self.look_after()
            now = self.handled()
            if now != before:
                before, since = now, time.monotonic()
            time.sleep(0.1)
        for process in [*self.members, *self.people]:
            process.process.kill()
            process.process.wait()

    def check(self, *, deliveries: Path | None = None) -> list[str]:
        """What the checker and the run itself have found; the counts are printed."""
        self.say("check")
        told = json.loads((self.folder / "published.json").read_text())
        known = {
            "groups": [{"name": g.name, "parks": g.parks, "put_away": g.put_away} for g in self.groups],
            "published": told["confirmed"],
            "zombies": self.zombies + [(at - AFTER_SECONDS, at + AFTER_SECONDS) for at in self.lost()],
            "broker_outages": self.broker_outages,
            "deliveries": None if deliveries is None else str(deliveries),
        }
        (self.folder / "run.json").write_text(json.dumps(known))
        command = [sys.executable, str(SCRIPTS / "checker.py"), "--dsn", self.dsn, "--topic", self.topic]
        command += ["--bootstrap-servers", self.bootstrap_servers, "--run", str(self.folder / "run.json")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
        assert done.stdout, done.stderr
        found = json.loads(done.stdout)
        logs = self.logs()
        seen = {"partitions_lost": len(self.lost()), "batches_split": logs.count("is taken again in parts")}
        seen["partitions_pushed"] = logs.count("it is pushed")
        counts = ", ".join(f"{k} {v:,}" for k, v in (found["counts"] | self.counts | seen).items())
        print(f"\n{self.protocol}, seed {self.seed}: {counts}")
        problems = told["failed"] + self.problems + found["problems"]
        print("\n".join(problems))
        return problems

    def logs(self) -> str:
        return "".join(file.read_text(errors="replace") for file in sorted(self.folder.glob("*.log")))

    def lost(self) -> list[float]:
        """When members lost partitions, as they say: also one that was too busy to be heard in time becomes a zombie."""
        said = re.findall(r"^(\S+ \S+),\d+ WARNING evkit\.runtime\.consumer: \S+ \S+ lost ", self.logs(), re.MULTILINE)
        return [datetime.fromisoformat(at).timestamp() for at in said]

    def close(self) -> None:
        for process in [*self.members, *self.leaving, *self.people]:
            with contextlib.suppress(ProcessLookupError):
                process.process.kill()
            process.process.wait()
        if self.publisher is not None:
            self.publisher.process.kill()
            self.publisher.process.wait()
            self.publisher.process.stdin.close()
        if self._connection is not None:
            self._connection.close()
        for client in self._clients.values():
            client.close()


@pytest.fixture
def seed(pytestconfig):
    given = pytestconfig.getoption("--seed")
    return random.randrange(10**6) if given is None else given


@pytest.fixture
def fault_run(own_stack, tmp_path_factory, seed):
    """`fault_run(protocol)` → a FaultRun, closed at the end."""
    runs = []

    def make(protocol: str = "consumer") -> FaultRun:
        print(f"seed {seed}: give it again by --seed {seed}")
        runs.append(FaultRun(own_stack, tmp_path_factory.mktemp("faults"), protocol, seed))
        return runs[-1]

    yield make
    for run in runs:
        run.close()


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("protocol", ["consumer", "classic"])
def test_group_under_faults_handles_each_event_once_and_in_order(protocol, fault_run, pytestconfig):
    """P3, P4, P5, P8: also with keys that are parked and redriven meanwhile, and no outage makes a dead letter."""
    events = pytestconfig.getoption("--events") or 4_000
    seconds = pytestconfig.getoption("--seconds") or events / 250
    times = max(1, events // 12_000)
    run = fault_run(protocol)
    plan = {
        "kill": 3 * times,
        "freeze": times,
        "terminate_sessions": 2 * times,
        "restart_postgres": times,
        "restart_broker": times,
        "storm": times,
        "redrive": 2 * times,
        "kill_redrive": times,
        "put_away": times,
    }

    run.start_all()
    run.publish(events, seconds)
    run.faults(plan, events)
    run.enough()
    run.drain()

    assert run.check() == []


@pytest.mark.parametrize("protocol", ["consumer", "classic"])
def test_clean_handover_repeats_nothing(protocol, fault_run, tmp_path):
    """While members join and leave by SIGTERM, nobody is handed a record that another one was handed."""
    run, deliveries = handovers(fault_run, protocol)
    run.drain()

    assert run.check(deliveries=deliveries) == []


def handovers(fault_run, protocol: str = "consumer", bug: str | None = None) -> tuple[FaultRun, Path]:
    """Members that come and go as they should, each busy with events that all can be handled."""
    run = fault_run(protocol)
    deliveries = run.folder / "deliveries"
    deliveries.mkdir()
    run.environment["FAULTS_TRACE"] = str(deliveries)
    run.groups = run.groups[:1]
    # With several lanes what is done behind an event that waits for its key comes again, and the inbox knows it.
    run.forms = ("plain", "batch", "pipeline")
    if bug is not None:
        run.plant(bug)
    run.start_all()
    run.publish(800, 4, "--good", "--steady", "--busy", "0.008")
    for _ in range(3):
        run.handover()
    run.enough()
    if run.lost():  # this machine was too busy for heartbeats, so that was no clean handover: once more
        return handovers(fault_run, protocol, bug)
    return run, deliveries


@pytest.mark.parametrize(
    ("bug", "forms", "plan", "found"),
    [
        ("commit_before_handling", FORMS, {"kill": 1}, "committed before they were done"),
        ("store_out_of_order", FORMS, {}, "committed before they were done"),
        ("inbox_outside_the_transaction", FORMS, {}, "neither an effect nor a letter"),
        ("blame_the_event", FORMS, {"cut_transactions": 6}, "attempts are of events that were not meant to fail"),
        ("forget_the_key", ("lanes",), {}, "effects come after a later event of their key"),
        ("overtake_the_dead", FORMS, {"mend": 1}, "effects come after a later event of their key"),
        # Whether the one that was freed meets a later event that is through, or one that comes, is a matter of moments.
        (
            "free_too_early",
            FORMS,
            {"mend": 1},
            "effects come after a later event of their key|keys went on past an event that was not handled",
        ),
    ],
)
def test_planted_bug_is_caught(bug, forms, plan, found, fault_run):
    """Else the tests above would prove nothing."""
    run = fault_run()
    run.plant(bug)
    run.forms = forms
    run.groups = run.groups[:1]
    run.groups[0].size = 2

    run.start_all()
    run.publish(1200, 4, "--keys", "10", "--steady")
    run.faults(plan, 1000)
    run.enough()
    run.settle_down()

    problems = run.check()
    assert any(re.search(found, problem) for problem in problems), problems


def test_epoch_that_ends_before_the_drain_is_caught(fault_run):
    """The inbox hides it from the effects: what it costs is that each handover does again what was in hand."""
    problems: list[str] = []
    for _ in range(3):  # where nothing was in hand at any of the handovers, there was nothing to hand in again
        run, deliveries = handovers(fault_run, bug="epoch_before_the_drain")
        run.settle_down()
        problems = run.check(deliveries=deliveries)
        if problems:
            break

    assert any("handed in again after a clean handover" in problem for problem in problems), problems


def test_watchdog_knows_where_partitions_end_after_a_broker_restart(own_stack):
    """A question for offsets is refused for ever by the broker that an admin client knows from before."""
    system = System(
        Settings(postgres_dsn=own_stack.postgres_dsn, kafka={"bootstrap.servers": own_stack.kafka_bootstrap_servers})
    )
    topic = f"watched-{os.urandom(3).hex()}"
    kafka.create_topics(system.settings, {topic: 1})
    producer = kafka.producer(system.settings)
    producer.produce(topic, b"{}", b"k")
    producer.flush(30)
    client = kafka.consumer(system.settings, topic)
    watchdog = Watchdog(topic, system.admin)
    kafka.offsets(system.settings, kafka.partitions_of(system.settings, [topic], system.admin), client=system.admin)
    broker = KafkaServer(Path(own_stack.home) / "kafka")
    broker.stop()
    broker.start(lambda _: None)

    until = time.monotonic() + HANG_SECONDS
    while not watchdog._still and time.monotonic() < until:
        watchdog.look(client, [(topic, 0)], lambda _: -1)
        time.sleep(0.1)

    assert watchdog._still, "it does not see that nothing is read of a partition that has a record"
    client.close()
