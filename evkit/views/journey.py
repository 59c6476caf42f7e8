"""all tables → the way of an event, of a key, or of all events of one business process, stop by stop."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from evkit import postgres
from evkit.error_texts import message_of
from evkit.errors import InvalidParameter, UnknownBusinessId, UnknownEvent, UnknownKey
from evkit.masking import Policy
from evkit.sql import named
from evkit.system import System
from evkit.views.frame import Frame, Frames, WindowLike, frame, groups_of, view, window_of
from evkit.views.json_path import is_json_path, path_and_value, require_shown
from evkit.window import Window

log = logging.getLogger(__name__)

# About a thousand events with all their stops: what a person can follow in a figure, and more.
ROWS_MAX = 5_000
# How far back events are searched that no index finds, when nobody says it.
_SEARCH_BACK = timedelta(days=1)
# Kafka's timestamps are whole milliseconds: one may lie this much before a moment of the database that it came after.
_RECORD_SECONDS = 0.001
# A relay notes an answer with the time at which it began to wait for it, so that costs no clock call for each event.
_ANSWER_SECONDS = 0.1

_SAID = {"database": "the database's clock", "broker": "the broker's clock", "client": "the clock of a client's machine",
         "record": "the record's timestamp"}  # fmt: skip


@view("journey")
def journey(
    system: System,
    event_id: str | None = None,
    *,
    key: str | None = None,
    business_id: str | None = None,
    window: WindowLike = None,
    rows_max: int = ROWS_MAX,
    frames: Frames = "polars",
) -> Frame:
    """Everything evkit's tables know about an event, a key or a business process: one row a stop, in order of time.

    Written, appended to the topic, published, and for each group received, each failed attempt, processed, parked,
    redriven or replayed, and what became of its dead letter; then the events it caused. Kafka is not asked. `clock` names
    whose time it is: the database's times are in their real order; where another clock makes an order that cannot have
    been, the stop stays where its time puts it and `impossible` says what is wrong.

    Args:
        event_id     id of one event
        key          instead: all events of this key
        business_id  instead: all events with this correlation id and the event that began it; or `$.customer.id=4711`,
                     all whose payload says that
        window       of a key or business process, only events written in it; default: all in the outbox, but the last day
                     for a path, and for a key that this outbox never wrote (then by the time of handling)
        rows_max     most rows; when there are more, the newest stops are kept and a warning is logged

    Columns: see columns/

    Sorted by time; follow one event by `event_id`, one group by `group`. What an event caused is found among the events of
    its correlation id, which `tx.write` passes on: one that was given another is not.

    Raises:
        UnknownEvent, UnknownKey, UnknownBusinessId: no table knows it; near matches are in `suggestions`.
        InvalidParameter: none or several of event_id, key and business_id; a path or window that cannot be read; a
            masking policy hides what is at the path.
        DatabaseUnreachable, NotMigrated: see `System.reading`.
    """
    if sum(given is not None for given in (event_id, key, business_id)) != 1:
        raise InvalidParameter("a journey is of one thing: give event_id, key or business_id", name="event_id")
    if event_id is not None and window is not None:
        raise InvalidParameter("the journey of one event is shown whole: leave the window away", name="window")
    seen = None if window is None else window_of(window, system)
    wanted = rows_max + 1  # one more than is shown, of events too: of some there is one stop alone
    with system.reading() as connection:
        if event_id is not None:
            ids = [event_id]
        elif key is not None:
            ids = _of_key(connection, key, seen, wanted)
        else:
            assert business_id is not None
            ids = _of_business(connection, business_id, seen, wanted, system.settings.masking)
        cursor = connection.execute(
            named("journey")["journey"],
            {"event_ids": ids, "groups": groups_of(system, connection), "rows_max": wanted},
        )
        assert cursor.description is not None
        names = [column.name for column in cursor.description]
        rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()] if ids else []
        if not rows and seen is None:
            raise _unknown(system, connection, event_id, key, business_id)
    if len(rows) > rows_max:
        log.warning("journey: only the newest %s stops are shown", f"{rows_max:,}")
        rows = rows[1:]
        for step, row in enumerate(rows, start=1):
            row["step"] = step
    for row, why in zip(rows, impossible(rows), strict=True):
        row["impossible"] = why
        if row["stage"] == "attempt_failed":
            row["detail"] = message_of(row["detail"], system.settings.masking, row["topic"], row["event_type"])
    return frame("journey", rows, frames)


def impossible(stops: Sequence[Mapping[str, Any]]) -> list[str | None]:
    """What cannot be about the time of each stop, given the others: "2.5 s before it was written, by …"; else None.

    An event is written before anything else happens to it, on the topic before a group receives it, received before it
    is dealt with, dead before its letter is decided, and received before what it caused is written.
    """
    written = _earliest(stops, ("written",), ("event_id",))
    appended = _earliest(stops, ("appended",), ("event_id", "topic", "partition", "offset"))
    received = _earliest(stops, ("received",), ("event_id", "group"))
    reached = _earliest(stops, ("received",), ("event_id",))
    parked = _earliest(stops, ("parked",), ("event_id", "group"))
    told = []
    for stop in stops:
        event, group, stage = stop["event_id"], stop["group"], stop["stage"]
        before = []
        if stage not in ("written", "scheduled"):
            before.append(("it was written", written.get((event,))))
        if stage in ("published", "received"):
            place = (event, stop["topic"], stop["partition"], stop["offset"])
            before.append(("it was appended to the topic", appended.get(place)))
        if group is not None and stage not in ("received", "replay_planned"):
            before.append(("the group received it", received.get((event, group))))
        if stage in ("retrying", "resolved", "archived", "purged", "redrive_planned"):
            before.append(("the group gave up on it", parked.get((event, group))))
        if stage in ("caused", "written") and stop["caused_by"] is not None:
            before.append(("the event that caused it was written", written.get((stop["caused_by"],))))
            before.append(("a group received the event that caused it", reached.get((stop["caused_by"],))))
        told.append(_why(stop, before))
    return told


def _earliest(
    stops: Iterable[Mapping[str, Any]], stages: tuple[str, ...], by: tuple[str, ...]
) -> dict[tuple[Any, ...], tuple[datetime, str]]:
    found: dict[tuple[Any, ...], tuple[datetime, str]] = {}
    for stop in stops:
        if stop["stage"] in stages:
            place = tuple(stop[name] for name in by)
            if place not in found or stop["at"] < found[place][0]:
                found[place] = (stop["at"], stop["clock"])
    return found


def _why(stop: Mapping[str, Any], before: Iterable[tuple[str, tuple[datetime, str] | None]]) -> str | None:
    worst, said = 0.0, None
    for what, earlier in before:
        if earlier is None:
            continue
        at, clock = earlier
        early = (at - stop["at"]).total_seconds()
        allowed = {"appended": _RECORD_SECONDS, "published": _ANSWER_SECONDS}.get(stop["stage"], 0.0)
        if early > allowed and early > worst:
            clocks = _SAID[stop["clock"]] + ("" if clock == stop["clock"] else f" against {_SAID[clock]}")
            worst, said = early, f"{early:.3g} s before {what}, by {clocks}"
    return said


def _of_key(connection: postgres.Connection, key: str, seen: Window | None, rows_max: int) -> list[str]:
    queries = named("journey")
    limits = {"key": key, "since": seen and seen.start, "until": seen and seen.end, "rows_max": rows_max}
    found = [row[0] for row in connection.execute(queries["events_of_key"], limits).fetchall()]
    if not found:
        back = seen or Window.last(_SEARCH_BACK)
        limits |= {"since": back.start, "until": back.end}
        found = [row[0] for row in connection.execute(queries["events_of_foreign_key"], limits).fetchall()]
    return found


def _of_business(
    connection: postgres.Connection, business_id: str, seen: Window | None, rows_max: int, policies: Sequence[Policy]
) -> list[str]:
    queries = named("journey")
    if is_json_path(business_id):
        path, value = path_and_value(business_id)
        require_shown(path, policies)
        back = seen or Window.last(_SEARCH_BACK)
        limits = {"path": path, "value": value, "since": back.start, "until": back.end, "rows_max": rows_max}
        return [row[0] for row in connection.execute(queries["events_of_payload"], limits).fetchall()]
    limits = {
        "business_id": business_id,
        "since": seen and seen.start,
        "until": seen and seen.end,
        "rows_max": rows_max,
    }
    return [row[0] for row in connection.execute(queries["events_of_correlation"], limits).fetchall()]


def _unknown(
    system: System, connection: postgres.Connection, event_id: str | None, key: str | None, business_id: str | None
) -> UnknownEvent | UnknownKey | UnknownBusinessId:
    queries, where = named("journey"), f"to evkit's tables at {postgres.address(system.settings.postgres_dsn)}"
    if event_id is not None:
        near = [r[0] for r in connection.execute(queries["like_event"], {"event_id": event_id}).fetchall()]
        return UnknownEvent(event_id, near, where=where)
    if key is not None:
        return UnknownKey(key, [r[0] for r in connection.execute(queries["like_key"]).fetchall()], where=where)
    assert business_id is not None
    near = [r[0] for r in connection.execute(queries["like_correlation"]).fetchall()]
    return UnknownBusinessId(business_id, near, where=where)
