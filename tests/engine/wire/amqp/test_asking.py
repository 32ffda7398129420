"""Requests that wait for their replies: deadlines, and whatever a broker may say, without one."""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Callable
from typing import Any

import pytest

from evbus.engine.wire.amqp import frames
from evbus.engine.wire.amqp.requests import Requests
from evbus.errors import DeliveryError, DeliveryTimeout, Rejected, Unavailable
from evbus.types import Envelope
from tests.connection.amqp_kit import profile
from tests.ingress.amqp_kit import WAIT, eventually

SOON = 0.01


class Line:
    """A channel that a test plays the broker of; it is its session and its transport, too."""

    number = 1

    def __init__(self, patience: float = WAIT) -> None:
        self.written: list[bytes] = []
        self.silences: list[int] = []
        self.ids: list[str] = []
        self.wire = self
        me: Any = self
        self.waiting = Requests(me, me, profile(confirm_timeout=patience), "orders", "amqp profile 'orders'")

    def attach(self, number: int, requests: Requests) -> int:
        return number

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def probe(self, seconds: float) -> None:
        self.silences.append(len(self.ids))

    async def ask(self, message: bytes = b"", seconds: float = WAIT) -> asyncio.Task[Envelope]:
        """Begin to ask."""
        deadline = asyncio.get_running_loop().time() + seconds
        self.ids.append(self.waiting.new_id())
        task = asyncio.ensure_future(self.waiting.ask(message, self.ids[-1], deadline, seconds))
        await asyncio.sleep(0)
        return task

    def message(self, method: int, head: bytes, number: int | None, *parts: bytes) -> None:
        """Hand in a content with the correlation id of a request, or none."""
        headers = {} if number is None else {"correlation-id": self.ids[number]}
        size = sum(map(len, parts))
        properties = frames.encode_properties(headers, profile())
        assert self.waiting.method(method, head)
        self.waiting.content(2, struct.pack(">HHQ", 60, 0, size) + properties)
        for part in parts:
            self.waiting.content(3, part)

    def reply(self, number: int | None, *parts: bytes) -> None:
        self.message(frames.DELIVER, b"", number, *parts)

    def come_back(self, number: int, *parts: bytes) -> None:
        texts = b"".join(bytes((len(text),)) + text for text in (b"NO_ROUTE", b"x", b"key"))
        self.message(frames.RETURN, struct.pack(">IH", frames.RETURN, 312) + texts, number, *parts)

    def confirm(self, method: int, tag: int, *, multiple: bool = False) -> None:
        assert self.waiting.method(method, struct.pack(">IQB", method, tag, multiple))

    def close(self, code: int) -> None:
        payload = struct.pack(">IHB", frames.CHANNEL_CLOSE, code, 2) + b"no" + bytes(4)
        assert not self.waiting.method(frames.CHANNEL_CLOSE, payload)  # aiormq has to answer it


def run(test: Callable[[Line], Any]) -> None:
    async def main() -> None:
        await asyncio.wait_for(test(Line()), WAIT)

    asyncio.run(main())


async def outcomes(*tasks: asyncio.Task[Envelope]) -> list[Any]:
    """Return the body or the type of error of each."""
    found = await asyncio.gather(*tasks, return_exceptions=True)
    return [each.body if isinstance(each, Envelope) else type(each) for each in found]


def test_requests_of_one_turn_of_the_loop_are_written_at_once() -> None:
    async def test(line: Line) -> None:
        deadline = asyncio.get_running_loop().time() + WAIT
        tasks = [
            asyncio.ensure_future(line.waiting.ask(body, line.waiting.new_id(), deadline, WAIT))
            for body in (b"1", b"2", b"3")
        ]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert line.written == [b"123"]
        line.waiting.end("over")
        await outcomes(*tasks)

    run(test)


def test_nothing_is_written_to_a_channel_that_is_closed() -> None:
    async def test(line: Line) -> None:
        asked = line.waiting.ask(b"1", line.waiting.new_id(), asyncio.get_running_loop().time() + WAIT, WAIT)
        line.close(404)
        assert await outcomes(asyncio.ensure_future(asked)) == [Unavailable]
        await asyncio.sleep(0)
        assert line.written == []

    run(test)


def test_replies_are_told_apart_and_may_come_in_pieces() -> None:
    async def test(line: Line) -> None:
        tasks = [await line.ask() for _ in range(3)]
        line.reply(2, b"to ", b"the ", b"third")
        line.reply(0)
        line.reply(1, b"to the second")
        line.reply(1, b"twice")
        assert await outcomes(*tasks) == [b"", b"to the second", b"to the third"]

    run(test)


