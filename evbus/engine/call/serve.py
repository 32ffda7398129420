"""Commands and queries that come from other processes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from contextvars import copy_context
from typing import Any

from evbus.engine.call.forward import ANSWERS, ERROR, EVENT_ID, KEY, MESSAGE, OK, OUTCOME, decoded
from evbus.engine.call.replies import LONGEST, REPLY_TO, Incoming, ReplyServer, name_of
from evbus.engine.call.requests import RequestLink
from evbus.engine.codec.resolve import unreadable
from evbus.engine.codec.typed import reader, travels, wants_digits
from evbus.engine.codec.wrapped import named
from evbus.engine.handling.annotations import message_name
from evbus.engine.handling.binding import Binding
from evbus.engine.handling.dispatch.kinds import RequestRouter
from evbus.engine.handling.dispatch.publish import wire_name
from evbus.engine.handling.frame import CURRENT, Invocation
from evbus.engine.kit.redact import one_line, said, text_of
from evbus.engine.kit.waiting import call, failure_of, running
from evbus.engine.kit.weight import UNBOUNDED
from evbus.errors import (
    HandlerDoesNotExist,
    HandlerError,
    HandlerExists,
    HandlerSignatureError,
    InvalidPayload,
    PayloadTooLarge,
    Rejected,
)
from evbus.types import Delivery, Envelope, too_often

__all__ = ["RequestServer", "served"]

log = logging.getLogger("evbus.dispatch")


def _name_in(envelope: Envelope) -> str:
    """Return the name of the message in an envelope."""
    return envelope.headers.get(MESSAGE) or envelope.routing_key


class _ServedBinding(Binding):
    """A binding as others reach it: called with an :class:`_RoutedRequest`, it reads its envelope's message.

    :param kind: the message's class, or a string.
    :ivar router: that of ``bound``.
    :ivar wire_name: what the message is called outside.
    """

    __slots__ = ("_decode", "_exactly", "_read", "bound", "router", "wire_name")

    def __init__(
        self, kind: Any, router: RequestRouter, bound: Binding, decode: Callable[[str, bytes, bool], Any]
    ) -> None:
        super().__init__(bound.message, bound.handler, self._called, bound.name)
        self.message_name = message_name(kind)
        self.leaves, self.alone = bound.leaves, bound.alone
        self.router = router
        self.bound = bound
        self.wire_name = wire_name(kind)
        self._exactly = not isinstance(kind, str) and wants_digits(kind)
        self._read = None if isinstance(kind, str) else reader(kind, digits=self._exactly)
        self._decode = decode

    async def _called(self, request: _RoutedRequest) -> Any:
        frame = CURRENT.get()
        assert frame is not None
        assert frame.envelope is not None
        request.context = copy_context()
        request.message = self._message(frame.envelope)
        return await self.bound.call(request.message)

    def _message(self, envelope: Envelope) -> Any:
        name = _name_in(envelope)
        if name != self.wire_name:
            # Or what was signed as one thing would be handled as another.
            raise InvalidPayload(
                f"the request came as {self.wire_name}, and is {one_line(name, LONGEST)} once the pipeline "
                f"plugins have seen it; name it in the header {MESSAGE}"
            )
        if self._read is None:
            return self.wire_name
        return self._read(decoded(self._decode, envelope, exactly=self._exactly))

    async def left(self, result: Any, frame: Invocation) -> list[Any]:
        """Return the events to send after a success."""
        return await self.bound.left(result, frame)

    async def discard(self) -> None:
        """Forget the events of a handler that has failed."""
        await self.bound.discard()


class _ServedMessages:
    """The messages that others can have handled here, by their names.

    :param routers: those that have the handlers.
    :param decode: makes plain values of a body: ``(content type, body, exactly)``.
    :raises HandlerSignatureError: one of their classes cannot be read, as a name in it means nothing.
    """

    def __init__(self, routers: tuple[RequestRouter, ...], decode: Callable[[str, bytes, bool], Any]) -> None:
        self._routers = routers
        self._decode = decode
        self._found: dict[str, _ServedBinding] = {}
        for kind, _, binding in self._bound():
            _check_names(kind, binding)

    def find(self, name: str) -> _ServedBinding:
        """Return the message of a name: one that is bound here, and nothing else.

        :raises HandlerDoesNotExist: no such message is bound.
        :raises HandlerExists: several are.
        """
        if name not in self._found:
            self._found[name] = self._find(name)
        return self._found[name]

    def _bound(self) -> list[tuple[Any, RequestRouter, Binding]]:
        return [
            (kind, router, binding)
            for router in self._routers
            for binding in router.bindings()
            if binding.handled_here
            for kind in _kinds(binding.message)
        ]

    def _find(self, name: str) -> _ServedBinding:
        named = [each for each in self._bound() if wire_name(each[0]) == name]
        exact = [each for each in named if each[0] == each[2].message]
        # A class with slots has a forerunner of the same name, which goes with the next garbage.
        found = exact or list({_full_name(each[0]): each for each in named}.values())
        if len(found) > 1:
            names = ", ".join(sorted(f"{_full_name(kind)} in {router.name}" for kind, router, _ in found))
            raise HandlerExists(f"several messages are called {one_line(name)}: {names}; rename one of them")
        for kind, router, _ in found:
            # The one of the nearest base, which may be in yet another process.
            (nearest_one,) = router.find(kind)
            if nearest_one.handled_here:
                return _ServedBinding(kind, router, nearest_one, self._decode)
        # Whoever asks from outside is not told which others there are.
        raise HandlerDoesNotExist(f"there is no handler for {one_line(name, LONGEST)}")


def _check_names(kind: Any, binding: Binding) -> None:
    try:
        if not isinstance(kind, str):
            reader(kind)
    except NameError as exc:
        reason = f"it cannot be served: {unreadable(kind, exc)}"
        raise HandlerSignatureError(reason, message=message_name(kind), handler=binding.name) from None
    except TypeError:
        pass  # said to who asks for it


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


class _RoutedRequest(Incoming):
    """A command or a query that is being handled.

    :ivar message: what was read when the interceptors have let it through.
    :ivar served: who handles it, once that is known.
    """

    def __init__(self, delivery: Delivery) -> None:
        super().__init__(delivery)
        self.message: Any = None
        self.served: _ServedBinding | None = None


class RequestServer(ReplyServer):
    """Handles requests that come in as deliveries, and replies to them.

    How many are handled at once the routers decide, and how many wait for that the source's ``prefetch``.

    :param routers: those that have the handlers: of commands and of queries.
    :param link: where replies go.
    :param encode: makes an envelope of ``(body, headers)``.
    :param decode: makes plain values of a body: ``(content type, body, exactly)``.
    :param prepare: runs the interceptors' ``send`` over a reply.
    :param max_body: bytes that the body of a request may have.
    :param max_deliveries: how often a request may be delivered where that is counted; 0: any number.
    :ivar handled: requests whose handlers succeeded.
    :ivar failed: those that were answered with an error.
    :ivar expired: those whose time was up before they were handled, or while they were.
    :ivar dropped: those that the interceptors did not hand on, as they were handled before.
    :ivar unanswered: those that were handled, and whose reply could not be sent.
    """

    def __init__(
        self,
        routers: tuple[RequestRouter, ...],
        link: RequestLink,
        encode: Callable[[Any, Mapping[str, str]], Envelope],
        decode: Callable[[str, bytes, bool], Any],
        prepare: Callable[[Envelope], None],
        max_body: int = UNBOUNDED,
        max_deliveries: int = 0,
    ) -> None:
        super().__init__(link)
        self._core = routers[0].core
        self._messages = _ServedMessages(routers, decode)
        self._encode = encode
        self._prepare = prepare
        self._max_body = max_body
        self._max_deliveries = max_deliveries
        self.handled = self.failed = self.expired = self.dropped = 0

    def __repr__(self) -> str:
        names = ("handled", "failed", "expired", "dropped", "unanswered")
        counts = " ".join(f"{name}={getattr(self, name)}" for name in names)
        return f"<Server running={len(self._tasks)} {counts}>"

    def _incoming(self, delivery: Delivery) -> _RoutedRequest:
        delivery.envelope = named(delivery.envelope)
        return _RoutedRequest(delivery)

    def _ended(self, request: _RoutedRequest) -> Envelope:
        return self._reply(request, None, OK)

    async def _handled(self, request: _RoutedRequest) -> Envelope | None:
        """Return the reply to a request, None when there is to be none: its time is up, or it is dropped."""
        try:
            left = request.left()
            if left is not None and left <= 0:
                self.expired += 1
                return None
            envelope = request.delivery.envelope
            if self._max_deliveries and (refused := too_often(request.delivery, self._max_deliveries)):
                raise refused
            if len(envelope.body) > self._max_body:
                raise PayloadTooLarge(len(envelope.body), self._max_body)
            # What a profile made of the routing key says nothing to the interceptors.
            envelope = envelope.replace(routing_key=_name_in(envelope))
            try:
                served = request.served = self._served(envelope)
            except (HandlerError, InvalidPayload) as exc:
                handling, seconds = self._unserved(envelope, exc), left or 0
            else:
                key = request.headers.get(KEY)
                handling, seconds = served.router.receive(served, request, key, left, envelope), 0
            # A handler may raise what looks like a cancellation, when a library of its is closed.
            result = await call(handling, seconds)
            if result is None and request.context is None:
                self.dropped += 1
                return None
            reply = self._reply(request, result, OK)
        except Exception as exc:
            if request.late:
                self.expired += 1
                return None
            if self._repeated(request, exc):
                self.dropped += 1
                return None
            self.failed += 1
            return self._failure(request, exc)
        self.handled += 1
        return reply

    def _served(self, envelope: Envelope) -> _ServedBinding:
        if OUTCOME in envelope.headers:
            raise InvalidPayload(f"this is a reply, and no request: it has the header {OUTCOME}")
        return self._messages.find(_name_in(envelope))

    async def _unserved(self, envelope: Envelope, problem: Exception) -> Any:
        """Raise why a request is not handled, to whom the interceptors would let have it handled."""

        async def fail(_: Envelope) -> None:
            raise problem

        around = self._core.around
        return await (fail(envelope) if around is None else around(envelope, fail))

    def _repeated(self, request: _RoutedRequest, problem: Exception) -> bool:
        """Return whether a request was refused while the same one, delivered before, is handled here.

        That one brings the reply, which an error may not forestall.
        """
        return (
            isinstance(problem, Rejected)
            and request.context is None
            and request.delivery.redelivered
            and any(other is not request and other.asks_as(request) for other in self._tasks.values())
        )

    def _failure(self, request: _RoutedRequest, problem: Exception) -> Envelope:
        served = request.served
        if request.headers.get(REPLY_TO):
            log.debug("%s failed", name_of(request.headers), exc_info=problem)
        elif served is not None and request.message is not None:
            frame = Invocation(None, request.headers.get(KEY), None, None, None)
            served.router.report(served.bound, request.message, frame, problem)
        else:
            log.error("a request that asks for no reply is given up: %s", said(problem))
        failure = {"type": type(problem).__name__, "reason": text_of(problem)}
        try:
            return self._reply(request, failure, ERROR)
        except Exception as exc:
            log.error(
                "pipeline plugins do not let a failure of %s be told: %s", name_of(request.headers), said(exc)
            )
            return self._encode(failure, {OUTCOME: ERROR})

    def _reply(self, request: _RoutedRequest, body: Any, outcome: str) -> Envelope:
        """Return a reply as it leaves: the interceptors send it from where they had let the request to."""
        reply = self._encode(body, {OUTCOME: outcome})
        received = request.delivery.envelope
        reply.profile = received.profile
        if request.served is not None:
            reply.routing_key = request.served.wire_name
        if EVENT_ID in received.headers:
            reply.headers[ANSWERS] = received.headers[EVENT_ID]
        context = request.context or copy_context()
        try:
            context.run(self._prepare, reply)
        except BaseException as exc:
            # An interceptor may raise anything, as what it wraps may.
            raise failure_of(exc, running()) from exc
        return reply


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
