"""The transports, each at a broker that is really there, and what each of them can."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from evbus.engine.wire.amqp.profile import Profile as AmqpProfile
from evbus.engine.wire.amqp1.profile import Profile as Amqp1Profile
from evbus.engine.wire.stomp.profile import Profile as StompProfile
from evbus.errors import ConnectFailed, DeliveryError, ProfileError
from evbus.types import Envelope, Subscription
from tests.ingress.still_kit import Still, Withheld
from tests.servers._node import Node
from tests.servers._rabbitmq import RabbitMQ
from tests.servers._versions import VERSIONS
from tests.transports.kit import Following, Kit, event, new_hub, numbered

__all__ = ["TRANSPORTS", "Place", "Sender", "Transport", "places"]


@dataclass(frozen=True)
class Deaf:
    """What nobody can listen to.

    :ivar data: what a profile says instead, None for nothing.
    :ivar pattern: what is listened to, else the event itself.
    :ivar options: those of the listener.
    """

    said: str
    data: dict[str, Any] = field(default_factory=dict)
    pattern: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    problem: type[Exception] = ProfileError


@dataclass(frozen=True, kw_only=True)
class Transport:
    """A transport at a broker.

    :ivar broker: a fixture of brokers, or one of their versions of RabbitMQ.
    :ivar usual: whether it has the whole suite, and not only the tests that are about versions.
    :ivar can: what tests ask for: ``copies`` for processes; a ``handover`` of what a paused consumer has not
        begun with; ``leave``, which is that what a consumer leaves unsettled goes to the others of its
        connection; ``listed``, which is a broker that lists its queues with their consumers;
        ``requests``.
    :ivar port: the name of the broker's port.
    :ivar queue: what a profile says of a queue beside its url.
    :ivar topic: what it says so that each group has a copy.
    :ivar headers: of an event, all of which come back.
    :ivar aging: what a profile says of the time that events live.
    :ivar patience: the setting of how long an outcome is waited for.
    :ivar window: the setting of how many events may be in flight.
    :ivar lost: what is said of an event whose connection was lost.
    :ivar denied: what the broker says to who may do nothing.
    :ivar still: makes a connection stand still, but for its heartbeats.
    :ivar uncarried: what cannot be sent: the routing key, headers, and what is said.
    :ivar refusals: what may be wrong with a profile, by the names of test_connect.py, and what is said.
    :ivar deaf: what nobody can listen to.
    """

    kit: Kit
    broker: str
    usual: bool = False
    can: frozenset[str] = frozenset()
    port: str = "port"
    key_ends: str = ""
    queue: Callable[[Any, str], dict[str, Any]] = lambda node, key: {}
    topic: Callable[[Any, str], dict[str, Any]]
    headers: Mapping[str, str]
    aging: Mapping[str, Any] = field(default_factory=dict)
    patience: str
    window: Mapping[str, Any] = field(default_factory=dict)
    lost: str
    denied: str
    still: Callable[[], Any]
    uncarried: tuple[tuple[str, dict[str, str], str], ...]
    refusals: tuple[tuple[str, str], ...]
    deaf: tuple[Deaf, ...]

    def __str__(self) -> str:
        broker = {"rabbitmq": VERSIONS[0], "rabbitmq4": "4.0"}.get(self.broker, self.broker)
        return f"{self.kit.provider}-{broker}"


class Place:
    """A transport at its broker, with a queue for one test.

    :ivar key: the routing key of the events that come to the queue.
    """

    def __init__(self, transport: Transport, node: Any, key: str) -> None:
        self.at, self.node, self.key = transport, node, key
        self.kit, self.hub = transport.kit, new_hub()
        self.port: int = getattr(node, transport.port)
        self.tls_port: int = getattr(node, transport.port.replace("port", "tls_port"))
        self.queue = transport.queue(node, key)
        if transport.kit is AMQP1:
            self.declare()  # RabbitMQ 4 makes none for who sends or consumes

    def declare(self) -> None:
        """Have the queue before it is used; ActiveMQ makes its own."""
        if isinstance(self.node, RabbitMQ):
            self.node.declare_queue(self.key)

    def url(self, port: int = 0, login: str = "guest:guest") -> str:
        scheme = "stomp" if self.kit is STOMP else "amqp"
        return f"{scheme}://{login}@{self.node.host}:{port or self.port}/"

    def sending(
        self,
        *,
        hub: Any = None,
        port: int = 0,
        user: str = "guest:guest",
        topic: bool = False,
        **data: Any,
    ) -> AbstractAsyncContextManager[Sender]:
        """Yield a sender of events to the queue, or to the topic, perhaps through a proxy's port."""
        where = self.at.topic(self.node, self.key) if topic else self.queue
        return self._sender(hub or self.hub, {"url": self.url(port, user), **where, **data})

    @asynccontextmanager
    async def _sender(self, hub: Any, data: dict[str, Any]) -> AsyncIterator[Sender]:
        async with self.kit.opened(hub, **data) as ctx:
            yield Sender(self.kit, hub, ctx)

    def consuming(
        self, *, hub: Any = None, port: int = 0, most: int = 0, on_ready: Any = None, **data: Any
    ) -> AbstractAsyncContextManager[Following]:
        """Yield what returns the next delivery of the queue; ``most`` is what the subscription may hold."""
        name = "" if self.kit is AMQP else self.key
        wanted = Subscription(name=name, prefetch=most, on_ready=on_ready)
        return self.kit.consuming(hub or self.hub, wanted, url=self.url(port), **self.queue, **data)

    def listening(
        self, wanted: Subscription, *, hub: Any = None, **data: Any
    ) -> AbstractAsyncContextManager[Following]:
        """Yield what returns the next delivery of the topic."""
        topic = self.at.topic(self.node, self.key)
        return self.kit.consuming(hub or self.hub, wanted, url=self.url(), **topic, **data)

    def prepare(self, *groups: str) -> None:
        """Make the queues of groups at the topic, where consuming does not."""
        if self.kit is AMQP1:
            for group in groups:
                self.node.declare_queue(f"{self.key}::{group}")
                self.node.bind("amq.topic", f"{self.key}::{group}", self.key)

    def event(self, body: bytes = b"{}", headers: dict[str, str] | None = None) -> Envelope:
        return event(self.key, body, headers)

    def numbered(self, count: int, *, start: int = 0) -> list[Envelope]:
        return numbered(self.key, count, start=start)

    def depth(self) -> int:
        """Return how many messages are ready in the queue; ActiveMQ counts those handed out too."""
        return int(self.node.queue_depth(self.key))

    def consumers(self) -> int:
        return int(self.node.depth(self.key).consumers) if self.node.has_queue(self.key) else 0

    def copies(self) -> list[dict[str, Any]]:
        """Return the queues at the topic that the broker lists, which ActiveMQ does not."""
        if not isinstance(self.node, RabbitMQ):
            return []
        listed = self.node.api("GET", "queues")
        return [queue for queue in listed if self.key in queue["name"] and queue["name"] != self.key]

    def of_type(self, kind: str) -> None:
        """Declare the queue as one of a type, before it is used."""
        self.node.delete_queue(self.key)
        self.node.declare_queue(self.key, {"x-queue-type": kind})
        if self.kit is AMQP:
            self.queue = {"queue": {"name": self.key, "type": kind}}
        else:
            place = "/queues" if self.node.version >= (4,) else "/amq/queue"
            self.queue = {"address": place + "/{routing_key}"}

    def taken(self) -> list[bytes]:
        """Take all messages off the queue by a way that is none of evbus's, and return their bodies."""
        if isinstance(self.node, RabbitMQ):
            return [message["payload"].encode() for message in self.node.take(self.key, 10_000)]
        return [message.body for message in self.node.take(self.key)]


