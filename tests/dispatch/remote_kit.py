"""Messages, and processes that hand them to each other over brokers."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pydantic

from tests.evbus.kit import WAIT, new_hub, running

__all__ = ["Create", "Get", "Picture", "Program", "User", "contexts", "process", "serving"]

ROOT = Path(__file__).parent.parent.parent


@dataclasses.dataclass(frozen=True)
class Get:
    """A query."""

    id: int


@dataclasses.dataclass
class User:
    id: int
    name: str


class Create(pydantic.BaseModel):
    """A command."""

    name: str
    roles: list[str] = []


class Picture(msgspec.Struct):
    """A command."""

    raw: bytes


def contexts(node: Any, transport: str, queue: str, *, port: int = 0, **more: Any) -> dict[str, Any]:
    """Return profiles with one called ``users``, whose requests are held by ``queue``.

    :param port: that of a proxy.
    """
    data = {"reconnect": {"min": 0.01, "max": 0.1}, **more}
    if transport == "amqp":
        data["url"] = f"amqp://{node.user}:{node.password}@{node.host}:{port or node.port}/"
        data |= {"queue": queue, "routing_key": queue}
    else:
        data["url"] = f"stomp://{node.user}:{node.password}@{node.host}:{port or node.stomp_port}/"
        data["destination"] = f"/queue/{queue}"
    return {transport: {"users": data}}


@contextlib.asynccontextmanager
async def process(
    profiles: dict[str, Any], bind: Callable[[Any], None] = lambda dispatch: None, **options: Any
) -> AsyncIterator[Any]:
    """Yield a hub with a bus and a started dispatcher, as another process would have."""
    hub = new_hub(drain_timeout=WAIT, **options)
    bind(hub.dispatch)
    async with running(hub, profiles):
        hub.dispatch.init.start()
        try:
            yield hub
        finally:
            await asyncio.wait_for(hub.dispatch.init.stop(), WAIT)


@contextlib.asynccontextmanager
async def serving(
    profiles: dict[str, Any], bind: Callable[[Any], None], **options: Any
) -> AsyncIterator[Any]:
    """Yield the hub of a process that serves ``users`` until it is stopped."""
    async with process(profiles, bind, **options) as hub:
        task = asyncio.ensure_future(hub.dispatch.init.serve("users"))
        try:
            yield hub
        finally:
            await asyncio.wait_for(hub.dispatch.init.stop(), WAIT)
            await asyncio.wait_for(task, WAIT)


class Program:
    """A process that serves ``users``: it says when it has begun with ``Get(0)``, which never ends."""

    def __init__(self, profiles: dict[str, Any], folder: Path) -> None:
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("EVBUS", "ACCT"))}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.dispatch.remote_program", json.dumps(profiles)],
            stdout=subprocess.PIPE,
            cwd=folder,
            env={**clean, "PYTHONPATH": str(ROOT), "HOME": str(folder)},
        )

    async def begun(self) -> None:
        """Return when ``Get(0)`` is being handled."""
        assert self._process.stdout is not None
        line = await asyncio.wait_for(asyncio.to_thread(self._process.stdout.readline), WAIT)
        assert line == b"begun\n"

    def kill(self) -> None:
        """Kill it with SIGKILL and wait for its end."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Kill it, and close what it was read by."""
        self.kill()
        assert self._process.stdout is not None
        self._process.stdout.close()
