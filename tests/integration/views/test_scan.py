"""Records of a topic as rows: which they are, what they hold, and what was not read."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from evkit import kafka, kafka_admin, views
from evkit.errors import InvalidParameter, UnknownTopic, UsageError
from evkit.kafka import TopicPartition
from evkit.masking import Policy
from evkit.system import System
from evkit.views.frame import rows_of
from evkit.views.scan.reader import Reader
from evkit.window import Window
from tests.integration.views.groups import commit, produce

ALL = (0, 2**62)


def send(system, topic, *records):
    """Records given as keyword arguments of `produce`, in this order."""
    producer = kafka.producer(system.settings)
    for record in records:
        producer.produce(topic, **{"partition": 0, **record})
    assert producer.flush(60) == 0


def event(event_id, event_type, payload, **more):
    headers = {"ce_specversion": b"1.0", "ce_id": event_id.encode(), "ce_type": event_type.encode(), **more}
    return {"value": json.dumps(payload).encode(), "key": event_id[:1].encode(), "headers": headers}


@pytest.mark.parametrize("frame_backend", ["polars", "pandas"])
def test_a_record_of_any_writer_is_a_row_with_what_it_says_of_itself(evkit_system, evkit_topic, frame_backend):
    topic = evkit_topic()
    structured = {"specversion": "1.0", "id": "s1", "type": "order.paid", "source": "/x", "data": {"total": 7}}
    send(
        evkit_system,
        topic,
        event("a1", "order.placed", {"total": 5, "customer": {"name": "Ada"}}, tenant=b"acme"),
        {"value": json.dumps(structured).encode(), "headers": {"content-type": b"application/cloudevents+json"}},
        {"value": b'{"total": [1]}', "key": b"order-1", "headers": {"id": b"d1", "eventType": b"order.sent"}},
        {"value": b"\xff\xfe", "key": b"\xff", "headers": [("tenant", b"a"), ("tenant", b"b")]},
        {"value": None, "key": b"gone"},
        {"value": b'{"total": null}'},
    )

    found, coverage = views.scan_with_coverage(
        evkit_system, topic, offsets=ALL, headers=["tenant"], fields=["total", "customer.name"], frames=frame_backend
    )

    columns = ("offset", "key", "event_id", "event_type", "value_bytes", "header:tenant", "field:total",
               "field:customer.name")  # fmt: skip
    rows = rows_of(found, "scan")
    assert [tuple(row[c] for c in columns) for row in rows] == [
        (0, "a", "a1", "order.placed", 41, "acme", "5", "Ada"),
        (1, None, "s1", "order.paid", len(json.dumps(structured)), None, "7", None),
        (2, "order-1", "d1", "order.sent", 14, None, "[1]", None),
        (3, "\\xff", None, None, 2, "b", None, None),
        (4, "gone", None, None, None, None, None, None),
        (5, None, None, None, 15, None, None, None),
    ]
    assert {(row["topic"], row["partition"], row["timestamp_type"]) for row in rows} == {(topic, 0, "append")}
    assert all(abs(datetime.now(UTC) - row["timestamp"]) < timedelta(minutes=5) for row in rows)
    (covered,) = rows_of(coverage, "scan_coverage")
    assert (covered["scanned"], covered["matched"], covered["unparsed"], covered["complete"]) == (6, 6, 1, True)


def test_payloads_are_shown_only_to_who_asks(evkit_system, evkit_topic):
    topic = evkit_topic()
    send(evkit_system, topic, {"value": b'{"a": 1}', "headers": [("n", b"\xff"), ("n", None)]}, {"value": b"\xff"})

    plain = views.scan(evkit_system, topic, offsets=ALL)
    full = views.scan(evkit_system, topic, offsets=ALL, payload=True)

    assert plain.columns == [c.name for c in views.COLUMNS["scan"]]
    assert full["value"].to_list() == ['{"a": 1}', "\\xff"]
    assert full["headers"].to_list() == ['[["n", "\\\\xff"], ["n", null]]', "[]"]


@pytest.mark.parametrize(
    ("where", "offsets"),
    [
        ("key=b", [1, 3]),
        ("key!=b", [0, 2, 4]),
        ("event_type=order.paid", [2]),
        (["event_type~order", "key=a"], [0, 2]),
        ("event_id=", []),
        ("header:tenant=acme", [1, 2]),
        ("header:tenant!=acme", [0, 3, 4]),
        ("field:total=5", [0]),
        ("field:customer.name~d", [1]),
        (["field:total=6", "key=b"], [1]),
        ("field:no.such=1", []),
    ],
)
def test_records_are_chosen_by_key_type_header_and_field(evkit_system, evkit_topic, where, offsets):
    topic = evkit_topic()
    send(
        evkit_system,
        topic,
        event("a1", "order.placed", {"total": 5}),
        event("b1", "order.placed", {"total": 6, "customer": {"name": "Ada"}}, tenant=b"acme"),
        event("a2", "order.paid", {"total": "7"}, tenant=b"acme"),
        {"value": b"no json", "key": b"b"},
        {"value": None},
    )

    found, coverage = views.scan_with_coverage(evkit_system, topic, offsets=ALL, where=where)

    assert found["offset"].to_list() == offsets
    assert (coverage["matched"].sum(), coverage["scanned"].sum()) == (len(offsets), 5)
    assert views.scan_coverage(evkit_system, topic, offsets=ALL, where=where)["matched"].sum() == len(offsets)


def test_a_window_is_by_the_records_timestamps_also_where_they_go_back(evkit_system, evkit_topic):
    topic = evkit_topic(**{"message.timestamp.type": "CreateTime"})
    now = datetime.now(UTC)
    for ago in (300, 200, 500, 100, 50):
        produce(evkit_system, topic, 1, at=now - timedelta(seconds=ago))

    window = Window(now - timedelta(seconds=250), now - timedelta(seconds=60))
    found = views.scan(evkit_system, topic, window)

    assert found["offset"].to_list() == [1, 3]
    assert found["timestamp_type"].to_list() == ["create", "create"]
    assert views.scan(evkit_system, topic, window, offsets=(2, 9))["offset"].to_list() == [3]
    assert views.scan(evkit_system, topic, "10s").is_empty()
    assert views.scan(evkit_system, topic).height == 5


def test_a_window_that_ends_within_a_millisecond_has_the_records_of_that_millisecond(evkit_system, evkit_topic):
    topic = evkit_topic(**{"message.timestamp.type": "CreateTime"})
    at = datetime.now(UTC).replace(microsecond=123_000) - timedelta(minutes=1)
    for ms in (0, 1):
        produce(evkit_system, topic, 1, at=at + timedelta(milliseconds=ms))

    ends_there = Window(at - timedelta(seconds=1), at + timedelta(microseconds=400))
    begins_there = Window(at + timedelta(microseconds=400), at + timedelta(seconds=1))

    assert views.scan_plan(evkit_system, topic, ends_there)["records"].to_list() == [1]
    assert views.scan(evkit_system, topic, ends_there)["offset"].to_list() == [0]
    assert views.scan(evkit_system, topic, begins_there)["offset"].to_list() == [1]


def test_a_plan_says_what_a_scan_reads_and_what_came_later_is_not_in_it(evkit_system, evkit_topic):
    topic = evkit_topic(partitions=3)
    send(evkit_system, topic, *({"value": b"x" * 90, "key": b"k" * 10} for _ in range(200)))
    produce(evkit_system, topic, 5, partition=1)

    plan = views.scan_plan(evkit_system, topic)
    produce(evkit_system, topic, 9, partition=1)
    offsets = {r["partition"]: (r["from_offset"], r["until_offset"]) for r in plan.to_dicts()}
    found = views.scan(evkit_system, topic, offsets=offsets)

    assert plan["records"].to_list() == [200, 5, 0]
    assert plan["record_bytes"].to_list()[:2] == [100, 1]
    assert plan["bytes"].to_list() == [20_000, 5, 0]
    assert all(s > 0 for s in plan["seconds"].to_list()[:2])
    assert found.height == 205
    assert views.scan(evkit_system, topic, partitions=[1])["partition"].unique().to_list() == [1]


def test_what_a_limit_left_is_named_and_going_on_from_there_gives_each_record_once(evkit_system, evkit_topic, caplog):
    topic = evkit_topic(partitions=3)
    for p in range(3):
        produce(evkit_system, topic, 40, partition=p)
    wanted = {(p, o) for p in range(3) for o in range(40)}
    offsets, seen, rounds = dict.fromkeys(range(3), (0, 40)), [], 0

    while offsets:
        found, coverage = views.scan_with_coverage(evkit_system, topic, offsets=offsets, rows_max=17)
        seen += zip(found["partition"], found["offset"], strict=True)
        rest = coverage.filter(~coverage["complete"]).to_dicts()
        assert all(row["reason"] == "row_limit" for row in rest)
        assert coverage["scanned"].sum() == coverage["matched"].sum() == found.height <= 17
        offsets = {row["partition"]: (row["scanned_until_offset"], row["until_offset"]) for row in rest}
        rounds += 1

    assert sorted(seen) == sorted(wanted)
    assert rounds == 8  # 120 by 17
    assert f"not scanned of {topic}: partition" in caplog.text
    assert "(row limit)" in caplog.text


def test_a_limit_counts_only_records_that_match(evkit_system, evkit_topic):
    topic = evkit_topic()
    send(evkit_system, topic, *({"value": b"x", "key": b"%d" % (i % 2)} for i in range(20)))

    found, coverage = views.scan_with_coverage(evkit_system, topic, offsets=ALL, where="key=1", rows_max=3)

    assert found["offset"].to_list() == [1, 3, 5]
    (row,) = coverage.to_dicts()
    assert (row["scanned_until_offset"], row["scanned"], row["matched"], row["complete"]) == (7, 7, 3, False)
    assert views.scan_with_coverage(evkit_system, topic, offsets=ALL, rows_max=20).coverage["complete"].to_list() == [
        True
    ]


def test_a_scan_whose_time_is_over_says_that_nothing_was_found_because_nothing_was_read(evkit_system, evkit_topic):
    topic = evkit_topic()
    produce(evkit_system, topic, 5)

    found, coverage = views.scan_with_coverage(evkit_system, topic, offsets=ALL, seconds_max=1e-6)

    (row,) = coverage.to_dicts()
    assert (found.height, row["scanned_until_offset"], row["reason"]) == (0, 0, "time_limit")


def test_behind_an_open_transaction_nothing_was_scanned_and_it_is_said(evkit_system, evkit_topic):
    topic = evkit_topic()
    produce(evkit_system, topic, 3)
    producer = kafka.producer(evkit_system.settings, **{"transactional.id": topic, "delivery.timeout.ms": 60_000})
    producer.init_transactions(60)
    producer.begin_transaction()
    producer.produce(topic, b"held")
    producer.flush(60)

    found, coverage = views.scan_with_coverage(evkit_system, topic, offsets=ALL)
    producer.abort_transaction(60)
    after, then = views.scan_with_coverage(evkit_system, topic, offsets=ALL)

    (row,) = coverage.to_dicts()
    assert (found.height, row["scanned_until_offset"], row["until_offset"]) == (3, 3, 4)
    assert (row["complete"], row["reason"]) == (False, "open_transaction")
    assert (after.height, then["complete"].to_list()) == (3, [True])


def test_what_retention_took_while_it_was_read_is_no_empty_answer(evkit_system, evkit_topic):
    topic = evkit_topic()
    produce(evkit_system, topic, 10)
    for future in evkit_system.admin.delete_records([TopicPartition(topic, 0, 5)]).values():
        future.result()

    reader = Reader(evkit_system, topic, {0: (2, 10)}, seconds_max=30)
    assert sum(len(batch.messages) for batch in reader) == 0

    assert reader.reasons == {0: "deleted"}
    assert views.scan(evkit_system, topic, offsets=(2, 10))["offset"].to_list() == [5, 6, 7, 8, 9]


def test_scanning_joins_no_group_and_commits_nothing(evkit_system, evkit_topic, evkit_group):
    topic, group = evkit_topic(), evkit_group()
    produce(evkit_system, topic, 5)
    commit(evkit_system, group, topic, 2)
    before = kafka.groups(evkit_system.settings)

    views.scan(evkit_system, topic)
    views.unread_keys(evkit_system, group)

    assert set(kafka.groups(evkit_system.settings)) == set(before)
    assert kafka_admin.committed_offsets(evkit_system.settings, group) == {(topic, 0): 2}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"offsets": (5, 2)}, "offsets 5 to 2 of partition 0 are no range"),
        ({"partitions": [3]}, "partition 3 of topic .* does not exist: there are 0 to 0"),
        ({"offsets": {7: (0, 1)}}, "partition 7 of topic .* does not exist"),
        ({"window": "now+1h/now+2h"}, "it is in the future"),
        ({"where": "key"}, "where 'key' is no condition: write key=k1"),
        ({"where": "kay=1"}, "there is no column 'kay' to ask for; did you mean 'key'"),
        ({"where": "tenant=1"}, "write header:tenant or field:tenant"),
        ({"fields": ["a..b"]}, "field 'a..b' is no path"),
        ({"rows_max": 0}, "rows_max must be 1 or more"),
        ({"seconds_max": 0}, "seconds_max must be above zero"),
        ({"frames": "spark"}, "take polars or pandas"),
    ],
)
def test_what_cannot_be_scanned_is_refused_in_a_sentence(evkit_system, evkit_topic, arguments, sentence):
    with pytest.raises(InvalidParameter, match=sentence):
        views.scan(evkit_system, evkit_topic(), **arguments)


def test_an_unknown_topic_is_answered_with_names_like_it(evkit_system, evkit_topic):
    topic = evkit_topic("payment")

    for view in (views.scan, views.scan_plan, views.scan_coverage):
        with pytest.raises(UnknownTopic, match=f"did you mean '{topic}'"):
            view(evkit_system, topic + "s")


def test_a_hot_key_of_unread_records_is_found_for_any_group(evkit_system, evkit_topic, evkit_group):
    topic, group = evkit_topic(partitions=2), evkit_group()
    keys = [b"whale"] * 60 + [b"a", b"b", None] * 10
    send(evkit_system, topic, *({"value": b"x", "key": key, "partition": 1} for key in keys))
    produce(evkit_system, topic, 10)
    commit(evkit_system, group, topic, 10)
    commit(evkit_system, group, topic, 20, partition=1)

    found = views.unread_keys(evkit_system, group).to_dicts()

    assert [(r["key"], r["unread"], r["partition"]) for r in found] == [
        ("whale", 40, 1), (None, 10, 1), ("a", 10, 1), ("b", 10, 1),
    ]  # fmt: skip
    assert found[0]["unread_ratio"] == pytest.approx(40 / 70)
    assert {(r["scanned_events"], r["lag_events"], r["complete"]) for r in found} == {(70, 70, True)}
    (first, *_) = views.unread_keys(evkit_system, group, topic, keys_max=1, records_max=50).to_dicts()
    assert (first["unread"], first["scanned_events"], first["lag_events"], first["complete"]) == (40, 50, 70, False)
    with pytest.raises(UnknownTopic, match="to the commits of group"):
        views.unread_keys(evkit_system, group, topic + "-no")


def test_the_command_says_its_plan_first_and_prints_records_with_what_was_not_read(streams, evkit_system, evkit_topic):
    topic = evkit_topic()
    send(evkit_system, topic, *(event(f"a{i}", "order.placed", {"i": i}) for i in range(5)))

    code, printed, remarks = streams("scan", topic, "--field", "i", "--where", "key=a", "-n", "2", "--format", "json")
    document = json.loads(printed)
    _, table, _ = streams("scan", topic, "--offsets", "3:9")
    _, nothing, _ = streams("scan", topic, "--where", "key=z")
    _, plan, _ = streams("scan", topic, "--plan", "--format", "json")

    assert code == 0
    assert f"{topic}: up to 5 records in 1 partitions, about 0.0 MB" in remarks
    assert [row["field:i"] for row in document["records"]] == ["0", "1"]
    assert [(row["scanned_until_offset"], row["reason"]) for row in document["coverage"]] == [(2, "row_limit")]
    assert "a3" in table
    assert "a2" not in table
    assert nothing == f"no record of {topic} matched, among 5 that were read\n"
    assert json.loads(plan)[0]["records"] == 5
    with pytest.raises(InvalidParameter, match="write 100:200"):
        streams("scan", topic, "--offsets", "3")


def test_a_big_scan_is_asked_about_first(streams, evkit_system, evkit_topic, monkeypatch):
    monkeypatch.setattr("evkit.cli.scan._ASK_BYTES", 10)
    topic = evkit_topic()
    produce(evkit_system, topic, 50)

    with pytest.raises(UsageError, match="no terminal to ask on: add --yes, or --plan to look"):
        streams("scan", topic)
    assert streams("scan", topic, "--yes")[0] == 0


def test_what_a_policy_hides_is_in_no_column_and_answers_no_condition(evkit_system, evkit_topic):
    topic, secret = evkit_topic("order"), "geheim-7f3c"
    policies = (
        Policy(topic="order*", event_type="order.*", field="customer.email"),
        Policy(topic="order*", field="note", action="remove"),
        Policy(header="tenant"),
    )
    masked = System(evkit_system.settings.model_copy(update={"masking": policies}))
    payload = {"customer": {"email": secret, "id": 7}, "note": secret}
    structured = {"specversion": "1.0", "id": "s1", "type": "order.paid", "source": "/x", "data": payload}
    send(
        evkit_system,
        topic,
        event("a1", "order.placed", payload, tenant=secret.encode()),
        event("b1", "payment.made", {"customer": {"email": "b@c"}, "note": secret}),
        {"value": json.dumps(structured).encode(), "headers": {"content-type": b"application/cloudevents+json"}},
        {"value": secret.encode(), "headers": {"tenant": secret.encode()}},
        {"value": json.dumps(payload).encode()},
    )
    asked = {"offsets": ALL, "headers": ["tenant"], "fields": ["customer.email", "customer", "note"]}

    found = views.scan(masked, topic, **asked, payload=True)
    probed = views.scan(masked, topic, offsets=ALL, where=f"field:customer.email={secret}")

    assert secret not in str(found.to_dicts())
    assert found["field:customer.email"].to_list() == ["***", "b@c", "***", None, "***"]
    assert found["field:note"].to_list() == [None] * 5
    assert found["header:tenant"].to_list() == ["***", None, None, "***", None]
    assert found["value"].to_list()[0] == '{"customer":{"email":"***","id":7}}'
    assert found["masking"].to_list() == ["masked", "masked", "masked", "withheld", "masked"]
    assert found["value"].to_list()[3] is None
    assert probed.is_empty()
    assert secret in str(views.scan(evkit_system, topic, **asked, payload=True).to_dicts())
