"""Everything that evkit refuses or cannot do, as one tree.

Each message says what happened, with which values, and what to do.

    EvkitError
    ├── UsageError               a name, parameter or setting that is wrong                          exit code 2
    │   ├── SettingsError        evkit.toml or the environment does not say what is needed
    │   ├── MissingExtra         an optional part is not installed
    │   ├── InvalidParameter     a notebook or command parameter that is unknown or of the wrong type
    │   └── UnknownName          nothing has this name; near matches are in `suggestions`
    │       └── UnknownGroup, UnknownTopic, UnknownEvent, UnknownLetter, UnknownReplay, UnknownRedrive, UnknownRewind,
    │           UnknownView, UnknownNotebook, UnknownKey, UnknownBusinessId, UnknownIncident, UnknownAnnotation,
    │           UnknownVersion
    ├── Refused                  the request is understood and would do harm                         exit code 1
    │   ├── InvalidEvent         an event that must not enter the outbox (size, topic, type, JSON)
    │   ├── SchemaIncompatible   a change of an event type that old consumers would not survive
    │   ├── SchemaMismatch       a payload that its event type's model does not accept
    │   ├── RedriveRefused, EditRefused, PurgeRefused, ImportRefused, ReplayRefused, AnnotationRefused
    │   ├── BrokerRefused        Kafka answers, and says no: a wrong password, no authorisation
    │   │   └── OffsetsLogRefused  we may not read `__consumer_offsets`: what a group did in the past stays unknown
    │   ├── FreezeRefused        a freeze that cannot be made, or one that was changed since
    │   │   └── NotInFreeze      what is asked is not in the freeze that is looked at
    │   ├── RelayStopped         the brokers will never take this relay's events until somebody does something
    │   └── NotMigrated          the database has no evkit tables, or older ones
    │       └── NoPostgres       there is no database: a Kafka alone
    ├── Unreachable              a server does not answer                                            exit code 3
    │   ├── BrokerUnreachable
    │   ├── DatabaseUnreachable
    │   ├── QueryTimeout         PostgreSQL answers, but not in the time that a look may take
    │   └── StackNotRunning      the embedded stack is needed and not up
    ├── StackError               the embedded stack cannot start or stop                             exit code 3
    ├── Undecodable              a record that cannot be read; a consumer makes a dead letter of one that is no event
    ├── NoHandler                an event of a type that a consumer does not handle, where that counts as an error
    └── TryLater                 raised by handlers: what they need is away, and the event is not to blame

Values stay on the exception as attributes. The CLI prints the message alone and ends with `exit_code`
(design: 0 done, 1 refused or found something, 2 wrong usage, 3 a server cannot be reached).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, ClassVar


class EvkitError(Exception):
    """Base of everything that evkit raises on purpose."""

    exit_code: ClassVar[int] = 1


class UsageError(EvkitError):
    """Raised when a command, parameter or setting is wrong."""

    exit_code = 2


class SettingsError(UsageError):
    """Raised when settings are missing, unknown or contradict each other."""


class MissingExtra(UsageError):
    """Raised when a part is used that this installation was made without.

    Attributes: extra (name of the extra to install).
    """

    def __init__(self, extra: str, needed_for: str) -> None:
        self.extra = extra
        super().__init__(f"{needed_for} needs the '{extra}' extra: pip install 'evkit[{extra}]'")


class InvalidParameter(UsageError):
    """Raised when a parameter is unknown or cannot be read as its type.

    Attributes: name, value (as given; None when the name itself is unknown).
    """

    def __init__(self, message: str, *, name: str, value: object = None) -> None:
        self.name = name
        self.value = value
        super().__init__(message)


def closest(name: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """The names most like `name`, best first; empty when none is near."""
    known = list(known)
    by_case = {k.lower(): k for k in known}
    found = difflib.get_close_matches(name.lower(), list(by_case), n=limit, cutoff=0.55)
    return [by_case[f] for f in found]


class UnknownName(UsageError):
    """Raised when nothing has the given name.

    Attributes: name, suggestions (near matches, best first), known (all names there are, sorted).
    """

    noun: ClassVar[str] = "name"
    plural: ClassVar[str] = "names"
    where: ClassVar[str] = "here"

    def __init__(self, name: str, known: Iterable[str] = (), *, where: str | None = None) -> None:
        self.name = name
        self.known = sorted(set(known))
        self.suggestions = closest(name, self.known)
        message = f"{self.noun} '{name}' is not known {where or self.where}"
        if self.suggestions:
            message += "; did you mean " + " or ".join(f"'{s}'" for s in self.suggestions) + "?"
        elif self.known:
            shown = ", ".join(self.known[:8]) + (", …" if len(self.known) > 8 else "")
            message += f"; known {self.plural}: {shown}"
        else:
            message += f"; there are no {self.plural} yet"
        super().__init__(message)


class UnknownGroup(UnknownName):
    """Raised when neither the cluster nor evkit's tables know a consumer group."""

    noun, plural = "consumer group", "consumer groups"


