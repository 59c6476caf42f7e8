"""Records of __consumer_offsets: made here as the definitions say, recorded from a broker, cut, and drawn at random."""

from __future__ import annotations

import json
import struct
from base64 import b64decode
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evkit.errors import Undecodable
from evkit.offsets_records import (
    KIND_NUMBERS,
    ClassicGroup,
    Commit,
    CurrentMember,
    GroupEpoch,
    Key,
    Member,
    RegularExpression,
    TargetEpoch,
    TargetMember,
    decode,
    decode_key,
    key_prefix,
)

# What Apache Kafka 4.3.1 wrote for one classic and one KIP-848 group: two members joined, committed, and left.
# Made anew by tests/integration/views/test_offsets_log.py with EVKIT_RECORD_OFFSETS=1.
RECORDED = json.loads((Path(__file__).parents[1] / "data/consumer_offsets.json").read_text())
MILLIS = 1_360_332_000_123
TIME = datetime(2013, 2, 8, 14, 0, 0, 123000, tzinfo=UTC)


def text(value):
    return struct.pack(">h", len(value.encode())) + value.encode()


def compact(value):
    return bytes([len(value.encode()) + 1]) + value.encode()


COMMIT_KEY = struct.pack(">h", 1) + text("billing") + text("order") + struct.pack(">i", 3)


@pytest.mark.parametrize(
    ("version", "body", "expected"),
    [
        (0, struct.pack(">q", 7) + text("m") + struct.pack(">q", MILLIS), Commit(7, None, "m", TIME, None, None)),
        (1, struct.pack(">q", 7) + text("m") + struct.pack(">qq", MILLIS, MILLIS), Commit(7, None, "m", TIME, TIME, None)),
        (1, struct.pack(">q", 7) + text("m") + struct.pack(">qq", MILLIS, -1), Commit(7, None, "m", TIME, None, None)),
        (2, struct.pack(">q", 7) + text("m") + struct.pack(">q", MILLIS), Commit(7, None, "m", TIME, None, None)),
        (3, struct.pack(">qi", 7, 2) + text("m") + struct.pack(">q", MILLIS), Commit(7, 2, "m", TIME, None, None)),
        (3, struct.pack(">qi", 7, -1) + text("") + struct.pack(">q", MILLIS), Commit(7, None, "", TIME, None, None)),
        (
            4,
            struct.pack(">qi", 7, 2) + compact("m") + struct.pack(">q", MILLIS) + b"\x01\x00\x10" + bytes(range(16)),
            Commit(7, 2, "m", TIME, None, "AAECAwQFBgcICQoLDA0ODw"),
        ),
        (
            4,  # a tag of a later Kafka
            struct.pack(">qi", 7, 2) + compact("m") + struct.pack(">q", MILLIS) + b"\x01\x09\x02ab",
            Commit(7, 2, "m", TIME, None, None),
        ),
    ],
)  # fmt: skip
def test_a_commit_is_read_in_every_version(version, body, expected):
    key, value = decode(COMMIT_KEY, struct.pack(">h", version) + body)

    assert key == Key("commit", "billing", "order", 3)
    assert value == expected


def test_the_old_commit_key_is_a_commit_too():
    assert decode_key(struct.pack(">h", 0) + COMMIT_KEY[2:]) == Key("commit", "billing", "order", 3)


def test_a_record_without_a_value_is_a_deletion():
    assert decode(COMMIT_KEY, None) == (Key("commit", "billing", "order", 3), None)


@pytest.mark.parametrize("version", [0, 1, 2, 3])
def test_a_classic_group_is_read_in_every_version_with_plain_strings(version):
    member = (
        text("m-1")
        + (struct.pack(">h", -1) if version >= 3 else b"")
        + text("rdkafka") + text("/127.0.0.1")
        + (struct.pack(">i", 300_000) if version >= 1 else b"")
        + struct.pack(">i", 45_000) + struct.pack(">i", 2) + b"su" + struct.pack(">i", 1) + b"a"
    )  # fmt: skip
    body = (
        text("consumer") + struct.pack(">i", 4) + text("range") + text("m-1")
        + (struct.pack(">q", MILLIS) if version >= 2 else b"")
        + struct.pack(">i", 1) + member
    )  # fmt: skip

    key, group = decode(key_prefix(2, "billing"), struct.pack(">h", version) + body)

    assert key == Key("classic_group", "billing")
    assert (group.generation, group.protocol, group.leader) == (4, "range", "m-1")
    assert group.changed_at == (TIME if version >= 2 else None)
    (found,) = group.members
    assert (found.client_id, found.session_timeout_ms, found.subscription, found.assignment) == (
        "rdkafka", 45_000, b"su", b"a",
    )  # fmt: skip


def test_a_classic_group_is_read_with_compact_strings_and_no_member():
    body = compact("consumer") + struct.pack(">i", 5) + b"\x00\x00" + struct.pack(">q", -1) + b"\x01\x00"

    _, group = decode(key_prefix(2, "billing"), struct.pack(">h", 4) + body)

    assert group == ClassicGroup("consumer", 5, None, None, None, ())


def test_a_member_that_speaks_the_classic_protocol_in_a_new_group_is_marked():
    body = b"\x00\x00" + compact("rdkafka") + compact("/h") + b"\x02" + compact("order") + b"\x00"
    body += struct.pack(">i", 300_000) + b"\x00"
    classic = b"\x01" + struct.pack(">i", 45_000) + b"\x01\x00"  # present, session timeout, no protocols, no tags
    key = key_prefix(5, "g") + text("m")

    found = [
        decode(key, b"\x00\x00" + body + tags)[1].is_classic
        for tags in (b"\x00", b"\x01\x00\x01\x00", bytes([1, 0, len(classic)]) + classic)
    ]

    assert found == [False, False, True]


