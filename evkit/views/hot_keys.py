"""outbox, inbox and attempts → keys that hold most of what is unread or failed."""

from __future__ import annotations

from typing import Literal

from evkit.errors import InvalidParameter
from evkit.system import System
from evkit.views.columns import COLUMNS
from evkit.views.frame import Frame, Frames, WindowLike, fetch, frame, view, window_of

# Past twenty nobody would call them hot; `keys` says how many there are.
KEYS_MAX = 20


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
        raise InvalidParameter(f"of '{of}' is no kind of hot key: take unread or failed", name="of", value=of)
    seen = window_of(window, system)
    rows = fetch(
        system,
        "events",
        "hot_keys",
        COLUMNS["hot_keys"],
        since=seen.start,
        until=seen.end,
        group=group,
        unread=of != "failed",
        failed=of != "unread",
        replays=replays,
        keys_max=keys_max,
    )
    return frame("hot_keys", rows, frames)
