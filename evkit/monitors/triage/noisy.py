"""Rules of what costs nothing yet, or keeps numbers from being trusted."""

from __future__ import annotations

from evkit.monitors.finding import command, count, seconds
from evkit.monitors.triage.cause import Cause, Harm
from evkit.monitors.triage.evidence import Evidence


def flaky(evidence: Evidence) -> list[Cause]:
    """Many attempts fail and their events get through in the end: nothing died, and retries take the time."""
    causes = []
    held = {row["group"] for row in evidence.rows("breakers") if row["state"] == "open"}
    for row in evidence.rows("error_rate"):
        ratio = row["attempt_error_ratio"] or 0.0
        is_much = (
            row["attempts"] >= evidence.bounds_of(row["group"]).attempts_min
            and ratio >= evidence.bounds_of(row["group"]).attempt_error_ratio_warning
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


# Clocks that are kept by NTP are some milliseconds apart; what is more is one that is not kept.
_APART_SECONDS = 1.0
_APART_RATIO = 0.01
# Whose clock a segment begins or ends on.
_CLOCKS = {
    "database": "the database (or of a producer that has no outbox)",
    "record": "the broker (or of the producer, where that stamps records)",
    "client": "the consumer's machine",
}


def clock_skew(evidence: Evidence) -> list[Cause]:
    """Events that end before they begin: two clocks disagree, and times between them are not to be trusted."""
    causes = []
    for group, rows in evidence.by("latency_segments", "group").items():
        apart = [
            r
            for r in rows
            if r["n"] >= evidence.bounds_of(group).attempts_min
            and (r["negative_ratio"] or 0.0) >= _APART_RATIO
            and r["min_seconds"] <= -_APART_SECONDS
        ]
        if not apart:
            continue
        worst = min(apart, key=lambda r: r["min_seconds"])
        n = round(worst["negative_ratio"] * worst["n"])
        causes.append(
            Cause(
                "clock_skew",
                Harm.noisy,
                group,
                n,
                f"{n:,} of {count(worst['n'], 'event')} of {group} ended before they began ({worst['segment']} is down to "
                f"-{seconds(-worst['min_seconds'])}): two clocks are at least so far apart",
                f"the clock of {_CLOCKS.get(worst['from_clock'], worst['from_clock'])} is ahead, or that of "
                f"{_CLOCKS.get(worst['to_clock'], worst['to_clock'])} is behind; latencies with it are wrong",
                command("view", "latency-segments", "--group", group),
                {"segment": worst["segment"], "min_seconds": worst["min_seconds"], "ratio": worst["negative_ratio"]},
            )
        )
    return causes
