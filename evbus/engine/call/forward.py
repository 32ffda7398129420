"""Commands and queries that are handled in another process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from evbus.engine.call.requests import RequestLink
from evbus.engine.codec.resolve import unreadable
from evbus.engine.codec.typed import reader, travels, wants_digits
from evbus.engine.codec.wrapped import named, unencoded, unwrapped
from evbus.engine.handling.annotations import message_name
from evbus.engine.handling.binding import Binding
from evbus.engine.handling.dispatch.core import Around
from evbus.engine.handling.dispatch.publish import wire_name
from evbus.engine.handling.frame import CURRENT
from evbus.engine.kit.redact import one_line
from evbus.engine.kit.waiting import call
from evbus.errors import (
    DeliveryTimeout,
    DispatchTimeout,
    HandlerSignatureError,
    InvalidPayload,
    Rejected,
    RemoteError,
)
from evbus.types import CONTENT_TYPE, Envelope

__all__ = [
    "ANSWERS",
    "DEADLINE",
    "ERROR",
    "EVENT_ID",
    "KEY",
    "MESSAGE",
    "OK",
    "OUTCOME",
    "TIMEOUT",
    "Forwarder",
    "decoded",
    "passed_on",
]

#: Headers of a request: what the message is called, its key, and until when it may be handled, in seconds
#: since the epoch. Clocks of different machines have to agree as well as such deadlines want to be kept.
MESSAGE, KEY, DEADLINE = "evbus-message", "evbus-key", "evbus-deadline"
#: The header of a request that reaches its server at once, as over HTTP: the seconds that it may take then.
#: It stands above the deadline, as clocks need not agree.
TIMEOUT = "evbus-timeout"
#: The header of a reply that says whether the handler succeeded (:data:`OK`) or failed (:data:`ERROR`).
OUTCOME, OK, ERROR = "evbus-outcome", "ok", "error"
#: What tells a request from all others, if a pipeline plugin set it, and the header of the reply to it.
EVENT_ID, ANSWERS = "ce-id", "evbus-answers"

_ENCODING = "content-encoding"
#: Headers that say which message it is, how it is encoded or what becomes of it, and so are of one message
#: alone. Whoever passes the headers of what is handled on, for its trace and session, means others.
_OWN = frozenset(
    {
        CONTENT_TYPE,
        _ENCODING,
        "message-id",
        "correlation-id",
        "reply-to",
        # Who calls is not who called; his token was for this process.
        "authorization",
        "evbus-routing-key",
        "evbus-signature",
        KEY,
        DEADLINE,
        TIMEOUT,
        OUTCOME,
        ANSWERS,
    }
)
_OWN_PREFIXES = ("ce-", "evbus-signed-", "evbus-dead-")


class Forwarder:
    """Sends messages through profiles and waits for the replies.

    :param link: returns the link of a profile.
    :param check: is told the name of each profile at the start, and raises when nothing can go there.
    :param encode: makes an envelope of ``(routing key, body, profile, headers)``.
    :param decode: makes plain values of a body: ``(content type, body, exactly)``; the last says that numbers
        are to know how they were written.
    :param around: returns the interceptors that are around what comes back.
    """

    def __init__(
        self,
        link: Callable[[str], RequestLink],
        check: Callable[[str], None],
        encode: Callable[[str, Any, str, Mapping[str, str]], Envelope],
        decode: Callable[[str, bytes, bool], Any],
        around: Callable[[], Around | None],
    ) -> None:
        self.link = link
        self.check = check
        self._encode = encode
        self._decode = decode
        self._around = around

    def binding(self, message: Any, to: str, response: Any, seconds: float) -> Binding:
        """Return a binding that has ``message`` handled at the other end of the profile ``to``.

        :param response: the type of what comes back; None leaves plain values.
        :param seconds: how long it may take where the message has no timeout of its own.
        :raises HandlerSignatureError: the message cannot travel, or one of the others is no such thing.
        """
        name = message_name(message)
        reason = _unfit(message, to, seconds)
        if reason:
            raise HandlerSignatureError(f"{name} cannot be forwarded to {to!r}: {reason}", message=name)
        try:
            exactly = response is not None and wants_digits(response)
            read = None if response is None else reader(response, digits=exactly)
        except (TypeError, NameError) as exc:
            raise HandlerSignatureError(
                f"{name} cannot be forwarded to {to!r}: response is a type, and not {response!r}: {exc}",
                message=name,
            ) from None
        return _Forwarded(self, message, to, response, read, seconds, exactly=exactly)

    async def request(self, message: Any, to: str, seconds: float, *, exactly: bool = False) -> Any:
        """Return the result of the handler of ``message`` at the other end of ``to``, as plain values.

        :param exactly: numbers in them know how they were written.
        """
        frame = CURRENT.get()
        limit = None if frame is None else frame.limit
        left = seconds if limit is None else limit.left()
        total = seconds if limit is None else limit.seconds
        name = wire_name(message if isinstance(message, str) else type(message))
        if left <= 0:
            raise DispatchTimeout(name, total)
        headers: dict[str, str] = {}
        if frame is not None:
            headers.update(passed_on({} if frame.envelope is None else frame.envelope.headers))
            if frame.key is not None:
                headers[KEY] = str(frame.key)
        headers[MESSAGE] = name
        headers[DEADLINE] = f"{time.time() + left:.3f}"
        event = self._encode(name, None if isinstance(message, str) else message, to, headers)
        loop = asyncio.get_running_loop()
        end = loop.time() + left
        try:
            reply = named(await self.link(to).request(event, left))
            around = self._around()
            if around is not None:
                # What they wait for has no deadline of its own.
                seconds = max(0.001, end - loop.time())
                reply = await call(_received(around, reply, name), seconds)
        except DeliveryTimeout as exc:
            raise DispatchTimeout(name, total) from exc
        return self._result(reply, event, name, exactly)

    def _result(self, reply: Envelope, request: Envelope, name: str, exactly: bool) -> Any:
        outcome = reply.headers.get(OUTCOME)
        if outcome not in (OK, ERROR):
            said = "missing" if outcome is None else one_line(repr(outcome), 50)
            raise InvalidPayload(f"the reply to {name} is none of evbus: its header {OUTCOME} is {said}")
        asked, answered = request.headers.get(EVENT_ID), reply.headers.get(ANSWERS)
        if asked and answered and asked != answered:
            raise InvalidPayload(f"the reply to {name} is one to another request")
        value = decoded(self._decode, reply, exactly=exactly)
        if outcome == OK:
            return value
        failed = value if isinstance(value, dict) else {}
        raise RemoteError(one_line(failed.get("type", "unknown"), 200), one_line(failed.get("reason", "")))


async def _received(around: Around, reply: Envelope, name: str) -> Envelope:
    """Return a reply as the interceptors hand it on."""
    handed_on: list[Envelope] = []

    async def take(envelope: Envelope) -> None:
        handed_on.append(envelope)

    try:
        # Where it was sent to says nothing to them.
        await around(reply.replace(routing_key=name), take)
    except Rejected as exc:
        raise Rejected(f"the reply to {name} is refused: {exc}") from exc
    if not handed_on:
        raise Rejected(f"the reply to {name} is dropped: a pipeline plugin takes it for one that came before")
    return handed_on[-1]


def decoded(decode: Callable[[str, bytes, bool], Any], envelope: Envelope, *, exactly: bool) -> Any:
    """Return the body of a request or a reply as plain values.

    :param exactly: numbers in them know how they were written.
    :raises PayloadError: it cannot be read.
    """
    try:
        envelope = unwrapped(envelope)
        return decode(envelope.headers.get(CONTENT_TYPE, ""), envelope.body, exactly)
    except InvalidPayload as exc:
        encoding = envelope.headers.get(_ENCODING, "")
        if unencoded(encoding):
            raise
        hint = "the option pipeline may need compress here, too"
        raise InvalidPayload(f"{exc}; its {_ENCODING} is {one_line(encoding, 50)!r}: {hint}") from exc


def passed_on(headers: Mapping[str, str], but: Collection[str] = ()) -> dict[str, str]:
    """Return those of the headers that a message was handed over with which it goes out with.

    :param but: further headers that stay.
    """
    return {
        name: value
        for name, value in headers.items()
        if name not in but and (lowered := name.lower()) not in _OWN and not lowered.startswith(_OWN_PREFIXES)
    }


class _Forwarded(Binding):
    """A message, and the profile that it is forwarded to."""

    __slots__ = ("_forwarder", "_to")

    def __init__(
        self,
        forwarder: Forwarder,
        message: Any,
        to: str,
        response: Any,
        read: Callable[[Any], Any] | None,
        seconds: float,
        *,
        exactly: bool,
    ) -> None:
        async def call(value: Any) -> Any:
            reply = await forwarder.request(value, to, seconds, exactly=exactly)
            return reply if read is None or reply is None else read(reply)

        super().__init__(message, (to, response), call, f"in another process, over the profile {to!r}")
        # So that it is not served to others again: two processes could hand it to each other for ever.
        self.handled_here = False
        self.forwarded = True
        self._forwarder = forwarder
        self._to = to

    def complete(self) -> None:
        """Have the profile looked for.

        :raises ProfileError: there is none, or replies cannot come back through it.
        """
        self._forwarder.check(self._to)


def _unfit(message: Any, to: Any, seconds: Any) -> str:
    """Return why a message cannot be forwarded like this, ``""`` when it can."""
    if not isinstance(to, str) or not to:
        return "the name of a profile is a string"
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < float("inf"):
        return f"timeout is a number of seconds above 0, and not {seconds!r}"
    if isinstance(message, str) and message:
        return ""
    if not isinstance(message, type):
        return "a message is a class or a string"
    if not travels(message):
        return (
            "its instances cannot travel; make it a dataclass, a msgspec Struct, an attrs class or a "
            "pydantic model"
        )
    try:
        reader(message)
    except NameError as exc:
        return unreadable(message, exc)
    except TypeError:
        return ""  # it may be written all the same, and the other end reads it by a class of its own
    return ""
