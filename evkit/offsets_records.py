"""Records of Kafka's own `__consumer_offsets` → what groups committed and who their members were; decoding alone.

Each key begins with two bytes that name the kind of the record, each value with two that name its version. What a later
Kafka adds arrives as a tagged field, which is passed over, or as a kind or version that is not known, for which `decode`
has no answer and raises nothing. Strings and lists are "compact" from the first flexible version of a value on.

Source of every layout: the message definitions inside kafka-group-coordinator-4.3.1.jar (common/message/*.json), which
Kafka's own code is made of. Kinds of share groups (10-15) and streams groups (17-23) are not decoded.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple, TypeVar

from evkit.errors import Undecodable

T = TypeVar("T")

# Topic id and partitions of it.
Partitions = tuple[tuple[str, tuple[int, ...]], ...]


class Key(NamedTuple):
    """What a record is about.

    Attributes:
        kind       commit, classic_group, group_epoch, partition_metadata, member, target_epoch, target_member,
                   current_member or regular_expression
        group      consumer group
        topic, partition   of a commit
        member_id  of member, target_member and current_member
    """

    kind: str
    group: str
    topic: str | None = None
    partition: int | None = None
    member_id: str | None = None


@dataclass(frozen=True, slots=True)
class Commit:
    """A committed offset. Kafka 4.3.1 writes it with the topic's id; older brokers did not know it.

    Attributes:
        offset        next offset the group will read
        leader_epoch  of the last record read; None when the client did not say
        metadata      text of the client's own
        committed_at  the coordinator's clock
        expires_at    only where an old client asked for it (version 1)
        topic_id      None where it was not written
    """

    offset: int
    leader_epoch: int | None
    metadata: str
    committed_at: datetime
    expires_at: datetime | None
    topic_id: str | None


@dataclass(frozen=True, slots=True)
class ClassicMember:
    """A member of a classic group; subscription and assignment are bytes of the clients' own protocol."""

    member_id: str
    instance_id: str | None
    client_id: str
    client_host: str
    rebalance_timeout_ms: int
    session_timeout_ms: int
    subscription: bytes
    assignment: bytes


@dataclass(frozen=True, slots=True)
class ClassicGroup:
    """A classic group after a rebalance, or without members. Its state is not written: no member means empty."""

    protocol_type: str
    generation: int
    protocol: str | None
    leader: str | None
    changed_at: datetime | None
    members: tuple[ClassicMember, ...]


@dataclass(frozen=True, slots=True)
class GroupEpoch:
    """The epoch of a KIP-848 group: raised when its members, their subscriptions, or the topics change."""

    epoch: int
    metadata_hash: int


