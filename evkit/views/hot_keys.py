"""outbox, inbox and attempts → keys that hold most of what is unread or failed."""

from __future__ import annotations

from typing import Any, Literal

import polars as pl

from evkit.errors import InvalidParameter, closest
from evkit.system import System
from evkit.views.columns import COLUMNS
from evkit.views.copied import framed
from evkit.views.frame import Frame, Frames, WindowLike, frame_of_chunks, groups_of, view, window_of
from evkit.views.reading import reading

# Past twenty nobody would call them hot; `keys` says how many there are.
KEYS_MAX = 20
_COUNTED = tuple(c for c in COLUMNS["hot_keys"] if c.name not in ("share_ratio", "of_n", "keys"))


@view("hot_keys")
def hot_keys(
    system: System,
    window: WindowLike = None,
    *,
    group: str | None = None,
    of: Literal["unread", "failed"] | None = None,
    replays: bool = False,
    keys_max: int = KEYS_MAX,
    frames: Frames = "polars",
) -> Frame:
    """Is it one key? The keys with the most unread events, and those with the most failed ones, per group and topic.

    Unread are events that were written in the window and published, and that the group has not dealt with; failed are those
    with a failed attempt in the window, each once. For groups that use evkit's inbox; of topics that this outbox writes to.

    Args:
        window    a `Window`, or a length that ends now ("2h"); default: the last hour
        group     one consumer group; default: all
        of        "unread" or "failed"; default: both
        replays   also attempts of replays and redrives
        keys_max  most keys for each group, topic and kind; `keys` and `of_n` count all of them

    Columns: see columns/

    Sorted by group and topic, unread before failed, then the hottest key first. Empty when nothing is unread or failed.

    Raises:
        UnknownGroup: evkit's tables know no such group; the closest names are in `suggestions`.
        InvalidParameter: `of` is neither; the window cannot be read.
        DatabaseUnreachable, NotMigrated: see `System.reading`.
    """
    if of not in (None, "unread", "failed"):
        near = closest(of, ("unread", "failed"))
        hint = f"; did you mean '{near[0]}'?" if near else ": take unread or failed"
        raise InvalidParameter(f"'{of}' is no kind of hot key{hint}", name="of", value=of)
    seen = window_of(window, system)
    given: dict[str, Any] = {
        "since": seen.start,
        "unread": of != "failed",
        "failed": of != "unread",
        "replays": replays,
    }
    with system.reading() as connection:
        given["groups"] = groups_of(system, connection, group)
        given |= reading(system, connection, seen.start, seen.end, given["groups"])
        counted = framed(system, connection, "events", "hot_keys", _COUNTED, seen.start, given["until"], given)
    place = ["group", "topic", "of"]
    made = (
        counted.group_by(*place, "key", "partition")
        .agg(pl.col("n").sum(), pl.col("oldest_at").min(), pl.col("newest_at").max())
        .with_columns(of_n=pl.col("n").sum().over(place), keys=pl.len().over(place).cast(pl.Int64))
        .with_columns(share_ratio=pl.col("n") / pl.col("of_n"))
        .sort(*place, "n", "key", "partition", descending=[False, False, True, True, False, False], nulls_last=True)
        .filter(pl.int_range(pl.len()).over(place) < keys_max)
    )
    return frame_of_chunks("hot_keys", [made], frames)
