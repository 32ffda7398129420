"""A hub with the rooms that AMQP 1.0 needs, profiles, and the plugins opened on them; for both directions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import proton

from evbus.engine.wire.amqp1.profile import Profile
from tests.transports.kit import WAIT, Kit, event, new_hub, numbered

__all__ = [
    "WAIT",
    "Peer",
    "consuming",
    "context",
    "event",
    "existing",
    "new_hub",
    "numbered",
    "opened",
    "peer",
    "peer_url",
    "publish",
    "ready",
    "url",
]

_kit = Kit("amqp1", Profile)
context, opened, publish, ready, consuming = (
    _kit.context,
    _kit.opened,
    _kit.publish,
    _kit.ready,
    _kit.consuming,
)


def url(node: Any, port: int | None = None) -> str:
    """Return the url of a broker of `tests.servers`, perhaps behind a proxy's port."""
    return f"amqp://guest:guest@{node.host}:{port or node.port}/"


def existing(node: Any) -> str:
    """Return the template of queues that are there, with whatever settings."""
    return "/queues/{routing_key}" if node.name == "RabbitMQ 4" else "/amq/queue/{routing_key}"


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
