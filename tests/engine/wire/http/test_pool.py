"""The HTTP client of calls: what it makes of servers of every kind."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import pytest

from evbus.engine.wire.base.tls import Tls
from evbus.engine.wire.http import pool as pool_module
from evbus.engine.wire.http.pool import HttpFailure, HttpPool, address_of, header_lines

WAIT = 20.0  # seconds; nothing takes that long unless something is wrong
HEAD = b"POST /invoke HTTP/1.1\r\nhost: x\r\n"
Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Peer:
    """A server that speaks as a test says.

    :ivar requests: the requests that came, bodies included.
    """

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self.url = ""


@contextlib.asynccontextmanager
async def peer(*answers: bytes, close: bool = False, tls: Any = None) -> AsyncGenerator[Peer, None]:
    """Run a server that gives these answers on each connection, the last one to all further requests."""
    made = Peer()
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        made.connections += 1
        writers.append(writer)
        number = 0
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", head)
                made.requests.append(head + await reader.readexactly(int(length[1]) if length else 0))
                writer.write(answers[min(number, len(answers) - 1)])
                await writer.drain()
                number += 1
                if close:
                    break
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    made.url = f"http{'s' * (tls is not None)}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()
        for writer in writers:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def pool(**options: Any) -> AsyncGenerator[HttpPool, None]:
    made = HttpPool(**{"connections": 10, "connect_timeout": WAIT, "max_answer": 100_000, **options})
    try:
        yield made
    finally:
        await made.close()


def answer(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    lines = b"".join(b"%s\r\n" % header for header in headers)
    return b"HTTP/1.1 %s\r\n%scontent-length: %d\r\n\r\n%s" % (status, lines, len(body), body)


async def ask(client: HttpPool, url: str, body: bytes = b"x") -> bytes:
    return (await client.request(address_of(url), HEAD, body)).body


async def failure_of(client: HttpPool, url: str) -> HttpFailure:
    with pytest.raises(HttpFailure) as failed:
        await ask(client, url)
    return failed.value


async def test_a_connection_is_used_again() -> None:
    async with peer(answer(b"one", b"X-Y: z"), answer(b"two")) as server, pool() as client:
        first = await client.request(address_of(server.url), HEAD, b"abc")
        assert (first.status, first.headers["x-y"], first.body) == (200, "z", b"one")
        assert await ask(client, server.url) == b"two"
        assert server.connections == 1
        assert server.requests[0] == HEAD + b"content-length: 3\r\n\r\nabc"


async def test_one_that_was_not_used_for_long_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with peer(answer(b"one")) as server, pool() as client:
        await ask(client, server.url)
        monkeypatch.setattr(pool_module, "IDLE", 0.0)
        await ask(client, server.url)
        assert server.connections == 2


async def test_one_that_the_server_has_closed_is_not_used_again() -> None:
    async with peer(answer(b"one"), close=True) as server, pool() as client:
        await ask(client, server.url)
        assert await closed_all(client)
        assert await ask(client, server.url) == b"one"


async def test_one_that_says_more_than_was_asked_is_not_used_again() -> None:
    async with peer(answer(b"one") + answer(b"evil")) as server, pool() as client:
        assert await ask(client, server.url) == b"one"
        assert await ask(client, server.url) == b"one"


async def test_one_on_which_the_server_has_failed_is_not_used_again() -> None:
    async with peer(answer(b"one", status=b"500 Internal Server Error")) as server, pool() as client:
        await ask(client, server.url)
        await ask(client, server.url)
        assert server.connections == 2
    async with peer(answer(b"one", status=b"503 Service Unavailable")) as server, pool() as client:
        await ask(client, server.url)
        await ask(client, server.url)
        assert server.connections == 1


async def test_who_says_close_is_not_asked_again() -> None:
    async with peer(answer(b"one", b"connection: close")) as server, pool() as client:
        await ask(client, server.url)
        await ask(client, server.url)
        assert server.connections == 2


async def test_there_are_never_more_connections_than_there_may_be() -> None:
    async with peer(answer(b"one")) as server, pool(connections=2) as client:
        found = await asyncio.gather(*(ask(client, server.url) for _ in range(50)))
        assert (found, server.connections) == ([b"one"] * 50, 2)


async def test_who_waits_for_a_connection_is_served_in_turn_and_may_leave() -> None:
    gate = asyncio.Event()
    order: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                number = int(await reader.readexactly(1))
                order.append(number)
                await gate.wait()
                writer.write(answer(b"%d" % number))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with pool(connections=1) as client:
        asking = [asyncio.ensure_future(ask(client, url, b"%d" % number)) for number in range(5)]
        while not order:  # noqa: ASYNC110 - what it waits for happens elsewhere
            await asyncio.sleep(0.01)
        asking[2].cancel()
        gate.set()
        await asyncio.wait(asking)
        assert order == [0, 1, 3, 4]
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize(
    "sent",
    [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + answer(b"onetwo"),
        b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + answer(b"onetwo"),
    ],
    ids=["chunks", "continue", "early-hints"],
)
async def test_an_answer_may_come_in_other_ways(sent: bytes) -> None:
    async with peer(sent) as server, pool() as client:
        for _ in range(2):
            assert await ask(client, server.url) == b"onetwo"
        assert server.connections == 1


async def test_an_answer_may_end_with_its_connection() -> None:
    async with peer(b"HTTP/1.0 200 OK\r\n\r\nonetwo", close=True) as server, pool() as client:
        assert await ask(client, server.url) == b"onetwo"


async def test_nobody_listens_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with pool() as client:
        failed = await failure_of(client, f"http://127.0.0.1:{port}")
    assert (failed.reason, failed.handed_over) == ("nothing listens there (connection refused)", False)


async def test_there_is_no_such_host() -> None:
    async with pool() as client:
        failed = await failure_of(client, "http://nowhere.invalid:1")
    assert failed.reason.startswith("the host name cannot be resolved")
    assert not failed.handed_over


async def test_who_is_silent_at_the_connection_is_given_up() -> None:
    # A backlog of one, which is full.
    with socket.socket() as full, contextlib.ExitStack() as stack:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(3):
            other = stack.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(full.getsockname())
        async with pool(connect_timeout=0.2) as client:
            failed = await failure_of(client, f"http://127.0.0.1:{full.getsockname()[1]}")
    assert (failed.reason, failed.handed_over) == ("it is not reached within 0.2 s", False)


@pytest.mark.parametrize(
    "sent", [b"SSH-2.0-OpenSSH_9.9\r\n", b"\x15\x03\x01\x00\x02\x02\x16", b"+OK POP3\r\n"]
)
async def test_somebody_else_listens_there(sent: bytes) -> None:
    async with peer(sent) as server, pool() as client:
        failed = await failure_of(client, server.url)
    assert (failed.reason, failed.handed_over) == ("what it answers is not HTTP", False)


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"", "the connection ended before an answer came"),
        (b"HTTP/1.1 200 OK\r\ncontent-le", "the connection ended before an answer came"),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc",
            "the connection ended in the middle of the answer",
        ),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
            "the connection ended in the middle of the answer",
        ),
    ],
)
async def test_a_connection_that_ends_too_early_says_where(sent: bytes, said: str) -> None:
    async with peer(sent, close=True) as server, pool() as client:
        failed = await failure_of(client, server.url)
    assert (failed.reason.partition(" (")[0], failed.handed_over) == (said, True)


@pytest.mark.parametrize(
    "sent",
    [
        answer(b"x" * 1001),
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"3e9\r\n" + b"x" * 1001,
    ],
    ids=["length", "chunked"],
)
async def test_an_answer_that_is_too_large_is_not_kept(sent: bytes) -> None:
    async with peer(sent) as server, pool(max_answer=1000) as client:
        failed = await failure_of(client, server.url)
        assert (failed.reason, failed.too_large) == ("its answer is larger than 1000 bytes", True)
        assert await closed_all(client)


@pytest.mark.parametrize("header", [b"x: " + b"y" * 70_000, b"x: y\r\n" * 15_000], ids=["one", "many"])
async def test_the_head_of_an_answer_ends_somewhere(header: bytes) -> None:
    async with peer(b"HTTP/1.1 200 OK\r\n" + header) as server, pool() as client:
        failed = await failure_of(client, server.url)
        assert failed.reason == "the head of its answer is larger than 65536 bytes"
        assert await closed_all(client)


async def closed_all(client: HttpPool) -> bool:
    """Return whether all connections are closed, soon."""
    for _ in range(1000):
        if repr(client) == "<HttpPool connections=0>":
            return True
        await asyncio.sleep(0)
    return False


async def test_who_is_cancelled_closes_the_connection() -> None:
    closed, begun = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        begun.set()
        with contextlib.suppress(OSError):
            await reader.read()
            while await reader.read(1):
                pass
        closed.set()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with pool() as client:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        asking = asyncio.ensure_future(ask(client, url))
        await begun.wait()
        asking.cancel()
        await asyncio.wait([asking])
        await asyncio.wait_for(closed.wait(), WAIT)
    server.close()
    await server.wait_closed()


async def test_a_pool_that_is_closed_lets_everybody_go() -> None:
    async with peer(b"") as silent, pool(connections=1) as client:
        asking = [asyncio.ensure_future(ask(client, silent.url)) for _ in range(3)]
        while not silent.requests:  # noqa: ASYNC110 - what it waits for happens elsewhere
            await asyncio.sleep(0.01)
        await client.close()
        found = await asyncio.gather(*asking, return_exceptions=True)
        assert [str(one) for one in found] == [
            "the connection was closed from here",
            "the channel is closed",
            "the channel is closed",
        ]
        assert repr(client) == "<HttpPool connections=0 closed>"
        assert (await failure_of(client, silent.url)).reason == "the channel is closed"


async def test_an_address_of_https_is_verified(tls_files: Any) -> None:
    context, ca_file = tls_files
    async with peer(answer(b"one"), tls=context) as server:
        url = server.url.replace("127.0.0.1", "localhost")
        async with pool(tls=Tls(ca_file=ca_file)) as client:
            assert await ask(client, url) == b"one"
        async with pool() as client:
            failed = await failure_of(client, url)
        assert failed.reason.startswith("the server's certificate was refused")
        async with pool() as client:
            failed = await failure_of(client, url.replace("https", "http"))
        assert not failed.handed_over or "ended" in failed.reason


@pytest.fixture
def tls_files(tmp_path: Any) -> tuple[ssl.SSLContext, str]:
    import trustme

    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return context, str(tmp_path / "ca.pem")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("127.0.0.1:80", "no URL of HTTP"),
        ("ftp://x", "no URL of HTTP"),
        ("http://", "no URL of HTTP"),
        ("http://x:99999", "no valid URL"),
        ("http://user:secret@x", "it holds a user or a password"),
        ("http://x/?a=b", "more than host, port and path"),
        ("http://x/a b", "more than host, port and path"),
        ("http://x/\r\nevil: y", "more than host, port and path"),
    ],
)
def test_an_address_that_is_none_is_refused_without_its_password(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        address_of(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("http://x", "http://x"),
        ("http://X:80/", "http://x"),
        ("http://x:8080/base/", "http://x:8080/base"),
        ("https://x", "https://x"),
        ("https://x:80", "https://x:80"),
        ("http://[::1]:1", "http://[::1]:1"),
    ],
)
def test_an_address_is_what_its_url_says(url: str, found: str) -> None:
    assert str(address_of(url)) == found


def test_headers_that_would_break_a_request_are_left_out() -> None:
    found = header_lines(
        {"a": "b\r\nc: d", "b c": "d", "x": "ü", "Host": "evil", "transfer-encoding": "chunked"}
    )
    assert found == ("x: ü\r\n".encode(), ["a", "b c"])
