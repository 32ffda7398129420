"""A hub with the rooms that STOMP needs, profiles, and a broker that says what a test tells it to."""

from __future__ import annotations

import asyncio
from typing import Any

from evbus.engine.wire.stomp.profile import Profile
from tests.transports.kit import WAIT, Kit, event, new_hub
from tests.transports.kit import server as broker

__all__ = [
    "WAIT",
    "broker",
    "consuming",
    "context",
    "event",
    "frame",
    "frame_of",
    "login",
    "new_hub",
    "opened",
    "publish",
    "ready",
    "url",
]

_kit = Kit("stomp", Profile)
context, opened, publish, ready, consuming = (
    _kit.context,
    _kit.opened,
    _kit.publish,
    _kit.ready,
    _kit.consuming,
)


def url(node: Any, port: int | None = None) -> str:
    """Return the url of a broker of `tests.servers`, perhaps behind a proxy's port."""
    return f"stomp://{node.user}:{node.password}@{node.host}:{port or node.stomp_port}/"


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
