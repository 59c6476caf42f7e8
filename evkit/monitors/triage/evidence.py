"""frames → what rules ask: rows by name, what each group does, and what could not be measured."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from evkit.errors import EvkitError
from evkit.monitors.thresholds import Thresholds
from evkit.views.frame import rows_of

Row = dict[str, Any]

# Frame of `evkit.views.symptoms` → the view it is of.
VIEWS = {
    "publish_rate": "publish_rate",
    "relay_lag": "relay_lag",
    "consumer_lag": "lag",
    "latency": "latency",
    "error_rate": "error_rate",
    "dead_letters": "dead_letter_groups",
    "consumer_status": "consumer_status",
    "throughput": "throughput",
    "errors": "errors",
    "breakers": "breakers",
    "hot_keys": "hot_keys",
    "latency_segments": "latency_segments",
    "code_versions": "code_versions",
    "rebalances": "rebalances",
    "offset_resets": "offset_resets",
}


# Frames that are there only where they were asked for.
ON_REQUEST = {"audit_counts": "audit_counts"}


class Evidence:
    """The rows of all frames, empty where there is none, and the bounds from which on something is wrong.

    Attributes:
        bounds      thresholds of the outbox, and of groups and topics that have none of their own
        unmeasured  name → why there is no frame
    """

    def __init__(self, measured: Mapping[str, Any], bounds: Thresholds) -> None:
        self.bounds = bounds
        self.unmeasured: dict[str, str] = {}
        self._rows: dict[str, list[Row]] = {}
        self._bounds: dict[str, Thresholds] = {}
        for name, of_view in (VIEWS | {n: v for n, v in ON_REQUEST.items() if n in measured}).items():
            frame = measured.get(name)
            if frame is None or isinstance(frame, BaseException):
                what = "nobody measured it" if frame is None else str(frame)
                self.unmeasured[name] = what if frame is None or isinstance(frame, EvkitError) else repr(frame)
                self._rows[name] = []
            else:
                self._rows[name] = rows_of(frame, of_view)

    def rows(self, name: str) -> list[Row]:
        """The rows of a frame, none when it was not measured."""
        return self._rows.get(name, [])

    def bounds_of(self, group: str) -> Thresholds:
        """The thresholds of a group."""
        if group not in self._bounds:
            self._bounds[group] = self.bounds.of_group(group)
        return self._bounds[group]

    def by(self, name: str, *columns: str) -> dict[Any, list[Row]]:
        """The rows of a frame by the value of a column, or by the values of several, in their order."""
        found: dict[Any, list[Row]] = defaultdict(list)
        for row in self.rows(name):
            found[row[columns[0]] if len(columns) == 1 else tuple(row[c] for c in columns)].append(row)
        return dict(found)

    # --- what several rules ask -------------------------------------------------------------------------------------

    def late(self) -> dict[str, list[Row]]:
        """Groups that are behind by more than they may be, or in trouble by their own pace: their rows of lag.

        A group whose inbox has nearly all that it has not committed is not late: it reads again, or commits seldom.
        """
        alarmed = {
            (r["group"], r["topic"], r["partition"])
            for r in self.rows("consumer_status")
            if r["status"] in ("warn", "stop", "stall")
        }
        found: dict[str, list[Row]] = {}
        for group, rows in self.by("consumer_lag", "group").items():
            behind = [
                r
                for r in rows
                if r["status"] == "behind"
                and (
                    (r["lag_seconds"] or 0.0) >= self.bounds_of(group).lag_seconds_warning
                    or (r["group"], r["topic"], r["partition"]) in alarmed
                )
            ]
            unread = sum(r["lag_events"] or 0 for r in behind)
            if behind and not self._is_dealt_with(group, unread):
                found[group] = behind
        return found

    def _is_dealt_with(self, group: str, unread: int) -> bool:
        last = {r["topic"]: r["backlog"] for r in self.rows("throughput") if r["group"] == group}  # its last bucket
        return bool(last) and sum(last.values()) < unread / 10

    def rates(self, group: str) -> Rates | None:
        """How fast events came to a group and were dealt with; None where evkit's tables do not know."""
        whole = [r for r in self.rows("throughput") if r["group"] == group and not r["partial"]]
        return Rates(whole) if whole else None


class Rates:
    """Published and dealt with, a second, before and since a group began to fall behind.

    The window is cut where the backlog last began to grow for good: after its last bucket with a backlog as small as the
    window's typical one of before. Rates before it are of the buckets in which something came.

    Attributes:
        published, dealt_with                since then
        published_before, dealt_with_before  before; None when the window has no such time
        backlog                              at the end of the window
        seconds                              since then
        still_seconds                        since the last bucket in which something was dealt with
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        summed: dict[Any, list[float]] = {}
        for r in rows:
            bucket = summed.setdefault(r["bucket_at"], [r["bucket_seconds"], 0, 0, 0])
            for n, name in enumerate(("published", "dealt_with", "backlog"), 1):
                bucket[n] += r[name] or 0
        buckets = [b for _, b in sorted(summed.items())]
        cut = self._onset(buckets)
        active = [b for b in buckets[:cut] if b[1] or b[2]]
        self.published_before, self.dealt_with_before = self._rate(active, 1), self._rate(active, 2)
        since = buckets[cut:] or buckets
        self.seconds = sum(b[0] for b in since)
        self.published = self._rate(since, 1) or 0.0
        self.dealt_with = self._rate(since, 2) or 0.0
        self.backlog = int(buckets[-1][3])
        last = max((n for n, b in enumerate(buckets) if b[2]), default=-1)
        self.still_seconds = sum(b[0] for b in buckets[last + 1 :])

    @staticmethod
    def _onset(buckets: list[list[float]]) -> int:
        """First bucket after the last one whose backlog was less than a tenth of the last one's."""
        bound = buckets[-1][3] / 10
        calm = [n for n, b in enumerate(buckets) if b[3] < bound or not b[3]]
        return calm[-1] + 1 if calm else 0

    @staticmethod
    def _rate(buckets: list[list[float]], n: int) -> float | None:
        whole = sum(b[0] for b in buckets)
        return sum(b[n] for b in buckets) / whole if whole else None
