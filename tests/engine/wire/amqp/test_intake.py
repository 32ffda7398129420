"""Deliveries of one channel: how they are put together, and what is written when they are settled."""

from __future__ import annotations

import asyncio
import logging
import struct
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp import frame as pamqp_frame
from pamqp.commands import Basic

from evbus.engine.wire.amqp import frames
from evbus.engine.wire.amqp.intake import Intake
from evbus.engine.wire.amqp.profile import Profile
from evbus.types import Delivery

CHANNEL = 7
PLAIN = frames.encode_properties({"content-type": "text/plain"}, Profile())


def table(data: bytes) -> bytes:
    """Return properties that are nothing but a table of headers."""
    return struct.pack(">HI", 1 << 13, len(data)) + data


class Channel:
    """A broker's side of a channel: what it has handed out, and what it is told about that.

    What was given back is in `refused` as "back".
    """

    def __init__(self, *, stream: bool = False, drain: bool = False) -> None:
        self.waiting: deque[Delivery] = deque()
        self.arrivals = self.pauses = 0
        self.intake = Intake(
            CHANNEL,
            self._write,
            "orders",
            self.waiting,
            self._arrived,
            self._paused,
            drain=drain,
            stream=stream,
        )
        self.drain = drain
        self.tag = 0
        self.unsettled: list[int] = []
        self.acked: list[int] = []
        self.refused: list[tuple[int, bool | str]] = []
        self.cancelled = False
        self.frames: list[Any] = []

    def deliver(
        self, body: bytes = b"x", *, properties: bytes = PLAIN, redelivered: bool = False, pieces: int = 1
    ) -> Any:
        """Hand out a message; return the delivery that was made of it."""
        self.tag += 1
        self.unsettled.append(self.tag)
        texts = [bytes((len(text),)) + text for text in (b"consumer", b"events", b"the.key")]
        payload = struct.pack(">I", frames.DELIVER) + texts[0] + struct.pack(">QB", self.tag, redelivered)
        assert self.intake.method(frames.DELIVER, payload + texts[1] + texts[2])
        self.intake.content(2, struct.pack(">HHQ", 60, 0, len(body)) + properties)
        step = -(-len(body) // pieces) or 1
        for start in range(0, len(body), step):
            self.intake.content(3, body[start : start + step])
        return self.waiting[-1] if self.waiting else None

    def _arrived(self) -> None:
        self.arrivals += 1

    def _paused(self) -> None:
        self.pauses += 1

    def _write(self, data: bytes) -> None:
        while data:
            size, number, found = pamqp_frame.unmarshal(data)
            assert number == CHANNEL
            data = data[size:]
            self.frames.append(found)
            if isinstance(found, Basic.Cancel):
                assert (found.consumer_tag, found.nowait) == ("evbus", not self.drain)
                self.cancelled = True
            else:
                self._settle(found)

    def _settle(self, found: Any) -> None:
        # RabbitMQ closes the channel for a tag that it does not wait for.
        tags = [found.delivery_tag]
        if not isinstance(found, Basic.Reject) and found.multiple:
            last = found.delivery_tag or self.tag
            tags = [tag for tag in self.unsettled if tag <= last]
        assert all(tag in self.unsettled for tag in tags)
        for tag in tags:
            self.unsettled.remove(tag)
            if isinstance(found, Basic.Ack):
                self.acked.append(tag)
            else:
                if isinstance(found, Basic.Nack):
                    assert found.requeue
                self.refused.append((tag, "back" if isinstance(found, Basic.Nack) else found.requeue))


def run(test: Callable[[Channel], Any]) -> None:
    async def main() -> None:
        await test(Channel())

    asyncio.run(main())


async def turn() -> None:
    """Let what was settled be told to the broker."""
    for _ in range(2):
        await asyncio.sleep(0)


@pytest.mark.parametrize("body", [b"", b"x", bytes(range(256)) * 16])
@pytest.mark.parametrize("pieces", [1, 2, 3])
def test_a_delivery_is_put_together(body: bytes, pieces: int) -> None:
    async def check(channel: Channel) -> None:
        for redelivered in (False, True):
            delivery = channel.deliver(body, redelivered=redelivered, pieces=pieces)
            envelope = delivery.envelope
            assert (envelope.profile, envelope.routing_key, envelope.body) == ("orders", "the.key", body)
            assert envelope.headers == {"content-type": "text/plain"}
            assert (delivery.redelivered, delivery.delivery_count) == (redelivered, None)
        assert len(channel.waiting) == 2

    run(check)


@pytest.mark.parametrize(
    ("order", "written"),
    [
        ([1, 2, 3], [("Ack", 3, True)]),
        ([3, 2, 1], [("Ack", 3, True)]),
        ([1], [("Ack", 1, False)]),
        ([2, 3], [("Ack", 2, False), ("Ack", 3, False)]),
        ([4, 1], [("Ack", 1, False), ("Ack", 4, False)]),
        ([1, 3, 2, 5], [("Ack", 3, True), ("Ack", 5, False)]),
    ],
)
def test_acks_that_are_first_in_order_go_out_as_one(order: list[int], written: list[Any]) -> None:
    async def check(channel: Channel) -> None:
        found = [channel.deliver() for _ in range(5)]
        for number in order:
            found[number - 1].ack()
        assert channel.frames == []
        await turn()
        assert [(each.name.split(".")[1], each.delivery_tag, each.multiple) for each in channel.frames] == [
            *written
        ]
        assert channel.acked == sorted(order)

    run(check)


def test_a_rejected_one_in_between_is_not_acked_by_those_around_it() -> None:
    async def check(channel: Channel) -> None:
        found = [channel.deliver() for _ in range(5)]
        found[0].ack()
        found[1].reject()
        found[2].reject(requeue=True)
        found[3].give_back()
        found[4].ack()
        await turn()
        assert channel.refused == [(2, False), (3, True), (4, "back")]
        assert sorted(channel.acked) == [1, 5]
        # They are gone, so that the acks stand side by side.
        assert len(channel.frames) == 4

    run(check)


def test_settling_twice_tells_the_broker_once() -> None:
    async def check(channel: Channel) -> None:
        delivery = channel.deliver()
        delivery.ack()
        delivery.reject(requeue=True)
        await turn()
        delivery.ack()
        await turn()
        assert (channel.acked, channel.refused) == ([1], [])

    run(check)


def test_when_the_channel_is_gone_nothing_is_told_and_nothing_waits() -> None:
    async def check(channel: Channel) -> None:
        found = [channel.deliver() for _ in range(3)]
        told: list[Any] = []
        channel.intake.watch(told.append)
        found[0].ack()
        channel.intake.lost("reset")
        found[1].ack()
        found[2].reject()
        await turn()
        assert channel.frames == []
        assert channel.intake.ended == "the connection was lost: reset"
        assert all(delivery.origin is channel.intake and delivery.gone for delivery in found)
        assert told == [channel.intake]
        channel.intake.end("later")
        assert channel.frames == []
        assert repr(channel.intake) == "<Intake unsettled=3 ended='the connection was lost: reset'>"

    run(check)


def test_an_arrival_is_told_when_nothing_waited() -> None:
    async def check(channel: Channel) -> None:
        for arrivals in (1, 1, 2):
            if arrivals == 2:
                channel.waiting.clear()
            channel.deliver()
            assert channel.arrivals == arrivals

    run(check)


def test_a_cancel_or_close_of_the_broker_ends_it_and_is_the_librarys_to_answer() -> None:
    async def check(channel: Channel) -> None:
        cancel = struct.pack(">IB", frames.CANCEL, 1) + b"c\0"
        assert not channel.intake.method(frames.CANCEL, cancel)
        assert channel.intake.ended == "the broker cancelled the consumer: its queue was deleted or moved"
        late = Channel()
        late.deliver()
        assert not late.intake.method(frames.CANCEL, cancel)
        assert ", or a delivery was not settled within the broker's consumer_timeout" in late.intake.ended
        other = Channel()
        close = struct.pack(">IHB", frames.CHANNEL_CLOSE, 406, 3) + b"why\0\0\0\0"
        assert not other.intake.method(frames.CHANNEL_CLOSE, close)
        assert other.intake.ended == "the broker closed the channel: why (406)"

    run(check)


def test_malformed_properties_cost_the_headers_and_a_warning_not_the_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def check(channel: Channel) -> None:
        for _ in range(2):
            delivery = channel.deliver(b"body", properties=table(b"\x05a"))
            assert (delivery.envelope.body, delivery.envelope.headers) == (b"body", {})
        delivery.ack()
        await turn()
        assert channel.acked == [2]

    with caplog.at_level(logging.WARNING):
        run(check)
    (record,) = caplog.records
    assert "orders: a message is taken without its headers: " in record.message


def offset(number: int) -> bytes:
    return table(b"\x0fx-stream-offsetl" + struct.pack(">q", number))


def test_a_stream_goes_on_at_the_first_message_that_is_not_settled() -> None:
    async def check(_: Channel) -> None:
        channel = Channel(stream=True)
        assert channel.intake.next_offset is None
        found = [channel.deliver(properties=offset(number)) for number in range(100, 105)]
        assert channel.intake.next_offset == 100
        found[2].ack()
        await turn()
        assert channel.intake.next_offset == 100
        found[0].ack()
        found[1].reject()
        await turn()
        assert channel.intake.next_offset == 103
        found[4].ack()
        await turn()
        found[3].ack()
        await turn()
        assert channel.intake.next_offset == 105
        channel.intake.lost("reset")
        assert channel.intake.next_offset == 105

    run(check)


@pytest.mark.parametrize("text", ["abc", "", "-1", "1.5", "٣", "9" * 30])
def test_a_strange_header_of_that_name_is_no_offset(text: str) -> None:
    async def check(_: Channel) -> None:
        channel = Channel(stream=True)
        channel.deliver(properties=frames.encode_properties({"x-stream-offset": text}, Profile())).ack()
        await turn()
        assert channel.intake.next_offset is None
        assert channel.acked == [1]

    run(check)


def test_a_streams_message_is_delivered_again_without_asking_the_broker() -> None:
    async def check(_: Channel) -> None:
        channel = Channel(stream=True)
        first, second = (channel.deliver(b"%d" % number, properties=offset(number)) for number in (7, 8))
        channel.waiting.clear()
        first.reject(requeue=True)
        second.ack()
        await turn()
        assert channel.arrivals == 2
        (again,) = channel.waiting
        assert (again.envelope, again.redelivered, again.delivery_count) == (first.envelope, True, 1)
        assert (channel.acked, channel.refused) == ([2], [])
        assert channel.intake.next_offset == 7

        channel.waiting.clear()
        again.give_back()
        await turn()
        (again,) = channel.waiting
        assert (again.envelope.body, again.delivery_count) == (first.envelope.body, 2)
        again.ack()
        await turn()
        assert (channel.acked, channel.refused, channel.intake.next_offset) == ([2, 1], [], 9)

    run(check)


def test_what_looks_like_a_streams_message_elsewhere_is_the_brokers_to_deliver_again() -> None:
    async def check(channel: Channel) -> None:
        channel.deliver(properties=offset(7)).reject(requeue=True)
        await turn()
        assert (channel.refused, channel.intake.next_offset) == ([(1, True)], None)

    run(check)


def test_paused_it_takes_no_more_and_what_was_taken_can_be_settled() -> None:
    async def check(channel: Channel) -> None:
        taken = channel.deliver()
        channel.waiting.clear()
        for _ in range(2):
            channel.deliver()
        channel.intake.pause()
        assert channel.cancelled
        channel.deliver()  # it was under way
        assert not channel.waiting
        await turn()
        assert sorted(channel.refused) == [(2, "back"), (3, "back"), (4, "back")]
        channel.deliver()
        channel.intake.pause()
        assert (channel.arrivals, channel.pauses) == (2, 1)
        taken.ack()
        await turn()
        assert channel.acked == [1]
        assert sum(isinstance(found, Basic.Cancel) for found in channel.frames) == 1

    run(check)


def test_drained_it_hands_on_what_comes_until_the_broker_knows_of_the_pause() -> None:
    async def check(_: Channel) -> None:
        channel = Channel(drain=True)
        channel.deliver()
        channel.intake.pause()
        (cancel,) = channel.frames
        assert isinstance(cancel, Basic.Cancel)
        assert not cancel.nowait
        drained = asyncio.ensure_future(channel.intake.drained())
        channel.deliver()  # it was under way
        await turn()
        assert (len(channel.waiting), channel.refused, drained.done()) == (2, [], False)
        assert channel.intake.method(frames.CANCEL_OK, b"")
        await drained
        again = Channel(drain=True)
        again.intake.pause()
        drained = asyncio.ensure_future(again.intake.drained())
        await turn()
        again.intake.lost("cut")
        await drained

    run(check)


@pytest.mark.parametrize("paused", [False, True])
def test_its_end_gives_back_everything_that_is_not_settled(paused: bool) -> None:
    async def check(channel: Channel) -> None:
        found = [channel.deliver() for _ in range(4)]
        for _ in range(2):
            channel.waiting.popleft()
        found[0].ack()
        if paused:
            channel.intake.pause()
        channel.intake.end("it was closed")
        assert channel.cancelled
        assert channel.acked == [1]
        assert sorted(channel.refused) == [(2, "back"), (3, "back"), (4, "back")]
        assert channel.intake.ended == "it was closed"

    run(check)


def test_of_a_channel_that_is_gone_nobody_takes_leave() -> None:
    async def check(channel: Channel) -> None:
        channel.deliver()
        channel.intake.lost("reset")
        channel.intake.pause()
        channel.intake.end("it was closed")
        assert channel.frames == []

    run(check)


def test_what_a_stream_has_delivered_is_not_given_back() -> None:
    async def check(_: Channel) -> None:
        channel = Channel(stream=True)
        channel.deliver(properties=offset(7))
        channel.deliver(properties=offset(8))
        channel.waiting.popleft().give_back()
        channel.intake.pause()
        channel.intake.end("it was closed")
        await turn()
        assert (channel.refused, channel.intake.next_offset) == ([], 7)

    run(check)


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["deliver", "ack", "ack", "drop", "requeue", "back", "turn"]), st.integers(0, 30)
    ),
    max_size=60,
)


@settings(deadline=None)
@given(ACTIONS)
def test_the_broker_learns_of_every_settling_once_and_of_nothing_else(actions: list[tuple[str, int]]) -> None:
    async def check(channel: Channel) -> None:
        pending: list[Any] = []
        wanted: dict[int, str] = {}
        tags: dict[int, int] = {}
        for action, number in actions:
            if action == "deliver":
                pending.append(channel.deliver())
                tags[id(pending[-1])] = channel.tag
            elif action == "turn":
                await turn()
            elif pending:
                delivery = pending.pop(number % len(pending))
                wanted[tags[id(delivery)]] = action
                if action == "ack":
                    delivery.ack()
                elif action == "back":
                    delivery.give_back()
                else:
                    delivery.reject(requeue=action == "requeue")
                kept.append(delivery)
        await turn()
        assert sorted(channel.acked) == sorted(tag for tag, action in wanted.items() if action == "ack")
        assert dict(channel.refused) == {
            tag: "back" if action == "back" else action == "requeue"
            for tag, action in wanted.items()
            if action != "ack"
        }
        assert channel.unsettled == [tag for tag in range(1, channel.tag + 1) if tag not in wanted]

    kept: list[Any] = []  # their ids stay their own
    run(check)
