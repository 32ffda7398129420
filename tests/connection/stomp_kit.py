"""A hub with the rooms that STOMP needs, profiles, and a broker that says what a test tells it to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import msgspec
import pop.hub
from dict_tools.data import NamespaceDict

from evbus.engine.wire.stomp.profile import Profile
from evbus.types import Delivery, Envelope, Subscription

WAIT = 30.0  # seconds; nothing is waited for that long unless something is wrong


def new_hub() -> Any:
    hub = pop.hub.Hub()
    for room in ("connection", "ingress", "egress"):
        hub.pop.sub.add(dyne_name=room, pypath=f"evbus.{room}")
    return hub


def url(node: Any, port: int | None = None) -> str:
    """Return the url of a broker of `tests.servers`, perhaps behind a proxy's port."""
    return f"stomp://{node.user}:{node.password}@{node.host}:{port or node.stomp_port}/"


def context(name: str = "orders", **data: Any) -> Any:
    profile = msgspec.convert(data, type=Profile, strict=False)
    return NamespaceDict(name=name, provider="stomp", acct=data, profile=profile, state=None)


def event(key: str, body: bytes, headers: dict[str, str] | None = None) -> Envelope:
    return Envelope("orders", key, body, headers or {}, time.monotonic())


@asynccontextmanager
async def opened(hub: Any, **data: Any) -> AsyncIterator[Any]:
    """Yield the context of an opened ingress plugin."""
    ctx = context(**data)
    ctx["state"] = await asyncio.wait_for(hub.ingress.stomp.open(ctx), WAIT)
    try:
        yield ctx
    finally:
        await asyncio.wait_for(hub.ingress.stomp.close(ctx), WAIT)


async def publish(hub: Any, ctx: Any, *events: Envelope) -> list[Any]:
    found: list[Any] = await asyncio.wait_for(hub.ingress.stomp.publish_batch(ctx, list(events)), WAIT)
    return found


@asynccontextmanager
async def consuming(
    hub: Any, wanted: Subscription, **data: Any
) -> AsyncIterator[Callable[[], Awaitable[Delivery]]]:
    """Yield a function that returns the next delivery. The plugin's own generator, which POP would hide."""
    async with aclosing(hub.egress.stomp.consume.func(hub, context(**data), wanted)) as deliveries:

        async def following() -> Delivery:
            found: Delivery = await asyncio.wait_for(anext(deliveries), WAIT)
            return found

        yield following


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def broker(talk: Talk) -> AsyncIterator[int]:
    """Yield the port of a server that has `talk` with each client, and ends what is left at the end."""
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
            writer.transport.abort()

    server = await asyncio.start_server(client, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def frame_of(reader: asyncio.StreamReader) -> tuple[str, dict[str, str], bytes]:
    """Read one frame of a client; what it escapes stays escaped."""
    raw = (await reader.readuntil(b"\n\n")).lstrip(b"\n")
    command, *lines = raw.decode().rstrip("\n").split("\n")
    headers = dict(line.split(":", 1) for line in lines)
    length = int(headers.get("content-length", "0"))
    body = await reader.readexactly(length)
    assert await reader.readexactly(1) == b"\0"
    return command, headers, body


def frame(command: str, body: str = "", **headers: str) -> bytes:
    lines = "".join(f"{name.replace('_', '-')}:{value}\n" for name, value in headers.items())
    return f"{command}\n{lines}\n{body}\0".encode()


async def login(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, **headers: str) -> dict[str, str]:
    """Take a client's CONNECT and return its headers."""
    _, sent, _ = await frame_of(reader)
    writer.write(frame("CONNECTED", **{"version": "1.2", "heart_beat": "0,0", **headers}))
    return sent
