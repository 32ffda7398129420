"""One publisher core for all protocols: batches, their outcomes, and events that are sent again."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from typing import Any, ClassVar, Generic, TypeVar

from evbus.engine.wire.base import supervisor
from evbus.engine.wire.base.session import BrokerSession
from evbus.engine.wire.base.supervisor import Connection
from evbus.errors import DeliveryError, InvalidHeader, InvalidRoutingKey, Rejected, Unavailable
from evbus.types import Envelope

__all__ = [
    "INVALID",
    "Batch",
    "BrokerPublisher",
    "ComingBack",
    "InFlight",
    "Outcome",
    "Unroutable",
    "rejected",
]

Outcome = DeliveryError | None

#: What an encoder raises for an event that its protocol cannot carry.
INVALID = (InvalidHeader, InvalidRoutingKey)

_Sent = TypeVar("_Sent")
_Session = TypeVar("_Session", bound=BrokerSession[Any])


def rejected(problem: Exception) -> Rejected:
    """Return the outcome of an event that cannot be carried."""
    refused = Rejected(str(problem))
    refused.__cause__ = problem
    return refused


class Batch:
    """The outcomes of one call of ``publish``, as they come.

    :ivar outcomes: one for each event: None where it was taken, or is not known yet.
    :ivar left: how many are not known yet.
    """

    __slots__ = ("_moved", "_waiting", "left", "outcomes")

    def __init__(self, count: int) -> None:
        self.outcomes: list[Outcome] = [None] * count
        self.left = 0
        self._moved = False
        self._waiting: asyncio.Future[None] | None = None

    def settle(self, index: int, outcome: Outcome) -> None:
        """Take what became of an event."""
        self.outcomes[index] = outcome
        self.left -= 1
        self._moved = True
        if not self.left and self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def complete(self, seconds: float) -> bool:
        """Return True once all outcomes are known, False when none came for ``seconds``."""
        while self.left:
            self._moved = False
            self._waiting = asyncio.get_running_loop().create_future()
            done, _ = await asyncio.wait({self._waiting}, timeout=seconds)
            if not done and not self._moved:
                return False
        return True


class InFlight(Generic[_Sent]):
    """Events of unknown outcome that nobody waits for, until they are offered again.

    :param limit: how many are remembered.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # Retries have the body and the time of an event, not the envelope. The body is kept, so that no other
        # event's gets its id; of twins, alike even in these, the first comes first.
        self._sent: OrderedDict[tuple[int, float, str], deque[tuple[bytes, _Sent]]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._sent)

    def clear(self) -> None:
        """Forget all: the connection that they were sent over is gone."""
        self._sent.clear()

    def keep(self, event: Envelope, sent: _Sent) -> None:
        """Remember what stands for an event that was sent."""
        # Events that no bus has accepted have no time of their own, and could be taken for one another.
        if event.accepted_at:
            self._sent.setdefault(_identity(event), deque()).append((event.body, sent))
            if len(self._sent) > self._limit:
                self._sent.popitem(last=False)

    def take(self, event: Envelope) -> _Sent | None:
        """Return what stands for an event, and forget it; None when it was not sent before."""
        identity = _identity(event)
        known = self._sent.get(identity)
        if known is None:
            return None
        _, sent = known.popleft()
        if not known:
            del self._sent[identity]
        return sent


def _identity(event: Envelope) -> tuple[int, float, str]:
    return id(event.body), event.accepted_at, event.routing_key


class Unroutable(Rejected):
    """The event reached no queue, or its queue or exchange is not there."""


class ComingBack:
    """The routing keys whose queues are waited for, shortly after a connection or a consumer came back."""

    def __init__(self, connection: Connection[Any]) -> None:
        self._connection = connection
        # When an event of the key reached nothing for the first time.
        self._first: dict[str, float] = {}

    def look(self, events: list[Envelope], outcomes: list[Any]) -> None:
        """Let events that reached no queue be sent again, as long as that may be about to come back."""
        if not self._first and outcomes.count(None) == len(outcomes):
            return
        for index, (event, outcome) in enumerate(zip(events, outcomes, strict=True)):
            if outcome is None:
                self._first.pop(event.routing_key, None)
            elif type(outcome) is Unroutable and (left := self._missed(event.routing_key)):
                said = f"{outcome}; the queue may be about to come back"
                outcomes[index] = Unavailable(said, retry_within=left)

    def _missed(self, key: str) -> float:
        """Return for how many seconds an event of a key that reached nothing is to be sent again."""
        now = asyncio.get_running_loop().time()
        first = self._first.setdefault(key, now)
        left = min(self._connection.settling, first + supervisor.SETTLING - now)
        if left > 0:
            return left
        del self._first[key]
        return 0.0

    def clear(self) -> None:
        """Forget all keys: the connection that their events were sent over is gone."""
        self._first.clear()


class _Left:
    """Something that was sent and whose outcome nobody waits for any more: its event is offered again."""

    __slots__ = ("number", "outcome", "settled")

    def __init__(self, number: int, *, settled: bool) -> None:
        self.number = number
        self.settled = settled
        self.outcome: Outcome = None

    def settle(self, index: int, outcome: Outcome) -> None:
        """Take the outcome."""
        self.settled = True
        self.outcome = outcome


