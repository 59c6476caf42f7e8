"""PostgreSQL: connections and migrations. The only place that opens psycopg.

Every connection speaks UTC, says who it is in pg_stat_activity, and turns "cannot connect" into one sentence with the
address and without the password.
"""

from __future__ import annotations

import logging
import select
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg import IsolationLevel, generators
from psycopg.abc import AdaptContext, PQGen
from psycopg.adapt import Dumper
from psycopg.conninfo import conninfo_to_dict
from psycopg.sql import SQL, Composable, Identifier
from psycopg.types.string import ByteaBinaryLoader
from psycopg.waiting import Wait

from evkit import sql
from evkit.errors import DatabaseUnreachable, NoPostgres, NotMigrated, QueryTimeout, SettingsError

__all__ = ["Connection", "IsolationLevel"]

log = logging.getLogger(__name__)


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection that can do something useful while it waits for an answer.

    Attributes:
        meanwhile  does a small part of other work and returns whether there is more of it. It is called while a statement
                   is on its way and no answer has come; not in pipeline mode, where nobody waits for one. What it raises
                   comes up when the statement is through. None: there is nothing else to do
    """

    meanwhile: Callable[[], bool] | None = None

    def wait(self, gen: PQGen[Any], *args: Any, **kwargs: Any) -> Any:
        """See psycopg: consume a generator that works on the connection."""
        if self.meanwhile is None or self.pgconn.pipeline_status:
            return super().wait(gen, *args, **kwargs)
        try:
            state = next(gen)
        except StopIteration as done:
            return done.value
        try:
            if state == Wait.R:  # all of it is sent
                self._work()
        finally:
            result = super().wait(_resumed(gen, state), *args, **kwargs)
        return result

    def _work(self) -> None:
        """A part is done unasked, for no answer is as quick; then until one is there."""
        answer = None
        while self.meanwhile is not None:
            if not self.meanwhile():
                self.meanwhile = None
                return
            if answer is None:
                answer = select.poll()
                answer.register(self.pgconn.socket, select.POLLIN)
            if answer.poll(0):
                return


def _resumed(gen: PQGen[Any], state: Wait) -> PQGen[Any]:
    """A generator that has come to this state already, as one that begins there."""
    try:
        while True:
            state = gen.send((yield state))
    except StopIteration as done:
        return done.value


# Chosen once and for ever: two `evkit migrate` at the same time must wait for each other.
_MIGRATION_LOCK = 0x65766B6974  # "evkit"


def address(dsn: str) -> str:
    """host:port/database of a connection string, without user and password."""
    if not dsn:
        return "(no PostgreSQL is configured)"
    try:
        parts = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        return "(a connection string that cannot be read)"
    host = parts.get("host") or parts.get("hostaddr") or "localhost"
    return f"{host}:{parts.get('port') or 5432}/{parts.get('dbname') or parts.get('user') or ''}"


def connect(
    dsn: str,
    *,
    application_name: str = "evkit",
    read_only: bool = False,
    autocommit: bool = False,
    timeout_seconds: float = 10.0,
    statement_timeout_seconds: float | None = None,
) -> Connection:
    """A new connection: UTC, named, with TCP keepalives so that a dead server is noticed within half a minute.

    With `read_only=True` the server itself refuses every write on this connection, whatever the query says.

    Raises:
        DatabaseUnreachable: no answer in `timeout_seconds`, or refused (wrong user, password or database).
        SettingsError: the connection string cannot be read.
        NoPostgres: there is none; libpq would go and look for a server of its own choice.
    """
    if not dsn:
        raise NoPostgres
    options = ["-c timezone=UTC"]
    if read_only:
        options.append("-c default_transaction_read_only=on")
    if statement_timeout_seconds is not None:
        options.append(f"-c statement_timeout={round(statement_timeout_seconds * 1000)}")
    try:
        given = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        raise SettingsError("postgres_dsn is no connection string that PostgreSQL's libpq understands") from None
    if given.get("options"):
        options.insert(0, str(given["options"]))
    try:
        return Connection.connect(
            dsn,
            application_name=application_name,
            connect_timeout=max(2, round(timeout_seconds)),
            options=" ".join(options),
            keepalives_idle=10,
            keepalives_interval=5,
            keepalives_count=3,
            autocommit=autocommit,
        )
    except psycopg.OperationalError as error:
        reason = str(error).strip().splitlines()[-1].rpartition("failed: ")[2] or "no answer"
        password = given.get("password")
        if password:
            reason = reason.replace(str(password), "***")
        raise DatabaseUnreachable(address(dsn), reason.strip().removeprefix("FATAL:").strip()) from None


def bytes_cursor(connection: Connection) -> psycopg.Cursor[tuple[Any, ...]]:
    """A cursor that gives text and JSON as the bytes that travelled: neither decoded nor parsed."""
    cursor = connection.cursor(binary=True)
    for kind in ("text", "json"):
        cursor.adapters.register_loader(kind, ByteaBinaryLoader)
    return cursor


def text_array(values: Sequence[str | None]) -> str:
    """The literal of a text[], to be sent as one parameter (`%s::text[]`).

    For the batches of a hot path: psycopg looks at each element of a list in Python, 6 us an element where this takes 0.1.

    Raises:
        ValueError: a value has a NUL in it, which PostgreSQL's text cannot have.
    """
    if None in values:
        return "{" + ",".join(["NULL" if v is None else text_array([v])[1:-1] for v in values]) + "}"
    joined = "\x00".join(values)  # type: ignore[arg-type]
    if joined.count("\x00") != max(len(values) - 1, 0):
        raise ValueError("a text has a NUL in it, which PostgreSQL's text cannot have")
    if not values:
        return "{}"
    return '{"' + joined.replace("\\", "\\\\").replace('"', '\\"').replace("\x00", '","') + '"}'


def integer_array(values: Iterable[int]) -> str:
    """The literal of an integer[] or bigint[], to be sent as one parameter; see `text_array`."""
    return "{" + ",".join(map(str, values)) + "}"


class Array:
    """A bigint[], to be sent as one parameter (`%b`), of whole numbers and None: in half the time of `integer_array`."""

    __slots__ = ("of",)

    def __init__(self, of: Iterable[int | None]) -> None:
        self.of = list(of)


class Times(Array):
    """A timestamptz[], of `micros` and None; psycopg takes eight times as long for a list of times."""

    __slots__ = ()


_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)


def micros(at: datetime) -> int:
    """Microseconds since 1970 of a time with a zone."""
    return (at - _EPOCH) // _MICROSECOND


# PostgreSQL's binary timestamps count from 2000.
MICROS_2000 = micros(datetime(2000, 1, 1, tzinfo=UTC))


class _ArrayDumper(Dumper):
    """PostgreSQL's binary form of an array: its head, and each element behind its length (array_recv, int8recv)."""

    format = psycopg.pq.Format.BINARY
    element = psycopg.adapters.types["int8"]
    zero = 0

    def __init__(self, cls: type, context: AdaptContext | None = None) -> None:
        super().__init__(cls, context)
        # Of the class, it would make this the dumper of every list of that type in the process (register_dumper).
        self.oid = self.element.array_oid

    def dump(self, array: Array) -> bytes:
        of, zero, element = array.of, self.zero, self.element.oid
        if not of:
            return struct.pack("!iiI", 0, 0, element)
        head = struct.pack("!iiIii", 1, None in of, element, len(of), 1)
        if None in of:
            return head + b"".join(
                b"\xff\xff\xff\xff" if value is None else struct.pack("!iq", 8, value - zero) for value in of
            )
        values: list[Any] = [8] * (2 * len(of))
        values[1::2] = [value - zero for value in of] if zero else of  # type: ignore[operator]
        # In pieces: struct keeps what it has compiled, of each length anew.
        whole = len(values) // (2 * _PIECE) * (2 * _PIECE)
        pieces = [_pack_piece(*values[i : i + 2 * _PIECE]) for i in range(0, whole, 2 * _PIECE)]
        return b"".join([head, *pieces, struct.pack("!" + "iq" * (len(of) % _PIECE), *values[whole:])])


