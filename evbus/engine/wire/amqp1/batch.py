"""Events in flight over AMQP 1.0: what became of each, and those whose outcome nobody waits for any more."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable

from evbus.engine.wire.amqp1.link import Outcome
from evbus.errors import DeliveryError
from evbus.types import Envelope

__all__ = ["Batch", "Left", "Transfer"]

Result = DeliveryError | None

#: What tells events apart that were offered before. Retries have the body and the time, not the envelope.
_Identity = tuple[int, float, str]


class Transfer:
    """A message in flight; called with its outcome."""

    __slots__ = ("batch", "body", "done", "index", "result", "translate")

    def __init__(self, batch: Batch, index: int, translate: Callable[[Outcome], Result]) -> None:
        self.batch: Batch | None = batch
        self.index = index
        self.translate = translate
        self.done = False
        self.result: Result = None
        self.body = b""

    def __call__(self, outcome: Outcome) -> None:
        """Take the outcome, and tell the batch that waits for it."""
        self.done = True
        self.result = self.translate(outcome)
        if self.batch is not None:
            self.batch.settle(self.index, self.result)


class Batch:
    """The outcomes of one call of ``publish``, as they come."""

    __slots__ = ("left", "moved", "outcomes", "waiting")

    def __init__(self, count: int) -> None:
        self.outcomes: list[Result] = [None] * count
        self.left = 0
        self.moved = False
        self.waiting: asyncio.Future[None] | None = None

    def expect(self, index: int, translate: Callable[[Outcome], Result]) -> Transfer:
        """Return what waits for the outcome of an event."""
        self.left += 1
        return Transfer(self, index, translate)

    def adopt(self, sent: Transfer, index: int) -> Transfer:
        """Wait for the outcome of an event that was sent before."""
        if not sent.done:
            self.left += 1
            sent.batch, sent.index = self, index
        return sent

    def settle(self, index: int, result: Result) -> None:
        """Take what became of an event."""
        self.outcomes[index] = result
        self.left -= 1
        self.moved = True
        if not self.left and self.waiting is not None and not self.waiting.done():
            self.waiting.set_result(None)


class Left:
    """Events whose outcomes nobody waits for any more, until they are offered again.

    :param limit: how many are remembered.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._sent: OrderedDict[_Identity, list[Transfer]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sent)

    def clear(self) -> None:
        """Forget all: the connection that they were sent over is gone."""
        self._sent.clear()

    def keep(self, events: list[Envelope], sent: list[Transfer | None], *, known: bool = False) -> None:
        """Remember what is in flight, and with ``known`` what was accepted and nobody was told of."""
        for event, one in zip(events, sent, strict=False):
            if one is None:
                continue
            one.batch = None
            # Events that no bus has accepted have no time of their own, and could be taken for one another.
            if event.accepted_at and (not one.done or (known and one.result is None)):
                # Kept, so that no other event's body gets its id.
                one.body = event.body
                self._sent.setdefault(_identity(event), []).append(one)
        while len(self._sent) > self._limit:
            self._sent.popitem(last=False)

    def take(self, event: Envelope) -> Transfer | None:
        """Return what waits for an event that was sent before, or was accepted; None: send it."""
        if not self._sent:
            return None
        known = self._sent.get(_identity(event))
        while known:
            sent = known.pop(0)
            if not known:
                del self._sent[_identity(event)]
            if not sent.done or sent.result is None:
                return sent
        return None


def _identity(event: Envelope) -> _Identity:
    return id(event.body), event.accepted_at, event.routing_key
