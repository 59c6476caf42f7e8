"""batch → what became of it: count what came to its end, and tell what is to be tried again, and when."""

from __future__ import annotations

from dataclasses import dataclass, field

from evkit.kafka import Record


class HandlerRaised(Exception):
    """Stands for what a handler raised, which is its `__cause__`."""


Key = tuple[str, bytes | None]  # topic and key of a record


@dataclass(slots=True)
class Counts:
    """How many events of a stretch ended in which way."""

    handled: int = 0
    duplicate: int = 0  # the inbox had seen them
    skipped: int = 0  # no handler for their type, or passed over by the decode function
    dead: int = 0
    parked: int = 0  # wait behind a dead letter of their key
    conflicting: int = 0  # of the duplicates: no copies, but other events under a known id (evkit.id_conflict)

    def __iadd__(self, other: Counts) -> Counts:
        self.add(other)
        return self

    def add(self, other: Counts) -> None:
        """These too."""
        self.handled += other.handled
        self.duplicate += other.duplicate
        self.skipped += other.skipped
        self.dead += other.dead
        self.parked += other.parked
        self.conflicting += other.conflicting

    @property
    def total(self) -> int:
        return self.handled + self.duplicate + self.skipped + self.dead + self.parked


@dataclass(slots=True)
class Outcome:
    """What became of records that were handed in together.

    Attributes:
        counts     those that came to their end
        again      index → (seconds to wait, next attempt's number) of those that failed and are to be tried again
        untouched  indexes of those behind such a one that share its key
        waiting    those keys
        full       index → why, of those in `again` that may not be parked now
    """

    counts: Counts = field(default_factory=Counts)
    again: dict[int, tuple[float, int]] = field(default_factory=dict)
    untouched: list[int] = field(default_factory=list)
    waiting: set[Key] = field(default_factory=set)
    full: dict[int, str] = field(default_factory=dict)

    def put_off(self, i: int, record: Record, seconds: float, number: int, *, full: str | None = None) -> None:
        """This record is tried again after so many seconds, or, where one of its key is before it, left untouched.

        `full` is why it may not be parked.
        """
        if self.waits(record):
            self.untouched.append(i)
            return
        self.again[i] = (seconds, number)
        if full is not None:
            self.full[i] = full
        if record.key is not None:
            self.waiting.add((record.topic, record.key))

    def waits(self, record: Record) -> bool:
        """Whether an event of this record's key is to be tried again first; without a key nothing is."""
        return (record.topic, record.key) in self.waiting