_PIECE = 64
_pack_piece = struct.Struct("!" + "iq" * _PIECE).pack


class _TimesDumper(_ArrayDumper):
    """The same (timestamptz_recv)."""

    element = psycopg.adapters.types["timestamptz"]
    zero = MICROS_2000


psycopg.adapters.register_dumper(Array, _ArrayDumper)
psycopg.adapters.register_dumper(Times, _TimesDumper)


# By the dtype of a view's column: what is written of it. Moments are microseconds since 1970, which nobody has to parse;
# those that a frame cannot hold (infinity, the year 20000) are null, for nobody measured them. Up to 2^32 seconds a double
# is exact to the microsecond once it is rounded, and takes the server 0.1 us where extract()'s numeric takes 0.4.
_AS_TEXT = {
    "string": SQL("q.{0}::text"),
    "int32": SQL("q.{0}::integer"),
    "int64": SQL("q.{0}::bigint"),
    "float64": SQL("q.{0}::float8"),
    "bool": SQL("q.{0}::boolean::text"),
    "time": SQL(
        "CASE WHEN q.{0} > '1900-01-01Z' AND q.{0} < '2100-01-01Z' THEN (date_part('epoch', q.{0}) * 1000000)::bigint"
        "     WHEN q.{0} > '0001-01-02Z' AND q.{0} < '9999-12-31Z' THEN (extract(epoch FROM q.{0}) * 1000000)::bigint END"
    ),
}
# So much text is handed on at a time: enough that a reader is not called often, little beside the frame that comes out.
_CHUNK_BYTES = 4 << 20


