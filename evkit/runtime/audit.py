"""an act of a person → audit table: who, what, why and the plan before it starts, the result when it has ended.

The row is committed before the act begins: an act that is killed leaves a row without a result, never no row.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Mapping
from typing import Any

from psycopg.types.json import Jsonb

from evkit import postgres
from evkit.runtime.failure import storable_json
from evkit.sql import named

_SQL = named("audit")


def actor() -> str:
    """Who acts: EVKIT_ACTOR, or the user of this process."""
    if name := os.environ.get("EVKIT_ACTOR"):
        return name
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a uid without a name, as in some containers
        return f"uid {os.getuid()}"


def begin(
    connection: postgres.Connection,
    act: str,
    target: str,
    plan: Mapping[str, Any],
    reason: str | None = None,
    *,
    by: str | None = None,
) -> int:
    """Write down that an act begins; returns the row's id. On an autocommit connection it is there at once.

    `by` is who acts when it is not the user of this process: a relay that looks after its tables. What the plan quotes of a
    payload is written as PostgreSQL can hold it.
    """
    document = Jsonb(storable_json(dict(plan)))
    row = connection.execute(_SQL["begin_act"], (by or actor(), act, target, reason, document)).fetchone()
    assert row is not None
    return int(row[0])


def end(connection: postgres.Connection, audit_id: int, result: Mapping[str, Any]) -> None:
    """Write down how it ended."""
    connection.execute(_SQL["end_act"], (Jsonb(storable_json(dict(result))), audit_id))
