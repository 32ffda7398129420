"""The queue: bounds, packing, waking, threads and re-entrancy."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evbus.engine.core import queue as core_queue
from evbus.engine.core.queue import Meta, Queue
from evbus.engine.kit.weight import Weight
from evbus.errors import EvbusError
from tests.evbus.rig import WAIT, turns, until, within

META = Meta("p", "k", {"content-type": "x"})


def bodies(queue: Queue, most: int = 1 << 30) -> list[bytes]:
    return [event.body for event in queue.take(most)]


@pytest.fixture
def queue() -> Queue:
    return Queue()


def fill(queue: Queue, *items: bytes) -> list[bool]:
    return [queue.put(META, item, 0.0) for item in items]


# Bounds


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.integers(0, 60)),
            st.tuples(st.just("big"), st.integers(0, 3)),
            st.tuples(st.just("take"), st.integers(1, 5)),
            st.tuples(st.just("hold"), st.integers(0, 4)),
            st.tuples(st.just("release"), st.integers(0, 4)),
            st.tuples(st.just("outside"), st.integers(-40, 60)),
        ),
        max_size=60,
    ),
    st.integers(0, 8),
    st.integers(0, 400),
)
@settings(max_examples=150, deadline=None)
def test_bounds_are_exact_and_nothing_is_lost(
    program: list[tuple[str, int]], limit: int, size_limit: int
) -> None:
    queue = Queue(limit, size_limit)
    model: deque[bytes] = deque()
    held: list[int] = []
    outside = Weight()
    queue.count_in(outside)
    serial = 0
    for what, number in program:
        if what in ("put", "big"):
            serial += 1
            body = (b"%d," % serial).ljust(number if what == "put" else 150 * number, b".")
            events, size = len(model) + len(held), sum(map(len, model)) + sum(held) + outside.size
            full = bool(events or outside.size) and (
                (limit and events >= limit) or (size_limit and size + len(body) > size_limit)
            )
            assert put_fast_or_slow(queue, body) is not full
            if not full:
                model.append(body)
        elif what == "take":
            assert bodies(queue, number) == [model.popleft() for _ in range(min(number, len(model)))]
        elif what == "hold":
            held += [number * 20] * number
            queue.charge(number, number * number * 20)
        elif what == "outside":
            if number > 0:
                outside.add(number)
            else:
                outside.take(min(outside.size, -number))
        else:
            gone, held = held[:number], held[number:]
            queue.charge(-len(gone), -sum(gone))
        counts = queue.counts()
        assert (counts["queued"], counts["queued_bytes"]) == (len(model), sum(map(len, model)))
        assert counts["accepted"] == counts["queued"] + queue._gone
    assert bodies(queue) == list(model)


def put_fast_or_slow(queue: Queue, body: bytes) -> bool:
    """Put as the broker does."""
    if len(queue.inbox) < queue.inbox_limit and len(body) <= queue.body_limit:
        queue.inbox.append((META, body, 0.0))
        return True
    return queue.put(META, body, 0.0)


def test_a_large_event_is_taken_when_the_queue_is_empty_and_no_other_after_it() -> None:
    queue = Queue(10, 100)
    assert fill(queue, b"x" * 1000, b"y") == [True, False]
    assert bodies(queue) == [b"x" * 1000]
    assert fill(queue, b"y") == [True]


@pytest.mark.parametrize("where", ["in lanes", "behind lanes"])
def test_what_is_held_elsewhere_counts_for_what_is_in_the_inbox_too(where: str) -> None:
    # Bodies lie in the inbox that were let in while there was more room.
    queue = Queue(0, 25_600)
    queue.count_in(Weight())
    for _ in range(100):
        assert put_fast_or_slow(queue, b"x" * 100)
    if where == "in lanes":
        queue.charge(0, 15_000)
    else:
        queue.outside.add(15_000)
    accepted = 0
    while put_fast_or_slow(queue, b"y" * 40):
        accepted += 1
    assert accepted == (25_600 - 15_000 - 10_000) // 40


def test_new_bounds_count_what_is_queued() -> None:
    queue = Queue(0, 0)
    for _ in range(50):
        put_fast_or_slow(queue, b"x" * 10)
    queue.bound(60, 505)
    assert [put_fast_or_slow(queue, b"yyy") for _ in range(2)] == [True, False]


def test_drop_oldest_drops_no_more_than_it_must_and_counts_it() -> None:
    queue = Queue(5, 100)
    fill(queue, *(b"%d" % number * 20 for number in range(5)))
    assert not queue.put(META, b"x" * 35, 0.0)
    assert queue.drop_oldest(35) == 2
    assert queue.put(META, b"x" * 35, 0.0)
    queue.drop_newest()
    counts = queue.counts()
    assert (counts["accepted"], counts["dropped"], counts["queued"]) == (7, 3, 4)
    assert bodies(queue)[0] == b"2" * 20


# Puts that wait


def waiting(queue: Queue, order: list[int], number: int, size: int = 1) -> Any:
    async def wait() -> None:
        while not queue.put(META, b"w" * size, 0.0):
            await queue.wait_room(size)
        order.append(number)

    return asyncio.ensure_future(wait())


async def test_a_put_waits_until_enough_has_gone_from_behind_the_lanes() -> None:
    queue, order, outside = Queue(0, 100), list[int](), Weight()
    queue.bind(asyncio.get_running_loop())
    queue.count_in(outside)
    outside.add(100)
    first, second = waiting(queue, order, 1, 30), waiting(queue, order, 2, 10)
    await turns(3)
    outside.take(29)
    await turns(3)
    assert order == []
    outside.take(1)
    await turns(3)
    assert order == [1]
    outside.take(10)
    await asyncio.gather(first, second)
    assert order == [1, 2]
    # Nobody waits: what goes tells nobody.
    assert outside.floor == 0


async def test_what_is_larger_than_the_bound_waits_until_nothing_is_behind_the_lanes() -> None:
    queue, order, outside = Queue(0, 100), list[int](), Weight()
    queue.bind(asyncio.get_running_loop())
    queue.count_in(outside)
    outside.add(2)
    put = waiting(queue, order, 1, 1_000)
    await turns(3)
    outside.take(1)
    await turns(3)
    assert order == []
    outside.take(1)
    await put


async def test_a_put_of_another_loop_is_woken_by_what_goes_from_behind_the_lanes() -> None:
    queue, outside = Queue(0, 100), Weight()
    queue.count_in(outside)

    async def put(number: int) -> None:
        await asyncio.wait_for(waiting(queue, [], number, 10), WAIT)

    loop = asyncio.get_running_loop()
    queue.bind(loop)
    for number in range(100):
        outside.add(100 - outside.size)
        queue.take(100)
        done = loop.run_in_executor(None, asyncio.run, put(number))
        # Now before the put waits, now while it begins to, now after it has begun.
        await turns(number)
        while outside.size:
            outside.take(10)
        await done


async def test_waiting_puts_are_woken_in_order() -> None:
    queue, order = Queue(2, 0), []
    queue.bind(asyncio.get_running_loop())
    fill(queue, b"1", b"2")
    tasks = [waiting(queue, order, number) for number in range(5)]
    await turns(2)
    while len(order) < 5:
        queue.take(1)
        await turns(3)
    await asyncio.gather(*tasks)
    assert not queue._waiters
    assert order == [0, 1, 2, 3, 4]


async def test_waiting_for_bytes_wakes_everyone_the_room_is_enough_for() -> None:
    queue, order = Queue(0, 10), []
    queue.bind(asyncio.get_running_loop())
    fill(queue, b"x" * 10)
    tasks = [waiting(queue, order, number, 4) for number in range(3)]
    await turns(2)
    queue.take(1)
    await turns(3)
    first = list(order)
    queue.take(2)
    await within(asyncio.gather(*tasks))
    assert first == [0, 1]


def test_a_wake_up_for_a_put_that_is_cancelled_in_the_same_instant_goes_to_the_next() -> None:
    async def main(cancel_first: bool) -> None:
        queue, order = Queue(1, 0), []
        queue.bind(asyncio.get_running_loop())
        fill(queue, b"1")
        tasks = [waiting(queue, order, number) for number in range(3)]
        await turns(2)
        if cancel_first:
            tasks[0].cancel()
            queue.take(1)
        else:
            queue.take(1)
            tasks[0].cancel()
        await within(tasks[1])
        queue.take(1)
        await within(tasks[2])
        assert (order, len(queue._waiters)) == ([1, 2], 0)

    asyncio.run(main(cancel_first=True))
    asyncio.run(main(cancel_first=False))


async def test_a_cancelled_put_leaves_no_waiter_and_no_event() -> None:
    queue, order = Queue(1, 0), []
    fill(queue, b"1")
    tasks = [waiting(queue, order, number) for number in range(20)]
    await turns(2)
    assert len(queue._waiters) == 20
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert not queue._waiters
    assert bodies(queue) == [b"1"]


async def test_a_put_of_a_loop_that_ended_does_not_keep_the_next_waiting() -> None:
    queue = Queue(1, 0)
    fill(queue, b"1")
    gone = asyncio.new_event_loop()
    queue._waiters.append((gone, gone.create_future(), 1))
    gone.close()

    order: list[int] = []
    task = waiting(queue, order, 1)
    await turns(2)
    queue.take(1)
    await within(task)


async def test_raised_bounds_wake_waiting_puts() -> None:
    queue, order = Queue(1, 0), []
    fill(queue, b"1")
    task = waiting(queue, order, 1)
    await turns(2)
    queue.bound(2, 0)
    await within(task)


# get


async def test_several_getters_take_each_event_once_and_in_order(queue: Queue) -> None:
    getters = [asyncio.ensure_future(queue.get()) for _ in range(5)]
    await turns(2)
    fill(queue, *(b"%d" % number for number in range(5)))
    assert [event.body for event in await within(asyncio.gather(*getters))] == [b"0", b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize("after", [-1, 0, 1, 2, 3])
async def test_a_cancelled_getter_loses_no_event_and_leaves_nothing(queue: Queue, after: int) -> None:
    tasks = [asyncio.ensure_future(queue.get()) for _ in range(2)]
    await turns(2)
    if after < 0:
        tasks[0].cancel()
    fill(queue, b"1")
    await turns(after)  # the wake-up gets further every time
    tasks[0].cancel()
    await until(lambda: any(task.done() and not task.cancelled() for task in tasks))
    tasks[1].cancel()
    await asyncio.wait(tasks)
    assert [task.result().body for task in tasks if not task.cancelled()] == [b"1"]
    assert not queue._getters


async def test_getters_that_time_out_again_and_again_pile_up_nowhere(queue: Queue) -> None:
    for _ in range(100):
        getter = asyncio.ensure_future(queue.get())
        await turns(1)
        getter.cancel()
        await asyncio.wait({getter})
    assert not queue._getters


async def test_a_getter_that_waits_while_the_bus_starts_is_woken_after_it(queue: Queue) -> None:
    getter = asyncio.ensure_future(queue.get())
    await turns(2)
    queue.bind(asyncio.get_running_loop())
    queue.listen(lambda: None)
    queue.listen(None)
    fill(queue, b"1")
    assert (await within(getter)).body == b"1"


def test_another_loop_does_not_take_a_started_bus_away(queue: Queue) -> None:

    async def other() -> None:
        with pytest.raises(EvbusError, match="started in another event loop"):
            await queue.get()

    async def main() -> None:
        queue.bind(asyncio.get_running_loop())
        queue.listen(lambda: queue.take(10))
        await asyncio.to_thread(asyncio.run, other())
        queue.listen(None)

    asyncio.run(main())
    asyncio.run(get_one(queue))


async def get_one(queue: Queue) -> None:
    fill(queue, b"1")
    assert (await within(queue.get())).body == b"1"


# Waking the listener


class Listener:
    """Takes all that is there whenever it is called."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.taken: list[bytes] = []
        queue.bind(asyncio.get_running_loop())
        queue.listen(self)

    def __call__(self) -> None:
        self.taken += bodies(self.queue, 512)