def test_topics_of_a_group_as_brokers_before_4_1_wrote_them_are_read():
    racks = b"\x02" + struct.pack(">i", 0) + b"\x02" + compact("rack") + b"\x00"
    body = b"\x02" + bytes(range(16)) + compact("order") + struct.pack(">i", 3) + racks + b"\x00" + b"\x00"

    _, value = decode(key_prefix(4, "g"), b"\x00\x00" + body)

    assert value.topics == (("AAECAwQFBgcICQoLDA0ODw", "order", 3),)


def test_topics_of_a_subscribed_expression_are_read():
    body = b"\x02" + compact("order") + struct.pack(">qq", 9, MILLIS) + b"\x00"

    assert decode(key_prefix(16, "g") + text("or.*"), b"\x00\x00" + body)[1] == RegularExpression(("order",), 9, TIME)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (struct.pack(">h", 11) + text("share"), b"\x00\x00"),
        (struct.pack(">h", 17) + text("streams"), b"\x00\x00"),
        (struct.pack(">h", 99) + b"whatever", None),
        (COMMIT_KEY, struct.pack(">h", 5) + b"of a later Kafka"),
        (key_prefix(3, "billing"), struct.pack(">h", 1)),
    ],
)
def test_a_kind_or_version_that_is_not_known_has_no_answer(key, value):
    assert decode(key, value) is None


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (None, None, "no key"),
        (b"", None, "ends within a field"),
        (COMMIT_KEY + b"x", None, "1 bytes after its last field"),
        (COMMIT_KEY, b"\x00\x03\x00", "ends within a field"),
        (key_prefix(4, "g"), b"\x00\x00\xff\xff\xff\xff\x07", "more than there are bytes"),
        (COMMIT_KEY, struct.pack(">hqi", 3, 7, 2) + text("") + struct.pack(">q", 2**62), "no time"),
        (struct.pack(">hh", 2, 2) + b"\xff\xfe", None, "not UTF-8"),
    ],
)
def test_bytes_that_are_not_what_they_promise_are_said_to_be_so(key, value, reason):
    with pytest.raises(Undecodable, match=reason):
        decode(key, value)


@given(st.binary(max_size=80), st.none() | st.binary(max_size=200))
def test_random_bytes_raise_nothing_but_undecodable(key, value):
    try:
        decode(key, value)
    except Undecodable:
        pass


@given(st.sampled_from(KIND_NUMBERS), st.integers(0, 4), st.binary(max_size=200))
def test_random_values_under_good_keys_raise_nothing_but_undecodable(kind, version, body):
    key = key_prefix(kind, "g")
    if kind in (0, 1):
        key += text("t") + struct.pack(">i", 0)
    elif kind in (5, 7, 8, 16):
        key += text("m")
    try:
        decode(key, struct.pack(">h", version) + body)
    except Undecodable:
        pass


def recorded(group):
    return [
        decode(b64decode(key), None if value is None else b64decode(value))
        for key, value in RECORDED["records"]
        if decode_key(b64decode(key)).group == group
    ]


def test_what_a_broker_wrote_for_a_classic_group_is_read():
    found = recorded("classic")
    groups = [value for key, value in found if key.kind == "classic_group"]

    assert {key.kind for key, _ in found} == {"commit", "classic_group"}
    assert [len(g.members) for g in groups if g][-1] == 0
    assert max(len(g.members) for g in groups if g) == 2
    assert {m.client_id for g in groups for m in g.members} == {"evkit-one", "evkit-two"}
    assert {m.client_host for g in groups for m in g.members} == {"/127.0.0.1"}
    assert [g.generation for g in groups] == sorted(g.generation for g in groups)


def test_what_a_broker_wrote_for_a_kip_848_group_is_read():
    found = recorded("consumer")
    kinds = Counter(type(value) for _, value in found if value is not None)

    assert {Commit, GroupEpoch, Member, TargetEpoch, TargetMember, CurrentMember, RegularExpression} >= set(kinds)
    assert {Commit, GroupEpoch, Member, TargetEpoch, TargetMember, CurrentMember} <= set(kinds)
    members = [value for _, value in found if isinstance(value, Member)]
    assert {(m.client_id, m.topics, m.is_classic) for m in members} == {
        ("evkit-one", ("orders",), False), ("evkit-two", ("orders",), False),
    }  # fmt: skip
    epochs = [value.epoch for _, value in found if isinstance(value, GroupEpoch)]
    assert epochs == sorted(set(epochs))
    (topic_id,) = {t for _, v in found if isinstance(v, TargetMember) for t, _ in v.partitions}
    assert topic_id == RECORDED["topic_id"]
    held = [set(p) for _, v in found if isinstance(v, CurrentMember) for _, p in v.partitions]
    assert {0, 1} in held
    assert {0} in held
    assert all(v.assigned_at is not None for _, v in found if isinstance(v, TargetEpoch))


@pytest.mark.parametrize("group", ["classic", "consumer"])
def test_commits_that_a_broker_wrote_are_read_with_time_and_topic_id(group):
    commits = [(key, value) for key, value in recorded(group) if isinstance(value, Commit)]

    assert {(key.topic, key.partition, value.offset) for key, value in commits} == {("orders", 0, 3), ("orders", 1, 2)}
    assert {value.metadata for _, value in commits} == {""}
    assert all(value.committed_at.year >= 2025 for _, value in commits)


def test_every_recorded_record_cut_short_is_undecodable():
    for key, value in RECORDED["records"]:
        if value is not None:
            whole = b64decode(value)
            for length in range(len(whole)):
                with pytest.raises(Undecodable):
                    decode(b64decode(key), whole[:length])