class Sender:
    """An opened ingress plugin: called with events, it returns their outcomes; an error is that of all."""

    def __init__(self, kit: Kit, hub: Any, ctx: Any) -> None:
        self.kit, self.hub, self.ctx = kit, hub, ctx

    async def __call__(self, *events: Envelope) -> list[Any]:
        try:
            return await self.kit.publish(self.hub, self.ctx, *events)
        except DeliveryError as exc:
            return [exc] * len(events)

    @property
    def connection(self) -> Any:
        return self.ctx.state.connection

    async def ready(self) -> None:
        await self.kit.ready(self.hub, self.ctx)

    async def deliver(self, *events: Envelope) -> None:
        """Send events, again what has no good outcome, until all are delivered."""
        left = list(events)
        while left:
            outcomes = await self(*left)
            left = [one for one, outcome in zip(left, outcomes, strict=True) if outcome is not None]
            if left:
                await self.ready()


AMQP, AMQP1, STOMP = Kit("amqp", AmqpProfile), Kit("amqp1", Amqp1Profile), Kit("stomp", StompProfile)
NEVER_MIND = {"content-type": "application/json", "ce-id": "7", "correlation-id": "9"}
SURROGATE = "holds a lone surrogate"


AT_RABBITMQ = (
    ("vhost", "refused the vhost 'nope'"),
    ("tls", "leave out tls"),
    ("no tls", "set tls: true"),
    ("authority", "certificate was refused"),
    ("the port of AMQP", "speaks AMQP"),
    ("the port of HTTP", "speaks HTTP"),
)
AT_ACTIVEMQ = (("no login", "wants a login, and none was given: write login and password into the profile"),)
NO_COPIES = "which RabbitMQ 4 makes for no consumer: use the provider"
DEAF_RABBITMQ = tuple(
    Deaf(said, {"destination": destination}, "order.*")
    for destination, said in (
        ("/exchange/amq.direct/{routing_key}", "takes names as they are"),
        ("/topic/events", "nobody can listen to the pattern"),
        ("/topic/shop-{routing_key}", "nobody can listen to the pattern"),
    )
)
DEAF_ACTIVEMQ = (
    Deaf("'#' can be the last word only", pattern="{key}.#.placed"),
    Deaf(r"b\.c", options={"group": "b.c"}),
)


