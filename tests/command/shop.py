"""An application with events and listeners, as files in a folder."""

from __future__ import annotations

from tests.command.kit import Shell

__all__ = ["OPTIONS", "SECRETS", "open_shop"]

#: The options by which the commands find it.
OPTIONS = ("--profiles", "profiles.yml", "--plugin-dirs", "plugins", "--events", "shop.events")
#: What stands in its profiles and must not get out.
SECRETS = ("s3cr3t-w0rd", "T0/B1", "c2VjcmV0", "user-of-the-shop", "tok3n")

EVENTS = '''
from __future__ import annotations
import datetime, uuid
from dataclasses import dataclass, field
from decimal import Decimal
import pydantic
from evbus.api import event

@dataclass
class Line:
    """One line of an order."""
    article: str
    parts: list[Line] = field(default_factory=list)

@event(durable=True, version=2)
@dataclass
class OrderPlaced:
    """A customer has placed an order.

    Once for each order."""
    order_id: uuid.UUID
    total: Decimal
    at: datetime.datetime
    lines: list[Line]

@event(broadcast=True)
@dataclass
class PricesChanged:
    articles: list[str]

@event("customer.registered")
class CustomerRegistered(pydantic.BaseModel):
    email: str

@event()
@dataclass
class Heartbeat:
    number: int
'''

BILLING = '''
from evbus.api import EventListener, event_listener
from shop.events import CustomerRegistered, OrderPlaced

@event_listener(OrderPlaced, group="accounts", key="order_id", concurrency=4, timeout=5)
async def on(hub, event):
    """Write the invoice."""

@event_listener(OrderPlaced)
@event_listener(CustomerRegistered, name="crm")
class Audit(EventListener):
    """Note what happens."""
    def on(self, event): ...
'''

CACHE = """
from evbus.api import event_listener
from shop.events import PricesChanged

@event_listener(PricesChanged, profile="queues")
def on(event): ...
"""

PROFILES = """
amqp:
  default:
    url: amqps://user-of-the-shop:s3cr3t-w0rd@rabbit.example/prod
    exchange: {name: events, type: topic}
    headers: {x-token: tok3n-of-the-shop}
    delivery: {dead_letter: lost}
amqp1:
  queues: {url: "amqp://user-of-the-shop:s3cr3t-w0rd@artemis.example/", address_model: artemis}
stomp:
  queues: {url: "stomp://user-of-the-shop:s3cr3t-w0rd@mq.example/", destination: "/topic/{routing_key}"}
file:
  lost: {path: lost.jsonl}
webhook:
  default: {url: "https://me:s3cr3t-w0rd@hooks.example/T0/B1?token=tok3n", secret: whsec_c2VjcmV0c2VjcmV0}
internal:
  default: {}
"""


def open_shop(shell: Shell) -> None:
    """Write the application into the shell's folder."""
    shell.file("shop/__init__.py", "")
    shell.file("shop/events.py", EVENTS)
    shell.file("plugins/listener/billing.py", BILLING)
    shell.file("plugins/listener/cache.py", CACHE)
    shell.file("profiles.yml", PROFILES)
