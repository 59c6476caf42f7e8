"""What PostgreSQL had, seen again in a freeze."""

from __future__ import annotations

import inspect

import psycopg
import pytest
from polars.testing import assert_frame_equal
from psycopg.types.json import Jsonb

from evkit import views
from evkit.errors import FreezeRefused, NotInFreeze, UnknownGroup
from evkit.freeze import tables
from evkit.masking import Policy
from evkit.system import System
from evkit.window import Window
from tests.integration.views.test_journey import FROM_KAFKA

# The audit reads the topics, a comparison wants two windows, a journey an event.
FROM_TABLES = sorted(set(views.COLUMNS) - FROM_KAFKA - {"journey", "audit", "audit_counts", "compare"})


@pytest.fixture
def shop(past):
    """Events of before and of the last ten minutes: waiting, handled, tried, dead, redriven and replayed."""
    for n in range(60):
        past.write(f"e-{n:03}", 1200 - n * 20, published=1199 - n * 20 if n < 55 else None, key=f"k{n % 7}")
        if n < 50:
            past.handle("billing", f"e-{n:03}", 1195 - n * 20, written=1200 - n * 20)
        if n % 3 == 0 and n < 50:
            past.handle("shipping", f"e-{n:03}", max(1000 - n * 20, 1), written=1200 - n * 20)
        if n % 10 == 7:
            past.fail("shipping", f"e-{n:03}", 1100 - n * 18)
            past.fail("shipping", f"e-{n:03}", 1090 - n * 18, attempt=2, dead=True)
            past.letter("shipping", f"e-{n:03}", 1100 - n * 18, key=f"k{n % 7}", value=b"x" * n,
                        state="resolved" if n == 17 else "open")  # fmt: skip
    # Of long ago: an event that was handled again in the window, a group that stands still, a topic that is quiet.
    past.write("old-1", 90_000, published=89_990, topic="invoice")
    past.handle("billing", "old-1", 89_000, written=90_000, topic="invoice")
    past.fail("billing", "old-1", 89_500)
    past.handle("billing", "old-1", 30, written=90_000, topic="invoice", replay_id="r-1", generation=1)
    past.write("old-2", 200_000, published=199_999, topic="refund")
    past.handle("idle", "old-2", 199_000, written=200_000, topic="refund")
    past.letter("idle", "old-3", 300_000, topic="refund")
    past.sql("INSERT INTO evkit.audit (actor, act, target, plan) VALUES ('ada', 'replay.run', 'billing', '{\"n\": 1}')")
    past.sql(
        "INSERT INTO evkit.replay_run (replay_id, consumer_group, topics, from_time, dedupe, generation, ranges, actor)"
        " VALUES ('r-1', 'billing', ARRAY['order', 'pay, ment'], now(), 'honour', 0, '[]', 'ada')"
    )
    past.sql("INSERT INTO evkit.relay (name, settled_position) VALUES ('default', 55)")
    past.sql("UPDATE evkit.attempt SET code_version = CASE WHEN failed_at > %s THEN 'v2' ELSE 'v1' END", past.at(300))
    past.sql("INSERT INTO evkit.annotation (kind, at, text, version, actor, source) VALUES ('deploy', %s, 'v2', 'v2',"
             " 'ada', 'cli')", past.at(310))  # fmt: skip
    past.sql("INSERT INTO evkit.breaker (consumer_group, handler, state, fingerprint, error_class, error_message, keys,"
             " opened_at, probe_at, closed_at)"
             " VALUES ('shipping', 'shop.bill', 'closed', 'f1', 'KeyError', 'x', 12, %s, %s, %s)",
             past.at(200), past.at(190), past.at(180))  # fmt: skip
    # A rate that changes, and a key that failures have in common.
    for n in range(120):
        past.write(f"b-{n:03}", 120 - n, published=119.9 - n, topic="refund", key="hot" if n % 2 else f"cold-{n}")
        past.handle("shipping", f"b-{n:03}", 119.5 - n, written=120 - n, topic="refund")
        if n % 2:
            past.fail("shipping", f"b-{n:03}", 119.7 - n, topic="refund", fingerprint="f2")
    return past


