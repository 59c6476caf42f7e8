"""what somebody knows of a time → annotation table: write it down, edit, close and remove it.

A deploy, a change of settings, work on a broker, a note; and an incident, which is a stretch of time with a name that every
window takes (`incident:NAME`). They change nothing that happens to events, so writing one asks nobody. Each change leaves
an audit row in its own transaction, with what was there before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg.rows import class_row

from evkit import postgres
from evkit.errors import AnnotationRefused, InvalidParameter, UnknownAnnotation, UnknownIncident, closest
from evkit.runtime import audit
from evkit.sql import named
from evkit.system import System
from evkit.window import instant

_SQL = named("annotations")

KINDS = ("deploy", "config", "broker", "note", "incident")

# A sentence or a few, not a log file: it is drawn beside a line of a figure.
TEXT_CHARACTERS_MAX = 2_000


@dataclass(frozen=True, slots=True)
class Annotation:
    """What somebody wrote down of a time.

    Attributes:
        kind     deploy, config, broker, note or incident
        at       when it was, or began
        until    when it ended; None: it was a moment, or it is an incident that is not over
        name     of an incident; None for all others
        version  what was deployed
        group    consumer group that it is about; None: all
        source   what wrote it: "cli", "python", a pipeline's name
    """

    annotation_id: int
    kind: str
    at: datetime
    until: datetime | None
    text: str
    name: str | None
    version: str | None
    group: str | None
    topic: str | None
    actor: str
    source: str
    created_at: datetime

    @property
    def is_open(self) -> bool:
        """An incident that is not over."""
        return self.kind == "incident" and self.until is None

    def summary(self) -> dict[str, Any]:
        """The annotation for the audit row: what it said, times as ISO."""
        return {k: v.isoformat() if isinstance(v, datetime) else v for k, v in asdict(self).items() if v is not None}


def add(
    system: System,
    kind: str,
    text: str | None = None,
    *,
    at: str | datetime = "now",
    until: str | datetime | None = None,
    name: str | None = None,
    version: str | None = None,
    group: str | None = None,
    topic: str | None = None,
    source: str = "python",
) -> Annotation:
    """Write down what was at a time; returns it with its id.

    Args:
        kind     deploy, config, broker, note or incident
        text     what there is to say; a deploy with a version and an incident need none
        at       when: ISO time, "now-5m" or a datetime
        until    its end, where it took a while; an incident without one is not over
        name     of an incident, which needs one, and nothing else has
        version  what was deployed
        group    consumer group that it is about; None: all. A deploy may be of a service that is none: it is not looked up
        source   what writes it

    Side effects: a row in evkit.annotation, and one in evkit.audit.

    Raises:
        InvalidParameter: a kind that there is not, no text, times that cannot be read or go backwards.
        AnnotationRefused: there is an incident of this name already.
        DatabaseUnreachable, NotMigrated.
    """
    wanted = prepared(
        kind, text, at=at, until=until, name=name, version=version, group=group, topic=topic, source=source
    )
    return store(system, wanted)


def prepared(
    kind: str,
    text: str | None = None,
    *,
    at: str | datetime = "now",
    until: str | datetime | None = None,
    name: str | None = None,
    version: str | None = None,
    group: str | None = None,
    topic: str | None = None,
    source: str = "python",
) -> Annotation:
    """The annotation that `add` would write, with 0 for its id; opens no connection.

    Raises: InvalidParameter, see `add`.
    """
    if kind not in KINDS:
        near = closest(kind, KINDS)
        hint = f"did you mean '{near[0]}'?" if near else f"take {', '.join(KINDS)}"
        raise InvalidParameter(f"kind '{kind}' is no kind of annotation: {hint}", name="kind", value=kind)
    now = datetime.now(UTC)
    if text is None and kind == "deploy" and version:
        text = f"deploy of {version}"
    if text is None and kind == "incident":
        text = f"incident {name}"
    made = Annotation(
        annotation_id=0,
        kind=kind,
        at=instant(at, now=now, name="at"),
        until=None if until is None else instant(until, now=now, name="until"),
        text=text or "",
        name=name,
        version=version,
        group=group,
        topic=topic,
        actor=audit.actor(),
        source=source,
        created_at=now,
    )
    return _checked(made)


def store(system: System, wanted: Annotation) -> Annotation:
    """Write a prepared annotation.

    Raises: AnnotationRefused, DatabaseUnreachable, NotMigrated; see `add`.
    """
    with _writing(system) as connection:
        cursor = connection.cursor(row_factory=class_row(Annotation))
        row = cursor.execute(_SQL["insert"], asdict(wanted)).fetchone()
        if row is None:
            raise AnnotationRefused(
                f"incident '{wanted.name}' is there already: edit or close it (`evkit annotate list`), or take another name"
            )
        act = audit.begin(connection, "annotation.add", _target(row), wanted.summary())
        audit.end(connection, act, {"annotation_id": row.annotation_id})
        return row


def get(system: System, annotation_id: int) -> Annotation:
    """One annotation.

    Raises:
        UnknownAnnotation: there is none with this id.
    """
    with _writing(system) as connection:  # it is locked for a moment
        return _one(connection, annotation_id)


def incident(system: System, name: str) -> Annotation:
    """The incident of this name.

    Raises:
        UnknownIncident: there is none; near matches are in `suggestions`.
    """
    with _writing(system) as connection:
        row = connection.execute(_SQL["one_incident"], (name,)).fetchone()
        if row is None:
            known = [r[0] for r in connection.execute(_SQL["incidents"]).fetchall()]
            raise UnknownIncident(name, known)
        return _one(connection, row[0])


def changed(annotation: Annotation, **changes: Any) -> Annotation:
    """An annotation with other values (`at`, `until`, `text`, `name`, `version`, `group`, `topic`); opens no connection.

    Raises:
        InvalidParameter: see `add`.
    """
    for given in ("at", "until"):
        if changes.get(given) is not None:
            changes[given] = instant(changes[given], name=given)
    return _checked(replace(annotation, **changes))


def edit(system: System, annotation_id: int, *, reason: str | None = None, **changes: Any) -> Annotation:
    """Change what an annotation says: `at`, `until`, `text`, `name`, `version`, `group`, `topic`; None takes a value away.

    Side effects: the row is changed; an audit row has what it said before.

    Raises:
        UnknownAnnotation, InvalidParameter; AnnotationRefused: another incident has this name.
    """
    return _edit(system, annotation_id, "annotation.edit", reason, changes)


def close(system: System, name: str, until: str | datetime = "now", *, reason: str | None = None) -> Annotation:
    """Say when an incident ended, or say it anew.

    Raises:
        UnknownIncident: near matches are in `suggestions`.
        InvalidParameter: a time that cannot be read, or is not after the incident's start.
    """
    found = incident(system, name)
    return _edit(system, found.annotation_id, "annotation.close", reason, {"until": until})


def remove(system: System, annotation_id: int, *, reason: str | None = None) -> Annotation:
    """Take an annotation away; returns what it was, and the audit row has it too.

    Raises:
        UnknownAnnotation.
    """
    with _writing(system) as connection:
        was = _one(connection, annotation_id)
        act = audit.begin(connection, "annotation.remove", _target(was), was.summary(), reason)
        connection.execute(_SQL["remove"], (annotation_id,))
        audit.end(connection, act, {"removed": annotation_id})
        return was


def stored(system: System, kind: str | None = None, *, rows_max: int = 1_000) -> list[Annotation]:
    """What was written down, the newest first. What the other tables tell of a time, too: `views.annotations`."""
    values = {"since": None, "until": None, "kind": kind, "group": None, "rows_max": rows_max}
    with system.reading() as connection:
        return connection.cursor(row_factory=class_row(Annotation)).execute(_SQL["stored"], values).fetchall()


def _edit(system: System, annotation_id: int, act_name: str, reason: str | None, changes: dict[str, Any]) -> Annotation:
    with _writing(system) as connection:
        was = _one(connection, annotation_id)
        now = changed(was, **changes)
        plan = {"before": was.summary(), "after": now.summary()}
        act = audit.begin(connection, act_name, _target(was), plan, reason)
        try:
            connection.execute(_SQL["change"], asdict(now))
        except psycopg.errors.UniqueViolation:
            raise AnnotationRefused(f"incident '{now.name}' is there already: take another name") from None
        audit.end(connection, act, {"annotation_id": annotation_id})
        return now


@contextmanager
def _writing(system: System) -> Iterator[postgres.Connection]:
    """One transaction that may write, on migrated tables; errors of a lost connection are sentences."""
    with postgres.translated_errors(system.settings.postgres_dsn), system.writing("evkit annotate") as connection:
        postgres.require_migrated(connection)
        yield connection


def _one(connection: postgres.Connection, annotation_id: int) -> Annotation:
    row = connection.cursor(row_factory=class_row(Annotation)).execute(_SQL["one"], (annotation_id,)).fetchone()
    if row is None:
        raise UnknownAnnotation(str(annotation_id), [r[0] for r in connection.execute(_SQL["ids"]).fetchall()])
    return row


def _target(annotation: Annotation) -> str:
    return f"{annotation.kind} {annotation.name or annotation.annotation_id}"


def _checked(made: Annotation) -> Annotation:
    """The annotation when it can be stored.

    Raises:
        InvalidParameter: it cannot.
    """
    text = made.text.strip()
    if not text:
        raise InvalidParameter("an annotation needs a text that says what was", name="text", value=made.text)
    if len(text) > TEXT_CHARACTERS_MAX:
        raise InvalidParameter(
            f"a text of {len(text):,} characters is too long for an annotation, at most {TEXT_CHARACTERS_MAX:,} are kept",
            name="text",
            value=text,
        )
    for name in ("text", "name", "version", "group", "topic", "source"):
        if "\x00" in (getattr(made, name) or ""):
            raise InvalidParameter(f"the {name} has a NUL in it, which PostgreSQL cannot keep", name=name)
    incident_name = made.name.strip() if made.name else None
    if (made.kind == "incident") != (incident_name is not None):
        raise InvalidParameter(
            "an incident needs a name, and nothing else has one: `evkit annotate incident INC-12`",
            name="name",
            value=made.name,
        )
    if made.kind == "incident" and made.at > datetime.now(UTC):
        raise InvalidParameter(
            f"an incident cannot begin in the future ({made.at.isoformat()})", name="at", value=made.at
        )
    if made.until is not None and made.until <= made.at:
        raise InvalidParameter(
            f"its end {made.until.isoformat()} must be after its start {made.at.isoformat()}",
            name="until",
            value=made.until,
        )
    return replace(made, text=text, name=incident_name)
