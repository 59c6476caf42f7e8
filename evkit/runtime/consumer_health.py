"""what a consumer knows about itself → health: judge whether it handles events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from evkit.runtime.health import Health

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
    - PostgreSQL or the broker has not answered for longer than ten seconds
    - a handler has not come back for longer than `lane.HUNG_SECONDS`: what it holds does not move, and offsets stand still
    - no more events may be parked behind dead letters, so they stay in Kafka and their partitions pause
    - the circuit breaker is open

    Only a reason, with `ok` True, is what the others flow past: a shorter wait, keys that wait for another attempt at a
    failed event, keys whose events wait behind a dead letter. A new process would find the same ones again.

    A consumer without partitions is well: others of its group have them.

    Attributes:
        group              consumer group
        partitions         how many it has
        last_loop_seconds  since its poll loop was last heard of; None when it has not run yet
        waits_for          what it waits for, in the words of the error; None when for nothing
        waits_seconds      for how long
        hung               a sentence for each handler that does not come back
        waiting_keys       keys that wait for another attempt at a failed event
        parked             whether keys of its group were parked when it handled its last batch
        parking_full       why events stay in Kafka although their keys are parked; a sentence each
        breaker            why the circuit breaker is open; None when it is not
    """

    group: str = ""
    partitions: int = 0
    last_loop_seconds: float | None = None
    waits_for: str | None = None
    waits_seconds: float | None = None
    hung: list[str] = field(default_factory=list)
    waiting_keys: int = 0
    parked: bool = False
    parking_full: list[str] = field(default_factory=list)
    breaker: str | None = None

    @classmethod
    def of(
        cls,
        *,
        group: str,
        alive: bool,
        last_loop_seconds: float | None,
        partitions: int = 0,
        stopping: bool = False,
        fatal: str | None = None,
        lanes: int = 1,
        lanes_ended: int = 0,
        waits_for: str | None = None,
        waits_seconds: float | None = None,
        hung: Sequence[str] = (),
        waiting_keys: int = 0,
        parked: bool = False,
        parking_full: Sequence[str] = (),
        breaker: str | None = None,
    ) -> ConsumerHealth:
        """Judge what a consumer knows about itself; see the class.

        Args:
            alive              `run` has been called and has not returned
            last_loop_seconds  since the poll loop turned, or a rebalance waited for what is in hand
            stopping           it was told to stop, and finishes what is in hand
            fatal              the error that ended it
            lanes, lanes_ended how many lanes it has, and how many of them have ended although it runs
            others: as the attributes
        """
        red: list[str] = []
        notes: list[str] = []
        if fatal is not None:
            red.append(f"stopped: {fatal}")
        elif not alive:
            red.append("the consumer is not running")
        elif stopping:
            notes.append("was told to stop and finishes what is in hand")
        elif last_loop_seconds is None:
            red.append("the poll loop has not begun")
        elif last_loop_seconds > SILENT_SECONDS:
            red.append(f"the poll loop was silent for {last_loop_seconds:.1f} s; {SILENT_SECONDS:g} s are allowed")
        if lanes_ended and not stopping:
            red.append(f"{lanes_ended} of {lanes} lanes ended: what they had in hand does not move")
        if waits_for is not None:
            waits = waits_seconds or 0.0
            (red if waits > WAIT_SECONDS else notes).append(f"waits for {waits:.1f} s: {waits_for}")
        red += [*hung, *parking_full]
        if breaker is not None:
            red.append(breaker)
        if waiting_keys:
            keys = "1 key waits" if waiting_keys == 1 else f"{waiting_keys:,} keys wait"
            notes.append(f"{keys} for another attempt at a failed event")
        if parked and not parking_full:
            notes.append("events wait behind dead letters of their keys: `evkit dlq parked` shows which")
        return cls(
            not red, red + notes, group, partitions, last_loop_seconds, waits_for, waits_seconds, list(hung),
            waiting_keys, parked, list(parking_full), breaker,
        )  # fmt: skip

    @property
    def part(self) -> str:
        return f"consumer of {self.group}"
