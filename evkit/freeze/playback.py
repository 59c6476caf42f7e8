"""The records of a freeze → messages, as a client's consumer hands them out: what reads a topic cannot tell them apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.dataset

from evkit.errors import NotInFreeze
from evkit.kafka import KafkaError, Message, TopicPartition
from evkit.views.offsets import Place

_BATCH = 5_000


class Playback:
    """Reads the file `records`. It is a `views.broker.RecordReader`, of committed records."""

    def __init__(self, path: Path, kept: Mapping[Place, Mapping[str, Any]]) -> None:
        """`kept`: rows of the file `records_of`."""
        self._path, self._kept = path, kept
        self._from: dict[Place, int] = {}
        self._messages: Iterator[Message] = iter(())

    def assign(self, partitions: list[TopicPartition]) -> None:
        """Read these from their offsets on.

        Raises:
            NotInFreeze: the freeze does not have all records from there on.
        """
        for tp in partitions:
            place = (tp.topic, tp.partition)
            of = self._kept.get(place)
            if of is None or of["why_missing"] is not None:
                raise NotInFreeze(
                    f"records of {tp.topic} ({of['why_missing'] if of else 'the cluster had no such topic'})"
                )
            if tp.offset < of["first_offset"]:
                raise NotInFreeze(
                    f"records of {tp.topic} [{tp.partition}] from offset {tp.offset} on: it has those from "
                    f"{of['first_offset']} on; look at a window inside it"
                )
            self._from[place] = tp.offset
        self._messages = self._read()

    def incremental_unassign(self, partitions: list[TopicPartition]) -> None:
        """Read these no further."""
        for tp in partitions:
            self._from.pop((tp.topic, tp.partition), None)

    def consume(self, num_messages: int, timeout: float) -> list[Message]:
        """The next ones; at the end of a partition a message says so."""
        del timeout
        return list(islice(self._messages, num_messages))

    def close(self) -> None:
        """Nothing is open."""

    def _read(self) -> Iterator[Message]:
        field = pyarrow.dataset.field
        topics = sorted({topic for topic, _ in self._from})
        wanted = field("topic").isin(topics) & (field("offset") >= min(self._from.values(), default=0))
        records = pyarrow.dataset.dataset(self._path, format="parquet")
        # One page ahead: of records with their values a page has some ten megabytes.
        for page in records.to_batches(filter=wanted, batch_size=_BATCH, batch_readahead=1, fragment_readahead=1):
            for row in page.to_pylist():
                place = (row["topic"], row["partition"])
                if row["offset"] >= self._from.get(place, row["offset"] + 1):
                    yield _message(row)
        for place in sorted(self._from):
            end = KafkaError(KafkaError._PARTITION_EOF)
            yield Message(topic=place[0], partition=place[1], offset=self._kept[place]["end_offset"], error=end)


def _message(row: Mapping[str, Any]) -> Message:
    value = row["value"]
    if value is None and row["value_bytes"] is not None:
        value = _zeros(row["value_bytes"])
    return Message(
        topic=row["topic"],
        partition=row["partition"],
        offset=row["offset"],
        key=row["key"],
        value=value,
        headers=list(zip(row["header_names"], row["header_values"], strict=True)) or None,
        timestamp=(row["stamp_kind"], row["stamped_millis"]),
    )


@lru_cache(1_000)
def _zeros(n: int) -> bytes:
    """In the place of a value that was not copied: a reader sees how long it was."""
    return bytes(n)
