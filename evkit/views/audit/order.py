"""Who came before an earlier event of its key: in the log, and in the hands of a group.

The events of a window are thrown onto heaps by the hash of their key, so that one heap after the other can be sorted by
position; of each key the furthest that its earlier events have come is carried along. An event that is not as far has
overtaken one of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from evkit.views.audit.spill import Spill

# processed_at is written before the handlers run, and corrected when it is off by more than 50 ms.
_CLOCK_MICROSECONDS = 100_000
# So many events a heap: sorted in 50 MB.
EVENTS = 250_000

_RECORD = np.dtype([("key", "u8"), ("position", "i8"), ("at", "i8"), ("txid", "i8")])
_LATE = np.dtype([("position", "i8"), ("over_position", "i8"), ("over_at", "i8")])
# Odd, and with many ones: numbers of partitions become numbers that share no bits.
_SPREAD = 0x9E3779B97F4A7C15


class Order:
    """The order of each key in each partition of the log, or in the hands of one group.

    Args:
        group     number of the group; None: the log
        events_n  how many there will be, about
        page_of   number of the page in which each of these positions is
    """

    def __init__(self, spill: Spill, group: int | None, events_n: int, page_of: Any) -> None:
        self._spill, self._in_log, self._group = spill, group is None, -1 if group is None else group
        self._heaps, self._page_of = max(1, -(-events_n // EVENTS)), page_of

    def add(self, events: pl.DataFrame) -> None:
        """Take note of events.

        Args:
            events  position, topic, key and `at`. In the log: partition, and at is the first offset that has the event. Of
                    a group: txid, and at is processed_at in microseconds; only what it handled live
        """
        events = events.filter(pl.col("key") != "")
        if events.is_empty():
            return
        records = np.empty(events.height, dtype=_RECORD)
        keys = events["key"].hash(seed=0).to_numpy() ^ events["topic"].hash(seed=1).to_numpy()
        if self._in_log:
            keys = keys ^ (events["partition"].cast(pl.UInt64).to_numpy() * np.uint64(_SPREAD))
        records["key"], records["position"], records["at"] = keys, events["position"], events["at"]
        records["txid"] = 0 if self._in_log else events["txid"]
        self._spill.throw("order", self._group, keys % np.uint64(self._heaps), records)

    def close(self) -> None:
        """Find who overtook; `overtaken` answers from now on."""
        for number in range(self._heaps):
            late = self._late(self._spill.heap(("order", self._group, number), _RECORD))
            if len(late):
                self._spill.throw("late", self._group, self._page_of(late["position"]), late)

    def overtaken(self, page: int) -> pl.DataFrame:
        """position, over_position, over_at: each event of a page that came before an earlier one of its key.

        over_at is the offset of the earlier one, or when it was handled, in microseconds. Answers once a page.
        """
        late = self._spill.heap(("late", self._group, page), _LATE)
        return pl.DataFrame({name: np.ascontiguousarray(late[name]) for name in _LATE.names or ()})

    def _late(self, records: Any) -> Any:
        every = pl.DataFrame({name: np.ascontiguousarray(records[name]) for name in _RECORD.names or ()}).sort(
            "key", "position"
        )
        found = every.with_columns(
            over_at=pl.col("at").cum_max().shift(1).over("key"),
            txid_max=pl.col("txid").cum_max().shift(1).over("key"),
        )
        # The first of those that came as far: a later one does not change it.
        is_furthest = pl.col("over_at").is_null() | (pl.col("at") > pl.col("over_at"))
        found = found.with_columns(furthest=pl.when(is_furthest).then("position")).with_columns(
            over_position=pl.col("furthest").forward_fill().shift(1)
        )
        behind = pl.col("over_at") - pl.col("at")
        if self._in_log:
            late = found.filter(behind > 0)
        else:
            late = found.filter((behind > _CLOCK_MICROSECONDS) | ((behind > 0) & (pl.col("txid") < pl.col("txid_max"))))
        made = np.empty(late.height, dtype=_LATE)
        for name in _LATE.names or ():
            made[name] = late[name]
        return made
