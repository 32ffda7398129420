"""Requests that come in as deliveries, and the replies to them."""

from __future__ import annotations

import asyncio
import logging
import math
import operator
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Mapping
from contextvars import Context, ContextVar
from typing import Any

from evbus.engine.call.forward import DEADLINE, MESSAGE, OK, OUTCOME
from evbus.engine.call.requests import RequestLink
from evbus.engine.core.intake.bridge import Bridge
from evbus.engine.kit.backoff import backoff
from evbus.engine.kit.redact import one_line, problem_text, said
from evbus.engine.kit.waiting import failure_of, running
from evbus.errors import (
    ConnectionLost,
    DeliveryError,
    EvbusError,
    InvalidPayload,
    Rejected,
    Unavailable,
)
from evbus.types import Delivery, Envelope, Origin

__all__ = ["LONGEST", "REPLY_TO", "Incoming", "ReplyServer", "name_of", "stand_by"]

log = logging.getLogger("evbus.dispatch")

#: By its name: a bridge counts what it has handed on, and does more than the base.
_DROP = operator.methodcaller("drop")

REPLY_TO, CORRELATION = "reply-to", "correlation-id"

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
LONGEST = 200


class Incoming:
    """A request that is being handled.

    :ivar end: until when, in seconds since the epoch; None for ever.
    :ivar context: the context within the interceptors, once they have let it through; None before.
    :ivar stops: its handler stops the dispatcher, and so cannot be waited for.
    :ivar handled: its handler has ended, or it has none.
    :ivar answered: its reply was sent, or given up.
    :ivar breaks: how often the connection broke with its reply alone in flight.
    """

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery
        self.headers = delivery.envelope.headers
        self.context: Context | None = None
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

    def asks_as(self, other: Incoming) -> bool:
        """Return whether both want the same reply."""
        return all(self.headers.get(name, "") == other.headers.get(name) for name in (REPLY_TO, CORRELATION))

    def left(self) -> float | None:
        """Return the seconds that are left for it, None when it has no deadline.

        :raises InvalidPayload: its deadline is none.
        """
        deadline = self.headers.get(DEADLINE)
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
        self.end = end
        return end - time.time()

    @property
    def identity(self) -> tuple[str, str, str, int]:
        """The identity of a request, by which it is known when it comes again, even without an id."""
        envelope, headers = self.delivery.envelope, self.headers
        return (
            headers.get(REPLY_TO, ""),
            headers.get(CORRELATION, ""),
            headers.get(MESSAGE, envelope.routing_key),
            hash(envelope.body),
        )


_HANDLING: ContextVar[Incoming | None] = ContextVar("evbus_request", default=None)


def stand_by() -> None:
    """Tell the server of the request that is handled here that its handler waits for the server's end."""
    request = _HANDLING.get()
    if request is not None:
        request.stops = True


class ReplyServer(ABC):
    """Takes requests as deliveries, has them handled, and sends the replies.

    Who derives from it says how a request is handled, and what is told of a failure.

    :param link: where replies go.
    :ivar unanswered: requests that were handled, and whose reply could not be sent.
    """

    def __init__(self, link: RequestLink) -> None:
        self._link = link
        self._origin: Origin | None = None
        self._tasks: dict[asyncio.Task[None], Incoming] = {}
        # Those whose replies could not be sent; the oldest is forgotten first.
        self._given_up: dict[tuple[str, str, str, int], None] = {}
        self.unanswered = 0

    #: What comes at the end is taken as well, and nothing is given back.
    drains = False

    # What is to be said

    @abstractmethod
    async def _handled(self, request: Any) -> Envelope | None:
        """Return the reply to a request, None when there is to be none."""

    @abstractmethod
    def _failure(self, request: Any, problem: Exception) -> Envelope:
        """Return the reply to a request that has failed."""

    @abstractmethod
    def _ended(self, request: Any) -> Envelope:
        """Return the reply to a request whose handler stops the server, and so cannot be waited for."""

    def _incoming(self, delivery: Delivery) -> Incoming:
        """Return a request that came."""
        return Incoming(delivery)

    # Taking

    async def run(self, deliveries: AsyncGenerator[Delivery, None], patience: float) -> None:
        """Handle what a source yields, until cancelled; then take nothing more, and handle what was taken.

        Cancelled once more, leave it to the source.

        :param patience: most seconds until it is left there.
        :raises ConnectFailed: there is no connection at first, and the profile does not say to wait.
        :raises DeliveryError: the source ended with an error.
        """
        bridge = Bridge(deliveries, self.take, self._settled, drain=self.drains)
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
        request = self._incoming(delivery)
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
                    reply = self._ended(request)
                except Exception as exc:
                    reply = self._failure(request, exc)
                await self._answer(request, reply)

    async def _serve(self, request: Incoming) -> None:
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

    async def _answer(self, request: Incoming, reply: Envelope) -> None:
        """Send a reply, and settle the request, which was handled: it is not to be handled again.

        Who asked is told when the reply is none that can be sent. When nothing can be sent, nobody waits.
        """
        delivery, headers = request.delivery, request.headers
        if delivery.settled:
            return
        address = headers.get(REPLY_TO)
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

    async def _tell(self, request: Incoming, address: str, problem: DeliveryError) -> None:
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
                name_of(request.headers),
                said(problem),
            )

    def _unanswered(self, request: Incoming, problem: DeliveryError) -> None:
        self.unanswered += 1
        log.warning(
            "%s was handled, and its reply could not be sent; perhaps nobody waits for it any more: %s",
            name_of(request.headers),
            said(problem),
        )

    async def _send(
        self, request: Incoming, address: str, reply: Envelope, most: float | None = None
    ) -> None:
        """Send a reply, if need be again and again: handled again, the request would do its work twice.

        While there is no connection it waits for one, as long as somebody waits for the reply.

        :param most: seconds for which it is tried at the most.
        """
        correlation = request.headers.get(CORRELATION)
        if correlation is not None:
            reply.headers[CORRELATION] = correlation
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
                        name_of(request.headers),
                        said(exc),
                    )
            await asyncio.sleep(pause)

    async def _answered_before(self, request: Incoming) -> bool:
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


def name_of(headers: Mapping[str, str]) -> str:
    """Return what a request is called, for the log."""
    return one_line(headers.get(MESSAGE, "a request"), LONGEST)
