"""Requests that come in: from a source and over a link that a test scripts."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dataclasses
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from evbus.engine.call import replies
from evbus.engine.call.replies import stand_by
from evbus.engine.call.serve import RequestServer, served
from evbus.engine.codec import json
from evbus.engine.handling.dispatch.dispatcher import Dispatcher
from evbus.engine.handling.frame import CURRENT
from evbus.errors import (
    ConnectionLost,
    DeliveryError,
    InvalidPayload,
    PayloadTooLarge,
    Rejected,
    SerializeError,
    Unavailable,
)
from evbus.types import Delivery, Envelope, Origin
from tests.dispatch.hub_kit import CreateUser, User, UserQuery, go
from tests.evbus.rig import turns

REPLY_TO = {"reply-to": "there", "correlation-id": "7"}


@dataclasses.dataclass(frozen=True)
class CreateRoot(CreateUser):
    rights: str = "all"


@dataclasses.dataclass(frozen=True, slots=True)
class CreateGuest(CreateUser):
    days: int = 1


class Plain:
    pass


class Wire:
    """A link that notes replies, and raises `problems` first; and a source of what is put into it."""

    name = "wire profile 'users'"

    def __init__(self, *problems: Exception, **options: Any) -> None:
        self.replies: list[tuple[str, dict[str, str], Any]] = []
        self.settled: list[tuple[Any, str]] = []
        self.calls: list[str] = []
        self.problems = list(problems)
        self.dispatcher = Dispatcher()
        routers = (self.dispatcher.commands, self.dispatcher.queries)
        self.server = RequestServer(routers, self, self._encode, self._decode, self._prepare, **options)
        self.send: Callable[[Envelope], None] | None = None
        self._source: asyncio.Queue[Delivery] = asyncio.Queue()
        self._changed = asyncio.Event()

    async def open(self) -> None:
        self.calls.append("open")

    async def close(self) -> None:
        self.calls.append("close")

    def problem(self, exc: Exception, what: str) -> Exception:
        return Unavailable(f"{what}: {exc}")

    async def reply(self, address: str, event: Envelope) -> None:
        if self.problems:
            raise self.problems.pop(0)
        self.replies.append((address, dict(event.headers), json.load(event.body)))
        self._changed.set()

    def put(
        self,
        name: str,
        body: Any = None,
        tag: Any = None,
        *,
        again: bool = False,
        origin: Origin | None = None,
        count: int | None = None,
        **headers: Any,
    ) -> None:
        """Let a request come in: headers as they are, but with hyphens."""
        named = {"evbus_message": name, "content_type": "application/json", **headers}
        sent = {key.replace("_", "-"): value for key, value in named.items() if value is not None}
        raw = body if isinstance(body, bytes) else json.apply(body)
        envelope = Envelope("users", "key", raw, sent)
        self._source.put_nowait(Delivery(envelope, self._settle, tag or name, again, count, origin))

    def _settle(self, tag: Any, accepted: bool, requeue: bool) -> None:
        self.settled.append((tag, "ack" if accepted else "requeue" if requeue else "reject"))
        self._changed.set()

    async def deliveries(self) -> Any:
        try:
            while True:
                yield await self._source.get()
        finally:
            self.calls.append("end")

    async def until(self, true: Callable[[], Any]) -> None:
        while not true():
            self._changed.clear()
            await self._changed.wait()

    @contextlib.asynccontextmanager
    async def serving(self, patience: float = 10.0) -> AsyncIterator[asyncio.Task[None]]:
        self.dispatcher.start()
        task = asyncio.ensure_future(self.server.run(self.deliveries(), patience))
        self.dispatcher.intakes.add(task)
        try:
            yield task
        finally:
            await self.dispatcher.stop()
            assert task.done()

    def run(self, count: int = 1, patience: float = 10.0) -> None:
        """Serve until so many deliveries are settled."""

        async def main() -> None:
            async with self.serving(patience):
                await self.until(lambda: len(self.settled) >= count)

        go(main)

    def serve(self, *args: Any, **named: Any) -> None:
        """Let a request come in, and serve until it is settled."""
        self.put(*args, **named)
        self.run()

    def _encode(self, body: Any, headers: Any) -> Envelope:
        data = json.apply(body)
        if len(data) > 10_000:
            raise PayloadTooLarge(len(data), 10_000)
        return Envelope("", "", data, {**headers, "content-type": "application/json"})

    def _prepare(self, reply: Envelope) -> None:
        if self.send is not None:
            self.send(reply)

    def _decode(self, content_type: str, body: bytes, exactly: bool) -> Any:
        if content_type != "application/json":
            raise InvalidPayload(f"no plugin reads {content_type!r}")
        return (json.exact_load if exactly else json.load)(body)


@pytest.fixture
def wire() -> Wire:
    return Wire()


def handling(wire: Wire, handler: Callable[..., Awaitable[Any]], around: Any = None) -> None:
    """Bind a handler of one argument to CreateUser, with what is run around each request."""
    wire.dispatcher.core.around = around

    async def handle(command: CreateUser) -> Any:
        return await handler(command)

    wire.dispatcher.commands.bind(CreateUser, handle)


async def name_of(message: Any) -> str:
    return f"{type(message).__name__} {message.name}"


async def same(message: Any) -> Any:
    return message


def test_a_request_is_handled_answered_and_then_settled(wire: Wire) -> None:

    async def user(query: UserQuery) -> User:
        return User(query.name)

    wire.dispatcher.queries.bind(UserQuery, user)
    wire.serve("UserQuery", {"name": "bob"}, **REPLY_TO, evbus_deadline=f"{time.time() + 60}")
    headers = {"evbus-outcome": "ok", "correlation-id": "7", "content-type": "application/json"}
    assert (wire.replies, wire.settled) == ([("there", headers, {"name": "bob"})], [("UserQuery", "ack")])
    assert wire.calls == ["open", "end", "close"]
    assert repr(wire.server) == "<Server running=0 handled=1 failed=0 expired=0 dropped=0 unanswered=0>"


def test_a_string_and_a_request_that_is_named_by_its_routing_key_alone_are_handled(wire: Wire) -> None:
    wire.dispatcher.commands.bind("sync", same)
    wire.dispatcher.commands.bind("key", same)
    wire.put("sync", b"\xff", content_type=None, reply_to="a")
    wire.put("", None, reply_to="b", evbus_message=None)
    wire.run(2)
    assert [(address, body) for address, _, body in wire.replies] == [("a", "sync"), ("b", "key")]


def test_a_class_derived_from_one_that_is_bound_is_handled_as_what_it_is(wire: Wire) -> None:
    handling(wire, name_of)
    wire.put("CreateRoot", {"name": "eve", "rights": "none"}, reply_to="a")
    wire.put("CreateGuest", {"name": "bob"}, reply_to="a")
    wire.run(2)
    assert [body for _, _, body in wire.replies] == ["CreateRoot eve", "CreateGuest bob"]


def test_key_deadline_and_headers_reach_the_handler(wire: Wire) -> None:
    seen: list[Any] = []

    async def handle(command: CreateUser) -> None:
        frame = CURRENT.get()
        assert frame is not None
        assert frame.envelope is not None
        assert frame.limit is not None
        seen.append((frame.key, 0 < frame.limit.seconds <= 60, frame.envelope.headers["x-user"]))

    handling(wire, handle)
    wire.put("CreateUser", {}, evbus_key="k", evbus_deadline=str(time.time() + 60), x_user="ann")
    wire.run()
    assert seen == [("k", True, "ann")]


def test_send_of_interceptors_does_not_run_again_over_what_came_in(wire: Wire) -> None:
    wire.dispatcher.core.send = lambda envelope: envelope.headers.update({"x-user": "nobody"})
    seen: list[Any] = []

    async def around(envelope: Envelope, call_next: Callable[[Envelope], Awaitable[Any]]) -> Any:
        seen.append(envelope.headers["x-user"])
        return await call_next(envelope)

    handling(wire, same, around)
    wire.serve("CreateUser", {}, x_user="ann")
    assert seen == ["ann"]


async def test_requests_with_the_same_key_are_handled_in_their_order_and_others_beside_them(
    wire: Wire,
) -> None:
    begun: list[str] = []

    gate = asyncio.Event()

    async def handle(command: CreateUser) -> None:
        begun.append(command.name)
        if command.name == "a1":
            await gate.wait()
        if command.name == "b":
            gate.set()

    handling(wire, handle)
    async with wire.serving():
        for name in ("a1", "a2", "a3", "b"):
            wire.put("CreateUser", {"name": name}, evbus_key=name[0])
        await wire.until(lambda: len(wire.settled) == 4)
    assert begun == ["a1", "b", "a2", "a3"]


# Interceptors


Next = Callable[[Envelope], Awaitable[Any]]


def test_interceptors_see_a_request_before_it_is_read_and_hand_on_what_is_read(wire: Wire) -> None:
    seen: list[Any] = []

    async def around(envelope: Envelope, call_next: Next) -> Any:
        seen.append((envelope.profile, envelope.routing_key, envelope.body))
        plain = envelope.replace(headers={**envelope.headers, "x-user": "ann"})
        plain.body = b'{"name":"bob"}'
        return f"{await call_next(plain)}!"

    async def handle(command: CreateUser) -> str:
        frame = CURRENT.get()
        assert frame is not None
        assert frame.envelope is not None
        return f"{frame.envelope.headers['x-user']} creates {command.name}"

    handling(wire, handle, around)
    wire.serve("CreateUser", b"unreadable", reply_to="there")
    assert seen == [("users", "CreateUser", b"unreadable")]
    assert [body for _, _, body in wire.replies] == ["ann creates bob!"]


def test_interceptors_run_when_it_is_a_requests_turn_so_that_those_with_a_key_stay_in_order(
    wire: Wire,
) -> None:
    begun: list[str] = []

    async def around(envelope: Envelope, call_next: Next) -> Any:
        begun.append(envelope.body.decode())
        for _ in range(10 if "a1" in begun[-1] else 0):
            await asyncio.sleep(0)
        return await call_next(envelope)

    async def handle(command: CreateUser) -> None:
        begun.append(command.name)

    handling(wire, handle, around)
    for name in ("a1", "a2"):
        wire.put("CreateUser", {"name": name}, evbus_key="a")
    wire.run(2)
    assert begun == ['{"name":"a1"}', "a1", '{"name":"a2"}', "a2"]


def test_an_interceptor_that_never_ends_is_cancelled_at_the_deadline(wire: Wire) -> None:
    cancelled: list[str] = []

    async def around(envelope: Envelope, call_next: Next) -> Any:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(envelope.routing_key)
            raise

    handling(wire, same, around)
    for name in ("CreateUser", "unknown"):
        wire.put(name, {}, **REPLY_TO, evbus_deadline=f"{time.time() + 0.05}")
    wire.run(2)
    assert sorted(cancelled) == ["CreateUser", "unknown"]
    assert wire.replies == []
    assert {outcome for _, outcome in wire.settled} == {"ack"}
    assert "expired=2" in repr(wire.server)


def test_what_interceptors_refuse_is_not_handled_and_told_before_anything_else(wire: Wire) -> None:

    async def around(envelope: Envelope, call_next: Next) -> Any:
        raise Rejected("not signed")

    handling(wire, same, around)
    for name in ("CreateUser", "unknown"):
        wire.put(name, b"{", **REPLY_TO)
    wire.run(2)
    assert [body for _, _, body in wire.replies] == [{"type": "Rejected", "reason": "not signed"}] * 2


def test_what_interceptors_drop_is_settled_without_a_reply(wire: Wire) -> None:

    async def around(envelope: Envelope, call_next: Next) -> Any:
        return None if envelope.headers["ce-id"] == "seen" else await call_next(envelope)

    async def nothing(command: CreateUser) -> None:
        pass

    handling(wire, nothing, around)
    wire.put("CreateUser", {}, "dropped", **REPLY_TO, ce_id="seen")
    wire.put("CreateUser", {}, "handled", **REPLY_TO, ce_id="new")
    wire.run(2)
    assert [body for _, _, body in wire.replies] == [None]
    assert sorted(wire.settled) == [("dropped", "ack"), ("handled", "ack")]
    assert repr(wire.server) == "<Server running=0 handled=1 failed=0 expired=0 dropped=1 unanswered=0>"


def test_an_interceptor_may_answer_in_place_of_the_handler(wire: Wire) -> None:

    async def around(envelope: Envelope, call_next: Next) -> Any:
        return "from the cache"

    handling(wire, same, around)
    wire.serve("CreateUser", {}, **REPLY_TO)
    assert [body for _, _, body in wire.replies] == ["from the cache"]


def test_a_request_that_turns_out_to_be_another_one_is_not_handled(wire: Wire) -> None:

    async def around(envelope: Envelope, call_next: Next) -> Any:
        return await call_next(envelope.replace(routing_key="delete"))

    wire.dispatcher.core.around = around
    wire.dispatcher.commands.bind("key", same)
    wire.dispatcher.commands.bind("delete", same)
    wire.serve("", None, reply_to="there", evbus_message=None)
    assert wire.replies[0][2] == {
        "type": "InvalidPayload",
        "reason": "the request came as key, and is delete once the pipeline plugins have seen it; name it in "
        "the header evbus-message",
    }


async def test_a_second_delivery_that_is_refused_leaves_the_reply_to_the_first(wire: Wire) -> None:
    begun, gate = asyncio.Event(), asyncio.Event()

    async def around(envelope: Envelope, call_next: Next) -> Any:
        if begun.is_set():
            raise Rejected("a replay")
        return await call_next(envelope)

    async def handle(command: CreateUser) -> str:
        begun.set()
        await gate.wait()
        return "done"

    handling(wire, handle, around)
    async with wire.serving():
        wire.put("CreateUser", {}, "first", **REPLY_TO)
        await begun.wait()
        wire.put("CreateUser", {}, "again", again=True, **REPLY_TO)
        wire.put("CreateUser", {}, "other", again=True, reply_to="there", correlation_id="8")
        await wire.until(lambda: len(wire.settled) == 2)
        gate.set()
        await wire.until(lambda: len(wire.settled) == 3)
    assert [(headers["correlation-id"], headers["evbus-outcome"]) for _, headers, _ in wire.replies] == [
        ("8", "error"),
        ("7", "ok"),
    ]
    assert {outcome for _, outcome in wire.settled} == {"ack"}


# Replies through the interceptors


def test_a_reply_goes_through_send_in_the_context_that_the_interceptors_had_set(wire: Wire) -> None:
    user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")
    sent: list[Any] = []

    async def around(envelope: Envelope, call_next: Next) -> Any:
        token = user.set("ann")
        try:
            return await call_next(envelope)
        finally:
            user.reset(token)

    def send(reply: Envelope) -> None:
        reply.headers["x-user"] = user.get()
        sent.append((reply.profile, reply.routing_key, reply.headers["evbus-outcome"]))

    async def handle(command: CreateUser) -> None:
        if command.name == "bob":
            raise KeyError("bob")

    wire.send = send
    handling(wire, handle, around)
    for name, user_name in (("CreateUser", "ann"), ("CreateUser", "bob"), ("unknown", "ann")):
        wire.put(name, {"name": user_name}, reply_to="there", ce_id="17")
    wire.run(3)
    assert sorted(sent) == [
        ("users", "", "error"),
        ("users", "CreateUser", "error"),
        ("users", "CreateUser", "ok"),
    ]
    found = [(headers["evbus-answers"], headers["x-user"]) for _, headers, _ in wire.replies]
    assert sorted(found) == [("17", "ann"), ("17", "ann"), ("17", "nobody")]


@pytest.mark.parametrize("refused", [["ok"], ["ok", "error"]])
def test_a_reply_that_send_refuses_is_an_error_and_that_is_told_in_any_case(
    wire: Wire, refused: list[str], caplog: pytest.LogCaptureFixture
) -> None:

    def send(reply: Envelope) -> None:
        if reply.headers["evbus-outcome"] in refused:
            raise Rejected("not this")

    wire.send = send
    handling(wire, name_of)
    wire.serve("CreateUser", {}, reply_to="there")
    assert [body for _, _, body in wire.replies] == [{"type": "Rejected", "reason": "not this"}]
    assert ("do not let a failure of CreateUser be told: not this" in caplog.text) == (len(refused) == 2)


def test_an_error_reply_shows_no_password_of_an_exception(wire: Wire) -> None:
    async def fails(_message: CreateUser) -> None:
        raise ValueError("cannot reach amqp://shop:s3cret@broker/?token=abc123")

    handling(wire, fails)
    wire.serve("CreateUser", {}, reply_to="there")
    reason = "cannot reach amqp://shop:***@broker/?token=***"
    assert [body for _, _, body in wire.replies] == [{"type": "ValueError", "reason": reason}]


def test_a_reply_is_no_request(wire: Wire) -> None:
    handling(wire, same)
    wire.serve("CreateUser", {}, reply_to="there", evbus_outcome="ok")
    assert wire.replies[0][2]["reason"] == "this is a reply, and no request: it has the header evbus-outcome"


def test_a_derived_class_that_is_handled_elsewhere_is_not_handled_here_as_its_base(wire: Wire) -> None:
    handling(wire, same)
    elsewhere = wire.dispatcher.commands.bind(CreateRoot, same)
    elsewhere.handled_here = False
    wire.serve("CreateRoot", {}, reply_to="there")
    assert wire.replies[0][2]["reason"].startswith("there is no handler for CreateRoot")


# Failures


@pytest.mark.parametrize(
    ("name", "body", "said"),
    [
        (
            "CreateUsr",
            {},
            "HandlerDoesNotExist: there is no handler for CreateUsr",
        ),
        ("__class__", {}, "HandlerDoesNotExist: there is no handler for __class__"),
        ("x.CreateUser", {}, "HandlerDoesNotExist: there is no handler for x.CreateUser"),
        ("Elsewhere", {}, "HandlerDoesNotExist: there is no handler for Elsewhere"),
        ("Plain", {}, "HandlerDoesNotExist: there is no handler for Plain"),
        ("str", "sync", "HandlerDoesNotExist: there is no handler for str"),
        ("object", {}, "HandlerDoesNotExist: there is no handler for object"),
        ("a\nb", {}, r"HandlerDoesNotExist: there is no handler for a\nb"),
        (
            "x" * 9999,
            {},
            f"HandlerDoesNotExist: there is no handler for {'x' * 197}...",
        ),
        (
            "CreateUser",
            {"name": 5},
            "InvalidPayload: this is no CreateUser: Expected `str`, got `int` - at `$.name`",
        ),
        ("CreateUser", b"{", "InvalidPayload: "),
        ("CreateUser", {"name": "key"}, "KeyError: 'key'"),
        (
            "CreateUser",
            {"name": "bytes"},
            "SerializeError: the event body cannot be serialized as json: a lone",
        ),
        (
            "CreateUser",
            {"name": "large"},
            "PayloadTooLarge: the event body has 10003 bytes, more than the 10000",
        ),
        ("CreateUser", {"name": "text"}, r"ValueError: one\ntwo \ud800"),
        ("CreateUser", {"name": "mute"}, "Mute: (its text cannot be had: ZeroDivisionError)"),
        ("CreateUser", {"name": "cancelled"}, "DeliveryError: it was cancelled from within"),
        ("CreateUser", {"name": "exit"}, "DeliveryError: it raised SystemExit: 2"),
        ("CreateUser", {"name": "generator"}, "DeliveryError: it raised GeneratorExit"),
    ],
)
def test_a_failure_comes_back_as_its_type_and_its_text(wire: Wire, name: str, body: Any, said: str) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ZeroDivisionError

    async def handle(command: CreateUser) -> Any:
        results: dict[str, Any] = {
            "key": KeyError("key"),
            "bytes": "\ud800",
            "large": "x" * 10_001,
            "text": ValueError("one\ntwo \ud800"),
            "mute": Mute(),
            "cancelled": asyncio.CancelledError(),
            "exit": SystemExit(2),
            "generator": GeneratorExit(),
        }
        await asyncio.sleep(0)
        if isinstance(results[command.name], BaseException):
            raise results[command.name]
        return results[command.name]

    handling(wire, handle)
    wire.dispatcher.commands.bind("sync", same)
    wire.dispatcher.queries.bind(Plain, same)
    wire.dispatcher.queries.bind(str, same)
    wire.dispatcher.queries.bind(object, same)
    elsewhere = wire.dispatcher.queries.bind(User, same)
    elsewhere.handled_here = False
    wire.serve(name, body, reply_to="there")
    ((_, headers, reply),) = wire.replies
    assert headers["evbus-outcome"] == "error"
    assert sorted(reply) == ["reason", "type"]
    assert f"{reply['type']}: {reply['reason']}".startswith(said)
    assert wire.settled == [(name, "ack")]
    assert "failed=1" in repr(wire.server)


def test_two_messages_of_one_name_are_told_apart_by_nobody(wire: Wire) -> None:
    other = dataclasses.make_dataclass("CreateUser", [])
    other.__module__ = "elsewhere"
    handling(wire, same)
    wire.dispatcher.queries.bind(other, same)
    wire.serve("CreateUser", {}, reply_to="there")
    assert wire.replies[0][2] == {
        "type": "HandlerExists",
        "reason": "several messages are called CreateUser: elsewhere.CreateUser in queries, "
        "tests.dispatch.hub_kit.CreateUser in commands; rename one of them",
    }


def test_a_content_type_that_nobody_reads_is_told(wire: Wire) -> None:
    handling(wire, same)
    wire.serve("CreateUser", {}, reply_to="there", content_type="application/x-pickle")
    assert wire.replies[0][2]["reason"] == "no plugin reads 'application/x-pickle'"


def test_a_request_that_asks_for_no_reply_is_handled_and_its_failure_told_here(
    wire: Wire,
    caplog: pytest.LogCaptureFixture,
) -> None:
    failures: list[Any] = []
    wire.dispatcher.core.on_failure = failures.append

    async def handle(command: CreateUser) -> None:
        if command.name != "ann":
            raise KeyError(command.name)

    handling(wire, handle)
    wire.put("CreateUser", {}, "good")
    wire.put("CreateUser", {"name": "bob"}, "bad", evbus_key="k")
    wire.put("CreateUsr", {}, "unknown")
    wire.run(3)
    assert sorted(wire.settled) == [("bad", "reject"), ("good", "ack"), ("unknown", "reject")]
    assert wire.replies == []
    assert [(each.router, each.message, each.key) for each in failures] == [
        ("commands", CreateUser("bob"), "k")
    ]
    assert "of CreateUser failed: KeyError: 'bob'" in caplog.text
    assert "that asks for no reply is given up: there is no handler for CreateUsr" in caplog.text


# Deadlines


def test_a_request_whose_time_is_up_is_not_handled(wire: Wire) -> None:
    handled: list[Any] = []

    async def handle(command: CreateUser) -> None:
        handled.append(command)

    handling(wire, handle)
    wire.serve("CreateUser", {}, **REPLY_TO, evbus_deadline=f"{time.time() - 0.001}")
    assert (handled, wire.replies, wire.settled) == ([], [], [("CreateUser", "ack")])
    assert "expired=1" in repr(wire.server)


def test_a_handler_is_cancelled_at_the_deadline_and_no_reply_goes_to_who_waits_no_longer(wire: Wire) -> None:
    cancelled: list[Any] = []

    async def handle(command: CreateUser) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(command.name)
            raise

    handling(wire, handle)
    wire.serve("CreateUser", {}, **REPLY_TO, evbus_deadline=f"{time.time() + 0.05}")
    assert cancelled == ["ann"]
    assert (wire.replies, wire.settled) == ([], [("CreateUser", "ack")])


@pytest.mark.parametrize("deadline", ["soon", "nan", "inf", ""])
def test_a_deadline_that_is_no_time_is_told(wire: Wire, deadline: str) -> None:
    handling(wire, same)
    wire.serve("CreateUser", {}, **REPLY_TO, evbus_deadline=deadline)
    assert wire.replies[0][2] == {
        "type": "InvalidPayload",
        "reason": f"the header evbus-deadline is in seconds since the epoch, and not {deadline}",
    }


# Replies that cannot be sent


def test_a_reply_that_cannot_be_sent_is_sent_again_and_the_request_is_not_handled_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replies, "PAUSE", (0.0, 0.0))
    wire = Wire(Unavailable("down"), Unavailable("down"))
    handled: list[Any] = []

    async def handle(command: CreateUser) -> str:
        handled.append(command)
        return "done"

    handling(wire, handle)
    wire.serve("CreateUser", {}, **REPLY_TO)
    assert len(handled) == 1
    assert [body for _, _, body in wire.replies] == ["done"]
    assert wire.settled == [("CreateUser", "ack")]


UNSENT = "CreateUser was handled, and its reply could not be sent; perhaps nobody waits for it any more: "
TOLD = "it was handled, and its reply could not be sent: "


def counting(wire: Wire) -> list[Any]:
    """Bind a handler that notes what it handles."""
    handled: list[Any] = []

    async def handle(command: CreateUser) -> str:
        handled.append(command)
        return "done"

    handling(wire, handle)
    return handled


@pytest.mark.parametrize(
    ("problem", "deadline"),
    [
        (Unavailable("down"), True),
        (DeliveryError("down"), True),
        (DeliveryError("down"), False),
        (Rejected("down"), True),
        (Rejected("down"), False),
    ],
)
def test_a_request_is_done_and_counted_when_nothing_can_be_sent(
    problem: Exception, deadline: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(replies, "PAUSE", (0.0, 0.0))
    monkeypatch.setattr(replies, "REPLYING", 0.05)
    monkeypatch.setattr(replies, "TELLING", 0.05)
    wire = Wire(*[problem] * 1_000_000)
    handled = counting(wire)
    until = f"{time.time() + 0.5}" if deadline else None
    wire.serve("CreateUser", {}, **REPLY_TO, evbus_deadline=until)
    assert wire.settled == [("CreateUser", "ack")]
    assert len(handled) == wire.server.unanswered == 1
    assert caplog.text.count(f"{UNSENT}down") == 1


def test_a_reply_waits_for_a_connection_as_long_as_somebody_waits_for_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(replies, "PAUSE", (0.0, 0.0))
    monkeypatch.setattr(replies, "REPLYING", 0.0)
    wire = Wire(*[Unavailable("down")] * 50)
    handled = counting(wire)
    wire.serve("CreateUser", {}, **REPLY_TO)
    assert [body for _, _, body in wire.replies] == ["done"]
    assert (len(handled), wire.settled) == (1, [("CreateUser", "ack")])
    assert caplog.text.count("the reply to CreateUser cannot be sent yet") == 1


@pytest.mark.parametrize("problem", [Rejected("too large"), DeliveryError("too large")])
def test_who_asked_is_told_that_the_reply_cannot_be_sent(
    problem: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(replies, "REPLYING", 0.0)
    wire = Wire(problem)
    handled = counting(wire)
    wire.serve("CreateUser", {}, **REPLY_TO)
    (_, headers, body) = wire.replies[0]
    assert (headers["evbus-outcome"], headers["correlation-id"]) == ("error", "7")
    assert body == {"type": "DeliveryError", "reason": f"{TOLD}too large"}
    assert (len(handled), wire.settled) == (1, [("CreateUser", "ack")])
    assert wire.server.unanswered == 0
    assert "the reply to CreateUser could not be sent, and who asked was told so: too large" in caplog.text


async def test_a_reply_that_breaks_its_connection_is_given_up_and_its_request_handled_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replies, "PAUSE", (0.0, 0.0))
    # The first break says nothing, nor does one that found others in flight.
    breaks = [ConnectionLost("broke", alone=alone) for alone in (True, False, True)]
    wire = Wire(*breaks)
    handled = counting(wire)

    async with wire.serving():
        wire.put("CreateUser", {}, "first", **REPLY_TO)
        await wire.until(lambda: wire.settled)
        wire.put("CreateUser", {}, "again", again=True, **REPLY_TO)
        await wire.until(lambda: len(wire.settled) == 2)
        wire.put("CreateUser", {}, "other", again=True, reply_to="there", correlation_id="8")
        await wire.until(lambda: len(wire.settled) == 3)
    assert wire.settled == [("first", "ack"), ("again", "ack"), ("other", "ack")]
    found = [(headers["correlation-id"], body) for _, headers, body in wire.replies]
    assert found == [("7", {"type": "DeliveryError", "reason": f"{TOLD}broke"}), ("8", "done")]
    assert len(handled) == 2


@pytest.mark.parametrize("answered", [True, False])
async def test_a_request_that_comes_again_while_its_reply_is_sent_waits_for_that(
    wire: Wire, answered: bool
) -> None:
    handled = counting(wire)
    calls = 0

    broken, gate = asyncio.Event(), asyncio.Event()

    async def reply(address: str, event: Envelope) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            broken.set()
            raise ConnectionLost("broke", alone=True)
        await gate.wait()
        if not answered and calls == 2:
            raise ConnectionLost("broke", alone=True)
        wire.replies.append((address, dict(event.headers), json.load(event.body)))

    wire.reply = reply  # type: ignore[method-assign]
    async with wire.serving():
        wire.put("CreateUser", {}, "first", **REPLY_TO)
        await broken.wait()
        await turns(5)
        wire.put("CreateUser", {}, "again", again=True, **REPLY_TO)
        await turns(5)
        assert not wire.settled
        gate.set()
        await wire.until(lambda: len(wire.settled) == 2)
    assert wire.settled == [("first", "ack"), ("again", "ack")]
    told = {"type": "DeliveryError", "reason": f"{TOLD}broke"}
    assert [body for _, _, body in wire.replies] == ["done" if answered else told]
    assert len(handled) == 1


def test_only_so_many_are_remembered_whose_reply_could_not_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "REMEMBERED", 3)
    wire = Wire(*[Rejected("too large")] * 20)
    counting(wire)
    for number in range(10):
        wire.put("CreateUser", {}, number, reply_to="there", correlation_id=f"{number}")
    wire.run(10)
    assert (len(wire.server._given_up), wire.server.unanswered) == (3, 10)


async def test_a_link_or_an_encoder_that_is_broken_ends_no_server(caplog: pytest.LogCaptureFixture) -> None:
    wire = Wire(RuntimeError("broken"))
    handling(wire, same)

    def encode(body: Any, headers: Any) -> Envelope:
        raise SerializeError("broken, too")

    async with wire.serving():
        wire.put("CreateUser", {}, "link", **REPLY_TO)
        await wire.until(lambda: len(wire.settled) == 1)
        wire.server._encode = encode
        wire.put("CreateUser", {}, "encoder", **REPLY_TO)
        await wire.until(lambda: len(wire.settled) == 2)
    assert wire.settled == [("link", "reject"), ("encoder", "reject")]
    assert "a request is given up: RuntimeError: broken" in caplog.text
    assert "a request is given up: SerializeError: " in caplog.text


# The end


async def test_what_is_being_handled_when_it_ends_is_answered_and_the_rest_stays_with_its_source(
    wire: Wire,
) -> None:
    begun, gate = asyncio.Event(), asyncio.Event()

    async def handle(command: CreateUser) -> str:
        begun.set()
        await gate.wait()
        return "done"

    handling(wire, handle)
    async with wire.serving() as task:
        wire.put("CreateUser", {}, "first", reply_to="there")
        await begun.wait()
        task.cancel()
        await asyncio.sleep(0)
        wire.put("CreateUser", {}, "second", reply_to="there")
        gate.set()
        await asyncio.wait({task})
        assert task.cancelled()
    assert [body for _, _, body in wire.replies] == ["done"]
    assert wire.settled == [("second", "requeue"), ("first", "ack")]
    assert wire.calls == ["open", "end", "close"]


@pytest.mark.parametrize("how", ["gone", "the end"])
async def test_requests_that_were_not_begun_are_left_to_others(how: str) -> None:
    """Only as many run as there are workers; the others wait for them, or for the turn of their key."""
    wire, origins, calls = Wire(), [Origin(), Origin()], list[str]()

    begun, gate = asyncio.Event(), asyncio.Event()

    async def handle(command: CreateUser) -> str:
        calls.append(command.name)
        if len(calls) == 2:
            begun.set()
        await gate.wait()
        return command.name

    handling(wire, handle)
    wire.dispatcher.bound(2, 0)
    async with wire.serving() as task:
        wire.put("CreateUser", {"name": "a"}, "a", origin=origins[0], reply_to="there", evbus_key="k")
        wire.put("CreateUser", {"name": "b"}, "b", origin=origins[0], reply_to="there")
        wire.put("CreateUser", {"name": "c"}, "c", origin=origins[0], reply_to="there", evbus_key="k")
        wire.put("CreateUser", {"name": "d"}, "d", origin=origins[0], reply_to="there")
        await begun.wait()
        await turns(10)
        if how == "gone":
            origins[0].end("the channel was closed")
            wire.put("CreateUser", {"name": "c"}, "again", origin=origins[1], reply_to="there")
        else:
            task.cancel()
        await turns(10)
        gate.set()
        await wire.until(lambda: len(wire.replies) == (3 if how == "gone" else 2))
    if how == "gone":
        assert calls == ["a", "b", "c"]
        assert sorted(wire.settled) == [("a", "ack"), ("again", "ack"), ("b", "ack")]
    else:
        assert calls == ["a", "b"]
        assert sorted(wire.settled) == [("a", "ack"), ("b", "ack"), ("c", "requeue"), ("d", "requeue")]


def test_a_request_whose_body_is_too_large_is_answered_before_it_is_read() -> None:
    wire = Wire(max_body=20)
    handling(wire, name_of)
    wire.serve("CreateUser", b"{" * 21, reply_to="there")
    ((_, _, reply),) = wire.replies
    assert reply["type"] == "PayloadTooLarge"
    assert reply["reason"] == "the event body has 21 bytes, more than the 20 that the option max_body allows"


def test_a_request_that_was_delivered_too_often_is_answered_and_not_handled() -> None:
    wire = Wire(max_deliveries=3)
    handled = counting(wire)
    for count in (None, 0, 2, 3):
        wire.put("CreateUser", {}, again=True, count=count, reply_to="there", correlation_id=f"{count}")
    wire.put("CreateUser", {}, "no reply", again=True, count=7)
    wire.run(5)
    found = {headers["correlation-id"]: body for _, headers, body in wire.replies}
    reason = "it was delivered 3 times before and never settled: its handling may have ended the process"
    error = {"type": "DeliveryError", "reason": f"{reason} (max_deliveries: 3)"}
    assert found == {"None": "done", "0": "done", "2": "done", "3": error}
    assert len(handled) == 3
    assert dict(wire.settled)["no reply"] == "reject"


def test_an_interceptor_that_ends_the_program_fails_its_request_and_no_more(wire: Wire) -> None:
    handling(wire, name_of)
    said: list[str] = []

    def send(reply: Envelope) -> None:
        said.append(reply.headers["evbus-outcome"])
        if len(said) == 1:
            raise SystemExit(2)

    wire.send = send
    wire.serve("CreateUser", {"name": "a"}, reply_to="there")
    assert said == ["ok", "error"]
    assert wire.replies[0][2] == {"type": "DeliveryError", "reason": "it raised SystemExit: 2"}


@pytest.mark.parametrize("how", ["patience", "cancelled again"])
async def test_what_takes_too_long_at_the_end_is_cancelled_and_goes_back(
    wire: Wire, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    begun = asyncio.Event()

    async def handle(command: CreateUser) -> None:
        begun.set()
        await asyncio.Event().wait()

    handling(wire, handle)
    async with wire.serving(0.01 if how == "patience" else 20) as task:
        wire.put("CreateUser", {}, **REPLY_TO)
        await begun.wait()
        task.cancel()
        if how != "patience":
            await asyncio.sleep(0)
            task.cancel()
        await asyncio.wait({task})
    assert (wire.replies, wire.settled) == ([], [("CreateUser", "requeue")])


async def test_a_handler_may_stop_the_dispatcher_that_serves_it(wire: Wire) -> None:
    after: list[str] = []

    ended = asyncio.Event()

    async def handle(command: CreateUser) -> None:
        stand_by()
        await wire.dispatcher.stop()
        after.append("stopped")
        ended.set()

    handling(wire, handle)
    async with wire.serving():
        wire.put("CreateUser", {}, **REPLY_TO)
        await ended.wait()
    assert after == ["stopped"]
    assert [body for _, _, body in wire.replies] == [None]
    assert wire.settled == [("CreateUser", "ack")]


async def test_a_source_that_fails_ends_the_server_with_a_sentence(wire: Wire) -> None:

    async def broken() -> Any:
        raise OSError("no such thing")
        yield

    with pytest.raises(Unavailable, match="the source ended: no such thing"):
        await wire.server.run(broken(), 1)
    assert wire.calls == ["open", "close"]


# Waiting for it


async def forever() -> None:
    await asyncio.Event().wait()


async def test_that_somebody_else_ends_a_server_is_no_error_of_who_waits_for_it() -> None:
    task = asyncio.ensure_future(forever())
    asyncio.get_running_loop().call_soon(task.cancel)
    await served(task)
    assert task.cancelled()


async def test_who_is_cancelled_while_waiting_cancels_the_server_and_waits_for_its_end() -> None:
    cancels: list[int] = []

    async def stubborn() -> None:
        for number in range(2):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancels.append(number)

    task = asyncio.ensure_future(stubborn())
    waiting = asyncio.ensure_future(served(task))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert task.done()
    assert cancels == [0, 1]


async def test_what_a_server_fails_with_reaches_who_waits_for_it() -> None:
    async def fail() -> None:
        raise Unavailable("down")

    with pytest.raises(Unavailable, match="down"):
        await served(asyncio.ensure_future(fail()))
