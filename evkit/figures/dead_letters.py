"""dead letters → which failures wait for a decision, and which are decided."""

from __future__ import annotations

from typing import Any

from evkit.figures.template import STATUS_COLOURS, Figure, clock, count, empty, go, styled, text
from evkit.views.dead_letters import folded
from evkit.views.frame import columns_of, rows_of

_BARS_MAX = 20


def dead_letters(frame: Any) -> Figure:
    """Draw the frame of `views.dead_letter_groups` (or of `views.dead_letters`): a bar for each failure.

    Open letters, resolved ones and archived ones, stacked. `systemic` failures have many keys (look at the code), `poison`
    ones few (look at the data).
    """
    given = rows_of(frame, "dead_letter_groups", "dead_letters")
    rows = folded(given) if "letter_id" in columns_of(frame) else given
    if not rows:
        return empty("No dead letters", "no group has given up on an event")
    left_out = len(rows) - _BARS_MAX
    shown = rows[:_BARS_MAX]
    # The fingerprint keeps two failures of one title apart.
    places = [text(f"{r['group']} {r['fingerprint']}", 200) for r in shown]
    labels = [f"<b>{text(r['group'], 40)}</b> {text(r['title'], 60)}<br>{_about(r)}" for r in shown]
    figure = go.Figure()
    for column, state, label in (
        ("n_open", "open", "open"),
        ("n_resolved", "resolved", "resolved"),
        ("n_archived", "archived", "archived or purged"),
    ):
        values = [r[column] for r in shown]
        if not any(values):
            continue
        figure.add_bar(
            orientation="h", y=places, x=values, name=label, marker={"color": STATUS_COLOURS[state]},
            text=[f"{v:,}" if v else "" for v in values], textposition="inside", insidetextanchor="middle",
            textfont={"color": "white"}, constraintext="none", textangle=0,
            customdata=[[text(r["error_message"] or "", 160), r["sample_letter_id"]] for r in shown],
            hovertemplate="%{x:,} " + label + "<br>%{customdata[0]}<br>newest letter %{customdata[1]}<extra></extra>",
        )  # fmt: skip
    figure.update_yaxes(
        type="category", categoryorder="array", categoryarray=places[::-1], showgrid=False, tickmode="array",
        tickvals=places, ticktext=labels,
    )  # fmt: skip
    figure.update_xaxes(title_text="dead letters", tickformat=",d", rangemode="tozero")
    figure.update_layout(barmode="stack")
    n_open = sum(r["n_open"] for r in rows)
    if not n_open:
        title = f"No open dead letter; {count(sum(r['n_resolved'] + r['n_archived'] for r in rows), 'letter')} decided"
    else:
        first = rows[0]
        part = "all" if first["n_open"] == n_open else f"{first['n_open']:,} of them"
        title = f"{count(n_open, 'open dead letter')}, {part} {text(first['title'])} in {text(first['group'])}"
    subtitle = count(len(rows), "failure") + (f", {left_out} smaller ones left out" if left_out > 0 else "")
    first_seen, last_seen = min(r["first_seen_at"] for r in rows), max(r["last_seen_at"] for r in rows)
    subtitle += f" · first {clock(first_seen)}, last {clock(last_seen)} UTC"
    return styled(figure, title, subtitle, height=180 + 52 * max(len(shown), 2))


def _about(row: dict[str, Any]) -> str:
    since = f"since {clock(row['first_seen_at'])}"
    replay = ", from a replay" if row["replay"] else ""
    return f"<span style='font-size:11px'>{row['spread']}, {count(row['n_keys'], 'key')}, {since}{replay}</span>"
