"""How a consumer stands: what the poll loop writes down, and what others make of it. Clock and client are the test's."""

from __future__ import annotations

import socket
import threading
import time
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from evkit.errors import BrokerUnreachable
from evkit.kafka import Record
from evkit.runtime import lane as lane_module
from evkit.runtime import pulse as pulse_module
from evkit.runtime import standing
from evkit.runtime.assignment import Assignment
from evkit.runtime.fetched import of_records
from evkit.runtime.lane import Lane
from evkit.runtime.pulse import Pulse
from evkit.runtime.standing import Memory
from evkit.settings import Settings

PLACE = ("order", 0)
NOW = datetime(2013, 2, 8, tzinfo=UTC)


def record(offset, key=b"k", place=PLACE):
    return Record(*place, offset, key, b"1234", [], NOW, "append", None, NOW)


class Client:
    """Answers from what it has fetched, as `get_watermark_offsets(cached=True)` does."""

    def __init__(self):
        self.ends = {}
        self.asked = 0

    def get_watermark_offsets(self, partition, cached):
        assert cached, "a question to the broker would hold up the poll loop"
        self.asked += 1
        return (0, self.ends.get((partition.topic, partition.partition), -1001))


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until the test moves it."""
    now = SimpleNamespace(seconds=1000.0)
    for module in (standing, lane_module):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


@pytest.fixture
def consumer(clock):
    """What a consumer lends to its standing, with one partition, and a turn of its poll loop."""
    made = SimpleNamespace(
        breakers=None, _assignment=Assignment(), _changed=threading.Condition(), _stop=threading.Event(), _paused=set(),
        _lanes=[], parking_full=[], stuck=[], memory=Memory(), client=Client(),
        _pause_watch=SimpleNamespace(paused_for=None),
    )  # fmt: skip
    made._assignment.assign([PLACE], epoch=1)
    made.turn = lambda: made.memory.look(made.client, made._assignment, made._changed)
    made.now = lambda: made.memory.standing(made)
    return made


def lane(calls=0, at=0, waits=None):
    inbox = SimpleNamespace(calls=calls, at=at, waits=waits, has_parked=False)
    return Lane(SimpleNamespace(group="billing"), 0, inbox)


def test_lag_is_the_end_of_the_last_fetch_minus_what_is_done_both_of_one_moment(consumer, clock):
    consumer._assignment.add(of_records(record(offset) for offset in range(100, 110)))
    consumer.client.ends[PLACE] = 160
    consumer.turn()

    (partition,) = consumer.now().partitions
    assert (partition.position, partition.lag, partition.buffered, partition.buffered_bytes) == (100, 60, 10, 50)

    # Between two looks the position runs ahead of the end that is known: lag stays what it was, and not below zero.
    consumer._assignment.finish(consumer._assignment.take(10, clock.seconds))
    consumer.client.ends[PLACE] = 170
    consumer.turn()
    (partition,) = consumer.now().partitions
    assert (partition.position, partition.lag, partition.buffered) == (110, 60, 0)

    clock.seconds += standing.LOOK_SECONDS
    consumer.turn()
    assert consumer.now().partitions[0].lag == 60
    assert consumer.client.asked == 2


def test_lag_is_not_known_before_anything_came_and_zero_at_the_end_of_the_partition(consumer, clock):
    consumer.client.ends[PLACE] = 15
    consumer.turn()
    assert (consumer.now().partitions[0].position, consumer.now().partitions[0].lag) == (None, None)

    consumer._assignment.pass_over(PLACE, 15)
    clock.seconds += standing.LOOK_SECONDS
    consumer.turn()

    assert (consumer.now().partitions[0].position, consumer.now().partitions[0].lag) == (15, 0)


def test_the_age_of_the_last_progress_grows_only_while_there_is_something_to_do(consumer, clock):
    consumer._assignment.add(of_records([record(0), record(1)]))
    consumer.turn()
    clock.seconds += 30
    consumer.turn()
    assert consumer.now().partitions[0].still_seconds == 30

    batch = consumer._assignment.take(1, clock.seconds)
    consumer._assignment.finish(batch)
    clock.seconds += 1
    consumer.turn()
    clock.seconds += 5
    consumer.turn()
    assert consumer.now().partitions[0].still_seconds == 5

    consumer._assignment.finish(consumer._assignment.take(1, clock.seconds))
    for seconds in (1, 500):
        clock.seconds += seconds
        consumer.turn()
    assert consumer.now().partitions[0].still_seconds == 0


def test_what_is_done_beyond_the_first_that_is_not_is_a_span(consumer, clock):
    consumer._assignment.add(of_records([record(0, b"slow"), record(1, b"a"), record(2, b"b"), record(3, b"c")]))
    batch = consumer._assignment.take(4, clock.seconds)

    consumer._assignment.finish([batch[1], batch[2]])

    (partition,) = consumer.now().partitions
    assert (partition.span, partition.in_hand, partition.buffered) == (3, 2, 2)


def test_records_are_counted_over_all_turns_of_a_partition(consumer, clock):
    consumer._assignment.add(of_records(record(offset) for offset in range(10)))
    consumer._assignment.finish(consumer._assignment.take(4, clock.seconds))
    consumer._assignment.give_up([PLACE])
    assert (consumer.now().polled, consumer.now().partitions) == ({PLACE: 10}, [])

    consumer._assignment.assign([PLACE], epoch=2)
    consumer._assignment.add(of_records([record(4)]))

    assert consumer.now().polled == {PLACE: 11}


def test_a_loop_that_does_not_turn_is_silent_and_one_that_waits_for_a_drain_is_not(consumer, clock):
    assert consumer.now().last_loop_seconds is None

    consumer.turn()
    clock.seconds += 40
    assert consumer.now().last_loop_seconds == 40

    consumer.memory.beat()
    assert consumer.now().last_loop_seconds == 0


def test_what_ends_the_consumer_is_remembered_and_a_new_run_forgets_it(consumer):
    with pytest.raises(MemoryError), consumer.memory.running():
        raise MemoryError
    assert (consumer.now().running, consumer.now().fatal) == (False, "MemoryError")

    with consumer.memory.running():
        assert (consumer.now().running, consumer.now().fatal) == (True, None)


def test_of_several_servers_that_are_waited_for_the_longest_is_told(consumer, clock):
    consumer._lanes = [lane(waits=("PostgreSQL is away", 990.0)), lane(waits=("PostgreSQL is away too", 995.0))]
    consumer.memory.no_broker("billing", BrokerUnreachable("b:9092", "refused"))
    clock.seconds += 5
    consumer.memory.no_broker("billing", BrokerUnreachable("b:9092", "refused"))

    now = consumer.now()

    assert (now.waits_for, now.waits_seconds) == ("PostgreSQL is away", 15)
    consumer._lanes = []
    assert consumer.now().waits_for.startswith("no Kafka broker answers at b:9092")
    assert consumer.now().waits_seconds == 5


def test_a_lane_that_ended_and_a_key_that_waits_are_counted(consumer, clock):
    consumer._assignment.add(of_records([record(0)]))
    (work,) = consumer._assignment.take(1, clock.seconds)
    consumer._assignment.finish([], [(work, clock.seconds + 60)])
    consumer._lanes = [lane()]  # was never started

    now = consumer.now()

    assert (now.waiting_keys, now.lanes, now.lanes_ended) == (1, 1, 1)


# --- lanes ------------------------------------------------------------------------------------------------------------


def busy(clock, **inbox):
    made = lane(**inbox)
    works = Assignment()
    works.assign([PLACE, ("order", 1)], epoch=1)
    works.add(of_records([record(17), record(3, place=("order", 1))]))
    made._batch, made._since = works.take(2, 0), clock.seconds
    made.report_if_hung()
    return made


def test_a_handler_that_does_not_come_back_is_told_with_what_it_holds(clock):
    hanging = busy(clock)
    clock.seconds += lane_module.HUNG_SECONDS - 1
    assert hanging.hung() is None

    clock.seconds += 2

    assert hanging.hung() == (
        "a handler has not come back for 61 s: it is at a batch of 2 from order/1 offset 3 on, and holds order/0, "
        "order/1; its stack is in the log"
    )


def test_a_redrives_handler_that_does_not_come_back_is_told_and_not_the_batch_that_waits_for_its_turn(clock, caplog):
    hanging = busy(clock)
    hanging._redrive = threading.current_thread
    hanging._ident = 1  # it was started
    clock.seconds += lane_module.HUNG_SECONDS + 1

    assert hanging.hung() == (
        "a handler of a redrive has not come back for 61 s: a batch of 2 from order/1 offset 3 on waits for its turn, and "
        "holds order/0, order/1; its stack is in the log"
    )
    hanging.report_if_hung()
    assert "test_a_redrives_handler_that_does_not_come_back" in caplog.text


def test_a_handler_that_takes_its_time_for_each_event_does_not_hang(clock):
    slow = busy(clock)
    for _ in range(10):
        clock.seconds += lane_module.HUNG_SECONDS / 2
        slow.inbox.at += 1
        slow.report_if_hung()

    assert slow.hung() is None


def test_a_batch_that_waits_for_postgresql_does_not_hang_and_is_not_taken_for_it_when_it_goes_on(clock):
    waiting = busy(clock, waits=("PostgreSQL is away", 0.0))
    for _ in range(10):
        clock.seconds += lane_module.HUNG_SECONDS
        waiting.report_if_hung()
        assert waiting.hung() is None

    waiting.inbox.waits = None

    assert waiting.hung() is None


# --- brokers ----------------------------------------------------------------------------------------------------------


def silent_broker():
    """A broker that takes connections and says nothing."""
    return socket.create_server(("127.0.0.1", 0))


@pytest.mark.parametrize(("answer_seconds", "pulse_seconds"), [(0.2, 60.0), (60.0, 0.5)])
def test_a_broker_that_takes_the_connection_and_says_nothing_is_silent_since_the_first_question(
    monkeypatch, answer_seconds, pulse_seconds
):
    """Noticed while the answer is still awaited, and when the client has given up on it; then it is asked again."""
    monkeypatch.setattr(pulse_module, "ANSWER_SECONDS", answer_seconds)
    monkeypatch.setattr(pulse_module, "PULSE_SECONDS", pulse_seconds)
    with silent_broker() as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        pulse = Pulse(Settings(postgres_dsn="", kafka={"bootstrap.servers": address}), "orders")
        started = time.monotonic()
        pulse.look()
        asked = time.monotonic()
        assert pulse.silent_since is None

        seen = {None}
        while time.monotonic() < asked + 3 or (seen == {None} and time.monotonic() < asked + 120):
            pulse.look()
            seen.add(pulse.silent_since)
            time.sleep(0.02)

    pulse.close()
    (since,) = seen - {None}
    assert started <= since <= asked
