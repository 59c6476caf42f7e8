"""Kafka as an operator asks and changes it: topic ids and settings, stable ends, members of a group, offsets moved.

Beside kafka.py the only place that opens confluent-kafka.

What is asked here waits `settings.kafka_timeout_seconds`, and gives librdkafka an hour: with less a question for a group's
coordinator may end the process (admin_client.py), and there is one way for all.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import confluent_kafka as ck
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._listoffsets import OffsetSpec

from evkit import kafka
from evkit.admin_client import REQUEST_SECONDS
from evkit.errors import BrokerRefused, BrokerUnreachable
from evkit.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TopicFacts:
    """What the broker says of a topic; None where it does not say (no authorisation).

    Attributes:
        topic_id        of this topic; one that was deleted and made anew has another
        timestamp_type  "append": records carry the broker's time; "create": the producer's
        compacted       only the last record of each key is certain to be there
    """

    topic_id: str | None
    timestamp_type: str | None
    compacted: bool | None


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a consumer group, as the group's coordinator knows it."""

    member_id: str
    client_id: str
    host: str
    partitions: int


def topic_facts(settings: Settings, names: Iterable[str], client: AdminClient) -> dict[str, TopicFacts]:
    """Facts by topic; a topic that does not exist is left out.

    Raises:
        BrokerUnreachable: no answer within `settings.kafka_timeout_seconds`.
    """
    ids = topic_ids(settings, names, client)
    resources = {name: ConfigResource(ConfigResource.Type.TOPIC, name) for name in ids}
    asked = client.describe_configs(list(resources.values()), request_timeout=REQUEST_SECONDS) if resources else {}
    found = {}
    for name, topic_id in ids.items():
        try:
            answer = _waited(settings, asked[resources[name]], client)
            config = {key: entry.value for key, entry in answer.items()}
        except BrokerRefused:
            config = {}
        kind = config.get("message.timestamp.type")
        policy = config.get("cleanup.policy")
        found[name] = TopicFacts(
            topic_id=topic_id,
            timestamp_type={"LogAppendTime": "append", "CreateTime": "create"}.get(kind or ""),
            compacted=None if policy is None else "compact" in policy,
        )
    return found


def topic_ids(settings: Settings, names: Iterable[str], client: AdminClient) -> dict[str, str | None]:
    """Kafka's id by topic, None where the broker does not say; a topic that does not exist is left out.

    Raises:
        BrokerUnreachable: no answer within `settings.kafka_timeout_seconds`.
    """
    return {
        name: topic_id
        for name, asked in ask_topic_ids(names, client).items()
        if (topic_id := _answered(settings, asked, client)) != ""
    }


def ask_topic_ids(names: Iterable[str], client: AdminClient) -> dict[str, Future[Any]]:
    """Ask without waiting; for `id_of`."""
    names = sorted(set(names))
    if not names:
        return {}
    asked: dict[str, Future[Any]] = client.describe_topics(ck.TopicCollection(names), request_timeout=REQUEST_SECONDS)
    return asked


def id_of(asked: Future[Any]) -> str | None:
    """The id in an answer; "" when there is no such topic, None when nobody says."""
    try:
        return str(asked.result().topic_id)
    except KafkaException as error:
        return "" if error.args[0].code() in _NO_TOPIC else None


def topic_setting(settings: Settings, name: str, setting: str, client: AdminClient) -> str | None:
    """One setting of a topic, internal ones too; None when the broker does not say (no authorisation).

    Raises:
        BrokerUnreachable: no answer within `settings.kafka_timeout_seconds`.
    """
    resource = ConfigResource(ConfigResource.Type.TOPIC, name)
    asked = client.describe_configs([resource], request_timeout=REQUEST_SECONDS)[resource]
    try:
        found = _waited(settings, asked, client).get(setting)
    except BrokerRefused:
        return None
    return None if found is None or found.value is None else str(found.value)


def partitions_count(settings: Settings, name: str, client: AdminClient) -> int | None:
    """Number of a topic's partitions, internal topics too; None when there is no such topic. Asking never makes one.

    Raises:
        BrokerUnreachable: no answer within `settings.kafka_timeout_seconds`. BrokerRefused: no authorisation.
    """
    asked = client.describe_topics(ck.TopicCollection([name]), request_timeout=REQUEST_SECONDS)[name]
    try:
        return len(_waited(settings, asked, client).partitions)
    except BrokerRefused as error:
        if error.cause.code() in _NO_TOPIC:
            return None
        raise


_NO_TOPIC = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError.TOPIC_EXCEPTION)


def _answered(settings: Settings, asked: Future[Any], client: AdminClient) -> str | None:
    with suppress(BrokerRefused):
        _waited(settings, asked, client)
    return id_of(asked)


