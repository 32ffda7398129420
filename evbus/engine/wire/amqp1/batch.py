"""Events in flight over AMQP 1.0, and what became of each."""

from __future__ import annotations

from collections.abc import Callable

from evbus.engine.wire.amqp1.link import Outcome
from evbus.engine.wire.base.inflight import Outcomes
from evbus.errors import DeliveryError

__all__ = ["Batch", "Transfer"]

Result = DeliveryError | None


class Transfer:
    """A message in flight; called with its outcome."""

    __slots__ = ("batch", "done", "index", "result", "translate")

    def __init__(self, batch: Batch, index: int, translate: Callable[[Outcome], Result]) -> None:
        self.batch: Batch | None = batch
        self.index = index
        self.translate = translate
        self.done = False
        self.result: Result = None

    def __call__(self, outcome: Outcome) -> None:
        """Take the outcome, and tell the batch that waits for it."""
        self.done = True
        self.result = self.translate(outcome)
        if self.batch is not None:
            self.batch.settle(self.index, self.result)


class Batch(Outcomes[DeliveryError]):
    """The outcomes of one call of ``publish``, and who waits for them."""

    __slots__ = ()

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
