"""An incident, played; what triage says while it lasts; and whether that is the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from evkit import monitors, views
from evkit.demo.incidents.catalogue import Incident
from evkit.demo.incidents.shop import Shop
from evkit.monitors import Diagnosis, Thresholds
from evkit.system import System
from evkit.window import Window

THRESHOLDS = Path(__file__).parent / "thresholds.toml"
# Among so many findings the right one must be: nobody reads further in the first minute.
FIRST = 2


@dataclass(frozen=True, slots=True)
class Grade:
    """How triage did.

    Attributes:
        incident   which was played
        diagnosis  what triage found
        place      place of the right cause among what was found, from 1; None when it was not found
    """

    incident: Incident
    diagnosis: Diagnosis
    place: int | None

    @property
    def passed(self) -> bool:
        """The right cause is among the first two; of an incident without one, nothing was found."""
        if not self.incident.cause:
            return not self.diagnosis.causes
        return self.place is not None and self.place <= FIRST


@contextmanager
def played(
    incident: Incident, system: System, log_folder: Path, say: Callable[[str], None] = lambda _: None
) -> Iterator[datetime]:
    """Play an incident; inside the block it lasts, and after it everything that was started is gone.

    Yields the time at which the shop opened.

    Raises:
        Refused: the system has events of somebody else, or the incident did not show.
    """
    with Shop(system, log_folder) as shop:
        shop.prepare()
        began = datetime.now(UTC)
        say("the shop opens: a relay, billing, shipping")
        shop.open()
        say(f"{incident.title}")
        incident.happen(shop)
        yield began


def grade(incident: Incident, system: System, log_folder: Path, say: Callable[[str], None] = lambda _: None) -> Grade:
    """Play an incident, ask triage while it lasts, and compare.

    Raises: see `played`.
    """
    with played(incident, system, log_folder, say) as began:
        say("triage looks")
        measured = views.symptoms(system, Window(began, datetime.now(UTC)))
        diagnosis = monitors.triage(measured, Thresholds.read(THRESHOLDS), limit=None)
    names = [cause.name for cause in diagnosis.causes]
    place = names.index(incident.cause) + 1 if incident.cause in names else None
    return Grade(incident, diagnosis, place)
