"""frame → a static table: HTML that draws in an untrusted notebook and in an offline page, and plain text.

No script and no widget, so nothing of it is lost on the way into a report. Whatever comes from events is escaped here, at
the source. Units are in the header, times are UTC, numbers stand to the right, and unknown is a dash, never 0.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from evkit.views import COLUMNS
from evkit.views.frame import columns_of, rows_of

# More rows than this nobody reads in a report; the command that has all of them stands below the table.
ROWS_MAX = 60
_CHARACTERS_MAX = 160
_WRAP_FROM = 48


class Table:
    """Rows as Jupyter shows them: `_repr_html_` for a page, `str()` for a terminal."""

    def __init__(
        self, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, units: Mapping[str, str] | None = None
    ) -> None:
        self.rows = list(rows)
        self.columns = list(columns)
        self.units = dict(units or {})

    @classmethod
    def of(cls, frame: Any) -> Table:
        """The table of a view's frame, polars or pandas, with the units of its columns."""
        columns = columns_of(frame)
        known = {c.name: c.unit for of_view in COLUMNS.values() for c in of_view}
        return cls(rows_of(frame), columns, units={c: known.get(c, "") for c in columns})

    def _repr_html_(self) -> str:
        if not self.rows:
            return "<p><em>no rows</em></p>"
        numeric = {c for c in self.columns if all(_is_number(r.get(c)) for r in self.rows)}
        head = "".join(self._heading(c, "right" if c in numeric else "left") for c in self.columns)
        body = "".join(
            "<tr>" + "".join(_cell(r.get(c), "right" if c in numeric else "left") for c in self.columns) + "</tr>"
            for r in self.rows[:ROWS_MAX]
        )
        return f'<table class="evkit"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>' + self._left_out()

    def _heading(self, column: str, align: str) -> str:
        unit = self.units.get(column, "")
        below = f"<br><small>{html.escape(unit)}</small>" if unit else ""
        return f'<th scope="col" style="text-align:{align}">{html.escape(column)}{below}</th>'

    def _left_out(self) -> str:
        more = len(self.rows) - ROWS_MAX
        return (
            f"<p><small>and {more:,} more rows: <code>evkit view</code> has all of them</small></p>" if more > 0 else ""
        )

    def __str__(self) -> str:
        if not self.rows:
            return "no rows"
        kept = [[shown(r.get(c)) for c in self.columns] for r in self.rows[:ROWS_MAX]]
        widths = [max(len(c), *(len(row[i]) for row in kept)) for i, c in enumerate(self.columns)]
        lines = ["  ".join(c.ljust(w) for c, w in zip(self.columns, widths, strict=True)).rstrip()]
        lines += ["  ".join(v.ljust(w) for v, w in zip(row, widths, strict=True)).rstrip() for row in kept]
        if len(self.rows) > ROWS_MAX:
            lines.append(f"and {len(self.rows) - ROWS_MAX:,} more rows")
        return "\n".join(lines)

    __repr__ = __str__


def _cell(value: Any, align: str) -> str:
    text = shown(value)
    # JupyterLab breaks words in the middle, ids and times too; only what is long may wrap.
    wrap = "" if len(text) > _WRAP_FROM else ";white-space:nowrap"
    return f'<td style="text-align:{align}{wrap}">{html.escape(text)}</td>'


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def shown(value: Any) -> str:
    """A value as a person reads it: one line, not too long, unknown as a dash."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="backslashreplace")
    line = " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())
    return line if len(line) <= _CHARACTERS_MAX else line[: _CHARACTERS_MAX - 1] + "…"


def number(value: float) -> str:
    """Three figures are enough to decide by: 0.0123, 4.57, 1,204."""
    if value == 0:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def quantity(value: float | None, unit: str) -> str:
    """A value with its unit as a tile shows it: 6.4 s, 2 min 5 s, 5.1 %, 120 letters, unknown as a dash."""
    if value is None:
        return "–"
    if unit == "s":
        return _seconds(value)
    if unit in ("ratio", "0..1"):
        return f"{number(value * 100)} %"
    if unit.startswith("1/"):
        return f"{number(value)}{unit[1:]}"
    return f"{number(value)} {unit}".strip()


def _seconds(value: float) -> str:
    if value == 0:
        return "0 s"
    if abs(value) < 1:
        return f"{number(value * 1000)} ms"
    if abs(value) < 120:
        return f"{value:.3g} s"
    whole = round(value)
    if whole < 7200:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 else "")
    return f"{whole // 3600} h {whole % 3600 // 60} min" if whole < 172_800 else f"{value / 86_400:.1f} days"
