"""A consumer of one event: how it takes deliveries, ends, and begins again after failures."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest

from evbus.engine.core.intake.sources import EventSource
from evbus.engine.handling.events import consumer as events_consumer
from evbus.engine.handling.events.consumer import EventConsumer
from evbus.engine.handling.events.declare import listener_spec
from evbus.engine.handling.events.listener import made
from evbus.engine.handling.events.listening import Listening
from evbus.errors import ConnectFailed, PluginError
from evbus.types import Delivery, Subscription
from tests.engine.handling.events.test_listening import READER, Letters
from tests.evbus.rig import turns, until
from tests.event.kit import WAIT, Gate, Got, OrderPlaced, Source, known

WANTED = Subscription(name="OrderPlaced", group="shop")


class Remote(Source):
    """A source outside this process: yields what is put, and announces itself."""

    def __init__(self, refuses: Exception | None = None, *, silent: bool = False) -> None:
        super().__init__()
        self.wanted: list[Subscription] = []
        self.closed = False
        self.refuses = refuses
        self.silent = silent
        self.queue: asyncio.Queue[Delivery | Exception | None] = asyncio.Queue()

    async def consume(self, wanted: Subscription) -> AsyncGenerator[Delivery, None]:
        self.wanted.append(wanted)
        if self.refuses is not None:
            raise self.refuses
        if not self.silent:
            wanted.ready()
        try:
            while (delivery := await self.queue.get()) is not None:
                if isinstance(delivery, Exception):
                    raise delivery
                yield delivery
        finally:
            self.closed = True

    def source(self) -> EventSource:
        return EventSource("fake.p", self.consume, None, True)


class Local:
    """A source within this process."""

    waiting = 0

    def __init__(self) -> None:
        self.take: Any = None
        self.calls: list[str] = []

    def attach(self, wanted: Subscription, take: Any) -> Any:
        self.take = take
        return self

    def pause(self) -> None:
        self.calls.append("pause")

    def end(self) -> None:
        self.calls.append("end")


def listener(on: Any, **options: Any) -> Listening:
    spec = listener_spec(OrderPlaced, **options)
    found = Listening(spec, made(on, "billing", None, 1), READER, Letters().dead_letter)
    found.begin(None)
    return found


def consumer_of(source: EventSource, listening: Listening, patience: float = WAIT) -> EventConsumer:
    return EventConsumer(source, known(OrderPlaced), listening, "listener billing", patience)


@contextlib.asynccontextmanager
async def consuming(source: EventSource, listening: Listening) -> AsyncIterator[EventConsumer]:
    """Yield a consumer that is ready, and close it in the end."""
    consumer = consumer_of(source, listening)
    consumer.start(WANTED)
    await consumer.wait_ready()
    yield consumer
    await consumer.close()


async def test_what_comes_from_outside_is_handled_and_settled() -> None:
    remote, got = Remote(), Got()
    consumer = consumer_of(remote.source(), listener(got.on))
    assert (consumer.local, consumer.ready) == (False, False)
    consumer.start(WANTED)
    await consumer.wait_ready()
    assert consumer.ready
    (wanted,) = remote.wanted
    assert (wanted.name, wanted.group) == ("OrderPlaced", "shop")
    for each in "ab":
        remote.queue.put_nowait(remote.delivery({"id": each}, each))
    assert [event.id for event in await got.wait(2)] == ["a", "b"]
    assert await remote.settled(2) == [("a", True, False), ("b", True, False)]
    await consumer.close()
    assert (remote.closed, consumer.ready) == (True, False)


async def test_who_is_cancelled_while_it_waits_for_a_silent_source_leaves_nothing_behind() -> None:
    remote = Remote(silent=True)
    consumer = consumer_of(remote.source(), listener(Got().on))
    consumer.start(WANTED)
    await until(lambda: remote.wanted)
    before = asyncio.all_tasks()
    waiting = asyncio.ensure_future(consumer.wait_ready())
    await turns(5)
    began = asyncio.all_tasks() - before - {waiting}
    waiting.cancel()
    await turns(5)
    assert waiting.cancelled()
    assert began
    assert not began & asyncio.all_tasks()
    await consumer.close()


async def test_what_is_in_this_process_is_taken_at_once() -> None:
    local, source, got = Local(), Source(), Got()
    attached = EventSource("internal.p", None, local.attach, False)  # type: ignore[arg-type]
    consumer = consumer_of(attached, listener(got.on))
    assert consumer.local
    consumer.start(WANTED)
    assert consumer.ready
    await consumer.wait_ready()
    local.take([source.delivery({"id": each}, each) for each in "ab"])
    assert [event.id for event in await got.wait(2)] == ["a", "b"]
    consumer.pause()
    await consumer.close()
    assert (local.calls[0], local.calls[-1]) == ("pause", "end")


async def test_a_source_that_refuses_at_first_is_told_to_who_waits_and_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    remote = Remote(ConnectFailed("nobody answers at broker:5672"))
    consumer = consumer_of(remote.source(), listener(Got().on))
    consumer.start(WANTED)
    with pytest.raises(ConnectFailed, match="nobody answers"):
        await consumer.wait_ready()
    assert not consumer.ready
    await consumer.close()
    assert caplog.messages == [
        "listener billing: takes nothing more of OrderPlaced from fake.p: nobody answers at broker:5672"
    ]


@pytest.mark.parametrize("ends", ["ready", "refused", "closed", "abandoned"])
async def test_what_waits_for_it_waits_from_its_start_until_it_is_there_or_will_never_be(ends: str) -> None:
    expected: list[Any] = []

    def expect(consumer: object) -> Any:
        expected.append(consumer)
        return lambda: expected.remove(consumer)

    remote = Remote(ConnectFailed("no queue") if ends == "refused" else None, silent=ends != "ready")
    consumer = consumer_of(remote.source()._replace(expect=expect), listener(Got().on))
    consumer.start(WANTED)
    assert expected == [consumer]
    if ends == "closed":
        await consumer.close()
    elif ends == "abandoned":
        consumer.abandon()
    await until(lambda: not expected)
    await consumer.close()


async def test_nothing_waits_for_one_that_could_not_begin() -> None:
    expected: list[Any] = []

    def expect(consumer: object) -> Any:
        expected.append(consumer)
        return lambda: expected.remove(consumer)

    def consume(_wanted: Subscription) -> Any:
        raise OSError("no such plugin")

    consumer = consumer_of(EventSource("fake.p", consume, None, True, expect=expect), listener(Got().on))
    with pytest.raises(OSError, match="no such plugin"):
        consumer.start(WANTED)
    consumer.abandon()
    assert expected == []


async def test_a_source_that_ends_is_told_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "evbus.event"):
        remote = Remote()
        async with consuming(remote.source(), listener(Got().on)):
            remote.queue.put_nowait(None)
            await until(lambda: remote.closed)
    assert all("takes nothing more" in message for message in caplog.messages)


@pytest.mark.parametrize("announces", [True, False])
async def test_a_source_that_fails_is_asked_again_and_that_is_told_once(
    announces: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_consumer, "PAUSE", (1e-9, 1e-9))

    remote, got = Remote(), Got()
    async with consuming(
        EventSource("fake.p", remote.consume, None, announces), listener(got.on)
    ) as consumer:
        for number in range(1, 4):
            await until(lambda number=number: len(remote.wanted) == number)  # type: ignore[misc]
            remote.queue.put_nowait(remote.delivery({"id": str(number)}, str(number)))
            await got.wait(number)
            remote.queue.put_nowait(KeyError("id"))
        await until(lambda: len(remote.wanted) == 4)
        assert consumer.ready
    remote.queue.put_nowait(KeyError("id"))
    assert len(remote.wanted) == 4
    (said,) = caplog.messages
    why = "is interrupted, and is asked for again: KeyError: 'id' (at "
    assert said.startswith(f"listener billing: OrderPlaced from fake.p {why}")
    assert f"{__file__}:" in said


async def test_a_source_that_is_wrong_is_not_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    remote = Remote()
    async with consuming(remote.source(), listener(Got().on)) as consumer:
        remote.queue.put_nowait(PluginError("it has no name"))
        await until(lambda: caplog.messages)
        assert (len(remote.wanted), consumer.ready) == (1, False)
    (said,) = caplog.messages
    assert said.startswith("listener billing: takes nothing more of OrderPlaced from fake.p")


async def test_a_source_that_fails_is_left_alone_when_the_listener_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(events_consumer, "PAUSE", (WAIT, WAIT))

    remote = Remote()
    async with consuming(remote.source(), listener(Got().on)) as consumer:
        remote.queue.put_nowait(KeyError("id"))
        await until(lambda: remote.closed and not consumer.ready)
    assert len(remote.wanted) == 1


async def test_at_its_end_what_was_taken_is_settled_before_the_source_is_closed() -> None:
    remote, gate = Remote(), Gate(lambda event: event.id)
    consumer = consumer_of(remote.source(), listener(gate.on))
    consumer.start(WANTED)
    remote.queue.put_nowait(remote.delivery({"id": "a"}, "a"))
    await gate.entered(1)
    closing = asyncio.ensure_future(consumer.close())
    for _ in range(10):
        await asyncio.sleep(0)
    assert not closing.done()
    assert not remote.closed
    gate.release("a")
    await closing
    assert remote.told == [("a", True, False)]
    assert remote.closed


async def test_what_takes_too_long_is_left_to_the_source() -> None:
    remote, gate = Remote(), Gate(lambda event: event.id)
    work = listener(gate.on)
    consumer = consumer_of(remote.source(), work, 1e-9)
    consumer.start(WANTED)
    remote.queue.put_nowait(remote.delivery({"id": "a"}, "a"))
    await gate.entered(1)
    await consumer.close()
    assert (remote.closed, remote.told) == (True, [])
    await work.close(WAIT)


async def test_it_can_be_closed_before_anything_has_begun() -> None:
    consumer = consumer_of(Remote().source(), listener(Got().on))
    await consumer.close()
    assert repr(consumer) == "<EventConsumer fake.p OrderPlaced of listener billing>"
