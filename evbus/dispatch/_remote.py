"""Commands and queries that are handled in another process."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from evbus._typed import reader, travels
from evbus.errors import (
    DeliveryTimeout,
    DispatchTimeout,
    HandlerSignatureError,
    InvalidPayload,
    RemoteError,
)
from evbus.types import CONTENT_TYPE, Envelope

from ._annotations import message_name
from ._binding import Binding
from ._frame import CURRENT
from ._publish import wire_name

__all__ = ["DEADLINE", "ERROR", "KEY", "MESSAGE", "OUTCOME", "Forwarder"]

#: Headers of a request: what the message is called, its key, and until when it may be handled, in seconds
#: since the epoch. Clocks of different machines have to agree as well as such deadlines want to be kept.
MESSAGE, KEY, DEADLINE = "evbus-message", "evbus-key", "evbus-deadline"
#: The header of a reply that says whether the handler succeeded (``ok``) or failed (:data:`ERROR`).
OUTCOME, ERROR = "evbus-outcome", "error"


class _Link(Protocol):
    async def request(self, event: Envelope, seconds: float) -> Envelope: ...


class Forwarder:
    """Sends messages through profiles and waits for the replies.

    :param link: returns the open link of a profile.
    :param encode: makes an envelope of ``(routing key, body, profile, headers)``.
    :param decode: makes plain values of a body: ``(content type, body)``.
    """

    def __init__(
        self,
        link: Callable[[str], Awaitable[_Link]],
        encode: Callable[[str, Any, str, Mapping[str, str]], Envelope],
        decode: Callable[[str, bytes], Any],
    ) -> None:
        self._link = link
        self.encode = encode
        self.decode = decode

    def binding(self, message: Any, to: str, response: Any, seconds: float) -> Binding:
        """Return a binding that has ``message`` handled at the other end of the profile ``to``.

        :param response: the type of what comes back; None leaves plain values.
        :param seconds: how long it may take where the message has no timeout of its own.
        :raises HandlerSignatureError: the message cannot travel.
        """
        if isinstance(message, type) and not travels(message):
            raise HandlerSignatureError(
                "its instances cannot travel; make it a dataclass, a msgspec Struct, an attrs class or a "
                "pydantic model",
                message=message_name(message),
                handler=f"in another process, over the profile {to!r}",
            )
        read = None if response is None else reader(response)

        async def call(value: Any) -> Any:
            reply = await self._request(value, to, seconds)
            return reply if read is None or reply is None else read(reply)

        return Binding(message, (to, response), call, f"in another process, over the profile {to!r}")

    async def _request(self, message: Any, to: str, seconds: float) -> Any:
        frame = CURRENT.get()
        headers: dict[str, str] = {}
        key = None
        if frame is not None:
            headers.update(frame.envelope.headers if frame.envelope is not None else {})
            key = frame.key
            seconds = seconds if frame.limit is None else max(frame.limit.left(), 0.001)
        name = wire_name(message if isinstance(message, str) else type(message))
        headers.pop(CONTENT_TYPE, None)
        headers[MESSAGE] = name
        headers[DEADLINE] = f"{time.time() + seconds:.3f}"
        if key is not None:
            headers[KEY] = str(key)
        body = None if isinstance(message, str) else message
        event = self.encode(name, body, to, headers)
        try:
            reply = await (await self._link(to)).request(event, seconds)
        except DeliveryTimeout as exc:
            raise DispatchTimeout(name, seconds) from exc
        return self._result(reply, name)

    def _result(self, reply: Envelope, name: str) -> Any:
        outcome = reply.headers.get(OUTCOME)
        value = self.decode(reply.headers.get(CONTENT_TYPE, ""), reply.body)
        if outcome == "ok":
            return value
        if outcome == ERROR and isinstance(value, dict):
            raise RemoteError(str(value.get("type", "")), str(value.get("reason", "")))
        raise InvalidPayload(f"the reply to {name} is none of evbus: its header {OUTCOME} is {outcome!r}")