def _waited(settings: Settings, asked: Future[Any], client: AdminClient) -> Any:
    """The answer.

    Raises:
        BrokerUnreachable: none within `settings.kafka_timeout_seconds`. BrokerRefused.
    """
    try:
        return asked.result(settings.kafka_timeout_seconds)
    except TimeoutError:
        seconds = settings.kafka_timeout_seconds
        raise BrokerUnreachable(settings.bootstrap_servers, f"no answer in {seconds:g} s") from None
    except KafkaException as error:
        raise kafka.failed(settings, error, client) from None


def stable_ends(
    settings: Settings, partitions: Iterable[TopicPartition], client: AdminClient
) -> dict[tuple[str, int], int]:
    """Where partitions end for who reads committed records: nothing before it can still change, and a transaction that was
    left open does not keep its reader waiting for ever.

    Raises:
        BrokerUnreachable, BrokerRefused.
    """
    places = [(tp.topic, tp.partition) for tp in partitions]
    asked = ask_stable_ends(client, places)
    answers = [_waited_for_leader(settings, future, client) for future in asked.values()]
    if any(answer is None for answer in answers):
        kafka.refresh_leaders(client)
        asked = ask_stable_ends(client, places)
        answers = [_waited(settings, future, client) for future in asked.values()]
    try:
        return {(tp.topic, tp.partition): future.result().offset for tp, future in asked.items()}
    except KafkaException as error:
        raise kafka.failed(settings, error, client) from None


def ask_stable_ends(
    client: AdminClient, places: Iterable[tuple[str, int]], timeout_seconds: float = 60.0
) -> dict[TopicPartition, Future[Any]]:
    """Ask where partitions end for who reads committed records; as `kafka.list_offsets`, which waits for nothing."""
    request = {TopicPartition(*place): kafka.LATEST for place in places}
    return kafka.list_offsets(
        client, request, isolation_level=ck.IsolationLevel.READ_COMMITTED, request_timeout=timeout_seconds
    )


def told_offsets(
    settings: Settings, places: Iterable[tuple[str, int]], spec: OffsetSpec | None, client: AdminClient
) -> dict[tuple[str, int], Any]:
    """confluent-kafka's ListOffsetsResultInfo (`.offset`, `.timestamp`) of the places that answered; None asks for the
    stable ends. One partition without a leader hides no other.

    Raises:
        BrokerUnreachable: no place has answered within `settings.kafka_timeout_seconds`. BrokerRefused.
    """
    if spec is None:
        futures = ask_stable_ends(client, places, settings.kafka_timeout_seconds)
    else:
        request = {TopicPartition(*place): spec for place in places}
        futures = kafka.list_offsets(client, request, request_timeout=settings.kafka_timeout_seconds)
    found: dict[tuple[str, int], Any] = {}
    failed: KafkaException | None = None
    for tp, future in futures.items():
        try:
            found[tp.topic, tp.partition] = future.result()
        except KafkaException as error:
            failed = error
            log.info("no offset of %s [%s]: %s", tp.topic, tp.partition, error)
    if failed is not None and not found:
        raise kafka.failed(settings, failed, client)
    return found


def _waited_for_leader(settings: Settings, asked: Future[Any], client: AdminClient) -> Any:
    """The answer; None when the partition has another leader than the client knows."""
    try:
        return _waited(settings, asked, client)
    except BrokerRefused:
        if kafka.is_moved(asked):
            return None
        raise


def committed(settings: Settings, group: str, client: AdminClient) -> dict[tuple[str, int], int]:
    """Next offset a group will read, wherever it has committed one in topics that there are.

    Raises:
        BrokerUnreachable, BrokerRefused.
    """
    partitions = kafka.partitions_of(settings, kafka.topics(settings, client), client)
    return kafka.committed(settings, group, partitions) if partitions else {}


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """What the coordinator says of a group; None where the group may not be described.

    Attributes:
        state     "stable", "empty", …
        members   how many there are, with partitions or without
        assigned  who holds each partition
    """

    state: str | None
    members: int | None
    assigned: dict[tuple[str, int], Member]


def group_facts(settings: Settings, groups: Iterable[str], client: AdminClient) -> dict[str, GroupFacts]:
    """Facts by group, those of one that may not be described empty.

    A group whose coordinator is not ready within `settings.kafka_timeout_seconds`, as on a broker that has just started, is
    left out.

    Raises:
        BrokerUnreachable: no answer within `settings.kafka_timeout_seconds`.
    """
    found: dict[str, GroupFacts] = {}
    for group, answer in _described(settings, groups, client).items():
        if isinstance(answer, BrokerRefused):
            log.info("group %s could not be described: %s", group, answer.cause)
            if not kafka.is_not_ready(answer.cause):
                found[group] = GroupFacts(None, None, {})
            continue
        holders = [m for m in answer.members if m.assignment]
        places = {(tp.topic, tp.partition): _member(m) for m in holders for tp in m.assignment.topic_partitions}
        found[group] = GroupFacts(answer.state.name.lower(), len(answer.members), places)
    return found


