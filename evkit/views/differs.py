"""outbox, inbox, attempts and letters → what the failed, dead or late events have in common that the others have not."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import narwhals.stable.v2 as nw
import polars as pl

from evkit.errors import InvalidParameter, closest
from evkit.masking import Policy, of_topic
from evkit.system import System
from evkit.views.columns.column import ERROR_CLASS, EVENT_ID, EVENT_TYPE, FINGERPRINT, GROUP, KEY, TOPIC, Column, text
from evkit.views.difference import difference
from evkit.views.frame import Frame, Frames, WindowLike, frame, view, window_of
from evkit.views.impact import facts, late_seconds
from evkit.views.json_path import is_json_path, json_path, shown_at
from evkit.window import Window

log = logging.getLogger(__name__)

# About 2 s of reading. The newest are taken, and that is said.
EVENTS_MAX = 200_000
ROWS_MAX = 200

STATES = ("failed", "dead", "dead_open", "pending", "late")
ATTRIBUTES = (
    "event_type", "topic", "partition", "key", "key_bucket", "group", "handler", "code_version", "schema_version",
    "error_class", "fingerprint",
)  # fmt: skip
# What only a failure has: it tells failed events from others as a name tells a thing from others.
_OF_FAILURE = ("error_class", "fingerprint")
_HEADER = "header:"
_Seen = Callable[[str | None], str | None]

_READ = (
    EVENT_ID, GROUP, EVENT_TYPE, TOPIC, Column("partition", "int32", "", ""), KEY, Column("key_bucket", "int32", "", ""),
    text("handler", ""), text("code_version", ""), Column("schema_version", "int32", "", ""), ERROR_CLASS, FINGERPRINT,
    Column("at", "time", "", ""), *(Column(state, "bool", "", "") for state in STATES),
)  # fmt: skip
_LISTS = (text("fields", ""), text("headers", ""))


@view("differs")
def differs(
    system: System,
    window: WindowLike = None,
    selection: str | Window | Frame = "failed",
    *,
    attributes: Sequence[str] | None = None,
    group: str | None = None,
    topic: str | None = None,
    late: str | timedelta = "10s",
    noise: bool = False,
    rows_max: int = ROWS_MAX,
    events_max: int = EVENTS_MAX,
    frames: Frames = "polars",
) -> Frame:
    """What do they have in common? Each attribute's values, in a selection of events against all others of the window.

    The same event handled by two groups is two rows, as in `impact`'s window. Only values that differ by more than chance
    explains are listed; how that is judged is in `evkit.views.difference`, which also compares frames of your own.

    Args:
        window      all that is compared: a `Window`, or a length that ends now ("2h"); default: the last hour
        selection   "failed", "dead" (whatever became of the letter), "dead_open", "pending", "late"; a value, as
                    "group=billing", "fingerprint=3f2a…", "code_version=1.4"; a `Window` inside the window, by the time of
                    writing; or a frame with a column event_id (and group, where it has one)
        attributes  which to compare; besides event_type, topic, partition, key, key_bucket (one of 16, by hash of the key),
                    group, handler, code_version, schema_version, error_class and fingerprint also paths into the payload
                    ("$.region") and headers ("header:tenant"); default: all named ones. What makes the selection is left
                    out, and with it error class and fingerprint where they tell failed from others by definition
        group       only what this consumer group did
        topic       only events of this topic
        late        longer than this from write to handler is late
        noise       also values whose difference chance explains, after the others
        rows_max    most rows; when there are more, the least certain are left out and a warning is logged
        events_max  most rows to compare; when there are more, the newest are taken and a warning is logged

    Columns: see columns/

    Sorted by how much difference is certain. Empty when nothing differs, and when the selection or the rest is empty (then
    a warning is logged). An attribute that an event does not have (the handler of one that waits) is not counted for it.

    Raises:
        UnknownGroup: evkit's tables know no such group; the closest names are in `suggestions`.
        InvalidParameter: selection, an attribute, `late` or the window cannot be read; a masking policy hides an attribute
            (one that hashes is no hindrance: its hashes are compared).
        DatabaseUnreachable, NotMigrated: see `System.reading`.
    """
    seen = window_of(window, system)
    made_by = _made_by(selection)
    compared = [a for a in _attributes(attributes, made_by) if a != made_by]
    paths = [a for a in compared if is_json_path(a)]
    headers = [a for a in compared if a.startswith(_HEADER)]
    policies = of_topic(system.settings.masking, topic)
    seen_as = {path: shown_at(path, policies) for path in paths} | {
        name: _header_as(name, policies) for name in headers
    }
    asked = {
        "topic": topic,
        "late_seconds": late_seconds(late),
        "paths": [json_path(p) for p in paths],
        "headers": [h.removeprefix(_HEADER) for h in headers],
    }
    query = "attributes_of_payload" if paths else "attributes"
    events = facts(system, seen, group, query, (*_READ, *_LISTS), asked, events_max + 1)
    events = events.sort("at", "event_id", "group", descending=[True, True, False])
    if events.height > events_max:
        log.warning("differs: only the newest %s events of this window are compared", f"{events_max:,}")
    given = _listed(events.head(events_max), paths, headers, seen_as)
    mark = _mark(given, selection)
    chosen, rest = given.filter(mark), given.filter(~mark)
    if not len(chosen) or not len(rest):
        nothing = "nothing is selected" if not len(chosen) else "everything is selected"
        log.warning(
            "differs: %s of the %s events of this window, so there is nothing to compare", nothing, f"{len(given):,}"
        )
        return frame("differs", [], frames)
    found = difference(chosen, rest, compared, noise=noise)
    if len(found) > rows_max:
        log.warning("differs: only the %s most certain of %s differences are shown", f"{rows_max:,}", f"{len(found):,}")
    return frame("differs", found[:rows_max], frames)


def _attributes(asked: Sequence[str] | None, made_by: str | None) -> list[str]:
    if asked is None:
        by_failure = made_by in ("failed", "dead", "dead_open", *_OF_FAILURE)
        return [a for a in ATTRIBUTES if not (by_failure and a in _OF_FAILURE)]
    for attribute in asked:
        if is_json_path(attribute):
            json_path(attribute)
        elif attribute not in ATTRIBUTES and not attribute.startswith(_HEADER):
            raise _unknown("attribute", attribute)
    return list(dict.fromkeys(asked))


def _made_by(selection: Any) -> str | None:
    """The state or attribute that makes the selection."""
    if not isinstance(selection, str):
        return None
    name, sign, _ = selection.partition("=")
    if sign and name in ATTRIBUTES:
        return name
    if sign or name not in STATES:
        raise _unknown("selection", selection)
    return name


def _unknown(name: str, value: str) -> InvalidParameter:
    what = value.partition("=")[0]
    known = ATTRIBUTES if name == "attribute" or "=" in value else STATES
    near = closest(what, known)
    hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(known)}"
    more = ", $.path and header:NAME" if name == "attribute" else ", or attribute=value"
    return InvalidParameter(f"'{what}' is no {name}; {hint}" + ("" if near else more), name=name, value=value)


def _header_as(name: str, policies: Sequence[Policy]) -> _Seen:
    for policy in policies:
        if policy.header == name.removeprefix(_HEADER):
            if policy.action == "hash":
                return lambda value: None if value is None else policy.shown(value)
            raise InvalidParameter(
                f"'{name}' is hidden by a masking policy ({policy.action}): events cannot be told apart by it",
                name="attribute",
                value=name,
            )
    return lambda value: value


def _listed(found: pl.DataFrame, paths: list[str], headers: list[str], seen_as: Mapping[str, _Seen]) -> pl.DataFrame:
    """Each path and each header as a column of its own, as policies let it be seen."""
    for listed, names in (("fields", paths), ("headers", headers)):
        if names:
            values = [json.loads(row) for row in found[listed]]
            shown = [[seen_as[name](row[i]) for row in values] for i, name in enumerate(names)]
            found = found.with_columns(pl.Series(n, v, dtype=pl.String) for n, v in zip(names, shown, strict=True))
        found = found.drop(listed)
    return found


def _mark(given: pl.DataFrame, selection: Any) -> pl.Series:
    if isinstance(selection, Window):
        return given.select((pl.col("at") >= selection.start) & (pl.col("at") < selection.end)).to_series()
    if isinstance(selection, str):
        name, sign, value = selection.partition("=")
        if not sign:
            return given[name]
        return (given[name].cast(pl.String) == value).fill_null(value=False)
    try:
        chosen = nw.from_native(selection, eager_only=True).to_polars()
    except TypeError:
        raise InvalidParameter(
            f"a selection is a word, attribute=value, a Window or a frame, and this is a {type(selection).__name__}",
            name="selection",
        ) from None
    if "event_id" not in chosen.columns:
        raise InvalidParameter("a frame that selects events needs a column event_id", name="selection")
    on = ["event_id", "group"] if "group" in chosen.columns else ["event_id"]
    picked = chosen.select(pl.col(c).cast(pl.String) for c in on).unique().with_columns(pl.lit(True).alias("_picked"))
    joined = given.select(on).join(picked, on=on, how="left", maintain_order="left")
    return joined["_picked"].fill_null(value=False)
