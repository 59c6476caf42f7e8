"""what a consumer knows about itself → health: judge whether it handles events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evkit.runtime.health import Health
from evkit.runtime.standing import Standing

# The poll loop turns four times a second. What may hold it up for a while is a broker that does not answer a commit in the
# middle of a rebalance; a loop that waits there for handlers says so.
SILENT_SECONDS = 30.0
# A restart of PostgreSQL or of a broker takes less; a relay's lease is as long.
WAIT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class ConsumerHealth(Health):
    """Whether a consumer does its work, and if not, why.

    Red (`ok` is False) is what keeps its partitions from moving and will not end by itself, or not soon:

    - it does not run, was stopped by an error, its poll loop is silent, or one of its lanes has ended
    - PostgreSQL or the broker has not answered for longer than ten seconds, or Kafka refuses the group or a topic
    - a handler has not come back for longer than the consumer's `hung_seconds`: what it holds does not move, and offsets
      stand still
    - no more events may be parked behind dead letters, so they stay in Kafka and their partitions are paused
    - a partition gives no records although it has some and nothing is paused
    - the breaker holds a handler: its events wait in Kafka until one that is tried succeeds

    Only a reason, with `ok` True, is what the others flow past, or what ends by itself: a shorter wait, keys that wait for
    another attempt at a failed event, keys whose events wait behind a dead letter, a group that pauses for a replay. A new
    process would find the same ones again.

    A consumer without partitions is well: others of its group have them.

    Attributes:
        group              consumer group
        partitions         how many it has
        last_loop_seconds  since its poll loop was last heard of; None when it has not run yet
        waits_for          what it waits for, in the words of the error; None when for nothing
        waits_seconds      for how long
        refused            what Kafka does not let it do, in its words
        hung               a sentence for each handler that does not come back
        stuck              a sentence for each partition that gives nothing although it has something
        held               handlers whose events are held, because they fail alike on many keys
        waiting_keys       keys that wait for another attempt at a failed event
        parked             whether keys of its group were parked when it handled its last batch
        parking_full       why partitions are paused whose events can neither be handled nor parked; a sentence each
    """

    group: str = ""
    partitions: int = 0
    last_loop_seconds: float | None = None
    waits_for: str | None = None
    waits_seconds: float | None = None
    refused: Sequence[str] = ()
    hung: Sequence[str] = ()
    stuck: Sequence[str] = ()
    held: Sequence[str] = ()
    waiting_keys: int = 0
    parked: bool = False
    parking_full: Sequence[str] = ()

    @classmethod
    def of(cls, group: str, now: Standing) -> ConsumerHealth:
        """Judge how a consumer stands; see the class."""
        red: list[str] = []
        notes: list[str] = []
        if now.fatal is not None:
            red.append(f"stopped: {now.fatal}")
        elif not now.running:
            red.append("the consumer is not running")
        elif now.stopping:
            notes.append("was told to stop and finishes what is in hand")
        elif now.last_loop_seconds is None:
            red.append("the poll loop has not begun")
        elif now.last_loop_seconds > SILENT_SECONDS:
            red.append(f"the poll loop was silent for {now.last_loop_seconds:.1f} s; {SILENT_SECONDS:g} s are allowed")
        if now.lanes_ended and now.running and not now.stopping:
            red.append(f"{now.lanes_ended} of {now.lanes} lanes ended: what they had in hand does not move")
        if now.waits_for is not None:
            waits = now.waits_seconds or 0.0
            (red if waits > WAIT_SECONDS else notes).append(f"waits for {waits:.1f} s: {now.waits_for}")
        red += [*now.refused, *now.hung, *now.stuck, *now.parking_full]
        if now.held:
            red.append(
                f"holds {', '.join(now.held)}, whose events fail alike on many keys: `evkit breaker list` says why; one is "
                "tried from time to time"
            )
        if now.paused_for is not None:
            notes.append(f"handles nothing while {now.paused_for} runs: `evkit replay status {now.paused_for}`")
        if now.waiting_keys:
            keys = "1 key waits" if now.waiting_keys == 1 else f"{now.waiting_keys:,} keys wait"
            notes.append(f"{keys} for another attempt at a failed event")
        if now.parked and not now.parking_full:
            notes.append("events wait behind dead letters of their keys: `evkit dlq parked` shows which")
        return cls(
            not red, red + notes, group, len(now.partitions), now.last_loop_seconds, now.waits_for, now.waits_seconds,
            now.refused, now.hung, now.stuck, now.held, now.waiting_keys, now.parked, now.parking_full,
        )  # fmt: skip

    @property
    def part(self) -> str:
        return f"consumer of {self.group}"
