"""evkit view, evkit journey: what the tables and the broker say, printed."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evkit.cli.output import Format, FormatOption, print_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from evkit.window import Window

GroupOption = Annotated[str | None, typer.Option("--group", "-g", help="One consumer group.", show_default=False)]
SinceOption = Annotated[
    str | None, typer.Option("--since", help="Start of the window: ISO time or now-2h.", show_default=False)
]
UntilOption = Annotated[str | None, typer.Option("--until", help="Its end.  [default: now]", show_default=False)]

# What a terminal has room for; json, csv and --wide have every column.
_NARROW = {
    "lag": ("group", "topic", "partition", "lag_events", "lag_seconds", "group_state", "status"),
    "lag_groups": ("group", "topic", "partitions", "members", "lag_events", "lag_seconds_max", "skew", "group_state",
                   "status"),
    "lag_history": ("at", "topic", "partition", "committed_offset", "end_offset", "lag_events", "lag_seconds", "covered"),
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
    "journey": ("at", "gap_seconds", "stage", "group", "attempt", "detail", "replay"),
    "acts": ("acted_at", "actor", "act", "target", "reason"),
    "replays": ("replay_id", "group", "topics", "from_time", "dedupe", "state", "handled", "known", "failed", "parked"),
    "slo": ("slo", "group", "topic", "window_seconds", "objective", "good", "bad", "bad_ratio", "burn_rate"),
}  # fmt: skip

# The monitors' names lead to the views they judge.
_ALSO = {"consumer_lag": "lag", "dead_letter": "dead_letters"}


def window_given(length: str | None, since: str | None, until: str | None, default: str) -> Window:
    """The window that --window, --since and --until mean together.

    Raises:
        UsageError: a length and a start or end at once.
        InvalidParameter: one of them cannot be read.
    """
    from evkit.errors import UsageError
    from evkit.window import Window

    if since is None and until is None:
        return Window.last(length or default)
    if length is not None:
        raise UsageError("give --window, or --since and --until, not both")
    if since is None:
        raise UsageError("--until needs --since")
    return Window.of(since, until or "now")


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
            typer.Option("--window", "-w", help="How far back: 10m, 2h, 7d.  [default: 1h]", show_default=False),
        ] = None,
        since: SinceOption = None,
        until: UntilOption = None,
        bucket: Annotated[
            str | None, typer.Option("--bucket", help="Length of the buckets of time: 10s, 1m.", show_default=False)
        ] = None,
        topic: Annotated[
            str | None, typer.Option("--topic", help="One topic, of lag_history.", show_default=False)
        ] = None,
        step: Annotated[
            str | None,
            typer.Option("--step", help="Time between two rows of lag_history: 10s, 1m.", show_default=False),
        ] = None,
        state: Annotated[
            str | None, typer.Option("--state", help="Of dead letters: open, resolved, archived, …", show_default=False)
        ] = None,
        event: Annotated[str | None, typer.Option("--event", help="Event id, for journey.", show_default=False)] = None,
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
            "state": state,
            "event_id": event,
            "replays": replays or None,
            "by_event_type": by_event_type or None,
        }
        if window is not None or since is not None or until is not None:
            asked["window"] = window_given(window, since, until, "1h")
        _print_view(function, asked, format, wide=wide)

    @app.command("journey")
    def journey(
        event_id: Annotated[str, typer.Argument(help="Id of the event.")],
        wide: Annotated[bool, typer.Option("--wide", help="All columns in the table.")] = False,
        format: FormatOption = Format.table,
    ) -> None:
        """Print the way of one event: written, published, each attempt, handled per group, dead letter, redrive."""
        _print_view(_named("journey"), {"event_id": event_id}, format, wide=wide)


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
            raise UsageError(f"view {name} has no --{'event' if option == 'event_id' else option.replace('_', '-')}")
    if "event_id" in parameters and "event_id" not in given:
        raise UsageError(f"view {name} is of one event: add --event ID, or type `evkit journey ID`")
    if "group" in parameters and parameters["group"].default is inspect.Parameter.empty and "group" not in given:
        raise UsageError(f"view {name} is of one consumer group: add --group NAME")
    rows = rows_of(function(connect(), **given))
    every = tuple(c.name for c in COLUMNS[name])
    columns = every if wide or format is not Format.table else _NARROW.get(name, every)
    print_rows(rows, columns, format, empty=f"{name}: nothing in it")
