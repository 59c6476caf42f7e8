"""what a relay knows about itself → health: judge whether it does its work."""

from __future__ import annotations

from dataclasses import dataclass

from evkit.runtime.health import Health


@dataclass(frozen=True, slots=True)
class RelayHealth(Health):
    """Whether a relay does its work, and if not, why.

    Red (`ok` is False) is what keeps *every* event from moving, or will:

    - the loop is dead, or was silent for longer than its lease: nobody works here, and a standby has taken the lead
    - it was stopped by a fatal error: it will not go on before somebody has done something
    - it is held: PostgreSQL or the broker has not answered for longer than the lease. A new process would wait as well, yet
      events wait meanwhile, and this is the page that a load balancer, an alert or a person looks at

    Only a reason, with `ok` True, is what does not keep the others from moving: a shorter wait, which every restart of a
    broker brings, and unpublishable events that hold their keys. A relay that is replaced or drained for these would stop
    all keys for the sake of some, and find the same ones again; they are a finding of `evkit check` and a metric instead.

    A standby is well: it leads nothing, and nothing is asked of it but to ask for the lead.

    Attributes:
        leading            it holds the outbox's lock
        last_loop_seconds  since its loop was last heard of; None when it has not run yet
        lease_seconds      for how long it may be silent
        waits_for          what it waits for, in the words of the error; None when for nothing
        waits_seconds      for how long
        held_keys          keys that unpublishable events hold
    """

    leading: bool = False
    last_loop_seconds: float | None = None
    lease_seconds: float | None = None
    waits_for: str | None = None
    waits_seconds: float | None = None
    held_keys: int = 0

    @classmethod
    def of(
        cls,
        *,
        alive: bool,
        leading: bool,
        last_loop_seconds: float | None,
        lease_seconds: float,
        fatal: str | None = None,
        waits_for: str | None = None,
        waits_seconds: float | None = None,
        held_keys: int = 0,
    ) -> RelayHealth:
        """Judge what a relay knows about itself; see the class.

        Args:
            alive              `run` has been called and has not returned
            last_loop_seconds  since a loop that works or waits was last heard of
            fatal              the error that ended it
            waits_for          the error that it waits out
            waits_seconds      since when
            others: as the attributes
        """
        red: list[str] = []
        notes: list[str] = []
        if fatal is not None:
            red.append(f"stopped: {fatal}")
        elif not alive:
            red.append("the relay is not running")
        elif last_loop_seconds is None or last_loop_seconds > lease_seconds:
            since = "has not begun" if last_loop_seconds is None else f"was silent for {last_loop_seconds:.1f} s"
            red.append(f"the relay's loop {since}; its lease is {lease_seconds:g} s")
        if waits_for is not None:
            waits = waits_seconds or 0.0
            (red if waits > lease_seconds else notes).append(f"waits for {waits:.1f} s: {waits_for}")
        if held_keys:
            keys = "1 key is" if held_keys == 1 else f"{held_keys:,} keys are"
            notes.append(
                f"{keys} held by unpublishable events: `evkit outbox status`, then `evkit outbox retry` or `skip`"
            )
        return cls(not red, red + notes, leading, last_loop_seconds, lease_seconds, waits_for, waits_seconds, held_keys)

    @property
    def part(self) -> str:
        return "relay"
