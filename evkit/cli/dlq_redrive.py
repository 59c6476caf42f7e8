"""`evkit dlq redrive | release | redrives | resume | cancel`: run dead letters again, and look at the runs.

What runs something shows its plan and asks first. Exit code 1: a letter failed, or was not tried.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from evkit.cli.dlq_filters import takes_filters
from evkit.cli.dlq_foreign import if_imported
from evkit.cli.output import (
    DryRunOption,
    Format,
    FormatOption,
    ReasonOption,
    YesOption,
    confirmed,
    plain,
    print_facts,
    print_json,
    print_rows,
    print_text,
    safe,
    say,
    shown,
)
from evkit.cli.progress import progress_bar, stop_event
from evkit.errors import UsageError

if TYPE_CHECKING:
    from evkit.runtime.dead_letters import RedrivePlan, RedriveResult, Run, Selection, Trial
    from evkit.system import System

_RUN_COLUMNS = (
    "redrive_id", "consumer_group", "state", "run_by", "letters", "resolved", "sent", "failed", "skipped", "not_tried",
    "tails_left", "released", "failed_behind", "stage", "why", "actor", "reason", "to_topic", "created_at", "started_at",
    "finished_at",
)  # fmt: skip
_RUN_TABLE_COLUMNS = (
    "redrive_id", "consumer_group", "state", "letters", "resolved", "failed", "skipped", "not_tried", "released", "actor",
    "created_at", "why",
)  # fmt: skip

_RUN_LETTER_COLUMNS = ("letter_id", "state", "released", "failed_behind", "why", "error_class", "error_message")

_TRIALS_MAX = 10
_LETTERS_SHOWN_MAX = 100

# How often the progress of a run in another process is looked at, and after how long nobody seems to take it up.
_LOOK_SECONDS = 0.5
_LONELY_SECONDS = 10.0

AppOption = Annotated[
    str | None,
    typer.Option("--app", metavar="MODULE:CONSUMER", help="Whose handlers to run, here.", show_default=False),
]
ByConsumersOption = Annotated[
    bool, typer.Option("--by-consumers", help="Leave it to the group's running consumers, and watch.")
]
GoOnOption = Annotated[bool, typer.Option("--go-on", help="Do not stop when letters fail again.")]
RateOption = Annotated[float | None, typer.Option(min=0.01, help="Most letters per second.", show_default=False)]
RunArgument = Annotated[str, typer.Argument(metavar="REDRIVE_ID", help="As `evkit dlq redrives` shows it.")]


@takes_filters(ids=True)
def redrive(
    selection: Selection,
    app: AppOption = None,
    by_consumers: ByConsumersOption = False,
    to_topic: Annotated[
        str | None,
        typer.Option(
            "--to-topic", metavar="TOPIC", help="Or: send them there, for the group alone.", show_default=False
        ),
    ] = None,
    reason: ReasonOption = None,
    go_on: GoOnOption = False,
    rate: RateOption = None,
    try_: Annotated[
        bool, typer.Option("--try", help="Run the handlers, roll back, and show what they would write.")
    ] = False,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    format: FormatOption = Format.table,
) -> None:
    """Run open letters through the handler of the group that failed; no other group sees anything.

    First 1 letter, then 10, then 100, then the rest; it stops when one fails again as before, or most of a stage fail.
    With --to-topic each becomes a new event of that topic instead, which evkit's consumers of other groups skip.
    """
    import evkit

    system = evkit.connect()
    plan = evkit.dead_letters.plan_redrive(system, selection)
    if try_:
        if by_consumers or to_topic:
            raise UsageError("--try runs the handlers in this process: it goes with --app")
        _try(system, plan, app, format)
        return
    summary = plan.summary()
    how = "through that group's handlers" if to_topic is None else f"to topic '{to_topic}'"
    waiting = f"{summary['parked_events']:,} events that wait behind them"
    behind = "" if not summary["parked_events"] else f", then {waiting}" if to_topic is None else f"; not the {waiting}"
    say(
        f"redrive {summary['letters']:,} letters of group '{plan.group}' ({summary['keys']:,} keys, "
        f"{len(summary['fingerprints'])} kinds of failure) {how}{behind}"
    )
    _say_held(plan)
    if to_topic is not None:
        say(
            "each becomes a new event with an id of its own, caused by the old one; evkit's consumers of other groups skip "
            "it, all others that read the topic handle it; it comes after what its key has had since"
        )
    _carry_out(
        system, plan, "redrive them?", _Where(app, by_consumers, to_topic), reason, go_on, rate, yes, dry_run, format
    )


def release(
    group: Annotated[str, typer.Option("--group", "-g", help="Consumer group.")],
    app: AppOption = None,
    by_consumers: ByConsumersOption = False,
    topic: Annotated[str | None, typer.Option("--topic", show_default=False)] = None,
    key: Annotated[str | None, typer.Option("--key", show_default=False)] = None,
    reason: ReasonOption = None,
    go_on: GoOnOption = False,
    rate: RateOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    format: FormatOption = Format.table,
) -> None:
    """Let parked keys go on: run a key's open letter, then what waits behind it, in order; then the consumer has it again.

    A letter that was archived or purged does not run; what waits behind it does.
    """
    import evkit

    system = evkit.connect()
    plan = evkit.dead_letters.plan_release(system, group, key=key, topic=topic)
    summary = plan.summary()
    say(
        f"release {summary['parked_keys']} parked keys of group '{group}': {summary['letters']} open letters, then "
        f"{summary['parked_events']} events that wait behind them"
    )
    _say_held(plan)
    _carry_out(system, plan, "release them?", _Where(app, by_consumers), reason, go_on, rate, yes, dry_run, format)


def redrives(
    redrive_id: Annotated[str | None, typer.Argument(metavar="[REDRIVE_ID]", show_default=False)] = None,
    group: Annotated[str | None, typer.Option("--group", "-g", help="Consumer group.", show_default=False)] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="Most runs to list.")] = 50,
    format: FormatOption = Format.table,
) -> None:
    """All redrives and how far they are, the newest first; or one, and what became of its letters.

    An `interrupted` one was killed: `resume` goes on with it.
    """
    import evkit

    system = evkit.connect()
    if redrive_id is None:
        found = [plain(run) for run in evkit.dead_letters.runs(system, group, runs_max=limit)]
        print_rows(found, _RUN_TABLE_COLUMNS if format is Format.table else _RUN_COLUMNS, format, empty="no redrives")
        return
    run = plain(evkit.dead_letters.run(system, redrive_id))
    letters = evkit.dead_letters.run_letters(system, redrive_id)
    if format is Format.json:
        print_json({name: run[name] for name in _RUN_COLUMNS} | {"of_letters": letters})
    elif format is Format.csv:
        print_rows(letters, _RUN_LETTER_COLUMNS, format)
    else:
        print_facts({name: run[name] for name in _RUN_COLUMNS})
        rest = [letter for letter in letters if letter["state"] in ("failed", "skipped") or letter["failed_behind"]]
        print_rows(
            rest[:_LETTERS_SHOWN_MAX],
            _RUN_LETTER_COLUMNS,
            title="letters that failed or were skipped",
            empty="none failed",
        )
        if len(rest) > _LETTERS_SHOWN_MAX:
            say(f"the first {_LETTERS_SHOWN_MAX} of {len(rest):,} (--format csv has all)")


def resume(
    redrive_id: RunArgument,
    app: AppOption = None,
    by_consumers: ByConsumersOption = False,
    failed: Annotated[bool, typer.Option("--failed", help="Also the letters that failed in it before.")] = False,
    reason: ReasonOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    format: FormatOption = Format.table,
) -> None:
    """Go on with a redrive that was stopped, cancelled or killed, exactly where it was; its stages begin anew."""
    import evkit
    from evkit.runtime.application import consumer_at

    system = evkit.connect()
    run = evkit.dead_letters.run(system, redrive_id)
    again = f", and {run.failed} that failed" if failed and run.failed else ""
    say(
        f"go on with {redrive_id} of group '{run.consumer_group}', which is {run.state}: {run.not_tried} letters{again}"
    )
    if dry_run and format is Format.json:
        print_json(run)
    if not confirmed("go on?", yes=yes, dry_run=dry_run):
        return
    _Where(app, by_consumers).require_one()
    if app is None:
        evkit.dead_letters.resume(system, redrive_id, failed_too=failed, reason=reason)
        _print_result(_watched(system, redrive_id), format)
        return
    with progress_bar("letters") as progress:
        result = evkit.dead_letters.resume(
            system, redrive_id, consumer_at(app),
            failed_too=failed, reason=reason, progress=progress, stop=stop_event(),
        )  # fmt: skip
    assert result is not None
    _print_result(result, format)


def cancel(
    redrive_id: RunArgument,
    reason: ReasonOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    format: FormatOption = Format.table,
) -> None:
    """End a redrive between two of its transactions; letters that it has not tried stay open, and `resume` goes on."""
    import evkit

    system = evkit.connect()
    run = evkit.dead_letters.run(system, redrive_id)
    say(
        f"cancel {redrive_id} of group '{run.consumer_group}', which is {run.state}: {run.not_tried} letters are not tried"
    )
    if not confirmed("cancel it?", yes=yes, dry_run=dry_run):
        return
    run = evkit.dead_letters.cancel(system, redrive_id, reason=reason)
    if format is Format.json:
        print_json(run)
    elif run.state == "cancelled":
        print_text(f"{redrive_id} is cancelled")
    else:
        print_text(f"{redrive_id} is in a process's hands, which ends it after the letters that it has in hand")


# --- what these share -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Where:
    """Where letters are redriven: in this process, by the group's running consumers, or to a topic."""

    app: str | None = None
    by_consumers: bool = False
    to_topic: str | None = None

    def require_one(self, plan: RedrivePlan | None = None) -> None:
        given = (self.app is not None) + self.by_consumers + (self.to_topic is not None)
        if given > 1:
            raise UsageError(
                "--app runs it in this process, --by-consumers in the running consumers, --to-topic in neither: "
                "give one of them"
            )
        if not given:
            raise UsageError(
                "whose handlers? Give --app MODULE:CONSUMER, for example orders.billing:consumer, or --by-consumers"
                + ("" if plan is None else if_imported(plan))
            )


