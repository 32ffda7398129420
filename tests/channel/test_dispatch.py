"""The channels dispatch-json and dispatch-msgpack, and the server behind them, through hubs and processes."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import urllib.request
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from evbus.engine.web import server as server_module
from evbus.errors import (
    ConfigError,
    LocalServiceError,
    MissingExtra,
    ProfileError,
    ServiceCommunicationError,
)
from tests.channel import shop as shop_module
from tests.channel.processes import WAIT, Process, each, processes, replaced
from tests.engine.service.kit import Item, OutOfStock, Shop, ShopImpl
from tests.evbus.kit import new_hub
from tests.servers._ports import free_ports

CHANNELS = ("dispatch-json", "dispatch-msgpack")
ROOT = Path(__file__).parent.parent.parent
each_channel = pytest.mark.parametrize("channel", CHANNELS)


@pytest.fixture(autouse=True)
def no_wait_for_kept_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "IDLE", 0.0)


@contextlib.asynccontextmanager
async def started(*implementations: Any, **options: Any) -> AsyncGenerator[Any, None]:
    hub = new_hub()
    hub.service.init.add(*implementations)
    await hub.service.init.start(**options)
    try:
        yield hub
    finally:
        await hub.service.init.stop(WAIT)


def static(component: str, urls: list[str], **channels: Any) -> dict[str, Any]:
    return {
        "registry": {"static": {component: dict.fromkeys(CHANNELS, urls)}},
        "channels": {name.replace("_", "-"): value for name, value in channels.items()},
    }


def url_of(hub: Any) -> str:
    return f"http://127.0.0.1:{hub.service.SERVICES.server.port}"


@each_channel
async def test_a_service_of_another_hub_is_called_as_one_of_this(channel: str) -> None:
    async def items() -> AsyncIterator[Item]:
        for number in range(3):
            yield Item("pen", number)

    async with started(ShopImpl, port=0) as there, started(settings=static("shop", [url_of(there)])) as here:
        shop = here.service.init.get(Shop, channel=channel)
        assert repr(shop) == f"<Shop over {channel}>"
        assert await shop.order(Item("pen"), note="!") == Item("pen!", 1, [Item("pen")])
        assert await shop.find("") is None
        assert [item async for item in shop.every(3)] == [Item("0"), Item("1"), Item("2")]
        assert await shop.total(items()) == 3
        assert await asyncio.to_thread(shop.price, "pen", factor=3) == 9
        with pytest.raises(OutOfStock) as failed:
            await shop.fail("stock")
        assert failed.value.left == 3


async def test_a_process_calls_itself_over_its_own_server() -> None:
    async with started(ShopImpl, port=0) as hub:
        shop = hub.service.init.get(Shop, channel="dispatch-msgpack")
        assert await shop.find("pen") == Item("pen")
        (found,) = hub.service.init.report()["components"]
        assert found["addresses"] == [
            [name, url_of(hub)] for name, http in hub.channel.init.names().items() if http
        ]


async def hello(request: Request) -> PlainTextResponse:
    return PlainTextResponse("hello")


async def text_of(url: str) -> tuple[int, bytes]:
    def get() -> tuple[int, bytes]:
        with urllib.request.urlopen(url) as answer:  # noqa: S310 - a url of this test
            return answer.status, answer.read()

    return await asyncio.to_thread(get)


async def test_applications_of_others_are_served_beside_services() -> None:
    told = []

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None, None]:
        told.append("begin")
        yield
        told.append("end")

    hub = new_hub()
    hub.service.init.add(ShopImpl)
    hub.service.init.mount("/web/", Starlette(routes=[Route("/hello", hello)], lifespan=lifespan))
    await hub.service.init.start(port=0)
    try:
        assert await text_of(f"{url_of(hub)}/web/hello") == (200, b"hello")
        assert (await text_of(f"{url_of(hub)}/health/live"))[0] == 200
        assert told == ["begin"]
    finally:
        await hub.service.init.stop(WAIT)
    assert told == ["begin", "end"]


@pytest.mark.parametrize("path", ["", "/", "shop", None])
def test_a_path_to_mount_at_is_one(path: Any) -> None:
    with pytest.raises(ConfigError, match="an application is mounted below a path such as /shop"):
        new_hub().service.init.mount(path, None)


async def test_services_are_served_by_an_application_of_others() -> None:
    with pytest.raises(LocalServiceError, match="are not started"):
        new_hub().service.init.asgi()
    async with started(ShopImpl) as inner:
        outer = new_hub()
        outer.service.init.mount("/all", Starlette(routes=[Mount("/services", inner.service.init.asgi())]))
        await outer.service.init.start(port=0)
        url = f"{url_of(outer)}/all/services"
        try:
            async with started(settings=static("shop", [url])) as here:
                assert await here.service.init.get(Shop).find("pen") == Item("pen")
            assert (await text_of(f"{url}/openapi.json"))[0] == 200
        finally:
            await outer.service.init.stop(WAIT)


async def test_a_server_that_others_reach_and_that_asks_nobody_does_not_start() -> None:
    with pytest.raises(ConfigError, match="would listen on 0.0.0.0, where other machines reach it"):
        async with started(ShopImpl, port=0, host="0.0.0.0"):  # noqa: S104 - what is refused
            pass


@pytest.mark.parametrize("module", ["uvicorn", "starlette", "httptools"])
async def test_a_server_without_its_extra_says_what_to_install(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, module, "evbus.engine.web")
    with pytest.raises(
        MissingExtra, match=rf"the HTTP server needs the package {module}.*evbus-hub\[service\]"
    ):
        async with started(ShopImpl, port=0):
            pass


async def test_a_channel_without_its_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "httptools", "evbus.engine.service.http", "evbus.engine.wire.http.pool")
    async with started(settings=static("shop", ["http://127.0.0.1:1"])) as hub:
        with pytest.raises(MissingExtra, match="the channel dispatch-json needs the package httptools"):
            await hub.service.init.get(Shop, channel="dispatch-json").find("x")


def without(monkeypatch: pytest.MonkeyPatch, package: str, *ours: str) -> None:
    """Let a package be missing, and forget what has imported it."""
    for name in list(sys.modules):
        if name.startswith((package, "uvicorn", *ours)):
            monkeypatch.delitem(sys.modules, name)
            above, _, last = name.rpartition(".")
            if above in sys.modules:
                monkeypatch.delattr(sys.modules[above], last, raising=False)
    monkeypatch.setitem(sys.modules, package, None)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"conections": 3},
            "conections: there is no such key; did you mean 'connections'?",
        ),
        ({"connections": 0}, "channels.dispatch-json.*connections and max_answer must be 1 or more"),
        ({"connect_timeout": 0}, "channels.dispatch-json.*connect_timeout is a number of seconds above 0"),
        ({"tls": {"ca": "x"}}, "channels.dispatch-json.tls.ca"),
    ],
)
async def test_settings_that_cannot_be_are_refused(settings: Any, said: str) -> None:
    with pytest.raises(ProfileError, match=said):
        async with started(settings=static("shop", [], dispatch_json=settings)):
            pass


async def test_an_answer_that_is_too_large_names_the_setting() -> None:
    async with started(ShopImpl, port=0) as there:
        settings = static("shop", [url_of(there)], dispatch_json={"max_answer": "1kB"})
        async with started(settings=settings) as here:
            shop = here.service.init.get(Shop, channel="dispatch-json")
            with pytest.raises(ServiceCommunicationError) as failed:
                await shop.order(Item("pen" * 1000))
            assert str(failed.value) == (
                f"Shop.order of the component 'shop' over dispatch-json at {url_of(there)}: its answer is "
                "larger than 1000 bytes; raise max_answer of the channel dispatch-json, or return less"
            )
            assert await shop.find("pen") == Item("pen")


@contextlib.asynccontextmanager
async def somebody(status: str, kind: str, body: bytes) -> AsyncIterator[str]:
    """Run a server that is none of services, and answers all alike; yield its address."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize(
    ("answer", "begun"),
    [
        (("200 OK", "text/html", b"hi"), True),
        (("404 Not Found", "text/html", b"hi"), False),
        (("404 Not Found", "application/json", b'{"detail":"Not Found"}'), False),
        (("405 Method Not Allowed", "application/json", b"[]"), False),
    ],
)
async def test_an_address_where_somebody_else_listens_is_named_and_others_are_taken(
    answer: tuple[str, str, bytes], begun: bool
) -> None:
    status, kind, _ = answer
    async with somebody(*answer) as url, started(ShopImpl, port=0) as there:
        async with started(settings=static("shop", [url])) as hub:
            with pytest.raises(ServiceCommunicationError) as problem:
                await hub.service.init.get(Shop).order(Item("pen"))
            assert str(problem.value) == (
                f"Shop.order of the component 'shop' over dispatch-json at {url}: what answers there is no "
                f"service: it answered {status[:3]} with {kind}; is this the address of the component?"
            )
            assert problem.value.handed_over is begun
        async with started(settings=static("shop", [url, url_of(there)])) as hub:
            shop = hub.service.init.get(Shop)
            found = await asyncio.gather(
                *[shop.order(Item("pen")) for _ in range(20)], return_exceptions=True
            )
            failed = [one for one in found if isinstance(one, Exception)]
            # What may have been begun is not made again; what cannot have been is made elsewhere.
            assert bool(failed) is begun