def test_every_view_of_tables_is_the_same_frozen_also_when_the_live_data_is_gone(shop, evkit_system, frozen, still):
    system = frozen(shop.window(600))
    live, window = still(evkit_system, system.now()), Window.last("10m", now=system.now())
    takes_window = {name for name in FROM_TABLES if "window" in inspect.signature(getattr(views, name)).parameters}
    shown = {
        name: getattr(views, name)(live, **({"window": window} if name in takes_window else {})) for name in FROM_TABLES
    }

    halves = (
        Window(window.start, window.end - (window.end - window.start) / 2),
        Window(window.end - (window.end - window.start) / 2, window.end),
    )
    compared = views.compare(live, *halves), views.compare(live, b=window, versions=["v1", "v2"])
    shop.sql("TRUNCATE evkit.outbox, evkit.publication, evkit.inbox, evkit.attempt, evkit.dead_letter, evkit.audit")
    shop.sql("TRUNCATE evkit.annotation, evkit.breaker")

    assert {name for name, frame in shown.items() if frame.is_empty()} == set()
    for name, frame in shown.items():
        for given in ({"window": window}, {"window": "10m"}) if name in takes_window else ({},):
            assert_frame_equal(getattr(views, name)(system, **given), frame)
    assert all(len(frame) > 0 for frame in compared)
    assert_frame_equal(views.compare(system, *halves), compared[0])
    assert_frame_equal(views.compare(system, b=window, versions=["v1", "v2"]), compared[1])


def test_every_event_of_the_window_and_of_its_letters_has_its_whole_journey(shop, evkit_system, frozen):
    system = frozen(shop.window(600))

    for event_id in ("e-059", "e-040", "e-017", "e-007", "old-1", "old-3"):
        assert_frame_equal(views.journey(system, event_id), views.journey(evkit_system, event_id))
    assert {"attempt_failed", "replayed"} <= set(views.journey(system, "old-1")["stage"])


def test_every_value_of_every_table_comes_back_as_it_was(evkit_database, past, frozen):
    strange = "a,\"b\"\n\\.\n\r\t' ''\\N é\u202e"
    past.letter("g", strange, 5, key="", value=bytes(range(256)))
    past.letter("g", "no value", 5, key=None, value=None)
    past.sql("UPDATE evkit.dead_letter SET note = '', edit = %s", Jsonb({"difference": [1.5, None, strange]}))
    past.sql(
        "INSERT INTO evkit.outbox (id, aggregatetype, aggregateid, type, payload, headers, txid)"
        " VALUES (%s, '', 'NULL', 't', '{ \"a\" :  1e400}', '{\"x\":\"\"}', '18446744073709551615')",
        strange,
    )
    past.sql("INSERT INTO evkit.replay_range VALUES ('r', 't', 0, NULL, 0, 9, '{[1,3),[5,9)}')")
    past.sql("INSERT INTO evkit.parked_key VALUES ('g', 't', '\\x00ff', NULL, 1, 0, '2013-02-08 14:00:00.000001+01')")
    past.sql("INSERT INTO evkit.redrive_run (redrive_id, consumer_group, state, run_by, stop_at_failure, per_second_max,"
             " fingerprints, actor) VALUES ('r', 'g', 'done', 'process', true, 0.1, '{}', '')")  # fmt: skip

    system = frozen(past.window(600), payloads=True)

    with psycopg.connect(evkit_database) as live, system.reading() as copy:
        copied = tables.catalogue(live)
        assert len(copied) > 20
        for table, of_table in copied.items():
            if table != "audit":
                query = f"SELECT t::text FROM evkit.{table} t ORDER BY {', '.join(of_table.key)}".encode()
                assert copy.execute(query).fetchall() == live.execute(query).fetchall(), table
    with psycopg.connect(evkit_database) as live:
        acts = live.execute("SELECT act, result FROM evkit.audit").fetchall()
    assert [act for act, _ in acts] == ["freeze.payloads"]
    assert acts[0][1]["rows"] > 5


def test_without_payloads_none_is_in_the_files_and_asking_for_one_is_refused(past, frozen, tmp_path):
    past.letter("g", "e-1", 5, value=b"SECRET")
    past.sql("UPDATE evkit.dead_letter SET header_values = ARRAY['SECRET'::bytea, NULL]")
    past.sql(
        "INSERT INTO evkit.outbox (aggregatetype, aggregateid, type, payload) VALUES ('a', 'b', 'c', '\"SECRET\"')"
    )

    system = frozen(past.window(600))

    import pyarrow.parquet

    for file in (tmp_path / "evidence").rglob("*.parquet"):
        told = str(pyarrow.parquet.read_table(file).to_pylist())
        assert "SECRET" not in told, file
        assert b"SECRET".hex() not in told, file
    assert views.dead_letters(system)["value_bytes"].to_list() == [6]
    with pytest.raises(NotInFreeze, match="payloads and headers of events"):
        views.dead_letters(system, payload=True)
    with pytest.raises(NotInFreeze, match="payloads"), system.reading() as connection:
        connection.execute("SELECT payload FROM evkit.outbox")


