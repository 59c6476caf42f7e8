"""outbox, publication and unpublishable → what was written, and what became of it on the way to its topic."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

import polars as pl
from psycopg.rows import dict_row

from evkit.errors import InvalidParameter, closest
from evkit.sql import named
from evkit.system import System
from evkit.views.columns import OUTBOX_STATES
from evkit.views.columns.column import seconds, text, time
from evkit.views.copied import copied, ends_of, framed
from evkit.views.errors import ROWS_MAX
from evkit.views.frame import Frame, Frames, WindowLike, frame, groups_of, handed, view, window_of
from evkit.views.pages import gathered
from evkit.views.reading import frozen_end, reading

log = logging.getLogger(__name__)


@view("outbox")
def outbox(
    system: System,
    window: WindowLike = None,
    *,
    topic: str | None = None,
    state: str | None = None,
    rows_max: int = ROWS_MAX,
    frames: Frames = "polars",
) -> Frame:
    """Every event that was written in the window, without its payload: where it is, or what keeps it.

    Args:
        window    a `Window`, "2h", "FROM/TO"; default: the last hour
        topic     one topic; default: all
        state     one state: waiting, published, unpublishable, held, retrying or skipped
        rows_max  most rows; when there are more, the newest are kept and a warning is logged

    Columns: see columns/

    Sorted by position, the newest first. Events that are scheduled for later are in `outbox_summary`.

    Raises:
        InvalidParameter: no such state; the window cannot be read.
        DatabaseUnreachable, NotMigrated: see `System.reading`.
    """
    if state is not None and state not in OUTBOX_STATES:
        near = closest(state, OUTBOX_STATES)
        hint = f"; did you mean '{near[0]}'?" if near else f"; there are {', '.join(OUTBOX_STATES)}"
        raise InvalidParameter(f"'{state}' is no state of an outbox row{hint}", name="state", value=state)
    seen = window_of(window, system)
    asked: dict[str, Any] = {"since": seen.start, "until": seen.end, "topic": topic, "state": state}
    made = copied(system, "outbox", "outbox_rows", "outbox", bounds="bounds", rows_max=rows_max + 1, **asked)
    if made.height > rows_max:
        log.warning("outbox: only the newest %s events of this window are shown", f"{rows_max:,}")
    return handed(made.head(rows_max), frames)


@view("outbox_summary")
def outbox_summary(
    system: System, window: WindowLike = None, *, topic: str | None = None, frames: Frames = "polars"
) -> Frame:
    """How many events are in which state, per topic, and how old: those written in the window, and all that are scheduled.

    Args:
        window  a `Window`, "2h", "FROM/TO"; default: the last hour
        topic   one topic; default: all

    Columns: see columns/

    Sorted by topic, then state. A state that no event is in has no row.

    Raises:
        InvalidParameter: the window cannot be read.
        DatabaseUnreachable, NotMigrated: see `System.reading`.
    """
    seen = window_of(window, system)
    given: dict[str, Any] = {"since": seen.start, "until": seen.end, "topic": topic}
    with system.reading() as connection:
        now = frozen_end(connection, datetime.max.replace(tzinfo=UTC))
        low, high = ends_of(connection, named("outbox_rows")["bounds"], given)
        rows = framed(system, connection, "outbox_rows", "stated", _STATED, low or 0, high or 0, given)
        later = connection.cursor(row_factory=dict_row).execute(named("outbox_rows")["scheduled"], given).fetchall()
    relay = pl.col("relay_seconds")
    made = rows.group_by("topic", "state").agg(
        n=pl.len(),
        oldest_at=pl.col("created_at").min(),
        newest_at=pl.col("created_at").max(),
        relay_p50_seconds=relay.quantile(0.5, interpolation="equiprobable"),
        relay_p99_seconds=relay.quantile(0.99, interpolation="equiprobable"),
    )
    every = [*made.to_dicts(), *({"state": "scheduled", **row} for row in later)]
    for row in every:
        waits = row["state"] not in ("published", "skipped")
        row["oldest_seconds"] = max((now - row["oldest_at"]).total_seconds(), 0.0) if waits else None
    every.sort(key=lambda row: (row["topic"], row["state"]))
    return frame("outbox_summary", every, frames)


@view("schema_usage")
def schema_usage(
    system: System,
    window: WindowLike = None,
    *,
    topic: str | None = None,
    group: str | None = None,
    frames: Frames = "polars",
) -> Frame:
    """Which versions of each event type were written in the window, and what every group made of them.

    A version is out of use when nothing was written with it for longer than topics and letters are kept.

    Args:
        window  a `Window`, "2h", "FROM/TO"; default: the last hour
        topic   one topic; default: all
        group   one consumer group; default: all, and versions that no group has dealt with

    Columns: see columns/

    Sorted by topic, event type, version, group.

    Raises:
        UnknownGroup: evkit's tables know no such group; the closest names are in `suggestions`.
        InvalidParameter: the window cannot be read.
        DatabaseUnreachable, NotMigrated: see `System.reading`.
    """
    seen = window_of(window, system)
    given: dict[str, Any] = {"topic": topic}
    with system.reading() as connection:
        groups = given["groups"] = groups_of(system, connection, group)
        # What was written in the window may have been dealt with after it.
        given |= reading(system, connection, seen.start, datetime.max.replace(tzinfo=UTC), groups)
        until = min(seen.end, given["until"])
        pages = gathered(system, connection, "outbox_rows", "schema_usage", seen.start, until, given)
    added: dict[tuple[str, str, int, str | None], dict[str, Any]] = {}
    for row in pages:
        place = (row["topic"], row["event_type"], row["schema_version"], row["group"])
        if place not in added:
            added[place] = row
            continue
        known = added[place]
        for count in ("written", "handled", "skipped", "dead"):
            known[count] += row[count]
        for end, of in (("first_at", min), ("last_at", max)):
            known[end] = of(known[end], row[end]) if known[end] else row[end]
    rows = []
    for (of_topic, event_type, version, _), written in ((p, r) for p, r in added.items() if p[3] is None):
        said = {c: written[c] for c in ("topic", "event_type", "schema_version", "written", "first_at", "last_at")}
        dealt = [r for p, r in added.items() if p[:3] == (of_topic, event_type, version) and p[3] is not None]
        rows += [said | {c: row[c] for c in ("group", "handled", "skipped", "dead")} for row in dealt]
        if not dealt and group is None:
            rows.append(said)
    rows.sort(key=lambda r: (r["topic"], r["event_type"], r["schema_version"], r.get("group") or ""))
    return frame("schema_usage", rows, frames)


_STATED = (
    text("topic", ""), text("state", ""), time("created_at", "of the outbox row"),
    seconds("relay_seconds", "from the write to the confirmation; null when there is none"),
)  # fmt: skip
