"""A small system after an incident, written by the runtime itself: ten events, five of them dead, one error hostile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, sync_playwright

from evkit import Consumer, Event, Relay, Retry, outbox
from evkit.system import System
from tests.relaying import drain

# What an event may say: it must appear as these characters, and never as markup.
HOSTILE = '</script><img src=x onerror="window.hacked=1"><script>window.hacked=2</script>'

APP = """
from evkit import Consumer

consumer = Consumer("{group}", ["{topic}"])

@consumer.handler("order.placed")
def bill(event, tx):
    tx.execute("INSERT INTO bill VALUES (%s)", (event.id,))
"""


@dataclass
class Incident:
    """Where it happened; `group` has five open letters of one failure."""

    system: System
    topic: str
    group: str
    environment: dict[str, str] = field(default_factory=dict)

    def count(self, table: str) -> int:
        with self.system.reading() as connection:
            row = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
        assert row is not None
        return int(row[0])


@pytest.fixture
def incident(evkit_system, evkit_topic, evkit_group, tmp_path, monkeypatch) -> Incident:
    """The incident; the test works in a folder of its own, which has a fixed app: `billing:consumer`."""
    monkeypatch.chdir(tmp_path)
    topic, group = evkit_topic("orders", partitions=2), evkit_group("billing")
    (tmp_path / "billing.py").write_text(APP.format(group=group, topic=topic))
    consumer = Consumer(group, [topic], system=evkit_system, retry=Retry(attempts=2, backoff_seconds=0.001))

    @consumer.handler("order.placed")
    def bill(event: Event, tx: Any) -> None:
        if event.payload["n"] % 2:
            raise ValueError(HOSTILE)
        tx.execute("INSERT INTO bill VALUES (%s)", (event.id,))

    with evkit_system.writing() as connection:
        connection.execute("CREATE TABLE bill (id text PRIMARY KEY)")
        outbox.write_many(
            connection,
            [Event("order.placed", f"{HOSTILE}{n}", {"n": n, "html": HOSTILE}, topic=topic) for n in range(10)],
        )
    relay = Relay(evkit_system)
    drain(relay)
    relay.close()
    while consumer.counts.total < 10:
        consumer.step(1.0)
    consumer.close()
    settings = evkit_system.settings
    return Incident(
        evkit_system, topic, group,
        {
            "EVKIT_POSTGRES_DSN": settings.postgres_dsn,
            "EVKIT_KAFKA_BOOTSTRAP_SERVERS": settings.bootstrap_servers,
            "EVKIT_CONFIG": "", "EVKIT_PROFILE": "",
        },
    )  # fmt: skip


@pytest.fixture
def offline(chromium) -> Iterator[Callable[..., tuple[Page, list[str]]]]:
    """`offline(path)` → the page in a browser without a network, and everything that went wrong or was asked for."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])

        def opened(path: Path, **more: Any) -> tuple[Page, list[str]]:
            page = browser.new_context(offline=True, **more).new_page()
            page.set_default_timeout(120_000)  # seven charts are drawn in there, on a machine that has other work too
            wrong: list[str] = []
            page.on("console", lambda m: wrong.append(f"{m.type}: {m.text}"))
            page.on("pageerror", lambda e: wrong.append(f"error: {e}"))
            page.on(
                "request",
                lambda r: wrong.append(f"asked {r.url}") if not r.url.startswith(("file:", "data:", "blob:")) else None,
            )
            page.on("requestfailed", lambda r: wrong.append(f"failed {r.url}"))
            page.goto(path.absolute().as_uri())
            return page, wrong

        yield opened
        browser.close()