def _say_held(plan: RedrivePlan) -> None:
    if plan.held:
        say(
            f"{len(plan.held):,} more are on hold and stay as they are, the first is {plan.held[0]} "
            f"(`evkit dlq show {plan.held[0]}` says why)"
        )


def _carry_out(
    system: System,
    plan: RedrivePlan,
    question: str,
    where: _Where,
    reason: str | None,
    go_on: bool,
    rate: float | None,
    yes: bool,
    dry_run: bool,
    format: Format,
) -> None:
    import evkit
    from evkit.runtime.application import consumer_at

    if dry_run and format is Format.json:
        print_json(plan.summary())
    if not dry_run:
        where.require_one(plan)
    if not confirmed(question, yes=yes, dry_run=dry_run):
        return
    if where.by_consumers:
        redrive_id = evkit.dead_letters.queue(
            system, plan, reason=reason, stop_at_failure=not go_on, per_second_max=rate
        )
        _print_result(_watched(system, redrive_id), format)
        return
    with progress_bar("letters") as progress:
        if where.to_topic is not None:
            result = evkit.dead_letters.send(
                system, plan, where.to_topic, reason=reason, per_second_max=rate, progress=progress, stop=stop_event()
            )
        else:
            result = evkit.dead_letters.redrive(
                system, plan, consumer_at(where.app or ""),
                reason=reason, stop_at_failure=not go_on, per_second_max=rate, progress=progress, stop=stop_event(),
            )  # fmt: skip
    _print_result(result, format)


