"""Three consumer groups of one topic; `evkit consume evkit.demo.groups:punctuality` runs one of them.

What goes wrong here is switched on by the environment, so that a release is deployed by starting the process anew:

    EVKIT_DEMO_RELEASE        "2013.2" of punctuality has a bug in the path of cancelled flights; others do not
    EVKIT_DEMO_SLOW_CARRIER   carrier on whose flights turnaround waits for a slow dependency
"""

from __future__ import annotations

import os
import time

import evkit
from evkit import sql
from evkit.demo import events
from evkit.demo.flights import link
from evkit.demo.service import TOPIC
from evkit.event import Event
from evkit.runtime.handler import Tx

_SQL = sql.named("flights", package="evkit.demo")

RELEASE = os.environ.get("EVKIT_DEMO_RELEASE", "2013.1")
SLOW_CARRIER = os.environ.get("EVKIT_DEMO_SLOW_CARRIER", "")
SLOW_SECONDS = 0.006

# A demo has no time for long waits; a service would keep the default.
_RETRY = evkit.Retry(attempts=3, backoff_seconds=0.01, backoff_seconds_max=0.05)

punctuality = evkit.Consumer("punctuality", [TOPIC], retry=_RETRY, park_key=False, code_version=RELEASE)
turnaround = evkit.Consumer("turnaround", [TOPIC], retry=_RETRY, batch_events_max=100)
maintenance = evkit.Consumer("maintenance", [TOPIC], retry=_RETRY, park_key=False)


# --- punctuality: delays of each carrier ------------------------------------------------------------------------------


@punctuality.handler("flight.scheduled", model=events.FlightScheduled)
def count_scheduled(event: Event, tx: Tx) -> None:
    tx.execute(_SQL["count_scheduled"], (event.payload.carrier,))


@punctuality.handler("flight.departed", model=events.FlightDeparted)
def count_departed(event: Event, tx: Tx) -> None:
    tx.execute(_SQL["count_departed"], (event.payload.carrier,))


@punctuality.handler("flight.arrived", model=events.FlightArrived)
def count_arrived(event: Event, tx: Tx) -> None:
    arrived: events.FlightArrived = event.payload
    delay = arrived.arr_delay or 0
    tx.execute(_SQL["count_arrived"], (arrived.carrier, int(delay >= 15), delay))


@punctuality.handler("flight.cancelled")
def count_cancelled(event: Event, tx: Tx) -> None:
    if RELEASE == "2013.2":
        # The bug: somebody wanted cancelled flights to count as late, and they have no delay.
        delay = event.payload["dep_delay"]
        tx.execute(_SQL["count_arrived"], (event.payload["carrier"], 1, delay))
        return
    tx.execute(_SQL["count_cancelled"], (event.payload["carrier"],))


# --- turnaround: what each aircraft does, in order --------------------------------------------------------------------


@turnaround.handler()
def follow_aircraft(event: Event, tx: Tx) -> None:
    flight_id: str = event.payload["flight_id"]
    if SLOW_CARRIER and event.payload["carrier"] == SLOW_CARRIER:
        time.sleep(SLOW_SECONDS)  # the carrier's own system answers slowly
    row = tx.execute(_SQL["chain"], (event.key,)).fetchone()
    chain = row[1] if row else ""
    tx.execute(_SQL["link"], (event.key, link(chain, event.type.removeprefix("flight."), flight_id)))


# --- maintenance: wear of each aircraft -------------------------------------------------------------------------------


class NoAircraft(Exception):
    """Raised when a flight has no tail number: there is nothing to maintain."""


@maintenance.handler("flight.scheduled", model=events.FlightScheduled)
def plan_aircraft(event: Event, tx: Tx) -> None:
    scheduled: events.FlightScheduled = event.payload
    if scheduled.tailnum is None:
        raise NoAircraft(f"flight {scheduled.flight_id} has no tail number")
    tx.execute(_SQL["plan_aircraft"], (scheduled.tailnum,))


@maintenance.handler("flight.arrived", model=events.FlightArrived)
def wear_aircraft(event: Event, tx: Tx) -> None:
    arrived: events.FlightArrived = event.payload
    tx.execute(_SQL["wear_aircraft"], (arrived.tailnum, arrived.air_time or 0, arrived.distance))
