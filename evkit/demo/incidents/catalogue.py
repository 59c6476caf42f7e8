"""The incidents: what goes wrong, and what triage must say of it. Each lasts until it shows; none waits for time alone."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from evkit import kafka, kafka_admin
from evkit.demo.incidents.groups import GROUPS, TOPIC
from evkit.demo.incidents.shop import PARTITIONS, RECORD_BYTES_MAX, Shop
from evkit.errors import UnknownIncident
from evkit.kafka import TopicPartition

# Orders a second, as on any day.
_USUAL = 20
# For how long something must wait until it shows; thresholds.toml says 3 s.
_SHOWS_SECONDS = 4.0


@dataclass(frozen=True, slots=True)
class Incident:
    """One incident.

    Attributes:
        name    as `evkit incident` takes it
        title   what happens, in a sentence
        cause   name of the cause that triage must find, among its first two
        happen  lets it happen in a shop that is open; returns while it lasts
    """

    name: str
    title: str
    cause: str
    happen: Callable[[Shop], None]


INCIDENTS: dict[str, Incident] = {}


def incident(cause: str) -> Callable[[Callable[[Shop], None]], Callable[[Shop], None]]:
    """Add a function to the incidents; its docstring's first line is the title."""

    def added(function: Callable[[Shop], None]) -> Callable[[Shop], None]:
        name = function.__name__
        title = (function.__doc__ or name).strip().splitlines()[0].rstrip(".")
        INCIDENTS[name] = Incident(name, title, cause, function)
        return function

    return added


def find(name: str) -> Incident:
    """The incident of this name, `-` and `_` alike.

    Raises:
        UnknownIncident: there is none; the closest names are in `suggestions`.
    """
    plain = name.replace("-", "_")
    if plain not in INCIDENTS:
        raise UnknownIncident(name, INCIDENTS, where="to `evkit incident`")
    return INCIDENTS[plain]


# --- nothing ----------------------------------------------------------------------------------------------------------


@incident(cause="")
def calm(shop: Shop) -> None:
    """Nothing goes wrong: orders come, and are billed and shipped."""
    with shop.traffic(_USUAL):
        shop.until_handled("billing", 120)
    for group in GROUPS:
        shop.until_committed(group)


# --- lost -------------------------------------------------------------------------------------------------------------


@incident(cause="retention_loss")
def retention_loss(shop: Shop) -> None:
    """Billing is stopped for longer than the topic keeps its records."""
    shop.stop("billing")
    shop.write(200)
    shop.until_committed("shipping")
    ends = shop.ends()
    # What the log cleaner does when retention.ms has passed.
    asked = shop.system.admin.delete_records([TopicPartition(*place, end - 5) for place, end in ends.items()])
    for future in asked.values():
        future.result()


@incident(cause="offset_skip")
def offset_skip(shop: Shop) -> None:
    """Somebody resets the offsets of billing to the latest ones, to get rid of the lag."""
    shop.stop("billing")
    shop.write(200)
    shop.until_committed("shipping")
    _move(shop, shop.ends())
    shop.consume("billing")
    shop.write(40)
    shop.until_handled("billing", 40)


# --- wrong ------------------------------------------------------------------------------------------------------------


@incident(cause="schema_break")
def schema_break(shop: Shop) -> None:
    """The shop's new app says `amount` where it said `total`; nobody told billing."""
    shop.write(20)
    shop.write(15, total=None, amount=12.5)
    shop.until(lambda: shop.ask("letters") >= 15)


@incident(cause="bad_release")
def bad_release(shop: Shop) -> None:
    """Release 2.0 of billing divides by zero for large orders."""
    shop.stop("billing")
    shop.consume("billing", EVKIT_SHOP_RELEASE="2.0")
    with shop.traffic(_USUAL):
        shop.until(lambda: shop.ask("letters") >= 12)


@incident(cause="poison")
def poison(shop: Shop) -> None:
    """One customer's orders have a negative total, and wait behind the first of them."""
    with shop.traffic(_USUAL):
        shop.write(1, key="customer-7", total=-1.0)
        shop.write(10, key="customer-7")
        shop.until(lambda: shop.ask("letters") >= 1)
        shop.until_handled("billing", 40)


@incident(cause="unpublishable")
def unpublishable(shop: Shop) -> None:
    """An order with a picture in it is larger than the topic takes."""
    shop.write(1, key="customer-7", picture="x" * 3 * RECORD_BYTES_MAX)
    shop.write(5, key="customer-7")
    shop.write(20)
    shop.until(lambda: shop.ask("unpublishable") >= 6)


@incident(cause="offset_rewind")
def offset_reset(shop: Shop) -> None:
    """Somebody sets the offsets of billing back to the beginning."""
    shop.write(200)
    shop.until_committed("billing")
    shop.stop("billing")
    _move(shop, dict.fromkeys(shop.ends(), 0))
    shop.consume("billing")
    shop.write(40)
    shop.until_handled("billing", 40)


# --- late -------------------------------------------------------------------------------------------------------------


@incident(cause="relay_stuck")
def relay_held(shop: Shop) -> None:
    """The relay's process hangs."""
    with shop.traffic(_USUAL):
        shop.until_handled("billing", 40)
        shop.hold("relay")
        shop.until(lambda: shop.ask("oldest_unpublished") >= _SHOWS_SECONDS)


