"""Plans of a notebook that changes something, and the gate before they are carried out.

A notebook is run by hand, by papermill and by a scheduler, and a stray "run all" must not redrive anything. So a plan has
an id, made of everything that is in it, and it is carried out only by `dry_run=False` and `confirm=` that id. A plan that
has changed since somebody read it (one more letter, one more record) has another id and is refused.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from evkit.errors import RedriveRefused, Refused, ReplayRefused, UsageError
from evkit.reporting import display
from evkit.reporting.report import Report
from evkit.reporting.tables import Table
from evkit.runtime import dead_letters, replay
from evkit.runtime.application import consumer_at
from evkit.runtime.dead_letters import RedrivePlan, Selection
from evkit.runtime.replay import ReplayPlan
from evkit.window import instant


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan that waits for its confirmation, or the reason why there is none.

    Attributes:
        kind  redrive or replay
        plan  None when there is nothing to do
        why   then, in a sentence
    """

    kind: Literal["redrive", "replay"]
    plan: RedrivePlan | ReplayPlan | None
    why: str = ""

    @property
    def id(self) -> str:
        """Equal for equal plans: `redrive-` or `replay-` and eight hexadecimal digits; empty without a plan."""
        if self.plan is None:
            return ""
        whole = self.plan.summary()
        if isinstance(self.plan, ReplayPlan):
            whole["ranges"] = [[r.topic, r.partition, r.start, r.end] for r in self.plan.ranges]
        text = json.dumps(whole, sort_keys=True, default=str)
        return f"{self.kind}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def plan_redrive(report: Report, group: str | None, fingerprint: str | None = None) -> Planned:
    """Plan to run a group's open letters (of one failure, where a fingerprint is given) through its handlers again.

    Without a group there is nothing to plan. Displays the plan; changes nothing.

    Raises:
        UnknownGroup: evkit's tables know no such group.
        DatabaseUnreachable, NotMigrated.
    """
    if group is None:
        return _shown(Planned("redrive", None, "no redrive is planned: set group to the one whose letters to redrive"))
    try:
        plan = dead_letters.plan_redrive(report.system, Selection(group=group, fingerprint=fingerprint))
    except RedriveRefused as error:
        return _shown(Planned("redrive", None, str(error)))
    return _shown(Planned("redrive", plan))


def plan_replay(report: Report, group: str | None, since: str | None, until: str | datetime | None = None) -> Planned:
    """Plan to hand a stretch of the group's topics to its handlers again, what it has handled left alone.

    Without a group or `since` there is nothing to plan. Displays the plan; changes nothing.

    Raises:
        UnknownGroup, UnknownTopic, BrokerUnreachable, DatabaseUnreachable, NotMigrated.
    """
    if group is None or since is None:
        return _shown(Planned("replay", None, "no replay is planned: set group and replay_since to plan one"))
    try:
        plan = replay.plan(
            report.system,
            group,
            instant(since, name="replay_since"),
            None if until is None else instant(until, name="replay_until"),
        )
    except ReplayRefused as error:
        return _shown(Planned("replay", None, str(error)))
    return _shown(Planned("replay", plan))


def _shown(planned: Planned) -> Planned:
    if planned.plan is None:
        display.note(planned.why, role="plan")
        return planned
    facts = {"plan": planned.id} | {
        name: ", ".join(map(str, value)) if isinstance(value, (list, dict)) else value
        for name, value in planned.plan.summary().items()
    }
    rows = [{"what": name.replace("_", " "), "planned": value} for name, value in facts.items()]
    display.table(f"plan of a {planned.kind}", Table(rows, ("what", "planned")), folded=False)
    return planned


def act(
    report: Report, planned: Planned, *, app: str | None, dry_run: bool, confirm: str | None, reason: str | None = None
) -> None:
    """Carry a plan out if it is confirmed; otherwise say what would be done, and how to confirm it.

    Side effects, with `dry_run=False` and `confirm` equal to the plan's id only: those of `evkit.dead_letters.redrive` or
    `evkit.replay.run`, with a row in the audit table.

    Args:
        app  whose handlers to run, MODULE:CONSUMER

    Raises:
        Refused: `confirm` is of an earlier state of this plan.
        UsageError: `app` is missing or names no consumer.
        RedriveRefused, ReplayRefused: the consumer is of another group.
    """
    plan = planned.plan
    if plan is None:
        return
    if dry_run or not (confirm or "").startswith(f"{planned.kind}-"):
        parameters: dict[str, str | None] = {
            "group": plan.group,
            "app": app or "MODULE:CONSUMER",
            "dry_run": "false",
            "confirm": planned.id,
        }
        if isinstance(plan, ReplayPlan):
            parameters |= {"replay_since": plan.from_time.isoformat(), "replay_until": _until(plan)}
        options = " ".join(f"-p {shlex.quote(f'{k}={v}')}" for k, v in parameters.items() if v is not None)
        display.note(
            f"Nothing was done. To carry this plan out: evkit report run redrive_and_replay {options}", role="plan"
        )
        return
    if confirm != planned.id:
        raise Refused(
            f"the {planned.kind} that was confirmed is {confirm}, and the plan is now {planned.id}: something came or went "
            "since; read the plan again, and confirm that one"
        )
    if app is None:
        raise UsageError("whose handlers? Set app to MODULE:CONSUMER, for example orders.billing:consumer")
    consumer = consumer_at(app)
    if isinstance(plan, ReplayPlan):
        outcome = replay.run(report.system, plan, consumer, reason=reason).summary()
    else:
        outcome = dead_letters.redrive(report.system, plan, consumer, reason=reason).summary()
    rows = [{"what": k.replace("_", " "), "result": str(v)} for k, v in outcome.items()]
    display.table(f"result of the {planned.kind}", Table(rows, ("what", "result")), folded=False)


def _until(plan: ReplayPlan) -> str | None:
    return plan.until_time.isoformat() if plan.until_time else None