class UnknownTopic(UnknownName):
    """Raised when the cluster has no such topic."""

    noun, plural = "topic", "topics"


class UnknownEvent(UnknownName):
    """Raised when no table knows an event id."""

    noun, plural = "event", "events"


class UnknownKey(UnknownName):
    """Raised when no table knows an event with this key."""

    noun, plural = "key", "keys"


class UnknownBusinessId(UnknownName):
    """Raised when no event carries this correlation id, or has this value at that path of its payload."""

    noun, plural = "business id", "business ids"


class UnknownLetter(UnknownName):
    """Raised when there is no dead letter with this id."""

    noun, plural = "dead letter", "dead letters"


class UnknownReplay(UnknownName):
    """Raised when there is no replay run with this id."""

    noun, plural = "replay", "replays"


class UnknownRewind(UnknownName):
    """Raised when there is no rewind of a group's offsets with this id."""

    noun, plural = "rewind", "rewinds"


class UnknownRedrive(UnknownName):
    """Raised when there is no redrive run with this id."""

    noun, plural = "redrive", "redrives"


class UnknownView(UnknownName):
    """Raised when there is no view, monitor or figure of this name."""

    noun, plural = "view", "views"


class UnknownNotebook(UnknownName):
    """Raised when there is no notebook or report of this name."""

    noun, plural = "notebook", "notebooks"


class UnknownIncident(UnknownName):
    """Raised when no incident of this name was written down, or is there to play."""

    noun, plural = "incident", "incidents"


class UnknownVersion(UnknownName):
    """Raised when no event of a window was handled by this code version."""

    noun, plural = "code version", "code versions"


class UnknownAnnotation(UnknownName):
    """Raised when there is no annotation with this id."""

    noun, plural = "annotation", "annotations"


class Refused(EvkitError):
    """Raised when doing what was asked would do harm."""


class InvalidEvent(Refused):
    """Raised where the event is written, while the developer can still see it.

    Attributes: event_id, event_type.
    """

    def __init__(self, message: str, *, event_id: str, event_type: str) -> None:
        self.event_id = event_id
        self.event_type = event_type
        super().__init__(f"event {event_id} ('{event_type}') {message}")


class SchemaIncompatible(Refused):
    """Raised when an event type changed in a way that its consumers of today would not survive.

    Attributes: findings (one sentence each).
    """

    def __init__(self, findings: list[str]) -> None:
        self.findings = findings
        super().__init__("; ".join(findings))


class SchemaMismatch(Refused):
    """Raised when a payload does not fit the model that its reader or writer declared for it."""


class RedriveRefused(Refused):
    """Raised when letters must not be redriven as asked."""


class EditRefused(Refused):
    """Raised when a dead letter cannot be edited as asked."""


class PurgeRefused(Refused):
    """Raised when letters must not be purged as asked."""


class ImportRefused(Refused):
    """Raised when dead letters of another framework must not be imported as asked."""


class ReplayRefused(Refused):
    """Raised when a replay cannot start or go on as asked."""


class AnnotationRefused(Refused):
    """Raised when an annotation cannot be written or changed as asked."""


class BrokerRefused(Refused):
    """Raised when Kafka answers, and the answer is no: a wrong password, no authorisation, a topic that it does not have.

    Attributes: bootstrap_servers, cause (confluent-kafka's KafkaError).
    """

    def __init__(self, bootstrap_servers: str, cause: Any) -> None:
        self.bootstrap_servers = bootstrap_servers
        self.cause = cause
        super().__init__(f"Kafka at {bootstrap_servers} refuses: {cause.str()} ({cause.name()})")


