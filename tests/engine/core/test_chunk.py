"""Packing: exact, in order, and small."""

from __future__ import annotations

import gc
import tracemalloc

import pytest

from evbus.engine.core.chunk import PACK_LIMIT, Meta
from evbus.engine.core.queue import Queue
from evbus.types import Envelope

META = Meta("p", "k", {"content-type": "x"})


def mixed(number: int) -> tuple[Meta | Envelope, bytes, float]:
    """Return one of many kinds of events, the same for the same number."""
    body = str(number).encode() * (1 + number % 7)
    if number % 501 == 0:
        body = bytes([number % 256]) * (PACK_LIMIT + number % 3)
    if number % 97 == 0:
        body = b""
    if number % 11 == 0:
        headers = {"content-type": "x", "n": str(number)}
        return Envelope(f"own-{number % 5}", str(number), body, headers, float(number)), body, 0.0
    return METAS[number % len(METAS)], body, float(number)


METAS = [Meta(f"p{number}", f"k{number}", {"content-type": "x"}) for number in range(30)]


@pytest.mark.parametrize("most", [1 << 30, 512, 7, 1])
def test_many_mixed_events_come_back_exact_and_in_order(most: int) -> None:
    count = 20_000
    queue = Queue(count, 0)
    for number in range(count):
        assert queue.put(*mixed(number))
    assert not queue.put(*mixed(count))
    size = sum(len(mixed(number)[1]) for number in range(count))
    assert (queue.qsize(), queue.size) == (count, size)
    number = 0
    while taken := queue.take(most):
        for event in taken:
            slot, body, time = mixed(number)
            if isinstance(slot, Envelope):
                assert event == slot
            else:
                want = Envelope(slot.profile, slot.routing_key, body, slot.headers, time)
                assert event == want
            size -= len(event.body)
            number += 1
    assert number == count
    assert (size, queue.size, queue.qsize()) == (0, 0, 0)


def test_queued_events_take_far_less_memory_than_objects() -> None:
    count = 50_000
    queue = Queue(0, 0)
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(count):
        queue.put(META, b"%033d" % number, 1.0 + number)
    packed = tracemalloc.get_traced_memory()[0] - before
    events = queue.take(count)
    queue = Queue()
    gc.collect()
    objects = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert len(events) == count
    assert packed / count < 33 + 4 + 2 + 3  # body, time, length, and a chunk's share
    assert packed < objects / 1.8
