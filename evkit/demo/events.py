"""The four event types of the flights system, as pydantic models."""

from __future__ import annotations

from pydantic import BaseModel, Field

from evkit.event_types import event_type


class Flight(BaseModel):
    """What every event says of its flight."""

    flight_id: str
    carrier: str
    flight: int
    tailnum: str | None = Field(description="registration of the aircraft; none was assigned to some cancelled flights")
    origin: str
    dest: str
    happened_at: str = Field(description="local time in New York, ISO")


@event_type("flight.scheduled", version=1)
class FlightScheduled(Flight):
    distance: int = Field(description="miles")


@event_type("flight.departed", version=1)
class FlightDeparted(Flight):
    dep_delay: int = Field(description="minutes, negative when early")


@event_type("flight.arrived", version=1)
class FlightArrived(Flight):
    arr_delay: int | None = Field(description="minutes, negative when early; not recorded for diverted flights")
    air_time: int | None = Field(description="minutes")
    distance: int = Field(description="miles")


@event_type("flight.cancelled", version=1)
class FlightCancelled(Flight):
    pass
