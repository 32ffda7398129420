"""What a profile of STOMP says: the same keys for sending and receiving."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from evbus.engine.kit.units import Seconds
from evbus.engine.wire.base.address import Address, Scheme, locate
from evbus.engine.wire.base.pause import Pause
from evbus.engine.wire.base.tls import Tls
from evbus.engine.wire.stomp.frame import unfit

__all__ = ["KEY", "ROUTING_KEY", "Profile"]

SCHEME = Scheme("stomp", "stomp+ssl", 61613, 61614)
#: Stands in the template of a destination for the routing key.
KEY = "{routing_key}"
#: The header that brings the routing key along where the destination does not tell it.
ROUTING_KEY = "evbus-routing-key"
#: What evbus writes into every frame that it sends, and so no header of a profile may.
OURS = frozenset({"destination", "receipt", "content-length", "transaction", "id", "ack", "subscription"})


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A profile of STOMP 1.2.

    Connection:

    :ivar url: ``stomp://login:password@host:port/vhost``, or ``stomp+ssl://`` for TLS; the ports are 61613
        and 61614 if none is given. Percent-encode what is no plain character; the vhost ``/`` is written as
        nothing or ``%2F``.
    :ivar hosts: ``host`` or ``host:port`` of several brokers, tried in turn; instead of the url's host.
    :ivar login: the user; default: the url's, else none.
    :ivar password: default: the url's, else none.
    :ivar vhost: default: the url's, else ``/``. RabbitMQ needs it; ActiveMQ has none and ignores it.
    :ivar tls: true, or the keys of :class:`evbus.engine.wire.base.tls.Tls`; ``stomp+ssl`` means true. It is
        used for every one of ``hosts``.
    :ivar heartbeat: seconds; a broker from which nothing comes for twice as long is given up; 0: never.
    :ivar connect_timeout: seconds until an attempt to connect to one host is given up.
    :ivar first_connect: ``fail`` refuses to start when the first attempt fails; ``wait`` goes on trying.
    :ivar reconnect: see :class:`evbus.engine.wire.base.pause.Pause`.
    :ivar client_id: who this is, for durable subscriptions of ActiveMQ; only one connection may have it.

    Sending:

    :ivar destination: a template such as ``/topic/orders.{routing_key}``. ``{routing_key}`` alone takes the
        routing key as the whole destination.
    :ivar routing_key: a template such as ``orders.{routing_key}``; default: the event's own.
    :ivar persistent: the broker keeps events on disk.
    :ivar expiry: seconds after which the broker drops an event that nobody took.
    :ivar priority: 0 to 255 (RabbitMQ, for queues with ``x-max-priority``) or 0 to 9 (ActiveMQ).
    :ivar headers: added to every event; they win over headers of the same name.
    :ivar receipt_timeout: seconds without any receipt after which events in flight are tried again.
    :ivar window: events that may be in flight, sent and without a receipt.

    Receiving:

    :ivar prefetch: deliveries that may be unsettled at once; default: what
        :meth:`evbus.types.Subscription.prefetch_for` makes of the consumer's concurrency.
    :ivar subscription: the group of consumers that name none: what makes a subscription to a topic durable.
    :ivar durable: false makes every subscription to a topic a temporary one.

    Both:

    :ivar declare: headers by which RabbitMQ declares a queue, for sender and receiver alike, such as
        ``x-queue-type: quorum``.
    """

    url: str | None = None
    hosts: list[str] | str = []
    login: str | None = None
    password: str | None = None
    vhost: str | None = None
    tls: Tls | bool = False
    heartbeat: Seconds = 10.0
    connect_timeout: Seconds = 5.0
    first_connect: Literal["fail", "wait"] = "fail"
    reconnect: Pause = Pause()
    client_id: str | None = None

    destination: str = "/queue/" + KEY
    routing_key: str | None = None
    persistent: bool = True
    expiry: Seconds | None = None
    priority: int | None = None
    headers: dict[str, str] = {}
    receipt_timeout: Seconds = 30.0
    window: int = 1000

    prefetch: int | None = None
    subscription: str | None = None
    durable: bool = True

    declare: dict[str, str] = {}

    def __repr__(self) -> str:
        # The url, the password and the headers may be secret.
        return f"<stomp profile, {self.address()!r}, destination {self.destination!r}>"

    def __post_init__(self) -> None:
        self._check_numbers()
        self._check_destination()
        for where, headers in (("headers", self.headers), ("declare", self.declare)):
            for name, value in headers.items():
                _check_header(where, name, value)
        for key, text in (
            ("login", self.login),
            ("password", self.password),
            ("vhost", self.vhost),
            ("client_id", self.client_id),
            ("subscription", self.subscription),
        ):
            if text is not None and unfit(text):
                raise ValueError(f"{key} holds a NUL or a lone surrogate, which STOMP cannot carry")
        self.address()

    def _check_numbers(self) -> None:
        if self.priority is not None and not 0 <= self.priority <= 255:
            raise ValueError("priority is a number from 0 to 255 (ActiveMQ: 9)")
        if self.expiry is not None and not 0 < self.expiry <= 4_294_967:
            raise ValueError("expiry is a number of seconds above 0, at most 4294967")
        if self.prefetch is not None and not 1 <= self.prefetch <= 65535:
            raise ValueError("prefetch is a number from 1 to 65535")
        if not 1 <= self.window <= 1_000_000:
            raise ValueError("window is a number from 1 to 1000000")
        for name in ("connect_timeout", "receipt_timeout"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is a number of seconds above 0")
        if not 0 <= self.heartbeat <= 65535:
            raise ValueError("heartbeat is a number of seconds from 0 to 65535")

    def _check_destination(self) -> None:
        text = self.destination
        if text != KEY and not text.startswith("/"):
            # RabbitMQ answers such a SEND with a receipt and throws it away.
            raise ValueError(
                f"destination {text!r} begins with no '/'; write '/queue/{text}', '/topic/...', or '{KEY}'"
            )
        if text.count(KEY) > 1 or "{" in text.replace(KEY, ""):
            raise ValueError(f"destination {text!r} holds more than one {KEY}, or another pair of braces")
        if unfit(text):
            raise ValueError("destination holds a NUL or a lone surrogate, which STOMP cannot carry")

    def address(self) -> Address:
        """Return where and as whom to connect.

        :raises ValueError: the url or a host is none; does not hold the password.
        """
        return locate(self, SCHEME, "/")


def _check_header(where: str, name: str, value: str) -> None:
    if name.lower() in OURS:
        raise ValueError(f"the header {name!r} is set by evbus and cannot be given in {where}")
    if where == "declare" and any(char in name for char in ":\r\n\\"):
        raise ValueError(f"declare holds {name[:100]!r}, which is no name of a header")
    if not name or unfit(name) or unfit(value):
        raise ValueError(f"{where} holds {name[:100]!r}, empty or with a NUL, which STOMP cannot carry")
