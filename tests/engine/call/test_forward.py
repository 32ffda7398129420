"""Messages that are forwarded: over a link that a test scripts."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from evbus.engine.call.forward import Forwarder
from evbus.engine.call.serve import RequestServer
from evbus.engine.codec import json
from evbus.engine.handling.dispatch.dispatcher import Dispatcher
from evbus.errors import (
    DeliveryTimeout,
    DispatchTimeout,
    HandlerExists,
    HandlerSignatureError,
    InvalidPayload,
    ProfileError,
    Rejected,
    RemoteError,
)
from evbus.types import Envelope
from tests.dispatch.hub_kit import CreateUser, User, UserQuery, failure, go

OK = {"evbus-outcome": "ok", "content-type": "application/json"}
FAILED = {**OK, "evbus-outcome": "error"}


def reply(body: Any, headers: dict[str, str] | None = None) -> Envelope:
    return Envelope("users", "", json.apply(body), OK if headers is None else headers)


class Wire:
    """A link that answers with `answers`, one after another, or raises them; and the dispatcher before it."""

    def __init__(self, *answers: Any) -> None:
        self.sent: list[tuple[Envelope, float]] = []
        self.checked: list[str] = []
        self.linked: list[str] = []
        self._answers = list(answers)
        self.forwarder = Forwarder(self._link, self.checked.append, self._encode, self._decode, self._around)
        self.around: Any = None
        self.event_id: str | None = None
        self.dispatcher = Dispatcher()

    def forward(self, message: Any, response: Any = None, seconds: float = 30.0, to: str = "users") -> None:
        self.dispatcher.commands.add(self.forwarder.binding(message, to, response, seconds))

    async def request(self, event: Envelope, seconds: float) -> Envelope:
        self.sent.append((event, seconds))
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, Envelope)
        return answer

    def _link(self, profile: str) -> Wire:
        self.linked.append(profile)
        return self

    def _around(self) -> Any:
        return self.around

    def _encode(self, key: str, body: Any, profile: str, headers: Any) -> Envelope:
        own = {} if self.event_id is None else {"ce-id": self.event_id}
        return Envelope(
            profile, key, json.apply(body), {**headers, "content-type": "application/json", **own}
        )

    def _decode(self, content_type: str, body: bytes, exactly: bool) -> Any:
        if content_type != "application/json":
            raise InvalidPayload(f"no plugin reads {content_type!r}")
        return (json.exact_load if exactly else json.load)(body)

    def ask(self, message: Any, **how: Any) -> Any:
        """Return what handling a message returns, or raise what that raises."""

        async def main() -> Any:
            self.dispatcher.start()
            try:
                return await self.dispatcher.handle(message, wait_for_response=True, **how)
            finally:
                await self.dispatcher.stop()

        return go(main)


def test_a_message_goes_out_by_its_name_with_its_fields_as_the_body() -> None:
    wire = Wire(reply({"name": "ann"}))
    wire.forward(CreateUser)
    before = time.time()
    assert wire.ask(CreateUser("ann")) == {"name": "ann"}
    ((event, seconds),) = wire.sent
    assert (event.profile, event.routing_key, event.body) == ("users", "CreateUser", b'{"name":"ann"}')
    deadline = float(event.headers.pop("evbus-deadline"))
    assert before + 29.9 <= deadline <= time.time() + 30.001
    assert event.headers == {"evbus-message": "CreateUser", "content-type": "application/json"}
    assert seconds == 30
    assert wire.linked == ["users"]


def test_a_string_goes_out_without_a_body() -> None:
    wire = Wire(reply([1]))
    wire.forward("sync")
    assert wire.ask("sync") == [1]
    event = wire.sent[0][0]
    assert (event.routing_key, event.body, event.headers["evbus-message"]) == ("sync", b"null", "sync")


def test_key_headers_and_what_is_left_of_the_timeout_travel() -> None:
    wire = Wire(reply(None))
    wire.forward(CreateUser)
    headers = {"x-user": "ann", "content-type": "text/odd", "evbus-deadline": "1", "evbus-key": "other"}
    now = time.time()
    assert wire.ask(CreateUser(), key=7, timeout=9, headers=headers) is None
    ((event, seconds),) = wire.sent
    assert 0 < seconds <= 9
    assert float(event.headers.pop("evbus-deadline")) <= now + 10
    assert event.headers == {
        "x-user": "ann",
        "evbus-key": "7",
        "evbus-message": "CreateUser",
        "content-type": "application/json",
    }


def test_headers_that_are_of_one_message_alone_do_not_go_along() -> None:
    wire = Wire(reply(None))
    wire.forward(CreateUser)
    received = {
        "traceparent": "00-1-2-01",
        "evbus-session": "{}",
        "x-user": "ann",
        "ce-id": "17",
        "CE-Time": "now",
        "message-id": "17",
        "reply-to": "me",
        "correlation-id": "1",
        "Content-Encoding": "zstd",
        "evbus-outcome": "ok",
        "evbus-answers": "16",
        "evbus-signature": "v1,x,y",
        "evbus-signed-at": "1",
        "evbus-dead-reason": "old",
    }
    wire.ask(CreateUser(), headers=received)
    headers = wire.sent[0][0].headers
    del headers["evbus-deadline"]
    assert headers == {
        "traceparent": "00-1-2-01",
        "evbus-session": "{}",
        "x-user": "ann",
        "evbus-message": "CreateUser",
        "content-type": "application/json",
    }


def test_interceptors_do_not_run_where_a_message_is_handed_over_but_where_it_is_handled() -> None:
    wire = Wire(reply(1))
    wire.forward(CreateUser)
    seen: list[Any] = []

    async def around(envelope: Envelope, call_next: Callable[[Envelope], Awaitable[Any]]) -> Any:
        seen.append(envelope)
        return await call_next(envelope)

    wire.dispatcher.core.send = seen.append
    wire.dispatcher.core.around = around
    assert wire.ask(CreateUser(), headers={"x-user": "ann"}) == 1
    assert seen == []
    assert wire.sent[0][0].headers["x-user"] == "ann"


# Replies


def test_a_reply_is_read_as_the_interceptors_hand_it_on() -> None:
    wire = Wire(Envelope("users", "amq.reply", b"secret", OK))
    wire.forward(UserQuery)

    async def around(envelope: Envelope, call_next: Callable[[Envelope], Awaitable[Any]]) -> None:
        assert (envelope.profile, envelope.routing_key, envelope.body) == ("users", "UserQuery", b"secret")
        await call_next(reply(["plain"]))

    wire.around = around
    assert wire.ask(UserQuery()) == ["plain"]


def test_a_reply_that_the_interceptors_refuse_or_drop_is_an_error() -> None:
    wire = Wire(reply(1), reply(1))
    wire.forward(UserQuery)

    async def refuse(envelope: Envelope, call_next: Any) -> None:
        raise Rejected("not signed")

    async def drop(envelope: Envelope, call_next: Any) -> None:
        pass

    wire.around = refuse
    with pytest.raises(Rejected, match="^the reply to UserQuery is refused: not signed$"):
        wire.ask(UserQuery())
    wire.around = drop
    with pytest.raises(Rejected, match="^the reply to UserQuery is dropped: a pipeline plugin takes it for "):
        wire.ask(UserQuery())


def test_interceptors_of_a_reply_that_never_end_are_cancelled_at_the_deadline() -> None:
    wire = Wire(reply(1))
    wire.forward(UserQuery, seconds=0.05)

    async def hang(envelope: Envelope, call_next: Any) -> None:
        await asyncio.Event().wait()

    wire.around = hang
    with pytest.raises(DispatchTimeout, match=r"UserQuery was not handled within 0\.05 s"):
        wire.ask(UserQuery())


@pytest.mark.parametrize(
    ("asked", "answered", "right"),
    [("1", "1", True), ("1", "2", False), ("1", None, True), (None, "2", True), (None, None, True)],
)
def test_a_reply_that_names_another_request_is_refused(
    asked: str | None, answered: str | None, right: bool
) -> None:
    wire = Wire(reply(1, {**OK, **({} if answered is None else {"evbus-answers": answered})}))
    wire.forward(UserQuery)
    wire.event_id = asked
    if right:
        assert wire.ask(UserQuery()) == 1
    else:
        with pytest.raises(InvalidPayload, match="^the reply to UserQuery is one to another request$"):
            wire.ask(UserQuery())


def test_a_reply_that_is_still_compressed_is_told_to_be() -> None:
    wire = Wire(Envelope("users", "", b"x", {**OK, "content-encoding": "zstd"}))
    wire.forward(UserQuery)
    with pytest.raises(InvalidPayload, match="its content-encoding is 'zstd': the option pipeline may need"):
        wire.ask(UserQuery())


def test_a_subclass_goes_out_by_its_own_name() -> None:
    @dataclasses.dataclass(frozen=True)
    class CreateAdmin(CreateUser):
        rights: str = "all"

    wire = Wire(reply(None))
    wire.forward(CreateUser)
    wire.ask(CreateAdmin())
    event = wire.sent[0][0]
    assert (event.routing_key, event.body) == ("CreateAdmin", b'{"name":"ann","rights":"all"}')


class Row(msgspec.Struct):
    id: int


@pytest.mark.parametrize(
    ("response", "body", "found"),
    [
        (User, {"name": "ann"}, User("ann")),
        (Row, {"id": 1}, Row(1)),
        (list[User], [{"name": "ann"}], [User("ann")]),
        (User, None, None),
        (None, {"name": "ann"}, {"name": "ann"}),
    ],
)
def test_a_response_has_the_type_that_was_declared(response: Any, body: Any, found: Any) -> None:
    wire = Wire(reply(body))
    wire.forward(UserQuery, response)
    assert wire.ask(UserQuery()) == found


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (reply({"type": "KeyError", "reason": "'ann'"}, FAILED), RemoteError, "KeyError: 'ann'"),
        (reply({"type": "Refused", "reason": ""}, FAILED), RemoteError, "Refused"),
        (reply({"type": "A\nb", "reason": "c\x1b[1m" * 2}, FAILED), RemoteError, r"A\nb: c\x1b[1mc\x1b[1m"),
        (reply([1], FAILED), RemoteError, "unknown"),
        (reply({"name": 5}), InvalidPayload, "this is no User: Expected `str`, got `int` - at `$.name`"),
        (
            reply(1, {}),
            InvalidPayload,
            "the reply to UserQuery is none of evbus: its header evbus-outcome is missing",
        ),
        (
            reply(1, {"evbus-outcome": "maybe"}),
            InvalidPayload,
            "the reply to UserQuery is none of evbus: its header evbus-outcome is 'maybe'",
        ),
        (reply(1, {"evbus-outcome": "ok"}), InvalidPayload, "no plugin reads ''"),
        (Rejected("unroutable"), Rejected, "unroutable"),
        (DeliveryTimeout(5), DispatchTimeout, "UserQuery was not handled within 5 s"),
    ],
)
def test_what_comes_back_is_an_error_when_it_is_no_result(
    answer: Any, kind: type[Exception], said: str
) -> None:
    wire = Wire(answer)
    wire.forward(UserQuery, User, seconds=5)
    assert failure(kind, wire.ask, UserQuery()) == said


def test_the_profile_is_looked_for_at_the_start() -> None:
    wire = Wire()
    wire.forward(UserQuery)
    wire.forward(CreateUser, to="others")
    wire.dispatcher.start()
    assert (wire.checked, wire.linked) == (["users", "others"], [])

    def refuse(profile: str) -> None:
        raise ProfileError(f"there is no profile {profile!r}")

    wire = Wire()
    wire.forwarder.check = refuse
    wire.forward(UserQuery)
    with pytest.raises(ProfileError, match="there is no profile 'users'"):
        wire.dispatcher.start()
    assert not wire.dispatcher.running


class Plain:
    pass


UNFIT = (
    "its instances cannot travel; make it a dataclass, a msgspec Struct, an attrs class or a pydantic model"
)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            (Plain, "users"),
            f"Plain cannot be forwarded to 'users': {UNFIT}",
        ),
        ((str, "users"), "str cannot be forwarded to 'users': its instances cannot travel; make it a "),
        ((5, "users"), "5 cannot be forwarded to 'users': a message is a class or a string"),
        (("", "users"), " cannot be forwarded to 'users': a message is a class or a string"),
        ((User, ""), "User cannot be forwarded to '': the name of a profile is a string"),
        ((User, None), "User cannot be forwarded to None: the name of a profile is a string"),
        (
            (User, "users", None, 0),
            "User cannot be forwarded to 'users': timeout is a number of seconds above 0, and not 0",
        ),
        ((User, "users", None, float("inf")), "User cannot be forwarded to 'users': timeout is a number of"),
        ((User, "users", None, None), "User cannot be forwarded to 'users': timeout is a number of seconds"),
        (
            (User, "users", "User"),
            "User cannot be forwarded to 'users': response is a type, and not 'User': ",
        ),
    ],
)
def test_what_cannot_be_forwarded_is_refused_when_it_is_bound(arguments: tuple[Any, ...], said: str) -> None:
    message, to, response, seconds = (*arguments, None, 30.0)[:4] if len(arguments) < 4 else arguments
    if len(arguments) == 3:
        seconds = 30.0
    found = failure(HandlerSignatureError, Wire().forwarder.binding, message, to, response, seconds)
    assert found.startswith(said)


def test_a_message_whose_fields_name_nothing_is_refused_when_it_is_bound_and_when_it_is_served() -> None:
    async def pay(message: Any) -> None: ...

    command = dataclasses.make_dataclass("Pay", [("amount", "Decimal")])
    command.__module__ = __name__
    said = (
        f"the field amount cannot be read, as the name Decimal means nothing in {__name__} when the program "
        "runs; import it there outside of `if TYPE_CHECKING:`, or define it at the top level of the module"
    )
    assert failure(HandlerSignatureError, Wire().forward, command) == (
        f"Pay cannot be forwarded to 'users': {said}"
    )
    dispatcher = Dispatcher()
    dispatcher.commands.bind(command, pay)
    assert failure(
        HandlerSignatureError, RequestServer, (dispatcher.commands,), None, None, json.load, None
    ).endswith(f"pay of Pay: it cannot be served: {said}")


def test_a_message_has_one_handler_here_or_elsewhere() -> None:
    wire = Wire()
    wire.forward(UserQuery)
    with pytest.raises(HandlerExists, match="there is one already, in another process, over the profile"):
        wire.forward(UserQuery, to="others")