def _try(system: System, plan: RedrivePlan, app: str | None, format: Format) -> None:
    import evkit
    from evkit.runtime.application import consumer_at

    if app is None:
        raise UsageError("whose handlers? A letter is tried in this process: give --app MODULE:CONSUMER")
    consumer = consumer_at(app)
    if len(plan.ids) > _TRIALS_MAX:
        say(f"the first {_TRIALS_MAX} of {len(plan.ids)} letters are tried")
    say("all that their handlers write is rolled back; what they do outside PostgreSQL is not")
    trials = [evkit.dead_letters.try_redrive(system, i, consumer) for i in plan.ids[:_TRIALS_MAX]]
    if format is Format.json:
        print_json(trials)
    else:
        for trial in trials:
            _print_trial(trial)
    if not all(trial.ok for trial in trials):
        raise typer.Exit(1)


def _print_trial(trial: Trial) -> None:
    how = "ok" if trial.ok else "fails"
    print_text(f"letter {trial.letter_id}: {how} after {trial.seconds:.3f} s in {shown(trial.handler)}")
    if trial.error is not None:
        print_text(safe(trial.error))
        print_text(trial.stack_trace or "")
    for table in trial.tables:
        print_text(
            f"  {safe(table.table)}: {table.inserted} inserted, {table.updated} updated, {table.deleted} deleted"
        )
        if table.rows is None:
            print_text("    (its rows were not found in time)")
        for row in table.rows or []:
            print_text(f"    {safe(json.dumps(plain(row), ensure_ascii=False, default=str))}")
    for event in trial.follow_ups:
        print_text(f"  event {shown(event['type'])} of key {shown(event['key'])}: {shown(event['payload'])}")
    if trial.ok and not trial.tables and not trial.follow_ups:
        print_text("  it would write nothing")


