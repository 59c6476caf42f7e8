"""Which groups evkit's tables know, asked of every view: each once, from whichever table, without reading the tables."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings, strategies

from evkit.sql import named
from evkit.views.frame import groups_of

NAMES = strategies.sets(strategies.sampled_from(["billing", "Billing", "a", "b b", "é", "z" * 200, "0", "_"]))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(handled=NAMES, failed=NAMES, given_up=NAMES)
def test_groups_of_all_tables_are_known_once_and_sorted(evkit_system, past, handled, failed, given_up):
    past.sql("TRUNCATE evkit.inbox, evkit.attempt, evkit.dead_letter CASCADE")
    for n in range(2):
        for group in handled:
            past.handle(group, f"e{n}", 10)
        for group in failed:
            past.fail(group, f"e{n}", 10)
        for group in given_up:
            past.letter(group, f"e{n}", 10)

    with evkit_system.reading() as connection:
        of_views = groups_of(evkit_system, connection)
        dealt_with = [row[0] for row in connection.execute(named("inbox")["known_groups"]).fetchall()]

    assert of_views == sorted(handled | failed | given_up)
    assert dealt_with == sorted(handled | given_up)


@pytest.mark.parametrize("noun", ["lag", "inbox"])
def test_no_table_is_read_for_the_names_of_groups(evkit_system, past, noun):
    past.sql(
        'INSERT INTO evkit.attempt (consumer_group, event_id, event_type, topic, partition, "offset", attempt, failed_at,'
        " duration_seconds, error_class, error_message, stack_trace, fingerprint, disposition)"
        " SELECT 'billing', i::text, 't', 't', 0, i, 1, now(), 0, 'E', '', '', 'f', 'retry' FROM generate_series(1, 5000) i"
    )
    past.sql("ANALYZE evkit.attempt")

    with evkit_system.reading() as connection:
        plan = connection.execute(b"EXPLAIN " + named(noun)["known_groups"]).fetchall()

    assert "Seq Scan" not in str(plan)
