"""A redrive: growing stages, batches, stops, cancelled, resumed, left to the running consumers; each letter once."""

from __future__ import annotations

import json
import sys
import threading
import types
from collections import Counter

import pytest
from typer.testing import CliRunner

from evkit import Event, Retry, TryLater, dead_letters, views
from evkit.cli import app
from evkit.errors import DatabaseUnreachable, RedriveRefused, UnknownRedrive, UsageError
from evkit.runtime import redrive as redriving
from evkit.runtime.dead_letters import Selection
from evkit.runtime.release import parked_keys


class Billing:
    """A group whose handler raises what `fails` says of an event, and counts its effects in the database."""

    def __init__(self, system, topic, published, new_consumer):
        self.system, self.topic, self.published, self.new_consumer = system, topic, published, new_consumer
        self.fails = lambda i: ValueError("odd")
        self.inside = lambda i: None
        self.seen = []
        self.consumer = self.member()
        with system.writing() as connection:
            connection.execute("CREATE TABLE bill (n bigserial, i int, key text)")

    def member(self, group=None):
        """One more consumer of the group."""
        consumer = self.new_consumer(self.topic, group, retry=Retry(attempts=1), breaker=None)
        consumer.handler("a.b")(self.handle)
        return consumer

    def handle(self, event, tx):
        i = event.payload["i"]
        self.seen.append(i)
        self.backend_pid = tx.connection.info.backend_pid
        tx.execute("INSERT INTO bill (i, key) VALUES (%s, %s)", (i, event.key))
        self.inside(i)
        if error := self.fails(i):
            raise error

    def write(self, numbers, key="k{}", type="a.b"):
        self.published(*[Event(type, key.format(i), {"i": i}, topic=self.topic) for i in numbers])
        total = self.consumer.counts.total + len(numbers)
        while self.consumer.counts.total < total:
            self.consumer.step(1.0)
        self.seen.clear()

    def mend(self):
        self.fails = lambda i: None

    def plan(self, **selection):
        return dead_letters.plan_redrive(self.system, Selection(group=self.consumer.group, **selection))

    def redrive(self, plan=None, **more):
        return dead_letters.redrive(self.system, plan or self.plan(), self.consumer, **more)

    def effects(self):
        return [i for (i,) in self.rows("SELECT i FROM bill ORDER BY n")]

    def rows(self, query):
        with self.system.reading() as connection:
            return connection.execute(query).fetchall()

    def states(self):
        return dict(self.rows("SELECT state, count(*)::int FROM evkit.dead_letter GROUP BY 1"))


@pytest.fixture
def billing(evkit_system, evkit_topic, published, new_consumer):
    return Billing(evkit_system, evkit_topic(), published, new_consumer)


def test_letters_go_in_stages_of_1_10_and_100_and_then_the_rest(billing):
    billing.write(range(130))
    billing.mend()
    steps = []

    result = billing.redrive(progress=lambda done, planned: steps.append((done, planned)))

    assert steps == [(1, 130), (11, 130), (111, 130), (130, 130)]
    assert billing.seen == list(range(130))
    assert (len(result.resolved), result.state, billing.states()) == (130, "done", {"resolved": 130})
    assert billing.effects() == list(range(130))
    assert parked_keys(billing.system) == []


def test_letters_that_fail_again_are_by_themselves_and_cost_the_others_nothing(billing):
    billing.write(range(40))
    billing.fails = lambda i: ValueError("odd") if i in (5, 17, 18, 39) else None

    result = billing.redrive(stop_at_failure=False)

    assert (len(result.resolved), len(result.failed), result.state) == (36, 4, "done")
    assert billing.effects() == [i for i in range(40) if i not in (5, 17, 18, 39)]
    for bad in (5, 17, 18, 39):
        assert billing.seen.count(bad) == 1  # the failure in the batch is the attempt
    assert {x.retry_count for x in dead_letters.letters(billing.system)} == {1}
    assert [len(dead_letters.show(billing.system, i).attempts) for i in result.failed] == [2] * 4


