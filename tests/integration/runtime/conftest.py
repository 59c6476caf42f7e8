"""What tests of consumers share: events in a topic, and consumers that are closed at the end."""

from __future__ import annotations

import ctypes
from pathlib import Path

import confluent_kafka
import pytest

from evkit import Consumer, Relay, Retry, outbox
from tests.relaying import drain


@pytest.fixture
def published(evkit_system):
    """`published(*events)`: write events and relay them; returns their ids."""

    def publish(*events):
        with evkit_system.writing() as connection:
            ids = outbox.write_many(connection, events)
        relay = Relay(evkit_system)
        drain(relay)
        relay.close()
        return ids

    return publish


@pytest.fixture
def new_consumer(evkit_system, evkit_group):
    """`new_consumer(topic, ...)`: a consumer of a group of its own, unless `group` is given."""
    made = []

    def make(topic, group=None, **more):
        more.setdefault("retry", Retry(attempts=2, backoff_seconds=0.001))
        made.append(Consumer(group or evkit_group(), [topic], system=more.pop("system", evkit_system), **more))
        return made[-1]

    yield make
    for consumer in made:
        consumer.close()


@pytest.fixture
def consumed():
    """`consumed(consumer, events)`: step until so many are through; one that gets stuck ends in the test's timeout."""

    def consume(consumer, events):
        while consumer.counts.total < events:
            consumer.step(1.0)
        return consumer.counts

    return consume


@pytest.fixture
def rows(evkit_system):
    """`rows("SELECT ...", ...)`: what the database answers."""

    def ask(query, *values):
        with evkit_system.reading() as connection:
            return connection.execute(query, values).fetchall()

    return ask


class MockBroker:
    """A broker that answers on request what a real one answers for a fraction of a second, when nobody can ask for it.

    It is librdkafka's own, a server on a port of 127.0.0.1 that its project tests clients with; it is in the library that
    confluent-kafka loads, and is reached by ctypes. For answers that a test must be sure to get, never instead of the real
    one.

    Attributes:
        bootstrap_servers  where it listens
    """

    # Kafka's number of the request for committed offsets, and of the answer that another broker is asked for them now.
    OFFSET_FETCH = 9
    NOT_COORDINATOR = 16
    # Of a member's sign of life (KIP-848), and of the answer that a broker which does not know it gives.
    CONSUMER_GROUP_HEARTBEAT = 68
    UNSUPPORTED_VERSION = 35

    def __init__(self, topic: str, partitions: int) -> None:
        folder = Path(confluent_kafka.__file__).parent.with_name("confluent_kafka.libs")
        self._library = ctypes.CDLL(str(next(folder.glob("librdkafka-*"))))
        configuration = self._call("conf_new", ctypes.c_void_p)
        self._owner = ctypes.c_void_p(self._call("new", ctypes.c_void_p, 0, ctypes.c_void_p(configuration), None, 0))
        self._cluster = ctypes.c_void_p(self._call("mock_cluster_new", ctypes.c_void_p, self._owner, 1))
        servers = self._call("mock_cluster_bootstraps", ctypes.c_char_p, self._cluster)
        self.bootstrap_servers: str = servers.decode()
        self._call("mock_topic_create", ctypes.c_int, self._cluster, topic.encode(), partitions, 1)

    def answer_next(self, request: int, error: int) -> None:
        """Answer the next request of this kind with an error."""
        errors = (ctypes.c_int * 1)(error)
        self._call(
            "mock_push_request_errors_array", None, self._cluster, ctypes.c_int16(request), ctypes.c_size_t(1), errors
        )

    def close(self) -> None:
        self._call("mock_cluster_destroy", None, self._cluster)
        self._call("destroy", None, self._owner)

    def _call(self, name, result, *arguments):
        function = getattr(self._library, f"rd_kafka_{name}")
        function.restype = result
        return function(*arguments)


@pytest.fixture
def mock_broker():
    """`mock_broker(topic, partitions)`: see MockBroker."""
    made = []

    def make(*arguments):
        made.append(MockBroker(*arguments))
        return made[-1]

    yield make
    for broker in made:
        broker.close()
