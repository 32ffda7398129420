"""What a profile of AMQP 1.0 says: the same keys for sending and receiving."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from evbus.engine.kit.units import Seconds
from evbus.engine.wire.base.address import Address, Scheme, locate
from evbus.engine.wire.base.pause import Pause
from evbus.engine.wire.base.tls import Tls

__all__ = ["KEY", "Model", "Profile"]

SCHEME = Scheme("amqp", "amqps", 5672, 5671)
#: Stands in the template of an address for the routing key.
KEY = "{routing_key}"

Model = Literal["artemis", "rabbitmq3", "rabbitmq4"]


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A profile of AMQP 1.0.

    Connection:

    :ivar url: ``amqp://login:password@host:port/vhost``, or ``amqps://`` for TLS; the ports are 5672 and 5671
        if none is given. Percent-encode what is no plain character; the vhost ``/`` is written as nothing or
        ``%2F``.
    :ivar hosts: ``host`` or ``host:port`` of several brokers, tried in turn; instead of the url's host.
    :ivar login: the user; default: the url's, else none.
    :ivar password: default: the url's, else none.
    :ivar vhost: default: the url's, else the broker's own. RabbitMQ is told ``vhost:<name>``, others
        the name.
    :ivar tls: true, or the keys of :class:`evbus.engine.wire.base.tls.Tls`; ``amqps`` means true.
    :ivar auth: ``plain`` (login and password), ``external`` (the client certificate of ``tls`` says who it
        is) or ``anonymous``.
    :ivar heartbeat: seconds; a broker from which nothing comes for twice as long is given up; 0: never.
    :ivar connect_timeout: seconds until an attempt to connect to one host is given up.
    :ivar first_connect: ``fail`` refuses to start when the first attempt fails; ``wait`` goes on trying.
    :ivar reconnect: see :class:`evbus.engine.wire.base.pause.Pause`.
    :ivar address_model: how the broker writes addresses: ``artemis``, ``rabbitmq3``, ``rabbitmq4``; ``auto``
        goes by what the broker calls itself, and takes one that is no RabbitMQ for an Artemis.

    Sending:

    :ivar address: a template such as ``/exchange/events/{routing_key}``. ``{routing_key}`` alone takes the
        routing key as the whole address. Default: ``{routing_key}`` (Artemis), ``/queue/{routing_key}``
        (RabbitMQ 3), ``/queues/{routing_key}`` (RabbitMQ 4).
    :ivar routing_key: a template such as ``orders.{routing_key}``; default: the event's own.
    :ivar routing: of an address of Artemis: ``multicast`` gives every queue of it a copy, ``anycast`` each
        message to one.
    :ivar durable: the broker keeps events on disk.
    :ivar ttl: seconds after which the broker drops an event that nobody took.
    :ivar priority: 0 to 255 (RabbitMQ, for queues with ``x-max-priority``) or 0 to 9 (Artemis).
    :ivar headers: added to every event; they win over headers of the same name.
    :ivar cloudevents_prefix: what the attributes of CloudEvents begin with in a message: ``ce-`` as here, or
        ``cloudEvents_`` or ``cloudEvents:`` as in the AMQP binding of CloudEvents (section 3.1.3.1).
    :ivar settle_timeout: seconds without any outcome after which events in flight are offered again.
    :ivar window: events that may be in flight, sent and without an outcome.

    Receiving:

    :ivar prefetch: deliveries that may be unsettled at once; default: what
        :meth:`evbus.types.Subscription.prefetch_for` makes of the consumer's concurrency.
    :ivar server_name: what a process's own copy is called by on Artemis; default: a name made up.
    """

    url: str | None = None
    hosts: list[str] | str = []
    login: str | None = None
    password: str | None = None
    vhost: str | None = None
    tls: Tls | bool = False
    auth: Literal["plain", "external", "anonymous"] = "plain"
    heartbeat: Seconds = 10.0
    connect_timeout: Seconds = 5.0
    first_connect: Literal["fail", "wait"] = "fail"
    reconnect: Pause = Pause()
    address_model: Literal["auto", "artemis", "rabbitmq3", "rabbitmq4"] = "auto"

    address: str | None = None
    routing_key: str | None = None
    routing: Literal["multicast", "anycast"] = "multicast"
    durable: bool = True
    ttl: Seconds | None = None
    priority: int | None = None
    headers: dict[str, str] = {}
    cloudevents_prefix: Literal["ce-", "cloudEvents_", "cloudEvents:"] = "ce-"
    settle_timeout: Seconds = 30.0
    window: int = 1000

    prefetch: int | None = None
    server_name: str | None = None

    def __repr__(self) -> str:
        # The url, the password and the headers may be secret.
        return f"<amqp1 profile, {self.where()!r}, address {self.address!r}>"

    def __post_init__(self) -> None:
        self._check_numbers()
        self._check_texts()
        where = self.where()
        if self.auth == "external" and (where.tls is None or not where.tls.cert_file):
            raise ValueError("auth: external needs tls.cert_file, the certificate that says who it is")
        if self.auth == "plain" and not where.login:
            raise ValueError("auth: plain needs a login, in the url or as a key; or write auth: anonymous")

    def _check_numbers(self) -> None:
        if self.priority is not None and not 0 <= self.priority <= 255:
            raise ValueError("priority is a number from 0 to 255 (Artemis: 9)")
        if self.ttl is not None and not 0 < self.ttl <= 4_294_967:
            raise ValueError("ttl is a number of seconds above 0, at most 4294967")
        if self.prefetch is not None and not 1 <= self.prefetch <= 65535:
            raise ValueError("prefetch is a number from 1 to 65535")
        if not 1 <= self.window <= 1_000_000:
            raise ValueError("window is a number from 1 to 1000000")
        for name in ("connect_timeout", "settle_timeout"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is a number of seconds above 0")
        if not 0 <= self.heartbeat <= 65535:
            raise ValueError("heartbeat is a number of seconds from 0 to 65535")

    def _check_texts(self) -> None:
        text = self.address
        if text is not None and (not text or text.count(KEY) > 1 or "{" in text.replace(KEY, "")):
            raise ValueError(
                f"address {text!r} is empty, or holds more than one {KEY}, or another pair of braces"
            )
        for name in ("address", "login", "password", "vhost", "server_name"):
            given = getattr(self, name)
            if given is not None and _unfit(given):
                raise ValueError(f"{name} holds a NUL or a lone surrogate, which AMQP 1.0 cannot carry")
        for name, value in self.headers.items():
            if not name or _unfit(name) or _unfit(value):
                raise ValueError(f"headers holds {name[:100]!r}, empty or with a NUL or a lone surrogate")

    def where(self) -> Address:
        """Return where and as whom to connect. A vhost of ``""`` is the broker's own.

        :raises ValueError: the url or a host is none; does not hold the password.
        """
        return locate(self, SCHEME, "")


def _unfit(text: str) -> bool:
    """Return whether proton, which is written in C, or UTF-8 cannot carry a text."""
    return "\0" in text or any("\ud800" <= char <= "\udfff" for char in text)
