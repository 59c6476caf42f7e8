"""What a replay does with events: dedupe policies, follow-up events, filters, limits, parked keys; counted exactly."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from evkit import Event, Retry, dead_letters, replay
from evkit.errors import ReplayRefused, UsageError
from evkit.runtime import replay_ledger
from evkit.runtime.outcome import Counts
from evkit.testing.waiting import until

EVENTS = 30
TABLES = ("inbox", "attempt", "dead_letter", "outbox", "parked", "parked_key", "id_conflict", "key_version")


def hour_ago():
    return datetime.now(UTC) - timedelta(hours=1)


@pytest.fixture
def shop(evkit_system, evkit_topic, published, new_consumer, consumed):
    """Thirty events on five keys in two partitions, all handled; a handler that does what a test tells it."""
    with evkit_system.writing() as connection:
        connection.execute("CREATE TABLE effect (event_id text, n int, key text)")
        connection.execute("CREATE TABLE once (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    topic = evkit_topic(partitions=2)

    class Shop:
        ids = published(
            *[
                Event("order.placed" if i % 3 else "order.paid", f"k{i % 5}", {"i": i}, topic=topic)
                for i in range(EVENTS)
            ]
        )
        seen: list[int] = []
        failing: set[int] = set()
        more = staticmethod(lambda event, tx: None)

        def consumer(self, **options):
            consumer = new_consumer(topic, **{"group": self.group, "retry": Retry(attempts=1), **options})

            @consumer.handler("order.placed", "order.paid")
            def handle(event, tx):
                Shop.seen.append(event.payload["i"])
                tx.execute("INSERT INTO effect VALUES (%s, 1, %s)", (event.id, event.key))
                Shop.more(event, tx)
                if event.payload["i"] in Shop.failing:
                    raise ValueError("not this one")

            return consumer

    Shop.topic, Shop.group, Shop.seen, Shop.failing = topic, None, [], set()
    shop = Shop()
    first = shop.consumer()
    shop.group = first.group
    consumed(first, EVENTS)
    first.close()
    Shop.seen = []
    return shop


@pytest.fixture
def forget(evkit_system):
    """`forget(ids)`: as if these events had been lost before the group handled them."""

    def forgotten(ids):
        with evkit_system.writing() as connection:
            connection.execute("DELETE FROM evkit.inbox WHERE event_id = ANY(%s)", (ids,))
            connection.execute("DELETE FROM effect WHERE event_id = ANY(%s)", (ids,))

    return forgotten


@pytest.fixture
def contents(rows):
    """`contents()`: every row of every table that handling writes to."""
    return lambda: (
        {
            table: rows(f"SELECT * FROM {table} ORDER BY 1, 2")
            for table in (*(f"evkit.{t}" for t in TABLES), "effect", "once")
            if table != "once"
        }
        | {"once": rows("SELECT * FROM once")}
    )


def test_dry_counts_what_would_be_handled_and_fail_and_nothing_stays(evkit_system, shop, contents):
    shop.failing.update({4, 7})
    type(shop).more = staticmethod(lambda event, tx: tx.write(Event("bill.sent", event.key, {})))
    before = contents()
    plan = replay.plan(evkit_system, shop.group, hour_ago(), dedupe="dry")

    result = replay.run(evkit_system, plan, shop.consumer())

    assert (result.state, result.counts.handled, result.counts.dead) == ("done", EVENTS - 2, 2)
    assert result.emitted == EVENTS - 2
    assert contents() == before
    (failure,) = replay.status(evkit_system, result.replay_id)["failures"]
    assert (failure["events"], failure["error_class"], failure["error_message"]) == (2, "ValueError", "not this one")
    assert failure["event_id"] in shop.ids


def test_dry_tells_the_handler_and_survives_one_that_commits_by_itself(evkit_system, shop, contents, rows):
    dry = []

    def more(event, tx):
        dry.append((tx.dry, tx.is_replay))
        if event.payload["i"] == 3:
            tx.execute("COMMIT")

    type(shop).more = staticmethod(more)
    before = contents()
    plan = replay.plan(evkit_system, shop.group, hour_ago(), dedupe="dry")

    result = replay.run(evkit_system, plan, shop.consumer())

    assert contents() == before
    assert (result.counts.handled, result.counts.dead) == (EVENTS - 1, 1)
    assert set(dry) == {(True, True)}
    (failure,) = replay.status(evkit_system, result.replay_id)["failures"]
    assert "a_dry_replay_commits_nothing" in failure["error_message"]


def test_dry_finds_what_would_fail_only_at_the_commit(evkit_system, shop, contents):
    type(shop).more = staticmethod(
        lambda event, tx: event.payload["i"] == 9 and tx.execute("INSERT INTO once VALUES (1), (1)")
    )
    before = contents()
    plan = replay.plan(evkit_system, shop.group, hour_ago(), dedupe="dry")

    result = replay.run(evkit_system, plan, shop.consumer())

    assert (result.counts.handled, result.counts.dead) == (EVENTS - 1, 1)
    assert contents() == before


@pytest.mark.parametrize(("emit", "marked"), [("none", []), ("marked", [True]), ("normal", [False])])
def test_follow_up_events_are_withheld_marked_or_normal(evkit_system, shop, rows, emit, marked):
    from evkit import outbox

    def more(event, tx):
        if event.payload["i"] % 2:
            tx.write(Event("bill.sent", event.key, {}, headers={"tenant": "north"}))
        else:
            outbox.write_many(tx.connection, [Event("bill.sent", event.key, {}, headers={"tenant": "north"})])

    type(shop).more = staticmethod(more)
    plan = replay.plan(evkit_system, shop.group, hour_ago(), dedupe="again")

    result = replay.run(evkit_system, plan, shop.consumer(), emit=emit)

    found = rows(
        "SELECT headers ->> 'evkit-replay-id', headers ->> 'tenant' FROM evkit.outbox WHERE type = 'bill.sent'"
    )
    assert {(mark == result.replay_id, mark is None, tenant) for mark, tenant in found} == {
        (m, not m, "north") for m in marked
    }
    assert len(found) == (EVENTS if marked else 0)
    assert result.emitted == EVENTS


def test_keys_and_types_choose_and_what_they_leave_out_is_counted(evkit_system, shop):
    plan = replay.plan(evkit_system, shop.group, hour_ago(), dedupe="again", keys=["k1", "k2"], types=["order.paid"])
    wanted = [i for i in range(EVENTS) if i % 5 in (1, 2) and i % 3 == 0]
    assert (plan.records, plan.contents.keys, plan.contents.filtered) == (len(wanted), 2, EVENTS - len(wanted))

    result = replay.run(evkit_system, plan, shop.consumer())

    assert sorted(shop.seen) == wanted
    assert (result.counts.handled, result.filtered) == (len(wanted), EVENTS - len(wanted))
    found = replay.status(evkit_system, result.replay_id)
    assert (found["offsets_done"], found["offsets"]) == (EVENTS, EVENTS)
    assert (found["keys"], found["types"]) == (["k1", "k2"], ["order.paid"])


def test_error_budget_ends_a_replay_exactly_and_a_larger_one_goes_on(evkit_system, shop, rows):
    shop.failing.update({2, 5, 11, 17, 23})
    plan = replay.plan(evkit_system, shop.group, hour_ago(), dedupe="again")

    result = replay.run(evkit_system, plan, shop.consumer(), errors_max=3)

    assert (result.state, result.counts.dead) == ("stopped", 3)
    assert result.why == "its error budget is used up: 3 events have failed, and one more would"
    assert rows("SELECT count(*) FROM evkit.dead_letter") == [(3,)]
    with pytest.raises(ReplayRefused, match="used up its error budget: 3 events have failed, and 3 may"):
        replay.resume(evkit_system, result.replay_id, shop.consumer())

    done = replay.resume(evkit_system, result.replay_id, shop.consumer(), errors_max=10)

    assert (done.state, done.counts.handled, done.counts.dead, done.why) == ("done", EVENTS - 5, 5, None)
    assert {x.replay_id for x in dead_letters.letters(evkit_system)} == {result.replay_id}
    assert rows("SELECT count(*), count(DISTINCT event_id) FROM effect") == [(EVENTS + EVENTS - 5, EVENTS)]


def test_throttled_replay_takes_its_time(evkit_system, shop):
    plan = replay.plan(evkit_system, shop.group, hour_ago(), dedupe="again")
    began = datetime.now(UTC)

    result = replay.run(evkit_system, plan, shop.consumer(), per_second_max=20)

    assert result.counts.handled == EVENTS
    assert (datetime.now(UTC) - began).total_seconds() > (EVENTS - 3) / 20


def test_lanes_of_the_consumer_share_the_work_and_the_count_is_exact(evkit_system, shop, rows):
    shop.failing.update({8})
    threads = set()

    def more(event, tx):
        threads.add(threading.current_thread().name)
        until(lambda: len(threads) > 1)  # else the first lane may be through before the others have begun

    type(shop).more = staticmethod(more)
    plan = replay.plan(evkit_system, shop.group, hour_ago(), dedupe="again")

    result = replay.run(evkit_system, plan, shop.consumer(concurrency=3, batch_events_max=4))

    assert (result.counts.handled, result.counts.dead) == (EVENTS - 1, 1)
    by_key = {}
    for i in shop.seen:
        by_key.setdefault(i % 5, []).append(i)
    assert all(list(dict.fromkeys(seen)) == sorted(set(seen)) for seen in by_key.values()), "each key in its order"


def test_group_without_an_inbox_replays_again_and_cannot_honour_one(evkit_system, shop, rows):
    plan = replay.plan(evkit_system, shop.group, hour_ago())
    with pytest.raises(ReplayRefused, match="keeps no inbox, so nothing tells what it has handled"):
        replay.run(evkit_system, plan, shop.consumer(inbox=False))
    plan = replay.plan(evkit_system, shop.group, hour_ago(), dedupe="again")

    result = replay.run(evkit_system, plan, shop.consumer(inbox=False))

    assert (result.state, result.counts.handled) == ("done", EVENTS)
    assert rows("SELECT count(*) FROM evkit.inbox") == [(EVENTS,)]


# --- order behind a dead letter (P3) ----------------------------------------------------------------------------------


def test_missing_event_of_a_parked_key_waits_behind_its_letter(evkit_system, shop, forget, rows):
    """k1's events are 1, 6, 11, 16, 21, 26: 11 is a letter, 16 to 26 are lost."""
    forget([shop.ids[i] for i in (11, 16, 21, 26)])
    shop.failing.add(11)
    only = replay.plan(evkit_system, shop.group, hour_ago(), keys=["k1"])
    first = replay.run(evkit_system, only, shop.consumer())
    assert (first.counts.dead, first.counts.parked) == (1, 3), "after the failed event none of its key is handled"
    with evkit_system.writing() as connection:  # as if the three had been lost once more
        connection.execute("DELETE FROM evkit.parked")
        connection.execute("UPDATE evkit.parked_key SET events = 0")
        connection.execute("DELETE FROM evkit.inbox WHERE outcome = 'parked'")
    shop.failing.clear()
    shop.seen.clear()

    plan = replay.plan(evkit_system, shop.group, hour_ago())
    result = replay.run(evkit_system, plan, shop.consumer())

    assert (plan.missing, plan.known_dead, plan.contents.parked_keys) == (3, 1, 1)
    assert any("1 of the keys are parked behind a dead letter" in note for note in plan.notes)
    assert any("1 of the events are open dead letters" in note for note in plan.notes)
    assert (result.counts.handled, result.counts.parked, result.counts.duplicate) == (0, 3, EVENTS - 3)
    assert shop.seen == []

    redriven = dead_letters.redrive(
        evkit_system, dead_letters.plan_redrive(evkit_system, dead_letters.Selection(group=shop.group)), shop.consumer()
    )

    assert shop.seen == [11, 16, 21, 26]
    assert (len(redriven.resolved), redriven.released) == (1, 3)