@dataclass(frozen=True, slots=True)
class PartitionMetadata:
    """Topics of a KIP-848 group: (id, name, number of partitions). Written before Kafka 4.1; since then a tombstone."""

    topics: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a KIP-848 group. `is_classic`: it speaks the classic protocol, in a group that is being moved."""

    instance_id: str | None
    rack_id: str | None
    client_id: str
    client_host: str
    topics: tuple[str, ...]
    regular_expression: str | None
    rebalance_timeout_ms: int
    assignor: str | None
    is_classic: bool


@dataclass(frozen=True, slots=True)
class TargetEpoch:
    """The epoch whose target assignment is complete; `assigned_at` from Kafka 4.3 on."""

    epoch: int
    assigned_at: datetime | None


@dataclass(frozen=True, slots=True)
class TargetMember:
    """What a member shall hold."""

    partitions: Partitions


@dataclass(frozen=True, slots=True)
class CurrentMember:
    """What a member holds, and what it still has to give back. State: 0 stable, 1 gives back, 2 waits for others."""

    epoch: int
    previous_epoch: int
    state: int
    partitions: Partitions
    pending_revocation: Partitions


@dataclass(frozen=True, slots=True)
class RegularExpression:
    """Topics that a subscribed expression stands for."""

    topics: tuple[str, ...]
    version: int
    resolved_at: datetime | None


Value = (
    Commit | ClassicGroup | GroupEpoch | PartitionMetadata | Member | TargetEpoch | TargetMember | CurrentMember
    | RegularExpression
)  # fmt: skip


def decode(key: bytes | None, value: bytes | None) -> tuple[Key, Value | None] | None:
    """What a record says, None as its value for a tombstone; None alone for a kind or version that is not known here.

    Raises:
        Undecodable: the bytes are not what their kind and version promise.
    """
    known = decode_key(key)
    if known is None or value is None:
        return None if known is None else (known, None)
    bytes_ = _Bytes(value, "value")
    version = bytes_.int16()
    newest, first_flexible, read = _VALUES[known.kind]
    if not 0 <= version <= newest:
        return None
    bytes_.is_flexible = version >= first_flexible
    found = read(bytes_, version)
    bytes_.end()
    return known, found


@lru_cache(maxsize=10_000)  # a group commits under the same few keys again and again
def decode_key(key: bytes | None) -> Key | None:
    """The key alone; None for a kind that is not known here.

    Raises:
        Undecodable: the bytes are not what their kind promises.
    """
    if key is None:
        raise Undecodable("the record has no key")
    bytes_ = _Bytes(key, "key")
    kind = _KINDS.get(bytes_.int16())
    if kind is None:
        return None
    found = Key(kind, bytes_.string())
    if kind == "commit":
        found = found._replace(topic=bytes_.string(), partition=bytes_.int32())
    elif kind in ("member", "target_member", "current_member"):
        found = found._replace(member_id=bytes_.string())
    elif kind == "regular_expression":
        bytes_.string()
    bytes_.end()
    return found


def key_prefix(kind: int, group: str) -> bytes:
    """How every key of this kind and group begins: one comparison tells whether a record is worth decoding."""
    name = group.encode("utf-8", "surrogatepass")
    return struct.pack(f">hH{len(name)}s", kind, len(name), name)


# Both 0 and 1 are commits: which of them says only what version of the value an old broker wrote.
_KINDS = {
    0: "commit", 1: "commit", 2: "classic_group", 3: "group_epoch", 4: "partition_metadata", 5: "member",
    6: "target_epoch", 7: "target_member", 8: "current_member", 16: "regular_expression",
}  # fmt: skip
KIND_NUMBERS = tuple(_KINDS)


# --- values, each in the order of its definition ----------------------------------------------------------------------


def _commit(read: _Bytes, version: int) -> Commit:
    offset = read.int64()
    epoch = read.int32() if version >= 3 else -1
    metadata = read.string()
    committed_at = read.time()
    if committed_at is None:
        raise Undecodable("the commit has no time")
    expires_at = read.time() if version == 1 else None
    tags = read.tags()
    return Commit(
        offset, None if epoch < 0 else epoch, metadata, committed_at, expires_at, _uuid(tags[0]) if 0 in tags else None
    )


def _classic_group(read: _Bytes, version: int) -> ClassicGroup:
    def member(read: _Bytes) -> ClassicMember:
        found = ClassicMember(
            member_id=read.string(),
            instance_id=read.text() if version >= 3 else None,
            client_id=read.string(),
            client_host=read.string(),
            rebalance_timeout_ms=read.int32() if version >= 1 else -1,
            session_timeout_ms=read.int32(),
            subscription=read.binary(),
            assignment=read.binary(),
        )
        read.tags()
        return found

    found = ClassicGroup(
        protocol_type=read.string(),
        generation=read.int32(),
        protocol=read.text(),
        leader=read.text(),
        changed_at=read.time() if version >= 2 else None,
        members=read.array(member),
    )
    read.tags()
    return found


def _group_epoch(read: _Bytes, _: int) -> GroupEpoch:
    epoch, tags = read.int32(), read.tags()
    return GroupEpoch(epoch, _int64(tags[0]) if 0 in tags else 0)


def _partition_metadata(read: _Bytes, _: int) -> PartitionMetadata:
    def racks(read: _Bytes) -> None:
        read.int32()
        read.array(_Bytes.string)
        read.tags()

    def topic(read: _Bytes) -> tuple[str, str, int]:
        found = read.uuid(), read.string(), read.int32()
        read.array(racks)
        read.tags()
        return found

    found = PartitionMetadata(read.array(topic))
    read.tags()
    return found


def _member(read: _Bytes, _: int) -> Member:
    fields = (
        read.text(), read.text(), read.string(), read.string(), read.array(_Bytes.string), read.text(), read.int32(),
        read.text(),
    )  # fmt: skip
    # A struct that may be null begins with 1, or is 0 alone; brokers write the 0, too.
    return Member(*fields, is_classic=read.tags().get(0, b"")[:1] == b"\x01")


def _target_epoch(read: _Bytes, _: int) -> TargetEpoch:
    epoch, tags = read.int32(), read.tags()
    return TargetEpoch(epoch, _time(_int64(tags[0])) if 0 in tags else None)


def _partitions(read: _Bytes) -> tuple[str, tuple[int, ...]]:
    found = read.uuid(), read.array(_Bytes.int32)
    read.tags()  # of the current assignment: the epochs at which they were assigned
    return found


def _target_member(read: _Bytes, _: int) -> TargetMember:
    found = TargetMember(read.array(_partitions))
    read.tags()
    return found


def _current_member(read: _Bytes, _: int) -> CurrentMember:
    found = CurrentMember(read.int32(), read.int32(), read.int8(), read.array(_partitions), read.array(_partitions))
    read.tags()
    return found


def _regular_expression(read: _Bytes, _: int) -> RegularExpression:
    found = RegularExpression(read.array(_Bytes.string), read.int64(), read.time())
    read.tags()
    return found


# --- bytes ------------------------------------------------------------------------------------------------------------


class _Bytes:
    """Kafka's primitive types, one after the other."""

    def __init__(self, raw: bytes, what: str) -> None:
        self._raw, self._at, self._what = raw, 0, what
        self.is_flexible = False

    def take(self, length: int) -> bytes:
        if length < 0 or length > len(self._raw) - self._at:
            raise Undecodable(f"the {self._what} ends within a field, at byte {len(self._raw)}")
        self._at += length
        return self._raw[self._at - length : self._at]

    def end(self) -> None:
        if left := len(self._raw) - self._at:
            raise Undecodable(f"the {self._what} has {left} bytes after its last field")

    def int8(self) -> int:
        return int.from_bytes(self.take(1), "big", signed=True)

    def int16(self) -> int:
        return int.from_bytes(self.take(2), "big", signed=True)

    def int32(self) -> int:
        return int.from_bytes(self.take(4), "big", signed=True)

    def int64(self) -> int:
        return _int64(self.take(8))

    def uuid(self) -> str:
        return _uuid(self.take(16))

    def time(self) -> datetime | None:
        return _time(self.int64())

    def text(self) -> str | None:
        """A string, or null."""
        length = self._uvarint() - 1 if self.is_flexible else self.int16()
        if length == -1:
            return None
        raw = self.take(length)
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise Undecodable(f"a string of the {self._what} is not UTF-8 ({error.reason})") from None

    def string(self) -> str:
        found = self.text()
        if found is None:
            raise Undecodable(f"a string of the {self._what} is null")
        return found

    def binary(self) -> bytes:
        return self.take(self._uvarint() - 1 if self.is_flexible else self.int32())

    def array(self, item: Callable[[_Bytes], T]) -> tuple[T, ...]:
        length = self._uvarint() - 1 if self.is_flexible else self.int32()
        if length < 0 or length > len(self._raw) - self._at:  # each item has a byte at least
            raise Undecodable(f"a list of the {self._what} has {length} items, more than there are bytes")
        return tuple([item(self) for _ in range(length)])

    def tags(self) -> dict[int, bytes]:
        """Tagged fields by number; none before the first flexible version."""
        count = self._uvarint() if self.is_flexible else 0
        found: dict[int, bytes] = {}
        for _ in range(count):
            tag, length = self._uvarint(), self._uvarint()
            found[tag] = self.take(length)
        return found

    def _uvarint(self) -> int:
        found = 0
        for shift in range(0, 35, 7):
            if self._at == len(self._raw):
                self.take(1)
            byte = self._raw[self._at]
            self._at += 1
            found |= (byte & 0x7F) << shift
            if byte < 0x80:
                return found
        raise Undecodable(f"a number of the {self._what} has more than five bytes")


def _uuid(raw: bytes) -> str:
    """As Kafka's tools and clients show it."""
    if len(raw) != 16:
        raise Undecodable(f"a topic id has {len(raw)} bytes, not 16")
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _int64(raw: bytes) -> int:
    if len(raw) != 8:
        raise Undecodable(f"a number has {len(raw)} bytes, not 8")
    return int.from_bytes(raw, "big", signed=True)


def _time(millis: int) -> datetime | None:
    if millis < 0:
        return None
    try:
        return datetime.fromtimestamp(millis / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        raise Undecodable(f"{millis} ms after 1970 is no time of the years up to 9999") from None


# By kind: newest version known, first version with compact strings and tagged fields, reader.
_VALUES: dict[str, tuple[int, int, Callable[[_Bytes, int], Value]]] = {
    "commit": (4, 4, _commit),
    "classic_group": (4, 4, _classic_group),
    "group_epoch": (0, 0, _group_epoch),
    "partition_metadata": (0, 0, _partition_metadata),
    "member": (0, 0, _member),
    "target_epoch": (0, 0, _target_epoch),
    "target_member": (0, 0, _target_member),
    "current_member": (0, 0, _current_member),
    "regular_expression": (0, 0, _regular_expression),
}
