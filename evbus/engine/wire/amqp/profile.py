"""The profile of AMQP: the same keys for sending and receiving."""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec

from evbus.engine.kit.units import Seconds
from evbus.engine.wire.base.profile import Address, BrokerProfile, host_and_port
from evbus.engine.wire.base.tls import Tls

__all__ = ["NOT_CLASSIC", "PASSING", "Binding", "ExchangeDeclaration", "Profile", "QueueDeclaration"]

PORT, TLS_PORT = 5672, 5671
#: Seconds that a queue which is not to be kept outlives its consumers: they may only be reconnecting.
PASSING = 300
#: What a queue is bound by: a key, or headers.
Binding = str | dict[str, Any]

_TYPE = "x-queue-type"
#: Each says what becomes of a message of a quorum queue that is returned again and again.
_ENDS = {"x-delivery-limit", "x-dead-letter-exchange"}
#: Arguments that classic queues do not have, by a version of RabbitMQ at least.
NOT_CLASSIC = (
    _TYPE,
    "x-delivery-limit",
    "x-consumer-timeout",
    "x-dead-letter-strategy",
    "x-initial-cluster-size",
    "x-max-age",
    "x-max-in-memory-bytes",
    "x-max-in-memory-length",
    "x-queue-leader-locator",
    "x-quorum-initial-group-size",
    "x-stream-filter-size-bytes",
    "x-stream-max-segment-size-bytes",
)
_LOCAL_RANDOM = "x-local-random"
_MATCHES = ("all", "any", "all-with-x", "any-with-x")
#: evbus-pika hands the key ``connection`` to aio-pika's ``connect_robust``; of its parameters these matter.
_OLD = ("url", "host", "port", "login", "password", "virtualhost", "ssl", "ssl_options", "client_properties")
_OLD_IGNORED = ("timeout", "loop", "reconnect_interval", "fail_fast")
_SSL_OPTIONS = {
    "cafile": "ca_file",
    "ca_certs": "ca_file",
    "certfile": "cert_file",
    "keyfile": "key_file",
    "no_verify_ssl": "insecure",
}


