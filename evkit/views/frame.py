"""Frame: rows from PostgreSQL or Kafka → a polars or pandas DataFrame with a view's columns, and back.

The seam between backends is here alone: a view says `frame("lag", rows, frames)`, monitors and figures say
`rows_of(given, "lag")` and see the same plain values whichever backend the caller chose. How many rows travel without a
Python object for each value is in `copied.py`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, ParamSpec, TypeVar

from evkit import postgres
from evkit.errors import InvalidParameter, MissingExtra, NoPostgres, UnknownGroup
from evkit.sql import named
from evkit.system import System, viewing
from evkit.views import columns as _columns
from evkit.views.incident_window import incident_named, incident_window
from evkit.window import Window, duration, require_covered

try:
    import narwhals.stable.v2 as nw
    import polars as pl
except ImportError as error:  # pragma: no cover - only without the extra
    raise MissingExtra("views", "looking at a system") from error

# A polars DataFrame, or a pandas one where the caller asked for it.
Frame = Any
Frames = Literal["polars", "pandas"]
WindowLike = Window | str | timedelta | None

# What most questions at night are about; every view takes another.
WINDOW_DEFAULT = timedelta(hours=1)
# Enough for any figure; a frame of more buckets is a mistake in the bucket's unit.
_BUCKETS_MAX = 5_000
# Bucket lengths people read easily, in seconds; `bucket=None` takes the first that gives at most 120 buckets.
_NICE_SECONDS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400)

POLARS: dict[str, Any] = {
    "string": pl.String(),
    "int32": pl.Int32(),
    "int64": pl.Int64(),
    "float64": pl.Float64(),
    "bool": pl.Boolean(),
    "binary": pl.Binary(),
    "time": pl.Datetime("us", "UTC"),
}

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def view(name: str) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """Add the columns of a view to its function's docstring, so that `help` shows them and they cannot drift apart.

    And let it look from the moment that is now for its system; of a freeze, that was then.
    """

    def documented(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        if function.__doc__:  # python -OO has none
            listed = _columns.table(_columns.COLUMNS[name], indent=" " * 8)
            function.__doc__ = function.__doc__.replace("Columns: see columns/", f"Columns:\n{listed}")

        @functools.wraps(function)
        def looked(*arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
            system: Any = arguments[0] if arguments else named["system"]
            try:
                with system.standing(), viewing(name):
                    return function(*arguments, **named)
            except NoPostgres:
                raise NoPostgres(f"views.{name}") from None

        return looked

    return documented


def frame(
    view: str,
    rows: Iterable[Sequence[Any] | Mapping[str, Any]],
    frames: Frames = "polars",
    *,
    extra: Sequence[_columns.Column] = (),
) -> Frame:
    """A DataFrame of a view: rows in the order of its columns (and `extra` ones after them), or by their names.

    Without rows it still has all columns with their dtypes; a column that a named row does not have is null.

    Raises:
        InvalidParameter: `frames` is neither "polars" nor "pandas".
    """
    require_backend(frames)
    schema = {c.name: POLARS[c.dtype] for c in (*_columns.COLUMNS[view], *extra)}
    ordered = ([row.get(n) for n in schema] if isinstance(row, Mapping) else row for row in rows)
    made = pl.DataFrame(
        [[_utc(v) if isinstance(v, datetime) else v for v in row] for row in ordered], schema=schema, orient="row"
    )
    return handed(made, frames)


def handed(made: pl.DataFrame, frames: Frames) -> Frame:
    """A frame as the caller wants it.

    Raises:
        InvalidParameter: `frames` is neither "polars" nor "pandas".
    """
    if frames not in ("polars", "pandas"):
        raise InvalidParameter(f"frames '{frames}' is no backend: take polars or pandas", name="frames", value=frames)
    return made if frames == "polars" else _pandas(made)


def require_backend(frames: str) -> None:
    """Raise InvalidParameter unless frames can be had so."""
    if frames not in ("polars", "pandas"):
        raise InvalidParameter(f"frames '{frames}' is no backend: take polars or pandas", name="frames", value=frames)


def frame_of_columns(view: str, columns: Mapping[str, Sequence[Any]], frames: Frames = "polars") -> Frame:
    """The same from whole columns, in any order, times in UTC: for many rows, a third of the time.

    Raises:
        InvalidParameter: `frames` is neither "polars" nor "pandas".
    """
    require_backend(frames)
    schema = {c.name: POLARS[c.dtype] for c in _columns.COLUMNS[view]}
    made = pl.DataFrame([pl.Series(name, columns[name], dtype=kind) for name, kind in schema.items()])
    return made if frames == "polars" else _pandas(made)


def frame_of_chunks(
    view: str, chunks: Iterable[pl.DataFrame], frames: Frames = "polars", *, extra: Sequence[_columns.Column] = ()
) -> Frame:
    """A DataFrame of a view from polars frames that have its columns (and `extra` ones) with the right dtypes, one under
    the other; what else they have is left out."""
    schema = {c.name: POLARS[c.dtype] for c in (*_columns.COLUMNS[view], *extra)}
    made = pl.concat([pl.DataFrame(schema=schema), *(chunk.select(list(schema)) for chunk in chunks)])
    return made if frames == "polars" else _pandas(made)


def _utc(value: datetime) -> datetime:
    # A server may call its zone "Etc/UTC" or "UTC"; polars and pandas take these for different dtypes.
    return value.astimezone(UTC)


def _pandas(made: pl.DataFrame) -> Frame:
    """The same in pandas: nullable integers and booleans, so that a null stays a null and 3 does not become 3.0."""
    import pandas as pd
    import pyarrow as pa

    mapping: dict[Any, Any] = {pa.int32(): pd.Int32Dtype(), pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
    return made.to_arrow().to_pandas(types_mapper=mapping.get)


def rows_of(given: Any, *views: str) -> list[dict[str, Any]]:
    """The rows of a polars or pandas DataFrame as dicts of plain values, every kind of missing value as None.

    `views` are the views whose frame it may be; it must have all columns of one of them.

    Raises:
        InvalidParameter: it is no DataFrame, or lacks columns of these views.
    """
    try:
        native = nw.from_native(given, eager_only=True)
    except TypeError:
        raise InvalidParameter(
            f"a frame of views.{' or views.'.join(views)} is needed, and this is a {type(given).__name__}",
            name="frame",
        ) from None
    missing = [[c.name for c in _columns.COLUMNS[v] if c.name not in native.columns] for v in views]
    if views and all(missing):
        fewest = min(missing, key=len)
        raise InvalidParameter(
            f"a frame of views.{' or views.'.join(views)} is needed, and this one has no column '{fewest[0]}'",
            name="frame",
        )
    return [{k: _plain(v) for k, v in row.items()} for row in native.iter_rows(named=True)]


def columns_of(given: Any) -> list[str]:
    """Names of a DataFrame's columns, whichever backend it is of."""
    return list(nw.from_native(given, eager_only=True).columns)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return None if math.isnan(value) else float(value)
    if type(value).__name__ in ("NAType", "NaTType"):  # NaT is a datetime too, one whose fields are NaN
        return None
    if isinstance(value, datetime):
        whole = value.to_pydatetime() if hasattr(value, "to_pydatetime") else value
        return whole.astimezone(UTC) if whole.tzinfo else whole.replace(tzinfo=UTC)
    return value.item() if hasattr(value, "item") else value


