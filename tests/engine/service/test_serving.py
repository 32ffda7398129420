"""Calls that come from the queue of a component: what is answered, and what becomes of the message."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from evbus.engine.call.forward import DEADLINE, MESSAGE
from evbus.engine.codec import json, msgpack
from evbus.engine.service.guard import Caller
from evbus.engine.service.messages import STATUS, STOPPING
from evbus.engine.service.serving import MessageServer, ServedQueues
from evbus.engine.service.settings import MessageSettings
from evbus.errors import AuthorizationError, ConnectFailed, DeliveryError, Unavailable
from evbus.types import CONTENT_TYPE, Delivery, Envelope, Subscription
from tests.dispatch.rig import turns, until
from tests.engine.service.kit import Item, ShopImpl, hosted

JSON, MSGPACK = "application/json", "application/msgpack"


class Link:
    """Where replies go: notes them, or raises ``problem``."""

    name = "wire profile 'rpc'"

    def __init__(self) -> None:
        self.replies: list[tuple[str, Envelope]] = []
        self.calls: list[str] = []

    async def open(self) -> None:
        self.calls.append("open")

    async def close(self) -> None:
        self.calls.append("close")

    def problem(self, exc: Exception, what: str) -> DeliveryError:
        return Unavailable(f"{what}: {exc}")

    async def reply(self, address: str, event: Envelope) -> None:
        self.replies.append((address, event))


class Queue:
    """A queue of a component, and who takes calls from it.

    :ivar settled: what became of the messages, in the order in which it did.
    """

    def __init__(self, around: Any = None, guard: Any = None, **settings: Any) -> None:
        self.shop, self.link = ShopImpl(), Link()
        self.settled: list[str] = []
        made = hosted(self.shop, around)
        self.server = MessageServer(self.link, made, guard, MessageSettings(**settings))  # type: ignore[arg-type]

    def put(self, body: Any, kind: str | None = JSON, **more: Any) -> None:
        """Have a message delivered."""
        self.server.take(self.delivery(body, kind, **more))

    def delivery(
        self,
        body: Any,
        kind: str | None = JSON,
        *,
        again: bool = False,
        number: str = "1",
        reply_to: str | None = "inbox",
        **headers: str,
    ) -> Delivery:
        """Return a message: headers as they are, but with hyphens."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        sent |= {"correlation-id": number, MESSAGE: "store:shop:find"}
        if kind is not None:
            sent[CONTENT_TYPE] = kind
        if reply_to is not None:
            sent["reply-to"] = reply_to
        raw = body if isinstance(body, bytes) else (json if kind == JSON else msgpack).apply(body)
        envelope = Envelope("rpc", "store", raw, sent)
        return Delivery(envelope, self._settle, number, again)

    def _settle(self, tag: Any, accepted: bool | None, requeue: bool) -> None:
        self.settled.append("ack" if accepted else "given back" if accepted is None else "reject")

    async def ask(self, body: Any, kind: str | None = JSON, **more: Any) -> dict[str, Any] | None:
        """Return the answer to a message, None if there was none, once the message is settled."""
        count, settled = len(self.link.replies), len(self.settled)
        self.put(body, kind, **more)
        await until(lambda: len(self.settled) > settled)
        assert self.settled[settled:] == ["ack"]
        if len(self.link.replies) == count:
            return None
        ((address, reply),) = self.link.replies[count:]
        assert (address, reply.headers["correlation-id"]) == ("inbox", "1")
        read = json if reply.headers[CONTENT_TYPE] == JSON else msgpack
        found: dict[str, Any] = read.load(reply.body)
        return found

    async def refused(self, body: Any, kind: str | None = JSON, **more: Any) -> tuple[int, str, str]:
        """Return the status, the type and the reason of an answer to what was not begun."""
        found = await self.ask(body, kind, **more)
        assert found is not None
        assert found["result"] is None
        assert found["exception"] == found["error"]["reason"]
        assert self.shop.calls == []
        return found[STATUS], found["error"]["type"], found["error"]["reason"]


