"""Rules of what went wrong and does not cure itself: dead letters by what killed them, and what cannot be published."""

from __future__ import annotations

from collections import defaultdict

from evkit.monitors.finding import command, count, places, seconds
from evkit.monitors.triage.cause import Cause, Harm
from evkit.monitors.triage.evidence import Evidence, Row

# Errors that say: the record is not what the handler was told to expect.
_SCHEMA = ("SchemaMismatch", "ValidationError", "Undecodable", "NoHandler")


def dead_letters(evidence: Evidence) -> list[Cause]:
    """Open letters, by group and by what killed them: schema_break, poison, bad_release or failing_handler."""
    by_kind: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in evidence.rows("dead_letters"):
        if row["n_open"] - row["n_held"] >= evidence.bounds_of(row["group"]).open_letters_warning:
            by_kind[row["group"], _kind(evidence, row)].append(row)
    return [_letters(group, kind, rows) for (group, kind), rows in by_kind.items()]


def _kind(evidence: Evidence, row: Row) -> str:
    if row["spread"] == "poison":  # also where a model refuses it: others of the same producer pass
        return "poison"
    if row["error_class"].rsplit(".", 1)[-1] in _SCHEMA:
        return "schema_break"
    return "bad_release" if _release(evidence, row) else "failing_handler"


def _release(evidence: Evidence, row: Row) -> str | None:
    """The version that all these letters are of, where another one worked in this window before it came."""
    version = row["first_code_version"]
    if version is None or version != row["last_code_version"]:
        return None
    versions = evidence.by("code_versions", "group").get(row["group"], [])
    came = min((v["first_at"] for v in versions if v["code_version"] == version), default=None)
    before = [v for v in versions if v["code_version"] != version and v["handled"] and came and v["first_at"] < came]
    return version if before and row["first_seen_at"] >= came else None


def _letters(group: str, kind: str, rows: list[Row]) -> Cause:
    rows = sorted(rows, key=lambda r: -r["n_open"])
    worst = rows[0]
    n, keys = sum(r["n_open"] for r in rows), sum(r["n_keys"] for r in rows)
    others = f", and {count(len(rows) - 1, 'other failure')} like it" if len(rows) > 1 else ""
    what = (
        f"{count(n, 'event')} of {count(keys, 'key')} died in {group} since {worst['first_seen_at']:%H:%M:%S} UTC: "
        f"{worst['title']}, {_short(worst['error_message'])}{others}"
    )
    fingerprint = ("--fingerprint", worst["fingerprint"])
    step = command("dlq", "list", "--group", group, *fingerprint)
    match kind:
        case "schema_break":
            likely = (
                "the events do not have the form that the handler expects: a producer has changed it, or this consumer"
            )
            step = command("schema", "check")
        case "poison":
            likely = "the data of these events: other keys pass the same code"
            step = command("dlq", "show", str(worst["sample_letter_id"]))
        case "bad_release":
            version = worst["first_code_version"]
            likely = (
                f"a bug in the handler: many keys fail alike, all in version {version}, and the one before it did not"
            )
        case _:
            likely = "a bug in the handler or a dependency that refuses: many keys fail alike"
    evidence_ = {
        "letters": n,
        "keys": keys,
        "fingerprints": [r["fingerprint"] for r in rows],
        "code_version": worst["first_code_version"],
    }
    return Cause(kind, Harm.wrong, group, n, what, likely, step, evidence_)


def _short(text: str | None) -> str:
    first = (text or "no message").strip().splitlines()[0] if (text or "").strip() else "no message"
    return first if len(first) <= 80 else first[:79] + "…"


def unpublishable(evidence: Evidence) -> list[Cause]:
    """Events that the broker will not take, and those of their keys behind them."""
    causes = []
    for row in evidence.rows("relay_lag"):
        if not row["unpublishable"]:
            continue
        n = row["unpublishable"] + row["held"]
        since = row["oldest_unpublishable_seconds"]
        causes.append(
            Cause(
                "unpublishable",
                Harm.wrong,
                "outbox",
                n,
                f"the broker does not take {count(row['unpublishable'], 'event')}"
                + (f", the oldest for {seconds(since)}" if since is not None else "")
                + f"; {count(row['held'], 'later event')} of their keys wait behind",
                "an event is too large for its topic, or its topic is gone or forbidden",
                command("outbox", "status"),
                {"unpublishable": row["unpublishable"], "held": row["held"]},
            )
        )
    return causes


def offset_rewind(evidence: Evidence) -> list[Cause]:
    """Committed offsets that went back: what lies between is handled again, unless the group has an inbox."""
    has_inbox = {row["group"] for row in evidence.rows("throughput")}
    causes = []
    for group, rows in evidence.by("offset_resets", "group").items():
        back = [row for row in rows if row["direction"] == "back"]
        if not back:
            continue
        n, at = -sum(row["moved_events"] for row in back), min(row["at"] for row in back)
        regained = all(row["regained_at"] is not None for row in back)
        outside = any(row["moved_by"] == "outside" for row in back)
        known = group in has_inbox
        causes.append(
            Cause(
                "offset_rewind",
                Harm.noisy if known else Harm.wrong,
                group,
                n,
                f"the committed offsets of {group} went back by {n:,} in {places(back)} at {at:%H:%M:%S} UTC: up to "
                f"{count(n, 'event')} are read again" + (", and have been by now" if regained else ""),
                (
                    "an operator or a tool has set them back while the group had no members"
                    if outside
                    else "a member has set them back, or they were set back from outside"
                )
                + ("; the inbox keeps them from being handled twice" if known else "; what they did is done twice"),
                command("view", "offset-resets", "--group", group),
                {"moved_events": -n, "at": at, "moved_by": sorted({row["moved_by"] for row in back})},
            )
        )
    return causes