def copy_text(
    connection: Connection,
    query: bytes,
    parameters: Mapping[str, Any],
    columns: Sequence[tuple[str, str]],
    take: Callable[[bytes], None],
) -> None:
    """Hand the rows of a query to `take` in COPY's text format, some megabytes of whole rows at a time: fields are
    separated by tabs, null is \\N, and what would not be a field of one line is escaped by a backslash.

    For many rows: no Python object is made for a value. The same connection, transaction and snapshot as any other query of
    it, and the same errors. COPY takes no parameters, so they are bound here, by psycopg's own quoting.

    Args:
        columns  name and dtype (see `evkit.views.columns`) of what is wanted, in this order
        take     called in between; while it works, the server goes on sending. When it raises, the connection is closed,
                 and the error comes up
    """
    bound = psycopg.ClientCursor(connection).mogrify(query, parameters)
    listed: list[Composable] = [_AS_TEXT[dtype].format(Identifier(name)) for name, dtype in columns]
    statement = SQL("COPY (SELECT {} FROM ({}\n) AS q) TO STDOUT (FORMAT text)").format(
        SQL(", ").join(listed),
        SQL(bound),  # our own query, its values quoted
    )
    script = statement.as_bytes(connection)
    chunk = bytearray()

    def received() -> PQGen[None]:
        # One loop for all rows: psycopg's own Copy.read() makes its way through five calls a row, 2 s a million, and its
        # generator copy_from() through one that is made for each row, 0.3 s.
        server = connection.pgconn
        server.send_query(script)
        started = (yield from generators.execute(server))[-1]
        if started.status != psycopg.pq.ExecStatus.COPY_OUT:
            raise psycopg.errors.error_from_result(started, encoding=connection.info.encoding)
        get, extend = server.get_copy_data, chunk.extend
        while True:
            length, row = get(1)
            if length > 0:
                extend(row)
                if len(chunk) >= _CHUNK_BYTES:
                    take(bytes(chunk))
                    chunk.clear()
            elif length == 0:
                yield psycopg.waiting.WAIT_R
                server.consume_input()
            else:
                break
        ended = (yield from generators.fetch_many(server))[-1]
        if ended.status != psycopg.pq.ExecStatus.COMMAND_OK:
            raise psycopg.errors.error_from_result(ended, encoding=connection.info.encoding)

    if connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE:
        connection.execute("SELECT")  # psycopg begins the transaction, and its snapshot, with it
    try:
        connection.wait(received())
    except psycopg.Error:
        raise
    except BaseException:  # of whoever takes the rows: nobody wants the rest of them
        connection.close()
        raise
    if chunk:
        take(bytes(chunk))


def is_lost(connection: Connection, error: BaseException | None = None) -> bool:
    """True when an error is the connection's or the server's fault, not that of the statement.

    A server that is shutting down, starting, or was told to end our session (class 57P), that is out of connections,
    memory or disk (53), whose disk fails (58), that has become a standby (25006), or a broken socket: nobody's event is to
    blame, and the same work can be done again on a new connection.
    """
    if connection.closed or connection.broken:
        return True
    state = getattr(error, "sqlstate", None) or ""
    return state.startswith(("57P", "08", "53", "58")) or state == "25006"


def is_unreachable(error: BaseException) -> bool:
    """True when an error says that some PostgreSQL, not only evkit's own, cannot be reached."""
    if isinstance(error, DatabaseUnreachable):
        return True
    if not isinstance(error, psycopg.OperationalError):
        return False
    state = error.sqlstate or ""  # a failed connection has none
    return not state or state.startswith(("57P", "08", "53", "58"))


