"""Rules of what is lost unless somebody acts: deleted unread, or skipped by a committed offset."""

from __future__ import annotations

from evkit.monitors.finding import command, count, places, seconds
from evkit.monitors.triage.cause import Cause, Harm
from evkit.monitors.triage.evidence import Evidence, Row


def retention_loss(evidence: Evidence) -> list[Cause]:
    """Records that were deleted before the group had read them: its offset is below the partition's start, or was."""
    found: dict[str, dict[tuple[str, int], Row]] = {}
    for row in evidence.rows("consumer_status"):
        if (row["lost_events"] or 0) > 0:
            found.setdefault(row["group"], {})[row["topic"], row["partition"]] = row
    for row in evidence.rows("consumer_lag"):
        if row["status"] == "data_loss":
            found.setdefault(row["group"], {})[row["topic"], row["partition"]] = row
    causes = []
    for group, by_place in found.items():
        rows = list(by_place.values())
        n = sum(row["lost_events"] for row in rows)
        unread = [r["lag_seconds"] for r in evidence.by("consumer_lag", "group").get(group, []) if r["lag_seconds"]]
        behind = f" It is {seconds(max(unread))} behind still." if unread else ""
        causes.append(
            Cause(
                "retention_loss",
                Harm.lost,
                group,
                n,
                f"up to {count(n, 'event')} were deleted in {places(rows)} before {group} had read them.{behind}",
                "the group was behind for longer than the topic keeps its records, or somebody deleted them",
                command("view", "lag", "--group", group, "--wide"),
                {"lost_events": n, "places": [list(place) for place in by_place]},
            )
        )
    return causes


def offset_skip(evidence: Evidence) -> list[Cause]:
    """Committed offsets that were set forward from outside: what lies between is not handled by this group."""
    causes = []
    for group, rows in evidence.by("offset_resets", "group").items():
        forward = [row for row in rows if row["direction"] == "forward"]
        if not forward:
            continue
        n, at = sum(row["moved_events"] for row in forward), min(row["at"] for row in forward)
        causes.append(
            Cause(
                "offset_skip",
                Harm.lost,
                group,
                n,
                f"the committed offsets of {group} were set forward by {n:,} in {places(forward)} at {at:%H:%M:%S} UTC: up "
                f"to {count(n, 'event')} were skipped",
                "an operator or a tool has reset the offsets, to the latest ones perhaps, while the group had no members",
                command("replay", "plan", "--group", group, "--from", f"{at:%Y-%m-%dT%H:%M:%SZ}"),
                {"moved_events": n, "at": at, "places": [[r["topic"], r["partition"]] for r in forward]},
            )
        )
    return causes


# Verdicts of the audit, in words; each is an event that nobody will handle unless somebody acts, or one handled wrongly.
_LOST = {
    "not_published_n": "never published",
    "missing_n": "confirmed by the broker and not in the topic",
    "lost_to_retention_n": "deleted before they were read",
    "skipped_by_reset_n": "skipped by an offset reset",
    "not_consumed_n": "passed over by the group",
}
_WRONG = {"processed_twice_n": "handled twice", "out_of_order_n": "handled out of order"}


def audit(evidence: Evidence) -> list[Cause]:
    """What the audit found, where it was asked for: events lost, or handled twice or out of order, by topic and group."""
    causes = []
    for row in evidence.rows("audit_counts"):
        for name, harm, verdicts in (("events_lost", Harm.lost, _LOST), ("events_wrong", Harm.wrong, _WRONG)):
            found = {words: row[column] for column, words in verdicts.items() if row[column]}
            if not found:
                continue
            n = sum(found.values())
            subject = row["group"] or row["topic"]
            causes.append(
                Cause(
                    name,
                    harm,
                    subject,
                    n,
                    f"of {row['topic']}{' in ' + row['group'] if row['group'] else ''}: "
                    + ", ".join(f"{count(k, 'event')} {words}" for words, k in found.items()),
                    "the audit names each of them, with the evidence",
                    command("audit", "--topic", row["topic"], *(("--group", row["group"]) if row["group"] else ())),
                    found,
                )
            )
    return causes
