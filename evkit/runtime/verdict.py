"""failed attempt → what follows: try again, wait for what is nobody's fault, or bury the event as a dead letter.

Every failed attempt becomes a row of evkit.attempt. The last one is written in one transaction with the dead letter, with
the event's mark in the inbox, and with its key's parking.
"""

from __future__ import annotations

import logging

import psycopg

from evkit import postgres
from evkit.errors import TryLater
from evkit.runtime import claims
from evkit.runtime.attempt import attempt_values, letter_values
from evkit.runtime.breaker import Breakers
from evkit.runtime.consumer_metrics import ConsumerMetrics
from evkit.runtime.delivery import Delivery
from evkit.runtime.failure import Failure, chain
from evkit.runtime.ledger import Ledger
from evkit.runtime.mirror import Mirror
from evkit.runtime.outcome import Counts
from evkit.runtime.parking import Parking, ParkingFull
from evkit.runtime.retry import Retry
from evkit.runtime.session import Session
from evkit.sql import named

log = logging.getLogger(__name__)

_SQL = named("inbox")
_LETTERS = named("dead_letters")


class Verdict:
    """Judges the failures of one inbox; for one thread."""

    def __init__(
        self,
        who: claims.Who,
        session: Session,
        retry: Retry,
        parking: Parking | None,
        breakers: Breakers | None,
        metrics: ConsumerMetrics,
        mirror: Mirror | None,
        ledger: Ledger,
    ) -> None:
        self._ledger = ledger
        self._who = who
        self._session = session
        self._retry = retry
        self._parking = parking
        self._breakers = breakers
        self._metrics = metrics
        self._mirror = mirror

    def of(
        self, delivery: Delivery, error: Exception, attempt: int, seconds: float, *, lost: bool, tried: int
    ) -> Counts | tuple[float, int] | ParkingFull:
        """Write down a failed attempt, and say what follows: its end, or how long to wait and the next attempt's number.

        What may neither be parked nor be a dead letter now is not written down: it will be attempted again.

        Args:
            attempt  number of this attempt
            lost     the connection was lost under it, again and again
            tried    above 0 for an event of a held handler: how often in a row its key was the one that was tried
        """
        failure = Failure.of(error)
        held, wait = self._held(delivery, error, failure, attempt, lost=lost, tried=tried)
        again = False
        if not held:
            failing = (
                self._session.repeated(claims.before, self._who, delivery)[1] if self._retry.end_seconds(error) else 0.0
            )
            again = self._retry.again(error, attempt, failing_seconds=failing)
            wait = self._retry.wait_seconds(attempt, error, failing_seconds=failing)
        disposition = "held" if held else "retry" if again else "dead"
        try:
            known = self._session.repeated(self._record, delivery, failure, attempt, seconds, disposition)
        except ParkingFull as full:
            return full
        if known is not None:
            return known
        self._metrics.failed(disposition, replay=self._who.replay_id is not None)
        if held:
            return wait, attempt
        if again:
            return wait, attempt + 1
        log.warning(
            "event %s ('%s') %s a dead letter of %s after %s attempts: %s: %s",
            delivery.event_id, delivery.event_type, "would be" if self._ledger.dry else "is", self._who.name, attempt,
            failure.error_class, failure.error_message,
        )  # fmt: skip
        return Counts(dead=1)

    def repeats(self, delivery: Delivery, error: Exception, seconds: float, attempt: int = 0) -> None:
        """Write down an attempt that is repeated and does not count: PostgreSQL asked for it, or went away under it.

        An error of the handler's own, under which the session was lost besides, is nobody else's fault: the event is tried
        again, and judged then. `attempt` is its number; 0: the database has to say.
        """
        if not any(isinstance(e, psycopg.Error) for e in chain(error)):
            return
        attempt = attempt or 1 + self._session.repeated(claims.before, self._who, delivery)[0]
        self._session.repeated(self._record, delivery, Failure.of(error), attempt, seconds, "held")
        self._metrics.failed("held", replay=self._who.replay_id is not None)

    def _held(
        self, delivery: Delivery, error: Exception, failure: Failure, attempt: int, *, lost: bool, tried: int
    ) -> tuple[bool, float]:
        """Whether this failure is nobody's fault, and how long to wait then."""
        if self._breakers is not None and delivery.handler is not None:
            if attempt == 1:  # an event that fails three times is still one event of those that fail
                self._breakers.count(delivery.handler.name, failed=1)
            self._breakers.failed_alike(delivery.handler.name, failure.fingerprint)
            seconds = self._breakers.policy.probe_seconds
            if tried and not self._breakers.is_lonely(delivery.handler.name, tried, failure):
                # Twice the time until the next is tried, so that it is another one's turn then.
                return True, 2 * (self._breakers.wait_seconds(delivery.handler.name) or seconds)
            if (
                not tried
                and (suspicion := self._breakers.suspicion(delivery.handler.name, error)) is not None
                and self._session.repeated(self._breakers.opens, delivery.handler.name, failure, suspicion)
            ):
                return True, seconds
        if lost or self._retry.is_nobodys_fault(error):
            if isinstance(error, TryLater) and error.seconds is not None:
                return True, error.seconds
            so_far = self._session.repeated(claims.before, self._who, delivery)[2]
            return True, self._retry.wait_seconds(so_far + 1)
        return False, 0.0

    def _record(
        self,
        connection: postgres.Connection,
        delivery: Delivery,
        failure: Failure,
        attempt: int,
        seconds: float,
        disposition: str,
    ) -> Counts | None:
        """Write down a failed attempt; after the last one also the dead letter and its inbox mark, in one transaction.

        Returns what else became of it, when its id was dealt with already: then nothing is written down here.
        """
        dead = disposition == "dead"
        parking = None
        if self._parking is not None and self._parking.parks(delivery) and not self._who.generation:
            parking = self._parking
        with self._ledger.transaction(connection, [delivery], failure) as counts:
            if dead:
                new, conflicting = claims.claim(connection, self._who, [delivery], attempts=attempt, outcome="dead")
                if not new:
                    counts.add(Counts(duplicate=1, conflicting=conflicting))
                    return counts
                if parking is not None and not parking.take(connection, new):
                    counts.add(Counts(parked=1))  # it waits behind another letter of its key, whatever it is
                    return counts
            values = attempt_values(
                self._who, delivery, failure, attempt=attempt, seconds=seconds, disposition=disposition
            )
            connection.execute(_SQL["attempt"], values)
            if dead:
                values = letter_values(self._who, delivery, failure, attempt=attempt)
                letter = connection.execute(_LETTERS["park"], values).fetchone()
                if self._mirror is not None and letter is not None:
                    self._mirror.write(connection, letter[0], values)
                if parking is not None and letter is not None:
                    parking.park(connection, delivery, letter[0])
                counts.add(Counts(dead=1))
        return None