def is_transient(error: BaseException) -> bool:
    """True for failures that PostgreSQL asks to try again: serialization failure and deadlock."""
    return getattr(error, "sqlstate", None) in ("40001", "40P01")


def applied_migrations(connection: Connection) -> list[int]:
    """Numbers of the migrations this database has had, sorted; empty for a database without evkit."""
    row = connection.execute("SELECT to_regclass('evkit.migration') IS NOT NULL").fetchone()
    if row is None or not row[0]:
        return []
    return [r[0] for r in connection.execute("SELECT number FROM evkit.migration ORDER BY number").fetchall()]


def pending_migrations(connection: Connection) -> list[str]:
    """Names (`0001_first_tables`) of the migrations this database still needs, in order."""
    applied = set(applied_migrations(connection))
    return [f"{number:04}_{name}" for number, name, _ in sql.migrations() if number not in applied]


def require_migrated(connection: Connection) -> None:
    """Raise NotMigrated unless the database has every migration that this evkit knows."""
    if pending := pending_migrations(connection):
        raise NotMigrated(
            f"database {connection.info.dbname} at {connection.info.host}:{connection.info.port} lacks "
            f"{len(pending)} migration(s), the first is {pending[0]}: run `evkit migrate`"
        )


def migrate(dsn: str, *, up_to: int | None = None) -> list[str]:
    """Bring a database to this version's tables, or to those of migration `up_to`.

    Returns the names of the migrations applied, in order.

    Each migration is one transaction, recorded in `evkit.migration` in that same transaction, so a failed or killed
    run leaves the database at a whole number of migrations. Two runs at the same time wait for each other.

    Raises:
        DatabaseUnreachable: see `connect`.
    """
    with connect(dsn, application_name="evkit migrate", autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (_MIGRATION_LOCK,))
        connection.execute("CREATE SCHEMA IF NOT EXISTS evkit")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS evkit.migration (number integer PRIMARY KEY, name text NOT NULL, "
            "applied_at timestamptz NOT NULL DEFAULT clock_timestamp())"
        )
        applied = set(applied_migrations(connection))
        names = []
        for number, name, script in sql.migrations():
            if number in applied or (up_to is not None and number > up_to):
                continue
            with connection.transaction():
                connection.execute(script)
                connection.execute("INSERT INTO evkit.migration (number, name) VALUES (%s, %s)", (number, name))
            names.append(f"{number:04}_{name}")
            log.info("migration applied", extra={"migration": names[-1]})
        return names


def limit_transactions(connection: Connection, seconds: float) -> None:
    """End the session when a transaction of it lasts longer, from now on; while it waits for us, too.

    Before PostgreSQL 17 there is no such limit: only that of a statement, and of idling in a transaction.
    """
    name = "transaction_timeout" if connection.info.server_version >= 170000 else "idle_in_transaction_session_timeout"
    connection.execute("SELECT set_config(%s, %s, false)", (name, f"{max(round(seconds * 1000), 1)}ms"))
    connection.commit()


@contextmanager
def translated_errors(dsn: str, view: str | None = None, seconds: float | None = None) -> Iterator[None]:
    """Turn a connection lost, or a query cancelled, in the middle of work into a sentence; other errors pass.

    Args:
        view, seconds  a view that is at work, and how long its snapshots may last
    """
    try:
        yield
    except (psycopg.errors.TransactionTimeout, psycopg.errors.IdleInTransactionSessionTimeout) as error:
        raise _too_long(dsn, view, seconds) from error
    except psycopg.errors.QueryCanceled as error:
        if view is not None and "user request" not in str(error):
            raise _too_long(dsn, view, seconds) from error
        raise QueryTimeout(
            f"a query at {address(dsn)} was cancelled ({str(error).strip().splitlines()[0]}): look at a shorter window, or "
            "raise statement_timeout_seconds"
        ) from error
    except psycopg.OperationalError as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DatabaseUnreachable(address(dsn), reason) from error


def _too_long(dsn: str, view: str | None, seconds: float | None) -> QueryTimeout:
    return QueryTimeout(
        f"views.{view} was cut off at {address(dsn)}: one of its reads was not done after {seconds:g} s, and a view holds "
        "no snapshot longer, for it keeps vacuum from every table; look at a shorter window or at one group, or raise "
        "snapshot_seconds_max for a replica"
    )
