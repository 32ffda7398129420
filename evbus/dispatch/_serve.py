"""Commands and queries that come from other processes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from evbus._typed import reader
from evbus.errors import EvbusError, HandlerDoesNotExist, HandlerExists, InvalidPayload, Rejected, nearest
from evbus.redact import one_line
from evbus.types import CONTENT_TYPE, Delivery, Envelope

from ._annotations import message_name
from ._binding import Binding
from ._kinds import RequestRouter
from ._publish import wire_name
from ._remote import DEADLINE, ERROR, KEY, MESSAGE, OUTCOME

__all__ = ["Server"]

log = logging.getLogger("evbus.dispatch")

_REPLY_TO, _CORRELATION = "reply-to", "correlation-id"


class _Link(Protocol):
    async def reply(self, address: str, event: Envelope) -> None: ...


class Server:
    """Handles requests that come in as deliveries, and replies to them.

    :param routers: those that have the handlers: of commands and of queries.
    :param link: where replies go.
    :param encode: makes an envelope of ``(routing key, body, profile, headers)``.
    :param decode: makes plain values of a body: ``(content type, body)``.
    """

    def __init__(
        self,
        routers: tuple[RequestRouter, ...],
        link: _Link,
        encode: Callable[[str, Any, str, Mapping[str, str]], Envelope],
        decode: Callable[[str, bytes], Any],
    ) -> None:
        self._routers = routers
        self._link = link
        self._encode = encode
        self._decode = decode
        self._tasks: set[asyncio.Task[None]] = set()
        self._readers: dict[str, tuple[RequestRouter, Any, Callable[[Any], Any] | None]] = {}
        self.handled = 0
        self.expired = 0

    def __repr__(self) -> str:
        return f"<Server running={len(self._tasks)} handled={self.handled} expired={self.expired}>"

    def take(self, delivery: Delivery) -> None:
        """Handle a delivery beside the others, and settle it when the reply is sent."""
        task = asyncio.get_running_loop().create_task(self._serve(delivery), name="evbus-serve")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Cancel what is still handled; it stays with its source."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _serve(self, delivery: Delivery) -> None:
        request = delivery.envelope
        try:
            reply = await self._handled(request)
            address = request.headers.get(_REPLY_TO)
            if reply is not None and address:
                await self._send(request, address, reply)
            delivery.ack()
        except BaseException as exc:
            delivery.reject(requeue=True)
            if not isinstance(exc, EvbusError):
                raise
            log.warning("a request goes back to its source, as it cannot be replied to: %s", exc)

    async def _send(self, request: Envelope, address: str, reply: Envelope) -> None:
        correlation = request.headers.get(_CORRELATION)
        if correlation is not None:
            reply.headers[_CORRELATION] = correlation
        try:
            await self._link.reply(address, reply)
        except Rejected as exc:
            log.info("who sent %s waits no longer: %s", one_line(request.headers.get(MESSAGE, "")), exc)

    async def _handled(self, request: Envelope) -> Envelope | None:
        """Return the reply to a request, None when its time is up."""
        try:
            left = _seconds_left(request.headers)
            if left is not None and left <= 0:
                self.expired += 1
                return None
            router, message = self._message(request)
            key = request.headers.get(KEY)
            result = await router.handle(message, key, True, left, request.headers)
            self.handled += 1
            return self._reply({OUTCOME: "ok"}, result)
        except Exception as exc:
            return self._failure(exc)

    def _failure(self, problem: Exception) -> Envelope:
        said = {"type": type(problem).__name__, "reason": one_line(str(problem))}
        log.debug("a request failed", exc_info=problem)
        return self._reply({OUTCOME: ERROR}, said)

    def _reply(self, headers: dict[str, str], value: Any) -> Envelope:
        return self._encode("", value, "", headers)

    def _message(self, request: Envelope) -> tuple[RequestRouter, Any]:
        """Return the message of a request: of a class that a handler is bound to, and no other."""
        name = request.headers.get(MESSAGE) or request.routing_key
        found = self._readers.get(name)
        if found is None:
            found = self._readers[name] = self._find(name)
        router, message, read = found
        if read is None:
            return router, message
        return router, read(self._decode(request.headers.get(CONTENT_TYPE, ""), request.body))

    def _find(self, name: str) -> tuple[RequestRouter, Any, Callable[[Any], Any] | None]:
        bound = [(router, binding) for router in self._routers for binding in router.bindings()]
        found = [(router, binding) for router, binding in bound if wire_name(binding.message) == name]
        if not found:
            known = [wire_name(binding.message) for _, binding in bound]
            raise HandlerDoesNotExist(f"there is no handler for {one_line(name)}{nearest(name, known)}")
        if len(found) > 1:
            names = ", ".join(sorted(_full_name(binding) for _, binding in found))
            raise HandlerExists(f"several messages are called {one_line(name)}: {names}; rename one of them")
        router, binding = found[0]
        message = binding.message
        return router, message, None if isinstance(message, str) else reader(message)


def _full_name(binding: Binding) -> str:
    return f"{getattr(binding.message, '__module__', 'the string')}.{message_name(binding.message)}"


def _seconds_left(headers: Mapping[str, str]) -> float | None:
    deadline = headers.get(DEADLINE)
    if deadline is None:
        return None
    try:
        return float(deadline) - time.time()
    except ValueError:
        raise InvalidPayload(f"the header {DEADLINE} is no time: {one_line(deadline)}") from None
