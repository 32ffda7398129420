"""Commands and queries that come from other processes."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol

from evbus._backoff import backoff
from evbus._call import call
from evbus._typed import reader, travels
from evbus.errors import (
    DeliveryError,
    EvbusError,
    HandlerDoesNotExist,
    HandlerExists,
    InvalidPayload,
    Rejected,
    nearest,
)
from evbus.evbus._bridge import Bridge
from evbus.redact import one_line
from evbus.types import CONTENT_TYPE, Delivery, Envelope

from ._annotations import message_name
from ._binding import Binding
from ._frame import Frame
from ._kinds import RequestRouter
from ._publish import Received, wire_name
from ._remote import DEADLINE, ERROR, KEY, MESSAGE, OK, OUTCOME

__all__ = ["Server", "served", "stand_by"]

log = logging.getLogger("evbus.dispatch")

_REPLY_TO, _CORRELATION = "reply-to", "correlation-id"

#: Seconds for which a reply is tried that cannot be sent, when its request has no deadline.
REPLYING = 60.0
#: Seconds between two attempts.
PAUSE = (0.05, 5.0)
#: Seconds that cancelled handlers have to end, and handlers that stop the dispatcher to return.
GRACE = 5.0
#: Most characters of a foreign name that are repeated.
_LONGEST = 200


class _Link(Protocol):
    name: str

    async def open(self) -> None: ...

    async def reply(self, address: str, event: Envelope) -> None: ...

    async def close(self) -> None: ...

    def problem(self, exc: Exception, what: str) -> Exception: ...


class _Request:
    """A request that is being handled.

    :ivar end: until when, in seconds since the epoch; None for ever.
    :ivar stops: its handler stops the dispatcher, and so cannot be waited for.
    """

    __slots__ = ("delivery", "end", "headers", "stops")

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery
        self.headers = delivery.envelope.headers
        self.end: float | None = None
        self.stops = False

    @property
    def late(self) -> bool:
        """Whether nobody waits for the reply any more."""
        return self.end is not None and time.time() >= self.end


class _Found(NamedTuple):
    """What a request's name stands for: ``read`` makes the message, None when it is a string."""

    router: RequestRouter
    binding: Binding
    read: Callable[[Any], Any] | None


_HANDLING: ContextVar[_Request | None] = ContextVar("evbus_request", default=None)


def stand_by() -> None:
    """Tell the server of the request that is handled here that its handler waits for the server's end."""
    request = _HANDLING.get()
    if request is not None:
        request.stops = True


