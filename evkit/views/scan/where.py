"""`key=k1`, `header:tenant=acme`, `field:customer.id=7` → which records of a scan are wanted."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import polars as pl

from evkit.errors import InvalidParameter, closest

# Columns that can be asked for by their own name.
_PLAIN = ("key", "event_id", "event_type")
_CONDITION = re.compile(r"^\s*(header:.+?|field:.+?|[A-Za-z_]+)\s*(!=|=|~)(.*)$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition on one column, compared as text.

    Attributes:
        column    key, event_id, event_type, header:NAME or field:PATH
        operator  `=`, `!=` (also true where there is nothing), `~` (contains)
        text      what it is compared with
    """

    column: str
    operator: str
    text: str

    def expression(self) -> pl.Expr:
        column = pl.col(self.column)
        if self.operator == "=":
            return (column == self.text).fill_null(False)
        if self.operator == "!=":
            return (column != self.text).fill_null(True)
        return column.str.contains(self.text, literal=True).fill_null(False)


def conditions(where: str | Iterable[str]) -> tuple[Condition, ...]:
    """The conditions in these texts; a record must meet all of them.

    Raises:
        InvalidParameter: one of them cannot be read.
    """
    found = []
    for text in [where] if isinstance(where, str) else where:
        parts = _CONDITION.match(text)
        if parts is None:
            raise InvalidParameter(
                f"where '{text}' is no condition: write key=k1, event_type!=order.placed, header:tenant=acme or "
                "field:customer.name~Ada",
                name="where",
                value=text,
            )
        column = parts[1].strip()
        if column not in _PLAIN and ":" not in column:
            near = closest(column, _PLAIN)
            hint = f"did you mean '{near[0]}'?" if near else f"write header:{column} or field:{column}"
            raise InvalidParameter(
                f"where '{text}': there is no column '{column}' to ask for; {hint}", name="where", value=text
            )
        found.append(Condition(column, parts[2], parts[3].strip()))
    return tuple(found)
