"""Profiles of AMQP, connections of them, and servers that say what a test tells them to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pop.hub
import pytest
from dict_tools.data import NamespaceDict

from evbus.engine.wire.amqp.connect import AmqpSession, connection
from evbus.engine.wire.amqp.profile import Profile
from evbus.engine.wire.base.supervisor import Connection
from evbus.errors import ConnectFailed
from tests.transports.kit import WAIT, Talk, closed_port, server

__all__ = [
    "WAIT",
    "Talk",
    "closed_port",
    "connected",
    "context",
    "new_hub",
    "no_tasks_left",
    "profile",
    "refusal",
    "restored",
    "server",
    "url",
]

SOON = {"min": 0.001, "max": 0.01}


def new_hub() -> Any:
    hub = pop.hub.Hub()
    hub.pop.sub.add(dyne_name="connection", pypath="evbus.connection")
    return hub


def url(node: Any, port: int | None = None, *, login: str = "guest:guest", vhost: str = "") -> str:
    """Return the url of a node of `tests.servers`, perhaps behind a proxy's port."""
    return f"amqp://{login}@{node.host}:{port or node.port}/{vhost}"


def profile(**data: Any) -> Profile:
    return msgspec.convert({"reconnect": SOON, **data}, type=Profile, strict=False)


def context(name: str = "orders", provider: str = "amqp", **data: Any) -> Any:
    return NamespaceDict(name=name, provider=provider, acct=data, profile=profile(**data), state=None)


@contextlib.asynccontextmanager
async def connected(**data: Any) -> AsyncIterator[Connection[AmqpSession]]:
    """Yield the open connection of a profile."""
    made = connection(profile(**data), "orders")
    await asyncio.wait_for(made.open(), WAIT)
    try:
        yield made
    finally:
        await asyncio.wait_for(made.close(), WAIT)


async def restored(made: Connection[AmqpSession], connects: int) -> AmqpSession:
    """Return the session once the connection was made so many times."""

    async def main() -> AmqpSession:
        while made.session is None or made.connects < connects:
            await made.changed()
        return made.session

    return await asyncio.wait_for(main(), WAIT)


def refusal(**data: Any) -> str:
    """Return the sentence with which connecting fails, without the name of the profile."""

    async def main() -> str:
        with pytest.raises(ConnectFailed) as caught:
            async with connected(**data):
                pass
        await no_tasks_left()
        return str(caught.value)

    said = asyncio.run(main())
    head, said = said[:23], said[23:]
    assert head == "amqp profile 'orders': "
    assert "\n" not in said
    assert "hunter22" not in said
    return said


async def no_tasks_left() -> None:
    """Let the tasks of a client library end, which they do soon when nothing holds them up."""
    mine = asyncio.current_task()
    while tasks := asyncio.all_tasks() - {mine}:
        done, _ = await asyncio.wait(tasks, timeout=WAIT)
        assert done == tasks, f"still running: {tasks - done}"