async def test_the_first_of_a_burst_is_handed_over_at_once_and_the_rest_when_the_loop_turns(
    queue: Queue,
) -> None:
    listener = Listener(queue)
    for _ in range(3):
        listener.taken.clear()
        fill(queue, b"1", b"2", b"3")
        assert listener.taken == [b"1"]
        await until(lambda: len(listener.taken) == 3)
        await turns(3)
        assert queue.idle


async def test_events_put_before_anybody_listens_are_announced(queue: Queue) -> None:
    fill(queue, b"1")
    listener = Listener(queue)
    await until(lambda: listener.taken == [b"1"])


async def test_a_listener_that_fails_harms_no_producer_and_is_called_again(queue: Queue, caplog: Any) -> None:
    listener = Listener(queue)
    calls = []

    def failing() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise ValueError("boom")
        listener()

    queue.on_event = failing
    fill(queue, b"1")
    await until(lambda: listener.taken == [b"1"])
    assert "an event could not be handed over" in caplog.text


async def test_an_event_of_another_thread_between_taking_and_going_idle_is_announced(queue: Queue) -> None:
    listener = Listener(queue)

    class Inbox(deque[Any]):
        """Lets "another thread" append right after the queue was found empty."""

        looks = 0

        def __bool__(self) -> bool:
            empty = not len(self)
            Inbox.looks += empty
            if empty and Inbox.looks == 1:
                self.append((META, b"late", 0.0))  # which saw no need to signal
                return False
            return not empty

    queue.inbox = Inbox()
    queue.inbox.append((META, b"early", 0.0))
    queue.idle = False
    listener()
    await until(lambda: listener.taken == [b"early", b"late"])


