"""The six views that say how a system is, and two more on request, measured together.

A part that does not answer leaves the others measurable.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from evkit.errors import DatabaseUnreachable, EvkitError, NoPostgres, NotMigrated
from evkit.system import System
from evkit.views.consumer_status import Offsets, consumer_status, stood
from evkit.views.dead_letters import dead_letter_groups
from evkit.views.errors import error_rate
from evkit.views.frame import Frame, Frames, WindowLike, handed, window_of
from evkit.views.lag import lag
from evkit.views.latency import latency
from evkit.views.relay_lag import relay_lag
from evkit.views.slo import WINDOWS_SECONDS, Objective, slo
from evkit.views.throughput import publish_rate

log = logging.getLogger(__name__)

# In the order of travel; each is the name of the monitor that judges the frame.
SIX = ("publish_rate", "relay_lag", "consumer_lag", "latency", "error_rate", "dead_letters")


def measure(
    system: System,
    window: WindowLike = None,
    *,
    group: str | None = None,
    objectives: Sequence[Objective] = (),
    objectives_seconds: Iterable[float] = (),
    consumer_status_too: bool = False,
    offsets: Offsets | None = None,
    frames: Frames = "polars",
) -> dict[str, Frame | Exception]:
    """The six frames by the name of their monitor, each measured or the error that says why it was not.

    Of a window that has passed, lag and consumer_status are those of its end; what waits in the outbox, and the state of
    dead letters, are of now.

    What PostgreSQL holds is measured while Kafka is away and the other way round. `evkit.monitors.judge` takes it as it
    is. The frames: publish_rate, relay_lag, lag (as `consumer_lag`), latency, error_rate, dead_letter_groups (as
    `dead_letters`).

    Args:
        window  a `Window`, or a length that ends now ("10m"); default: the last hour
        group   one consumer group; default: all. Publish rate and relay lag have none.
        objectives           what is promised; with any, also `slo`
        objectives_seconds   windows that it counts in beside those that are judged
        consumer_status_too  also `consumer_status`, which reads Kafka's offsets log
        offsets              what Kafka told of offsets just now, of the same group; default: it is asked, once

    Raises:
        InvalidParameter: the window cannot be read. Nothing else: what goes wrong in a view is in the answer.
    """
    with system.standing():
        seen = window_of(window, system)
    if offsets is None and consumer_status_too:
        offsets = Offsets(system, group)
    views: dict[str, Callable[[], Frame]] = {
        "publish_rate": lambda: publish_rate(system, seen, frames=frames),
        "relay_lag": lambda: relay_lag(system, seen, frames=frames),
        "consumer_lag": lambda: lag(system, group, frames=frames) if offsets is None else handed(offsets.lag, frames),
        "latency": lambda: latency(system, seen, group=group, frames=frames),
        "error_rate": lambda: error_rate(system, seen, group=group, frames=frames),
        "dead_letters": lambda: dead_letter_groups(system, group, window=seen, frames=frames),
    }
    if seen.is_past(system.now()):
        then = functools.cache(lambda: stood(system, group, seen, offsets, frames))
        views["consumer_lag"] = lambda: then()[1]
        if consumer_status_too:
            views["consumer_status"] = lambda: then()[0]
    elif consumer_status_too:
        views["consumer_status"] = lambda: consumer_status(system, group, offsets=offsets, frames=frames)
    if objectives:
        windows = (*WINDOWS_SECONDS, *objectives_seconds)
        views["slo"] = lambda: slo(
            system, objectives, group=group, until=seen.end, windows_seconds=windows, frames=frames
        )
    return measured(views, from_kafka=("consumer_lag", "consumer_status"))


def measured(
    views: Mapping[str, Callable[[], Frame]],
    *,
    from_kafka: Collection[str] = (),
    before: Mapping[str, Frame | Exception] | None = None,
) -> dict[str, Frame | Exception]:
    """Each frame, or the error that says why there is none; never raises.

    Args:
        from_kafka  names of those that PostgreSQL is not needed for; the others are not tried once it did not answer
        before      what was measured before, which may have found that already
    """
    answer: dict[str, Frame | Exception] = {}
    away = next((error for error in (before or {}).values() if _is_away(error)), None)
    for name, view in views.items():
        if away is not None and name not in from_kafka:
            answer[name] = away  # waiting for it again would tell nothing new
            continue
        try:
            answer[name] = view()
        except EvkitError as error:
            answer[name] = error
            away = error if _is_away(error) else away
        except Exception as error:  # a missing permission, a server of another make: unknown, and the others go on
            log.warning("%s could not be measured", name, exc_info=error)
            answer[name] = error
    return answer


def _is_away(found: Frame | Exception) -> bool:
    """Whether no other view will find PostgreSQL either; where none is configured, each says so of itself."""
    return isinstance(found, (DatabaseUnreachable, NotMigrated)) and not isinstance(found, NoPostgres)
