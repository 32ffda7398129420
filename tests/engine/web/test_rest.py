"""Methods that have a path: over a real server, called by the channel and by hand."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import time
from collections.abc import AsyncGenerator
from decimal import Decimal
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from evbus.engine.service.declare import Service, rest, service, service_spec
from evbus.engine.service.encoding import JSON
from evbus.engine.service.hosted import Hosted
from evbus.engine.service.rest import get, post
from evbus.engine.web.app import WebApp
from evbus.engine.web.dispatch import Dispatch
from evbus.engine.web.request import Load
from evbus.engine.web.rest import Rest
from evbus.engine.wire.http.pool import HttpPool, address_of
from evbus.errors import (
    PayloadError,
    RemoteServiceError,
    ServiceCommunicationError,
    ServiceSignatureError,
    ServiceTimeout,
)
from tests.engine.web.rest_kit import (
    WAIT,
    Colour,
    Order,
    Part,
    Shop,
    ShopImpl,
    SoldOut,
    call_of,
    called,
    resting,
    sent,
    serving,
    shopping,
)

SINCE = dt.datetime(2026, 11, 30, 20, 15, 0, 123456, dt.UTC)


@pytest.mark.parametrize("name", ["world", "a b/c?d", "ü%2F#&=+", "all ", "{name}", "a;b", "..a"])
async def test_a_value_in_a_path(name: str) -> None:
    async with shopping() as running:
        assert await called(running.url, "hello", name) == f"hello {name}"


async def test_text_stands_before_parameters() -> None:
    async with shopping() as running:
        assert (await sent(running.url, "GET /api/hello/all"))[1] == "hello all"
        # The same, encoded without need.
        assert (await sent(running.url, "GET /api/hell%6f/%61ll"))[1] == "hello all"


async def test_every_verb() -> None:
    async with shopping() as running:
        assert await called(running.url, "plain", 4) == 5
        part = Part("nut", Decimal("0.1"), [Part("hole")])
        assert await called(running.url, "add", part, twice=True) == Part(
            "nut", Decimal("0.2"), [Part("hole")]
        )
        assert await called(running.url, "order", 2, Order(name="nut", amount=1)) == Order(
            name="nut", amount=3
        )
        assert await called(running.url, "change", 2, {"a": [1, None]}) == [2, {"a": [1, None]}]
        assert await called(running.url, "remove", 2, x_why="old") is None
        assert running.shop.why == "old"


async def test_queries() -> None:
    async with shopping() as running:
        assert await called(
            running.url, "find", "a&b", ["x", "", "ü"], SINCE, frozenset(Colour), exact=True
        ) == [
            "a&b",
            ["x", "", "ü"],
            "2026-11-30T20:15:00.123456Z",
            ["blue", "red"],
            True,
        ]
        assert await called(running.url, "find", "", []) == ["", [], None, [], False]


async def test_a_body_that_is_left_out_or_null() -> None:
    async with shopping() as running:
        assert await called(running.url, "change", 1) == [1, None]
        assert await called(running.url, "change", 1, None) == [1, None]
        answer, value = await sent(running.url, "PATCH /api/orders/1")
        assert (answer.status, value) == (200, [1, None])


async def test_a_head_is_a_get_without_its_body() -> None:
    async with shopping() as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(running.url.rpartition(":")[2]))
        writer.write(b"HEAD /api/plain?number=1 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        said = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert said.startswith(b"HTTP/1.1 200 OK\r\n")
    assert said.endswith(b"\r\n\r\n")


JSON_TYPE = "application/json"


@pytest.mark.parametrize(
    ("line", "body", "kind", "status", "said"),
    [
        ("GET /nothing", b"", "", 404, "there is nothing at this path"),
        ("GET /api/hello/", b"", "", 404, "there is nothing at this path"),
        ("GET /api/hello/a/b", b"", "", 404, "there is nothing at this path"),
        ("GET /api/hello/%ff", b"", "", 404, "there is nothing at this path"),
        ("GET /api/without_path", b"", "", 404, "there is nothing at this path"),
        ("POST /api/hello/x", b"", "", 405, "this path takes GET"),
        ("GET /api/orders/1", b"", "", 405, "this path takes DELETE, PATCH, PUT"),
        ("OPTIONS /api/parts", b"", "", 405, "this path takes POST"),
        ("GET /api/plain", b"", "", 422, "Shop.plain: the query parameter 'number' is missing"),
        (
            "GET /api/plain?number=one",
            b"",
            "",
            422,
            "Shop.plain: the argument 'number': this is no int: Expected `int`, got `str`",
        ),
        (
            "GET /api/plain?number=1&number=2",
            b"",
            "",
            422,
            "Shop.plain: the query parameter 'number': it came 2 times, and is one value",
        ),
        (
            "GET /api/plain?number=%ff",
            b"",
            "",
            400,
            "the query is no percent-encoded UTF-8 of at most 1000 parameters",
        ),
        ("POST /api/parts", b"", "", 422, "Shop.add: the body is missing"),
        ("POST /api/parts", b"{", JSON_TYPE, 400, "..."),
        ("POST /api/parts", b"", JSON_TYPE, 400, "..."),
        (
            "POST /api/parts",
            b'{"price": "1"}',
            JSON_TYPE,
            422,
            "Shop.add: the argument 'part': this is no Part: Object missing required field `name`",
        ),
        (
            "PUT /api/orders/1",
            b'{"name": "nut", "amount": 0}',
            JSON_TYPE,
            422,
            "Shop.order: the argument 'order': this is no Order: Input should be greater than 0 - at `$",
        ),
        (
            "POST /api/parts",
            b'{"name": "a"}',
            "text/plain",
            415,
            "the content type is 'text/plain'; a call is sent as application/json",
        ),
        (
            "POST /api/parts",
            b'{"name": "a"}',
            "",
            415,
            "there is no content type; a call is sent as application/json",
        ),
        (
            "POST /api/parts",
            b'{"name": "a"}',
            'application/json; charset="utf-16"',
            415,
            "the content type is ",
        ),
        ("POST /api/parts", b"[" * 100 + b"]" * 100, JSON_TYPE, 400, "..."),
        (
            "POST /api/parts",
            b'"' + b"x" * 2000 + b'"',
            JSON_TYPE,
            413,
            "the call has more than the 1000 bytes",
        ),
    ],
)
async def test_what_is_wrong_with_a_request(
    line: str, body: bytes, kind: str, status: int, said: str
) -> None:
    async with shopping(max_body=1000) as running:
        answer, value = await sent(running.url, line, body, kind)
    assert answer.status == status
    assert answer.headers["content-type"] == JSON_TYPE
    assert set(value["error"]) == {"type", "reason"}
    assert value["error"]["reason"].startswith(said.removesuffix("..."))
    assert "Traceback" not in value["error"]["reason"]
    if status == 405:
        assert answer.headers["allow"] == said.removeprefix("this path takes ")


async def test_parameters_of_a_content_type_do_not_matter() -> None:
    async with shopping() as running:
        answer, value = await sent(
            running.url, "POST /api/parts", b'{"name": "nut"}', "application/json; charset=utf-8"
        )
    assert (answer.status, value) == (200, {"name": "nut", "price": "1.10", "parts": []})


async def test_the_connection_stays_usable_after_each_refusal() -> None:
    async with shopping() as running, resting(connections=1) as caller:
        for args in (["x"], [None]):
            call = call_of(Shop, "plain", 1)
            call.args[:] = args
            with pytest.raises((RemoteServiceError, PayloadError)):
                await caller.invoke(call, running.url)
        assert await caller.invoke(call_of(Shop, "plain", 1), running.url) == 2
        assert "connections=1" in repr(caller)


# -- failures of methods ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "status", "error"),
    [
        ("sold out", 409, {"type": "SoldOut", "reason": "('nut', 3)", "args": ["nut", 3]}),
        ("key", 404, {"type": "KeyError", "reason": "'nut'", "args": ["nut"]}),
        ("value", 500, {"type": "ValueError", "reason": "no good"}),
        ("http", 418, {"type": "HTTPException", "reason": "a teapot"}),
    ],
)
async def test_a_method_that_fails(
    how: str, status: int, error: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    async with shopping() as running:
        answer, value = await sent(running.url, f"GET /api/fail/{how.replace(' ', '%20')}")
    assert (answer.status, value) == (status, {"error": error})
    # What nobody has said a status for is told to who runs it.
    found = [record.getMessage() for record in caplog.records if record.exc_info]
    assert found == (["Shop.fail failed: ValueError: no good"] if status == 500 else [])


async def test_failures_arrive_as_what_they_are() -> None:
    async with shopping() as running:
        with pytest.raises(SoldOut) as sold_out:
            await called(running.url, "fail", "sold out")
        assert sold_out.value.args == ("nut", 3)
        with pytest.raises(KeyError) as key:
            await called(running.url, "fail", "key")
        assert key.value.args == ("nut",)
        with pytest.raises(RemoteServiceError) as remote:
            await called(running.url, "fail", "value")
        assert (remote.value.type, remote.value.reason) == ("ValueError", "no good")


async def test_a_result_that_cannot_be_written() -> None:
    async with shopping() as running:
        answer, value = await sent(running.url, "GET /api/strange")
        assert answer.status == 500
        assert value["error"]["type"] == "InvalidResult"
        assert await called(running.url, "plain", 1) == 2


async def test_a_method_without_a_path() -> None:
    async with shopping() as running:
        with pytest.raises(ServiceSignatureError) as caught:
            await called(running.url, "without_path")
    assert str(caught.value) == (
        "Shop.without_path has no path, and cannot be called over rest; decorate it with @get, @post or the "
        "like, or call it over another channel"
    )


# -- deadlines, headers, ends ----------------------------------------------------------------------


async def test_headers_and_the_deadline_travel() -> None:
    async with shopping() as running:
        seen = await called(
            running.url, "headers", headers={"traceparent": "00-1", "x-tenant": "ü"}, seconds=5
        )
    assert seen["traceparent"] == "00-1"
    assert seen["x-tenant"] == "ü"
    assert 0 < float(seen["evbus-deadline"]) - time.time() < 5.1
    assert not {"host", "accept", "content-length", "authorization"} & set(seen)


async def test_an_argument_that_is_a_header_stands_before_one_of_the_call() -> None:
    async with shopping() as running:
        await called(running.url, "remove", 1, x_why="mine", headers={"X-Why": "another"})
        assert running.shop.why == "mine"


async def test_a_deadline_that_is_over() -> None:
    async with shopping() as running:
        late = f"evbus-deadline: {time.time() - 1:.3f}\r\n"
        answer, value = await sent(running.url, "GET /api/plain?number=1", lines=late)
        assert (answer.status, value["error"]["type"]) == (504, "ServiceTimeout")
        soon = f"evbus-deadline: {time.time() + 0.3:.3f}\r\n"
        answer, value = await sent(running.url, "GET /api/wait/x", lines=soon)
        assert (answer.status, value["error"]["type"]) == (504, "ServiceTimeout")
        # What has begun has ended; on a busy machine the deadline may be over before.
        assert running.shop.ended.is_set() is running.shop.begun.is_set()
        with pytest.raises(ServiceTimeout):
            await called(running.url, "wait", "x", seconds=0.05)


async def test_a_caller_that_goes_away_ends_the_method() -> None:
    async with shopping() as running:
        calling = asyncio.ensure_future(called(running.url, "wait", "x"))
        await running.shop.begun.wait()
        calling.cancel()
        await asyncio.wait([calling])
        async with asyncio.timeout(WAIT):
            await running.shop.ended.wait()


async def test_too_many_at_once() -> None:
    async with shopping(concurrency=1) as running:
        calling = asyncio.ensure_future(called(running.url, "wait", "x"))
        await running.shop.begun.wait()
        answer, value = await sent(running.url, "GET /api/plain?number=1")
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert value["error"]["reason"] == "1 calls are under way here already; try again later"
        # Calls of the other way in are counted, too.
        with pytest.raises(ServiceCommunicationError) as caught:
            await called(running.url, "plain", 1)
        assert not caught.value.handed_over
        running.shop.gate.set()
        await calling


async def test_an_answer_that_is_too_large() -> None:
    async with shopping() as running, resting(max_answer=1000) as caller:
        with pytest.raises(ServiceCommunicationError, match="its answer is larger than 1000 bytes"):
            await caller.invoke(call_of(Shop, "large", 5_000_000), running.url)


async def test_nobody_listens_there() -> None:
    async with shopping() as running:
        url = running.url
    with pytest.raises(ServiceCommunicationError) as caught:
        await called(url, "plain", 1)
    assert not caught.value.handed_over
    assert str(caught.value).startswith(f"Shop.plain of the component 'store' over rest at {url}: ")


# -- beside others ---------------------------------------------------------------------------------


def shop_app(mount: Any = None) -> WebApp:
    hosted = Hosted(lambda: None)
    hosted.add("store", service_spec(Shop), ShopImpl())
    dispatch = Dispatch(hosted, [JSON], max_body=1000, concurrency=10)
    return WebApp(dispatch, Rest(hosted, dispatch.load, max_body=1000))


@pytest.mark.parametrize("prefix", ["/services", "/a/b%20c"])
async def test_below_a_path_of_another_application(prefix: str) -> None:
    app = Starlette(routes=[Mount(prefix.replace("%20", " "), shop_app())])
    async with _served(app) as url:
        assert (await sent(url, f"GET {prefix}/api/hello/a%2Fb"))[1] == "hello a/b"
        assert (await sent(url, f"GET {prefix}/api/hello/all"))[1] == "hello all"
        assert await called(url + prefix, "hello", "a b/c?d") == "hello a b/c?d"


async def test_above_another_application() -> None:
    async def home(request: Any) -> PlainTextResponse:
        return PlainTextResponse("home")

    async with shopping(mount=Starlette(routes=[Route("/home", home)])) as running:
        assert await called(running.url, "plain", 1) == 2
        pool_answer = await _text(running.url, "GET /home")
        assert pool_answer == "home"


async def _text(url: str, line: str) -> str:
    pool = HttpPool(connections=1, connect_timeout=WAIT, max_answer=1000)
    try:
        return (
            await pool.request(address_of(url), f"{line} HTTP/1.1\r\nhost: x\r\n".encode(), b"")
        ).body.decode()
    finally:
        await pool.close()


@contextlib.asynccontextmanager
async def _served(app: Any) -> AsyncGenerator[str, None]:
    """Serve an application of others."""
    web = WebApp(Dispatch(Hosted(lambda: None), [JSON], max_body=1000, concurrency=10))
    web.mount("/", app)
    async with serving(web) as server:
        yield server.url


def hosting(*interfaces: type) -> Hosted:
    hosted = Hosted(lambda: None)
    for one in interfaces:
        made = type("Impl", (one,), {})()
        hosted.add("store", service_spec(one), made)
    return hosted


@service()
@rest("/one")
class One(Service):
    @get("/{a}")
    async def first(self, a: str) -> None: ...


@service()
class Two(Service):
    @post("/one/{b}")
    async def second(self, b: str) -> None: ...

    @get("/one/{b}")
    async def third(self, b: str) -> None: ...


@service()
class Three(Service):
    @get("/docs")
    async def docs(self) -> None: ...


def test_two_interfaces_with_one_path() -> None:
    with pytest.raises(ServiceSignatureError) as caught:
        Rest(hosting(One, Two), Load(1), max_body=1)
    assert str(caught.value) == (
        "One.first and Two.third have the same path, GET '/one/{b}'; give one of the interfaces another "
        "prefix by @rest"
    )


def test_a_path_of_the_server() -> None:
    with pytest.raises(ServiceSignatureError) as caught:
        Rest(hosting(Three), Load(1), max_body=1, taken=["/docs"])
    assert str(caught.value) == "Three.docs has the path '/docs', which is the server's own; choose another"
