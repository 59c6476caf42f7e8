"""Rules of what costs nothing yet, or keeps numbers from being trusted."""

from __future__ import annotations

from evkit.monitors.finding import command, count
from evkit.monitors.triage.cause import Cause, Harm
from evkit.monitors.triage.evidence import Evidence


def flaky(evidence: Evidence) -> list[Cause]:
    """Many attempts fail and their events get through in the end: nothing died, and retries take the time."""
    causes = []
    held = {row["group"] for row in evidence.rows("breakers") if row["state"] == "open"}
    for row in evidence.rows("error_rate"):
        ratio = row["attempt_error_ratio"] or 0.0
        is_much = (
            row["attempts"] >= evidence.bounds.attempts_min and ratio >= evidence.bounds.attempt_error_ratio_warning
        )
        if is_much and not row["dead"] and not row["replay"] and row["group"] not in held:
            causes.append(
                Cause(
                    "flaky",
                    Harm.noisy,
                    row["group"],
                    row["failures"],
                    f"{row['failures']:,} of {count(row['attempts'], 'attempt')} ({ratio:.0%}) at {row['event_type']} "
                    f"failed in {row['group']}, and no event died of it",
                    "something that the handler needs fails now and then; retries hide it, and take their time",
                    command("view", "errors", "--group", row["group"]),
                    {"failures": row["failures"], "attempts": row["attempts"]},
                )
            )
    return causes