async def test_a_password_in_an_address_is_not_shown() -> None:
    with pytest.raises(ProfileError, match="it holds a user or a password") as failed:
        await new_hub().service.init.start(settings=static("shop", ["http://me:secret@127.0.0.1:1"]))
    assert "secret" not in str(failed.value)


# Servers that die


@each_channel
async def test_of_a_server_that_is_killed_no_call_hangs_and_none_runs_twice(
    channel: str, tmp_path: Path
) -> None:
    with processes(tmp_path, 2) as (first, second):
        settings = static("shop", [first.url, second.url])
        async with started(settings=settings) as hub:
            shop = hub.service.init.get(shop_module.Shop, channel=channel)

            async def take(number: int) -> int:
                if number == 500:
                    first.kill()
                return await shop.take(number)

            found = await each(take, 1000)
        ran = first.runs() + second.runs()
        assert max(ran.values()) == 1
        lost = {number for number, value in found.items() if value != number}
        for number in lost:
            # The request was on its way, or had begun: nobody knows, and it is not sent again.
            assert isinstance(found[number], ServiceCommunicationError)
            assert found[number].handed_over
            assert "Shop.take of the component 'shop'" in str(found[number])
        assert len(lost) <= 32
        assert set(ran) >= set(range(1000)) - lost