def assigned(
    settings: Settings, groups: Iterable[str], client: AdminClient
) -> dict[str, dict[tuple[str, int], Member]]:
    """Who holds each partition right now, by group; see `group_facts`."""
    return {group: facts.assigned for group, facts in group_facts(settings, groups, client).items()}


def committed_of_groups(
    settings: Settings, groups: Iterable[str], client: AdminClient
) -> tuple[dict[str, dict[tuple[str, int], int]], dict[str, BrokerRefused]]:
    """Next offset that each group will read, wherever it has committed one; and why a group was not told.

    All are asked at once. Only of groups that have just answered (`group_facts`): see `kafka.committed`.

    Raises:
        BrokerUnreachable: no answer within `settings.kafka_timeout_seconds`.
    """
    asked = {
        group: client.list_consumer_group_offsets([ck.ConsumerGroupTopicPartitions(group)])[group] for group in groups
    }
    found: dict[str, dict[tuple[str, int], int]] = {}
    refused: dict[str, BrokerRefused] = {}
    for group, future in asked.items():
        try:
            answer = _waited(settings, future, client)
        except BrokerRefused as error:
            refused[group] = error
        else:
            found[group] = {(tp.topic, tp.partition): tp.offset for tp in answer.topic_partitions if tp.offset >= 0}
    return found, refused


def committed_offsets(settings: Settings, group: str, client: AdminClient | None = None) -> dict[tuple[str, int], int]:
    """Next offset that one group will read, by (topic, partition); see `committed_of_groups`.

    Raises:
        BrokerUnreachable: no answer within `settings.kafka_timeout_seconds`. BrokerRefused: no authorisation.
    """
    found, refused = committed_of_groups(settings, [group], kafka.admin(settings) if client is None else client)
    if refused:
        raise refused[group]
    return found[group]


def delete_group(settings: Settings, group: str, client: AdminClient) -> None:
    """Let the cluster forget a group and its offsets.

    Raises:
        BrokerRefused: it has members, or no authorisation. BrokerUnreachable.
    """
    _waited(settings, client.delete_consumer_groups([group])[group], client)


def _described(settings: Settings, groups: Iterable[str], client: AdminClient) -> dict[str, Any]:
    """What the coordinator says of each group, or its refusal; one that is not ready is asked again in a moment.

    Raises:
        BrokerUnreachable: no answer within `settings.kafka_timeout_seconds`.
    """
    until = time.monotonic() + settings.kafka_timeout_seconds
    found: dict[str, Any] = {}
    left = sorted(set(groups))
    while left:
        for group, future in client.describe_consumer_groups(left).items():
            try:
                found[group] = _waited(settings, future, client)
            except BrokerRefused as error:
                found[group] = error
        left = [g for g in left if isinstance(found[g], BrokerRefused) and kafka.is_not_ready(found[g].cause)]
        if time.monotonic() > until:
            break
        if left:
            time.sleep(0.1)
    return found


def members(settings: Settings, group: str, client: AdminClient) -> tuple[str, list[Member]]:
    """State of a group ("stable", "empty", "dead" for one that the cluster does not know, …) and its members.

    Raises:
        BrokerUnreachable, BrokerRefused.
    """
    found = _described(settings, [group], client)[group]
    if isinstance(found, BrokerRefused):
        if found.cause.code() == KafkaError.GROUP_ID_NOT_FOUND:
            return "dead", []
        raise found
    return found.state.name.lower(), [_member(m) for m in found.members]


def _member(described: Any) -> Member:
    partitions = described.assignment.topic_partitions
    return Member(described.member_id, described.client_id, described.host, len(partitions))


def move_offsets(
    settings: Settings, group: str, offsets: Mapping[tuple[str, int], int], client: AdminClient
) -> dict[tuple[str, int], str]:
    """Set a group's committed offsets; returns what was refused, by partition. While the group has members, all is.

    Raises:
        BrokerUnreachable, BrokerRefused: for all of them.
    """
    request = [ck.ConsumerGroupTopicPartitions(group, [TopicPartition(*place, at) for place, at in offsets.items()])]
    asked = client.alter_consumer_group_offsets(request)[group]
    answer = _waited(settings, asked, client)
    return {(tp.topic, tp.partition): tp.error.str() for tp in answer.topic_partitions if tp.error is not None}