def test_handler_that_takes_batches_is_searched_for_the_letter_that_fails(billing):
    billing.write(range(30))
    billing.consumer.handlers = type(billing.consumer.handlers)()

    @billing.consumer.handler("a.b", batch=True)
    def handle(events, tx):
        for event in events:
            tx.execute("INSERT INTO bill (i) VALUES (%s)", (event.payload["i"],))
        if any(event.payload["i"] == 23 for event in events):
            raise ValueError("somewhere in here")

    result = billing.redrive(stop_at_failure=False)

    assert (len(result.resolved), len(result.failed)) == (29, 1)
    assert billing.effects() == [i for i in range(30) if i != 23]


def test_stage_that_fails_in_a_new_way_stops_the_redrive_before_it_costs_all_letters_an_attempt(billing):
    billing.write(range(40))
    billing.fails = lambda i: KeyError("the fix has broken something else")

    result = billing.redrive()

    assert (len(result.failed), len(result.not_tried), result.state) == (1, 39, "stopped")
    assert "1 of the 1 letters of a stage failed, in another way" in result.why


def test_what_a_handler_needs_being_away_stops_the_redrive_and_costs_no_attempt(billing):
    billing.write(range(5))
    billing.fails = lambda i: TryLater("the bank is closed")

    result = billing.redrive()

    assert (result.failed, len(result.not_tried), result.state) == ([], 5, "stopped")
    assert "through nobody's fault" in result.why
    assert {x.retry_count for x in dead_letters.letters(billing.system)} == {0}
    billing.mend()
    assert len(dead_letters.resume(billing.system, result.redrive_id, billing.consumer).resolved) == 5


def test_letters_without_a_handler_in_this_application_are_refused_before_anything_runs(billing):
    billing.write(range(3))
    billing.consumer.handlers = type(billing.consumer.handlers)()
    billing.consumer.handler("c.d")(billing.handle)

    with pytest.raises(RedriveRefused, match=r"no handler for 'a.b'.*3 of the letters.*the first is \d+"):
        billing.redrive()

    assert dead_letters.runs(billing.system) == []
    assert billing.rows("SELECT * FROM evkit.audit") == []
    assert {x.retry_count for x in dead_letters.letters(billing.system)} == {0}


def test_redrive_that_was_stopped_goes_on_with_what_it_has_not_tried(billing):
    billing.write(range(20))
    billing.mend()
    stop = threading.Event()

    first = billing.redrive(stop=stop, progress=lambda done, _: stop.set())
    again = dead_letters.resume(billing.system, first.redrive_id, billing.consumer, reason="lunch is over")

    assert (len(first.resolved), len(first.not_tried), first.state) == (1, 19, "stopped")
    assert (len(again.resolved), again.state, again.redrive_id) == (20, "done", first.redrive_id)
    assert billing.effects() == list(range(20))
    acts = billing.rows("SELECT act, reason, result ->> 'resolved' FROM evkit.audit ORDER BY audit_id")
    assert acts == [("dead_letters.redrive", None, "1"), ("dead_letters.redrive.resume", "lunch is over", "20")]
    with pytest.raises(RedriveRefused, match="is done, nothing of it is left to run"):
        dead_letters.resume(billing.system, first.redrive_id, billing.consumer)


def test_redrive_that_is_cancelled_ends_after_the_transaction_in_hand_and_can_be_resumed(billing):
    billing.write(range(20))
    billing.mend()

    def cancel(done, _):
        if done == 11:
            (run,) = dead_letters.runs(billing.system)
            assert (run.state, run.stage) == ("running", 10)
            dead_letters.cancel(billing.system, run.redrive_id, reason="wrong day")

    result = billing.redrive(progress=cancel)

    assert (len(result.resolved), len(result.not_tried), result.state) == (11, 9, "cancelled")
    assert billing.states() == {"resolved": 11, "open": 9}
    assert len(dead_letters.resume(billing.system, result.redrive_id, billing.consumer).resolved) == 20
    assert billing.effects() == list(range(20))