async def test_what_may_run_twice_is_made_again_elsewhere(tmp_path: Path) -> None:
    with processes(tmp_path, 2) as (first, second):
        async with started(settings=static("shop", [first.url, second.url])) as hub:
            shop = hub.service.init.get(shop_module.Shop, channel="dispatch-msgpack")

            async def find(number: int) -> int:
                if number == 500:
                    first.kill()
                return await shop.find(number)

            assert await each(find, 1000) == {number: number for number in range(1000)}


async def test_of_servers_that_are_replaced_one_after_the_other_no_call_fails(tmp_path: Path) -> None:
    with processes(tmp_path, 3) as running:
        urls = [one.url for one in running]
        settings = static("shop", urls, dispatch_msgpack={"breaker": {"pause": "200ms"}})
        async with started(settings=settings) as hub:
            shop = hub.service.init.get(shop_module.Shop, channel="dispatch-msgpack")

            def again(number: int, one: Process) -> Process:
                return Process(tmp_path / f"{number}-again", one.port)

            await replaced(shop, running, again, 8)


async def test_a_server_that_comes_back_is_called_again(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    settings = static("shop", [f"http://127.0.0.1:{port}"], dispatch_msgpack={"retry": {"attempts": 1}})
    async with started(settings=settings) as hub:
        shop = hub.service.init.get(shop_module.Shop, channel="dispatch-msgpack")
        with pytest.raises(ServiceCommunicationError, match="nothing listens there"):
            await shop.pid()
        process = await asyncio.to_thread(Process, tmp_path / "noted", port)
        try:
            assert await shop.pid() > 0
        finally:
            process.end()
