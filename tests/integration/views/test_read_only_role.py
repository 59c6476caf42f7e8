"""What only looks may be let in as a role that only looks: `evkit_reader` of evkit/roles.py sees what the owner sees."""

from __future__ import annotations

import inspect
import os
from datetime import UTC

import psycopg
import pytest
from psycopg import sql as compose
from psycopg.conninfo import conninfo_to_dict

from evkit import kafka, postgres, roles, views
from evkit.system import System
from evkit.window import Window
from tests.integration.freeze.conftest import Still
from tests.integration.freeze.test_tables import shop  # noqa: F401
from tests.integration.views.groups import commit, commit_as_member
from tests.integration.views.rows import deal, fail, write

OF_ONE_GROUP = {"lag_history", "rebalances", "offset_resets", "unread_keys"}
OF_ONE_TOPIC = {"scan", "scan_plan", "scan_coverage", "appended", "audit", "audit_counts"}
# Of these a journey needs a question, and a difference is more than noise; the others look at more than without it.
MORE = {
    "journey": ("journey", {"event_id": "e-017"}),
    "differs": ("differs", {"noise": True}),
    "dead_letters of any payload": ("dead_letters", {"payload": True}),
    "impact by a path": ("impact", {"by": "$.customer"}),
    "impact by a function": ("impact", {"by": lambda event: event["key"], "payload": True}),
    "differs by a path": ("differs", {"attributes": ["$.customer"], "noise": True}),
    "journey of a key": ("journey", {"key": "k1"}),
    "journey of a business id": ("journey", {"business_id": "$.customer=1"}),
    "lag_history of samples": ("lag_history", {"source": "sample"}),
    "lag_history of the inbox": ("lag_history", {"source": "inbox"}),
    "scan of payloads": ("scan", {"payload": True}),
}
ASKED = {name: (name, {}) for name in views.COLUMNS} | MORE
# What the broker is asked has the time of the question.
OF_NOW = ["measured_at"]


@pytest.fixture
def place(shop, evkit_system, evkit_topic, evkit_group):  # noqa: F811
    """A topic and a group that Kafka knows too, in a system with a past of every kind."""
    topic, group = evkit_topic("order"), evkit_group("billing")
    producer = kafka.producer(evkit_system.settings)
    for n in range(30):
        event_id = f"t{n}" if n != 9 else "another"  # that of t9 was lost
        producer.produce(topic, b"{}", f"k{n}", headers={"ce_id": event_id.encode(), "ce_type": b"order.placed"})
    assert producer.flush(60) == 0
    commit_as_member(evkit_system, group, topic, 20)
    commit(evkit_system, group, topic, 25, 5, 8)
    sample = (
        "INSERT INTO evkit.lag_sample (cluster_id, consumer_group, topic, partition, sampled_at, every_seconds,"
        " committed_offset, start_offset, stable_offset, end_offset) VALUES (%s, %s, %s, 0, %s, 15, 8, 0, 30, 30)"
    )
    for ago in range(0, 600, 15):
        shop.sql(sample, kafka.cluster_id(evkit_system.settings), group, topic, shop.at(ago + 1))
    for n in range(10):
        write(
            shop, f"t{n}", 500 - n, topic=topic, key=f"k{n}", payload={"customer": n % 2}, published=400 - n, offset=n
        )
        version = "v1" if n < 4 else "v2"
        if n < 8:
            deal(shop, group, f"t{n}", 300 - n, created=500 - n, topic=topic, offset=n, code_version=version)
        if n % 3 == 0:
            fail(shop, group, f"t{n}", 310 - n, topic=topic, offset=n, key=f"k{n}", code_version=version)
    for n in range(200):
        fail(shop, group, f"many{n}", 250 - n, topic=topic, disposition="dead")
    shop.sql(
        "INSERT INTO evkit.breaker (consumer_group, handler, state, fingerprint, error_class, error_message, keys,"
        " probe_at) VALUES ('billing', 'shop.bill', 'open', 'f1', 'KeyError', 'total', 7, now())"
    )
    shop.sql(
        "INSERT INTO evkit.annotation (kind, at, text, version, actor, source) VALUES ('deploy', %s, 'v2 of billing', 'v2',"
        " 'ada', 'cli')",
        shop.at(350),
    )
    return topic, group


@pytest.fixture
def reader(evkit_database):
    """A login that is a member of the role for who only looks, and of no other."""
    prefix = f"t{os.urandom(4).hex()}"
    role, login = compose.Identifier(f"{prefix}_reader"), compose.Identifier(f"{prefix}_login")
    with postgres.connect(evkit_database, autocommit=True) as connection:
        assert roles.apply(connection, prefix) is None
        connection.execute(compose.SQL("CREATE ROLE {} LOGIN IN ROLE {}").format(login, role))
    yield f"{prefix}_login"
    with postgres.connect(evkit_database, autocommit=True) as connection:
        for name in (f"{prefix}_login", *roles.expected(prefix)):
            of = compose.Identifier(name)
            connection.execute(compose.SQL("DROP OWNED BY {}").format(of))
            connection.execute(compose.SQL("DROP ROLE {}").format(of))


@pytest.fixture
def both(place, evkit_system, reader):
    """The system as its owner sees it and as the reader does, at one moment: clocks make no difference between them."""
    with psycopg.connect(evkit_system.settings.postgres_dsn) as connection:
        (now,) = connection.execute("SELECT clock_timestamp()").fetchone()
    owner = Still(evkit_system, now.astimezone(UTC))
    with psycopg.connect(evkit_system.settings.postgres_dsn, autocommit=True) as connection:
        connection.execute(compose.SQL("GRANT USAGE ON SCHEMA frozen TO {}").format(compose.Identifier(reader)))
    dsn = owner.settings.postgres_dsn.replace("//postgres@", f"//{reader}@")
    seen_by_reader = Still.__new__(Still)
    System.__init__(seen_by_reader, owner.settings.model_copy(update={"postgres_dsn": dsn}))
    seen_by_reader.at = owner.at
    return owner, seen_by_reader


def test_a_reader_sees_in_every_view_what_the_owner_sees(both, place):
    """One past for all views: it takes longer to make than to look at."""
    owner, reader = both
    with reader.reading() as connection:
        user = connection.execute("SELECT current_user, pg_has_role('postgres', 'MEMBER')").fetchone()
    assert user == (conninfo_to_dict(reader.settings.postgres_dsn)["user"], False)

    empty, differing = [], []
    for asked, (name, more) in ASKED.items():
        view, given = getattr(views, name), arguments(name, owner.at, *place) | more
        expected = view(owner, **given)
        seen = view(reader, **given)
        if expected.is_empty():
            empty.append(asked)
        if not seen.drop(OF_NOW, strict=False).equals(expected.drop(OF_NOW, strict=False)):
            differing.append(asked)

    assert (empty, differing) == ([], [])


def arguments(name, now, topic, group):
    given = {}
    if name in OF_ONE_GROUP:
        given["group"] = group
    if name in OF_ONE_TOPIC:
        given["topic"] = topic
    if "window" in inspect.signature(getattr(views, name)).parameters and name != "journey":
        given["window"] = Window.last("10m", now=now)
    return given
