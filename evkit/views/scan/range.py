"""topic and window, or offsets → the range of each partition that a scan reads, frozen before the first record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from evkit.errors import InvalidParameter, UnknownTopic
from evkit.system import System
from evkit.views.broker import broker
from evkit.views.frame import WindowLike, window_of
from evkit.window import Window

# From one offset up to another, which is not included; of all partitions, or by partition.
Offsets = tuple[int, int] | Mapping[int, tuple[int, int]]
Ranges = dict[int, tuple[int, int]]


def ranges_of(
    system: System,
    topic: str,
    window: WindowLike = None,
    offsets: Offsets | None = None,
    partitions: Iterable[int] | None = None,
) -> tuple[Ranges, Window | None]:
    """What to read of each partition, by number; and the window, when there is one.

    The end is what the partition has at this moment. Neither window nor offsets: the last hour. Both: these offsets, of
    which the records in the window are wanted.

    Raises:
        UnknownTopic: the cluster has no such topic; near matches are in `suggestions`.
        InvalidParameter: no such partition, or a reversed range.
        BrokerUnreachable, BrokerRefused.
    """
    seen = None if window is None and offsets is not None else window_of(window, system)
    chosen = _partitions(system, topic, partitions, offsets)
    places = [(topic, p) for p in chosen]
    ask = broker(system)
    starts = ask.start_offsets(places)
    ends = ask.end_offsets(places)
    if offsets is not None:
        given = offsets if isinstance(offsets, Mapping) else dict.fromkeys(chosen, offsets)
        wanted = {p: given[p] for p in chosen}
        for p, (first, last) in wanted.items():
            if first < 0 or last < first:
                raise InvalidParameter(
                    f"offsets {first} to {last} of partition {p} are no range: the first must be 0 or more, the last not "
                    "below it",
                    name="offsets",
                    value=offsets,
                )
    elif seen is not None:
        since = ask.offsets_at(places, seen.start)
        until = ask.offsets_at(places, seen.end)
        wanted = {
            p: (
                ends[topic, p] if since[topic, p] < 0 else since[topic, p],
                ends[topic, p] if until[topic, p] < 0 else until[topic, p],
            )
            for p in chosen
        }
    found: Ranges = {}
    for p, (first, asked) in wanted.items():
        last = min(asked, ends[topic, p])
        found[p] = (min(max(first, starts[topic, p]), last), last)
    return found, seen


def _partitions(system: System, topic: str, partitions: Iterable[int] | None, offsets: Offsets | None) -> list[int]:
    known = broker(system).topics()
    if topic not in known:
        raise UnknownTopic(topic, known, where=f"to the cluster at {system.settings.bootstrap_servers}")
    there = range(known[topic])
    if partitions is not None:
        chosen = sorted(set(partitions))
    elif isinstance(offsets, Mapping):
        chosen = sorted(offsets)
    else:
        chosen = list(there)
    missing = [p for p in chosen if p not in there or (isinstance(offsets, Mapping) and p not in offsets)]
    if missing:
        raise InvalidParameter(
            f"partition {missing[0]} of topic {topic} "
            + (f"does not exist: there are 0 to {there[-1]}" if missing[0] not in there else "has no offsets given"),
            name="partitions",
            value=missing[0],
        )
    return chosen