@pytest.mark.parametrize("rounds", [300])
async def test_puts_of_other_threads_are_never_left_lying(queue: Queue, rounds: int) -> None:
    listener = Listener(queue)
    go = threading.Semaphore(0)

    def producer() -> None:
        for number in range(rounds):
            go.acquire()
            assert put_fast_or_slow(queue, b"%d" % number)
            if queue.idle:
                queue.rouse()

    thread = threading.Thread(target=producer)
    thread.start()
    for number in range(rounds):
        go.release()
        await until(lambda: len(listener.taken) == number + 1)  # noqa: B023 - awaited at once
    thread.join()


# Re-entrancy: a finalizer or a signal handler runs anywhere in the thread that holds the lock


def test_a_put_in_the_middle_of_packing_comes_after_what_is_being_packed(monkeypatch: Any) -> None:
    queue = Queue(0, 0)
    plain = core_queue.Chunk
    nested = []

    def interrupted(entries: Any) -> Any:
        if not nested:
            nested.append(1)
            assert queue.put(META, b"n" * 5000, 0.0)
            assert put_fast_or_slow(queue, b"m")
        return plain(entries)

    monkeypatch.setattr(core_queue, "Chunk", interrupted)
    want = [b"%d" % number for number in range(core_queue.INBOX_EVENTS + 1)]
    fill(queue, *want)
    last = want.pop()
    assert bodies(queue) == [*want, b"n" * 5000, b"m", last]
    assert (queue.qsize(), queue.size) == (0, 0)