@incident(cause="open_transaction")
def open_transaction(shop: Shop) -> None:
    """A service writes an order, and does not commit."""
    from evkit.runtime import outbox

    connection = shop.system.writing("shop import")
    shop.at_the_end(connection.close)
    outbox.write(connection, shop.order())
    with shop.traffic(_USUAL):
        shop.until(lambda: (shop.hole_seconds() or 0) >= _SHOWS_SECONDS)


@incident(cause="consumer_stopped")
def consumer_stopped(shop: Shop) -> None:
    """The last consumer of billing is gone."""
    with shop.traffic(_USUAL):
        shop.until_handled("billing", 40)
        shop.stop("billing")
        shop.until_late("billing", _SHOWS_SECONDS)


@incident(cause="handler_hangs")
def handler_hangs(shop: Shop) -> None:
    """Billing waits for a lock that a forgotten session holds."""
    with shop.traffic(_USUAL):
        shop.until_handled("billing", 60)
        connection = shop.system.writing("psql of somebody")
        shop.at_the_end(connection.close)
        connection.execute("LOCK TABLE shop.bill IN EXCLUSIVE MODE")
        shop.until_late("billing", 2 * _SHOWS_SECONDS)


@incident(cause="rebalance_storm")
def rebalance_storm(shop: Shop) -> None:
    """A second consumer of billing dies as soon as it has joined, and is started again and again."""
    settings = shop.system.settings
    with shop.traffic(_USUAL):
        for _ in range(6):
            member = kafka.consumer(settings, "billing", **{"group.protocol": "consumer"})
            member.subscribe([TOPIC])
            shop.until(lambda member=member: member.poll(0.05) is not None or member.assignment())  # type: ignore[misc]
            member.close()


@incident(cause="hanging_transaction")
def hanging_transaction(shop: Shop) -> None:
    """A service that writes to the topic in transactions hangs in the middle of one."""
    properties = {"transactional.id": "shop-import", "transaction.timeout.ms": 600_000}
    producer = kafka.producer(shop.system.settings, **properties)
    producer.init_transactions(30)
    producer.begin_transaction()
    for partition in range(PARTITIONS):
        producer.produce(TOPIC, b"{}", b"import", partition=partition)
    producer.flush(30)

    def give_up() -> None:
        with contextlib.suppress(kafka.KafkaException):
            producer.abort_transaction(30)

    shop.at_the_end(give_up)
    with shop.traffic(_USUAL):
        shop.until_late("billing", _SHOWS_SECONDS)


@incident(cause="hot_key")
def hot_key(shop: Shop) -> None:
    """One customer orders as much as all others together, and more than one lane can bill."""
    shop.stop("billing")
    shop.consume("billing", EVKIT_SHOP_LANES="4")
    shop.write(40)
    shop.until_handled("billing", 40)
    shop.gateway.delay = 0.05
    with shop.traffic(50, lambda n: "customer-7" if n % 5 else None):
        shop.until_late("billing", 1.5 * _SHOWS_SECONDS)


@incident(cause="dependency_down")
def dependency_down(shop: Shop) -> None:
    """The payment gateway is away."""
    with shop.traffic(_USUAL):
        shop.until_handled("billing", 40)
        shop.gateway.down = True
        shop.until_late("billing", _SHOWS_SECONDS)


@incident(cause="slow_consumer")
def slow_dependency(shop: Shop) -> None:
    """The payment gateway answers slowly."""
    with shop.traffic(_USUAL):
        shop.until_handled("billing", 80)
        shop.gateway.delay = 0.2
        shop.until_late("billing", 1.5 * _SHOWS_SECONDS)


@incident(cause="surge")
def surge(shop: Shop) -> None:
    """A sale begins: ten times as many orders come."""
    shop.gateway.delay = 0.02
    with shop.traffic(_USUAL):
        shop.until_handled("billing", 80)
    with shop.traffic(10 * _USUAL):
        shop.until_late("billing", 1.5 * _SHOWS_SECONDS)


# --- noisy ------------------------------------------------------------------------------------------------------------


@incident(cause="clock_skew")
def clock_skew(shop: Shop) -> None:
    """A service that writes to the topic itself, without an outbox, has a clock that is five minutes ahead."""
    producer = kafka.producer(shop.system.settings)
    ahead = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
    with shop.traffic(_USUAL):
        for n in range(30):
            about = {"order": f"import-{n}", "total": 12.5}
            headers: dict[str, str | bytes | None] = {
                "ce_specversion": "1.0",
                "ce_id": f"import-{n}",
                "ce_type": "order.placed",
                "ce_source": "/import",
                "ce_time": ahead,
                "content-type": "application/json",
            }
            producer.produce(TOPIC, json.dumps(about), f"customer-{n}", headers=headers)
        producer.flush(30)
        shop.until_handled("billing", 60)


# --- what several do --------------------------------------------------------------------------------------------------


def _move(shop: Shop, offsets: dict[tuple[str, int], int]) -> None:
    """As `kafka-consumer-groups --reset-offsets` does it; refused until the group's last member is gone."""
    settings, admin = shop.system.settings, shop.system.admin
    shop.until(lambda: not kafka_admin.move_offsets(settings, "billing", offsets, admin))
