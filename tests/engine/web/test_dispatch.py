"""Calls over HTTP, from the caller's side to the method and back, and what a server refuses."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from typing import Any

import pytest

from evbus.engine.call.forward import DEADLINE
from evbus.engine.service.encoding import JSON, MSGPACK, Encoding
from evbus.errors import (
    RemoteServiceError,
    ServiceCommunicationError,
    ServiceTimeout,
)
from tests.dispatch.rig import until
from tests.engine.web.kit import ENCODINGS, WAIT, Node, SoldOut, call_of, calling, post, running

each_encoding = pytest.mark.parametrize("encoding", ENCODINGS, ids=["json", "msgpack"])


def body(method: str, *args: Any, **kwargs: Any) -> bytes:
    return json.dumps({"method": f"store:shop:{method}", "args": args, "kwargs": kwargs}).encode()


async def into(found: list[Any], items: AsyncIterator[Any]) -> None:
    """Add the items of a stream to a list, one by one."""
    async for item in items:
        found.append(item)  # noqa: PERF401 - what came before a failure is wanted


@each_encoding
async def test_a_call_comes_to_its_method_and_its_result_back(encoding: Encoding) -> None:
    async with running() as shop, calling(encoding) as caller:
        assert await caller.invoke(call_of("hello", "world"), shop.url) == "hello world"
        assert await caller.invoke(call_of("plain", "world"), shop.url) == "plain world"
        assert await caller.invoke(call_of("add", 1), shop.url) == 123
        assert await caller.invoke(call_of("add", 1, three=7), shop.url) == 127
        node = Node("a", Decimal("0.10"), [Node("b", Decimal("12345678901234567890.1"), [])])
        assert await caller.invoke(call_of("tree", node), shop.url) == Node(
            "A", Decimal("0.20"), [Node("B", Decimal("24691357802469135780.2"), [])]
        )


@each_encoding
async def test_many_calls_at_once_share_connections(encoding: Encoding) -> None:
    async with running() as shop, calling(encoding, connections=3) as caller:
        calls = [caller.invoke(call_of("hello", str(number)), shop.url) for number in range(200)]
        assert await asyncio.gather(*calls) == [f"hello {number}" for number in range(200)]
        assert len(shop.server.state.connections) == 3


@each_encoding
async def test_a_failure_comes_as_itself_where_the_interface_declares_it_and_else_is_in_the_log(
    encoding: Encoding, caplog: pytest.LogCaptureFixture
) -> None:
    async with running() as shop, calling(encoding) as caller:
        with pytest.raises(SoldOut) as declared:
            await caller.invoke(call_of("fail", "sold out"), shop.url)
        assert declared.value.args == ("sold out", 3)
        with pytest.raises(RemoteServiceError) as other:
            await caller.invoke(call_of("fail", "x"), shop.url)
        assert (other.value.type, other.value.reason) == ("ValueError", "x")
        with pytest.raises(RemoteServiceError, match="InvalidResult: Shop.strange of the component"):
            await caller.invoke(call_of("strange"), shop.url)
        stream = caller.stream(call_of("texts", -1, 1), shop.url)
        with pytest.raises(RemoteServiceError, match="ValueError"):
            await into([], stream)
        told = [record.getMessage() for record in caplog.records if record.exc_info]
        assert told[0] == "Shop.fail failed: ValueError: x"
        assert [one.partition(" failed: ")[0] for one in told] == ["Shop.fail", "Shop.texts"]


@each_encoding
async def test_a_stream_of_results_ends_as_the_method_does(encoding: Encoding) -> None:
    async with running() as shop, calling(encoding) as caller:
        items = [item async for item in caller.stream(call_of("count", 5000), shop.url)]
        assert items == list(range(5000))
        assert [item async for item in caller.stream(call_of("count", 0), shop.url)] == []
        got: list[int] = []
        with pytest.raises(SoldOut) as failed:
            await into(got, caller.stream(call_of("count", -3), shop.url))
        assert (got, failed.value.args) == ([0, 1, 2], ("no more", 3))
        # The connection is used again.
        assert len(shop.server.state.connections) == 1


@each_encoding
async def test_a_stream_of_arguments_comes_to_the_method(encoding: Encoding) -> None:
    async def numbers(to: int) -> AsyncIterator[int]:
        for number in range(to):
            yield number

    async with running() as shop, calling(encoding) as caller:
        assert await caller.invoke(call_of("total", "all", numbers(3000)), shop.url) == sum(range(3000))
        assert await caller.invoke(call_of("total", "all", numbers=numbers(3)), shop.url) == 3
        assert len(shop.server.state.connections) == 1


@each_encoding
async def test_streams_go_both_ways_at_once(encoding: Encoding) -> None:
    came = asyncio.Event()

    async def nodes() -> AsyncIterator[Node]:
        yield Node("a", Decimal(1), [])
        await asyncio.wait_for(came.wait(), WAIT)  # until the first has come back
        yield Node("b", Decimal(2), [])

    async with running() as shop, calling(encoding) as caller:
        got = []
        async for node in caller.stream(call_of("echo", nodes()), shop.url):
            came.set()
            got.append((node.name, node.price))
    assert got == [("A", Decimal(2)), ("B", Decimal(4))]


@each_encoding
async def test_the_end_of_a_callers_stream_by_an_error_is_one_in_the_method(encoding: Encoding) -> None:
    async def numbers() -> AsyncIterator[int]:
        yield 1
        raise SoldOut("of numbers")

    async with running() as shop, calling(encoding) as caller:
        with pytest.raises(SoldOut, match="of numbers"):
            await caller.invoke(call_of("total", "all", numbers()), shop.url)


@each_encoding
async def test_items_that_do_not_fit_are_refused(encoding: Encoding) -> None:
    async def numbers() -> AsyncIterator[Any]:
        yield 1
        yield "two"

    async with running() as shop, calling(encoding) as caller:
        with pytest.raises(RemoteServiceError, match="item 1 of the argument 'numbers'"):
            await caller.invoke(call_of("total", "all", numbers()), shop.url)


async def unchanged(number: Callable[[], int]) -> int:
    """Return a number once it does not change any more."""
    before = -1
    while number() != before:
        before = number()
        await asyncio.sleep(0.1)
    return before


async def test_a_stream_waits_for_who_reads_it() -> None:
    count, size = 10_000, 20_000
    async with running() as shop, calling() as caller:
        async with contextlib.aclosing(caller.stream(call_of("texts", count, size), shop.url)) as items:
            assert len(await anext(items)) == size
            assert await unchanged(lambda: shop.shop.made) < count / 2
        assert await unchanged(lambda: shop.shop.made) < count / 2


async def test_a_stream_of_arguments_waits_for_the_method() -> None:
    count, size, sent = 1_000, 20_000, 0

    async def texts() -> AsyncIterator[str]:
        nonlocal sent
        for _ in range(count):
            sent += 1
            yield "x" * size

    async with running() as shop, calling() as caller:
        made = asyncio.ensure_future(caller.invoke(call_of("length", "slow", texts()), shop.url))
        await shop.shop.event(shop.shop.begun, "slow").wait()
        assert await unchanged(lambda: sent) < count * 0.8
        shop.shop.event(shop.shop.gates, "slow").set()
        assert await made == count * size


async def test_a_method_may_end_before_its_stream() -> None:
    async def numbers() -> AsyncIterator[int]:
        while True:
            yield 7

    async with running() as shop, calling() as caller:
        assert await caller.invoke(call_of("total", "first", numbers()), shop.url) == 7
        assert await caller.invoke(call_of("hello", "x"), shop.url) == "hello x"


@each_encoding
async def test_a_cancelled_caller_cancels_the_method(encoding: Encoding) -> None:
    async with running() as shop, calling(encoding) as caller:
        waiting = asyncio.ensure_future(caller.invoke(call_of("wait", "a"), shop.url))
        await shop.shop.event(shop.shop.begun, "a").wait()
        waiting.cancel()
        await asyncio.wait([waiting])
        await asyncio.wait_for(shop.shop.event(shop.shop.ended, "a").wait(), WAIT)
        assert await caller.invoke(call_of("hello", "x"), shop.url) == "hello x"


@each_encoding
async def test_who_leaves_a_stream_ends_it(encoding: Encoding) -> None:
    async with running() as shop, calling(encoding) as caller:
        async with contextlib.aclosing(caller.stream(call_of("ticks", "a"), shop.url)) as items:
            assert [await anext(items) for _ in range(3)] == [0, 1, 2]
        await asyncio.wait_for(shop.shop.event(shop.shop.ended, "a").wait(), WAIT)


@each_encoding
@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize(
    ("method", "first"),
    [
        # It reads on, does something else meanwhile, and answers with a stream itself.
        ("total", 1),
        ("length", "x"),
        ("echo", {"name": "a", "price": "1.5", "children": []}),
    ],
)
async def test_who_leaves_in_the_middle_of_an_upload_ends_the_method(
    encoding: Encoding, method: str, first: Any, reset: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with running() as shop:
        _, writer = await asyncio.open_connection("127.0.0.1", shop.server.port)
        sent = encoding.record(
            {"method": f"store:shop:{method}", "args": [None] if method == "echo" else [method, None]}
        )
        sent += encoding.record([first])
        head = f"POST /invoke HTTP/1.1\r\nhost: x\r\ncontent-type: {encoding.stream}\r\n"
        writer.write(head.encode() + b"transfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(sent), sent))
        await asyncio.wait_for(shop.shop.event(shop.shop.begun, method).wait(), WAIT)
        assert shop.dispatch.load.calls == 1
        if reset:
            writer.transport.abort()
        else:
            writer.close()
        await asyncio.wait_for(shop.shop.event(shop.shop.ended, method).wait(), WAIT)
        await until(lambda: shop.dispatch.load.calls == 0)
        assert [record.getMessage() for record in caplog.records if record.levelname != "DEBUG"] == []
        async with calling(encoding) as caller:
            assert await caller.invoke(call_of("hello", "x"), shop.url) == "hello x"
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_items_come_before_the_next_is_there() -> None:
    async with (
        running() as shop,
        calling() as caller,
        contextlib.aclosing(caller.stream(call_of("ticks", "a"), shop.url)) as items,
    ):
        assert [await anext(items) for _ in range(3)] == [0, 1, 2]
        shop.shop.event(shop.shop.gates, "a").set()
        assert await anext(items) == 3


# Deadlines


async def test_the_deadline_of_a_call_is_kept_by_the_server() -> None:
    async with running() as shop, calling() as caller:
        with pytest.raises(
            ServiceTimeout, match=r"^Shop\.wait of the component 'store' over dispatch-msgpack"
        ):
            await caller.invoke(call_of("wait", "a", seconds=0.2), shop.url)
        assert shop.shop.event(shop.shop.ended, "a").is_set()
        with pytest.raises(ServiceTimeout, match="its deadline was over when it came here"):
            await caller.invoke(call_of("wait", "b", seconds=-1), shop.url)
        assert "b" not in shop.shop.begun


async def test_the_deadline_of_a_stream_is_kept_by_the_server() -> None:
    async with running() as shop, calling() as caller:
        got: list[int] = []
        with pytest.raises(RemoteServiceError, match="ServiceTimeout"):
            await into(got, caller.stream(call_of("ticks", "a", seconds=0.3), shop.url))
        assert got == [0, 1, 2]


@pytest.mark.parametrize("value", ["soon", "nan", "inf", "1e300"])
@pytest.mark.parametrize("header", ["evbus_deadline", "evbus_timeout"])
async def test_a_deadline_that_is_none_is_refused(header: str, value: str) -> None:
    async with running() as shop:
        answer = await post(shop.url, body("hello", "x"), **{header: value})
    assert (answer.status, json.loads(answer.body)["error"]["type"]) == (400, "InvalidHeader")


async def test_clocks_need_not_agree() -> None:
    async with running() as shop, calling() as caller:
        for hours in (-1, 1):
            there = {DEADLINE: f"{time.time() + hours * 3600:.3f}"}
            assert await caller.invoke(call_of("hello", "x", headers=there), shop.url) == "hello x"
            with pytest.raises(ServiceTimeout, match=r"longer than the 0\.\d+ s that were left|its deadline"):
                await caller.invoke(call_of("wait", "a", seconds=0.2, headers=there), shop.url)


async def test_headers_of_the_call_are_there_and_those_of_http_are_not() -> None:
    async with running() as shop, calling() as caller:
        headers = {
            "x-tenant": "blau grün",
            "host": "evil",
            "Content-Length": "1",
            "bad\n": "x",
            "evil": "a\r\nb: c",
        }
        found = await caller.invoke(call_of("headers", headers=headers), shop.url)
    assert float(found.pop("evbus-deadline")) > time.time()
    assert found == {"x-tenant": "blau grün"}


# What is refused. The connection stays usable.


@pytest.mark.parametrize(
    ("sent", "content_type", "status", "said"),
    [
        (body("hello", "x"), "text/plain", 415, "the content type is 'text/plain'; a call is sent as"),
        (body("hello", "x"), "", 415, "there is no content type; a call is sent as application/json"),
        (body("hello", "x"), "application/json; charset=latin-1", 415, "the content type is"),
        (body("hello", "x"), "application/json\r\ncontent-encoding: gzip", 415, "the content encoding is"),
        (b"{", "application/json", 400, "not valid JSON"),
        (b"", "application/json", 400, "empty"),
        (b"\xff", "application/json", 400, ""),
        (b"[1]", "application/json", 400, 'a call is {"method": "component:service:method", "args": [...]}'),
        (b'{"method": 1, "args": []}', "application/json", 400, "a call is"),
        (b'{"method": "store:shop:hello", "args": {}}', "application/json", 400, "a call is"),
        (b'{"method": "store:shop:hello", "kwargs": []}', "application/json", 400, "a call is"),
        (b"[" * 100 + b"]" * 100, "application/json", 400, "64"),
        (b"\xc1", "application/msgpack", 400, "0xc1"),
        (b"\x80\x04N.", "application/msgpack", 400, "pickle"),
        (body("hello"), "application/json", 400, "Shop.hello: the argument 'name' is missing"),
        (body("hello", 7), "application/json", 400, "Shop.hello: the argument 'name'"),
        (body("hello", "x", "y"), "application/json", 400, "takes 1 arguments by position, and 2 came"),
        (body("hello", "x", who="y"), "application/json", 400, "the argument 'who' is none that it takes"),
        (body("__class__"), "application/json", 404, "there is no method 'store:shop:__class__'"),
        (body("event", {}, "x"), "application/json", 404, "there is no method 'store:shop:event'"),
        (body("_private"), "application/json", 404, "there is no method"),
        (body("total", "x", [1]), "application/json", 415, "Shop.total takes a stream: the content type"),
        (body("hello", "x") + b"\n", "application/jsonl", 415, "Shop.hello takes no stream"),
        (b"x" * 30, "application/jsonl", 400, "the stream has no record"),
        (body("hello", "x" * 2000), "application/json", 413, "the call has more than the 1000 bytes"),
    ],
)  # fmt: skip
async def test_a_request_that_is_no_call_is_refused_in_one_sentence(
    sent: bytes, content_type: str, status: int, said: str
) -> None:
    async with running(max_body=1000) as shop:
        reader, writer = await asyncio.open_connection("127.0.0.1", shop.server.port)
        for _ in range(2):  # on one connection
            kind = f"content-type: {content_type}\r\n" if content_type else ""
            head = f"POST /invoke HTTP/1.1\r\nhost: x\r\n{kind}content-length: {len(sent)}\r\n\r\n"
            writer.write(head.encode() + sent)
            answer = await read_answer(reader)
            assert answer[0] == status
            error = answer[1]["error"]
            assert said in error["reason"]
            assert "Traceback" not in error["reason"]
        writer.close()
        await writer.wait_closed()


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, Any]:
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), WAIT)).decode().lower()
    size = int(head.partition("content-length: ")[2].partition("\r")[0])
    found = await reader.readexactly(size)
    value = JSON.decode(found) if b"json" in head.encode() else MSGPACK.decode(found)
    return int(head.split()[1]), value


async def test_parameters_of_the_content_type_do_not_matter() -> None:
    async with running() as shop:
        answer = await post(shop.url, body("hello", "x"), "Application/JSON; charset=utf-8")
    assert (answer.status, json.loads(answer.body)) == (200, {"result": "hello x", "exception": None})


async def test_the_answer_to_another_verb_says_which_is_right() -> None:
    async with running() as shop:
        reader, writer = await asyncio.open_connection("127.0.0.1", shop.server.port)
        writer.write(b"GET /invoke HTTP/1.1\r\nhost: x\r\n\r\n")
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        assert head.startswith("HTTP/1.1 405 ")
        assert "allow: POST" in head
        writer.close()
        await writer.wait_closed()


async def test_a_body_without_a_length_is_refused_while_it_comes() -> None:
    async with running(max_body=100_000) as shop:
        reader, writer = await asyncio.open_connection("127.0.0.1", shop.server.port)
        head = b"POST /invoke HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        head += b"transfer-encoding: chunked\r\n\r\n"
        writer.write(head)
        piece = b"x" * 50_000
        for _ in range(3):
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        assert (await read_answer(reader))[0] == 413
        # What still comes of it is read over, up to a bound, and the connection goes on.
        writer.write(
            b"0\r\n\r\n" + head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body("hello", "x")), body("hello", "x"))
        )
        assert await read_answer(reader) == (200, {"result": "hello x", "exception": None})
        writer.write(head)
        with contextlib.suppress(OSError):
            while True:
                writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def test_so_many_calls_run_at_once_and_a_further_one_is_told_to_come_again() -> None:
    async with running(concurrency=2) as shop, calling() as caller:
        waiting = [asyncio.ensure_future(caller.invoke(call_of("wait", name), shop.url)) for name in "ab"]
        for name in "ab":
            await shop.shop.event(shop.shop.begun, name).wait()
        with pytest.raises(ServiceCommunicationError, match="2 calls are under way here already") as refused:
            await caller.invoke(call_of("hello", "x"), shop.url)
        assert not refused.value.handed_over
        answer = await post(shop.url, body("hello", "x"))
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        for name in "ab":
            shop.shop.event(shop.shop.gates, name).set()
        await asyncio.gather(*waiting)
        assert await caller.invoke(call_of("hello", "x"), shop.url) == "hello x"
        assert shop.dispatch.load.calls == 0


async def test_a_fault_of_the_server_says_nothing_of_itself(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with running() as shop:
        monkeypatch.setattr(shop.dispatch, "_hosted", None)
        answer = await post(shop.url, body("hello", "x"))
    assert answer.status == 500
    assert json.loads(answer.body)["error"]["reason"] == "the server failed; its log says why"
    assert "a call could not be answered" in caplog.text
