"""Commands and queries that come from other processes."""

from __future__ import annotations

import asyncio
import logging
import math
import operator
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextvars import Context, ContextVar, copy_context
from typing import Any

from evbus.engine.call.forward import ANSWERS, DEADLINE, ERROR, EVENT_ID, KEY, MESSAGE, OK, OUTCOME, decoded
from evbus.engine.call.requests import RequestLink
from evbus.engine.codec.resolve import unreadable
from evbus.engine.codec.typed import reader, travels, wants_digits
from evbus.engine.codec.wrapped import named
from evbus.engine.core.intake.bridge import Bridge
from evbus.engine.handling.annotations import message_name
from evbus.engine.handling.binding import Binding
from evbus.engine.handling.dispatch.kinds import RequestRouter
from evbus.engine.handling.dispatch.publish import wire_name
from evbus.engine.handling.frame import CURRENT, Invocation
from evbus.engine.kit.backoff import backoff
from evbus.engine.kit.redact import one_line, problem_text, said, text_of
from evbus.engine.kit.waiting import call, failure_of, running
from evbus.engine.kit.weight import UNBOUNDED
from evbus.errors import (
    ConnectionLost,
    DeliveryError,
    EvbusError,
    HandlerDoesNotExist,
    HandlerError,
    HandlerExists,
    HandlerSignatureError,
    InvalidPayload,
    PayloadTooLarge,
    Rejected,
    Unavailable,
)
from evbus.types import Delivery, Envelope, Origin, too_often

__all__ = ["RequestServer", "served", "stand_by"]

log = logging.getLogger("evbus.dispatch")

#: By its name: a bridge counts what it has handed on, and does more than the base.
_DROP = operator.methodcaller("drop")

_REPLY_TO, _CORRELATION = "reply-to", "correlation-id"

#: Seconds for which a reply is tried that is refused, when its request has no deadline.
REPLYING = 60.0
#: Seconds for which who asked is told that the reply cannot be sent.
TELLING = 5.0
#: How often the connection may break with a reply alone in flight. The first time says nothing.
BREAKS = 2
#: Requests that are remembered because their reply could not be sent: they may be on their way here again.
REMEMBERED = 1000
#: Seconds between two attempts.
PAUSE = (0.05, 5.0)
#: Seconds that cancelled handlers have to end, and handlers that stop the dispatcher to return.
GRACE = 5.0

#: Most characters of a foreign name that are repeated.
_LONGEST = 200


def _name_in(envelope: Envelope) -> str:
    """Return the name of the message in an envelope."""
    return envelope.headers.get(MESSAGE) or envelope.routing_key


class _ServedBinding(Binding):
    """A binding as others reach it: called with an :class:`_Incoming`, it reads its envelope's message.

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

    async def _called(self, request: _Incoming) -> Any:
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
                f"the request came as {self.wire_name}, and is {one_line(name, _LONGEST)} once the pipeline "
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
        raise HandlerDoesNotExist(f"there is no handler for {one_line(name, _LONGEST)}")


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


class _Incoming:
    """A request that is being handled.

    :ivar end: until when, in seconds since the epoch; None for ever.
    :ivar message: what was read when the interceptors have let it through, and ``context`` the context within
        them, None before.
    :ivar served: who handles it, once that is known.
    :ivar stops: its handler stops the dispatcher, and so cannot be waited for.
    :ivar handled: its handler has ended, or it has none.
    :ivar answered: its reply was sent, or given up.
    :ivar breaks: how often the connection broke with its reply alone in flight.
    """

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery
        self.headers = delivery.envelope.headers
        self.context: Context | None = None
        self.message: Any = None
        self.served: _ServedBinding | None = None
        self.end: float | None = None
        self.stops = False
        self.handled = False
        self.answered = False
        self.breaks = 0

    @property
    def begun(self) -> bool:
        """Whether its handler was called; before that, another process may as well have it."""
        return self.handled or self.context is not None

    @property
    def late(self) -> bool:
        """Whether nobody waits for the reply any more."""
        return self.end is not None and time.time() >= self.end

    def asks_as(self, other: _Incoming) -> bool:
        """Return whether both want the same reply."""
        return all(
            self.headers.get(name, "") == other.headers.get(name) for name in (_REPLY_TO, _CORRELATION)
        )

    @property
    def identity(self) -> tuple[str, str, str, int]:
        """The identity of a request, by which it is known when it comes again, even without an id."""
        envelope, headers = self.delivery.envelope, self.headers
        return (
            headers.get(_REPLY_TO, ""),
            headers.get(_CORRELATION, ""),
            headers.get(MESSAGE, envelope.routing_key),
            hash(envelope.body),
        )


_HANDLING: ContextVar[_Incoming | None] = ContextVar("evbus_request", default=None)


def stand_by() -> None:
    """Tell the server of the request that is handled here that its handler waits for the server's end."""
    request = _HANDLING.get()
    if request is not None:
        request.stops = True


