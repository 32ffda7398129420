"""The profile of STOMP: the same keys for sending and receiving."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from evbus.engine.kit.units import Seconds
from evbus.engine.wire.base.profile import BrokerProfile, unfit

__all__ = ["KEY", "ROUTING_KEY", "Profile"]

#: Stands in the template of a destination for the routing key.
KEY = "{routing_key}"
#: The header that brings the routing key along where the destination does not tell it.
ROUTING_KEY = "evbus-routing-key"
#: What evbus writes into every frame that it sends, and so no header of a profile may.
OURS = frozenset({"destination", "receipt", "content-length", "transaction", "id", "ack", "subscription"})


class Profile(BrokerProfile, frozen=True, kw_only=True):
    """A profile of STOMP 1.2: the keys of :class:`evbus.engine.wire.base.profile.BrokerProfile`, and these.

    Connection:

    :ivar url: ``stomp://login:password@host:port/vhost``, or ``stomp+ssl://`` for TLS; the ports are 61613
        and 61614 if none is given.
    :ivar vhost: default: the url's, else ``/``. RabbitMQ needs it; ActiveMQ has none and ignores it.
    :ivar client_id: who this is, for durable subscriptions of ActiveMQ; only one connection may have it.

    Sending:

    :ivar destination: a template such as ``/topic/orders.{routing_key}``. ``{routing_key}`` alone takes the
        routing key as the whole destination.
    :ivar persistent: the broker keeps events on disk.
    :ivar expiry: seconds after which the broker drops an event that nobody took.
    :ivar priority: 0 to 255 (RabbitMQ, for queues with ``x-max-priority``) or 0 to 9 (ActiveMQ).
    :ivar headers: added to every event; they win over headers of the same name.
    :ivar receipt_timeout: seconds without any receipt after which events in flight are tried again.
    :ivar window: events that may be in flight, sent and without a receipt.

    Receiving:

    :ivar subscription: the group of consumers that name none: what makes a subscription to a topic durable.
    :ivar durable: false makes every subscription to a topic a temporary one.

    Both:

    :ivar declare: headers by which RabbitMQ declares a queue, for sender and receiver alike, such as
        ``x-queue-type: quorum``.
    """

    SCHEMES: ClassVar[tuple[str, str]] = ("stomp", "stomp+ssl")
    PORTS: ClassVar[tuple[int, int]] = (61613, 61614)
    TEMPLATES: ClassVar[tuple[str, ...]] = ("destination",)

    client_id: str | None = None

    destination: str = "/queue/" + KEY
    persistent: bool = True
    expiry: Seconds | None = None
    priority: int | None = None
    receipt_timeout: Seconds = 30.0
    window: int = 1000

    subscription: str | None = None
    durable: bool = True

    declare: dict[str, str] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_seconds("receipt_timeout")
        self._check_number("window", 1, 1_000_000)
        self._check_number("priority", 0, 255, " (ActiveMQ: 9)")
        self._check_seconds("expiry", most=4_294_967)
        self._check_destination()
        for where, headers in (("headers", self.headers), ("declare", self.declare)):
            for name, value in headers.items():
                _check_header(where, name, value)
        self._check_texts("STOMP", "destination", "client_id", "subscription")

    def _check_destination(self) -> None:
        text = self.destination
        if text != KEY and not text.startswith("/"):
            # RabbitMQ answers such a SEND with a receipt and throws it away.
            raise ValueError(
                f"destination {text!r} begins with no '/'; write '/queue/{text}', '/topic/...', or '{KEY}'"
            )
        if text.count(KEY) > 1 or "{" in text.replace(KEY, ""):
            raise ValueError(f"destination {text!r} holds more than one {KEY}, or another pair of braces")


def _check_header(where: str, name: str, value: str) -> None:
    if name.lower() in OURS:
        raise ValueError(f"the header {name!r} is set by evbus and cannot be given in {where}")
    if where == "declare" and any(char in name for char in ":\r\n\\"):
        raise ValueError(f"declare holds {name[:100]!r}, which is no name of a header")
    if not name or unfit(name) or unfit(value):
        raise ValueError(f"{where} holds {name[:100]!r}, empty or with a NUL, which STOMP cannot carry")
