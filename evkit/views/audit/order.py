"""Who came before an earlier event of its key: in the log, and in the hands of a group.

Events are looked at in the order of their positions, range by range; of each key the furthest that its earlier events have
come is carried on, 40 bytes a key. An event that is not as far has overtaken one of them.
"""

from __future__ import annotations

import polars as pl

# processed_at is written before the handlers run, and corrected when it is off by more than 50 ms.
_CLOCK_MICROSECONDS = 100_000

_LOG = {"topic": pl.String, "partition": pl.Int32, "key_hash": pl.UInt64, "at": pl.Int64, "position": pl.Int64}
_GROUP = {"topic": pl.String, "key_hash": pl.UInt64, "at": pl.Int64, "txid": pl.Int64, "position": pl.Int64}


class LogOrder:
    """The order of each key in each partition of the log."""

    def __init__(self) -> None:
        self._carried = pl.DataFrame(schema=_LOG)

    def overtaken(self, events: pl.DataFrame) -> pl.DataFrame:
        """position, over_position, over_offset: of each event that stands before an earlier one of its key.

        Args:
            events  position, topic, key, partition and `at`, the first offset that has the event
        """
        key = ["topic", "partition", "key_hash"]
        given = events.filter(pl.col("key") != "").with_columns(key_hash=pl.col("key").hash(seed=0)).select(list(_LOG))
        every = pl.concat([self._carried, given]).sort("position")
        furthest = every.with_columns(furthest=pl.col("at").cum_max().shift(1).over(key))
        late = furthest.filter(pl.col("at") < pl.col("furthest"))
        self._carried = (
            every.sort("at").group_by(key).agg(pl.col("at").last(), pl.col("position").last()).select(list(_LOG))
        )
        there = every.select(*key, pl.col("at").alias("furthest"), pl.col("position").alias("over_position"))
        return late.join(there, on=[*key, "furthest"], how="left").select(
            "position", "over_position", pl.col("furthest").alias("over_offset")
        )


class GroupOrder:
    """The order in which a group has handled the events of each key, live; what replays and redrives did is left out.

    Two events are in the wrong order when processed_at says so by more than it may be off, or when it says so by less and
    the numbers of the transactions agree.
    """

    def __init__(self) -> None:
        self._carried = pl.DataFrame(schema=_GROUP)

    def overtaken(self, handled: pl.DataFrame) -> pl.DataFrame:
        """position, over_position, over_at (microseconds): of each event that was handled before an earlier one of its key.

        Args:
            handled  position, topic, key, txid and `at`, processed_at in microseconds
        """
        key = ["topic", "key_hash"]
        given = (
            handled.filter(pl.col("key") != "").with_columns(key_hash=pl.col("key").hash(seed=0)).select(list(_GROUP))
        )
        every = pl.concat([self._carried, given]).sort("position")
        furthest = every.with_columns(
            furthest=pl.col("at").cum_max().shift(1).over(key), txid_max=pl.col("txid").cum_max().shift(1).over(key)
        )
        behind = pl.col("furthest") - pl.col("at")
        late = furthest.filter((behind > _CLOCK_MICROSECONDS) | ((behind > 0) & (pl.col("txid") < pl.col("txid_max"))))
        self._carried = (
            every.sort("at")
            .group_by(key)
            .agg(pl.col("at").last(), pl.col("txid").max(), pl.col("position").last())
            .select(list(_GROUP))
        )
        there = every.select(*key, pl.col("at").alias("furthest"), pl.col("position").alias("over_position"))
        return (
            late.join(there, on=[*key, "furthest"], how="left")
            .unique("position", keep="first", maintain_order=True)
            .select("position", "over_position", pl.col("furthest").alias("over_at"))
        )