class RequestServer:
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
        self._core = routers[0].core
        self._messages = _ServedMessages(routers, decode)
        self._link = link
        self._encode = encode
        self._prepare = prepare
        self._max_body = max_body
        self._max_deliveries = max_deliveries
        self._origin: Origin | None = None
        self._tasks: dict[asyncio.Task[None], _Incoming] = {}
        # Those whose replies could not be sent; the oldest is forgotten first.
        self._given_up: dict[tuple[str, str, str, int], None] = {}
        self.handled = self.failed = self.expired = self.dropped = self.unanswered = 0

    def __repr__(self) -> str:
        names = ("handled", "failed", "expired", "dropped", "unanswered")
        counts = " ".join(f"{name}={getattr(self, name)}" for name in names)
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
        origin = delivery.origin
        if origin is not self._origin:
            self._origin = origin
            if origin is not None:
                origin.watch(self._lost)
        delivery.envelope = named(delivery.envelope)
        request = _Incoming(delivery)
        task = asyncio.get_running_loop().create_task(self._serve(request), name="evbus-serve")
        self._tasks[task] = request
        task.add_done_callback(self._tasks.pop)

    def _lost(self, origin: Origin) -> None:
        self._let_go(lambda delivery: delivery.origin is origin, _DROP)

    def _let_go(self, which: Callable[[Delivery], bool], settle: Callable[[Delivery], None]) -> None:
        """Leave those requests to their source whose handlers were not called."""
        for task, request in list(self._tasks.items()):
            if not request.begun and which(request.delivery):
                settle(request.delivery)
                task.cancel()

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
        """Give back what was not begun; return when only what cannot end before the server is handled."""
        self._let_go(lambda _: True, Delivery.give_back)
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
                try:
                    reply = self._reply(request, None, OK)
                except Exception as exc:
                    reply = self._failure(request, exc)
                await self._answer(request, reply)

    async def _serve(self, request: _Incoming) -> None:
        _HANDLING.set(request)
        task = asyncio.current_task()
        try:
            if request.delivery.redelivered and await self._answered_before(request):
                request.delivery.ack()
                return
            reply = await self._handled(request)
            request.handled = True
            if reply is None:
                request.delivery.ack()
            else:
                await self._answer(request, reply)
        except BaseException as exc:
            try:
                problem = failure_of(exc, task if running() is task else None)
            except BaseException:
                request.delivery.give_back()
                raise
            request.delivery.reject()
            log.error("a request is given up: %s", problem_text(problem), exc_info=exc)

    # Replying

    async def _answer(self, request: _Incoming, reply: Envelope) -> None:
        """Send a reply, and settle the request, which was handled: it is not to be handled again.

        Who asked is told when the reply is none that can be sent. When nothing can be sent, nobody waits.
        """
        delivery, headers = request.delivery, request.headers
        if delivery.settled:
            return
        address = headers.get(_REPLY_TO)
        if not address:
            if reply.headers.get(OUTCOME) != OK:
                delivery.reject()  # its source may keep dead letters
            delivery.ack()
            return
        try:
            await self._send(request, address, reply)
        except DeliveryError as exc:
            if request.late or request.stops:
                self._unanswered(request, exc)
            else:
                await self._tell(request, address, exc)
        request.answered = True
        delivery.ack()

    async def _tell(self, request: _Incoming, address: str, problem: DeliveryError) -> None:
        """Tell the requester that a reply cannot be sent, and remember it, as the request may come again."""
        if len(self._given_up) >= REMEMBERED:
            del self._given_up[next(iter(self._given_up))]
        self._given_up[request.identity] = None
        why = DeliveryError(f"it was handled, and its reply could not be sent: {said(problem)}")
        try:
            await self._send(request, address, self._failure(request, why), TELLING)
        except DeliveryError:
            self._unanswered(request, problem)
        else:
            log.warning(
                "the reply to %s could not be sent, and who asked was told so: %s",
                _name(request.headers),
                said(problem),
            )

    def _unanswered(self, request: _Incoming, problem: DeliveryError) -> None:
        self.unanswered += 1
        log.warning(
            "%s was handled, and its reply could not be sent; perhaps nobody waits for it any more: %s",
            _name(request.headers),
            said(problem),
        )

    async def _send(
        self, request: _Incoming, address: str, reply: Envelope, most: float | None = None
    ) -> None:
        """Send a reply, if need be again and again: handled again, the request would do its work twice.

        While there is no connection it waits for one, as long as somebody waits for the reply.

        :param most: seconds for which it is tried at the most.
        """
        correlation = request.headers.get(_CORRELATION)
        if correlation is not None:
            reply.headers[_CORRELATION] = correlation
        end = time.time() + (REPLYING if most is None else most)
        if request.end is not None:
            end = request.end if most is None else min(end, request.end)
        failures, breaks, told = 0, request.breaks + BREAKS, False
        while True:
            try:
                return await self._link.reply(address, reply)
            except Rejected:
                raise
            except DeliveryError as exc:
                failures += 1
                pause = backoff(failures, *PAUSE)
                if isinstance(exc, ConnectionLost) and exc.alone:
                    request.breaks += 1
                late = time.time() + pause >= end
                waits = isinstance(exc, Unavailable) and request.end is None and most is None
                if (late and not waits) or request.stops or request.breaks >= breaks:
                    raise
                if late and not told:
                    told = True
                    log.warning(
                        "the reply to %s cannot be sent yet, and is tried until it can be: %s",
                        _name(request.headers),
                        said(exc),
                    )
            await asyncio.sleep(pause)

    async def _answered_before(self, request: _Incoming) -> bool:
        """Return whether a request comes again because of its reply, which breaks the connection.

        While the one that came before may still be answered, wait for that.
        """
        identity = request.identity
        for task, other in list(self._tasks.items()):
            if other is not request and other.breaks and other.identity == identity:
                await asyncio.wait({task})
                if other.answered:
                    return True
        return identity in self._given_up

    # Handling

    async def _handled(self, request: _Incoming) -> Envelope | None:
        """Return the reply to a request, None when there is to be none: its time is up, or it is dropped."""
        try:
            left = _left(request)
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

    def _repeated(self, request: _Incoming, problem: Exception) -> bool:
        """Return whether a request was refused while the same one, delivered before, is handled here.

        That one brings the reply, which an error may not forestall.
        """
        return (
            isinstance(problem, Rejected)
            and request.context is None
            and request.delivery.redelivered
            and any(other is not request and other.asks_as(request) for other in self._tasks.values())
        )

    def _failure(self, request: _Incoming, problem: Exception) -> Envelope:
        served = request.served
        if request.headers.get(_REPLY_TO):
            log.debug("%s failed", _name(request.headers), exc_info=problem)
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
                "pipeline plugins do not let a failure of %s be told: %s", _name(request.headers), said(exc)
            )
            return self._encode(failure, {OUTCOME: ERROR})

    def _reply(self, request: _Incoming, body: Any, outcome: str) -> Envelope:
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


def _name(headers: Mapping[str, str]) -> str:
    return one_line(headers.get(MESSAGE, "a request"), _LONGEST)


def _left(request: _Incoming) -> float | None:
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
