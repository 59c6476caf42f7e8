"""dead letters → one row a letter, a failure or a group."""

from __future__ import annotations

import json
import logging
from typing import Any

import polars as pl

from evkit.error_texts import message_of, quoted
from evkit.errors import InvalidParameter, closest
from evkit.letter_states import OPEN, STATES, states_given
from evkit.masking import MASKED, WITHHELD, applying, masked_headers, masked_value
from evkit.sql import named
from evkit.system import System
from evkit.views.columns import COLUMNS, DEAD_LETTERS_PAYLOAD
from evkit.views.columns.column import EVENT_TYPE, TOPIC
from evkit.views.copied import copied
from evkit.views.errors import ROWS_MAX
from evkit.views.frame import POLARS, Frame, Frames, WindowLike, fetch, frame, handed, view, window_of
from evkit.views.masked_errors import errors_as_seen

log = logging.getLogger(__name__)

# Up to here the data is suspected, above it the code: a bug seldom stops at three keys, a broken record seldom has four.
POISON_KEYS_MAX = 3


@view("dead_letters")
def dead_letters(
    system: System,
    group: str | None = None,
    state: str | list[str] | None = None,
    *,
    window: WindowLike = None,
    payload: bool = False,
    rows_max: int = ROWS_MAX,
    frames: Frames = "polars",
) -> Frame:
    """Events that groups gave up on: one row a letter, in whatever state it is.

    Args:
        group     one consumer group; default: all
        state     "open" (those being retried too), "retrying", a list of states, …; default: all
        window    only letters whose first failure lies in it; default: all there are
        payload   also the record's value, headers and the stack trace, in columns `value`, `headers`, `stack_trace`;
                  what policies hide (`evkit.masking`) is hidden, and `masking` says so
        rows_max  most rows; when there are more, the oldest are kept and a warning is logged

    Columns: see columns/

    Sorted by the first failure, the longest waiting first. `error_message` says that it is hidden where a masking policy
    may be about the event; with `payload`, only where it hides something of this one (`evkit.error_texts`).

    Raises:
        UnknownGroup: evkit's tables know no such group; the closest names are in `suggestions`.
        InvalidParameter: no such state.
        DatabaseUnreachable, NotMigrated: see `System.reading`.
    """
    states = [state] if isinstance(state, str) else state
    for asked in states or ():
        if asked not in STATES:
            near = closest(asked, STATES)
            hint = f"; did you mean '{near[0]}'?" if near else f"; there are {', '.join(STATES)}"
            raise InvalidParameter(f"'{asked}' is no state of a dead letter{hint}", name="state", value=asked)
    seen = None if window is None else window_of(window, system)
    made = copied(
        system,
        "dead_letters",
        "dead_letters",
        "view_letters",
        newest_first=False,
        bounds="view_bounds",
        since=seen.start if seen else None,
        until=seen.end if seen else None,
        group=group,
        **states_given(states),
        rows_max=rows_max + 1,
    )
    if made.height > rows_max:
        log.warning("dead_letters: only the %s letters that wait longest are shown", f"{rows_max:,}")
        made = made.head(rows_max)
    seen_alone = errors_as_seen(made, system.settings.masking)
    return handed(_with_payloads(system, made, seen_alone) if payload else seen_alone, frames)


def _with_payloads(system: System, made: pl.DataFrame, seen_alone: pl.DataFrame) -> pl.DataFrame:
    """Payloads as the policies let them be seen, beside their letters; null where a letter was deleted since."""
    held = _payloads(system, made["letter_id"].to_list())
    rows = [
        _masked(system, row, held[row["letter_id"]]) for row in made.iter_rows(named=True) if row["letter_id"] in held
    ]
    schema = {"letter_id": POLARS["int64"], "shown_message": POLARS["string"]}
    shown = pl.DataFrame(rows, schema=schema | {c.name: POLARS[c.dtype] for c in DEAD_LETTERS_PAYLOAD}, orient="row")
    beside = seen_alone.join(shown, "letter_id", "left", maintain_order="left")
    message = pl.when(pl.col("letter_id").is_in(list(held))).then("shown_message").otherwise("error_message")
    return beside.with_columns(error_message=message).drop("shown_message")


def _masked(
    system: System, row: dict[str, Any], held: tuple[bytes | None, list[tuple[str, Any]], str | None, bool]
) -> list[Any]:
    raw, headers, stack, edited = held
    policies = applying(system.settings.masking, row["topic"], row["event_type"] or None)
    value, state = masked_value(raw, policies)
    state = state or (MASKED if policies else None)
    # An edited letter has the error of the payload before the edit.
    said = quoted(raw, headers, policies, is_own=not edited)
    message = said.message(row["error_message"])
    stack = None if state == WITHHELD else said.stack(stack)
    shown = [[name, _readable(of)] for name, of in masked_headers(headers, policies)]
    return [row["letter_id"], message, _readable(value), json.dumps(shown, ensure_ascii=False), stack, state]