@pytest.mark.parametrize("limit", [0, 300])
def test_a_put_in_the_middle_of_taking_loses_and_miscounts_nothing(monkeypatch: Any, limit: int) -> None:
    queue = Queue(limit, 0)
    want = [b"%d" % number for number in range(300)]
    fill(queue, *want)
    plain = core_queue.Chunk.take
    nested: list[bytes] = []

    def interrupted(self: Any, most: int) -> Any:
        nested.append(b"n%d" % len(nested))
        # As the broker does with full_policy drop_oldest.
        if not queue.put(META, nested[-1], 0.0):
            queue.drop_oldest(2)
            assert queue.put(META, nested[-1], 0.0)
        return plain(self, most)

    monkeypatch.setattr(core_queue.Chunk, "take", interrupted)
    found: list[bytes] = []
    for _ in range(10):
        found += bodies(queue, 30)
    monkeypatch.undo()
    found += bodies(queue)
    assert found == want + nested
    counts = queue.counts()
    assert (counts["queued"], counts["queued_bytes"], counts["dropped"]) == (0, 0, 0)
    assert counts["accepted"] == len(found)


async def test_a_put_while_this_thread_holds_the_lock_is_handed_over_later(queue: Queue) -> None:
    listener = Listener(queue)
    with queue.lock:
        fill(queue, b"1")
        assert listener.taken == []
    await until(lambda: listener.taken == [b"1"])
