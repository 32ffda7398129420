"""The profile of AMQP 1.0: the same keys for sending and receiving."""

from __future__ import annotations

from typing import ClassVar, Literal

from evbus.engine.kit.units import Seconds
from evbus.engine.wire.base.profile import BrokerProfile, unfit

__all__ = ["KEY", "Model", "Profile"]

#: Stands in the template of an address for the routing key.
KEY = "{routing_key}"

Model = Literal["artemis", "rabbitmq3", "rabbitmq4"]


class Profile(BrokerProfile, frozen=True, kw_only=True):
    """A profile of AMQP 1.0: the keys of :class:`evbus.engine.wire.base.profile.BrokerProfile`, and these.

    Connection:

    :ivar url: ``amqp://login:password@host:port/vhost``, or ``amqps://`` for TLS; the ports are 5672 and 5671
        if none is given.
    :ivar vhost: default: the url's, else the broker's own. RabbitMQ is told ``vhost:<name>``, others
        the name.
    :ivar auth: ``plain`` (login and password), ``external`` (the client certificate of ``tls`` says who it
        is) or ``anonymous``.
    :ivar address_model: how the broker writes addresses: ``artemis``, ``rabbitmq3``, ``rabbitmq4``; ``auto``
        goes by what the broker calls itself, and takes one that is no RabbitMQ for an Artemis.

    Sending:

    :ivar address: a template such as ``/exchange/events/{routing_key}``. ``{routing_key}`` alone takes the
        routing key as the whole address. Default: ``{routing_key}`` (Artemis), ``/queue/{routing_key}``
        (RabbitMQ 3), ``/queues/{routing_key}`` (RabbitMQ 4).
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

    :ivar server_name: what a process's own copy is called by on Artemis; default: a name made up.
    """

    SCHEMES: ClassVar[tuple[str, str]] = ("amqp", "amqps")
    PORTS: ClassVar[tuple[int, int]] = (5672, 5671)
    TEMPLATES: ClassVar[tuple[str, ...]] = ("address",)
    VHOST: ClassVar[str] = ""

    auth: Literal["plain", "external", "anonymous"] = "plain"
    address_model: Literal["auto", "artemis", "rabbitmq3", "rabbitmq4"] = "auto"

    address: str | None = None
    routing: Literal["multicast", "anycast"] = "multicast"
    durable: bool = True
    ttl: Seconds | None = None
    priority: int | None = None
    cloudevents_prefix: Literal["ce-", "cloudEvents_", "cloudEvents:"] = "ce-"
    settle_timeout: Seconds = 30.0
    window: int = 1000

    server_name: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_seconds("settle_timeout")
        self._check_number("window", 1, 1_000_000)
        self._check_number("priority", 0, 255, " (Artemis: 9)")
        self._check_seconds("ttl", most=4_294_967)
        self._check_address()
        where = self.where()
        if self.auth == "external" and (where.tls is None or not where.tls.cert_file):
            raise ValueError("auth: external needs tls.cert_file, the certificate that says who it is")
        if self.auth == "plain" and not where.login:
            raise ValueError("auth: plain needs a login, in the url or as a key; or write auth: anonymous")

    def _check_address(self) -> None:
        text = self.address
        if text is not None and (not text or text.count(KEY) > 1 or "{" in text.replace(KEY, "")):
            raise ValueError(
                f"address {text!r} is empty, or holds more than one {KEY}, or another pair of braces"
            )
        self._check_texts("AMQP 1.0", "address", "server_name")
        for name, value in self.headers.items():
            if not name or unfit(name) or unfit(value):
                raise ValueError(f"headers holds {name[:100]!r}, empty or with a NUL or a lone surrogate")
