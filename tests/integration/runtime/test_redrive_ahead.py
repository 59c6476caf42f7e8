"""A redrive begins its next transaction while handlers run in this one: whatever fails meanwhile, each letter once.

With batches of ten letters, where there are 500, so that few letters make many of them.
"""

from __future__ import annotations

import threading

import pytest

from evkit import dead_letters
from evkit.errors import DatabaseUnreachable
from evkit.runtime import ahead, ramp
from evkit.runtime.ahead import Ahead
from tests.integration.runtime.test_redrive import Billing

LETTERS = 60
FREE = "SELECT count(*) FROM (SELECT FROM evkit.dead_letter FOR UPDATE SKIP LOCKED) l"
PARKED = "SELECT count(*) FROM evkit.parked_key"


@pytest.fixture
def begun(monkeypatch):
    """Which positions are begun ahead, in lists."""
    found, begun = [], Ahead._begun

    def noted(self, busy, begin):
        try:
            return begun(self, busy, begin)
        finally:
            found.append([item.position for item in begin.keywords["items"]])

    monkeypatch.setattr(Ahead, "_begun", noted)
    return found


@pytest.fixture
def billing(evkit_system, evkit_topic, published, new_consumer, monkeypatch, begun):
    monkeypatch.setattr(ramp, "BATCH_LETTERS_MAX", 10)
    monkeypatch.setattr(ramp, "RAMP", (1,))
    made = Billing(evkit_system, evkit_topic(partitions=1), published, new_consumer)
    made.write(range(LETTERS))
    made.mend()
    return made


def nothing_is_open(billing):
    """No transaction of the redrive is left, and no lock on a letter."""
    with billing.system.writing() as connection:
        query = (
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'evkit redrive'"
        )
        while connection.execute(query).fetchone()[0]:  # a backend that is just ending
            connection.rollback()
        return connection.execute(FREE).fetchone() == (LETTERS,)


def test_each_letter_is_handled_once_and_in_order(billing, begun):
    result = billing.redrive()

    assert begun == [list(range(first, min(first + 10, 61))) for first in range(12, 61, 10)]
    assert (len(result.resolved), result.state) == (LETTERS, "done")
    assert billing.effects() == list(range(LETTERS))
    assert billing.rows("SELECT outcome, attempts, count(*) FROM evkit.inbox GROUP BY 1, 2") == [
        ("handled", 2, LETTERS)
    ]
    assert billing.rows("SELECT * FROM evkit.parked_key") == []
    assert nothing_is_open(billing)


def test_next_letters_are_locked_while_handlers_run_and_nobody_sees_them_settled(billing, begun):
    looked = []

    def inside(i):
        if i == 15:
            while len(begun) < 2:  # this batch's, and the next one's
                pass
            with billing.system.writing() as other:
                looked.append(other.execute(FREE).fetchone() + other.execute(PARKED).fetchone())

    billing.inside = inside
    billing.redrive()

    # 11 are resolved and free; of the others this batch's and the next one's are locked.
    assert looked == [(LETTERS - 20, LETTERS - 11)]


@pytest.mark.parametrize("bad", [{15}, {20}, {21}, {11, 12, 30, 59}, set(range(15, 45))])
def test_letters_that_fail_again_cost_the_others_nothing(billing, begun, bad):
    billing.fails = lambda i: RuntimeError("another bug") if i in bad else None

    result = billing.redrive(stop_at_failure=False)

    assert begun
    assert (len(result.failed), len(result.resolved), result.state) == (len(bad), LETTERS - len(bad), "done")
    assert billing.effects() == [i for i in range(LETTERS) if i not in bad]
    assert billing.rows("SELECT retry_count, count(*) FROM evkit.dead_letter GROUP BY 1 ORDER BY 1") == [
        (0, LETTERS - len(bad)),
        (1, len(bad)),
    ]
    assert nothing_is_open(billing)


def test_failure_that_stops_it_leaves_what_was_begun_as_it_was(billing):
    billing.fails = lambda i: ValueError("odd") if i == 25 else None

    result = billing.redrive()

    assert (result.state, len(result.failed), len(result.resolved)) == ("stopped", 1, 25)
    assert billing.states() == {"resolved": 25, "open": 35}
    assert nothing_is_open(billing)
    billing.mend()
    resumed = dead_letters.resume(billing.system, result.redrive_id, billing.consumer, failed_too=True)
    assert len(resumed.resolved) == LETTERS
    assert billing.effects() == list(range(LETTERS))