def _watched(system: System, redrive_id: str) -> RedriveResult:
    """Wait until the running consumers have ended it; Ctrl-C ends only the waiting."""
    from evkit.runtime import redrive as redriving

    say(f"{redrive_id} waits for the running consumers of its group")
    try:
        with progress_bar("letters") as progress:
            _wait(system, redrive_id, progress)
    except KeyboardInterrupt:
        say(
            f"it goes on without you: `evkit dlq redrives` shows how far it is, `evkit dlq cancel {redrive_id}` ends it"
        )
        raise typer.Exit(130) from None
    return redriving.result(system, redrive_id)


def _wait(system: System, redrive_id: str, progress: Callable[[int, int], None]) -> None:
    from evkit.runtime import redrive as redriving

    since, said = time.monotonic(), False
    while True:
        run: Run = redriving.run(system, redrive_id)
        progress(run.letters - run.not_tried, run.letters)
        if run.state in ("done", "stopped", "cancelled"):
            return
        if run.state == "running":
            since = time.monotonic()
        elif not said and time.monotonic() - since > _LONELY_SECONDS:
            said = True
            say(
                f"no consumer of group '{run.consumer_group}' has taken it up for {_LONELY_SECONDS:.0f} s: does one run? "
                "It stays queued until one does"
            )
        time.sleep(_LOOK_SECONDS)


def _print_result(result: RedriveResult, format: Format) -> None:
    outcome = result.summary()
    if format is Format.table:
        words = "resolved failed skipped not_tried released" if result.to_topic is None else "sent skipped not_tried"
        print_text(", ".join(f"{outcome[n]} {n.replace('_', ' ')}" for n in words.split()))
        if result.why:
            say(f"{result.state}: {result.why}")
        if n := len(result.failed):
            first = result.failed[0]
            what = (
                f"letter {first} failed again"
                if n == 1
                else f"{n:,} letters failed again, the first of them is {first}"
            )
            say(f"{what}: `evkit dlq show {first}`")
        if n := len(result.failed_behind):
            first = result.failed_behind[0]
            one = f"an event that had waited failed and is letter {first} now"
            several = f"{n:,} events that had waited failed and are letters now, the first of them is {first}"
            say(f"{one if n == 1 else several}: `evkit dlq show {first}`")
        if result.skipped and result.skipped_because is not None:
            what = "stays as it is" if result.to_topic is None else "was not sent"
            say(f"letter {result.skipped[0]} {what}: {result.skipped_because}")
        if result.tails_left:
            say(f"events still wait behind {len(result.tails_left):,} letters that are through")
        if (result.not_tried or result.tails_left) and result.to_topic is None:
            say(f"go on with it: evkit dlq resume {result.redrive_id} --app MODULE:CONSUMER (or --by-consumers)")
    else:
        print_json(outcome)
    unsent = result.skipped if result.to_topic is not None else []
    if result.failed or result.failed_behind or result.not_tried or result.tails_left or unsent:
        raise typer.Exit(1)
