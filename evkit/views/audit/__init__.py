"""outbox, topics, inboxes, letters → a verdict for every event, and whether the numbers add up."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from evkit.errors import InvalidParameter
from evkit.system import System
from evkit.views.audit.examine import Examined, examine
from evkit.views.audit.verdict import HARMLESS, VERDICTS
from evkit.views.errors import ROWS_MAX
from evkit.views.frame import Frame, Frames, WindowLike, frame, view, window_of
from evkit.window import duration

log = logging.getLogger(__name__)

# As long as an event of a system that is well may be on its way.
SETTLE = "30s"
# Of copies_within: up to where the topics ended when the audit began.
END = "end"
FINDINGS = tuple(v for v in VERDICTS if v not in HARMLESS)


@view("audit")
def audit(
    system: System,
    window: WindowLike = None,
    *,
    topic: str | None = None,
    group: str | None = None,
    settle: str | timedelta = SETTLE,
    copies_within: str | timedelta | None = None,
    verdicts: Sequence[str] | None = None,
    every: bool = False,
    rows_max: int = ROWS_MAX,
    frames: Frames = "polars",
) -> Frame:
    """What became of each event that was written in the window: which were lost, doubled or reordered, and why we know.

    An event has a row of its own (`group` is null: did it come to its topic, once, in order?) and one for each group that
    reads the topic. Only findings are shown: whatever is neither ok, nor on its way (pending), nor skipped because the
    group has no handler for it. `views.audit_counts` counts all of them.

    not_published      the relay is done with it, and nothing says that it was published
    missing            the broker confirmed it, and the log does not have it (topic made anew, records lost by Kafka)
    lost_to_retention  the topic lost the record before the group handled it
    skipped_by_reset   one commit took the group over it and its neighbours, and it handled none of them
    not_consumed       the group is past it, and its inbox does not have it
    processed_twice    handled more often than replays asked for; or its handler ran again after it had been handled
    out_of_order       it overtook an earlier event of its key, in the log or in the hands of the group (replays, redrives
                       and releases come late on purpose and do not count)
    published_twice    records with its id are at two places or more; inboxes make that harmless
    dead, parked       given up on, or waiting behind a dead letter of its key
    unpublishable      the broker will not take it, or it waits behind such a one
    skipped, pending   see above; `pending` is also what is younger than `settle`

    Compared are evkit's tables and the topics' own records, whose ids are read up to where the topics ended when the audit
    began, or less far (copies_within). What cannot be told: effects
    outside PostgreSQL (the inbox has an event once, however often a handler called another service before it failed);
    events whose outbox rows retention has dropped; groups without an inbox; the order of events without a key, and of what
    a group handled within a tenth of a second in transactions whose numbers do not tell; whether one event that was passed
    over alone was lost, or stepped over by a reset by one (it is not_consumed).
    The history of commits is Kafka's `__consumer_offsets`; where that may not be read, or does not reach back, a jump is
    inferred from unhandled events in a row, and the evidence says so.

    Args:
        window    a `Window`, or a length that ends now ("2h"), by the time of the write; default: the last hour
        topic     one topic; default: all that events of the window went to
        group     one consumer group; default: all that evkit's tables know
        settle    how long an event may be on its way before it counts as lost
        copies_within  how long after the window copies of its events are looked for: "2h", or "end", which is where the
                  topics ended when the audit began; default: up to there when that is at most 1,000,000 records more, else
                  ten minutes. How many records were not looked at is logged as a warning
        verdicts  which verdicts to show; default: findings
        every     show all rows, ok ones too
        rows_max  most rows; when there are more, the worst are kept (in the order above, from not_published to ok; of those
                  alike the earliest), and a warning is logged

    Columns: see columns/

    Sorted by position, then group, the event's own row first.

    Reads the records of the window's stretch of each topic once, and the tables at the same time. Snapshots of the database
    are short: a page of positions each. Memory is bounded but for a quarter of a byte for each event and group, and 16
    bytes for each event that a group went past: what is looked at again (20 bytes a record, 32 for each event and group,
    the rows) goes into a temporary folder when it is more than 64 MB, and is gone with the call. Payloads are not kept.

    Raises:
        UnknownGroup, UnknownTopic: nothing has this name; the closest names are in `suggestions`.
        InvalidParameter: window, settle or a verdict cannot be read.
        UsageError: this system has no PostgreSQL, so there is nothing to compare the topics with.
        DatabaseUnreachable, NotMigrated: see `System.reading`. BrokerUnreachable, BrokerRefused.
    """
    for verdict in verdicts or ():
        if verdict not in VERDICTS:
            raise InvalidParameter(
                f"verdict '{verdict}' is unknown: it is one of {', '.join(VERDICTS)}", name="verdicts", value=verdict
            )
    wanted = VERDICTS if every else FINDINGS if verdicts is None else verdicts
    found = examined(
        system, window, topic=topic, group=group, settle=settle, copies_within=copies_within, wanted=wanted,
        rows_max=rows_max,
    )  # fmt: skip
    if found.unread:
        log.warning("audit: %s", unread(found))
    if found.left_out:
        log.warning("audit: only the worst %s of %s rows are shown", f"{rows_max:,}", f"{rows_max + found.left_out:,}")
    return frame("audit", found.rows, frames)


@view("audit_counts")
def audit_counts(
    system: System,
    window: WindowLike = None,
    *,
    topic: str | None = None,
    group: str | None = None,
    settle: str | timedelta = SETTLE,
    copies_within: str | timedelta | None = None,
    frames: Frames = "polars",
) -> Frame:
    """Whether the numbers add up: what was written against what was published, and that against what groups have done.

    A row for each topic (`group` is null), in which written = published + waiting + unpublishable + held + withdrawn +
    unaccounted; and one for each group that reads it, in which published = handled + lagging + dead + skipped + parked +
    unaccounted_group. What is unaccounted for is zero, at any moment and while relay and consumers run; if not,
    `views.audit` has each such event with its verdict. The other columns count the verdicts.

    Args:
        window  a `Window`, or a length that ends now ("2h"), by the time of the write; default: the last hour
        topic, group, settle, copies_within  see `views.audit`

    Columns: see columns/

    Sorted by topic, then group, the topic's own row first.

    Raises: see `audit`.
    """
    found = examined(
        system, window, topic=topic, group=group, settle=settle, copies_within=copies_within, wanted=(), rows_max=0
    )
    if found.unread:
        log.warning("audit_counts: %s", unread(found))
    return frame("audit_counts", counted(found), frames)


def examined(
    system: System,
    window: WindowLike,
    *,
    topic: str | None,
    group: str | None,
    settle: str | timedelta,
    copies_within: str | timedelta | None = None,
    wanted: Sequence[str],
    rows_max: int,
) -> Examined:
    """Rows and counts of one look, for whoever wants both.

    Raises: see `audit`.
    """
    length = duration(settle, name="settle") if isinstance(settle, str) else settle
    within = copies_within
    if isinstance(within, str):
        within = timedelta.max if within == END else duration(within, name="copies_within")
    return examine(
        system, window_of(window, system), topic=topic, group=group, settle=length, copies_within=within,
        wanted=wanted, rows_max=rows_max,
    )  # fmt: skip


def unread(found: Examined) -> str:
    """What of the topics was not looked at, in a sentence."""
    return f"{found.unread:,} records that came after the window were not looked at for copies of its events"


def counted(found: Examined) -> list[dict[str, Any]]:
    """The rows of views.audit_counts."""
    rows = []
    for (topic, group), counts in sorted(found.counts.items(), key=lambda of: (of[0][0], of[0][1] or "")):
        of = found.verdicts[topic, group]
        row: dict[str, Any] = {"topic": topic, "group": group, "published": counts["published"]}
        if group is None:
            row |= {name: counts[name] for name in ("written", "unpublishable", "held", "withdrawn")}
            row["waiting"] = of["pending"]
            row["unaccounted"] = row["written"] - sum(
                row[name] for name in ("published", "waiting", "unpublishable", "held", "withdrawn")
            )
        else:
            row["handled"] = of["ok"] + of["processed_twice"] + of["out_of_order"]
            row |= {"lagging": of["pending"], "dead": of["dead"], "skipped": of["skipped"], "parked": of["parked"]}
            row["unaccounted_group"] = row["published"] - sum(
                row[name] for name in ("handled", "lagging", "dead", "skipped", "parked")
            )
        rows.append(row | {f"{verdict}_n": of[verdict] for verdict in VERDICTS})
    return rows
