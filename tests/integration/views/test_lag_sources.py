"""One scene of evkit's own relay and consumer, told by every source: they agree, each within its own error."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from evkit import Consumer, Event, Relay, outbox, views
from evkit.errors import InvalidParameter
from evkit.runtime.sampler import Sampler
from evkit.testing.waiting import until
from evkit.window import Window

N = 600
# How far the moment of a source may be from that of another: half the distance of samples, and what a busy machine takes.
# Of inbox: the events of a batch have one time, at which their handlers were expected to be through.
DISTANCE = {"sample": 0.5, "commit_log": 0.0, "inbox": 8.0}


def test_all_sources_agree_on_one_scene(evkit_system, evkit_topic, evkit_group):
    topic, group = evkit_topic(partitions=2), evkit_group("billing")
    relay, consumer = Relay(evkit_system), Consumer(group, [topic], system=evkit_system, batch_events_max=20)
    done = threading.Event()

    @consumer.handler("order.placed")
    def bill(event, tx):
        time.sleep(0.005)
        if event.payload["i"] == N - 1:
            done.set()

    sampler = Sampler(evkit_system, every_seconds=0.3, groups=[group])
    threads = [threading.Thread(target=t.run) for t in (relay, consumer, sampler)]
    with evkit_system.writing() as connection:
        outbox.write_many(connection, [Event("order.placed", f"k{i % 7}", {"i": -1}, topic=topic) for i in range(20)])
    for thread in threads:
        thread.start()
    started_at = datetime.now(UTC)
    with evkit_system.writing() as connection:
        for first in range(0, N, 100):
            events = [Event("order.placed", f"k{i % 7}", {"i": i}, topic=topic) for i in range(first, first + 100)]
            outbox.write_many(connection, events)
            connection.commit()
            time.sleep(0.2)
    assert done.wait(120)
    until(lambda: all(row["lag_events"] == 0 for row in views.lag(evkit_system, group).to_dicts()))
    ended_at = datetime.now(UTC)
    until(lambda: sampler.last.at > ended_at + timedelta(seconds=1))
    for running in (sampler, consumer, relay):
        running.stop()
    for thread in threads:
        thread.join()
    sampler.close()

    window = Window(started_at, ended_at + timedelta(seconds=1))
    told = {
        source: views.lag_history(evkit_system, group, topic, window, "100ms", source=source).to_dicts()
        for source in ("offsets_log", "commit_log", "sample", "inbox")
    }

    highest = max(row["lag_events"] or 0 for row in told["offsets_log"])
    assert highest > 50
    for source, seconds in DISTANCE.items():
        compared = 0
        for partition in (0, 1):
            truth = [
                row for row in told["offsets_log"] if row["partition"] == partition and row["lag_events"] is not None
            ]
            for row in told[source]:
                if row["partition"] != partition or row["lag_events"] is None:
                    continue
                near = [r for r in truth if abs((r["at"] - row["at"]).total_seconds()) <= seconds + 0.1]
                if not near:
                    continue
                compared += 1
                committed = [r["committed_offset"] for r in near]
                ends = [r["end_offset"] for r in near]
                if row["at"] - timedelta(seconds=seconds) < truth[0]["at"]:  # before its first commit
                    committed.append(0)
                    ends.append(0)
                assert min(committed) <= row["committed_offset"] <= max(committed), (source, row, committed)
                assert min(ends) <= row["end_offset"] <= max(ends), (source, row)
        assert compared > 10, source
    for source, rows in told.items():
        assert {row["source"] for row in rows} == {source}
        assert {row["exact"] for row in rows} == {True}
    # What is handled and what is committed is the same at the end.
    assert {rows[-1]["committed_offset"] for source, rows in told.items() if source != "sample"} == {
        told["offsets_log"][-1]["committed_offset"]
    }


def test_an_unknown_source_is_refused(evkit_system, evkit_group):
    with pytest.raises(InvalidParameter, match="none of auto, offsets_log, commit_log, sample, inbox"):
        views.lag_history(evkit_system, evkit_group(), source="guess")
