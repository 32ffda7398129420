"""Events in flight: what their senders learn, and what is known of those that are offered again."""

from __future__ import annotations

import asyncio

from evbus.engine.wire.base.publish import Batch, InFlight
from evbus.errors import Rejected
from evbus.types import Envelope


def event(body: bytes, *, accepted_at: float = 1.0, key: str = "key") -> Envelope:
    return Envelope("orders", key, body, {}, accepted_at)


async def test_outcomes_are_complete_with_the_last_of_them() -> None:

    outcomes = Batch(2)
    outcomes.left = 2
    waiting = asyncio.ensure_future(outcomes.complete(30))
    await asyncio.sleep(0)
    refused = Rejected("no")
    outcomes.settle(1, refused)
    outcomes.settle(0, None)
    assert await waiting
    assert outcomes.outcomes == [None, refused]


def test_who_learns_nothing_for_too_long_is_told() -> None:
    outcomes = Batch(1)
    outcomes.left = 1
    assert not asyncio.run(outcomes.complete(0.01))


def test_an_event_that_is_offered_again_is_known_by_its_body_its_time_and_its_key() -> None:
    known: InFlight[str] = InFlight(10)
    body = bytes(bytearray(b"body"))
    known.keep(event(body), "sent")
    assert known
    for other in (event(bytes(bytearray(b"body"))), event(body, accepted_at=2.0), event(body, key="other")):
        assert known.take(other) is None
    assert known.take(event(body)) == "sent"
    assert known.take(event(body)) is None
    assert not known


def test_of_twins_the_first_comes_first() -> None:
    known: InFlight[int] = InFlight(10)
    twin = event(b"body")
    for number in range(3):
        known.keep(twin, number)
    assert [known.take(twin) for _ in range(4)] == [0, 1, 2, None]


def test_an_event_that_no_bus_has_accepted_is_not_remembered() -> None:
    known: InFlight[str] = InFlight(10)
    known.keep(event(b"body", accepted_at=0.0), "sent")
    assert not known


def test_the_oldest_are_forgotten_first() -> None:
    known: InFlight[int] = InFlight(2)
    events = [event(b"body", key=str(number)) for number in range(3)]
    for number, each in enumerate(events):
        known.keep(each, number)
    assert [known.take(each) for each in events] == [None, 1, 2]
    known.keep(events[0], 0)
    known.clear()
    assert known.take(events[0]) is None
