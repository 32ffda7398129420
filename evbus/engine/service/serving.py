"""Calls that come over a broker, from the queue of a component, and the replies to them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextvars import copy_context

from evbus.engine.call.forward import MESSAGE, passed_on
from evbus.engine.call.replies import Incoming, ReplyServer
from evbus.engine.call.requests import RequestLink
from evbus.engine.codec.wrapped import unencoded
from evbus.engine.kit.redact import one_line, problem_text
from evbus.engine.service.body import call_in, failed, stream_of
from evbus.engine.service.encoding import JSON, MSGPACK, Encoding
from evbus.engine.service.failures import MethodFailed, refusal, status_of, told
from evbus.engine.service.guard import Guard
from evbus.engine.service.hosted import Hosted, HostedMethod
from evbus.engine.service.messages import STATUS
from evbus.engine.service.settings import MessageSettings
from evbus.errors import (
    EvbusError,
    InvalidPayload,
    InvalidResult,
    PayloadTooLarge,
    ServiceCommunicationError,
    Unavailable,
)
from evbus.types import CONTENT_TYPE, Delivery, Envelope, Subscription

__all__ = ["MessageServer", "ServedQueues"]

log = logging.getLogger("evbus.service")

#: Seconds until a server is left to itself that was cancelled; its own patience ends before.
_FOREVER = 10_000_000.0
#: Headers of the message in which a call comes, and what says who calls.
_OF_MESSAGE = frozenset({MESSAGE, "expiration", "expires", "authorization"})


class MessageServer(ReplyServer):
    """Takes the calls of one queue.

    :param link: where replies go.
    :param guard: says who calls, None where nobody is asked.
    """

    drains = True

    def __init__(
        self, link: RequestLink, hosted: Hosted, guard: Guard | None, settings: MessageSettings
    ) -> None:
        super().__init__(link)
        self.stopping = False
        self._hosted = hosted
        self._guard = guard
        self._settings = settings

    def __repr__(self) -> str:
        return f"<MessageServer {self.active} calls>"

    @property
    def active(self) -> int:
        """Calls that are under way."""
        return len(self._tasks)

    def _incoming(self, delivery: Delivery) -> Incoming:
        request = Incoming(delivery)
        # It is begun at once, and stays here.
        request.context = copy_context()
        return request

    async def _handled(self, request: Incoming) -> Envelope | None:
        encoding = MSGPACK
        try:
            left = request.left()
            if left is not None and left <= 0:
                return None
            encoding = _encoding_of(request)
            if self.stopping:
                raise Unavailable("this server is stopping")
            return await self._called(request, encoding, left)
        except Exception as exc:
            if request.late:
                return None
            return self._refused(encoding, exc)

    async def _called(self, request: Incoming, encoding: Encoding, seconds: float | None) -> Envelope | None:
        headers, body = request.headers, request.delivery.envelope.body
        caller = None
        if self._guard is not None:
            caller = await self._guard.caller(authorization=headers.get("authorization", ""))
        if len(body) > self._settings.max_body:
            raise PayloadTooLarge(len(body), self._settings.max_body)
        name, args, kwargs = call_in(encoding.decode(body))
        method = self._hosted.find(name, caller)
        spec = method.spec
        if spec.item is not None or stream_of(spec) is not None:
            raise InvalidPayload(f"{spec.title} has a stream, and streams do not travel over a broker")
        if spec.exact:
            _, args, kwargs = call_in(encoding.exact(body))
        if request.delivery.redelivered and self._came_before(request, method):
            return None
        try:
            result = await self._hosted.call(
                method, args, kwargs, headers=_of_call(headers), seconds=seconds, caller=caller
            )
            try:
                data = spec.results.answer(encoding, result, method.component)
            except InvalidResult as exc:
                raise MethodFailed(exc, spec) from exc
        except MethodFailed as exc:
            data = encoding.encode(failed(told(spec, exc)))
        return _reply(encoding, data)

    def _came_before(self, request: Incoming, method: HostedMethod) -> bool:
        """Return whether a call that was delivered before is under way here, and brings the reply itself.

        :raises ServiceCommunicationError: another server may have begun it, and it is not to run twice.
        """
        if any(other is not request and other.asks_as(request) for other in self._tasks.values()):
            return True
        if not method.spec.options.idempotent:
            raise ServiceCommunicationError(
                "a server had this call before, and ended or lost its connection before it had answered: it "
                "may have been begun, and is not run again; a method that may run twice is declared with "
                "@method(idempotent=True)",
                handed_over=True,
            )
        return False

    def _refused(self, encoding: Encoding, problem: Exception) -> Envelope:
        if not isinstance(problem, EvbusError):
            log.error("a call could not be answered", exc_info=problem)
        answer = {**failed(refusal(problem)), STATUS: status_of(problem)}
        return _reply(encoding, encoding.encode(answer))

    def _failure(self, request: Incoming, problem: Exception) -> Envelope:
        answer = {**failed(refusal(problem)), STATUS: 500}
        return _reply(JSON, JSON.encode(answer))

    def _ended(self, request: Incoming) -> Envelope:
        return _reply(JSON, JSON.encode({"result": None, "exception": None}))


class ServedQueues:
    """The queues of the components of this process, and what takes calls from them.

    :param channel: its name, for errors.
    :param server: makes a server for the calls of a queue.
    :param deliveries: consumes from a queue.
    :param most: calls of a queue that are worked on at once.
    """

    def __init__(
        self,
        channel: str,
        server: Callable[[], MessageServer],
        deliveries: Callable[[Subscription], AsyncGenerator[Delivery, None]],
        most: int,
    ) -> None:
        self._channel = channel
        self._most = most
        self._server = server
        self._deliveries = deliveries
        self._serving: dict[asyncio.Task[None], MessageServer] = {}
        self._left = 0

    def __repr__(self) -> str:
        return f"<ServedQueues {self._channel} {len(self._serving)}>"

    async def serve(self, queue: str, *, at_once: bool) -> None:
        """Take calls from a queue until stopped; return when the broker delivers them.

        :param at_once: return before that, as the broker may be away.
        :raises DeliveryError: that cannot be.
        """
        ready, server = asyncio.Event(), self._server()
        wanted = Subscription(name=queue, durable=False, prefetch=self._most, drain=True, on_ready=ready.set)
        serving = server.run(self._deliveries(wanted), _FOREVER)
        task = asyncio.create_task(serving, name=f"evbus-serve-{queue}")
        self._serving[task] = server
        if not at_once:
            there = asyncio.ensure_future(ready.wait())
            try:
                await asyncio.wait({task, there}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                there.cancel()
            if task.done():
                del self._serving[task]
                await task
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        problem = None if task.cancelled() else task.exception()
        if problem is not None:
            log.error(
                "the channel %s takes no calls any more: %s", self._channel, one_line(problem_text(problem))
            )

    async def stop(self, seconds: float) -> int:
        """Take no more calls, and end when those under way have; return how many were cancelled."""
        tasks = [task for task in self._serving if not task.done()]
        for task in tasks:
            self._serving[task].stopping = True
            task.cancel()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=seconds)
            self.hurry()
            if late:
                await asyncio.wait(late)
        self._serving.clear()
        return self._left

    def hurry(self) -> None:
        """Let a stop that is under way wait for no call any more."""
        for task, server in self._serving.items():
            if not task.done() and server.stopping:
                self._left += server.active
                task.cancel()


def _of_call(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of a call without those of its message."""
    return passed_on(headers, _OF_MESSAGE)


def _encoding_of(request: Incoming) -> Encoding:
    kind, compressed = request.headers.get(CONTENT_TYPE, ""), request.headers.get("content-encoding")
    if compressed is not None and not unencoded(compressed):
        raise InvalidPayload(f"the content encoding is {one_line(compressed, 50)!r}; a call is sent as it is")
    for encoding in (MSGPACK, JSON):
        if encoding.reads(kind):
            return encoding
    shown = one_line(kind or "without a content type", 100)
    raise InvalidPayload(f"a call is {MSGPACK.type} or {JSON.type}, and this one is {shown}")


def _reply(encoding: Encoding, body: bytes) -> Envelope:
    return Envelope("", "", body, {CONTENT_TYPE: encoding.type})