def _amqp(broker: str, *, usual: bool = False) -> Transport:
    return Transport(
        kit=AMQP,
        broker=broker,
        usual=usual,
        can=frozenset({"copies", "handover", "leave", "listed", "requests"}),
        queue=lambda _, key: {"queue": key},
        topic=lambda _, key: {"exchange": {"name": key, "type": "topic", "auto_delete": True}},
        headers={
            **NEVER_MIND,
            "content-encoding": "utf-8",
            "priority": "3",
            "reply-to": "r",
            "expiration": "600000",
            "message-id": "m",
            "timestamp": "1700000000",
            "type": "t",
            "app-id": "a",
            "x-ü": "c\r\nd\0e",
        },
        patience="confirm_timeout",
        lost="the connection was lost before the broker confirmed",
        denied="ACCESS_REFUSED",
        still=lambda: Withheld(lambda channel, _: channel != 0),
        uncarried=(
            ("{key}" + "k" * 256, {}, "bytes, more than the 255"),
            ("{key}" + "ü" * 128, {}, "bytes, more than the 255"),
            ("{key}", {"priority": "256"}, "'priority'"),
            ("{key}", {"expiration": "-1"}, "'expiration'"),
            ("{key}", {"expiration": "315360000001"}, "'expiration'"),
            ("{key}", {"content-type": "x" * 256}, "'content-type' has 256 bytes"),
            ("{key}", {"n" * 256: ""}, "the header name"),
            ("{key}", {"big": "x" * 131072}, "more than the broker's frame_max of 131072"),
            ("{key}\udcfc", {}, f"the routing key {SURROGATE}"),
            ("{key}", {"type": "\udc00"}, f"the header 'type' {SURROGATE}"),
            ("{key}", {"own": "\udc00"}, f"the header 'own' {SURROGATE}"),
            ("{key}", {"\udc00": "x"}, f"the header name '\\udc00' {SURROGATE}"),
            ("{key}", {"CC": "other"}, "the header 'CC' is a list for RabbitMQ"),
            ("{key}", {"BCC": "other"}, "the header 'BCC' is a list for RabbitMQ"),
        ),
        refusals=(
            ("port", "nothing listens there (connection refused)"),
            ("host", "nosuchhost.invalid:5672: cannot be reached: "),
            ("password", "refused the login of the user 'guest': login and password are to be checked"),
            ("vhost", "there is no vhost 'nope' on the broker"),
            ("tls", "does not speak TLS on this port; leave out tls"),
            ("no tls", "the server speaks TLS on this port; use amqps:// or tls"),
            ("authority", "the server's certificate was refused: "),
            ("certificate", "certificate was refused: IP address mismatch"),
            ("silence", "no answer within 0.2 s (connect_timeout)"),
        ),
        deaf=(
            Deaf("name one, such as 'exchange:", {"exchange": None}),
            *(
                Deaf(
                    f"a pattern needs an exchange of type topic, and {reason}: name one, such as",
                    {"exchange": exchange},
                    "{key}.*",
                )
                for exchange, reason in (
                    ({"name": "fan", "type": "fanout"}, "'fan' is of type fanout"),
                    ("amq.direct", "'amq.direct' is of type direct"),
                    ("", "the default one takes routing keys as they are"),
                )
            ),
        ),
    )


