"""Rules of what makes events late: in the outbox, behind a transaction, or with their consumer group."""

from __future__ import annotations

from evkit.monitors.finding import command, count, places, seconds
from evkit.monitors.triage.cause import Cause, Harm
from evkit.monitors.triage.evidence import Evidence, Rates, Row

# A rate has changed when it is so many times what it was.
_CHANGE = 1.5
# Nothing was handled in so much of the time since it fell behind: batches of a slow handler end less often than buckets.
_STILL = 0.75
# One partition has the lag when it has so much of it, among three at least.
_MOST = 0.7
# One key has, when it has so much of what is unread, and so many events at least.
_KEY, _KEY_EVENTS = 0.5, 20
# Of attempts that transactions in each other's way cost, and nothing that is away.
_ASKED_TO_REPEAT = frozenset({"psycopg.errors.DeadlockDetected", "psycopg.errors.SerializationFailure"})


def relay(evidence: Evidence) -> list[Cause]:
    """The outbox is not emptied: nobody leads (relay_stopped), it says why it cannot (relay_failing), or it hangs."""
    causes = []
    for row in evidence.rows("relay_lag"):
        age = row["oldest_pending_seconds"]
        if not row["pending"] or age < evidence.bounds.relay_seconds_warning:
            continue
        if row["failing_error"]:
            name, likely = "relay_failing", f"since {row['failing_since']:%H:%M:%S} UTC it says: {row['failing_error']}"
        elif row["leader_pid"] is None:
            name, likely = "relay_stopped", "no relay is running, or none can reach PostgreSQL"
        else:
            name, likely = "relay_stuck", "a relay leads and does not move: its process hangs, or was stopped"
        n = row["pending"]
        sentence = f"{count(n, 'event')} written and not published, the oldest for {seconds(age)}"
        causes.append(
            Cause(
                name,
                Harm.late,
                "outbox",
                n,
                sentence,
                likely,
                command("outbox", "status"),
                {"pending": n, "seconds": age},
            )
        )
    return causes


def open_transaction(evidence: Evidence) -> list[Cause]:
    """A transaction of PostgreSQL that has written to the outbox, or may have, and does not end."""
    causes = []
    for row in evidence.rows("relay_lag"):
        age = row["hole_seconds"]
        if age is None or age < evidence.bounds.hole_seconds_warning:
            continue
        who = f"backend {row['hole_pid']}" if row["hole_pid"] is not None else "a transaction that cannot be seen"
        if row["hole_application"]:
            who += f" ({row['hole_application']})"
        causes.append(
            Cause(
                "open_transaction",
                Harm.late,
                "outbox",
                1,
                f"a transaction has been open for {seconds(row['hole_pid_seconds'] or age)} and may still write at outbox "
                f"position {row['hole_position']:,}: {who}, {row['hole_state'] or 'state unknown'}",
                "a service that has forgotten to commit, waits for something else inside its transaction, or hangs",
                command("outbox", "status"),
                {"position": row["hole_position"], "pid": row["hole_pid"], "seconds": age},
            )
        )
    return causes


def hanging_transaction(evidence: Evidence) -> list[Cause]:
    """Records behind a Kafka transaction that does not end: nobody who reads committed records gets past it."""
    causes = []
    for group, rows in evidence.by("consumer_lag", "group").items():
        held = [
            r
            for r in rows
            if r["status"] == "open_transaction"
            and (r["lag_seconds"] or 0) >= evidence.bounds_of(group).lag_seconds_warning
        ]
        if not held:
            continue
        n, age = sum(r["lag_events"] for r in held), max(r["lag_seconds"] for r in held)
        causes.append(
            Cause(
                "hanging_transaction",
                Harm.late,
                group,
                n,
                f"{count(n, 'event')} in {places(held)} wait for the end of a Kafka transaction, the oldest for "
                f"{seconds(age)}; {group} has read everything before it",
                "a transactional producer hangs, or was killed and its timeout has not come",
                command("view", "lag", "--group", group, "--wide"),
                {"events": n, "seconds": age},
            )
        )
    return causes