def test_cancelled_one_leaves_what_was_begun_as_it_was(billing):
    def cancel(done, _):
        if done == 31:
            dead_letters.cancel(billing.system, dead_letters.runs(billing.system)[0].redrive_id)

    result = billing.redrive(progress=cancel)

    assert (result.state, len(result.resolved), len(result.not_tried)) == ("cancelled", 31, 29)
    assert billing.states() == {"resolved": 31, "open": 29}
    assert nothing_is_open(billing)


def test_session_that_is_lost_with_what_was_begun_costs_nothing(billing):
    def cut(i):
        if i == 25:
            billing.inside = lambda i: None
            with billing.system.writing(autocommit=True) as other:
                while not other.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database()"
                    " AND application_name = 'evkit redrive' AND state = 'idle in transaction' AND pid <> %s",
                    (billing.backend_pid,),
                ).fetchall():
                    pass

    billing.inside = cut

    assert len(billing.redrive().resolved) == LETTERS
    assert billing.effects() == list(range(LETTERS))
    assert nothing_is_open(billing)


def test_handler_that_takes_longer_than_thought_keeps_the_next_letters_locked_no_longer_than_that(
    billing, begun, monkeypatch
):
    """Whoever waits for such a lock goes on, and so does the redrive, also where it had waited for him."""
    monkeypatch.setattr(ahead, "KEPT_SECONDS_MAX", 0.1)
    looked = []

    def inside(i):
        if i == 15:
            with billing.system.writing(autocommit=True) as other:
                while len(begun) < 2:  # this batch's, and the next one's
                    pass
                while other.execute(FREE).fetchone() != (LETTERS - 10,):
                    pass
                looked.append(i)

    billing.inside = inside

    assert len(billing.redrive().resolved) == LETTERS
    assert looked == [15]
    assert billing.effects() == list(range(LETTERS))


def test_server_that_gives_no_other_connection_makes_it_slower_and_nothing_else(billing, begun, monkeypatch):
    execute = ramp.Execution.__init__

    def without(self, *args, another, **more):
        def refused():
            raise DatabaseUnreachable("127.0.0.1:1/x", "sorry, too many clients already")

        execute(self, *args, another=refused, **more)

    monkeypatch.setattr(ramp.Execution, "__init__", without)

    result = billing.redrive()

    assert begun
    assert len(result.resolved) == LETTERS
    assert billing.effects() == list(range(LETTERS))


def test_code_of_the_service_runs_in_one_thread(evkit_system, evkit_topic, published, new_consumer, monkeypatch, begun):
    monkeypatch.setattr(ramp, "BATCH_LETTERS_MAX", 10)
    threads = set()

    class Filtered(Billing):
        def member(self, group=None):
            consumer = super().member(group)
            consumer.handlers = type(consumer.handlers)(None, "skip", consumer.group)
            consumer.handler("a.b", where=self.passes)(self.handle)
            return consumer

        def passes(self, event):
            threads.add(threading.get_ident())
            return True

        def handle(self, event, tx):
            threads.add(threading.get_ident())
            super().handle(event, tx)

    billing = Filtered(evkit_system, evkit_topic(), published, new_consumer)
    billing.write(range(200))
    billing.mend()
    threads.clear()

    billing.redrive()

    assert begun
    assert threads == {threading.get_ident()}


def test_redrive_that_takes_turns_with_a_consumers_lane_begins_nothing_ahead(billing, begun):
    """The lane may wait, in its turn, for a key that was locked ahead: neither would ever go on."""
    member = billing.member(billing.consumer.group)
    thread = threading.Thread(target=member.run)
    thread.start()
    try:
        redrive_id = dead_letters.queue(billing.system, billing.plan())
        while dead_letters.run(billing.system, redrive_id).state != "done":
            assert thread.is_alive()
    finally:
        member.stop()
        thread.join()

    assert begun == []
    assert billing.effects() == list(range(LETTERS))