def test_letters_that_a_running_redrive_is_still_to_try_are_shown_as_retrying(billing):
    billing.write(range(20))
    billing.mend()
    asked = {"open": ("open",), "retrying": ("retrying",), "resolved": ("resolved",), "all": None}

    def shown():
        found = {
            name: Counter(letter.state for letter in dead_letters.letters(billing.system, Selection(states=states)))
            for name, states in asked.items()
        }
        for name in ("open", "retrying", "resolved"):
            frame = views.dead_letters(billing.system, state=name)
            assert Counter(frame["state"]) == found[name], name
        return found

    during = {}

    def look(done, _):
        if done == 11:
            during.update(shown())
            (group,) = dead_letters.groups(billing.system, states=("retrying",))
            (letter, *_) = dead_letters.letters(billing.system)
            during["group"] = group["n_letters"], group["n_open"]
            during["story"] = dead_letters.show(billing.system, letter.letter_id).state
            dead_letters.cancel(billing.system, dead_letters.runs(billing.system)[0].redrive_id)

    billing.redrive(progress=look)

    assert during == {
        "open": {"retrying": 9}, "retrying": {"retrying": 9}, "resolved": {"resolved": 11},
        "all": {"retrying": 9, "resolved": 11}, "group": (9, 9), "story": "retrying",
    }  # fmt: skip
    # Open again with the end of the redrive, which nobody had to write down.
    assert shown() == {
        "open": {"open": 9},
        "retrying": {},
        "resolved": {"resolved": 11},
        "all": {"open": 9, "resolved": 11},
    }


def test_failed_letters_of_a_run_are_tried_again_when_that_is_asked_for(billing):
    billing.write(range(5))
    first = billing.redrive()
    billing.mend()

    again = dead_letters.resume(billing.system, first.redrive_id, billing.consumer, failed_too=True)

    assert (len(first.failed), len(again.resolved), again.failed) == (1, 5, [])
    assert billing.effects() == list(range(5))


def test_letters_that_die_during_a_redrive_are_not_taken_in(billing):
    billing.write(range(5))

    def one_more(done, _):
        if done == 1:
            billing.fails = lambda i: ValueError("odd")
            billing.write([99])
            billing.mend()

    billing.mend()
    result = billing.redrive(progress=one_more)

    assert len(result.resolved) == 5
    assert [x.key for x in dead_letters.letters(billing.system)] == ["k99"]


def test_letters_on_hold_are_left_out_and_the_plan_says_so(billing, evkit_dlq):
    billing.write(range(4))
    billing.mend()
    ids = billing.plan().ids
    dead_letters.hold(billing.system, ids[:1], reason="asked the bank")
    plan = billing.plan()
    dead_letters.hold(billing.system, ids[1:2], reason="the other one too")  # after the plan

    said = evkit_dlq("redrive", "--group", billing.consumer.group, "--dry-run")
    result = billing.redrive(plan)

    assert (plan.ids, plan.held, plan.summary()["on_hold"]) == (ids[1:], ids[:1], [ids[0]])
    assert f"2 more are on hold and stay as they are, the first is {ids[0]}" in said.stderr
    assert (result.skipped, result.skipped_because, len(result.resolved)) == ([ids[1]], "it is on hold meanwhile", 2)
    assert billing.effects() == [2, 3]
    with pytest.raises(RedriveRefused, match="all 2 open letters that match are on hold"):
        billing.plan()
    with pytest.raises(RedriveRefused, match=f"dead letter {ids[0]} is on hold since .*asked the bank"):
        billing.plan(ids=ids[:1])


