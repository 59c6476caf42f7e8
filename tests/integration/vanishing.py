"""A broker that goes away in the middle of a question: systems that count their questions, and what honest answers are."""

from __future__ import annotations

import functools
import math
import threading
from datetime import UTC, datetime, timedelta

from evkit import Event, kafka, postgres, views
from evkit.errors import BrokerRefused, BrokerUnreachable, EvkitError
from evkit.settings import Settings
from evkit.system import System
from evkit.window import Window
from tests.integration.handling import handle_all
from tests.integration.views.groups import commit
from tests.integration.views.test_journey import FROM_KAFKA

TIMEOUT_SECONDS = 1.0
# Each question has its timeout, and a view asks about ten; nothing waits for longer than all of them.
HANG_SECONDS = 90

GROUP, TOPIC = "billing", "order"
# Every view that asks Kafka, those among them that look into PostgreSQL too.
ASKING = sorted(FROM_KAFKA | {"annotations", "audit", "audit_counts", "timeline"})
_ARGUMENTS = {
    "lag_history": {"group": GROUP, "source": "offsets_log"},
    "rebalances": {"group": GROUP},
    "offset_resets": {"group": GROUP},
    "unread_keys": {"group": "theirs"},
    "scan": {"topic": TOPIC},
    "scan_plan": {"topic": TOPIC},
    "scan_coverage": {"topic": TOPIC},
    "journey": {"key": "k1"},
}


def filled(stack):
    """Twenty events, all handled by one group, three by another; nothing happens any more."""
    postgres.migrate(stack.postgres_dsn)
    system = System(settings_of(stack))
    kafka.create_topics(system.settings, {TOPIC: 2})
    handle_all(system, GROUP, [Event("order.placed", f"k{i % 5}", {"i": i}, topic=TOPIC) for i in range(20)])
    commit(system, "theirs", TOPIC, 3, 5)
    return stack


def seen(name, system):
    """The rows of a view; of `appended`, which has a row a bucket of time, always those of the same buckets."""
    given = {"window": _window(system.settings.bootstrap_servers)} if name == "appended" else {}
    return getattr(views, name)(system, **given, **_ARGUMENTS.get(name, {})).to_dicts()


@functools.cache
def _window(_servers):
    """One for each broker, as what happened there is all over when it is first looked at."""
    now = datetime.now(UTC)
    return Window(now - timedelta(hours=1), now)


def until_calm(name, system):
    """The same once the broker is itself again, with the questions counted that it takes."""

    def look():
        system.questions = 0
        return seen(name, system)

    return once_awake(look)


class Watched(System):
    """A system that tells before each question to the broker how many there were."""

    def __init__(self, settings):
        super().__init__(settings)
        self.questions = 0
        self.before_question = lambda _: None

    def asked(self):
        self.questions += 1
        self.before_question(self.questions)

    @property
    def admin(self):
        self.asked()
        return self.__dict__.setdefault("_admin", kafka.admin(self.settings))


def settings_of(stack):
    return Settings(
        profile="test",
        postgres_dsn=stack.postgres_dsn,
        kafka={"bootstrap.servers": stack.kafka_bootstrap_servers},
        kafka_timeout_seconds=TIMEOUT_SECONDS,
    )


def watch(system, monkeypatch):
    """Let the system count the consumers that are made too: each is a question."""
    made = kafka.consumer

    def consumer(*arguments, **named):
        system.asked()
        return made(*arguments, **named)

    monkeypatch.setattr(kafka, "consumer", consumer)
    return system


def once_awake(ask):
    """What a broker says that was just let go on: after a pause it has first to be let in by its controller."""
    while True:
        try:
            return ask()
        except (BrokerRefused, BrokerUnreachable):
            threading.Event().wait(0.2)


def outcome(name, ask):
    """What an answer is, or the error that it raised; fails when it hangs."""
    found = []

    def look():
        try:
            found.append(ask())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(HANG_SECONDS)
    assert found, f"{name} hangs"
    return found[0]


def require_honest(name, found, calm, log):
    """An error in a sentence; or rows that are among those of a calm broker, with null where something is not known."""
    if isinstance(found, EvkitError):
        assert "\n" not in str(found)
        return
    assert not isinstance(found, Exception), repr(found)
    keys = [c for c in ("group", "topic", "partition", "offset", "position", "event_id", "key", "at", "bucket_at")
            if calm and c in calm[0] and not (c == "at" and name != "rebalances")]  # fmt: skip
    for row in found:
        like = [other for other in calm if all(other[k] == row[k] for k in keys)]
        assert like, f"{name}: {row} was not there"
        for column, value in row.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool) and not column.endswith("_seconds"):
                assert any(is_same(value, other[column]) for other in like), f"{name}.{column}: {value}, {like}"
    if len(found) < len(calm):
        assert log.text, f"{name}: {len(calm) - len(found)} rows are gone, and nobody said so"


def is_same(value, other):
    return other is not None and not isinstance(other, datetime) and math.isclose(value, other, rel_tol=1e-6)
