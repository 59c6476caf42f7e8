"""evkit view, evkit journey: what the tables and the broker say, printed."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evkit.cli.output import Format, FormatOption, print_rows, say

if TYPE_CHECKING:
    from collections.abc import Callable

    from evkit.system import System
    from evkit.window import Window

GroupOption = Annotated[str | None, typer.Option("--group", "-g", help="One consumer group.", show_default=False)]
SinceOption = Annotated[
    str | None, typer.Option("--since", help="Start of the window: ISO time or now-2h.", show_default=False)
]
KeyOption = Annotated[str | None, typer.Option("--key", help="Of journey: all events of a key.", show_default=False)]
BusinessIdOption = Annotated[
    str | None,
    typer.Option(
        "--business-id",
        help="Of journey: all events of a correlation id, or whose payload has a value: '$.customer.id=42'.",
        show_default=False,
    ),
]
UntilOption = Annotated[str | None, typer.Option("--until", help="Its end.  [default: now]", show_default=False)]

# What a terminal has room for; json, csv and --wide have every column.
_NARROW = {
    "lag": ("group", "topic", "partition", "lag_events", "lag_seconds", "group_state", "status"),
    "lag_groups": ("group", "topic", "partitions", "members", "lag_events", "lag_seconds_max", "skew", "group_state",
                   "status"),
    "lag_history": ("at", "topic", "partition", "committed_offset", "end_offset", "lag_events", "lag_seconds", "covered",
                    "truncated", "exact", "source"),
    "consumer_status": ("group", "topic", "partition", "status", "reason"),
    "publish_rate": ("bucket_at", "topic", "written", "published", "published_per_second", "partial"),
    "error_rate": ("group", "event_type", "attempts", "failures", "failures_dealt_with", "dead", "attempt_error_ratio",
                   "replay"),
    "errors": ("failed_at", "group", "event_type", "key", "attempt", "disposition", "error_class", "error_message",
               "replay"),
    "dead_letters": ("letter_id", "group", "state", "event_type", "key", "error_class", "age_seconds", "note"),
    "dead_letter_groups": ("group", "title", "n_open", "n_resolved", "n_archived", "n_keys", "spread", "sample_letter_id"),
    "latency": ("group", "event_type", "n", "pending_n", "p50_seconds", "p99_seconds", "p99_is_lower_bound", "max_seconds",
                "replay"),
    "relay_lag": ("pending", "oldest_pending_seconds", "unpublishable", "held", "hole_seconds", "hole_pid", "published",
                  "p99_seconds", "max_seconds", "failing_error"),
    "outbox": ("position", "event_type", "key", "topic", "state", "created_at", "relay_seconds", "age_seconds", "error"),
    "audit": ("position", "event_id", "topic", "group", "verdict", "evidence"),
    "audit_counts": ("topic", "group", "written", "published", "waiting", "unaccounted", "handled", "lagging", "dead",
                     "unaccounted_group"),
    "journey": ("at", "gap_seconds", "stage", "group", "attempt", "detail", "replay", "impossible"),
    "latency_events": ("event_id", "group", "key", "relay_seconds", "queue_seconds", "handle_seconds", "total_seconds",
                       "censored"),
    "latency_segments": ("group", "event_type", "segment", "n", "pending_n", "p50_seconds", "p99_seconds", "max_seconds",
                         "min_seconds", "negative_ratio", "replay"),
    "impact": ("value", "n_events", "n_lost", "n_late", "n_failed", "n_dead_open", "n_pending", "delay_p95_seconds",
               "first_at", "last_at"),
    "differs": ("attribute", "value", "n_selection", "n_background", "selection_ratio", "background_ratio",
                "difference_low", "difference_high", "lift"),
    "hot_keys": ("group", "topic", "of", "key", "partition", "n", "share_ratio", "keys", "oldest_at"),
    "acts": ("acted_at", "actor", "act", "target", "reason"),
    "annotations": ("at", "until", "kind", "text", "group", "actor"),
    "change_points": ("at", "until", "text", "confidence", "evidence", "source"),
    "timeline": ("at", "until", "kind", "text", "source"),
    "compare": ("measure", "group", "topic", "a", "b", "a_n", "b_n", "low", "high", "significant"),
    "scan": ("partition", "offset", "timestamp", "key", "event_id", "event_type", "value_bytes"),
    "scan_plan": ("topic", "partition", "from_offset", "until_offset", "records", "bytes", "seconds"),
    "scan_coverage": ("topic", "partition", "scanned_until_offset", "until_offset", "scanned", "matched", "complete",
                      "reason"),
    "unread_keys": ("topic", "partition", "key", "unread", "unread_ratio", "oldest_at", "scanned_events", "lag_events",
                    "complete"),
    "replays": ("replay_id", "group", "topics", "from_time", "dedupe", "state", "handled", "known", "failed", "parked"),
    "slo": ("slo", "group", "topic", "window_seconds", "objective", "good", "bad", "bad_ratio", "burn_rate"),
}  # fmt: skip

# The monitors' names lead to the views they judge.
_ALSO = {"consumer_lag": "lag", "dead_letter": "dead_letters"}

# Options whose name is not the parameter's.
_OPTIONS = {"event_id": "event", "attributes": "attribute"}


def window_given(length: str | None, since: str | None, until: str | None, default: str) -> Window:
    """The window that --window, --since and --until mean together.

    Raises:
        UsageError: a length and a start or end at once.
        InvalidParameter: one of them cannot be read.
    """
    from evkit import connect
    from evkit.errors import UsageError
    from evkit.views.frame import window_of
    from evkit.views.incident_window import incident_named
    from evkit.window import Window

    if since is None and until is None:
        if length is not None and incident_named(length) is not None:
            return window_of(length, connect())
        return Window.parse(default if length is None else length).require_begun()
    if length is not None:
        raise UsageError("give --window, or --since and --until, not both")
    if since is None:
        raise UsageError("--until needs --since")
    return Window.of(since, until or "now").require_begun()


def register(app: typer.Typer) -> None:
    """Add the commands."""

    @app.command("view")
    def view(
        name: Annotated[
            str | None, typer.Argument(help="The view; without it, all are listed.", show_default=False)
        ] = None,
        group: GroupOption = None,
        window: Annotated[
            str | None,
            typer.Option("--window", "-w", help="10m, 'last 2h', or FROM/TO.  [default: 1h]", show_default=False),
        ] = None,
        since: SinceOption = None,
        until: UntilOption = None,
        bucket: Annotated[
            str | None, typer.Option("--bucket", help="Length of the buckets of time: 10s, 1m.", show_default=False)
        ] = None,
        topic: Annotated[
            str | None,
            typer.Option("--topic", help="One topic, of lag_history, impact, differs or scan.", show_default=False),
        ] = None,
        step: Annotated[
            str | None,
            typer.Option("--step", help="Time between two rows of lag_history: 10s, 1m.", show_default=False),
        ] = None,
        source: Annotated[
            str | None,
            typer.Option(
                "--source", help="Of lag_history: auto, offsets_log, commit_log, sample or inbox.", show_default=False
            ),
        ] = None,
        state: Annotated[
            str | None, typer.Option("--state", help="Of dead letters: open, resolved, archived, …", show_default=False)
        ] = None,
        event: Annotated[str | None, typer.Option("--event", help="Event id, for journey.", show_default=False)] = None,
        key: KeyOption = None,
        business_id: BusinessIdOption = None,
        by: Annotated[
            str | None,
            typer.Option(
                "--by",
                help="Of impact: key, event_type, topic or '$.customer.id'; of the views of latency: processed (when it "
                "showed) or written (who was hurt); of error_rate: handler, error_class, fingerprint, code_version, or "
                "several: a,b.",
                show_default=False,
            ),
        ] = None,
        late: Annotated[
            str | None,
            typer.Option("--late", help="Of impact and differs: what is late.  [default: 10s]", show_default=False),
        ] = None,
        selection: Annotated[
            str | None,
            typer.Option(
                "--selection",
                help="Of differs: failed, dead, dead_open, pending, late or attribute=value.  [default: failed]",
                show_default=False,
            ),
        ] = None,
        attribute: Annotated[
            list[str] | None,
            typer.Option(
                "--attribute",
                help="Of differs: one to compare, '$.region' and header:NAME too; may be repeated.",
                show_default=False,
            ),
        ] = None,
        of: Annotated[
            str | None, typer.Option("--of", help="Of hot_keys: unread or failed.", show_default=False)
        ] = None,
        audit: Annotated[
            bool,
            typer.Option(
                "--audit", help="Of impact: count lost events too, by an audit of the window, which reads its topics."
            ),
        ] = False,
        replays: Annotated[bool, typer.Option("--replays", help="Also what replays and redrives did.")] = False,
        by_event_type: Annotated[bool, typer.Option("--by-event-type", help="Latency per event type.")] = False,
        wide: Annotated[bool, typer.Option("--wide", help="All columns in the table.")] = False,
        format: FormatOption = Format.table,
    ) -> None:
        """Print a view of the system: a table, a JSON list or CSV. Without a name, list the views.

        Looking changes nothing: read-only transactions, no offsets committed, no consumer group made.
        """
        if name is None:
            _print_names(format)
            return
        function = _named(name)
        asked: dict[str, Any] = {
            "group": group,
            "bucket": bucket,
            "topic": topic,
            "step": step,
            "source": source,
            "state": state,
            "event_id": event,
            "key": key,
            "business_id": business_id,
            "by": by,
            "late": late,
            "selection": selection,
            "attributes": attribute or None,
            "of": of,
            "audit": audit or None,
            "replays": replays or None,
            "by_event_type": by_event_type or None,
        }
        if window is not None or since is not None or until is not None:
            asked["window"] = window_given(window, since, until, "1h")
        _print_view(function, asked, format, wide=wide)

    @app.command("journey")
    def journey(
        event_id: Annotated[str | None, typer.Argument(help="Id of the event.", show_default=False)] = None,
        key: KeyOption = None,
        business_id: BusinessIdOption = None,
        window: Annotated[
            str | None,
            typer.Option("--window", "-w", help="Of a key or business id: how far back.", show_default=False),
        ] = None,
        since: SinceOption = None,
        until: UntilOption = None,
        wide: Annotated[bool, typer.Option("--wide", help="All columns in the table.")] = False,
        format: FormatOption = Format.table,
    ) -> None:
        """Print the way of an event, of a key, or of all events of one business process.

        Written, published, each attempt, handled per group, dead letter, redrive, and what it caused. A time that
        cannot be, by the others, is marked: a clock is wrong.
        """
        asked: dict[str, Any] = {"event_id": event_id, "key": key, "business_id": business_id}
        if window is not None or since is not None or until is not None:
            asked["window"] = window_given(window, since, until, "1h")
        _print_view(_named("journey"), asked, format, wide=wide)


def _named(name: str) -> Callable[..., Any]:
    from evkit import views
    from evkit.errors import UnknownView

    plain = name.replace("-", "_")
    plain = _ALSO.get(plain, plain)
    if plain not in views.COLUMNS:
        raise UnknownView(name, [*views.COLUMNS, *_ALSO], where="to `evkit view`")
    function: Callable[..., Any] = getattr(views, plain)
    return function


def _print_names(format: Format) -> None:
    from evkit import views

    rows = [
        {"view": name, "shows": (getattr(views, name).__doc__ or "").strip().splitlines()[0]} for name in views.COLUMNS
    ]
    print_rows(rows, ("view", "shows"), format)


def _print_view(function: Callable[..., Any], asked: dict[str, Any], format: Format, *, wide: bool) -> None:
    from evkit import connect
    from evkit.errors import UsageError
    from evkit.views import COLUMNS
    from evkit.views.frame import rows_of

    name = function.__name__
    given = {k: v for k, v in asked.items() if v is not None}
    parameters = inspect.signature(function).parameters
    for option in given:
        if option not in parameters:
            raise UsageError(f"view {name} has no --{_OPTIONS.get(option, option.replace('_', '-'))}")
    if name == "journey" and not {"event_id", "key", "business_id"} & given.keys():
        raise UsageError(
            "view journey is of one event: add --event ID, --key or --business-id, or type `evkit journey ID`"
        )
    if "group" in parameters and parameters["group"].default is inspect.Parameter.empty and "group" not in given:
        raise UsageError(f"view {name} is of one consumer group: add --group NAME")
    if "topic" in parameters and parameters["topic"].default is inspect.Parameter.empty and "topic" not in given:
        raise UsageError(f"view {name} is of one topic: add --topic NAME, or type `evkit scan NAME`")
    system = connect()
    if given.pop("audit", False):
        given |= _audited(system, given)
    elif "audit" in parameters:
        say(
            "lost events are not looked for, and n_lost is not known: add --audit, which reads the topics of the window"
        )
    rows = rows_of(function(system, **given))
    every = tuple(c.name for c in COLUMNS[name])
    columns = every if wide or format is not Format.table else _told_apart(_NARROW.get(name, every), every, given)
    print_rows(rows, columns, format, empty=f"{name}: nothing in it")


def _audited(system: System, given: dict[str, Any]) -> dict[str, Any]:
    """The window of a view, and which of its events an audit says are lost."""
    from evkit import views
    from evkit.views.audit.verdict import LOST

    window = given.get("window") or window_given(None, None, None, "1h")
    limits = {name: given[name] for name in ("topic", "group") if name in given}
    return {"window": window, "audit": views.audit(system, window, **limits, verdicts=LOST)}


def _told_apart(columns: tuple[str, ...], every: tuple[str, ...], given: dict[str, Any]) -> tuple[str, ...]:
    """What rows are told apart `by` is shown, after group and event type, whatever else a terminal has room for."""
    asked = [name.strip() for name in str(given.get("by", "")).split(",")]
    return (*columns[:2], *(name for name in asked if name in every and name not in columns), *columns[2:])
