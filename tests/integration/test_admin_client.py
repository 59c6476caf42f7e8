"""An admin client that hung in garbage does not end its process, on whichever thread the garbage collector finds it."""

from __future__ import annotations

import os
import subprocess
import sys

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
    settings = evkit_system.settings
    given = {
        "EVKIT_POSTGRES_DSN": settings.postgres_dsn,
        "EVKIT_KAFKA_BOOTSTRAP_SERVERS": settings.bootstrap_servers,
    }

    done = subprocess.run(
        [sys.executable, "-c", COLLECTS], env=os.environ | given, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["gone", "alive"]
