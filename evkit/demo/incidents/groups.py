"""Two consumer groups of the shop's orders; `evkit consume evkit.demo.incidents.groups:billing` runs one.

What may go wrong is switched on by the environment:

    EVKIT_SHOP_RELEASE   code version of billing; "2.0" has a bug
    EVKIT_SHOP_GATEWAY   port of the payment gateway
    EVKIT_SHOP_LANES     how many orders billing handles at a time
"""

from __future__ import annotations

import os

from pydantic import BaseModel

import evkit
from evkit.demo.incidents.gateway import charge
from evkit.event import Event
from evkit.runtime.handler import Tx

TOPIC = "order"
GROUPS = ("billing", "shipping")

RELEASE = os.environ.get("EVKIT_SHOP_RELEASE", "1.0")
_GATEWAY = int(os.environ.get("EVKIT_SHOP_GATEWAY", "0"))
_LANES = int(os.environ.get("EVKIT_SHOP_LANES", "1"))

# An incident has no time for long waits; a service would keep the default.
_RETRY = evkit.Retry(attempts=3, backoff_seconds=0.01, backoff_seconds_max=0.05)


class OrderPlaced(BaseModel):
    """What the shop says of an order."""

    order: str
    total: float


billing = evkit.Consumer(
    "billing",
    [TOPIC],
    retry=_RETRY,
    concurrency=_LANES,
    batch_events_max=20,
    code_version=RELEASE,
    breaker=evkit.Breaker(),
)
shipping = evkit.Consumer("shipping", [TOPIC], retry=_RETRY)


@billing.handler("order.placed", model=OrderPlaced)
def bill(event: Event, tx: Tx) -> None:
    """Charge an order, and write the bill."""
    order: OrderPlaced = event.payload
    if order.total < 0:
        raise ValueError(f"{order.order} has a total of {order.total}")
    charge(_GATEWAY)
    # The bug: a discount for large orders, by a number that nobody has set.
    total = order.total / 0 if RELEASE == "2.0" and order.total > 70 else order.total
    tx.execute("INSERT INTO shop.bill (order_id, total) VALUES (%s, %s)", (order.order, total))


@shipping.handler("order.placed")
def ship(event: Event, tx: Tx) -> None:
    """Write down what is to be shipped."""
    tx.execute("INSERT INTO shop.shipment (order_id) VALUES (%s)", (event.payload["order"],))
