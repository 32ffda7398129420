"""What a lane may expect of any buffer: nothing is lost, twice there, or counted wrongly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evbus.engine.core.lane.buffer import Buffer, Flight
from evbus.engine.core.lane.retry import DeadLetter
from evbus.engine.core.queue import Queue
from evbus.engine.kit.weight import size_of
from evbus.types import Envelope

BUFFERS: list[Callable[[Queue], Buffer]] = [
    lambda queue: Buffer(queue, 4),
    lambda queue: Buffer(queue, 4, drops=True),
]


def made(first: int, count: int) -> list[Envelope]:
    """Return events with numbers as routing keys, and with bodies of different sizes."""
    return [Envelope("p", str(number), b"x" * (number % 5)) for number in range(first, first + count)]


def keys(events: list[Envelope]) -> list[str]:
    return [event.routing_key for event in events]


class Model:
    """A buffer, and what should be in it."""

    def __init__(self, buffer: Buffer, queue: Queue) -> None:
        self.buffer, self.queue = buffer, queue
        self.waiting: list[Envelope] = []
        self.flights: list[Flight] = []
        self.accepted = self.ended = 0

    def append(self, number: int) -> None:
        events = made(self.accepted, number)
        with self.queue.lock:
            dropped = self.buffer.append(events, size_of(events))
            self.buffer.announce(number)
        self.accepted += number
        self.waiting += events
        assert dropped == self.waiting[: len(dropped)]
        self.waiting = self.waiting[len(dropped) :]
        self.ended += len(dropped)

    def take(self, number: int) -> None:
        flight = self.buffer.take(number)
        assert flight.events == self.waiting[:number]
        self.waiting = self.waiting[number:]
        self.flights += [flight] if flight.events else []

    def settle(self, number: int) -> None:
        if self.flights:
            flight = self.flights[number % len(self.flights)]
            gone, left = flight.events[:number], flight.events[number:]
            dead = [DeadLetter(event, ValueError(), 1) for event in gone[1:]]
            assert self.buffer.settle(flight, gone[:1], dead)
            assert flight.events == left
            self.ended += len(gone)
            self.flights = [each for each in self.flights if each.events]

    def give_back(self, number: int) -> None:
        if self.flights:
            flight = self.flights.pop(number % len(self.flights))
            self.waiting = [*flight.events, *self.waiting]
            self.buffer.give_back(flight)

    def withdraw(self, number: int) -> None:
        """Lose the source of every second event; a flight stands, and is not being sent."""
        if self.flights:
            flight = self.flights[number % len(self.flights)]
            flight.standing = list(flight.events)

        def gone(event: Envelope) -> bool:
            return int(event.routing_key) % 2 == 1

        standing = [event for flight in self.flights for event in flight.standing if event in flight.events]
        expected = [event for event in [*self.waiting, *standing] if gone(event)]
        assert sorted(keys(self.buffer.withdraw(gone))) == sorted(keys(expected))
        self.ended += len(expected)
        self.waiting = [event for event in self.waiting if not gone(event)]
        self.flights = [flight for flight in self.flights if flight.events]

    def check(self) -> None:
        buffer, flying = self.buffer, [event for flight in self.flights for event in flight.events]
        with self.queue.lock:
            assert (list(buffer), buffer.size) == (self.waiting, size_of(self.waiting))
            assert sorted(keys(list(buffer.taken()))) == sorted(keys(flying))
            assert (len(buffer), buffer.counters.in_flight) == (len(self.waiting), len(flying))
            assert self.accepted == self.ended + len(self.waiting) + len(flying)
            counts = buffer.counters
            parts = (counts.delivered, counts.dead, counts.dropped, counts.in_flight, len(buffer))
            assert counts.accepted == sum(parts)


PROGRAM = st.lists(
    st.tuples(st.sampled_from(["append", "take", "settle", "give_back", "withdraw"]), st.integers(1, 6)),
    max_size=40,
)


@pytest.mark.parametrize("make", BUFFERS)
@given(program=PROGRAM)
@settings(max_examples=80, deadline=None)
def test_every_event_is_in_one_place_in_its_order_and_counted_once(make: Any, program: Any) -> None:
    queue = Queue()
    model = Model(make(queue), queue)
    for what, number in program:
        getattr(model, what)(number)
        model.check()
    left = model.buffer.close(1)
    flying = [event for flight in model.flights for event in flight.events]
    assert sorted(keys([event for event, _ in left])) == sorted(keys([*flying, *model.waiting]))
    assert [tries for _, tries in left] == [1] * len(flying) + [0] * len(model.waiting)
    assert (len(model.buffer), model.buffer.size, queue.held, queue.held_size) == (0, 0, 0, 0)
    # A plugin that does not end may answer later.
    assert not any(model.buffer.settle(flight, flight.events) for flight in model.flights)


@pytest.mark.parametrize("make", BUFFERS)
async def test_one_is_woken_for_each_event(make: Any) -> None:
    queue = Queue()
    buffer = make(queue)
    arrivals = [buffer.arrival() for _ in range(3)]
    arrivals[0].cancel()
    with queue.lock:
        buffer.append(made(0, 1), 0)
        buffer.announce(1)
    assert [arrival.done() for arrival in arrivals] == [True, True, False]
    assert buffer.arrival().done()
    buffer.give_back(buffer.take(1))
    assert arrivals[2].done()


@pytest.mark.parametrize("make", BUFFERS)
def test_what_is_picked_and_what_is_alike_keeps_the_order_of_the_others(make: Any) -> None:
    queue = Queue()
    buffer = make(queue)
    events = [Envelope("p", key, b"x") for key in "aaba"]
    with queue.lock:
        buffer.append(events, 4)
        buffer.announce(4)
    assert keys(buffer.take(10, lambda event: event.routing_key).events) == ["a", "a"]
    assert buffer.pick([events[3]]).events == [events[3]]
    assert (keys(list(buffer)), buffer.counters.in_flight) == (["b"], 3)