class OffsetsLogRefused(BrokerRefused):
    """Raised when Kafka does not let us read `__consumer_offsets`; `views.lag` and evkit's tables do not need it.

    Attributes: bootstrap_servers, cause (confluent-kafka's KafkaError).
    """

    def __init__(self, bootstrap_servers: str, cause: Any) -> None:
        super().__init__(bootstrap_servers, cause)
        self.args = (
            f"Kafka at {bootstrap_servers} does not let us read __consumer_offsets ({cause.name()}): what groups committed "
            "in the past cannot be rebuilt; allow READ and DESCRIBE on this topic, look at the lag of now "
            "(`evkit view lag`), or let `evkit sample` run from now on",
        )


class FreezeRefused(Refused):
    """Raised when a freeze cannot be made as asked, or what lies in its folder is not what was frozen."""


class NotInFreeze(FreezeRefused):
    """Raised when a freeze is asked for what was not copied into it; the live system may know."""

    def __init__(self, what: str) -> None:
        super().__init__(f"not in this freeze: {what}")


class RelayStopped(Refused):
    """Raised when a relay ends because waiting would not help: no authorisation, or another Kafka cluster."""


class NotMigrated(Refused):
    """Raised when evkit's tables are missing or older than this evkit."""


class NoPostgres(NotMigrated):
    """Raised where evkit's tables are needed and no PostgreSQL is configured; what needs Kafka alone works.

    Attributes: what (that needs it).
    """

    def __init__(self, what: str = "this") -> None:
        self.what = what
        super().__init__(
            f"not available here: {what} needs PostgreSQL with evkit's tables, and the settings name none; "
            "set postgres_dsn in evkit.toml, or EVKIT_POSTGRES_DSN, where there is one"
        )


class Unreachable(EvkitError):
    """Raised when a server does not answer. The address is in the message, a password never is."""

    exit_code = 3


class BrokerUnreachable(Unreachable):
    """Raised when no Kafka broker answers in time.

    Attributes: bootstrap_servers.
    """

    def __init__(self, bootstrap_servers: str, reason: str) -> None:
        self.bootstrap_servers = bootstrap_servers
        super().__init__(
            f"no Kafka broker answers at {bootstrap_servers} ({reason}): "
            "is it up (`evkit status` for the embedded stack), and is the address right?"
        )


class DatabaseUnreachable(Unreachable):
    """Raised when PostgreSQL does not answer or does not let us in.

    Attributes: address (host:port/database, without user or password).
    """

    def __init__(self, address: str, reason: str) -> None:
        self.address = address
        super().__init__(
            f"PostgreSQL does not answer at {address} ({reason}): "
            "is it up (`evkit status` for the embedded stack), and is the address right?"
        )


class QueryTimeout(Unreachable):
    """Raised when a view's query runs into `snapshot_seconds_max`, another into `statement_timeout_seconds`: nothing was
    measured."""


class StackNotRunning(Unreachable):
    """Raised when nothing says where PostgreSQL and Kafka are and the embedded stack is not up."""


class StackError(EvkitError):
    """Raised when the embedded stack cannot be started, stopped or healed."""

    exit_code = 3


class Undecodable(EvkitError):
    """Raised when a record is not an event that evkit can read, or not what its topic is made of.

    Attributes: reason (what is missing or broken).
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class NoHandler(EvkitError):
    """Raised when an event's type has no handler, in a consumer that takes this for an error (`unknown="dead"`).

    Attributes: event_type.
    """

    def __init__(self, event_type: str, known: Iterable[str]) -> None:
        self.event_type = event_type
        have = ", ".join(known) or "none"
        super().__init__(
            f"no handler for '{event_type}' (there are: {have}), and this consumer skips nothing (unknown=\"dead\"): "
            "deploy a handler for it, then redrive"
        )


class TryLater(EvkitError):
    """Raise it in a handler when what it needs is away: the event is tried again later, and no attempt is counted.

        raise evkit.TryLater("the payment service is in maintenance", seconds=60)

    Attributes: seconds (how long to wait; None: the consumer's backoff).
    """

    def __init__(self, message: str, *, seconds: float | None = None) -> None:
        self.seconds = seconds
        super().__init__(message)