def groups(evidence: Evidence) -> list[Cause]:
    """Groups that are late, each with the first that explains it, from the plainest reason to the least."""
    causes = []
    late = evidence.late()
    storms = {cause.subject: cause for cause in rebalance_storm(evidence)}
    down = {cause.subject: cause for cause in dependency_down(evidence)}
    for group, rows in late.items():
        found = None if group in storms or group in down else _why(evidence, group, rows)
        if found is not None:
            causes.append(found)
    return [*storms.values(), *down.values(), *causes]


def rebalance_storm(evidence: Evidence) -> list[Cause]:
    """A group whose members came and went so often that it did little else."""
    causes = []
    for group, rows in evidence.by("rebalances", "group").items():
        n = len(rows)
        if n < evidence.bounds_of(group).rebalances_warning:
            continue
        took = (rows[-1]["at"] - rows[0]["at"]).total_seconds()
        behind = sum(
            r["lag_events"] or 0 for r in evidence.by("consumer_lag", "group").get(group, []) if r["lag_events"]
        )
        causes.append(
            Cause(
                "rebalance_storm",
                Harm.late,
                group,
                max(behind, 0),
                f"the members of {group} changed {n} times in {seconds(took)}, the last time at "
                f"{rows[-1]['at']:%H:%M:%S} UTC; {count(max(behind, 0), 'event')} unread",
                "members that die and come again (see their logs), or handlers that take longer than max.poll.interval.ms",
                command("view", "rebalances", "--group", group),
                {"changes": n, "seconds": took, "lag_events": behind},
            )
        )
    return causes


def dependency_down(evidence: Evidence) -> list[Cause]:
    """Handlers that are held because their events fail alike; or events that wait without end for nobody's fault."""
    causes: dict[str, Cause] = {}
    unread = {
        group: sum(max(r["lag_events"] or 0, 0) for r in rows)
        for group, rows in evidence.by("consumer_lag", "group").items()
    }
    for row in evidence.rows("breakers"):
        if row["state"] == "open":
            group = row["group"]
            causes[group] = Cause(
                "dependency_down",
                Harm.late,
                group,
                unread.get(group, 0),
                f"handler {row['handler']} of {group} has been held for {seconds(row['open_seconds'])}: "
                f"{count(row['keys'], 'key')} failed alike ({row['error_class']}: {row['error_message'][:80]}); "
                f"{count(unread.get(group, 0), 'event')} unread",
                "something that the handler needs is away; its events wait, and one is tried from time to time",
                command("breaker", "list"),
                {"handler": row["handler"], "keys": row["keys"], "seconds": row["open_seconds"]},
            )
    held = [
        r
        for r in evidence.rows("errors")
        if r["disposition"] == "held" and not r["replay"] and r["error_class"] not in _ASKED_TO_REPEAT
    ]
    for group in sorted({r["group"] for r in held} - causes.keys()):
        own = [r for r in held if r["group"] == group]
        if unread.get(group, 0) and len(own) >= evidence.bounds_of(group).attempts_min:
            causes[group] = Cause(
                "dependency_down",
                Harm.late,
                group,
                unread[group],
                f"{count(len(own), 'attempt')} of {group} failed through nobody's fault, the last with "
                f"{own[0]['error_class']}: {own[0]['error_message'][:80]}; {count(unread[group], 'event')} unread",
                "something that the handler needs is away; its events are tried until it is back",
                command("view", "errors", "--group", group),
                {"attempts": len(own)},
            )
    return list(causes.values())


