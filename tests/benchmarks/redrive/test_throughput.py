"""How fast 10,000 letters are redriven, each key parked behind its letter, against the plain consumer: the same handler
(one upsert) on the same events, in turns, three rounds. What each has done is looked up in SQL. What a redrive has done is
undone for the next round, and the tables are vacuumed then, for that is the benchmark's doing.

    uv run pytest tests/benchmarks/redrive -s
"""

from __future__ import annotations

import statistics
import time

import psycopg
import pytest

from evkit import Consumer, Event, Relay, Retry, dead_letters, outbox
from evkit.runtime.dead_letters import Selection
from tests.relaying import drain

LETTERS, ROUNDS = 10_000, 3
UPSERT = "INSERT INTO effect VALUES (%s, %s, 1) ON CONFLICT (grp, key) DO UPDATE SET n = effect.n + 1"


def timed(work):
    """(seconds, the work's result)."""
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def filled(system, events):
    """What the handlers write into, and these events in their topic."""
    with system.writing() as connection:
        connection.execute("CREATE TABLE effect (grp text, key text, n bigint, PRIMARY KEY (grp, key))")
        outbox.write_many(connection, events)
    relay = Relay(system)
    drain(relay)
    relay.close()


@pytest.mark.timeout(1800)
def test_redrive_of_10_000_letters(evkit_system, evkit_topic, evkit_group, report):
    topic = evkit_topic(partitions=6)
    filled(evkit_system, [Event("a.b", f"k{i}", {"pad": "x" * 220}, topic=topic) for i in range(LETTERS)])
    broken = True

    def handle(event, tx):
        if broken and tx.group == failing.group:
            raise ValueError("the bug")
        tx.execute(UPSERT, (tx.group, event.key))

    def consumer(group):
        made = Consumer(group, [topic], system=evkit_system, retry=Retry(attempts=1), breaker=None)
        made.handler("a.b")(handle)
        return made

    def consumed(made):
        while made.counts.total < LETTERS:
            made.step(1.0)
        return LETTERS - first

    failing, first = consumer(evkit_group()), 0
    dying, _ = timed(lambda: consumed(failing))
    failing.close()
    broken = False
    with evkit_system.writing() as connection:
        connection.execute("CREATE TABLE kept AS SELECT * FROM evkit.parked_key")
        connection.execute("CREATE TABLE marks AS SELECT event_id FROM evkit.inbox WHERE outcome = 'dead'")
    rates = {"consumer": [], "redrive": []}
    for _ in range(ROUNDS):
        plain = consumer(evkit_group())
        plain.step(5.0)  # joins the group, and warms up
        first = plain.counts.total
        seconds, events = timed(lambda made=plain: consumed(made))
        rates["consumer"].append(events / seconds)
        plain.close()
        plan = dead_letters.plan_redrive(evkit_system, Selection(group=failing.group))
        seconds, result = timed(lambda made=plan: dead_letters.redrive(evkit_system, made, failing))
        assert (len(result.resolved), result.state) == (LETTERS, "done")
        rates["redrive"].append(LETTERS / seconds)
        with evkit_system.writing() as connection:
            done = "SELECT count(*), sum(n) FROM effect WHERE grp = %s"
            assert connection.execute(done, (failing.group,)).fetchone() == (LETTERS, LETTERS)
            assert connection.execute("SELECT count(*) FROM evkit.parked_key").fetchone() == (0,)
            connection.execute("DELETE FROM effect")  # and as it was before the redrive:
            connection.execute("INSERT INTO evkit.parked_key SELECT * FROM kept")
            connection.execute("UPDATE evkit.dead_letter SET state = 'open'")
            connection.execute(
                "UPDATE evkit.inbox SET outcome = 'dead' WHERE consumer_group = %s"
                " AND event_id IN (SELECT event_id FROM marks)",
                (failing.group,),
            )
        with psycopg.connect(evkit_system.settings.postgres_dsn, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE")

    ratios = [a / b for a, b in zip(rates["redrive"], rates["consumer"], strict=True)]
    report(
        "redrive",
        [
            {
                "letters": LETTERS, "rounds": ROUNDS, "letters_per_second": statistics.median(rates["redrive"]),
                "consumer_events_per_second": statistics.median(rates["consumer"]),
                "ratio_to_consumer": statistics.median(ratios), "ratio_to_consumer_range": [min(ratios), max(ratios)],
                "dying_per_second": LETTERS / dying,
            }
        ],
    )  # fmt: skip


@pytest.mark.timeout(1800)
def test_release_of_what_waits_behind_ten_letters(evkit_system, evkit_topic, evkit_group, report):
    """Ten keys of 1,000 events each, the first of each is dead: as fast as the consumer would have handled them?"""
    topic = evkit_topic(partitions=6)
    filled(evkit_system, [Event("a.b", f"k{i % 10}", {"n": i, "pad": "x" * 220}, topic=topic) for i in range(LETTERS)])
    broken: set[str] = set()

    def handle(event, tx):
        if tx.group in broken and event.payload["n"] < 10:
            raise ValueError("the bug")
        tx.execute(UPSERT, (tx.group, event.key))

    rates = {"consumer": [], "release": []}
    for _ in range(ROUNDS):
        for name in ("consumer", "release"):
            made = Consumer(evkit_group(), [topic], system=evkit_system, retry=Retry(attempts=1), breaker=None)
            made.handler("a.b")(handle)
            if name == "release":
                broken.add(made.group)
            made.step(5.0)
            first, started = made.counts.total, time.perf_counter()
            while made.counts.total < LETTERS:
                made.step(1.0)
            if name == "consumer":
                rates[name].append((LETTERS - first) / (time.perf_counter() - started))
            made.close()
            if name == "release":
                broken.clear()
                plan = dead_letters.plan_redrive(evkit_system, Selection(group=made.group))
                seconds, result = timed(lambda p=plan, c=made: dead_letters.redrive(evkit_system, p, c))
                assert (len(result.resolved), result.released) == (10, LETTERS - 10)
                rates[name].append(LETTERS / seconds)
            with evkit_system.writing() as connection:
                done = "SELECT count(*), sum(n) FROM effect WHERE grp = %s"
                assert connection.execute(done, (made.group,)).fetchone() == (10, LETTERS)

    ratios = [a / b for a, b in zip(rates["release"], rates["consumer"], strict=True)]
    report(
        "release",
        [
            {
                "letters": 10, "events_behind": LETTERS - 10, "rounds": ROUNDS,
                "events_per_second": statistics.median(rates["release"]),
                "consumer_events_per_second": statistics.median(rates["consumer"]),
                "ratio_to_consumer": statistics.median(ratios), "ratio_to_consumer_range": [min(ratios), max(ratios)],
            }
        ],
    )  # fmt: skip
