"""attempt that PostgreSQL broke off → the same attempt once more: how often at once, and a row that says so.

It is nobody's fault, so it does not count as an attempt of the event. What is repeated too often goes the way of any other
failure (verdict.py), and so does whatever else is raised.
"""

from __future__ import annotations

from evkit import postgres
from evkit.runtime.delivery import Delivery
from evkit.runtime.session import Session
from evkit.runtime.verdict import Verdict

# Serialization failures and deadlocks are repeated at once, up to here: a handler that deadlocks with itself must not do so
# for ever.
TRANSIENT_MAX = 20
# So often in a row a session may be lost under the same work before that is put aside for a while: an event that brings
# PostgreSQL's backend down whenever it comes must not hold up the others, and is still no dead letter.
LOSSES_MAX = 3


class Repeats:
    """How often one attempt at one event was repeated."""

    def __init__(self, session: Session, verdict: Verdict) -> None:
        self._session = session
        self._verdict = verdict
        self._transient = 0
        self._losses = 0

    def __bool__(self) -> bool:
        return self._transient + self._losses > 0

    def again(
        self, delivery: Delivery, error: Exception, seconds: float, attempt: int, *, lost: bool, in_handler: bool
    ) -> bool:
        """Whether the attempt is made once more; then it is written down, and waited for.

        Args:
            lost        the session was lost under it
            in_handler  while its handler ran, and not in the commit, which may then have happened: there is no row for that
        """
        if lost:
            self._losses += 1
            self._session.renew(error)
            if self._losses >= LOSSES_MAX:
                return False
        elif postgres.is_transient(error) and self._transient < TRANSIENT_MAX:
            self._transient += 1
        else:
            return False
        if in_handler or not lost:
            self._verdict.repeats(delivery, error, seconds, attempt)
        if not lost:
            self._session.wait(0.01 * self._transient)
        return True