def call(name: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
    return {"method": f"store:shop:{name}", "args": list(args), "kwargs": kwargs}


def ends(seconds: float) -> dict[str, str]:
    return {DEADLINE.replace("-", "_"): f"{time.time() + seconds:.3f}"}


# Answers


@pytest.mark.parametrize(
    ("kind", "answered"),
    [
        (JSON, JSON),
        ("application/json; charset=utf-8", JSON),
        ("text/json", JSON),
        (MSGPACK, MSGPACK),
        ("application/x-msgpack", MSGPACK),
    ],
)
async def test_a_call_is_answered_in_its_encoding(kind: str, answered: str) -> None:
    queue = Queue()
    body = (json if answered == JSON else msgpack).apply(call("find", "pen"))
    assert await queue.ask(body, kind) == {
        "result": {"name": "pen", "count": 1, "parts": []},
        "exception": None,
    }
    ((_, reply),) = queue.link.replies
    assert reply.headers[CONTENT_TYPE] == answered


async def test_arguments_may_be_left_out_and_named() -> None:
    queue = Queue()
    found = await queue.ask(call("order", {"name": "pen"}, note="!"))
    assert found is not None
    assert found["result"]["name"] == "pen!"
    assert queue.shop.calls == [(Item("pen"), 1, "!")]
    assert await queue.ask({"method": "store:shop:fail", "kwargs": {"how": "value"}}) == {
        "result": None,
        "exception": "a bad value",
        "error": {"type": "ValueError", "reason": "a bad value"},
    }


async def test_what_a_method_raises_is_answered_without_a_status() -> None:
    queue = Queue()
    found = await queue.ask(call("fail", "stock"))
    assert found is not None
    assert STATUS not in found
    assert found["error"]["type"] == "OutOfStock"
    assert found["error"]["data"] == {"item": "pen", "left": 3}


# What is no call


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("text/plain", "text/plain"),
        ("application/xml\n\x1b[31m", "application/xml"),
        ("", "without a content type"),
        (None, "without a content type"),
    ],
)
async def test_another_content_type_is_refused_and_named(kind: str | None, said: str) -> None:
    status, name, reason = await Queue().refused(b"{}", kind)
    assert (status, name) == (400, "InvalidPayload")
    assert reason.startswith(f"a call is application/msgpack or application/json, and this one is {said}")
    assert reason.isprintable()


async def test_a_compressed_body_is_refused_as_that_and_one_that_is_not_is_read() -> None:
    queue = Queue()
    for encoding in ("gzip", "zstd", "gzip, identity"):
        assert await queue.refused(b"\x1f\x8b\x08", JSON, content_encoding=encoding) == (
            400,
            "InvalidPayload",
            f"the content encoding is {encoding!r}; a call is sent as it is",
        )
    for encoding in ("identity", "", "UTF-8"):
        found = await queue.ask(call("find", ""), content_encoding=encoding)
        assert found == {"result": None, "exception": None}


@pytest.mark.parametrize("kind", [JSON, MSGPACK])
@pytest.mark.parametrize(
    "value",
    [
        None,
        5,
        "store:shop:find",
        [],
        {},
        {"method": None},
        {"method": 5, "args": []},
        {"method": "store:shop:find", "args": "pen"},
        {"method": "store:shop:find", "args": {"name": "pen"}},
        {"method": "store:shop:find", "args": None},
        {"method": "store:shop:find", "args": [], "kwargs": []},
    ],
)
async def test_what_is_not_built_as_a_call_is_refused(kind: str, value: Any) -> None:
    body = (json if kind == JSON else msgpack).apply(value)
    assert await Queue().refused(body, kind) == (
        400,
        "InvalidPayload",
        'a call is {"method": "component:service:method", "args": [...]}',
    )


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (JSON, b""),
        (JSON, b"{"),
        (JSON, b"\xff\xfe"),
        (JSON, b'{"method": "store:shop:find", "method": "store:shop:fail"}'),
        (JSON, b'{"method": "store:shop:find", "args": [' + b"9" * 5000 + b"]}"),
        (MSGPACK, b""),
        (MSGPACK, b"\xc1"),
        (MSGPACK, b"\xdf\xff\xff\xff\xff"),
        (MSGPACK, msgpack.apply({}) + b"\x00"),
    ],
)
async def test_a_body_that_cannot_be_read_is_refused(kind: str, body: bytes) -> None:
    status, name, reason = await Queue().refused(body, kind)
    assert (status, name) == (400, "InvalidPayload")
    assert reason


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (JSON, b'{"method": "store:shop:find", "args": ' + b"[" * 1000 + b"]" * 1000 + b"}"),
        (MSGPACK, b"\x82\xa6method\xaestore:shop:fin\xa4args" + b"\x91" * 1000 + b"\xc0"),
    ],
)
async def test_a_body_that_nests_too_deep_is_refused(kind: str, body: bytes) -> None:
    status, name, _ = await Queue().refused(body, kind)
    assert (status, name) == (400, "PayloadTooDeep")


