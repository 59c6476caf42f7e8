"""Which letters: the filters that all commands on dead letters share, as options, and the Selection that they mean."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evkit.errors import UsageError
from evkit.letter_states import STATES

if TYPE_CHECKING:
    from evkit.runtime.letters import Selection

WHICH = "which letters? Give ids, or a filter: --group, --fingerprint, --key, … (all there are: --state all)"

_Text = str | None
_OPTIONS: dict[str, tuple[Any, Any]] = {
    "group": (Annotated[_Text, typer.Option("--group", "-g", help="Consumer group.", show_default=False)], None),
    "state": (Annotated[list[str] | None, typer.Option("--state", help=f"{', '.join(STATES)}; or all.")], None),
    "topic": (Annotated[_Text, typer.Option("--topic", show_default=False)], None),
    "type_": (Annotated[_Text, typer.Option("--type", help="Event type.", show_default=False)], None),
    "key": (Annotated[_Text, typer.Option("--key", show_default=False)], None),
    "fingerprint": (Annotated[_Text, typer.Option("--fingerprint", help="Equal failures.", show_default=False)], None),
    "error_class": (Annotated[_Text, typer.Option("--error-class", help="As in the list.", show_default=False)], None),
    "text": (
        Annotated[
            _Text,
            typer.Option(
                "--text", help="In error, note, ticket or payload; reads every letter that is left.", show_default=False
            ),
        ],
        None,
    ),
    "since": (
        Annotated[
            _Text, typer.Option("--since", help="First failed then or later: ISO time or now-2h.", show_default=False)
        ],
        None,
    ),
    "until": (Annotated[_Text, typer.Option("--until", help="First failed before then.", show_default=False)], None),
    "attempts": (
        Annotated[
            int | None,
            typer.Option("--attempts", min=1, max=1_000_000, help="Tried at least so often.", show_default=False),
        ],
        None,
    ),
    "held": (
        Annotated[bool | None, typer.Option("--held/--not-held", help="On hold, or not.", show_default=False)],
        None,
    ),
}


def takes_filters(
    *, ids: bool = False, optional: bool = False, states: tuple[str, ...] | None = ("open",)
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command whose first parameter is a Selection is given the options that make one.

    With `ids` it also takes letter ids, and then wants at least one of all these (or, `optional`, is given None): an act
    never means every letter by saying nothing. `states` is what no --state means (with ids: any state, and the
    act itself says what it does not take).
    """

    def taking(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def wrapped(*args: Any, **given: Any) -> None:
            filters = {name: given.pop(name) for name in _OPTIONS}
            chosen = given.pop("ids", None) if ids else None
            nothing = ids and not chosen and not any(value is not None and value != [] for value in filters.values())
            if nothing and not optional:
                raise UsageError(WHICH)
            command(*args, selection=None if nothing else _selection(chosen, filters, states), **given)

        # Its type is not loaded when commands are only listed.
        command.__annotations__.pop("selection", None)
        own = inspect.signature(command, eval_str=True)
        parameters = [p for name, p in own.parameters.items() if name != "selection"]
        added = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)
            for name, (kind, default) in _OPTIONS.items()
            if name not in own.parameters
        ]
        if ids:
            kind = Annotated[list[int] | None, typer.Argument(metavar="[LETTER_ID]...", show_default=False)]
            added.insert(0, inspect.Parameter("ids", inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=None))
        every = [*added, *(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters)]
        wrapped.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
        wrapped.__annotations__ = {p.name: p.annotation for p in every}
        del wrapped.__wrapped__  # the options of the command itself are not all of them
        return wrapped

    return taking


def states_of(given: list[str] | None, otherwise: tuple[str, ...] | None = ("open",)) -> tuple[str, ...] | None:
    """The states that --state asks for; None for all.

    Raises:
        UsageError: there is no such state.
    """
    if not given:
        return otherwise
    if "all" in given:
        return None
    for state in given:
        if state not in STATES:
            raise UsageError(f"'{state}' is no state of a dead letter: {', '.join(STATES)}, or all")
    return tuple(given)


def _selection(ids: list[int] | None, filters: dict[str, Any], states: tuple[str, ...] | None) -> Selection:
    from evkit.runtime.letters import Selection
    from evkit.window import instant

    since, until = filters["since"], filters["until"]
    return Selection(
        ids=tuple(ids) if ids else None,
        group=filters["group"],
        states=states_of(filters["state"], None if ids else states),
        topic=filters["topic"],
        event_type=filters["type_"],
        key=filters["key"],
        fingerprint=filters["fingerprint"],
        error_class=filters["error_class"],
        text=filters["text"],
        since=None if since is None else instant(since, name="since"),
        until=None if until is None else instant(until, name="until"),
        attempts_min=filters["attempts"],
        held=filters["held"],
    )