def test_plan_says_where_a_missing_event_comes_late(evkit_system, shop, forget):
    forget([shop.ids[6], shop.ids[28]])  # k1 has later events that were handled; 28 is the last of k3

    plan = replay.plan(evkit_system, shop.group, hour_ago())

    assert (plan.missing, plan.contents.late_keys) == (2, 1)
    assert any("on 1 keys an event is missing that is older" in note for note in plan.notes)


# --- counting, fences -------------------------------------------------------------------------------------------------


@pytest.fixture
def prepared(evkit_system, shop):
    """A replay that is written down and not started: its id."""
    plan = replay.plan(evkit_system, shop.group, hour_ago(), dedupe="again")
    return replay.prepare(evkit_system, plan, shop.consumer())


def test_what_a_lost_answer_to_a_commit_had_counted_is_not_counted_again(evkit_system, shop, prepared):
    """The same batch comes again, and the offsets of it are there."""
    pieces = {(shop.topic, 0): [(0, 1), (1, 2)], (shop.topic, 1): [(3, 4)]}
    with evkit_system.writing(autocommit=True) as connection:
        (epoch,) = connection.execute("SELECT epoch FROM evkit.replay_run").fetchone()
        first = replay_ledger.progress(connection, prepared, epoch, pieces, Counts(handled=3), filtered=1)
        second = replay_ledger.progress(connection, prepared, epoch, pieces, Counts(duplicate=3), filtered=1)

    assert (first, second) == (True, False)
    found = replay.status(evkit_system, prepared)
    assert (found["handled"], found["known"], found["filtered"], found["offsets_done"]) == (3, 0, 1, 3)