class BrokerPublisher(ABC, Generic[_Session]):
    """Sends the events of one lane over the connection of its profile.

    The publisher of a protocol brings:

    * ``_begin``, which makes its encoder for a new session;
    * ``_send``, which encodes and writes a batch, and waits for room by :meth:`_room` where there is none;
    * ``_stands_still``, which says whether a silent connection is to be given up.

    :param window: events that may be in flight, sent and without an outcome.
    :param patience: seconds without any outcome after which events in flight are tried again.
    """

    #: What did not come, and the key of the profile that says for how long; why a connection is given up.
    SILENT: ClassVar[tuple[str, str]]
    STILL: ClassVar[str] = "it answers nothing any more"

    def __init__(self, connection: Connection[_Session], window: int, patience: float) -> None:
        self.connection = connection
        self._window = window
        self._patience = patience
        self._session: _Session | None = None
        self._silences = 0
        self._left: InFlight[_Left] = InFlight(10 * window)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.connection!r}>"

    async def publish(self, events: list[Envelope]) -> list[Outcome]:
        """Send events and return one outcome each: None when the broker has taken it.

        :class:`~evbus.errors.Rejected` is what the protocol cannot carry, or the broker refused;
        :class:`~evbus.errors.Unavailable` what has no outcome because the connection was lost or the broker
        does not answer; another :class:`~evbus.errors.DeliveryError` is worth some attempts.
        """
        try:
            session = self.connection.up()
        except Unavailable as exc:
            return [exc] * len(events)
        if session is not self._session:
            self._session = session
            self._silences = 0
            self._left.clear()
            self._begin(session)
        batch = Batch(len(events))
        numbers: list[int] = []
        try:
            problem = await self._send(session, batch, events, numbers)
            if problem is None:
                problem = await self._wait(session, batch, events)
        except BaseException:
            # Cancelled: nobody learns the outcomes, and all of the events are offered again.
            self._leave(session, batch, events, numbers, known=True)
            raise
        if problem is not None:
            self._leave(session, batch, events, numbers)
            for index, number in enumerate(numbers):
                if number in session.receipts:
                    batch.outcomes[index] = problem
            for index in range(len(numbers), len(events)):
                batch.outcomes[index] = problem
        return batch.outcomes

    # What a protocol brings

    @abstractmethod
    def _begin(self, session: _Session) -> None:
        """Forget what was known of the last session, and be ready for this one."""

    @abstractmethod
    async def _send(
        self, session: _Session, batch: Batch, events: list[Envelope], numbers: list[int]
    ) -> Unavailable | None:
        """Send events, and append the number of each to ``numbers``, 0 where its outcome is known.

        Those of unknown outcome come first to :meth:`_adopt`. Returns why it was given up.
        """

    @abstractmethod
    async def _stands_still(self, session: _Session, event: Envelope | None) -> bool:
        """Return whether a connection that is silent for the second time is one to give up."""

    # Waiting

    async def _room(self, session: _Session, event: Envelope) -> Unavailable | None:
        """Wait for something to come that makes room; return why that was given up."""
        # Only outcomes count as life: heartbeats come from a broker under an alarm, too.
        done, _ = await asyncio.wait({session.room()}, timeout=self._patience)
        if not done:
            return await self._nothing_came(session, event)
        self._silences = 0
        return None

    async def _wait(self, session: _Session, batch: Batch, events: list[Envelope]) -> Unavailable | None:
        """Wait for all outcomes; return why that was given up."""
        if not await batch.complete(self._patience):
            return await self._nothing_came(session, events[0])
        self._silences = 0
        return None

    async def _nothing_came(
        self, session: _Session, event: Envelope | None, *, unanswered: bool = False
    ) -> Unavailable:
        """Return the error of what has no outcome; the second time give up a connection that stands still.

        :param unanswered: it has not answered what it always has to.
        """
        self._silences += 1
        if self._silences >= 2 and (unanswered or await self._stands_still(session, event)):
            session.fail(f"{self.STILL} ({self.SILENT[1]})")
        return self._silent()

    def _silent(self) -> Unavailable:
        what, key = self.SILENT
        return Unavailable(f"{self.connection.name}: {what} within {self._patience:g} s ({key})")

    # Events that come again

    def _leave(
        self,
        session: _Session,
        batch: Batch,
        events: list[Envelope],
        numbers: list[int],
        *,
        known: bool = False,
    ) -> None:
        """Remember what was sent and has no outcome yet, or with ``known`` one that nobody was told of."""
        if session.lost.done():
            return
        for index, number in enumerate(numbers):
            pending = number in session.receipts
            if pending or (known and batch.outcomes[index] is None):
                left = _Left(number, settled=not pending)
                if pending:
                    session.receipts[number] = (left, 0)
                self._left.keep(events[index], left)

    def _adopt(
        self, session: _Session, batch: Batch, index: int, event: Envelope, numbers: list[int]
    ) -> bool:
        """Wait for the outcome of an event that was sent before, if there is such a one."""
        while (left := self._left.take(event)) is not None:
            if not left.settled:
                session.receipts[left.number] = (batch, index)
                batch.left += 1
                numbers.append(left.number)
                return True
            if left.outcome is None:
                numbers.append(0)
                return True
        return False
