"""A hub with the rooms that AMQP 1.0 needs, profiles, and the plugins opened on them; for both directions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import msgspec
import pop.hub
import proton
from dict_tools.data import NamespaceDict

from evbus.engine.wire.amqp1.profile import Profile
from evbus.types import Delivery, Envelope, Subscription

WAIT = 30.0  # seconds; nothing is waited for that long unless something is wrong
SOON = {"min": 0.01, "max": 0.05}  # seconds between two attempts


def new_hub() -> Any:
    hub = pop.hub.Hub()
    for room in ("connection", "ingress", "egress"):
        hub.pop.sub.add(dyne_name=room, pypath=f"evbus.{room}")
    return hub


def url(node: Any, port: int | None = None) -> str:
    """Return the url of a broker of `tests.servers`, perhaps behind a proxy's port."""
    return f"amqp://guest:guest@{node.host}:{port or node.port}/"


def existing(node: Any) -> str:
    """Return the template of queues that are there, with whatever settings."""
    return "/queues/{routing_key}" if node.name == "RabbitMQ 4" else "/amq/queue/{routing_key}"


def context(name: str = "orders", **data: Any) -> Any:
    """Return what a plugin gets; attempts to connect follow each other quickly unless `data` says more."""
    data = {"reconnect": SOON, **data}
    profile = msgspec.convert(data, type=Profile, strict=False)
    return NamespaceDict(name=name, provider="amqp1", acct=data, profile=profile, state=None)


def event(key: str, body: bytes = b"{}", headers: dict[str, str] | None = None) -> Envelope:
    return Envelope("orders", key, body, headers or {}, time.monotonic())


def numbered(key: str, count: int, *, start: int = 0) -> list[Envelope]:
    return [event(key, b"%d" % number) for number in range(start, start + count)]


@asynccontextmanager
async def opened(hub: Any, **data: Any) -> AsyncIterator[Any]:
    """Yield the context of an opened ingress plugin."""
    ctx = context(**data)
    ctx["state"] = await asyncio.wait_for(hub.ingress.amqp1.open(ctx), WAIT)
    try:
        yield ctx
    finally:
        await asyncio.wait_for(hub.ingress.amqp1.close(ctx), WAIT)


async def publish(hub: Any, ctx: Any, *events: Envelope) -> list[Any]:
    found: list[Any] = await asyncio.wait_for(hub.ingress.amqp1.publish_batch(ctx, list(events)), WAIT)
    return found


async def ready(hub: Any, ctx: Any) -> None:
    """Return when the plugin takes events."""
    found = hub.ingress.amqp1.ready(ctx)
    if found is not None:
        await asyncio.wait_for(found[1], WAIT)


@asynccontextmanager
async def consuming(
    hub: Any, wanted: Subscription, **data: Any
) -> AsyncIterator[Callable[[], Awaitable[Delivery]]]:
    """Yield a function that returns the next delivery. The plugin's own generator, which POP would hide."""
    async with aclosing(hub.egress.amqp1.consume.func(hub, context(**data), wanted)) as deliveries:

        async def following() -> Delivery:
            found: Delivery = await asyncio.wait_for(anext(deliveries), WAIT)
            return found

        yield following


class Peer(asyncio.Protocol):
    """The other side of one connection, as a script would have it: proton's engine in a server's role.

    A test derives from it. It stands for brokers that are not to be had here, and does what none does.

    :ivar links: by their names, those that the client has attached.
    """

    product = "apache-activemq-artemis"
    credit = 100

    def __init__(self) -> None:
        self.transport: Any = None
        self.closed = asyncio.get_running_loop().create_future()
        self.links: dict[str, Any] = {}
        self._collector = proton.Collector()
        self._connection = proton.Connection()
        self._connection.collect(self._collector)
        self._engine = proton.Transport(proton.Transport.SERVER)
        self._engine.sasl().allowed_mechs("ANONYMOUS")
        self._engine.require_auth(False)
        self._engine.bind(self._connection)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._engine.push(data)
        self.pump()

    def connection_lost(self, exc: Exception | None) -> None:
        self.links.clear()
        self.closed.set_result(None)

    def pump(self) -> None:
        """Handle what has happened, and write what is there to write."""
        while True:
            while event := self._collector.peek():
                handler = getattr(self, f"on_{event.type.name[3:].lower()}", None)
                if handler is not None:
                    handler(event)
                self._collector.pop()
            size = self._engine.pending()
            if size <= 0:
                break
            self.transport.write(self._engine.peek(size))
            self._engine.pop(size)
        if size < 0:
            self.transport.close()

    def on_connection_remote_open(self, event: Any) -> None:
        self._connection.container = "peer"
        self._connection.properties = {"product": self.product}
        self._connection.open()

    def on_connection_remote_close(self, event: Any) -> None:
        self._connection.close()

    def on_session_remote_open(self, event: Any) -> None:
        event.session.open()

    def on_session_remote_close(self, event: Any) -> None:
        event.session.close()

    def on_link_remote_open(self, event: Any) -> None:
        link = event.link
        self.links[link.name] = link
        link.source.copy(link.remote_source)
        link.target.copy(link.remote_target)
        link.open()
        if link.is_receiver:
            link.flow(self.credit)

    def on_link_remote_close(self, event: Any) -> None:
        self.links.pop(event.link.name, None)
        event.link.close()

    def on_delivery(self, event: Any) -> None:
        delivery = event.delivery
        if event.link.is_receiver and delivery.readable and not delivery.partial:
            message = proton.Message()
            message.decode(event.link.recv(delivery.pending))
            event.link.advance()
            self.received(delivery, message)
        elif not event.link.is_receiver and delivery.updated:
            self.outcome(delivery)
            delivery.settle()

    def received(self, delivery: Any, message: Any) -> None:
        """Take what the client sends."""
        self.settle(delivery, proton.Delivery.ACCEPTED)

    def outcome(self, delivery: Any) -> None:
        """Take what the client says of what it was sent."""

    def settle(self, delivery: Any, state: Any, condition: Any = None) -> None:
        delivery.local.condition = condition
        delivery.update(state)
        delivery.settle()

    def end(self, link: Any, name: str, text: str = "") -> None:
        """Detach a link with a condition."""
        link.condition = proton.Condition(name, text)
        link.close()


@asynccontextmanager
async def peer(made: Callable[[], Peer]) -> AsyncIterator[int]:
    """Yield the port of a server whose connections are such peers; all of them are closed at the end."""
    peers: list[Peer] = []

    def connected() -> Peer:
        peers.append(made())
        return peers[-1]

    server = await asyncio.get_running_loop().create_server(connected, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for one in peers:
            if one.transport is not None:
                one.transport.abort()
                await one.closed


def peer_url(port: int) -> dict[str, str]:
    """Return the keys of a profile that leads to a peer."""
    return {"url": f"amqp://127.0.0.1:{port}", "auth": "anonymous"}
