"""What publishers share: outcomes, events offered again, and queues that may be coming back."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from evbus.engine.wire.base import supervisor
from evbus.engine.wire.base.publish import Batch, ComingBack, InFlight, Unroutable
from evbus.errors import Rejected, Unavailable
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


def coming_back(settling: float) -> tuple[Any, ComingBack]:
    connection: Any = SimpleNamespace(settling=settling)
    return connection, ComingBack(connection)


def missed(keys: ComingBack, key: str) -> float:
    """Return for how long an event that reached nothing is to be sent again, 0 when it is not."""
    outcomes: list[Exception | None] = [Unroutable("no queue"), None]
    keys.look([Envelope("p", key, b""), Envelope("p", "another", b"")], outcomes)
    assert outcomes[1] is None
    if isinstance(outcomes[0], Unavailable):
        assert str(outcomes[0]) == "no queue; the queue may be about to come back"
        return outcomes[0].retry_within or 0.0
    assert type(outcomes[0]) is Unroutable
    return 0.0


async def test_each_key_is_waited_for_while_the_connection_settles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "SETTLING", 60)

    connection, keys = coming_back(settling=90.0)
    assert 59 < missed(keys, "a") <= 60
    connection.settling = 30.0
    assert missed(keys, "b") == 30.0
    connection.settling = 0.0
    assert not missed(keys, "b")


async def test_a_key_is_waited_for_only_so_long_however_long_the_connection_settles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, keys = coming_back(settling=90.0)
    monkeypatch.setattr(supervisor, "SETTLING", 60)
    before = missed(keys, "a")
    assert missed(keys, "a") <= before
    monkeypatch.setattr(supervisor, "SETTLING", 0)
    assert not missed(keys, "a")


@pytest.mark.parametrize("how", ["an event of it arrives", "the connection is another one"])
async def test_the_time_of_a_key_begins_anew(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr(supervisor, "SETTLING", 60)

    _, keys = coming_back(settling=90.0)
    missed(keys, "a")
    first = keys._first["a"]
    if how == "an event of it arrives":
        keys.look([Envelope("p", "a", b"")], [None])
    else:
        keys.clear()
    assert 59 < missed(keys, "a") <= 60
    assert keys._first["a"] > first