def _payloads(
    system: System, ids: list[int]
) -> dict[int, tuple[bytes | None, list[tuple[str, Any]], str | None, bool]]:
    with system.reading() as connection:
        found = connection.execute(named("dead_letters")["view_payloads"], {"ids": ids}).fetchall()
    return {
        letter_id: (None if value is None else bytes(value), list(zip(names, values, strict=True)), stack, edited)
        for letter_id, value, names, values, stack, edited in found
    }


def _readable(raw: bytes | None) -> str | None:
    return None if raw is None else bytes(raw).decode("utf-8", errors="backslashreplace")


@view("dead_letter_groups")
def dead_letter_groups(
    system: System,
    group: str | None = None,
    *,
    window: WindowLike = None,
    frames: Frames = "polars",
) -> Frame:
    """Equal failures together: one row for each group and fingerprint that has letters, in whatever state.

    `spread` reads the keys of the open letters: up to three keys are `poison` (look at the data), more are `systemic`
    (look at the code or at what it depends on).

    Args:
        group   one consumer group; default: all
        window  what counts as new in `n_new`; default: the last hour. Older letters are rows all the same.

    Columns: see columns/

    Sorted by open letters, the most first.

    Raises:
        UnknownGroup: evkit's tables know no such group; the closest names are in `suggestions`.
        DatabaseUnreachable, NotMigrated: see `System.reading`.
    """
    seen = window_of(window, system)
    rows = fetch(
        system,
        "dead_letters",
        "groups",
        (*COLUMNS["dead_letter_groups"], TOPIC, EVENT_TYPE),
        since=seen.start,
        until=seen.end,
        group=group,
        **states_given(STATES),
        groups_max=None,
        poison_keys_max=POISON_KEYS_MAX,
    )
    # The message is of one letter, whose topic and type are last.
    message = [c.name for c in COLUMNS["dead_letter_groups"]].index("error_message")
    for row in rows:
        row[message] = message_of(row[message], system.settings.masking, *row[-2:])
    return frame("dead_letter_groups", [row[:-2] for row in rows], frames)


@view("dead_letter_count")
def dead_letter_count(
    system: System,
    window: WindowLike = None,
    *,
    group: str | None = None,
    frames: Frames = "polars",
) -> Frame:
    """How many dead letters each group has: open now, and what came and went inside the window.

    Args:
        window  a `Window`, "2h", "FROM/TO"; default: the last hour
        group   one consumer group; default: all that evkit's tables know

    Columns: see columns/

    Sorted by open letters, the most first. A known group without letters is a row with 0.

    Raises:
        UnknownGroup: evkit's tables know no such group; the closest names are in `suggestions`.
        DatabaseUnreachable, NotMigrated: see `System.reading`.
    """
    seen = window_of(window, system)
    rows = fetch(
        system,
        "dead_letters",
        "view_count",
        COLUMNS["dead_letter_count"],
        since=seen.start,
        until=seen.end,
        group=group,
    )
    return frame("dead_letter_count", rows, frames)


def folded(letters: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of `dead_letters` as rows of `dead_letter_groups`: the same fold as the query's, for a frame already in hand.

    `n_new` and `letters_per_minute` are null: they need a window and a now that only the query knows.
    """
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for letter in letters:
        groups.setdefault((letter["group"], letter["fingerprint"]), []).append(letter)
    rows = [_fold(of_group) for of_group in groups.values()]
    return sorted(
        rows,
        key=lambda r: (
            -r["n_open"],
            -r["n_resolved"] - r["n_archived"],
            -r["last_seen_at"].timestamp(),
            r["group"],
            r["fingerprint"],
        ),
    )


def _fold(letters: list[dict[str, Any]]) -> dict[str, Any]:
    still_open = [x for x in letters if x["state"] in OPEN]
    counted = still_open or letters
    newest = max(counted, key=lambda x: x["letter_id"])
    newest_open = max((x["first_failed_at"] for x in still_open), default=None)
    resolved = [x["state_changed_at"] for x in letters if x["state"] == "resolved"]
    keys = len({x["key"] or "" for x in counted})
    return {
        "group": newest["group"],
        "fingerprint": newest["fingerprint"],
        "title": newest["error_class"] + (f" in {newest['handler']}" if newest["handler"] else ""),
        "error_class": newest["error_class"],
        "error_message": newest["error_message"],
        "handler": newest["handler"],
        "n_open": len(still_open),
        "n_held": sum(x.get("held_at") is not None for x in still_open),
        "n_new": None,
        "n_resolved": sum(x["state"] == "resolved" for x in letters),
        "n_archived": sum(x["state"] in ("archived", "purged") for x in letters),
        "n_keys": keys,
        "n_event_types": len({x["event_type"] for x in counted}),
        "first_seen_at": min(x["first_failed_at"] for x in letters),
        "last_seen_at": max(x["failed_at"] for x in letters),
        "letters_per_minute": None,
        "oldest_open_seconds": max((x["age_seconds"] for x in still_open), default=None),
        "first_code_version": min(counted, key=lambda x: x["letter_id"])["code_version"],
        "last_code_version": newest["code_version"],
        "regressed": newest_open is not None and any(at is not None and at < newest_open for at in resolved),
        "sample_letter_id": newest["letter_id"],
        "spread": "poison" if keys <= POISON_KEYS_MAX else "systemic",
        "replay": any(x["replay"] for x in letters),
    }
