"""The airline-operations service: one transaction for each thing that happens, with its own row and the event."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from evkit import sql
from evkit.demo import events
from evkit.demo.flights import Occurrence
from evkit.event import Event
from evkit.runtime import outbox
from evkit.system import System

_SQL = sql.named("flights", package="evkit.demo")

TOPIC = "flight"


def event_of(o: Occurrence) -> Event:
    """The event that tells of an occurrence, keyed by the aircraft's tail number."""
    row = o.row
    about = {name: row[name] for name in ("flight_id", "carrier", "flight", "tailnum", "origin", "dest")}
    about["happened_at"] = o.at.isoformat()
    payload: events.Flight
    match o.what:
        case "scheduled":
            payload = events.FlightScheduled(**about, distance=row["distance"])
        case "departed":
            payload = events.FlightDeparted(**about, dep_delay=row["dep_delay"])
        case "arrived":
            payload = events.FlightArrived(
                **about, arr_delay=row["arr_delay"], air_time=row["air_time"], distance=row["distance"]
            )
        case _:
            payload = events.FlightCancelled(**about)
    return Event(type=f"flight.{o.what}", key=o.key, payload=payload, topic=TOPIC)


def write(system: System, happened: Iterable[Occurrence], progress: Callable[[int], None] | None = None) -> int:
    """Let things happen, each in a transaction of its own; returns how many. `progress` gets the count so far."""
    done = 0
    with system.writing("airline operations") as connection:
        for o in happened:
            # Row and event, or neither: the pipeline sends both statements and the commit in one go.
            with connection.pipeline(), connection.transaction():
                if o.what == "scheduled":
                    connection.execute(
                        _SQL["plan_flight"], (o.flight_id, o.row["carrier"], o.row["tailnum"], o.at.isoformat())
                    )
                else:
                    connection.execute(_SQL["change_flight"], (o.what, o.at.isoformat(), o.flight_id))
                outbox.write(connection, event_of(o))
            done += 1
            if progress is not None:
                progress(done)
    return done
