"""dead letters → does anything wait for a decision, and is it the data or the code?"""

from __future__ import annotations

from typing import Any

from evkit.monitors.finding import Finding, Severity, Thresholds, count, level, seconds
from evkit.views.dead_letters import folded
from evkit.views.frame import columns_of, rows_of

MONITOR = "dead_letters"


def dead_letters(frame: Any, thresholds: Thresholds | None = None) -> list[Finding]:
    """Judge the frame of `views.dead_letter_groups` (or of `views.dead_letters`): one finding for each open failure.

    Any open letter is a warning. Critical: many of one fingerprint, letters of more keys than one poison event has (the
    code or a dependency fails, and every further event will), or one that waits longer than
    `open_letter_age_seconds_critical`. Resolved, archived and purged letters do not alarm: somebody has decided. Those on
    hold (`evkit dlq hold`) are counted and do not alarm either; keys and age are those of all open letters all the same,
    as long as one is not on hold.
    """
    bounds = thresholds or Thresholds()
    given = rows_of(frame, "dead_letter_groups", "dead_letters")
    rows = folded(given) if "letter_id" in columns_of(frame) else given
    found = [_failure(row, bounds.of_group(row["group"])) for row in rows if row["n_open"]]
    if found:
        return found
    decided = sum(r["n_resolved"] + r["n_archived"] for r in rows)
    sentence = "no open dead letter"
    if decided:
        sentence += f"; {count(decided, 'letter')} resolved or archived"
    return [Finding(MONITOR, Severity.ok, "all groups", 0.0, "letters", bounds.open_letters_warning, sentence)]


def _failure(row: dict[str, Any], bounds: Thresholds) -> Finding:
    n, keys, age = row["n_open"], row["n_keys"], row["oldest_open_seconds"]
    held = row["n_held"]
    severity = level(n - held, bounds.open_letters_warning, bounds.open_letters_critical)
    threshold = bounds.open_letters_critical if severity is Severity.critical else bounds.open_letters_warning
    is_bad = keys >= bounds.open_letter_keys_critical or (age or 0) >= bounds.open_letter_age_seconds_critical
    if is_bad and n > held:
        severity = Severity.critical
    sentence = f"{row['group']}: {count(n, 'open dead letter')} of {count(keys, 'key')}, {row['title']}"
    if row["error_message"]:
        sentence += f": {_short(row['error_message'])}"
    sentence += "; many keys: look at the code" if row["spread"] == "systemic" else "; few keys: look at the data"
    if age is not None:
        sentence += f"; the oldest waits for {seconds(age)}"
    if held:
        sentence += "; all are on hold" if held == n else f"; {held:,} of them are on hold"
    names = ("fingerprint", "title", "n_open", "n_held", "n_new", "n_keys", "spread", "first_seen_at", "last_seen_at",
             "sample_letter_id")  # fmt: skip
    return Finding(
        MONITOR,
        severity,
        row["group"],
        float(n),
        "letters",
        threshold,
        sentence,
        {k: row[k] for k in names},
        f"evkit dlq show {row['sample_letter_id']}",
    )


def _short(text: str, characters: int = 120) -> str:
    """The first line of an error message, cut where it would fill the screen."""
    line = text.strip().splitlines()[0] if text.strip() else ""
    return line if len(line) <= characters else line[: characters - 1] + "…"