def test_only_open_letters_are_redriven_whatever_states_are_asked_for(billing):
    with pytest.raises(RedriveRefused, match="only open letters that are not on hold are redriven"):
        billing.plan(states=("archived",))
    billing.write(range(1))
    (letter_id,) = billing.plan().ids
    with pytest.raises(RedriveRefused, match=f"{letter_id} .* does not match the filters"):
        billing.plan(ids=(letter_id,), key="another")


def test_cancelled_redrive_ends_in_the_middle_of_a_long_tail_and_goes_on_there(billing):
    billing.write(range(10), key="one")
    billing.mend()

    def cancel(i):
        if i == 4:
            billing.inside = lambda i: None
            (run,) = dead_letters.runs(billing.system)
            dead_letters.cancel(billing.system, run.redrive_id)

    billing.inside = cancel
    first = billing.redrive()

    # Behind letter 0 they went as 1, 2 and 4 together: what is in hand is finished.
    assert (first.state, first.released, billing.effects()) == ("cancelled", 7, [*range(8)])
    assert first.tails_left == first.resolved
    again = dead_letters.resume(billing.system, first.redrive_id, billing.consumer)
    assert (again.state, again.released, again.resolved, billing.effects()) == ("done", 9, first.resolved, [*range(10)])


def test_two_redrives_of_overlapping_selections_handle_each_letter_once(billing):
    billing.write(range(60))
    billing.mend()
    ids = billing.plan().ids
    plans = [billing.plan(ids=ids[:40]), billing.plan(ids=ids[20:])]
    meet = threading.Barrier(2)
    results = []

    def run(plan):
        meet.wait()
        results.append(billing.redrive(plan))

    threads = [threading.Thread(target=run, args=(plan,)) for plan in plans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    one, other = results
    assert set(one.resolved) | set(other.resolved) == set(ids)
    assert set(one.resolved) & set(other.resolved) == set()
    assert sorted(billing.effects()) == list(range(60))
    assert len(one.skipped) + len(other.skipped) == 20


def test_event_that_comes_while_its_keys_letter_is_in_a_batch_is_handled_after_it(billing):
    billing.write(range(3))
    billing.mend()
    handled = threading.Thread(target=billing.consumer.step, args=(10.0,))

    def comes(i):
        if i == 2:  # in one transaction with letter 1, whose key is meant
            billing.inside = lambda i: None
            billing.published(Event("a.b", "k1", {"i": 100}, topic=billing.topic))
            handled.start()
            with billing.system.writing() as other:
                waiting = (
                    "SELECT count(*) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND wait_event_type = 'Lock'"
                )
                while not other.execute(waiting).fetchone()[0]:
                    other.rollback()

    billing.inside = comes
    billing.redrive()
    handled.join()

    assert billing.effects() == [0, 1, 2, 100]
    assert billing.rows("SELECT * FROM evkit.parked_key") == []


def test_redrive_whose_database_session_is_lost_says_so_and_is_resumed(billing):
    billing.write(range(30))
    billing.mend()

    def cut(i):
        if i == 15:
            billing.inside = lambda i: None
            with billing.system.writing() as other:
                other.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND application_name = 'evkit redrive'"
                )

    billing.inside = cut
    with pytest.raises(DatabaseUnreachable):
        billing.redrive()
    (run,) = dead_letters.runs(billing.system)
    assert (run.state, run.resolved, run.not_tried) == ("interrupted", 11, 19)

    assert len(dead_letters.resume(billing.system, run.redrive_id, billing.consumer).resolved) == 30
    assert billing.effects() == list(range(30))


def test_rate_is_a_limit_for_letters_that_go_together(billing):
    billing.write(range(12))
    billing.mend()
    steps = []

    billing.redrive(per_second_max=4, progress=lambda done, _: steps.append(done))

    assert steps == [1, 5, 9, 11, 12]


@pytest.mark.parametrize("rate", [0, -1, float("inf"), float("nan")])
def test_rate_that_is_none_is_refused_before_anything_is_written_down(billing, rate):
    billing.write(range(2))

    with pytest.raises(UsageError, match=r"a rate is a number of letters per second above 0, not"):
        billing.redrive(per_second_max=rate)

    assert billing.states() == {"open": 2}
    assert dead_letters.runs(billing.system) == []


