"""A host with several addresses, and what is said of a host that cannot be reached."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from evbus.engine.wire.base.dial import Way, dial, reason


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
        transport, _ = await asyncio.wait_for(dial(asyncio.Protocol, Way("broker", 1)), 10)
        assert transport.get_extra_info("peername") == ("127.0.0.1", port)
        transport.close()
    finally:
        for each in (silent, *fillers):
            each.close()
        server.close()
        await server.wait_closed()


REFUSED = "nothing listens there (connection refused); is the broker running, and is this its port?"


def ring() -> Exception:
    first, second = ValueError("first"), ConnectionRefusedError(errno.ECONNREFUSED, "refused")
    first.__context__, second.__context__ = second, first
    return first


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), REFUSED),
        (ring(), REFUSED),
        (OSError("Multiple exceptions: [Errno 111] Connect a, [Errno 111] Connect b"), REFUSED),
        (OSError("Multiple exceptions: [Errno 111] Connect a, [Errno 113] No route"), ""),
        (socket.gaierror(-2, "Name not known"), "the host name cannot be resolved: Name not known"),
        (ssl.SSLError(1, "WRONG_VERSION_NUMBER"), "the server does not speak TLS on this port"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), ""),
        (TimeoutError(), ""),
    ],
)
def test_why_a_host_could_not_be_reached(problem: Exception, said: str) -> None:
    found = reason(problem)
    assert found.startswith(said)
    assert bool(found) is bool(said)


def test_a_transport_says_it_in_words_of_its_own() -> None:
    unknown = socket.gaierror(-2, "Name not known")
    assert reason(unknown, unresolved="cannot be reached: ") == "cannot be reached: Name not known"
    assert reason(ConnectionRefusedError(), refused="nobody") == "nobody"
    assert reason(ssl.SSLError(1, "x"), tls="no TLS: ").startswith("no TLS: the TLS handshake failed")


class _Ending(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).abort()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_connection_that_ends_while_it_is_made_closes_nothing_that_is_opened_later(
    loop: str, uvloop_runner: Callable[[], asyncio.Runner], tmp_path: Path
) -> None:
    async def ended(port: int) -> None:
        transport, _ = await dial(_Ending, Way("127.0.0.1", port))
        assert transport.is_closing()

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
        try:
            for _ in range(5):
                ending = asyncio.ensure_future(ended(server.sockets[0].getsockname()[1]))
                await asyncio.wait({ending})
                with contextlib.ExitStack() as opened:
                    # One of them has the number of the connection, which goes with the task.
                    files = [opened.enter_context((tmp_path / "file").open("w")) for _ in range(10)]
                    ending.result()
                    del ending
                    for file in files:
                        os.fstat(file.fileno())
        finally:
            server.close()
        await server.wait_closed()

    with uvloop_runner() if loop == "uvloop" else asyncio.Runner() as runner:
        runner.run(main())
