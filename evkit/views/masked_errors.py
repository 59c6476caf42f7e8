"""frames of failures → the same without what errors say of events that masking policies are about (`evkit.error_texts`)."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from evkit.error_texts import HIDDEN, hides_errors
from evkit.masking import Policy


def errors_as_seen(made: pl.DataFrame, policies: Sequence[Policy], column: str = "error_message") -> pl.DataFrame:
    """Rows with topic and event_type, one event each. Asked once for each topic and type, whatever the number of rows."""
    if not policies or made.is_empty():
        return made
    kinds = made.select("topic", "event_type").unique()
    hidden = [hides_errors(policies, topic, kind) for topic, kind in kinds.iter_rows()]
    if not any(hidden):
        return made
    beside = made.join(
        kinds.with_columns(pl.Series("is_hidden", hidden)), ["topic", "event_type"], "left",
        nulls_equal=True, maintain_order="left",
    )  # fmt: skip
    said = pl.when(pl.col("is_hidden") & pl.col(column).is_not_null()).then(pl.lit(HIDDEN)).otherwise(column)
    return beside.with_columns(said.alias(column)).drop("is_hidden")
