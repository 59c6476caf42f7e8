"""inbox → which topics each group reads, since when, and up to which moment a view looks: what many queries are given."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg.rows import dict_row

from evkit import postgres
from evkit.sql import named
from evkit.system import System
from evkit.views.pages import gathered

# An event is handled some time after its topic was first read.
_EARLIER = timedelta(hours=1)


def reading(
    system: System, connection: postgres.Connection, since: datetime, until: datetime, groups: Sequence[str]
) -> dict[str, Any]:
    """The parameters of the SQL part of this name, read in transactions of their own; the next query begins another.

    The window ends, at the latest, now: every page of a view looks up to the same moment.
    """
    frozen = frozen_end(connection, until)
    given = {"groups": list(groups), "until": frozen}
    newest = connection.cursor(row_factory=dict_row).execute(named("reading")["newest"], given).fetchall()
    found: dict[tuple[str, str], datetime | None] = {}
    for of in [*newest, *gathered(system, connection, "reading", "page", since - _EARLIER, frozen, given)]:
        place, first = (of["consumer_group"], of["topic"]), of["first_at"]
        known = found.get(place)
        found[place] = first if known is None else min(known, first or known)
    return {
        "until": frozen,
        "reading_groups": [group for group, _ in found],
        "reading_topics": [topic for _, topic in found],
        "reading_since": list(found.values()),
    }


def frozen_end(connection: postgres.Connection, until: datetime) -> datetime:
    """The end of a window, or now on the database's clock, whichever is earlier."""
    row = connection.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None
    now: datetime = row[0]
    return min(until, now).astimezone(UTC)
