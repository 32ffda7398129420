"""Commands and queries that are handled in another process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from evbus._typed import reader, travels
from evbus.errors import (
    DeliveryTimeout,
    DispatchTimeout,
    HandlerSignatureError,
    InvalidPayload,
    RemoteError,
)
from evbus.redact import one_line
from evbus.types import CONTENT_TYPE, Envelope

from ._annotations import message_name
from ._binding import Binding
from ._frame import CURRENT
from ._publish import wire_name

__all__ = ["DEADLINE", "ERROR", "KEY", "MESSAGE", "OK", "OUTCOME", "Forwarder"]

#: Headers of a request: what the message is called, its key, and until when it may be handled, in seconds
#: since the epoch. Clocks of different machines have to agree as well as such deadlines want to be kept.
MESSAGE, KEY, DEADLINE = "evbus-message", "evbus-key", "evbus-deadline"
#: The header of a reply that says whether the handler succeeded (:data:`OK`) or failed (:data:`ERROR`).
OUTCOME, OK, ERROR = "evbus-outcome", "ok", "error"


class _Link(Protocol):
    async def request(self, event: Envelope, seconds: float) -> Envelope: ...


class Forwarder:
    """Sends messages through profiles and waits for the replies.

    :param link: returns the link of a profile.
    :param check: is told the name of each profile at the start, and raises when nothing can go there.
    :param encode: makes an envelope of ``(routing key, body, profile, headers)``.
    :param decode: makes plain values of a body: ``(content type, body)``.
    """

    def __init__(
        self,
        link: Callable[[str], _Link],
        check: Callable[[str], None],
        encode: Callable[[str, Any, str, Mapping[str, str]], Envelope],
        decode: Callable[[str, bytes], Any],
    ) -> None:
        self.link = link
        self.check = check
        self._encode = encode
        self._decode = decode

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
            read = None if response is None else reader(response)
        except (TypeError, NameError) as exc:
            raise HandlerSignatureError(
                f"{name} cannot be forwarded to {to!r}: response is a type, and not {response!r}: {exc}",
                message=name,
            ) from None
        return _Forwarded(self, message, to, response, read, seconds)

    async def request(self, message: Any, to: str, seconds: float) -> Any:
        """Return what the handler of ``message`` at the other end of ``to`` returns, as plain values."""
        frame = CURRENT.get()
        limit = None if frame is None else frame.limit
        left = seconds if limit is None else limit.left()
        total = seconds if limit is None else limit.seconds
        name = wire_name(message if isinstance(message, str) else type(message))
        if left <= 0:
            raise DispatchTimeout(name, total)
        headers: dict[str, str] = {}
        if frame is not None:
            headers.update(frame.envelope.headers if frame.envelope is not None else {})
            headers.pop(KEY, None)
            if frame.key is not None:
                headers[KEY] = str(frame.key)
        headers.pop(CONTENT_TYPE, None)
        headers[MESSAGE] = name
        headers[DEADLINE] = f"{time.time() + left:.3f}"
        event = self._encode(name, None if isinstance(message, str) else message, to, headers)
        try:
            reply = await self.link(to).request(event, left)
        except DeliveryTimeout as exc:
            raise DispatchTimeout(name, total) from exc
        return self._result(reply, name)

    def _result(self, reply: Envelope, name: str) -> Any:
        outcome = reply.headers.get(OUTCOME)
        if outcome not in (OK, ERROR):
            said = "missing" if outcome is None else one_line(repr(outcome), 50)
            raise InvalidPayload(f"the reply to {name} is none of evbus: its header {OUTCOME} is {said}")
        value = self._decode(reply.headers.get(CONTENT_TYPE, ""), reply.body)
        if outcome == OK:
            return value
        failed = value if isinstance(value, dict) else {}
        raise RemoteError(one_line(failed.get("type", "unknown"), 200), one_line(failed.get("reason", "")))


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
    ) -> None:
        async def call(value: Any) -> Any:
            reply = await forwarder.request(value, to, seconds)
            return reply if read is None or reply is None else read(reply)

        super().__init__(message, (to, response), call, f"in another process, over the profile {to!r}")
        # So that it is not served to others again: two processes could hand it to each other for ever.
        self.handled_here = False
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
    return ""
