"""A host with several addresses."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from evbus.engine.wire.base.dial import dial


def test_the_second_address_is_reached_when_the_first_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(_reach_the_second(monkeypatch))


async def _reach_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    # A listener whose backlog is full: the kernel answers nothing.
    silent = socket.create_server(("127.0.0.1", 0), backlog=0)
    fillers = []
    for _ in range(3):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(silent.getsockname())
        fillers.append(filler)

    async def both(*_: Any, **__: Any) -> list[Any]:
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*kind, silent.getsockname()), (*kind, ("127.0.0.1", port))]

    monkeypatch.setattr(loop, "getaddrinfo", both)
    try:
        transport, _ = await asyncio.wait_for(dial(asyncio.Protocol, "broker", 1), 10)
        assert transport.get_extra_info("peername") == ("127.0.0.1", port)
        transport.close()
    finally:
        for each in (silent, *fillers):
            each.close()
        server.close()
        await server.wait_closed()