async def test_a_body_that_is_too_large_is_refused_before_it_is_read() -> None:
    queue = Queue(max_body=100)
    status, name, reason = await queue.refused(b"{" * 101)
    assert (status, name) == (413, "PayloadTooLarge")
    assert "101" in reason
    assert "100" in reason
    assert (await queue.refused(b"{" * 100))[0] == 400


@pytest.mark.parametrize(
    "name",
    [
        "store:shop:__class__",
        "store:shop:__init__",
        "store:shop:_private",
        "store:shop:calls",
        "store:shop:public_but_not_declared",
        "store:shop:find.__func__",
        "store:shop",
        "shop:store:find",
        "find",
        "",
    ],
)
async def test_exactly_the_declared_methods_are_there(name: str) -> None:
    assert await Queue().refused({"method": name, "args": []}) == (
        404,
        "LocalServiceError",
        f"there is no method {name!r}",
    )


@pytest.mark.parametrize("name", ["every", "total"])
async def test_a_method_with_a_stream_is_not_called_over_a_broker(name: str) -> None:
    status, _, reason = await Queue().refused(call(name, 1))
    assert status == 400
    assert reason == f"Shop.{name} has a stream, and streams do not travel over a broker"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (call("order"), "'item'"),
        (
            call("order", {"name": 5}),
            "argument 'item': this is no Item: Expected `str`, got `int` - at `$.name`",
        ),
        (call("order", {"name": "x"}, "many"), "argument 'count'"),
        (call("order", {"name": "x"}, 1, "note"), "argument"),
        (call("order", {"name": "x"}, strange=1), "'strange'"),
        (call("order", {"name": "x"}, item={"name": "y"}), "'item'"),
    ],
)
async def test_arguments_that_do_not_fit_are_named(body: Any, said: str) -> None:
    status, _, reason = await Queue().refused(body)
    assert status == 400
    assert said in reason


# Deadlines


@pytest.mark.parametrize("deadline", ["", "soon", "nan", "inf", "-inf", "1e999", "2030-01-01"])
async def test_a_deadline_that_is_no_time_is_refused(deadline: str) -> None:
    status, name, reason = await Queue().refused(call("find", "x"), evbus_deadline=deadline)
    assert (status, name) == (400, "InvalidPayload")
    assert reason.startswith("the header evbus-deadline is in seconds since the epoch, and not")


@pytest.mark.parametrize("body", [call("order", {"name": "pen"}), b"{"])
async def test_a_call_whose_time_is_up_is_not_begun_and_not_answered(body: Any) -> None:
    queue = Queue()
    assert await queue.ask(body, **ends(-1)) is None
    assert queue.shop.calls == []


async def test_a_method_is_cancelled_at_the_deadline_and_nobody_is_answered() -> None:
    queue = Queue()
    assert await queue.ask(call("fail", "slow"), **ends(0.05)) is None
    assert queue.shop.ended == ["slow"]
    await until(lambda: queue.server.active == 0)


# Messages that ask for no answer, and that come again


async def test_a_call_that_asks_for_no_answer_is_made() -> None:
    queue = Queue()
    queue.put(call("order", {"name": "pen"}), reply_to=None)
    await until(lambda: queue.settled)
    assert queue.shop.calls
    assert queue.link.replies == []


async def test_a_call_that_comes_again_is_run_again_if_it_may() -> None:
    queue = Queue()
    found = await queue.ask(call("find", "pen"), again=True)
    assert found is not None
    assert found["result"]["name"] == "pen"
    status, name, reason = await queue.refused(call("order", {"name": "pen"}), again=True)
    assert (status, name) == (500, "ServiceCommunicationError")
    assert "it may have been begun, and is not run again" in reason


async def test_a_call_that_comes_again_while_it_runs_is_answered_once() -> None:
    queue = Queue()
    queue.put(call("fail", "slow"), **ends(60))
    await turns(5)
    # Another one with the number of the first, by somebody else.
    assert (await queue.ask(call("fail", "value"), again=True)) is None
    assert queue.settled == ["ack"]
    await until(lambda: queue.server.active == 1)
    await queue.server.close()
    assert queue.settled == ["ack", "given back"]


