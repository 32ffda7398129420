"""The way in: encoding, bounds, policies, refusals."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from evbus.engine.core import broker as core_broker
from evbus.engine.core.broker import IN_CALLBACK, Broker, Serializer
from evbus.engine.core.queue import Queue
from evbus.errors import (
    BusForked,
    BusFull,
    BusStopped,
    InvalidHeader,
    InvalidRoutingKey,
    PayloadTooLarge,
    SerializeError,
)
from evbus.types import CONTENT_TYPE, SharedHeaders
from tests.evbus.rig import Rig, counts, turns, within


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path, queue_limit=3)


def queued(rig: Rig) -> list[bytes]:
    return [event.body for event in rig.queue.take(1 << 30)]


# Bounds and policies


def test_put_nowait_raises_when_the_bus_is_full_and_says_what_to_do(rig: Rig) -> None:
    rig.fill(3)
    with pytest.raises(BusFull, match=r"3 events of at most 3 \(queue_limit\)") as caught:
        rig.put_nowait(3)
    assert (caught.value.events, caught.value.limit) == (3, 3)
    assert rig.check()["bus"]["dropped"] == 0
    assert queued(rig) == [b"0", b"1", b"2"]


@pytest.mark.parametrize(
    ("policy", "kept"), [("drop_oldest", [b"2", b"3", b"4"]), ("drop_newest", [b"0", b"1", b"2"])]
)
def test_the_policy_says_which_event_gives_way_and_each_is_counted(
    tmp_path: Path, policy: Any, kept: list[bytes], caplog: Any
) -> None:
    rig = Rig(tmp_path, queue_limit=3, full_policy=policy)
    rig.fill(5)
    assert counts(rig.check()["bus"], "accepted", "dropped", "queued") == (5, 2, 3)
    assert queued(rig) == kept
    warnings = [record for record in caplog.records if "dropped so far" in record.message]
    assert len(warnings) == 1  # not one for each


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest"])
def test_bytes_are_bounded_too(tmp_path: Path, policy: Any) -> None:
    rig = Rig(tmp_path, queue_bytes=100, full_policy=policy)
    for number in range(10):
        rig.put_nowait(b"%d" % number * 30)
        assert rig.queue.size <= 100
    rig.put_nowait(b"x" * 99)
    found = rig.check()["bus"]
    assert (found["accepted"], found["dropped"]) == (11, 11 - found["queued"])


def test_drop_oldest_gives_way_to_what_lanes_hold(tmp_path: Path) -> None:
    rig = Rig(tmp_path, queue_limit=3, full_policy="drop_oldest")
    with rig.queue.lock:
        rig.queue.charge(3, 0)
    rig.put_nowait(1)
    found = rig.bus.snapshot()["bus"]
    assert (found["accepted"], found["dropped"], found["queued"]) == (1, 1, 0)


# Puts that wait


async def test_put_waits_for_room_and_keeps_the_order_of_its_task(rig: Rig) -> None:

    async def producer() -> None:
        for number in range(20):
            await rig.put(number)

    task = asyncio.ensure_future(producer())
    found = []
    while len(found) < 20:
        await turns(2)
        found += queued(rig)
    await task
    assert found == [b"%d" % number for number in range(20)]


async def test_a_waiting_put_that_is_cancelled_puts_nothing(rig: Rig) -> None:
    for number in range(3):
        await rig.put(number)
    tasks = [asyncio.ensure_future(rig.put(f"late {number}")) for number in range(5)]
    await turns(3)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert all(task.cancelled() for task in tasks)
    assert not rig.queue._waiters
    assert rig.check()["bus"]["accepted"] == 3


# Encoding


async def test_a_relief_while_a_put_looks_at_its_lanes_is_not_missed(rig: Rig) -> None:
    class Lane:
        """It is relieved right after a look, by the loop of the bus in another thread."""

        looks = 0

        @property
        def stalled(self) -> bool:
            self.looks += 1
            if self.looks == 1:
                rig.queue.stall(-1)
            return self.looks == 1

    rig.queue.stall(2)
    rig.broker.connect(lambda _: (lane,))
    lane = Lane()
    left = rig.broker.offer(None, 1, "default", None)
    assert left is not None
    await within(rig.broker.wait(left))
    assert (lane.looks, rig.queue.stalled, queued(rig)) == (2, 1, [b"1"])


@pytest.mark.parametrize("waits", [True, False])
def test_a_body_that_cannot_be_encoded_raises_and_queues_nothing(rig: Rig, waits: bool) -> None:
    def apply(body: Any) -> bytes:
        raise SerializeError("no", path="$.a")

    rig.broker._select = lambda: (apply, "x")
    for headers in (None, {"a": "b"}):
        with pytest.raises(SerializeError, match=r"\$\.a"):
            asyncio.run(rig.put(1, headers=headers)) if waits else rig.put_nowait(1, headers=headers)
    assert rig.check()["bus"]["accepted"] == 0


def test_a_body_that_is_too_large_is_refused(tmp_path: Path) -> None:
    rig = Rig(tmp_path, max_body=4)
    rig.put_nowait(b"1234")
    with pytest.raises(PayloadTooLarge, match="5 bytes, more than the 4"):
        rig.put_nowait(b"12345")
    assert queued(rig) == [b"1234"]
    unlimited = Rig(tmp_path, max_body=0)
    unlimited.put_nowait(b"x" * 2_000_000)


@pytest.mark.parametrize(
    ("named", "problem"),
    [
        ({"profile": 5}, InvalidRoutingKey),
        ({"profile": None}, InvalidRoutingKey),
        ({"profile": ["a"]}, InvalidRoutingKey),
        ({"key": 5}, InvalidRoutingKey),
        ({"key": b"k"}, InvalidRoutingKey),
        ({"key": {}}, InvalidRoutingKey),
        ({"headers": {"a": 1}}, InvalidHeader),
        ({"headers": {1: "a"}}, InvalidHeader),
        ({"headers": [("a", "b")]}, InvalidHeader),
    ],
)
def test_names_and_headers_are_strings(rig: Rig, named: Any, problem: type[Exception]) -> None:
    with pytest.raises(problem):
        rig.put_nowait(1, **named)
    assert rig.check()["bus"]["accepted"] == 0


def test_events_without_headers_share_one_that_nobody_can_change(rig: Rig) -> None:
    rig.put_nowait(1)
    rig.put_nowait(2, "other")
    rig.put_nowait(3, headers={"a": "b"})
    first, second, own = rig.queue.take(3)
    assert first.headers is second.headers
    assert isinstance(first.headers, SharedHeaders)
    with pytest.raises(TypeError, match="copy them first"):
        first.headers["x"] = "y"
    assert own.headers == {"a": "b", CONTENT_TYPE: "application/json"}


def test_bytes_that_name_their_encoding_are_taken_as_they_are(rig: Rig) -> None:
    rig.put_nowait(b"\x81", headers={CONTENT_TYPE: "application/msgpack"})
    rig.put_nowait("text", headers={CONTENT_TYPE: "application/msgpack"})
    first, second = rig.queue.take(2)
    assert (first.body, first.headers[CONTENT_TYPE]) == (b"\x81", "application/msgpack")
    assert (second.body, second.headers[CONTENT_TYPE]) == (b'"text"', "application/json")


def test_interceptors_may_change_an_event_and_not_break_it(rig: Rig) -> None:
    def send(envelope: Any) -> None:
        envelope.headers["seen"] = "yes"
        envelope.body += b"!"
        if envelope.routing_key == "bad":
            envelope.headers["n"] = 1
        if envelope.routing_key == "worse":
            envelope.profile = None

    rig.broker.configure(rig.settings, send)
    rig.put_nowait("a", key="good")
    for key, problem in (("bad", InvalidHeader), ("worse", InvalidRoutingKey)):
        with pytest.raises(problem):
            rig.put_nowait("a", key=key)
    (event,) = rig.queue.take(5)
    assert (event.body, event.headers["seen"]) == (b'"a"!', "yes")


def test_another_serializer_takes_over_at_once_with_its_content_type(rig: Rig) -> None:
    rig.put_nowait(1)
    rig.broker._select = lambda: (lambda body: str(body).encode(), "text/plain")
    rig.names["PLUGIN"] = "str"
    rig.put_nowait("x")
    first, second = rig.queue.take(2)
    assert (first.body, first.headers[CONTENT_TYPE]) == (b"1", "application/json")
    assert (second.body, second.headers[CONTENT_TYPE]) == (b"x", "text/plain")


def test_no_thread_puts_with_half_a_serializer() -> None:
    """The first thread is stopped while it chooses; the second must neither guess nor mix."""
    names = {"SERIAL_PLUGIN": "json", "PLUGIN": "json"}
    inside, go = threading.Event(), threading.Event()
    calls = []

    def select() -> Serializer:
        calls.append(1)
        if len(calls) == 1:
            inside.set()
            assert go.wait(20)
        return (lambda body: b"encoded", "application/json")

    queue = Queue()
    broker = Broker(queue, prepare=lambda: None, select=select, new=names, old=names)
    broker.queue.bound(0, 0)
    broker.max_body = 1000
    thread = threading.Thread(target=broker.offer, args=("k", 5, "p", None))
    thread.start()
    assert inside.wait(20)
    try:
        broker.offer("k", 5, "p", None)
    finally:
        go.set()
        thread.join()
    found = queue.take(2)
    assert [(event.body, event.headers[CONTENT_TYPE]) for event in found] == [
        (b"encoded", "application/json")
    ] * 2


def test_made_up_names_do_not_fill_memory(rig: Rig, monkeypatch: Any) -> None:
    monkeypatch.setattr(core_broker, "CACHE_PAIRS", 5)
    rig.broker.queue.bound(0, 0)
    for number in range(50):
        rig.put_nowait(number, f"profile {number}")
    assert len(rig.broker._chosen[1]) <= 5
    assert [event.profile for event in rig.queue.take(50)] == [f"profile {number}" for number in range(50)]


# Refusals


def test_a_stopped_bus_refuses(rig: Rig) -> None:
    rig.broker.refusal = BusStopped
    with pytest.raises(BusStopped):
        rig.put_nowait(1)
    with pytest.raises(BusStopped):
        asyncio.run(rig.put(1))


def test_while_draining_put_is_for_the_bus_own_callbacks_alone(rig: Rig) -> None:
    rig.broker.draining = True
    with pytest.raises(BusStopped):
        asyncio.run(rig.put(1))

    async def callback() -> None:
        IN_CALLBACK.set(True)
        await rig.put(2)

    asyncio.run(within(callback()))
    rig.put_nowait(3)
    assert queued(rig) == [b"2", b"3"]


@pytest.mark.parametrize("draining", [True, False])
def test_the_child_of_a_fork_is_refused_and_never_waits_for_a_lock(rig: Rig, draining: bool) -> None:
    rig.put_nowait(1)
    rig.broker.draining = draining
    locked, end = threading.Event(), threading.Event()

    def holder() -> None:
        with rig.queue.lock:
            locked.set()
            end.wait(20)

    thread = threading.Thread(target=holder)
    thread.start()
    assert locked.wait(20)
    pid = fork()
    if not pid:
        os._exit(_in_child(rig))
    try:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        end.set()
        thread.join()
    rig.broker.draining = False
    rig.put_nowait(2)
    assert queued(rig) == [b"1", b"2"]


def fork() -> int:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that there are threads is the point
        return os.fork()


def _in_child(rig: Rig) -> int:
    """Return how many of the ways to use the bus were not refused, or went wrong."""
    wrong = 0
    for use in (
        lambda: rig.put_nowait(1),
        lambda: asyncio.run(rig.put(1)),
        rig.bus.begin,
        rig.broker.refuse_in_child,
    ):
        wrong += not isinstance(_raised(use), BusForked)
    # The owner of the lock does not exist here.
    return wrong + (_raised(rig.check) is not None)


def _raised(use: Any) -> BaseException | None:
    try:
        use()
    except BaseException as exc:
        return exc
    return None
