"""Calls over a broker on the caller's side: what is sent, and what becomes of every answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from evbus.engine.call.forward import MESSAGE
from evbus.engine.codec import json, msgpack
from evbus.engine.service.call import Call
from evbus.engine.service.declare import service_spec
from evbus.engine.service.messages import SILENT, MessageCaller
from evbus.engine.service.settings import MessageSettings
from evbus.engine.wire.base.publish import Unroutable
from evbus.errors import (
    AuthorizationError,
    ConnectFailed,
    DeliveryError,
    DeliveryTimeout,
    Rejected,
    RemoteServiceError,
    ServiceCommunicationError,
    ServiceError,
    ServiceTimeout,
    Unavailable,
)
from evbus.types import CONTENT_TYPE, Envelope
from tests.engine.service.kit import Item, OutOfStock, Shop

PLACE = "Shop.find of the component 'store' over amqp at evbus.amqp.store: "
METHODS = service_spec(Shop).methods


class Profile:
    name = "rpc"


class Link:
    """A profile: answers as a test says, and keeps what was asked, and for how many seconds."""

    profile = Profile()

    def __init__(self, *answers: Any) -> None:
        self.asked: list[Envelope] = []
        self.seconds: list[float] = []
        self.closed = False
        self._answers = list(answers)

    def __repr__(self) -> str:
        return "<Link>"

    async def request(self, event: Envelope, seconds: float) -> Envelope:
        self.asked.append(event)
        self.seconds.append(seconds)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, Envelope) else reply(answer)

    async def close(self) -> None:
        self.closed = True


def reply(value: Any, kind: str | None = "application/msgpack", **headers: str) -> Envelope:
    read = json.apply if kind and "json" in kind else msgpack.apply
    body = value if isinstance(value, bytes) else read(value)
    return Envelope("rpc", "", body, headers if kind is None else {CONTENT_TYPE: kind, **headers})


def error(status: int | None = None, **about: Any) -> dict[str, Any]:
    found = {"result": None, "exception": about.get("reason") or "x", "error": about}
    return found if status is None else {**found, "status": status}


async def invoked(link: Link, method: str = "find", *args: Any, seconds: float = 5, **settings: Any) -> Any:
    caller = MessageCaller("amqp", MessageSettings(**settings), link)  # type: ignore[arg-type]
    spec = METHODS[method]
    travels, named = spec.arguments(args or ("pen",), {})
    call = Call("store", "shop", spec, travels, named, seconds, {"tenant": "t1"})
    return await caller.invoke(call, "evbus.amqp.store")


PEN = {"result": {"name": "pen", "count": 2}, "exception": None}


@pytest.mark.parametrize(
    ("encoding", "kind", "load"),
    [("msgpack", "application/msgpack", msgpack.load), ("json", "application/json", json.load)],
)
async def test_a_call_is_a_message_and_its_result_what_the_interface_says(
    encoding: str, kind: str, load: Callable[[bytes], Any]
) -> None:
    link = Link(PEN)
    assert await invoked(link, encoding=encoding) == Item("pen", 2)
    (event,) = link.asked
    assert (event.profile, event.routing_key) == ("rpc", "evbus.amqp.store")
    assert event.headers == {"tenant": "t1", MESSAGE: "store:shop:find", CONTENT_TYPE: kind}
    assert load(event.body) == {"method": "store:shop:find", "args": ["pen"]}
    assert 4 < link.seconds[0] <= 5


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "application/x-msgpack", "text/json"])
async def test_an_answer_in_the_other_encoding_is_read(kind: str) -> None:
    for encoding in ("msgpack", "json"):
        assert await invoked(Link(reply(PEN, kind)), encoding=encoding) == Item("pen", 2)


async def test_a_call_that_came_to_a_server_which_stops_is_sent_again_as_it_was() -> None:
    stopping = error(503, type="Unavailable", reason="this server is stopping")
    link = Link(stopping, stopping, reply(stopping, "application/json"), PEN)
    assert await invoked(link, "order", Item("pen")) == Item("pen", 2)
    assert len(link.asked) == 4
    assert len({id(event) for event in link.asked}) == 4
    assert {event.body for event in link.asked} == {link.asked[0].body}
    assert link.seconds == sorted(link.seconds, reverse=True)


async def test_a_call_is_sent_again_until_its_time_is_up_and_no_longer() -> None:
    class Ending(Link):
        async def request(self, event: Envelope, seconds: float) -> Envelope:
            if seconds <= 0:
                raise DeliveryTimeout(seconds)
            return await super().request(event, seconds)

    link = Ending(error(503, type="Unavailable", reason="this server is stopping"))
    with pytest.raises(ServiceTimeout):
        await invoked(link, seconds=0.05)
    assert link.asked


# Answers


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (reply(PEN, "text/html"), "what answers there is no service: it answered with text/html"),
        (reply(b"x", "a\n\x1b[31mb"), "what answers there is no service: it answered with a"),
        (reply(PEN, None), "what answers there is no service: it answered with no content type"),
        (reply(b"\xc1"), "its answer cannot be read: "),
        (reply(b"{", "application/json"), "its answer cannot be read: "),
        (reply(b"\x91" * 1000 + b"\xc0"), "its answer cannot be read: "),
        (reply(b""), "its answer cannot be read: "),
        ([1], "what answers there is no service: its answer has no result"),
        ({}, "what answers there is no service: its answer has no result"),
        ({"exception": None}, "what answers there is no service: its answer has no result"),
        ({"result": 5, "exception": None}, "its result does not fit the interface: "),
        ({"result": {"name": "pen", "count": "x"}}, "its result does not fit the interface: "),
    ],
)
async def test_an_answer_that_cannot_be_right_is_told_with_its_place(answer: Any, said: str) -> None:
    with pytest.raises(ServiceError) as problem:
        await invoked(Link(answer))
    assert type(problem.value) is ServiceError
    assert str(problem.value).startswith(PLACE + said)
    assert str(problem.value).isprintable()


@pytest.mark.parametrize(
    ("status", "kind", "about"),
    [
        (400, RemoteServiceError, {"type": "InvalidPayload"}),
        (401, AuthorizationError, {"known": False}),
        (403, AuthorizationError, {"known": True}),
        (404, RemoteServiceError, {"type": "LocalServiceError"}),
        (413, RemoteServiceError, {"type": "PayloadTooLarge"}),
        (429, ServiceCommunicationError, {"handed_over": False}),
        (500, ServiceCommunicationError, {"handed_over": True}),
        (504, ServiceTimeout, {}),
    ],
)
async def test_a_refusal_is_what_it_is_over_http(
    status: int, kind: type[Exception], about: dict[str, Any]
) -> None:
    answer = error(status, type=about.get("type", "X"), reason="it says why")
    with pytest.raises(kind, match=f"{PLACE}it says why") as problem:
        await invoked(Link(answer))
    assert {name: getattr(problem.value, name) for name in about} == about


async def test_what_the_method_raised_arrives() -> None:
    with pytest.raises(OutOfStock, match="3 left") as problem:
        await invoked(Link(error(type="OutOfStock", reason="3 left", args=["3 left"], data={"left": 3})))
    assert problem.value.left == 3
    with pytest.raises(RemoteServiceError, match="KeyError: 'x'") as other:
        await invoked(Link(error(type="KeyError", reason="'x'")))
    assert (other.value.type, other.value.reason) == ("KeyError", "'x'")


@pytest.mark.parametrize("about", [None, "KeyError", [], 5])
async def test_an_error_of_another_kind_of_server_is_its_text(about: Any) -> None:
    with pytest.raises(RemoteServiceError, match="it is broken"):
        await invoked(Link({"result": None, "exception": "it is broken", "error": about}))


# What does not arrive


@pytest.mark.parametrize(
    ("problem", "handed_over"),
    [
        (ConnectFailed("there is no broker"), False),
        (Rejected("it is too large"), False),
        (Unavailable("the connection was lost"), True),
        (DeliveryError("the plugin failed"), True),
    ],
)
async def test_it_is_told_whether_a_call_may_have_been_begun(
    problem: DeliveryError, handed_over: bool
) -> None:
    with pytest.raises(ServiceCommunicationError) as found:
        await invoked(Link(problem))
    assert str(found.value) == f"{PLACE}{problem}"
    assert found.value.handed_over is handed_over


async def test_a_queue_that_nobody_has_is_told_with_what_to_look_at() -> None:
    with pytest.raises(ServiceCommunicationError) as problem:
        await invoked(Link(Unroutable("there is no queue")))
    assert problem.value.handed_over is False
    assert str(problem.value) == (
        f"{PLACE}there is no queue; nobody takes calls from it: see that a process runs which has the "
        "component, that the channel amqp stands in its settings as it does here, and that both use "
        "one broker"
    )


async def test_no_answer_in_time_is_told_with_what_may_be_the_reason() -> None:
    with pytest.raises(ServiceTimeout) as problem:
        await invoked(Link(DeliveryTimeout(5)))
    assert str(problem.value).startswith(PLACE)
    assert str(problem.value).endswith(SILENT)


async def test_closing_closes_the_connection() -> None:
    link = Link(PEN)
    caller = MessageCaller("amqp", MessageSettings(), link)  # type: ignore[arg-type]
    assert repr(caller) == "<MessageCaller amqp <Link>>"
    await caller.close()
    assert link.closed