def test_unknown_runs_are_one_sentence(billing):
    with pytest.raises(UnknownRedrive, match="redrive 'redrive-1' is not known"):
        dead_letters.resume(billing.system, "redrive-1", billing.consumer)
    with pytest.raises(UnknownRedrive):
        dead_letters.cancel(billing.system, "redrive-1")


# --- tried only -------------------------------------------------------------------------------------------------------


def test_trial_shows_what_the_handler_would_write_and_nothing_stays(billing):
    billing.write(range(2))
    billing.mend()
    with billing.system.writing() as connection:
        connection.execute('CREATE TABLE "Odd name" (note text); INSERT INTO "Odd name" VALUES (\'was there\')')
    before = tables(billing)

    def handle(event, tx):
        with tx.connection.transaction():  # a savepoint has a transaction id of its own
            tx.execute("INSERT INTO bill (i, key) VALUES (7, 'seven')")
        tx.execute("UPDATE \"Odd name\" SET note = repeat('x', 1000)")
        tx.write(Event("bill.sent", event.key, {"total": 3}))

    billing.consumer.handlers = type(billing.consumer.handlers)()
    billing.consumer.handler("a.b")(handle)
    letter_id = billing.plan().ids[0]

    trial = dead_letters.try_redrive(billing.system, letter_id, billing.consumer)

    assert (trial.ok, trial.error) == (True, None)
    odd, bill = trial.tables
    assert (odd.table, odd.inserted, odd.updated) == ("public.Odd name", 0, 1)
    assert odd.rows[0]["note"].endswith("… (1,000 characters)")
    assert (bill.table, bill.inserted, [row["key"] for row in bill.rows]) == ("public.bill", 1, ["seven"])
    assert [(e["type"], e["key"], e["payload"]) for e in trial.follow_ups] == [("bill.sent", "k0", "{'total': 3}")]
    assert tables(billing) == before


def tables(billing):
    names = (
        "bill",
        '"Odd name"',
        "evkit.inbox",
        "evkit.dead_letter",
        "evkit.attempt",
        "evkit.outbox",
        "evkit.parked_key",
    )
    return [billing.rows(f"SELECT t::text FROM {name} t ORDER BY 1") for name in names]


def test_trial_that_fails_shows_the_error_and_costs_no_attempt(billing):
    billing.write(range(1))
    (letter_id,) = billing.plan().ids

    trial = dead_letters.try_redrive(billing.system, letter_id, billing.consumer)

    assert (trial.ok, trial.error) == (False, "ValueError: odd")
    assert "in handle" in trial.stack_trace
    assert [(t.table, t.inserted) for t in trial.tables] == [("public.bill", 1)]
    assert dead_letters.show(billing.system, letter_id).retry_count == 0
    assert billing.effects() == []
    billing.fails = lambda i: billing.system.nowhere
    assert dead_letters.try_redrive(billing.system, letter_id, billing.consumer).error.startswith("AttributeError")


def test_trial_sees_what_only_the_commit_would_refuse(billing):
    billing.write(range(1))
    billing.mend()
    with billing.system.writing() as connection:
        connection.execute("ALTER TABLE bill ADD UNIQUE (i) DEFERRABLE INITIALLY DEFERRED")
        connection.execute("INSERT INTO bill (i) VALUES (0)")

    trial = dead_letters.try_redrive(billing.system, billing.plan().ids[0], billing.consumer)

    assert trial.error.startswith("psycopg.errors.UniqueViolation")
    assert trial.tables == []  # nobody can look into a transaction that has failed


