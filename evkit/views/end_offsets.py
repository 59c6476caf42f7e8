"""The timestamps of a topic's records → where its partitions ended at moments of the past.

The end at t is the first offset whose record is stamped later than t. That is the truth where the broker stamps records
(LogAppendTime, which topics made by evkit have). Where producers do, it counts the records made by t, and one that is
stamped ahead of its time hides all that follow it: such moments are found, and have no number.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from evkit import kafka
from evkit.kafka import OFFSET_INVALID, KafkaError, KafkaException, TopicPartition
from evkit.system import System
from evkit.views.offsets import Place, offsets_of

# Records at the end of a partition that are looked at, to tell equal timestamps from such as go back.
_TAIL = 100
_READ_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class End:
    """Where a partition ended at a moment.

    Attributes:
        offset        next offset the broker would have assigned; None when it cannot be told
        is_truncated  the records of that time were deleted
        is_exact      False: the timestamps of that time are known not to tell
    """

    offset: int | None
    is_truncated: bool = False
    is_exact: bool = True


UNKNOWN = End(None)


def end_offsets(system: System, places: Iterable[Place], instants: Iterable[datetime]) -> dict[Place, list[End]]:
    """The end of each place at each of the instants, in their order. A place that the cluster does not have is left out.

    One request for each instant, for all partitions of a broker.

    Raises:
        BrokerUnreachable: no answer within `settings.kafka_timeout_seconds`.
    """
    instants = list(instants)
    topics = kafka.topics(system.settings, system.admin)
    known = sorted(p for p in places if p[1] < topics.get(p[0], 0))
    # The ends of now before those of the past: what is appended meanwhile must not look as if it had been there.
    starts = offsets_of(system, known, kafka.EARLIEST)
    now = offsets_of(system, known, kafka.LATEST)
    ahead = stamped_ahead(system, {p: end.offset for p, end in now.items()})
    found: dict[Place, list[End]] = {place: [] for place in known}
    # A consumer asks, and never joins: an admin client that asks for many offsets a second has ended its process by a
    # segmentation fault (once, with librdkafka 2.16.1).
    asker = kafka.consumer(system.settings, "evkit-views", **{"isolation.level": "read_uncommitted"})
    try:
        for at in instants if known else ():
            answers = after(system, asker, known, at)
            for place in known:
                if place in answers and place in starts and place in now:
                    end = end_of(answers[place], starts[place].offset, now[place].offset, at, ahead.get(place))
                else:
                    end = UNKNOWN
                found[place].append(end)
    finally:
        asker.close()
    return found


def after(system: System, asker: Any, places: Iterable[Place], at: datetime) -> dict[Place, int]:
    """First offset stamped later than `at`, -1 where there is none; one partition without a leader hides no other."""
    # A record of the same millisecond counts as there: the first that does not is stamped one later.
    asked = [TopicPartition(*place, millis(at) + 1) for place in places]
    try:
        answers = asker.offsets_for_times(asked, timeout=system.settings.kafka_timeout_seconds)
    except KafkaException as error:
        raise kafka.failed(system.settings, error) from None
    return {(tp.topic, tp.partition): tp.offset for tp in answers if tp.error is None and tp.offset != OFFSET_INVALID}


def end_of(answer: int, start: int, now: int, at: datetime, ahead: tuple[int, datetime] | None) -> End:
    """What an answer means of a partition that begins at `start` and ends at `now`."""
    if answer < 0:
        return End(now)
    if answer <= start and start > 0:
        return End(None, is_truncated=True)
    if ahead is not None and answer == ahead[0] and at < ahead[1]:
        return End(None, is_exact=False)
    return End(answer)


def stamped_ahead(system: System, ends: Mapping[Place, int]) -> dict[Place, tuple[int, datetime]]:
    """Offset and time of the record that is stamped ahead of those after it, where there is one."""
    newest = offsets_of(system, list(ends), kafka.NEWEST)
    suspects = {p: n for p, n in newest.items() if 0 <= n.offset < ends[p] - 1}
    if not suspects:
        return {}
    # A batch that the broker stamped has one time for all its records, and then the first one is named.
    tails = _tails(system, {p: (max(n.offset + 1, ends[p] - _TAIL), ends[p]) for p, n in suspects.items()})
    return {
        p: (n.offset, datetime.fromtimestamp(n.timestamp / 1000, UTC))
        for p, n in suspects.items()
        # A tail that could not be read may have such a record.
        if tails[p] is None or any(millis(at) < n.timestamp for at in tails[p] or ())
    }


def _tails(system: System, ranges: Mapping[Place, tuple[int, int]]) -> dict[Place, list[datetime] | None]:
    """Timestamps of the records in these ranges of offsets; None where not all could be read."""
    found: dict[Place, list[datetime]] = {place: [] for place in ranges}
    left, refused = set(ranges), set[Place]()
    reader = kafka.consumer(system.settings, "evkit-views", **{"enable.partition.eof": True})
    try:
        reader.assign([TopicPartition(*place, start) for place, (start, _) in ranges.items()])
        until = time.monotonic() + _READ_SECONDS
        while left and (wait := until - time.monotonic()) > 0:
            message = reader.poll(wait)
            if message is None:
                break
            place: Any = (message.topic(), message.partition())
            error = message.error()
            if error is None:
                record = kafka.record_of(message, datetime.now(UTC))
                if record.offset < ranges[place][1] and record.timestamp is not None:
                    found[place].append(record.timestamp)
                if record.offset >= ranges[place][1] - 1:
                    left.discard(place)
            elif error.code() == KafkaError._PARTITION_EOF:
                left.discard(place)
            elif error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED and place in left:
                left.discard(place)
                refused.add(place)
    finally:
        reader.close()
    return {place: None if place in left or place in refused else stamps for place, stamps in found.items()}


def millis(at: datetime) -> int:
    """Milliseconds since 1970, as Kafka counts."""
    return (at - datetime.fromtimestamp(0, UTC)) // timedelta(milliseconds=1)