def _why(evidence: Evidence, group: str, rows: list[Row]) -> Cause:
    n, age = sum(max(r["lag_events"] or 0, 0) for r in rows), max(r["lag_seconds"] or 0.0 for r in rows)
    behind = f"{group} is {seconds(age)} behind, {count(n, 'event')} unread in {places(rows)}"
    rates = evidence.rates(group)
    numbers = {"lag_events": n, "lag_seconds": age} | ({} if rates is None else {"rates": _numbers(rates)})

    def cause(name: str, more: str, likely: str, *step: str) -> Cause:
        return Cause(name, Harm.late, group, n, f"{behind}; {more}", likely, command(*step), numbers)

    lag = ("view", "lag", "--group", group)
    if rows[0]["group_state"] in ("empty", "dead", None):
        return cause(
            "consumer_stopped",
            "no consumer is running",
            "it was stopped, or it ends as soon as it starts: see its log",
            *lag,
        )
    if rates is not None and rates.still_seconds >= _STILL * rates.seconds:
        return cause(
            "handler_hangs",
            f"its members are there, and nothing was handled for {seconds(rates.still_seconds)}",
            "a handler hangs, or waits for a lock or for something that does not answer",
            *lag,
        )
    if (hot := _hot(evidence, group)) is not None:
        return cause("hot_key", *hot, *lag)
    if rates is None:
        return cause(
            "slow_consumer", "it reads, and not as fast as is written", "its handler, or too few members", *lag
        )
    were = f", {_rate(rates.dealt_with_before)} before" if rates.dealt_with_before else ""
    flow = (
        f"{_rate(rates.published)} came and {_rate(rates.dealt_with)} were handled in the last {seconds(rates.seconds)}"
    )
    if _rose(rates.published_before, rates.published) and not _rose(rates.dealt_with, rates.dealt_with_before):
        return cause(
            "surge",
            f"{flow}; {_rate(rates.published_before)} came before",
            "more is written than this group can handle; its handlers are as fast as they were",
            "view",
            "publish-rate",
        )
    failing = [
        r
        for r in evidence.rows("error_rate")
        if r["group"] == group
        and not r["replay"]
        and r["attempts"] >= evidence.bounds_of(group).attempts_min
        and (r["attempt_error_ratio"] or 0) >= evidence.bounds_of(group).attempt_error_ratio_critical
    ]
    if failing:
        worst = max(failing, key=lambda r: r["failures"])
        return cause(
            "failing_handler",
            f"{worst['failures']:,} of {count(worst['attempts'], 'attempt')} at {worst['event_type']} failed",
            "its handler fails and is tried again: the retries take its time",
            "view",
            "errors",
            "--group",
            group,
        )
    return cause(
        "slow_consumer",
        flow + were,
        "its handler has become slower, and no more is written than before: something that it waits for answers slowly"
        if _rose(rates.dealt_with, rates.dealt_with_before)
        else "its handler cannot keep up with what is written: too few members, or something that it waits for is slow",
        "view",
        "throughput",
        "--group",
        group,
    )


def _hot(evidence: Evidence, group: str) -> tuple[str, str] | None:
    """Words for a key that has most of what is unread, or for a partition that has, where others have little."""
    likely = "one key, or a few of one partition, have far more events than others, and are handled one by one"
    for row in evidence.rows("hot_keys"):  # the hottest first
        if row["group"] == group and row["key"] is not None and row["share_ratio"] >= _KEY and row["n"] >= _KEY_EVENTS:
            return (
                f"{row['share_ratio']:.0%} of what is unread in {row['topic']} is of key '{row['key']}'",
                f"this key has far more events than others, and they are handled one by one, in {row['topic']}/"
                f"{row['partition']}",
            )
    topics = evidence.by("consumer_lag", "group", "topic")
    for (of_group, topic), rows in topics.items():
        if of_group != group or len(rows) < 3:
            continue
        lags = sorted(rows, key=lambda r: -(r["lag_events"] or 0))
        total = sum(max(r["lag_events"] or 0, 0) for r in rows)
        if total and (lags[0]["lag_events"] or 0) >= _MOST * total:
            share = lags[0]["lag_events"] / total
            return (
                f"{share:.0%} of it is in {topic}/{lags[0]['partition']}, one of {len(rows)} partitions",
                likely,
            )
    return None


def _rate(value: float | None) -> str:
    return f"{value or 0:,.0f}/s" if (value or 0) >= 10 else f"{value or 0:.2g}/s"


def _rose(before: float | None, now: float | None) -> bool:
    return before is not None and now is not None and now > _CHANGE * before


def _numbers(rates: Rates) -> dict[str, float | None]:
    names = ("published", "published_before", "dealt_with", "dealt_with_before", "seconds")
    return {name: getattr(rates, name) for name in names}