class ExchangeDeclaration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An exchange to declare. The broker refuses one that is there with other settings.

    :ivar type: direct, fanout, topic, headers, or the name of a plugin's, which begins with ``x-``.
    :ivar arguments: such as ``alternate-exchange``.
    """

    name: str
    type: str = "topic"
    durable: bool = True
    auto_delete: bool = False
    internal: bool = False
    arguments: dict[str, Any] = {}

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("the default exchange cannot be declared; give the exchange a name")
        # For a type that it does not know the broker ends the connection, and so all lanes on it.
        if self.type not in ("direct", "fanout", "topic", "headers") and not self.type.startswith("x-"):
            raise ValueError(f"type is direct, fanout, topic, headers or x-..., not {self.type[:40]!r}")


class QueueDeclaration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A queue to declare. One that is there with other settings is used as it is, with a warning.

    :ivar name: its name; on the receiving side a subscription's own name comes before it.
    :ivar type: classic, quorum or stream, whatever the vhost's default type is. A quorum queue on RabbitMQ 4
        that has neither dead letters nor a limit of its own (``x-delivery-limit``) is declared without any
        (-1): the broker's is 20, and what is returned once more is dropped without a word.
    :ivar bind: the keys by which it is bound to the profile's exchange; default: the profile's routing key,
        else the queue's name. A mapping in place of a key holds the headers for an exchange of type headers,
        and ``x-match`` (all, the default, or any; see the broker): ``bind: [{x-match: all, tenant: shop}]``.
        The headers of evbus's events are texts, and a number matches none of them.
    :ivar dead_letter_exchange: where the broker sends what was rejected or has expired; ``""`` is the default
        exchange.
    :ivar dead_letter_routing_key: its new routing key; default: the one that it has.
    :ivar arguments: further ones, such as ``x-max-length``.
    """

    name: str = ""
    type: Literal["classic", "quorum", "stream"] = "classic"
    durable: bool = True
    auto_delete: bool = False
    bind: list[str | dict[str, Any]] | dict[str, Any] | str | None = None
    dead_letter_exchange: str | None = None
    dead_letter_routing_key: str | None = None
    arguments: dict[str, Any] = {}

    def __post_init__(self) -> None:
        if self.type != "classic" and not self.durable:
            raise ValueError(f"a queue of type {self.type} is always durable; leave out durable: false")
        if self.dead_letter_routing_key is not None and self.dead_letter_exchange is None:
            raise ValueError("dead_letter_routing_key needs dead_letter_exchange; '' is the default exchange")

    @property
    def kind(self) -> str:
        """Its type, whichever way it was given."""
        return str(self.arguments.get(_TYPE, self.type))

    def table(self, server: tuple[int, ...] = ()) -> dict[str, Any]:
        """Return the arguments of the declaration.

        :param server: the version of the RabbitMQ that it is declared on.
        """
        table = {_TYPE: self.type, **self.arguments}
        if self.dead_letter_exchange is not None:
            table["x-dead-letter-exchange"] = self.dead_letter_exchange
        if self.dead_letter_routing_key is not None:
            table["x-dead-letter-routing-key"] = self.dead_letter_routing_key
        # Before version 4 there is none, and -1 drops a message at its first return.
        if server >= (4,) and self.kind == "quorum" and not _ENDS & table.keys():
            table["x-delivery-limit"] = -1
        return table

    def passing(self, name: str) -> QueueDeclaration:
        """Return a queue of these settings that is there for as long as its consumers are.

        It outlives their absence by :data:`PASSING` seconds. It is always classic, and has none of the
        arguments that other types have alone.
        """
        arguments = {key: value for key, value in self.arguments.items() if key not in NOT_CLASSIC}
        arguments.setdefault("x-expires", PASSING * 1000)
        return msgspec.structs.replace(
            self, name=name, type="classic", durable=True, auto_delete=False, arguments=arguments
        )


