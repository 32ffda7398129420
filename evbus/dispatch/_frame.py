"""What is being handled: known to whatever a handler calls, through a context variable."""

from __future__ import annotations

import types
from collections.abc import Coroutine, Generator
from contextvars import Context, ContextVar
from typing import Any

import msgspec

from evbus.types import Envelope

from ._slots import Slots
from ._within import Limit

__all__ = ["CURRENT", "Frame", "resume"]


class Frame(msgspec.Struct, eq=False):
    """One message in one handler.

    :ivar above: the root: the message within which this is handled, that is itself not within another; None
        for a root.
    :ivar key: what the message was given as its key.
    :ivar holds: the lanes held here and above: ``(hold, holds above)``.
    :ivar envelope: the headers of the message, where there are interceptors or it came from outside.
    :ivar limit: how long it may take, None for as long as it wants.
    :ivar slots: for a root: where it has taken a slot, None when it has none or has ended.
    :ivar events: what the handler wants to be sent when it has succeeded.
    :ivar blocked: for a root: how many calls below it wait for a lane.
    :ivar away: for a root: the slot is given to others, because of such a call.
    :ivar suspended: its handler did not end at once. Those that do share a frame.
    """

    above: Frame | None
    key: Any
    holds: Any
    envelope: Envelope | None
    limit: Limit | None
    slots: Slots | None = None
    events: list[Any] | None = None
    blocked: int = 0
    away: bool = False
    suspended: bool = False

    def leave(self) -> None:
        """End a root whose caller took the slot: give it back, unless somebody below has done that."""
        slots, self.slots = self.slots, None
        if slots is not None and not self.away:
            slots.leave()

    async def end(self) -> None:
        """End a root that a worker runs: the worker keeps the slot, so what was given away is taken again."""
        slots, self.slots = self.slots, None
        if slots is not None and self.away:
            await slots.enter()

    def give_way(self) -> None:
        """Let others have the slot while a call below waits for a lane: its holder may need one to go on."""
        self.blocked += 1
        if self.slots is not None and not self.away:
            self.away = True
            self.slots.leave()

    async def go_on(self) -> None:
        """Take the slot again, once no call below waits."""
        self.blocked -= 1
        slots = self.slots
        if slots is None or not self.away or self.blocked:
            return
        await slots.enter()
        if self._wants_it():
            self.away = False
        else:
            slots.leave()

    def _wants_it(self) -> bool:
        """Return whether a slot that was waited for is still wanted: others went on meanwhile."""
        return self.slots is not None and self.away and not self.blocked


#: The innermost message that is being handled.
CURRENT: ContextVar[Frame | None] = ContextVar("evbus_dispatch", default=None)


@types.coroutine
def resume(context: Context, coroutine: Coroutine[Any, Any, Any], awaited: Any) -> Generator[Any, Any, Any]:
    """Await a coroutine that was begun by hand in a context of its own, and that waits for ``awaited``."""
    while True:
        try:
            try:
                given = yield awaited
            except GeneratorExit:
                context.run(coroutine.close)
                raise
            except BaseException as exc:
                awaited = context.run(coroutine.throw, exc)
            else:
                awaited = context.run(coroutine.send, given)
        except StopIteration as done:
            return done.value
