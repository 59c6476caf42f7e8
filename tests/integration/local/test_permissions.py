"""The embedded broker's port that can say no: users sign in there, and may do what an ACL allows."""

from __future__ import annotations

from pathlib import Path

import pytest

from evkit import kafka
from evkit.errors import EvkitError
from evkit.kafka import KafkaError, KafkaException


def send(settings, topic, value=b"{}"):
    """The broker's answer to one record: its offset, or the error's name."""
    answers = []
    producer = kafka.producer(settings, **{"delivery.timeout.ms": 60_000, "error_cb": answers.append})
    producer.produce(topic, value, on_delivery=lambda error, message: answers.append(error or message.offset()))
    while not answers:
        producer.poll(0.1)
    producer.purge()
    producer.flush(5)
    return answers[0].name() if isinstance(answers[0], KafkaError) else answers[0]


@pytest.fixture
def topic(evkit_secured_kafka):
    return evkit_secured_kafka.topic("orders")


def test_user_may_write_only_what_an_acl_allows_and_nothing_that_one_denies(evkit_secured_kafka, topic):
    service = evkit_secured_kafka.settings("service")
    assert send(service, topic) in ("CLUSTER_AUTHORIZATION_FAILED", "TOPIC_AUTHORIZATION_FAILED")

    evkit_secured_kafka.allow("service", "WRITE", topic="orders-*")
    assert send(service, topic) == 0
    evkit_secured_kafka.allow("service", "WRITE", topic="another")
    evkit_secured_kafka.deny("service", "WRITE", topic=topic)
    assert send(service, topic) == "TOPIC_AUTHORIZATION_FAILED"


def test_wrong_password_is_refused_and_a_new_one_is_valid_at_once(evkit_secured_kafka, topic):
    evkit_secured_kafka.allow("service", topic=topic)
    before = evkit_secured_kafka.settings("service")
    assert send(before, topic) == 0

    evkit_secured_kafka.set_password("service")

    assert send(before, topic) == "_AUTHENTICATION"
    assert send(evkit_secured_kafka.settings("service"), topic) == 1


def test_password_is_in_no_file_of_the_stack_and_in_no_repr(evkit_secured_kafka, topic, request):
    settings = evkit_secured_kafka.settings("service")
    evkit_secured_kafka.allow("service", topic=topic)
    send(settings, topic)
    (password,) = settings.secrets()
    home = Path(request.getfixturevalue("_evkit_secured_stack").home)

    found = [path for path in home.rglob("*") if path.is_file() and password.encode() in path.read_bytes()]

    assert not found
    assert password not in repr(settings)
    assert password not in repr(vars(evkit_secured_kafka)["open_settings"])


def test_open_port_asks_nobody_and_allows_everything(evkit_secured_kafka, topic):
    everyone = evkit_secured_kafka.open_settings

    assert send(everyone, topic) == 0
    assert topic in kafka.topics(everyone)
    with pytest.raises((EvkitError, KafkaException)):
        kafka.create_topics(evkit_secured_kafka.settings("service"), {"forbidden": 1})