class Profile(BrokerProfile, frozen=True, kw_only=True):
    """A profile of AMQP 0-9-1: the keys of :class:`evbus.engine.wire.base.profile.BrokerProfile`, and these.

    Connection:

    :ivar url: ``amqp://login:password@host:port/vhost``, or ``amqps://`` for TLS; the ports are 5672 and 5671
        if none is given. Default: the host ``localhost``.
    :ivar login: the user; default: the url's, else guest.
    :ivar password: default: the url's, else guest.
    :ivar vhost: default: the url's, else ``/``.
    :ivar auth: plain, or external: the client certificate of ``tls`` says who it is.
    :ivar heartbeat: 20 by default, and rounded to whole seconds, as the protocol has it.
    :ivar client_properties: shown in the broker's list of connections.
    :ivar connection: the same by the names of aio-pika, as profiles of evbus-pika have it.

    Topology:

    :ivar exchange: the name of an exchange that is there; or its declaration (:class:`ExchangeDeclaration`).
        Default, and by the names ``""`` and ``default``: the default exchange, which leads to the queue
        named by the routing key.
    :ivar queue: the name of a queue, taken as it is, and declared as a durable classic one if it is not
        there; or its declaration (:class:`QueueDeclaration`). It is bound to the exchange.

    Sending:

    :ivar mandatory: an event that reaches no queue comes back, and is a dead letter. False drops it silently.
    :ivar persistent: the broker keeps events on disk.
    :ivar expiry: seconds after which the broker drops an event that nobody took, at most 315360000; a stream
        keeps its own time (``x-max-age``).
    :ivar priority: 0 to 255. Classic queues have as many as their ``x-max-priority`` says, else none. Quorum
        queues have some without being asked: on RabbitMQ 4.0 to 4.2 two, up to 4 and from 5 on, of which two
        come for each of the others; from 4.3 on 32 (above is 31), and an event that has none is one of 4.
    :ivar headers: added to every event that has none of that name.
    :ivar cloudevents_prefix: what the attributes of CloudEvents begin with in a message: ``ce-`` as here, or
        ``cloudEvents_`` or ``cloudEvents:`` as in the AMQP binding of CloudEvents (section 3.1.3.1).
    :ivar refused: what a ``basic.nack`` of the broker means (a full queue that rejects, a queue that failed):
        ``retry``, as often as ``delivery.retry`` says, or ``reject``, a dead letter at once.
    :ivar confirm_timeout: seconds without any confirm after which the events in flight are sent again once
        the connection is restored; and it is given up when it then answers nothing for as long again, though
        its heartbeats go on. (``timeout`` in profiles of evbus-pika.)

    Receiving:

    :ivar consumer_priority: consumers of a higher one are served first.
    :ivar exclusive: nobody else may consume from the queue.
    :ivar offset: where a stream is read from when nothing was acknowledged in this run: ``first``, ``last``,
        ``next`` or a number.
    """

    auth: Literal["plain", "external"] = "plain"
    heartbeat: Seconds = 20.0
    client_properties: dict[str, Any] = msgspec.field(default_factory=dict)
    connection: dict[str, Any] = msgspec.field(default_factory=dict)

    exchange: ExchangeDeclaration | str = ""
    queue: QueueDeclaration | str | None = None

    mandatory: bool = True
    persistent: bool = True
    expiry: Seconds | None = None
    priority: int | None = None
    cloudevents_prefix: Literal["ce-", "cloudEvents_", "cloudEvents:"] = "ce-"
    refused: Literal["retry", "reject"] = "retry"
    confirm_timeout: Seconds = 30.0
    timeout: Seconds | None = None

    consumer_priority: int | None = None
    exclusive: bool = False
    offset: int | str = "next"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_seconds("confirm_timeout", "timeout")
        self._check_number("priority", 0, 255)
        self._check_number("expiry", 0, 315_360_000, " (3,650 days)", of=" of seconds")
        if isinstance(self.offset, str) and self.offset not in ("first", "last", "next"):
            raise ValueError("offset is first, last, next or a number")
        self._check_topology()
        address = self.where()
        if self.auth == "external" and (address.tls is None or not address.tls.cert_file):
            raise ValueError("auth: external needs tls.cert_file, the certificate that says who it is")

    def _check_topology(self) -> None:
        queue, key = self.queue_settings(), self.routing_key
        if queue is None:
            return
        if self.exchange_name():
            self._check_bindings(queue)
            return
        if queue.bind:
            raise ValueError(
                "queue.bind needs an exchange: every queue is bound to the default one by its name"
            )
        if key is not None and queue.name and key != queue.name and "{" not in key:
            raise ValueError(
                f"the default exchange leads to the queue {queue.name!r} by its own name only, and never by "
                f"the routing_key {key!r}: leave out routing_key, or name an exchange"
            )

    def _check_bindings(self, queue: QueueDeclaration) -> None:
        # One without a name only lends its settings to the queues of listeners.
        for one in self.bindings(queue) if queue.name or queue.bind is not None else ():
            if isinstance(one, dict) and one.get("x-match", "all") not in _MATCHES:
                raise ValueError(f"queue.bind: x-match is one of {', '.join(_MATCHES)}")
            if isinstance(self.exchange, ExchangeDeclaration):
                _check_binding(one, self.exchange.type, queue.name)

    def bindings(self, queue: QueueDeclaration) -> list[Binding]:
        """Return the bindings of the profile's queue to its exchange; there are none to the default one."""
        if not self.exchange_name():
            return []
        if queue.bind is not None:
            return list(queue.bind) if isinstance(queue.bind, list) else [queue.bind]
        if isinstance(self.exchange, ExchangeDeclaration) and self.exchange.type == _LOCAL_RANDOM:
            return [""]
        key = self.routing_key
        return [key if key is not None and "{" not in key else queue.name]

    def exchange_name(self) -> str:
        """Return the name of the exchange, ``""`` for the default one."""
        name = self.exchange.name if isinstance(self.exchange, ExchangeDeclaration) else self.exchange
        return "" if name == "default" else name

    def queue_settings(self) -> QueueDeclaration | None:
        """Return the queue, whichever way it was given."""
        return QueueDeclaration(name=self.queue) if isinstance(self.queue, str) else self.queue

    def where(self) -> Address:
        """Return the address to connect to.

        :raises ValueError: says which key is wrong.
        """
        old = _old_keys(self.connection)
        url = _split(self.url if self.url is not None else old.get("url"))
        given = [self.hosts] if isinstance(self.hosts, str) else list(self.hosts)
        tls = _tls(self.tls, old, encrypted=url is not None and url.scheme == "amqps")
        default = TLS_PORT if tls is not None else PORT
        if given:
            hosts = tuple(host_and_port(host, default) for host in given)
        elif url is not None:
            hosts = ((url.hostname or "localhost", url.port or default),)
        else:
            hosts = ((str(old.get("host", "localhost")), _port(old.get("port") or default)),)
        login = (
            self.login if self.login is not None else unquote(url.username or "") if url else old.get("login")
        )
        password = self.password
        if password is None:
            password = unquote(url.password or "") if url else old.get("password")
        vhost = self.vhost
        if vhost is None:
            vhost = unquote(url.path[1:]) if url else old.get("virtualhost")
        return Address(hosts, str(login or "guest"), str(password or "guest"), str(vhost or "/"), tls)