class Server:
    """Handles requests that come in as deliveries, and replies to them.

    How many are handled at once the routers decide, and how many wait for that the source's ``prefetch``.

    :param routers: those that have the handlers: of commands and of queries.
    :param link: where replies go.
    :param encode: makes an envelope of ``(body, headers)``.
    :param decode: makes plain values of a body: ``(content type, body)``.
    :ivar handled: requests whose handlers succeeded.
    :ivar failed: those that were answered with an error.
    :ivar expired: those whose time was up before they were handled, or while they were.
    """

    def __init__(
        self,
        routers: tuple[RequestRouter, ...],
        link: _Link,
        encode: Callable[[Any, Mapping[str, str]], Envelope],
        decode: Callable[[str, bytes], Any],
    ) -> None:
        self._routers = routers
        self._link = link
        self._encode = encode
        self._decode = decode
        self._tasks: dict[asyncio.Task[None], _Request] = {}
        self._names: dict[str, _Found] = {}
        self.handled = self.failed = self.expired = 0

    def __repr__(self) -> str:
        counts = f"handled={self.handled} failed={self.failed} expired={self.expired}"
        return f"<Server running={len(self._tasks)} {counts}>"

    async def run(self, deliveries: AsyncGenerator[Delivery, None], patience: float) -> None:
        """Handle what a source yields, until cancelled; then take nothing more, and handle what was taken.

        Cancelled once more, leave it to the source.

        :param patience: most seconds until it is left there.
        :raises ConnectFailed: there is no connection at first, and the profile does not say to wait.
        :raises DeliveryError: the source ended with an error.
        """
        bridge = Bridge(deliveries, self.take, self._settled)
        try:
            await self._link.open()
            await bridge.run(0, patience)
        except EvbusError:
            raise
        except Exception as exc:
            raise self._link.problem(exc, "the source ended") from None
        finally:
            try:
                await self.close()
            finally:
                await self._link.close()
            if bridge.unsettled:
                log.warning(
                    "%s: %d requests were not handled in time, and stay with their source",
                    self._link.name,
                    bridge.unsettled,
                )

    def take(self, delivery: Delivery) -> None:
        """Handle a delivery beside the others, and settle it when the reply is sent."""
        request = _Request(delivery)
        task = asyncio.get_running_loop().create_task(self._serve(request), name="evbus-serve")
        self._tasks[task] = request
        task.add_done_callback(self._tasks.pop)

    async def close(self) -> None:
        """Cancel what is still handled; it stays with its source."""
        tasks = [task for task, request in self._tasks.items() if not request.stops]
        for task in tasks:
            task.cancel()
        if tasks:
            _, left = await asyncio.wait(tasks, timeout=GRACE)
            if left:
                log.error("%s: %d handlers do not end although cancelled", self._link.name, len(left))

    async def _settled(self, seconds: float) -> None:
        """Return when only those are being handled that cannot end before the server does."""
        end = time.monotonic() + seconds
        while tasks := [task for task, request in self._tasks.items() if not request.stops]:
            left = end - time.monotonic()
            if left <= 0:
                return
            await asyncio.wait(tasks, timeout=left)
        # A handler may have let another task stop the dispatcher, and return at any moment.
        stopping = dict(self._tasks)
        if stopping:
            await asyncio.wait(stopping, timeout=min(1.0, GRACE))
        for task, request in stopping.items():
            if not task.done():
                # Or it would be delivered again, and the next server would be stopped.
                await self._answer(request, self._encode(None, {OUTCOME: OK}))

    async def _serve(self, request: _Request) -> None:
        _HANDLING.set(request)
        try:
            reply = await self._handled(request)
            if reply is None:
                request.delivery.ack()
            else:
                await self._answer(request, reply)
        except BaseException as exc:
            gone = not isinstance(exc, Exception)
            request.delivery.reject(requeue=gone)
            if gone:
                raise
            log.error("a request is given up: %s: %s", type(exc).__name__, _text(exc), exc_info=exc)

    # Replying

    async def _answer(self, request: _Request, reply: Envelope) -> None:
        """Send a reply, and settle the request: given back to its source when that cannot be done."""
        delivery, headers = request.delivery, request.headers
        if delivery.settled:
            return
        address = headers.get(_REPLY_TO)
        if not address:
            if reply.headers.get(OUTCOME) != OK:
                delivery.reject()  # its source may keep dead letters
            delivery.ack()
            return
        if _CORRELATION in headers:
            reply.headers[_CORRELATION] = headers[_CORRELATION]
        try:
            await self._send(request, address, reply)
        except Rejected as exc:
            log.info("who sent %s waits no longer: %s", _name(headers), exc)
        except DeliveryError as exc:
            log.warning("the reply to %s could not be sent: %s", _name(headers), exc)
            if not (request.late or request.stops):
                delivery.reject(requeue=True)
        delivery.ack()

    async def _send(self, request: _Request, address: str, reply: Envelope) -> None:
        """Send a reply, if need be again and again: handled again, the request would do its work twice."""
        end = time.time() + REPLYING if request.end is None else request.end
        failures = 0
        while True:
            try:
                return await self._link.reply(address, reply)
            except Rejected:
                raise
            except DeliveryError:
                failures += 1
                pause = backoff(failures, *PAUSE)
                if time.time() + pause >= end or request.stops:
                    raise
            await asyncio.sleep(pause)

    # Handling

    async def _handled(self, request: _Request) -> Envelope | None:
        """Return the reply to a request, None when its time is up."""
        found = message = None
        try:
            left = _left(request)
            if left is not None and left <= 0:
                self.expired += 1
                return None
            found = self._named(request.delivery.envelope)
            message = self._message(found, request.delivery.envelope)
            key = request.headers.get(KEY)
            # A handler may raise what looks like a cancellation, when a library of its is closed.
            handling = found.router.handle(message, key, True, left, Received(request.headers))
            reply = self._encode(await call(handling, 0), {OUTCOME: OK})
        except Exception as exc:
            if request.late:
                self.expired += 1
                return None
            self.failed += 1
            return self._failure(request, exc, found, message)
        self.handled += 1
        return reply

    def _failure(self, request: _Request, problem: Exception, found: _Found | None, message: Any) -> Envelope:
        if request.headers.get(_REPLY_TO):
            log.debug("%s failed", _name(request.headers), exc_info=problem)
        elif found is not None and message is not None:
            frame = Frame(None, request.headers.get(KEY), None, None, None)
            found.router.report(found.binding, message, frame, problem)
        else:
            log.error("a request that asks for no reply is given up: %s", _text(problem))
        said = {"type": type(problem).__name__, "reason": _text(problem)}
        return self._encode(said, {OUTCOME: ERROR})

    def _message(self, found: _Found, request: Envelope) -> Any:
        if found.read is None:
            return found.binding.message
        return found.read(self._decode(request.headers.get(CONTENT_TYPE, ""), request.body))

    def _named(self, request: Envelope) -> _Found:
        """Return what a request's name stands for: a message that is bound here, and nothing else."""
        name = request.headers.get(MESSAGE) or request.routing_key
        found = self._names.get(name)
        if found is None:
            found = self._names[name] = self._find(name)
        return found

    def _find(self, name: str) -> _Found:
        bound = [
            (kind, router, binding)
            for router in self._routers
            for binding in router.bindings()
            if binding.handled_here
            for kind in _kinds(binding.message)
        ]
        named = [each for each in bound if wire_name(each[0]) == name]
        exact = [each for each in named if each[0] == each[2].message]
        # A class with slots has a forerunner of the same name, which goes with the next garbage.
        found = exact or list({_full_name(each[0]): each for each in named}.values())
        if not found:
            known = {wire_name(kind) for kind, _, binding in bound if kind == binding.message}
            hint = nearest(name[:_LONGEST], known)
            raise HandlerDoesNotExist(f"there is no handler for {one_line(name, _LONGEST)}{hint}")
        if len(found) > 1:
            names = ", ".join(sorted(f"{_full_name(kind)} in {router.name}" for kind, router, _ in found))
            raise HandlerExists(f"several messages are called {one_line(name)}: {names}; rename one of them")
        kind, router, binding = found[0]
        return _Found(router, binding, None if isinstance(kind, str) else reader(kind))