def test_a_freeze_has_no_header_that_a_policy_names_no_stack_and_says_what_is_about_people(
    past, evkit_system, frozen, tmp_path
):
    past.letter("g", "e-1", 5)
    past.fail("g", "e-1", 5)
    past.sql("UPDATE evkit.dead_letter SET stack_trace = 'at SECRET', source_facts = '{\"said\": \"SECRET\"}'")
    past.sql("UPDATE evkit.attempt SET stack_trace = 'at SECRET'")
    headers = {"tenant": "SECRET", "region": "eu", 'odd "name"': "x"}
    past.write("e-1", 9, published=8)
    past.write("e-2", 9, published=8)
    past.sql("UPDATE evkit.outbox SET headers = %s WHERE id = 'e-1'", Jsonb(headers))
    policies = (Policy(header="tenant", topic="other*"), Policy(field="a", action="hash").keyed("x" * 16))
    masked = System(evkit_system.settings.model_copy(update={"masking": policies, "masking_key": "x" * 16}))

    system = frozen(past.window(600), system=masked)

    import pyarrow.parquet

    for file in (tmp_path / "evidence").rglob("*.parquet"):
        assert "SECRET" not in str(pyarrow.parquet.read_table(file).to_pylist()), file
    with system.reading() as connection:
        kept = dict(connection.execute("SELECT id, headers FROM evkit.outbox").fetchall())
    assert kept == {"e-1": headers | {"tenant": "***"}, "e-2": None}
    assert "x" * 16 not in (tmp_path / "evidence" / "manifest.json").read_text()
    assert any("error messages" in kind for kind in system.manifest.personal)
    assert [(p.header, p.field, p.action) for p in system.settings.masking] == [
        ("tenant", None, "mask"), (None, "a", "mask")
    ]  # fmt: skip


def test_payloads_of_a_freeze_are_masked_for_who_looks_at_it_whoever_that_is(past, evkit_system, frozen, monkeypatch):
    past.letter("g", "e-1", 5, value=b'{"a": "SECRET"}')
    policies = (Policy(field="a", action="hash").keyed("x" * 16),)
    masked = System(evkit_system.settings.model_copy(update={"masking": policies, "masking_key": "x" * 16}))

    without_key = frozen(past.window(600), system=masked, payloads=True)
    monkeypatch.setenv("EVKIT_MASKING_KEY", "x" * 16)
    with_key = frozen(past.window(600), system=masked, payloads=True, name="with_key")

    assert views.dead_letters(without_key, payload=True)["value"].to_list() == ['{"a":"***"}']
    live = views.dead_letters(masked, payload=True)["value"].to_list()
    assert views.dead_letters(with_key, payload=True)["value"].to_list() == live
    assert "hash:" in live[0]


def test_a_window_outside_the_freeze_is_refused_and_not_empty(shop, frozen):
    system = frozen(shop.window(600))

    for view in (views.errors, views.latency, views.acts):
        with pytest.raises(NotInFreeze, match=r"not in this freeze: it has .*Z to .*Z, and asked is"):
            view(system, "2h")
    with pytest.raises(UnknownGroup, match="did you mean 'billing'"):
        views.latency(system, "5m", group="biling")


def test_a_past_window_is_frozen_without_what_came_after_it(shop, evkit_system, frozen, still):
    window = Window(shop.at(900), shop.at(500))
    system = frozen(window)
    live = still(evkit_system, system.now())

    for name in ("errors", "error_rate", "latency", "publish_rate", "throughput", "relay_lag_over_time"):
        assert_frame_equal(getattr(views, name)(system, window), getattr(views, name)(live, window))
    with pytest.raises(NotInFreeze):
        views.errors(system, "5m")
    with system.reading() as connection:
        (ids,) = connection.execute("SELECT array_agg(id) FROM evkit.outbox").fetchone()
    assert "e-020" in ids
    assert "e-050" not in ids


def test_nothing_can_be_written_to_a_freeze(shop, frozen):
    system = frozen(shop.window(600))

    with pytest.raises(FreezeRefused, match="evkit redrive would write, and freeze:.* is a freeze: evidence is"):
        system.writing("evkit redrive")
    with (
        pytest.raises(psycopg.errors.InsufficientPrivilege),
        psycopg.connect(system.settings.postgres_dsn) as connection,
    ):
        connection.execute("DELETE FROM evkit.outbox")
