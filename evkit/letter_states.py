"""States of a dead letter, as people are told them, and as the database has them.

`retrying` is written nowhere: it is an open letter that a running redrive is still to try, and so it ends with the redrive,
however that ends. Whoever asks for the open letters means these, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

STATES = ("open", "retrying", "resolved", "archived", "purged")
OPEN = ("open", "retrying")


def states_given(states: Iterable[str] | None) -> dict[str, Any]:
    """These states as the queries of dead_letters.sql are given them; None: all."""
    if states is None:
        return {"states": None, "retrying": None}
    asked = set(states)
    written = {"open" if state == "retrying" else state for state in asked}
    return {"states": sorted(written), "retrying": True if "retrying" in asked and "open" not in asked else None}
