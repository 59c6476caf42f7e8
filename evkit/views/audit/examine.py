"""outbox, topics, inboxes → what became of each event of a window: the counts, and the rows that were asked for.

First what can only grow is asked: how far the relay and the groups had come, and where the topics end. Then the ids in
the log are read, once, and at the same time the tables, page by page, each in a short snapshot of its own. So an event that
a group or the relay had passed by the first answer must show in the second, and what happens meanwhile makes nothing look
lost. What was read goes into a spill (spill.py), and is judged page by page when all of it is there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta

from evkit.errors import UnknownTopic
from evkit.system import System
from evkit.views.audit import groups as audit_groups
from evkit.views.audit import log as audit_log
from evkit.views.audit.events import Events, Examined, Settled
from evkit.views.audit.group import Group
from evkit.views.audit.log import Stretch
from evkit.views.audit.order import Order
from evkit.views.audit.rows import Rows
from evkit.views.audit.spill import Spill
from evkit.views.broker import broker
from evkit.views.offsets import Place
from evkit.window import Window, present

__all__ = ["Examined", "examine"]

# The broker's clock and the database's may differ by so much.
SKEW = timedelta(minutes=1)
# A copy that a relay sends late is there by then: its producer gives up after five minutes.
_COPIES = timedelta(minutes=10)
# So many more records are read without being asked to: some seconds.
COPIES_RECORDS_MAX = 1_000_000


def examine(
    system: System,
    window: Window,
    *,
    topic: str | None,
    group: str | None,
    settle: timedelta,
    copies_within: timedelta | None,
    wanted: Collection[str],
    rows_max: int,
) -> Examined:
    """Look at every event that was written in the window; `wanted` are the verdicts whose rows are kept.

    Copies are looked for so long after the window; None: see COPIES_RECORDS_MAX.

    Raises: see `views.audit`.
    """
    rows = Rows(system, window, topic)
    bounds = rows.bounds()
    found = Examined(rows_max, bounds.now)
    if group is not None:
        audit_groups.readers(system, [], group)  # says when there is no such group
    confirmed, unplaced = rows.stretches(bounds)
    if topic is not None and topic not in unplaced:
        known = broker(system).topics()
        if topic not in known:
            raise UnknownTopic(topic, known, where=f"to the cluster at {system.settings.bootstrap_servers}")
    if not unplaced:
        return found
    readers = audit_groups.readers(system, unplaced, group)
    starts, ends, compacted = audit_groups.standing(system, unplaced)
    after = _COPIES if copies_within is None else copies_within
    stretches = _stretches(system, window, confirmed, unplaced, starts, ends, after)
    found.unread = sum(ends.get(place, stretch.last) - stretch.last for place, stretch in stretches.items())
    if copies_within is None and 0 < found.unread <= COPIES_RECORDS_MAX:
        stretches = {place: Stretch(s.first, max(s.last, ends.get(place, s.last))) for place, s in stretches.items()}
        found.unread = 0
    pages = rows.pages(bounds, len(readers))
    with Spill() as spill:
        with rows.copying(bounds, pages, readers, spill) as tables:
            index = audit_log.read(system, stretches, spill, tables.check)
            tables.wait()
        found.records = index.records
        # Retention may have gone on meanwhile: what it took is no record that is missing.
        starts = audit_groups.starts(system, starts)
        settled = Settled(bounds, settle.total_seconds(), window)

        def order(number: int | None) -> Order:
            return Order(spill, number, bounds.last - bounds.first, lambda at: (at - pages.start) // pages.step)

        events = Events(index, starts, compacted, settled, found, set(wanted), order(None))
        groups = [Group(system, reader, n, events, confirmed, order(n)) for n, reader in enumerate(readers)]
        _judge(events, groups, len(pages), spill)
    found.close()
    return found


def _judge(events: Events, groups: Sequence[Group], pages: int, spill: Spill) -> None:
    """First where everything is, so that it is known who overtook whom, then what became of each."""
    for page in range(pages):
        placed = events.placed(spill.taken(("events", -1, page)))
        spill.keep(("placed", -1, page), placed)
        events.order(placed)
        for group in groups:
            live = spill.taken(("live", group.number, page))
            group.order(placed, live)
            spill.keep(("live", group.number, page), live)
    events.sorted()
    for group in groups:
        group.sorted()
    for page in range(pages):
        placed = spill.taken(("placed", -1, page))
        handled_by: dict[int, str] = {}
        for group in groups:
            handled_by |= group.take(page, placed, spill)
        events.take(page, placed, handled_by)
    for group in groups:
        group.close(spill)


def _stretches(
    system: System,
    window: Window,
    confirmed: Mapping[Place, tuple[int, int]],
    unplaced: Mapping[str, int],
    starts: Mapping[Place, int],
    ends: Mapping[Place, int],
    copies_within: timedelta,
) -> dict[Place, Stretch]:
    """What has to be read: from the window's first record to its last, and on for copies."""
    ask = broker(system)
    at_start = ask.offsets_at(starts, window.start - SKEW)
    at_end = {}
    if copies_within < present() - window.end:
        at_end = ask.offsets_at(starts, window.end + copies_within)
    found = {}
    for place, start in starts.items():
        end = ends.get(place, start)
        low, high = confirmed.get(place, (end, -1))
        first = min(low, end if at_start[place] < 0 else at_start[place])
        last = end
        # An event that nobody has confirmed may be anywhere up to the end.
        if not unplaced[place[0]] and at_end.get(place, -1) >= 0:
            last = min(end, max(high + 1, at_end[place]))
        first = max(first, start)
        found[place] = Stretch(first, max(first, last))
    return found
