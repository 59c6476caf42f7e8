"""annotation table, every table that tells of a moment, and Kafka's `__consumer_offsets` → what was, and when."""

# `from __future__ import annotations` would take the name that this module is there for.

import logging
from collections.abc import Iterable
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from evkit import offsets_log
from evkit.errors import BrokerRefused, BrokerUnreachable, UnknownGroup
from evkit.offsets_log import Part
from evkit.sql import named
from evkit.system import System
from evkit.views.broker import broker
from evkit.views.columns import COLUMNS
from evkit.views.errors import ROWS_MAX
from evkit.views.frame import Frame, Frames, WindowLike, frame, groups_of, view, window_of
from evkit.views.group_log import COPY, LOG, copies_of, history_of, kept_groups, warn_of_copies
from evkit.views.offset_resets import whole
from evkit.views.rebalances import told
from evkit.window import Window

log = logging.getLogger(__name__)

# Members that come one after the other, as in a rolling deploy, are one line: forty rebalances would hide the rest.
_REBALANCE_GAP = timedelta(seconds=60)
# Partitions whose offsets go back within so much time went back together.
_REWIND_GAP = timedelta(seconds=30)
# More groups are counted, where what is missing of them is said.
_NAMED_MAX = 3


@view("annotations")
def annotations(
    system: System,
    window: WindowLike = None,
    *,
    group: str | None = None,
    rows_max: int = ROWS_MAX,
    frames: Frames = "polars",
) -> Frame:
    """Everything that is known to have been in a window: what people wrote down, and what the tables tell of themselves.

    Kinds that are written down (`evkit annotate`): deploy, config, broker, note, incident. Those that nobody has to write:
    deploy (a code version whose first event is in the window, and that nobody annotated), schema (a version of an event
    type that was not written before), breaker (a handler that was held; its last time alone), replay, redrive, offset_reset
    (`evkit replay rewind`, and any group's offsets that went back in Kafka), rebalance (those of a group that follow one
    another within a minute are one), act (anything else that somebody did: archived, edited, skipped, …).

    Args:
        window    a `Window`, or a length that ends now ("2h"); default: the last hour
        group     one consumer group; what is about no group in particular stays in; default: all that evkit's tables know
        rows_max  most rows of the tables; when there are more, the newest are kept and a warning is logged

    Columns: see columns/

    Sorted by time. What began before the window and reaches into it is there. Rebalances and offsets that went back are of
    Kafka's `__consumer_offsets`. Where that was compacted, may not be read, or no broker answers, they are of what `evkit
    sample` has copied of it, and a warning says so; or that they are missing.

    Raises:
        UnknownGroup: neither evkit's tables nor the cluster know the group; the closest names are in `suggestions`.
        InvalidParameter, UnknownIncident: the window cannot be read.
        DatabaseUnreachable, NotMigrated: see `System.reading`.
    """
    seen = window_of(window, system)
    names = [c.name for c in COLUMNS["annotations"]]
    with system.reading() as connection:
        known = groups_of(system, connection)
        cursor = connection.execute(
            named("annotations")["told"],
            {"since": seen.start, "until": seen.end, "group": group, "rows_max": rows_max + 1},
        )
        rows: list[dict[str, Any]] = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    if len(rows) > rows_max:
        log.warning("annotations: only the newest %s of this window are shown", f"{rows_max:,}")
        rows = rows[:rows_max]
    if group is not None and any(row["group"] == group for row in rows):
        known.append(group)  # a group that is not evkit's has no inbox, and may be deleted; its rewind is here
    found = _from_kafka(system, seen, group, known)
    moved = {(row["group"], row["at"]) for row in rows if row["kind"] == "offset_reset"}
    rows += [row for row in found if not _is_told(row, moved)]
    rows.sort(key=lambda row: (row["at"], row["kind"], row["text"]))
    return frame("annotations", rows, frames)


