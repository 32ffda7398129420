"""The plugins of a transport on a hub without a bus: profiles, opened senders, consumers."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import msgspec
import pop.hub
from dict_tools.data import NamespaceDict

from evbus.types import Delivery, Envelope, Subscription

WAIT = 30.0  # seconds; nothing is waited for that long unless something is wrong
SOON = {"min": 0.01, "max": 0.05}  # seconds between two attempts
Following = Callable[[], Awaitable[Delivery]]


def new_hub() -> Any:
    hub = pop.hub.Hub()
    for room in ("connection", "ingress", "egress"):
        hub.pop.sub.add(dyne_name=room, pypath=f"evbus.{room}")
    return hub


def event(key: str, body: bytes = b"{}", headers: dict[str, str] | None = None) -> Envelope:
    return Envelope("orders", key, body, headers or {}, time.monotonic())


def numbered(key: str, count: int, *, start: int = 0) -> list[Envelope]:
    return [event(key, b"%d" % number) for number in range(start, start + count)]


async def eventually(true: Callable[[], Any], what: str) -> None:
    """Return once `true` returns something true: for what tells nobody when it comes about."""
    deadline = time.monotonic() + WAIT
    while not true():
        assert time.monotonic() < deadline, f"not within {WAIT:g} s: {what}"
        await asyncio.sleep(0.01)


async def nothing(following: Following) -> None:
    """Check that nothing comes while the loop has other things to do."""
    waiting = asyncio.ensure_future(following())
    done, _ = await asyncio.wait({waiting}, timeout=0.2)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert not done


def watched(delivery: Delivery) -> asyncio.Future[str]:
    """Return what is done when a delivery is gone, with the reason."""
    ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    assert delivery.origin is not None
    delivery.origin.watch(lambda origin: ended.set_result(origin.ended))
    return ended


def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(talk: Talk, **options: Any) -> AsyncIterator[int]:
    """Yield the port of a server that has `talk` with each client; `options` are those of a listener."""
    tasks: set[asyncio.Task[None]] = set()

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await talk(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            tasks.discard(task)
            writer.transport.abort()

    listener = await asyncio.start_server(client, "127.0.0.1", 0, **options)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


class Kit:
    """The plugins of a provider.

    :param profile: the class of its profiles.
    """

    def __init__(self, provider: str, profile: type[Any]) -> None:
        self.provider, self._profile = provider, profile

    def context(self, name: str = "orders", provider: str = "", **data: Any) -> Any:
        """Return what a plugin gets; attempts to connect follow each other quickly."""
        data = {"reconnect": SOON, **data}
        profile = msgspec.convert(data, type=self._profile, strict=False)
        return NamespaceDict(
            name=name, provider=provider or self.provider, acct=data, profile=profile, state=None
        )

    def ingress(self, hub: Any) -> Any:
        return getattr(hub.ingress, self.provider)

    @asynccontextmanager
    async def opened(self, hub: Any, **data: Any) -> AsyncIterator[Any]:
        """Yield the context of an opened ingress plugin."""
        ctx = self.context(**data)
        ctx["state"] = await asyncio.wait_for(self.ingress(hub).open(ctx), WAIT)
        try:
            yield ctx
        finally:
            await asyncio.wait_for(self.ingress(hub).close(ctx), WAIT)

    async def publish(self, hub: Any, ctx: Any, *events: Envelope) -> list[Any]:
        found: list[Any] = await asyncio.wait_for(self.ingress(hub).publish_batch(ctx, list(events)), WAIT)
        return found

    async def ready(self, hub: Any, ctx: Any) -> None:
        """Return when the plugin takes events."""
        found = self.ingress(hub).ready(ctx)
        if found is not None:
            await asyncio.wait_for(found[1], WAIT)

    @asynccontextmanager
    async def consuming(
        self, hub: Any, wanted: Subscription | None = None, *, seconds: float | None = WAIT, **data: Any
    ) -> AsyncIterator[Following]:
        """Yield a function that returns the next delivery of the plugin's own generator, which POP hides.

        It waits for so many seconds.
        """
        plugin = getattr(hub.egress, self.provider)
        made = plugin.consume.func(hub, self.context(**data), wanted or Subscription())
        async with aclosing(made) as deliveries:

            async def following() -> Delivery:
                found: Delivery = await asyncio.wait_for(anext(deliveries), seconds)
                return found

            yield following