async def test_a_server_that_stops_begins_nothing_more_and_says_so_in_the_encoding_of_the_call() -> None:
    queue = Queue()
    queue.server.stopping = True
    for kind in (JSON, MSGPACK):
        body = call("order", {"name": "pen"})
        assert await queue.refused(body, kind) == (STOPPING, "Unavailable", "this server is stopping")
    assert [reply.headers[CONTENT_TYPE] for _, reply in queue.link.replies] == [JSON, MSGPACK]


# Who calls, and headers


class Door:
    """Lets in who says please."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def caller(self, *, authorization: str = "", certificate: Any = None) -> Caller:
        self.asked.append(authorization)
        if authorization != "please":
            raise AuthorizationError("who are you")
        return Caller("joe")


async def test_who_is_not_known_is_told_so_before_his_body_is_read() -> None:
    door = Door()
    queue = Queue(guard=door)
    for body in (b"{", call("find", "pen")):
        assert await queue.refused(body) == (401, "AuthorizationError", "who are you")
    found = await queue.ask(call("find", "pen"), authorization="please")
    assert found is not None
    assert found["exception"] is None
    assert door.asked == ["", "", "please"]


async def test_interceptors_see_the_headers_of_the_call_without_those_of_its_message() -> None:
    seen: list[dict[str, str]] = []

    async def around(envelope: Envelope, call_next: Any) -> Any:
        seen.append(dict(envelope.headers))
        return await call_next(envelope)

    queue = Queue(around)
    more = {"tenant": "t1", "authorization": "secret", "expiration": "5", "expires": "5", **ends(60)}
    assert await queue.ask(call("find", ""), **more) == {"result": None, "exception": None}
    assert seen == [{"tenant": "t1"}]


async def test_a_fault_of_the_server_says_nothing_of_itself(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Door):
        async def caller(self, *, authorization: str = "", certificate: Any = None) -> Caller:
            raise OSError("the password is geheim")

    found = await Queue(guard=Broken()).refused(call("find", "x"))
    assert found == (500, "ServiceError", "the server failed; its log says why")
    assert "a call could not be answered" in caplog.text


# Queues


class Source:
    """Where calls come from: says that it is there, yields what it was given, and waits, or fails."""

    def __init__(self, problem: Exception | None = None, *, later: bool = False) -> None:
        self.deliveries: list[Delivery] = []
        self.wanted: list[Subscription] = []
        self.fail = asyncio.Event()
        self._problem, self._later = problem, later
        self.queue = Queue()

    async def __call__(self, wanted: Subscription) -> AsyncGenerator[Delivery, None]:
        self.wanted.append(wanted)
        if self._problem is not None and not self._later:
            raise self._problem
        wanted.ready()
        for delivery in self.deliveries:
            yield delivery
        await self.fail.wait()
        assert self._problem is not None
        raise self._problem

    def served(self) -> ServedQueues:
        return ServedQueues("amqp", lambda: self.queue.server, self, 7)


async def test_a_queue_is_served_when_the_broker_says_so_until_stopped() -> None:
    source = Source()
    served = source.served()
    await served.serve("shop", at_once=False)
    (wanted,) = source.wanted
    assert (wanted.name, wanted.prefetch, wanted.durable, wanted.drain) == ("shop", 7, False, True)
    assert repr(served) == "<ServedQueues amqp 1>"
    assert await served.stop(1) == 0
    assert source.queue.link.calls == ["open", "close"]
    assert repr(served) == "<ServedQueues amqp 0>"


async def test_a_queue_that_cannot_be_had_is_told_at_the_start() -> None:
    served = Source(ConnectFailed("there is no broker")).served()
    with pytest.raises(ConnectFailed, match="there is no broker"):
        await served.serve("shop", at_once=False)
    assert await served.stop(1) == 0


async def test_a_queue_that_fails_later_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    source = Source(Unavailable("it was deleted"), later=True)
    served = source.served()
    await served.serve("shop", at_once=False)
    with caplog.at_level(logging.ERROR, "evbus.service"):
        source.fail.set()
        await until(lambda: "it was deleted" in caplog.text)
    assert "the channel amqp takes no calls any more" in caplog.text
    assert await served.stop(1) == 0


async def test_a_stop_says_how_many_calls_it_did_not_wait_for() -> None:
    source = Source()
    served = source.served()
    source.deliveries = [source.queue.delivery(call("fail", "slow"), number=number) for number in "12"]
    await served.serve("shop", at_once=False)
    await until(lambda: source.queue.server.active == 2)
    assert await served.stop(0.01) == 2
    assert source.queue.shop.ended == ["slow", "slow"]
    assert source.queue.settled == ["given back", "given back"]