def _amqp1(broker: str, *, usual: bool = False) -> Transport:
    old = broker in ("rabbitmq", VERSIONS[0])
    return Transport(
        kit=AMQP1,
        broker=broker,
        usual=usual,
        can=frozenset({"handover", "leave", "listed"} | ({"copies"} if old else set())),
        key_ends=".ü/€:%",
        topic=lambda _, key: {"address": f"/exchange{'' if old else 's'}/amq.topic/{{routing_key}}"},
        headers={
            **NEVER_MIND,
            "content-encoding": "zstd",
            "ü:b": "c\r\nd\\e",
            "message-id": "m",
            "reply-to": "there",
        },
        aging={"ttl": 600, "priority": 4},
        patience="settle_timeout",
        window={"window": 100},
        lost="connection was lost before the outcome",
        denied="amqp:unauthorized-access",
        still=lambda: Still(b"\0\0\0\x08\x02\0\0\0"),
        uncarried=(
            ("{key}", {"a": "\ud800"}, SURROGATE),
            ("{key}", {"correlation-id": "c" * 256}, "'correlation-id' has 256 bytes"),
            ("", {}, "the event has no routing key"),
        ),
        refusals=(
            ("port", "nothing listens there"),
            ("host", "cannot be resolved"),
            ("password", "refused the login of the user 'guest'"),
            ("vhost", "'nope'"),
            ("tls", "does not speak TLS"),
            ("no tls", "use amqps://"),
            ("authority", "certificate was refused"),
            ("certificate", "certificate was refused"),
            ("silence", "no answer within 0.2 s (connect_timeout)"),
        ),
        deaf=(
            Deaf("cannot consume .*{key}.*inbox.*no queue", problem=ConnectFailed),
            Deaf("nobody can listen to the pattern", {"address": "/exchange/amq.topic/events"}, "order.*"),
            *(Deaf(NO_COPIES, {}, pattern, {"per_process": True}) for pattern in ("", "{key}.#") if not old),
        ),
    )


def _stomp(broker: str, *, usual: bool = False) -> Transport:
    rabbitmq = broker != "activemq"
    return Transport(
        kit=STOMP,
        broker=broker,
        usual=usual,
        can=frozenset({"copies", "requests", "leave"} | ({"listed"} if rabbitmq else set())),
        port="stomp_port",
        key_ends=".ü:\\",
        topic=lambda _, key: {
            "destination": f"/topic/{'' if rabbitmq else 'VirtualTopic.'}{{routing_key}}",
        },
        headers={**NEVER_MIND, "a:b": "c\r\nd\\e"},
        aging={"expiry": 600, "priority": 4},
        patience="receipt_timeout",
        window={"window": 100},
        lost="connection was lost",
        denied="access_refused",
        still=lambda: Still(b"\n"),
        uncarried=(
            ("{key}", {"a": "\0"}, "the header 'a' cannot be sent"),
            ("{key}\0", {}, "the routing key holds a NUL"),
            ("", {}, "the event has no routing key"),
        ),
        refusals=(
            ("port", "refused the connection"),
            ("host", "cannot be resolved"),
            ("password", "refused the login as 'guest'"),
            ("silence", "did not answer within 0.2 s (connect_timeout)"),
            *(AT_RABBITMQ if rabbitmq else AT_ACTIVEMQ),
        ),
        deaf=(
            Deaf(
                "gives each event to one consumer, and its listeners would share",
                {"destination": "/queue/{routing_key}"},
            ),
            *(DEAF_RABBITMQ if rabbitmq else DEAF_ACTIVEMQ),
        ),
    )


#: The usual ones first; those of other versions have the tests that are about them.
TRANSPORTS = (
    _amqp("rabbitmq", usual=True),
    _amqp1("rabbitmq", usual=True),
    _amqp1("rabbitmq4", usual=True),
    _stomp("rabbitmq", usual=True),
    _stomp("activemq", usual=True),
    *(make(version) for make in (_amqp, _stomp) for version in VERSIONS[1:]),
    *(_amqp1(version) for version in VERSIONS[2:]),
)


def places(node: Node, name: str) -> list[Place]:
    """Return a place for each transport at a broker, of any version."""
    if not isinstance(node, RabbitMQ):
        return [Place(_stomp("activemq"), node, name)]
    version = VERSIONS[0] if node.version < (4,) else VERSIONS[1]
    made = [make(version) for make in (_amqp, _amqp1, _stomp)]
    return [Place(transport, node, f"{name}-{transport.kit.provider}") for transport in made]