def _from_kafka(system: System, seen: Window, group: str | None, known: list[str]) -> list[dict[str, Any]]:
    """Rebalances and rewinds of one group, or of those that evkit's tables know; none, and a warning, when nobody tells."""
    wanted = known if group is None else [group]
    try:
        parts, source = _logged(system, group, known, wanted), LOG
    except (BrokerUnreachable, BrokerRefused) as error:
        if group is not None and group not in known and group not in (kept := kept_groups(system)):
            raise UnknownGroup(group, {*known, *kept}, where="to evkit's tables, and Kafka does not say") from error
        parts, source = copies_of(system, wanted, seen.start), COPY
        if not parts:
            log.warning("annotations: rebalances and offsets that went back are missing: %s", error)
            return []
        warn_of_copies("annotations: rebalances and offsets that went back", parts.values(), error)
    rows: list[dict[str, Any]] = []
    lacking: dict[str, datetime] = {}
    for name, part in parts.items():
        changed, members_since = told(system, name, part, seen.start, source)
        both, commits_since, copied_until = whole(system, name, part, seen.start)
        rows += rebalanced(changed, name)
        for row in went_back(offsets_log.commits_of(both, name), name):
            is_copied = copied_until is not None and row["at"] < copied_until
            rows.append(row | {"source": COPY if is_copied else source})
        since = max((at for at in (members_since, commits_since) if at is not None), default=seen.start)
        if since > seen.start:
            lacking[name] = since
    if lacking:
        log.warning(
            "annotations: rebalances and offsets that went back of %s may have been compacted away from before %s",
            " and ".join(sorted(lacking)) if len(lacking) <= _NAMED_MAX else f"{len(lacking)} groups",
            max(lacking.values()).isoformat(timespec="seconds"),
        )
    return [row for row in rows if row["at"] < seen.end and (row["until"] or row["at"]) >= seen.start]


def _logged(system: System, group: str | None, known: list[str], wanted: list[str]) -> dict[str, Part]:
    """Of each group the part of Kafka's log that it is in."""
    if not wanted:
        return {}
    if group is not None and group not in known:
        part = history_of(system, group)
        return {} if part is None else {group: part}
    parts = broker(system).offsets_log(group)
    if not parts:
        return {}
    return {name: parts[0] if len(parts) == 1 else parts[offsets_log.partition_of(name, len(parts))] for name in wanted}


def rebalanced(rows: Iterable[dict[str, Any]], group: str) -> list[dict[str, Any]]:
    """An annotation for each run of rebalances (rows of `views.rebalances`) without a minute of rest between them."""
    runs: list[list[dict[str, Any]]] = []
    for row in rows:
        if runs and row["at"] - runs[-1][-1]["at"] <= _REBALANCE_GAP:
            runs[-1].append(row)
        else:
            runs.append([row])
    found = []
    for run in runs:
        first, last = run[0], run[-1]
        seconds = (last["at"] - first["at"]).total_seconds()
        what = f"rebalance of {group}" if len(run) == 1 else f"{len(run)} rebalances of {group} in {seconds:.0f} s"
        if first["members_before"] is not None and last["members_after"] is not None:
            what += f": {first['members_before']} → {last['members_after']} members"
        what += f" ({', '.join(dict.fromkeys(r['kind'] for r in run))})"
        until = last["at"] if last["at"] > first["at"] else None
        found.append(_row(first["at"], until, "rebalance", what, group, None, first["source"]))
    return found


def went_back(commits: dict[tuple[str, int], offsets_log.Commits], group: str) -> list[dict[str, Any]]:
    """An annotation for each time at which committed offsets of a topic went back, its partitions together."""
    falls: dict[str, list[tuple[datetime, int, int]]] = {}
    for (topic, partition), of_place in commits.items():
        for (_, before), (at, after) in pairwise(zip(of_place.times, of_place.offsets, strict=True)):
            if before is not None and after is not None and after < before:
                falls.setdefault(topic, []).append((at, partition, before - after))
    found = []
    for topic, of_topic in falls.items():
        runs: list[list[tuple[datetime, int, int]]] = []
        for fall in sorted(of_topic):
            if runs and fall[0] - runs[-1][-1][0] <= _REWIND_GAP:
                runs[-1].append(fall)
            else:
                runs.append([fall])
        for run in runs:
            partitions, back = len({partition for _, partition, _ in run}), sum(by for *_, by in run)
            where = f"{topic}, {partitions} partition{'' if partitions == 1 else 's'}"
            what = f"offsets of {group} went back by {back:,} ({where})"
            found.append(_row(run[0][0], None, "offset_reset", what, group, topic, LOG))
    return found


def _row(
    at: datetime, until: datetime | None, kind: str, text: str, group: str, topic: str | None, source: str
) -> dict[str, Any]:
    return {
        "at": at,
        "until": until,
        "kind": kind,
        "text": text,
        "group": group,
        "topic": topic,
        "source": source,
    }


def _is_told(row: dict[str, Any], moved: set[tuple[str | None, datetime]]) -> bool:
    """Whether the tables already tell of a rewind that Kafka shows too."""
    return row["kind"] == "offset_reset" and any(
        group == row["group"] and abs(at - row["at"]) <= 2 * _REWIND_GAP for group, at in moved
    )
