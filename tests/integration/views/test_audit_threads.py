"""An audit reads tables in threads of their own, and topics of which it keeps nothing."""

from __future__ import annotations

import pytest

from evkit import views
from evkit.errors import QueryTimeout
from evkit.system import System
from evkit.views.audit import rows
from tests.integration.views.groups import produce
from tests.integration.views.planted import Planted
from tests.integration.views.rows import write


def test_a_page_of_an_audit_that_takes_too_long_is_cut_off(evkit_system, evkit_topic, evkit_group, monkeypatch):
    """Its pages are read in threads of their own, which hold no snapshot for longer either."""
    planted = Planted(evkit_system, evkit_topic(), evkit_group(), evkit_group(), events=100, partitions=1).make()
    system = System(evkit_system.settings.model_copy(update={"snapshot_seconds_max": 0.5}))
    read = rows.Range.events

    def slow(page):
        page.connection.execute("SELECT pg_sleep(2)")
        return read(page)

    monkeypatch.setattr(rows.Range, "events", slow)

    with pytest.raises(QueryTimeout, match=r"views\.audit was cut off"):
        views.audit(system, planted.window(), topic=planted.topic)


def test_a_topic_whose_records_are_all_without_an_id_is_audited(evkit_system, evkit_topic, past):
    topic = evkit_topic()
    produce(evkit_system, topic, 5)
    write(past, "e1", 100, topic=topic, published=99, offset=2)

    assert views.audit(evkit_system, past.window(600), topic=topic)["verdict"].to_list() == ["missing"]