def test_process_whose_replay_was_taken_over_commits_nothing_more(evkit_system, shop, rows):
    """As after a network partition: both handle the same events, and only the second one's effects are there."""
    started = []

    def more(event, tx):
        if not started:
            started.append(event)
            with psycopg.connect(evkit_system.settings.postgres_dsn, autocommit=True) as other:
                other.execute("UPDATE evkit.replay_run SET epoch = epoch + 1")

    type(shop).more = staticmethod(more)
    plan = replay.plan(evkit_system, shop.group, hour_ago(), dedupe="again")

    result = replay.run(evkit_system, plan, shop.consumer())

    assert (result.state, result.counts.handled) == ("running", 0), "it is another process's now"
    assert rows("SELECT count(*) FROM effect") == [(EVENTS,)]

    again = replay.resume(evkit_system, result.replay_id, shop.consumer())
    assert (again.state, again.counts.handled) == ("done", EVENTS)
    assert rows("SELECT count(*) FROM effect") == [(2 * EVENTS,)]


def test_replay_is_run_by_one_process_at_a_time_and_can_be_stopped_from_elsewhere(evkit_system, shop, caplog):
    inside, go_on = threading.Event(), threading.Event()

    def more(event, tx):
        inside.set()
        assert go_on.wait(60)

    type(shop).more = staticmethod(more)
    plan = replay.plan(evkit_system, shop.group, hour_ago(), dedupe="again")
    replay_id = replay.prepare(evkit_system, plan, shop.consumer())
    results = []
    thread = threading.Thread(
        target=lambda: results.append(replay.resume(evkit_system, replay_id, shop.consumer(batch_events_max=10)))
    )
    thread.start()
    assert inside.wait(60)

    with pytest.raises(ReplayRefused, match="is being run by another process"):
        replay.resume(evkit_system, replay_id, shop.consumer())
    assert replay.stop(evkit_system, replay_id, reason="wrong group") == "running"
    while not any(f"replay {replay_id} ends: " in message for message in caplog.messages):
        time.sleep(0.01)
    go_on.set()
    thread.join(60)

    (result,) = results
    assert (result.state, result.counts.handled) == ("stopped", 10), "the batch in hand is finished"
    assert "has stopped it" in result.why
    with pytest.raises(ReplayRefused, match="is stopped: there is nothing to stop"):
        replay.stop(evkit_system, replay_id)
    done = replay.resume(evkit_system, replay_id, shop.consumer())
    assert (done.state, done.counts.handled) == ("done", EVENTS)