def test_letter_is_tried_from_the_command_line(billing, evkit_dlq):
    billing.write(range(2))
    letter_id = str(billing.plan().ids[0])

    fails = evkit_dlq("redrive", letter_id, "--try", "--app", "billing:consumer")
    billing.mend()
    works = evkit_dlq("redrive", letter_id, "--try", "--app", "billing:consumer")
    listed = json.loads(
        evkit_dlq("redrive", letter_id, "--try", "--app", "billing:consumer", "--format", "json").stdout
    )

    assert (fails.exit_code, "ValueError: odd" in fails.stdout) == (1, True)
    assert (works.exit_code, "public.bill: 1 inserted" in works.stdout) == (0, True)
    assert [trial["ok"] for trial in listed] == [True]
    assert billing.states() == {"open": 2}


def test_what_a_trial_shows_does_not_act_on_the_terminal(billing, evkit_dlq):
    billing.write(range(1))
    billing.mend()

    def handle(event, tx):
        tx.execute("INSERT INTO bill (key) VALUES (%s)", ("\x1b[2Jgone",))
        tx.write(Event("bill.sent", "\x1b[2Jk", {}))
        raise ValueError("\x1b[2Jlost")

    billing.consumer.handlers = type(billing.consumer.handlers)()
    billing.consumer.handler("a.b")(handle)

    shown = evkit_dlq("redrive", str(billing.plan().ids[0]), "--try", "--app", "billing:consumer").stdout

    assert "\\x1b[2Jlost" in shown
    assert "gone" in shown
    assert "\x1b" not in shown


# --- by the running consumers -----------------------------------------------------------------------------------------


@pytest.fixture
def running():
    """`running(consumer)`: let it run in a thread; all are stopped at the end."""
    threads = []

    def run(consumer):
        thread = threading.Thread(target=consumer.run)
        threads.append((consumer, thread))
        thread.start()
        return thread

    yield run
    for consumer, thread in threads:
        consumer.stop()
        thread.join()


def until(billing, redrive_id, *states):
    while (run := dead_letters.run(billing.system, redrive_id)).state not in states:
        pass
    return run


def test_running_consumer_takes_up_a_queued_redrive_and_runs_it_with_its_own_handlers(billing, running):
    billing.write(range(15))
    billing.mend()
    running(billing.consumer)

    redrive_id = dead_letters.queue(billing.system, billing.plan(), reason="fixed in 8")

    run = until(billing, redrive_id, "done")
    assert (run.run_by, run.resolved, run.not_tried) == ("consumers", 15, 0)
    assert billing.effects() == list(range(15))
    while billing.rows("SELECT reason, result ->> 'resolved' FROM evkit.audit") != [("fixed in 8", "15")]:
        pass


def test_consumer_that_stops_gives_the_redrive_back_and_another_goes_on(billing, running):
    billing.write(range(15))
    billing.mend()
    inside, go_on = threading.Event(), threading.Event()

    def hold(i):
        inside.set()
        assert go_on.wait(60)

    billing.inside = hold
    first = billing.member(billing.consumer.group)
    thread = running(first)
    redrive_id = dead_letters.queue(billing.system, billing.plan())
    assert inside.wait(60)
    first.stop()
    assert first._redriver._ended.wait(60)
    go_on.set()
    thread.join()

    run = dead_letters.run(billing.system, redrive_id)
    assert (run.state, run.resolved, run.not_tried) == ("queued", 1, 14)
    running(billing.member(billing.consumer.group))
    assert until(billing, redrive_id, "done").resolved == 15
    assert billing.effects() == list(range(15))


def test_redrive_that_a_running_consumer_cannot_handle_is_stopped_with_the_reason(billing, running):
    billing.write(range(3))
    other = billing.new_consumer(billing.topic, billing.consumer.group)
    other.handler("c.d")(billing.handle)
    running(other)

    redrive_id = dead_letters.queue(billing.system, billing.plan())

    assert "no handler for 'a.b'" in until(billing, redrive_id, "stopped").why


# --- from the command line --------------------------------------------------------------------------------------------