def test_what_nobody_waits_for_is_ignored(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "evbus.ingress.amqp")

    async def test(line: Line) -> None:
        task = await line.ask()
        line.reply(None, b"without an id")
        assert line.waiting.method(frames.DELIVER, b"")
        line.waiting.content(2, struct.pack(">HHQ", 60, 0, 0) + b"\xff\xffmalformed")
        line.reply(0, b"good")
        assert await outcomes(task) == [b"good"]
        line.reply(0, b"late")

    run(test)
    assert [record.levelno for record in caplog.records] == [logging.DEBUG] * 3


def test_confirms_end_no_request_and_refusals_do() -> None:
    async def test(line: Line) -> None:
        tasks = [await line.ask() for _ in range(7)]
        line.confirm(frames.ACK, 2)
        line.confirm(frames.NACK, 3, multiple=True)  # the first and the third
        line.confirm(frames.ACK, 5, multiple=True)
        line.confirm(frames.NACK, 6)
        line.confirm(frames.NACK, 6)  # nothing is left of it
        for number in range(7):
            line.reply(number, b"reply")
        assert await outcomes(*tasks) == [
            DeliveryError,
            b"reply",
            DeliveryError,
            b"reply",
            b"reply",
            DeliveryError,
            b"reply",
        ]

    run(test)


def test_what_comes_back_is_the_end_of_its_request_alone() -> None:
    async def test(line: Line) -> None:
        tasks = [await line.ask() for _ in range(2)]
        line.come_back(1, b"piece", b"piece")
        line.confirm(frames.ACK, 2, multiple=True)
        line.reply(0, b"reply")
        assert await outcomes(tasks[0]) == [b"reply"]
        with pytest.raises(Rejected, match="unroutable: the exchange 'x' leads to no queue"):
            await tasks[1]

    run(test)


@pytest.mark.parametrize(
    ("code", "count", "kind"),
    [(404, 1, Unavailable), (403, 2, Unavailable), (406, 1, Rejected), (406, 2, Unavailable)],
)
def test_a_closed_channel_ends_all_requests_and_takes_no_more(code: int, count: int, kind: type) -> None:
    async def test(line: Line) -> None:
        tasks = [await line.ask() for _ in range(count)]
        line.close(code)
        assert line.waiting.ended == f"the broker closed the channel: no ({code})"
        assert await outcomes(*tasks) == [kind] * count
        assert len({id(task.exception()) for task in tasks}) == count  # raised once each
        line.waiting.lost("later")
        assert "closed the channel" in line.waiting.ended

    run(test)


def test_a_cancelled_consumer_ends_all_requests() -> None:
    async def test(line: Line) -> None:
        task = await line.ask()
        assert not line.waiting.method(frames.CANCEL, b"")
        assert await outcomes(task) == [Unavailable]

    run(test)


def test_deadlines_are_kept_in_any_order() -> None:
    async def test(line: Line) -> None:
        seconds = [SOON * number for number in (5, 1, 4, 2, 3)]
        tasks = [await line.ask(seconds=each) for each in seconds]
        kept = await line.ask()
        answered = await line.ask(seconds=WAIT / 2)
        line.reply(6, b"in time")
        ended: list[float] = []
        for task, each in zip(tasks, seconds, strict=True):
            task.add_done_callback(lambda _, each=each: ended.append(each))  # type: ignore[misc]
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [each.seconds for each in found if isinstance(each, DeliveryTimeout)] == seconds
        assert ended == sorted(seconds)
        assert await outcomes(answered) == [b"in time"]
        assert not kept.done()
        line.reply(5, b"late enough")
        assert await outcomes(kept) == [b"late enough"]

    run(test)


def test_a_request_cancelled_together_with_its_end_leaves_no_error_behind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test(line: Line) -> None:
        for _ in range(3):
            line.waiting = Line().waiting
            line.ids = []
            task = await line.ask()
            line.close(404)
            task.cancel()
            await asyncio.wait({task})
            assert task.cancelled()

    run(test)
    assert caplog.records == []


def test_answered_requests_leave_nothing_behind() -> None:
    async def test(line: Line) -> None:
        for number in range(5000):
            task = await line.ask()
            line.confirm(frames.ACK, number + 1)
            line.reply(number)
            await task
        waiting = line.waiting
        assert repr(waiting) == "<Requests requests=0 ended=''>"
        assert len(waiting._requests._deadlines) < 1100
        assert not waiting._unconfirmed
        waiting.end("over")

    run(test)


async def test_silence_is_told_when_nothing_is_confirmed_and_not_when_nothing_is_answered() -> None:

    line = Line(SOON)
    tasks = [await line.ask()]
    await eventually(lambda: line.silences, "silence is told")
    line.confirm(frames.ACK, 1)
    told = len(line.silences)
    # All is confirmed: the server takes its time.
    await eventually(lambda: line.waiting._listening is None, "nothing is waited for")
    assert len(line.silences) == told
    line.waiting.end("the end")
    await asyncio.gather(*tasks, return_exceptions=True)
