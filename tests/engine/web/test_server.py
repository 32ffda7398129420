"""The HTTP server: where it listens, what it bounds, what it serves beside calls, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route

from evbus.engine.kit.loopback import is_loopback
from evbus.engine.service.declare import service_spec
from evbus.engine.service.hosted import Hosted
from evbus.engine.web import server as server_module
from evbus.engine.web.app import WebApp
from evbus.engine.web.dispatch import Dispatch
from evbus.engine.web.server import Server
from evbus.errors import ConfigError, ServiceCommunicationError, ServiceError
from tests.engine.web.kit import ENCODINGS, WAIT, Shop, ShopImpl, call_of, calling, post, running

CALL = b'{"method":"store:shop:hello","args":["x"]}'
HEAD = b"POST /invoke HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter], None]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), WAIT)).decode()
    lines = head.strip().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:])
    return int(lines[0].split()[1]), headers, await reader.readexactly(int(headers["content-length"]))


def app() -> WebApp:
    return WebApp(Dispatch(Hosted(lambda: None), ENCODINGS, max_body=1000, concurrency=10))


# Where it listens.


EVERYWHERE = "0.0.0.0"  # noqa: S104 - what is refused, and where it is not


@pytest.mark.parametrize("host", [EVERYWHERE, "::", "192.0.2.1", "example.org", ""])
async def test_who_asks_nobody_is_reached_from_this_machine_only(host: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"^the server would listen on {host}, where other machines reach it"
    ):
        await Server.start(app(), host, 0)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.4.5", "::1", "localhost"])
def test_what_only_this_machine_reaches_is_known(host: str) -> None:
    assert is_loopback(host)


async def test_who_asks_everybody_may_listen_everywhere() -> None:
    server = await Server.start(app(), EVERYWHERE, 0, authenticated=True, insecure=True)
    assert server.port > 0
    await server.stop(WAIT)


async def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            ServiceError, match=rf"^the server cannot listen on 127\.0\.0\.1:{port}: Address already"
        ):
            await Server.start(app(), "127.0.0.1", port)


async def test_a_server_on_ipv6_is_reached() -> None:
    server = await Server.start(app(), "::1", 0)
    assert server.url == f"http://[::1]:{server.port}"
    assert (await post(server.url, CALL)).status == 404
    await server.stop(WAIT)


# What it bounds.


@pytest.mark.parametrize(
    "head",
    [b"x: " + b"y" * 40_000, b"x: y\r\n" * 8_000, b"x: " + b"y" * 400_000 + b"\r\n\r\n"],
    ids=["endless", "many", "whole"],
)
async def test_a_head_that_is_too_large_is_refused(head: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with running() as shop, connected(shop.server.port) as (reader, writer):
        with contextlib.suppress(OSError):
            writer.write(HEAD + head)
            status, headers, said = await answer(reader)
            assert (status, headers["connection"]) == (431, "close")
            assert said == b"the head of the request is too large"
        assert (await post(shop.url, CALL)).status == 200


async def test_a_large_head_that_is_not_too_large_is_read() -> None:
    async with running() as shop, connected(shop.server.port) as (reader, writer):
        for _ in range(3):
            sent = CALL.replace(b'"x"', b'"' + b"x" * 50_000 + b'"')
            writer.write(HEAD + b"x: " + b"y" * 30_000 + b"\r\ncontent-length: %d\r\n\r\n" % len(sent) + sent)
            assert (await answer(reader))[0] == 200


async def test_what_is_no_http_is_refused() -> None:
    async with running() as shop, connected(shop.server.port) as (reader, writer):
        writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        assert (await answer(reader))[0] == 400
        assert await reader.read() == b""


@pytest.mark.parametrize("sent", [b"", b"POST /inv", HEAD], ids=["nothing", "a-line", "half-a-head"])
async def test_a_client_that_does_not_say_what_it_wants_is_left(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "HEAD", 0.2)
    async with running() as shop, connected(shop.server.port) as (reader, writer):
        writer.write(sent)
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), WAIT) == b""


async def test_a_client_that_does_not_send_its_call_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evbus.engine.web.request.PATIENCE", 0.2)
    async with running() as shop, connected(shop.server.port) as (reader, writer):
        writer.write(HEAD + b"content-length: 100\r\n\r\n{")
        status, headers, said = await answer(reader)
        assert (status, headers["connection"]) == (408, "close")
        assert b"the call did not come within 0.2 s" in said


async def test_a_client_that_takes_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "TAKEN", 0.2)
    async with running() as shop, connected(shop.server.port) as (_, writer):
        sent = b'{"method":"store:shop:texts","args":[100000,20000]}'
        writer.write(HEAD + b"content-length: %d\r\n\r\n" % len(sent) + sent)
        while not shop.server.state.connections or not shop.shop.made:  # noqa: ASYNC110 - elsewhere
            await asyncio.sleep(0.01)
        while shop.server.state.connections:  # noqa: ASYNC110 - elsewhere
            await asyncio.sleep(0.01)
        assert shop.shop.made < 50_000


async def test_a_connection_that_nobody_uses_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "KEPT", 0.2)
    async with running() as shop, connected(shop.server.port) as (reader, writer):
        writer.write(HEAD + b"content-length: %d\r\n\r\n" % len(CALL) + CALL)
        assert (await answer(reader))[0] == 200
        assert await asyncio.wait_for(reader.read(), WAIT) == b""


async def test_requests_that_are_sent_at_once_are_answered_in_their_order() -> None:
    async with running() as shop, connected(shop.server.port) as (reader, writer):
        for number in range(3):
            sent = CALL.replace(b"x", b"%d" % number)
            writer.write(HEAD + b"content-length: %d\r\n\r\n" % len(sent) + sent)
        assert [(await answer(reader))[2] for _ in range(3)] == [
            b'{"result":"hello %d","exception":null}' % number for number in range(3)
        ]


async def test_answers_say_when_they_were_made_and_not_by_what() -> None:
    async with running() as shop:
        headers = (await post(shop.url, CALL)).headers
    assert headers["date"].endswith(" GMT")
    assert "server" not in headers


# What it serves beside calls.


async def hello(request: Request) -> PlainTextResponse:
    return PlainTextResponse(f"hello {request.path_params['name']}")


async def test_routes_and_applications_stand_beside_calls() -> None:
    told = []

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None, None]:
        told.append("begin")
        yield
        told.append("end")

    async def streamed(request: Request) -> StreamingResponse:
        async def parts() -> AsyncGenerator[bytes, None]:
            yield b"one"
            yield b"two"

        return StreamingResponse(parts())

    inner = Starlette(routes=[Route("/hello/{name}", hello), Route("/parts", streamed)], lifespan=lifespan)

    def add(web: WebApp) -> None:
        web.add([Route("/here/{name}", hello, methods=["POST"])])
        web.mount("/inner", inner)

    async with running(app=add) as shop:
        assert told == ["begin"]
        reader, writer = await asyncio.open_connection("127.0.0.1", shop.server.port)
        writer.write(b"GET /inner/hello/you HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await answer(reader))[2] == b"hello you"
        writer.write(b"POST /here/me HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
        assert (await answer(reader))[2] == b"hello me"
        writer.write(b"GET /nowhere HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await answer(reader))[0] == 404
        writer.write(b"GET /inner/parts HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert (await reader.read()).endswith(b"\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")
        writer.close()
        await writer.wait_closed()
        assert (await post(shop.url, CALL)).status == 200
    assert told == ["begin", "end"]


async def test_others_can_mount_it() -> None:
    hosted = Hosted(lambda: None)
    hosted.add("store", service_spec(Shop), ShopImpl())
    inner = WebApp(Dispatch(hosted, ENCODINGS, max_body=1000, concurrency=10))
    outer = Starlette(routes=[Route("/hello/{name}", hello), Mount("/services", inner)])

    def add(web: WebApp) -> None:
        web.mount("/outer", outer)

    async with running(app=add) as shop, calling() as caller:
        url = f"{shop.url}/outer/services"
        assert await caller.invoke(call_of("hello", "x"), url) == "hello x"
    await hosted.close(WAIT)


# How it ends.


async def test_what_is_under_way_at_the_stop_ends_and_nobody_else_is_let_in() -> None:
    async with running() as shop, calling() as caller:
        waiting = asyncio.ensure_future(caller.invoke(call_of("wait", "a"), shop.url))
        await shop.shop.event(shop.shop.begun, "a").wait()
        stopping = asyncio.ensure_future(shop.server.stop(WAIT))
        await asyncio.sleep(0)
        assert shop.server.stopping
        with pytest.raises(ServiceCommunicationError, match="nothing listens there") as refused:
            await caller.invoke(call_of("hello", "x"), shop.url)
        assert not refused.value.handed_over
        assert not stopping.done()
        shop.shop.event(shop.shop.gates, "a").set()
        assert await waiting is None
        await stopping


async def test_who_has_come_just_before_the_stop_is_answered() -> None:
    async with running() as shop:
        # The loop gets no turn between: the kernel has both the connection and the request.
        with socket.create_connection(("127.0.0.1", shop.server.port)) as client:
            client.sendall(HEAD + b"content-length: %d\r\n\r\n" % len(CALL) + CALL)
            await shop.server.stop(WAIT)
            said = client.recv(10_000)
        assert said.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"connection: close\r\n" in said


async def test_a_kept_connection_is_served_once_more_at_the_stop_and_told_that_it_was_the_last() -> None:
    async with running() as shop, connected(shop.server.port) as (reader, writer):
        sent = HEAD + b"content-length: %d\r\n\r\n" % len(CALL) + CALL
        writer.write(sent)
        assert "connection" not in (await answer(reader))[1]
        stopping = asyncio.ensure_future(shop.server.stop(WAIT))
        await asyncio.sleep(0)
        assert shop.server.stopping
        writer.write(sent)
        status, headers, _ = await answer(reader)
        assert (status, headers["connection"]) == (200, "close")
        await stopping
        assert await reader.read() == b""


async def test_a_kept_connection_that_is_not_used_is_closed_at_the_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server_module, "IDLE", 0.2)
    async with running() as shop, connected(shop.server.port) as (reader, writer):
        writer.write(HEAD + b"content-length: %d\r\n\r\n" % len(CALL) + CALL)
        await answer(reader)
        await shop.server.stop(WAIT)
        assert await reader.read() == b""


async def test_what_does_not_end_is_cancelled_and_its_caller_told(caplog: pytest.LogCaptureFixture) -> None:
    async with running() as shop, calling() as caller:
        waiting = asyncio.ensure_future(caller.invoke(call_of("wait", "a"), shop.url))
        await shop.shop.event(shop.shop.begun, "a").wait()
        await shop.server.stop(0.1)
        with pytest.raises(
            ServiceCommunicationError, match="the server stopped before the method had ended"
        ) as told:
            await waiting
        assert told.value.handed_over
        assert shop.shop.event(shop.shop.ended, "a").is_set()
        assert "1 request is cancelled by the stop" in caplog.text
        await shop.server.stop(WAIT)


async def test_a_stream_that_does_not_end_is_cut_and_its_caller_knows(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running() as shop, calling() as caller:
        got: list[int] = []

        async def read() -> None:
            async for item in caller.stream(call_of("ticks", "a"), shop.url):
                got.append(item)  # noqa: PERF401 - what came is wanted

        reading = asyncio.ensure_future(read())
        while len(got) < 3:  # noqa: ASYNC110 - what it waits for happens elsewhere
            await asyncio.sleep(0)
        await shop.server.stop(0.1)
        with pytest.raises(ServiceCommunicationError, match="in the middle of the answer|without its end"):
            await reading
        assert got == [0, 1, 2]
        await shop.server.stop(WAIT)
    assert "Exception in ASGI application" not in caplog.text


async def test_a_server_starts_again_on_its_port_at_once() -> None:
    async with running() as shop:
        await post(shop.url, CALL)
    again = await Server.start(app(), "127.0.0.1", shop.server.port)
    await again.stop(WAIT)