@pytest.fixture
def evkit_dlq(billing, monkeypatch):
    """`evkit dlq ...` on the system of the test, with its consumer as `--app billing:consumer`."""
    monkeypatch.setenv("EVKIT_POSTGRES_DSN", billing.system.settings.postgres_dsn)
    monkeypatch.setenv("EVKIT_KAFKA_BOOTSTRAP_SERVERS", billing.system.settings.bootstrap_servers)
    module = types.ModuleType("billing")
    module.consumer = billing.consumer
    monkeypatch.setitem(sys.modules, "billing", module)
    return lambda *arguments: CliRunner().invoke(app, ["dlq", *arguments])


def test_redrive_is_planned_stopped_listed_resumed_and_cancelled_from_the_command_line(billing, evkit_dlq):
    billing.write(range(15))
    group, here = billing.consumer.group, ("--app", "billing:consumer", "--yes", "--format", "json")

    planned = evkit_dlq("redrive", "--group", group, "--dry-run", "--format", "json")
    assert (planned.exit_code, json.loads(planned.stdout)["letters"]) == (0, 15)
    assert dead_letters.runs(billing.system) == []
    stopped = evkit_dlq("redrive", "--group", group, *here)
    result = json.loads(stopped.stdout)
    assert (stopped.exit_code, result["failed"], result["not_tried"]) == (1, 1, 14)
    assert "failed again in the same way" in result["why"]
    (listed,) = json.loads(evkit_dlq("redrives", "--format", "json").stdout)
    assert (listed["redrive_id"], listed["state"], listed["not_tried"]) == (result["redrive_id"], "stopped", 14)
    assert "stopped" in evkit_dlq("redrives").stdout
    assert "ValueError" in evkit_dlq("redrives", result["redrive_id"]).stdout
    one = json.loads(evkit_dlq("redrives", result["redrive_id"], "--format", "json").stdout)
    assert [letter["state"] for letter in one["of_letters"]] == ["failed"] + ["waiting"] * 14
    cancelled = evkit_dlq("cancel", result["redrive_id"], "--yes")
    assert (cancelled.exit_code, "is cancelled" in cancelled.stdout) == (0, True)
    billing.mend()

    resumed = evkit_dlq("resume", result["redrive_id"], "--failed", *here)

    assert (resumed.exit_code, json.loads(resumed.stdout)["resolved"]) == (0, 15)
    assert billing.effects() == list(range(15))


def test_redrive_by_the_running_consumers_is_watched_from_the_command_line(billing, evkit_dlq, running):
    billing.write(range(15))
    billing.mend()
    running(billing.consumer)

    done = evkit_dlq("redrive", "--group", billing.consumer.group, "--by-consumers", "--yes", "--format", "json")

    assert (done.exit_code, json.loads(done.stdout)["resolved"]) == (0, 15)
    assert redriving.result(billing.system, json.loads(done.stdout)["redrive_id"]).not_tried == []


def test_redrive_without_handlers_is_one_sentence_and_changes_nothing(billing, evkit_dlq):
    billing.write(range(2))

    neither = evkit_dlq("redrive", "--group", billing.consumer.group, "--yes")
    both = evkit_dlq("redrive", "--group", billing.consumer.group, "--yes", "--app", "x:y", "--by-consumers")
    all_letters = evkit_dlq("redrive", "--yes", "--app", "x:y")
    unknown = evkit_dlq("redrive", "987654321", "--yes", "--app", "billing:consumer")
    empty = evkit_dlq("redrive", "--key", "nobody", "--yes", "--app", "billing:consumer")

    assert "whose handlers? Give --app" in str(neither.exception)
    assert "give one of them" in str(both.exception)
    assert "which letters? Give ids, or a filter" in str(all_letters.exception)
    assert "987654321" in str(unknown.exception)
    assert "no open dead letter matches: nothing to redrive" in str(empty.exception)
    assert billing.states() == {"open": 2}
    assert dead_letters.runs(billing.system) == []
