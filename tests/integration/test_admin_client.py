"""An admin client ends no process: neither as garbage, wherever it is collected, nor by an answer that comes late."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from evkit import kafka
from tests.integration.vanishing import settings_of


def run(program, settings, *arguments):
    """What becomes of a process of its own that runs this."""
    given = {
        "EVKIT_POSTGRES_DSN": settings.postgres_dsn,
        "EVKIT_KAFKA_BOOTSTRAP_SERVERS": settings.bootstrap_servers,
    }
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], env=os.environ | given, capture_output=True, text=True, check=False
    )


# Garbage is collected on the thread on which the client's answer comes, and there only, when nobody has a hold on it.
COLLECTS = """
import gc, threading, weakref
import confluent_kafka
from evkit import admin_client, connect, kafka

gc.disable()
told, done = [], threading.Event()

def collect(_):
    told.append((threading.get_native_id(), gc.collect()))
    done.set()

hung = [kafka.admin(connect().settings)]
hung.append(hung)
weakref.finalize(hung[0], print, "gone", flush=True)
asked = hung[0].describe_topics(confluent_kafka.TopicCollection(["nothing"]), request_timeout=30)["nothing"]
del hung
asked.add_done_callback(collect)
assert done.wait(60), "no answer came"
(thread, collected), = told
assert thread != threading.main_thread().native_id, "it was collected on a thread of ours"
assert collected >= 2, collected
admin_client.undertaker.end()
print("alive", flush=True)
"""


def test_an_admin_client_that_is_collected_on_its_own_thread_ends_no_process(evkit_system):
    done = run(COLLECTS, evkit_system.settings)

    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["gone", "alive"]


# The caller stops waiting while the client still looks for the group's coordinator; then the broker goes on.
ASKS = """
import os, signal, sys
from concurrent.futures import TimeoutError
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from evkit import connect, kafka

moved = ConsumerGroupTopicPartitions("billing", [TopicPartition("order", 0, 0)])
questions = {
    "describe_consumer_groups": ["billing"],
    "list_consumer_group_offsets": [ConsumerGroupTopicPartitions("billing")],
    "alter_consumer_group_offsets": [moved],
    "delete_consumer_groups": ["billing"],
}
question, pid = sys.argv[1], int(sys.argv[2])
for _ in range(5):
    client = kafka.admin(connect().settings)
    client.list_topics(timeout=60)
    os.kill(pid, signal.SIGSTOP)
    try:
        (asked,) = getattr(client, question)(questions[question], request_timeout=0.5).values()
        try:
            asked.result(0.6)
        except TimeoutError:
            print("stopped waiting", flush=True)
    finally:
        os.kill(pid, signal.SIGCONT)
    asked.exception(60)
"""


@pytest.mark.parametrize(
    "question",
    [
        "describe_consumer_groups",
        "list_consumer_group_offsets",
        "alter_consumer_group_offsets",
        "delete_consumer_groups",
    ],
)
def test_an_answer_that_comes_after_its_caller_stopped_waiting_ends_no_process(question, own_stack):
    kafka.create_topics(settings_of(own_stack), {"order": 1})

    done = run(ASKS, settings_of(own_stack), question, str(own_stack.kafka_pid))

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["stopped waiting"] * 5