def _kinds(message: Any) -> Iterator[Any]:
    """Yield a bound message and the classes derived from it, as far as their instances can travel."""
    if isinstance(message, str):
        yield message
    elif travels(message):
        yield message
        for derived in message.__subclasses__():
            yield from _kinds(derived)


def _full_name(message: Any) -> str:
    return f"{getattr(message, '__module__', 'the string')}.{message_name(message)}"


def _name(headers: Mapping[str, str]) -> str:
    return one_line(headers.get(MESSAGE, "a request"), _LONGEST)


def _text(problem: BaseException) -> str:
    try:
        return one_line(str(problem))
    except Exception as exc:
        return f"(its text cannot be had: {type(exc).__name__})"


def _left(request: _Request) -> float | None:
    """Return the seconds that are left for a request, None when it has no deadline."""
    deadline = request.headers.get(DEADLINE)
    if deadline is None:
        return None
    try:
        end = float(deadline)
    except ValueError:
        end = math.nan
    if not math.isfinite(end):
        raise InvalidPayload(
            f"the header {DEADLINE} is in seconds since the epoch, and not {one_line(deadline, 50)}"
        )
    request.end = end
    return end - time.time()


async def served(task: asyncio.Task[None]) -> None:
    """Wait for a server's task. Cancelled, cancel it; that somebody else does is its regular end."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as exc:
            # As often as this is: cancelled once more, a server waits for nothing.
            cancelled = exc
            task.cancel()
    problem = None if task.cancelled() else task.exception()
    if cancelled is not None:
        raise cancelled
    if problem is not None:
        raise problem