def window_of(window: WindowLike, system: System | None = None) -> Window:
    """The window meant: one given, a text that `Window.parse` reads, a length that ends now, or the last hour.

    "incident:NAME" is one of a system, and is looked up there.

    Raises:
        InvalidParameter: a text that is no window; a window that begins in the future.
        UnknownIncident: the system knows no incident of this name; near matches are in `suggestions`.
        NotInFreeze: a freeze is looked at, and the window is not in it.
    """
    if isinstance(window, str):
        incident = None if system is None else incident_named(window)
        seen = incident_window(system, incident) if system is not None and incident else Window.parse(window)
    else:
        seen = window if isinstance(window, Window) else Window.last(WINDOW_DEFAULT if window is None else window)
    require_covered(seen)
    return seen.require_begun()


def bucket_of(bucket: str | timedelta | None, window: Window, *, name: str = "bucket") -> timedelta:
    """The length of the buckets (or steps: `name`) that cut a window: the one given, or a round one that makes at most 120.

    Raises:
        InvalidParameter: no duration, not above zero, or so short that the window has more than 5,000 of them.
    """
    if bucket is None:
        wanted = window.seconds / 120
        nice = next((s for s in _NICE_SECONDS if s >= wanted), None)
        return timedelta(seconds=nice if nice is not None else 86_400 * math.ceil(wanted / 86_400))
    length = duration(bucket, name=name) if isinstance(bucket, str) else bucket
    if length.total_seconds() <= 0:
        raise InvalidParameter(f"a {name} must be longer than zero", name=name, value=bucket)
    if window.seconds / length.total_seconds() > _BUCKETS_MAX:
        raise InvalidParameter(
            f"{name}s of {length.total_seconds():g} s would be {window.seconds / length.total_seconds():,.0f} in this "
            f"window, at most {_BUCKETS_MAX:,} are drawn: take longer ones, or a shorter window",
            name=name,
            value=bucket,
        )
    return length


def fetch(
    system: System, noun: str, query: str, columns: Sequence[_columns.Column], /, **parameters: Any
) -> list[list[Any]]:
    """The rows of a named query, each in the order of `columns`, read in one read-only transaction.

    A parameter `group` that is not None must be known to evkit's tables. A query that takes `groups` is given that group,
    or all known ones.

    Raises:
        UnknownGroup: evkit's tables know no such group; near matches are in `suggestions`.
        DatabaseUnreachable, NotMigrated: see `System.reading`.
    """
    with system.reading() as connection:
        if "group" in parameters:
            parameters["groups"] = groups_of(system, connection, parameters["group"])
        cursor = connection.execute(named(noun)[query], parameters)
        assert cursor.description is not None
        place = {column.name: index for index, column in enumerate(cursor.description)}
    # All rows have come, and the connection is closed: no snapshot is held while objects are made of them.
    order = [place[c.name] for c in columns]
    return [[row[i] for i in order] for row in cursor.fetchall()]


def groups_of(system: System, connection: postgres.Connection, group: str | None = None) -> list[str]:
    """All groups that evkit's tables know, sorted; or the one that is asked for.

    Raises:
        UnknownGroup: evkit's tables know no such group; near matches are in `suggestions`.
    """
    known = [row[0] for row in connection.execute(named("lag")["known_groups"]).fetchall()]
    if group is None:
        return known
    if group not in known:
        where = postgres.address(system.settings.postgres_dsn)
        raise UnknownGroup(group, known, where=f"to evkit's tables at {where}")
    return [group]
