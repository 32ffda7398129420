"""One consumer loop for all protocols: a subscription, restored whenever it, or its connection, has ended."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import deque
from typing import Generic, Self, TypeVar

from evbus.engine.kit.backoff import backoff
from evbus.engine.wire.base.profile import Pause
from evbus.engine.wire.base.supervisor import Connection, LiveSession
from evbus.errors import ConnectFailed, DeliveryError, ProfileError, Unavailable
from evbus.types import Delivery, Origin, Subscription

__all__ = ["BrokerConsumer"]

#: What is said of breaks that follow each other with nothing settled in between, of a connection and a queue.
BREAKS = (
    "%s: the connection breaks again and again before anything of %s is settled; its first message may be "
    "one that the broker cannot say in this protocol, and then has to be taken away by another client"
)
#: So many in a row, each after less than so many seconds.
MOST, SHORT = 3, 10.0

_Session = TypeVar("_Session", bound=LiveSession)


class BrokerConsumer(ABC, Generic[_Session]):
    """One subscription over the connection of a profile; an ``async with`` of whoever consumes.

    They take from :attr:`waiting` while there is anything, and then await :meth:`arrival`; there is no other
    queue, and no generator, between the socket and them.

    The consumer of a protocol brings:

    * ``_subscribe``, which asks for the subscription over a session, and first says by :meth:`_begin` what
      its deliveries come over;
    * ``_leave``, which ends what ``_subscribe`` began;
    * something that puts deliveries into :attr:`waiting` as they come, and then calls :meth:`_wake`;
    * ``_refusal``, if the broker may end a subscription and not its connection, and ``_fatal``, if the first
      refusal may be one to wait for.

    :param wanted: the subscription; it is told whenever the consumer is there.
    :param pause: between two attempts.
    :param log: gets what goes wrong and is tried again.
    :ivar waiting: deliveries that nobody has taken yet.
    :ivar origin: what they come over; None while there is no subscription.
    :ivar place: what is consumed, for the log.
    :ivar paused: no more are wanted.
    :ivar settled: the broker was told of a delivery, since the subscription began.
    :ivar subscribed: the broker has given the subscription once.
    """

    def __init__(
        self,
        connection: Connection[_Session],
        wanted: Subscription,
        pause: Pause,
        log: logging.Logger,
    ) -> None:
        self.connection = connection
        self.waiting: deque[Delivery] = deque()
        self.origin: Origin | None = None
        self.place = ""
        self.paused = self.settled = self.subscribed = False
        self._wanted = wanted
        self._between = pause
        self._log = log
        self._session: _Session | None = None
        self._arrived: asyncio.Future[None] | None = None
        self._began: float | None = None
        self._failures = 0
        self._failing = False
        self._breaks = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.connection.name} {self.place!r}>"

    async def __aenter__(self) -> Self:
        self.connection.consumers.gone(self)
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self._end(closing=True)
        finally:
            self.connection.consumers.closed(self)

    async def arrival(self) -> bool:
        """Return True once deliveries are waiting, False when none will come any more.

        :raises ConnectFailed: the broker refuses the subscription, the first time that it is asked for.
        :raises ProfileError: the profile cannot give what is wanted.
        """
        while not self.waiting:
            if self.origin is not None and not self.origin.ended:
                self._arrived = asyncio.get_running_loop().create_future()
                await self._arrived
            elif self.paused or not await self._restore():
                return False
        self._failures = 0
        return True

    # What a protocol brings

    @abstractmethod
    async def _subscribe(self, session: _Session) -> bool:
        """Ask for the subscription; return whether it is there. If not, it is asked for again at once.

        :raises Unavailable: it is to be asked for again.
        :raises DeliveryError: the broker refuses it.
        """

    @abstractmethod
    async def _leave(self, *, closing: bool) -> None:
        """End what :meth:`_subscribe` began; ``closing`` tells that it is not to be restored."""

    def _refusal(self) -> DeliveryError | None:
        """Return why the broker has ended the subscription alone; None when the connection is gone."""
        return None

    def _fatal(self, problem: DeliveryError) -> bool:
        """Return whether a first refusal is one that a person has to mend."""
        return not isinstance(problem, Unavailable)

    # What it may use

    def _begin(self, session: _Session, origin: Origin) -> None:
        """Say what deliveries come over from now on; it ends with the session, if not before."""
        self.origin, self._session = origin, session
        origin.watch(self._gone)
        session.lost.add_done_callback(self._lost)

    def _wake(self) -> None:
        """Tell that something has arrived, or ended."""
        arrived, self._arrived = self._arrived, None
        if arrived is not None and not arrived.done():
            arrived.set_result(None)

    # The loop

    def _lost(self, lost: asyncio.Future[str]) -> None:
        if self.origin is not None:
            self.origin.end(lost.result())

    def _gone(self, _origin: Origin) -> None:
        self.connection.consumers.gone(self)
        self.waiting.clear()
        self._wake()

    async def _restore(self) -> bool:
        """Subscribe once there is a session, or try to; return False when the connection was closed."""
        problem = await self._end()
        if problem is None:
            session = await self.connection.live()
            if session is None:
                return False
            try:
                if await self._subscribe(session):
                    self._subscribed()
                return True
            except ProfileError as exc:
                raise ProfileError(f"{self.connection.name}: {exc.reason}", path=exc.path) from None
            except DeliveryError as exc:
                problem = exc
            await self._end()
        await self._refused(problem)
        return True

    def _subscribed(self) -> None:
        self._began = asyncio.get_running_loop().time()
        self.settled = False
        if self._failing:
            self._failing = False
            self._log.warning("%s: consuming from %s again", self.connection.name, self.place)
        self.subscribed = True
        self.connection.consumers.back(self)
        self._wanted.ready()

    async def _refused(self, problem: DeliveryError) -> None:
        reason = self.connection.clean(problem)
        if not self.subscribed and self._fatal(problem):
            raise ConnectFailed(reason)
        self._failures += 1
        if self._failures == 1:
            self._failing = True
            self._log.warning("%s; tries again for ever", reason)
        await asyncio.sleep(backoff(self._failures, self._between.min, self._between.max))

    async def _end(self, *, closing: bool = False) -> DeliveryError | None:
        """Leave the subscription, if there is one; return why the broker has ended it."""
        origin, self.origin = self.origin, None
        if origin is None or self._session is None:
            return None
        problem = None
        if self._began is not None and not closing:
            problem = self._refusal()
            lived = asyncio.get_running_loop().time() - self._began
            ended = self._session.lost.done() or problem is not None
            if ended:
                self._count_break(lived)
        self._began = None
        self._session.lost.remove_done_callback(self._lost)
        self.waiting.clear()
        origin.end("the subscription was ended")
        await self._leave(closing=closing)
        return problem

    def _count_break(self, lived: float) -> None:
        self._breaks = 0 if self.settled or lived >= SHORT else self._breaks + 1
        if self._breaks == MOST:
            self._log.warning(BREAKS, self.connection.name, self.place)
