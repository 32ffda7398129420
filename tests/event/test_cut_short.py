"""A stop that is cut short does not wait for listeners."""

from __future__ import annotations

import asyncio

from tests.engine.handling.events.test_consumer import Remote
from tests.engine.handling.events.test_subscriptions import add, subscriptions
from tests.event.kit import WAIT, Gate, OrderPlaced


async def test_what_came_from_elsewhere_and_is_being_handled_goes_back_at_once() -> None:
    remote, gate, found = Remote(), Gate(lambda event: event.id), subscriptions()
    cut_short = asyncio.Event()
    add(found, gate.on)
    found.start(lambda profile: [remote.source()], None)
    remote.queue.put_nowait(remote.delivery(OrderPlaced("a"), "a"))
    await gate.entered(1)
    pausing = asyncio.ensure_future(found.pause(cut_short.is_set))
    await asyncio.wait({pausing}, timeout=0)
    assert not pausing.done()
    cut_short.set()
    await asyncio.wait_for(pausing, WAIT / 2)  # the patience of the consumers is WAIT
    await found.stop()
    assert remote.closed
    assert gate.done == []


async def test_otherwise_what_is_being_handled_is_waited_for() -> None:
    remote, gate, found = Remote(), Gate(lambda event: event.id), subscriptions()
    add(found, gate.on)
    found.start(lambda profile: [remote.source()], None)
    remote.queue.put_nowait(remote.delivery(OrderPlaced("a"), "a"))
    await gate.entered(1)
    pausing = asyncio.ensure_future(found.pause(lambda: False))
    await asyncio.wait({pausing}, timeout=0)
    gate.release("a")
    await pausing
    assert remote.told == [("a", True, False)]
    await found.stop()