def test_killed_replay_is_interrupted_and_can_be_put_down(evkit_system, prepared, shop):
    with evkit_system.writing() as connection:  # as kill -9 leaves it
        connection.execute(
            "UPDATE evkit.replay_run SET state = 'running', alive_at = clock_timestamp() - interval '16 s'"
        )
    assert replay.runs(evkit_system)[0]["state"] == "interrupted"
    plan = replay.plan(evkit_system, shop.group, hour_ago())
    assert any(f"`evkit replay resume {prepared}` goes on with it" in note for note in plan.notes)

    assert replay.stop(evkit_system, prepared) == "interrupted"

    assert [(r["state"], r["why"]) for r in replay.runs(evkit_system)] == [("stopped", "its process was gone")]


# --- what is refused --------------------------------------------------------------------------------------------------


def test_consumer_that_does_not_fit_is_refused_before_anything_is_written(evkit_system, shop, new_consumer, rows):
    nobody = new_consumer(shop.topic, group=shop.group)
    other_types = new_consumer(shop.topic, group=shop.group)
    other_types.handler("order.cancelled")(lambda event, tx: None)

    with pytest.raises(UsageError, match=f"consumer '{shop.group}' has no handler"):
        replay.plan(evkit_system, shop.group, hour_ago(), consumer=nobody)
    with pytest.raises(ReplayRefused, match="has no handler for any event of the stretch"):
        replay.plan(evkit_system, shop.group, hour_ago(), consumer=other_types)
    with pytest.raises(ReplayRefused, match=r"has no handler for 'order\.refunded' \(there are: order\.cancelled\)"):
        replay.plan(evkit_system, shop.group, hour_ago(), types=["order.refunded"], consumer=other_types)
    plan = replay.plan(evkit_system, shop.group, hour_ago(), types=["order.paid"])
    with pytest.raises(ReplayRefused, match=r"has no handler for 'order\.paid'"):
        replay.run(evkit_system, plan, other_types)
    for wrong in (
        {"mode": "besides"},
        {"emit": "some"},
        {"errors_max": -1},
        {"errors_max": 2**70},
        {"per_second_max": 0},
        {"per_second_max": float("inf")},
        {"per_second_max": float("nan")},
    ):
        with pytest.raises(UsageError):
            replay.run(evkit_system, plan, shop.consumer(), **wrong)

    assert rows("SELECT count(*) FROM evkit.replay_run") == [(0,)]
    assert rows("SELECT count(*) FROM evkit.audit") == [(0,)]