def _check_binding(binding: Binding, exchange_type: str, queue: str) -> None:
    if exchange_type == "headers" and isinstance(binding, str):
        raise ValueError(
            "an exchange of type headers looks at no key, and leads everything to a queue that is bound "
            f"without headers: give them, such as 'queue: {{name: {queue or 'orders'}, "
            "bind: [{x-match: all, tenant: shop}]}'; {} is everything"
        )
    if exchange_type in ("direct", "fanout", "topic") and isinstance(binding, dict):
        raise ValueError(
            f"queue.bind: an exchange of type {exchange_type} looks at no headers; give keys, or an exchange "
            "of type headers"
        )
    if exchange_type == _LOCAL_RANDOM and binding != "":
        raise ValueError(f"queue.bind: an exchange of type {_LOCAL_RANDOM} takes no other key than ''")


def _split(url: Any) -> SplitResult | None:
    if url is None:
        return None
    try:
        parts = urlsplit(str(url))
        _ = parts.port
    except ValueError:
        raise ValueError("the url is no URL; amqp://login:password@host:5672/vhost is one") from None
    if parts.scheme not in ("amqp", "amqps"):
        raise ValueError(f"the url begins with {parts.scheme[:20]!r}; amqp:// or amqps:// (TLS) is right")
    if parts.query or parts.fragment:
        raise ValueError("the url has a part after '?' or '#'; its settings are keys of the profile here")
    return parts


def _port(given: Any) -> int:
    if str(given).isdecimal() and 0 < int(given) < 65536:
        return int(given)
    raise ValueError(f"connection.port: {given!r} is no port")


def _tls(tls: Tls | bool, old: dict[str, Any], *, encrypted: bool) -> Tls | None:
    if isinstance(tls, Tls):
        return tls
    if not (tls or encrypted or old.get("ssl")):
        return None
    return Tls(**{_SSL_OPTIONS[key]: value for key, value in dict(old.get("ssl_options") or {}).items()})


def _old_keys(connection: dict[str, Any]) -> dict[str, Any]:
    """Return aio-pika's parameters that are given, checked."""
    for key in connection:
        if key not in _OLD and key not in _OLD_IGNORED:
            raise ValueError(f"connection: there is no key {key!r}; known: {', '.join(_OLD)}")
    for key in connection.get("ssl_options") or {}:
        if key not in _SSL_OPTIONS:
            raise ValueError(
                f"connection.ssl_options: there is no key {key!r}; known: {', '.join(_SSL_OPTIONS)}"
            )
    return {key: value for key, value in connection.items() if value is not None}
